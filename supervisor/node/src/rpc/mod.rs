//! The JSON-RPC 2.0 server of the node, over HTTP. It serves the clients of a metashrew node (`rockshrew-mono`). In this
//! documentation, that node is called the replaced node.
//!
//! ```no_run
//! # async fn example<B: cofferdam_node::rpc::Backend>(backend: B, service: cofferdam_http::Service)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use cofferdam_node::rpc::{self, RpcSettings};
//!
//! let calls = rpc::router(Arc::new(backend), RpcSettings::default());
//! // `GET /` is the status page, and `POST /` is this server: one route with two methods.
//! let app = cofferdam_http::job_router(service).merge(calls);
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await?;
//! # Ok(()) }
//! ```
//!
//! # Methods
//!
//! A request is a `POST /` with a JSON content type. Parameters are sent by position, or by the names in this table. A
//! parameter in brackets may be missing or null.
//!
//! | method | parameters | result |
//! |---|---|---|
//! | `metashrew_view` | `view_name`, \[`input_data`\], \[`height`\] | the bytes that the export returned, hexadecimal |
//! | `metashrew_preview` | `block_data`, `view_name`, \[`input_data`\], \[`height`\] | the same, on the state after the block, which runs on the state at `height` |
//! | `metashrew_height` | | the newest indexed height, as a *string* of digits; `"0"` also while no block is indexed |
//! | `metashrew_getblockhash` | `height` | the hash of the block, hexadecimal, in the byte order that block explorers show |
//! | `metashrew_stateroot` | \[`height`\] | the root of the state tree or, without `--state-tree`, the digest of the chain; hexadecimal |
//! | `metashrew_snapshot` | | figures about the store, as a *string* that holds a JSON object |
//! | `cofferdam_digest` | \[`height`\] | `{height, block, digest}`: nodes that agree have the same digest |
//! | `cofferdam_proof` | `key`, \[`height`\] | a proof of the value under the key, or of its absence |
//! | `cofferdam_info` | | `{version, profile, module, memory_bytes, fuel, output_bytes, engine, network, start_height, tip: {height, block}, daemon_height, lag}`; `profile` is the hash of the five fields after it |
//!
//! A height is a number, a string of its digits, or `"latest"`. A missing height means `"latest"`. After the digits, a string
//! may have a colon and a block hash, which are ignored. Inputs and results of `metashrew_` methods are hexadecimal with the
//! prefix `0x`, which inputs may omit. Hashes in results of `cofferdam_` methods have no prefix, like all hashes that Cofferdam
//! prints.
//!
//! # Errors
//!
//! A request that is JSON is answered with HTTP status 200. A request that is not JSON is answered with status 400 and the
//! code -32700. Errors of the application have `data: {reason, retryable, ...}`. If `retryable` is true, the same call may
//! succeed later or on another node.
//!
//! | code | reason | meaning, and further members of `data` |
//! |---|---|---|
//! | -32700 | | the body is not JSON |
//! | -32600 | | not a request; a content type that is not JSON (with status 415); a body that is incomplete (400) or did not arrive in time (408) |
//! | -32601 | | the method does not exist |
//! | -32602 | | a parameter is wrong: the message names it, and says why |
//! | -32603 | | a defect of the node, or a failure of its store |
//! | -32000 | `guest` | the view, or the previewed block, failed: `verdict` (`trap`, `abort`, `incomplete`, `bad-output`, `no-such-export`) and `detail` |
//! | -32000 | `deadline` | the call took longer than its method may |
//! | -32000 | `host` | the worker did not answer in time: `verdict` is `deadline`; `detail` |
//! | -32000 | `not-enabled` | the operator has not enabled this |
//! | -32001 | `host` | the worker died, and the workers that tried again died, too: `verdict` and `detail` |
//! | -32001 | `saturated` | the queue of waiting calls is full |
//! | -32001 | `not-ready` | the node is starting or stopping |
//! | -32001 | `no-room` | there is no room for the request: too many bytes of other requests are held (with status 503) |
//! | -32002 | `guest` | the guest needed more than its profile grants: `verdict` (`memory-exhausted`, `fuel-exhausted`, `output-too-large`) and `detail` |
//! | -32003 | `not-yet` | `height` is above `tip`, the newest indexed height |
//! | -32003 | `before-start` | `height` is below `start`, the first height of this node |
//! | -32003 | `nothing-indexed` | no block is indexed yet |
//! | -32003 | `abandoned` | a reorganisation rolled the block at `height` back while the call ran |
//! | -32005 | `batch-too-long` | the batch has more calls than the limit |
//! | -32005 | `too-large` | the request has more bytes than the limit (with status 413) |
//! | -32005 | `response-too-large` | the response would have more bytes than the limit |
//!
//! The replaced node uses the codes -32000, -32001 and -32002 in the same way. If the replaced node has a message for an error,
//! the message of this server begins with the same words.
//!
//! # Differences from the replaced node
//!
//! The replaced node takes any JSON value as one request, and reads the parts that it can read. Every call that the replaced node
//! answers correctly has the same answer here. These calls are answered differently, because the replaced node answers them
//! wrongly or not at all:
//!
//! - A batch: the replaced node answers "Method not found". Here it is answered as a batch.
//! - An unknown method: the replaced node answers with the code -32000. Here the code is -32601.
//! - A notification: the replaced node answers it. Here it has no answer, as the specification says, and the status is 204. It is
//!   not run either, because no method changes anything. If a request has no id and does not say `"jsonrpc": "2.0"`, both nodes
//!   answer it.
//! - An id: the replaced node sends back any value. Here an id must be a string, a number or null, and is sent back digit by
//!   digit.
//! - A height of `metashrew_getblockhash` that is missing or a string: the replaced node reads it as 0. A height of
//!   `metashrew_stateroot` that is a number: the replaced node reads it as `"latest"`. Here both are read as the documentation of
//!   the replaced node says. A parameter of another type is the error -32602 instead of an empty value.
//! - A view at a height that is not indexed: the replaced node runs it on the newest state. Here it is the error -32003.
//! - A body above 2 MiB, and with it the preview of a block above 1 MiB: the replaced node refuses it. Here the limit is a
//!   setting.
//! - Origins in `--cors`: the replaced node applies them only to requests without a preflight request. JSON needs a preflight
//!   request, so the origins never help a JSON request there. A host without a scheme matches no page there. [`Cors`] gives the
//!   same value the meaning that the operator intends.
//!
//! Both refuse a body whose content type is not JSON, such as the body of a plain `curl -d`. The replaced node does so with
//! status 400, this server with status 415.
//!
//! # Why the envelope is not a library's
//!
//! The maintained library for a JSON-RPC server is `jsonrpsee`. It refuses requests that clients of the replaced node send:
//! requests without `jsonrpc` (or with `"1.0"`), ids that are negative or fractional, and content types such as
//! `application/json; charset=UTF8`. It also runs the calls of a batch one after the other. None of this can be configured. The
//! parts of the library that remain usable are smaller than the code that would adapt them. The replacement is about 200 lines in
//! `envelope`. JSON, HTTP, body limits and CORS come from serde, axum, http-body and tower-http.

mod backend;
mod call;
mod cors;
mod envelope;
mod error;
mod method;
mod params;
mod server;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::post;

pub use backend::{Backend, CallError, ChainDigest, NodeInfo, StateAt, StoreFigures};
pub use cors::{Cors, CorsError};
pub use settings::RpcSettings;

use server::Server;

/// A router whose `POST /` is answered by `backend`. It has no fallback, so that it can be merged with a router for other
/// methods and paths.
pub fn router<B: Backend>(backend: Arc<B>, settings: RpcSettings) -> Router {
    let layer = settings.cors.layer();
    let calls = post(server::post::<B>).with_state(Arc::new(Server::new(backend, settings)));
    let calls = match layer {
        // OPTIONS needs a handler here, because a router that is merged with this one may have a fallback for OPTIONS.
        Some(layer) => calls.options(server::options).layer(layer),
        None => calls,
    };
    Router::new().route("/", calls)
}
