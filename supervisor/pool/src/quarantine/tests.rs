//! Tests of the quarantine.

use std::time::Duration;

use super::super::failed_attempt::{FailedAttempt, WorkerInfo};
use super::*;

const TIME: Duration = Duration::from_secs(60);

fn quarantine(entries: usize, deaths: u32) -> Quarantine {
    Quarantine::new(QuarantinePolicy { time: TIME, entries, deaths })
}

fn failed(verdicts: &[HostVerdict]) -> Vec<FailedAttempt> {
    let worker = WorkerInfo { pid: 7, slot: 0 };
    let failed = |verdict: &HostVerdict| FailedAttempt {
        worker,
        verdict: *verdict,
        detail: format!("by {verdict}"),
        supervisors_fault: false,
    };
    verdicts.iter().map(failed).collect()
}

fn block(height: u32, input: &[u8]) -> Job {
    Job::block(height, input.to_vec())
}

fn lose(quarantine: &Quarantine, job: &Job) -> Option<Quarantined> {
    quarantine.lost(job, &failed(&[HostVerdict::Crashed; 3]), false)
}

#[test]
fn a_job_that_has_ended_its_workers_is_known_by_call_height_and_input() {
    let quarantine = quarantine(8, 2);
    assert!(quarantine.find(&block(5, b"x")).is_none());
    assert!(!lose(&quarantine, &block(5, b"x")).unwrap().from_memory);
    let (found, attempts) = quarantine.find(&block(5, b"x")).unwrap();
    assert!(found.from_memory && attempts.len() == 3);
    let said = found.sentence(&attempts);
    assert!(said.contains("because its last 3 attempts") && said.contains("crashed (by crashed)"), "{said}");
    for other in [block(5, b"y"), block(5, b"xx"), block(6, b"x"), Job::view("v", 5, b"x".to_vec())] {
        assert!(quarantine.find(&other).is_none(), "{other}");
    }
    assert!(quarantine.find(&block(5, b"x").despite_quarantine()).is_none());
    let [entry] = &quarantine.entries()[..] else { panic!("one") };
    assert_eq!((entry.height, entry.input_bytes, entry.deaths, entry.answered), (5, 1, 3, 1));
}

#[test]
fn one_death_is_none_and_two_of_two_requests_are() {
    let quarantine = quarantine(8, 2);
    let once = failed(&[HostVerdict::Killed]);
    assert!(quarantine.lost(&block(5, b"x"), &once, false).is_none());
    assert!(quarantine.find(&block(5, b"x")).is_none() && quarantine.entries().is_empty());
    assert!(quarantine.lost(&block(5, b"x"), &once, false).is_some());
    assert_eq!(quarantine.find(&block(5, b"x")).unwrap().1.len(), 2);
}

#[test]
fn an_end_that_the_supervisor_caused_does_not_count() {
    let quarantine = quarantine(8, 2);
    let mut attempts = failed(&[HostVerdict::Exited; 3]);
    attempts.iter_mut().for_each(|attempt| attempt.supervisors_fault = true);
    assert!(quarantine.lost(&block(5, b"x"), &attempts, false).is_none());
    assert!(quarantine.is_empty());
}

#[test]
fn a_guests_answer_clears_a_job() {
    let quarantine = quarantine(8, 2);
    let once = failed(&[HostVerdict::Killed]);
    assert!(quarantine.lost(&block(5, b"x"), &once, false).is_none());
    quarantine.answered(&block(5, b"y"));
    quarantine.answered(&block(5, b"x"));
    assert!(quarantine.lost(&block(5, b"x"), &once, false).is_none(), "the first one again");
}

#[test]
fn a_deadline_counts_unless_the_job_had_less_time_than_others() {
    let quarantine = quarantine(8, 2);
    let slow = failed(&[HostVerdict::Deadline; 3]);
    assert!(quarantine.lost(&block(5, b"x"), &slow, true).is_none());
    assert!(quarantine.lost(&block(5, b"x"), &slow, true).is_none());
    assert!(quarantine.lost(&block(5, b"x"), &slow, false).is_some());
}

#[test]
fn it_ends_by_itself_and_is_not_drawn_out_by_asking() {
    let quarantine = quarantine(8, 2);
    let (job, now) = (block(5, b"x"), Moment::now());
    let input = hash_of(&job);
    let at = |after: Duration| Moment { instant: now.instant + after, time: now.time + after };
    let attempts = failed(&[HostVerdict::Crashed; 3]);
    let begun = quarantine.lost_at(&job, input, (3, &attempts), now).unwrap();
    assert_eq!((begun.since, begun.until), (now.time, now.time + TIME));
    let last = TIME - Duration::from_nanos(1);
    assert_eq!(quarantine.find_at(&job, input, at(last)).unwrap().0.until, begun.until);
    assert!(quarantine.find_at(&job, input, at(TIME)).is_none());
    assert!(lose(&quarantine, &job).is_some(), "it is known anew");
}

#[test]
fn it_is_bounded_and_forgets_what_was_asked_for_longest_ago() {
    let quarantine = quarantine(2, 2);
    for height in 1..=2 {
        lose(&quarantine, &block(height, b"x"));
    }
    quarantine.find(&block(1, b"x")).unwrap();
    lose(&quarantine, &block(3, b"x"));
    let heights: Vec<u32> = quarantine.entries().iter().map(|entry| entry.height).collect();
    assert_eq!(heights, [1, 3]);
}

#[test]
fn it_is_lifted_one_by_one_and_for_all() {
    let quarantine = quarantine(8, 2);
    for height in 1..=3 {
        lose(&quarantine, &block(height, b"x"));
    }
    let id = quarantine.entries()[1].id;
    assert!(quarantine.lift(id) && !quarantine.lift(id));
    assert!(quarantine.find(&block(2, b"x")).is_none() && quarantine.find(&block(1, b"x")).is_some());
    assert_eq!((quarantine.lift_all(), quarantine.entries().len()), (2, 0));
}

#[test]
fn the_next_pool_of_the_same_profile_knows_it_too() {
    let (old, new) = (quarantine(8, 2), quarantine(8, 2));
    lose(&old, &block(1, b"x"));
    new.take_over(&old);
    assert!(new.find(&block(1, b"x")).is_some());
}

#[test]
fn without_time_or_room_nothing_is_kept() {
    for policy in [QuarantinePolicy::OFF, QuarantinePolicy { time: Duration::ZERO, ..Default::default() }] {
        let quarantine = Quarantine::new(policy);
        assert!(lose(&quarantine, &block(1, b"x")).is_none());
        assert!(quarantine.find(&block(1, b"x")).is_none());
    }
}
