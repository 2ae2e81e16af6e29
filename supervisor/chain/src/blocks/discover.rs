//! Finds the files that an argument means.
//!
//! A path can be a raw block, a blk file, a directory of either, the `blocks` directory of bitcoind, or a pipe. The name and
//! the first four bytes of a file tell its kind.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::byte_source::{BlkFile, ByteSource};
use super::error::BlockError;
use super::framing::network_of;
use super::xor::XorKey;

/// The extensions of block files in a directory. All other files are skipped, and so are `xor.dat` and `rev*.dat`.
const EXTENSIONS: [&str; 4] = ["bin", "raw", "blk", "dat"];

/// One input that a path stands for.
#[derive(Debug)]
pub(super) enum InputFile {
    /// A file that is one block.
    Raw(ByteSource),
    /// A file of records.
    Blk(BlkFile),
    /// A named pipe or a device, which can be read only once and from its start.
    Pipe(PathBuf),
}

/// Finds the inputs that `path` stands for, in the order in which they are read. With `opaque`, each file is raw.
///
/// # Errors
/// The errors that can be found before a block is read: missing and unreadable files, and directories without blocks.
pub(super) fn discover(path: &Path, opaque: bool) -> Result<Vec<InputFile>, BlockError> {
    let kind = fs::metadata(path).map_err(BlockError::io(path, "open"))?.file_type();
    if kind.is_dir() {
        return directory(path, opaque);
    }
    if !kind.is_file() {
        return Ok(vec![InputFile::Pipe(path.to_owned())]);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let key = if opaque { XorKey::NONE } else { XorKey::of_directory(parent.unwrap_or(Path::new(".")))? };
    let (source, start) = ByteSource::on_disk(path)?;
    if opaque {
        return Ok(vec![InputFile::Raw(source)]);
    }
    Ok(vec![match blk_key(&start, key) {
        Some(key) => InputFile::Blk(BlkFile { source, key }),
        // The start of the file may be damaged or not yet written. The scan finds the records in it.
        None if is_blk(path) => InputFile::Blk(BlkFile { source, key }),
        None => InputFile::Raw(source),
    }])
}

fn directory(path: &Path, opaque: bool) -> Result<Vec<InputFile>, BlockError> {
    let (names, mut skipped) = list(path)?;
    let bitcoind = !opaque && names.iter().any(|name| is_bitcoind_name(name));
    let wanted = |name: &Path| if bitcoind { is_bitcoind_name(name) } else { is_block_name(name) };
    let key = if opaque { XorKey::NONE } else { XorKey::of_directory(path)? };
    let mut inputs = Vec::new();
    for name in names {
        if !wanted(&name) {
            skipped += 1;
            // The directory of bitcoind always holds other files, such as rev*.dat and xor.dat. These are not worth a line.
            if !bitcoind {
                let file = path.join(name);
                tracing::info!("{}: skipped, because its name is not that of a block file", file.display());
            }
            continue;
        }
        let (source, start) = ByteSource::on_disk(&path.join(&name))?;
        inputs.push(match blk_key(&start, key) {
            _ if opaque => InputFile::Raw(source),
            Some(key) => InputFile::Blk(BlkFile { source, key }),
            None if bitcoind => InputFile::Blk(BlkFile { source, key }),
            None => InputFile::Raw(source),
        });
    }
    if inputs.is_empty() {
        return Err(BlockError::EmptyDirectory { path: path.to_owned(), skipped });
    }
    Ok(inputs)
}

/// Lists the regular files of a directory in natural order, without hidden files. Also returns how many entries are not in the
/// list.
fn list(path: &Path) -> Result<(Vec<PathBuf>, usize), BlockError> {
    let mut names = Vec::new();
    let mut skipped = 0;
    for entry in fs::read_dir(path).map_err(BlockError::io(path, "list"))? {
        let name = PathBuf::from(entry.map_err(BlockError::io(path, "list"))?.file_name());
        let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
        // This follows symbolic links: nodes often keep their older files on another disk.
        if !hidden && fs::metadata(path.join(&name)).is_ok_and(|metadata| metadata.is_file()) {
            names.push(name);
        } else {
            skipped += 1;
        }
    }
    names.sort_by(|a, b| natural(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes()));
    Ok((names, skipped))
}

/// The key that turns the start of a file into the magic of a network. `None` if neither `key` nor the key of zeros does that.
///
/// Files that are not obfuscated sometimes lie beside an `xor.dat`, because they were copied out of a node and de-obfuscated.
/// So both are tried: the key, and no key.
fn blk_key(start: &[u8], key: XorKey) -> Option<XorKey> {
    let start: [u8; 4] = start.try_into().ok()?;
    [key, XorKey::NONE].into_iter().find(|key| {
        let mut magic = start;
        key.apply(&mut magic, 0);
        network_of(magic).is_some()
    })
}

/// Whether a name is like `blk00000.dat`: with five digits or, one day, more.
fn is_bitcoind_name(name: &Path) -> bool {
    let name = name.file_name().unwrap_or_default().as_encoded_bytes();
    let digits = name.strip_prefix(b"blk").and_then(|name| name.strip_suffix(b".dat"));
    digits.is_some_and(|digits| digits.len() >= 5 && digits.iter().all(u8::is_ascii_digit))
}

fn has_extension(name: &Path, extension: &str) -> bool {
    name.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension))
}

