//! What has to be looked at again and again: how many workers there are to let requests in for, and the figures of each
//! second.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::service::Inner;
use cofferdam_base::sync::lock;

/// A worker's death is noticed within this.
const TICK: Duration = Duration::from_millis(50);

/// Starts to look. Ends when the service is gone.
pub(super) fn start(inner: &Arc<Inner>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(inner) = Weak::upgrade(&inner) else { return };
            let health = inner.health();
            inner.follow_workers(&health);
            inner.count_resets();
            lock(&inner.history).tick(Instant::now());
        }
    });
}
