//! Checking a module, by its declarations and the kinds of its operations, before anything is compiled or committed.
//!
//! Each refusal says what the module declares, why such a module cannot run here, and which modules can.
//!
//! [`HostDependentOperation`] (`host_dependent`) describes operations whose results differ between hosts.

mod host_dependent;

use cofferdam_protocol::WASM_PAGE;
use thiserror::Error;
use wasmparser::{
    CompositeInnerType, Encoding, FuncType, MemoryType, Parser, Payload, TableType, TypeRef, ValType,
    WasmFeatures,
};

use crate::abi;
use crate::limits::TABLE_ELEMENTS;

pub use host_dependent::HostDependentOperation;

use host_dependent::Search;

/// The most bytes that a module may have.
pub const MAX_MODULE_BYTES: u64 = 64 << 20;

/// Why a module is refused.
#[derive(Error)]
pub enum ModuleError {
    /// The bytes are neither a binary module nor the text of one.
    #[error("the module is not valid WebAssembly: {0}")]
    Invalid(String),
    /// The module has more than [`MAX_MODULE_BYTES`].
    #[error("the module has {bytes} bytes, above the limit of {MAX_MODULE_BYTES}")]
    TooLong {
        /// The module's size in bytes.
        bytes: u64,
    },
    /// The module has more than one linear memory.
    #[error(
        "the module has {count} memories: a worker commits one, so only a module with at most one memory can run"
    )]
    ManyMemories {
        /// Number of memories.
        count: usize,
    },
    /// The memory is 64-bit.
    #[error(
        "the module's memory is 64-bit (memory64): the indexer ABI passes 32-bit pointers, so it cannot run"
    )]
    Memory64,
    /// The memory is shared.
    #[error("the module's memory is shared: threads would make results depend on timing, so it cannot run")]
    SharedMemory,
    /// The memory's pages are not 64 KiB.
    #[error("the module's memory has pages of its own size (custom-page-sizes), which is not supported")]
    CustomPages,
    /// The memory starts above the limit.
    #[error(
        "the module's memory starts with {minimum} pages ({} bytes), above the memory limit of {limit} bytes: give \
         it a --memory of at least that", minimum * WASM_PAGE
    )]
    AboveLimit {
        /// The memory's minimum in pages.
        minimum: u64,
        /// The memory limit in bytes.
        limit: u64,
    },
    /// The tables have more elements than are granted.
    #[error("the module's tables start with {elements} elements, above the limit of {TABLE_ELEMENTS}")]
    Tables {
        /// The sum of the minimums of all tables.
        elements: u64,
    },
    /// The module imports something that is neither a function nor a memory.
    #[error("the module imports the {kind} `{module}.{name}`: only functions and one memory can be imported")]
    Import {
        /// The kind of the import: a global, a table, a tag.
        kind: &'static str,
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
    },
    /// The module imports a function of the ABI with another type.
    #[error(
        "the module imports `env.{name}` with the type {found}: the indexer ABI gives it the type {expected}"
    )]
    ImportType {
        /// The import's name.
        name: String,
        /// The type in the module.
        found: String,
        /// The type in the ABI.
        expected: String,
    },
    /// The module has an operation whose result is not the same on every host.
    #[error(
        "the module uses {0}: the result of a fused multiply-add for a NaN depends on the processor, so two hosts could reach \
         two states; build the module without the fused multiply-add of relaxed SIMD (for LLVM and Rust: without the \
         target feature `relaxed-simd`)"
    )]
    HostDependent(HostDependentOperation),
}

cofferdam_protocol::debug_as_display!(ModuleError);

/// The binary form of `source`, which may be binary or text (`.wat`).
///
/// # Errors
/// [`ModuleError::TooLong`], or [`ModuleError::Invalid`] if the text does not parse.
pub fn to_binary(source: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let bytes = source.len() as u64;
    if bytes > MAX_MODULE_BYTES {
        return Err(ModuleError::TooLong { bytes });
    }
    if source.starts_with(b"\0asm") {
        return Ok(source.to_vec());
    }
    match wat::parse_bytes(source) {
        Ok(binary) if binary.starts_with(b"\0asm") => Ok(binary.into_owned()),
        Ok(_) => {
            Err(ModuleError::Invalid("it neither starts with `\\0asm` nor is WebAssembly text".to_owned()))
        }
        Err(error) => Err(ModuleError::Invalid(error.to_string())),
    }
}

