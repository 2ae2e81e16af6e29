//! The store in a directory of this host, also while a node writes it.

use std::path::Path;

use bitcoin::hashes::Hash as _;
use cofferdam_worker::state::StateReader;

use super::node::{About, AboutProfile, ChainDigest, Node, NodeError, Terms};
use cofferdam_chain::blocks::BlockHash;
use cofferdam_store::Readable;

/// A store that is read and not written.
#[derive(Debug)]
pub struct OwnStore {
    name: String,
    reader: StateReader,
    _readable: Readable,
}

impl OwnStore {
    /// Opens the store in `directory`. Nothing of it is changed; a process can have it open once.
    ///
    /// # Errors
    /// [`NodeError::NotReadable`], [`NodeError::Store`].
    pub fn open(directory: &Path) -> Result<Self, NodeError> {
        let readable = Readable::check(directory)?;
        let reader = StateReader::open(readable.path())?;
        Ok(Self { name: directory.display().to_string(), reader, _readable: readable })
    }
}

impl Node for OwnStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> Result<About, NodeError> {
        let snapshot = self.reader.snapshot()?;
        let parts = self.reader.profile_parts()?;
        let profile = AboutProfile {
            hash: self.reader.profile()?,
            module: parts.as_ref().map(|parts| parts.module),
            terms: parts.map(|parts| Terms {
                memory_bytes: parts.memory_bytes,
                fuel: parts.fuel,
                output_bytes: parts.output_bytes,
                engine: parts.engine,
            }),
        };
        let start_height = snapshot.first()?.unwrap_or(0);
        Ok(About {
            version: None,
            profile,
            start_height,
            tip: snapshot.tip()?,
            network: self.reader.network()?,
        })
    }

    fn digest(&self, height: u32) -> Result<ChainDigest, NodeError> {
        // One for each question: a snapshot that is held lets the file of a running node grow.
        let snapshot = self.reader.snapshot()?;
        if let Some(record) = snapshot.block(height)? {
            let block = BlockHash::from_byte_array(record.hash);
            return Ok(ChainDigest { height, block, digest: record.digest });
        }
        match (snapshot.first()?, snapshot.tip()?) {
            (Some(start), _) if height < start => Err(NodeError::BeforeStart { height, start }),
            (_, Some(tip)) if height < tip => Err(NodeError::Gap { height }),
            _ => Err(NodeError::Gone { height }),
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

    /// What another process has left there.
    fn left(heights: &[u32]) -> tempfile::TempDir {
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
        let directory = left(&[5, 6, 7]);
        let own = OwnStore::open(directory.path()).unwrap();
        let about = own.about().unwrap();
        assert_eq!((about.start_height, about.tip), (5, Some(7)));
        assert_eq!(about.profile, AboutProfile { hash: Hash::of(b"profile"), module: None, terms: None });
        let digest = own.digest(6).unwrap();
        assert_eq!((digest.height, digest.digest), (6, Hash::of(&6u32.to_le_bytes())));
        assert_eq!(digest.block, BlockHash::from_byte_array([7; 32]));
        assert!(matches!(own.digest(4), Err(NodeError::BeforeStart { height: 4, start: 5 })));
        assert!(matches!(own.digest(8), Err(NodeError::Gone { height: 8 })));
    }

    #[test]
    fn gaps_and_empty_stores_are_told() {
        let directory = left(&[0, 2]);
        let own = OwnStore::open(directory.path()).unwrap();
        assert!(matches!(own.digest(1), Err(NodeError::Gap { height: 1 })));
        let empty = left(&[]);
        let own = OwnStore::open(empty.path()).unwrap();
        assert_eq!(own.about().unwrap().tip, None);
    }

    #[test]
    fn a_directory_without_a_store_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let error = OwnStore::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("data.mdb is missing"), "{error}");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_store_can_be_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Arc<OwnStore>>();
    }
}
