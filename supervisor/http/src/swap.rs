//! Swaps the module that is served for another module. No request is lost.
//!
//! If there is memory for two pools, the new pool commits all of its memory while the old pool serves. Otherwise the
//! workers are replaced one at a time: the old pool stops a worker, and the new pool starts one in its place. Half-way
//! through, the new pool begins to serve. If neither pool has a worker for some time, requests wait for admission. In both cases
//! the profile changes at one instant: every answer comes from one of the two modules, and names the profile of that module.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::records::{SwapProgress, unix_millis};
use crate::service::{Phase, Service};
use cofferdam_base::sync::lock;
use cofferdam_pool::{Pool, PoolBuilder, PoolError};

/// How long the old pool may take to stop a worker, beyond the longest time that a job may run.
const STOP_TIMEOUT_BEYOND_DEADLINE: Duration = Duration::from_secs(5);

/// How long jobs of the old pool may take to finish, beyond the longest time that a job may run.
const GRACE_BEYOND_DEADLINE: Duration = Duration::from_secs(5);

/// Why a module was not swapped. The old module still serves, with all its workers.
#[derive(thiserror::Error)]
pub enum SwapError {
    /// Another swap is in progress.
    #[error("another swap is in progress: try again when it is over")]
    Busy,
    /// The process is about to end.
    #[error("this process is draining and swaps no modules any more")]
    Draining,
    /// There is no pool yet whose module could be swapped.
    #[error("nothing is served yet: wait until the workers have committed their memory")]
    Starting,
    /// The pool of the new module could not be built.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// There is no memory for two pools, and the old pool stopped no worker in time.
    #[error("no worker of the old module became idle within {0:?}, and there is no memory for both modules")]
    NoRoom(Duration),
}

cofferdam_protocol::debug_as_display!(SwapError);

/// The swap that is in progress, as the status shows it. Dropping it ends the swap.
struct Progress<'a>(&'a Service);

impl<'a> Progress<'a> {
    fn begin(service: &'a Service) -> Result<Self, SwapError> {
        let mut swap = lock(&service.0.swap);
        if swap.is_some() {
            return Err(SwapError::Busy);
        }
        *swap =
            Some(SwapProgress { state: "compiling".to_owned(), since_ms: unix_millis(SystemTime::now()) });
        Ok(Self(service))
    }

    fn report(&self, state: String) {
        tracing::info!("swap: {state}");
        if let Some(swap) = lock(&self.0.0.swap).as_mut() {
            swap.state = state;
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0.swap) = None;
    }
}

/// No request is admitted while this value exists.
struct AdmissionPause<'a>(&'a Service);

impl<'a> AdmissionPause<'a> {
    /// Stops admitting requests and waits until no request is running, for at most `timeout`.
    fn begin(service: &'a Service, timeout: Duration) -> Result<Self, SwapError> {
        let pause = Self(service);
        service.0.set_paused(true);
        match service.0.admission.wait_until_idle(timeout) {
            true => Ok(pause),
            false => Err(SwapError::NoRoom(timeout)),
        }
    }
}

impl Drop for AdmissionPause<'_> {
    fn drop(&mut self) {
        self.0.0.set_paused(false);
    }
}

impl Service {
    /// Replaces the module by the module of `builder`, which gets the name `name`. `builder` may be called several times and must
    /// describe the same pool each time. Blocks until the new pool has all its workers and the old pool has ended: call
    /// `swap` in [`tokio::task::spawn_blocking`], not in a task.
    ///
    /// # Errors
    /// [`SwapError`]. The old module still serves.
    pub fn swap(&self, name: &str, builder: impl Fn() -> PoolBuilder) -> Result<Arc<Pool>, SwapError> {
        let progress = Progress::begin(self)?;
        if self.is_ending() {
            return Err(SwapError::Draining);
        }
        let old = self.pool().ok_or(SwapError::Starting)?;
        // A module that does not compile fails here, before a worker is stopped.
        builder().compile()?;
        progress.report("committing beside the old pool".to_owned());
        // The new pool gets as many spares as the old pool. By default, the free memory would determine the number of spares.
        let spares = old.full_size() - old.workers();
        let described = || builder().workers(old.workers()).spares(spares);
        let new = match described().build() {
            // Dropping the new pool ends it.
            Ok(_) if self.is_ending() => return Err(SwapError::Draining),
            Ok(pool) => {
                let pool = Arc::new(pool);
                self.install(&pool, name);
                pool
            }
            Err(error) if error.is_memory() => {
                tracing::info!(
                    "swap: there is no memory for two pools ({error}): workers are replaced one at a time"
                );
                self.one_by_one(&progress, &old, name, described)?
            }
            Err(error) => return Err(error.into()),
        };
        progress.report("finishing what runs on the old pool".to_owned());
        if !old.drain(old.limits().deadline.saturating_add(GRACE_BEYOND_DEADLINE)) {
            tracing::warn!("swap: the old pool was ended while a job was running");
        }
        self.release_replaced_pool();
        Ok(new)
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase(), Phase::Draining | Phase::Closing)
    }

    fn one_by_one(
        &self,
        progress: &Progress<'_>,
        old: &Arc<Pool>,
        name: &str,
        builder: impl Fn() -> PoolBuilder,
    ) -> Result<Arc<Pool>, SwapError> {
        let all = old.full_size();
        let timeout = old.limits().deadline.saturating_add(STOP_TIMEOUT_BEYOND_DEADLINE);
        progress.report(format!("committing 1 of {all}"));
        // If the old pool has only one worker, there is a time without a worker: the old pool has stopped its worker, and the new
        // pool does not serve yet. In this time, requests wait for admission.
        let mut pause =
            (old.health().ready() <= 1).then(|| AdmissionPause::begin(self, timeout)).transpose()?;
        if !old.shrink(timeout) {
            return Err(SwapError::NoRoom(timeout));
        }
        self.0.update_capacity(&old.health());
        let new = match builder().initially(1).build() {
            Ok(new) => Arc::new(new),
            Err(error) => return Err(restore_old_pool(old, error.into())),
        };
        let mut installed = false;
        for committed in 1..=all {
            if !installed && self.is_ending() {
                new.drain(Duration::ZERO);
                return Err(restore_old_pool(old, SwapError::Draining));
            }
            if !installed && committed * 2 >= all {
                self.install(&new, name);
                installed = true;
                drop(pause.take());
            }
            if committed == all {
                break;
            }
            progress.report(format!("committing {} of {all}", committed + 1));
            let grown = match old.shrink(timeout) {
                true => new.grow().map_err(SwapError::Pool),
                false => Err(SwapError::NoRoom(timeout)),
            };
            self.0.update_capacity(&if installed { new.health() } else { old.health() });
            match grown {
                Ok(_) => {}
                // The new pool serves already. Its missing workers do not undo the swap.
                Err(error) if installed => {
                    tracing::error!("swap: the new pool has {committed} of {all} workers: {error}");
                    break;
                }
                Err(error) => {
                    new.drain(Duration::ZERO);
                    return Err(restore_old_pool(old, error));
                }
            }
        }
        Ok(new)
    }
}

/// Starts the stopped workers of the old pool again after a failed swap. Returns `error`.
fn restore_old_pool(old: &Pool, error: SwapError) -> SwapError {
    loop {
        match old.grow() {
            Ok(true) => {}
            Ok(false) => return error,
            // The old pool is ending and needs no workers.
            Err(PoolError::Draining) => return error,
            Err(again) => {
                tracing::error!("swap: the old pool could not start all its workers again: {again}");
                return error;
            }
        }
    }
}
