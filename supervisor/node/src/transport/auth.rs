//! How a client authenticates with a node's RPC server.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cofferdam_base::Secret;

use super::error::TransportError;

/// The longest cookie file that is read, in bytes. Bitcoin Core's cookie file has 75 bytes.
const COOKIE_BYTES: u64 = 4 << 10;

/// How a client authenticates with a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// The node asks for no credentials, or the URL names them (`http://user:password@host`).
    #[default]
    None,
    /// A name and a password: `rpcuser` and `rpcpassword`, or `rpcauth`.
    UserPass {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// The file `.cookie`, which the node writes at each of its starts. The file is read again when the node refuses its
    /// contents.
    CookieFile(PathBuf),
}

impl Auth {
    /// The value of the header `Authorization`, if a request needs one. Reads the cookie file.
    pub(super) fn header(&self) -> Result<Option<Secret>, TransportError> {
        Ok(match self {
            Self::None => None,
            Self::UserPass { user, password } => Some(basic(&format!("{user}:{}", password.expose()))),
            Self::CookieFile(path) => {
                Some(basic(read_cookie(path).map_err(TransportError::NoCookie)?.expose().trim()))
            }
        })
    }

    /// The path of the cookie file, if a cookie is used.
    pub(crate) fn cookie_path(&self) -> Option<PathBuf> {
        match self {
            Self::CookieFile(path) => Some(path.clone()),
            Self::None | Self::UserPass { .. } => None,
        }
    }

    /// For an error message: which credentials the node refused, and what the operator should do.
    pub(crate) fn refusal(&self) -> (String, &'static str) {
        match self {
            Self::None => ("a request without name and password".to_owned(), "give --auth USER:PASSWORD"),
            // A name without a password usually is a token, and so a secret.
            Self::UserPass { password, .. } if password.expose().is_empty() => (
                "the name in the URL, which has no password".to_owned(),
                "give http://USER:PASSWORD@HOST:PORT, or --auth USER:PASSWORD",
            ),
            Self::UserPass { user, .. } => (
                format!("the name {user:?} and its password"),
                "compare --auth with rpcuser and rpcpassword, or rpcauth, in the node's bitcoin.conf",
            ),
            Self::CookieFile(path) => (
                format!("the cookie in {}", path.display()),
                "give the file .cookie in the data directory of this node",
            ),
        }
    }
}

fn basic(credentials: &str) -> Secret {
    format!("Basic {}", BASE64.encode(credentials)).into()
}

fn read_cookie(path: &Path) -> io::Result<Secret> {
    let mut cookie = String::new();
    File::open(path)?.take(COOKIE_BYTES).read_to_string(&mut cookie)?;
    Ok(cookie.into())
}
