//! What one block may use, and what happens when a block does not complete.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};

use cofferdam_base::size::Bytes;
use cofferdam_chain::OnGuestFailure;
use cofferdam_pool::Limits;

/// What one block may use.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct LimitArgs {
    /// Fuel that one block may use [default: fuel is not metered].
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,

    /// Wall-clock time that one attempt at a block may take, for example 30s or 2m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,

    /// Bytes that one block may write, or that one view may return.
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    max_output_bytes: Bytes,
}

impl LimitArgs {
    /// The limits of a pool whose blocks have at most `input` bytes.
    pub(in crate::cli) fn limits(&self, input: Bytes) -> Limits {
        Limits {
            fuel: self.fuel,
            deadline: self.deadline,
            input_bytes: input.0,
            output_bytes: self.max_output_bytes.0,
            ..Limits::default()
        }
    }

    /// The same arguments, for another process of this command.
    pub(in crate::cli) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            format!("--deadline={}", humantime::format_duration(self.deadline)),
            format!("--max-output-bytes={}", self.max_output_bytes.0),
        ];
        arguments.extend(self.fuel.map(|fuel| format!("--fuel={fuel}")));
        arguments.into_iter().map(OsString::from).collect()
    }
}

/// What to do when a block ends in a guest verdict other than `completed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Policy {
    /// Stop at that block. The block is not committed.
    Stop,
    /// Commit the block with its verdict and without writes, and continue.
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
