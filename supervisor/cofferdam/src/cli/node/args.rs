//! Arguments of `cofferdam node`: those of the node that it replaces, under the same names, and its own.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cofferdam_protocol::profile::Hash;

use super::super::args::{ConnectionArgs, Policy, PoolArgs};
use super::super::error::CliError;
use super::super::variables;
use cofferdam_base::Secret;
use cofferdam_base::size::Bytes;
use cofferdam_chain::Batch;
use cofferdam_chain::blocks::{BlockInput, Network};
use cofferdam_http::server::{Address, Host};
use cofferdam_node::daemon::{self, Auth};
use cofferdam_node::rpc::Cors;
use cofferdam_store::snapshot::{Schedule, TakeOptions};

/// What is on disk when a block counts as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Durable {
    /// Every block is synced to disk by itself.
    Block,
    /// Blocks are synced together while catching up: after a loss of power the last of them are indexed again.
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

/// Where to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitAt {
    /// Once the block at this height is committed.
    Height(u32),
    /// Once everything that there is at some moment is committed.
    Tip,
}

impl FromStr for ExitAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tip" => Ok(Self::Tip),
            height => height.parse().map(Self::Height).map_err(|_| "expected a height, or tip".to_owned()),
        }
    }
}

/// Options of the node that this one replaces which mean nothing here: accepted, with a word on what takes their place.
#[derive(Clone, Debug, Args)]
pub(super) struct Replaced {
    #[arg(long, hide = true)]
    reorg_check_threshold: Option<u32>,
    #[arg(long, hide = true)]
    enable_preview: bool,
    #[arg(long, hide = true)]
    no_startup_heal: bool,
    #[arg(long, hide = true)]
    view_concurrency: Option<u32>,
    #[arg(long, hide = true)]
    view_memory_mb: Option<u32>,
    #[arg(long, hide = true)]
    view_memory_floor_mb: Option<u32>,
    #[arg(long, hide = true)]
    view_memory_floor_refresh_ms: Option<u32>,
    #[arg(long, hide = true)]
    view_runtime_workers: Option<u32>,
    #[arg(long, hide = true)]
    indexer_cores: Option<u32>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    indexer_nice: Option<i32>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    view_nice: Option<i32>,
    #[arg(long, hide = true)]
    fork: Option<PathBuf>,
    #[arg(long, hide = true)]
    legacy_fork: bool,
    #[arg(long, hide = true)]
    repo: Option<String>,
}

impl Replaced {
    fn check(&self) -> Result<(), CliError> {
        const VIEWS: &str = "views run on workers that have committed their memory: --workers says how many";
        const SCHEDULING: &str = "run it under systemd, which knows CPUAffinity= and Nice=";
        let said = [
            (
                "--reorg-check-threshold",
                self.reorg_check_threshold.is_some(),
                "every block is held against the one before it",
            ),
            ("--enable-preview", self.enable_preview, "previews are always allowed"),
            (
                "--no-startup-heal",
                self.no_startup_heal,
                "the store is whole after every end, so nothing is healed",
            ),
            ("--view-concurrency", self.view_concurrency.is_some(), VIEWS),
            (
                "--view-memory-mb",
                self.view_memory_mb.is_some(),
                "a view may use what a block may, which changes no result: --memory",
            ),
            ("--view-memory-floor-mb", self.view_memory_floor_mb.is_some(), VIEWS),
            ("--view-memory-floor-refresh-ms", self.view_memory_floor_refresh_ms.is_some(), VIEWS),
            ("--view-runtime-workers", self.view_runtime_workers.is_some(), VIEWS),
            ("--indexer-cores", self.indexer_cores.is_some(), SCHEDULING),
            ("--indexer-nice", self.indexer_nice.is_some(), SCHEDULING),
            ("--view-nice", self.view_nice.is_some(), SCHEDULING),
        ];
        for (option, _, instead) in said.iter().filter(|(_, given, _)| *given) {
            tracing::warn!("{option} has no effect: {instead}");
        }
        let refused = [
            ("--fork", self.fork.is_some(), "start from a copy: cofferdam snapshot restore"),
            (
                "--legacy-fork",
                self.legacy_fork,
                "a store of another program cannot be read: index anew, or restore a snapshot",
            ),
            ("--repo", self.repo.is_some(), "fetch a snapshot, and cofferdam snapshot restore it"),
        ];
        match refused.iter().find(|(_, given, _)| *given) {
            Some((option, _, instead)) => {
                Err(CliError::Usage(format!("{option} is not supported: {instead}")))
            }
            None => Ok(()),
        }
    }
}

