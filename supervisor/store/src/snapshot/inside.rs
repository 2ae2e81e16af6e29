//! What the data of a snapshot says of itself, and who looks.

use std::path::Path;

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Serialize};

use super::{SnapshotError, Watch, hexadecimal};
use crate::contents;

/// What the data of a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// Height of the newest block.
    pub height: u32,
    /// Its hash, as block explorers show it.
    pub block_hash: String,
    /// The chain's digest up to and with it.
    #[serde(with = "hexadecimal")]
    pub digest: Hash,
    /// Hash of the profile that the results are of.
    #[serde(with = "hexadecimal")]
    pub profile: Hash,
    /// The network that the blocks are of, if that is known.
    pub network: Option<String>,
    /// The hash over all values, if it was asked for: equal for equal chains, whichever node indexed them.
    #[serde(with = "hexadecimal::option")]
    pub content: Option<Hash>,
}

/// Looks into a data file: the file, whether to hash its content, and whom to tell.
///
/// LMDB trusts the pages that it reads, so that data which was made to mislead it can end the process that looks. A program
/// that takes snapshots from others has a process of its own look; [`look_here`] does not.
pub type Look<'l> = &'l dyn Fn(&Path, bool, Watch<'_>) -> Result<Inside, SnapshotError>;

/// Looks into a data file in this process.
///
/// # Errors
/// [`SnapshotError::Contents`] if it is not a store's.
pub fn look_here(file: &Path, content: bool, _watch: Watch<'_>) -> Result<Inside, SnapshotError> {
    let contents = contents(file, content)
        .map_err(|source| SnapshotError::Contents { path: file.to_owned(), source })?;
    Ok(Inside {
        height: contents.tip.height,
        block_hash: as_explorers_show(contents.tip.hash),
        digest: contents.tip.digest,
        profile: contents.profile,
        network: contents.network,
        content: contents.content,
    })
}

/// A block hash in hexadecimal, the last byte first: the way in which Bitcoin's tools print hashes.
fn as_explorers_show(mut hash: [u8; 32]) -> String {
    hash.reverse();
    hex::encode(hash)
}
