//! The memory that a job needs is held before the first job: a neighbour that takes all the rest changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use cofferdam::pool::{Job, Limits};
use cofferdam::verdict::Verdict;
use cofferdam_test_skips::skip;
use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::command::guest;
use cofferdam_tests::support::guests::{FULL_OUTPUT, SCRIPT};
use cofferdam_tests::support::pool::{assert_good_block, build, call, proc_field, small};
use cofferdam_tests::support::serve::{Server, serve};

cofferdam::enable_test_support!();

const MIB: u64 = 1 << 20;

/// What the cgroup allows: several times what the command needs to start.
const LIMIT: u64 = 768 * MIB;

/// What the neighbour leaves: for page tables, and for what the kernel keeps of a connection.
const LEFT: u64 = 12 * MIB;

/// A process that fills a file in memory until so much as [`LEFT`] is left of its cgroup. It is killed when dropped.
struct Neighbour(Child);

impl Neighbour {
    fn in_cgroup(cgroup: &ChildCgroup, file: &std::path::Path) -> Self {
        let used = ["memory.current", "memory.usage_in_bytes"].map(|name| cgroup.directory().join(name));
        let used = used.into_iter().find(|path| path.exists()).expect("the kernel says what is used");
        let script = format!(
            "echo $$ >{procs}; while [ $(cat {used}) -lt {until} ]; do \
             dd if=/dev/zero bs=1M count=1 2>/dev/null >>{file}; done; echo full; read -r end",
            procs = cgroup.procs().display(),
            used = used.display(),
            until = LIMIT - LEFT,
            file = file.display(),
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("there is a shell");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("it can be read");
        assert_eq!(line, "full\n");
        Self(child)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_block_that_uses_all_it_may_completes_beside_a_neighbour_that_has_taken_the_rest() {
    let Some(cgroup) = ChildCgroup::limited_to(LIMIT) else { return };
    let Ok(file) = tempfile::NamedTempFile::new_in("/dev/shm") else {
        return skip("/dev/shm cannot be written to");
    };
    let server = Server::ready(serve(&guest("full_output.wat")).with("--spares 0").within(&cgroup));
    let post = |height: u32| server.post(&format!("/v1/blocks/{height}"), &[], b"a block").expect(200);
    // What a first request takes of the supervisor's own memory is taken.
    post(0);
    let neighbour = Neighbour::in_cgroup(&cgroup, file.path());
    for height in 1..4 {
        let answer = post(height);
        assert_eq!((answer.must("cofferdam-attempts"), answer.body.len() as u64), ("1", 128 * MIB));
    }
    drop(neighbour);
    let output = server.end();
    assert_eq!(cgroup.oom_kills(), 0, "{output}");
}

#[test]
fn the_arenas_have_all_their_memory_before_the_first_job_and_after_any() {
    const INPUT: u64 = 3 * MIB;
    const OUTPUT: u64 = 5 * MIB;
    let limits = Limits { input_bytes: INPUT, output_bytes: OUTPUT, ..Limits::default() };
    let pool = build(small(SCRIPT).limits(limits).layer_bytes(2 * MIB));
    let held = || {
        let listed = fs::read_dir("/proc/self/fd").expect("/proc is there");
        let mut held: Vec<_> = listed
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = fs::read_link(&path).ok()?.to_str()?.strip_prefix("/memfd:cofferdam-")?.to_owned();
                let file = fs::metadata(&path).ok()?;
                let size =
                    [INPUT, 2 * MIB, OUTPUT + 64 * 1024].contains(&file.len()).then_some(file.len())?;
                Some((name.split(' ').next()?.to_owned(), size, file.blocks() * 512))
            })
            .collect();
        held.sort_unstable();
        held.dedup();
        held
    };
    let expected = [
        ("input".to_owned(), 2 * MIB, 2 * MIB),
        ("input".to_owned(), INPUT, INPUT),
        ("output".to_owned(), OUTPUT + 64 * 1024, OUTPUT + 64 * 1024),
    ];
    assert_eq!(held(), expected);
    assert_good_block(&pool, 1);
    assert_eq!(held(), expected);
}

#[test]
fn a_worker_grows_by_next_to_nothing_when_a_block_uses_all_it_may() {
    let pool = build(small(FULL_OUTPUT));
    let block = |height| {
        let result = call(&pool, &Job::block(height, Vec::new()));
        assert_eq!(result.verdict, Verdict::COMPLETED);
        result.worker.pid
    };
    // Its own memory in kilobytes. The allocator gives none back. Pages of the arenas are held already when they are mapped
    // here, so they do not count.
    let own = |pid| {
        let line = proc_field(pid, "status", "RssAnon");
        line.trim_end_matches(" kB").trim().parse::<u64>().expect("a number")
    };
    let before = own(block(0));
    let after = own(block(1));
    // A table alone has 8 MiB.
    assert!(after - before < 2048, "{before} kB, and {after} kB afterwards");
}
