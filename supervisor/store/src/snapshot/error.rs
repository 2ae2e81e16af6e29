//! What can be wrong with a snapshot, or with taking one. Every text names the path, the cause and what the operator can do.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_base::size::Bytes;
use cofferdam_worker::state::StateError;
use thiserror::Error;

use super::format::FORMAT;
use crate::data_file::DataFileError;
use crate::error::StoreError;
use crate::failure::{FailureKind, advice_io};

/// Why a snapshot was not taken, not verified, or not restored.
#[derive(Error)]
pub enum SnapshotError {
    /// The caller cancelled the work.
    #[error("cancelled; no incomplete snapshot or store is left")]
    Cancelled,
    /// The store has no block.
    #[error("the store in {} holds no block yet: there is nothing to take a snapshot of", path.display())]
    EmptyStore {
        /// The store's directory.
        path: PathBuf,
    },
    /// Another process is writing a snapshot into the same directory.
    #[error(
        "another process is writing a snapshot into {path}: wait until it ends (`fuser {path}/.lock` names the process), or \
         name another directory",
        path = path.display()
    )]
    Busy {
        /// The directory of snapshots.
        path: PathBuf,
    },
    /// The disk has too little space.
    #[error(
        "{} needs {} of disk space and has {}: make room, or name a directory on another disk",
        path.display(),
        Bytes(*needed),
        Bytes(*available)
    )]
    NoSpace {
        /// The directory to write into.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// A file or directory cannot be read, written, created or removed.
    #[error("{}: {problem}: {source}{}", path.display(), file_advice(source))]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory has no manifest.
    #[error("{} is not a snapshot: it has no manifest.json, which every complete snapshot has", path.display())]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// A file of the snapshot is not a plain file.
    #[error(
        "{} is {found}, and a snapshot holds only plain files: it was not made by Cofferdam, do not use it",
        path.display()
    )]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is at the path.
        found: &'static str,
    },
    /// The manifest is not valid.
    #[error("{}: {reason}: the snapshot is damaged, or was not made by Cofferdam; get it again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with the manifest.
        reason: String,
    },
    /// The snapshot has another format.
    #[error(
        "{} has the format {found}, but this build reads format {FORMAT}: use the build that made the snapshot, or a newer one",
        path.display()
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format that was found.
        found: u32,
    },
    /// The length of the data differs from the manifest.
    #[error(
        "{} has {found} bytes and should have {wanted}: it was cut short or changed; get the snapshot again",
        path.display()
    )]
    Length {
        /// The data file.
        path: PathBuf,
        /// Length of the file in bytes.
        found: u64,
        /// Length in the manifest, in bytes.
        wanted: u64,
    },
    /// The hash of the data differs from the manifest.
    #[error("{} has the SHA-256 {found} and should have {wanted}: it is damaged; get the snapshot again", path.display())]
    Hash {
        /// The data file.
        path: PathBuf,
        /// The hash of the file.
        found: String,
        /// The hash in the manifest.
        wanted: String,
    },
    /// The data is not the data of a store.
    #[error("{} is not the data of a store: {source}; do not use this snapshot", path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// What is wrong with the data.
        source: DataFileError,
    },
    /// The process that inspected the data refused the data, or was ended by it.
    #[error("{} cannot be read as the data of a store: {reason}; do not use this snapshot", path.display())]
    Unreadable {
        /// The data file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The data differs from the manifest.
    #[error("{}: the manifest says {what} {manifest}, but the data says {data}; do not use this snapshot", path.display())]
    Differs {
        /// The snapshot.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// The value in the manifest.
        manifest: String,
        /// The value in the data.
        data: String,
    },
    /// The snapshot is not the one that was asked for.
    #[error("{} has the {what} {found}, but {wanted} was asked for; nothing was restored", path.display())]
    Unexpected {
        /// The snapshot.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// The value of the snapshot.
        found: String,
        /// The value that was asked for.
        wanted: String,
    },
    /// The store to copy cannot be opened for reading.
    #[error(transparent)]
    Reader(#[from] StateError),
    /// The store to copy, or the directory for the restored store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

cofferdam_protocol::debug_as_display!(SnapshotError);

impl SnapshotError {
    /// Whether the failed call can succeed when it is tried again.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NoSpace { .. } => FailureKind::NoSpace,
            Self::File { source, .. } => FailureKind::of_io(source),
            Self::Store(error) => error.kind(),
            _ => FailureKind::Permanent,
        }
    }

    /// Makes a function for `map_err`. The function makes the error that `problem` is wrong with the file or directory `path`.
    pub(super) fn file(path: &Path, problem: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), problem, source }
    }
}

/// What to do about a failed write, as the end of a message. Empty for errors without known advice.
fn file_advice(source: &io::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match source.kind() {
        _ if FailureKind::of_io(source) == FailureKind::NoSpace => {
            ". The part that was written is removed; make room, raise the quota or file size limit, or name a directory on \
             another disk"
        }
        PermissionDenied | ReadOnlyFilesystem => ". Name a directory that this user may read and write",
        _ => advice_io(source),
    }
}
