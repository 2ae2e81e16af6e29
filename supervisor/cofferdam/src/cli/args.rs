//! Arguments that several commands share: which module and blocks, what a block may use, which memory, and how it is
//! committed.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};
use cofferdam_worker::module::MAX_MODULE_BYTES;

use super::error::CliError;
use super::logging;
use cofferdam_base::size::Bytes;
use cofferdam_chain::OnGuestFailure;
use cofferdam_chain::blocks::{self, BlockInput, BlockSource, IndexedRange};
use cofferdam_chain::sample;
use cofferdam_http::server::ConnectionLimits;
use cofferdam_pool::host::admission::Budget;
use cofferdam_pool::{Limits, Pool, PoolBuilder, PoolError, QuarantinePolicy, need_of};
use cofferdam_store::Store;

/// Reads the module; that of the sample indexer if no file is named.
pub(super) fn read_module(path: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let Some(path) = path else { return Ok(sample::MODULE.to_vec()) };
    let mut module = Vec::new();
    // One byte more than is taken, so that a longer file is refused by its length.
    let read = File::open(path).and_then(|file| file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut module));
    read.map_err(|source| CliError::Module { path: path.to_owned(), source })?;
    Ok(module)
}

/// Has the guests of a pool read `store`, which this process writes.
pub(super) fn reading(builder: PoolBuilder, store: &Arc<Store>) -> PoolBuilder {
    let readers = Arc::clone(store);
    builder.state(store.path()).on_death(move |_| {
        // A dead reader's slot would keep old pages from being used again.
        if let Err(error) = readers.clear_stale_readers() {
            tracing::warn!("{error}");
        }
    })
}

/// What the module is called in reports: the name of its file.
pub(super) fn module_name(path: Option<&Path>) -> String {
    let name = path.and_then(Path::file_name);
    name.map_or_else(|| "sample.wasm".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Which blocks, and how they are read.
#[derive(Debug, Args)]
pub(super) struct BlockArgs {
    /// Blocks: raw block files, directories, bitcoind's blk*.dat, HEIGHT=FILE, or - for standard input. One argument is one
    /// path, commas and all [default: the bundled blocks, mainnet 0 to 438 and 702861].
    #[arg(long, value_name = "PATH|HEIGHT=PATH|-", num_args = 1..)]
    blocks: Vec<OsString>,

    /// Height of the first block; of a chain whose heights are known, the first one to take [default: 0, or what follows
    /// the store's newest block].
    #[arg(long, value_name = "H", alias = "start-block", requires = "blocks")]
    start_height: Option<u32>,

    /// Demand that every block names the one before it.
    #[arg(long)]
    check_chain: bool,

    /// Take blocks although heights between them are missing, or between them and the store's newest block.
    #[arg(long, conflicts_with = "check_chain")]
    allow_gaps: bool,

    /// Feed files as they are, whether they are Bitcoin blocks or not.
    #[arg(long, conflicts_with = "check_chain")]
    opaque: bool,

    /// The largest block that is taken.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(super) max_block_bytes: Bytes,
}

impl BlockArgs {
    /// Opens the blocks; of a chain, those from the newest on that is known.
    pub(super) fn open(&self, indexed: Option<IndexedRange>) -> Result<BlockSource, CliError> {
        if self.blocks.is_empty() {
            return Ok(blocks::bundled()?);
        }
        let inputs =
            self.blocks.iter().map(|input| BlockInput::parse(input)).collect::<Result<Vec<_>, _>>()?;
        let options = blocks::Options {
            start_height: self.start_height,
            indexed,
            check_chain: self.check_chain,
            allow_gaps: self.allow_gaps,
            opaque: self.opaque,
            max_block_bytes: self.max_block_bytes.0,
        };
        let bar = logging::bar(None, "scanning blocks {bar:40} {bytes}/{total_bytes} {eta}");
        let source = blocks::open(&inputs, &options, &mut |scanned, total| {
            bar.set_length(total);
            bar.set_position(scanned);
        });
        bar.finish_and_clear();
        Ok(source?)
    }

    /// The first height, if it was said.
    pub(super) fn start_height(&self) -> Option<u32> {
        self.start_height
    }

    /// Whether the blocks come from standard input, and so only once.
    pub(super) fn are_a_stream(&self) -> bool {
        self.blocks.iter().any(|input| matches!(BlockInput::parse(input), Ok(BlockInput::Stdin { .. })))
    }

    /// The arguments that say the same to another command.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![format!("--max-block-bytes={}", self.max_block_bytes.0)];
        arguments.extend(self.start_height.map(|height| format!("--start-height={height}")));
        arguments.extend(self.check_chain.then(|| "--check-chain".to_owned()));
        arguments.extend(self.allow_gaps.then(|| "--allow-gaps".to_owned()));
        arguments.extend(self.opaque.then(|| "--opaque".to_owned()));
        let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
        arguments.extend(self.blocks.iter().map(|input| {
            let mut argument = OsString::from("--blocks=");
            argument.push(input);
            argument
        }));
        arguments
    }
}

/// What one block may use.
#[derive(Clone, Debug, Args)]
pub(super) struct LimitArgs {
    /// Fuel per block; without it, fuel is not metered.
    #[arg(long, value_name = "F")]
    fuel: Option<u64>,

    /// Wall-clock time that one attempt at a block may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,

    /// Bytes that one block may write.
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    max_output_bytes: Bytes,
}

impl LimitArgs {
    /// The limits of a pool whose blocks have up to so many bytes.
    pub(super) fn limits(&self, input: Bytes) -> Limits {
        Limits {
            fuel: self.fuel,
            deadline: self.deadline,
            input_bytes: input.0,
            output_bytes: self.max_output_bytes.0,
            ..Limits::default()
        }
    }

    /// The arguments that say the same to another command.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            format!("--deadline={}", humantime::format_duration(self.deadline)),
            format!("--max-output-bytes={}", self.max_output_bytes.0),
        ];
        arguments.extend(self.fuel.map(|fuel| format!("--fuel={fuel}")));
        arguments.into_iter().map(OsString::from).collect()
    }
}

