//! What is accepted as a module, decided from its declarations and the kinds of its operations, before anything is compiled
//! or committed.
//!
//! Each refusal is a sentence that says what the module declares, why that cannot run here, and what would.

use cofferdam_protocol::WASM_PAGE;
use thiserror::Error;
use wasmparser::{
    CompositeInnerType, Encoding, FuncType, MemoryType, Parser, Payload, TableType, TypeRef, ValType,
    WasmFeatures,
};

use crate::engine::TABLE_ELEMENTS;
use crate::guest::abi;
use crate::host_dependent::{HostDependent, Search};

/// The most bytes that a module may have.
pub const MAX_MODULE_BYTES: u64 = 64 << 20;

/// Why a module is refused.
#[derive(Error)]
pub enum ModuleError {
    /// Neither a binary module nor a text that makes one.
    #[error("the module is not valid WebAssembly: {0}")]
    Invalid(String),
    /// More than [`MAX_MODULE_BYTES`].
    #[error("the module has {bytes} bytes, above the limit of {MAX_MODULE_BYTES}")]
    TooLong {
        /// Its size in bytes.
        bytes: u64,
    },
    /// More than one linear memory.
    #[error(
        "the module has {count} memories: a worker commits one, so only modules with at most one can run"
    )]
    ManyMemories {
        /// How many it has.
        count: usize,
    },
    /// A 64-bit memory.
    #[error(
        "the module's memory is 64-bit (memory64): the indexer ABI passes 32-bit pointers, so it cannot run"
    )]
    Memory64,
    /// A shared memory.
    #[error("the module's memory is shared: threads would make results depend on timing, so it cannot run")]
    SharedMemory,
    /// A memory whose pages are not 64 KiB.
    #[error("the module's memory has pages of its own size (custom-page-sizes), which is not supported")]
    CustomPages,
    /// A memory that starts above the limit.
    #[error(
        "the module's memory starts with {minimum} pages ({} bytes), above the memory limit of {limit} bytes: give \
         it a --memory of at least that", minimum * WASM_PAGE
    )]
    AboveLimit {
        /// Pages that it declares as its minimum.
        minimum: u64,
        /// The memory limit in bytes.
        limit: u64,
    },
    /// Tables with more elements than are granted.
    #[error("the module's tables start with {elements} elements, above the limit of {TABLE_ELEMENTS}")]
    Tables {
        /// Elements that they declare as their minimum, in all.
        elements: u64,
    },
    /// An import that is neither a function nor a memory.
    #[error("the module imports the {kind} `{module}.{name}`: only functions and one memory can be imported")]
    Import {
        /// What it imports: a global, a table, a tag.
        kind: &'static str,
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
    },
    /// A function of the ABI, imported with another type.
    #[error(
        "the module imports `env.{name}` with the type {found}: the indexer ABI gives it the type {expected}"
    )]
    ImportType {
        /// The import's name.
        name: String,
        /// The type that it asks for.
        found: String,
        /// The type that there is.
        expected: String,
    },
    /// An operation whose result is not the same on every host.
    #[error(
        "the module uses {0}: what a fused multiply-add gives for a NaN depends on the processor, so two hosts could come \
         to two states; build the module without the fused multiply-add of relaxed SIMD (for LLVM and Rust: without the \
         target feature `relaxed-simd`)"
    )]
    HostDependent(HostDependent),
}

cofferdam_protocol::debug_as_display!(ModuleError);

/// The binary form of `source`, which may be binary or text (`.wat`).
///
/// # Errors
/// [`ModuleError::TooLong`], or [`ModuleError::Invalid`] if it is a text that does not parse.
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

/// Checks the declarations of a binary module against what a worker with `limit` bytes of memory can run, and that no
/// operation is one whose result differs between hosts.
///
/// Function bodies are not validated: the compiler does that, in a process of its own.
///
/// # Errors
/// [`ModuleError`].
pub fn inspect(binary: &[u8], limit: u64) -> Result<(), ModuleError> {
    let invalid = |error: wasmparser::BinaryReaderError| ModuleError::Invalid(error.to_string());
    let mut declarations = Declarations::default();
    let mut search = Search::default();
    let mut parser = Parser::new(0);
    // All features, so that what is not supported is refused by a sentence of ours rather than by a parse error.
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
                        search.imported();
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
            Payload::CodeSectionEntry(body) => search.look(&body),
            Payload::CustomSection(section) => search.name(section.as_known()),
            _ => {}
        }
    }
    declarations.check(limit)?;
    search.found().map_or(Ok(()), |found| Err(ModuleError::HostDependent(found)))
}

#[derive(Default)]
struct Declarations {
    /// Function types by index; none where the type is of another kind.
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
    // Above 65,536 pages the module is invalid; the compiler says so.
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
    fn what_cannot_run_is_refused_with_a_sentence() {
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
    fn what_is_no_module_is_refused() {
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
