//! The `cofferdam` command as a user starts it: the real binary, its arguments, what it prints, what it ends with, and
//! which processes it leaves behind (after every single run: none).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam::profile::Hash;
use cofferdam::store::{Durability, Identity, Store};
use cofferdam_test_skips::skip;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::cgroup::ChildCgroup;
pub use super::output::{Output, extend_digest, number, text};
use super::pool::is_running;

/// How long anything may take before a test gives up on it: a machine that commits 4 GiB for the first time may need
/// half a minute for that alone.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// How often something that is waited for is looked at.
const STEP: Duration = Duration::from_millis(3);

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

/// A file of the data that is shared between the projects' machines. Without it a test passes, but says so.
pub fn shared_blocks(name: &str) -> Option<PathBuf> {
    let beside = repository().join("../shared");
    let directory = std::env::var_os("COFFERDAM_SHARED").map_or(beside, PathBuf::from);
    let path = directory.join("blocks").join(name);
    if path.is_file() {
        return Some(path);
    }
    skip(format_args!("{name} is not there: set COFFERDAM_SHARED to the directory of shared data"));
    None
}

/// Mainnet's blocks 0 to 438, as bitcoind keeps them.
pub const EARLY_RECORDS: &[u8] = include_bytes!("../../../supervisor/chain/bundled/mainnet-0-438.blk");

/// The raw blocks in blk records, cut apart by hand.
pub fn cut_records(mut records: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    while let Some((head, rest)) = records.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (block, rest) = rest.split_at(length);
        blocks.push(block.to_vec());
        records = rest;
    }
    blocks
}

/// One blk record of mainnet.
pub fn record(block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len()).expect("a block is short");
    [&[0xf9, 0xbe, 0xb4, 0xd9], length.to_le_bytes().as_slice(), block].concat()
}

/// A link to the binary that one run alone uses. Workers are the executable started again, so whatever process has it
/// as its executable belongs to that run, whoever its parent is by now.
#[derive(Debug)]
struct OwnBinary(PathBuf);

impl OwnBinary {
    fn new() -> Self {
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
    fn processes(&self) -> Vec<u32> {
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

/// What a run finds on its standard input.
#[derive(Debug, Default)]
enum Input {
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    Open,
}

/// A `cofferdam` command that was not started yet.
#[derive(Debug)]
pub struct Cofferdam<'a> {
    arguments: Vec<OsString>,
    variables: Vec<(String, OsString)>,
    input: Input,
    stderr: Option<Stdio>,
    cgroup: Option<&'a ChildCgroup>,
}

impl<'a> Cofferdam<'a> {
    /// `cofferdam` with these arguments and no others.
    pub fn new<S: Into<OsString>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self { arguments, variables: Vec::new(), input: Input::Nothing, stderr: None, cgroup: None }
    }

    /// `cofferdam run --json` with one small worker and no spare.
    pub fn run() -> Self {
        Self::new(["run", "--json", "--memory", "16MiB", "--spares", "0"])
    }

    /// More arguments, separated by blanks.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        self.arguments.extend(arguments.split_whitespace().map(OsString::from));
        self
    }

