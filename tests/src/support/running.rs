//! A `cofferdam` process that runs.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::binary::{OwnBinary, send};
use super::output::Output;
use super::waiting::{PATIENCE, STEP, wait_until};

/// Reads a pipe to its end. What has come is in `said` at every moment.
pub(super) fn read_into(mut pipe: impl Read, said: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    // An error ends it, too: then what was read until then is what there is.
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        said.lock().expect("nobody panics").extend_from_slice(&buffer[..length]);
    }
}

/// A `cofferdam` that runs. Killed, workers and all, if a test fails before it ends.
#[derive(Debug)]
pub struct Running {
    pub(super) child: Child,
    pub(super) binary: OwnBinary,
    pub(super) arguments: Vec<OsString>,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) lines: Receiver<String>,
    pub(super) seen: Vec<String>,
    /// What has come from its standard error.
    pub(super) said: Arc<Mutex<Vec<u8>>>,
    pub(super) readers: Option<(JoinHandle<()>, JoinHandle<()>)>,
}

impl Running {
    /// The process id of the supervisor.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of its workers, by their own name for themselves.
    pub fn workers(&self) -> Vec<u32> {
        let is_worker = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"cofferdam-worker\0")
        };
        self.binary.processes().into_iter().filter(is_worker).collect()
    }

    /// Its workers, as soon as there are so many.
    pub fn await_workers(&self, count: usize) -> Vec<u32> {
        wait_until("its workers are there", || Some(self.workers()).filter(|workers| workers.len() == count))
    }

    /// How many descriptors the supervisor has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the supervisor runs").count()
    }

    /// Sends bytes to its standard input.
    pub fn feed(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads its standard input");
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// The next line that it prints, as JSON.
    pub fn next_line(&mut self) -> Value {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}: {:?}", self.arguments),
            Err(RecvTimeoutError::Disconnected) => self.ended_early(),
        };
        let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.seen.push(line);
        value
    }

    /// The next `count` lines that it prints, as JSON.
    pub fn next_lines(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.next_line()).collect()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("nobody panics")).into_owned()
    }

    /// Waits until it has said this on standard error.
    pub fn await_stderr(&self, words: &str) {
        wait_until(&format!("it says {words:?}"), || self.stderr().contains(words).then_some(()));
    }

    fn ended_early(&mut self) -> ! {
        let (_, reader) = self.readers.take().expect("it was not finished before");
        reader.join().expect("its standard error was read");
        let stderr = self.stderr();
        panic!("{:?} ended before its next line:\n{stderr}", self.arguments)
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal).expect("the supervisor runs");
    }

    /// Whether the supervisor has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What a run that has ended by itself printed.
    pub fn ended(&mut self) -> Output {
        let status = self.wait();
        let (stdout, stderr) = self.readers.take().expect("it is finished once");
        stdout.join().expect("its standard output was read");
        stderr.join().expect("its standard error was read");
        let stderr = self.stderr();
        let mut lines = std::mem::take(&mut self.seen);
        lines.extend(self.lines.try_iter());
        Output { arguments: std::mem::take(&mut self.arguments), status, lines, stderr }
    }

    /// Waits for its end, and for that of every process that it started: it is to leave none.
    pub fn finish(mut self) -> Output {
        self.end_input();
        let status = self.wait();
        let deadline = Instant::now() + Duration::from_secs(20);
        // Workers of a supervisor that was killed are killed by the kernel, which takes as long as it takes to free
        // their memory. One that ends by itself has waited for them.
        let killed = status.signal().is_some();
        let mut left = self.binary.processes();
        while killed && !left.is_empty() && Instant::now() < deadline {
            thread::sleep(STEP);
            left = self.binary.processes();
        }
        assert!(left.is_empty(), "{:?} left processes {left:?} behind", self.arguments);
        self.ended()
    }

    fn wait(&mut self) -> ExitStatus {
        wait_until("the command ends", || self.child.try_wait().expect("it is a child of ours"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
