//! HAProxy's agent check (its configuration manual, `agent-check`): every connection is answered with one line and closed.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::health::Readiness;
use crate::server::Listener;
use crate::service::Service;

/// Answers agent checks on `listener` until the returned future is dropped. The line names the state of `service`. In the
/// state `up`, it also names the weight of the server: the percentage of workers that are ready.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn agent(listener: impl Into<Listener>, service: Service) {
    const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
    const BACKOFF: Duration = Duration::from_millis(100);
    let mut listener = listener.into();
    loop {
        let Ok(mut stream) = listener.accept().await else {
            // The process may be out of file descriptors. No event tells when one is free again, so this wait is fixed.
            tokio::time::sleep(BACKOFF).await;
            continue;
        };
        let line = Readiness::of(&service.0, &service.0.health()).agent_line();
        tokio::spawn(async move {
            let write = async {
                stream.write_all(line.as_bytes()).await?;
                stream.shutdown().await
            };
            // A client that does not read its line within the timeout gets none.
            let _ = tokio::time::timeout(WRITE_TIMEOUT, write).await;
        });
    }
}
