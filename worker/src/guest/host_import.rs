//! Calls of host imports ([`crate::imports`]): the conversion between their numbers and those of the engine.

use wasmtime::{FuncType, Linker, Val, ValType};

use super::context::{Context, memory_and_context};
use super::fault::GuestFault;
use crate::imports::{HostImport, Value};

/// Defines `import` with the type in the module. If the function's results do not match that type, the call traps.
pub(super) fn define(
    linker: &mut Linker<Context>,
    import: &'static HostImport,
    ty: FuncType,
) -> wasmtime::Result<()> {
    let results_ty: Vec<ValType> = ty.results().collect();
    linker.func_new(import.module, import.name, ty, move |mut caller, arguments, results| {
        let (memory, context) = memory_and_context(&mut caller);
        context.job()?;
        let answers = call(import, memory, arguments, &results_ty)
            .map_err(|reason| GuestFault::HostImport { module: import.module, name: import.name, reason })?;
        results.clone_from_slice(&answers);
        Ok(())
    })?;
    Ok(())
}

fn call(
    import: &HostImport,
    memory: &mut [u8],
    arguments: &[Val],
    expected: &[ValType],
) -> Result<Vec<Val>, String> {
    let arguments: Vec<_> = arguments.iter().map(to_value).collect::<Result<_, _>>()?;
    let results: Vec<_> = (import.call)(memory, &arguments)?.into_iter().map(to_val).collect();
    let fits = results.len() == expected.len()
        && results.iter().zip(expected).all(|(result, expected)| kind(result) == expected.to_string());
    if fits {
        return Ok(results);
    }
    Err(format!(
        "it returned ({}), and the module imports it with the results ({})",
        results.iter().map(kind).collect::<Vec<_>>().join(" "),
        expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    ))
}

fn to_value(val: &Val) -> Result<Value, String> {
    Ok(match val {
        Val::I32(value) => Value::I32(*value),
        Val::I64(value) => Value::I64(*value),
        Val::F32(bits) => Value::F32(f32::from_bits(*bits)),
        Val::F64(bits) => Value::F64(f64::from_bits(*bits)),
        _ => return Err("the module passes it a value that is not a number".to_owned()),
    })
}

fn to_val(value: Value) -> Val {
    match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(value) => Val::F32(value.to_bits()),
        Value::F64(value) => Val::F64(value.to_bits()),
    }
}

/// The type's name in WebAssembly's text format.
fn kind(val: &Val) -> &'static str {
    match val {
        Val::I32(_) => "i32",
        Val::I64(_) => "i64",
        Val::F32(_) => "f32",
        Val::F64(_) => "f64",
        _ => "not a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_bit_in_both_directions() {
        let echo = HostImport::new("test", "echo", |_, arguments| Ok(arguments.to_vec()));
        let nan = 0x7fa0_0001;
        let vals = [Val::I32(-1), Val::I64(i64::MIN), Val::F32(nan), Val::F64((-0.0f64).to_bits())];
        let types = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
        let back = call(&echo, &mut [], &vals, &types).unwrap();
        let [Val::I32(-1), Val::I64(i64::MIN), Val::F32(bits), Val::F64(zero)] = back[..] else {
            panic!("{back:?}")
        };
        assert_eq!((bits, zero), (nan, 1 << 63));
    }

    #[test]
    fn results_of_another_type_are_an_error() {
        let two = HostImport::new("test", "two", |_, _| Ok(vec![Value::I32(1), Value::F64(1.0)]));
        let reason = call(&two, &mut [], &[], &[ValType::I64]).unwrap_err();
        assert_eq!(reason, "it returned (i32 f64), and the module imports it with the results (i64)");
        assert!(call(&two, &mut [], &[Val::V128(0.into())], &[]).unwrap_err().contains("not a number"));
    }
}
