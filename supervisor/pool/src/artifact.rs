//! The compiled module, called the artifact: from a compiler process, or from the cache of earlier compilations.
//!
//! A cache entry is code that will be run. So an entry is used only if its hash matches, and the cache directory only if nobody
//! else can write to it. Otherwise the module is compiled again.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::hash::Hasher;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_protocol::PROTOCOL_VERSION;
use cofferdam_protocol::arena::{self, ArenaError};
use cofferdam_protocol::descriptors::{INPUT, OUTPUT, Role};
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameError, FrameReader};
use cofferdam_protocol::message::{CompileReply, CompileRequest};
use cofferdam_protocol::profile::Hash;
use cofferdam_worker::engine::{self, EngineError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::process::{self, Started};

const MAGIC: &[u8] = b"cofferdam artifact 1\n";
const HEADER_BYTES: usize = MAGIC.len() + 32;

/// The largest artifact, in bytes, from the cache or from a compiler. In practice a module of the largest accepted size compiles
/// to far less.
const MAX_ARTIFACT_BYTES: u64 = 1 << 30;

/// What one compiler process may use: memory (`RLIMIT_DATA`), processor time, and wall-clock time.
const COMPILER_MEMORY_BYTES: u64 = 4 << 30;
const COMPILER_CPU_SECONDS: u64 = 600;
const COMPILER_TIMEOUT: Duration = Duration::from_secs(600);

/// Whether a module was compiled for this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactOrigin {
    /// Compiled now.
    Compiled,
    /// Found in the cache, with a matching hash.
    Cached,
}

/// Why there is no artifact.
#[derive(Error)]
pub enum ArtifactError {
    /// The compiler refused the module: it is not valid, or uses features that are not supported.
    #[error("{0}")]
    Refused(String),
    /// The compiler process failed.
    #[error("the compiler process failed: {0}")]
    Compiler(String),
    /// A memfd could not be created.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The engine does not run on this processor.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A process or a file could not be handled.
    #[error("the module cannot be compiled or cached: {0}")]
    Io(#[from] io::Error),
}

cofferdam_protocol::debug_as_display!(ArtifactError);

/// A compiled module in a sealed memfd.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) file: OwnedFd,
    pub(super) origin: ArtifactOrigin,
}

/// What an artifact is compiled from, and where it may be cached.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// The module in binary form.
    pub(super) binary: &'a [u8],
    /// Whether fuel is metered.
    pub(super) fuel: bool,
    /// The cache directory. None: no cache is used.
    pub(super) cache: Option<&'a Path>,
    /// The program to start as the compiler.
    pub(super) executable: &'a Path,
}

/// The default cache directory: `$XDG_CACHE_HOME/cofferdam`, or `~/.cache/cofferdam`. None if no home directory is known.
pub fn default_cache_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    base.is_absolute().then(|| base.join("cofferdam"))
}

/// Finds the artifact in the cache, or compiles it.
pub(super) fn obtain(source: &Source<'_>) -> Result<Artifact, ArtifactError> {
    let entry = match source.cache {
        Some(directory) => usable(directory).map(|()| -> Result<PathBuf, ArtifactError> {
            Ok(directory.join(format!("{}.artifact", key(source)?)))
        }),
        None => None,
    };
    let entry = entry.transpose()?;
    if let Some(entry) = &entry
        && let Some(artifact) = load(entry)
    {
        return Ok(Artifact {
            file: arena::sealed_memfd("cofferdam-artifact", &artifact)?,
            origin: ArtifactOrigin::Cached,
        });
    }
    let file = compile(source)?;
    if let Some(entry) = &entry
        && let Err(error) = keep(entry, &file)
    {
        tracing::warn!("the compiled module could not be cached in {}: {error}", entry.display());
    }
    Ok(Artifact { file, origin: ArtifactOrigin::Compiled })
}

/// Removes the artifact of `source` from the cache, because a worker refused to load it.
pub(super) fn forget(source: &Source<'_>) -> Result<(), ArtifactError> {
    if let Some(directory) = source.cache {
        match fs::remove_file(directory.join(format!("{}.artifact", key(source)?))) {
            // Another process has removed the entry already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// The key of an artifact in the cache: a hash of the module, of every setting of the engine, and of the processor features that
/// matter.
fn key(source: &Source<'_>) -> Result<Hash, ArtifactError> {
    let engine = engine::build(source.fuel, None)?;
    let mut hasher = Sha256Hasher(Sha256::new());
    hasher.write(&Hash::of(source.binary).0);
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    Ok(Hash(hasher.0.finalize().into()))
}

struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not used: the caller takes the whole hash.
    fn finish(&self) -> u64 {
        0
    }
}

/// Creates the cache directory if it is missing. None, with a warning, if the directory cannot be trusted.
fn usable(directory: &Path) -> Option<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let metadata = made.and_then(|()| fs::metadata(directory));
    let doubt = match &metadata {
        Ok(metadata) if metadata.uid() != nix::unistd::geteuid().as_raw() => {
            "it belongs to another user".to_owned()
        }
        Ok(metadata) if metadata.mode() & 0o022 != 0 => "other users can write to it".to_owned(),
        Ok(_) => return Some(()),
        Err(error) => error.to_string(),
    };
    tracing::warn!("the cache {} is not used: {doubt}", directory.display());
    None
}

/// The artifact in a cache entry. None if there is no entry, and none if it is damaged.
fn load(entry: &Path) -> Option<Vec<u8>> {
    let size = fs::metadata(entry).ok()?.len();
    let content = if size > MAX_ARTIFACT_BYTES { None } else { fs::read(entry).ok() };
    let intact = content.as_deref().and_then(check);
    if intact.is_none() {
        tracing::warn!("the cache entry {} is damaged: compiling again", entry.display());
    }
    intact.map(<[u8]>::to_vec)
}

/// The artifact in the content of a cache entry, if its hash matches.
fn check(content: &[u8]) -> Option<&[u8]> {
    let (hash, artifact) = content.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    (Hash::of(artifact).0 == *hash).then_some(artifact)
}

/// Puts an artifact into the cache: whole, or not at all.
fn keep(entry: &Path, artifact: &OwnedFd) -> io::Result<()> {
    let directory = entry.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let bytes = read_all(artifact)?;
    let mut content = Vec::with_capacity(HEADER_BYTES + bytes.len());
    content.extend_from_slice(MAGIC);
    content.extend_from_slice(&Hash::of(&bytes).0);
    content.extend_from_slice(&bytes);
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&content)?;
    file.persist(entry)?;
    Ok(())
}

