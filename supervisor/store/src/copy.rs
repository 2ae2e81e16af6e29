//! Copies a store that is in use.
//!
//! LMDB copies the whole environment, with every table, as one transaction sees it, while blocks are being committed
//! (`mdb_env_copyfd2`). LMDB writes the copy into a descriptor and cannot be told to stop. So LMDB gets a pipe, and the reader
//! of the pipe can hash the bytes, count them and cancel the copy.
//!
//! The copy is not compacted. A compacted copy leaves out the free pages. There are about as many free pages as one commit
//! touches. But to make a compacted copy, LMDB reads the tree in the order of the keys, which is a random order on disk. For a
//! store of 1.4 GiB that was not in the page cache, a compacted copy took 19 s and was an eleventh smaller. A copy in the order
//! of the file took 2.4 s, because the kernel can read the file ahead.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use cofferdam_worker::state::StateReader;
use heed::{CompactionOption, Env, WithoutTls};
use nix::fcntl::{FcntlArg, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::signal::{SigSet, Signal};

use crate::directory;
use crate::error::StoreError;

/// Capacity of the pipe between LMDB and the reader, if the kernel grants it. An ordinary pipe holds 64 KiB, so both sides would
/// wait for each other more often.
const PIPE_BYTES: i32 = 1 << 20;

/// How many bytes of the store's file are read into the page cache ahead of the copy. The kernel does not read ahead in the
/// store's map, because the map is advised for scattered reads. Without the read-ahead here, each page that is not cached would
/// cost one read.
const AHEAD_BYTES: i64 = 8 << 20;

/// A copy that is being made. Reading it gives the bytes of a `data.mdb`. Dropping it before the end cancels the copy.
#[derive(Debug)]
pub struct StoreCopy {
    // None once the pipe is closed. Then LMDB's next write fails, and that ends the copying thread.
    pipe: Option<PipeReader>,
    copier: Option<JoinHandle<heed::Result<()>>>,
    source: File,
    read: i64,
    expected_bytes: u64,
    path: PathBuf,
}

impl StoreCopy {
    /// Begins to copy the store that `reader` reads. Writers wait only while LMDB copies its two meta pages. But until the copy
    /// has ended, no writer reuses the pages that writers have freed meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if the pipe or the thread cannot be created.
    pub fn begin(reader: &StateReader) -> Result<Self, StoreError> {
        Self::begin_with(reader, CompactionOption::Disabled)
    }

    fn begin_with(reader: &StateReader, compaction: CompactionOption) -> Result<Self, StoreError> {
        let env = reader.environment();
        let path = reader.path().to_owned();
        let source =
            env.try_clone_inner_file().map_err(|source| lmdb(&path, "opening its file again", source))?;
        let expected_bytes = (env.info().last_page_number as u64 + 1) * u64::from(env.stat().page_size);
        advise(&source, 0);
        advise(&source, AHEAD_BYTES);
        let (pipe, copier) = start_copier(env.clone(), compaction)
            .map_err(directory::error(&path, "a copy of the store cannot be started"))?;
        Ok(Self { pipe: Some(pipe), copier: Some(copier), source, read: 0, expected_bytes, path })
    }

    /// The expected size of the copy in bytes. It is not exact if a block was committed at the same time.
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// Ends the copy, after the caller has read to the end, and checks that the copy is complete.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`] if LMDB could not read the whole store.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.end().map_err(|source| lmdb(&self.path, "copying it", source))
    }

    fn end(&mut self) -> heed::Result<()> {
        self.pipe = None;
        let Some(copier) = self.copier.take() else { return Ok(()) };
        copier.join().unwrap_or_else(|_| Err(io::Error::other("the copying thread panicked").into()))
    }

    /// Asks the kernel to read the next part of the store's file. This is only a hint, so the result does not matter.
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
        // The copy is cancelled, so its result does not matter.
        let _cancelled = self.end();
    }
}

fn start_copier(
    env: Env<WithoutTls>,
    compaction: CompactionOption,
) -> io::Result<(PipeReader, JoinHandle<heed::Result<()>>)> {
    let (reader, writer) = io::pipe()?;
    // With a smaller pipe the copy is the same, only slower.
    let _refused = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let mut writer = File::from(OwnedFd::from(writer));
    let copy = move || {
        // A program that embeds this crate may not ignore SIGPIPE, as Rust's runtime does. A blocked signal stays pending for
        // this thread and disappears with the thread.
        SigSet::from(Signal::SIGPIPE).thread_block().map_err(io::Error::from)?;
        env.copy_to_file(&mut writer, compaction)
    };
    let copier = thread::Builder::new().name("cofferdam-copy".to_owned()).spawn(copy)?;
    Ok((reader, copier))
}

fn lmdb(path: &Path, operation: &'static str, source: heed::Error) -> StoreError {
    StoreError::Lmdb { path: path.to_owned(), operation, source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use cofferdam_protocol::profile::Hash;

    use super::*;
    use crate::data_file::inspect_data_file;
    use crate::identity::Durability;
    use crate::restore_target::RestoreTarget;
    use crate::store::Store;
    use crate::test_support::{commit, identity, open};

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
            let found = inspect_data_file(&file, true).unwrap();
            assert_eq!((found.profile, found.network.as_deref()), (identity().profile, Some("regtest")));
            assert_eq!(Some(&found.tip), store.block(found.tip.height).unwrap().as_ref());
            // The copy works as a store, and its undo lists work too.
            let home = copies.path().join(round.to_string());
            let target = RestoreTarget::reserve(&home).unwrap();
            fs::rename(file, target.incomplete()).unwrap();
            assert!(Store::open(&home, &identity(), Durability::None).is_err(), "it is reserved");
            target.complete().unwrap();
            let copy = Store::open(&home, &identity(), Durability::None).unwrap().with_undo(3);
            assert_eq!(copy.content_hash().unwrap(), found.content.unwrap());
            for key in 0..300u16 {
                let newest = copy.get(&key.to_be_bytes(), u32::MAX).unwrap().unwrap();
                assert_eq!(newest, found.tip.height.to_be_bytes());
            }
            if found.tip.height > 0 {
                assert_eq!(copy.roll_back(Some(found.tip.height - 1), 1).unwrap(), 1);
            }
        }
    }

    #[test]
    fn a_cancelled_copy_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).unwrap();
        commit(&store, 1, &[("key", vec![7; 8 << 20])]).unwrap();
        for compaction in [CompactionOption::Disabled, CompactionOption::Enabled] {
            let mut copy = StoreCopy::begin_with(&store.reader(), compaction).unwrap();
            assert!(copy.expected_bytes() > 8 << 20);
            copy.read_exact(&mut [0; 5000]).unwrap();
            // `end` returns although most of the copy has not been read.
            assert!(
                matches!(copy.end(), Err(heed::Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe)
            );
            drop(StoreCopy::begin_with(&store.reader(), compaction).unwrap());
        }
        commit(&store, 2, &[("key", "the store is as before")]).unwrap();
    }

    #[test]
    #[ignore = "a measurement for a release build; MEASURE_BLOCKS sets the number of blocks of 40,000 pairs"]
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
                    // Mapped pages stay in the page cache, so the store is closed here.
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
