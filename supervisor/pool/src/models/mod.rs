//! Models of what threads share: the same source files, compiled with shuttle's locks and threads in place of the real ones,
//! and run in thousands of orders of their steps. An order that fails is printed, and can be run again (`shuttle::replay`).

mod idle_model;
mod ticket_model;

/// What `super::primitives` is outside of the models.
mod primitives {
    use std::collections::VecDeque;

    pub(super) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A channel without a bound, of which both ends live for as long as it is used.
    #[derive(Debug)]
    struct Shared<T> {
        queue: Mutex<VecDeque<T>>,
        come: Condvar,
    }

    #[derive(Debug)]
    pub(super) struct Sender<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub(super) struct Receiver<T>(Arc<Shared<T>>);

    pub(super) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared { queue: Mutex::new(VecDeque::new()), come: Condvar::new() });
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub(super) fn send(&self, value: T) -> Result<(), T> {
            lock(&self.0.queue).push_back(value);
            self.0.come.notify_one();
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(super) fn try_recv(&self) -> Result<T, ()> {
            lock(&self.0.queue).pop_front().ok_or(())
        }

        /// Waits. What waits for ever is a deadlock, which shuttle reports.
        pub(super) fn recv(&self) -> T {
            let mut queue = lock(&self.0.queue);
            loop {
                match queue.pop_front() {
                    Some(value) => return value,
                    None => {
                        queue = self.0.come.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
                    }
                }
            }
        }

        pub(super) fn len(&self) -> usize {
            lock(&self.0.queue).len()
        }
    }
}

/// How many orders of threads are tried of each model.
const ORDERS: usize = 5_000;
