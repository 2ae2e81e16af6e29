//! Reads blocks ahead of the workers.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, bounded};

use crate::cli::error::CliError;
use cofferdam_chain::Hashed;
use cofferdam_chain::blocks::{BlockError, BlockSource};

/// The number of blocks that are read, checked and hashed ahead of the workers.
const AHEAD: usize = 4;

/// Blocks in the order of the source. The channel ends after the last block, and after an error.
pub(in super::super) type Blocks = Receiver<Result<Hashed, BlockError>>;

/// Starts a thread that reads, checks and hashes the blocks of `source`, a few ahead.
///
/// # Errors
/// [`CliError::Io`] if the thread cannot be started.
pub(in super::super) fn read_ahead(source: BlockSource) -> Result<(Blocks, JoinHandle<()>), CliError> {
    let (sender, receiver) = bounded(AHEAD);
    let read = move || {
        for block in source {
            // When the run has ended, nothing receives the blocks any more.
            if sender.send(block.map(Hashed::from)).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("cofferdam-blocks".to_owned()).spawn(read);
    Ok((receiver, thread.map_err(CliError::io("the thread that reads blocks could not be started"))?))
}
