//! Waiting for the other side of a pipe.
//!
//! An answer of a short job is back sooner than a sleeping processor wakes up: in a virtual machine that alone takes
//! 10 to 50 µs, on both sides of each round trip. So both sides look again for a moment before they sleep, giving way
//! to any other thread that wants the processor, which may be the very one that is waited for.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// How long a side looks before it sleeps: about what a sleep and a wake-up cost, so that looking in vain costs at
/// most as much again.
pub const SPIN: Duration = Duration::from_micros(50);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The pipe can be read, or is closed.
    Pipe,
    /// The bell was rung, and the pipe has nothing.
    Bell,
    /// Neither came in time.
    Deadline,
}

/// Waits until `pipe` can be read, or is closed; for ever, if need be.
///
/// # Errors
/// What ppoll(2) says.
pub fn until_readable(pipe: &impl AsFd) -> nix::Result<()> {
    wait([pipe.as_fd()], None).map(drop)
}

/// Waits until `pipe` can be read, or is closed, or `bell` can be read, or for `deadline`.
///
/// # Errors
/// What ppoll(2) says.
pub fn until_readable_or(pipe: &impl AsFd, bell: &impl AsFd, deadline: Instant) -> nix::Result<Woken> {
    wait([pipe.as_fd(), bell.as_fd()], Some(deadline))
}

/// The pipe is the first of `descriptors`.
fn wait<const N: usize>(descriptors: [BorrowedFd<'_>; N], deadline: Option<Instant>) -> nix::Result<Woken> {
    let started = Instant::now();
    let look = deadline.map_or(SPIN, |deadline| SPIN.min(deadline.saturating_duration_since(started)));
    while started.elapsed() < look {
        if let Some(woken) = woken_within([descriptors[0]], Some(Duration::ZERO))? {
            return Ok(woken);
        }
        thread::yield_now();
    }
    loop {
        if let Some(woken) = woken_within(descriptors, deadline.map(until))? {
            return Ok(woken);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Woken::Deadline);
        }
    }
}

fn woken_within<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    patience: Option<Duration>,
) -> nix::Result<Option<Woken>> {
    let mut polled = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    // In nanoseconds: poll(2) has milliseconds, of which a short job takes a hundredth.
    match ppoll(&mut polled, patience.map(TimeSpec::from_duration), None) {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) if polled[0].any() == Some(false) => Ok(Some(Woken::Bell)),
        Ok(_) => Ok(Some(Woken::Pipe)),
        Err(errno) => Err(errno),
    }
}

/// The time until `deadline`, as long as the kernel can count.
fn until(deadline: Instant) -> Duration {
    const LONGEST: Duration = Duration::from_hours(24);
    deadline.saturating_duration_since(Instant::now()).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_the_end_of_a_pipe_a_bell_and_a_deadline_wake() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (bell, mut rope) = std::io::pipe().unwrap();
        let wait = || until_readable_or(&reader, &bell, Instant::now() + Duration::from_millis(5));
        assert_eq!(wait(), Ok(Woken::Deadline));
        rope.write_all(b"x").unwrap();
        assert_eq!(wait(), Ok(Woken::Bell));
        // What the pipe has comes first: it was written before whatever the bell tells.
        writer.write_all(b"x").unwrap();
        assert_eq!(wait(), Ok(Woken::Pipe));
        assert_eq!(until_readable(&reader), Ok(()));
        let (closed, _) = std::io::pipe().unwrap();
        assert_eq!(until_readable_or(&closed, &bell, Instant::now()), Ok(Woken::Pipe));
    }
}
