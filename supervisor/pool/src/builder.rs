//! Describing a pool, and building it. All checks that need no process come first, then the processes.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_protocol::WASM_PAGE;
use cofferdam_protocol::fault::Fault;
use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};
use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_worker::state::StateReader;
use cofferdam_worker::{engine, module};

use super::artifact::{self, ArtifactOrigin, Source};
use super::death::Death;
use super::error::PoolError;
use super::need::need;
use super::pool::Pool;
use super::progress::Progress;
use super::quarantine::QuarantinePolicy;
use super::queue::{self, JobQueue};
use super::restart::RestartPolicy;
use super::settings::{Limits, Settings};
use super::size::Size;
use super::start::{self, Started};
use super::uncommitted::Uncommitted;
use crate::host::admission::Budget;
use crate::host::cgroup::Cgroup;
use cofferdam_base::size::Bytes;

/// Describes a pool. Made by [`Pool::builder`].
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

impl Pool {
    /// Starts to describe a pool that runs `module`, in binary or text form.
    pub fn builder(module: impl Into<Vec<u8>>) -> PoolBuilder {
        PoolBuilder::new(module.into())
    }
}

impl PoolBuilder {
    fn new(module: Vec<u8>) -> Self {
        let cache = artifact::default_cache_directory();
        let settings = Settings::default();
        Self { module, settings, spares: None, queue: 1024, initially: None, admission: true, cache }
    }

    /// The number of jobs that run at the same time, each on a worker of its own. Default 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// Asks for as many workers as fit into the memory that is available now, spares not counted: at most `most`, and at least
    /// `least` even if they do not fit.
    pub fn workers_within(self, least: usize, most: usize) -> Self {
        let budget = Budget::read(self.settings.cgroup.as_ref());
        let fits = |workers: &usize| budget.fits(&need(&self.settings, *workers)).is_ok();
        let workers = (least..=most).rev().find(fits).unwrap_or(least);
        self.workers(workers)
    }

    /// The number of additional workers that are kept committed, to take over at once when a worker dies. By default one if there
    /// is memory for it, and otherwise none.
    pub fn spares(mut self, spares: usize) -> Self {
        self.spares = Some(spares);
        self
    }

    /// The linear memory that each worker commits and a guest may grow to, in bytes: a multiple of 64 KiB, up to 4 GiB. Default
    /// 4 GiB.
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

