//! Holding the liveness lock of the status page ([`cofferdam_protocol::status`]), by which the supervisor learns of this
//! process's end before the kernel has freed the process's memory.
#![allow(unsafe_code, reason = "a robust mutex in shared memory")]

use std::io;
use std::mem::MaybeUninit;

use cofferdam_protocol::status::StatusPage;
use nix::errno::Errno;
use nix::unistd::{getpid, gettid};

/// Locks the liveness lock for the rest of the life of this thread, which must be the main thread. The page stays mapped until the
/// process has ended, because the kernel marks the lock then.
///
/// # Errors
/// The error of pthreads. Without the lock, the supervisor notices the process's end later.
///
/// # Safety
/// No process may have initialised the lock of this page before, nor may one initialise it afterwards. No other process may write
/// to the lock, except for the bit of its first word that marks a waiter.
pub(crate) unsafe fn hold(status: &'static StatusPage) -> io::Result<()> {
    let mutex = status.liveness_lock().as_ptr().cast::<libc::pthread_mutex_t>();
    let mut attributes = MaybeUninit::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: the first call initialises the attributes before the others use them. The memory of the mutex is aligned, larger
    // than a mutex, and mapped as long as this process lives. The caller vouches for what other processes do.
    unsafe {
        check(libc::pthread_mutexattr_init(attributes))?;
        check(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED))?;
        check(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST))?;
        check(libc::pthread_mutex_init(mutex, attributes))?;
        check(libc::pthread_mutex_lock(mutex))
    }
}

/// Ends the main thread and nothing else: an injected fault. Does nothing in another thread.
pub(crate) fn end_main_thread() {
    if gettid() != getpid() {
        return;
    }
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    // SAFETY: exit(2) ends this thread alone and does not return. The main thread's stack stays mapped until the process ends, so
    // whatever other threads borrow from it stays valid.
    unsafe { libc::syscall(libc::SYS_exit, 1) };
}

fn check(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code).into()) }
}
