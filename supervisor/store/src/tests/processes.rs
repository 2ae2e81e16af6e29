//! What two processes see of one store. A process cannot open an LMDB environment twice, so these tests start their own binary
//! again as the second process.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cofferdam_worker::state::StateReader;

use crate::identity::Durability;
use crate::store::Store;
use crate::test_support::{commit, identity, open};

const DIRECTORY: &str = "COFFERDAM_TEST_STORE";

/// The second process. It prints a line after each step, and reads a line before it continues.
struct Second {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Second {
    /// Starts the test `name` of this file in a shell that first runs `setup`.
    fn start(name: &str, setup: &str, dir: &Path) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{setup}\nexec \"$@\""), "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg(format!("{}::{name}", module_path!().split_once("::").unwrap().1))
            .env(DIRECTORY, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, lines: BufReader::new(output).lines() }
    }

    fn expect(&mut self, wanted: &str) {
        let line = self.lines.by_ref().map(Result::unwrap).find(|line| line.contains("SECOND: "));
        assert!(line.as_ref().is_some_and(|line| line.contains(wanted)), "{wanted:?}, not {line:?}");
    }

    fn resume(&mut self) {
        writeln!(self.input).unwrap();
    }

    fn finish(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

fn say(line: impl std::fmt::Display) {
    println!("SECOND: {line}");
}

fn wait() {
    std::io::stdin().lock().lines().next().unwrap().unwrap();
}

/// The directory for the second process; none if somebody runs all ignored tests.
fn given_directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

#[test]
#[ignore = "the second process of other tests"]
fn second_reads() {
    let Some(dir) = given_directory() else { return };
    let reader = StateReader::open(&dir).unwrap();
    let old = reader.snapshot().unwrap();
    assert_eq!((old.tip().unwrap(), old.get(b"key", 9).unwrap()), (Some(1), Some(b"one".as_slice())));
    say("has a snapshot");
    wait();
    assert_eq!((old.tip().unwrap(), old.get(b"key", 9).unwrap()), (Some(1), Some(b"one".as_slice())));
    let new = reader.snapshot().unwrap();
    assert_eq!((new.tip().unwrap(), new.get(b"key", 9).unwrap()), (Some(2), Some(b"two".as_slice())));
    assert_eq!(new.get(b"key", 1).unwrap(), Some(b"one".as_slice()));
    say("has seen both");
    wait();
}

#[test]
#[ignore = "the second process of other tests"]
fn second_writes() {
    let Some(dir) = given_directory() else { return };
    say(Store::open(&dir, &identity(), Durability::None).unwrap_err());
}

#[test]
#[ignore = "the second process of other tests"]
fn second_reaches_a_file_size_limit() {
    let Some(dir) = given_directory() else { return };
    let store = Store::open(&dir, &identity(), Durability::None).unwrap();
    commit(&store, 1, &[("key", "one")]).unwrap();
    let hash = store.content_hash().unwrap();
    say(commit(&store, 2, &[("key", &vec![2; 4 << 20])]).unwrap_err());
    assert_eq!((store.tip().unwrap().unwrap().height, store.content_hash().unwrap()), (1, hash));
    commit(&store, 2, &[("key", "two")]).unwrap();
    say("continued");
}

#[test]
#[ignore = "the second process of other tests"]
fn second_commits_until_it_is_killed() {
    let Some(dir) = given_directory() else { return };
    let store = Store::open(&dir, &identity(), Durability::None).unwrap();
    for height in store.tip().unwrap().map_or(0, |tip| tip.height) + 1.. {
        let pairs: Vec<_> = (0..500u16).map(|key| (key.to_be_bytes(), height.to_be_bytes())).collect();
        commit(&store, height, &pairs).unwrap();
        say(height);
    }
}

#[test]
fn a_writer_that_is_killed_leaves_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    for blocks in [1, 3, 7, 20] {
        let mut writer = Second::start("second_commits_until_it_is_killed", "", dir.path());
        (0..blocks).for_each(|_| writer.expect(""));
        writer.child.kill().unwrap();
        writer.child.wait().unwrap();
        let store = open(&dir).unwrap();
        let tip = store.tip().unwrap().unwrap().height;
        assert!(tip >= blocks);
        for key in 0..500u16 {
            assert_eq!(store.get(&key.to_be_bytes(), u32::MAX).unwrap().unwrap(), tip.to_be_bytes());
        }
    }
}

#[test]
fn a_reader_keeps_its_snapshot_and_sees_commits_in_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    commit(&store, 1, &[("key", "one")]).unwrap();
    // A worker may not write any file, so opening must not write one.
    let mut reader = Second::start("second_reads", "ulimit -f 0", store.path());
    reader.expect("has a snapshot");
    commit(&store, 2, &[("key", "two")]).unwrap();
    assert_eq!(store.clear_stale_readers().unwrap(), 0, "the reader lives");
    reader.resume();
    reader.expect("has seen both");
    reader.resume();
    reader.finish();
}

#[test]
fn a_dead_reader_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    commit(&store, 1, &[("key", "one")]).unwrap();
    let mut reader = Second::start("second_reads", "", store.path());
    reader.expect("has a snapshot");
    reader.child.kill().unwrap();
    assert_eq!(reader.child.wait().unwrap().signal(), Some(9));
    assert_eq!(store.clear_stale_readers().unwrap(), 1);
    assert_eq!(store.clear_stale_readers().unwrap(), 0);
}

#[test]
fn no_descriptor_of_the_store_is_inherited_by_children() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(!listed.contains(store.path().to_str().unwrap()), "{listed}");
}

#[test]
fn a_writer_in_another_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let mut second = Second::start("second_writes", "", store.path());
    second.expect("is being written by another process");
    second.finish();
}

#[test]
fn a_full_disk_leaves_the_store_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    // A file size limit replaces the full disk. The signal is ignored, so write(2) fails with EFBIG.
    let mut second =
        Second::start("second_reaches_a_file_size_limit", "trap '' XFSZ; ulimit -f 2048", dir.path());
    second.expect("Make room on the disk");
    second.expect("continued");
    second.finish();
    let store = open(&dir).unwrap();
    assert_eq!(store.get(b"key", 9).unwrap().unwrap(), b"two");
}