/// Checks two things of a binary module. By its declarations, a worker with `limit` bytes of memory can run the module. And the
/// module has no operation whose result differs between hosts.
///
/// Function bodies are not validated. The compiler validates them, in a process of its own.
///
/// # Errors
/// [`ModuleError`].
pub fn inspect(binary: &[u8], limit: u64) -> Result<(), ModuleError> {
    let invalid = |error: wasmparser::BinaryReaderError| ModuleError::Invalid(error.to_string());
    let mut declarations = Declarations::default();
    let mut search = Search::default();
    let mut parser = Parser::new(0);
    // The parser accepts all features, so that an unsupported one is refused with a reason and not with a parse error.
    parser.set_features(WasmFeatures::all());
    for payload in parser.parse_all(binary) {
        match payload.map_err(invalid)? {
            Payload::TypeSection(section) => {
                for group in section {
                    declarations.add_types(group.map_err(invalid)?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    if matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        search.count_import();
                    }
                    declarations.add_import(import)?;
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    declarations.add_table(&table.map_err(invalid)?.ty);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    declarations.memories.push(memory.map_err(invalid)?);
                }
            }
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(ModuleError::Invalid("it is a component, not a module".to_owned()));
            }
            Payload::CodeSectionEntry(body) => search.scan_body(&body),
            Payload::CustomSection(section) => search.find_name(section.as_known()),
            _ => {}
        }
    }
    declarations.check(limit)?;
    search.found().map_or(Ok(()), |found| Err(ModuleError::HostDependent(found)))
}

#[derive(Default)]
struct Declarations {
    /// Function types by index; none for a type of another kind.
    types: Vec<Option<FuncType>>,
    memories: Vec<MemoryType>,
    table_elements: u64,
}

impl Declarations {
    fn add_types(&mut self, group: wasmparser::RecGroup) {
        self.types.extend(group.into_types().map(|subtype| match subtype.composite_type.inner {
            CompositeInnerType::Func(function) => Some(function),
            _ => None,
        }));
    }

    fn add_table(&mut self, table: &TableType) {
        self.table_elements = self.table_elements.saturating_add(table.initial);
    }

    fn add_import(&mut self, import: wasmparser::Import<'_>) -> Result<(), ModuleError> {
        let refuse = |kind| {
            Err(ModuleError::Import { kind, module: import.module.to_owned(), name: import.name.to_owned() })
        };
        match import.ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                let function = usize::try_from(index).ok().and_then(|index| self.types.get(index)?.as_ref());
                match function {
                    Some(function) if import.module == abi::MODULE => check_abi_type(import.name, function),
                    _ => Ok(()),
                }
            }
            TypeRef::Memory(memory) => {
                self.memories.push(memory);
                Ok(())
            }
            TypeRef::Global(_) => refuse("global"),
            TypeRef::Table(_) => refuse("table"),
            TypeRef::Tag(_) => refuse("tag"),
        }
    }

    fn check(&self, limit: u64) -> Result<(), ModuleError> {
        if self.memories.len() > 1 {
            return Err(ModuleError::ManyMemories { count: self.memories.len() });
        }
        if let Some(memory) = self.memories.first() {
            check_memory(memory, limit)?;
        }
        if self.table_elements > TABLE_ELEMENTS as u64 {
            return Err(ModuleError::Tables { elements: self.table_elements });
        }
        Ok(())
    }
}

fn check_memory(memory: &MemoryType, limit: u64) -> Result<(), ModuleError> {
    if memory.memory64 {
        return Err(ModuleError::Memory64);
    }
    if memory.shared {
        return Err(ModuleError::SharedMemory);
    }
    if memory.page_size_log2.is_some() {
        return Err(ModuleError::CustomPages);
    }
    // A module with more than 65,536 pages is invalid. The compiler refuses it.
    if memory.initial.saturating_mul(WASM_PAGE) > limit {
        return Err(ModuleError::AboveLimit { minimum: memory.initial, limit });
    }
    Ok(())
}

fn check_abi_type(name: &str, found: &FuncType) -> Result<(), ModuleError> {
    let Some((parameters, results)) = abi::signature(name) else { return Ok(()) };
    let all_i32 =
        |types: &[ValType], count| types.len() == count && types.iter().all(|ty| *ty == ValType::I32);
    if all_i32(found.params(), parameters) && all_i32(found.results(), results) {
        return Ok(());
    }
    let expected = FuncType::new(vec![ValType::I32; parameters], vec![ValType::I32; results]);
    Err(ModuleError::ImportType { name: name.to_owned(), found: show(found), expected: show(&expected) })
}

