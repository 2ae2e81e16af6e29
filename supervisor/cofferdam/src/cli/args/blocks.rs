//! Which blocks a command reads, and how.

use std::ffi::OsString;

use clap::Args;

use super::super::error::CliError;
use super::super::logging;
use cofferdam_base::size::Bytes;
use cofferdam_chain::blocks::{self, BlockInput, BlockSource, IndexedRange};

/// Which blocks, and how they are read.
#[derive(Debug, Args)]
pub(in crate::cli) struct BlockArgs {
    /// Where the blocks are: files of one raw block, bitcoind's blk*.dat, directories of either, HEIGHT=PATH, or - for standard
    /// input. A comma is part of a path [default: the bundled blocks, mainnet 0 to 438 and 702861].
    #[arg(long, value_name = "PATH|HEIGHT=PATH|-", num_args = 1..)]
    blocks: Vec<OsString>,

    /// Height of the first block. In files that name their heights: the first height to take [default: the height after the
    /// newest block of the store, or 0].
    #[arg(long, value_name = "HEIGHT", alias = "start-block")]
    start_height: Option<u32>,

    /// Refuse a block that does not name the block before it as its parent.
    #[arg(long)]
    check_chain: bool,

    /// Index the blocks even if heights are missing between them, or between the store's newest block and the first of them.
    #[arg(long, conflicts_with = "check_chain")]
    allow_gaps: bool,

    /// Do not check that the files are Bitcoin blocks: each file is one block, byte for byte.
    #[arg(long, conflicts_with = "check_chain")]
    opaque: bool,

    /// The largest block that is accepted.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(in crate::cli) max_block_bytes: Bytes,
}

impl BlockArgs {
    /// Opens the blocks. With `indexed`, blocks that the store has are left out.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a start height without files; [`CliError::Blocks`] if the blocks cannot be read.
    pub(in crate::cli) fn open(&self, indexed: Option<IndexedRange>) -> Result<BlockSource, CliError> {
        if self.blocks.is_empty() {
            return match self.start_height {
                None => Ok(blocks::bundled()?),
                Some(_) => Err(CliError::Usage(
                    "--start-height needs --blocks: the bundled blocks have their own heights".to_owned(),
                )),
            };
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

    /// The first height, if one was given.
    pub(in crate::cli) fn start_height(&self) -> Option<u32> {
        self.start_height
    }

    /// Whether the blocks come from standard input, which can be read only once.
    pub(in crate::cli) fn are_a_stream(&self) -> bool {
        self.blocks.iter().any(|input| matches!(BlockInput::parse(input), Ok(BlockInput::Stdin { .. })))
    }

    /// The same arguments, for another process of this command.
    pub(in crate::cli) fn to_arguments(&self) -> Vec<OsString> {
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
