//! Holding the life lock of the status page ([`cofferdam_protocol::status`]): how this process's end is known before
//! its memory is freed.
#![allow(unsafe_code, reason = "a robust mutex in shared memory")]

use std::io;
use std::mem::MaybeUninit;

use cofferdam_protocol::status::StatusPage;
use nix::errno::Errno;

/// Locks the life lock for the rest of this thread's life, which must be the main thread's. The page has to stay mapped
/// until the process has ended: the kernel announces the end on it.
///
/// # Errors
/// What pthreads said. Without the lock the process's end is only seen later.
pub(crate) fn hold(status: &'static StatusPage) -> io::Result<()> {
    let mutex = status.life_lock().as_ptr().cast::<libc::pthread_mutex_t>();
    let mut attributes = MaybeUninit::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: the attributes are initialised by the first call before the others use them. The place of the mutex is
    // aligned, larger than it, and mapped for as long as this process lives. The supervisor writes no more to it than the
    // bit that says that somebody waits.
    unsafe {
        check(libc::pthread_mutexattr_init(attributes))?;
        check(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED))?;
        check(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST))?;
        check(libc::pthread_mutex_init(mutex, attributes))?;
        check(libc::pthread_mutex_lock(mutex))
    }
}

/// Ends this thread alone, past everything that would end the process with it: a planted fault.
pub(crate) fn end_main_thread() {
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    // SAFETY: exit(2) has no memory to get wrong. It does not return, and nothing of this thread is used afterwards.
    unsafe { libc::syscall(libc::SYS_exit, 1) };
}

fn check(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code).into()) }
}
