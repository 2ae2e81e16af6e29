//! Snapshots that are taken while a chain is being indexed, by a thread of their own.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{SnapshotError, Step, Taken, Taking, take};
use crate::{Store, Trouble};
use cofferdam_base::size::Bytes;
use cofferdam_base::sync::lock;

/// Where and how often.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The directory of snapshots.
    pub directory: PathBuf,
    /// One is due at each height that is a multiple of this, or at the first that is committed after it.
    pub interval_blocks: NonZeroU32,
    /// What to know and to do beside.
    pub taking: Taking,
}

/// What became of the snapshots so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The height at which the one that is being written was begun.
    pub writing: Option<u32>,
    /// Bytes that are written of it, and that it will have.
    pub bytes: (u64, u64),
    /// Height and directory of the newest one.
    pub newest: Option<(u32, PathBuf)>,
    /// How many were taken.
    pub taken: u64,
    /// How many were due while another was being written, and so were not taken.
    pub skipped: u64,
    /// How many failed.
    pub failed: u64,
    /// Why the last one that failed did.
    pub last_error: Option<String>,
}

/// Takes snapshots of a store as blocks are committed. Dropped, it gives up one that is being written, and waits for the
/// megabyte in hand.
#[derive(Debug)]
pub struct Snapshots {
    shared: Arc<Shared>,
    interval: NonZeroU32,
    // None once no more are wanted.
    due: Option<Sender<u32>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Status>,
    stop: AtomicBool,
    /// How many intervals lie below the tip. Less after a reorganisation, so that the heights it took back are due again.
    interval: Mutex<u32>,
}

impl Snapshots {
    /// Starts the thread. The first snapshot is due at the first multiple of the interval above the store's tip.
    ///
    /// The store stays open for as long as this exists.
    ///
    /// # Errors
    /// [`SnapshotError`] if the directory cannot be written (unless its disk is full), the store cannot be read, or there is no
    /// thread to be had.
    pub fn start(store: Arc<Store>, schedule: Schedule) -> Result<Self, SnapshotError> {
        // Better now than at the first one that is due: whether it can be written at all. On a full disk there may be room by
        // then.
        match super::directory::Directory::lock(&schedule.directory) {
            Err(error) if error.trouble() == Trouble::NoRoom => tracing::error!("snapshots: {error}"),
            locked => drop(locked?),
        }
        let interval = schedule.interval_blocks;
        let shared = Arc::new(Shared::default());
        *lock(&shared.interval) = store.tip()?.map_or(0, |tip| tip.height / interval);
        // One that is due waits for the thread at most: `writing` lets no second one in.
        let (due, heights) = bounded(1);
        let directory = schedule.directory.clone();
        let thread = {
            let shared = Arc::clone(&shared);
            let run = move || shared.run(&store, &schedule, &heights);
            thread::Builder::new().name("cofferdam-snapshots".to_owned()).spawn(run)
        };
        let thread = thread.map_err(SnapshotError::file(&directory, "there is no thread to write it"))?;
        Ok(Self { shared, interval, due: Some(due), thread: Some(thread) })
    }

    /// Says that the store's tip is now the block at `height`. Does not wait for anything.
    pub fn committed(&self, height: u32) {
        let passed = height / self.interval;
        let seen = std::mem::replace(&mut *lock(&self.shared.interval), passed);
        if passed <= seen {
            return;
        }
        if let Err(writing) = self.shared.begin(height) {
            tracing::warn!(
                "no snapshot at block {height}: the one that was begun at block {writing} is still being written"
            );
            return;
        }
        // It waits for this one alone, so there is room; a thread that has ended has said why.
        let _sent = self.due.as_ref().map(|due| due.try_send(height));
    }

    /// What became of them so far.
    pub fn status(&self) -> Status {
        lock(&self.shared.status).clone()
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.due = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that takes snapshots panicked");
        }
    }
}

impl Shared {
    /// Notes that one is begun, unless another is being written.
    fn begin(&self, height: u32) -> Result<(), u32> {
        let mut status = lock(&self.status);
        if let Some(writing) = status.writing {
            status.skipped += 1;
            return Err(writing);
        }
        status.writing = Some(height);
        Ok(())
    }

    fn run(&self, store: &Store, schedule: &Schedule, heights: &Receiver<u32>) {
        for height in heights {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            tracing::info!("snapshot: begun at block {height}, into {}", schedule.directory.display());
            let started = Instant::now();
            let taken =
                take(&store.reader(), &schedule.directory, &schedule.taking, &mut |step| self.watch(step));
            match &taken {
                Ok(taken) => say(taken, started),
                Err(SnapshotError::GivenUp) => tracing::info!("snapshot: given up, because this ends"),
                Err(error) => tracing::error!("snapshot: not taken: {error}"),
            }
            self.end(taken);
        }
    }