/// What to do when a block does not complete for a reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Policy {
    /// Stop at that block, which is not committed.
    Stop,
    /// Commit the block with its verdict and without writes, and go on.
    Skip,
}

impl From<Policy> for OnGuestFailure {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Stop => Self::Stop,
            Policy::Skip => Self::Skip,
        }
    }
}

/// How memory is committed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Commit {
    /// Ask the kernel to populate every page (MADV_POPULATE_WRITE).
    Populate,
    /// Write a unique pattern into every page, then zeros.
    Touch,
}

/// Which pages memory is committed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum HugePages {
    /// Huge pages where the host grants them.
    Auto,
    /// Ordinary pages only.
    Off,
}

/// How memory is made pristine again after a block.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Reset {
    /// Zero what recent blocks wrote much of, and ask the kernel what was written of the rest.
    Adaptive,
    /// Zero all memory that the guest had.
    Zero,
}

/// The memory of a worker.
#[derive(Clone, Debug, Args)]
pub(super) struct MemoryArgs {
    /// Memory that each worker commits and a guest may grow to, up to 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(super) memory: Bytes,

    /// How memory is committed.
    #[arg(long, value_name = "HOW", default_value = "populate")]
    commit: Commit,

    /// Which pages memory is committed in.
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    huge_pages: HugePages,

    /// How memory is made pristine again after a block.
    #[arg(long, value_name = "HOW", default_value = "adaptive")]
    reset: Reset,

    /// Lock the memory, so that it cannot be swapped out.
    #[arg(long)]
    mlock: bool,

    /// Let the kernel decide whether the memory is there, rather than the budget.
    #[arg(long)]
    skip_admission: bool,
}

impl MemoryArgs {
    pub(super) fn apply(&self, builder: PoolBuilder) -> PoolBuilder {
        let strategy = match self.commit {
            Commit::Populate => CommitStrategy::Populate,
            Commit::Touch => CommitStrategy::Touch,
        };
        let reset = match self.reset {
            Reset::Adaptive => ResetStrategy::Adaptive,
            Reset::Zero => ResetStrategy::Zero,
        };
        builder
            .memory(self.memory.0)
            .reset(reset)
            .commit(strategy)
            .huge_pages(self.huge_pages == HugePages::Auto)
            .lock_memory(self.mlock)
            .admission(!self.skip_admission)
    }

    /// Checks that the memory for so many workers with these limits is there, unless the kernel is to decide: for pools
    /// that are started one after the other, and only make sense together.
    pub(super) fn admit(&self, workers: u32, limits: &Limits) -> Result<(), PoolError> {
        if self.skip_admission {
            return Ok(());
        }
        Ok(Budget::read(None).fits(&need_of(workers, self.memory.0, limits))?)
    }
}

