//! Reaps orphans if this process is process 1, the first process of a container. A process whose parent has ended becomes a child
//! of process 1, and stays in the process table until process 1 has waited for it.

use std::thread;
use std::time::Duration;

use super::error::CliError;
use cofferdam_pool::orphans;

/// Starts a thread that reaps orphans, if this is process 1.
pub(super) fn reap() -> Result<(), CliError> {
    const LOOK: Duration = Duration::from_secs(1);
    if std::process::id() != 1 {
        return Ok(());
    }
    orphans::record_children();
    let look = || loop {
        orphans::reap();
        thread::sleep(LOOK);
    };
    let thread = thread::Builder::new().name("cofferdam-reaper".to_owned()).spawn(look);
    thread.map(drop).map_err(CliError::io("a thread that reaps orphans"))
}
