//! What the concurrent parts of the pool are made of: locks of the standard library and channels of crossbeam. The models in
//! `models` compile the same parts with those of shuttle in their place, which tries one order of threads after another.

pub(super) use std::sync::{Arc, Condvar, Mutex};

pub(super) use crossbeam_channel::{Receiver, Sender, unbounded};

pub(super) use cofferdam_base::sync::lock;
