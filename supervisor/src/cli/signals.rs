//! SIGINT and SIGTERM: the first asks to finish, the second ends at once.
//!
//! Only the command takes signals. The library must not: they belong to whoever embeds it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::CliError;

/// Whether somebody has asked to finish.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Starts to listen.
    pub(super) fn listen() -> Result<Self, CliError> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let register = || -> io::Result<()> {
                // In this order: at the first signal the flag is not set yet, so only the second shuts down. Workers
                // need no help then: they die with their supervisor.
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
                flag::register(signal, Arc::clone(&asked))?;
                Ok(())
            };
            register().map_err(CliError::io("signals"))?;
        }
        Ok(Self(asked))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
