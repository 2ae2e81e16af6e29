//! What a follower is told: which node, how to be let in, and how far to go.

use std::path::PathBuf;
use std::time::Duration;

use cofferdam_base::Secret;
use cofferdam_chain::blocks::{MAX_BLOCK_BYTES, Network};

/// How the node knows who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// It does not ask, or the URL says it (`http://user:password@host`).
    #[default]
    None,
    /// By a name and a password: `rpcuser` and `rpcpassword`, or `rpcauth`.
    UserPass {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By the file `.cookie` that the node writes anew at each of its starts; it is read again when it no longer opens.
    CookieFile(PathBuf),
}

/// How a node is followed. [`Settings::new`] has what is said of each as its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the node answers: `http://HOST:PORT`. A secret, because a URL may have a password.
    pub url: Secret,
    /// How it lets one in.
    pub auth: Auth,
    /// How many blocks are fetched ahead of the one that is taken, 8; at least 1. They are bounded in bytes too, by
    /// [`AHEAD_BYTES`].
    pub pipeline: usize,
    /// How often the node is asked for its best block, 250 ms.
    pub poll: Duration,
    /// How long the node may send nothing, 30 s, before a request is given up and made again. An answer that goes on arriving
    /// may take longer: by a second for each 16 KiB that it may have.
    pub timeout: Duration,
    /// The first height, where nothing is known yet: 0.
    pub start_height: u32,
    /// The last height that is given; without one there is no end.
    pub stop_height: Option<u32>,
    /// Longest block that is accepted, in bytes: [`MAX_BLOCK_BYTES`]. Nothing longer is ever held in memory.
    pub max_block_bytes: u64,
    /// How many blocks a reorganisation may take back, 100; a deeper one is an error.
    pub max_reorg_depth: u32,
    /// The network that the node must be of, by name and genesis block; without one it may be any.
    pub network: Option<Network>,
}

/// How many bytes of blocks may wait to be taken before no further one is fetched. Those under way come on top, at most one
/// for each connection, of which there are no more than four.
pub const AHEAD_BYTES: u64 = 64 << 20;

impl Settings {
    /// The node at `url`, followed by the defaults.
    pub fn new(url: impl Into<Secret>) -> Self {
        Self {
            url: url.into(),
            auth: Auth::None,
            pipeline: 8,
            poll: Duration::from_millis(250),
            timeout: Duration::from_secs(30),
            start_height: 0,
            stop_height: None,
            max_block_bytes: MAX_BLOCK_BYTES,
            max_reorg_depth: 100,
            network: None,
        }
    }
}
