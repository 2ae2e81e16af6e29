//! Takes snapshots in a background thread while a chain is being indexed.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use cofferdam_base::size::Bytes;
use cofferdam_base::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::SnapshotError;
use super::progress::Step;
use super::repository::Repository;
use super::take::{TakeOptions, TakenSnapshot, take};
use crate::failure::FailureKind;
use crate::store::Store;

/// Where and how often snapshots are taken.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The directory of snapshots.
    pub directory: PathBuf,
    /// A snapshot is due at each height that is a multiple of this number of blocks. If that height is not reported, the snapshot
    /// is due at the first higher height that is reported.
    pub interval_blocks: NonZeroU32,
    /// Options for each snapshot.
    pub options: TakeOptions,
}

/// The snapshots that were taken so far, and the one that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The height at which the snapshot that is being written was started; none if no snapshot is being written.
    pub writing: Option<u32>,
    /// Bytes of that snapshot that are written, and its expected size in bytes.
    pub bytes: (u64, u64),
    /// Height and directory of the newest snapshot.
    pub newest: Option<(u32, PathBuf)>,
    /// How many snapshots were taken.
    pub taken: u64,
    /// How many snapshots were due while another one was being written, and so were skipped.
    pub skipped: u64,
    /// How many snapshots failed.
    pub failed: u64,
    /// The error of the last snapshot that failed.
    pub last_error: Option<String>,
}

/// Takes snapshots of a store as blocks are committed. Dropping it cancels a snapshot that is being written, and waits until the
/// current megabyte is written.
#[derive(Debug)]
pub struct Snapshots {
    shared: Arc<Shared>,
    interval: NonZeroU32,
    // None once this is being dropped.
    due: Option<Sender<u32>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Status>,
    stop: AtomicBool,
    /// The height of the tip divided by the interval, rounded down. A snapshot is due when this number rises. A reorganisation
    /// lowers this number, so that a snapshot becomes due again at the heights that were rolled back.
    interval: Mutex<u32>,
}

impl Snapshots {
    /// Starts the thread. The first snapshot is due at the first multiple of the interval above the store's tip.
    ///
    /// The store stays open while this exists.
    ///
    /// # Errors
    /// [`SnapshotError`] if the directory cannot be written (unless the reason is a full disk), the store cannot be read, or the
    /// thread cannot be created.
    pub fn start(store: Arc<Store>, schedule: Schedule) -> Result<Self, SnapshotError> {
        // This checks now, and not only when the first snapshot is due, whether the directory can be written. A full disk is no
        // error here, because the disk may have space when the first snapshot is due.
        match Repository::lock(&schedule.directory) {
            Err(error) if error.kind() == FailureKind::NoSpace => tracing::error!("snapshots: {error}"),
            locked => drop(locked?),
        }
        let interval = schedule.interval_blocks;
        let shared = Arc::new(Shared::default());
        *lock(&shared.interval) = store.tip()?.map_or(0, |tip| tip.height / interval);
        // One place in the channel is enough: while `Status::writing` is set, no second snapshot is started.
        let (due, heights) = bounded(1);
        let directory = schedule.directory.clone();
        let thread = {
            let shared = Arc::clone(&shared);
            let run = move || shared.run(&store, &schedule, &heights);
            thread::Builder::new().name("cofferdam-snapshots".to_owned()).spawn(run)
        };
        let thread = thread
            .map_err(SnapshotError::file(&directory, "the thread that writes snapshots cannot be created"))?;
        Ok(Self { shared, interval, due: Some(due), thread: Some(thread) })
    }

    /// Reports that the store's tip is now the block at `height`. Starts a snapshot if one is due. Does not block.
    pub fn committed(&self, height: u32) {
        let passed = height / self.interval;
        let seen = std::mem::replace(&mut *lock(&self.shared.interval), passed);
        if passed <= seen {
            return;
        }
        if let Err(writing) = self.shared.begin(height) {
            tracing::warn!(
                "snapshot at block {height} skipped: the snapshot from block {writing} is still being written"
            );
            return;
        }
        // The channel has space, because no other snapshot is due. If the thread has ended, it has logged why.
        let _sent = self.due.as_ref().map(|due| due.try_send(height));
    }

