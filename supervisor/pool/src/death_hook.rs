//! Calls the embedding program's death hook, in a thread of its own. The hook may run for long, panic, drain the pool or drop the
//! pool. No slot waits for the hook.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::deadline::after;
use super::death::Death;
use super::settings::DeathHook;
use super::threads::{PoolId, PoolThread, join_by};
use cofferdam_base::sync::lock;

/// The number of deaths that can wait for a slow hook. Further deaths are only logged.
const MAX_WAITING: usize = 1024;

/// How long a pool that stops waits for the hook.
const HOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The thread that calls the hook, if there is a hook.
pub(super) struct DeathHookThread {
    hook: Option<DeathHook>,
    pool: PoolId,
    state: Mutex<State>,
}

enum State {
    /// The hook was not called yet, so there is no thread.
    New,
    Open(Sender<Death>, PoolThread),
    Closed,
}

impl DeathHookThread {
    pub(super) fn new(hook: Option<DeathHook>, pool: PoolId) -> Self {
        Self { hook, pool, state: Mutex::new(State::New) }
    }

    /// Calls the hook with `death`, soon.
    pub(super) fn tell(&self, death: &Death) {
        let Some(hook) = &self.hook else { return };
        let mut state = lock(&self.state);
        if matches!(*state, State::New) {
            match start(hook, self.pool) {
                Ok((deaths, thread)) => *state = State::Open(deaths, thread),
                Err(error) => {
                    return tracing::error!(
                        "the thread for the death hook cannot be started, so the hook is not called: {error}"
                    );
                }
            }
        }
        if let State::Open(deaths, _) = &*state
            && deaths.try_send(death.clone()).is_err()
        {
            tracing::warn!(
                "the death hook is {MAX_WAITING} deaths behind, so it is not called for this one: {death}"
            );
        }
    }

    /// Calls the hook no more for new deaths, and waits for a limited time until the hook has been called for the old ones. Does not
    /// wait when the hook itself calls this.
    pub(super) fn finish(&self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Closed);
        if let State::Open(deaths, thread) = state {
            drop(deaths);
            join_by(vec![thread], after(HOOK_TIMEOUT));
        }
    }
}

fn start(hook: &DeathHook, pool: PoolId) -> io::Result<(Sender<Death>, PoolThread)> {
    let (deaths, deaths_to_tell) = bounded::<Death>(MAX_WAITING);
    let hook = hook.clone();
    let call = move || {
        pool.enter();
        for death in deaths_to_tell {
            // The panic hook has printed a panic. The next death is reported all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&death)));
        }
    };
    let thread = PoolThread::spawn("cofferdam-death".to_owned(), call)?;
    Ok((deaths, thread))
}

impl fmt::Debug for DeathHookThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeathHookThread").field("hook", &self.hook.is_some()).finish_non_exhaustive()
    }
}
