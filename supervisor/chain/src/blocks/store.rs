//! Bytes that blocks are read from at an offset: a file on disk, or one that is part of this program. Reads
//! name their offset (`pread`), so there is no position to keep and a scan costs one system call a block.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::framing::XorKey;
use super::{BlockError, Origin};

/// A file that was seen to be readable, closed again: a node has thousands of them.
#[derive(Debug, Clone)]
pub(super) struct Store {
    name: Arc<Path>,
    bundled: Option<&'static [u8]>,
    len: u64,
}

impl Store {
    /// A file on disk, together with its first bytes: up to four.
    pub(super) fn on_disk(path: &Path) -> Result<(Self, Vec<u8>), BlockError> {
        let file = File::open(path).map_err(BlockError::io(path, "open"))?;
        let len = file.metadata().map_err(BlockError::io(path, "read"))?.len();
        let mut start = Vec::with_capacity(4);
        file.take(4).read_to_end(&mut start).map_err(BlockError::io(path, "read"))?;
        Ok((Self { name: path.into(), bundled: None, len }, start))
    }

    /// Bytes of this program; the name is for messages.
    pub(super) fn bundled(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: Path::new(name).into(), bundled: Some(bytes), len: bytes.len() as u64 }
    }

    /// The file's name, for messages.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// Its length in bytes when it was looked at.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// A place in the file, for messages.
    pub(super) fn origin(&self, offset: u64) -> Origin {
        Origin { file: Arc::clone(&self.name), offset }
    }

    /// Opens it for reads at offsets.
    pub(super) fn open(&self) -> Result<Handle, BlockError> {
        match self.bundled {
            Some(bytes) => Ok(Handle::Bundled(bytes)),
            None => File::open(&self.name).map(Handle::Disk).map_err(BlockError::io(&self.name, "open")),
        }
    }

    /// All of it, unless that is more than `limit` bytes. Looks again, since files grow.
    pub(super) fn read_whole(&self, limit: u64) -> Result<Vec<u8>, BlockError> {
        let bytes = match self.open()? {
            Handle::Bundled(bytes) => bytes.to_vec(),
            Handle::Disk(file) => {
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

    /// Refuses what cannot be one block: nothing at all, or more than `limit` bytes.
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

/// An open [`Store`].
#[derive(Debug)]
pub(super) enum Handle {
    /// A file on disk.
    Disk(File),
    /// Bytes of this program.
    Bundled(&'static [u8]),
}

impl Handle {
    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the file ends before, and whatever the system says.
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

/// A file of blk records, with the key that it was obfuscated with.
#[derive(Debug, Clone)]
pub(super) struct BlkFile {
    /// The file.
    pub(super) store: Store,
    /// Its key.
    pub(super) key: XorKey,
}
