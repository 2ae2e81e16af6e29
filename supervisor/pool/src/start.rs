//! Starting the workers of a pool: checks of this process, the artifact, the slots, and the meaning of a failed start.

use std::sync::Arc;

use cofferdam_protocol::state::MAP_BYTES;
use cofferdam_worker::memory::address_space::{WORKER_ADDRESS_BYTES, limit};
use crossbeam_channel::Receiver;
use nix::sys::signal::Signal;

use super::artifact::{self, ArtifactError, ArtifactOrigin, Source};
use super::dispatcher::Dispatcher;
use super::error::PoolError;
use super::layers::LayerArena;
use super::progress::Progress;
use super::result_buffer::ResultBuffer;
use super::settings::{Limits, Settings};
use super::slot::StartFailure;
use super::slots::Slots;
use super::started::StartedJob;
use crate::host::admission::{Budget, Need};
use crate::host::proc_file;
use cofferdam_base::address_limit;
use cofferdam_base::size::Bytes;

/// A pool that has started.
pub(super) struct Started {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) slots: Slots,
    /// The jobs that the pool's collector threads have to collect.
    pub(super) to_collect: Receiver<StartedJob>,
    pub(super) origin: ArtifactOrigin,
}

/// Starts every slot. A cached artifact that workers refuse is removed and compiled again, once.
pub(super) fn slots(
    settings: &Arc<Settings>,
    count: usize,
    source: &Source<'_>,
    need: &Need,
    progress: &mut Progress<'_>,
) -> Result<Started, PoolError> {
    let layers = LayerArena::create(settings.layer_bytes);
    let layers = layers.map_err(|error| PoolError::Start(format!("the arena of layers: {error}")))?;
    let (layers, buffer) = (Arc::new(layers), Arc::new(ResultBuffer::default()));
    let mut start = || -> Result<_, StartError> {
        let artifact = artifact::obtain(source)?;
        // A new dispatcher for every start: a start that failed has closed its dispatcher for good.
        let (dispatcher, to_collect) =
            Dispatcher::new(Arc::clone(settings), Arc::clone(&layers), Arc::clone(&buffer));
        let (dispatcher, origin) = (Arc::new(dispatcher), artifact.origin);
        match Slots::start(settings, count, artifact.file, &dispatcher, progress) {
            Ok(slots) => Ok(Started { dispatcher, slots, to_collect, origin }),
            Err(failure) => Err(StartError::Slots(failure, origin)),
        }
    };
    match start() {
        Err(StartError::Slots(StartFailure::ArtifactRefused(reason), ArtifactOrigin::Cached)) => {
            tracing::warn!("the workers refused the cached artifact ({reason}): compiling it again");
            artifact::forget(source)?;
            start()
        }
        result => result,
    }
    .inspect(|_| commit_result_buffer(&buffer, settings))
    .map_err(|error| with_numbers(error.into(), settings, need))
}

/// Commits the supervisor's buffer for a large result. The workers have committed their memory by now, the layers included.
fn commit_result_buffer(buffer: &ResultBuffer, settings: &Settings) {
    if let Err(error) = buffer.commit(settings.limits.output_bytes) {
        tracing::warn!(
            "the buffer for large results cannot be committed, so each result allocates its own: {error}"
        );
    }
}

/// Why one start failed.
enum StartError {
    Artifact(ArtifactError),
    Slots(StartFailure, ArtifactOrigin),
}

impl From<ArtifactError> for StartError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(error)
    }
}

impl From<StartError> for PoolError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Artifact(error) => error.into(),
            StartError::Slots(failure, _) => failure.into(),
        }
    }
}

/// Refuses to start in a process that does not see its children end: the pool would not see the death of a worker, and the
/// worker's process id might belong to another process when the pool kills it.
pub(super) fn check_process() -> Result<(), PoolError> {
    let status = std::fs::read_to_string("/proc/self/status");
    match status.ok().and_then(|status| proc_file::has_signal(&status, "SigIgn", Signal::SIGCHLD)) {
        Some(true) => Err(PoolError::Setting(
            "this process ignores SIGCHLD, so the pool cannot see the deaths of its workers: leave SIGCHLD at its default"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Refuses to start where workers may not reserve the addresses that they map. Their first large mapping would fail, mostly
/// without saying why.
pub(super) fn check_addresses(settings: &Settings) -> Result<(), PoolError> {
    let Some(limit) = limit() else { return Ok(()) };
    let Limits { input_bytes, output_bytes, .. } = settings.limits;
    let state = if settings.state.is_some() { MAP_BYTES as u64 } else { 0 };
    let need = [WORKER_ADDRESS_BYTES, input_bytes, output_bytes, settings.layer_bytes, state];
    let need = need.into_iter().fold(0, u64::saturating_add);
    if need <= limit {
        return Ok(());
    }
    let what = if state == 0 { "a worker" } else { "a worker that reads a store" };
    Err(PoolError::NotCommitted(address_limit::too_low(what, need, limit)))
}

/// Adds the need and the available memory to an error that says that memory was not committed.
fn with_numbers(error: PoolError, settings: &Settings, need: &Need) -> PoolError {
    let PoolError::NotCommitted(detail) = error else { return error };
    let budget = Budget::read(settings.cgroup.as_ref());
    let numbers = match budget.fits(need) {
        Err(error) => error.to_string(),
        Ok(()) => {
            format!(
                "{need}, and {} are available now: other processes had the memory at that moment",
                Bytes(budget.available())
            )
        }
    };
    PoolError::NotCommitted(format!("{detail}; {numbers}"))
}
