//! Arguments of `cofferdam node`: the arguments of the metashrew node that it replaces, under the same names, and further ones.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cofferdam_protocol::profile::Hash;

use super::super::args::{ConnectionArgs, DrainArgs, ModuleArgs, Policy, PoolArgs};
use super::super::error::CliError;
use super::super::variables;
use super::replaced::ReplacedArgs;
use cofferdam_base::Secret;
use cofferdam_base::size::Bytes;
use cofferdam_chain::Batch;
use cofferdam_chain::blocks::{BlockInput, Network};
use cofferdam_http::server::{Address, Host};
use cofferdam_node::daemon::{self, Auth};
use cofferdam_node::rpc::Cors;
use cofferdam_store::snapshot::{Schedule, TakeOptions};

/// When blocks are synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Durable {
    /// Each block is synced before it counts as committed.
    Block,
    /// While the node catches up, several blocks are synced together. After a loss of power, the last of them are indexed again.
    Batch,
}

impl Durable {
    pub(super) fn batch(self) -> Batch {
        match self {
            Self::Block => Batch::SINGLE,
            Self::Batch => Batch::CATCHING_UP,
        }
    }
}

/// Where to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitAt {
    /// When the block at this height is committed.
    Height(u32),
    /// When every block that exists at that moment is committed.
    Tip,
}

impl FromStr for ExitAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tip" => Ok(Self::Tip),
            height => height.parse().map(Self::Height).map_err(|_| "expected a height or tip".to_owned()),
        }
    }
}

/// Parses the name of a network.
fn parse_network(name: &str) -> Result<Network, String> {
    name.parse().map_err(|_| {
        "there is no such network; the networks are bitcoin (mainnet), testnet, testnet4, signet and regtest".to_owned()
    })
}

/// Arguments of `cofferdam node`.
#[derive(Clone, Debug, Args)]
pub(in super::super) struct NodeArgs {
    #[command(flatten)]
    pub(in super::super) module: ModuleArgs,

    /// The directory of the store. A store that is there is continued.
    #[arg(long, value_name = "DIR")]
    pub(super) db_path: PathBuf,

    /// The JSON-RPC address of the Bitcoin node to follow: http://HOST:PORT or http://USER:PASSWORD@HOST:PORT. In a password,
    /// write %2F for /, %3F for ?, %23 for # and %40 for @.
    #[arg(long, value_name = "URL")]
    pub(super) daemon_rpc_url: Option<Secret>,

    /// The name and password for the Bitcoin node. Every user of this host can read a command line; use the variable, a file for
    /// --config, or --cookie-file to keep the password secret.
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with = "cookie_file")]
    auth: Option<Secret>,

    /// The .cookie file of the Bitcoin node. It is read again when it has changed.
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,

    /// bitcoind's blk*.dat files, or directories of them. Their blocks are indexed first, without the Bitcoin node. An argument
    /// that names no existing path is split at its commas.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    blocks: Vec<OsString>,

    /// The network: bitcoin, testnet, testnet4, signet or regtest. Blocks of another network are refused [default: the network of
    /// the first block].
    #[arg(long, value_name = "NAME", value_parser = parse_network)]
    pub(super) network: Option<Network>,

    /// The first height to index. A store that begins at another height is refused [default: where the store begins, or 0].
    #[arg(long, value_name = "HEIGHT", alias = "start-height")]
    start_block: Option<u32>,

    /// End with exit code 0 when the block at this height is committed; with `tip`, when all blocks are.
    #[arg(long, value_name = "HEIGHT|tip")]
    pub(super) exit_at: Option<ExitAt>,

    /// Where to serve JSON-RPC, the status page, probes and metrics: an IP address, a name, or unix:PATH. A socket can be used by
    /// its owner and group [default: the variable HOST if it is localhost, an address or unix:PATH; otherwise 127.0.0.1].
    #[arg(long, value_name = "HOST|unix:PATH")]
    host: Option<Host>,

    /// The port to serve on; unused with unix:PATH [default: the variable PORT, or 8080].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// The origins whose web pages may call JSON-RPC, separated by commas; * for all.
    #[arg(long, value_name = "ORIGINS")]
    pub(super) cors: Option<Cors>,

    /// The name of this node on its status page and in its log.
    #[arg(long, value_name = "NAME")]
    pub(super) label: Option<String>,

    /// The most blocks that a reorganisation may roll back. A deeper reorganisation stops the node.
    #[arg(long, value_name = "BLOCKS", default_value_t = 100)]
    pub(super) max_reorg_depth: u32,

    /// How many blocks are fetched ahead of the indexer.
    #[arg(long, value_name = "BLOCKS", default_value_t = 32, alias = "prefetch-size")]
    pipeline_size: usize,

    /// When blocks are synced to disk.
    #[arg(long, value_name = "WHEN", default_value = "batch")]
    pub(super) durability: Durable,

    /// What to do when a block ends in a guest verdict other than `completed`.
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub(super) on_guest_failure: Policy,

    /// On how many workers each block runs. With 2, a block is committed only if both have the same result.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(super) redundancy: u8,

    /// Keep a tree over the newest value of every key. Its root is then the state root, and cofferdam_proof proves values against
    /// it. A store has the tree from its first block on, or never.
    #[arg(long)]
    pub(super) state_tree: bool,

    /// Take snapshots of the store into this directory while blocks are indexed. `cofferdam snapshot restore` makes a store of a
    /// snapshot.
    #[arg(long, value_name = "DIR")]
    snapshot_directory: Option<PathBuf>,

    /// The number of blocks from one snapshot to the next.
    #[arg(long, value_name = "BLOCKS", default_value = "1000")]
    snapshot_interval: NonZeroU32,

    /// How many snapshots are kept. Older ones are removed.
    #[arg(long, value_name = "N", default_value = "3")]
    snapshot_keep: NonZeroUsize,

    /// /readyz fails while the Bitcoin node is more than this many blocks ahead.
    #[arg(long, value_name = "BLOCKS", default_value_t = 2)]
    pub(super) max_lag: u32,

    /// /readyz fails while the Bitcoin node has not answered for longer than this.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(super) max_silence: Duration,

    #[command(flatten)]
    pub(super) pool: PoolArgs,

    /// The largest block that is accepted.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(super) max_block_bytes: Bytes,

    /// Views that may wait for a worker.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) queue: usize,

    /// How long one view may wait.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) queue_wait: Duration,

    #[command(flatten)]
    pub(super) connections: ConnectionArgs,

    /// Where to answer the agent check of HAProxy.
    #[arg(long, value_name = "ADDR")]
    pub(super) agent: Option<Address>,

    #[command(flatten)]
    pub(super) drain: DrainArgs,

    #[command(flatten)]
    pub(super) replaced: ReplacedArgs,

    /// Plant a fault, to see what follows: HEIGHT:KIND or HEIGHTxATTEMPTS:KIND.
    #[arg(long, value_name = "FAULT", hide = true)]
    pub(super) plant_fault: Vec<cofferdam_protocol::fault::Fault>,
}

