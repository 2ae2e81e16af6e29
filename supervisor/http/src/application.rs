//! The interface between the service and an application over it.
//!
//! An application adds routes of its own beside those of the service and uses the same workers. It tells the service about
//! itself through [`Application`]: a readiness check, a JSON object for the status, and metrics.

use std::fmt;

use serde_json::Value;

/// An application over the service. [`Service::set_application`](crate::Service::set_application) registers it.
///
/// The methods are called for every probe, status and scrape, by threads that serve requests: they must return at once.
pub trait Application: Send + Sync + fmt::Debug {
    /// The name of the application's check in `/readyz?verbose`, and of its object in `/v1/status`.
    fn name(&self) -> &'static str;

    /// Whether requests should be sent to this process. `Ok` has one line for `/readyz?verbose`.
    ///
    /// # Errors
    /// One line that says why no request should be sent here. `/readyz` then answers 503 with this line.
    fn readiness(&self) -> Result<String, String>;

    /// The application's object in `/v1/status`.
    fn status(&self) -> Value;

    /// The application's metrics, for `/metrics`.
    fn metrics(&self) -> Vec<ApplicationMetric>;
}

/// The present value of one metric of an [`Application`].
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationMetric {
    /// The name without the prefix `cofferdam_`, and for a counter without the suffix `_total`.
    pub name: &'static str,
    /// The help text, in one line.
    pub help: &'static str,
    /// True for a counter, whose value never falls. False for a gauge.
    pub counter: bool,
    /// The value.
    pub value: f64,
}
