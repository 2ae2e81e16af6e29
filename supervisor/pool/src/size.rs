//! Pools that are not started whole: growing by a worker at a time, into memory that somebody else gives up.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::PoolError;
use super::builder::need;
use super::host::admission::Budget;
use super::settings::{Limits, Settings};
use super::slot::Slots;

/// How large a pool is meant to be.
#[derive(Debug)]
pub(super) struct Size {
    settings: Arc<Settings>,
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

    /// Starts one worker more, unless all are there.
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
