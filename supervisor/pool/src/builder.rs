//! Describing a pool, and building it: every check that needs no process first, then the processes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_protocol::WASM_PAGE;
use cofferdam_protocol::fault::Fault;
use cofferdam_protocol::message::{CommitStrategy, MemoryPlan, ResetStrategy};
use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_worker::state::StateReader;
use cofferdam_worker::{engine, module};
use crossbeam_channel::bounded;

use super::artifact::{self, ArtifactOrigin, Source};
use super::death::Death;
use super::host::admission::{Budget, Need};
use super::host::cgroup::Cgroup;
use super::quarantine::QuarantinePolicy;
use super::restart::RestartPolicy;
use super::settings::{Limits, Settings};
use super::size::Size;
use super::uncommitted::Uncommitted;
use super::{Pool, PoolError, dispatch, start};
use cofferdam_base::size::Bytes;

/// How far the workers are while a pool starts, in bytes over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartProgress {
    /// Bytes committed so far.
    pub committed_bytes: u64,
    /// Bytes to commit.
    pub total_bytes: u64,
}

/// Hears how far a start is, and says whether to go on.
pub type Progress<'a> = dyn FnMut(StartProgress) -> ControlFlow<()> + 'a;

/// Describes a pool; see [`Pool::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder {
    module: Vec<u8>,
    settings: Settings,
    spares: Option<usize>,
    queue: usize,
    initially: Option<usize>,
    admission: bool,
    cache: Option<PathBuf>,
}

impl PoolBuilder {
    pub(super) fn new(module: Vec<u8>) -> Self {
        let memory = MemoryPlan {
            bytes: Bytes::gib(4).0,
            strategy: CommitStrategy::default(),
            huge_pages: true,
            lock: false,
            reset: ResetStrategy::default(),
        };
        let settings = Settings {
            memory,
            workers: 1,
            spares: 0,
            limits: Limits::default(),
            state: None,
            layer_bytes: 0,
            restart: RestartPolicy::default(),
            start_timeout: Duration::from_secs(120),
            kill_patience: Duration::from_secs(10),
            quarantine: QuarantinePolicy::default(),
            executable: PathBuf::from("/proc/self/exe"),
            faults: Vec::new(),
            on_death: None,
            cgroup: None,
        };
        let cache = artifact::default_cache_directory();
        Self { module, settings, spares: None, queue: 1024, initially: None, admission: true, cache }
    }

    #[cfg(test)]
    pub(super) fn into_settings(self) -> Settings {
        self.settings
    }

    /// How many jobs run at the same time, each on a worker of its own. Default 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// As many workers as there is memory for now, without spares, from `least` to `most`; `least` if there is not even enough
    /// for those.
    pub fn workers_within(self, least: usize, most: usize) -> Self {
        let budget = Budget::read(self.settings.cgroup.as_ref());
        let fits = |workers: &usize| budget.fits(&need(&self.settings, *workers)).is_ok();
        let workers = (least..=most).rev().find(fits).unwrap_or(least);
        self.workers(workers)
    }

    /// How many workers more are kept committed, to take over at once when one dies. By default one, if there is
    /// memory for it, or else none.
    pub fn spares(mut self, spares: usize) -> Self {
        self.spares = Some(spares);
        self
    }

