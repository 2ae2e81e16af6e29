//! The kernel's log as evidence: it names each process that the kernel killed because memory ran out.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use cofferdam_base::sync::lock;

/// The inode of the first namespace of process ids (`PROC_PID_INIT_INO` of include/linux/proc_ns.h). In any other namespace, the
/// log names processes by other numbers than ours.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// The number of kills that are kept until somebody asks for them.
const MAX_KILLS: usize = 256;

/// The log, from the moment when it was opened.
#[derive(Debug)]
pub(super) struct KernelLog(Mutex<State>);

#[derive(Debug)]
struct State {
    file: File,
    /// Lines about kills, each with the process that it names.
    kills: VecDeque<(Pid, String)>,
}

impl KernelLog {
    /// Opens the log. None where this process may not read it (`kernel.dmesg_restrict`, a container), and none where the log has
    /// other process ids than ours.
    pub(super) fn open() -> Option<Self> {
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        if namespace.to_str() != Some(FIRST_NAMESPACE) {
            return None;
        }
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        // To the end of the log (Documentation/ABI/testing/dev-kmsg).
        file.seek(SeekFrom::End(0)).ok()?;
        let log = Self(Mutex::new(State { file, kills: VecDeque::new() }));
        // The log can be opened on some hosts where it cannot be read.
        let is_readable = lock(&log.0).read_new_lines();
        is_readable.then_some(log)
    }

    /// The line about the kill of `pid` because memory ran out. Waits up to `timeout` for the line. Each line is returned once.
    pub(super) fn kill_of(&self, pid: Pid, timeout: Duration) -> Option<String> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.0);
        loop {
            state.read_new_lines();
            if let Some(at) = state.kills.iter().position(|(killed, _)| *killed == pid) {
                return state.kills.remove(at).map(|(_, line)| line);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state.wait_for_line(left);
        }
    }
}

impl State {
    /// Waits until the log has a new line, for at most `timeout`.
    fn wait_for_line(&self, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // If this fails, the caller reads once more, until its deadline.
        let _ = poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)], timeout);
    }

    /// Reads the new lines. Returns whether the log is readable.
    fn read_new_lines(&mut self) -> bool {
        // One read gives one line, of at most this many bytes (`PRINTK_MESSAGE_MAX` of kernel/printk/internal.h is less).
        let mut line = [0; 8192];
        loop {
            match self.file.read(&mut line) {
                Ok(length) => self.note(&String::from_utf8_lossy(line.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                // Lines were overwritten before they were read (EPIPE). The next read continues after them.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => return false,
            }
        }
    }

    fn note(&mut self, record: &str) {
        let Some(kill) = parse(record) else { return };
        if self.kills.len() == MAX_KILLS {
            self.kills.pop_front();
        }
        self.kills.push_back(kill);
    }
}

/// The process that was killed because memory ran out, by a record of the log, and the text up to the name of the process.
fn parse(record: &str) -> Option<(Pid, String)> {
    // "4,893,171500466,-;Memory cgroup out of memory: Killed process 300 (dd) total-vm:…" (`__oom_kill_process` in
    // mm/oom_kill.c). A line that a process wrote has another facility: the number is above 7.
    let (prefix, text) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    let (before, after) = text.split_once("Killed process ")?;
    let number: i32 = after.split(' ').next()?.parse().ok()?;
    let is_for_memory = before.to_ascii_lowercase().contains("out of memory");
    (priority < 8 && is_for_memory)
        .then(|| (Pid::from_raw(number), format!("{before}Killed process {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_name_the_process() {
        let record = "3,893,171500466,-;Memory cgroup out of memory: Killed process 300 (cofferdam-work) total-vm:1kB\n";
        let text = "Memory cgroup out of memory: Killed process 300".to_owned();
        assert_eq!(parse(record), Some((Pid::from_raw(300), text)));
        let host = "3,1,2,-;Out of memory: Killed process 41 (x) total-vm:1kB";
        assert_eq!(parse(host).unwrap().0, Pid::from_raw(41));
    }

    #[test]
    fn other_words_do_not() {
        for record in [
            "3,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=x,pid=300,uid=0",
            // Written by a process, by way of /dev/kmsg.
            "12,1,2,-;Out of memory: Killed process 300 (x)",
            "3,1,2,-;Killed process 300 (x)",
            "3,1,2,-;Out of memory: Killed process many (x)",
            "",
        ] {
            assert_eq!(parse(record), None, "{record}");
        }
    }
}
