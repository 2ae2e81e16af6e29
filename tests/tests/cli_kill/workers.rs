//! Workers that are killed: the blocks of a run are all done, and the digest is that of a quiet run.

use super::*;

#[test]
fn the_busy_worker_is_killed() {
    let (_, line, killed) = disturbed("--spares 1", 2, |busy, _| {
        kill(busy);
        vec![busy]
    });
    assert_eq!(number(&line, "attempts"), 2, "{line}");
    let lost = &line["lost"][0];
    assert_eq!((text(lost, "verdict").as_str(), number(lost, "worker_pid")), ("killed", killed[0].into()));
    assert!(text(lost, "detail").contains("SIGKILL"), "{lost}");
    assert_ne!(number(&line, "worker_pid"), u64::from(killed[0]));
}

#[test]
fn the_only_worker_is_killed() {
    let (_, line, _) = disturbed("--spares 0", 1, |busy, _| {
        kill(busy);
        vec![busy]
    });
    assert_eq!(number(&line, "attempts"), 2, "{line}");
}

#[test]
fn an_idle_worker_is_killed() {
    let (_, line, _) = disturbed("--spares 1", 2, |_, idle| {
        kill(idle[0]);
        vec![idle[0]]
    });
    assert_eq!(number(&line, "attempts"), 1, "the block was not its: {line}");
}

#[test]
fn every_worker_is_killed_at_once() {
    let (_, line, _) = disturbed("--workers 2 --spares 1", 3, |busy, idle| {
        let all: Vec<_> = idle.iter().copied().chain([busy]).collect();
        for pid in &all {
            kill(*pid);
        }
        all
    });
    assert_eq!(number(&line, "attempts"), 2, "{line}");
}

#[test]
fn workers_are_killed_ten_times_in_the_middle_of_blocks() {
    const KILLS: usize = 10;
    let mut random = Random::seeded();
    let blocks = sums_blocks(300, SHORT);
    let files = Files::new();
    let db = files.at("db");
    // More retries than kills: how many attempts one unlucky block may take is not what is tested.
    let run = sums(&db).with("--workers 1 --spares 1 --retries 20 --blocks -").open_stdin();
    let mut run = run.start();
    run.feed(&records(&blocks[..10]));
    run.next_lines(10);
    run.await_workers(2);
    let descriptors = run.descriptors();
    let mut killed = BTreeSet::new();
    let mut rest = &blocks[10..];
    while killed.len() < KILLS {
        // Of these blocks some are done when a worker is killed, and some are not: the last has not been fed yet.
        let (now, later) = rest.split_at(2 + below(&mut random, 20));
        rest = later;
        let (last, first) = now.split_last().expect("two or more");
        run.feed(&records(first));
        let read = below(&mut random, first.len());
        run.next_lines(read);
        let victim = wait_until("there is a worker that was not killed before", || {
            let alive: Vec<_> = run.workers().into_iter().filter(|pid| !killed.contains(pid)).collect();
            let victim = *alive.get(below(&mut random, alive.len().max(1)))?;
            send(victim, Signal::SIGKILL).ok().map(|()| victim)
        });
        killed.insert(victim);
        run.feed(&record(last));
        run.next_lines(now.len() - read);
    }
    run.feed(&records(rest));
    run.next_lines(rest.len());
    await_replacements(&run, 2, &killed.iter().copied().collect::<Vec<_>>());
    wait_until("the supervisor has as many descriptors as before", || {
        (run.descriptors() == descriptors).then_some(())
    });
    let output = run.finish().expect_code(0);
    assert_eq!(number(&output.summary(), "deaths"), KILLS as u64, "{output}");
    assert_as_if_quiet(&output, &db, &blocks);
}

/// A number from 0 to below `end`, which is small.
fn below(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(end as u64)).expect("a small number")
}
