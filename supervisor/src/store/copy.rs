//! Copies of a store: made of one that is in use, looked into, and put where a store is to be.
//!
//! LMDB copies the whole environment as one transaction sees it, every table with it, while blocks are being committed
//! (`mdb_env_copyfd2`). It writes into a descriptor and cannot be told to stop, so it is given a pipe: whoever reads that
//! can hash, count and give up.
//!
//! The copy is not compacted. Compacting leaves out the pages that are free, which are about as many as one commit touches,
//! but walks the tree in the order of keys, which on disk is no order at all. Of a store of 1.4 GiB that is not in the page
//! cache, a compacted copy took 19 s and was an eleventh smaller; one in the order of the file, which can be read ahead, 2.4 s.

#![allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]

use std::fs::{self, File};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state::{self, BlockRecord, LayoutError};
use cofferdam_worker::state::{StateReader, Table};
use heed::types::Bytes;
use heed::{CompactionOption, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithoutTls};
use nix::fcntl::{FcntlArg, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::signal::{SigSet, Signal};
use thiserror::Error;

use super::{StoreError, hash_values, open};

/// Bytes that the pipe between LMDB and the reader holds, where the kernel grants them: an ordinary pipe holds 64 KiB,
/// and each side would wait for the other that much oftener.
const PIPE_BYTES: i32 = 1 << 20;

/// How far ahead of the copy the store's file is read into the page cache. The map is advised for scattered reads, so
/// that a page which is not there costs a read of its own.
const AHEAD_BYTES: i64 = 8 << 20;

/// A copy while it is made: the bytes of a `data.mdb`, to be read to their end. Dropped before, it is given up.
#[derive(Debug)]
pub struct StoreCopy {
    // None once it is closed, which makes LMDB's next write fail and so ends the copier.
    pipe: Option<PipeReader>,
    copier: Option<JoinHandle<heed::Result<()>>>,
    source: File,
    read: i64,
    expected_bytes: u64,
    path: PathBuf,
}

impl StoreCopy {
    /// Begins to copy the store that `reader` reads. Writers are held up for as long as it takes to copy two pages, and not
    /// longer; but pages that they free are not used again before the copy has ended.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if there is no pipe or no thread to be had.
    pub fn begin(reader: &StateReader) -> Result<Self, StoreError> {
        Self::begin_with(reader, CompactionOption::Disabled)
    }

    fn begin_with(reader: &StateReader, compaction: CompactionOption) -> Result<Self, StoreError> {
        let env = reader.environment();
        let path = reader.path().to_owned();
        let source = env.try_clone_inner_file().map_err(|source| lmdb(&path, "reading its file", source))?;
        let expected_bytes = (env.info().last_page_number as u64 + 1) * u64::from(env.stat().page_size);
        advise(&source, 0);
        advise(&source, AHEAD_BYTES);
        let (pipe, copier) = start_copier(env.clone(), compaction).map_err(|source| {
            StoreError::Directory { path: path.clone(), doing: "a copy of it cannot be begun", source }
        })?;
        Ok(Self { pipe: Some(pipe), copier: Some(copier), source, read: 0, expected_bytes, path })
    }

    /// Bytes that the copy will have, unless blocks are committed just now.
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// Whether what was read to the end is the whole copy.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`] if LMDB could not read the store.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.end().map_err(|source| lmdb(&self.path, "copying it", source))
    }

    fn end(&mut self) -> heed::Result<()> {
        self.pipe = None;
        let Some(copier) = self.copier.take() else { return Ok(()) };
        copier.join().unwrap_or_else(|_| Err(io::Error::other("the copying thread panicked").into()))
    }

    /// Has the kernel read on in the store's file. A hint, so that it does not matter whether it is taken.
    fn read_ahead(&mut self, read: usize) {
        let before = self.read / AHEAD_BYTES;
        self.read += i64::try_from(read).unwrap_or(0);
        let now = self.read / AHEAD_BYTES;
        if now != before {
            advise(&self.source, (now + 1) * AHEAD_BYTES);
        }
    }
}

fn advise(source: &File, from: i64) {
    let _hint = posix_fadvise(source, from, AHEAD_BYTES, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
}

impl Read for StoreCopy {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        let read = pipe.read(buffer)?;
        self.read_ahead(read);
        Ok(read)
    }
}

impl Drop for StoreCopy {
    fn drop(&mut self) {
        // Given up, so that it does not matter how far it came.
        let _given_up = self.end();
    }
}

