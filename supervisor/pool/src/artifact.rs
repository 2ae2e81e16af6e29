//! Where the compiled module comes from: a compiler process, or the cache that keeps what earlier ones made.
//!
//! A cache entry is code that will be run, so an entry counts only if its own hash matches, and the directory only if
//! nobody else can write to it. Whatever is wrong with either, the module is compiled again.

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
use cofferdam_protocol::frame::{self, FrameReader};
use cofferdam_protocol::message::{CompileReply, CompileRequest};
use cofferdam_protocol::profile::Hash;
use cofferdam_worker::engine::{self, EngineError};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::process;

const MAGIC: &[u8] = b"cofferdam artifact 1\n";
const HEADER_BYTES: usize = MAGIC.len() + 32;

/// The most bytes that an artifact may have, in the cache or from a compiler: far above what a module of the largest
/// accepted size compiles to in practice.
const MAX_ARTIFACT_BYTES: u64 = 1 << 30;

/// What one compiler process may use.
const COMPILER_MEMORY_BYTES: u64 = 4 << 30;
const COMPILER_CPU_SECONDS: u64 = 600;
const COMPILER_PATIENCE: Duration = Duration::from_secs(600);

/// Whether a module was compiled for this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactOrigin {
    /// Compiled now.
    Compiled,
    /// Found in the cache, and checked.
    Cached,
}

/// Why there is no artifact.
#[derive(Error)]
pub enum ArtifactError {
    /// The compiler says that the module is not valid, or uses what is not supported.
    #[error("{0}")]
    Refused(String),
    /// The compiler process failed.
    #[error("the compiler process failed: {0}")]
    Compiler(String),
    /// A memfd could not be made.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The engine does not run on this processor.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A process or a file could not be handled.
    #[error("the compiled module: {0}")]
    Io(#[from] io::Error),
}

cofferdam_protocol::debug_as_display!(ArtifactError);

/// A compiled module in a sealed memfd.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) file: OwnedFd,
    pub(super) origin: ArtifactOrigin,
}

/// What an artifact is compiled from, and where that may be kept.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// The module in binary form.
    pub(super) binary: &'a [u8],
    /// Whether fuel is metered.
    pub(super) fuel: bool,
    /// The cache; none to do without.
    pub(super) cache: Option<&'a Path>,
    /// What to start as the compiler.
    pub(super) executable: &'a Path,
}

/// The directory that artifacts are kept in by default: `$XDG_CACHE_HOME/cofferdam`, or `~/.cache/cofferdam`; none if
/// there is no home.
pub fn default_cache_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    base.is_absolute().then(|| base.join("cofferdam"))
}

/// Finds the artifact in the cache or has it compiled.
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
        tracing::warn!("the compiled module could not be kept in {}: {error}", entry.display());
    }
    Ok(Artifact { file, origin: ArtifactOrigin::Compiled })
}

/// Removes the artifact of `source` from the cache: a worker would not load it.
pub(super) fn forget(source: &Source<'_>) -> Result<(), ArtifactError> {
    if let Some(directory) = source.cache {
        match fs::remove_file(directory.join(format!("{}.artifact", key(source)?))) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// Names what was compiled, and by what: module, engine with every setting, and processor as far as it matters.
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

    /// Not used: the whole hash is taken.
    fn finish(&self) -> u64 {
        0
    }
}

/// Makes the cache directory if need be; none, with a warning, if it cannot be trusted.
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

/// The artifact in a cache entry; none if there is none, or it is damaged.
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

/// Compiles in a process of its own.
fn compile(source: &Source<'_>) -> Result<OwnedFd, ArtifactError> {
    let module = arena::sealed_memfd("cofferdam-module", source.binary)?;
    let target = arena::fillable_memfd("cofferdam-artifact")?;
    let handed: [(&dyn AsFd, _); 2] = [(&module, INPUT), (&target, OUTPUT)];
    let mut compiler = process::start(source.executable, Role::Compiler, &handed)?;
    let request = CompileRequest {
        version: PROTOCOL_VERSION,
        fuel: source.fuel,
        memory_bytes: COMPILER_MEMORY_BYTES,
        cpu_seconds: COMPILER_CPU_SECONDS,
    };
    // If it is dead already, its wait status says why.
    let _ = frame::send(&mut compiler.requests, &request);
    let status = wait(compiler.pid)?;
    // It has ended, so this does not wait.
    let reply = FrameReader::new().receive::<CompileReply>(&mut compiler.replies);
    match (status, reply) {
        (WaitStatus::Exited(_, 0), Ok(CompileReply::Compiled { bytes })) => {
            let file = arena::seal_filled("cofferdam-artifact", target)?;
            let size = fs::File::from(file.try_clone()?).metadata()?.len();
            if size != bytes || size > MAX_ARTIFACT_BYTES {
                return Err(ArtifactError::Compiler(format!("it made {size} bytes and announced {bytes}")));
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

fn wait(pid: nix::unistd::Pid) -> io::Result<WaitStatus> {
    const STEP: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + COMPILER_PATIENCE;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive if Instant::now() < deadline => std::thread::sleep(STEP),
            WaitStatus::StillAlive => {
                kill(pid, Signal::SIGKILL)?;
                return Ok(waitpid(pid, None)?);
            }
            status => return Ok(status),
        }
    }
}

fn describe(status: WaitStatus) -> String {
    let limits = "is the module too large for its limits?";
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
