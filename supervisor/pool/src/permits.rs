//! Permits: how many jobs may run at the same time.

use std::time::Instant;

use super::primitives::{Arc, Condvar, Mutex, has_passed, lock, wait};

/// A counting semaphore. It can be closed, and a thread can wait until every permit is free.
#[derive(Debug)]
pub(super) struct Permits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: usize,
    state: Mutex<State>,
    /// A permit was returned, or the semaphore was closed.
    released: Condvar,
    /// Every permit was returned.
    all_released: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    closed: bool,
    /// The numbers of threads that wait for one permit, and for all permits. If no thread waits, nobody is notified, because a
    /// notification costs a system call.
    waiting_for_one: usize,
    waiting_for_all: usize,
}

impl Permits {
    pub(super) fn new(total: usize) -> Self {
        Self(Arc::new(Shared {
            total,
            state: Mutex::new(State { free: total, closed: false, waiting_for_one: 0, waiting_for_all: 0 }),
            released: Condvar::new(),
            all_released: Condvar::new(),
        }))
    }

    /// Takes a permit if one is free.
    pub(super) fn try_acquire(&self) -> Option<Permit> {
        let mut state = lock(&self.0.state);
        state.free = state.free.checked_sub(1)?;
        Some(Permit(Arc::clone(&self.0)))
    }

    /// Takes a permit, and waits while none is free. None if none is free and the semaphore is closed.
    pub(super) fn acquire(&self) -> Option<Permit> {
        let mut state = lock(&self.0.state);
        loop {
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Some(Permit(Arc::clone(&self.0)));
            }
            if state.closed {
                return None;
            }
            state.waiting_for_one += 1;
            state = wait(&self.0.released, state, None);
            state.waiting_for_one -= 1;
        }
    }

    /// Waits until every permit is free, or until `deadline`. Returns whether every permit is free. Takes no permit: a thread
    /// that was let in just before must get one, and another thread may also be waiting until every permit is free.
    pub(super) fn wait_until_all_free(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.0.state);
        while state.free < self.0.total {
            if has_passed(deadline) {
                return false;
            }
            state.waiting_for_all += 1;
            state = wait(&self.0.all_released, state, deadline);
            state.waiting_for_all -= 1;
        }
        true
    }

    /// Lets nobody wait for a permit from now on.
    pub(super) fn close(&self) {
        lock(&self.0.state).closed = true;
        self.0.released.notify_all();
    }

    /// Undoes [`Permits::close`].
    pub(super) fn reopen(&self) {
        lock(&self.0.state).closed = false;
    }
}

/// The right to have one job run. Returned when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        let (is_awaited, are_all_awaited) = {
            let mut state = lock(&self.0.state);
            state.free += 1;
            (state.waiting_for_one > 0, state.free == self.0.total && state.waiting_for_all > 0)
        };
        if is_awaited {
            self.0.released.notify_one();
        }
        if are_all_awaited {
            self.0.all_released.notify_all();
        }
    }
}
