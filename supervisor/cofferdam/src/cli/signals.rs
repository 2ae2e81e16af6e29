//! SIGINT and SIGTERM: the first asks to finish, the second ends the process at once.
//!
//! Only the command handles signals. The library does not, because the program that embeds the library decides about signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::CliError;
use cofferdam_pool::Pool;

/// Whether a signal has asked to finish.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Starts to listen for signals.
    ///
    /// # Errors
    /// [`CliError::Io`] if a handler cannot be registered.
    pub(super) fn listen() -> Result<Self, CliError> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let register = || -> io::Result<()> {
                // The order matters: at the first signal, the flag is not set yet when the shutdown handler reads it. So only
                // the second signal ends the process. The kernel ends the workers with their supervisor.
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
                flag::register(signal, Arc::clone(&asked))?;
                Ok(())
            };
            register().map_err(CliError::io("signals"))?;
        }
        Ok(Self(asked))
    }

    /// Whether a signal has come.
    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Calls `work`, which uses the pool. After a signal, the pool takes no more jobs and retries none. A job that still runs `grace`
/// after the signal is ended.
pub(super) fn obeying<T>(stop: &Stop, pool: &Pool, grace: Duration, work: impl FnOnce() -> T) -> T {
    const TICK: Duration = Duration::from_millis(50);
    let done = AtomicBool::new(false);
    let watch = || {
        let mut asked: Option<Instant> = None;
        while !done.load(Ordering::Relaxed) {
            match asked {
                None if stop.is_asked() => {
                    tracing::warn!(
                        "asked to end: running jobs are finished; a second SIGINT or SIGTERM ends this process at once"
                    );
                    pool.refuse_jobs();
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() >= grace => {
                    pool.drain(Duration::ZERO);
                    return;
                }
                _ => {}
            }
            thread::park_timeout(TICK);
        }
    };
    thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        let _done = Done { flag: &done, watcher: watcher.thread().clone() };
        work()
    })
}

/// Ends the watching thread when it is dropped, and so also when the work panics.
struct Done<'a> {
    flag: &'a AtomicBool,
    watcher: Thread,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
        self.watcher.unpark();
    }
}
