//! `manifest.json`: what a snapshot is. It comes from outside, so nothing in it is taken at its word: its length is capped,
//! it names no file, and every number in it is held against what is there.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Serialize};

use super::{Inside, SnapshotError, hexadecimal};

/// Version of the manifest, of the names of the files, and of what is in them.
pub const FORMAT: u32 = 1;

pub(super) const MANIFEST_FILE: &str = "manifest.json";
pub(super) const DATA_FILE: &str = "data.mdb";

/// The longest manifest that is read; one has some 700 bytes.
const MAX_BYTES: u64 = 16 << 10;

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that took it.
    pub cofferdam: String,
    /// Hash of the profile that the results are of.
    #[serde(with = "hexadecimal")]
    pub profile: Hash,
    /// SHA-256 of the module, if whoever took it knew.
    #[serde(with = "hexadecimal::option")]
    pub module: Option<Hash>,
    /// The network that the blocks are of, if that is known.
    pub network: Option<String>,
    /// Height of the newest block.
    pub height: u32,
    /// Its hash, as block explorers show it.
    pub block_hash: String,
    /// The chain's digest up to and with it.
    #[serde(with = "hexadecimal")]
    pub digest: Hash,
    /// Bytes of the data file.
    pub data_bytes: u64,
    /// SHA-256 of the data file.
    #[serde(with = "hexadecimal")]
    pub data_sha256: Hash,
    /// When it was made: RFC 3339, in UTC and to the millisecond.
    pub made: String,
}

/// What every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

impl Manifest {
    /// That of data which was just written.
    pub(super) fn of(inside: Inside, module: Option<Hash>, data_bytes: u64, data_sha256: Hash) -> Self {
        Self {
            format: FORMAT,
            cofferdam: env!("CARGO_PKG_VERSION").to_owned(),
            profile: inside.profile,
            module,
            network: inside.network,
            height: inside.height,
            block_hash: inside.block_hash,
            digest: inside.digest,
            data_bytes,
            data_sha256,
            made: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        }
    }

