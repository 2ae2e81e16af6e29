//! Hashes in JSON, as 64 hexadecimal digits. For serde's attributes `with`, `serialize_with` and `deserialize_with`.

use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

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

/// Like [`serialize`], for an optional hash.
pub(super) fn serialize_option<S: Serializer>(hash: &Option<Hash>, serializer: S) -> Result<S::Ok, S::Error> {
    hash.map(|hash| hash.to_string()).serialize(serializer)
}

/// Like [`deserialize`], for an optional hash.
pub(super) fn deserialize_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Hash>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|digits| parse(&digits)).transpose()
}
