//! Another module is put in place while clients ask without pause, and none of them notices more than another profile:
//! no request fails, every answer is by the one module or by the other, and right for it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::command::{Cofferdam, Files, extend_digest, wait_until};
use cofferdam_tests::support::guests::Act;
use cofferdam_tests::support::pool::send;
use cofferdam_tests::support::serve::{Client, Server, await_busy, begin, script, serve};
use nix::sys::signal::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Connections that ask all the time.
const CLIENTS: u32 = 6;

/// A module that answers each block with a pair: this letter, and the block. A block has at most 100 bytes.
fn module(letter: char) -> String {
    format!(
        r#"(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    ;; The height comes first, and gives way to what stands before the block in the message.
    (call $load_input (i32.const 65))
    (i32.store (i32.const 60) (i32.add (call $host_len) (i32.const 1)))
    (i32.store (i32.const 64) (i32.const {head}))
    (i32.store8 (i32.const 68) (i32.sub (call $host_len) (i32.const 4)))
    (call $flush (i32.const 64))))"#,
        head = u32::from_le_bytes([0x0a, 1, letter as u8, 0x0a]),
    )
}

/// What the module with this letter writes for a block.
fn writes(letter: char, block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len()).expect("short").to_le_bytes();
    [&1u32.to_le_bytes()[..], &[letter as u8], &length, block].concat()
}

/// Which modules there are, by the profile that answers name.
type Letters = BTreeMap<String, char>;

/// What one client saw: the letters that answered it, in order, each once in a row.
type Seen = Vec<char>;

/// Stops all clients when one has failed.
struct StopAfterFailure<'a>(&'a AtomicBool);

impl Drop for StopAfterFailure<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Asks without pause until it is told to stop, and checks each answer.
fn ask(address: SocketAddr, client: u32, letters: &Letters, stop: &AtomicBool, answers: &AtomicU64) -> Seen {
    let mut connection = Client::connect(address);
    let mut seen = Seen::new();
    let _stop = StopAfterFailure(stop);
    for height in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let block = format!("block {height} of {client}").into_bytes();
        let response = connection.post(&format!("/v1/blocks/{height}"), &[], &block).expect(200);
        let profile = response.must("cofferdam-profile");
        let letter = *letters.get(profile).unwrap_or_else(|| panic!("unknown: {profile}"));
        assert_eq!(response.body, writes(letter, &block));
        let writes = hex::encode(Sha256::digest(&response.body));
        let line = json!({ "height": height, "verdict": "completed", "writes_sha256": writes });
        assert_eq!(response.must("cofferdam-digest"), extend_digest(profile, &block, &line));
        if seen.last() != Some(&letter) {
            seen.push(letter);
        }
        answers.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

/// Does one thing after the other while clients ask, and gives what each of them saw.
fn under_load(server: &Server, letters: &Letters, what: &[&dyn Fn()]) -> Vec<Seen> {
    let stop = AtomicBool::new(false);
    let answers: Vec<_> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    // Before, between and after.
    let some_more = || {
        for answers in &answers {
            // The next one may have been on its way.
            let until = answers.load(Ordering::Relaxed) + 20;
            wait_until("each client is answered", || {
                assert!(!stop.load(Ordering::Relaxed), "a request failed");
                (answers.load(Ordering::Relaxed) >= until).then_some(())
            });
        }
    };
    thread::scope(|scope| {
        let (stop, answers, address) = (&stop, &answers[..], server.address);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || ask(address, client, letters, stop, &answers[client as usize])))
            .collect();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            some_more();
            for what in what {
                what();
                some_more();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let seen = clients.into_iter().map(|client| client.join().expect("no request fails")).collect();
        done.expect("what was done went well");
        seen
    })
}

/// The profiles of both modules, by asking a server of each.
fn letters(files: &Files, arguments: &str) -> Letters {
    let profile = |letter: char| {
        let module = files.add(&format!("{letter}.wat"), module(letter));
        let server = Server::ready(serve(&module).with(arguments));
        let profile = server.profile();
        server.end();
        (profile, letter)
    };
    ['a', 'b'].map(profile).into()
}