fn start_copier(
    env: Env<WithoutTls>,
    compaction: CompactionOption,
) -> io::Result<(PipeReader, JoinHandle<heed::Result<()>>)> {
    let (reader, writer) = io::pipe()?;
    // Without it the copy is slower, and the same.
    let _refused = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let mut writer = File::from(OwnedFd::from(writer));
    let copy = move || {
        // Whoever embeds this may not ignore SIGPIPE, as Rust's own start does. Blocked it stays with this thread, and
        // goes with it.
        SigSet::from(Signal::SIGPIPE).thread_block().map_err(io::Error::from)?;
        env.copy_to_file(&mut writer, compaction)
    };
    let copier = thread::Builder::new().name("cofferdam-copy".to_owned()).spawn(copy)?;
    Ok((reader, copier))
}

fn lmdb(path: &Path, doing: &'static str, source: heed::Error) -> StoreError {
    StoreError::Lmdb { path: path.to_owned(), doing, source }
}

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
#[derive(Debug, Error)]
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

/// A directory that has no store yet, kept for one: nobody else opens or makes a store there while this exists. What is
/// unfinished when it is dropped is removed.
#[derive(Debug)]
pub struct Vacant {
    path: PathBuf,
    _writer_lock: open::WriterLock,
}

impl Vacant {
    /// What the data is to be called until it is whole. A store is not opened beside it.
    const UNFINISHED: &str = "restoring.mdb";

    /// Claims the directory, which is made if there is none, and removes what an earlier claim left unfinished.
    ///
    /// # Errors
    /// [`StoreError::NotVacant`] if there is anything else in it, [`StoreError::InUse`] if somebody else has it,
    /// [`StoreError::Directory`] if it cannot be made, locked or listed.
    pub fn claim(dir: &Path) -> Result<Self, StoreError> {
        let path = open::make_directory(dir)?;
        check_vacant(&path)?;
        let writer_lock = open::lock(&path)?;
        // Again, for somebody may have made a store and closed it meanwhile.
        check_vacant(&path)?;
        let vacant = Self { path, _writer_lock: writer_lock };
        vacant.clear().map_err(|source| StoreError::Directory {
            path: vacant.path.clone(),
            doing: "what an earlier restore left there cannot be removed",
            source,
        })?;
        Ok(vacant)
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to put the data.
    pub fn unfinished(&self) -> PathBuf {
        self.path.join(Self::UNFINISHED)
    }

    /// Makes what is at [`Vacant::unfinished`], which was synced to disk, the store's data.
    ///
    /// # Errors
    /// [`StoreError::Directory`].
    pub fn fill(self) -> Result<PathBuf, StoreError> {
        let named = fs::rename(self.unfinished(), self.path.join(open::DATA_FILE));
        named.map_err(|source| StoreError::Directory {
            path: self.path.clone(),
            doing: "the restored data cannot be given its name",
            source,
        })?;
        open::sync_names(&self.path)?;
        Ok(self.path.clone())
    }

    fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.unfinished()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Vacant {
    fn drop(&mut self) {
        // If it was filled there is nothing of that name, and if this fails the next claim removes it.
        let _next_time = self.clear();
    }
}

fn check_vacant(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.map_err(|source| StoreError::Directory {
        path: path.to_owned(),
        doing: "it cannot be listed",
        source,
    })?;
    let known = |name: &std::ffi::OsStr| {
        name == Vacant::UNFINISHED || open::NOT_FOREIGN.iter().any(|known| name == *known)
    };
    match entries.into_iter().map(|entry| entry.file_name()).find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(StoreError::NotVacant { path: path.to_owned(), found: name.display().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::super::tests::{commit, identity, open};
    use super::super::{Durability, Store};
    use super::*;

    fn copy_of(reader: &StateReader, compaction: CompactionOption, to: &Path) -> u64 {
        let mut copy = StoreCopy::begin_with(reader, compaction).unwrap();
        let bytes = io::copy(&mut copy, &mut File::create(to).unwrap()).unwrap();
        copy.finish().unwrap();
        bytes
    }

    #[test]
    fn a_copy_made_while_blocks_are_committed_is_the_state_after_one_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).unwrap().with_undo(3);
        store.set_network("regtest").unwrap();
        let put = |height: u32| {
            let pairs: Vec<_> = (0..300u16).map(|key| (key.to_be_bytes(), height.to_be_bytes())).collect();
            commit(&store, height, &pairs).unwrap();
        };
        put(0);
        let copies = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| (1..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(put));
            for round in 0..10 {
                let compaction =
                    if round % 2 == 0 { CompactionOption::Disabled } else { CompactionOption::Enabled };
                copy_of(&store.reader(), compaction, &copies.path().join(format!("{round}.mdb")));
            }
            done.store(true, Ordering::Relaxed);
        });
        for round in 0..10 {
            let file = copies.path().join(format!("{round}.mdb"));
            let found = contents(&file, true).unwrap();
            assert_eq!((found.profile, found.network.as_deref()), (identity().profile, Some("regtest")));
            assert_eq!(Some(&found.tip), store.block(found.tip.height).unwrap().as_ref());
            // It goes on as a store from there, with what it takes to take blocks back.
            let home = copies.path().join(round.to_string());
            let vacant = Vacant::claim(&home).unwrap();
            fs::rename(file, vacant.unfinished()).unwrap();
            assert!(Store::open(&home, &identity(), Durability::None).is_err(), "it is claimed");
            vacant.fill().unwrap();
            let copy = Store::open(&home, &identity(), Durability::None).unwrap().with_undo(3);
            assert_eq!(copy.content_hash().unwrap(), found.content.unwrap());
            for key in 0..300u16 {
                let newest = copy.get(&key.to_be_bytes(), u32::MAX).unwrap().unwrap();
                assert_eq!(newest, found.tip.height.to_be_bytes());
            }
            if found.tip.height > 0 {
                assert_eq!(copy.roll_back(Some(found.tip.height - 1)).unwrap(), 1);
            }
        }
    }

