//! The version of a snapshot's format, and the names of the files in a snapshot.

/// Version of the manifest, of the names of the files, and of their contents.
pub const FORMAT: u32 = 1;

pub(super) const MANIFEST_FILE: &str = "manifest.json";
pub(super) const DATA_FILE: &str = "data.mdb";