fn server(module: &Path, arguments: &str) -> Cofferdam<'static> {
    serve(module).with(arguments).with("--queue-wait 5m --log cofferdam=info")
}

/// Checks that as many processes and descriptors are left as there were before.
fn assert_back_to_normal(server: &Server, workers: usize, descriptors: usize) {
    wait_until("the old workers are gone", || (server.running.workers().len() == workers).then_some(()));
    wait_until("descriptors are what they were", || {
        (server.running.descriptors() <= descriptors + 1).then_some(())
    });
    assert!(server.status()["swap"].is_null());
    assert_eq!(server.status()["totals"]["deaths"], 0);
    server.get("/readyz").expect(200);
}

fn swap_by_signal(server: &Server, path: &Path, letter: char, letters: &Letters) {
    let beside = path.with_extension("new");
    fs::write(&beside, module(letter))
        .and_then(|()| fs::rename(&beside, path))
        .expect("a file can be replaced");
    server.running.signal(Signal::SIGHUP);
    wait_until("the other module serves", || (letters.get(&server.profile()) == Some(&letter)).then_some(()));
    wait_until("the swap is over", || server.status()["swap"].is_null().then_some(()));
}

fn swap_by_admin(server: &Server, letter: char, letters: &Letters) {
    let body = server.admin("/admin/swap", module(letter).as_bytes()).expect(200).json();
    let profile = body["profile"].as_str().expect("a profile");
    assert_eq!(letters.get(profile), Some(&letter));
    assert_eq!(server.profile(), profile);
}

#[test]
fn modules_are_swapped_under_load_by_signal_and_by_request() {
    let files = Files::new();
    let letters = letters(&files, "");
    let path = files.add("served.wat", module('a'));
    let server = Server::ready(server(&path, "--workers 2 --spares 1"));
    for _ in 0..20 {
        server.post("/v1/blocks/1", &[], b"x").expect(200);
    }
    let descriptors = server.running.descriptors();
    let seen = under_load(&server, &letters, &[&|| swap_by_signal(&server, &path, 'b', &letters)]);
    assert_eq!(seen, vec![vec!['a', 'b']; CLIENTS as usize]);
    assert_eq!(server.status()["module"]["name"], "served.wat");
    let seen = under_load(&server, &letters, &[&|| swap_by_admin(&server, 'a', &letters)]);
    assert_eq!(seen, vec![vec!['b', 'a']; CLIENTS as usize]);
    // The same again changes nothing.
    let seen = under_load(&server, &letters, &[&|| swap_by_admin(&server, 'a', &letters)]);
    assert_eq!(seen, vec![vec!['a']; CLIENTS as usize]);
    assert_back_to_normal(&server, 3, descriptors);
    server.end();
}

#[test]
fn a_module_that_is_none_is_refused_and_the_old_one_serves_on() {
    let files = Files::new();
    let letters = letters(&files, "");
    let path = files.add("served.wat", module('a'));
    let server = Server::ready(server(&path, ""));
    let descriptors = server.running.descriptors();
    let refused = || {
        for bad in [&b"no module"[..], b"(module", &[0; 70_000]] {
            let response = server.admin("/admin/swap", bad);
            response.problem(409, "urn:cofferdam:problem:not-swapped");
        }
        fs::write(&path, "no module").expect("a file can be written");
        server.admin("/admin/swap", b"").problem(409, "urn:cofferdam:problem:not-swapped");
        server.running.signal(Signal::SIGHUP);
        fs::remove_file(&path).expect("it is there");
        server.admin("/admin/swap", b"").problem(409, "urn:cofferdam:problem:not-swapped");
    };
    let seen = under_load(&server, &letters, &[&refused]);
    assert_eq!(seen, vec![vec!['a']; CLIENTS as usize]);
    let mut admin = Client::connect(server.admin);
    admin.get("/admin/status").expect(200);
    admin.get("/admin/swap").problem(405, "urn:cofferdam:problem:method");
    admin.post("/v1/blocks/1", &[], b"").problem(404, "urn:cofferdam:problem:not-found");
    assert_back_to_normal(&server, 1, descriptors);
    let output = server.end();
    assert!(output.stderr.contains("the old module still serves"), "{output}");
}

