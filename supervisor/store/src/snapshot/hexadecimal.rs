//! Hashes in JSON: 64 hexadecimal digits. For `#[serde(with = ...)]`.

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
    let digits = String::deserialize(deserializer)?;
    parse(&digits).ok_or_else(|| Error::custom(format!("{digits:?} is no hash of 64 hexadecimal digits")))
}

/// The hash that is written so.
pub(super) fn parse(digits: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    hex::decode_to_slice(digits, &mut hash.0).ok()?;
    Some(hash)
}

/// The same for a hash that may not be there.
pub(super) mod option {
    use serde::Serialize;

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        hash: &Option<Hash>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        hash.map(|hash| hash.to_string()).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Hash>, D::Error> {
        let digits = Option::<String>::deserialize(deserializer)?;
        let wrong = |digits: &str| Error::custom(format!("{digits:?} is no hash of 64 hexadecimal digits"));
        digits.map(|digits| parse(&digits).ok_or_else(|| wrong(&digits))).transpose()
    }
}
