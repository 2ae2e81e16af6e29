//! Starting the workers of a pool: the artifact, the slots, and what a failed start means.

use std::sync::Arc;

use cofferdam_protocol::state::MAP_BYTES;
use cofferdam_worker::memory::addresses::{WORKER_ADDRESSES, limit};
use nix::sys::signal::Signal;

use super::PoolError;
use super::artifact::{self, ArtifactError, ArtifactOrigin, Source};
use super::builder::Progress;
use super::call::Desk;
use super::host::admission::{Budget, Need};
use super::layers::LayerArena;
use super::room::Room;
use super::settings::{Limits, Settings};
use super::slot::{Slots, StartFailure};
use cofferdam_base::addresses;
use cofferdam_base::size::Bytes;

/// Starts every slot. A cached artifact that workers refuse is thrown away and compiled again, once.
pub(super) fn slots(
    settings: &Arc<Settings>,
    count: usize,
    source: &Source<'_>,
    need: &Need,
    progress: &mut Progress<'_>,
) -> Result<(Arc<Desk>, Slots, ArtifactOrigin), PoolError> {
    let layers = LayerArena::create(settings.layer_bytes);
    let layers = Arc::new(layers.map_err(|error| PoolError::Start(format!("no arena for layers: {error}")))?);
    let room = Arc::new(Room::default());
    let mut start = || -> Result<_, StartError> {
        let artifact = artifact::obtain(source)?;
        // A desk of its own for every start: one that failed has closed its desk for good.
        let desk = Arc::new(Desk::new(Arc::clone(settings), Arc::clone(&layers), Arc::clone(&room)));
        match Slots::start(settings, count, artifact.file, &desk, progress) {
            Ok(slots) => Ok((desk, slots, artifact.origin)),
            Err(failure) => Err(StartError::Slots(failure, artifact.origin)),
        }
    };
    match start() {
        Err(StartError::Slots(StartFailure::ArtifactRefused(reason), ArtifactOrigin::Cached)) => {
            tracing::warn!("a cached artifact was refused ({reason}): compiling again");
            artifact::forget(source)?;
            start()
        }
        result => result,
    }
    .inspect(|_| hold_own(&room, settings))
    .map_err(|error| with_numbers(error.into(), settings, need))
}

/// Has the supervisor hold what it needs for a large result itself. Workers hold theirs by now, the layers among it.
fn hold_own(room: &Room, settings: &Settings) {
    if let Err(error) = room.commit(settings.limits.output_bytes) {
        tracing::warn!("memory for large results is not held, but looked for when it is needed: {error}");
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

/// Refuses to start in a process whose children vanish unseen: a worker's death could not be told, and its process id
/// might belong to another process by the time that it is killed.
pub(super) fn check_process() -> Result<(), PoolError> {
    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    match ignored {
        Some(mask) if mask >> (Signal::SIGCHLD as i32 - 1) & 1 == 1 => Err(PoolError::Setting(
            "this process ignores SIGCHLD, so the deaths of workers could not be seen: leave it at its default".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Refuses to start where workers may not reserve the addresses that they map: whatever they met first would fail, and
/// mostly without saying why.
pub(super) fn check_addresses(settings: &Settings) -> Result<(), PoolError> {
    let Some(limit) = limit() else { return Ok(()) };
    let Limits { input_bytes, output_bytes, .. } = settings.limits;
    let state = if settings.state.is_some() { MAP_BYTES as u64 } else { 0 };
    let need = [WORKER_ADDRESSES, input_bytes, output_bytes, settings.layer_bytes, state];
    let need = need.into_iter().fold(0, u64::saturating_add);
    if need <= limit {
        return Ok(());
    }
    let what = if state == 0 { "a worker" } else { "a worker that reads a store" };
    Err(PoolError::NotCommitted(addresses::too_low(what, need, limit)))
}

/// Adds, to the news that memory was not committed, how much was needed and how much there is.
fn with_numbers(error: PoolError, settings: &Settings, need: &Need) -> PoolError {
    let PoolError::NotCommitted(detail) = error else { return error };
    let budget = Budget::read(settings.cgroup.as_ref());
    let numbers = match budget.fits(need) {
        Err(error) => error.to_string(),
        Ok(()) => {
            format!("{need}, and {} are available now: others took them then", Bytes(budget.available()))
        }
    };
    PoolError::NotCommitted(format!("{detail}; {numbers}"))
}
