//! The results of `cofferdam_info` and `cofferdam_digest`, read from JSON. This is the only reader of their fields; the writer
//! is [`crate::rpc`].

use bitcoin::BlockHash;
use cofferdam_protocol::profile::Hash;
use serde::Deserialize;

use super::source::{ChainDigest, ProfileInfo, ProfileSettings, SourceInfo};

/// How many characters of a peer's text a message repeats.
const QUOTED_CHARACTERS: usize = 200;

/// The method whose result is [`InfoResult`].
pub(super) const INFO: &str = "cofferdam_info";
/// The method whose result is [`DigestResult`].
pub(super) const DIGEST: &str = "cofferdam_digest";

/// The result of `cofferdam_info`. Fields that an audit does not need are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct InfoResult {
    version: Option<String>,
    profile: String,
    module: Option<String>,
    memory_bytes: Option<u64>,
    fuel: Option<u64>,
    output_bytes: Option<u64>,
    engine: Option<String>,
    network: Option<String>,
    start_height: u32,
    tip: Option<TipResult>,
}

#[derive(Debug, Deserialize)]
struct TipResult {
    height: u32,
}

impl InfoResult {
    /// Decodes the hashes. The error says which field is wrong.
    pub(super) fn decode(self) -> Result<SourceInfo, String> {
        let settings = match (self.memory_bytes, self.output_bytes, self.engine) {
            (Some(memory_bytes), Some(output_bytes), Some(engine)) => {
                Some(ProfileSettings { memory_bytes, fuel: self.fuel, output_bytes, engine: plain(&engine) })
            }
            _ => None,
        };
        let module = self.module.map(|module| hash("module", &module)).transpose()?;
        Ok(SourceInfo {
            version: self.version.as_deref().map(plain),
            profile: ProfileInfo { hash: hash("profile", &self.profile)?, module, settings },
            start_height: self.start_height,
            network: self.network.as_deref().map(plain),
            tip: self.tip.map(|tip| tip.height),
        })
    }
}

/// The result of `cofferdam_digest`.
#[derive(Debug, Deserialize)]
pub(super) struct DigestResult {
    height: u32,
    block: String,
    digest: String,
}

impl DigestResult {
    /// Decodes the hashes, and checks that the digest is the one at `height`. The error says what is wrong.
    pub(super) fn decode(self, height: u32) -> Result<ChainDigest, String> {
        if self.height != height {
            return Err(format!("it is for height {} instead of {height}", self.height));
        }
        let block: BlockHash =
            self.block.parse().map_err(|error| format!("\"block\" is not a block hash ({error})"))?;
        Ok(ChainDigest { height, block, digest: hash("digest", &self.digest)? })
    }
}

/// The member `data` of an error.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reason {
    #[serde(default)]
    pub(super) reason: String,
    pub(super) start: Option<u32>,
}

fn hash(field: &str, digits: &str) -> Result<Hash, String> {
    let mut bytes = [0; 32];
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|error| format!("{field:?} is not a SHA-256 ({error})"))?;
    Ok(Hash(bytes))
}

/// A peer's text, shortened and without control characters, so that a terminal can show it.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTED_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn info(value: Value) -> Result<SourceInfo, String> {
        serde_json::from_value::<InfoResult>(value).map_err(|error| error.to_string())?.decode()
    }

    fn digest(value: Value) -> Result<ChainDigest, String> {
        serde_json::from_value::<DigestResult>(value).map_err(|error| error.to_string())?.decode(7)
    }

    #[test]
    fn the_info_of_a_node_is_read() {
        let found = info(json!({
            "version": "1.2\u{1b}[31m", "profile": "11".repeat(32), "module": "22".repeat(32), "network": "bitcoin",
            "start_height": 5, "tip": { "height": 9, "block": "00".repeat(32) }, "daemon_height": 9, "lag": 0,
        }))
        .unwrap();
        assert_eq!(found.version.as_deref(), Some("1.2[31m"));
        let profile = ProfileInfo { hash: Hash([0x11; 32]), module: Some(Hash([0x22; 32])), settings: None };
        assert_eq!((found.profile, found.start_height, found.tip), (profile, 5, Some(9)));
        let found = info(json!({
            "profile": "11".repeat(32), "memory_bytes": 65536, "fuel": null, "output_bytes": 10, "engine": "e",
            "start_height": 0, "tip": null,
        }))
        .unwrap();
        let settings =
            ProfileSettings { memory_bytes: 65536, fuel: None, output_bytes: 10, engine: "e".to_owned() };
        assert_eq!((found.profile.settings, found.tip), (Some(settings), None));
    }

    #[test]
    fn fields_that_are_wrong_are_named() {
        for (value, part) in [
            (json!({}), "missing field `profile`"),
            (json!([]), "invalid length 0"),
            (json!("x"), "invalid type"),
            (json!({ "profile": "11", "start_height": 0 }), "\"profile\" is not a SHA-256"),
            (json!({ "profile": "zz".repeat(32), "start_height": 0 }), "\"profile\" is not a SHA-256"),
            (
                json!({ "profile": "11".repeat(32), "start_height": 0, "module": "é" }),
                "\"module\" is not a SHA-256",
            ),
            (json!({ "profile": "11".repeat(32), "start_height": -1 }), "invalid value: integer `-1`"),
            (json!({ "profile": "11".repeat(32), "start_height": 0, "tip": 9 }), "invalid type"),
        ] {
            let error = info(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
        let (block, hash) = ("00".repeat(32), "11".repeat(32));
        assert_eq!(
            digest(json!({ "height": 7, "block": block, "digest": hash })).unwrap().digest,
            Hash([0x11; 32])
        );
        for (value, part) in [
            (json!({ "height": 8, "block": block, "digest": hash }), "for height 8 instead of 7"),
            (json!({ "height": 7, "block": "00", "digest": hash }), "\"block\" is not a block hash"),
            (json!({ "height": 7, "block": block, "digest": "0x11" }), "\"digest\" is not a SHA-256"),
            (json!({ "height": 7, "block": block }), "missing field `digest`"),
            (json!({ "height": 4_294_967_296u64, "block": block, "digest": hash }), "invalid value"),
        ] {
            let error = digest(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }
}
