//! Cofferdam: a process-isolated pool of committed-memory WebAssembly workers.
//!
//! The rooms, from the ground up: [`pool`] (worker processes, their memory, deaths and replacement), [`store`] (the
//! state, written here alone), [`blocks`] (where blocks come from), [`chain`] (blocks in order on pool and store),
//! [`host`] (what this machine grants), and over them [`cli`].
//!
//! An embedding program calls [`init`] first in its `main`, because workers are this same executable started again.
//! A test binary has no `main` of its own: it uses [`enable_test_support!`].

pub mod blocks;
pub mod chain;
pub mod cli;
pub mod host;
pub mod pool;
pub mod sample;
pub mod store;

pub use cofferdam_protocol::{exit, fault, profile, status, verdict, writes};
pub use cofferdam_worker::init;

#[doc(hidden)]
pub use ctor as __ctor;

/// Lets a test binary start workers: put it once at the top level of the test.
///
/// The test harness has a `main` of its own, so what [`init`] does in a program runs here before `main`, from the
/// binary's list of initialisers.
#[macro_export]
macro_rules! enable_test_support {
    () => {
        #[$crate::__ctor::ctor(crate_path = $crate::__ctor, unsafe)]
        fn cofferdam_become_worker() {
            $crate::init();
        }
    };
}
