//! What surrounds a command: values of variables as unit files and Compose files give them, terminals without colours, and
//! being the first process of a container.

use std::process::{Child, Command, Stdio};

use cofferdam_test_skips::skip;
use cofferdam_tests::support::command::{Cofferdam, Output, cache, cofferdam, guest, send, wait_until};
use cofferdam_tests::support::node::{Node, Place, node};
use cofferdam_tests::support::pool::is_running;
use cofferdam_tests::support::regtest::chain;
use cofferdam_tests::support::serve::{Client, address, serve};
use nix::sys::signal::Signal;

/// A server that ends with 1, because its module is not there, if its options are read, and with 2 else.
fn with(name: &str, value: &str) -> Output {
    Cofferdam::new(["serve", "/nowhere.wasm"]).variable(name, value).output()
}

#[test]
fn flags_are_what_compose_files_and_unit_files_say() {
    for value in ["1", "0", "yes", "no", "on", "off", "true", "false", "TRUE", "Yes"] {
        for name in ["COFFERDAM_MLOCK", "COFFERDAM_NO_CACHE", "COFFERDAM_SKIP_ADMISSION"] {
            with(name, value).expect_code(1);
        }
    }
    let output = with("COFFERDAM_MLOCK", "perhaps").expect_code(2);
    assert!(output.stderr.contains("COFFERDAM_MLOCK"), "{output}");
    let output = with("COFFERDAM_WORKERS", "many").expect_code(2);
    assert!(output.stderr.contains("COFFERDAM_WORKERS") && output.stderr.contains("'many'"), "{output}");
    // And what they say counts: a store that was begun without a tree gets none later.
    let place = Place::default();
    let blocks = place.records("blocks.blk", &chain(3));
    for (name, value, code) in [("off", "0", 0), ("off", "yes", 1), ("on", "1", 0), ("on", "on", 0)] {
        let command = node(&place.at(name)).path("--blocks", &blocks).with("--exit-at tip");
        Node::to_the_end(command.variable("COFFERDAM_STATE_TREE", value)).expect_code(code);
    }
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let names = [
        "MLOCK",
        "FUEL",
        "AGENT",
        "CACHE_DIR",
        "LISTEN",
        "WORKERS",
        "MEMORY",
        "DEADLINE",
        "LOG",
        "LOG_FORMAT",
        "DB_PATH",
    ];
    let mut all = Cofferdam::new(["serve", "/nowhere.wasm"]);
    for name in names {
        let name = format!("COFFERDAM_{name}");
        with(&name, "").expect_code(1);
        all = all.variable(&name, "");
    }
    all.output().expect_code(1);
    let place = Place::default();
    let command = node(&place.at("db")).path("--blocks", &place.records("blocks.blk", &chain(3)));
    let command = command.variable("COFFERDAM_CONFIG", "").variable("HOST", "").variable("PORT", "");
    Node::to_the_end(command.variable("COFFERDAM_AUTH", "").with("--exit-at tip")).expect_code(0);
    let probe = Cofferdam::new(["probe", "--memory", "16MiB"]).variable("COFFERDAM_CACHE_DIR", "");
    probe.variable("COFFERDAM_LOG_FORMAT", "").output().expect_code(0);
}

#[test]
fn a_port_that_is_none_is_refused_by_the_name_of_its_variable() {
    let node = |name: &str, value: &str| {
        let command =
            Cofferdam::new(["node", "--db-path", "/dev/null/db", "--daemon-rpc-url", "http://127.0.0.1:1"]);
        command.variable(name, value).output()
    };
    for value in ["99999", "-1", "http"] {
        let output = node("PORT", value).expect_code(2);
        assert!(output.reason().starts_with(&format!("the variable PORT is \"{value}\"")), "{output}");
    }
    let output = node("COFFERDAM_PORT", "99999").expect_code(2);
    assert!(output.stderr.contains("variable COFFERDAM_PORT"), "{output}");
}

/// What a command prints on a terminal.
fn on_a_terminal(variables: &[(&str, &str)]) -> Option<String> {
    let line = format!("{} probe --memory 16MiB --log debug", cofferdam().display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    command.envs(variables.iter().copied()).env("COFFERDAM_CACHE_DIR", cache()).stdin(Stdio::null());
    let output = command.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    const ESCAPE: char = '\x1b';
    let Some(coloured) = on_a_terminal(&[]) else {
        skip("there is no script(1) to make a terminal");
        return;
    };
    assert!(coloured.contains(ESCAPE) && coloured.contains("committed 16 MiB"), "{coloured}");
    assert!(on_a_terminal(&[("NO_COLOR", "")]).is_some_and(|text| text.contains(ESCAPE)));
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_a_terminal(&[variable]).expect("as before");
        // Bars move the cursor, which is no colour.
        assert!(!plain.contains("\x1b[3") && !plain.contains("\x1b[2m"), "{variable:?}: {plain}");
        assert!(plain.contains("committed 16 MiB"), "{variable:?}: {plain}");
    }
}

