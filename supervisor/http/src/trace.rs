//! Trace context of W3C (<https://www.w3.org/TR/trace-context/>): which trace a request belongs to, for the logs.
//!
//! No spans are exported from here. What a collector needs to join these logs to a trace is in their fields, under the
//! names of OpenTelemetry's log data model.

use axum::http::HeaderMap;
use tracing::Span;

/// What `traceparent` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    trace_id: String,
    span_id: String,
}

impl Parent {
    /// The parent that the headers name; none if they name none, or one that is not well formed, which the standard wants
    /// ignored.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get("traceparent")?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        // A version to come may have more fields; this one has not.
        let whole = version != "00" || fields.next().is_none();
        let sound = is_hex(version, 2) && version != "ff" && is_hex(flags, 2) && whole;
        (sound && is_id(trace, 32) && is_id(span, 16))
            .then(|| Self { trace_id: trace.to_owned(), span_id: span.to_owned() })
    }
}

/// The span of a request, in which everything about it is logged.
pub(super) fn span(headers: &HeaderMap, kind: &'static str, height: u32) -> Span {
    match Parent::of(headers) {
        Some(Parent { trace_id, span_id }) => {
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
    fn a_parent_that_is_well_formed_is_taken_and_any_other_ignored() {
        let parent = Parent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id, "00f067aa0ba902b7");
        assert!(Parent::parse(&GOOD.replacen("00-", "01-", 1)).is_some());
        assert!(Parent::parse(&format!("{}-more", GOOD.replacen("00-", "01-", 1))).is_some());
        let zero = GOOD.replace("00f067aa0ba902b7", "0000000000000000");
        for bad in ["", "00", "x", &GOOD[1..], &GOOD.to_uppercase(), &format!("{GOOD}-more"), &zero] {
            assert!(Parent::parse(bad).is_none(), "{bad}");
        }
        assert!(Parent::parse(&GOOD.replacen("00-", "ff-", 1)).is_none());
    }
}
