//! Requests and responses as JSON (JSON-RPC 2.0, sections 4 to 6).

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::call::Call;
use super::error::RpcError;
use super::method::Method;

/// The requests in the body of an HTTP request.
#[derive(Debug)]
pub(super) enum Requests {
    One(Request),
    Batch(Vec<Request>),
}

/// One request.
#[derive(Debug)]
pub(super) enum Request {
    Call {
        id: Id,
        method: Method,
        call: Call,
    },
    /// A request without an answer. No method changes anything, so that a notification need not be run.
    Notification,
    Refused {
        id: Id,
        error: RpcError,
    },
}

/// An id, exactly as the client wrote it; `None` for null.
pub(super) type Id = Option<Box<RawValue>>;

impl Requests {
    /// Reads a body with at most `limit` requests.
    pub(super) fn read(body: &[u8], limit: usize) -> Result<Self, RpcError> {
        let is_batch = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        if !is_batch {
            let raw: &RawValue =
                serde_json::from_slice(body).map_err(|error| RpcError::parse_error(&error))?;
            return Ok(Self::One(Request::read(raw)));
        }
        let (entries, count) = read_batch(body, limit).map_err(|error| RpcError::parse_error(&error))?;
        if count == 0 {
            return Err(RpcError::invalid_request("the batch is empty"));
        }
        if count > limit {
            return Err(RpcError::batch_too_long(count, limit));
        }
        Ok(Self::Batch(entries.into_iter().map(Request::read).collect()))
    }
}

/// Returns the first `limit` entries of a batch, and the number of all entries.
fn read_batch(body: &[u8], limit: usize) -> serde_json::Result<(Vec<&RawValue>, usize)> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let batch = Entries(limit).deserialize(&mut source)?;
    source.end()?;
    Ok(batch)
}

/// Reads an array, and keeps at most this many of its entries. A list of all entries of a batch could take many times the
/// memory of the batch, if each entry has a few bytes.
struct Entries(usize);

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = (Vec<&'de RawValue>, usize);

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = (Vec<&'de RawValue>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut held = Vec::new();
        while held.len() < self.0
            && let Some(entry) = entries.next_element()?
        {
            held.push(entry);
        }
        let mut count = held.len();
        // After the end of the array, `next_element` must not be called again.
        while count >= self.0 && entries.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((held, count))
    }
}

/// The members of a request. A member that is null differs from a member that is missing.
#[derive(DeriveDeserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(source: D) -> Result<Option<&'a RawValue>, D::Error> {
    Deserialize::deserialize(source).map(Some)
}

impl Request {
    fn read(raw: &RawValue) -> Self {
        let refused =
            |id, why: &dyn fmt::Display| Self::Refused { id, error: RpcError::invalid_request(why) };
        // Without this check, an array would be read as the members in their order.
        if !raw.get().starts_with('{') {
            return refused(None, &"a request must be an object");
        }
        let members: Members<'_> = match serde_json::from_str(raw.get()) {
            Ok(members) => members,
            Err(error) => return refused(None, &error),
        };
        let id = match members.id.map(read_id).transpose() {
            Ok(id) => id,
            Err(why) => return refused(None, &why),
        };
        // Version 2.0 introduced notifications. A client that does not name version 2.0 waits for its answer.
        let is_notification = id.is_none() && members.jsonrpc.is_some_and(is_version_2);
        let id = id.flatten();
        if members.jsonrpc.is_some_and(|version| !is_version_2(version) && version.get() != r#""1.0""#) {
            return refused(id, &"jsonrpc must be \"2.0\"");
        }
        let name: String = match members.method.map(|name| serde_json::from_str(name.get())) {
            Some(Ok(name)) => name,
            Some(Err(_)) => return refused(id, &"method must be a string"),
            None => return refused(id, &"method is missing"),
        };
        if is_notification {
            return Self::Notification;
        }
        let call = Method::from_name(&name).ok_or_else(|| RpcError::method_not_found(&name));
        match call.and_then(|method| Ok((method, Call::read(method, members.params)?))) {
            Ok((method, call)) => Self::Call { id, method, call },
            Err(error) => Self::Refused { id, error },
        }
    }
}

