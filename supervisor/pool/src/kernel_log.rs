//! The kernel's log, as evidence: it names each process that the kernel has killed for want of memory.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use nix::unistd::Pid;

use cofferdam_base::sync::lock;

/// The inode of the first namespace of process ids (`PROC_PID_INIT_INO` of include/linux/proc_ns.h): in any other one, the log
/// names processes by numbers that are not ours.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// How many kills are kept that nobody has asked for.
const MOST_KEPT: usize = 256;

/// The log from the moment on at which it was opened.
#[derive(Debug)]
pub(super) struct KernelLog(Mutex<State>);

#[derive(Debug)]
struct State {
    file: File,
    /// Lines about kills, with the process that each names.
    kills: VecDeque<(Pid, String)>,
}

impl KernelLog {
    /// Opens the log; none where this process may not read it (`kernel.dmesg_restrict`, a container), or where it would not
    /// recognise its own workers.
    pub(super) fn open() -> Option<Self> {
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        if namespace.to_str() != Some(FIRST_NAMESPACE) {
            return None;
        }
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        // Behind the last line that there is (Documentation/ABI/testing/dev-kmsg).
        file.seek(SeekFrom::End(0)).ok()?;
        let log = Self(Mutex::new(State { file, kills: VecDeque::new() }));
        // One that may be opened and not read says nothing.
        let can_be_read = lock(&log.0).read_on();
        can_be_read.then_some(log)
    }

    /// The line about the kill of `pid` for want of memory, if there is one since the last time that it was asked for.
    pub(super) fn kill_of(&self, pid: Pid) -> Option<String> {
        let mut state = lock(&self.0);
        state.read_on();
        let at = state.kills.iter().position(|(killed, _)| *killed == pid)?;
        state.kills.remove(at).map(|(_, line)| line)
    }
}

impl State {
    /// Reads what there is; whether it could.
    fn read_on(&mut self) -> bool {
        // One read gives one line, of at most so many bytes (`PRINTK_MESSAGE_MAX` of kernel/printk/internal.h is less).
        let mut line = [0; 8192];
        loop {
            match self.file.read(&mut line) {
                Ok(length) => self.note(&String::from_utf8_lossy(line.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                // Lines were overwritten before they were read (EPIPE): the next read goes on behind them.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => return false,
            }
        }
    }

    fn note(&mut self, record: &str) {
        let Some(kill) = parse(record) else { return };
        if self.kills.len() == MOST_KEPT {
            self.kills.pop_front();
        }
        self.kills.push_back(kill);
    }
}

/// Who was killed for want of memory by a record of the log, and its text up to the process's name.
fn parse(record: &str) -> Option<(Pid, String)> {
    // "4,893,171500466,-;Memory cgroup out of memory: Killed process 300 (dd) total-vm:…" (`__oom_kill_process` in
    // mm/oom_kill.c). What a process writes there itself has another facility: its number is above 7.
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
