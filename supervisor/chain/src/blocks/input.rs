//! Parses one `--blocks` argument: `PATH`, `HEIGHT=PATH`, or `-`. The command line is parsed before any file is opened, so
//! nothing here opens a file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::BlockError;

/// A parsed `--blocks` argument. The file may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockInput {
    /// Standard input: `-`, or `HEIGHT=-`.
    Stdin {
        /// The height of the first block, if the argument gives it.
        height: Option<u32>,
    },
    /// A file or a directory.
    Path {
        /// The file or directory.
        path: PathBuf,
        /// The height of the first block, if the argument gives it.
        height: Option<u32>,
    },
}

impl BlockInput {
    /// Parses an argument.
    ///
    /// If only digits stand before the first `=`, they are the height. Any other `=` belongs to the path. To name a file that
    /// is called `7=x`, write `./7=x`.
    ///
    /// # Errors
    /// [`BlockError::EmptyInput`], [`BlockError::InputHeight`].
    pub fn parse(input: &OsStr) -> Result<Self, BlockError> {
        let (height, place) = split_height(input)?;
        match place.as_bytes() {
            b"" => Err(BlockError::EmptyInput),
            b"-" => Ok(Self::Stdin { height }),
            _ => Ok(Self::Path { path: place.into(), height }),
        }
    }

    /// Parses an argument that can be a list with commas. If a file or directory has the whole argument as its name, the
    /// argument is not a list.
    ///
    /// # Errors
    /// The errors of [`Self::parse`], for any part of the list.
    pub fn parse_list(input: &OsStr) -> Result<Vec<Self>, BlockError> {
        let whole = Self::parse(input);
        let exists = |path: &Path| path.symlink_metadata().is_ok();
        match &whole {
            Ok(Self::Path { path, .. }) if input.as_bytes().contains(&b',') && !exists(path) => {
                input.as_bytes().split(|byte| *byte == b',').map(OsStr::from_bytes).map(Self::parse).collect()
            }
            _ => whole.map(|input| vec![input]),
        }
    }

    /// Formats the input as an argument that [`Self::parse`] parses to an equal input.
    pub fn to_argument(&self) -> OsString {
        let (height, place) = match self {
            Self::Stdin { height } => (height, OsStr::new("-")),
            Self::Path { path, height } => (height, path.as_os_str()),
        };
        let mut argument = height.map_or_else(Vec::new, |height| format!("{height}=").into_bytes());
        argument.extend(place.as_bytes());
        OsString::from_vec(argument)
    }
}

impl FromStr for BlockInput {
    type Err = BlockError;

    /// The same as [`BlockInput::parse`].
    fn from_str(input: &str) -> Result<Self, BlockError> {
        Self::parse(OsStr::new(input))
    }
}

/// Splits an argument into the height, if there is one, and the rest.
fn split_height(input: &OsStr) -> Result<(Option<u32>, &OsStr), BlockError> {
    let bytes = input.as_bytes();
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, place) = bytes.split_at(digits);
    let Some(place) = place.strip_prefix(b"=").filter(|_| digits > 0) else { return Ok((None, input)) };
    let number = String::from_utf8_lossy(number).into_owned();
    match number.parse() {
        Ok(height) => Ok((Some(height), OsStr::from_bytes(place))),
        Err(_) => Err(BlockError::InputHeight { input: input.display().to_string(), number }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str, height: Option<u32>) -> BlockInput {
        BlockInput::Path { path: path.into(), height }
    }

    #[test]
    fn arguments_are_parsed() {
        let cases = [
            ("-", BlockInput::Stdin { height: None }),
            ("840000=-", BlockInput::Stdin { height: Some(840_000) }),
            ("/blocks", path("/blocks", None)),
            ("702861=b.bin", path("b.bin", Some(702_861))),
            ("4294967295=b", path("b", Some(u32::MAX))),
            ("7=a=b", path("a=b", Some(7))),
            ("./7=b", path("./7=b", None)),
            ("key=value", path("key=value", None)),
            ("-1=b", path("-1=b", None)),
            ("=b", path("=b", None)),
        ];
        for (input, expected) in cases {
            assert_eq!(input.parse::<BlockInput>().unwrap(), expected, "{input}");
        }
    }

    #[test]
    fn an_input_can_be_formatted_and_parsed_again() {
        for input in ["-", "840000=-", "/blocks", "702861=b.bin", "7=a=b", "./7=b", "=b"] {
            assert_eq!(input.parse::<BlockInput>().unwrap().to_argument(), input);
        }
        let path = OsStr::from_bytes(b"7=caf\xe9");
        let parsed = BlockInput::parse(path).unwrap();
        let named = BlockInput::Path { path: OsStr::from_bytes(b"caf\xe9").into(), height: Some(7) };
        assert_eq!((&parsed, parsed.to_argument().as_os_str()), (&named, path));
    }

    #[test]
    fn a_comma_separates_a_list_unless_a_file_has_that_name() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(place("a,b"), "").unwrap();
        let list = |input: String| BlockInput::parse_list(OsStr::new(&input));
        assert_eq!(list(place("a,b")).unwrap(), [path(&place("a,b"), None)]);
        assert_eq!(list(format!("7={}", place("a,b"))).unwrap(), [path(&place("a,b"), Some(7))]);
        assert_eq!(list(place("a,c")).unwrap(), [path(&place("a"), None), path("c", None)]);
        assert_eq!(list("x,8=y".to_owned()).unwrap(), [path("x", None), path("y", Some(8))]);
        assert!(matches!(list("x,,y".to_owned()), Err(BlockError::EmptyInput)));
    }

    #[test]
    fn an_argument_without_a_path_is_refused() {
        for input in ["", "7="] {
            assert!(matches!(input.parse::<BlockInput>(), Err(BlockError::EmptyInput)), "{input}");
        }
        let error = "4294967296=b".parse::<BlockInput>().unwrap_err();
        assert!(error.to_string().contains("4294967296 is not a height"), "{error}");
    }
}
