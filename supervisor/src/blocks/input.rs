//! One `--blocks` argument: `PATH`, `HEIGHT=PATH`, or `-`. Its own module because clap parses it, long before
//! any file is touched.

use std::path::PathBuf;
use std::str::FromStr;

use super::BlockError;

/// One `--blocks` argument, parsed. Nothing says yet that the file exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockInput {
    /// `-` (or `HEIGHT=-`): standard input.
    Stdin {
        /// Height of its first block, if given.
        height: Option<u32>,
    },
    /// A file or directory.
    Path {
        /// The file or directory.
        path: PathBuf,
        /// Height of its first block, if given.
        height: Option<u32>,
    },
}

impl FromStr for BlockInput {
    type Err = BlockError;

    /// Parses an argument. What stands before the first `=` is a height if it is all digits; any other `=`
    /// belongs to the path, and a file that is named like `7=x` is written `./7=x`.
    fn from_str(input: &str) -> Result<Self, BlockError> {
        let (height, place) = match input.split_once('=') {
            Some((number, place)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                let height = number.parse().map_err(|_| BlockError::InputHeight {
                    input: input.to_owned(),
                    number: number.to_owned(),
                })?;
                (Some(height), place)
            }
            _ => (None, input),
        };
        match place {
            "" => Err(BlockError::EmptyInput),
            "-" => Ok(Self::Stdin { height }),
            path => Ok(Self::Path { path: path.into(), height }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str, height: Option<u32>) -> BlockInput {
        BlockInput::Path { path: path.into(), height }
    }

    #[test]
    fn arguments_are_told_apart() {
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
    fn what_names_nothing_is_refused() {
        for input in ["", "7="] {
            assert!(matches!(input.parse::<BlockInput>(), Err(BlockError::EmptyInput)), "{input}");
        }
        let error = "4294967296=b".parse::<BlockInput>().unwrap_err();
        assert!(error.to_string().contains("4294967296 is not a height"), "{error}");
    }
}
