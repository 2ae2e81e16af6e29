//! A task that looks at the pool at a fixed interval. It sets how many requests may run, counts finished resets, and adds each
//! finished second to the history.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::service::Inner;
use cofferdam_base::sync::lock;

/// The interval. Admission control follows a change in the number of ready workers within this time.
const INTERVAL: Duration = Duration::from_millis(50);

/// Starts the task. It ends when the last handle of the service is dropped.
pub(crate) fn start(inner: &Arc<Inner>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(inner) = Weak::upgrade(&inner) else { return };
            let health = inner.health();
            inner.update_capacity(&health);
            inner.collect_resets();
            lock(&inner.history).tick(Instant::now());
        }
    });
}
