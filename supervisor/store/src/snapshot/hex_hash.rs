//! Hashes in JSON, as 64 hexadecimal digits. For `#[serde(with = ...)]`.

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

fn parse<E: Error>(digits: &str) -> Result<Hash, E> {
    let mut hash = Hash::default();
    let decoded = hex::decode_to_slice(digits, &mut hash.0);
    decoded.map_err(|_| E::custom(format!("{digits:?} is not a hash of 64 hexadecimal digits")))?;
    Ok(hash)
}

/// The same for an optional hash.
pub(super) mod option {
    use serde::Serialize;

    use super::{Deserialize, Deserializer, Hash, Serializer, parse};

    pub(in super::super) fn serialize<S: Serializer>(
        hash: &Option<Hash>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        hash.map(|hash| hash.to_string()).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Hash>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|digits| parse(&digits)).transpose()
    }
}
