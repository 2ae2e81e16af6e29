//! What a run of the command printed, and how it ended.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a `cofferdam` printed and ended with.
#[derive(Debug)]
pub struct Output {
    pub(super) arguments: Vec<OsString>,
    pub(super) status: ExitStatus,
    pub(super) lines: Vec<String>,
    /// Everything on standard error.
    pub stderr: String,
}

impl Output {
    /// The exit code. A command that was killed has none, whatever a shell makes of that.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{} and no exit code: {self}", self.status))
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// This output, if it has that exit code.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self}");
        self
    }

    /// What it says at the end about why it failed: the line that begins with the command's name.
    pub fn reason(&self) -> &str {
        let line = self.stderr.lines().rev().find_map(|line| line.strip_prefix("cofferdam: "));
        line.unwrap_or_else(|| panic!("no reason was given: {self}"))
    }

    /// Its standard output.
    pub fn stdout(&self) -> String {
        self.lines.join("\n")
    }

    /// The one JSON object that it printed.
    pub fn object(&self) -> Value {
        assert_eq!(self.lines.len(), 1, "{self}");
        self.values().remove(0)
    }

    fn values(&self) -> Vec<Value> {
        let parse = |line: &String| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\nin: {self}"))
        };
        self.lines.iter().map(parse).collect()
    }

    /// The lines about blocks.
    pub fn blocks(&self) -> Vec<Value> {
        let mut values = self.values();
        values.retain(|value| value.get("summary").is_none());
        values
    }

    /// The summary, which is the last line and stands alone.
    pub fn summary(&self) -> Value {
        let mut values = self.values();
        let last = values.pop().unwrap_or_else(|| panic!("nothing was printed: {self}"));
        assert!(values.iter().all(|value| value.get("summary").is_none()), "more than one summary: {self}");
        last.get("summary").cloned().unwrap_or_else(|| panic!("no summary at the end: {self}"))
    }

    /// The digest in the summary.
    pub fn digest(&self) -> String {
        text(&self.summary(), "digest")
    }

    /// The heights of its blocks.
    pub fn heights(&self) -> Vec<u64> {
        self.blocks().iter().map(|block| number(block, "height")).collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 10;
        let mut shown = String::new();
        for line in self.lines.iter().skip(self.lines.len().saturating_sub(SHOWN)) {
            writeln!(shown, "{line}")?;
        }
        let arguments: Vec<_> = self.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let (status, stderr) = (self.status, &self.stderr);
        write!(f, "`cofferdam {}`: {status}\n{shown}{stderr}", arguments.join(" "))
    }
}

/// A number in an object.
pub fn number(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("{field} is no number: {object}"))
}

/// A text in an object.
pub fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("{field} is no text: {object}")).to_owned()
}

/// The digest of a chain with one more block, by the words of the design and none of the product's code: SHA-256 of the
/// digest before, the height, the block's SHA-256, the verdict's name, and the hash of its writes.
pub fn extend_digest(before: &str, block: &[u8], line: &Value) -> String {
    let height = u32::try_from(number(line, "height")).expect("a height");
    let mut hasher = Sha256::new();
    hasher.update(hex::decode(before).expect("a digest is hexadecimal"));
    hasher.update(height.to_le_bytes());
    hasher.update(Sha256::digest(block));
    hasher.update(text(line, "verdict"));
    hasher.update(hex::decode(text(line, "writes_sha256")).expect("a hash is hexadecimal"));
    hex::encode(hasher.finalize())
}
