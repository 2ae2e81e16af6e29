//! The arguments of the pool of `run`, `serve` and `node`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{LimitArgs, MemoryArgs};
use cofferdam_base::size::Bytes;
use cofferdam_pool::{Limits, Pool, PoolBuilder, QuarantinePolicy};

/// Where compiled modules are kept.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct CacheArgs {
    /// Where compiled modules are kept [default: $XDG_CACHE_HOME/cofferdam or ~/.cache/cofferdam].
    #[arg(long, value_name = "DIR", env = "COFFERDAM_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Do not use a cache: compile the module every time.
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    /// `builder` with this cache.
    pub(in crate::cli) fn apply(&self, builder: PoolBuilder) -> PoolBuilder {
        match (&self.cache_dir, self.no_cache) {
            (_, true) => builder.cache(None),
            (Some(directory), false) => builder.cache(Some(directory.clone())),
            (None, false) => builder,
        }
    }
}

/// How many workers a pool has, and what they may use.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct PoolArgs {
    /// Workers, and therefore jobs that can run at one time. The blocks of a chain run one at a time; with a second worker, one
    /// worker resets while the other runs [default: 1; in a node 2 if there is memory for it, the second for views].
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Spare workers: committed and idle, to take over when a worker dies [default: 1 if there is memory for it].
    #[arg(long, value_name = "N")]
    spares: Option<usize>,

    #[command(flatten)]
    memory: MemoryArgs,

    #[command(flatten)]
    limits: LimitArgs,

    /// How often a job is run again after its worker died.
    #[arg(long, value_name = "N", default_value_t = 2)]
    retries: u32,

    #[command(flatten)]
    quarantine: QuarantineArgs,

    #[command(flatten)]
    cache: CacheArgs,
}

/// What happens to requests that end the workers that run them.
#[derive(Clone, Copy, Debug, Args)]
struct QuarantineArgs {
    /// How long a request stays in quarantine after every attempt at it has ended its worker: the same request is then answered
    /// with 503 without being run. 0s turns the quarantine off. A node always runs the blocks of its chain.
    #[arg(
        long = "quarantine",
        value_name = "TIME",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    time: Duration,

    /// How many requests can be in quarantine at one time.
    #[arg(long = "quarantine-entries", value_name = "N", default_value_t = 1024)]
    entries: usize,
}

impl QuarantineArgs {
    fn policy(self) -> QuarantinePolicy {
        QuarantinePolicy { time: self.time, entries: self.entries, ..QuarantinePolicy::default() }
    }
}

impl PoolArgs {
    /// The pool of `module`, for inputs of at most `input` bytes.
    pub(in crate::cli) fn builder(&self, module: Vec<u8>, input: Bytes) -> PoolBuilder {
        let limits = Limits { retries: self.retries, ..self.limits.limits(input) };
        let mut builder = Pool::builder(module).workers(self.workers.unwrap_or(1)).limits(limits);
        builder = builder.quarantine(self.quarantine.policy());
        if let Some(spares) = self.spares {
            builder = builder.spares(spares);
        }
        self.cache.apply(self.memory.apply(builder))
    }

    /// The number of workers, if one was given.
    pub(in crate::cli) fn workers(&self) -> Option<usize> {
        self.workers
    }

    /// As [`PoolArgs::builder`]. If no number of workers was given, the pool has as many workers as there is memory for: at least
    /// `least`, and at most `most`.
    pub(in crate::cli) fn builder_within(
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
