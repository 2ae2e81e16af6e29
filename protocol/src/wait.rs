//! Waiting for the other side of a pipe.
//!
//! The reply to a short job arrives sooner than an idle processor wakes up: in a virtual machine, waking up takes 10 to 50 µs
//! on each side of each round trip. So both sides poll the pipe for a moment before they block. Between two polls they yield
//! the processor to any other thread that is ready, which may be the one that they wait for.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// How long a side polls before it blocks. Blocking and waking up take about this long, so polling in vain at most doubles
/// that cost.
pub const SPIN: Duration = Duration::from_micros(50);

/// The event that ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The pipe can be read, or is closed.
    Pipe,
    /// The event was signalled, and the pipe has no bytes.
    Event,
    /// The deadline passed before either.
    Deadline,
}

/// Waits without a deadline until `pipe` can be read, or is closed.
///
/// # Errors
/// The error of ppoll(2).
pub fn until_readable(pipe: &impl AsFd) -> nix::Result<()> {
    wait([pipe.as_fd()], None).map(drop)
}

/// Waits until `pipe` can be read or is closed, until `event` can be read, or until `deadline`. If both can be read, the result
/// is [`Wakeup::Pipe`], because the bytes in the pipe were written before the event happened.
///
/// # Errors
/// The error of ppoll(2).
pub fn until_readable_or_event(
    pipe: &impl AsFd,
    event: &impl AsFd,
    deadline: Instant,
) -> nix::Result<Wakeup> {
    wait([pipe.as_fd(), event.as_fd()], Some(deadline))
}

/// Waits for any of `descriptors`, of which the first is the pipe.
fn wait<const N: usize>(descriptors: [BorrowedFd<'_>; N], deadline: Option<Instant>) -> nix::Result<Wakeup> {
    let started = Instant::now();
    let spin = deadline.map_or(SPIN, |deadline| SPIN.min(deadline.saturating_duration_since(started)));
    while started.elapsed() < spin {
        if let Some(wakeup) = poll_within([descriptors[0]], Some(Duration::ZERO))? {
            return Ok(wakeup);
        }
        thread::yield_now();
    }
    loop {
        if let Some(wakeup) = poll_within(descriptors, deadline.map(time_until))? {
            return Ok(wakeup);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Wakeup::Deadline);
        }
    }
}

fn poll_within<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> nix::Result<Option<Wakeup>> {
    let mut polled = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    // ppoll(2) counts nanoseconds. poll(2) counts milliseconds, and a short job takes a hundredth of one.
    match ppoll(&mut polled, timeout.map(TimeSpec::from_duration), None) {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) if polled[0].any() == Some(false) => Ok(Some(Wakeup::Event)),
        Ok(_) => Ok(Some(Wakeup::Pipe)),
        Err(errno) => Err(errno),
    }
}

/// The time until `deadline`, or 24 hours if that is less: the kernel does not accept every duration.
fn time_until(deadline: Instant) -> Duration {
    const LONGEST: Duration = Duration::from_hours(24);
    deadline.saturating_duration_since(Instant::now()).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_a_closed_pipe_an_event_and_a_deadline_each_end_the_wait() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (event, mut signal) = std::io::pipe().unwrap();
        let wait = || until_readable_or_event(&reader, &event, Instant::now() + Duration::from_millis(5));
        assert_eq!(wait(), Ok(Wakeup::Deadline));
        signal.write_all(b"x").unwrap();
        assert_eq!(wait(), Ok(Wakeup::Event));
        writer.write_all(b"x").unwrap();
        assert_eq!(wait(), Ok(Wakeup::Pipe));
        assert_eq!(until_readable(&reader), Ok(()));
        let (closed, _) = std::io::pipe().unwrap();
        assert_eq!(until_readable_or_event(&closed, &event, Instant::now()), Ok(Wakeup::Pipe));
    }
}
