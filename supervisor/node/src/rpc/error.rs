//! The error objects that clients receive. The table in the [module](super) explains their codes.

use axum::http::StatusCode;
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict};
use serde::Serialize;
use serde_json::{Value, json};

use super::backend::CallError;
use super::method::Method;
use cofferdam_http::body::BodyError;

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
/// The call failed.
const CALL_FAILED: i32 = -32000;
/// The node cannot answer at this moment.
const UNAVAILABLE: i32 = -32001;
/// The call needed more than the profile grants.
const RESOURCE_EXHAUSTED: i32 = -32002;
/// The node has no state at the requested height.
const NOT_INDEXED: i32 = -32003;
/// The request or the response exceeds a limit.
const LIMIT_EXCEEDED: i32 = -32005;

/// An error object (JSON-RPC 2.0, section 5.1).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RpcError {
    pub(super) code: i32,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Value>,
}

impl RpcError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// An error of the application. `reason` distinguishes errors with the same code.
    fn of_call(code: i32, message: impl Into<String>, reason: &str, retryable: bool) -> Self {
        let data = json!({ "reason": reason, "retryable": retryable });
        Self { code, message: message.into(), data: Some(data) }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Some(Value::Object(data)) = &mut self.data {
            data.insert(name.to_owned(), value.into());
        }
        self
    }

    pub(super) fn parse_error(error: &serde_json::Error) -> Self {
        Self::new(PARSE_ERROR, format!("Parse error: {error}"))
    }

    pub(super) fn invalid_request(why: impl std::fmt::Display) -> Self {
        Self::new(INVALID_REQUEST, format!("Invalid Request: {why}"))
    }

    pub(super) fn method_not_found(name: &str) -> Self {
        // The client chooses the name, which may be long.
        let name: String = name.chars().take(100).collect();
        Self::new(METHOD_NOT_FOUND, format!("Method not found: {name}"))
    }

    pub(super) fn invalid_params(why: impl std::fmt::Display) -> Self {
        Self::new(INVALID_PARAMS, format!("Invalid params: {why}"))
    }

    pub(super) fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(INTERNAL_ERROR, format!("Internal error: {why}"))
    }

    pub(super) fn batch_too_long(entries: usize, limit: usize) -> Self {
        let message = format!(
            "the batch has {entries} calls, above the limit of {limit}: send several smaller batches"
        );
        Self::of_call(LIMIT_EXCEEDED, message, "batch-too-long", false)
    }

    pub(super) fn response_too_large(bytes: u64, limit: u64) -> Self {
        let message = format!("the response would have {bytes} bytes, above the limit of {limit}");
        Self::of_call(LIMIT_EXCEEDED, message, "response-too-large", false)
    }

    /// The HTTP status of a response that holds only this error.
    pub(super) fn status(&self) -> StatusCode {
        // The replaced node does the same: a request that is JSON is answered with status 200.
        if self.code == PARSE_ERROR { StatusCode::BAD_REQUEST } else { StatusCode::OK }
    }

    /// The error for a request whose body was refused.
    pub(super) fn of_body(refused: &BodyError) -> Self {
        match refused {
            BodyError::TooLarge { .. } => {
                Self::of_call(LIMIT_EXCEEDED, refused.to_string(), refused.kind(), false)
            }
            BodyError::NoMemory { .. } => {
                Self::of_call(UNAVAILABLE, refused.to_string(), refused.kind(), true)
            }
            _ => Self::invalid_request(refused),
        }
    }

    /// The error for a call of `method` that failed.
    pub(super) fn of_failure(method: Method, error: &CallError) -> Self {
        let message = || error.to_string();
        match error {
            CallError::NothingIndexed => {
                Self::of_call(NOT_INDEXED, not_found(method, None, error), "nothing-indexed", true)
            }
            CallError::NotYet { height, tip } => {
                let message = not_found(method, Some(*height), error);
                Self::of_call(NOT_INDEXED, message, "not-yet", true).with("height", *height).with("tip", *tip)
            }
            CallError::BeforeStart { height, start } => {
                let message = not_found(method, Some(*height), error);
                let error = Self::of_call(NOT_INDEXED, message, "before-start", false);
                error.with("height", *height).with("start", *start)
            }
            CallError::Abandoned { height } => {
                Self::of_call(NOT_INDEXED, message(), "abandoned", true).with("height", *height)
            }
            CallError::Guest { verdict, detail } => {
                let message = format!("View function error: {} failed: {error}", method.runs());
                let error = Self::of_call(guest_code(*verdict), message, "guest", false);
                error.with("verdict", verdict.name()).with("detail", detail.as_str())
            }
            CallError::Host { verdict, detail } => {
                let code = if *verdict == HostVerdict::Deadline { CALL_FAILED } else { UNAVAILABLE };
                let error = Self::of_call(code, message(), "host", true);
                error.with("verdict", verdict.name()).with("detail", detail.as_str())
            }
            CallError::InputTooLarge { .. } => Self::invalid_params(error),
            CallError::Deadline(_) => Self::of_call(CALL_FAILED, message(), "deadline", true),
            CallError::Saturated => Self::of_call(UNAVAILABLE, message(), "saturated", true),
            CallError::NotReady(_) => Self::of_call(UNAVAILABLE, message(), "not-ready", true),
            CallError::NotEnabled { .. } => Self::of_call(CALL_FAILED, message(), "not-enabled", false),
            CallError::Internal(why) => Self::internal(why),
        }
    }
}

/// The message for a height without state. It begins as the message of the replaced node, if that node has one.
fn not_found(method: Method, height: Option<u32>, error: &CallError) -> String {
    let what = match method {
        Method::BlockHash => "Block hash",
        Method::StateRoot => "State root",
        _ => return error.to_string(),
    };
    match height {
        Some(height) => format!("Storage error: {what} not found for height {height}: {error}"),
        None => format!("Storage error: {what} not found: {error}"),
    }
}

fn guest_code(verdict: GuestVerdict) -> i32 {
    match verdict {
        GuestVerdict::MemoryExhausted | GuestVerdict::FuelExhausted | GuestVerdict::OutputTooLarge => {
            RESOURCE_EXHAUSTED
        }
        _ => CALL_FAILED,
    }
}
