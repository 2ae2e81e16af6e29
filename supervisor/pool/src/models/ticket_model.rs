//! The ticket: whoever waits or is to be woken hears of the result, whichever comes first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use shuttle::thread;

use super::ORDERS;
use super::primitives;

/// What a result is does not matter here.
#[derive(Debug)]
pub struct JobResult(u32);

#[derive(Debug, PartialEq)]
pub enum PoolError {
    /// The other end was dropped.
    Lost,
}

#[path = "../ticket.rs"]
#[allow(clippy::duplicate_mod, reason = "the same file, of other primitives")]
#[allow(dead_code, reason = "only some of it is modelled")]
mod ticket_file;

use ticket_file::ticket;

#[test]
fn whoever_waits_hears_of_the_result() {
    shuttle::check_random(
        || {
            let (waits, completion) = ticket();
            let worker = thread::spawn(move || completion.complete(Ok(JobResult(7))));
            assert_eq!(waits.wait().unwrap().0, 7);
            worker.join().unwrap();
        },
        ORDERS,
    );
}

#[test]
fn whoever_is_to_be_woken_hears_of_the_result() {
    shuttle::check_random(
        || {
            let (awaited, completion) = ticket();
            let worker = thread::spawn(move || completion.complete(Ok(JobResult(7))));
            assert_eq!(shuttle::future::block_on(awaited).unwrap().0, 7);
            worker.join().unwrap();
        },
        ORDERS,
    );
}

#[test]
fn the_last_waker_counts_and_a_lost_job_is_told() {
    shuttle::check_random(
        || {
            let (mut awaited, completion) = ticket();
            let worker = thread::spawn(move || drop(completion));
            // Looked at once by somebody who does not wait for it.
            let first = Pin::new(&mut awaited).poll(&mut Context::from_waker(std::task::Waker::noop()));
            let result = match first {
                Poll::Ready(result) => result,
                Poll::Pending => shuttle::future::block_on(awaited),
            };
            assert_eq!(result.unwrap_err(), PoolError::Lost);
            worker.join().unwrap();
        },
        ORDERS,
    );
}
