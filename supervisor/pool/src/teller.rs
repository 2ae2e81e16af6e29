//! Tells whoever embeds the pool of deaths, in a thread of its own: a hook may take its time, panic, drain the pool or drop it,
//! and no slot waits for that.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::death::Death;
use super::settings::DeathHook;
use super::threads::{PoolId, join_within};
use cofferdam_base::sync::lock;

/// How many deaths can wait for a hook that takes its time. Further ones are only logged.
const MOST_WAITING: usize = 1024;

/// How long the end of a pool waits for the hook.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to the hook. Without a hook it leads nowhere.
pub(super) struct Teller {
    hook: Option<DeathHook>,
    pool: PoolId,
    way: Mutex<Way>,
}

enum Way {
    /// No death has been told yet: there is no thread.
    New,
    Open(Sender<Death>, JoinHandle<()>),
    Closed,
}

impl Teller {
    pub(super) fn new(hook: Option<DeathHook>, pool: PoolId) -> Self {
        Self { hook, pool, way: Mutex::new(Way::New) }
    }

    /// Has the hook called with `death`, soon.
    pub(super) fn tell(&self, death: &Death) {
        let Some(hook) = &self.hook else { return };
        let mut way = lock(&self.way);
        if matches!(*way, Way::New) {
            match start(hook, self.pool) {
                Ok((deaths, thread)) => *way = Way::Open(deaths, thread),
                Err(error) => return tracing::error!("no thread to call the hook of deaths in: {error}"),
            }
        }
        if let Way::Open(deaths, _) = &*way
            && deaths.try_send(death.clone()).is_err()
        {
            tracing::warn!("the hook of deaths is {MOST_WAITING} deaths behind: it is not told of {death}");
        }
    }

    /// Tells no more, and waits, though not for ever, until the hook has heard what there was. Called by the hook itself, it
    /// does not wait.
    pub(super) fn finish(&self) {
        let way = std::mem::replace(&mut *lock(&self.way), Way::Closed);
        if let Way::Open(deaths, thread) = way {
            drop(deaths);
            join_within(vec![thread], PATIENCE);
        }
    }
}

fn start(hook: &DeathHook, pool: PoolId) -> io::Result<(Sender<Death>, JoinHandle<()>)> {
    let (deaths, told) = bounded::<Death>(MOST_WAITING);
    let hook = hook.clone();
    let call = move || {
        pool.enter();
        for death in told {
            // The panic was printed by the hook of panics. The next death is told all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&death)));
        }
    };
    let thread = thread::Builder::new().name("cofferdam-death".to_owned()).spawn(call)?;
    Ok((deaths, thread))
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("hook", &self.hook.is_some()).finish_non_exhaustive()
    }
}
