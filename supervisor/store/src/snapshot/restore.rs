//! Restoring a snapshot into a new store.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;

use super::error::SnapshotError;
use super::format::DATA_FILE;
use super::inspection::{Inspection, Inspector};
use super::manifest::{Manifest, open_plain};
use super::progress::{Observer, Step, report};
use super::transfer::{Transfer, Transferred, check_space, length};
use super::verification::{check_data, check_length};
use crate::restore_target::RestoreTarget;

/// The values that the snapshot must have; a field that is none accepts every value. Values from another source than the
/// snapshot protect against restoring the wrong snapshot. See the documentation of [`crate::snapshot`] for the values that
/// protect against a forged snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Height of the newest block.
    pub height: Option<u32>,
    /// Digest of the chain.
    pub digest: Option<Hash>,
    /// SHA-256 of the data file.
    pub sha256: Option<Hash>,
    /// The hash over all values.
    pub content: Option<Hash>,
}

/// A store that was restored from a snapshot.
#[derive(Clone, Debug)]
pub struct RestoredStore {
    /// The directory of the store, absolute.
    pub path: PathBuf,
    /// The manifest of the snapshot.
    pub manifest: Manifest,
    /// What the data says about itself.
    pub inspection: Inspection,
}

/// Makes a store in `directory` from the snapshot `snapshot`. The directory must be empty or not exist. The data is copied under
/// a temporary name and checked as [`super::verify`] does. After the checks, the data gets the name `data.mdb`. If anything fails
/// before that, there is no store.
///
/// # Errors
/// [`SnapshotError`].
pub fn restore(
    snapshot: &Path,
    directory: &Path,
    expected: &Expected,
    inspector: Inspector<'_>,
    observer: Observer<'_>,
) -> Result<RestoredStore, SnapshotError> {
    let manifest = Manifest::read(snapshot)?;
    expected.check_manifest(&manifest, snapshot)?;
    let from = snapshot.join(DATA_FILE);
    let source = open_plain(&from)?;
    check_length(&manifest, length(&source, &from)?, &from)?;
    let target = RestoreTarget::reserve(directory)?;
    let data = copy(source, &from, &target, manifest.data_bytes, observer)?;
    check_data(&manifest, &data, &from)?;
    report(observer, Step::Inspecting)?;
    // The copy is inspected and not the snapshot, because nobody else writes the copy.
    let inspection = inspector(&target.incomplete(), expected.content.is_some(), observer)?;
    manifest.check(&inspection, snapshot)?;
    expected.check_content(&inspection, snapshot)?;
    report(observer, Step::Renaming)?;
    let path = target.complete()?;
    report(observer, Step::Done)?;
    Ok(RestoredStore { path, manifest, inspection })
}

/// Copies the data into the target, under the name for incomplete data.
fn copy(
    source: File,
    from: &Path,
    target: &RestoreTarget,
    total: u64,
    observer: Observer<'_>,
) -> Result<Transferred, SnapshotError> {
    check_space(target.path(), total)?;
    let path = target.incomplete();
    let file = File::create_new(&path).map_err(SnapshotError::file(&path, "it cannot be created"))?;
    // At most one byte more than expected is read. So a file that has grown is detected, and the copy ends.
    let mut source = source.take(total.saturating_add(1));
    Transfer { source: &mut source, from, target: Some((&file, &path)), total }.run(observer)
}

impl Expected {
    fn check_manifest(&self, manifest: &Manifest, snapshot: &Path) -> Result<(), SnapshotError> {
        check("height", self.height.as_ref(), Some(&manifest.height), snapshot)?;
        check("digest", self.digest.as_ref(), Some(&manifest.digest), snapshot)?;
        check("SHA-256", self.sha256.as_ref(), Some(&manifest.data_sha256), snapshot)
    }

    fn check_content(&self, inspection: &Inspection, snapshot: &Path) -> Result<(), SnapshotError> {
        check("content hash", self.content.as_ref(), inspection.content.as_ref(), snapshot)
    }
}

fn check<T: ToString + PartialEq>(
    what: &'static str,
    expected: Option<&T>,
    found: Option<&T>,
    snapshot: &Path,
) -> Result<(), SnapshotError> {
    let (Some(wanted), true) = (expected, expected != found) else { return Ok(()) };
    let found = found.map_or_else(|| "none".to_owned(), ToString::to_string);
    Err(SnapshotError::Unexpected { path: snapshot.to_owned(), what, found, wanted: wanted.to_string() })
}
