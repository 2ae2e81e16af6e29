//! Planted faults of each kind, and the deadline.

use super::*;

/// Checks that a fault at the first attempt is survived, and that one at every attempt poisons the block and no other.
fn assert_survived(kind: &str, verdict: HostVerdict, evidence: &str) {
    let pool = build(planted(&format!("5x1:{kind}")).limits(limits(DEADLINE, 2)));
    assert_good_block(&pool, 4);
    let result = call(&pool, &good_block(5));
    assert_retried(&result, 1, verdict);
    assert_eq!(pairs(&result), [good_pair(5)]);
    assert!(result.failed_attempts[0].detail.contains(evidence), "{evidence:?}: {result:?}");
    let failed = result.failed_attempts[0].worker.pid;
    wait_until("the worker that failed is gone", || (!is_running(failed)).then_some(()));
    assert_eq!(assert_good_block(&pool, 6).worker, result.worker);
    assert_eq!(pool.health().deaths(), 1);

    let pool = build(planted(&format!("5x9:{kind}")).limits(limits(DEADLINE, 1)));
    let result = call(&pool, &good_block(5));
    assert_eq!((result.verdict, result.attempts()), (Verdict::Host(verdict), 2), "{result:?}");
    assert_lost(&result, 2, verdict);
    assert!(result.detail.contains(evidence) && result.writes().count() == 0, "{result:?}");
    assert_good_block(&pool, 6);
    assert_eq!(pool.health().deaths(), 2);
}

#[test]
fn a_worker_that_is_killed_is_survived() {
    assert_survived("kill", HostVerdict::Killed, "SIGKILL");
}

#[test]
fn a_worker_that_lies_about_its_end_is_survived() {
    assert_survived("forge", HostVerdict::Killed, "SIGKILL");
    assert_survived("half", HostVerdict::Exited, "exit code 1");
}

#[test]
fn a_segmentation_fault_is_survived() {
    assert_survived("segv", HostVerdict::Crashed, "SIGSEGV");
}

#[test]
fn an_abort_of_the_process_is_survived() {
    assert_survived("abort", HostVerdict::Crashed, "SIGABRT");
}

#[test]
fn an_exit_that_nobody_asked_for_is_survived() {
    assert_survived("exit=9", HostVerdict::Exited, "exit code 9");
    // Not even "told to stop" and "memory not committed" mean what they say here.
    assert_survived("exit=0", HostVerdict::Exited, "exit code 0");
    assert_survived("exit=137", HostVerdict::Exited, "exit code 137");
}

#[test]
fn a_frame_that_does_not_decode_is_survived() {
    assert_survived("garbage", HostVerdict::ProtocolViolation, "");
}

#[test]
fn a_frame_over_the_cap_is_survived() {
    assert_survived("long-frame", HostVerdict::ProtocolViolation, "");
}

#[test]
fn a_span_outside_the_arena_is_survived() {
    assert_survived("wrong-span", HostVerdict::ProtocolViolation, "outside the arena");
}

#[test]
fn an_answer_to_another_job_is_survived() {
    assert_survived("wrong-job", HostVerdict::ProtocolViolation, "the worker answered job");
}

#[test]
fn output_that_is_no_pairs_is_survived() {
    assert_survived("wrong-pairs", HostVerdict::ProtocolViolation, "reaches beyond the end");
}

#[test]
fn a_worker_that_does_not_answer_is_survived() {
    assert_survived("hang", HostVerdict::Deadline, "no answer within 3s");
}

#[test]
fn every_retry_is_used_before_a_block_is_given_up() {
    for (fault, retries, lost) in [("5x2:kill", 2, 2), ("5x3:kill", 3, 3), ("5x1:exit=1", 1, 1)] {
        let pool = build(planted(fault).limits(limits(PATIENCE, retries)));
        let verdict = if fault.ends_with("kill") { HostVerdict::Killed } else { HostVerdict::Exited };
        assert_retried(&call(&pool, &good_block(5)), lost, verdict);
    }
    let pool = build(planted("5x1:kill").limits(limits(PATIENCE, 0)));
    let result = call(&pool, &good_block(5));
    assert_eq!((result.verdict, result.attempts()), (Verdict::Host(HostVerdict::Killed), 1), "{result:?}");
}

#[test]
fn a_view_is_retried_like_a_block() {
    let pool = build(planted("5x1:kill"));
    let result = call(&pool, &Job::view("echo", 5, b"input".to_vec()));
    assert_retried(&result, 1, HostVerdict::Killed);
    assert_eq!(result.view_result(), b"input");
}

#[test]
fn a_spare_takes_over() {
    let pool = build(planted("5x1:kill").spares(1));
    let result = call(&pool, &good_block(5));
    assert_retried(&result, 1, HostVerdict::Killed);
    assert_ne!(result.worker.slot, result.failed_attempts[0].worker.slot, "the spare was ready");
    wait_until("the spare's place is filled", || (pool.health().ready() == 2).then_some(()));
    assert_good_block(&pool, 6);
}

#[test]
fn an_endless_loop_runs_into_the_deadline_and_is_reported() {
    let pool = build(small(SCRIPT).limits(limits(PATIENCE, 1)));
    let result = call(&pool, &Act::Spin(0).block(5).deadline(Duration::from_millis(200)));
    assert_eq!(result.verdict, Verdict::Host(HostVerdict::Deadline), "{result:?}");
    assert_lost(&result, 2, HostVerdict::Deadline);
    assert!(result.detail.contains("200ms"), "{}", result.detail);
    assert_good_block(&pool, 6);
}

#[test]
fn an_endless_start_section_runs_into_the_deadline() {
    let pool = build(small(START_SPINS).limits(limits(Duration::from_millis(200), 0)));
    for height in 0..2 {
        let result = call(&pool, &Job::block(height, Vec::new()));
        assert_eq!(result.verdict, Verdict::Host(HostVerdict::Deadline), "{result:?}");
    }
    let left = workers(&pool);
    drop(pool);
    assert!(!left.iter().any(|pid| is_running(*pid)), "not even one that never listens is left");
}
