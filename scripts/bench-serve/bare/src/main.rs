//! The bare server: axum takes the body and answers an empty 200, on a port of 127.0.0.1 that the kernel chooses.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    // Without a delay for small packets, as the other servers.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let router = Router::new().route("/v1/blocks/{height}", post(|_: Bytes| async {}));
    axum::serve(listener, router).await
}
