//! Host imports: functions that the embedding program gives to guests in addition to the indexer ABI.
//!
//! A node registers no host imports. Host imports are for authors of runtimes and modules who test the effect of a host function
//! on a guest: for example, a clock makes a guest non-deterministic. A worker is the embedding program itself, started again. So
//! a plain `fn` exists in every worker too, if it is registered before the process becomes a worker ([`crate::init_with`]). The
//! profile names the registered imports, so digests with and without them never agree.

use std::sync::OnceLock;

use thiserror::Error;

use crate::abi;

/// A number that is passed between a guest and a host import.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A 32-bit integer. It has no sign, as in WebAssembly.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
}

/// The function of a host import. It is given the guest's memory and the arguments of the call, and returns the results.
///
/// The function runs in a worker. A worker has an empty environment and few descriptors, and shares no variable with the program
/// that started it. If the function returns an error, the guest's verdict is `trap` with the error's text. If the function
/// panics, the worker ends.
pub type HostFunction = fn(memory: &mut [u8], arguments: &[Value]) -> Result<Vec<Value>, String>;

/// A function that guests may import. It has the type with which the module imports it.
#[derive(Clone, Copy, Debug)]
pub struct HostImport {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) call: HostFunction,
}

impl HostImport {
    /// An import `module.name` that calls `call`.
    pub const fn new(module: &'static str, name: &'static str, call: HostFunction) -> Self {
        Self { module, name, call }
    }
}

/// Why host imports cannot be registered.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// The import would replace a function of the indexer ABI.
    #[error(
        "the import `{module}.{name}` is part of the indexer ABI and cannot be replaced: give it another name"
    )]
    Abi {
        /// The import's module.
        module: &'static str,
        /// The import's name.
        name: &'static str,
    },
    /// Two imports have the same name.
    #[error("the import `{module}.{name}` is given twice")]
    Twice {
        /// The import's module.
        module: &'static str,
        /// The import's name.
        name: &'static str,
    },
    /// Imports were registered before. Pools may exist by now, and their workers do not know later imports.
    #[error("host imports can be registered once in a process, before anything else")]
    Late,
}

cofferdam_protocol::debug_as_display!(ImportError);

static REGISTERED: OnceLock<Vec<HostImport>> = OnceLock::new();

/// Registers the imports of this process, once.
pub(crate) fn register(imports: Vec<HostImport>) -> Result<(), ImportError> {
    check(&imports)?;
    if imports.is_empty() {
        return Ok(());
    }
    REGISTERED.set(imports).map_err(|_| ImportError::Late)
}

/// The registered import with this name.
pub(crate) fn find(module: &str, name: &str) -> Option<&'static HostImport> {
    REGISTERED.get()?.iter().find(|import| (import.module, import.name) == (module, name))
}

/// The part of the profile that describes the imports: their names in order, quoted so that two different sets have different
/// descriptions. Empty if there are no imports.
pub(crate) fn description() -> String {
    describe(REGISTERED.get().map_or(&[], Vec::as_slice))
}

fn describe(imports: &[HostImport]) -> String {
    let mut names: Vec<_> =
        imports.iter().map(|import| format!("{:?}.{:?}", import.module, import.name)).collect();
    names.sort_unstable();
    if names.is_empty() { String::new() } else { format!(" host-imports={}", names.join(",")) }
}

fn check(imports: &[HostImport]) -> Result<(), ImportError> {
    for (at, HostImport { module, name, .. }) in imports.iter().enumerate() {
        if *module == abi::MODULE && abi::signature(name).is_some() {
            return Err(ImportError::Abi { module, name });
        }
        if imports[..at].iter().any(|before| (before.module, before.name) == (*module, *name)) {
            return Err(ImportError::Twice { module, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(module: &'static str, name: &'static str) -> HostImport {
        HostImport::new(module, name, |_, _| Ok(Vec::new()))
    }

    #[test]
    fn the_abi_cannot_be_replaced_and_names_are_unique() {
        assert_eq!(check(&[import("env", "now"), import("other", "now"), import("other", "__get")]), Ok(()));
        let abi = check(&[import("env", "now"), import("env", "__get")]).unwrap_err();
        assert_eq!(abi, ImportError::Abi { module: "env", name: "__get" });
        assert!(abi.to_string().contains("`env.__get` is part of the indexer ABI"), "{abi}");
        let twice = check(&[import("a", "b"), import("a", "b")]).unwrap_err();
        assert_eq!(twice, ImportError::Twice { module: "a", name: "b" });
    }

    #[test]
    fn the_description_depends_on_the_names_and_not_on_their_order() {
        assert_eq!(describe(&[]), "");
        assert_eq!(describe(&[import("b", "c"), import("a", "d")]), r#" host-imports="a"."d","b"."c""#);
        assert_ne!(describe(&[import("a\",\"b", "c")]), describe(&[import("a", "b"), import("b", "c")]));
    }
}
