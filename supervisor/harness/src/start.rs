//! Starts a case.

use super::error::HarnessError;
use super::harness::Harness;
use super::session::Session;
use super::settings::RunSettings;

impl Harness {
    /// Starts a worker and an empty state. Returns when all memory is committed.
    ///
    /// # Errors
    /// - [`HarnessError::NotCommitted`] if the memory cannot be committed,
    /// - [`HarnessError::NoHostLimit`] if this machine cannot limit the memory of a host ([`Harness::host_memory`]),
    /// - [`HarnessError::NotEnabled`] without [`enable_test_support!`](crate::enable_test_support!),
    /// - [`HarnessError::Pool`] if the module or a limit is invalid,
    /// - [`HarnessError::Directory`] and [`HarnessError::Store`] if the state cannot be created.
    pub fn start(&self) -> Result<Session, HarnessError> {
        Session::start(self, RunSettings::default())
    }
}
