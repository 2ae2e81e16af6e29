//! A model of the completion: the receiver hears of the value, whether it waits or is to be woken, and whichever comes first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use shuttle::thread;

use super::ORDERS;
use super::primitives;

#[path = "../completion.rs"]
#[allow(clippy::duplicate_mod, reason = "the same file, of other primitives")]
#[allow(dead_code, reason = "only some of it is modelled")]
mod completion_file;

use completion_file::completion;

#[test]
fn whoever_waits_hears_of_the_result() {
    shuttle::check_random(
        || {
            let (completion, waits) = completion();
            let worker = thread::spawn(move || completion.complete(7));
            assert_eq!(waits.wait(), Some(7));
            worker.join().unwrap();
        },
        ORDERS,
    );
}

#[test]
fn whoever_is_to_be_woken_hears_of_the_result() {
    shuttle::check_random(
        || {
            let (completion, awaited) = completion();
            let worker = thread::spawn(move || completion.complete(7));
            assert_eq!(shuttle::future::block_on(awaited), Some(7));
            worker.join().unwrap();
        },
        ORDERS,
    );
}

#[test]
fn the_last_waker_counts_and_a_dropped_sender_is_told() {
    shuttle::check_random(
        || {
            let (completion, mut awaited) = completion::<u32>();
            let worker = thread::spawn(move || drop(completion));
            // Looked at once by somebody who does not wait for it.
            let first = Pin::new(&mut awaited).poll(&mut Context::from_waker(std::task::Waker::noop()));
            let result = match first {
                Poll::Ready(result) => result,
                Poll::Pending => shuttle::future::block_on(awaited),
            };
            assert_eq!(result, None);
            worker.join().unwrap();
        },
        ORDERS,
    );
}
