//! Which web pages may call the node, by the CORS protocol of browsers
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::str::FromStr;
use std::time::Duration;

use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderValue, Method, Uri};
use thiserror::Error;
use tower_http::cors::{Any, CorsLayer};

/// Which web pages may call the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// Only the pages that this server itself serves.
    #[default]
    Off,
    /// Every page.
    Any,
    /// The pages of these origins.
    Origins(Vec<HeaderValue>),
}

/// Why a text cannot be read as origins.
#[derive(Clone, Error, PartialEq, Eq)]
pub enum CorsError {
    /// The text names no origin.
    #[error("no origin is given; write *, or origins such as https://example.org, separated by commas")]
    Empty,
    /// A part of the text is not an origin.
    #[error("{0:?} is not an origin; write only scheme, host and port, as in https://example.org:8443")]
    NotAnOrigin(String),
}

cofferdam_protocol::debug_as_display!(CorsError);

impl FromStr for Cors {
    type Err = CorsError;

    /// Reads `*`, or origins separated by commas. A host without a scheme means the pages that the host serves over `http` and
    /// over `https`.
    fn from_str(text: &str) -> Result<Self, CorsError> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let mut origins = Vec::new();
        for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            match origin.contains("://") {
                true => origins.push(read_origin(origin, origin)?),
                false => {
                    for scheme in ["https", "http"] {
                        origins.push(read_origin(&format!("{scheme}://{origin}"), origin)?);
                    }
                }
            }
        }
        if origins.is_empty() { Err(CorsError::Empty) } else { Ok(Self::Origins(origins)) }
    }
}

/// Reads the origin `text` into the form that a browser sends. The error repeats `written`, the text that the operator wrote.
fn read_origin(text: &str, written: &str) -> Result<HeaderValue, CorsError> {
    let wrong = || CorsError::NotAnOrigin(written.to_owned());
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(wrong()) };
    if uri.path() != "/" || text.ends_with('/') || uri.query().is_some() || !is_host(authority) {
        return Err(wrong());
    }
    let origin = serialize_origin(scheme, authority);
    HeaderValue::try_from(origin).map_err(|_| wrong())
}

/// Whether `authority` is a host, or a host and a port, without a user.
fn is_host(authority: &Authority) -> bool {
    let host = authority.host();
    // An authority with a user name does not begin with the host.
    let rest = authority.as_str().strip_prefix(host);
    let has_end = rest.is_some_and(|rest| rest.is_empty() || authority.port_u16().is_some());
    has_end && !host.is_empty() && !host.contains('*')
}

/// Writes an origin as browsers do: in lower case, and without the default port of the scheme
/// (<https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin>).
fn serialize_origin(scheme: &Scheme, authority: &Authority) -> String {
    let host = authority.host().to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match authority.port_u16().filter(|port| Some(*port) != usual) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

impl Cors {
    /// The layer that answers browsers; `None` if no other pages may call.
    pub(super) fn layer(&self) -> Option<CorsLayer> {
        /// How long a browser may keep the answer to a preflight request.
        const MAX_AGE: Duration = Duration::from_secs(3600);
        let layer = CorsLayer::new().allow_methods([Method::POST]).allow_headers(Any).max_age(MAX_AGE);
        match self {
            Self::Off => None,
            Self::Any => Some(layer.allow_origin(Any)),
            Self::Origins(origins) => Some(layer.allow_origin(origins.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(text: &str) -> Vec<String> {
        match text.parse() {
            Ok(Cors::Origins(origins)) => {
                origins.iter().map(|origin| origin.to_str().unwrap().to_owned()).collect()
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        assert_eq!("*".parse(), Ok(Cors::Any));
        assert_eq!(origins("https://a.org, HTTP://B.org:8080,"), ["https://a.org", "http://b.org:8080"]);
        assert_eq!(origins("https://a.org:443,http://a.org:443"), ["https://a.org", "http://a.org:443"]);
        assert_eq!(origins("http://[::1]:3000"), ["http://[::1]:3000"]);
        assert_eq!(origins("a.org"), ["https://a.org", "http://a.org"]);
        assert_eq!(origins("localhost:3000"), ["https://localhost:3000", "http://localhost:3000"]);
    }

    #[test]
    fn a_text_that_is_not_an_origin_is_refused() {
        for text in ["", " ", ","] {
            assert_eq!(text.parse::<Cors>(), Err(CorsError::Empty), "{text:?}");
        }
        let wrong = [
            "https://a.org/",
            "https://a.org/x",
            "https://a.org?x",
            "https://",
            "https://*",
            "*.a.org",
            "a b",
            "https://user@a.org",
            "*,https://a.org",
            "https://a.org:99999",
        ];
        for text in wrong {
            assert!(matches!(text.parse::<Cors>(), Err(CorsError::NotAnOrigin(_))), "{text:?}");
        }
    }
}