/// A process that is killed if a test fails before it ends.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The children of a process, those included that have ended and were not waited for.
fn children(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_dir("/proc").expect("/proc is there");
    let pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = |pid: u32| -> Option<u32> {
        // The state and the parent follow the name, which is in brackets.
        stat(pid).rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    pids.filter(|child| parent(*child) == Some(pid)).collect()
}

fn stat(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
}

#[test]
fn as_process_1_it_reaps_orphans_and_replaces_its_workers() {
    let address = address();
    // Two orphans: their parent ends before they do, and they end once the server runs in its place.
    let script = "(sleep 2 & sleep 3 &) ; exec \"$0\" \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]).arg(cofferdam());
    unshare
        .arg("serve")
        .arg(guest("script.wat"))
        .args(["--memory", "16MiB", "--spares", "0", "--log", "debug"]);
    unshare.args(["--drain-delay", "0s", "--listen", &address.to_string()]).stderr(Stdio::piped());
    let mut unshare =
        Guarded(unshare.env("COFFERDAM_CACHE_DIR", cache()).spawn().expect("unshare(1) is everywhere"));
    let started = wait_until("the server listens", || {
        if unshare.0.try_wait().expect("a child of ours").is_some() {
            return Some(false);
        }
        std::net::TcpStream::connect(address).is_ok().then_some(true)
    });
    if !started {
        let mut said = String::new();
        let mut stderr = unshare.0.stderr.take().expect("it is a pipe");
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("it is text");
        skip(format_args!("no process namespace can be had here: {said}"));
        return;
    }
    let ready = || (Client::connect(address).get("/readyz").status == 200).then_some(());
    wait_until("the server is ready", ready);
    let server = children(unshare.0.id())[0];
    let workers = || -> Vec<u32> {
        let is_worker = |pid: &u32| stat(*pid).contains("(cofferdam-work");
        children(server).into_iter().filter(is_worker).collect()
    };
    let victim = workers()[0];
    send(victim, Signal::SIGKILL).expect("it is there");
    wait_until("the worker is replaced, and the orphans are gone", || {
        let left = children(server);
        (left.len() == 1 && left == workers() && left[0] != victim).then_some(())
    });
    wait_until("it is ready again", ready);
    // How its worker ended was not lost.
    let metrics = Client::connect(address).get("/metrics").text();
    assert!(metrics.contains("cofferdam_deaths_total{verdict=\"killed\"} 1"), "{metrics}");
    send(server, Signal::SIGTERM).expect("it is there");
    let ended = wait_until("it ends", || unshare.0.try_wait().expect("a child of ours"));
    assert!(ended.success(), "{ended}");
    assert!(!is_running(server));
}

#[test]
fn a_server_listens_where_a_name_or_a_path_says() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let place = Place::default();
    let ask = |path: &std::path::Path| -> Option<String> {
        let mut stream = UnixStream::connect(path).ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer).filter(|answer| answer.starts_with("HTTP/1.1 200"))
    };
    let (socket, agent) = (place.at("http.sock"), place.at("agent.sock"));
    // A socket that was left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("it can be made"));
    let listen = format!("--listen unix:{} --agent unix:{}", socket.display(), agent.display());
    let running = serve(&guest("script.wat")).with(&listen).start();
    wait_until("the server answers", || ask(&socket));
    let mut line = String::new();
    UnixStream::connect(&agent).and_then(|mut stream| stream.read_to_string(&mut line)).expect("an agent");
    assert!(line.contains("up"), "{line}");
    let second = serve(&guest("script.wat")).with(&listen).output().expect_code(2);
    assert!(second.reason().contains("another process listens there"), "{second}");
    running.signal(Signal::SIGTERM);
    running.finish().expect_code(0);
    assert!(!socket.exists() && !agent.exists(), "sockets are removed at the end");

    let host = format!("unix:{}", socket.display());
    let blocks = place.records("blocks.blk", &chain(3));
    let running = node(&place.at("db")).path("--blocks", &blocks).with(&format!("--host {host}")).start();
    wait_until("the node answers", || ask(&socket));
    running.signal(Signal::SIGTERM);
    running.finish().expect_code(0);
    assert!(!socket.exists());

    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = free.expect("a port is free").port();
    let running = serve(&guest("script.wat")).with(&format!("--listen localhost:{port}")).start();
    wait_until("the server answers", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    running.signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn a_node_has_the_connection_options_of_a_server() {
    let place = Place::default();
    let command = node(&place.at("db")).path("--blocks", &place.records("blocks.blk", &chain(3)));
    let options = "--header-timeout 1s --max-connections 100 --body-timeout 10s --buffered 64MiB";
    let node = Node::start(command.with(options));
    let mut idle = Client::connect(node.address);
    idle.get("/livez").expect(200);
    assert!(
        idle.is_closed_within(std::time::Duration::from_mins(1)),
        "an idle connection is closed after a second"
    );
    node.end();
}
