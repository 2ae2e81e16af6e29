//! The progress of taking, verifying or restoring a snapshot, and how the caller can cancel it.

use std::ops::ControlFlow;

use super::error::SnapshotError;

/// A step of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The data is being read and hashed, and copied if it has to be.
    Data {
        /// Bytes so far.
        done: u64,
        /// Bytes in all, as far as is known.
        total: u64,
    },
    /// The data is complete. Its content is being compared with the manifest, or read for a new manifest.
    Inspecting,
    /// Everything is synced to disk and is about to be renamed to its final name.
    Renaming,
    /// The final name is in place. Old snapshots, if any, are about to be removed.
    Done,
}

/// A callback that is called at each step. If it returns [`ControlFlow::Break`], the work is cancelled and everything that was
/// written is removed.
pub type Observer<'o> = &'o mut dyn FnMut(Step) -> ControlFlow<()>;

/// Reports a step. After [`Step::Done`] the work cannot be cancelled any more.
pub(super) fn report(observer: Observer<'_>, step: Step) -> Result<(), SnapshotError> {
    match observer(step) {
        ControlFlow::Break(()) if step != Step::Done => Err(SnapshotError::Cancelled),
        _ => Ok(()),
    }
}
