//! `cofferdam node` when it is killed, when its workers are, and when the disk is full: what is stored is whole blocks at every
//! moment, and in the end what an undisturbed node has.

use std::path::Path;
use std::process::Command;

use cofferdam_test_skips::skip;
use cofferdam_tests::support::command::{Cofferdam, guest, number, send, text, wait_until};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, contents, node};
use cofferdam_tests::support::random::{Random, seed};
use cofferdam_tests::support::regtest::{chain, extend};
use nix::sys::signal::Signal;

const KILLS: usize = 50;
/// How many blocks the daemon gives between two kills, at most: fewer than 1500 in all.
const GIVEN: u64 = 28;

/// What an undisturbed node comes to.
fn undisturbed(place: &Place, daemon: &Daemon, tip: usize) -> (Vec<String>, String) {
    let db = place.at("undisturbed");
    let command = node(&db).with(&format!("--exit-at {tip} --daemon-rpc-url {}", daemon.url()));
    Node::to_the_end(command).expect_code(0);
    contents(&db)
}

/// When a node is killed.
enum Moment {
    /// As soon as the daemon holds blocks back: while the node runs and commits those before.
    HeldBack,
    /// As soon as one more block is committed.
    Committed,
    /// When every block that the daemon gives is committed.
    CaughtUp,
}

#[test]
fn fifty_kills_in_the_middle_of_a_sync_leave_whole_blocks_and_the_same_end() {
    let place = Place::default();
    let blocks = chain(1500);
    let mut daemon = Daemon::start(&blocks);
    let expected = undisturbed(&place, &daemon, 1499);
    let db = place.at("db");
    let mut random = Random::new(seed());
    let mut stored = 0;
    for kill in 0..KILLS {
        let durability = if random.below(2) == 0 { "block" } else { "batch" };
        let url = daemon.url();
        let command =
            node(&db).with(&format!("--durability {durability} --workers 2 --daemon-rpc-url {url}"));
        // The daemon gives so many and no more, so that every kill is in the middle of the sync.
        let given = 1 + random.below(GIVEN);
        let end = stored + usize::try_from(given).expect("a few");
        daemon.switch(|switches| switches.holds_from = Some(u32::try_from(end).expect("a height")));
        let asked_before = daemon.calls("getblock");
        let node = Node::start(command);
        for _ in 0..random.below(3) {
            let asked = asked_before + 1 + random.below(given);
            wait_until("the node asks for blocks", || (daemon.calls("getblock") >= asked).then_some(()));
            if let Some(worker) = node.running.workers().first() {
                // It may be gone by now.
                let _ = send(*worker, Signal::SIGKILL);
            }
        }
        let at_least = match [Moment::HeldBack, Moment::Committed, Moment::CaughtUp][kill % 3] {
            Moment::HeldBack => stored,
            Moment::Committed => stored + 1,
            Moment::CaughtUp => end,
        };
        wait_until("the daemon holds blocks back", || daemon.holds_back().then_some(()));
        if at_least > stored {
            let tip = u32::try_from(at_least - 1).expect("a height");
            wait_until("blocks are committed", || (node.height() >= Some(tip)).then_some(()));
        }
        node.running.signal(Signal::SIGKILL);
        node.running.finish();
        let (records, _) = contents(&db);
        assert!((at_least..=end).contains(&records.len()), "{at_least} to {end}: {}", records.len());
        assert_eq!(records, expected.0[..records.len()], "whole blocks, and the same as ever");
        stored = records.len();
        // What the killed node asked for waits no longer.
        daemon.come_back();
    }
    daemon.switch(|switches| switches.holds_from = None);
    let command = node(&db).with(&format!("--exit-at 1499 --daemon-rpc-url {}", daemon.url()));
    Node::to_the_end(command).expect_code(0);
    assert_eq!(contents(&db), expected);
}

/// A file system of its own, as small as is said; none where this process may not mount one.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(path: &'a Path, size: &str) -> Option<Self> {
        std::fs::create_dir(path).expect("a new directory");
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status();
        status.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let file = self.0.join("filler");
        let status = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "status=none"])
            .arg(format!("of={}", file.display()))
            .status();
        assert!(!status.expect("dd is there").success(), "it ends when the disk is full");
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("it was filled");
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_waited_for_and_costs_nothing() {
    let place = Place::default();
    let mount = place.at("disk");
    let Some(disk) = Disk::mount(&mount, "16m") else {
        skip("no file system can be mounted here (that takes root): a full disk was not tried");
        return;
    };
    let blocks = chain(3020);
    let mut adopted = 20;
    let daemon = Daemon::start(&blocks[..adopted]);
    let db = mount.join("db");
    for durability in ["batch", "block"] {
        let node = Node::start(
            node(&db).with(&format!("--durability {durability} --daemon-rpc-url {}", daemon.url())),
        );
        node.await_tip(&blocks[adopted - 1]);
        disk.fill();
        // So many that the room within the file does not do.
        adopted += 1500;
        daemon.adopt(&blocks[..adopted]);
        wait_until("it says that the disk is full", || {
            let (status, text) = node.readiness();
            (status == 503 && text.contains("Make room on the disk")).then_some(())
        });
        disk.free();
        node.await_tip(&blocks[adopted - 1]);
        node.await_ready();
        node.end();
    }
    let expected = undisturbed(&place, &daemon, contents(&db).0.len() - 1);
    assert_eq!(contents(&db), expected);
}

