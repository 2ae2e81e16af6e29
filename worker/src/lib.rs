//! One Cofferdam worker process, from its first instruction to its exit code.
//!
//! [`life`] tells the story top to bottom: descriptors, hardening, commit, load, `Hello`, serve. The rooms it leads
//! through are [`memory`] (reserve, commit, prove, hand out, reset), [`engine`] (the one engine configuration),
//! [`module`] (what is accepted as a module), [`guest`] (the ABI and what came of a call), [`state`] (reading the
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
pub mod imports;
pub mod life;
mod life_lock;
pub mod memory;
pub mod module;
mod pipes;
pub mod reads;
mod serve;
pub mod state;

use std::sync::atomic::{AtomicBool, Ordering};

use cofferdam_protocol::descriptors::Role;

use imports::{HostImport, ImportError};

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Turns this process into a worker or a compiler if it was started as one; otherwise returns at once.
///
/// Call it before anything else in `main`: whatever ran before it also runs in every worker.
pub fn init() {
    INITIALISED.store(true, Ordering::Release);
    let Some(role) = Role::from_arguments(std::env::args_os()) else { return };
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
    INITIALISED.load(Ordering::Acquire)
}
