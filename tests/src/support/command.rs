//! The `cofferdam` command as a user starts it: the real binary, its arguments, what it prints, what it ends with, and
//! which processes it leaves behind (after every single run: none).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{self};

use cofferdam::profile::Hash;
use cofferdam::store::{Durability, Identity, Store};

use super::binary::OwnBinary;
pub use super::binary::{cache, cofferdam, repository, send};
pub use super::blocks::{EARLY_RECORDS, cut_records, guest, record, shared_blocks, sums_blocks};
use super::cgroup::ChildCgroup;
pub use super::output::{Output, extend_digest, number, text};
pub use super::running::Running;
use super::running::read_into;
pub use super::waiting::{PATIENCE, wait_until};

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
