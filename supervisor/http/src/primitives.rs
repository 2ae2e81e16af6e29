//! The synchronization primitives of [`admission`](crate::admission): locks of the standard library, and tokio's channel
//! and timer. The model in `admission_model` compiles the same source with the primitives of shuttle.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

pub(crate) use tokio::sync::oneshot;
pub(crate) use tokio::time::timeout;
