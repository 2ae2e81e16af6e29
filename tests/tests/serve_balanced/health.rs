//! What a balancer learns of the health of a process.

use super::*;

/// A process with two workers and none to spare, and HAProxy before it, if there is one.
fn watched(arguments: &str) -> (Server, Option<Balancer>) {
    let network = Network::new();
    let server = Server::start(network.host(11), arguments);
    let balancer = Balancer::start(Kind::Haproxy, network, Retries::On);
    if let Some(balancer) = &balancer {
        await_haproxy(balancer, |status, weight| status == "UP" && weight == "100");
    }
    (server, balancer)
}

/// How long it takes until HAProxy says so of the server `a`.
fn await_haproxy(balancer: &Balancer, is_it: impl Fn(&str, &str) -> bool) -> Duration {
    let begun = Instant::now();
    wait_until("HAProxy has noticed", || {
        let (status, weight) = balancer.server("a");
        is_it(&status, &weight).then_some(())
    });
    begun.elapsed()
}

/// "Within a second", for a machine that has other things to do.
const SOON: Duration = Duration::from_secs(5);

/// How long it takes until `look` is true.
fn follows(what: &str, mut look: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    wait_until(what, || look().then_some(()));
    let took = begun.elapsed();
    println!("{what}: after {took:.1?}");
    assert!(took < SOON, "{what}: after {took:?}");
    took
}

fn readyz(address: SocketAddr) -> String {
    get(address, "/readyz?verbose")
        .map_or_else(|error| error.to_string(), |reply| format!("{} {}", reply.status, reply.text()))
}

#[test]
fn the_weight_follows_the_death_of_a_worker() {
    let _one = exclusively("serve-balanced");
    let (server, balancer) = watched("--workers 2 --spares 0");
    assert_eq!(server.agent_line().unwrap(), "ready up 100%");
    // A worker that dies again and again is replaced after ever longer pauses: up to a second.
    let kept = server.running().await_workers(2)[0];
    let kills = Cell::new(0);
    let kill_the_other = || {
        let others = server.running().workers().into_iter().filter(|pid| *pid != kept);
        // Two less than it bears.
        others.filter(|_| kills.get() < 18).for_each(|pid| {
            kills.set(kills.get() + u32::from(send(pid, Signal::SIGKILL).is_ok()));
        });
    };
    follows("the agent says 50% when one of two workers has died", || {
        kill_the_other();
        server.agent_line().is_ok_and(|line| line == "ready up 50%")
    });
    follows("/readyz says that one of two is ready, and yes", || {
        kill_the_other();
        let said = readyz(server.address());
        said.starts_with("200") && said.contains("1 of 2 ready")
    });
    if let Some(balancer) = &balancer {
        let took = await_haproxy(balancer, |status, weight| {
            kill_the_other();
            status.starts_with("UP") && weight == "50"
        });
        println!("HAProxy gives it half the weight: after {took:.1?} more, and {} deaths", kills.get());
    }
    let took = follows("the agent says 100% when it is replaced", || {
        server.agent_line().is_ok_and(|line| line == "ready up 100%")
    });
    if let Some(balancer) = &balancer {
        let took = took + await_haproxy(balancer, |status, weight| status == "UP" && weight == "100");
        println!("HAProxy gives it the whole weight: after {took:.1?}");
    }
    server.stop();
}

#[test]
fn a_process_without_workers_is_down_and_ends_with_69() {
    // The default policy bears twenty deaths of idle workers within a minute.
    const BORNE: u32 = 20;
    let _one = exclusively("serve-balanced");
    let (server, balancer) = watched("--workers 1 --spares 0");
    let mut client = Client::new(server.address());
    let runtime = runtime();
    let mut last = Instant::now();
    for deaths in 0..=BORNE {
        // Done something, a worker is replaced at once.
        let reply = runtime.block_on(client.post(&Work::new(false, deaths, 0, b"")));
        assert_eq!(reply.map(|reply| reply.status.as_u16()), Ok(200));
        let worker = server.running().await_workers(1)[0];
        // Asleep, it waits for its next job: it dies as one that is idle.
        wait_until("the worker is idle", || (process_state(worker) == Some('S')).then_some(()));
        last = Instant::now();
        send(worker, Signal::SIGKILL).expect("the worker is there");
        if deaths < BORNE {
            wait_until("the worker is replaced", || {
                let workers = server.running().workers();
                (workers.iter().any(|pid| *pid != worker) && server.is_ready()).then_some(())
            });
        }
    }
    let up = || server.agent_line().is_ok_and(|line| line.contains("up"));
    let ready = || server.is_ready();
    follows("the agent does not say up any more when the last slot is given up", || !up());
    println!("the agent: {:?}; /readyz: {:?}", server.agent_line(), readyz(server.address()));
    follows("/readyz says no", || !ready());
    if let Some(balancer) = &balancer {
        await_haproxy(balancer, |status, _| status.starts_with("DOWN"));
        println!("HAProxy takes it for down: {:.1?} after the death", last.elapsed());
    }
    let output = server.finish();
    println!("ended {:.1?} after the death at the latest", last.elapsed());
    assert_eq!(output.code(), 69, "{output}");
    assert!(output.reason().contains("no healthy worker"), "{output}");
}

#[test]
fn a_process_that_drains_says_so_and_serves_on_until_it_ends() {
    let _one = exclusively("serve-balanced");
    let (mut server, balancer) = watched("--workers 2 --spares 0");
    let runtime = runtime();
    let work = Work::new(false, 1, 0, b"drain");
    let mut client = Client::new(server.address());
    let before = runtime.block_on(client.post(&work)).unwrap();
    server.running().signal(Signal::SIGTERM);
    let begun = Instant::now();
    follows("the agent says drain", || server.agent_line().is_ok_and(|line| line == "drain"));
    follows("/readyz says no, and why", || {
        let said = readyz(server.address());
        said.starts_with("503") && said.contains("draining")
    });
    if let Some(balancer) = &balancer {
        let took =
            await_haproxy(balancer, |status, _| status.starts_with("DRAIN") || status.starts_with("DOWN"));
        println!("HAProxy says {:?}: after {took:.1?} more", balancer.server("a"));
    }
    // By the connection from before, and by new ones, for as long as it takes any.
    let mut answered = 0;
    let mut ask = |client: &mut Client| {
        let reply = runtime.block_on(client.post(&work)).unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body), (200, &before.body));
        assert_eq!(reply.header("connection"), "close");
        answered += 1;
    };
    ask(&mut client);
    while let Ok(mut client) = runtime.block_on(Client::connected(server.address())) {
        ask(&mut client);
    }
    assert!(answered > 1, "it serves on while it drains");
    wait_until("it ends", || (!server.running_mut().is_running()).then_some(()));
    println!(
        "{answered} requests were answered while it drained, and it ended after {:.1?}",
        begun.elapsed()
    );
    let output = server.finish();
    assert_eq!(output.code(), 0, "{output}");
}
