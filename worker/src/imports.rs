//! Functions that the embedding program gives to guests beside the indexer ABI.
//!
//! A node never has any. They are for those who write runtimes and modules, and want to see in a test what a host
//! function does to a guest: a clock, for instance, makes it non-deterministic. Workers are the embedding program itself,
//! started again, so a plain `fn` is there in every worker too, if it is registered before the process becomes one
//! ([`crate::init_with`]). What is registered is named in the profile, so digests with and without it never agree.

use std::sync::OnceLock;

use thiserror::Error;

use crate::guest::abi;

/// A number that passes between a guest and a host import.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A 32-bit integer; signless, as in WebAssembly.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
}

/// What a host import does, given the guest's memory and the arguments of the call.
///
/// It runs in a worker, which has an empty environment and few descriptors, and shares no variable with the test. An
/// error becomes the guest's verdict `trap` with its text; a panic ends the worker.
pub type HostFunction = fn(memory: &mut [u8], arguments: &[Value]) -> Result<Vec<Value>, String>;

/// A function that guests may import. Its type is the one that the module imports it with.
#[derive(Clone, Copy, Debug)]
pub struct HostImport {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) call: HostFunction,
}

impl HostImport {
    /// Lets guests import `module.name`, and has `call` called then.
    pub const fn new(module: &'static str, name: &'static str, call: HostFunction) -> Self {
        Self { module, name, call }
    }
}

/// Why imports cannot be registered.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// It would replace a function of the indexer ABI.
    #[error(
        "the import `{module}.{name}` is part of the indexer ABI and cannot be replaced: give it another name"
    )]
    Abi {
        /// The import's module.
        module: &'static str,
        /// The import's name.
        name: &'static str,
    },
    /// Two have one name.
    #[error("the import `{module}.{name}` is given twice")]
    Twice {
        /// The import's module.
        module: &'static str,
        /// The import's name.
        name: &'static str,
    },
    /// They were registered before. Pools may exist by now, whose workers know of no others.
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

/// The import that is registered under this name.
pub(crate) fn find(module: &str, name: &str) -> Option<&'static HostImport> {
    REGISTERED.get()?.iter().find(|import| (import.module, import.name) == (module, name))
}

/// What of the imports belongs into the profile: their names in order, quoted so that no two sets read alike; nothing if
/// there are none.
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
    fn the_abi_cannot_be_replaced_and_a_name_is_given_once() {
        assert_eq!(check(&[import("env", "now"), import("other", "now"), import("other", "__get")]), Ok(()));
        let abi = check(&[import("env", "now"), import("env", "__get")]).unwrap_err();
        assert_eq!(abi, ImportError::Abi { module: "env", name: "__get" });
        assert!(abi.to_string().contains("`env.__get` is part of the indexer ABI"), "{abi}");
        let twice = check(&[import("a", "b"), import("a", "b")]).unwrap_err();
        assert_eq!(twice, ImportError::Twice { module: "a", name: "b" });
    }

    #[test]
    fn the_description_is_of_the_names_in_any_order_and_of_nothing_else() {
        assert_eq!(describe(&[]), "");
        assert_eq!(describe(&[import("b", "c"), import("a", "d")]), r#" host-imports="a"."d","b"."c""#);
        assert_ne!(describe(&[import("a\",\"b", "c")]), describe(&[import("a", "b"), import("b", "c")]));
    }
}