    /// One more argument, as it is.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// An option and the file or directory that it names.
    #[must_use]
    pub fn path(self, option: &str, path: &Path) -> Self {
        self.arg(option).arg(path)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Gives it these bytes on standard input, and then the end.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Leaves its standard input open for [`Running::feed`].
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// Has it write its standard error there, which is not read here then.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it in this cgroup, so that not a byte of it is charged elsewhere.
    #[must_use]
    pub fn within(mut self, cgroup: &'a ChildCgroup) -> Self {
        self.cgroup = Some(cgroup);
        self
    }

    /// Starts it and waits for its end.
    pub fn output(self) -> Output {
        self.start().finish()
    }

    /// Starts it.
    pub fn start(self) -> Running {
        let binary = OwnBinary::new();
        let mut command = match self.cgroup {
            None => Command::new(&binary.0),
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
                command.arg(cgroup.procs()).arg(&binary.0);
                command
            }
        };
        let mut child = command
            .args(&self.arguments)
            .env("COFFERDAM_CACHE_DIR", cache())
            .env_remove("COFFERDAM_LOG")
            .envs(self.variables)
            .stdin(if matches!(self.input, Input::Nothing) { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(self.stderr.unwrap_or_else(Stdio::piped))
            .spawn()
            .expect("the binary can be started");
        let stdin = child.stdin.take();
        let stdin = match (self.input, stdin) {
            (Input::Bytes(bytes), Some(mut stdin)) => {
                // Whoever has had enough need not read to the end.
                thread::spawn(move || drop(stdin.write_all(&bytes)));
                None
            }
            (_, stdin) => stdin,
        };
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("its standard output is a pipe");
        let stdout = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.expect("its output is text");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = child.stderr.take();
        let said = Arc::new(Mutex::default());
        let stderr = {
            let said = Arc::clone(&said);
            thread::spawn(move || stderr.into_iter().for_each(|stderr| read_into(stderr, &said)))
        };
        let readers = Some((stdout, stderr));
        Running { child, binary, arguments: self.arguments, stdin, lines, seen: Vec::new(), said, readers }
    }
}

/// Reads a pipe to its end. What has come is in `said` at every moment.
fn read_into(mut pipe: impl Read, said: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    // An error ends it, too: then what was read until then is what there is.
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        said.lock().expect("nobody panics").extend_from_slice(&buffer[..length]);
    }
}

/// A `cofferdam` that runs. Killed, workers and all, if a test fails before it ends.
#[derive(Debug)]
pub struct Running {
    child: Child,
    binary: OwnBinary,
    arguments: Vec<OsString>,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// What has come from its standard error.
    said: Arc<Mutex<Vec<u8>>>,
    readers: Option<(JoinHandle<()>, JoinHandle<()>)>,
}

impl Running {
    /// The process id of the supervisor.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ids of its workers, by their own name for themselves.
    pub fn workers(&self) -> Vec<u32> {
        let is_worker = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"cofferdam-worker\0")
        };
        self.binary.processes().into_iter().filter(is_worker).collect()
    }

    /// Its workers, as soon as there are so many.
    pub fn await_workers(&self, count: usize) -> Vec<u32> {
        wait_until("its workers are there", || Some(self.workers()).filter(|workers| workers.len() == count))
    }

    /// How many descriptors the supervisor has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the supervisor runs").count()
    }

    /// Sends bytes to its standard input.
    pub fn feed(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads its standard input");
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// The next line that it prints, as JSON.
    pub fn next_line(&mut self) -> Value {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}: {:?}", self.arguments),
            Err(RecvTimeoutError::Disconnected) => self.ended_early(),
        };
        let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.seen.push(line);
        value
    }

    /// The next `count` lines that it prints, as JSON.
    pub fn next_lines(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.next_line()).collect()
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("nobody panics")).into_owned()
    }

    /// Waits until it has said this on standard error.
    pub fn await_stderr(&self, words: &str) {
        wait_until(&format!("it says {words:?}"), || self.stderr().contains(words).then_some(()));
    }

    fn ended_early(&mut self) -> ! {
        let (_, reader) = self.readers.take().expect("it was not finished before");
        reader.join().expect("its standard error was read");
        let stderr = self.stderr();
        panic!("{:?} ended before its next line:\n{stderr}", self.arguments)
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal).expect("the supervisor runs");
    }

    /// Whether the supervisor has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What a run that has ended by itself printed.
    pub fn ended(&mut self) -> Output {
        let status = self.wait();
        let (stdout, stderr) = self.readers.take().expect("it is finished once");
        stdout.join().expect("its standard output was read");
        stderr.join().expect("its standard error was read");
        let stderr = self.stderr();
        let mut lines = std::mem::take(&mut self.seen);
        lines.extend(self.lines.try_iter());
        Output { arguments: std::mem::take(&mut self.arguments), status, lines, stderr }
    }

    /// Waits for its end, and for that of every process that it started: it is to leave none.
    pub fn finish(mut self) -> Output {
        self.end_input();
        let status = self.wait();
        let deadline = Instant::now() + Duration::from_secs(20);
        // Workers of a supervisor that was killed are killed by the kernel, which takes as long as it takes to free
        // their memory. One that ends by itself has waited for them.
        let killed = status.signal().is_some();
        let mut left = self.binary.processes();
        while killed && !left.is_empty() && Instant::now() < deadline {
            thread::sleep(STEP);
            left = self.binary.processes();
        }
        assert!(left.is_empty(), "{:?} left processes {left:?} behind", self.arguments);
        self.ended()
    }

    fn wait(&mut self) -> ExitStatus {
        wait_until("the command ends", || self.child.try_wait().expect("it is a child of ours"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path below `tests/guests`.
pub fn guest(name: &str) -> PathBuf {
    repository().join("tests/guests").join(name)
}

/// Blocks for the guest `cli_sums.wat`: `count` of them, all different, with so many rounds of work each.
pub fn sums_blocks(count: u32, rounds: u32) -> Vec<Vec<u8>> {
    let block = |number: u32| [rounds.to_le_bytes(), number.to_le_bytes()].concat();
    (0..count).map(block).collect()
}

/// The store of a run that has ended.
pub fn store(directory: &Path, output: &Output) -> Store {
    let profile = hex::decode(text(&output.summary(), "profile")).expect("a hash is hexadecimal");
    let profile = Hash(profile.try_into().expect("a hash has 32 bytes"));
    Store::open(directory, &Identity { profile, network: None }, Durability::None)
        .expect("the run has closed it")
}

/// The hash of everything in the store of a run that has ended: every key at every height.
pub fn content(directory: &Path, output: &Output) -> String {
    store(directory, output).content_hash().expect("the store can be read").to_string()
}

/// Sends a signal to a process, if it is still there.
///
/// # Errors
/// ESRCH if it is not.
pub fn send(pid: u32, signal: Signal) -> nix::Result<()> {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal)
}

/// Waits until `look` finds something. `what` is said if it never does.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(STEP);
    }
}

/// A directory of the test's own, and files in it.
#[derive(Debug)]
pub struct Files(tempfile::TempDir);

impl Files {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "a directory is made, which no default should do")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// The directory, or a place in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub fn add(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        let parent = path.parent().expect("a file lies in a directory");
        fs::create_dir_all(parent).and_then(|()| fs::write(&path, bytes)).expect("a file can be written");
        path
    }
}

/// Holds a lock that one test at a time has, over all processes of this user.
pub fn exclusively(name: &str) -> File {
    let path = std::env::temp_dir().join(format!("cofferdam-tests-{}-{name}.lock", nix::unistd::geteuid()));
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.expect("a lock file can be made");
    file.lock().expect("a file can be locked");
    file
}
