//! Taking a snapshot of a store that may be in use.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::StateReader;

use super::directory::{Directory, Unfinished, name};
use super::manifest::{DATA_FILE, Manifest};
use super::transfer::{Transfer, check_room};
use super::{SnapshotError, Step, Watch, look_here, tell};
use crate::StoreCopy;

/// What to know and to do beside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taking {
    /// SHA-256 of the module, if it is known, for the manifest.
    pub module: Option<Hash>,
    /// How many of the newest snapshots of this profile are to be in the directory afterwards; none leaves all there.
    pub keep: Option<NonZeroUsize>,
}

/// A snapshot that is there.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its directory, absolute.
    pub path: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// Whether it was made now. There is no second one of the same state.
    pub is_new: bool,
    /// Older ones that were removed.
    pub removed: Vec<PathBuf>,
}

/// Takes a snapshot of what `reader` reads, as of now, into `directory`, which is made if there is none. Whatever goes
/// wrong, no part of a snapshot is left with the name of one, and the store is as it was.
///
/// The store's writer goes on meanwhile; the file grows by what it frees until the copy has ended.
///
/// # Errors
/// [`SnapshotError`].
pub fn take(
    reader: &StateReader,
    directory: &Path,
    taking: &Taking,
    watch: Watch<'_>,
) -> Result<Taken, SnapshotError> {
    let directory = Directory::lock(directory)?;
    // One who was killed while copying would keep the store from using pages again for ever.
    let cleared = reader.environment().clear_stale_readers();
    if let Err(error) = cleared {
        tracing::warn!("{}: slots of dead readers were not cleared: {error}", reader.path().display());
    }
    let (path, manifest, is_new) = match existing(reader, &directory)? {
        Some((path, manifest)) => (path, manifest, false),
        None => {
            let unfinished = directory.begin()?;
            let manifest = write(reader, &unfinished, taking, watch)?;
            tell(watch, Step::Naming)?;
            (unfinished.finish(&manifest)?, manifest, true)
        }
    };
    tell(watch, Step::Done)?;
    let removed = taking.keep.map(|keep| directory.prune(&path, keep)).transpose()?.unwrap_or_default();
    Ok(Taken { path, manifest, is_new, removed })
}

/// The snapshot of the state that the store is in, if there is one.
fn existing(
    reader: &StateReader,
    directory: &Directory,
) -> Result<Option<(PathBuf, Manifest)>, SnapshotError> {
    let path = reader.path().to_owned();
    let tip = crate::tip(reader).map_err(|source| SnapshotError::Contents { path: path.clone(), source })?;
    let tip = tip.ok_or(SnapshotError::NothingYet { path })?;
    let path = directory.path().join(name(tip.height, &tip.digest.short()));
    match Manifest::read(&path) {
        Ok(manifest) => Ok((manifest.digest == tip.digest).then_some((path, manifest))),
        Err(SnapshotError::NoSnapshot { .. }) if !path.exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes data and manifest, and has both on the disk.
fn write(
    reader: &StateReader,
    unfinished: &Unfinished<'_>,
    taking: &Taking,
    watch: Watch<'_>,
) -> Result<Manifest, SnapshotError> {
    let mut copy = StoreCopy::begin(reader)?;
    let total = copy.expected_bytes();
    check_room(unfinished.path(), total)?;
    let path = unfinished.path().join(DATA_FILE);
    let file = File::create_new(&path).map_err(SnapshotError::file(&path, "it cannot be made"))?;
    let transfer = Transfer { source: &mut copy, from: reader.path(), target: Some((&file, &path)), total };
    let data = transfer.run(watch)?;
    copy.finish()?;
    tell(watch, Step::Looking)?;
    // In this process: it is our own store that was copied.
    let inside = look_here(&path, false, watch)?;
    let manifest = Manifest::of(inside, taking.module, data.bytes, data.sha256);
    manifest.write(unfinished.path())?;
    Ok(manifest)
}
