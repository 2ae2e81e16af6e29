//! Cofferdam: a process-isolated pool of committed-memory WebAssembly workers.
//!
//! The rooms, from the ground up: [`pool`] (worker processes, their memory, deaths and replacement), [`store`] (the
//! state, written here alone), [`tree`] (proofs of it) and [`snapshot`] (copies of it, to keep and to go on from),
//! [`blocks`] (where blocks come from), [`chain`] (blocks in order on pool and store), [`host`] (what this machine grants),
//! [`agreement`] (of modules, and of nodes), and over them [`http`] (the pool as a service), [`node`] (a chain that is
//! followed and served), [`cli`], and [`harness`] for tests of modules and runtimes.
//!
//! An embedding program calls [`init`] first in its `main`, because workers are this same executable started again.
//! A test binary has no `main` of its own: it uses [`enable_test_support!`].

pub mod agreement;
pub mod blocks;
pub mod chain;
pub mod cli;
pub mod harness;
pub mod host;
pub mod http;
pub mod node;
pub mod pool;
pub mod sample;
mod secret;
pub mod snapshot;
pub mod store;
mod sync;
pub mod tree;

pub use cofferdam_protocol::{exit, fault, profile, status, verdict, writes};
pub use cofferdam_worker::{InitError, init, init_with};
pub use secret::Secret;

#[doc(hidden)]
pub use ctor as __ctor;

/// Lets a test binary start workers: put it once at the top level of the test.
///
/// The test harness has a `main` of its own, so what [`init`] does in a program runs here before `main`, from the
/// binary's list of initialisers.
///
/// Guests may be given imports of the test's own, which each worker then has too, because it is the same binary:
///
/// ```
/// use cofferdam::harness::{HostImport, Value};
///
/// fn roll(_memory: &mut [u8], _arguments: &[Value]) -> Result<Vec<Value>, String> {
///     Ok(vec![Value::I32(4)])
/// }
///
/// cofferdam::enable_test_support!(imports: [HostImport::new("dice", "roll", roll)]);
/// ```
///
/// Imports that cannot be registered end the binary with a sentence: see [`harness::ImportError`].
#[macro_export]
macro_rules! enable_test_support {
    ($(imports: [$($import:expr),* $(,)?])?) => {
        #[$crate::__ctor::ctor(crate_path = $crate::__ctor, unsafe)]
        fn cofferdam_become_worker() {
            $crate::__init_test(::std::vec![$($($import),*)?]);
        }
    };
}

/// What [`enable_test_support!`] runs: there is nobody to hand an error to before `main`.
#[doc(hidden)]
pub fn __init_test(imports: Vec<harness::HostImport>) {
    use std::io::Write as _;
    if let Err(error) = init_with(imports) {
        // Where nobody can be told, the exit code is left.
        let _ = writeln!(std::io::stderr(), "cofferdam: enable_test_support!: {error}");
        std::process::exit(2);
    }
}
