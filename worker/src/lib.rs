//! One Cofferdam worker process, from its first instruction to its exit code.
//!
//! [`life`] tells the story top to bottom: descriptors, hardening, commit, load, `Hello`, serve. The rooms it leads
//! through are [`memory`] (reserve, commit, prove, hand out, reset), [`engine`] (the one engine configuration),
//! [`module`] (what is accepted as a module; [`host_dependent`]: which operations are not), [`guest`] (the ABI and what came of a call), [`state`] (reading the
//! store), [`reads`] (what one job sees of it) and [`compile`] (the other role of this executable: compiling a module in a process of its own). [`imports`]
//! keeps the functions that an embedding program, mostly a test, adds to what guests may import.
//!
//! A worker knows nothing of pools, blocks of any chain, or who is on the other end of its pipes.

pub mod compile;
mod complaint;
pub mod engine;
mod fault;
pub mod guest;
mod harden;
pub mod host_dependent;
pub mod imports;
pub mod life;
mod life_lock;
pub mod memory;
pub mod module;
mod pipes;
pub mod reads;
mod serve;
pub mod state;

use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_protocol::descriptors::Role;
use cofferdam_protocol::exit::WorkerExit;
use thiserror::Error;

use imports::{HostImport, ImportError};

/// How many threads the process had when [`init`] was called; 0 before that.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Why a program cannot start workers, which are the same program, started again.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub enum InitError {
    /// The program has not called [`init`]: what it starts would not become a worker, but run `main` again.
    #[error(
        "this program has not called `cofferdam::init()`: a worker is this program, started again, and only `init` turns \
         it into a worker. Call `cofferdam::init()` in the first line of `main`, or put \
         `cofferdam::enable_test_support!();` at the top level of a test"
    )]
    NotCalled,
    /// There were other threads already: a worker closes what they have open.
    #[error(
        "`cofferdam::init()` was called when this program had {threads} threads: a worker is this program, started again, \
         and must be alone in its process. Call `cofferdam::init()` in the first line of `main`, before any thread is \
         started. `#[tokio::main]` starts threads before that line: write `fn main()`, call `cofferdam::init()`, then \
         build the runtime with `tokio::runtime::Runtime::new()` and run the rest in its `block_on`"
    )]
    Late {
        /// How many threads there were.
        threads: usize,
    },
}

cofferdam_protocol::debug_as_display!(InitError);

/// Turns this process into a worker or a compiler if it was started as one; otherwise returns at once.
///
/// Call it in the first line of `main`: whatever ran before it also runs in every worker. It must come before any thread is
/// started. A pool cannot be built in a program that has not called it, or has called it too late ([`InitError`]).
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
        complaint::complain!("{}: {}", role.process_name(), InitError::Late { threads });
        std::process::exit(WorkerExit::Usage.code());
    }
    // Only a name: without it, tools show that of the executable's link in /proc.
    let _ = nix::sys::prctl::set_name(role.short_name());
    let exit = match role {
        Role::Worker => life::run(),
        Role::Compiler => compile::run(),
    };
    std::process::exit(exit.code());
}

/// As [`init`], and gives guests `imports` beside the indexer ABI, in the supervisor's profile and in every worker alike.
///
/// # Errors
/// [`ImportError`] if they cannot be registered; the process is then no worker yet.
pub fn init_with(imports: Vec<HostImport>) -> Result<(), ImportError> {
    imports::register(imports)?;
    init();
    Ok(())
}

/// Whether this program has called [`init`], without which what it starts as workers would not become any.
pub fn is_initialised() -> bool {
    THREADS.load(Ordering::Acquire) > 0
}

/// Checks that what this program starts as workers becomes workers.
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

/// How many threads this process has; 1 if nobody says.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count().max(1))
}
