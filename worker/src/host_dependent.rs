//! Finding the operations whose results differ from one host to the next: such a module is refused.
//!
//! They are the four fused multiply-adds of relaxed SIMD. The engine runs them as an instruction where the target has one,
//! and canonicalises the result's NaNs. The fixed target of x86-64 has none ([`crate::engine`]), so there the engine calls
//! the C library's `fma`. The C library takes an instruction if the processor has one and computes otherwise. The two
//! give NaNs of different bits, and the engine does not canonicalise what a call returns: two hosts, two states.
//!
//! Refusing is preferred to making them canonical. The engine offers no hook behind the call, so the module would have to
//! be rewritten before it is compiled, and offsets in traps would move. No toolchain emits these operations unless it is
//! told to use relaxed SIMD. And a refusal changes no result of a module that still runs, so that the profile, and with it
//! every store, stays as it is. Everything else that a guest can compute is run by `tests/tests/operations.rs`.

use std::fmt;

use wasmparser::{FunctionBody, KnownCustom, Name, NameSectionReader, Operator};

/// The first operation of a module whose result differs between hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDependent {
    /// Its name in WebAssembly's text format.
    pub operation: &'static str,
    /// Index of the function that it is in, imported functions counted.
    pub function: u32,
    /// The function's name, if the module has names.
    pub name: Option<String>,
    /// Bytes from the start of the module to the operation.
    pub offset: usize,
}

impl fmt::Display for HostDependent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, function, name, offset } = self;
        write!(f, "`{operation}` in function #{function}")?;
        if let Some(name) = name {
            write!(f, " `{name}`")?;
        }
        write!(f, " at module offset {offset:#x}")
    }
}

/// Looks through the functions of one module, in order.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Functions so far: at first the imported ones.
    functions: u32,
    found: Option<HostDependent>,
}

impl Search {
    /// Counts an imported function.
    pub(crate) fn imported(&mut self) {
        self.functions = self.functions.saturating_add(1);
    }

    /// Looks through the next function, up to whatever does not parse: the compiler says what is wrong with it.
    pub(crate) fn look(&mut self, body: &FunctionBody<'_>) {
        let function = self.functions;
        self.functions = self.functions.saturating_add(1);
        if self.found.is_some() {
            return;
        }
        let Ok(mut operators) = body.get_operators_reader() else { return };
        while let Ok((operator, offset)) = operators.read_with_offset() {
            if let Some(operation) = host_dependent(&operator) {
                self.found = Some(HostDependent { operation, function, name: None, offset });
                return;
            }
        }
    }

    /// Takes the name of the function that was found from a custom section, if it is the section of names.
    pub(crate) fn name(&mut self, section: KnownCustom<'_>) {
        if let (Some(found), KnownCustom::Name(names)) = (&mut self.found, section) {
            found.name = name_of(names, found.function);
        }
    }

    /// What was found.
    pub(crate) fn found(self) -> Option<HostDependent> {
        self.found
    }
}

/// The operation's name, if its result differs between hosts.
fn host_dependent(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::F32x4RelaxedMadd => "f32x4.relaxed_madd",
        Operator::F32x4RelaxedNmadd => "f32x4.relaxed_nmadd",
        Operator::F64x2RelaxedMadd => "f64x2.relaxed_madd",
        Operator::F64x2RelaxedNmadd => "f64x2.relaxed_nmadd",
        _ => return None,
    })
}

/// The name of a function; none if it has none, or the names do not parse: they matter to nobody but people.
fn name_of(names: NameSectionReader<'_>, function: u32) -> Option<String> {
    let functions = names.into_iter().find_map(|name| match name {
        Ok(Name::Function(functions)) => Some(functions),
        _ => None,
    })?;
    let mut named = functions.into_iter().filter_map(Result::ok);
    named.find(|naming| naming.index == function).map(|naming| naming.name.to_owned())
}
