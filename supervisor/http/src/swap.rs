//! Putting another module in the place of the one that is served, with no request lost.
//!
//! Where there is memory for both pools, the new one commits all of its own while the old one serves. Where there is not,
//! workers change over one at a time: the old pool gives one up, the new one commits in its place, and at half-way the
//! new one takes over. Requests that come in between wait at the gate. Either way the profile changes at one instant:
//! every answer is by the one module or by the other, and says by which.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::service::{Phase, Service};
use super::snapshot::{Swap, millis};
use cofferdam_base::sync::lock;
use cofferdam_pool::{Pool, PoolBuilder, PoolError};

/// How long the old pool may take to give up a worker: as long as a job may run.
const PATIENCE_BEYOND_DEADLINE: Duration = Duration::from_secs(5);

/// How long jobs of the old pool may run on.
const GRACE_BEYOND_DEADLINE: Duration = Duration::from_secs(5);

/// Why a module was not swapped. The old one serves on, with all its workers.
#[derive(thiserror::Error)]
pub enum SwapError {
    /// Another swap is going on.
    #[error("another swap is going on")]
    Busy,
    /// The process is about to end.
    #[error("this process is draining, and swaps no module any more")]
    Draining,
    /// There is no pool to take the place of.
    #[error("nothing is served yet")]
    Starting,
    /// The pool of the new module could not be built.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The old pool gave up no worker in time.
    #[error("no worker of the old module got idle within {0:?}, and there is no memory for both")]
    NoRoom(Duration),
}

cofferdam_protocol::debug_as_display!(SwapError);

/// The news of a swap, taken away when it is over.
struct News<'a>(&'a Service);

impl<'a> News<'a> {
    fn begin(service: &'a Service) -> Result<Self, SwapError> {
        let mut swap = lock(&service.0.swap);
        if swap.is_some() {
            return Err(SwapError::Busy);
        }
        *swap = Some(Swap { state: "compiling".to_owned(), since_ms: millis(SystemTime::now()) });
        Ok(Self(service))
    }

    fn say(&self, state: String) {
        tracing::info!("swap: {state}");
        if let Some(swap) = lock(&self.0.0.swap).as_mut() {
            swap.state = state;
        }
    }
}

impl Drop for News<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0.swap) = None;
    }
}

/// For as long as it is there, nobody is let in.
struct Pause<'a>(&'a Service);

impl<'a> Pause<'a> {
    /// Waits until nobody is in, either.
    fn begin(service: &'a Service, patience: Duration) -> Result<Self, SwapError> {
        const STEP: Duration = Duration::from_millis(1);
        let pause = Self(service);
        service.0.pause(true);
        let begun = Instant::now();
        while service.0.gate.load().inside > 0 {
            if begun.elapsed() > patience {
                return Err(SwapError::NoRoom(patience));
            }
            std::thread::sleep(STEP);
        }
        Ok(pause)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.0.pause(false);
    }
}

impl Service {
    /// Swaps the module for the one that `builder` describes, called `name`. Blocks until the new pool is whole and the old
    /// one gone: not to be called from within the runtime, but from [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    /// [`SwapError`]; the old module serves on then.
    pub fn swap(&self, name: &str, builder: impl Fn() -> PoolBuilder) -> Result<Arc<Pool>, SwapError> {
        let news = News::begin(self)?;
        if self.is_ending() {
            return Err(SwapError::Draining);
        }
        let old = self.pool().ok_or(SwapError::Starting)?;
        // Whatever is wrong with the module shows here, before anything is given up.
        builder().compile()?;
        news.say("committing beside the old pool".to_owned());
        // As many spares as there are now: by itself it would take what memory there is.
        let spares = old.full_size() - old.workers();
        let described = || builder().workers(old.workers()).spares(spares);
        let new = match described().build() {
            // Dropping the new one ends it.
            Ok(_) if self.is_ending() => return Err(SwapError::Draining),
            Ok(pool) => {
                let pool = Arc::new(pool);
                self.install(&pool, name);
                pool
            }
            Err(error) if error.is_memory() => {
                tracing::info!("swap: no memory for both pools at once ({error}): one worker at a time");
                self.one_by_one(&news, &old, name, described)?
            }
            Err(error) => return Err(error.into()),
        };
        news.say("finishing what runs on the old pool".to_owned());
        if !old.drain(old.limits().deadline.saturating_add(GRACE_BEYOND_DEADLINE)) {
            tracing::warn!("swap: a job of the old pool was cut off");
        }
        self.forget_replaced();
        Ok(new)
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase(), Phase::Draining | Phase::Closing)
    }

    fn one_by_one(
        &self,
        news: &News<'_>,
        old: &Arc<Pool>,
        name: &str,
        builder: impl Fn() -> PoolBuilder,
    ) -> Result<Arc<Pool>, SwapError> {
        let all = old.full_size();
        let patience = old.limits().deadline.saturating_add(PATIENCE_BEYOND_DEADLINE);
        news.say(format!("committing 1 of {all}"));
        // While the old pool has no worker and the new one does not serve, requests wait at the gate.
        let mut pause = (old.health().ready() <= 1).then(|| Pause::begin(self, patience)).transpose()?;
        if !old.shrink(patience) {
            return Err(SwapError::NoRoom(patience));
        }
        self.0.follow_workers(&old.health());
        let new = match builder().initially(1).build() {
            Ok(new) => Arc::new(new),
            Err(error) => return Err(give_back(old, error.into())),
        };
        let mut installed = false;
        for committed in 1..=all {
            if !installed && self.is_ending() {
                new.drain(Duration::ZERO);
                return Err(give_back(old, SwapError::Draining));
            }
            if !installed && committed * 2 >= all {
                self.install(&new, name);
                installed = true;
                drop(pause.take());
            }
            if committed == all {
                break;
            }
            news.say(format!("committing {} of {all}", committed + 1));
            let grown = match old.shrink(patience) {
                true => new.grow().map_err(SwapError::Pool),
                false => Err(SwapError::NoRoom(patience)),
            };
            self.0.follow_workers(&if installed { new.health() } else { old.health() });
            match grown {
                Ok(_) => {}
                // It serves already: what is missing of it can follow later.
                Err(error) if installed => {
                    tracing::error!("swap: the new pool has {committed} of {all} workers: {error}");
                    break;
                }
                Err(error) => {
                    new.drain(Duration::ZERO);
                    return Err(give_back(old, error));
                }
            }
        }
        Ok(new)
    }
}

/// Makes the old pool whole again after a swap that failed.
fn give_back(old: &Pool, error: SwapError) -> SwapError {
    loop {
        match old.grow() {
            Ok(true) => {}
            Ok(false) => return error,
            // It ends anyway.
            Err(PoolError::Draining) => return error,
            Err(again) => {
                tracing::error!("swap: the old pool could not be made whole again: {again}");
                return error;
            }
        }
    }
}
