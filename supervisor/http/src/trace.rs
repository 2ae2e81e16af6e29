//! The trace that a request belongs to, from its `traceparent` header (W3C Trace Context,
//! <https://www.w3.org/TR/trace-context/>).
//!
//! This crate exports no spans. The log lines of a request have the fields that a collector needs to join them to a trace,
//! under the names of OpenTelemetry's log data model.

use axum::http::HeaderMap;
use tracing::Span;

/// The parsed `traceparent` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    trace_id: String,
    span_id: String,
}

impl TraceParent {
    /// The parent in `headers`. None if the header is missing or malformed: the standard requires that a malformed header is
    /// ignored.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get("traceparent")?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        // Later versions may have more fields. Version 00 has exactly four.
        let whole = version != "00" || fields.next().is_none();
        let sound = is_hex(version, 2) && version != "ff" && is_hex(flags, 2) && whole;
        (sound && is_id(trace, 32) && is_id(span, 16))
            .then(|| Self { trace_id: trace.to_owned(), span_id: span.to_owned() })
    }
}

/// The span of a request: every log line of the request has its fields.
pub(crate) fn span(headers: &HeaderMap, kind: &'static str, height: u32) -> Span {
    match TraceParent::of(headers) {
        Some(TraceParent { trace_id, span_id }) => {
            tracing::info_span!("request", kind, height, trace_id, parent_span_id = span_id)
        }
        None => tracing::info_span!("request", kind, height),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_well_formed_parent_is_used_and_any_other_is_ignored() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id, "00f067aa0ba902b7");
        assert!(TraceParent::parse(&GOOD.replacen("00-", "01-", 1)).is_some());
        assert!(TraceParent::parse(&format!("{}-more", GOOD.replacen("00-", "01-", 1))).is_some());
        let zero = GOOD.replace("00f067aa0ba902b7", "0000000000000000");
        for bad in ["", "00", "x", &GOOD[1..], &GOOD.to_uppercase(), &format!("{GOOD}-more"), &zero] {
            assert!(TraceParent::parse(bad).is_none(), "{bad}");
        }
        assert!(TraceParent::parse(&GOOD.replacen("00-", "ff-", 1)).is_none());
    }
}
