//! The gate on real threads and timers. Beside `gate.rs` and not in it, because the models compile that file, too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::gate::{Gate, Lane, Load, Refusal, Turn};

const LONG: Duration = Duration::from_secs(10);

/// A gate with room for one, which is in.
async fn taken(limit: usize) -> (Gate, Turn) {
    let gate = Gate::new(limit);
    gate.set_capacity(1);
    let turn = gate.enter(Lane::Blocks, LONG).await.unwrap();
    (gate, turn)
}

#[tokio::test]
async fn lanes_take_turns() {
    let (gate, turn) = taken(100).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let lanes = [Lane::Blocks, Lane::Blocks, Lane::Blocks, Lane::Views, Lane::Views];
    for (index, lane) in lanes.into_iter().enumerate() {
        let (other, order) = (gate.clone(), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let _turn = other.enter(lane, LONG).await.unwrap();
            order.lock().unwrap().push(lane);
        }));
        while gate.load().blocks + gate.load().views <= index {
            tokio::task::yield_now().await;
        }
    }
    drop(turn);
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap();
    let views: Vec<_> = order.iter().map(|lane| *lane == Lane::Views).collect();
    assert!(
        views == [true, false, true, false, false] || views == [false, true, false, true, false],
        "{views:?}"
    );
    assert_eq!(gate.load(), Load { blocks: 0, views: 0, limit: 100, inside: 0 });
}

#[tokio::test]
async fn nobody_waits_for_longer_than_agreed_and_no_more_wait_than_may() {
    let (gate, _turn) = taken(1).await;
    let other = gate.clone();
    let waits =
        tokio::spawn(async move { other.enter(Lane::Views, Duration::from_millis(300)).await.map(drop) });
    while gate.load().views == 0 {
        tokio::task::yield_now().await;
    }
    assert!(gate.is_full());
    assert_eq!(gate.enter(Lane::Blocks, LONG).await.map(drop), Err(Refusal::Full));
    assert_eq!(waits.await.unwrap(), Err(Refusal::Waited));
    assert_eq!(gate.load().views, 0, "its place is free again");
}

#[tokio::test]
async fn half_of_the_places_are_each_lanes_own() {
    let (gate, turn) = taken(4).await;
    let mut blocks = Vec::new();
    for count in 1..=4 {
        let other = gate.clone();
        blocks.push(tokio::spawn(async move { other.enter(Lane::Blocks, LONG).await.map(drop) }));
        while gate.load().blocks < count {
            tokio::task::yield_now().await;
        }
    }
    let mut views = Vec::new();
    for count in 1..=2 {
        let other = gate.clone();
        views.push(tokio::spawn(async move { other.enter(Lane::Views, LONG).await.map(drop) }));
        while gate.load().views < count {
            tokio::task::yield_now().await;
        }
        // The last in the longer lane has gone.
        assert_eq!(blocks.pop().unwrap().await.unwrap(), Err(Refusal::Full));
    }
    for lane in [Lane::Blocks, Lane::Views] {
        assert_eq!(gate.enter(lane, LONG).await.map(drop), Err(Refusal::Full), "each has its half");
    }
    drop(turn);
    for waits in blocks.into_iter().chain(views) {
        assert_eq!(waits.await.unwrap(), Ok(()));
    }
    assert_eq!(gate.load().inside, 0);
}

#[tokio::test]
async fn a_request_that_goes_away_gives_up_its_place_and_its_turn() {
    let (gate, turn) = taken(10).await;
    let other = gate.clone();
    let gone = tokio::spawn(async move { other.enter(Lane::Blocks, LONG).await.map(drop) });
    while gate.load().blocks == 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(gate.load().blocks, 0);
    drop(turn);
    assert_eq!(gate.load().inside, 0);
    gate.enter(Lane::Views, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn with_more_capacity_those_who_wait_are_let_in() {
    let gate = Gate::new(10);
    let other = gate.clone();
    let waits = tokio::spawn(async move { other.enter(Lane::Blocks, LONG).await });
    while gate.load().blocks == 0 {
        tokio::task::yield_now().await;
    }
    gate.set_capacity(1);
    let turn = waits.await.unwrap().unwrap();
    gate.set_capacity(0);
    drop(turn);
    assert_eq!(gate.enter(Lane::Blocks, Duration::ZERO).await.map(drop), Err(Refusal::Waited));
    assert!((1..=60).contains(&gate.retry_after()));
}

#[tokio::test]
async fn a_gate_that_is_closed_sends_away_whoever_waits_and_whoever_comes() {
    let gate = Gate::new(10);
    let other = gate.clone();
    let waits = tokio::spawn(async move { other.enter(Lane::Views, LONG).await.map(drop) });
    while gate.load().views == 0 {
        tokio::task::yield_now().await;
    }
    gate.close();
    assert_eq!(waits.await.unwrap(), Err(Refusal::Closed));
    assert_eq!(gate.enter(Lane::Blocks, LONG).await.map(drop), Err(Refusal::Closed));
}
