//! Hexadecimal text in arguments, with or without `0x`.

use std::str::FromStr;

use cofferdam_protocol::profile::Hash;
use thiserror::Error;

/// Bytes that are written in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct HexBytes(pub(in crate::cli) Vec<u8>);

/// Why a text is not hexadecimal.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{0}; expected hexadecimal digits, two for each byte, with or without 0x before them")]
pub(in crate::cli) struct HexError(#[from] hex::FromHexError);

impl FromStr for HexBytes {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        Ok(Self(hex::decode(text.strip_prefix("0x").unwrap_or(text))?))
    }
}

/// Parses a SHA-256 hash: 64 hexadecimal digits, with or without `0x`.
///
/// # Errors
/// A sentence that says what is wrong.
pub(in crate::cli) fn parse_hash(text: &str) -> Result<Hash, String> {
    let HexBytes(bytes) = text.parse().map_err(|error: HexError| error.to_string())?;
    let digits = 2 * bytes.len();
    let hash = bytes.try_into().map(Hash);
    hash.map_err(|_| format!("a hash has 64 hexadecimal digits, and this one has {digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hexadecimal_with_or_without_0x() {
        let parse = |text: &str| text.parse::<HexBytes>().map(|bytes| bytes.0);
        assert_eq!(parse("0x2f6B"), Ok(b"/k".to_vec()));
        assert_eq!(parse("2f6b"), Ok(b"/k".to_vec()));
        assert_eq!(parse("0x"), Ok(Vec::new()));
        assert!(parse("0x2").is_err() && parse("/k").is_err());
    }

    #[test]
    fn a_hash_has_64_digits() {
        let digits = "0f".repeat(32);
        assert_eq!(parse_hash(&digits), Ok(Hash([15; 32])));
        assert_eq!(parse_hash(&format!("0x{digits}")), Ok(Hash([15; 32])));
        assert!(parse_hash(&digits[2..]).is_err_and(|error| error.contains("this one has 62")));
        assert!(parse_hash("x").is_err());
    }
}
