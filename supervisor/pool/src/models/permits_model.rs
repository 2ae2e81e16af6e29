//! A model of the permits: no more are out than there are, whoever waits gets one, and a drain sees when all are free.

use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::ORDERS;
use super::primitives;
use super::primitives::Arc;

#[path = "../permits.rs"]
#[allow(clippy::duplicate_mod, reason = "the same file, of other primitives")]
mod permits_file;

use permits_file::Permits;

#[test]
fn no_more_are_out_than_there_are_and_whoever_waits_gets_one() {
    shuttle::check_random(
        || {
            let permits = Arc::new(Permits::new(2));
            let out = Arc::new(AtomicUsize::new(0));
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (permits, out) = (Arc::clone(&permits), Arc::clone(&out));
                    thread::spawn(move || {
                        let permit = permits.try_acquire().or_else(|| permits.acquire());
                        assert!(out.fetch_add(1, Ordering::SeqCst) < 2, "more are out than there are");
                        thread::yield_now();
                        out.fetch_sub(1, Ordering::SeqCst);
                        drop(permit.expect("it is not closed"));
                    })
                })
                .collect();
            let drain = thread::spawn({
                let permits = Arc::clone(&permits);
                move || assert!(permits.wait_until_all_free(None))
            });
            callers.into_iter().chain([drain]).for_each(|thread| thread.join().unwrap());
            assert!(permits.try_acquire().is_some());
        },
        ORDERS,
    );
}

#[test]
fn whoever_waits_hears_that_the_permits_are_closed() {
    shuttle::check_random(
        || {
            let permits = Arc::new(Permits::new(1));
            let held = permits.try_acquire().unwrap();
            let waits = thread::spawn({
                let permits = Arc::clone(&permits);
                move || permits.acquire().is_none()
            });
            permits.close();
            assert!(waits.join().unwrap());
            drop(held);
            permits.reopen();
            assert!(permits.acquire().is_some());
        },
        ORDERS,
    );
}
