//! Finding the operations whose results differ between hosts. A module with such an operation is refused.
//!
//! These operations are the four fused multiply-adds of relaxed SIMD. Where the target has an instruction for them, the engine uses
//! it and canonicalises the result's NaNs. The fixed target of x86-64 has no such instruction ([`crate::engine`]), so there the
//! engine calls the C library's `fma`. The C library uses an instruction if the processor has one, and computes the result otherwise.
//! The two return NaNs with different bits, and the engine does not canonicalise the result of a call. So two hosts could reach two
//! states.
//!
//! The alternative to refusing is to make the results canonical. The engine has no hook behind the call, so the module would have to
//! be rewritten before it is compiled, and the offsets in traps would move. No toolchain emits these operations unless it is told to
//! use relaxed SIMD. And a refusal changes no result of a module that still runs, so the profile and every store stay valid.
//! `tests/tests/operations.rs` runs every other operation that a guest can use.

use std::fmt;

use wasmparser::{FunctionBody, KnownCustom, Name, NameSectionReader, Operator};

/// The first operation of a module whose result differs between hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDependentOperation {
    /// The operation's name in WebAssembly's text format.
    pub operation: &'static str,
    /// Index of the function that has the operation. Imported functions count.
    pub function: u32,
    /// The function's name, if the module has names.
    pub name: Option<String>,
    /// Bytes from the start of the module to the operation.
    pub offset: usize,
}

impl fmt::Display for HostDependentOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, function, name, offset } = self;
        write!(f, "`{operation}` in function #{function}")?;
        if let Some(name) = name {
            write!(f, " `{name}`")?;
        }
        write!(f, " at module offset {offset:#x}")
    }
}

/// A search through the functions of one module, in order.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Number of functions so far. Imported functions come first.
    functions: u32,
    found: Option<HostDependentOperation>,
}

impl Search {
    /// Counts an imported function.
    pub(super) fn count_import(&mut self) {
        self.functions = self.functions.saturating_add(1);
    }

    /// Searches the next function, up to the first operation that does not parse. The compiler refuses such a function.
    pub(super) fn scan_body(&mut self, body: &FunctionBody<'_>) {
        let function = self.functions;
        self.functions = self.functions.saturating_add(1);
        if self.found.is_some() {
            return;
        }
        let Ok(mut operators) = body.get_operators_reader() else { return };
        while let Ok((operator, offset)) = operators.read_with_offset() {
            if let Some(operation) = host_dependent(&operator) {
                self.found = Some(HostDependentOperation { operation, function, name: None, offset });
                return;
            }
        }
    }

    /// Reads the name of the function with the operation from a custom section, if that is the section of names.
    pub(super) fn find_name(&mut self, section: KnownCustom<'_>) {
        if let (Some(found), KnownCustom::Name(names)) = (&mut self.found, section) {
            found.name = name_of(names, found.function);
        }
    }

    /// The first operation that was found.
    pub(super) fn found(self) -> Option<HostDependentOperation> {
        self.found
    }
}

/// The operation's name if its result differs between hosts; none otherwise.
fn host_dependent(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::F32x4RelaxedMadd => "f32x4.relaxed_madd",
        Operator::F32x4RelaxedNmadd => "f32x4.relaxed_nmadd",
        Operator::F64x2RelaxedMadd => "f64x2.relaxed_madd",
        Operator::F64x2RelaxedNmadd => "f64x2.relaxed_nmadd",
        _ => return None,
    })
}

/// The name of a function; none if it has no name, or the names do not parse. Names are only for people.
fn name_of(names: NameSectionReader<'_>, function: u32) -> Option<String> {
    let functions = names.into_iter().find_map(|name| match name {
        Ok(Name::Function(functions)) => Some(functions),
        _ => None,
    })?;
    let mut named = functions.into_iter().filter_map(Result::ok);
    named.find(|naming| naming.index == function).map(|naming| naming.name.to_owned())
}
