//! Memfds that carry a module or a compiled artifact from one process to another, and that nobody can change afterwards.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use memfd::{FileSeal, Memfd};

use super::error::ArenaError;
use crate::sealing;

/// A memfd with the content `bytes`, sealed so that no process can change it.
///
/// # Errors
/// [`ArenaError::Create`].
pub fn sealed_memfd(name: &'static str, bytes: &[u8]) -> Result<OwnedFd, ArenaError> {
    let create = |source| ArenaError::Create { name, source };
    let file = sealing::create(name).map_err(create)?;
    file.as_file().write_all_at(bytes, 0).map_err(create)?;
    sealing::seal_all(&file).map_err(create)?;
    Ok(file.into_file().into())
}

/// An empty memfd for another process to fill; see [`seal_memfd`].
///
/// # Errors
/// [`ArenaError::Create`].
pub fn unsealed_memfd(name: &'static str) -> Result<OwnedFd, ArenaError> {
    Ok(sealing::create(name).map_err(|source| ArenaError::Create { name, source })?.into_file().into())
}

/// Seals a memfd of [`unsealed_memfd`], once the process that filled it has ended.
///
/// # Errors
/// [`ArenaError::Create`], in particular while any process has a writable mapping of the memfd.
pub fn seal_memfd(name: &'static str, file: OwnedFd) -> Result<OwnedFd, ArenaError> {
    let create = |source| ArenaError::Create { name, source };
    let file = Memfd::try_from_file(File::from(file))
        .map_err(|_| create(io::Error::new(io::ErrorKind::InvalidInput, "not a memfd")))?;
    sealing::seal_all(&file).map_err(create)?;
    Ok(file.into_file().into())
}

/// Checks that `file` is a memfd that no process can change.
///
/// # Errors
/// [`ArenaError::NotSealed`].
pub fn check_sealed(name: &'static str, file: OwnedFd) -> Result<OwnedFd, ArenaError> {
    let not_sealed = |reason: String| ArenaError::NotSealed { name, reason };
    let file = Memfd::try_from_file(File::from(file)).map_err(|_| not_sealed("it is no memfd".to_owned()))?;
    let seals = file.seals().map_err(|error| not_sealed(error.to_string()))?;
    let needed = [FileSeal::SealWrite, FileSeal::SealShrink, FileSeal::SealGrow];
    if needed.iter().all(|seal| seals.contains(seal)) {
        return Ok(file.into_file().into());
    }
    Err(not_sealed(format!("its seals are {seals:?}")))
}
