//! The binary under test, and the processes that run it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::pool::is_running;

/// The binary under test: `COFFERDAM_BIN`, or that of this workspace in the profile of this test, built if need be.
pub fn cofferdam() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("COFFERDAM_BIN") {
        Some(path) => PathBuf::from(path).canonicalize().expect("COFFERDAM_BIN names a file"),
        None => build(),
    })
}

/// The directory of this test's profile: `target/debug`, say.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let directory = test.parent().and_then(Path::parent);
    directory.expect("a test lies in target/PROFILE/deps").to_owned()
}

fn build() -> PathBuf {
    let directory = profile_directory();
    let profile = match directory.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "cofferdam", "--bin", "cofferdam", "--profile", profile])
        .arg("--target-dir")
        .arg(directory.parent().expect("a profile's directory lies in the target directory"))
        .current_dir(repository())
        .status()
        .expect("cargo can be started");
    assert!(built.success(), "the binary could not be built");
    directory.join("cofferdam")
}

/// Where the commands under test keep what they compiled: for `COFFERDAM_CACHE_DIR`, and away from the user's own.
pub fn cache() -> PathBuf {
    profile_directory().join("cofferdam-test-cache")
}

/// The top of this repository.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the repository").to_owned()
}

/// A link to the binary that one run alone uses. Workers are the executable started again, so whatever process has it
/// as its executable belongs to that run, whoever its parent is by now.
#[derive(Debug)]
pub(super) struct OwnBinary(pub(super) PathBuf);

impl OwnBinary {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cofferdam-run-{}-{number}", std::process::id());
        let binary = cofferdam();
        let path = binary.with_file_name(&name);
        if fs::hard_link(binary, &path).is_ok() {
            return Self(path);
        }
        let path = std::env::temp_dir().join(name);
        fs::copy(binary, &path).expect("the binary can be copied");
        // As the kernel will name it.
        Self(path.canonicalize().expect("it is there"))
    }

    /// Processes that run it.
    pub(super) fn processes(&self) -> Vec<u32> {
        let listed = fs::read_dir("/proc").expect("/proc is there");
        let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let runs_it = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.0);
        numbers.filter(runs_it).filter(|pid| is_running(*pid)).collect()
    }
}

impl Drop for OwnBinary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Sends a signal to a process, if it is still there.
///
/// # Errors
/// ESRCH if it is not.
pub fn send(pid: u32, signal: Signal) -> nix::Result<()> {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal)
}
