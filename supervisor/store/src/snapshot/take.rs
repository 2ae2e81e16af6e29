//! Taking a snapshot of a store that may be in use.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::StateReader;

use super::error::SnapshotError;
use super::format::DATA_FILE;
use super::inspection::inspect_in_process;
use super::manifest::Manifest;
use super::progress::{Observer, Step, report};
use super::repository::{IncompleteSnapshot, Repository, name};
use super::transfer::{Transfer, check_space};
use crate::copy::StoreCopy;
use crate::data_file::newest_block;

/// Options for [`take`].
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeOptions {
    /// SHA-256 of the module for the manifest, if the caller knows it.
    pub module: Option<Hash>,
    /// How many of the newest snapshots of this profile to keep in the directory; none keeps all of them.
    pub keep: Option<NonZeroUsize>,
}

/// A snapshot that was taken, or that existed already.
#[derive(Clone, Debug)]
pub struct TakenSnapshot {
    /// The directory of the snapshot, absolute.
    pub path: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// Whether the snapshot was taken now. False if a snapshot of the same state existed already.
    pub is_new: bool,
    /// Older snapshots that were removed.
    pub removed: Vec<PathBuf>,
}

/// Takes a snapshot of the current state of the store that `reader` reads. The snapshot is written into `directory`, which is
/// created if it does not exist. If anything fails, no incomplete snapshot is left under a final name, and the store is
/// unchanged.
///
/// The writer of the store continues meanwhile. Until the copy has ended, the data file grows by the pages that the writer
/// frees.
///
/// # Errors
/// [`SnapshotError`].
pub fn take(
    reader: &StateReader,
    directory: &Path,
    options: &TakeOptions,
    observer: Observer<'_>,
) -> Result<TakenSnapshot, SnapshotError> {
    let repository = Repository::lock(directory)?;
    // If a process was killed while it copied the store, its reader slot would keep the store from reusing pages for ever.
    let cleared = reader.environment().clear_stale_readers();
    if let Err(error) = cleared {
        tracing::warn!("{}: the slots of dead readers were not freed: {error}", reader.path().display());
    }
    let (path, manifest, is_new) = match existing(reader, &repository)? {
        Some((path, manifest)) => (path, manifest, false),
        None => {
            let incomplete = repository.begin()?;
            let manifest = write(reader, &incomplete, options, observer)?;
            report(observer, Step::Renaming)?;
            (incomplete.finish(&manifest)?, manifest, true)
        }
    };
    report(observer, Step::Done)?;
    let removed = options.keep.map(|keep| repository.prune(&path, keep)).transpose()?.unwrap_or_default();
    Ok(TakenSnapshot { path, manifest, is_new, removed })
}

/// The snapshot of the store's current state, if there is one already.
fn existing(
    reader: &StateReader,
    repository: &Repository,
) -> Result<Option<(PathBuf, Manifest)>, SnapshotError> {
    let path = reader.path().to_owned();
    let tip = newest_block(reader).map_err(|source| SnapshotError::Data { path: path.clone(), source })?;
    let tip = tip.ok_or(SnapshotError::EmptyStore { path })?;
    let path = repository.path().join(name(tip.height, &tip.digest.short()));
    match Manifest::read(&path) {
        Ok(manifest) => Ok((manifest.digest == tip.digest).then_some((path, manifest))),
        Err(SnapshotError::NoSnapshot { .. }) if !path.exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the data and the manifest, and syncs both to disk.
fn write(
    reader: &StateReader,
    incomplete: &IncompleteSnapshot<'_>,
    options: &TakeOptions,
    observer: Observer<'_>,
) -> Result<Manifest, SnapshotError> {
    let mut copy = StoreCopy::begin(reader)?;
    let total = copy.expected_bytes();
    check_space(incomplete.path(), total)?;
    let path = incomplete.path().join(DATA_FILE);
    let file = File::create_new(&path).map_err(SnapshotError::file(&path, "it cannot be created"))?;
    let transfer = Transfer { source: &mut copy, from: reader.path(), target: Some((&file, &path)), total };
    let data = transfer.run(observer)?;
    copy.finish()?;
    report(observer, Step::Inspecting)?;
    // The data is a copy of our own store, so it can be inspected in this process.
    let inspection = inspect_in_process(&path, false, observer)?;
    let manifest = Manifest::new(inspection, options.module, data.bytes, data.sha256);
    manifest.write(incomplete.path())?;
    Ok(manifest)
}