fn is_blk(name: &Path) -> bool {
    has_extension(name, "blk") || is_bitcoind_name(name)
}

fn is_block_name(name: &Path) -> bool {
    let undo = name.as_os_str().as_encoded_bytes().starts_with(b"rev") && has_extension(name, "dat");
    let key = name.as_os_str() == OsStr::new("xor.dat");
    !undo && !key && EXTENSIONS.iter().any(|extension| has_extension(name, extension))
}

/// Compares names so that numbers in them count as numbers: `2.bin` comes before `10.bin`.
fn natural(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let whole = (a, b);
    let digit = |name: &[u8]| name.first().is_some_and(u8::is_ascii_digit);
    loop {
        let order = if digit(a) && digit(b) {
            let (x, y) = (number(&mut a), number(&mut b));
            // Of two numbers without leading zeros, the longer one is the greater.
            x.len().cmp(&y.len()).then(x.cmp(y))
        } else {
            match (a.split_off_first(), b.split_off_first()) {
                // `02` and `2` are the same number, but the result must not depend on the order of the directory.
                (None, None) => return whole.0.cmp(whole.1),
                (x, y) => x.cmp(&y),
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Removes the leading digits of a name, and returns them without leading zeros.
fn number<'a>(name: &mut &'a [u8]) -> &'a [u8] {
    let end = name.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(name.len());
    let (digits, rest) = name.split_at(end);
    *name = rest;
    &digits[digits.iter().take_while(|digit| **digit == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names =
            ["b10", "b2", "b02", "a", "b", "b2a", "2.bin", "10.bin", "1.bin", "b00000000000000000000003"];
        names.sort_by(|a, b| natural(a.as_bytes(), b.as_bytes()));
        let sorted =
            ["1.bin", "2.bin", "10.bin", "a", "b", "b02", "b2", "b2a", "b00000000000000000000003", "b10"];
        assert_eq!(names, sorted);
    }

    #[test]
    fn names_of_blocks() {
        for name in ["1.bin", "x.RAW", "a.blk", "blk00000.dat", "other.dat"] {
            assert!(is_block_name(Path::new(name)), "{name}");
        }
        for name in
            ["README.md", "a.txt", "xor.dat", "rev00000.dat", "block.hex", "blk00000.dat.bak", "block"]
        {
            assert!(!is_block_name(Path::new(name)), "{name}");
        }
        assert!(is_bitcoind_name(Path::new("/x/blk00042.dat")));
        assert!(!is_bitcoind_name(Path::new("blk1.dat")));
    }

    #[test]
    fn a_directory_without_blocks_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["README.md", ".hidden.bin"] {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        let error = discover(directory.path(), false).unwrap_err();
        assert!(matches!(error, BlockError::EmptyDirectory { skipped: 2, .. }), "{error}");
        let error = discover(&directory.path().join("none"), false).unwrap_err().to_string();
        assert!(error.contains("none: cannot open: No such file"), "{error}");
    }
}