    /// The manifest of the snapshot in `snapshot`.
    ///
    /// # Errors
    /// [`SnapshotError`] if there is none that makes sense.
    pub fn read(snapshot: &Path) -> Result<Self, SnapshotError> {
        let path = snapshot.join(MANIFEST_FILE);
        let file = match open_plain(&path) {
            Err(SnapshotError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(SnapshotError::NoSnapshot { path: snapshot.to_owned() });
            }
            opened => opened?,
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(SnapshotError::file(&path, "it cannot be read"))?;
        Self::parse(&bytes, &path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, SnapshotError> {
        let wrong = |reason: String| SnapshotError::Manifest { path: path.to_owned(), reason };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(wrong(format!("it is longer than {MAX_BYTES} bytes")));
        }
        let AnyFormat { format } =
            serde_json::from_slice(bytes).map_err(|error| wrong(format!("no manifest ({error})")))?;
        if format != FORMAT {
            return Err(SnapshotError::Format { path: path.to_owned(), found: format });
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(format!("no manifest ({error})")))?;
        // It may be shown on a terminal.
        let texts = [&manifest.cofferdam, &manifest.block_hash, &manifest.made];
        if texts
            .into_iter()
            .chain(&manifest.network)
            .any(|text| !text.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(wrong("it has other than plain characters in it".to_owned()));
        }
        humantime::parse_rfc3339(&manifest.made)
            .map_err(|error| wrong(format!("made at no time ({error})")))?;
        Ok(manifest)
    }

    /// Writes it into the snapshot, and onto the disk.
    pub(super) fn write(&self, snapshot: &Path) -> Result<(), SnapshotError> {
        let path = snapshot.join(MANIFEST_FILE);
        let write = || {
            let mut text = serde_json::to_string_pretty(self)?;
            text.push('\n');
            let mut file = File::create_new(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(SnapshotError::file(&path, "it cannot be written"))
    }

    /// Holds it against what the data says.
    pub(super) fn check(&self, inside: &Inside, snapshot: &Path) -> Result<(), SnapshotError> {
        let network = |name: &Option<String>| {
            name.as_ref().map_or_else(|| "unknown".to_owned(), |name| format!("{name:?}"))
        };
        let pairs = [
            ("profile", self.profile.to_string(), inside.profile.to_string()),
            ("network", network(&self.network), network(&inside.network)),
            ("height", self.height.to_string(), inside.height.to_string()),
            ("block", self.block_hash.clone(), inside.block_hash.clone()),
            ("digest", self.digest.to_string(), inside.digest.to_string()),
        ];
        match pairs.into_iter().find(|(_, manifest, data)| manifest != data) {
            None => Ok(()),
            Some((what, manifest, data)) => {
                Err(SnapshotError::Differs { path: snapshot.to_owned(), what, manifest, data })
            }
        }
    }
}

/// Opens a plain file of a snapshot, and nothing that it may be mistaken for.
pub(super) fn open_plain(path: &Path) -> Result<File, SnapshotError> {
    let mut options = File::options();
    // Without waiting for whoever would write into a FIFO.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    let other = |found| SnapshotError::NotAFile { path: path.to_owned(), found };
    let file = options.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP) => other("a symbolic link"),
        Some(libc::ENXIO) => other("a socket"),
        _ => SnapshotError::File { path: path.to_owned(), doing: "it cannot be opened", source },
    })?;
    let kind = file.metadata().map_err(SnapshotError::file(path, "it cannot be examined"))?.file_type();
    match kind {
        kind if kind.is_file() => Ok(file),
        kind if kind.is_dir() => Err(other("a directory")),
        _ => Err(other("a device or a pipe")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        let inside = Inside {
            height: 7,
            block_hash: "00".repeat(32),
            digest: Hash::of(b"digest"),
            profile: Hash::of(b"profile"),
            network: Some("bitcoin".to_owned()),
            content: None,
        };
        Manifest::of(inside, Some(Hash::of(b"module")), 4096, Hash::of(b"data"))
    }

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text.as_bytes(), Path::new("m")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for manifest in [manifest(), Manifest { module: None, network: None, ..manifest() }] {
            manifest.write(dir.path()).unwrap();
            assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
            std::fs::remove_file(dir.path().join(MANIFEST_FILE)).unwrap();
        }
    }

    #[test]
    fn another_format_is_told_from_damage() {
        let text = serde_json::to_string(&manifest()).unwrap();
        assert!(parse(&text).is_ok());
        let newer = r#"{"format":2,"files":["of","another","kind"]}"#;
        assert!(parse(newer).unwrap_err().contains("format 2"));
        let changes = [
            ("\"height\":7", "\"height\":-7"),
            ("\"height\":7", "\"height\":4294967296"),
            ("\"data_bytes\":4096", "\"data_bytes\":1e400"),
            ("\"height\":7", "\"height\":7,\"data_file\":\"../../other\""),
            ("\"bitcoin\"", "\"bit\\u001b[2Jcoin\""),
            ("\"made\":\"2", "\"made\":\"x2"),
            ("\"profile\":\"", "\"profile\":\"00"),
            ("\"format\":1,", ""),
            ("}", ""),
        ];
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            assert!(parse(&text.replacen(from, to, 1)).unwrap_err().contains("damaged"), "{to}");
        }
        let long = format!("{}{text}", " ".repeat(20_000));
        assert!(parse(&long).unwrap_err().contains("longer than"));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_reason_to_panic(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = Manifest::parse(&bytes, Path::new("m"));
            let mut text = serde_json::to_vec(&manifest()).unwrap();
            let at = at.index(text.len());
            text[at] = byte;
            let _ = Manifest::parse(&text, Path::new("m"));
        }
    }
}
