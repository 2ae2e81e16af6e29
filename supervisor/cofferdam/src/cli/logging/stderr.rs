//! Writes standard error in a separate thread. A thread that logs passes a line to the separate thread and continues.
//!
//! The reader of a log can be gone (a closed pipe), can have no room (a full disk), or can stop reading (a full pipe, a
//! terminal after Ctrl-S). The pool must not wait or fail because of this, so a log may have gaps: lines are dropped and counted
//! if they cannot be written, or if too many lines wait. The count is logged as soon as lines can be written again.

use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most writes that wait.
const WAITING: usize = 8192;
/// The most bytes that wait; a single line may be longer.
const WAITING_BYTES: usize = 4 << 20;
/// If more bytes than this wait, bars are not drawn.
const DRAWING_BYTES: usize = 64 << 10;

static STDERR: LazyLock<Outlet> = LazyLock::new(|| Outlet::start(Descriptor, || TELL.get().copied()));
static TELL: OnceLock<Tell> = OnceLock::new();

thread_local! {
    /// In the writing thread, the lines that this thread itself has logged. None in other threads.
    static OWN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Logs the number of lines that were lost.
type Tell = fn(u64);

/// Writes a line, or drops it. Never waits.
pub(super) fn write(line: &[u8]) {
    STDERR.write(line);
}

/// Writes a frame for a terminal. A frame that would have to wait is dropped, because the next frame replaces it.
pub(super) fn draw(frame: Vec<u8>) {
    STDERR.draw(frame);
}

/// Waits until every line that was handed over is written, or until nothing could be written for `patience`.
pub(super) fn flush(patience: Duration) {
    STDERR.flush(patience);
}

/// Sets the function that logs how many lines were lost.
pub(super) fn tell_losses_by(tell: Tell) {
    // The log is set up only once.
    let _ = TELL.set(tell);
}

enum Item {
    Bytes(Vec<u8>),
    /// Dropped when every item before it was written or dropped.
    Flush(Sender<()>),
}

/// A writer behind a bounded queue and a thread.
struct Outlet {
    items: Sender<Item>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    /// Lines that were dropped and are not logged yet.
    lost: AtomicU64,
    /// Incremented when a write begins, and when it ends: odd during a write.
    writes: AtomicU64,
}

impl Outlet {
    /// `tell` is called when lines were dropped.
    fn start(sink: impl Write + Send + 'static, tell: impl Fn() -> Option<Tell> + Send + 'static) -> Self {
        let (items, received) = bounded(WAITING);
        let counts = Arc::new(Counts::default());
        let own = Arc::clone(&counts);
        let thread = thread::Builder::new().name("cofferdam-log".to_owned());
        // If the thread cannot be started, the channel has no receiver. `write` then writes the line itself.
        let _ = thread.spawn(move || Writer { sink, tell, counts: own }.run(&received));
        Self { items, counts }
    }

    fn write(&self, line: &[u8]) {
        if OWN.with_borrow_mut(|own| own.as_mut().map(|own| own.extend_from_slice(line)).is_some()) {
            return;
        }
        let waiting = self.counts.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if waiting > 0 && waiting + line.len() > WAITING_BYTES {
            return self.lose(line.len());
        }
        match self.items.try_send(Item::Bytes(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.lose(line.len()),
            Err(TrySendError::Disconnected(_)) => {
                let _ = Descriptor.write_all(line);
            }
        }
    }

    fn lose(&self, bytes: usize) {
        self.counts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn draw(&self, frame: Vec<u8>) {
        let bytes = frame.len();
        let waiting = self.counts.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if bytes == 0 || waiting > DRAWING_BYTES || self.items.try_send(Item::Bytes(frame)).is_err() {
            self.counts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn flush(&self, patience: Duration) {
        const LOOK: Duration = Duration::from_millis(50);
        let (done, flushed) = bounded::<()>(0);
        if self.items.send_timeout(Item::Flush(done), patience).is_err() {
            return;
        }
        // On a busy machine, the thread may not have run yet. So this gives up only if a single write takes longer than
        // `patience`.
        let mut seen = (self.counts.writes.load(Ordering::Relaxed), Instant::now());
        // Nothing is sent through this channel; it is only closed.
        while flushed.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let writes = self.counts.writes.load(Ordering::Relaxed);
            if writes != seen.0 || writes.is_multiple_of(2) {
                seen = (writes, Instant::now());
            } else if seen.1.elapsed() >= patience {
                return;
            }
        }
    }
}

/// The state of the writing thread.
struct Writer<S, T> {
    sink: S,
    tell: T,
    counts: Arc<Counts>,
}

impl<S: Write, T: Fn() -> Option<Tell>> Writer<S, T> {
    fn run(mut self, items: &Receiver<Item>) {
        OWN.set(Some(Vec::new()));
        // After a write that failed, the count is not logged, because its write would fail, too. It is logged later.
        let mut writes = true;
        for item in items {
            match item {
                Item::Bytes(bytes) => {
                    writes = self.put(&bytes);
                    self.counts.waiting_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                }
                Item::Flush(done) => {
                    self.tell_losses(writes);
                    drop(done);
                }
            }
            // Lines were dropped while others waited, so the count belongs after the waiting lines.
            if items.is_empty() {
                self.tell_losses(writes);
            }
        }
    }

    /// Writes these bytes, and returns whether that worked. If not, they count as one dropped line.
    fn put(&mut self, bytes: &[u8]) -> bool {
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        let written = self.sink.write_all(bytes).and_then(|()| self.sink.flush());
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        if written.is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        written.is_ok()
    }

    fn tell_losses(&mut self, writes: bool) {
        let Some(tell) = (self.tell)() else { return };
        if !writes || self.counts.lost.load(Ordering::Relaxed) == 0 {
            return;
        }
        let lost = self.counts.lost.swap(0, Ordering::Relaxed);
        tell(lost);
        let words = OWN.with_borrow_mut(|own| own.as_mut().map(std::mem::take).unwrap_or_default());
        if !self.put(&words) {
            // `put` has already counted one lost line.
            self.counts.lost.fetch_add(lost - 1, Ordering::Relaxed);
        }
    }
}

/// Descriptor 2, without the lock of `io::Stderr`: if this thread waits in a write, other threads must not wait for the lock.
struct Descriptor;

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match nix::unistd::write(stderr.as_fd(), bytes) {
                // Another process that shares the descriptor has made it non-blocking.
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;
    use cofferdam_base::sync::lock;

    const PATIENCE: Duration = Duration::from_mins(1);

    /// A sink that takes nothing until it is let, and keeps what it takes.
    struct Slow {
        gate: mpsc::Receiver<io::Result<()>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once nobody holds the gate any more it is open.
            self.gate.recv().unwrap_or(Ok(()))?;
            lock(&self.taken).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    static SLOW: OnceLock<Outlet> = OnceLock::new();

    #[test]
    fn lines_that_nobody_reads_hold_nobody_up_and_are_counted() {
        let (open, gate) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let tell: Tell = |lost| SLOW.get().unwrap().write(format!("lost {lost}\n").as_bytes());
        let sink = Slow { gate, taken: Arc::clone(&taken) };
        let outlet = SLOW.get_or_init(|| Outlet::start(sink, move || Some(tell)));
        for _ in 0..WAITING + 100 {
            outlet.write(b"a line\n");
        }
        // One may be with the thread already.
        let lost = outlet.counts.lost.load(Ordering::Relaxed);
        assert!((99..=100).contains(&lost), "{lost}");
        drop(open);
        outlet.flush(PATIENCE);
        let text = String::from_utf8(std::mem::take(&mut *lock(&taken))).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.last(), Some(&format!("lost {lost}").as_str()));
        assert_eq!(lines.len() as u64 + lost, WAITING as u64 + 101);
        assert_eq!(outlet.counts.waiting_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_cannot_be_written_is_told_once_something_can() {
        static OUTLET: OnceLock<Outlet> = OnceLock::new();
        let (let_through, gate) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let tell: Tell = |lost| OUTLET.get().unwrap().write(format!("lost {lost}\n").as_bytes());
        let sink = Slow { gate, taken: Arc::clone(&taken) };
        let outlet = OUTLET.get_or_init(|| Outlet::start(sink, move || Some(tell)));
        for _ in 0..3 {
            let_through.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
            outlet.write(b"gone\n");
        }
        outlet.flush(PATIENCE);
        assert!(lock(&taken).is_empty());
        drop(let_through);
        outlet.write(b"here\n");
        outlet.flush(PATIENCE);
        assert_eq!(String::from_utf8_lossy(&lock(&taken)), "here\nlost 3\n");
    }

    #[test]
    fn one_line_may_be_longer_than_all_that_may_wait() {
        let (_open, gate) = mpsc::channel();
        let sink = Slow { gate, taken: Arc::default() };
        let outlet = Outlet::start(sink, || None);
        outlet.write(&vec![b'x'; WAITING_BYTES + 1]);
        assert_eq!(outlet.counts.lost.load(Ordering::Relaxed), 0);
        outlet.write(b"x");
        assert_eq!(outlet.counts.lost.load(Ordering::Relaxed), 1);
    }
}