#[test]
fn a_node_that_starts_and_takes_blocks_back_on_a_full_disk_waits_and_goes_on() {
    let place = Place::default();
    let mount = place.at("disk");
    let Some(disk) = Disk::mount(&mount, "16m") else {
        skip("no file system can be mounted here (that takes root): a full disk was not tried");
        return;
    };
    let common = chain(1500);
    let (one, other) = (extend(&common, 50, 1), extend(&common, 1500, 2));
    let daemon = Daemon::start(&one);
    let db = mount.join("db");
    let command = || node(&db).with(&format!("--daemon-rpc-url {}", daemon.url()));
    let before = Node::start(command());
    before.await_tip(&one[one.len() - 1]);
    before.end();
    disk.fill();
    daemon.adopt(&other);
    let node = Node::start(command());
    wait_until("it says that the disk is full", || {
        let (status, text) = node.readiness();
        (status == 503 && text.contains("Make room on the disk")).then_some(())
    });
    disk.free();
    node.await_tip(&other[other.len() - 1]);
    node.await_ready();
    node.end();
    assert_eq!(contents(&db), undisturbed(&place, &daemon, other.len() - 1));
}

#[test]
fn a_new_store_on_a_full_disk_is_refused_with_what_to_do() {
    let place = Place::default();
    let mount = place.at("disk");
    let Some(disk) = Disk::mount(&mount, "1m") else {
        skip("no file system can be mounted here (that takes root): a full disk was not tried");
        return;
    };
    disk.fill();
    let daemon = Daemon::start(&chain(2));
    let command = node(&mount.join("db")).with(&format!("--daemon-rpc-url {}", daemon.url()));
    let output = Node::to_the_end(command).expect_code(1);
    assert!(output.stderr.contains("Make room on the disk"), "{output}");
}

#[test]
fn a_node_that_is_asked_to_end_while_the_disk_is_full_ends_and_says_why() {
    let place = Place::default();
    let mount = place.at("disk");
    let Some(disk) = Disk::mount(&mount, "16m") else {
        skip("no file system can be mounted here (that takes root): a full disk was not tried");
        return;
    };
    let blocks = chain(1520);
    let daemon = Daemon::start(&blocks[..20]);
    let db = mount.join("db");
    let node = Node::start(node(&db).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&blocks[19]);
    disk.fill();
    daemon.adopt(&blocks);
    wait_until("it says that the disk is full", || (node.readiness().0 == 503).then_some(()));
    node.running.signal(Signal::SIGTERM);
    let output = node.running.finish().expect_code(1);
    assert!(output.stderr.contains("Make room on the disk"), "{output}");
    disk.free();
    let before = contents(&db).0.len();
    assert!(before >= 20);
    let expected = undisturbed(&place, &daemon, blocks.len() - 1);
    assert_eq!(contents(&db).0, expected.0[..before]);
}

#[test]
fn a_run_on_a_full_disk_ends_with_what_to_do_and_the_next_run_goes_on() {
    let place = Place::default();
    let mount = place.at("disk");
    let Some(disk) = Disk::mount(&mount, "16m") else {
        skip("no file system can be mounted here (that takes root): a full disk was not tried");
        return;
    };
    let blocks = chain(1520);
    let (few, all) = (place.records("few.blk", &blocks[..20]), place.records("all.blk", &blocks));
    let run = |blocks: &Path, db: &Path| {
        let run = Cofferdam::run().path("--module", &guest("chain.wat"));
        run.path("--blocks", blocks).path("--db-path", db).output()
    };
    let db = mount.join("db");
    run(&few, &db).expect_code(0);
    disk.fill();
    let ended = run(&all, &db).expect_code(1);
    assert!(ended.reason().contains("Make room on the disk"), "{ended}");
    // What was reported as committed is committed, and nothing else.
    let summary = ended.summary();
    assert!(text(&summary, "error").contains("Make room on the disk"), "{summary}");
    assert!(ended.blocks().iter().all(|line| line["committed"] == true), "{ended}");
    assert_eq!(ended.heights(), (20..=number(&summary, "tip")).collect::<Vec<_>>());
    assert_eq!(contents(&db).0.len() as u64, number(&summary, "tip") + 1);
    disk.free();
    let output = run(&all, &db).expect_code(0);
    let undisturbed = place.at("undisturbed");
    assert_eq!(run(&all, &undisturbed).expect_code(0).digest(), output.digest());
    assert_eq!(contents(&db), contents(&undisturbed));
}
