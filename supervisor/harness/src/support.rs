//! The macro that turns a test binary into its own worker.

use cofferdam_pool::init_with;

use crate::HostImport;

/// Lets a test binary start workers: put it once at the top level of the test.
///
/// The test harness has a `main` of its own, so what [`init`](cofferdam_pool::init) does in a program runs here before `main`, from the
/// binary's list of initialisers.
///
/// Guests may be given imports of the test's own, which each worker then has too, because it is the same binary:
///
/// ```
/// use cofferdam_harness::{HostImport, Value};
///
/// fn roll(_memory: &mut [u8], _arguments: &[Value]) -> Result<Vec<Value>, String> {
///     Ok(vec![Value::I32(4)])
/// }
///
/// cofferdam_harness::enable_test_support!(imports: [HostImport::new("dice", "roll", roll)]);
/// ```
///
/// Imports that cannot be registered end the binary with a sentence: see [`ImportError`](crate::ImportError).
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
pub fn __init_test(imports: Vec<HostImport>) {
    use std::io::Write as _;
    if let Err(error) = init_with(imports) {
        // Where nobody can be told, the exit code is left.
        let _ = writeln!(std::io::stderr(), "cofferdam: enable_test_support!: {error}");
        std::process::exit(2);
    }
}
