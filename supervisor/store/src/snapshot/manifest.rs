//! `manifest.json`, the description of a snapshot. A manifest may come from an untrusted party, so it is not trusted. Its length
//! is limited, and it names no file. Its profile, network, newest block, digest, length and hash are compared with the data. Its
//! version, its module and its time are not compared with the data.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Serialize};

use super::error::SnapshotError;
use super::format::{FORMAT, MANIFEST_FILE};
use super::hex_hash;
use super::inspection::Inspection;

/// The longest manifest that is accepted, in bytes. An ordinary manifest has some 700 bytes.
const MAX_BYTES: u64 = 16 << 10;

/// The description of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format, [`FORMAT`].
    pub format: u32,
    /// Version of the program that took the snapshot.
    pub cofferdam: String,
    /// Hash of the profile that the results belong to.
    #[serde(with = "hex_hash")]
    pub profile: Hash,
    /// SHA-256 of the module, if the program that took the snapshot knew it.
    #[serde(
        serialize_with = "hex_hash::serialize_option",
        deserialize_with = "hex_hash::deserialize_option"
    )]
    pub module: Option<Hash>,
    /// The network that the blocks come from, if the store knows it.
    pub network: Option<String>,
    /// Height of the newest block.
    pub height: u32,
    /// Hash of the newest block, in the form that block explorers show.
    pub block_hash: String,
    /// Digest of the chain up to and including the newest block.
    #[serde(with = "hex_hash")]
    pub digest: Hash,
    /// Length of the data file in bytes.
    pub data_bytes: u64,
    /// SHA-256 of the data file.
    #[serde(with = "hex_hash")]
    pub data_sha256: Hash,
    /// The time at which the snapshot was made: RFC 3339, in UTC, to the millisecond.
    pub made: String,
}

/// The part of a manifest that every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

impl Manifest {
    /// The manifest for data that was just written.
    pub(super) fn new(
        inspection: Inspection,
        module: Option<Hash>,
        data_bytes: u64,
        data_sha256: Hash,
    ) -> Self {
        Self {
            format: FORMAT,
            cofferdam: env!("CARGO_PKG_VERSION").to_owned(),
            profile: inspection.profile,
            module,
            network: inspection.network,
            height: inspection.height,
            block_hash: inspection.block_hash,
            digest: inspection.digest,
            data_bytes,
            data_sha256,
            made: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        }
    }

    /// Reads the manifest of the snapshot in the directory `snapshot`.
    ///
    /// # Errors
    /// [`SnapshotError`] if there is no manifest, or the manifest is not valid.
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
        let AnyFormat { format } = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("it is not a manifest ({error})")))?;
        if format != FORMAT {
            return Err(SnapshotError::Format { path: path.to_owned(), found: format });
        }
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("it is not a manifest ({error})")))?;
        // The manifest may be printed on a terminal, so it must not contain control characters.
        let texts = [&manifest.cofferdam, &manifest.block_hash, &manifest.made];
        if texts
            .into_iter()
            .chain(&manifest.network)
            .any(|text| !text.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(wrong("it contains characters other than printable ASCII".to_owned()));
        }
        humantime::parse_rfc3339(&manifest.made)
            .map_err(|error| wrong(format!("its time is not valid ({error})")))?;
        Ok(manifest)
    }

    /// Writes the manifest into the directory `snapshot`, and syncs it to disk.
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

    /// Compares the manifest with what the data says about itself.
    pub(super) fn check(&self, inspection: &Inspection, snapshot: &Path) -> Result<(), SnapshotError> {
        let network = |name: &Option<String>| {
            name.as_ref().map_or_else(|| "unknown".to_owned(), |name| format!("{name:?}"))
        };
        let pairs = [
            ("profile", self.profile.to_string(), inspection.profile.to_string()),
            ("network", network(&self.network), network(&inspection.network)),
            ("height", self.height.to_string(), inspection.height.to_string()),
            ("block", self.block_hash.clone(), inspection.block_hash.clone()),
            ("digest", self.digest.to_string(), inspection.digest.to_string()),
        ];
        match pairs.into_iter().find(|(_, manifest, data)| manifest != data) {
            None => Ok(()),
            Some((what, manifest, data)) => {
                Err(SnapshotError::Differs { path: snapshot.to_owned(), what, manifest, data })
            }
        }
    }
}

/// Opens a plain file of a snapshot. Refuses links, directories, pipes, sockets and devices.
pub(super) fn open_plain(path: &Path) -> Result<File, SnapshotError> {
    let mut options = File::options();
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    let other = |found| SnapshotError::NotAFile { path: path.to_owned(), found };
    let file = options.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP) => other("a symbolic link"),
        Some(libc::ENXIO) => other("a socket"),
        _ => SnapshotError::File { path: path.to_owned(), problem: "it cannot be opened", source },
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
        let inspection = Inspection {
            height: 7,
            block_hash: "00".repeat(32),
            digest: Hash::of(b"digest"),
            profile: Hash::of(b"profile"),
            network: Some("bitcoin".to_owned()),
            content: None,
        };
        Manifest::new(inspection, Some(Hash::of(b"module")), 4096, Hash::of(b"data"))
    }

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text.as_bytes(), Path::new("m")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_written_manifest_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for manifest in [manifest(), Manifest { module: None, network: None, ..manifest() }] {
            manifest.write(dir.path()).unwrap();
            assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
            std::fs::remove_file(dir.path().join(MANIFEST_FILE)).unwrap();
        }
    }

    #[test]
    fn another_format_is_distinguished_from_damage() {
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
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = Manifest::parse(&bytes, Path::new("m"));
            let mut text = serde_json::to_vec(&manifest()).unwrap();
            let at = at.index(text.len());
            text[at] = byte;
            let _ = Manifest::parse(&text, Path::new("m"));
        }
    }
}
