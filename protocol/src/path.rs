//! Paths on the wire: their bytes. A Linux path need not be UTF-8, and bincode refuses a path that is not.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};

/// The bytes of a path.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PathBytes(Vec<u8>);

impl PathBytes {
    /// The path.
    pub fn to_path(&self) -> PathBuf {
        OsString::from_vec(self.0.clone()).into()
    }
}

impl From<&Path> for PathBytes {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{HEADER_BYTES, decode, encode};

    #[test]
    fn any_path_survives_a_frame() {
        for bytes in [&b"/state"[..], b"", b"/caf\xe9/d\xff"] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let mut frame = Vec::new();
            encode(&PathBytes::from(path.as_path()), &mut frame).unwrap();
            let decoded: PathBytes = decode(&frame[HEADER_BYTES..]).unwrap();
            assert_eq!(decoded.to_path(), path);
        }
    }
}
