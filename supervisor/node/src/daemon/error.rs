//! The errors that end a follower. For failures that can pass by themselves, see `transient`.

use std::io;

use bitcoin::BlockHash;

use crate::event::LookupError;

/// The methods that a follower calls.
const METHODS: &str = "getblockchaininfo, getbestblockhash, getblockhash and getblock";

/// Why a node can no longer be followed. None of these errors passes by itself.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The URL is wrong.
    #[error("--daemon-rpc-url is wrong: {reason}; give http://HOST:PORT")]
    Url {
        /// What is wrong with the URL. The URL is not repeated, because it may hold a password.
        reason: String,
    },
    /// A background thread could not be started.
    #[error("cannot start a thread that fetches blocks: {0}")]
    Thread(io::Error),
    /// The node refused the credentials.
    #[error("{url} refused {what} (HTTP 401); {advice}")]
    Credentials {
        /// The node.
        url: String,
        /// The refused credentials, without a secret.
        what: String,
        /// What the operator should do.
        advice: &'static str,
    },
    /// The node refused this host, or the first method that was called.
    #[error(
        "{url} refuses {method} (HTTP 403): add the address of this host to the node's rpcallowip; if the address is already \
         there, add {METHODS} to the user's rpcwhitelist"
    )]
    Forbidden {
        /// The node.
        url: String,
        /// The method.
        method: &'static str,
    },
    /// The node answered other methods, but refused this one.
    #[error(
        "{url} refuses {method} (HTTP 403), but answered {answered} before: the user's rpcwhitelist lacks {method}. Add \
         {METHODS} to the user's rpcwhitelist in the node's bitcoin.conf"
    )]
    NotWhitelisted {
        /// The node.
        url: String,
        /// The method.
        method: &'static str,
        /// A method that the node answered.
        answered: &'static str,
    },
    /// The server at the URL is not a Bitcoin node.
    #[error(
        "{url} answered with HTTP status {status} and no JSON-RPC; check that this is the address of a Bitcoin node's RPC server"
    )]
    NoRpc {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The node does not have a method that the follower needs, or does not allow it.
    #[error(
        "{url} does not answer {method}: {message} (error {code}); the node, and every proxy in front of it, must allow {METHODS}"
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
    /// The node belongs to another network.
    #[error(
        "{url} is a node of the network {found}, but {expected} is required; give the --daemon-rpc-url of a node of {expected}, \
         or another network"
    )]
    OtherNetwork {
        /// The node.
        url: String,
        /// The required network, as a node calls it.
        expected: &'static str,
        /// The network that the node names.
        found: String,
    },
    /// The node's chain begins with another genesis block.
    #[error(
        "{url} has the genesis block {found}, but {expected} is {of}: the node belongs to another chain; give the right \
         --daemon-rpc-url, or another --db-path"
    )]
    OtherGenesis {
        /// The node.
        url: String,
        /// The expected genesis block.
        expected: BlockHash,
        /// The reason why this genesis block is expected.
        of: String,
        /// The node's genesis block.
        found: BlockHash,
    },
    /// The node has deleted the block that is needed next.
    #[error(
        "{url} has pruned block {height} ({hash}), which is needed next; follow a node that is not pruned, or let this node \
         download its blocks again (restart it with -reindex and prune=0)"
    )]
    Pruned {
        /// The node.
        url: String,
        /// The height.
        height: u32,
        /// The hash.
        hash: BlockHash,
    },
    /// A block is longer than the limit.
    #[error(
        "block {height} ({hash}) of {url} is longer than {limit} bytes; raise the limit with --max-block-bytes"
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
    /// The node sent bytes that are not the requested block, too many times.
    #[error(
        "{url} was asked {times} times for block {height} ({hash}) and never sent it: {reason}; the node's block files may be \
         damaged (restart the node with -reindex), or a proxy in front of the node may change its answers"
    )]
    WrongBlock {
        /// The node.
        url: String,
        /// The height.
        height: u32,
        /// The requested block.
        hash: BlockHash,
        /// How many times the block was requested.
        times: u32,
        /// What was wrong the last time.
        reason: String,
    },
    /// The node's hashes by height did not form a chain, too many times.
    #[error(
        "{url} gave {times} times hashes that do not form a chain: block {height} is {hash}, whose parent is {parent}, but \
         another block is at the height below. A proxy may be mixing the answers of several nodes: give the address of one node"
    )]
    NotAChain {
        /// The node.
        url: String,
        /// The height of the upper block.
        height: u32,
        /// The upper block.
        hash: BlockHash,
        /// The parent that the upper block names.
        parent: BlockHash,
        /// How many times this happened.
        times: u32,
    },
    /// The node left the indexed chain deeper than a reorganisation may go.
    #[error(
        "{url} left the indexed chain by more than {limit} blocks: at height {height} it has {theirs}, but {ours} is indexed, \
         up to height {tip}. Nothing was rolled back. If this is the right node and the reorganisation is real, raise \
         --max-reorg-depth; otherwise give the right node, or another --db-path"
    )]
    TooDeep {
        /// The node.
        url: String,
        /// The deepest allowed reorganisation, in blocks.
        limit: u32,
        /// A height at which the two chains differ.
        height: u32,
        /// The block that was given at that height.
        ours: BlockHash,
        /// The block that the node has at that height.
        theirs: BlockHash,
        /// The highest block that was given.
        tip: u32,
    },
    /// The caller cannot say which block it has indexed.
    #[error("the indexed block at height {height} cannot be read: {source}. Nothing was rolled back")]
    Lookup {
        /// The height.
        height: u32,
        /// The caller's error.
        source: LookupError,
    },
    /// A background thread panicked, which is a defect.
    #[error("internal error: a thread that fetches blocks panicked")]
    Panicked,
    /// The follower has already ended with an error.
    #[error("the node is no longer followed, because of an earlier error")]
    Ended,
}

cofferdam_protocol::debug_as_display!(DaemonError);
