//! Standard error, where a worker says what it can say to nobody else. The supervisor's reader of it can be gone, or have
//! stopped to read: then the words are lost, and nothing else.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// So many bytes are written whole or not at all to a pipe that has room (`PIPE_BUF` of pipe(7)).
const MOST_BYTES: usize = 4096;
/// How long standard error may have no room, in milliseconds.
const PATIENCE_MS: u16 = 100;

/// Writes a line to standard error, if that is possible. `eprintln!` would panic where it is not, and would wait for ever for a
/// reader who does not read.
pub(crate) fn write_line(words: Arguments<'_>) {
    let mut line = format!("{words}\n").into_bytes();
    line.truncate(MOST_BYTES);
    let stderr = io::stderr();
    let has_room =
        poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(PATIENCE_MS));
    if has_room.is_ok_and(|ready| ready > 0) {
        let _ = (&stderr).write_all(&line);
    }
}

/// As `eprintln!`, and never fails: see [`write_line`].
macro_rules! complain {
    ($($words:tt)*) => {
        $crate::complaint::write_line(::std::format_args!($($words)*))
    };
}
pub(crate) use complain;
