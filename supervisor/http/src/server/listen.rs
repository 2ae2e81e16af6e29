//! Where a server listens: at an address, at every address that a name has, or at a socket in the file system.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream, lookup_host};

/// Connections that may wait to be accepted. With the usual 128, the next in a crowd would have to try again a second later.
const BACKLOG: u32 = 4096;

/// Who may connect to a socket in the file system: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// The mark of a path among addresses.
const UNIX: &str = "unix:";

/// Where to listen, as it is written: `IP:PORT`, `NAME:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of one address.
    Ip(SocketAddr),
    /// A port of every address that a name has, `localhost` say.
    Name(String, u16),
    /// A socket in the file system. It may be used by its owner and group, and is removed at the end.
    Unix(PathBuf),
}

/// A host without a port: `IP`, `NAME` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(String),
    /// A socket in the file system, which has no port.
    Unix(PathBuf),
}

impl Host {
    /// The host, with a port where there are ports.
    #[must_use]
    pub fn at(&self, port: u16) -> Address {
        match self {
            Self::Ip(ip) => Address::Ip(SocketAddr::new(*ip, port)),
            Self::Name(name) => Address::Name(name.clone(), port),
            Self::Unix(path) => Address::Unix(path.clone()),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return socket_path(path).map(Self::Unix);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(ip) => Ok(Self::Ip(ip)),
            Err(_) if is_name(text) => Ok(Self::Name(text.to_owned())),
            Err(_) => Err("expected an IP address, a host name, or unix:PATH".to_owned()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected IP:PORT, NAME:PORT, or unix:PATH";
        if let Some(path) = text.strip_prefix(UNIX) {
            return socket_path(path).map(Self::Unix);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (name, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        if !is_name(name) {
            return Err(EXPECTED.to_owned());
        }
        let port =
            port.parse().map_err(|_| format!("{port:?} is no port: a port is a number up to 65535"))?;
        Ok(Self::Name(name.to_owned(), port))
    }
}

fn socket_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() { Err("unix: must be followed by a path".to_owned()) } else { Ok(path.into()) }
}

/// Whether this can be the name of a host; an address of which a part is missing cannot.
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.chars().all(is_part) && text.chars().any(|c| c.is_ascii_alphabetic())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// A server's ears: at least one socket.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Socket>,
    /// Which of the sockets is asked first, so that no client of one keeps those of another out.
    turn: usize,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, Entry),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { sockets: vec![Socket::Tcp(listener)], turn: 0 }
    }
}

impl Listener {
    /// Listens at `address`.
    ///
    /// # Errors
    /// The system's: a name that is not known, a port or a socket that somebody has, a path that is something else.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        let sockets = match address {
            Address::Ip(address) => vec![Socket::Tcp(bind_tcp(*address)?)],
            Address::Unix(path) => vec![bind_unix(path)?],
            Address::Name(name, port) => {
                let mut addresses: Vec<_> = lookup_host((name.as_str(), *port)).await?.collect();
                addresses.sort_unstable();
                addresses.dedup();
                bind_each(&addresses)?
            }
        };
        Ok(Self { sockets, turn: 0 })
    }

    /// The next connection of any socket.
    pub(in super::super) async fn accept(&mut self) -> io::Result<Stream> {
        std::future::poll_fn(|context| {
            self.turn = self.turn.wrapping_add(1);
            let (turn, count) = (self.turn, self.sockets.len());
            let asked = (0..count).map(|offset| self.sockets[(turn + offset) % count].poll_accept(context));
            asked.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// Closes the listener. The connections that the kernel has accepted for it by then would be reset with it, although their
    /// clients may have sent a request already: they are taken first.
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
        // A listener of the runtime does not block: without a connection this is an error, and the end.
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std().ok();
                Box::new(std::iter::from_fn(move || {
                    let (stream, _) = listener.as_ref()?.accept().ok()?;
                    stream.set_nonblocking(true).ok()?;
                    TcpStream::from_std(stream).ok().map(Stream::Tcp)
                }))
            }
            Self::Unix(listener, entry) => {
                let listener = listener.into_std().ok();
                // Nobody finds the socket any more.
                drop(entry);
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
    // As every server does: connections of an earlier one may still be closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens at each of a name's addresses that this host has. Where IPv6 is off, `localhost` still has an address in it.
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
        true => Err(absent.unwrap_or_else(|| io::Error::other("the name has no address"))),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    remove_stale(path)?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let entry = Entry::of(path)?;
    // Nobody can connect before it listens.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(Socket::Unix(socket.listen(BACKLOG)?, entry))
}

/// Removes a socket that a process has left behind which was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other(
                "a file is there that is no socket; remove the file, or give another path",
            ));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// A socket's place in the file system, which is removed with the socket, unless somebody has put another there.
#[derive(Debug)]
struct Entry {
    path: PathBuf,
    identity: (u64, u64),
}

impl Entry {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // At the end of a server there is nothing else to be done about it; the next one removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A connection.
#[derive(Debug)]
pub(in super::super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Has small writes sent at once.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }
}

/// Does the same with either kind of stream.
macro_rules! either {
    ($this:ident, $stream:ident => $do:expr) => {
        match $this.get_mut() {
            Stream::Tcp($stream) => $do,
            Stream::Unix($stream) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_ip_a_name_or_a_path() {
        let parsed = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for text in ["127.0.0.1:80", "[::1]:80", "localhost:8080", "indexer-1.example:80", "unix:/run/x.sock"]
        {
            assert_eq!(parsed(text).as_deref(), Ok(text));
        }
        for text in
            ["", "8080", ":80", "localhost", "127.0.0.1", "1.2.3:80", "unix:", "local host:80", "a:99999"]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert!(parsed("a:99999").unwrap_err().contains("65535"));
        assert_eq!("::1".parse::<Host>().unwrap().at(80).to_string(), "[::1]:80");
        assert_eq!("localhost".parse::<Host>().unwrap().at(80), Address::Name("localhost".to_owned(), 80));
        assert_eq!("unix:x".parse::<Host>().unwrap().at(80), Address::Unix("x".into()));
        assert!("local host".parse::<Host>().is_err() && "1.2.3".parse::<Host>().is_err());
    }

    #[tokio::test]
    async fn a_socket_in_the_file_system_is_its_owners_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::Unix(path.clone());
        let listener = Listener::bind(&address).await.unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, SOCKET_MODE);
        let error = Listener::bind(&address).await.unwrap_err();
        assert!(error.to_string().contains("another process listens there"), "{error}");
        drop(listener);
        assert!(!path.exists(), "it was removed");
        // One whose process was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind(&address).await.unwrap();
        // One that somebody else has put there meanwhile stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        drop(listener);
        assert!(path.exists());
        let error = Listener::bind(&address).await.unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
    }

    #[tokio::test]
    async fn a_name_is_listened_at_by_all_its_addresses() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut listener = Listener::bind(&Address::Name("localhost".to_owned(), free)).await.unwrap();
        let _client = std::net::TcpStream::connect(("127.0.0.1", free)).unwrap();
        listener.accept().await.unwrap();
    }
}
