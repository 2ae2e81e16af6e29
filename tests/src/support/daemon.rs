//! A node of the tests' own: it speaks JSON-RPC as bitcoind does, has the blocks that it is given, and every trouble that a
//! node can make is a switch on it.
//!
//! Like bitcoind before version 28 it answers without a member `jsonrpc`, names errors with HTTP status 500, and keeps
//! blocks of branches that were left.

mod http;
mod node;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use node::Node;
pub use node::{BatchRefusal, Switches, hash_of};

/// A node that runs until it is dropped.
#[derive(Debug)]
pub struct Daemon {
    address: SocketAddr,
    node: Arc<Node>,
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Daemon {
    /// A node with these serialised blocks, the genesis block first, on a free port of this machine.
    #[must_use]
    pub fn start(blocks: &[Vec<u8>]) -> Self {
        let node = Arc::new(Node { state: Mutex::default(), changed: Condvar::new() });
        node.lock().adopt(blocks);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = Some(Server::start(listener, &node));
        Self { address, node, server }
    }

    /// Where it answers, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it does, from the next request on.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.node.lock().switches);
        self.node.changed.notify_all();
    }

    /// Makes another chain the best one, from the genesis block on. It may be shorter.
    pub fn adopt(&self, blocks: &[Vec<u8>]) {
        self.node.lock().adopt(blocks);
    }

    /// How often a method was called. Each call of a batch counts.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        self.node.lock().counts.get(method).copied().unwrap_or(0)
    }

    /// Whether a request waits because of [`Switches::holds_from`].
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.node.lock().held_back > 0
    }

    /// How many calls each batch had, refused ones included.
    #[must_use]
    pub fn batches(&self) -> Vec<usize> {
        self.node.lock().batches.clone()
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.node.lock().connections
    }

    /// Ends the server as a node that stops does: connections break, further ones are refused.
    pub fn go_away(&mut self) {
        if let Some(Server { stop, thread }) = self.server.take() {
            stop.store(true, Ordering::Relaxed);
            // Whoever has looked and does not wait yet has the lock until then.
            drop(self.node.lock());
            self.node.changed.notify_all();
            thread.join().expect("the server ends");
        }
    }

    /// Starts the server again, at the same address.
    pub fn come_back(&mut self) {
        self.go_away();
        let listener = TcpListener::bind(self.address).expect("the port is still free");
        self.server = Some(Server::start(listener, &self.node));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Server {
    fn start(listener: TcpListener, node: &Arc<Node>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, node) = (Arc::clone(&stop), Arc::clone(node));
        let thread = thread::spawn(move || http::serve(&listener, &node, &stopped));
        Self { stop, thread }
    }
}