/// What connections may cost.
#[derive(Clone, Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Bytes of bodies and answers that are held at a time.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(super) buffered: Bytes,

    /// How long a body may take to arrive.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) body_timeout: Duration,

    /// How long a connection may take to send a request's headers, and so how long it may be idle. It must be longer than a
    /// balancer keeps its own idle connections, which some do for 600s.
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = humantime::parse_duration)]
    header_timeout: Duration,

    /// Connections at a time; beyond, the one that has been idle for longest makes room. None in use is cut off for that.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_connections: usize,
}

impl ConnectionArgs {
    /// The limits on connections.
    pub(super) fn bounds(&self) -> ConnectionLimits {
        let (connections, header_timeout) = (self.max_connections, self.header_timeout);
        ConnectionLimits { connections, header_timeout, ..ConnectionLimits::default() }
    }
}

/// Where compiled modules are kept.
#[derive(Clone, Debug, Args)]
pub(super) struct CacheArgs {
    /// Where compiled modules are kept [default: $XDG_CACHE_HOME/cofferdam or ~/.cache/cofferdam].
    #[arg(long, value_name = "DIR", env = "COFFERDAM_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Compile the module every time, whatever --cache-dir and its variable say.
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    pub(super) fn apply(&self, builder: PoolBuilder) -> PoolBuilder {
        match (&self.cache_dir, self.no_cache) {
            (_, true) => builder.cache(None),
            (Some(directory), false) => builder.cache(Some(directory.clone())),
            (None, false) => builder,
        }
    }
}

/// The pool that `run` and `serve` keep.
#[derive(Clone, Debug, Args)]
pub(super) struct PoolArgs {
    /// Jobs that can run at a time, each on a worker of its own [default: 1; a node has one more for views if there is memory
    /// for it]. A chain runs one block at a time; more workers let one reset while another runs.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Committed workers more, to take over when one dies [default: 1 if there is memory for it].
    #[arg(long, value_name = "N")]
    spares: Option<usize>,

    #[command(flatten)]
    memory: MemoryArgs,

    #[command(flatten)]
    limits: LimitArgs,

    /// How often a job is run again after its worker was lost.
    #[arg(long, value_name = "N", default_value_t = 2)]
    retries: u32,

    #[command(flatten)]
    quarantine: QuarantineArgs,

    #[command(flatten)]
    cache: CacheArgs,
}

/// What is done about requests that end the workers that run them.
#[derive(Clone, Copy, Debug, Args)]
struct QuarantineArgs {
    /// How long a request is answered from memory after every attempt at it has ended its worker; 0s never does. Blocks of a
    /// node's own chain are always run.
    #[arg(
        long = "quarantine",
        value_name = "TIME",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    time: Duration,

    /// How many such requests are remembered.
    #[arg(long = "quarantine-entries", value_name = "N", default_value_t = 1024)]
    entries: usize,
}

impl QuarantineArgs {
    fn policy(self) -> QuarantinePolicy {
        QuarantinePolicy { time: self.time, entries: self.entries, ..QuarantinePolicy::default() }
    }
}

impl PoolArgs {
    /// The pool of `module`, for inputs of up to so many bytes.
    pub(super) fn builder(&self, module: Vec<u8>, input: Bytes) -> PoolBuilder {
        let limits = Limits { retries: self.retries, ..self.limits.limits(input) };
        let mut builder = Pool::builder(module).workers(self.workers.unwrap_or(1)).limits(limits);
        builder = builder.quarantine(self.quarantine.policy());
        if let Some(spares) = self.spares {
            builder = builder.spares(spares);
        }
        self.cache.apply(self.memory.apply(builder))
    }

    /// How many workers were asked for, if that was said.
    pub(super) fn workers(&self) -> Option<usize> {
        self.workers
    }

    /// As [`PoolArgs::builder`]; where the number of workers is not given, the most that there is memory for, within these
    /// bounds.
    pub(super) fn builder_within(
        &self,
        module: Vec<u8>,
        input: Bytes,
        least: usize,
        most: usize,
    ) -> PoolBuilder {
        let builder = self.builder(module, input);
        match self.workers {
            Some(_) => builder,
            None => builder.workers_within(least, most),
        }
    }
}
