//! Holding a snapshot against its manifest.

use std::path::{Path, PathBuf};

use super::manifest::{DATA_FILE, Manifest, open_plain};
use super::transfer::{Transfer, Transferred, length};
use super::{Inside, Look, SnapshotError, Step, Watch, tell};

/// A snapshot that is what its manifest says.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The snapshot, as it was given.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What its data says.
    pub inside: Inside,
}

/// Checks that the snapshot is whole and undamaged: the data has the length and hash of the manifest, and is a store whose
/// profile, network and newest block are those of the manifest. With `content`, every value is read and hashed, too.
///
/// # Errors
/// [`SnapshotError`], which says in what it is not.
pub fn verify(
    snapshot: &Path,
    content: bool,
    look: Look<'_>,
    watch: Watch<'_>,
) -> Result<Verified, SnapshotError> {
    let manifest = Manifest::read(snapshot)?;
    let path = snapshot.join(DATA_FILE);
    let mut file = open_plain(&path)?;
    check_length(&manifest, length(&file, &path)?, &path)?;
    let transfer = Transfer { source: &mut file, from: &path, target: None, total: manifest.data_bytes };
    check_data(&manifest, &transfer.run(watch)?, &path)?;
    tell(watch, Step::Looking)?;
    let inside = look(&path, content, watch)?;
    manifest.check(&inside, snapshot)?;
    Ok(Verified { path: snapshot.to_owned(), manifest, inside })
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
