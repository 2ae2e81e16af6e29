//! Standard error, for messages that cannot be sent to the supervisor in a frame. The reader of standard error may be gone, or may
//! have stopped reading. Then the message is lost, and the process goes on.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::os::fd::AsFd;

use cofferdam_protocol::exit::WorkerExit;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A pipe that has room takes up to this many bytes whole or not at all (`PIPE_BUF` of pipe(7)).
const MAX_LINE_BYTES: usize = 4096;
/// How long to wait for room in standard error, in milliseconds.
const TIMEOUT_MS: u16 = 100;

/// Writes a line to standard error if that is possible. `eprintln!` would panic on an error, and would wait for ever for a reader
/// that does not read.
pub(crate) fn write_line(words: Arguments<'_>) {
    let mut line = format!("{words}\n").into_bytes();
    line.truncate(MAX_LINE_BYTES);
    let stderr = io::stderr();
    let has_room =
        poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(TIMEOUT_MS));
    if has_room.is_ok_and(|ready| ready > 0) {
        let _ = (&stderr).write_all(&line);
    }
}

/// As `eprintln!`, but never fails and never blocks for long: see [`write_line`].
macro_rules! log_stderr {
    ($($words:tt)*) => {
        $crate::process::stderr::write_line(::std::format_args!($($words)*))
    };
}
pub(crate) use log_stderr;

/// Makes a panic of any thread end the process, called `name`, with [`WorkerExit::Internal`]. A panic is a defect of this crate, and
/// a process that has lost a thread must not go on.
pub(crate) fn exit_on_panic(name: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        log_stderr!("{name}: internal error: {panic}");
        std::process::exit(WorkerExit::Internal.code());
    }));
}
