//! The settings of a follower: which node it follows, how it authenticates, and how far it goes.

use std::time::Duration;

use crate::transport::Auth;
use cofferdam_base::Secret;
use cofferdam_chain::blocks::{MAX_BLOCK_BYTES, Network};

/// How a Bitcoin node is followed. [`FollowerSettings::new`] sets the default of each field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerSettings {
    /// The URL of the node's RPC server: `http://HOST:PORT`. It is a secret because a URL may hold a password.
    pub url: Secret,
    /// How requests authenticate. Default [`Auth::None`].
    pub auth: Auth,
    /// How many blocks are fetched ahead of the caller. At least 1; default 8. [`FETCH_AHEAD_BYTES`] bounds them in bytes, too.
    pub fetch_ahead: usize,
    /// The interval at which the node is asked for its best block. Default 250 ms.
    pub poll_interval: Duration,
    /// How long the node may send nothing before a request is given up and sent again. Default 30 s. An answer that keeps
    /// arriving may take longer: one second more for each 16 KiB of the longest accepted answer.
    pub silence_timeout: Duration,
    /// The first height to give when the caller has no block yet. Default 0.
    pub start_height: u32,
    /// The last height to give. Default `None`: the follower gives every block.
    pub stop_height: Option<u32>,
    /// The longest accepted block, in bytes. Default [`MAX_BLOCK_BYTES`]. A longer block is never held in memory.
    pub max_block_bytes: u64,
    /// How many blocks one reorganisation may roll back. Default 100. A deeper reorganisation is an error.
    pub max_reorg_depth: u32,
    /// The network that the node must belong to, by name and genesis block. Default `None`: any network.
    pub network: Option<Network>,
}

/// How many bytes of fetched blocks may wait for the caller: at this many bytes, only the block that the caller needs next is
/// still fetched. Blocks that are being fetched at that moment are added to this number, at most one block for each of at most
/// four connections.
pub const FETCH_AHEAD_BYTES: u64 = 64 << 20;

impl FollowerSettings {
    /// Default settings for the node at `url`.
    pub fn new(url: impl Into<Secret>) -> Self {
        Self {
            url: url.into(),
            auth: Auth::None,
            fetch_ahead: 8,
            poll_interval: Duration::from_millis(250),
            silence_timeout: Duration::from_secs(30),
            start_height: 0,
            stop_height: None,
            max_block_bytes: MAX_BLOCK_BYTES,
            max_reorg_depth: 100,
            network: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_output_has_a_password() {
        let settings = FollowerSettings {
            auth: Auth::UserPass { user: "alice".to_owned(), password: "hunter2".into() },
            ..FollowerSettings::new("http://alice:hunter2@127.0.0.1:1")
        };
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    }
}
