//! The metrics of the service in OpenMetrics 1.0. Counters and histograms are updated by each request. Gauges are read from
//! the pool at each scrape.

use std::fmt::Write;
use std::time::Duration;

use cofferdam_protocol::status::ResetReport;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::admission::QueueLoad;
use crate::answer::Answer;
use crate::application::ApplicationMetric;
use crate::problem::Problem;
use cofferdam_pool::{DeathCounts, Health, SlotState};

/// The buckets of the histograms, in seconds: a job takes between microseconds and minutes.
const BUCKETS: [f64; 16] = [
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 5.0,
    30.0,
];

/// The value of a label, from a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LabelValue(&'static str);

impl EncodeLabelValue for LabelValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: LabelValue,
    verdict: LabelValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: LabelValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: LabelValue,
}

/// The metrics that each request updates.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    guest: Family<KindLabels, Histogram, fn() -> Histogram>,
    overhead: Family<KindLabels, Histogram, fn() -> Histogram>,
    queued: Family<KindLabels, Histogram, fn() -> Histogram>,
    retries: Counter,
    resets: Histogram,
    reset_bytes: Counter,
    pub(crate) connections: Gauge,
}

/// The values that are read at each scrape.
pub(crate) struct CurrentValues<'a> {
    pub(crate) health: &'a Health,
    pub(crate) deaths: &'a DeathCounts,
    pub(crate) load: QueueLoad,
    /// Bytes of bodies that are held in memory.
    pub(crate) held_bytes: u64,
    pub(crate) ready: bool,
    pub(crate) profile: &'a str,
    /// The metrics of the application over the service.
    pub(crate) application: Vec<ApplicationMetric>,
}

fn latencies() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let histograms =
            || Family::<KindLabels, Histogram, fn() -> Histogram>::new_with_constructor(latencies);
        let metrics = Self {
            registry: Registry::with_prefix("cofferdam"),
            requests: Family::default(),
            refused: Family::default(),
            guest: histograms(),
            overhead: histograms(),
            queued: histograms(),
            retries: Counter::default(),
            resets: latencies(),
            reset_bytes: Counter::default(),
            connections: Gauge::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("requests", "Answered requests by verdict", self.requests.clone());
        registry.register("refused", "Requests without an answer by reason", self.refused.clone());
        registry.register("retries", "Attempts that failed because of the host", self.retries.clone());
        registry.register_with_unit("guest", "Time that the guest ran", Unit::Seconds, self.guest.clone());
        registry.register_with_unit(
            "overhead",
            "Time from submitting a job to the pool to its result, minus the time that the guest ran",
            Unit::Seconds,
            self.overhead.clone(),
        );
        registry.register_with_unit(
            "queued",
            "Time that a request waited for a worker",
            Unit::Seconds,
            self.queued.clone(),
        );
        registry.register_with_unit(
            "reset",
            "Time to reset a worker's memory after a job, which no request waits for. Of jobs in quick succession only some are measured",
            Unit::Seconds,
            self.resets.clone(),
        );
        registry.register_with_unit(
            "reset_written",
            "Bytes that the measured resets wrote",
            Unit::Bytes,
            self.reset_bytes.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        self
    }

    pub(crate) fn count(&self, answer: &Answer) {
        let kind = LabelValue(answer.kind.name());
        self.requests.get_or_create(&RequestLabels { kind, verdict: LabelValue(answer.outcome()) }).inc();
        if answer.is_from_memory() {
            // No worker ran this job, so it has no times.
            return;
        }
        let labels = KindLabels { kind };
        self.guest.get_or_create(&labels).observe(answer.exec.as_secs_f64());
        self.overhead.get_or_create(&labels).observe(answer.overhead.as_secs_f64());
        self.queued.get_or_create(&labels).observe(answer.queued.as_secs_f64());
        self.retries.inc_by(answer.lost_attempts() as u64);
    }

    pub(crate) fn count_refusal(&self, problem: &Problem) {
        self.refused.get_or_create(&RefusalLabels { reason: LabelValue(problem.kind()) }).inc();
    }

    pub(crate) fn count_reset(&self, report: ResetReport) {
        self.resets.observe(Duration::from_nanos(report.nanoseconds).as_secs_f64());
        self.reset_bytes.inc_by(report.dirty_bytes);
    }

    /// All metrics as text: those of this struct and `current`.
    pub(crate) fn to_text(&self, current: &CurrentValues<'_>) -> String {
        let mut text = String::new();
        // Writing to a `String` does not fail.
        let _ = encode(&mut text, &self.registry);
        let counted = text.trim_end().trim_end_matches("# EOF").to_owned();
        let mut read = String::new();
        let _ = encode(&mut read, &current_registry(current));
        counted + &read
    }
}

