//! Commands under a seccomp filter that refuses one system call, as the profiles of container runtimes do.
#![allow(unsafe_code, reason = "installs a seccomp filter between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc::{
    self, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    sock_filter, sock_fprog,
};

/// Which system call is refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Its number.
    pub number: libc::c_long,
    /// Only with this value as the argument of this index, if it matters.
    pub argument: Option<(u32, u32)>,
}

impl Refused {
    /// The call of this number, whatever its arguments.
    pub const fn call(number: libc::c_long) -> Self {
        Self { number, argument: None }
    }

    /// The call of this number with `value` as its argument `index`, from 0, of which the lower 32 bits are looked at.
    pub const fn with(number: libc::c_long, index: u32, value: u32) -> Self {
        Self { number, argument: Some((index, value)) }
    }

    /// Has `command`, and all that it starts, get `errno` for this call.
    pub fn by<'a>(&self, errno: Errno, command: &'a mut Command) -> &'a mut Command {
        let filter = self.filter(errno);
        let install = move || {
            let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
            let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
            // SAFETY: prctl reads the program, which is alive during the call, and changes only this process, which is the
            // child of a fork and about to become another program.
            unsafe {
                Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                Errno::result(libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes two system calls, allocates nothing and takes no lock.
        unsafe { command.pre_exec(install) }
    }

    /// The filter's program (seccomp(2)). The architecture is not looked at: nothing here makes calls of another one.
    fn filter(&self, errno: Errno) -> Vec<sock_filter> {
        const NUMBER_OFFSET: u32 = 0;
        const ARGUMENTS_OFFSET: u32 = 16;
        let code = |code: u32| u16::try_from(code).expect("codes have 16 bits");
        let load = |offset| sock_filter { code: code(BPF_LD | BPF_W | BPF_ABS), jt: 0, jf: 0, k: offset };
        let give = |value| sock_filter { code: code(BPF_RET | BPF_K), jt: 0, jf: 0, k: value };
        // If not equal, it jumps over so many instructions.
        let unless =
            |value, over| sock_filter { code: code(BPF_JMP | BPF_JEQ | BPF_K), jt: 0, jf: over, k: value };
        let number = u32::try_from(self.number).expect("calls have small numbers");
        let mut program = vec![load(NUMBER_OFFSET)];
        if let Some((index, value)) = self.argument {
            // The lower half of a little-endian argument of eight bytes.
            program.extend([unless(number, 3), load(ARGUMENTS_OFFSET + 8 * index), unless(value, 1)]);
        } else {
            program.push(unless(number, 1));
        }
        program.extend([give(SECCOMP_RET_ERRNO | errno as u32), give(SECCOMP_RET_ALLOW)]);
        program
    }
}
