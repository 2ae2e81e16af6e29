//! HAProxy's agent check: a line for whoever connects, and that is all.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::health::Readiness;
use super::server::Listener;
use super::service::Service;

/// Answers agent checks on `listener` for as long as it is polled.
pub async fn agent(listener: impl Into<Listener>, service: Service) {
    const PATIENCE: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(100);
    let mut listener = listener.into();
    loop {
        let Ok(mut stream) = listener.accept().await else {
            // Out of descriptors, say: nothing is gained by asking again at once.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let line = Readiness::of(&service.0, &service.0.health()).agent_line();
        tokio::spawn(async move {
            // Who does not read the answer has not asked.
            let write = async {
                stream.write_all(line.as_bytes()).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(PATIENCE, write).await;
        });
    }
}
