//! The parameters of a call: by position, as clients of a metashrew node send them, or by name.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::backend::StateAt;
use super::error::RpcError;

/// The parameters of one call, in the order of the method's names. A parameter is decoded when it is read.
#[derive(Debug)]
pub(super) struct Params<'a> {
    names: &'static [&'static str],
    values: Vec<Option<&'a RawValue>>,
}

impl<'a> Params<'a> {
    /// Reads `raw` as the parameters of a method whose parameters have the names `names`. Further parameters by position are
    /// ignored.
    pub(super) fn read(raw: Option<&'a RawValue>, names: &'static [&'static str]) -> Result<Self, RpcError> {
        let text = raw.map_or("null", RawValue::get);
        let values = match text.as_bytes().first() {
            Some(b'[' | b'{') => {
                let mut source = serde_json::Deserializer::from_str(text);
                Slots(names).deserialize(&mut source).map_err(RpcError::invalid_params)?
            }
            Some(b'n') => vec![None; names.len()],
            _ => return Err(RpcError::invalid_params("params must be an array or an object")),
        };
        Ok(Self { names, values })
    }

    /// The parameter at `index`, if it was sent and is not null.
    fn get(&self, index: usize) -> Option<&'a RawValue> {
        self.values.get(index).copied().flatten().filter(|raw| raw.get() != "null")
    }

    fn wrong(&self, index: usize, why: impl fmt::Display) -> RpcError {
        let name = self.names.get(index).copied().unwrap_or_default();
        RpcError::invalid_params(format_args!("{name} (parameter {}): {why}", index + 1))
    }

    fn text(&self, index: usize) -> Result<Option<Cow<'a, str>>, RpcError> {
        let Some(raw) = self.get(index) else { return Ok(None) };
        // A text without escapes, such as a block of several megabytes, need not be copied.
        if let Ok(text) = serde_json::from_str::<&str>(raw.get()) {
            return Ok(Some(Cow::Borrowed(text)));
        }
        match serde_json::from_str(raw.get()) {
            Ok(text) => Ok(Some(Cow::Owned(text))),
            Err(_) => Err(self.wrong(index, "it must be a string")),
        }
    }

    /// The text at `index`. It must not be missing or empty, nor longer than `limit` bytes.
    pub(super) fn name(&self, index: usize, limit: usize) -> Result<String, RpcError> {
        let text = self.text(index)?.filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| self.wrong(index, "it is missing"))?;
        if text.len() > limit {
            return Err(self.wrong(index, format_args!("it is longer than {limit} bytes")));
        }
        Ok(text.into_owned())
    }

    /// The bytes at `index`, if they were sent: hexadecimal, with or without `0x`.
    pub(super) fn bytes(&self, index: usize) -> Result<Option<Vec<u8>>, RpcError> {
        let Some(text) = self.text(index)? else { return Ok(None) };
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        let bytes = hex::decode(digits);
        bytes.map(Some).map_err(|error| self.wrong(index, format_args!("Invalid hex input: {error}")))
    }

    /// The bytes at `index`, which must not be missing.
    pub(super) fn required_bytes(&self, index: usize) -> Result<Vec<u8>, RpcError> {
        self.bytes(index)?.ok_or_else(|| self.wrong(index, "it is missing"))
    }

    /// The state at the height at `index`; the latest state if no height was sent.
    pub(super) fn at(&self, index: usize) -> Result<StateAt, RpcError> {
        let Some(raw) = self.get(index) else { return Ok(StateAt::Latest) };
        read_at(raw.get()).map_err(|why| self.wrong(index, why))
    }

    /// The state at the height at `index`, which must not be missing.
    pub(super) fn required_at(&self, index: usize) -> Result<StateAt, RpcError> {
        if self.get(index).is_none() {
            return Err(self.wrong(index, "it is missing"));
        }
        self.at(index)
    }
}

/// Reads a height: a number, a string of its digits, or "latest". After the digits, a string may have a colon and a hash, which
/// are ignored.
fn read_at(json: &str) -> Result<StateAt, &'static str> {
    const WRONG: &str =
        "Invalid height: it must be a whole number from 0 to 4294967295, the same as a string, or \"latest\"";
    if let Ok(height) = serde_json::from_str(json) {
        return Ok(StateAt::Height(height));
    }
    let text: Cow<'_, str> = serde_json::from_str(json).map_err(|_| WRONG)?;
    if text == "latest" {
        return Ok(StateAt::Latest);
    }
    let digits = text.split(':').next().unwrap_or_default();
    let is_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_digits).map(StateAt::Height).ok_or(WRONG)
}

/// Reads parameters in the order of their names, and keeps at most one for each name.
struct Slots(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Slots {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slots {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object of parameters")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        for slot in &mut values {
            *slot = entries.next_element()?;
        }
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(values)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(name) = entries.next_key::<Name<'de>>()? {
            let index = self.0.iter().position(|known| *known == name.0);
            let slot =
                index.and_then(|index| values.get_mut(index)).ok_or_else(|| unknown(&name.0, self.0))?;
            if slot.replace(entries.next_value()?).is_some() {
                return Err(de::Error::custom(format_args!("{} was sent twice", name.0)));
            }
        }
        Ok(values)
    }
}

/// The name of a parameter.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn unknown<E: de::Error>(name: &str, known: &[&str]) -> E {
    let name: String = name.chars().take(50).collect();
    match known.is_empty() {
        true => E::custom(format_args!("{name:?} is unknown: this method has no parameters")),
        false => E::custom(format_args!("{name:?} is unknown: the parameters are {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(json: &str) -> Result<StateAt, &'static str> {
        read_at(json)
    }

    #[test]
    fn heights_are_read_as_the_replaced_node_reads_them() {
        assert_eq!(at("0"), Ok(StateAt::Height(0)));
        assert_eq!(at("4294967295"), Ok(StateAt::Height(u32::MAX)));
        assert_eq!(at(r#""840000""#), Ok(StateAt::Height(840_000)));
        assert_eq!(at(r#""840000:00ab""#), Ok(StateAt::Height(840_000)));
        assert_eq!(at(r#""latest""#), Ok(StateAt::Latest));
        assert_eq!(at(r#""\u006catest""#), Ok(StateAt::Latest), "escapes are decoded");
        let wrong = [
            "-1",
            "1.5",
            "4294967296",
            "1e3",
            "true",
            "[]",
            r#""""#,
            r#""newest""#,
            r#""-1""#,
            r#""+1""#,
            r#"" 1""#,
            r#""4294967296""#,
            r#"":1""#,
        ];
        for json in wrong {
            assert!(at(json).is_err(), "{json}");
        }
    }

    #[test]
    fn parameters_by_name_are_put_in_order() {
        let raw: &RawValue = serde_json::from_str(r#"{"height":7,"view_name":"f"}"#).unwrap();
        let params = Params::read(Some(raw), &["view_name", "input_data", "height"]).unwrap();
        assert_eq!(params.name(0, 10), Ok("f".to_owned()));
        assert_eq!(params.bytes(1), Ok(None));
        assert_eq!(params.at(2), Ok(StateAt::Height(7)));
        for (json, part) in [
            (r#"{"heigth":7}"#, "\"heigth\" is unknown: the parameters are height"),
            (r#"{"height":7,"height":8}"#, "height was sent twice"),
            (r#""height""#, "must be an array or an object"),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            let error = Params::read(Some(raw), &["height"]).unwrap_err();
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
}
