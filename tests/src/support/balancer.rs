//! Real load balancers over servers under test, by the configurations that are shipped in `scripts/deploy`: addresses are
//! replaced, and where logs go, and nothing else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cofferdam_test_skips::skip;
use nix::sys::signal::Signal;

use super::command::{Files, repository, send, wait_until};
use super::hosts::{HTTP_PORT, Network};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

/// Whether a request may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// As shipped.
    On,
    /// The lines that allow it are left out. A request that could not be sent at all still goes to another host.
    Off,
}

/// A balancer that runs. Ended with whatever it started when dropped.
#[derive(Debug)]
pub struct Balancer {
    child: Child,
    files: Files,
    address: SocketAddr,
}

impl Balancer {
    /// Starts it on host 1 of `network`, before the hosts 11, 12 and 13. None, and a word about it, where it is not
    /// installed.
    #[must_use]
    pub fn start(kind: Kind, network: Network, retries: Retries) -> Option<Self> {
        let program = kind.program();
        if Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            skip(format_args!("{program} is not installed (Debian: apt-get install {program})"));
            return None;
        }
        let files = Files::new();
        let config = config(kind, network, retries, &files);
        let config = files.add("config", config);
        let log = File::create(files.at("log")).expect("a file can be made");
        let mut command = Command::new(program);
        match kind {
            Kind::Haproxy => {
                let socket =
                    format!("global\n    stats socket {} mode 600 level user\n", files.at("s").display());
                command.arg("-db").arg("-f").arg(config).arg("-f").arg(files.add("more", socket));
            }
            Kind::Nginx => {
                let pid = files.at("pid");
                command.arg("-c").arg(config).arg("-e").arg(files.at("error.log"));
                command.arg("-g").arg(format!("daemon off; pid {};", pid.display()));
            }
        }
        let errors = log.try_clone().expect("a descriptor can be copied");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let child = child.expect("a program that is installed can be started");
        let balancer = Self { child, files, address: (network.host(1), HTTP_PORT).into() };
        Some(balancer.listening())
    }

    fn listening(mut self) -> Self {
        let address = self.address;
        wait_until("the balancer listens", || {
            let ended = self.child.try_wait().expect("it is a child of ours");
            assert!(ended.is_none(), "the balancer ended while it started:\n{}", self.log());
            std::net::TcpStream::connect(address).ok()
        });
        self
    }

    /// Where clients come.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read(self.files.at(name)).unwrap_or_default();
        ["log", "error.log"].map(|name| String::from_utf8_lossy(&read(name)).into_owned()).concat()
    }

    /// What HAProxy knows of a server of the backend `cofferdam`: its status, and its weight at this moment.
    #[must_use]
    pub fn server(&self, name: &str) -> (String, String) {
        let table = self.ask("show stat");
        let mut lines = table.lines();
        let names: Vec<_> = lines.next().unwrap_or_default().trim_start_matches("# ").split(',').collect();
        let column = |name| names.iter().position(|found| *found == name).expect("a column of the table");
        let (status, weight) = (column("status"), column("weight"));
        let line = lines.find(|line| line.starts_with(&format!("cofferdam,{name},")));
        let fields: Vec<_> = line.unwrap_or_else(|| panic!("no server {name}: {table}")).split(',').collect();
        (fields[status].to_owned(), fields[weight].to_owned())
    }

    fn ask(&self, question: &str) -> String {
        let mut stream = UnixStream::connect(self.files.at("s")).expect("the stats socket is there");
        let mut answer = String::new();
        let asked = writeln!(stream, "{question}").and_then(|()| stream.read_to_string(&mut answer));
        asked.expect("HAProxy answers");
        answer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // nginx ends its processes at this; HAProxy has one.
        let _ = send(self.child.id(), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    fn shipped(self) -> &'static Path {
        Path::new(match self {
            Self::Haproxy => "scripts/deploy/haproxy/haproxy.cfg",
            Self::Nginx => "scripts/deploy/nginx/nginx.conf",
        })
    }
}

/// The shipped configuration with other addresses.
fn config(kind: Kind, network: Network, retries: Retries, files: &Files) -> String {
    let path = repository().join(kind.shipped());
    let mut text = fs::read_to_string(path).expect("the configuration is in the repository");
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{from:?} is not in {}", kind.shipped().display());
        text = text.replace(from, to);
    };
    for host in [11, 12, 13] {
        replace(&format!("192.0.2.{host}:"), &format!("{}:", network.host(host)));
    }
    let own = format!("{}:{HTTP_PORT}", network.host(1));
    match kind {
        Kind::Haproxy => replace("bind :8080", &format!("bind {own}")),
        Kind::Nginx => {
            replace("listen 8080;", &format!("listen {own};"));
            replace("/var/log/nginx/", &format!("{}/", files.at("").display()));
        }
    }
    let off = retries == Retries::Off;
    match kind {
        Kind::Haproxy if off => {
            replace("retry-on conn-failure empty-response response-timeout 503", "");
            replace("http-request disable-l7-retry unless { path_beg /v1/blocks/ /v1/views/ }", "");
        }
        // nginx's own default, by which only what was not sent is sent elsewhere.
        Kind::Nginx if off => replace(
            "proxy_next_upstream error timeout http_503 non_idempotent;",
            "proxy_next_upstream error timeout;",
        ),
        _ => {}
    }
    text
}
