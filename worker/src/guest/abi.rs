//! The functions that a guest imports: the ABI of metashrew indexers.
//!
//! A pointer names an AssemblyScript ArrayBuffer: its bytes start there, and its length is the u32 in the four bytes
//! before. Imports that are not listed here may exist; calling one is a trap, unless the program that embeds this
//! crate has registered a function for it ([`crate::imports`]).

use wasmtime::{Caller, Extern, ExternType, Linker, Module};

use super::context::Context;
use super::{GuestFault, buffer, registered};
use crate::imports;

/// The import module of the ABI.
pub const MODULE: &str = "env";

/// Bytes of height in front of the input, u32 little-endian.
const HEIGHT_BYTES: usize = 4;

/// How many i32 parameters and i32 results the ABI function `name` has; none if there is no such function.
pub fn signature(name: &str) -> Option<(usize, usize)> {
    Some(match name {
        "__host_len" => (0, 1),
        "__load_input" | "__flush" | "__log" => (1, 0),
        "__get_len" => (1, 1),
        "__get" => (2, 0),
        "abort" => (4, 0),
        _ => return None,
    })
}

/// Defines the ABI, and for every other function that `module` imports what is registered, or else a trap.
pub(super) fn link(linker: &mut Linker<Context>, module: &Module) -> wasmtime::Result<()> {
    linker
        .func_wrap(MODULE, "__host_len", host_len)?
        .func_wrap(MODULE, "__load_input", load_input)?
        .func_wrap(MODULE, "__get_len", get_len)?
        .func_wrap(MODULE, "__get", get)?
        .func_wrap(MODULE, "__flush", flush_pairs)?
        .func_wrap(MODULE, "__log", log)?
        .func_wrap(MODULE, "abort", abort)?;
    for import in module.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let (module, name) = (import.module().to_owned(), import.name().to_owned());
        if module == MODULE && signature(&name).is_some() {
            continue;
        }
        // A module may import one name twice; both are the same function, or the same trap.
        linker.allow_shadowing(true);
        if let Some(import) = imports::find(&module, &name) {
            registered::define(linker, import, ty)?;
            continue;
        }
        linker.func_new(&module.clone(), &name.clone(), ty, move |mut caller, _, _| {
            caller.data_mut().job()?;
            Err(GuestFault::AbsentImport { module: module.clone(), name: name.clone() }.into())
        })?;
    }
    Ok(())
}

/// The guest's memory and its context, both at once. A guest without memory has none of zero bytes.
pub(super) fn split<'a>(caller: &'a mut Caller<'_, Context>) -> (&'a mut [u8], &'a mut Context) {
    // While the start function runs, the instance is not there yet to take the memory from.
    if caller.data().memory.is_none()
        && let Some(name) = caller.data().memory_name.clone()
        && let Some(Extern::Memory(memory)) = caller.get_export(&name)
    {
        caller.data_mut().memory = Some(memory);
    }
    match caller.data().memory {
        Some(memory) => memory.data_and_store_mut(caller),
        None => (&mut [], caller.data_mut()),
    }
}

fn host_len(mut caller: Caller<'_, Context>) -> wasmtime::Result<i32> {
    let (input, _) = caller.data_mut().job()?;
    Ok(to_i32(input.bytes().len() + HEIGHT_BYTES))
}

fn load_input(mut caller: Caller<'_, Context>, pointer: i32) -> wasmtime::Result<()> {
    let (memory, context) = split(&mut caller);
    let (input, _) = context.job()?;
    let bytes = input.bytes();
    let place = buffer::range(memory, "the input", buffer::address(pointer), bytes.len() + HEIGHT_BYTES)?;
    let (height, block) = memory[place].split_at_mut(HEIGHT_BYTES);
    height.copy_from_slice(&input.height.to_le_bytes());
    block.copy_from_slice(bytes);
    Ok(())
}

fn get_len(mut caller: Caller<'_, Context>, key: i32) -> wasmtime::Result<i32> {
    let (memory, context) = split(&mut caller);
    let (input, _) = context.job()?;
    let key = buffer::array_buffer(memory, "a key", buffer::address(key))?;
    let length = input.length(key).map_err(GuestFault::State)?;
    Ok(to_i32(length.unwrap_or(0)))
}

fn get(mut caller: Caller<'_, Context>, key: i32, target: i32) -> wasmtime::Result<()> {
    let (memory, context) = split(&mut caller);
    let (input, _) = context.job()?;
    let key = buffer::array_buffer(memory, "a key", buffer::address(key))?;
    let Some(value) = input.get(key).map_err(GuestFault::State)? else { return Ok(()) };
    let place = buffer::range(memory, "a value", buffer::address(target), value.len())?;
    memory[place].copy_from_slice(value);
    Ok(())
}

fn flush_pairs(mut caller: Caller<'_, Context>, pointer: i32) -> wasmtime::Result<()> {
    let (memory, context) = split(&mut caller);
    let (input, output) = context.job()?;
    if !input.flushes {
        return Ok(());
    }
    let message = buffer::array_buffer(memory, "a flush", buffer::address(pointer))?;
    output.add_pairs(message)?;
    Ok(())
}

fn log(mut caller: Caller<'_, Context>, pointer: i32) -> wasmtime::Result<()> {
    let (memory, context) = split(&mut caller);
    let (_, output) = context.job()?;
    output.add_log(buffer::array_buffer(memory, "a log line", buffer::address(pointer))?);
    Ok(())
}

fn abort(
    mut caller: Caller<'_, Context>,
    message: i32,
    file: i32,
    line: i32,
    column: i32,
) -> wasmtime::Result<()> {
    let (memory, context) = split(&mut caller);
    context.job()?;
    let text = |pointer| buffer::assembly_script_string(memory, buffer::address(pointer));
    let (line, column) = (buffer::address(line), buffer::address(column));
    let message = text(message).unwrap_or_else(|| "no message".to_owned());
    let place = text(file).map_or_else(String::new, |file| format!(" in {file}:{line}:{column}"));
    Err(GuestFault::Abort(format!("{message}{place}")).into())
}

/// A length as the guest's i32. Lengths are below 4 GiB; guests read them as unsigned.
fn to_i32(length: usize) -> i32 {
    u32::try_from(length).unwrap_or(u32::MAX).cast_signed()
}
