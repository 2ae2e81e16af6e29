//! Admission control with real threads and timers. These tests are not in `admission.rs`, because the model compiles that
//! file, too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::admission::{Admission, Permit, QueueLoad, Rejection};
use crate::job_kind::JobKind;

const LONG: Duration = Duration::from_secs(10);

/// An admission control with a capacity of one, and its only permit.
async fn occupied(limit: usize) -> (Admission, Permit) {
    let admission = Admission::new(limit);
    admission.set_capacity(1);
    let permit = admission.acquire(JobKind::Block, LONG).await.unwrap();
    (admission, permit)
}

#[tokio::test]
async fn the_two_queues_are_served_in_turn() {
    let (admission, permit) = occupied(100).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let kinds = [JobKind::Block, JobKind::Block, JobKind::Block, JobKind::View, JobKind::View];
    for (index, kind) in kinds.into_iter().enumerate() {
        let (other, order) = (admission.clone(), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let _permit = other.acquire(kind, LONG).await.unwrap();
            order.lock().unwrap().push(kind);
        }));
        while admission.load().waiting_blocks + admission.load().waiting_views <= index {
            tokio::task::yield_now().await;
        }
    }
    drop(permit);
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap();
    let views: Vec<_> = order.iter().map(|kind| *kind == JobKind::View).collect();
    assert!(
        views == [true, false, true, false, false] || views == [false, true, false, true, false],
        "{views:?}"
    );
    assert_eq!(admission.load(), QueueLoad { waiting_blocks: 0, waiting_views: 0, limit: 100, running: 0 });
}

#[tokio::test]
async fn no_request_waits_longer_than_it_may_and_no_more_wait_than_the_limit() {
    let (admission, _permit) = occupied(1).await;
    let other = admission.clone();
    let waits =
        tokio::spawn(async move { other.acquire(JobKind::View, Duration::from_millis(300)).await.map(drop) });
    while admission.load().waiting_views == 0 {
        tokio::task::yield_now().await;
    }
    assert!(admission.is_full());
    assert_eq!(admission.acquire(JobKind::Block, LONG).await.map(drop), Err(Rejection::QueueFull));
    assert_eq!(waits.await.unwrap(), Err(Rejection::TimedOut));
    assert_eq!(admission.load().waiting_views, 0, "its slot is free again");
}

#[tokio::test]
async fn each_queue_may_use_half_of_the_slots() {
    let (admission, permit) = occupied(4).await;
    let mut blocks = Vec::new();
    for count in 1..=4 {
        let other = admission.clone();
        blocks.push(tokio::spawn(async move { other.acquire(JobKind::Block, LONG).await.map(drop) }));
        while admission.load().waiting_blocks < count {
            tokio::task::yield_now().await;
        }
    }
    let mut views = Vec::new();
    for count in 1..=2 {
        let other = admission.clone();
        views.push(tokio::spawn(async move { other.acquire(JobKind::View, LONG).await.map(drop) }));
        while admission.load().waiting_views < count {
            tokio::task::yield_now().await;
        }
        // The last request in the longer queue was refused.
        assert_eq!(blocks.pop().unwrap().await.unwrap(), Err(Rejection::QueueFull));
    }
    for kind in [JobKind::Block, JobKind::View] {
        assert_eq!(
            admission.acquire(kind, LONG).await.map(drop),
            Err(Rejection::QueueFull),
            "each queue has its half"
        );
    }
    drop(permit);
    for waits in blocks.into_iter().chain(views) {
        assert_eq!(waits.await.unwrap(), Ok(()));
    }
    assert_eq!(admission.load().running, 0);
}

#[tokio::test]
async fn a_request_that_goes_away_gives_up_its_slot_and_its_permit() {
    let (admission, permit) = occupied(10).await;
    let other = admission.clone();
    let gone = tokio::spawn(async move { other.acquire(JobKind::Block, LONG).await.map(drop) });
    while admission.load().waiting_blocks == 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(admission.load().waiting_blocks, 0);
    drop(permit);
    assert_eq!(admission.load().running, 0);
    admission.acquire(JobKind::View, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn more_capacity_admits_waiting_requests() {
    let admission = Admission::new(10);
    let other = admission.clone();
    let waits = tokio::spawn(async move { other.acquire(JobKind::Block, LONG).await });
    while admission.load().waiting_blocks == 0 {
        tokio::task::yield_now().await;
    }
    admission.set_capacity(1);
    let permit = waits.await.unwrap().unwrap();
    admission.set_capacity(0);
    drop(permit);
    assert_eq!(admission.acquire(JobKind::Block, Duration::ZERO).await.map(drop), Err(Rejection::TimedOut));
    assert!((1..=60).contains(&admission.retry_after()));
}

#[tokio::test]
async fn closing_refuses_requests_that_wait_and_requests_that_come() {
    let admission = Admission::new(10);
    let other = admission.clone();
    let waits = tokio::spawn(async move { other.acquire(JobKind::View, LONG).await.map(drop) });
    while admission.load().waiting_views == 0 {
        tokio::task::yield_now().await;
    }
    admission.close();
    assert_eq!(waits.await.unwrap(), Err(Rejection::Closed));
    assert_eq!(admission.acquire(JobKind::Block, LONG).await.map(drop), Err(Rejection::Closed));
}

#[tokio::test]
async fn a_thread_waits_until_no_request_runs() {
    let (admission, permit) = occupied(10).await;
    assert!(!admission.wait_until_idle(Duration::ZERO), "a request is running");
    let (started, starts) = std::sync::mpsc::channel();
    let other = admission.clone();
    let waits = std::thread::spawn(move || {
        started.send(()).unwrap();
        other.wait_until_idle(LONG)
    });
    starts.recv().unwrap();
    admission.set_capacity(0);
    drop(permit);
    assert!(waits.join().unwrap());
}
