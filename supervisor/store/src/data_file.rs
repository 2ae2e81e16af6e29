//! Reads the facts that the data file of a store holds about the store, without opening the store. This is for a finished copy,
//! such as the data of a snapshot.

#![allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]

use std::path::Path;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state::{self, BlockRecord, LayoutError};
use cofferdam_worker::state::{StateReader, Table};
use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithoutTls};
use thiserror::Error;

use crate::content_hash::content_hash;

/// The longest name of a network, in bytes. The names of Bitcoin's networks have at most ten.
const MAX_NETWORK_BYTES: usize = 64;

/// The facts that the data file of a store holds about the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFileSummary {
    /// The newest block.
    pub tip: BlockRecord,
    /// Hash of the profile that the results belong to.
    pub profile: Hash,
    /// The network that the blocks come from, if the store knows it.
    pub network: Option<String>,
    /// The result of [`crate::Store::content_hash`] for this data, if the caller asked for it.
    pub content: Option<Hash>,
}

/// Why a file is not the data of a store.
#[derive(Error)]
pub enum DataFileError {
    /// LMDB cannot open or read the file.
    #[error("it is not LMDB data, or it is damaged ({0})")]
    Lmdb(heed::Error),
    /// LMDB data of another program.
    #[error("it has no table {0:?}, which every Cofferdam store has")]
    Table(&'static str),
    /// An entry about the store is missing, or has the wrong length.
    #[error("{what} has {found} bytes, which is not a valid length")]
    Meta {
        /// The entry.
        what: &'static str,
        /// Bytes found; 0 if there is no entry.
        found: usize,
    },
    /// A store of another format.
    #[error("it has the store format {0}, but this build reads format {known}", known = state::FORMAT)]
    Format(u32),
    /// A store without a block.
    #[error("it holds no block")]
    NoBlock,
    /// A block record that cannot be decoded.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

cofferdam_protocol::debug_as_display!(DataFileError);

impl From<heed::Error> for DataFileError {
    fn from(source: heed::Error) -> Self {
        Self::Lmdb(source)
    }
}

/// Reads the data file `file`. Nobody may write the file meanwhile. If `hash_content` is true, this also hashes all values. It
/// creates no other file.
///
/// LMDB trusts the pages that it reads: data that was made to mislead LMDB can end this process.
///
/// # Errors
/// [`DataFileError`] if the file is not the data of a store with at least one block.
pub fn inspect_data_file(file: &Path, hash_content: bool) -> Result<DataFileSummary, DataFileError> {
    let env = open_file(file)?;
    let txn = env.read_txn()?;
    let [meta, blocks, values] = tables(&env, &txn)?;
    let profile = meta_entry(meta, &txn, state::PROFILE_KEY, "its profile")?;
    let format = u32::from_le_bytes(meta_entry(meta, &txn, state::FORMAT_KEY, "its format")?);
    if format != state::FORMAT {
        return Err(DataFileError::Format(format));
    }
    let network = meta.get(&txn, state::NETWORK_KEY)?;
    if let Some(name) = network.filter(|name| name.len() > MAX_NETWORK_BYTES) {
        return Err(DataFileError::Meta { what: "the name of its network", found: name.len() });
    }
    Ok(DataFileSummary {
        tip: newest(blocks, &txn)?.ok_or(DataFileError::NoBlock)?,
        profile: Hash(profile),
        network: network.map(|name| String::from_utf8_lossy(name).into_owned()),
        content: hash_content.then(|| content_hash(values, &txn)).transpose()?,
    })
}

/// The newest block of a store that is open for reading; none in a new store.
///
/// # Errors
/// [`DataFileError`] if the store cannot be read.
pub fn newest_block(reader: &StateReader) -> Result<Option<BlockRecord>, DataFileError> {
    let txn = reader.environment().read_txn()?;
    let [_, blocks, _] = tables(reader.environment(), &txn)?;
    newest(blocks, &txn)
}

fn newest(blocks: Table, txn: &RoTxn<'_>) -> Result<Option<BlockRecord>, DataFileError> {
    let Some((key, bytes)) = blocks.last(txn)? else { return Ok(None) };
    Ok(Some(BlockRecord::decode(state::block_height(key)?, bytes)?))
}

fn tables(env: &Env<WithoutTls>, txn: &RoTxn<'_>) -> Result<[Table; 3], DataFileError> {
    let table = |name| {
        let opened = env.open_database::<Bytes, Bytes>(txn, Some(name));
        match opened {
            Ok(Some(table)) => Ok(table),
            // Incompatible: a plain entry has the name of the table.
            Ok(None) | Err(heed::Error::Mdb(MdbError::Incompatible)) => Err(DataFileError::Table(name)),
            Err(source) => Err(source.into()),
        }
    };
    Ok([table(state::META)?, table(state::BLOCKS)?, table(state::VALUES)?])
}

fn meta_entry<const N: usize>(
    meta: Table,
    txn: &RoTxn<'_>,
    key: &[u8],
    what: &'static str,
) -> Result<[u8; N], DataFileError> {
    let bytes = meta.get(txn, key)?.unwrap_or_default();
    bytes.try_into().map_err(|_| DataFileError::Meta { what, found: bytes.len() })
}

fn open_file(file: &Path) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(state::MAP_BYTES).max_dbs(state::TABLES);
    // SAFETY: without locks a reader must not run beside a writer (lmdb.h, MDB_NOLOCK). There is no writer: the caller of
    // [`inspect_data_file`] must make sure that nobody writes the file meanwhile.
    unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK | EnvFlags::NO_SUB_DIR) };
    // SAFETY: as above, nothing changes the file. If somebody truncates it, SIGBUS ends this process.
    unsafe { options.open(file) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::test_support::open;

    #[test]
    fn the_reason_why_a_file_is_not_a_store_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let reason = |file: &Path| inspect_data_file(file, true).unwrap_err().to_string();
        let file = dir.path().join("file");
        for bytes in [&[][..], &[0; 100], &[7; 100_000]] {
            fs::write(&file, bytes).unwrap();
            assert!(reason(&file).contains("LMDB"), "{}", reason(&file));
        }
        let foreign = tempfile::tempdir().unwrap();
        // SAFETY: a new directory of this test's own.
        let env = unsafe { EnvOpenOptions::new().max_dbs(2).open(foreign.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let plain: Table = env.create_database(&mut txn, None).unwrap();
        plain.put(&mut txn, b"meta", b"an entry").unwrap();
        txn.commit().unwrap();
        drop(env);
        assert!(reason(&foreign.path().join("data.mdb")).contains("meta"));
        let store = tempfile::tempdir().unwrap();
        drop(open(&store).unwrap());
        assert!(reason(&store.path().join("data.mdb")).contains("no block"));
    }
}