    /// The snapshots that were taken so far, and the one that is being written.
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
    /// Records that a snapshot is started at `height`. Fails with the height of another snapshot that is still being written.
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
            tracing::info!("snapshot: started at block {height}, into {}", schedule.directory.display());
            let started = Instant::now();
            let taken =
                take(&store.reader(), &schedule.directory, &schedule.options, &mut |step| self.observe(step));
            match &taken {
                Ok(taken) => log(taken, started),
                Err(SnapshotError::Cancelled) => {
                    tracing::info!("snapshot: cancelled, because the program ends");
                }
                Err(error) => tracing::error!("snapshot: failed: {error}"),
            }
            self.end(taken);
        }
    }

    fn observe(&self, step: Step) -> ControlFlow<()> {
        if let Step::Data { done, total } = step {
            lock(&self.status).bytes = (done, total);
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(&self, taken: Result<TakenSnapshot, SnapshotError>) {
        let mut status = lock(&self.status);
        (status.writing, status.bytes) = (None, (0, 0));
        match taken {
            Ok(taken) => {
                status.taken += u64::from(taken.is_new);
                status.newest = Some((taken.manifest.height, taken.path));
            }
            Err(SnapshotError::Cancelled) => {}
            Err(error) => {
                status.failed += 1;
                status.last_error = Some(error.to_string());
            }
        }
    }
}

fn log(taken: &TakenSnapshot, started: Instant) {
    let manifest = &taken.manifest;
    tracing::info!(
        "snapshot: block {} is in {} ({}, {:.1} s)",
        manifest.height,
        taken.path.display(),
        Bytes(manifest.data_bytes),
        started.elapsed().as_secs_f64()
    );
    for path in &taken.removed {
        tracing::info!("snapshot: removed {}, because only the newest snapshots are kept", path.display());
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::profile::Hash;

    use super::*;
    use crate::identity::{Durability, Identity};
    use crate::snapshot::inspection::inspect_in_process;
    use crate::snapshot::verification::verify;
    use crate::test_support::commit;

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

        fn start(&self, interval: u32, options: TakeOptions) -> Snapshots {
            let directory = self.home.path().join("snapshots");
            let interval_blocks = NonZeroU32::new(interval).unwrap();
            Snapshots::start(Arc::clone(&self.store), Schedule { directory, interval_blocks, options })
                .unwrap()
        }

        fn put(&self, snapshots: &Snapshots, height: u32) {
            commit(&self.store, height, &[("key", height.to_be_bytes())]).unwrap();
            snapshots.committed(height);
        }
    }

    /// Waits until no snapshot is being written.
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
    fn a_snapshot_is_taken_at_every_multiple_of_the_interval() {
        let scene = Scene::new(19, 10);
        let snapshots = scene.start(10, TakeOptions { keep: std::num::NonZeroUsize::new(2), module: None });
        let mut heights = Vec::new();
        // Several blocks may be committed at once, so the multiple itself may not be reported.
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
    fn a_snapshot_that_is_due_while_another_is_written_is_skipped() {
        let scene = Scene::new(1, 10);
        let snapshots = scene.start(10, TakeOptions::default());
        snapshots.shared.begin(7).unwrap();
        scene.put(&snapshots, 10);
        assert_eq!((snapshots.status().skipped, snapshots.status().writing), (1, Some(7)));
        snapshots.shared.end(Err(SnapshotError::Cancelled));
        scene.put(&snapshots, 20);
        assert_eq!(settled(&snapshots).newest.unwrap().0, 20);
    }

    #[test]
    fn a_failed_snapshot_is_reported_and_the_next_is_taken() {
        let scene = Scene::new(1, 10);
        let snapshots = scene.start(10, TakeOptions::default());
        let directory = scene.home.path().join("snapshots");
        let other = Repository::lock(&directory).unwrap();
        scene.put(&snapshots, 10);
        let status = settled(&snapshots);
        assert_eq!(status.failed, 1);
        assert!(status.last_error.unwrap().contains("another process"));
        drop(other);
        scene.put(&snapshots, 20);
        assert_eq!(settled(&snapshots).newest.unwrap().0, 20);
    }

    #[test]
    fn dropping_leaves_a_complete_snapshot_or_none() {
        for _ in 0..5 {
            let scene = Scene::new(9, 50 << 20);
            let snapshots = scene.start(10, TakeOptions::default());
            scene.put(&snapshots, 10);
            drop(snapshots);
            assert_eq!(Arc::strong_count(&scene.store), 1, "the thread has ended");
            let directory = scene.home.path().join("snapshots");
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name() != ".lock" {
                    let verified =
                        verify(&entry.path(), false, &inspect_in_process, &mut |_| ControlFlow::Continue(()));
                    assert_eq!(verified.unwrap().manifest.height, 10);
                }
            }
        }
    }
}
