//! The functions of the ABI ([`crate::abi`]) that a guest calls.
//!
//! A pointer points at the bytes of an AssemblyScript ArrayBuffer. The u32 in the four bytes before the pointer is the buffer's
//! length. A module may have other imports. A call of one traps, unless the embedding program has registered a function for it
//! ([`crate::imports`]).

use wasmtime::{Caller, ExternType, Linker, Module};

use super::context::{Context, memory_and_context};
use super::fault::GuestFault;
use super::{host_import, memory_access};
use crate::abi::{MODULE, signature};
use crate::imports;

/// Bytes of the height in front of the input, a u32 little-endian.
const HEIGHT_BYTES: usize = 4;

/// Defines the functions of the ABI. For every other function that `module` imports, defines the registered host import, or a
/// function that traps.
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
        // A module may import one name twice. Both imports are the same function.
        linker.allow_shadowing(true);
        if let Some(import) = imports::find(&module, &name) {
            host_import::define(linker, import, ty)?;
            continue;
        }
        linker.func_new(&module.clone(), &name.clone(), ty, move |mut caller, _, _| {
            caller.data_mut().job()?;
            Err(GuestFault::AbsentImport { module: module.clone(), name: name.clone() }.into())
        })?;
    }
    Ok(())
}

fn host_len(mut caller: Caller<'_, Context>) -> wasmtime::Result<i32> {
    let (input, _) = caller.data_mut().job()?;
    Ok(to_i32(input.bytes().len() + HEIGHT_BYTES))
}

fn load_input(mut caller: Caller<'_, Context>, pointer: i32) -> wasmtime::Result<()> {
    let (memory, context) = memory_and_context(&mut caller);
    let (input, _) = context.job()?;
    let bytes = input.bytes();
    let place = memory_access::range(
        memory,
        "the input",
        memory_access::address(pointer),
        bytes.len() + HEIGHT_BYTES,
    )?;
    let (height, block) = memory[place].split_at_mut(HEIGHT_BYTES);
    height.copy_from_slice(&input.height.to_le_bytes());
    block.copy_from_slice(bytes);
    Ok(())
}

fn get_len(mut caller: Caller<'_, Context>, key: i32) -> wasmtime::Result<i32> {
    let (memory, context) = memory_and_context(&mut caller);
    let (input, _) = context.job()?;
    let key = memory_access::array_buffer(memory, "a key", memory_access::address(key))?;
    let length = input.length(key).map_err(GuestFault::State)?;
    Ok(to_i32(length.unwrap_or(0)))
}

fn get(mut caller: Caller<'_, Context>, key: i32, target: i32) -> wasmtime::Result<()> {
    let (memory, context) = memory_and_context(&mut caller);
    let (input, _) = context.job()?;
    let key = memory_access::array_buffer(memory, "a key", memory_access::address(key))?;
    let Some(value) = input.get(key).map_err(GuestFault::State)? else { return Ok(()) };
    let place = memory_access::range(memory, "a value", memory_access::address(target), value.len())?;
    memory[place].copy_from_slice(value);
    Ok(())
}

fn flush_pairs(mut caller: Caller<'_, Context>, pointer: i32) -> wasmtime::Result<()> {
    let (memory, context) = memory_and_context(&mut caller);
    let (input, output) = context.job()?;
    if !input.flushes {
        return Ok(());
    }
    let message = memory_access::array_buffer(memory, "a flush", memory_access::address(pointer))?;
    output.add_pairs(message)?;
    Ok(())
}

fn log(mut caller: Caller<'_, Context>, pointer: i32) -> wasmtime::Result<()> {
    let (memory, context) = memory_and_context(&mut caller);
    let (_, output) = context.job()?;
    output.add_log(memory_access::array_buffer(memory, "a log line", memory_access::address(pointer))?);
    Ok(())
}

fn abort(
    mut caller: Caller<'_, Context>,
    message: i32,
    file: i32,
    line: i32,
    column: i32,
) -> wasmtime::Result<()> {
    let (memory, context) = memory_and_context(&mut caller);
    context.job()?;
    let text = |pointer| memory_access::assembly_script_string(memory, memory_access::address(pointer));
    let (line, column) = (memory_access::address(line), memory_access::address(column));
    let message = text(message).unwrap_or_else(|| "no message".to_owned());
    let place = text(file).map_or_else(String::new, |file| format!(" in {file}:{line}:{column}"));
    Err(GuestFault::Abort(format!("{message}{place}")).into())
}

/// A length as an i32 of the guest, which reads it as unsigned. Lengths are below 4 GiB.
fn to_i32(length: usize) -> i32 {
    u32::try_from(length).unwrap_or(u32::MAX).cast_signed()
}
