//! Making a store of a snapshot.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;

use super::manifest::{DATA_FILE, Manifest, open_plain};
use super::transfer::{Transfer, Transferred, check_room, length};
use super::verify::{check_data, check_length};
use super::{Inside, Look, SnapshotError, Step, Watch, tell};
use crate::Vacant;

/// What the snapshot has to be, beside whole. What comes from elsewhere than the snapshot protects against a wrong one; see
/// [`super`] for what protects against a forged one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Height of its newest block.
    pub height: Option<u32>,
    /// The chain's digest.
    pub digest: Option<Hash>,
    /// SHA-256 of the data file.
    pub sha256: Option<Hash>,
    /// The hash over all values.
    pub content: Option<Hash>,
}

/// A store that was made of a snapshot.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Its directory, absolute.
    pub path: PathBuf,
    /// The manifest of the snapshot.
    pub manifest: Manifest,
    /// What the data says.
    pub inside: Inside,
}

/// Makes a store in `directory`, which must be empty or not exist, of the snapshot. The data is copied under another name
/// and checked as [`super::verify`] does; only then it gets the name by which a store is opened. Whatever goes wrong
/// before, there is no store.
///
/// # Errors
/// [`SnapshotError`].
pub fn restore(
    snapshot: &Path,
    directory: &Path,
    wanted: &Wanted,
    look: Look<'_>,
    watch: Watch<'_>,
) -> Result<Restored, SnapshotError> {
    let manifest = Manifest::read(snapshot)?;
    wanted.check_manifest(&manifest, snapshot)?;
    let from = snapshot.join(DATA_FILE);
    let source = open_plain(&from)?;
    check_length(&manifest, length(&source, &from)?, &from)?;
    let vacant = Vacant::claim(directory)?;
    let data = write(source, &from, &vacant, manifest.data_bytes, watch)?;
    check_data(&manifest, &data, &from)?;
    tell(watch, Step::Looking)?;
    // Into the copy, which nobody can exchange any more.
    let inside = look(&vacant.unfinished(), wanted.content.is_some(), watch)?;
    manifest.check(&inside, snapshot)?;
    wanted.check_content(&inside, snapshot)?;
    tell(watch, Step::Naming)?;
    let path = vacant.fill()?;
    tell(watch, Step::Done)?;
    Ok(Restored { path, manifest, inside })
}

/// Copies the data to where it is to be, under the name of what is unfinished.
fn write(
    source: File,
    from: &Path,
    vacant: &Vacant,
    total: u64,
    watch: Watch<'_>,
) -> Result<Transferred, SnapshotError> {
    check_room(vacant.path(), total)?;
    let path = vacant.unfinished();
    let file = File::create_new(&path).map_err(SnapshotError::file(&path, "it cannot be made"))?;
    // One byte more than there should be, so that a file that has grown is found out and not copied for ever.
    let mut source = source.take(total.saturating_add(1));
    Transfer { source: &mut source, from, target: Some((&file, &path)), total }.run(watch)
}

impl Wanted {
    fn check_manifest(&self, manifest: &Manifest, snapshot: &Path) -> Result<(), SnapshotError> {
        check("height", self.height.as_ref(), Some(&manifest.height), snapshot)?;
        check("digest", self.digest.as_ref(), Some(&manifest.digest), snapshot)?;
        check("SHA-256", self.sha256.as_ref(), Some(&manifest.data_sha256), snapshot)
    }

    fn check_content(&self, inside: &Inside, snapshot: &Path) -> Result<(), SnapshotError> {
        check("content hash", self.content.as_ref(), inside.content.as_ref(), snapshot)
    }
}

fn check<T: ToString + PartialEq>(
    what: &'static str,
    wanted: Option<&T>,
    found: Option<&T>,
    snapshot: &Path,
) -> Result<(), SnapshotError> {
    let (Some(wanted), true) = (wanted, wanted != found) else { return Ok(()) };
    let found = found.map_or_else(|| "none".to_owned(), ToString::to_string);
    Err(SnapshotError::Unwanted { path: snapshot.to_owned(), what, found, wanted: wanted.to_string() })
}
