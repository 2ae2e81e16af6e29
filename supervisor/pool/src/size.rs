//! The size of a pool, and pools that start with fewer workers and grow by one worker at a time.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::error::PoolError;
use super::need::need;
use super::settings::{Limits, Settings};
use super::slots::Slots;
use crate::host::admission::Budget;

/// The size that a pool is meant to have.
#[derive(Debug)]
pub(super) struct Size {
    settings: Arc<Settings>,
    /// Whether to check that enough memory is available before a worker is started.
    admission: bool,
}

impl Size {
    pub(super) fn new(settings: Arc<Settings>, admission: bool) -> Self {
        Self { settings, admission }
    }

    pub(super) fn workers(&self) -> usize {
        self.settings.workers
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    pub(super) fn full(&self) -> usize {
        self.settings.workers + self.settings.spares
    }

    /// Starts one more worker, unless the pool is complete. Returns whether one was started.
    pub(super) fn grow(&self, slots: &Slots) -> Result<bool, PoolError> {
        if !slots.are_open() {
            return Err(PoolError::Draining);
        }
        if slots.all().len() >= self.full() {
            return Ok(false);
        }
        if self.admission {
            Budget::read(self.settings.cgroup.as_ref()).fits(&need(&self.settings, 1))?;
        }
        Ok(slots.add(1, self.full(), &mut |_| ControlFlow::Continue(()))?)
    }
}