/// A swap where there is memory for one pool and not for two.
fn swap_in_little_memory(bytes: u64, workers: usize, arguments: &str) {
    let Some(cgroup) = ChildCgroup::limited_to(bytes) else { return };
    let files = Files::new();
    // Without huge pages, for what they take is not known beforehand.
    let arguments =
        format!("--memory 128MiB --huge-pages off --max-output-bytes 1MiB --max-body-bytes 1MiB {arguments}");
    let letters = letters(&files, &arguments);
    let path = files.add("served.wat", module('a'));
    let server = Server::ready(server(&path, &arguments).within(&cgroup));
    for _ in 0..20 {
        server.post("/v1/blocks/1", &[], b"x").expect(200);
    }
    let descriptors = server.running.descriptors();
    let seen = under_load(
        &server,
        &letters,
        &[&|| swap_by_signal(&server, &path, 'b', &letters), &|| swap_by_admin(&server, 'a', &letters)],
    );
    assert_eq!(seen, vec![vec!['a', 'b', 'a']; CLIENTS as usize]);
    assert_back_to_normal(&server, workers, descriptors);
    let output = server.end();
    let one_by_one = output.stderr.matches("workers are replaced one at a time").count();
    assert_eq!(one_by_one, 2, "there was memory for both: {output}");
    assert_eq!(cgroup.oom_kills(), 0);
}

#[test]
fn with_memory_for_one_pool_workers_change_over_one_at_a_time() {
    // Three workers need 3 * (128 + 48 + arenas) + 64 MiB, and six twice that.
    swap_in_little_memory(850 << 20, 3, "--workers 2 --spares 1");
}

#[test]
fn with_memory_for_one_worker_requests_wait_while_it_changes_over() {
    swap_in_little_memory(300 << 20, 1, "--workers 1 --spares 0");
}

/// What a refused swap says.
fn refusal(server: &Server, letter: char) -> String {
    let body = server.admin("/admin/swap", module(letter).as_bytes());
    let body = body.problem(409, "urn:cofferdam:problem:not-swapped");
    body["detail"].as_str().expect("a sentence").to_owned()
}

#[test]
fn one_swap_at_a_time() {
    // It spins, so that the swap has to wait for it, until its time is over or its worker is killed.
    let server = Server::ready(script().with("--retries 0"));
    let runs = begin(&server, "/v1/blocks/1", &[], &Act::Spin(0).input());
    let busy = await_busy(&server);
    thread::scope(|scope| {
        let admin = server.admin;
        let swap = move || Client::connect(admin).post("/admin/swap", &[], module('a').as_bytes());
        let first = scope.spawn(swap);
        wait_until("the first swap waits for what runs", || {
            let status = server.status();
            status["swap"]["state"].as_str()?.contains("finishing what runs").then_some(())
        });
        assert_eq!(refusal(&server, 'b'), "another swap is in progress: try again when it is over");
        assert!(!first.is_finished());
        send(busy, Signal::SIGKILL);
        first.join().expect("an answer").expect(200);
    });
    drop(runs);
    server.admin("/admin/swap", module('b').as_bytes()).expect(200);
    server.end();
}

#[test]
fn none_while_it_drains() {
    let files = Files::new();
    let path = files.add("served.wat", module('a'));
    let server = Server::ready(server(&path, "--drain-delay 10m"));
    let (profile, workers) = (server.profile(), server.running.workers());
    server.running.signal(Signal::SIGTERM);
    wait_until("it drains", || (server.get("/readyz").status == 503).then_some(()));
    let refused = refusal(&server, 'b');
    assert!(refused.contains("this process is draining"), "{refused}");
    // Requests are still taken, by the old module.
    server.post("/v1/blocks/1", &[], b"x").expect(200);
    assert_eq!((server.profile(), server.running.workers()), (profile, workers));
    server.running.signal(Signal::SIGKILL);
    server.running.finish();
}