fn show(function: &FuncType) -> String {
    let list = |types: &[ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    format!("({}) -> ({})", list(function.params()), list(function.results()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 16 << 20;

    fn inspect_text(text: &str) -> Result<(), ModuleError> {
        inspect(&to_binary(text.as_bytes()).unwrap(), LIMIT)
    }

    #[test]
    fn ordinary_modules_are_accepted() {
        for text in [
            "(module)",
            "(module (memory 1))",
            "(module (memory 256))",
            "(module (import \"env\" \"memory\" (memory 1 100)))",
            "(module (import \"env\" \"__flush\" (func (param i32))))",
            "(module (import \"__wbindgen_placeholder__\" \"f\" (func (param i64 f64) (result f32))))",
            "(module (table 100 funcref))",
        ] {
            inspect_text(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn a_module_that_cannot_run_is_refused_with_the_reason() {
        for (text, sentence) in [
            ("(module (memory 1) (memory 1))", "has 2 memories"),
            ("(module (import \"a\" \"b\" (memory 1)) (memory 1))", "has 2 memories"),
            ("(module (memory i64 1))", "memory64"),
            ("(module (memory 1 2 shared))", "shared"),
            (
                "(module (memory 257))",
                "starts with 257 pages (16842752 bytes), above the memory limit of 16777216",
            ),
            ("(module (memory 65536))", "starts with 65536 pages"),
            ("(module (import \"a\" \"b\" (global i32)))", "imports the global `a.b`"),
            ("(module (import \"a\" \"b\" (table 1 funcref)))", "imports the table `a.b`"),
            ("(module (table 2000000 funcref))", "2000000 elements"),
            (
                "(module (import \"env\" \"__flush\" (func (param i64))))",
                "`env.__flush` with the type (i64) -> (): the indexer ABI gives it the type (i32) -> ()",
            ),
            ("(component)", "component"),
        ] {
            let error = inspect_text(text).expect_err(text).to_string();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }

    #[test]
    fn each_fused_multiply_add_is_refused_with_its_place() {
        for operation in
            ["f32x4.relaxed_madd", "f32x4.relaxed_nmadd", "f64x2.relaxed_madd", "f64x2.relaxed_nmadd"]
        {
            let text = format!(
                "(module (import \"a\" \"b\" (func)) (func (nop)) (func $fused (param v128) (drop ({operation} \
                 (local.get 0) (local.get 0) (local.get 0)))))"
            );
            let binary = to_binary(text.as_bytes()).unwrap();
            let error = inspect(&binary, LIMIT).unwrap_err();
            let ModuleError::HostDependent(found) = &error else { panic!("{error}") };
            assert_eq!((found.operation, found.function), (operation, 2));
            assert_eq!(found.name.as_deref(), Some("fused"));
            assert_eq!(binary[found.offset], 0xfd, "the prefix of vector operations");
            let sentence = error.to_string();
            for part in [operation, "function #2 `fused`", "module offset 0x", "without the target feature"] {
                assert!(sentence.contains(part), "{part}: {sentence}");
            }
        }
        inspect_text("(module (func (param v128) (drop (f32x4.relaxed_min (local.get 0) (local.get 0)))))")
            .unwrap();
    }

    #[test]
    fn a_body_that_does_not_parse_is_left_to_the_compiler() {
        let mut binary = to_binary(b"(module (func (nop)))").unwrap();
        let nop = binary.iter().rposition(|byte| *byte == 1).unwrap();
        binary[nop] = 0xff;
        inspect(&binary, LIMIT).unwrap();
    }

    #[test]
    fn bytes_that_are_not_a_module_are_refused() {
        assert!(matches!(to_binary(b"hello"), Err(ModuleError::Invalid(_))));
        assert!(matches!(to_binary(b"\xff\xfe\0\0"), Err(ModuleError::Invalid(_))));
        assert!(inspect(b"\0asm\x01\0\0\0\x05", LIMIT).is_err());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = inspect(&bytes, LIMIT);
            let _ = inspect(&[b"\0asm\x01\0\0\0".as_slice(), &bytes].concat(), LIMIT);
        }
    }
}