    /// Bytes of linear memory that each worker commits and a guest may grow to: a multiple of 64 KiB, up to 4 GiB,
    /// which is the default.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.settings.memory.bytes = bytes;
        self
    }

    /// How memory is committed. Default [`CommitStrategy::Populate`].
    pub fn commit(mut self, strategy: CommitStrategy) -> Self {
        self.settings.memory.strategy = strategy;
        self
    }

    /// Whether to ask the host for huge pages. Default true.
    pub fn huge_pages(mut self, huge: bool) -> Self {
        self.settings.memory.huge_pages = huge;
        self
    }

    /// Whether to lock the memory, so that it cannot be swapped out. Default false.
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.settings.memory.lock = lock;
        self
    }

    /// How memory is made pristine again after a job. Default [`ResetStrategy::Adaptive`].
    pub fn reset(mut self, strategy: ResetStrategy) -> Self {
        self.settings.memory.reset = strategy;
        self
    }

    /// What one job may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Directory of the state that guests read, which must exist: see [`cofferdam_store`]. By default there is none, and
    /// every read finds nothing.
    pub fn state(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.state = Some(directory.into());
        self
    }

    /// Bytes that layers may take at a time ([`Pool::layer`]). Default 0: none fits.
    pub fn layer_bytes(mut self, bytes: u64) -> Self {
        self.settings.layer_bytes = bytes;
        self
    }

    /// How workers that die are replaced.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.settings.restart = policy;
        self
    }

    /// How long a worker may take to get ready. Default 120 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.settings.start_timeout = timeout;
        self
    }

    /// How long a worker may live on after SIGKILL before the pool waits for it no longer, as one in uninterruptible sleep
    /// may. Default 10 s.
    pub fn kill_patience(mut self, patience: Duration) -> Self {
        self.settings.kill_patience = patience;
        self
    }

    /// When a job that ends its workers is answered from memory.
    pub fn quarantine(mut self, policy: QuarantinePolicy) -> Self {
        self.settings.quarantine = policy;
        self
    }

    /// How many of the workers, spares among them, are started by [`PoolBuilder::build`]; the rest follow by
    /// [`Pool::grow`]. By default all are.
    pub fn initially(mut self, workers: usize) -> Self {
        self.initially = Some(workers);
        self
    }

    /// How many submitted jobs may wait. Default 1024.
    pub fn queue(mut self, jobs: usize) -> Self {
        self.queue = jobs;
        self
    }

    /// Whether to check, before a process is started, that the memory is there. Default true; without it the kernel
    /// decides, by refusing or killing a worker.
    pub fn admission(mut self, check: bool) -> Self {
        self.admission = check;
        self
    }

    /// Where compiled modules are kept; none to compile every time. Default [`default_cache_directory`].
    ///
    /// [`default_cache_directory`]: super::default_cache_directory
    pub fn cache(mut self, directory: Option<PathBuf>) -> Self {
        self.cache = directory;
        self
    }

    /// Plants faults, for tests of what happens when workers die or lie.
    pub fn faults(mut self, faults: Vec<Fault>) -> Self {
        self.settings.faults = faults;
        self
    }

    /// Moves every worker into `cgroup` before it commits, so that its memory is charged there. By default workers live
    /// where the supervisor does.
    pub fn cgroup(mut self, cgroup: Cgroup) -> Self {
        self.settings.cgroup = Some(cgroup);
        self
    }

    /// Has `hook` called after each death that nobody asked for: once the process is gone, and so some time after the pool's
    /// health counts it. The hook has a thread of its own, so a slot's next worker does not wait for it, and it may drain the
    /// pool, or drop it. A hook that panics is called again for the next death.
    pub fn on_death(mut self, hook: impl Fn(&Death) + Send + Sync + 'static) -> Self {
        self.settings.on_death = Some(Arc::new(hook));
        self
    }

    /// What results will depend on, without building the pool.
    ///
    /// # Errors
    /// [`PoolError::Module`] if the module is no module.
    pub fn profile(&self) -> Result<Profile, PoolError> {
        Ok(self.profile_of(&module::to_binary(&self.module)?))
    }

    /// Builds the pool: returns once every worker has committed its memory and is ready.
    ///
    /// # Errors
    /// [`PoolError::NotInitialised`] in a program that has not called [`init`](cofferdam_worker::init) first; any [`PoolError`] about
    /// settings, module, memory, or start.
    pub fn build(self) -> Result<Pool, PoolError> {
        self.build_with(&mut |_| ControlFlow::Continue(()))
    }

    /// As [`PoolBuilder::build`], and calls `progress` some times a second while workers commit.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`], and [`PoolError::Cancelled`] once `progress` says to break off.
    pub fn build_with(mut self, progress: &mut Progress<'_>) -> Result<Pool, PoolError> {
        // First of all: a program that is no worker when it is started again would build a pool again.
        cofferdam_worker::check_initialised()?;
        self.check_settings()?;
        start::check_process()?;
        start::check_addresses(&self.settings)?;
        let binary = module::to_binary(&self.module)?;
        module::inspect(&binary, self.settings.memory.bytes)?;
        self.settings.spares = self.admit()?;
        let profile = self.profile_of(&binary);
        let settings = Arc::new(self.settings);
        let source = source(&settings, self.cache.as_deref(), &binary);
        let count = self.initially.unwrap_or(usize::MAX).clamp(1, settings.workers + settings.spares);
        let need = need(&settings, count);
        let (desk, slots, origin) = start::slots(&settings, count, &source, &need, progress)?;
        let (queue, queued) = bounded(self.queue);
        let (followers, followed) = dispatch::Followers::new();
        let dispatchers = dispatch::dispatchers(settings.workers, &queued, &followed, &desk);
        Ok(Pool {
            profile,
            module_bytes: binary.len() as u64,
            artifact: origin,
            desk,
            slots,
            size: Size::new(Arc::clone(&settings), self.admission),
            queue: Mutex::new(Some(queue)),
            followers,
            dispatchers: Mutex::new(dispatchers),
            draining: Mutex::default(),
        })
    }

    /// Has the module compiled and kept in the cache, if it is not there yet, without building the pool.
    ///
    /// # Errors
    /// [`PoolError::Module`] and [`PoolError::Artifact`], and [`PoolError::NotInitialised`].
    pub fn compile(&self) -> Result<ArtifactOrigin, PoolError> {
        cofferdam_worker::check_initialised()?;
        let binary = module::to_binary(&self.module)?;
        module::inspect(&binary, self.settings.memory.bytes)?;
        Ok(artifact::obtain(&source(&self.settings, self.cache.as_deref(), &binary))?.origin)
    }

    /// Builds, instead of a pool, what it is compared with: see [`Uncommitted`]. Its guests read `state`, in place of
    /// [`PoolBuilder::state`]: see [`cofferdam_store::Store::reader`].
    ///
    /// # Errors
    /// Any [`PoolError`] about settings and module.
    pub fn build_uncommitted(self, state: Option<StateReader>) -> Result<Uncommitted, PoolError> {
        cofferdam_worker::check_initialised()?;
        self.check_settings()?;
        let binary = module::to_binary(&self.module)?;
        module::inspect(&binary, self.settings.memory.bytes)?;
        let artifact = artifact::obtain(&source(&self.settings, self.cache.as_deref(), &binary))?;
        Uncommitted::new(self.profile_of(&binary), &self.settings, artifact.file, state)
    }

    fn profile_of(&self, binary: &[u8]) -> Profile {
        Profile {
            module: Hash::of(binary),
            memory_bytes: self.settings.memory.bytes,
            fuel: self.settings.limits.fuel,
            output_bytes: self.settings.limits.output_bytes,
            engine: engine::description(),
        }
    }

    fn check_settings(&self) -> Result<(), PoolError> {
        let Settings { memory, workers, limits, .. } = &self.settings;
        let setting = |text: String| Err(PoolError::Setting(text));
        if *workers == 0 {
            return setting("a pool needs at least one worker".to_owned());
        }
        if memory.bytes == 0 || memory.bytes > Bytes::gib(4).0 || !memory.bytes.is_multiple_of(WASM_PAGE) {
            return setting(format!(
                "a memory of {} bytes is not possible: it must be a multiple of 64 KiB, up to 4 GiB",
                memory.bytes
            ));
        }
        if limits.input_bytes == 0 || limits.output_bytes == 0 {
            return setting("the limits of input and output must be at least one byte".to_owned());
        }
        // Lengths cross the guest ABI as 32-bit numbers, the height's four bytes included.
        if limits.input_bytes > Bytes::gib(2).0 || limits.output_bytes > Bytes::gib(4).0 {
            return setting("input is limited to 2 GiB and output to 4 GiB".to_owned());
        }
        Ok(())
    }

    /// Checks that the memory is there, and decides on the number of spares.
    fn admit(&self) -> Result<usize, PoolError> {
        let need = |workers| need(&self.settings, workers);
        let budget = Budget::read(self.settings.cgroup.as_ref());
        let workers = self.settings.workers;
        let spares = match self.spares {
            Some(spares) => spares,
            None => usize::from(budget.fits(&need(workers + 1)).is_ok()),
        };
        if self.admission {
            budget.fits(&need(self.initially.unwrap_or(usize::MAX).clamp(1, workers + spares)))?;
        }
        Ok(spares)
    }
}

/// What the pool's module is compiled from.
fn source<'a>(settings: &'a Settings, cache: Option<&'a Path>, binary: &'a [u8]) -> Source<'a> {
    Source { binary, fuel: settings.limits.fuel.is_some(), cache, executable: &settings.executable }
}

/// What so many workers with these settings need.
pub(super) fn need(settings: &Settings, workers: usize) -> Need {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let mut need = need_of(workers, settings.memory.bytes, &settings.limits);
    need.supervisor_bytes = need.supervisor_bytes.saturating_add(settings.layer_bytes);
    need
}

/// What workers need, for reports such as `doctor`'s.
pub fn need_of(workers: u32, memory_bytes: u64, limits: &Limits) -> Need {
    let arenas = limits.input_bytes.saturating_add(limits.output_bytes);
    let mut need = Need::of(workers, memory_bytes, arenas);
    // A result passes through the supervisor: its copy, which is committed, and what the store holds of it while it commits,
    // which is not.
    need.supervisor_bytes = need.supervisor_bytes.saturating_add(limits.output_bytes.saturating_mul(2));
    need
}
