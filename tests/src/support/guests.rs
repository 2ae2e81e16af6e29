//! The guests, and the bytes that tell [`SCRIPT`] what to do.

use cofferdam::pool::Job;

/// Does what its block says: see [`Act`].
pub const SCRIPT: &str = include_str!("../../guests/script.wat");
/// Grows until it is refused and flushes how many pages it has then, under the key `pages`.
pub const GROWS: &str = include_str!("../../guests/grows.wat");
/// Flushes what it finds of everything that a job could leave behind.
pub const PRISTINE: &str = include_str!("../../guests/pristine.wat");
/// Imports its memory and flushes its block as it came.
pub const IMPORTED_MEMORY: &str = include_str!("../../guests/imported_memory.wat");
/// Has no memory.
pub const NO_MEMORY: &str = include_str!("../../guests/no_memory.wat");
/// Reads its block in its start section.
pub const START_USES_JOB: &str = include_str!("../../guests/start_uses_job.wat");
/// Traps in its start section.
pub const START_TRAPS: &str = include_str!("../../guests/start_traps.wat");
/// Never gets through its start section.
pub const START_SPINS: &str = include_str!("../../guests/start_spins.wat");
/// Has a start section that calls no import.
pub const START_ONLY_COMPUTES: &str = include_str!("../../guests/start_only_computes.wat");
/// Has a data segment outside its memory.
pub const SEGMENT_OUTSIDE: &str = include_str!("../../guests/segment_outside.wat");
/// Exports `_start` with another type.
pub const ODD_EXPORTS: &str = include_str!("../../guests/odd_exports.wat");
/// Exports no function.
pub const NO_EXPORTS: &str = include_str!("../../guests/no_exports.wat");
/// Reads the key that its input is.
pub const READS: &str = include_str!("../../guests/reads.wat");
/// Works above 2 GiB.
pub const HIGH: &str = include_str!("../../guests/high.wat");
/// Mixes its block with everything that could differ from run to run.
pub const MIXER: &str = include_str!("../../guests/mixer.wat");
/// Runs the operation whose number is its height on every class of value: see [`super::operations`].
pub const OPERATIONS: &str = include_str!("../../guests/operations.wat");
/// Grows its table to the limit and flushes all that it may, but for height 0.
pub const FULL_OUTPUT: &str = include_str!("../../guests/full_output.wat");
/// Carries a hash of all blocks from each to the next, through the state.
pub const LEDGER: &str = include_str!("../../guests/ledger.wat");
/// Calls the imports that `tests/harness_imports.rs` supplies.
pub const IMPORTS: &str = include_str!("../../guests/imports.wat");
/// Calls one of them in its start section.
pub const START_USES_IMPORT: &str = include_str!("../../guests/start_uses_import.wat");

/// Pages of memory that [`SCRIPT`] declares.
pub const SCRIPT_PAGES: u32 = 2;

/// [`SCRIPT`] with a maximum of `pages` of its own.
pub fn script_with_maximum(pages: u32) -> String {
    let declared = "(memory (export \"memory\") 2)";
    assert!(SCRIPT.contains(declared), "script.wat declares its memory in other words");
    SCRIPT.replace(declared, &format!("(memory (export \"memory\") 2 {pages})"))
}

