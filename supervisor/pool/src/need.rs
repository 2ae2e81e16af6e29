//! How much memory a pool needs, from its settings.

use super::settings::{Limits, Settings};
use crate::host::admission::Need;

/// The need of this many workers with these settings.
pub(super) fn need(settings: &Settings, workers: usize) -> Need {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let mut need = need_of(workers, settings.memory.bytes, &settings.limits);
    need.supervisor_bytes = need.supervisor_bytes.saturating_add(settings.layer_bytes);
    need
}

/// The need of this many workers, for reports such as `doctor`'s.
pub fn need_of(workers: u32, memory_bytes: u64, limits: &Limits) -> Need {
    let arenas = limits.input_bytes.saturating_add(limits.output_bytes);
    let mut need = Need::of(workers, memory_bytes, arenas);
    // A result passes through the supervisor. The copy of the result is committed memory. The memory in which the store holds the
    // result while the store commits is not.
    need.supervisor_bytes = need.supervisor_bytes.saturating_add(limits.output_bytes.saturating_mul(2));
    need
}
