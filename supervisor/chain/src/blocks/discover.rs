//! Which files an argument means. A path can be one raw block, one blk file, a directory of either,
//! bitcoind's own `blocks` directory, or a pipe; what it is shows in its name and its first four bytes.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::BlockError;
use super::framing::{XorKey, network_of};
use super::store::{BlkFile, Store};

/// Files in a directory that are taken for blocks. Anything else, and `xor.dat` and `rev*.dat` too, is passed
/// over.
const EXTENSIONS: [&str; 4] = ["bin", "raw", "blk", "dat"];

/// One thing to read, of those that an argument stands for.
#[derive(Debug)]
pub(super) enum Found {
    /// A file that is one block.
    Raw(Store),
    /// A file of records.
    Blk(BlkFile),
    /// Something that can only be read once, from its start: a named pipe or a device.
    Pipe(PathBuf),
}

/// Finds what `path` stands for, in the order in which it is to be read. With `opaque` every file is raw.
///
/// # Errors
///
/// Whatever can be seen without reading the blocks: missing and unreadable files, directories without blocks.
pub(super) fn discover(path: &Path, opaque: bool) -> Result<Vec<Found>, BlockError> {
    let kind = fs::metadata(path).map_err(BlockError::io(path, "open"))?.file_type();
    if kind.is_dir() {
        return directory(path, opaque);
    }
    if !kind.is_file() {
        return Ok(vec![Found::Pipe(path.to_owned())]);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let key = if opaque { XorKey::NONE } else { XorKey::of_directory(parent.unwrap_or(Path::new(".")))? };
    let (store, start) = Store::on_disk(path)?;
    if opaque {
        return Ok(vec![Found::Raw(store)]);
    }
    Ok(vec![match blk_key(&start, key) {
        Some(key) => Found::Blk(BlkFile { store, key }),
        // Damaged at its start, perhaps, or not begun yet: the scan sees what is in it.
        None if is_blk(path) => Found::Blk(BlkFile { store, key }),
        None => Found::Raw(store),
    }])
}

fn directory(path: &Path, opaque: bool) -> Result<Vec<Found>, BlockError> {
    let (names, mut skipped) = list(path)?;
    let bitcoind = !opaque && names.iter().any(|name| is_bitcoind_name(name));
    let wanted = |name: &Path| if bitcoind { is_bitcoind_name(name) } else { is_block_name(name) };
    let key = if opaque { XorKey::NONE } else { XorKey::of_directory(path)? };
    let mut found = Vec::new();
    for name in names {
        if !wanted(&name) {
            skipped += 1;
            // In bitcoind's directory rev*.dat and xor.dat are as they should be, and no news.
            if !bitcoind {
                tracing::info!("{}: passed over, not named like a block", path.join(name).display());
            }
            continue;
        }
        let (store, start) = Store::on_disk(&path.join(&name))?;
        found.push(match blk_key(&start, key) {
            _ if opaque => Found::Raw(store),
            Some(key) => Found::Blk(BlkFile { store, key }),
            None if bitcoind => Found::Blk(BlkFile { store, key }),
            None => Found::Raw(store),
        });
    }
    if found.is_empty() {
        return Err(BlockError::EmptyDirectory { path: path.to_owned(), skipped });
    }
    Ok(found)
}

/// The regular files of a directory in natural order, hidden ones left out, and how many entries are not
/// among them.
fn list(path: &Path) -> Result<(Vec<PathBuf>, usize), BlockError> {
    let mut names = Vec::new();
    let mut skipped = 0;
    for entry in fs::read_dir(path).map_err(BlockError::io(path, "list"))? {
        let name = PathBuf::from(entry.map_err(BlockError::io(path, "list"))?.file_name());
        let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
        // Follows symbolic links: nodes often have their older files on another disk.
        if !hidden && fs::metadata(path.join(&name)).is_ok_and(|metadata| metadata.is_file()) {
            names.push(name);
        } else {
            skipped += 1;
        }
    }
    names.sort_by(|a, b| natural(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes()));
    Ok((names, skipped))
}

/// The key under which a file's start is a network's magic, if there is one. Files that were copied out of a
/// node and de-obfuscated still lie beside its `xor.dat` at times, so none is tried as well.
fn blk_key(start: &[u8], key: XorKey) -> Option<XorKey> {
    let start: [u8; 4] = start.try_into().ok()?;
    [key, XorKey::NONE].into_iter().find(|key| {
        let mut magic = start;
        key.apply(&mut magic, 0);
        network_of(magic).is_some()
    })
}

/// `blk00000.dat` and on: five digits or, one day, more.
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
            // Without leading zeros the longer number is the greater.
            x.len().cmp(&y.len()).then(x.cmp(y))
        } else {
            match (a.split_off_first(), b.split_off_first()) {
                // `02` and `2` are the same number, but the order must not depend on that of the directory.
                (None, None) => return whole.0.cmp(whole.1),
                (x, y) => x.cmp(&y),
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits that a name starts with, and gives them without leading zeros.
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
