//! More connections than there is room for.

use super::*;

/// Lets this process and the server have enough descriptors for `clients` connections; whether they may.
fn raise_limits(server: &Server, clients: u64) -> bool {
    let most = clients + 500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if setrlimit(Resource::RLIMIT_NOFILE, hard.max(most), hard.max(most)).is_err() {
        skip(format_args!("{most} descriptors are needed, and {hard} allowed"));
        return false;
    }
    limit_descriptors(server, most)
}

fn limit_descriptors(server: &Server, most: u64) -> bool {
    let pid = server.running.pid().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:{most}")]).status();
    let is_set = set.is_ok_and(|status| status.success());
    if !is_set {
        skip(format_args!("prlimit (util-linux) cannot set a limit of {most} descriptors here"));
    }
    is_set
}

/// Opens so many connections, of which each sends `bytes` and nothing more, and checks that others are served meanwhile.
fn crowd(besieged: &Besieged, clients: usize, bytes: &[u8]) -> Vec<Client> {
    let mut crowd = Vec::with_capacity(clients);
    for number in 0..clients {
        let mut client = besieged.server.connect();
        // Where places are few, it may be out again already.
        let _ = client.send(bytes);
        crowd.push(client);
        if number % 500 == 0 {
            besieged.assert_serves();
        }
    }
    besieged.assert_serves();
    crowd
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    const CLIENTS: usize = 10_000;
    let _descriptors = exclusively("descriptors");
    let besieged = Besieged::new(script().with("--max-connections 20000"));
    if !raise_limits(&besieged.server, CLIENTS as u64) {
        return;
    }
    let crowd = crowd(&besieged, CLIENTS, b"");
    wait_until("all of them are in", || {
        (besieged.server.metrics().get("cofferdam_connections") >= 10_000.0).then_some(())
    });
    for _ in 0..20 {
        besieged.assert_serves();
    }
    drop(crowd);
    besieged.end();
}

#[test]
fn where_places_are_few_the_idle_ones_make_room() {
    const CLIENTS: usize = 10_000;
    let _descriptors = exclusively("descriptors");
    for bytes in [&b""[..], b"GET /livez HTTP/1.1\r\nHost: te", b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"]
    {
        let besieged = Besieged::new(script().with("--max-connections 200"));
        if !raise_limits(&besieged.server, CLIENTS as u64) {
            return;
        }
        let crowd = crowd(&besieged, CLIENTS, bytes);
        await_connections(&besieged.server, 201.0);
        besieged.assert_serves();
        drop(crowd);
        besieged.end();
    }
}

#[test]
fn where_descriptors_are_few_the_idle_ones_make_room() {
    const CLIENTS: usize = 600;
    let _descriptors = exclusively("descriptors");
    let besieged = Besieged::new(script().with("--max-connections 20000"));
    if !raise_limits(&besieged.server, CLIENTS as u64) || !limit_descriptors(&besieged.server, 300) {
        return;
    }
    let crowd = crowd(&besieged, CLIENTS, b"");
    for _ in 0..20 {
        besieged.assert_serves();
    }
    drop(crowd);
    besieged.end();
}

#[test]
fn a_busy_connection_is_not_the_one_that_makes_room() {
    let besieged = Besieged::new(script().with("--max-connections 10 --queue-wait 5m"));
    let mut busy = besieged.server.connect();
    busy.send(&post("/v1/blocks/1", &[], &Act::Spin(600_000_000).input())).expect("sent");
    wait_until("it runs", || (besieged.server.status()["queue"]["running"] == 1).then_some(()));
    let crowd: Vec<_> = (0..200).map(|_| besieged.server.connect()).collect();
    busy.response().expect("an answer").expect(200);
    drop((crowd, busy));
    besieged.end();
}
