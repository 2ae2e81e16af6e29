//! Requests behind HAProxy and nginx while hosts are killed.

use super::*;

fn requests() -> u64 {
    let given = std::env::var("COFFERDAM_LB_REQUESTS").ok();
    given.map_or(20_000, |given| given.parse().expect("COFFERDAM_LB_REQUESTS is a number"))
}

/// Different requests: blocks and views, most of them short, some of ten milliseconds, so that kills meet them. The last
/// one, [`LONG`], takes some twenty milliseconds: so long that requests queue, and so short that none waits for seconds, even
/// where neighbours keep the processors busy.
fn works() -> Vec<Work> {
    let mut random = Random::new(1);
    let one = |number: u32| {
        let rounds = if number.is_multiple_of(50) { 5_000_000 } else { 2000 + number };
        let length = random.below(4096);
        let bytes: Vec<u8> = (0..length).map(|_| random.below(256).to_le_bytes()[0]).collect();
        Work::new(number % 5 == 4, number * 1000, rounds, &bytes)
    };
    (0..LONG).map(one).chain([Work::new(false, 77, 10_000_000, b"long")]).collect()
}

/// The number of the one among [`works`] that takes long.
const LONG: u32 = 500;

/// What is right for each of them: body and digest. From a process that nothing happens to, compared with a model.
fn quiet(network: Network, works: &[Work]) -> Vec<(Vec<u8>, String)> {
    let server = Server::start(network.host(20), "--workers 1 --spares 0");
    let answers = runtime().block_on(async {
        let mut client = Client::new(server.address());
        let mut answers = Vec::new();
        for work in works {
            let reply = client.post(work).await.expect("a quiet process answers");
            assert_eq!(reply.status, 200, "{work:?}: {reply:?}");
            assert_eq!(reply.body, work.answer(), "{work:?}");
            let digest = reply.header("cofferdam-digest").to_owned();
            assert_eq!(digest, work.digest(reply.header("cofferdam-profile")), "{work:?}");
            answers.push((reply.body.to_vec(), digest));
        }
        answers
    });
    server.stop();
    answers
}

/// Three processes, some of which may be gone for the moment.
struct Fleet {
    network: Network,
    servers: Mutex<Vec<Option<Server>>>,
}

impl Fleet {
    fn start(network: Network) -> Self {
        let servers = (0..3).map(|index| Some(Self::start_one(network, index))).collect();
        Self { network, servers: Mutex::new(servers) }
    }

    fn start_one(network: Network, index: u8) -> Server {
        Server::start(network.host(11 + index), HOST)
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Option<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills a worker of one process: in turns the oldest, so that all are killed, and one in the middle of a long job, so
    /// that jobs are lost. Whether there was one.
    fn kill_worker(&self, turn: usize) -> bool {
        let servers = self.servers();
        let Some(server) = &servers[turn % servers.len()] else { return false };
        let workers = server.running().workers();
        drop(servers);
        let works = if turn.is_multiple_of(2) { None } else { working(&workers) };
        let chosen = works.or_else(|| workers.into_iter().min_by_key(|pid| start_time(*pid)));
        chosen.is_some_and(|pid| send(pid, Signal::SIGKILL).is_ok())
    }

    /// Asks a process to end, and starts it again.
    fn roll(&self, index: u8) {
        if let Some(server) = &self.servers()[usize::from(index)] {
            server.running().signal(Signal::SIGTERM);
        }
        self.replace(index, || {}).1.expect_code(0);
    }

    /// Kills a process with -9 while requests are in flight on it, and starts it again after `meanwhile`. From when to when
    /// it went.
    fn kill(&self, index: u8, meanwhile: impl FnOnce()) -> (Instant, Instant) {
        let killed = wait_until("requests are in flight on the process", || {
            let servers = self.servers();
            let server = servers[usize::from(index)].as_ref().expect("nobody else takes it");
            let queue = get(server.address(), "/v1/status").ok()?.json()["queue"].take();
            let count = |name: &str| queue[name].as_u64().expect("a number of requests");
            let in_flight = count("running") + count("blocks") + count("views");
            (in_flight >= IN_FLIGHT).then(|| {
                println!("killed with -9 while {in_flight} requests were in flight on it");
                let killed = Instant::now();
                server.running().signal(Signal::SIGKILL);
                killed
            })
        });
        (killed, self.replace(index, meanwhile).0)
    }

    /// Waits for the end of a process, and after `meanwhile` starts it again. When it was gone, and what it printed.
    fn replace(&self, index: u8, meanwhile: impl FnOnce()) -> (Instant, Output) {
        let place = usize::from(index);
        // Meanwhile its workers are killed like those of others.
        wait_until("the process ends", || {
            let mut servers = self.servers();
            let server = servers[place].as_mut().expect("nobody else takes it");
            (!server.running_mut().is_running()).then_some(())
        });
        let gone = Instant::now();
        let server = self.servers()[place].take();
        let output = server.expect("nobody else takes it").finish();
        meanwhile();
        let server = Self::start_one(self.network, index);
        self.servers()[place] = Some(server);
        (gone, output)
    }
}

/// The one of these processes that has been running for a while, if there is one before long.
fn working(workers: &[u32]) -> Option<u32> {
    const LOOK: Duration = Duration::from_millis(400);
    let begun = Instant::now();
    let runs = |pid: u32| process_state(pid) == Some('R');
    let goes_on = |pid: u32| {
        (0..4).all(|_| {
            thread::sleep(Duration::from_micros(500));
            runs(pid)
        })
    };
    while begun.elapsed() < LOOK {
        if let Some(pid) = workers.iter().copied().find(|pid| runs(*pid) && goes_on(*pid)) {
            return Some(pid);
        }
        thread::sleep(Duration::from_micros(100));
    }
    None
}

/// When a process was started, in clock ticks (proc_pid_stat(5)).
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split_whitespace().nth(19)?.parse().ok()
}

