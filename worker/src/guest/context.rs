//! The data of one instance's store: its job, its memory and its limits.

use std::sync::Arc;

use wasmtime::{Caller, Extern, Memory, ResourceLimiter};

use super::fault::GuestFault;
use super::input::JobInput;
use super::output::OutputBuffer;
use crate::limits::TABLE_ELEMENTS;

/// The data of one instance's store.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The guest's memory, exported or imported; none if the guest has none.
    pub(super) memory: Option<Memory>,
    /// None while the instance is prepared ahead of its job.
    pub(super) job: Option<(JobInput, OutputBuffer)>,
    /// Whether a `memory.grow` was refused at the limit.
    pub(super) grow_refused: bool,
    /// The name under which the module exports its memory.
    memory_name: Option<Arc<str>>,
    /// Bytes that the memory may grow to; none if the memory is the slab, which has its own limit.
    memory_limit: Option<usize>,
    table_elements: usize,
}

impl Context {
    /// For a module that exports its memory as `memory_name`.
    pub(super) fn new(memory_name: Option<Arc<str>>, memory_limit: Option<usize>) -> Self {
        Self { memory_name, memory_limit, ..Self::default() }
    }

    /// The job. An import that needs it fails while there is none.
    pub(super) fn job(&mut self) -> Result<&mut (JobInput, OutputBuffer), GuestFault> {
        self.job.as_mut().ok_or(GuestFault::NoJobYet)
    }
}

/// The guest's memory and its context, both borrowed at once. The memory of a guest without memory is empty.
pub(super) fn memory_and_context<'a>(caller: &'a mut Caller<'_, Context>) -> (&'a mut [u8], &'a mut Context) {
    // While the start function runs, the instance does not exist yet, so the memory is found through the caller.
    if caller.data().memory.is_none()
        && let Some(name) = caller.data().memory_name.clone()
        && let Some(Extern::Memory(memory)) = caller.get_export(&name)
    {
        caller.data_mut().memory = Some(memory);
    }
    match caller.data().memory {
        Some(memory) => memory.data_and_store_mut(caller),
        None => (&mut [], caller.data_mut()),
    }
}

impl ResourceLimiter for Context {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // For the slab, `memory_limit` is none: the slab itself refuses to grow above its limit, and `memory_grow_failed` records
        // that.
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