    #[test]
    fn a_copy_that_is_given_up_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).unwrap();
        commit(&store, 1, &[("key", vec![7; 8 << 20])]).unwrap();
        for compaction in [CompactionOption::Disabled, CompactionOption::Enabled] {
            let mut copy = StoreCopy::begin_with(&store.reader(), compaction).unwrap();
            assert!(copy.expected_bytes() > 8 << 20);
            copy.read_exact(&mut [0; 5000]).unwrap();
            // Returns although most of the copy has not been read.
            assert!(
                matches!(copy.end(), Err(heed::Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe)
            );
            drop(StoreCopy::begin_with(&store.reader(), compaction).unwrap());
        }
        commit(&store, 2, &[("key", "the store is as before")]).unwrap();
    }

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

    #[test]
    fn only_an_empty_directory_is_claimed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("made/by/claim");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("restoring.mdb"), "left by a restore that was killed").unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        let vacant = Vacant::claim(&dir).unwrap();
        assert!(!vacant.unfinished().exists());
        assert!(matches!(Vacant::claim(&dir), Err(StoreError::InUse { .. })));
        drop(vacant);
        for name in ["data.mdb", "anything"] {
            fs::write(dir.join(name), "").unwrap();
            let error = Vacant::claim(&dir).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("empty"), "{error}");
            fs::remove_file(dir.join(name)).unwrap();
        }
    }

    #[test]
    #[ignore = "a measurement, for a release build; MEASURE_BLOCKS says of how many blocks of 40,000 pairs"]
    fn measure_copies() {
        let blocks = std::env::var("MEASURE_BLOCKS").map_or(50, |count| count.parse().unwrap());
        let dir = tempfile::tempdir_in(".").unwrap();
        let store = open(&dir).unwrap().with_undo(10);
        let started = Instant::now();
        for height in 0..blocks {
            let pairs: Vec<_> = (0..40_000u32)
                .map(|number| {
                    (Hash::of(&(number % 4 * 7919 + number + height * 40_000).to_le_bytes()).0, [1; 60])
                })
                .collect();
            commit(&store, height, &pairs).unwrap();
        }
        let file = dir.path().join("data.mdb");
        drop(store);
        println!("store: {} MiB in {:?}", file.metadata().unwrap().len() >> 20, started.elapsed());
        for (name, compaction) in
            [("as it is", CompactionOption::Disabled), ("compacted", CompactionOption::Enabled)]
        {
            for cold in [false, true] {
                if cold {
                    // Mapped pages would stay, so the store is closed.
                    let file = File::open(&file).unwrap();
                    file.sync_all().unwrap();
                    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
                }
                let store = open(&dir).unwrap();
                let mut copy = StoreCopy::begin_with(&store.reader(), compaction).unwrap();
                let started = Instant::now();
                let bytes = io::copy(&mut copy, &mut io::sink()).unwrap();
                copy.finish().unwrap();
                println!("{name}, cold {cold}: {} MiB in {:?}", bytes >> 20, started.elapsed());
            }
        }
    }
}
