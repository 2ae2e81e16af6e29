//! Metrics in Prometheus' text format (OpenMetrics 1.0): counted as things happen, and read off the pool when somebody
//! asks.

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

use super::answer::Answer;
use super::extension::Figure;
use super::gate::Load;
use super::problem::Problem;
use cofferdam_pool::{DeathCounts, Health, SlotState};

/// Bounds of latencies in seconds: a job may take microseconds or minutes.
const SECONDS: [f64; 16] = [
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 5.0,
    30.0,
];

/// A word of a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    kind: Word,
    verdict: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: Word,
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<OfVerdict, Counter>,
    refused: Family<OfReason, Counter>,
    guest: Family<OfKind, Histogram, fn() -> Histogram>,
    overhead: Family<OfKind, Histogram, fn() -> Histogram>,
    queued: Family<OfKind, Histogram, fn() -> Histogram>,
    retries: Counter,
    resets: Histogram,
    reset_bytes: Counter,
    pub(super) connections: Gauge,
}

/// What is read off at the moment of asking.
pub(super) struct Now<'a> {
    pub(super) health: &'a Health,
    pub(super) deaths: &'a DeathCounts,
    pub(super) load: Load,
    pub(super) held_bytes: u64,
    pub(super) ready: bool,
    pub(super) profile: &'a str,
    /// What the application over the service adds.
    pub(super) figures: Vec<Figure>,
}

fn latencies() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub(super) fn new() -> Self {
        let histograms = || Family::<OfKind, Histogram, fn() -> Histogram>::new_with_constructor(latencies);
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
        registry.register("requests", "Answered requests by what came of them", self.requests.clone());
        registry.register("refused", "Requests that got no answer, by why", self.refused.clone());
        registry.register("retries", "Attempts that were lost to the host", self.retries.clone());
        registry.register_with_unit("guest", "The guest's own time", Unit::Seconds, self.guest.clone());
        registry.register_with_unit(
            "overhead",
            "From handing a job to the pool to its result, without the guest's own time",
            Unit::Seconds,
            self.overhead.clone(),
        );
        registry.register_with_unit("queued", "Waiting for a turn", Unit::Seconds, self.queued.clone());
        registry.register_with_unit(
            "reset",
            "Making a worker's memory pristine after a job, off its way; of jobs in quick succession only some are seen",
            Unit::Seconds,
            self.resets.clone(),
        );
        registry.register_with_unit(
            "reset_written",
            "Bytes that were written to make memory pristine, in the resets that were seen",
            Unit::Bytes,
            self.reset_bytes.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        self
    }

    pub(super) fn count(&self, answer: &Answer) {
        let kind = Word(answer.lane.name());
        self.requests.get_or_create(&OfVerdict { kind, verdict: Word(answer.word()) }).inc();
        if answer.is_from_memory() {
            // It took no time of the pool's.
            return;
        }
        let of = OfKind { kind };
        self.guest.get_or_create(&of).observe(answer.exec.as_secs_f64());
        self.overhead.get_or_create(&of).observe(answer.overhead.as_secs_f64());
        self.queued.get_or_create(&of).observe(answer.queued.as_secs_f64());
        self.retries.inc_by(answer.lost() as u64);
    }

    pub(super) fn count_refusal(&self, problem: &Problem) {
        self.refused.get_or_create(&OfReason { reason: Word(problem.kind()) }).inc();
    }

    pub(super) fn count_reset(&self, report: ResetReport) {
        self.resets.observe(Duration::from_nanos(report.nanoseconds).as_secs_f64());
        self.reset_bytes.inc_by(report.dirty_bytes);
    }

    /// Everything, as text.
    pub(super) fn to_text(&self, now: &Now<'_>) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        let counted = text.trim_end().trim_end_matches("# EOF").to_owned();
        let mut read = String::new();
        let _ = encode(&mut read, &moment(now));
        counted + &read
    }
}

/// What is read off, as a registry of its own.
fn moment(now: &Now<'_>) -> Registry {
    let mut registry = Registry::with_prefix("cofferdam");
    let state = |state: SlotState| now.health.slots.iter().filter(|slot| slot.state == state).count();
    let workers = Family::<[(&str, &str); 1], Gauge>::default();
    for one in SlotState::ALL {
        workers.get_or_create(&[("state", one.name())]).set(whole(state(one) as u64));
    }
    registry.register("workers", "Slots by what they are doing", workers);
    let deaths = Family::<[(&str, &str); 1], Counter>::default();
    for (verdict, count) in now.deaths.iter() {
        deaths.get_or_create(&[("verdict", verdict.name())]).inc_by(count);
    }
    registry.register("deaths", "Workers that ended unasked, by how", deaths);
    let by_slot = || Family::<[(&str, String); 1], Gauge>::default();
    let (commit, resident) =
        (Family::<[(&str, String); 1], Gauge<f64, std::sync::atomic::AtomicU64>>::default(), by_slot());
    for slot in &now.health.slots {
        let label = [("slot", slot.slot.to_string())];
        if let Some(us) = slot.commit_us {
            commit.get_or_create(&label).set(Duration::from_micros(us).as_secs_f64());
        }
        if let Some(bytes) = slot.resident_bytes {
            resident.get_or_create(&label).set(whole(bytes));
        }
    }
    registry.register_with_unit("commit", "What the worker's commit took", Unit::Seconds, commit);
    registry.register_with_unit("resident", "Memory that was proven resident", Unit::Bytes, resident);
    let waiting = Family::<[(&str, &str); 1], Gauge>::default();
    waiting.get_or_create(&[("kind", "block")]).set(whole(now.load.blocks as u64));
    waiting.get_or_create(&[("kind", "view")]).set(whole(now.load.views as u64));
    registry.register("waiting", "Requests that wait for a turn", waiting);
    registry.register("running", "Requests that have a turn", ConstGauge::new(whole(now.load.inside as u64)));
    registry.register_with_unit(
        "held",
        "Bodies and answers that are held",
        Unit::Bytes,
        ConstGauge::new(whole(now.held_bytes)),
    );
    registry.register(
        "quarantine",
        "Jobs in quarantine: they ended their workers, and are answered from memory",
        ConstGauge::new(whole(now.health.quarantined as u64)),
    );
    registry.register("ready", "Whether /readyz says yes", ConstGauge::new(i64::from(now.ready)));
    let info = Info::new(
        [("version", env!("CARGO_PKG_VERSION").to_owned()), ("profile", now.profile.to_owned())].to_vec(),
    );
    registry.register("build", "Which program, and what results depend on", info);
    for figure in &now.figures {
        match figure.counter {
            true => registry.register(figure.name, figure.help, ConstCounter::new(figure.value)),
            false => registry.register(figure.name, figure.help, ConstGauge::new(figure.value)),
        }
    }
    registry
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
