//! `cofferdam serve` as balancers meet it: servers on hosts of their own, and probes that ask one thing.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::command::{Cofferdam, Output, Running, guest, wait_until};
use super::serve::{Client, Response};

/// Ports of every host: as in the shipped configurations of balancers.
pub const HTTP_PORT: u16 = 8080;
/// Where HAProxy's agent check is answered.
pub const AGENT_PORT: u16 = 8081;

/// How long a probe waits for an answer before that is an answer, too.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// A network of hosts that nobody else uses: addresses of the loopback device.
#[derive(Clone, Copy, Debug)]
pub struct Network([u8; 2]);

impl Network {
    /// One that is free.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            // Differs between the tests of a process, and between processes that were started one after the other.
            let seed = std::process::id().wrapping_mul(37).wrapping_add(number);
            let [low, high, ..] = seed.to_le_bytes();
            let network = Self([64 + high % 128, low]);
            let bound = [1, 11, 12, 13].map(|host| TcpListener::bind((network.host(host), HTTP_PORT)));
            if bound.iter().all(Result::is_ok) {
                return network;
            }
        }
    }

    /// One of its hosts.
    #[must_use]
    pub fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0[0], self.0[1], number)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// A `cofferdam serve` on a host of its own.
#[derive(Debug)]
pub struct Server {
    running: Running,
    host: Ipv4Addr,
}

impl Server {
    /// Starts the guest `serve_works.wat` with 16 MiB a worker and more arguments, and waits until it is ready.
    #[must_use]
    pub fn start(host: Ipv4Addr, arguments: &str) -> Self {
        let mut server = Self::start_only(host, arguments);
        wait_until("the server is ready", || {
            assert!(server.running.is_running(), "the server ended while it started: {host} {arguments}");
            server.is_ready().then_some(())
        });
        server
    }

    /// Starts it.
    fn start_only(host: Ipv4Addr, arguments: &str) -> Self {
        let command = Cofferdam::new(["serve"]).arg(guest("serve_works.wat"));
        let command = command.with("--memory 16MiB").with(arguments);
        let listen = format!("--listen {host}:{HTTP_PORT} --agent {host}:{AGENT_PORT}");
        Self { running: command.with(&listen).start(), host }
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.host, HTTP_PORT).into()
    }

    /// The process.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The process, to be waited for.
    pub fn running_mut(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Whether `/readyz` says so.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        get(self.address(), "/readyz").is_ok_and(|reply| reply.status == 200)
    }

    /// What the agent says, without the end of the line; an error if nobody does.
    ///
    /// # Errors
    /// As of sockets.
    pub fn agent_line(&self) -> io::Result<String> {
        agent_line((self.host, AGENT_PORT).into())
    }

    /// Asks it to drain, and waits for its end.
    pub fn stop(self) -> Output {
        self.finish_after(Signal::SIGTERM).expect_code(0)
    }

    /// Sends it a signal, and waits for its end.
    pub fn finish_after(self, signal: Signal) -> Output {
        self.running.signal(signal);
        self.running.finish()
    }

    /// Waits for its end.
    pub fn finish(self) -> Output {
        self.running.finish()
    }

    /// Bytes of the supervisor that are resident.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let text = super::pool::proc_field(self.running.pid(), "status", "VmRSS:");
        text.trim_end_matches(" kB").trim().parse::<u64>().expect("a number of kilobytes") * 1024
    }
}

/// What the agent at `address` says, without the end of the line.
///
/// # Errors
/// As of sockets.
pub fn agent_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_PATIENCE)?;
    stream.set_read_timeout(Some(PROBE_PATIENCE))?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Asks by a connection of its own.
///
/// # Errors
/// As of sockets, or if the answer is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    Client::try_connect(address)?.try_get(path)
}
