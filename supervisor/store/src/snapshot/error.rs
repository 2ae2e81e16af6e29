//! What can be wrong with a snapshot, or with taking one, said so that an operator can act on it.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_worker::state::StateError;
use thiserror::Error;

use crate::{ContentsError, StoreError, Trouble, advice_io};
use cofferdam_base::size::Bytes;

/// Why a snapshot was not taken, not found good, or not restored.
#[derive(Error)]
pub enum SnapshotError {
    /// Somebody asked to stop.
    #[error("given up before the end; nothing of it is left that could be taken for whole")]
    GivenUp,
    /// There is nothing to take a snapshot of.
    #[error("the store in {} holds no block yet: there is nothing to take a snapshot of", path.display())]
    NothingYet {
        /// The store's directory.
        path: PathBuf,
    },
    /// Two snapshots at a time in one directory.
    #[error(
        "another process is writing a snapshot into {path}: wait for it (`fuser {path}/.lock` names it), or name another \
         directory",
        path = path.display()
    )]
    Busy {
        /// The directory of snapshots.
        path: PathBuf,
    },
    /// It would not fit.
    #[error(
        "{} needs {} and has {}: make room, or name a directory on another disk",
        path.display(),
        Bytes(*needed),
        Bytes(*available)
    )]
    NoRoom {
        /// Where it was to be written.
        path: PathBuf,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// A file or directory cannot be read, written, made or removed.
    #[error("{}: {doing}: {source}{}", path.display(), remedy(source))]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory without a manifest.
    #[error("{} is no snapshot: it has no manifest.json, which every whole one has", path.display())]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// Something else stands where a file should.
    #[error("{} is {found}, and a snapshot holds plain files only: it was not made by Cofferdam, do not use it", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A manifest that cannot be taken at its word.
    #[error("{}: {reason}: the snapshot is damaged, or was not made by Cofferdam; get it again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot of another format.
    #[error(
        "{} has the format {found}, this build knows format {known}: use the build that made it, or a newer one",
        path.display(),
        known = super::FORMAT
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The data is not as long as its manifest says.
    #[error("{} has {found} bytes and should have {wanted}: it was cut short or changed; get the snapshot again", path.display())]
    Length {
        /// The data file.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes by the manifest.
        wanted: u64,
    },
    /// The data is not what its manifest says.
    #[error("{} has the SHA-256 {found} and should have {wanted}: it is damaged; get the snapshot again", path.display())]
    Hash {
        /// The data file.
        path: PathBuf,
        /// The hash found.
        found: String,
        /// The hash by the manifest.
        wanted: String,
    },
    /// The data is no store's.
    #[error("{} is not the data of a store: {source}; do not use this snapshot", path.display())]
    Contents {
        /// The data file.
        path: PathBuf,
        /// What is wrong with it.
        source: ContentsError,
    },
    /// Looking into the data ended the process that did.
    #[error("{} cannot be read as the data of a store: {reason}; do not use this snapshot", path.display())]
    Unreadable {
        /// The data file.
        path: PathBuf,
        /// How it ended.
        reason: String,
    },
    /// The manifest says one thing, and the data another.
    #[error("{}: the manifest says {what} {manifest}, the data {data}; do not use this snapshot", path.display())]
    Differs {
        /// The snapshot.
        path: PathBuf,
        /// What it is about.
        what: &'static str,
        /// What the manifest says.
        manifest: String,
        /// What the data says.
        data: String,
    },
    /// It is not the one that was asked for.
    #[error("{} has the {what} {found}, and {wanted} was asked for: it is another state; nothing was restored", path.display())]
    Unwanted {
        /// The snapshot.
        path: PathBuf,
        /// What it is about.
        what: &'static str,
        /// What it has.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The store to copy cannot be opened for reading.
    #[error(transparent)]
    Reader(#[from] StateError),
    /// The store to copy, or the directory of the new one.
    #[error(transparent)]
    Store(#[from] StoreError),
}

cofferdam_protocol::debug_as_display!(SnapshotError);

impl SnapshotError {
    /// Whether it passes once somebody makes room.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::NoRoom { .. } => Trouble::NoRoom,
            Self::File { source, .. } => Trouble::of_io(source),
            Self::Store(error) => error.trouble(),
            _ => Trouble::Lasting,
        }
    }

    /// For `map_err`: what was being done with which file.
    pub(super) fn file(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), doing, source }
    }
}

/// What to do about a failed write, where that is known.
fn remedy(source: &io::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match source.kind() {
        _ if Trouble::of_io(source) == Trouble::NoRoom => {
            ". What was written of it is removed; make room, raise the quota or file size limit, or name a directory on \
             another disk"
        }
        PermissionDenied | ReadOnlyFilesystem => ". Name a directory that this user may write, and read",
        _ => advice_io(source),
    }
}
