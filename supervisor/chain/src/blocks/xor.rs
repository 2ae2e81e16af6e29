//! The obfuscation of bitcoind's block files: byte `i` of a file is XORed with byte `i mod 8` of a key. The key lies in
//! `xor.dat` beside the files.
//!
//! The obfuscation keeps virus scanners from finding patterns in the files. Bitcoin Core has it since 28.0. A key of zeros
//! (`-blocksxor=0`) means that the files are not obfuscated.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::BlockError;
use super::framing::XOR_KEY_BYTES;

/// The name of the file that holds the key.
const KEY_FILE: &str = "xor.dat";

/// The obfuscation key of a block file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct XorKey([u8; XOR_KEY_BYTES]);

impl XorKey {
    /// The key of files that are not obfuscated.
    pub(super) const NONE: Self = Self([0; XOR_KEY_BYTES]);

    /// Reads the key of the files in a directory. Without `xor.dat`, the files are not obfuscated.
    ///
    /// # Errors
    /// [`BlockError::XorKeyLength`] if the file does not hold eight bytes, and [`BlockError::Io`].
    pub(super) fn of_directory(directory: &Path) -> Result<Self, BlockError> {
        let path = directory.join(KEY_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::NONE),
            Err(error) => return Err(BlockError::io(&path, "open")(error)),
        };
        let bytes = file.metadata().map_err(BlockError::io(&path, "read"))?.len();
        if bytes != XOR_KEY_BYTES as u64 {
            return Err(BlockError::XorKeyLength { path, bytes });
        }
        let mut key = Self::NONE;
        (&file).read_exact(&mut key.0).map_err(BlockError::io(&path, "read"))?;
        Ok(key)
    }

    /// Removes the obfuscation from bytes that stand at `offset` of their file.
    pub(super) fn apply(self, bytes: &mut [u8], offset: u64) {
        if self == Self::NONE {
            return;
        }
        let mut key = self.0;
        // The remainder is below 8, so the conversion cannot fail.
        key.rotate_left(usize::try_from(offset % XOR_KEY_BYTES as u64).unwrap_or_default());
        for chunk in bytes.chunks_mut(XOR_KEY_BYTES) {
            for (byte, key) in chunk.iter_mut().zip(key) {
                *byte ^= key;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn from_bytes(key: [u8; XOR_KEY_BYTES]) -> Self {
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_the_offset() {
        let key = XorKey::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let mut whole = [0u8; 40];
        key.apply(&mut whole, 0);
        assert_eq!(&whole[..9], &[1, 2, 3, 4, 5, 6, 7, 8, 1]);
        for from in 0..40u8 {
            let mut part = vec![0u8; 40 - usize::from(from)];
            key.apply(&mut part, u64::from(from));
            assert_eq!(part, whole[usize::from(from)..], "{from}");
        }
    }

    #[test]
    fn a_key_file_of_another_length_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(XorKey::of_directory(directory.path()).unwrap(), XorKey::NONE);
        std::fs::write(directory.path().join("xor.dat"), [7; 8]).unwrap();
        assert_eq!(XorKey::of_directory(directory.path()).unwrap(), XorKey([7; 8]));
        std::fs::write(directory.path().join("xor.dat"), [7; 9]).unwrap();
        let error = XorKey::of_directory(directory.path()).unwrap_err();
        assert!(matches!(error, BlockError::XorKeyLength { bytes: 9, .. }), "{error}");
    }
}
