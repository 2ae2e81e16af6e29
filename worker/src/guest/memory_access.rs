//! Checked access to a guest's memory. Pointers are unsigned, because guests pass addresses above 2 GiB.

use std::ops::Range;

use super::fault::GuestFault;

/// Bytes of the length in front of an ArrayBuffer, a u32 little-endian (AssemblyScript's object header).
const LENGTH_BYTES: u32 = 4;

/// The unsigned address that an i32 of a guest stands for.
pub(super) const fn address(pointer: i32) -> u32 {
    pointer.cast_unsigned()
}

/// The range of `length` bytes at `pointer`.
///
/// # Errors
/// [`GuestFault::BadPointer`] if it is not all inside the memory.
pub(super) fn range(
    memory: &[u8],
    what: &'static str,
    pointer: u32,
    length: usize,
) -> Result<Range<usize>, GuestFault> {
    let fault =
        || GuestFault::BadPointer { what, pointer, length: length as u64, memory: memory.len() as u64 };
    let start = usize::try_from(pointer).map_err(|_| fault())?;
    let end = start.checked_add(length).filter(|end| *end <= memory.len()).ok_or_else(fault)?;
    Ok(start..end)
}

/// The content of the ArrayBuffer at `pointer`. Its length is in the four bytes before.
///
/// # Errors
/// [`GuestFault::BadPointer`] if it is not all inside the memory.
pub(super) fn array_buffer<'a>(
    memory: &'a [u8],
    what: &'static str,
    pointer: u32,
) -> Result<&'a [u8], GuestFault> {
    let header = pointer.checked_sub(LENGTH_BYTES).ok_or(GuestFault::BadPointer {
        what,
        pointer,
        length: 0,
        memory: memory.len() as u64,
    })?;
    let header = &memory[range(memory, what, header, 4)?];
    let length = header.try_into().map_or(0, u32::from_le_bytes);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    Ok(&memory[range(memory, what, pointer, length)?])
}

/// The text of the AssemblyScript string at `pointer`, which is UTF-16 with its length in bytes before it; none if it cannot be read.
/// It is used in messages only. So an unreadable string is not a fault, and long text is truncated.
pub(super) fn assembly_script_string(memory: &[u8], pointer: u32) -> Option<String> {
    const MAX_BYTES: usize = 2048;
    if pointer == 0 {
        return None;
    }
    let bytes = array_buffer(memory, "a string", pointer).ok()?;
    let units = bytes.get(..bytes.len().min(MAX_BYTES))?.chunks_exact(2);
    let units = units.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Some(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_buffers_are_read_by_the_length_in_front() {
        let mut memory = vec![0u8; 64];
        memory[8] = 3;
        memory[12..15].copy_from_slice(b"abc");
        assert_eq!(array_buffer(&memory, "key", 12).unwrap(), b"abc");
    }

    #[test]
    fn a_buffer_outside_the_memory_is_a_fault() {
        let mut memory = vec![0u8; 64];
        memory[56] = 5;
        for pointer in [0, 3, 60, 65, 68, 69, u32::MAX] {
            let result = array_buffer(&memory, "key", pointer);
            assert!(matches!(result, Err(GuestFault::BadPointer { .. })), "{pointer}");
        }
        assert_eq!(array_buffer(&memory, "key", 64).unwrap(), b"", "an empty one at the very end");
        memory[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(array_buffer(&memory, "key", 64).is_err());
        assert!(range(&memory, "input", u32::MAX, usize::MAX).is_err());
    }

    #[test]
    fn an_address_above_two_gibibytes_is_not_negative() {
        assert_eq!(address(-1), u32::MAX);
        assert_eq!(address(i32::MIN), 1 << 31);
    }

    #[test]
    fn strings_are_utf16() {
        let mut memory = vec![0u8; 64];
        let text: Vec<u8> = "né".encode_utf16().flat_map(u16::to_le_bytes).collect();
        memory[16] = 4;
        memory[20..24].copy_from_slice(&text);
        assert_eq!(assembly_script_string(&memory, 20).as_deref(), Some("né"));
        assert_eq!(assembly_script_string(&memory, 0), None);
        assert_eq!(assembly_script_string(&memory, 4000), None);
    }
}
