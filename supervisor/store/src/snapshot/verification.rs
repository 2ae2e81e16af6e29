//! Comparing a snapshot with its manifest.

use std::path::{Path, PathBuf};

use super::error::SnapshotError;
use super::format::DATA_FILE;
use super::inspection::{Inspection, Inspector};
use super::manifest::{Manifest, open_plain};
use super::progress::{Observer, Step, report};
use super::transfer::{Transfer, Transferred, length};

/// A snapshot that matches its manifest.
#[derive(Clone, Debug)]
pub struct VerifiedSnapshot {
    /// The snapshot, as the caller named it.
    pub path: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// What the data says about itself.
    pub inspection: Inspection,
}

/// Checks that the snapshot is complete and undamaged: the data has the length and the hash of the manifest, and is a store with
/// the manifest's profile, network and newest block. If `hash_content` is true, every value is read and hashed too.
///
/// # Errors
/// [`SnapshotError`], which says what is wrong.
pub fn verify(
    snapshot: &Path,
    hash_content: bool,
    inspector: Inspector<'_>,
    observer: Observer<'_>,
) -> Result<VerifiedSnapshot, SnapshotError> {
    let manifest = Manifest::read(snapshot)?;
    let path = snapshot.join(DATA_FILE);
    let mut file = open_plain(&path)?;
    check_length(&manifest, length(&file, &path)?, &path)?;
    let transfer = Transfer { source: &mut file, from: &path, target: None, total: manifest.data_bytes };
    check_data(&manifest, &transfer.run(observer)?, &path)?;
    report(observer, Step::Inspecting)?;
    let inspection = inspector(&path, hash_content, observer)?;
    manifest.check(&inspection, snapshot)?;
    Ok(VerifiedSnapshot { path: snapshot.to_owned(), manifest, inspection })
}

pub(super) fn check_length(manifest: &Manifest, found: u64, path: &Path) -> Result<(), SnapshotError> {
    let wanted = manifest.data_bytes;
    if found == wanted {
        return Ok(());
    }
    Err(SnapshotError::Length { path: path.to_owned(), found, wanted })
}

pub(super) fn check_data(manifest: &Manifest, data: &Transferred, path: &Path) -> Result<(), SnapshotError> {
    check_length(manifest, data.bytes, path)?;
    if data.sha256 == manifest.data_sha256 {
        return Ok(());
    }
    let (found, wanted) = (data.sha256.to_string(), manifest.data_sha256.to_string());
    Err(SnapshotError::Hash { path: path.to_owned(), found, wanted })
}
