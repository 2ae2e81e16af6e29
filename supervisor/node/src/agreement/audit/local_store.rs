//! A store in a directory of this host. A node may be writing the store meanwhile.

use std::path::Path;

use bitcoin::hashes::Hash as _;
use cofferdam_worker::state::StateReader;

use super::source::{ChainDigest, DigestSource, ProfileInfo, ProfileSettings, SourceError, SourceInfo};
use cofferdam_chain::blocks::BlockHash;
use cofferdam_store::ReadAccess;

/// A local store, opened for reading.
#[derive(Debug)]
pub struct LocalStore {
    name: String,
    reader: StateReader,
    _readable: ReadAccess,
}

impl LocalStore {
    /// Opens the store in `directory`, and changes no data there. If `lock.mdb` is missing, the file is created. A process can
    /// have the same store open only once.
    ///
    /// # Errors
    /// [`SourceError::NotReadable`] if there is no store, or it cannot be opened; [`SourceError::Store`] if it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, SourceError> {
        let readable = ReadAccess::check(directory)?;
        let reader = StateReader::open(readable.path())?;
        Ok(Self { name: directory.display().to_string(), reader, _readable: readable })
    }
}

impl DigestSource for LocalStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> Result<SourceInfo, SourceError> {
        let snapshot = self.reader.snapshot()?;
        let parts = self.reader.profile_parts()?;
        let profile = ProfileInfo {
            hash: self.reader.profile()?,
            module: parts.as_ref().map(|parts| parts.module),
            settings: parts.map(|parts| ProfileSettings {
                memory_bytes: parts.memory_bytes,
                fuel: parts.fuel,
                output_bytes: parts.output_bytes,
                engine: parts.engine,
            }),
        };
        let start_height = snapshot.first()?.unwrap_or(0);
        let network = self.reader.network()?;
        Ok(SourceInfo { version: None, profile, start_height, tip: snapshot.tip()?, network })
    }

    fn digest(&self, height: u32) -> Result<ChainDigest, SourceError> {
        // Each call begins a read transaction of its own. While a read transaction is open, the data file of a running node
        // grows.
        let snapshot = self.reader.snapshot()?;
        if let Some(record) = snapshot.block(height)? {
            let block = BlockHash::from_byte_array(record.hash);
            return Ok(ChainDigest { height, block, digest: record.digest });
        }
        match (snapshot.first()?, snapshot.tip()?) {
            (Some(start), _) if height < start => Err(SourceError::BeforeStart { height, start }),
            (_, Some(tip)) if height < tip => Err(SourceError::Gap { height }),
            _ => Err(SourceError::Gone { height }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cofferdam_protocol::profile::Hash;
    use cofferdam_protocol::state::BlockRecord;
    use cofferdam_protocol::verdict::GuestVerdict;
    use cofferdam_protocol::writes::Writes;

    use super::*;
    use cofferdam_store::{Durability, Identity, Store};

    /// A store with blocks at these heights, which another process has closed.
    fn closed_store(heights: &[u32]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity { profile: Hash::of(b"profile"), network: None };
        let store = Store::open(directory.path(), &identity, Durability::None).unwrap();
        for height in heights.iter().copied() {
            let digest = Hash::of(&height.to_le_bytes());
            let (verdict, writes_sha256) = (GuestVerdict::Completed, Hash::of(b""));
            let record = BlockRecord { height, hash: [7; 32], digest, verdict, writes: 0, writes_sha256 };
            store.commit(&record, &Writes::default()).unwrap();
        }
        directory
    }

    #[test]
    fn a_store_answers_as_a_node_does() {
        let directory = closed_store(&[5, 6, 7]);
        let store = LocalStore::open(directory.path()).unwrap();
        let info = store.info().unwrap();
        assert_eq!((info.start_height, info.tip), (5, Some(7)));
        assert_eq!(info.profile, ProfileInfo { hash: Hash::of(b"profile"), module: None, settings: None });
        let digest = store.digest(6).unwrap();
        assert_eq!((digest.height, digest.digest), (6, Hash::of(&6u32.to_le_bytes())));
        assert_eq!(digest.block, BlockHash::from_byte_array([7; 32]));
        assert!(matches!(store.digest(4), Err(SourceError::BeforeStart { height: 4, start: 5 })));
        assert!(matches!(store.digest(8), Err(SourceError::Gone { height: 8 })));
    }

    #[test]
    fn gaps_and_empty_stores_are_reported() {
        let directory = closed_store(&[0, 2]);
        let store = LocalStore::open(directory.path()).unwrap();
        assert!(matches!(store.digest(1), Err(SourceError::Gap { height: 1 })));
        let empty = closed_store(&[]);
        let store = LocalStore::open(empty.path()).unwrap();
        assert_eq!(store.info().unwrap().tip, None);
    }

    #[test]
    fn a_directory_without_a_store_is_left_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let error = LocalStore::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("data.mdb is missing"), "{error}");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_store_can_be_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Arc<LocalStore>>();
    }
}
