//! The engine configuration. Compiler, workers and tests all build their engine here. So the settings that code is compiled with
//! are those that it runs with, and the guarantees about determinism hold for both.
#![allow(unsafe_code, reason = "Config::cranelift_flag_enable")]

use std::sync::Arc;

use thiserror::Error;
use wasmtime::{Config, Engine, MemoryCreator, RegallocAlgorithm, WasmFeatures};

use crate::imports;
use crate::limits::{STACK_BYTES, TABLE_ELEMENTS};
use crate::memory::{GC_HEAP_BYTES, GUARD_BYTES, RESERVATION_BYTES};

/// The accepted features: those that are standard in WebAssembly 2.0 and those that compilers emit by default, without any
/// whose result may differ between hosts. Four operations of relaxed SIMD are refused one by one:
/// [`crate::module::HostDependentOperation`].
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST);

/// Instruction sets that compiled code may use in addition to the architecture's base. They are one fixed set (x86-64-v2, of 2009)
/// and not those of the host: the size of a stack frame depends on them, and so does the depth that a recursion reaches before the
/// stack limit.
#[cfg(target_arch = "x86_64")]
const INSTRUCTION_SETS: [&str; 6] =
    ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt", "has_cmpxchg16b"];
#[cfg(not(target_arch = "x86_64"))]
const INSTRUCTION_SETS: [&str; 0] = [];

/// The engine could not be built.
#[derive(Error)]
#[error("the WebAssembly engine could not be set up: {0}")]
pub struct EngineError(String);

cofferdam_protocol::debug_as_display!(EngineError);

/// The part of the profile that describes the engine: its name, its version and every setting that can affect a result.
pub fn description() -> String {
    format!(
        "wasmtime 48.0.8 cranelift {} stack={STACK_BYTES} tables={TABLE_ELEMENTS} nan=canonical simd=deterministic \
         isa={} abi=1 build={}{}",
        std::env::consts::ARCH,
        INSTRUCTION_SETS.join(","),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        imports::description()
    )
}

/// Builds the engine. A worker gives it the creator of its memory; a compiler gives none.
///
/// # Errors
/// [`EngineError`] if the host's processor lacks an instruction set that the compiled code needs.
pub fn build(fuel: bool, memory: Option<Arc<dyn MemoryCreator>>) -> Result<Engine, EngineError> {
    let mut config = Config::new();
    fix_target(&mut config)?;
    config
        .wasm_features(FEATURES.complement(), false)
        .wasm_features(FEATURES, true)
        .relaxed_simd_deterministic(true)
        .cranelift_nan_canonicalization(true)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .max_wasm_stack(STACK_BYTES)
        .consume_fuel(fuel)
        .memory_reservation(RESERVATION_BYTES as u64)
        .memory_guard_size(GUARD_BYTES as u64)
        .memory_may_move(false)
        .gc_heap_reservation(GC_HEAP_BYTES as u64)
        .gc_heap_guard_size(GUARD_BYTES as u64)
        .gc_heap_may_move(false)
        // Copy-on-write images are mapped over the memory. A mapping would replace committed pages by demand-paged ones, and
        // the memory of a MemoryCreator does not support it.
        .memory_init_cow(false);
    if let Some(memory) = memory {
        config.with_host_memory(memory);
    }
    Engine::new(&config).map_err(|error| EngineError(format!("{error:#}")))
}

fn fix_target(config: &mut Config) -> Result<(), EngineError> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Without a target, wasmtime would use every instruction set of this host.
    config.target(&triple).map_err(|error| EngineError(format!("{error:#}")))?;
    for flag in INSTRUCTION_SETS {
        // SAFETY: the flags only name instruction sets. wasmtime checks that the processor has them before it runs code that
        // was compiled with them.
        unsafe { config.cranelift_flag_enable(flag) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_the_engine_that_is_linked() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        let version =
            lock.split("name = \"wasmtime\"\nversion = \"").nth(1).unwrap().split('"').next().unwrap();
        assert!(description().contains(&format!("wasmtime {version} ")), "wasmtime {version} is linked");
    }

    #[test]
    fn the_engine_builds_with_and_without_fuel() {
        for fuel in [false, true] {
            let engine = build(fuel, None).unwrap();
            engine.precompile_module(b"\0asm\x01\0\0\0").unwrap();
        }
    }

    /// Linkers of LLVM 19 and later encode the table index of an indirect call in five bytes.
    #[test]
    fn an_indirect_call_with_a_padded_table_index_is_accepted() {
        let text = "(module (table 1 funcref) (type (func)) (func (call_indirect (type 0) (i32.const 0))))";
        let binary = wat::parse_str(text).unwrap();
        let at = binary.windows(3).position(|bytes| bytes == [0x11, 0, 0]).unwrap();
        let mut padded = binary.clone();
        padded.splice(at + 2..at + 3, [0x80, 0x80, 0x80, 0x80, 0]);
        // The code section and its one body grow by four bytes.
        let code = binary.windows(4).position(|bytes| bytes[0] == 10 && bytes[2] == 1).unwrap();
        padded[code + 1] += 4;
        padded[code + 3] += 4;
        build(false, None).unwrap().precompile_module(&padded).unwrap();
    }

    #[test]
    fn features_whose_results_could_differ_between_hosts_are_refused() {
        let engine = build(false, None).unwrap();
        let threads = wat::parse_str("(module (memory 1 1 shared))").unwrap();
        assert!(engine.precompile_module(&threads).is_err(), "shared memory");
        let wide = wat::parse_str("(module (memory i64 1))").unwrap();
        assert!(engine.precompile_module(&wide).is_err(), "64-bit memory");
    }
}
