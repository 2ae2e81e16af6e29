//! Sizes of memory as people write and read them.
//!
//! One type prints and parses sizes, so that a size from a message (`1.5 GiB`) can be pasted into an option. All units are
//! binary, because everything that Cofferdam measures is a number of pages.
//!
//! The parser is written by hand because the common crates are less exact: `bytesize` multiplies in floating point, reads
//! `KB` as 1000 bytes, saturates what is too large, and its errors do not say what to write instead.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The most digits that are accepted after the decimal point. Nine digits can express one byte as a fraction of a GiB, and the
/// arithmetic stays within 128 bits.
const MAX_FRACTION_DIGITS: usize = 9;

/// A number of bytes.
///
/// `Display` uses the largest binary unit in which the number is at least one, rounded to two decimals (`4 GiB`, `1.5 GiB`,
/// `490.25 MiB`). `FromStr` accepts a plain number of bytes, or a decimal number and a unit: `B`, `K`/`KiB`, `M`/`MiB`,
/// `G`/`GiB` or `T`/`TiB`, in upper or lower case, with or without a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `count` MiB (1024 KiB each). The result saturates at `u64::MAX` bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(MIB))
    }

    /// `count` GiB (1024 MiB each). The result saturates at `u64::MAX` bytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(GIB))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The unit is chosen after rounding, so that one byte less than 1 GiB prints as "1 GiB" and not as "1024 MiB".
        // Sizes below 1 KiB are never rounded.
        let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
        let hundredths = |unit: u64| (u128::from(self.0) * 100 + u128::from(unit) / 2) / u128::from(unit);
        let fits = |&(unit, _): &(u64, _)| self.0 >= KIB && hundredths(unit) >= 100;
        let (unit, name) = units.into_iter().find(fits).unwrap_or((1, "B"));
        let (whole, rest) = (hundredths(unit) / 100, hundredths(unit) % 100);
        let figure = match rest {
            0 => whole.to_string(),
            _ if rest % 10 == 0 => format!("{whole}.{}", rest / 10),
            _ => format!("{whole}.{rest:02}"),
        };
        // `pad` honours widths such as `{:>12}`, which tables use.
        f.pad(&format!("{figure} {name}"))
    }
}

/// Why a text is not a size.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The text does not start with a number.
    #[error("'{text}' does not start with a number: write a size like 4GiB, 512MiB or 1073741824")]
    NoNumber {
        /// The text that was parsed.
        text: String,
    },
    /// The number has more than one decimal point, a point without digits beside it, or too many decimals.
    #[error(
        "'{number}' in '{text}' is not a decimal number with at most {MAX_FRACTION_DIGITS} decimals: write a size like 1.5GiB"
    )]
    BadNumber {
        /// The text that was parsed.
        text: String,
        /// The part of the text that should be a number.
        number: String,
    },
    /// The unit is `KB`, `MB`, `GB` or `TB`: some readers take these for powers of 1000 and some for powers of 1024.
    #[error("'{unit}' in '{text}' is ambiguous: write {instead}; only powers of 1024 are supported")]
    Ambiguous {
        /// The text that was parsed.
        text: String,
        /// The unit in the text.
        unit: String,
        /// The unit to write instead.
        instead: &'static str,
    },
    /// The unit is unknown.
    #[error("'{unit}' in '{text}' is not a unit of size: use B, KiB, MiB, GiB or TiB (or K, M, G, T)")]
    UnknownUnit {
        /// The text that was parsed.
        text: String,
        /// The unit in the text.
        unit: String,
    },
    /// The size is 2^64 bytes or more.
    #[error("'{text}' is too large: a size must be below 16777216 TiB (2^64 bytes)")]
    TooLarge {
        /// The text that was parsed.
        text: String,
    },
    /// The size has the unit of one byte and is not a whole number, such as `1.5` or `1.5 B`.
    #[error("'{text}' is not a whole number of bytes: use no decimals, or a larger unit")]
    Fractional {
        /// The text that was parsed.
        text: String,
    },
}