    fn watch(&self, step: Step) -> ControlFlow<()> {
        if let Step::Data { done, total } = step {
            lock(&self.status).bytes = (done, total);
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(&self, taken: Result<Taken, SnapshotError>) {
        let mut status = lock(&self.status);
        (status.writing, status.bytes) = (None, (0, 0));
        match taken {
            Ok(taken) => {
                status.taken += u64::from(taken.is_new);
                status.newest = Some((taken.manifest.height, taken.path));
            }
            Err(SnapshotError::GivenUp) => {}
            Err(error) => {
                status.failed += 1;
                status.last_error = Some(error.to_string());
            }
        }
    }
}

fn say(taken: &Taken, started: Instant) {
    let manifest = &taken.manifest;
    tracing::info!(
        "snapshot: block {} is in {} ({}, {:.1} s)",
        manifest.height,
        taken.path.display(),
        Bytes(manifest.data_bytes),
        started.elapsed().as_secs_f64()
    );
    for path in &taken.removed {
        tracing::info!("snapshot: removed {}, as only the newest are kept", path.display());
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::profile::Hash;

    use super::*;
    use crate::tests::commit;
    use crate::{Durability, Identity};

    struct Scene {
        home: tempfile::TempDir,
        store: Arc<Store>,
    }

    impl Scene {
        fn new(tip: u32, value_bytes: usize) -> Self {
            let home = tempfile::tempdir().unwrap();
            let identity = Identity { profile: Hash::of(b"profile"), network: None };
            let store = Store::open(&home.path().join("db"), &identity, Durability::None).unwrap();
            commit(&store, tip, &[("key", vec![1; value_bytes])]).unwrap();
            Self { home, store: Arc::new(store) }
        }

        fn start(&self, interval: u32, taking: Taking) -> Snapshots {
            let directory = self.home.path().join("snapshots");
            let interval_blocks = NonZeroU32::new(interval).unwrap();
            Snapshots::start(Arc::clone(&self.store), Schedule { directory, interval_blocks, taking })
                .unwrap()
        }

        fn put(&self, snapshots: &Snapshots, height: u32) {
            commit(&self.store, height, &[("key", height.to_be_bytes())]).unwrap();
            snapshots.committed(height);
        }
    }

    fn settled(snapshots: &Snapshots) -> Status {
        loop {
            let status = snapshots.status();
            if status.writing.is_none() {
                return status;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn one_is_taken_at_every_multiple_of_the_interval() {
        let scene = Scene::new(19, 10);
        let snapshots = scene.start(10, Taking { keep: std::num::NonZeroUsize::new(2), module: None });
        let mut heights = Vec::new();
        // Several blocks may be committed at once, and the multiple may be none of them that is told.
        for height in [20, 21, 29, 33, 39, 40, 41] {
            scene.put(&snapshots, height);
            let status = settled(&snapshots);
            assert_eq!((status.failed, status.skipped), (0, 0), "{status:?}");
            heights.push(status.newest.unwrap().0);
        }
        assert_eq!(heights, [20, 20, 20, 33, 33, 40, 40]);
        assert_eq!(snapshots.status().taken, 3);
        let left = std::fs::read_dir(scene.home.path().join("snapshots")).unwrap();
        assert_eq!(left.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count(), 2);
    }

    #[test]
    fn one_that_is_due_while_another_is_written_is_skipped() {
        let scene = Scene::new(1, 10);
        let snapshots = scene.start(10, Taking::default());
        snapshots.shared.begin(7).unwrap();
        scene.put(&snapshots, 10);
        assert_eq!((snapshots.status().skipped, snapshots.status().writing), (1, Some(7)));
        snapshots.shared.end(Err(SnapshotError::GivenUp));
        scene.put(&snapshots, 20);
        assert_eq!(settled(&snapshots).newest.unwrap().0, 20);
    }

    #[test]
    fn one_that_fails_is_said_and_the_next_is_taken() {
        let scene = Scene::new(1, 10);
        let snapshots = scene.start(10, Taking::default());
        let directory = scene.home.path().join("snapshots");
        let other = super::super::directory::Directory::lock(&directory).unwrap();
        scene.put(&snapshots, 10);
        let status = settled(&snapshots);
        assert_eq!(status.failed, 1);
        assert!(status.last_error.unwrap().contains("another process"));
        drop(other);
        scene.put(&snapshots, 20);
        assert_eq!(settled(&snapshots).newest.unwrap().0, 20);
    }

    #[test]
    fn dropped_it_leaves_a_whole_one_or_none() {
        for _ in 0..5 {
            let scene = Scene::new(9, 50 << 20);
            let snapshots = scene.start(10, Taking::default());
            scene.put(&snapshots, 10);
            drop(snapshots);
            assert_eq!(Arc::strong_count(&scene.store), 1, "the thread has ended");
            let directory = scene.home.path().join("snapshots");
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name() != ".lock" {
                    let whole =
                        super::super::verify(&entry.path(), false, &super::super::look_here, &mut |_| {
                            ControlFlow::Continue(())
                        });
                    assert_eq!(whole.unwrap().manifest.height, 10);
                }
            }
        }
    }
}
