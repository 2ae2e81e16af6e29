//! What ends the following of a node. What can pass is no error: it is told once and tried again, see `trouble`.

use std::io;

use bitcoin::BlockHash;

use crate::feed::KnownError;

/// What a node is asked.
const METHODS: &str = "getblockchaininfo, getbestblockhash, getblockhash and getblock";

/// Why a node cannot be followed further. None of these passes by itself.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The URL names no node.
    #[error("--daemon-rpc-url: {reason}; give http://HOST:PORT")]
    Url {
        /// What is wrong with it. The URL is not repeated, because it may have a password.
        reason: String,
    },
    /// A background thread could not be started.
    #[error("a thread that fetches blocks could not be started: {0}")]
    Thread(io::Error),
    /// The node refused name and password, or cookie.
    #[error("{url} refused {what} (HTTP 401); {advice}")]
    Credentials {
        /// The node.
        url: String,
        /// What it was given.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The node refused this host, or this user's first method.
    #[error(
        "{url} refuses {method} (HTTP 403): add the address of this host to the node's rpcallowip; if the address is there, \
         add {METHODS} to the user's rpcwhitelist"
    )]
    Forbidden {
        /// The node.
        url: String,
        /// The method.
        method: &'static str,
    },
    /// The node answered other methods, and refused this one.
    #[error(
        "{url} refuses {method} (HTTP 403), and it answered {answered} before: the rpcwhitelist of the user lacks {method}. \
         Add {METHODS} to the user's rpcwhitelist in the node's bitcoin.conf"
    )]
    NotWhitelisted {
        /// The node.
        url: String,
        /// The method.
        method: &'static str,
        /// A method that was answered.
        answered: &'static str,
    },
    /// Something answers there that is no node.
    #[error(
        "{url} answered with HTTP status {status} and no JSON-RPC; is that the address of a Bitcoin node's RPC server?"
    )]
    NoRpc {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The node lacks, or does not allow, a method that is needed.
    #[error(
        "{url} does not answer {method}: {message} (error {code}); the node, and every proxy before it, must allow {METHODS}"
    )]
    Method {
        /// The node.
        url: String,
        /// The method.
        method: &'static str,
        /// The error's code.
        code: i32,
        /// The error's message.
        message: String,
    },
    /// The node is of another network.
    #[error(
        "{url} is a node of {found}, and {expected} was asked for; give the right --daemon-rpc-url or network"
    )]
    OtherNetwork {
        /// The node.
        url: String,
        /// The network asked for, as the node would call it.
        expected: &'static str,
        /// What the node says.
        found: String,
    },
    /// The node's chain begins with another block.
    #[error(
        "{url} has the genesis block {found}, and {expected} is {of}: it is a node of another chain; give the right \
         --daemon-rpc-url, or another --db-path"
    )]
    OtherGenesis {
        /// The node.
        url: String,
        /// The genesis block that was to be there.
        expected: BlockHash,
        /// Whose it is.
        of: String,
        /// The node's.
        found: BlockHash,
    },
    /// The node has deleted a block that is needed.
    #[error(
        "{url} has pruned block {height} ({hash}), which is needed next; follow a node that is not pruned, or let this one \
         download its blocks again (reindex with prune=0)"
    )]
    Pruned {
        /// The node.
        url: String,
        /// The height.
        height: u32,
        /// The hash.
        hash: BlockHash,
    },
    /// A block that is longer than the limit.
    #[error(
        "block {height} ({hash}) of {url} is longer than {limit} bytes; --max-block-bytes raises the limit"
    )]
    TooLarge {
        /// The node.
        url: String,
        /// The height.
        height: u32,
        /// The hash.
        hash: BlockHash,
        /// The limit in bytes.
        limit: u64,
    },
    /// The node gave bytes that are not the block, again and again.
    #[error(
        "{url} was asked {times} times for block {height} ({hash}) and never gave it: {reason}; the node's block files may \
         be damaged (reindex it), or something between changes its answers"
    )]
    WrongBlock {
        /// The node.
        url: String,
        /// The height.
        height: u32,
        /// The block asked for.
        hash: BlockHash,
        /// How often.
        times: u32,
        /// What was wrong the last time.
        reason: String,
    },
    /// The node's hashes by height are not those of a chain, again and again.
    #[error(
        "{url} said {times} times that block {height} is {hash}, whose parent is {parent}, and that another block is below it: \
         that is no chain. Something between the node and here mixes the answers of several nodes"
    )]
    NotAChain {
        /// The node.
        url: String,
        /// The upper height.
        height: u32,
        /// The block there.
        hash: BlockHash,
        /// Its parent.
        parent: BlockHash,
        /// How often.
        times: u32,
    },
    /// The node left the chain further down than it may.
    #[error(
        "{url} left the chain that was indexed by more than {limit} blocks: at height {height} it has {theirs}, where {ours} \
         was indexed up to height {tip}. Nothing was taken back. If this is the right node and the reorganisation is real, \
         raise --max-reorg-depth; else give the right node, or another --db-path"
    )]
    TooDeep {
        /// The node.
        url: String,
        /// The deepest reorganisation that is allowed, in blocks.
        limit: u32,
        /// A height at which the two differ.
        height: u32,
        /// The block that was given there.
        ours: BlockHash,
        /// The block that the node has there.
        theirs: BlockHash,
        /// The highest block that was given.
        tip: u32,
    },
    /// The caller cannot tell which block it has indexed.
    #[error("the indexed block at height {height} cannot be read: {source}. Nothing was taken back")]
    Known {
        /// The height.
        height: u32,
        /// What the caller said.
        source: KnownError,
    },
    /// A background thread panicked.
    #[error("a thread that fetches blocks ended without a reason, which is a defect of Cofferdam")]
    Died,
    /// A feed that had failed was asked again.
    #[error("the node is no longer followed, because of an error before")]
    Ended,
}

cofferdam_protocol::debug_as_display!(DaemonError);
