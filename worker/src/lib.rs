//! One Cofferdam worker process, from its first instruction to its exit code.
//!
//! `lifecycle` is the life of a worker from top to bottom. The modules below are in the order of that life:
//!
//! 1. `process`: the descriptors that the process was given, hardening, and how the supervisor learns of its end;
//! 2. [`memory`]: reserve, commit, count, hand out, and reset the linear memory;
//! 3. load: [`module`] (which modules are accepted), [`engine`] (the engine's configuration) with its `limits`, [`abi`] and
//!    [`imports`] (what a guest may import), [`compile`] (compiling in a process of its own, and loading the result);
//! 4. [`state`]: the state that a guest reads; [`guest`]: one instance for one job;
//! 5. `serve`: the loop over the jobs; `fault_injection`: failures that a test asked for.
//!
//! A worker knows nothing of pools, of any chain, or of the process on the other end of its pipes. `README.md` of this crate says how to
//! use it.

// The life of a worker.
mod lifecycle;

// 1. Harden.
mod process;

// 2. Commit.
pub mod memory;

// 3. Load.
pub mod abi;
pub mod compile;
pub mod engine;
pub mod imports;
pub mod limits;
pub mod module;

// 4. Run a job.
pub mod guest;
pub mod state;

// 5. Serve.
mod fault_injection;
mod serve;

use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_protocol::descriptors::Role;
use cofferdam_protocol::exit::WorkerExit;
use thiserror::Error;

use imports::{HostImport, ImportError};
use process::inherited::Inherited;
use process::stderr::{exit_on_panic, log_stderr};

/// Runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

/// Number of threads of the process when [`init`] was called; 0 before that.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Why a program cannot start workers. A worker is the same program, started again.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub enum InitError {
    /// The program has not called [`init`]. A process that it starts would not become a worker, but run `main` again.
    #[error(
        "this program has not called `cofferdam::init()`: a worker is this program, started again, and only `init` turns \
         it into a worker. Call `cofferdam::init()` in the first line of `main`, or put \
         `cofferdam::enable_test_support!();` at the top level of a test"
    )]
    NotCalled,
    /// The program had other threads already. A worker closes the descriptors that they have open.
    #[error(
        "`cofferdam::init()` was called when this program had {threads} threads: a worker is this program, started again, \
         and must be alone in its process. Call `cofferdam::init()` in the first line of `main`, before any thread is \
         started. `#[tokio::main]` starts threads before that line: write `fn main()`, call `cofferdam::init()`, then \
         build the runtime with `tokio::runtime::Runtime::new()` and run the rest in its `block_on`"
    )]
    Late {
        /// Number of threads.
        threads: usize,
    },
}

cofferdam_protocol::debug_as_display!(InitError);

/// Turns this process into a worker or a compiler if it was started as one. Otherwise returns at once.
///
/// Call this function in the first line of `main`, before any thread is started. Code before the call also runs in every worker, and
/// a worker closes all descriptors that such code has opened. A pool cannot be built in a program that has not called this function,
/// or has called it too late ([`InitError`]). In a worker or a compiler this function does not return: it ends the process.
///
/// `#[tokio::main]` starts threads before the first line of `main`. Build the runtime yourself:
///
/// ```ignore
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     cofferdam::init();
///     tokio::runtime::Runtime::new()?.block_on(async {
///         // Build the pool and serve.
///         Ok(())
///     })
/// }
/// ```
pub fn init() {
    let threads = threads();
    THREADS.store(threads, Ordering::Release);
    let Some(role) = Role::from_arguments(std::env::args_os()) else { return };
    if threads > 1 {
        log_stderr!("{}: {}", role.process_name(), InitError::Late { threads });
        std::process::exit(WorkerExit::Usage.code());
    }
    // If this fails, tools show the name of the executable's link in /proc.
    let _ = nix::sys::prctl::set_name(role.short_name());
    exit_on_panic(role.process_name());
    // SAFETY: a supervisor has started this process for `role`, with these descriptors. The process has no other thread, and this
    // function never returns to the code before it. So no other code uses a descriptor from here on.
    #[allow(unsafe_code, reason = "the start of a worker takes over the process")]
    let (inherited, closed) = unsafe { Inherited::take_over(role) };
    let exit = match role {
        Role::Worker => lifecycle::run(inherited, closed),
        Role::Compiler => compile::run(inherited, closed),
    };
    std::process::exit(exit.code());
}

/// As [`init`], and gives guests the host imports `imports` in addition to the indexer ABI. The supervisor's profile names them, and
/// every worker has them.
///
/// # Errors
/// [`ImportError`] if the imports cannot be registered. The process has not become a worker then.
pub fn init_with(imports: Vec<HostImport>) -> Result<(), ImportError> {
    imports::register(imports)?;
    init();
    Ok(())
}

/// Whether this program has called [`init`].
pub fn is_initialised() -> bool {
    THREADS.load(Ordering::Acquire) > 0
}

/// Checks that a process that this program starts as a worker becomes a worker.
///
/// # Errors
/// [`InitError`]
pub fn check_initialised() -> Result<(), InitError> {
    match THREADS.load(Ordering::Acquire) {
        0 => Err(InitError::NotCalled),
        1 => Ok(()),
        threads => Err(InitError::Late { threads }),
    }
}

/// Number of threads of this process; 1 if /proc does not say.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count().max(1))
}
