//! Zeroing memory past the caches.
//!
//! An ordinary store first reads the cache line that it changes, and evicts another line. Both are useless where more bytes are
//! zeroed than the caches hold. A store with a non-temporal hint (Intel SDM volume 1, 10.4.6.2) does neither, and takes half as
//! long as a memset. Where fewer bytes are zeroed, a memset is faster, and the next guest finds its memory in the caches.
#![allow(unsafe_code, reason = "streaming stores are intrinsics over raw addresses")]

use std::ptr::NonNull;

/// From this number of bytes on, streaming is faster. With 260 MiB of last-level cache, zeroing memory and then writing to it
/// takes equally long with both kinds of stores at some size between 64 and 128 MiB. With less cache, that size is smaller.
pub(super) const STREAM_FROM_BYTES: usize = 128 << 20;

/// Writes zeros over `length` bytes from `address`, whatever its alignment.
///
/// # Safety
/// As for [`NonNull::write_bytes`].
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn zero(address: NonNull<u8>, length: usize) {
    use std::arch::x86_64::{__m128i, _mm_setzero_si128, _mm_sfence, _mm_stream_si128};

    let before = address.align_offset(size_of::<__m128i>()).min(length);
    let vectors = (length - before) / size_of::<__m128i>();
    let behind = before + vectors * size_of::<__m128i>();
    // SAFETY: the three parts are within the range that the caller vouches for, and the vectors begin at an aligned address.
    // The fence orders the streaming stores before everything that follows. The compiler assumes this order for any store
    // (see the note on `_mm_stream_si128`). All instructions are SSE2, which every x86-64 processor has.
    unsafe {
        address.write_bytes(0, before);
        let first = address.add(before).cast::<__m128i>().as_ptr();
        for index in 0..vectors {
            _mm_stream_si128(first.add(index), _mm_setzero_si128());
        }
        _mm_sfence();
        address.add(behind).write_bytes(0, length - behind);
    }
}

/// Writes zeros over `length` bytes from `address`. On aarch64 a long memset zeroes whole cache lines without reading them (`DC ZVA`).
///
/// # Safety
/// As for [`NonNull::write_bytes`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn zero(address: NonNull<u8>, length: usize) {
    // SAFETY: the caller vouches for the range.
    unsafe { address.write_bytes(0, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_range_is_zeroed_at_any_alignment() {
        for before in 0..40 {
            for length in 0..120 {
                let mut bytes = [0xa5; 160];
                let address = NonNull::from(&mut bytes[before]);
                // SAFETY: 39 and 119 are within 160; nothing else uses the bytes meanwhile.
                unsafe { zero(address, length) };
                let zeroed = before..before + length;
                for (index, byte) in bytes.iter().enumerate() {
                    let expected = if zeroed.contains(&index) { 0 } else { 0xa5 };
                    assert_eq!(*byte, expected, "{index}, {zeroed:?}");
                }
            }
        }
    }
}
