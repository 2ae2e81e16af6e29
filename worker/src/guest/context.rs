//! What one instance may see of its job, and what it has given so far.

use std::sync::Arc;

use cofferdam_protocol::arena::{InputView, OutputSink, Span};
use cofferdam_protocol::message::{Call, MAX_LOG_BYTES};
use cofferdam_protocol::writes;
use wasmtime::{Memory, ResourceLimiter};

use super::{GuestFault, flush};
use crate::engine::TABLE_ELEMENTS;
use crate::reads::Reads;
use crate::state::StateError;

/// What a job brings: its input, and the state that it may read.
#[derive(Debug)]
pub struct JobInput {
    /// Height that the guest is told.
    pub(super) height: u32,
    /// Where the input lies.
    arena: Arc<InputView>,
    /// The input in it; checked to be inside.
    span: Span,
    /// The state.
    state: Reads,
    /// Newest height that reads may see; none if they see nothing.
    reads_at: Option<u32>,
    /// Whether `__flush` writes (a block) or does nothing (a view).
    pub(super) flushes: bool,
}

impl JobInput {
    /// What `call` at `height` is given: a block reads the state before it, a view the state at its height.
    pub fn new(call: &Call, height: u32, arena: Arc<InputView>, span: Span, state: Reads) -> Self {
        let (reads_at, flushes) = (Reads::newest(call, height), matches!(call, Call::Block));
        Self { height, arena, span, state, reads_at, flushes }
    }

    /// The bytes of the input.
    pub(super) fn bytes(&self) -> &[u8] {
        // The span was checked against the arena when the job arrived.
        self.arena.read(self.span).unwrap_or_default()
    }

    /// Bytes of the newest value of `key` that the job may see.
    pub(super) fn length(&mut self, key: &[u8]) -> Result<Option<usize>, StateError> {
        self.reads_at.map_or(Ok(None), |height| self.state.length(key, height))
    }

    /// The newest value of `key` that the job may see.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, StateError> {
        self.reads_at.map_or(Ok(None), |height| self.state.get(key, height))
    }
}

/// The output arena, and how much of it the job has filled.
///
/// Output grows from the start, up to the limit; the log has the [`MAX_LOG_BYTES`] behind the limit.
#[derive(Debug)]
pub struct Output {
    sink: OutputSink,
    limit: u64,
    used: u64,
    log_used: u64,
    log_cut: bool,
    flushed: bool,
}

impl Output {
    /// An empty output of at most `limit` bytes.
    pub fn new(sink: OutputSink, limit: u64) -> Self {
        Self { sink, limit, used: 0, log_used: 0, log_cut: false, flushed: false }
    }

    /// Forgets what an earlier job left.
    pub fn clear(&mut self) {
        (self.used, self.log_used) = (0, 0);
        (self.log_cut, self.flushed) = (false, false);
    }

    /// Where the output is.
    pub fn span(&self) -> Span {
        Span { offset: 0, length: self.used }
    }

    /// Where the log is.
    pub fn log_span(&self) -> Span {
        Span { offset: self.limit, length: self.log_used }
    }

    /// Whether the guest has flushed, be it nothing.
    pub(super) fn flushed(&self) -> bool {
        self.flushed
    }

    /// Adds the pairs of a `KeyValueFlush`.
    pub(super) fn add_pairs(&mut self, message: &[u8]) -> Result<(), GuestFault> {
        let added = flush::measure(message)?;
        self.flushed = true;
        let mut target = self.claim(added)?;
        for field in flush::fields(message) {
            // `claim` made room for exactly these fields, and a guest's field is below 4 GiB.
            target = writes::put_field(target, field)
                .ok_or_else(|| GuestFault::BadFlush("a field of 4 GiB or more".to_owned()))?;
        }
        Ok(())
    }

    /// Adds the result of a view.
    pub(super) fn add_result(&mut self, result: &[u8]) -> Result<(), GuestFault> {
        self.claim(result.len() as u64)?.copy_from_slice(result);
        Ok(())
    }

    /// Adds a line to the log; the first line that does not fit is replaced by a mark, and what follows is dropped.
    pub(super) fn add_log(&mut self, line: &[u8]) {
        const CUT: &[u8] = b"[log cut here]";
        if self.log_cut {
            return;
        }
        self.log_cut = self.log_used + (line.len() + CUT.len() + 2) as u64 > MAX_LOG_BYTES;
        let text = if self.log_cut { CUT } else { line };
        let span = Span { offset: self.limit + self.log_used, length: text.len() as u64 + 1 };
        if let Ok([target @ .., end]) = self.sink.slice_mut(span) {
            target.copy_from_slice(text);
            *end = b'\n';
            self.log_used += span.length;
        }
    }

    fn claim(&mut self, added: u64) -> Result<&mut [u8], GuestFault> {
        let too_large =
            GuestFault::OutputTooLarge { bytes: self.used.saturating_add(added), limit: self.limit };
        if self.used.saturating_add(added) > self.limit {
            return Err(too_large);
        }
        let span = Span { offset: self.used, length: added };
        self.used += added;
        self.sink.slice_mut(span).map_err(|_| too_large)
    }
}

/// The data of one instance's store.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The guest's memory: exported, or imported from us; none if it has none.
    pub(super) memory: Option<Memory>,
    /// None while the instance is prepared ahead of its job.
    pub(super) job: Option<(JobInput, Output)>,
    /// Whether a `memory.grow` was refused at the limit.
    pub(super) grow_refused: bool,
    /// The name under which the module exports its memory.
    pub(super) memory_name: Option<Arc<str>>,
    /// Bytes that the memory may grow to, where no slab says so.
    memory_limit: Option<usize>,
    table_elements: usize,
}

impl Context {
    /// For a module that exports its memory as `memory_name`.
    pub(super) fn new(memory_name: Option<Arc<str>>, memory_limit: Option<usize>) -> Self {
        Self { memory_name, memory_limit, ..Self::default() }
    }

    /// The job, which an import may only ask for once there is one.
    pub(super) fn job(&mut self) -> Result<&mut (JobInput, Output), GuestFault> {
        self.job.as_mut().ok_or(GuestFault::NoJobYet)
    }
}

impl ResourceLimiter for Context {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A slab decides by itself, exactly at the limit.
        let granted = self.memory_limit.is_none_or(|limit| desired <= limit);
        self.grow_refused |= !granted;
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.grow_refused = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        let granted = total <= TABLE_ELEMENTS;
        if granted {
            self.table_elements = total;
        }
        Ok(granted)
    }
}