/// Arguments of `cofferdam node`.
#[derive(Clone, Debug, Args)]
pub(in super::super) struct NodeArgs {
    /// A TOML file with any of these options, by their long names. What the environment or the command line says counts for
    /// more.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The indexer, as .wasm or .wat [default: the bundled sample indexer].
    #[arg(long, value_name = "FILE", visible_alias = "module")]
    pub(super) indexer: Option<PathBuf>,

    /// Where the state is kept, and gone on with.
    #[arg(long, value_name = "DIR")]
    pub(super) db_path: PathBuf,

    /// The Bitcoin node to follow, by its JSON-RPC: http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT, in which / ? # and @
    /// of a password are written %2F %3F %23 and %40.
    #[arg(long, value_name = "URL")]
    pub(super) daemon_rpc_url: Option<Secret>,

    /// How that node knows who asks. Every user of this host can read a command line: the variable, the file of --config, and
    /// --cookie-file tell them nothing.
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with = "cookie_file")]
    auth: Option<Secret>,

    /// The .cookie file by which that node knows who asks. It is read again whenever it has changed.
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,

    /// bitcoind's blk*.dat, or directories of them: indexed first, at the speed of the disk. A path that is not there as it
    /// stands is taken for a list with commas.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    blocks: Vec<OsString>,

    /// The network, if blocks of another are to be refused from the start: bitcoin, testnet, testnet4, signet, regtest.
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<Network>,

    /// The first height to index; a store that begins at another is refused [default: what the store begins at, or 0].
    #[arg(long, value_name = "HEIGHT")]
    start_block: Option<u32>,

    /// End, with exit code 0, once the block at this height is committed; or everything that there is: tip.
    #[arg(long, value_name = "HEIGHT|tip")]
    pub(super) exit_at: Option<ExitAt>,

    /// Where to serve JSON-RPC, the status page, probes and metrics: an IP address, a name, or unix:PATH, a socket that its owner
    /// and group may use [default: what HOST says if it is localhost, an address or unix:PATH, or else 127.0.0.1].
    #[arg(long, value_name = "HOST|unix:PATH")]
    host: Option<Host>,

    /// And on which port; a socket has none [default: what PORT says, or else 8080].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Which web pages may call: * or origins, with commas between them.
    #[arg(long, value_name = "ORIGINS")]
    pub(super) cors: Option<Cors>,

    /// What this node is called on its status page and in its log.
    #[arg(long, value_name = "NAME")]
    pub(super) label: Option<String>,

    /// How many blocks a reorganisation may take back. A deeper one stops the node.
    #[arg(long, value_name = "BLOCKS", default_value_t = 100)]
    pub(super) max_reorg_depth: u32,

    /// How many blocks are fetched ahead of the indexer.
    #[arg(long, value_name = "BLOCKS", default_value_t = 32, alias = "prefetch-size")]
    pipeline_size: usize,

    /// When blocks are synced to disk.
    #[arg(long, value_name = "WHEN", default_value = "batch")]
    pub(super) durability: Durable,

    /// What to do when a block does not complete for a reason of its own.
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub(super) on_guest_failure: Policy,

    /// On how many workers every block is run; with 2 it is only committed if they agree.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(super) redundancy: u8,

    /// Keep a tree over the newest value of every key: its root is then the state root, and cofferdam_proof proves values
    /// against it. From the first block on, or not at all.
    #[arg(long)]
    pub(super) state_tree: bool,

    /// Take snapshots of the state into this directory while blocks are indexed; `cofferdam snapshot restore` starts a node from
    /// one.
    #[arg(long, value_name = "DIR")]
    snapshot_directory: Option<PathBuf>,

    /// How many blocks lie between two snapshots.
    #[arg(long, value_name = "BLOCKS", default_value = "1000")]
    snapshot_interval: NonZeroU32,

    /// How many snapshots are kept: the newest.
    #[arg(long, value_name = "N", default_value = "3")]
    snapshot_keep: NonZeroUsize,

    /// /readyz fails while the daemon is more blocks ahead than this.
    #[arg(long, value_name = "BLOCKS", default_value_t = 2)]
    pub(super) max_lag: u32,

    /// /readyz fails when the daemon has been silent for longer than this.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(super) max_silence: Duration,

    #[command(flatten)]
    pub(super) pool: PoolArgs,

    /// The largest block that is taken.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(super) max_block_bytes: Bytes,

    /// Views that may wait for a worker.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) queue: usize,

    /// How long one of them may wait.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) queue_wait: Duration,

    #[command(flatten)]
    pub(super) connections: ConnectionArgs,

    /// Where to answer HAProxy's agent check.
    #[arg(long, value_name = "ADDR")]
    pub(super) agent: Option<Address>,

    /// After SIGTERM: how long requests are still taken while /readyz already says no.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(super) drain_delay: Duration,

    /// And then: how long requests that run may take, and the block that is being indexed.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) drain_timeout: Duration,

    #[command(flatten)]
    pub(super) replaced: Replaced,

    /// Plant a fault, to see what follows: HEIGHT:KIND or HEIGHTxATTEMPTS:KIND.
    #[arg(long, value_name = "FAULT", hide = true)]
    pub(super) plant_fault: Vec<cofferdam_protocol::fault::Fault>,
}

