//! Waiting for the other side of a pipe.
//!
//! An answer of a short job is back sooner than a sleeping processor wakes up: in a virtual machine that alone takes
//! 10 to 50 µs, on both sides of each round trip. So both sides look again for a moment before they sleep, giving way
//! to any other thread that wants the processor, which may be the very one that is waited for.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a side looks before it sleeps: about what a sleep and a wake-up cost, so that looking in vain costs at
/// most as much again.
pub const SPIN: Duration = Duration::from_micros(50);

/// Waits until `pipe` can be read, or is closed; false if neither happens before `deadline` (none: waits for ever).
///
/// # Errors
/// What poll(2) says.
pub fn until_readable(pipe: &impl AsFd, deadline: Option<Instant>) -> nix::Result<bool> {
    let started = Instant::now();
    while started.elapsed() < SPIN {
        if readable_within(pipe, PollTimeout::ZERO)? {
            return Ok(true);
        }
        thread::yield_now();
    }
    loop {
        if readable_within(pipe, timeout(deadline))? {
            return Ok(true);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

fn readable_within(pipe: &impl AsFd, timeout: PollTimeout) -> nix::Result<bool> {
    match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    // Rounded up, or the last fraction of a millisecond would be spent in a loop without waiting.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_and_the_end_of_a_pipe_wake_and_a_deadline_does_too() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(until_readable(&reader, soon), Ok(false));
        writer.write_all(b"x").unwrap();
        assert_eq!(until_readable(&reader, None), Ok(true));
        drop(writer);
        assert_eq!(until_readable(&reader, None), Ok(true));
    }
}
