//! What all slots of a pool share.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::unistd::Pid;

use super::death_hook::DeathHookThread;
use super::dispatcher::Dispatcher;
use super::exit_notice;
use super::oom::OomLedger;
use super::register::Register;
use super::settings::Settings;
use cofferdam_base::sync::lock;

/// What all slots of a pool share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Arc<Settings>,
    pub(super) artifact: OwnedFd,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) register: Register,
    pub(super) death_hook: DeathHookThread,
    pub(super) ledger: OomLedger,
}

impl Common {
    pub(super) fn new(settings: Arc<Settings>, artifact: OwnedFd, dispatcher: Arc<Dispatcher>) -> Self {
        let ledger = OomLedger::new(settings.cgroup.clone());
        let death_hook = DeathHookThread::new(settings.on_death.clone(), dispatcher.id);
        Self { settings, artifact, dispatcher, register: Register::new(), death_hook, ledger }
    }

    /// Does two things once a second, until the other end of `stopped` is dropped. It reads the kernel's counts of out-of-memory
    /// kills. And it has jobs collected whose tickets nobody polls.
    pub(super) fn watch(&self, stopped: &Receiver<()>) {
        // Disconnected: the pool is stopping. Nothing is ever sent.
        while stopped.recv_timeout(OomLedger::SAMPLING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            self.ledger.sample(&|| self.untouched_workers());
            self.dispatcher.collect_neglected();
        }
    }

    /// The workers that nobody has killed at this moment.
    fn untouched_workers(&self) -> Vec<Pid> {
        let slots = self.register.all();
        let workers = slots.iter().filter_map(|slot| lock(&slot.view).worker.clone());
        workers.map(|worker| worker.pid()).filter(|pid| exit_notice::is_untouched(*pid)).collect()
    }
}