/// The address in the variable HOST. Some shells set HOST to the name of the machine. The user did not ask to serve at that name,
/// so every name but `localhost` is ignored.
fn host_variable() -> Option<Host> {
    let text = variables::set("HOST")?.into_string().ok()?;
    let host = text.parse().ok();
    host.filter(|host| !matches!(host, Host::Name(name) if name != "localhost"))
}

impl NodeArgs {
    /// Where to serve.
    pub(super) fn listen(&self) -> Result<Address, CliError> {
        // The replaced node reads HOST and PORT.
        let host = self.host.clone().or_else(host_variable).unwrap_or(Host::Ip(Ipv4Addr::LOCALHOST.into()));
        let port = match self.port {
            Some(port) => port,
            None => {
                let wrong = |error| CliError::Usage(format!("{error}; give a port up to 65535, or --port"));
                variables::parsed("PORT").map_err(wrong)?.unwrap_or(8080)
            }
        };
        Ok(host.at(port))
    }

    /// The files to index first.
    pub(super) fn inputs(&self) -> Result<Vec<BlockInput>, CliError> {
        let lists = self.blocks.iter().map(|input| BlockInput::parse_list(input));
        Ok(lists.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The first height to index into a new store.
    pub(super) fn start(&self) -> u32 {
        self.start_block.unwrap_or(0)
    }

    /// The first height to index, if one was given.
    pub(super) fn asked_start(&self) -> Option<u32> {
        self.start_block
    }

    /// The Bitcoin node to follow, if one was given. `network` is the network that is known already.
    ///
    /// # Errors
    /// [`CliError::Usage`] if --auth is wrong.
    pub(super) fn daemon(
        &self,
        network: Option<Network>,
    ) -> Result<Option<daemon::FollowerSettings>, CliError> {
        let Some(url) = &self.daemon_rpc_url else { return Ok(None) };
        Ok(Some(daemon::FollowerSettings {
            auth: self.credentials()?,
            fetch_ahead: self.pipeline_size.max(1),
            start_height: self.start(),
            stop_height: match self.exit_at {
                Some(ExitAt::Height(height)) => Some(height),
                _ => None,
            },
            max_block_bytes: self.max_block_bytes.0,
            max_reorg_depth: self.max_reorg_depth,
            network,
            ..daemon::FollowerSettings::new(url.clone())
        }))
    }

    /// The snapshots to take, if any. `module` is the hash of the module, which a snapshot names.
    pub(super) fn snapshots(&self, module: Hash) -> Option<Schedule> {
        let options = TakeOptions { module: Some(module), keep: Some(self.snapshot_keep) };
        let (directory, interval_blocks) = (self.snapshot_directory.clone()?, self.snapshot_interval);
        Some(Schedule { directory, interval_blocks, options })
    }

    fn credentials(&self) -> Result<Auth, CliError> {
        match (&self.auth, &self.cookie_file) {
            (_, Some(file)) => Ok(Auth::CookieFile(file.clone())),
            (Some(auth), None) => match auth.expose().split_once(':') {
                Some((user, password)) => {
                    Ok(Auth::UserPass { user: user.to_owned(), password: password.into() })
                }
                // The value is not repeated, because it may be a password.
                None => Err(CliError::Usage(
                    "--auth: expected USER:PASSWORD, and the value has no colon".to_owned(),
                )),
            },
            (None, None) => Ok(Auth::None),
        }
    }

    /// Checks options that are wrong only together with others, and values that clap does not check. This happens before anything
    /// is opened or committed.
    ///
    /// # Errors
    /// [`CliError::Usage`].
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.daemon_rpc_url.is_none() && self.blocks.is_empty() {
            return Err(CliError::Usage(
                "no source of blocks. Give --daemon-rpc-url, --blocks, or both".to_owned(),
            ));
        }
        if self.pool.workers().is_some_and(|workers| workers < usize::from(self.redundancy)) {
            return Err(CliError::Usage(format!(
                "--redundancy {0} needs --workers {0} or more",
                self.redundancy
            )));
        }
        self.listen()?;
        self.credentials()?;
        if let Some(settings) = self.daemon(self.network)? {
            daemon::check_settings(&settings).map_err(|error| CliError::Usage(error.to_string()))?;
        }
        self.replaced.check()
    }
}