/// What came of a run with all disturbances.
struct Disturbed {
    tally: Tally,
    /// From when to when the process that was killed with -9 went.
    kill: (Instant, Instant),
    /// How many connections to a host the balancer found nobody listening for: nginx asks no host how it is, so it tries one
    /// that is just being started again.
    refused: usize,
}

/// The request of a number, among [`works`].
fn place(index: u64) -> usize {
    usize::try_from(index % u64::from(LONG)).expect("a place in a list")
}

fn disturbed(kind: Kind, retries: Retries, requests: u64) -> Option<Disturbed> {
    let _one = exclusively("serve-balanced");
    let network = Network::new();
    let works = Arc::new(works());
    let right = quiet(network, &works);
    let fleet = Arc::new(Fleet::start(network));
    let balancer = Balancer::start(kind, network, retries)?;
    let (stop, quieten) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicU64::new(0));
    // While this is set, every request is the one that takes long.
    let only_long = Arc::new(AtomicBool::new(false));
    let load = {
        let rate = requests.div_ceil(DISTURBED.as_secs());
        let rate = u32::try_from(rate).expect("a rate that can be reached");
        let load = Load { address: balancer.address(), connections: 32, rate };
        let (stop, answered, only_long) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&only_long));
        let long = Arc::new(Mutex::new(BTreeSet::new()));
        let is_long = Arc::clone(&long);
        let work = move |index: u64| {
            if !only_long.load(Ordering::Relaxed) {
                return works[place(index)].clone();
            }
            long.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
            works[LONG as usize].clone()
        };
        let check = move |index: u64, reply: &Reply| {
            answered.fetch_add(1, Ordering::Relaxed);
            let is_long = is_long.lock().unwrap_or_else(PoisonError::into_inner).contains(&index);
            let (body, digest) = &right[if is_long { LONG as usize } else { place(index) }];
            if reply.status != 200 {
                return Err(format!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body)));
            }
            match reply.body == *body && reply.header("cofferdam-digest") == digest {
                true => Ok(()),
                false => Err(format!("WRONG: {reply:?}")),
            }
        };
        thread::spawn(move || load.run(&stop, work, check))
    };
    let killer = {
        let (fleet, quieten) = (Arc::clone(&fleet), Arc::clone(&quieten));
        let only_long = Arc::clone(&only_long);
        thread::spawn(move || {
            let (mut kills, mut due) = (0, Instant::now());
            for turn in 0.. {
                // Looking for one to kill takes a while, too.
                due = (due + BETWEEN_KILLS).max(Instant::now());
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if quieten.load(Ordering::Relaxed) {
                    break;
                }
                // One that takes long could be killed more often than it is run again.
                kills += u32::from(!only_long.load(Ordering::Relaxed) && fleet.kill_worker(turn));
            }
            kills
        })
    };
    let begun = Instant::now();
    let await_answers = |enough: u64| {
        wait_until("requests are answered", || (answered.load(Ordering::Relaxed) >= enough).then_some(()));
    };
    let some_more = || await_answers(answered.load(Ordering::Relaxed) + requests / BETWEEN);
    some_more();
    (0..3).for_each(|index| fleet.roll(index));
    some_more();
    only_long.store(true, Ordering::Relaxed);
    let (killed, gone) = fleet.kill(1, || {
        only_long.store(false, Ordering::Relaxed);
        some_more();
    });
    some_more();
    await_answers(requests);
    stop.store(true, Ordering::Relaxed);
    let tally = load.join().expect("the load is generated");
    let lasted = begun.elapsed();
    quieten.store(true, Ordering::Relaxed);
    let kills = killer.join().expect("workers are killed");
    let servers: Vec<_> = fleet.servers().drain(..).flatten().collect();
    servers.iter().for_each(|server| server.running().signal(Signal::SIGTERM));
    servers.into_iter().for_each(|server| drop(server.finish().expect_code(0)));
    println!(
        "{kind:?}, retries {retries:?}: {} requests in {:.1?}, {} failed; {kills} workers killed; attempts {:?}; \
         p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        tally.requests,
        lasted,
        tally.failures.len(),
        tally.attempts,
        percentile(&tally.times, 50),
        percentile(&tally.times, 99),
        percentile(&tally.times, 100),
    );
    if !tally.failures.is_empty() {
        report(&tally.failures, begun, (killed, gone), &balancer);
    }
    assert!(tally.requests >= requests);
    let met = tally.attempts.keys().any(|attempts| attempts.as_str() > "1");
    assert!(met || retries == Retries::Off, "no kill met a job: {:?}", tally.attempts);
    let refused = balancer.log().matches("connect() failed (111").count();
    Some(Disturbed { tally, kill: (killed, gone), refused })
}