/// A registry with the values that are read at each scrape.
fn current_registry(current: &CurrentValues<'_>) -> Registry {
    let mut registry = Registry::with_prefix("cofferdam");
    let state = |state: SlotState| current.health.slots.iter().filter(|slot| slot.state == state).count();
    let workers = Family::<[(&str, &str); 1], Gauge>::default();
    for one in SlotState::ALL {
        workers.get_or_create(&[("state", one.name())]).set(whole(state(one) as u64));
    }
    registry.register("workers", "Worker slots by state", workers);
    let deaths = Family::<[(&str, &str); 1], Counter>::default();
    for (verdict, count) in current.deaths.iter() {
        deaths.get_or_create(&[("verdict", verdict.name())]).inc_by(count);
    }
    registry.register("deaths", "Workers that died by cause", deaths);
    let by_slot = || Family::<[(&str, String); 1], Gauge>::default();
    let (commit, resident) =
        (Family::<[(&str, String); 1], Gauge<f64, std::sync::atomic::AtomicU64>>::default(), by_slot());
    for slot in &current.health.slots {
        let label = [("slot", slot.slot.to_string())];
        if let Some(us) = slot.commit_us {
            commit.get_or_create(&label).set(Duration::from_micros(us).as_secs_f64());
        }
        if let Some(bytes) = slot.resident_bytes {
            resident.get_or_create(&label).set(whole(bytes));
        }
    }
    registry.register_with_unit(
        "commit",
        "Time that the worker took to commit its memory",
        Unit::Seconds,
        commit,
    );
    registry.register_with_unit(
        "resident",
        "Memory of the worker that was proven to be resident",
        Unit::Bytes,
        resident,
    );
    let waiting = Family::<[(&str, &str); 1], Gauge>::default();
    waiting.get_or_create(&[("kind", "block")]).set(whole(current.load.waiting_blocks as u64));
    waiting.get_or_create(&[("kind", "view")]).set(whole(current.load.waiting_views as u64));
    registry.register("waiting", "Requests that wait for a worker", waiting);
    registry.register(
        "running",
        "Requests that run on a worker",
        ConstGauge::new(whole(current.load.running as u64)),
    );
    registry.register_with_unit(
        "held",
        "Memory that bodies of requests and responses take",
        Unit::Bytes,
        ConstGauge::new(whole(current.held_bytes)),
    );
    registry.register(
        "quarantine",
        "Jobs in quarantine: they ended their workers and are answered from memory",
        ConstGauge::new(whole(current.health.quarantined as u64)),
    );
    registry.register(
        "ready",
        "1 if /readyz answers 200, otherwise 0",
        ConstGauge::new(i64::from(current.ready)),
    );
    let info = Info::new(
        [("version", env!("CARGO_PKG_VERSION").to_owned()), ("profile", current.profile.to_owned())].to_vec(),
    );
    registry.register("build", "The version of the program, and the profile that results depend on", info);
    for metric in &current.application {
        match metric.counter {
            true => registry.register(metric.name, metric.help, ConstCounter::new(metric.value)),
            false => registry.register(metric.name, metric.help, ConstGauge::new(metric.value)),
        }
    }
    registry
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
