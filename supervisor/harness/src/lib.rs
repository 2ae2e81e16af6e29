#![doc = include_str!("../README.md")]
//!
//! # Files
//!
//! `harness` describes a case, `start` starts it, and `session` runs it: a session owns a pool, a store, and the pipeline that commits
//! blocks. `outcome` is the result of one job with its assertions. `compare` runs the same blocks under several `settings`; `difference` and
//! `writes_difference` describe the first difference. `support` turns a test binary into its own worker. `words` formats values for
//! people, and `error` says why a case could not be run.

mod compare;
mod difference;
mod error;
mod harness;
mod outcome;
mod session;
mod settings;
mod start;
mod support;
mod words;
mod writes_difference;

pub use cofferdam_chain::OnGuestFailure;
pub use cofferdam_pool::{InitError, exit, fault, init, init_with, profile, verdict, writes};
pub use cofferdam_worker::imports::{HostFunction, HostImport, ImportError, Value};

pub use compare::Agreement;
pub use difference::{Aspect, Difference, Run};
pub use error::HarnessError;
pub use harness::Harness;
pub use outcome::Outcome;
pub use session::Session;
pub use settings::RunSettings;
pub use writes_difference::WritesDifference;

#[doc(hidden)]
pub use ctor as __ctor;
#[doc(hidden)]
pub use support::__init_test;
