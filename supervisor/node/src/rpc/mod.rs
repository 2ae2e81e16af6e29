//! JSON-RPC 2.0 over HTTP, as clients of a metashrew node (`rockshrew-mono`) speak it.
//!
//! ```no_run
//! # async fn example<B: cofferdam_node::rpc::Backend>(node: B, service: cofferdam_http::Service)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use cofferdam_node::rpc::{self, RpcSettings};
//!
//! let calls = rpc::router(Arc::new(node), RpcSettings::default());
//! // `GET /` is the status page, and `POST /` is here: they are one route of two methods.
//! let app = cofferdam_http::router_of(service).merge(calls);
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await?;
//! # Ok(()) }
//! ```
//!
//! # Methods
//!
//! A request is a `POST /` with a JSON content type. Parameters come by position, or by these names; those in brackets
//! can be left out or null.
//!
//! | method | parameters | result |
//! |---|---|---|
//! | `metashrew_view` | `view_name`, \[`input_data`\], \[`height`\] | what the export returned, hexadecimal |
//! | `metashrew_preview` | `block_data`, `view_name`, \[`input_data`\], \[`height`\] | the same, after the block was run on the state at that height |
//! | `metashrew_height` | | the newest indexed height, as a *string* of digits; `"0"` also before any |
//! | `metashrew_getblockhash` | `height` | the block's hash, hexadecimal, in the order that explorers show |
//! | `metashrew_stateroot` | \[`height`\] | the root over the state, hexadecimal |
//! | `metashrew_snapshot` | | figures of the store, as a *string* that is a JSON object |
//! | `cofferdam_digest` | \[`height`\] | `{height, block, digest}`: nodes that agree have the same digest |
//! | `cofferdam_proof` | `key`, \[`height`\] | a proof of what is stored under the key |
//! | `cofferdam_info` | | `{version, profile, module, memory_bytes, fuel, output_bytes, engine, network, start_height, tip: {height, block}, daemon_height, lag}`; `profile` is the hash of the five after it |
//!
//! A height is a number, the same as a string, or `"latest"`, which it also is where it is left out. Behind a colon a
//! string may go on with a block's hash, which is not looked at. Input and results of `metashrew_` methods are
//! hexadecimal with `0x`, which may be missing from input. Hashes in results of `cofferdam_` methods are without, as in
//! everything else that this program prints.
//!
//! # Errors
//!
//! Whatever is JSON is answered with status 200, and what is not with 400 and -32700. Application errors have
//! `data: {reason, retryable, ...}`: `retryable` means that the same call may do better later or on another node.
//!
//! | code | reason | meaning, and what else is in `data` |
//! |---|---|---|
//! | -32700 | | the body is not JSON |
//! | -32600 | | not a request; a content type that is not JSON (with status 415); a body that broke off (400) or did not come in time (408) |
//! | -32601 | | there is no such method |
//! | -32602 | | which parameter is wrong, and why |
//! | -32603 | | a defect of the node, or of its store |
//! | -32000 | `guest` | the view, or the previewed block, ended otherwise than it should: `verdict` (`trap`, `abort`, `incomplete`, `bad-output`, `no-such-export`) and `detail` |
//! | -32000 | `deadline` | not done in the time that the method has |
//! | -32000 | `host` | `verdict` is `deadline`: the worker did not answer in its time; `detail` |
//! | -32000 | `not-enabled` | the operator has not switched it on |
//! | -32001 | `host` | the worker was lost, and others after it: `verdict` and `detail` |
//! | -32001 | `saturated` | as many calls wait already as may |
//! | -32001 | `not-ready` | the node starts or stops |
//! | -32001 | `no-room` | too many bytes of requests are held (with status 503) |
//! | -32002 | `guest` | more than the profile grants: `verdict` (`memory-exhausted`, `fuel-exhausted`, `output-too-large`) and `detail` |
//! | -32003 | `not-yet` | `height` is above `tip`, the newest indexed one |
//! | -32003 | `before-start` | `height` is below `start`, the first one of this node |
//! | -32003 | `nothing-indexed` | no block is indexed yet |
//! | -32003 | `abandoned` | a reorganisation took the block at `height` away while the call ran |
//! | -32005 | `batch-too-long` | more calls than one batch may have |
//! | -32005 | `too-large` | more bytes than one request may have (with status 413) |
//! | -32005 | `response-too-large` | more bytes than one response may have |
//!
//! -32000, -32001 and -32002 are the replaced node's own codes for these things, with its messages where it has any.
//!
//! # Where it differs from the node that it replaces
//!
//! That node's handler takes any JSON value for one request and reads what it can. Every call that it answers rightly is
//! answered the same here. What it answers wrongly, or not at all:
//!
//! - a batch is "Method not found" there. So is an unknown method, but with -32000; here it is -32601;
//! - a notification is answered there. Here it is by the specification: no answer, status 204. It is not run either, as
//!   no method changes anything. A request without an id that does not say `"jsonrpc": "2.0"` is answered, as there;
//! - an id is echoed there whatever it is. Here it must be a string, a number or null, and is echoed digit by digit;
//! - `metashrew_getblockhash` takes a height that is missing or a string for 0, and `metashrew_stateroot` takes a number
//!   for `"latest"`. Both are read as they are documented there; a parameter of another type is -32602 instead of empty;
//! - a view at a height that is not indexed runs on the newest state there. Here it is -32003;
//! - a body above 2 MiB is refused there, and with it the preview of a block above 1 MiB. Here it is a setting;
//! - origins in `--cors` are only of use there to requests without preflight, so never to JSON; and a host without a
//!   scheme matches nothing. [`Cors`] reads the same value to what is meant by it.
//!
//! A body whose content type is not JSON, such as of `curl -d` alone, is refused there, too, with status 400.
//!
//! # Why the envelope is ours
//!
//! `jsonrpsee` is the kept server for this. It refuses what clients of the replaced node send: requests without
//! `jsonrpc` (or with `"1.0"`), ids that are negative or fractional, and content types such as
//! `application/json; charset=UTF8`; and it runs a batch one call after the other. Its types cannot be told otherwise, and
//! without them what is left is less than what would stand around it: some 200 lines in `envelope`. JSON, HTTP, limits of
//! bodies and CORS are of serde, axum, http-body and tower-http.

pub mod backend;
mod call;
mod cors;
mod envelope;
mod error;
mod params;
mod server;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::post;

pub use backend::{At, Backend, CallError, ChainDigest, Info, Snapshot};
pub use cors::{Cors, CorsError};
pub use settings::RpcSettings;

use server::Server;

/// `POST /`, answered by `backend`. To be merged with routes for other methods and paths; it has no fallback.
pub fn router<B: Backend>(backend: Arc<B>, settings: RpcSettings) -> Router {
    let layer = settings.cors.layer();
    let calls = post(server::post::<B>).with_state(Arc::new(Server::new(backend, settings)));
    let calls = match layer {
        // With a handler for OPTIONS of its own, because routes that it is merged with may have a fallback for that.
        Some(layer) => calls.options(server::options).layer(layer),
        None => calls,
    };
    Router::new().route("/", calls)
}
