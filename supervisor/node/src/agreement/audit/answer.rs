//! The results of `cofferdam_info` and `cofferdam_digest`, read from JSON: the one place that knows their fields. They are
//! written in `node::rpc`.

use bitcoin::BlockHash;
use cofferdam_protocol::profile::Hash;
use serde::Deserialize;

use super::node::{About, AboutProfile, ChainDigest, Terms};

/// How much of a peer's text is repeated, in characters.
const QUOTED: usize = 200;

/// The method whose result is [`Info`].
pub(super) const INFO: &str = "cofferdam_info";
/// The method whose result is [`Digest`].
pub(super) const DIGEST: &str = "cofferdam_digest";

/// What a node says of itself. Fields that nothing here needs are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    version: Option<String>,
    profile: String,
    module: Option<String>,
    memory_bytes: Option<u64>,
    fuel: Option<u64>,
    output_bytes: Option<u64>,
    engine: Option<String>,
    network: Option<String>,
    start_height: u32,
    tip: Option<Tip>,
}

#[derive(Debug, Deserialize)]
struct Tip {
    height: u32,
}

impl Info {
    /// The same with its hashes decoded; an error says which field is wrong.
    pub(super) fn decode(self) -> Result<About, String> {
        let terms = match (self.memory_bytes, self.output_bytes, self.engine) {
            (Some(memory_bytes), Some(output_bytes), Some(engine)) => {
                Some(Terms { memory_bytes, fuel: self.fuel, output_bytes, engine: plain(&engine) })
            }
            _ => None,
        };
        let module = self.module.map(|module| hash("module", &module)).transpose()?;
        Ok(About {
            version: self.version.as_deref().map(plain),
            profile: AboutProfile { hash: hash("profile", &self.profile)?, module, terms },
            start_height: self.start_height,
            network: self.network.as_deref().map(plain),
            tip: self.tip.map(|tip| tip.height),
        })
    }
}

/// A digest at a height.
#[derive(Debug, Deserialize)]
pub(super) struct Digest {
    height: u32,
    block: String,
    digest: String,
}

impl Digest {
    /// The same with its hashes decoded, if it is that at `height`; an error says what is wrong.
    pub(super) fn decode(self, height: u32) -> Result<ChainDigest, String> {
        if self.height != height {
            return Err(format!("it is about height {} instead of {height}", self.height));
        }
        let block: BlockHash =
            self.block.parse().map_err(|error| format!("\"block\" is no block hash ({error})"))?;
        Ok(ChainDigest { height, block, digest: hash("digest", &self.digest)? })
    }
}

/// What is in `data` of an error.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reason {
    #[serde(default)]
    pub(super) reason: String,
    pub(super) start: Option<u32>,
}

fn hash(field: &str, digits: &str) -> Result<Hash, String> {
    let mut bytes = [0; 32];
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    hex::decode_to_slice(digits, &mut bytes).map_err(|error| format!("{field:?} is no SHA-256 ({error})"))?;
    Ok(Hash(bytes))
}

/// A peer's text as it may go to a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn info(value: Value) -> Result<About, String> {
        serde_json::from_value::<Info>(value).map_err(|error| error.to_string())?.decode()
    }

    fn digest(value: Value) -> Result<ChainDigest, String> {
        serde_json::from_value::<Digest>(value).map_err(|error| error.to_string())?.decode(7)
    }

    #[test]
    fn what_a_node_says_of_itself_is_read() {
        let about = info(json!({
            "version": "1.2\u{1b}[31m", "profile": "11".repeat(32), "module": "22".repeat(32), "network": "bitcoin",
            "start_height": 5, "tip": { "height": 9, "block": "00".repeat(32) }, "daemon_height": 9, "lag": 0,
        }))
        .unwrap();
        assert_eq!(about.version.as_deref(), Some("1.2[31m"));
        let profile = AboutProfile { hash: Hash([0x11; 32]), module: Some(Hash([0x22; 32])), terms: None };
        assert_eq!((about.profile, about.start_height, about.tip), (profile, 5, Some(9)));
        assert_eq!(about.network.as_deref(), Some("bitcoin"));
        let about = info(json!({
            "profile": "11".repeat(32), "memory_bytes": 65536, "fuel": null, "output_bytes": 10, "engine": "e",
            "start_height": 0, "tip": null,
        }))
        .unwrap();
        let terms = Terms { memory_bytes: 65536, fuel: None, output_bytes: 10, engine: "e".to_owned() };
        assert_eq!((about.profile.terms, about.tip), (Some(terms), None));
    }

    #[test]
    fn fields_that_are_wrong_are_named() {
        for (value, part) in [
            (json!({}), "missing field `profile`"),
            (json!([]), "invalid length 0"),
            (json!("x"), "invalid type"),
            (json!({ "profile": "11", "start_height": 0 }), "\"profile\" is no SHA-256"),
            (json!({ "profile": "zz".repeat(32), "start_height": 0 }), "\"profile\" is no SHA-256"),
            (
                json!({ "profile": "11".repeat(32), "start_height": 0, "module": "é" }),
                "\"module\" is no SHA-256",
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
            (json!({ "height": 8, "block": block, "digest": hash }), "about height 8 instead of 7"),
            (json!({ "height": 7, "block": "00", "digest": hash }), "\"block\" is no block hash"),
            (json!({ "height": 7, "block": block, "digest": "0x11" }), "\"digest\" is no SHA-256"),
            (json!({ "height": 7, "block": block }), "missing field `digest`"),
            (json!({ "height": 4_294_967_296u64, "block": block, "digest": hash }), "invalid value"),
        ] {
            let error = digest(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }
}