/// Says what failed, for whoever has to find out why.
fn report(failures: &[Failure], begun: Instant, (killed, gone): (Instant, Instant), balancer: &Balancer) {
    let since = |at: Instant| at.saturating_duration_since(begun);
    println!("killed with -9 after {:.3?}, gone after {:.3?}", since(killed), since(gone));
    let mut kinds = BTreeMap::<&str, usize>::new();
    for failure in failures {
        *kinds.entry(&failure.what).or_default() += 1;
    }
    println!("{kinds:#?}");
    for Failure { what, outcome } in failures.iter().take(20) {
        println!(
            "request {} from {:.3?} to {:.3?}: {what}",
            outcome.index,
            since(outcome.began),
            since(outcome.ended)
        );
    }
    // HAProxy logs each request, nginx what went wrong.
    let log = balancer.log();
    let wrong = |line: &&str| {
        line.contains("[error]") || [" 503 ", " 502 ", " 500 "].iter().any(|code| line.contains(code))
    };
    log.lines().filter(wrong).take(40).for_each(|line| println!("{line}"));
}

fn assert_none_failed(kind: Kind) {
    if let Some(Disturbed { tally, .. }) = disturbed(kind, Retries::On, requests()) {
        assert!(tally.failures.is_empty(), "{} of {} failed", tally.failures.len(), tally.requests);
    }
}

fn assert_only_those_in_flight_failed(kind: Kind) {
    let Some(Disturbed { tally, kill: (killed, gone), refused }) =
        disturbed(kind, Retries::Off, requests() / 4)
    else {
        return;
    };
    let others = tally.failures.iter().filter(|Failure { what, outcome }| {
        let in_flight = outcome.ended >= killed && outcome.began <= gone + SLACK;
        what.starts_with("WRONG") || !in_flight
    });
    assert!(others.count() <= refused, "of {} failures, {refused} were refused", tally.failures.len());
    let clients: BTreeSet<_> = tally.failures.iter().map(|failure| failure.outcome.client).collect();
    assert!(
        clients.len() + refused >= tally.failures.len(),
        "of a client, more than what it had in flight failed"
    );
    // Otherwise nothing was in flight, or something was sent twice.
    assert!(!clients.is_empty(), "no request failed");
}

#[test]
fn behind_haproxy_no_request_fails() {
    assert_none_failed(Kind::Haproxy);
}

#[test]
fn behind_haproxy_without_retries_only_those_in_flight_on_a_killed_process_fail() {
    assert_only_those_in_flight_failed(Kind::Haproxy);
}

#[test]
fn behind_nginx_no_request_fails() {
    assert_none_failed(Kind::Nginx);
}

#[test]
fn behind_nginx_without_retries_only_those_in_flight_on_a_killed_process_fail() {
    assert_only_those_in_flight_failed(Kind::Nginx);
}
