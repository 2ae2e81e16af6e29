//! What the data of a snapshot says about itself, and which process reads it.

use std::path::Path;

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Serialize};

use super::error::SnapshotError;
use super::hex_hash;
use super::progress::Observer;
use crate::data_file::inspect_data_file;

/// What the data of a snapshot says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Height of the newest block.
    pub height: u32,
    /// Hash of the newest block, in the form that block explorers show.
    pub block_hash: String,
    /// Digest of the chain up to and including the newest block.
    #[serde(with = "hex_hash")]
    pub digest: Hash,
    /// Hash of the profile that the results belong to.
    #[serde(with = "hex_hash")]
    pub profile: Hash,
    /// The network that the blocks come from, if the store knows it.
    pub network: Option<String>,
    /// The hash over all values, if the caller asked for it. Two nodes that indexed the same chain have the same hash.
    #[serde(
        serialize_with = "hex_hash::serialize_option",
        deserialize_with = "hex_hash::deserialize_option"
    )]
    pub content: Option<Hash>,
}

/// A function that inspects a data file. Its arguments are the file, whether to hash all values, and the observer to report
/// [`super::Step::Inspecting`] to if the inspection takes long.
///
/// LMDB trusts the pages that it reads, so data that was made to mislead LMDB can end the process that reads it. A program that
/// accepts snapshots from others should inspect them in another process. [`inspect_in_process`] does not do that.
pub type Inspector<'i> = &'i dyn Fn(&Path, bool, Observer<'_>) -> Result<Inspection, SnapshotError>;

/// Inspects a data file in this process.
///
/// # Errors
/// [`SnapshotError::Data`] if the file is not the data of a store.
pub fn inspect_in_process(
    file: &Path,
    hash_content: bool,
    _observer: Observer<'_>,
) -> Result<Inspection, SnapshotError> {
    let summary = inspect_data_file(file, hash_content)
        .map_err(|source| SnapshotError::Data { path: file.to_owned(), source })?;
    Ok(Inspection {
        height: summary.tip.height,
        block_hash: display_order(summary.tip.hash),
        digest: summary.tip.digest,
        profile: summary.profile,
        network: summary.network,
        content: summary.content,
    })
}

/// A block hash in hexadecimal, the last byte first: Bitcoin's tools print hashes in this order.
fn display_order(mut hash: [u8; 32]) -> String {
    hash.reverse();
    hex::encode(hash)
}