fn is_version_2(version: &RawValue) -> bool {
    version.get() == r#""2.0""#
}

/// Reads an id: a string, a number, or null. An id is not decoded, so that a number of any size is sent back unchanged.
fn read_id(raw: &RawValue) -> Result<Id, &'static str> {
    const LIMIT_BYTES: usize = 1024;
    match raw.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"' | b'-' | b'0'..=b'9') if raw.get().len() <= LIMIT_BYTES => Ok(Some(raw.to_owned())),
        Some(b'"' | b'-' | b'0'..=b'9') => Err("id must not be longer than 1024 bytes"),
        _ => Err("id must be a string, a number or null"),
    }
}

#[derive(Serialize)]
struct Response<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RpcError>,
    id: Option<&'a RawValue>,
}

/// The response to the request `id`, as JSON.
pub(super) fn write(id: Option<&RawValue>, outcome: Result<&Value, &RpcError>) -> Vec<u8> {
    let response = Response { jsonrpc: "2.0", result: outcome.ok(), error: outcome.err(), id };
    // Writing fails only for maps whose keys are not strings, and a response has no such map.
    serde_json::to_vec(&response).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Request {
        match Requests::read(json.as_bytes(), 10) {
            Ok(Requests::One(request)) => request,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn no_more_entries_of_a_batch_are_kept_than_the_limit() {
        let body = format!("[{}1]", "1,".repeat(999));
        let (held, count) = read_batch(body.as_bytes(), 10).unwrap();
        assert_eq!((held.len(), count), (10, 1000));
        let (held, count) = read_batch(b"[1,2]", 2).unwrap();
        assert_eq!((held.len(), count), (2, 2));
        assert!(read_batch(b"[1,2,]", 1).is_err(), "entries that are not kept must be JSON, too");
        assert!(read_batch(b"[1] 2", 1).is_err());
    }

    #[test]
    fn only_version_2_has_notifications() {
        assert!(matches!(one(r#"{"jsonrpc":"2.0","method":"x"}"#), Request::Notification));
        assert!(matches!(one(r#"{"method":"metashrew_height"}"#), Request::Call { id: None, .. }));
        assert!(matches!(
            one(r#"{"jsonrpc":"2.0","id":null,"method":"metashrew_height"}"#),
            Request::Call { id: None, .. }
        ));
    }

    #[test]
    fn a_wrong_request_is_refused_with_its_id_if_it_has_one() {
        for (json, id, part) in [
            ("1", None, "object"),
            (r#""x""#, None, "object"),
            ("null", None, "object"),
            ("{}", None, "method is missing"),
            (r#"{"id":5}"#, Some("5"), "method is missing"),
            (r#"{"id":5,"method":7}"#, Some("5"), "method must be a string"),
            (r#"{"id":5,"method":null}"#, Some("5"), "method must be a string"),
            (r#"{"id":5,"jsonrpc":2.0,"method":"x"}"#, Some("5"), "jsonrpc"),
            (r#"{"id":5,"jsonrpc":null,"method":"x"}"#, Some("5"), "jsonrpc"),
            (r#"{"id":5,"jsonrpc":"3.0","method":"x"}"#, Some("5"), "jsonrpc"),
            (r#"{"id":{},"method":"x"}"#, None, "id must be"),
            (r#"{"id":true,"method":"x"}"#, None, "id must be"),
            (r#"{"id":1,"id":2,"method":"x"}"#, None, "duplicate field"),
        ] {
            match one(json) {
                Request::Refused { id: given, error } => {
                    assert_eq!(given.as_deref().map(RawValue::get), id, "{json}");
                    assert_eq!(error.code, -32600, "{json}");
                    assert!(error.message.contains(part), "{json}: {}", error.message);
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }
}
