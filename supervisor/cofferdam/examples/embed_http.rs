//! The pool as a part of a web application of your own: its routes under `/indexer`, yours beside them.
//!
//! `cargo run --release --example embed_http -- 127.0.0.1:8080`

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cofferdam::pool::Pool;
use cofferdam::sample;
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Workers are this executable, started again: before any thread there is, the first line turns those into workers.
    cofferdam::init();

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let pool = Arc::new(Pool::builder(sample::MODULE).workers(1).spares(1).memory(64 << 20).build()?);
    println!("profile {}", pool.profile().hash());

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = Router::new()
            .route("/hello", get(|| async { "hello" }))
            .nest_service("/indexer", cofferdam::http::router(&pool));
        let listener = TcpListener::bind(address).await?;
        println!("serving on {}", listener.local_addr()?);
        axum::serve(listener, app).with_graceful_shutdown(asked_to_end()).await
    })?;

    // Finishes what runs, leaves no process behind.
    pool.drain(Duration::from_secs(5));
    Ok(())
}

/// Waits for somebody to close standard input.
async fn asked_to_end() {
    let read = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // Read or not, it is over.
    let _ = tokio::task::spawn_blocking(read).await;
}
