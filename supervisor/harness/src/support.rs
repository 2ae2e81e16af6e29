//! The macro that turns a test binary into its own worker.

use cofferdam_pool::init_with;
use cofferdam_worker::imports::HostImport;

/// Lets a test binary start workers. Write the macro once at the top level of the test.
///
/// A program calls [`init`](cofferdam_pool::init) in the first line of `main`. The `main` of a test binary belongs to the test
/// framework. So the macro adds a function that runs before `main` and calls `init`.
///
/// The test can also define functions that guests may import. A worker is the same binary, so the worker has these functions, too:
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
/// If the imports cannot be registered, the binary ends with exit code 2 and a message; see [`ImportError`](crate::ImportError).
#[macro_export]
macro_rules! enable_test_support {
    ($(imports: [$($import:expr),* $(,)?])?) => {
        #[$crate::__ctor::ctor(crate_path = $crate::__ctor, unsafe)]
        fn cofferdam_become_worker() {
            $crate::__init_test(::std::vec![$($($import),*)?]);
        }
    };
}

/// The function that [`enable_test_support!`] runs before `main`. There is no caller that could handle an error.
#[doc(hidden)]
pub fn __init_test(imports: Vec<HostImport>) {
    use std::io::Write as _;
    if let Err(error) = init_with(imports) {
        // If the message cannot be written, the exit code still tells the failure.
        let _ = writeln!(std::io::stderr(), "cofferdam: enable_test_support!: {error}");
        std::process::exit(2);
    }
}
