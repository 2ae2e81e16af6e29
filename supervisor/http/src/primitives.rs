//! What the gate is made of: a lock of the standard library, and tokio's channel and timer. The model in `gate_model` compiles
//! the gate with those of shuttle in their place.

pub(super) use std::sync::{Arc, Mutex, MutexGuard};

pub(super) use tokio::sync::oneshot;
pub(super) use tokio::time::timeout;
