//! What a data file says of itself, read where no store is opened: in a copy.

#![allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]

use std::path::Path;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state::{self, BlockRecord, LayoutError};
use cofferdam_worker::state::{StateReader, Table};
use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithoutTls};
use thiserror::Error;

use super::hash_values;

/// The longest name that a network has; those of Bitcoin have ten bytes at most.
const NETWORK_BYTES: usize = 64;

/// What the data file of a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The newest block.
    pub tip: BlockRecord,
    /// The profile that its results are of.
    pub profile: Hash,
    /// The network that its blocks are of, if that is known.
    pub network: Option<String>,
    /// What [`super::Store::content_hash`] gives for it, if that was asked for.
    pub content: Option<Hash>,
}

/// Why a file is not the data of a store.
#[derive(Error)]
pub enum ContentsError {
    /// LMDB cannot open or read it.
    #[error("it is no LMDB data, or damaged ({0})")]
    Lmdb(heed::Error),
    /// LMDB data of another program.
    #[error("it has no table {0:?}, which every store of Cofferdam has")]
    Table(&'static str),
    /// It does not say what it is.
    #[error("it says {what} in {found} bytes")]
    Meta {
        /// What it should say.
        what: &'static str,
        /// Bytes found; 0 if there is no entry.
        found: usize,
    },
    /// A store of another format.
    #[error("it has the store's format {0}, this build knows format {known}", known = state::FORMAT)]
    Format(u32),
    /// A store without a block.
    #[error("it holds no block")]
    NoBlock,
    /// A record that does not decode.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

cofferdam_protocol::debug_as_display!(ContentsError);

impl From<heed::Error> for ContentsError {
    fn from(source: heed::Error) -> Self {
        Self::Lmdb(source)
    }
}

/// Looks into a data file that nobody writes, with a hash over all of its values if `content`. Makes no other file.
///
/// LMDB trusts its pages: one that was made to mislead it can end this process.
///
/// # Errors
/// [`ContentsError`] if it is not the data of a store with a block.
pub fn contents(file: &Path, content: bool) -> Result<Contents, ContentsError> {
    let env = open_file(file)?;
    let txn = env.read_txn()?;
    let [meta, blocks, values] = tables(&env, &txn)?;
    let profile = meta_entry(meta, &txn, state::PROFILE_KEY, "its profile")?;
    let format = u32::from_le_bytes(meta_entry(meta, &txn, state::FORMAT_KEY, "its format")?);
    if format != state::FORMAT {
        return Err(ContentsError::Format(format));
    }
    let network = meta.get(&txn, state::NETWORK_KEY)?;
    if let Some(name) = network.filter(|name| name.len() > NETWORK_BYTES) {
        return Err(ContentsError::Meta { what: "its network", found: name.len() });
    }
    Ok(Contents {
        tip: newest(blocks, &txn)?.ok_or(ContentsError::NoBlock)?,
        profile: Hash(profile),
        network: network.map(|name| String::from_utf8_lossy(name).into_owned()),
        content: content.then(|| hash_values(values, &txn)).transpose()?,
    })
}

/// The newest block of a store that is open for reading; none in a new store.
///
/// # Errors
/// [`ContentsError`] if the store cannot be read.
pub fn tip(reader: &StateReader) -> Result<Option<BlockRecord>, ContentsError> {
    let txn = reader.environment().read_txn()?;
    let [_, blocks, _] = tables(reader.environment(), &txn)?;
    newest(blocks, &txn)
}

fn newest(blocks: Table, txn: &RoTxn<'_>) -> Result<Option<BlockRecord>, ContentsError> {
    let Some((key, bytes)) = blocks.last(txn)? else { return Ok(None) };
    Ok(Some(BlockRecord::decode(state::block_height(key)?, bytes)?))
}

fn tables(env: &Env<WithoutTls>, txn: &RoTxn<'_>) -> Result<[Table; 3], ContentsError> {
    let table = |name| {
        let opened = env.open_database::<Bytes, Bytes>(txn, Some(name));
        match opened {
            Ok(Some(table)) => Ok(table),
            // A plain entry stands where the table should.
            Ok(None) | Err(heed::Error::Mdb(MdbError::Incompatible)) => Err(ContentsError::Table(name)),
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
) -> Result<[u8; N], ContentsError> {
    let bytes = meta.get(txn, key)?.unwrap_or_default();
    bytes.try_into().map_err(|_| ContentsError::Meta { what, found: bytes.len() })
}

fn open_file(file: &Path) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(state::MAP_BYTES).max_dbs(state::TABLES);
    // SAFETY: without locks a reader must not meet a writer (lmdb.h, MDB_NOLOCK). There is none: the file is a finished
    // copy, under a name that no store is opened by.
    unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK | EnvFlags::NO_SUB_DIR) };
    // SAFETY: as above, nothing changes the file. One that somebody truncates ends this process with SIGBUS.
    unsafe { options.open(file) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::open;
    use super::*;

    #[test]
    fn what_is_no_store_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let said = |file: &Path| contents(file, true).unwrap_err().to_string();
        let file = dir.path().join("file");
        for bytes in [&[][..], &[0; 100], &[7; 100_000]] {
            fs::write(&file, bytes).unwrap();
            assert!(said(&file).contains("LMDB"), "{}", said(&file));
        }
        let foreign = tempfile::tempdir().unwrap();
        // SAFETY: a new directory of this test's own.
        let env = unsafe { EnvOpenOptions::new().max_dbs(2).open(foreign.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let plain: Table = env.create_database(&mut txn, None).unwrap();
        plain.put(&mut txn, b"meta", b"an entry").unwrap();
        txn.commit().unwrap();
        drop(env);
        assert!(said(&foreign.path().join("data.mdb")).contains("meta"));
        let store = tempfile::tempdir().unwrap();
        drop(open(&store).unwrap());
        assert!(said(&store.path().join("data.mdb")).contains("no block"));
    }
}