/// What [`SCRIPT`] can be told to do.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// Flush these bytes.
    Flush(&'a [u8]),
    /// Return without a flush.
    Return,
    /// Execute `unreachable`.
    Unreachable,
    /// Divide one by this.
    Divide(u32),
    /// Call itself for ever.
    Recurse,
    /// Load the byte that lies so far behind the memory.
    LoadBehind(u32),
    /// Grow by so many pages, store to the last byte, and then to the one behind it.
    GrowThenStoreBehind(u32),
    /// Call an import that this host lacks.
    CallAbsent,
    /// Call `abort`.
    Abort,
    /// Grow until it is refused, then trap.
    ExhaustThenTrap,
    /// Grow until it is refused, then abort.
    ExhaustThenAbort,
    /// Grow until it is refused, then flush these bytes.
    ExhaustThenFlush(&'a [u8]),
    /// Go round so many times, for ever if 0, then flush nothing.
    Spin(u32),
    /// Flush this pointer.
    FlushAt(u32),
    /// Ask for the length of the value whose key is at this pointer.
    KeyAt(u32),
    /// Read the value of this key to this pointer.
    ValueAt(u32, &'a [u8]),
    /// Load the input to this pointer.
    InputAt(u32),
    /// Flush what is said to be so many bytes long at this pointer.
    FlushLength(u32, u32),
    /// Flush these bytes twice.
    FlushTwice(&'a [u8]),
    /// Log these bytes, then flush nothing.
    Log(&'a [u8]),
    /// Call a function of another type through the table.
    CallOtherType,
    /// Call an empty element of the table.
    CallNull,
    /// Call an element behind the end of the table.
    CallBehindTable,
}

impl Act<'_> {
    /// The input that says so.
    pub fn input(&self) -> Vec<u8> {
        let (act, arguments): (u8, Vec<u8>) = match *self {
            Self::Flush(bytes) => (0, bytes.to_vec()),
            Self::Return => (1, Vec::new()),
            Self::Unreachable => (2, Vec::new()),
            Self::Divide(by) => (3, by.to_le_bytes().to_vec()),
            Self::Recurse => (4, Vec::new()),
            Self::LoadBehind(distance) => (5, distance.to_le_bytes().to_vec()),
            Self::GrowThenStoreBehind(pages) => (6, pages.to_le_bytes().to_vec()),
            Self::CallAbsent => (7, Vec::new()),
            Self::Abort => (8, Vec::new()),
            Self::ExhaustThenTrap => (9, Vec::new()),
            Self::ExhaustThenAbort => (10, Vec::new()),
            Self::ExhaustThenFlush(bytes) => (11, bytes.to_vec()),
            Self::Spin(rounds) => (12, rounds.to_le_bytes().to_vec()),
            Self::FlushAt(pointer) => (13, pointer.to_le_bytes().to_vec()),
            Self::KeyAt(pointer) => (14, pointer.to_le_bytes().to_vec()),
            Self::ValueAt(pointer, key) => (15, [&pointer.to_le_bytes(), key].concat()),
            Self::InputAt(pointer) => (16, pointer.to_le_bytes().to_vec()),
            Self::FlushLength(length, pointer) => {
                (17, [length.to_le_bytes(), pointer.to_le_bytes()].concat())
            }
            Self::FlushTwice(bytes) => (18, bytes.to_vec()),
            Self::Log(bytes) => (19, bytes.to_vec()),
            Self::CallOtherType => (20, Vec::new()),
            Self::CallNull => (22, Vec::new()),
            Self::CallBehindTable => (32, Vec::new()),
        };
        [&[act], arguments.as_slice()].concat()
    }

    /// A block that says so.
    pub fn block(&self, height: u32) -> Job {
        Job::block(height, self.input())
    }
}

/// The protobuf message that a guest flushes: `KeyValueFlush { repeated bytes list = 1 }`.
pub fn key_value_flush(fields: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for field in fields {
        message.push(0x0a);
        let mut rest = field.len();
        while rest > 0x7f {
            message.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        message.push(rest.to_le_bytes()[0]);
        message.extend_from_slice(field);
    }
    message
}

/// A block that makes [`SCRIPT`] flush a pair, its height in it; the pair is what [`good_pair`] says.
pub fn good_block(height: u32) -> Job {
    Job::block(height, good_input(height))
}

/// The input of [`good_block`].
pub fn good_input(height: u32) -> Vec<u8> {
    let (key, value) = good_pair(height);
    Act::Flush(&key_value_flush(&[&key, &value])).input()
}

/// What [`good_block`] flushes.
pub fn good_pair(height: u32) -> (Vec<u8>, Vec<u8>) {
    (format!("key of {height}").into_bytes(), height.to_le_bytes().repeat(5))
}
