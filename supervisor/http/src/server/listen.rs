//! The listening sockets of a server: one for an IP address or a Unix socket, several for a host name.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host};

use super::address::Address;
use super::stream::Stream;
use super::unix_socket::{self, SocketFile};

/// How many connections may wait to be accepted. With the usual 128, further clients would retry only after a second.
const BACKLOG: u32 = 4096;

/// At least one listening socket.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Socket>,
    /// The number of the socket that is asked first. It rotates: otherwise many clients of one socket could keep clients of
    /// another socket from being accepted.
    turn: usize,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { sockets: vec![Socket::Tcp(listener)], turn: 0 }
    }
}

impl Listener {
    /// Listens on `address`. For a host name, listens on every IP address of the name that belongs to this host.
    ///
    /// # Errors
    /// The operating system's error: an unknown name, a port or Unix socket that another process listens on, or a path that
    /// is no socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        let sockets = match address {
            Address::Ip(address) => vec![Socket::Tcp(bind_tcp(*address)?)],
            Address::Unix(path) => {
                let (listener, file) = unix_socket::bind(path, BACKLOG)?;
                vec![Socket::Unix(listener, file)]
            }
            Address::Name(name, port) => {
                let mut addresses: Vec<_> = lookup_host((name.as_str(), *port)).await?.collect();
                addresses.sort_unstable();
                addresses.dedup();
                bind_each(&addresses)?
            }
        };
        Ok(Self { sockets, turn: 0 })
    }

    /// Accepts the next connection of any socket.
    pub(crate) async fn accept(&mut self) -> io::Result<Stream> {
        std::future::poll_fn(|context| {
            self.turn = self.turn.wrapping_add(1);
            let (turn, count) = (self.turn, self.sockets.len());
            let asked = (0..count).map(|offset| self.sockets[(turn + offset) % count].poll_accept(context));
            asked.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// Closes the listener and returns the connections that the kernel has accepted for it. Closing alone would reset these
    /// connections, although their clients may have sent a request already.
    pub(super) fn into_accepted(self) -> impl Iterator<Item = Stream> {
        self.sockets.into_iter().flat_map(Socket::into_accepted)
    }
}

impl Socket {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener, _) => {
                listener.poll_accept(context).map_ok(|(stream, _)| Stream::Unix(stream))
            }
        }
    }

    fn into_accepted(self) -> Box<dyn Iterator<Item = Stream>> {
        // A listener of tokio is non-blocking: `accept` fails when no connection is left, which ends the iterator.
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std().ok();
                Box::new(std::iter::from_fn(move || {
                    let (stream, _) = listener.as_ref()?.accept().ok()?;
                    stream.set_nonblocking(true).ok()?;
                    TcpStream::from_std(stream).ok().map(Stream::Tcp)
                }))
            }
            Self::Unix(listener, file) => {
                let listener = listener.into_std().ok();
                // Without the file no new client connects.
                drop(file);
                Box::new(std::iter::from_fn(move || {
                    let (stream, _) = listener.as_ref()?.accept().ok()?;
                    stream.set_nonblocking(true).ok()?;
                    UnixStream::from_std(stream).ok().map(Stream::Unix)
                }))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of an earlier server at this address may still be closing. Without this option they would block the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens on each of the addresses that this host has. Without IPv6, `localhost` may still resolve to an IPv6 address.
fn bind_each(addresses: &[SocketAddr]) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut absent = None;
    for address in addresses {
        match bind_tcp(*address) {
            Ok(listener) => sockets.push(Socket::Tcp(listener)),
            Err(error) if is_absent(&error) => absent = Some(error),
            Err(error) => return Err(error),
        }
    }
    match sockets.is_empty() {
        false => Ok(sockets),
        true => Err(absent.unwrap_or_else(|| io::Error::other("the name has no IP address"))),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_bound_on_all_its_addresses() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut listener = Listener::bind(&Address::Name("localhost".to_owned(), free)).await.unwrap();
        let _client = std::net::TcpStream::connect(("127.0.0.1", free)).unwrap();
        listener.accept().await.unwrap();
    }
}