fn read_all(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = fs::File::from(file.try_clone()?);
    let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Compiles the module in a process of its own.
fn compile(source: &Source<'_>) -> Result<OwnedFd, ArtifactError> {
    let module = arena::sealed_memfd("cofferdam-module", source.binary)?;
    let target = arena::unsealed_memfd("cofferdam-artifact")?;
    let handed: [(&dyn AsFd, _); 2] = [(&module, INPUT), (&target, OUTPUT)];
    let mut compiler = process::start(source.executable, Role::Compiler, &handed)?;
    let request = CompileRequest {
        version: PROTOCOL_VERSION,
        fuel: source.fuel,
        memory_bytes: COMPILER_MEMORY_BYTES,
        cpu_seconds: COMPILER_CPU_SECONDS,
    };
    // If the process is dead already, its wait status says why.
    let _ = frame::send(&mut compiler.requests, &request);
    let (status, reply) = wait(&mut compiler)?;
    match (status, reply) {
        (WaitStatus::Exited(_, 0), Ok(CompileReply::Compiled { bytes })) => {
            let file = arena::seal_memfd("cofferdam-artifact", target)?;
            let size = fs::File::from(file.try_clone()?).metadata()?.len();
            if size != bytes || size > MAX_ARTIFACT_BYTES {
                return Err(ArtifactError::Compiler(format!("it wrote {size} bytes and announced {bytes}")));
            }
            Ok(file)
        }
        (WaitStatus::Exited(_, code), Ok(CompileReply::Refused { reason }))
            if code != WorkerExit::ArtifactRefused.code() =>
        {
            Err(ArtifactError::Compiler(reason))
        }
        (_, Ok(CompileReply::Refused { reason })) => Err(ArtifactError::Refused(reason)),
        (status, _) => Err(ArtifactError::Compiler(describe(status))),
    }
}

/// Receives a compiler's reply, and waits for the compiler's end. If there is no reply, an error stands in its place. A compiler
/// that is not done by the deadline is killed.
fn wait(compiler: &mut Started) -> io::Result<(WaitStatus, Result<CompileReply, FrameError>)> {
    let deadline = Instant::now() + COMPILER_TIMEOUT;
    let mut reader = FrameReader::new();
    let mut reply = Err(FrameError::Closed);
    while let Some(timeout) = deadline.checked_duration_since(Instant::now()) {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(compiler.replies.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        // A process that ends closes its pipe last, so the end of the pipe is the event of its end.
        if reader.fill(&mut compiler.replies).is_err() {
            return Ok((waitpid(compiler.pid, None)?, reply));
        }
        if let Some(message) = reader.take().transpose() {
            reply = message;
        }
    }
    kill(compiler.pid, Signal::SIGKILL)?;
    Ok((waitpid(compiler.pid, None)?, reply))
}

fn describe(status: WaitStatus) -> String {
    let limits = "the module may be too large for the compiler's limits";
    match status {
        WaitStatus::Signaled(_, signal, _) => format!("it was ended by {signal}; {limits}"),
        WaitStatus::Exited(_, code) => match WorkerExit::from_code(code) {
            Some(exit) => format!("it ended with exit code {code} ({})", exit.meaning()),
            None => format!("it ended with exit code {code}"),
        },
        other => format!("{other:?}"),
    }
}

impl fmt::Display for ArtifactOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compiled => "compiled",
            Self::Cached => "cached",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_entry_is_checked_by_its_hash() {
        let directory = tempfile::tempdir().unwrap();
        let entry = directory.path().join("x.artifact");
        let artifact = arena::sealed_memfd("test", b"machine code").unwrap();
        keep(&entry, &artifact).unwrap();
        assert_eq!(load(&entry).as_deref(), Some(b"machine code".as_slice()));
        let intact = fs::read(&entry).unwrap();
        for at in 0..intact.len() {
            let mut damaged = intact.clone();
            damaged[at] ^= 1;
            assert!(check(&damaged).is_none(), "byte {at}");
            assert!(check(&intact[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        assert!(usable(&cache).is_some(), "made");
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(usable(&cache).is_none(), "world-writable");
    }
}
