//! The names of the files in a store's directory.

/// The data: one LMDB environment.
pub(crate) const DATA_FILE: &str = "data.mdb";
/// LMDB's table of readers, and its locks.
pub(crate) const LOCK_FILE: &str = "lock.mdb";
/// The file that a writer locks, so that a store has one writer.
pub(crate) const WRITER_LOCK: &str = "writer.lock";
/// Created and removed at once to find out whether the disk has space; see [`crate::failure`].
pub(crate) const PROBE_FILE: &str = "room.probe";
/// The data of a store that is being restored, until the data is complete. In a directory that has this file and no `data.mdb`,
/// no store is created.
pub(crate) const RESTORING_FILE: &str = "restoring.mdb";

/// The entries that a directory without data may have. Three are files of a store, left by a start that was interrupted.
/// `lost+found` is the directory that mke2fs(8) puts into the root of a new file system.
const IGNORED: [&str; 4] = [LOCK_FILE, WRITER_LOCK, PROBE_FILE, "lost+found"];

/// Whether an entry of this name may be in a directory that has no data.
pub(crate) fn is_ignored(name: &std::ffi::OsStr) -> bool {
    IGNORED.iter().any(|ignored| name == *ignored)
}
