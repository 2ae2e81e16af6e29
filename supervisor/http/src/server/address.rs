//! The addresses that a server listens on, as they are written on the command line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The prefix of the path of a Unix socket.
const UNIX: &str = "unix:";

/// Where to listen, written as `IP:PORT`, `NAME:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// One IP address and a port.
    Ip(SocketAddr),
    /// A port of every IP address of a host name, `localhost` for example.
    Name(String, u16),
    /// A Unix socket. Its owner and its group may connect. The file is removed when the listener is dropped.
    Unix(PathBuf),
}

/// A host without a port, written as `IP`, `NAME` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A host name.
    Name(String),
    /// A Unix socket, which has no port.
    Unix(PathBuf),
}

impl Host {
    /// The address of `port` on this host. A Unix socket ignores the port.
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
            port.parse().map_err(|_| format!("invalid port {port:?}: expected a number up to 65535"))?;
        Ok(Self::Name(name.to_owned(), port))
    }
}

fn socket_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() { Err("expected a path after unix:".to_owned()) } else { Ok(path.into()) }
}

/// Whether `text` may be a host name. It must have a letter: an incomplete IP address is not a host name.
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
}
