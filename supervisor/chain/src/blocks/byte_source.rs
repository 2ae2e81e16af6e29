//! Bytes that blocks are read from: a file on disk, or bytes that are compiled into this program.
//!
//! Each read names its offset (`pread`). So there is no file position to keep, and a scan needs one system call for each
//! block.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::block::Origin;
use super::error::BlockError;
use super::xor::XorKey;

/// A readable file, or bytes of this program. The file is not kept open, because a node has thousands of files.
#[derive(Debug, Clone)]
pub(super) struct ByteSource {
    name: Arc<Path>,
    bundled: Option<&'static [u8]>,
    len: u64,
}

impl ByteSource {
    /// Checks that a file can be read. Returns the file and its first four bytes. A shorter file is returned with all its bytes.
    pub(super) fn on_disk(path: &Path) -> Result<(Self, Vec<u8>), BlockError> {
        let file = File::open(path).map_err(BlockError::io(path, "open"))?;
        let len = file.metadata().map_err(BlockError::io(path, "read"))?.len();
        let mut start = Vec::with_capacity(4);
        file.take(4).read_to_end(&mut start).map_err(BlockError::io(path, "read"))?;
        Ok((Self { name: path.into(), bundled: None, len }, start))
    }

    /// Bytes of this program. The name is for messages.
    #[cfg(feature = "bundled")]
    pub(super) fn bundled(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: Path::new(name).into(), bundled: Some(bytes), len: bytes.len() as u64 }
    }

    /// The path of the file, for messages.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// The length in bytes that the file had when it was first looked at.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// A place in the file, for messages.
    pub(super) fn origin(&self, offset: u64) -> Origin {
        Origin { file: Arc::clone(&self.name), offset }
    }

    /// Opens the file for reads at offsets.
    pub(super) fn open(&self) -> Result<ByteReader, BlockError> {
        match self.bundled {
            Some(bytes) => Ok(ByteReader::Bundled(bytes)),
            None => File::open(&self.name).map(ByteReader::Disk).map_err(BlockError::io(&self.name, "open")),
        }
    }

    /// Reads all bytes. The length is checked again, because files grow.
    ///
    /// # Errors
    /// [`BlockError::EmptyFile`], [`BlockError::TooLarge`] if there are more than `limit` bytes, [`BlockError::Io`].
    pub(super) fn read_whole(&self, limit: u64) -> Result<Vec<u8>, BlockError> {
        let bytes = match self.open()? {
            ByteReader::Bundled(bytes) => bytes.to_vec(),
            ByteReader::Disk(file) => {
                let mut bytes = Vec::new();
                file.take(limit.saturating_add(1))
                    .read_to_end(&mut bytes)
                    .map_err(BlockError::io(&self.name, "read"))?;
                bytes
            }
        };
        self.check_size(bytes.len() as u64, limit)?;
        Ok(bytes)
    }

    /// Refuses a length that one block cannot have: 0, or more than `limit` bytes.
    pub(super) fn check_size(&self, bytes: u64, limit: u64) -> Result<(), BlockError> {
        if bytes == 0 {
            return Err(BlockError::EmptyFile { path: self.name.to_path_buf() });
        }
        if bytes > limit {
            return Err(BlockError::TooLarge { origin: self.origin(0), bytes: Some(bytes), limit });
        }
        Ok(())
    }
}

/// An open [`ByteSource`].
#[derive(Debug)]
pub(super) enum ByteReader {
    /// A file on disk.
    Disk(File),
    /// Bytes of this program.
    Bundled(&'static [u8]),
}

impl ByteReader {
    /// Fills the buffer with the bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are too few bytes, and any error of the operating system.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Disk(file) => file.read_exact_at(buffer, offset),
            Self::Bundled(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                rest.unwrap_or_default().read_exact(buffer)
            }
        }
    }
}

/// A file of records, and the key that it is obfuscated with.
#[derive(Debug, Clone)]
pub(super) struct BlkFile {
    pub(super) source: ByteSource,
    pub(super) key: XorKey,
}