/// What the variable HOST says. Some shells set it to the name of the machine, which nobody means to serve on: of names only
/// `localhost` counts.
fn host_variable() -> Option<Host> {
    let text = variables::set("HOST")?.into_string().ok()?;
    let host = text.parse().ok();
    host.filter(|host| !matches!(host, Host::Name(name) if name != "localhost"))
}

impl NodeArgs {
    /// Where to serve.
    pub(super) fn listen(&self) -> Result<Address, CliError> {
        // By the plain names, the replaced node reads them.
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

    /// The first height to index, if it was said.
    pub(super) fn asked_start(&self) -> Option<u32> {
        self.start_block
    }

    /// The daemon to follow. `network` is what is known already.
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

    /// The snapshots to take, if any: of what this module makes of the chain.
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
                // Not to be repeated here: it may be a password.
                None => Err(CliError::Usage("--auth: expected USER:PASSWORD".to_owned())),
            },
            (None, None) => Ok(Auth::None),
        }
    }

    /// What makes no sense together.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.daemon_rpc_url.is_none() && self.blocks.is_empty() {
            return Err(CliError::Usage(
                "where do blocks come from? Give --daemon-rpc-url, --blocks, or both".to_owned(),
            ));
        }
        if self.pool.workers().is_some_and(|workers| workers < usize::from(self.redundancy)) {
            return Err(CliError::Usage(format!(
                "--redundancy {0} needs --workers {0} or more",
                self.redundancy
            )));
        }
        self.listen()?;
        // Before memory is committed: a wrong URL is found when it is taken apart.
        if let Some(settings) = self.daemon(self.network)? {
            daemon::check_settings(&settings).map_err(|error| CliError::Usage(error.to_string()))?;
        }
        self.replaced.check()
    }
}