    /// Whether to lock the memory, so that the kernel cannot swap it out. Default false.
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.settings.memory.lock = lock;
        self
    }

    /// How memory is made zero again after a job. Default [`ResetStrategy::Adaptive`].
    pub fn reset(mut self, strategy: ResetStrategy) -> Self {
        self.settings.memory.reset = strategy;
        self
    }

    /// What one job may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// The directory of the state that guests read. It must exist. By default there is no state, and every read finds nothing.
    pub fn state(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.state = Some(directory.into());
        self
    }

    /// The bytes that all layers together may take ([`Pool::layer`]). Default 0: no layer fits.
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

    /// How long the pool waits for the end of a worker after SIGKILL. A worker in uninterruptible sleep may take longer. Default
    /// 10 s.
    pub fn kill_timeout(mut self, timeout: Duration) -> Self {
        self.settings.kill_timeout = timeout;
        self
    }

    /// When a job that kills its workers is answered from memory.
    pub fn quarantine(mut self, policy: QuarantinePolicy) -> Self {
        self.settings.quarantine = policy;
        self
    }

    /// The number of workers, spares included, that [`PoolBuilder::build`] starts. [`Pool::grow`] starts the others. By default
    /// all are started.
    pub fn initially(mut self, workers: usize) -> Self {
        self.initially = Some(workers);
        self
    }

    /// The number of submitted jobs that may wait for a worker. Default 1024.
    pub fn queue(mut self, jobs: usize) -> Self {
        self.queue = jobs;
        self
    }

    /// Whether to check that enough memory is available before a process is started. Default true. Without the check the kernel
    /// decides, by refusing memory to a worker or by killing it.
    pub fn admission(mut self, check: bool) -> Self {
        self.admission = check;
        self
    }

    /// The directory where compiled modules are kept. With none, the module is compiled every time. Default [`default_cache_directory`].
    ///
    /// [`default_cache_directory`]: super::default_cache_directory
    pub fn cache(mut self, directory: Option<PathBuf>) -> Self {
        self.cache = directory;
        self
    }

    /// Makes workers die or lie on purpose, for tests.
    pub fn faults(mut self, faults: Vec<Fault>) -> Self {
        self.settings.faults = faults;
        self
    }

    /// Moves every worker into `cgroup` before it commits, so that its memory is charged there. By default workers stay in the
    /// supervisor's cgroup.
    pub fn cgroup(mut self, cgroup: Cgroup) -> Self {
        self.settings.cgroup = Some(cgroup);
        self
    }

    /// Calls `hook` after each [`Death`], once the process is gone. The pool's health counts the death before that. The hook has
    /// a thread of its own: the next worker does not wait for the hook, and the hook may drain the pool or drop it. A hook that
    /// panics is called again for the next death.
    pub fn on_death(mut self, hook: impl Fn(&Death) + Send + Sync + 'static) -> Self {
        self.settings.on_death = Some(Arc::new(hook));
        self
    }

    /// The profile: what the pool's results will depend on. This does not build the pool.
    ///
    /// # Errors
    /// [`PoolError::Module`] if the bytes are no module.
    pub fn profile(&self) -> Result<Profile, PoolError> {
        Ok(self.profile_of(&module::to_binary(&self.module)?))
    }

    /// Builds the pool. Returns once every worker has committed its memory and is ready.
    ///
    /// # Errors
    /// [`PoolError::NotInitialised`] in a program that has not called `init` first, and any [`PoolError`] about settings, module,
    /// memory, or start.
    pub fn build(self) -> Result<Pool, PoolError> {
        self.build_with(&mut |_| ControlFlow::Continue(()))
    }

    /// As [`PoolBuilder::build`], and calls `progress` about 20 times a second while workers commit.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`], and [`PoolError::Cancelled`] once `progress` breaks.
    pub fn build_with(mut self, progress: &mut Progress<'_>) -> Result<Pool, PoolError> {
        // This check comes first. If the program has not called `init`, a process that is started as a worker runs `main` again
        // and comes here, and would build another pool.
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
        let Started { dispatcher, slots, to_collect, origin } =
            start::slots(&settings, count, &source, &need, progress)?;
        let queue = Arc::new(JobQueue::new(self.queue));
        let threads = queue::start_threads(settings.workers, &queue, &to_collect, &dispatcher);
        Ok(Pool {
            profile,
            module_bytes: binary.len() as u64,
            artifact: origin,
            dispatcher,
            slots,
            size: Size::new(Arc::clone(&settings), self.admission),
            queue,
            threads: Mutex::new(threads),
            draining: Mutex::default(),
        })
    }

    /// Compiles the module into the cache, unless it is there already, without building the pool.
    ///
    /// # Errors
    /// [`PoolError::Module`] and [`PoolError::Artifact`], and [`PoolError::NotInitialised`].
    pub fn compile(&self) -> Result<ArtifactOrigin, PoolError> {
        cofferdam_worker::check_initialised()?;
        let binary = module::to_binary(&self.module)?;
        module::inspect(&binary, self.settings.memory.bytes)?;
        Ok(artifact::obtain(&source(&self.settings, self.cache.as_deref(), &binary))?.origin)
    }

    /// Builds an [`Uncommitted`] runner instead of a pool. A pool can be compared with this runner. The runner's guests read
    /// `state` in place of [`PoolBuilder::state`].
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
            return setting("a pool of 0 workers cannot run jobs: ask for at least one worker".to_owned());
        }
        if memory.bytes == 0 || memory.bytes > Bytes::gib(4).0 || !memory.bytes.is_multiple_of(WASM_PAGE) {
            return setting(format!(
                "a worker cannot have a memory of {} bytes: use a multiple of 64 KiB, up to 4 GiB",
                memory.bytes
            ));
        }
        if limits.input_bytes == 0 || limits.output_bytes == 0 {
            return setting(
                "a limit of 0 bytes for input or output allows no job: use at least one byte".to_owned(),
            );
        }
        // The guest ABI has 32-bit lengths, and the length of an input includes the four bytes of the height.
        if limits.input_bytes > Bytes::gib(2).0 || limits.output_bytes > Bytes::gib(4).0 {
            return setting(
                "the limit of input may be at most 2 GiB, and the limit of output at most 4 GiB".to_owned(),
            );
        }
        Ok(())
    }

    /// Decides the number of spares, and checks that enough memory is available.
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

/// What the artifact is compiled from.
fn source<'a>(settings: &'a Settings, cache: Option<&'a Path>, binary: &'a [u8]) -> Source<'a> {
    Source { binary, fuel: settings.limits.fuel.is_some(), cache, executable: &settings.executable }
}