impl fmt::Debug for SizeError {
    /// Prints the same sentence as `Display`, because `unwrap` prints an error by its `Debug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Bytes {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        if number.is_empty() {
            return Err(SizeError::NoNumber { text: text.into() });
        }
        let unit = unit_bytes(text, unit.trim())?;
        let (digits, scale) = decimal(number)
            .ok_or_else(|| SizeError::BadNumber { text: text.into(), number: number.into() })?;
        let too_large = || SizeError::TooLarge { text: text.into() };
        let scaled = digits.checked_mul(u128::from(unit)).ok_or_else(too_large)?;
        if scaled % scale != 0 && unit == 1 {
            return Err(SizeError::Fractional { text: text.into() });
        }
        // Sizes in larger units are rounded down to whole bytes: 0.1 GiB is not a whole number of bytes, but the user means a
        // size near it.
        u64::try_from(scaled / scale).map(Self).map_err(|_| too_large())
    }
}

/// Splits a decimal number into its digits without the decimal point and the power of ten to divide them by.
fn decimal(number: &str) -> Option<(u128, u128)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let places = u32::try_from(fraction.len()).ok()?;
    if whole.is_empty() || fraction.is_empty() || fraction.len() > MAX_FRACTION_DIGITS {
        return None;
    }
    // A number that does not fit into 128 bits is above every `u64`. It saturates here, and is reported as too large later.
    let whole = whole.parse::<u128>().unwrap_or(u128::MAX);
    let scale = 10_u128.checked_pow(places)?;
    let digits = whole.saturating_mul(scale).saturating_add(fraction.parse::<u128>().ok()?);
    Some((digits, scale))
}

fn unit_bytes(text: &str, unit: &str) -> Result<u64, SizeError> {
    let ambiguous = |instead| Err(SizeError::Ambiguous { text: text.into(), unit: unit.into(), instead });
    match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Ok(1),
        "k" | "kib" => Ok(KIB),
        "m" | "mib" => Ok(MIB),
        "g" | "gib" => Ok(GIB),
        "t" | "tib" => Ok(TIB),
        "kb" => ambiguous("KiB"),
        "mb" => ambiguous("MiB"),
        "gb" => ambiguous("GiB"),
        "tb" => ambiguous("TiB"),
        _ => Err(SizeError::UnknownUnit { text: text.into(), unit: unit.into() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_displayed_in_the_unit_that_fits() {
        let cases: [(u64, &str); 9] = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (64 * MIB, "64 MiB"),
            (4 * GIB, "4 GiB"),
            (GIB + GIB / 2, "1.5 GiB"),
            (GIB - 1, "1 GiB"),
            (8 * GIB + 256 * MIB, "8.25 GiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}", Bytes::gib(4)), "   4 GiB");
    }

    #[test]
    fn sizes_are_parsed_from_every_documented_form() {
        let cases: [(&str, u64); 9] = [
            ("1073741824", GIB),
            ("4GiB", 4 * GIB),
            ("4 gib", 4 * GIB),
            (" 512MiB ", 512 * MIB),
            ("64M", 64 * MIB),
            ("1.5GiB", GIB + GIB / 2),
            ("2t", 2 * TIB),
            ("7B", 7),
            ("16k", 16 * KIB),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_refused_with_a_reason() {
        let cases = [
            ("", "does not start with a number"),
            ("-4G", "does not start with a number"),
            ("lots", "does not start with a number"),
            ("4.G", "not a decimal number"),
            (".5G", "not a decimal number"),
            ("1.2.3G", "not a decimal number"),
            ("4GB", "write GiB"),
            ("4 pages", "not a unit of size"),
            ("1.5", "not a whole number of bytes"),
            ("16777216TiB", "too large"),
            ("99999999999999999999999999999999999999999999T", "too large"),
        ];
        for (text, reason) in cases {
            let message = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn a_displayed_size_parses_to_itself_within_its_rounding(bytes in 0..=1_u64 << 62) {
            let Bytes(back) = Bytes(bytes).to_string().parse().unwrap();
            prop_assert!(back.abs_diff(bytes) <= bytes / 100, "{bytes} became {back}");
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Bytes>();
        }

        #[test]
        fn no_number_makes_the_parser_panic(text in "[0-9.]{0,50} ?[kmgtKMGTiB]{0,3}") {
            let _ = text.parse::<Bytes>();
        }
    }
}
