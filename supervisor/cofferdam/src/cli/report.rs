//! The output of `run`: one JSON object for each block and a last object with the summary, or a table.

use std::collections::BTreeMap;
use std::time::Duration;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::status::ResetReport;
use cofferdam_protocol::verdict::Verdict;
use comfy_table::{ContentArrangement, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use cofferdam_base::size::Bytes;
use cofferdam_chain::Outcome;
use cofferdam_pool::{Health, JobResult, SlotHealth};

/// A block that is about to run, as a line of `--json`: the process may die in it.
#[derive(Debug, Serialize)]
pub(super) struct RunningLine {
    pub(super) running: u32,
}

/// One block, as a line of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct BlockLine {
    height: u32,
    hash: String,
    block_bytes: u64,
    verdict: &'static str,
    detail: String,
    attempts: usize,
    worker_pid: u32,
    writes: u64,
    writes_sha256: String,
    digest: Option<String>,
    committed: bool,
    exec_us: f64,
    overhead_us: f64,
    reset_us: Option<f64>,
    memory_bytes: u64,
    dirty_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_used: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<LostLine>,
}

/// An attempt that ended in a host verdict.
#[derive(Debug, Serialize)]
struct LostLine {
    worker_pid: u32,
    verdict: &'static str,
    detail: String,
}

impl BlockLine {
    /// The line of a block whose reset is not known yet.
    pub(super) fn new(outcome: &Outcome) -> Self {
        let result = &outcome.result;
        let lost = |attempt: &cofferdam_pool::FailedAttempt| LostLine {
            worker_pid: attempt.worker.pid,
            verdict: attempt.verdict.name(),
            detail: attempt.detail.clone(),
        };
        Self {
            height: outcome.height,
            hash: outcome.hash.to_string(),
            block_bytes: outcome.block_bytes,
            verdict: result.verdict.name(),
            detail: result.detail.clone(),
            attempts: result.attempts(),
            worker_pid: result.worker.pid,
            writes: result.writes().count(),
            writes_sha256: outcome.writes_sha256.to_string(),
            digest: outcome.digest.map(|digest| digest.to_string()),
            committed: outcome.committed,
            exec_us: micros(result.exec),
            overhead_us: micros(result.overhead),
            reset_us: None,
            memory_bytes: result.memory_bytes,
            dirty_bytes: None,
            fuel_used: result.fuel_used,
            lost: result.failed_attempts.iter().map(lost).collect(),
        }
    }

    /// Adds the time and the bytes of the worker's reset.
    pub(super) fn add_reset(&mut self, reset: ResetReport) {
        self.reset_us = Some(micros(Duration::from_nanos(reset.nanoseconds)));
        self.dirty_bytes = Some(reset.dirty_bytes);
    }
}

/// Microseconds, with the nanoseconds as decimals.
fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Percentiles of a time, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    p50: f64,
    p99: f64,
    max: f64,
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct SummaryLine<'a> {
    pub(super) summary: &'a Summary,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) blocks: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    pub(super) verdicts: BTreeMap<&'static str, u64>,
    pub(super) tip: Option<u32>,
    pub(super) digest: String,
    pub(super) profile: String,
    pub(super) db_path: Option<String>,
    pub(super) interrupted: bool,
    /// Why the run ended before its last block; none if the verdict of a block ended the run.
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
    pub(super) workers: Vec<WorkerLine>,
    pub(super) exec_us: Percentiles,
    pub(super) overhead_us: Percentiles,
    pub(super) reset_us: Percentiles,
    pub(super) deaths: u64,
}

/// One worker at the end of a run.
#[derive(Debug, Serialize)]
pub(super) struct WorkerLine {
    pid: u32,
    slot: usize,
    state: &'static str,
    commit_ms: f64,
    resident_bytes: u64,
    huge_bytes: u64,
    resident_now_bytes: Option<u64>,
    commit: String,
    reset: String,
}

impl WorkerLine {
    /// The worker of a slot; none if no worker is ready there.
    fn new(slot: &SlotHealth) -> Option<Self> {
        Some(Self {
            pid: slot.pid?,
            slot: slot.slot,
            state: slot.state.name(),
            commit_ms: micros(Duration::from_micros(slot.commit_us?)) / 1e3,
            resident_bytes: slot.resident_bytes?,
            huge_bytes: slot.huge_bytes.unwrap_or(0),
            resident_now_bytes: slot.resident_now(),
            commit: slot.commit.clone().unwrap_or_default(),
            reset: slot.reset.clone().unwrap_or_default(),
        })
    }

    /// Committed bytes that are not resident now, if the kernel tells.
    pub(super) fn missing_bytes(&self) -> Option<u64> {
        self.resident_now_bytes.map(|now| self.resident_bytes.saturating_sub(now))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }
}

/// The parts of a block's result that a [`Tally`] counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockTimes {
    verdict: Verdict,
    exec: Duration,
    overhead: Duration,
}

impl BlockTimes {
    pub(super) fn of(result: &JobResult) -> Self {
        Self { verdict: result.verdict, exec: result.exec, overhead: result.overhead }
    }
}

/// Counts while a run goes on.
#[derive(Debug)]
pub(super) struct Tally {
    blocks: u64,
    completed: u64,
    pub(super) skipped: u64,
    verdicts: BTreeMap<&'static str, u64>,
    exec: Histogram<u64>,
    overhead: Histogram<u64>,
    reset: Histogram<u64>,
}

impl Tally {
    /// A tally that starts at zero. `skipped` is the number of blocks that the store has already.
    pub(super) fn new(skipped: u64) -> Self {
        Self {
            blocks: 0,
            completed: 0,
            skipped,
            verdicts: BTreeMap::new(),
            exec: histogram(),
            overhead: histogram(),
            reset: histogram(),
        }
    }

    pub(super) fn add(&mut self, times: BlockTimes) {
        let BlockTimes { verdict, exec, overhead } = times;
        self.blocks += 1;
        self.completed += u64::from(verdict.is_completed());
        *self.verdicts.entry(verdict.name()).or_default() += 1;
        record(&mut self.overhead, nanos(overhead));
        if matches!(verdict, Verdict::Guest(_)) {
            record(&mut self.exec, nanos(exec));
        }
    }

    pub(super) fn add_reset(&mut self, report: ResetReport) {
        record(&mut self.reset, report.nanoseconds);
    }

    pub(super) fn failed(&self) -> u64 {
        self.blocks - self.completed
    }

    pub(super) fn summary(&self, chain: &ChainEnd, health: &Health) -> Summary {
        Summary {
            blocks: self.blocks,
            completed: self.completed,
            failed: self.failed(),
            skipped: self.skipped,
            verdicts: self.verdicts.clone(),
            tip: chain.tip,
            digest: chain.digest.to_string(),
            profile: chain.profile.to_string(),
            db_path: chain.db_path.clone(),
            interrupted: chain.interrupted,
            error: None,
            seconds: chain.elapsed.as_secs_f64(),
            workers: health.slots.iter().filter_map(WorkerLine::new).collect(),
            exec_us: percentiles(&self.exec),
            overhead_us: percentiles(&self.overhead),
            reset_us: percentiles(&self.reset),
            deaths: health.deaths(),
        }
    }
}

/// Where a run ended.
#[derive(Debug)]
pub(super) struct ChainEnd {
    pub(super) tip: Option<u32>,
    pub(super) digest: Hash,
    pub(super) profile: Hash,
    pub(super) db_path: Option<String>,
    pub(super) interrupted: bool,
    pub(super) elapsed: Duration,
}

/// A histogram with three significant digits over any range.
fn histogram() -> Histogram<u64> {
    // Three digits are always accepted, and an automatic range has no bound.
    Histogram::new(3).unwrap_or_else(|_| unreachable!("3 is within hdrhistogram's 0..=5"))
}

/// Counts `value`. The histogram grows to its range.
fn record(histogram: &mut Histogram<u64>, value: u64) {
    // This fails only for histograms that cannot grow, and these can.
    if histogram.record(value).is_err() {
        histogram.saturating_record(value);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let micros = |nanos| micros(Duration::from_nanos(nanos));
    Percentiles {
        p50: micros(histogram.value_at_quantile(0.5)),
        p99: micros(histogram.value_at_quantile(0.99)),
        max: micros(histogram.max()),
    }
}

impl Summary {
    /// The summary for people.
    pub(super) fn to_text(&self) -> String {
        format!("{}\n{}\n{}", self.worker_table(), self.time_table(), self.closing())
    }

    fn worker_table(&self) -> Table {
        let mut table =
            table(&["worker", "slot", "state", "commit", "resident", "in huge pages", "resident now"]);
        for worker in &self.workers {
            table.add_row([
                worker.pid.to_string(),
                worker.slot.to_string(),
                worker.state.to_owned(),
                format!("{:.0} ms ({})", worker.commit_ms, worker.commit),
                worker.resident_bytes.to_string(),
                Bytes(worker.huge_bytes).to_string(),
                worker.resident_now_bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string()),
            ]);
        }
        table
    }

    fn time_table(&self) -> Table {
        let mut table = table(&["per block", "p50", "p99", "max"]);
        let rows = [
            ("guest", self.exec_us),
            ("overhead", self.overhead_us),
            ("reset, after the answer", self.reset_us),
        ];
        for (name, times) in rows {
            let cell = |micros: f64| format!("{micros:.1} µs");
            table.add_row([name.to_owned(), cell(times.p50), cell(times.p99), cell(times.max)]);
        }
        table
    }

    fn closing(&self) -> String {
        let verdicts: Vec<String> =
            self.verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let verdicts = if verdicts.is_empty() { "none".to_owned() } else { verdicts.join(", ") };
        let known = match self.skipped {
            0 => String::new(),
            count => format!(", {count} were in the store already"),
        };
        let tip = self.tip.map_or_else(|| "none".to_owned(), |tip| tip.to_string());
        let interrupted = if self.interrupted { " (interrupted)" } else { "" };
        format!(
            "blocks   {} in {:.2} s{interrupted}{known}\nverdicts {verdicts}\ndeaths   {}\ntip      {tip}\n\
             profile  {}\ndigest   {}",
            self.blocks, self.seconds, self.deaths, self.profile, self.digest
        )
    }
}

/// An empty table with this header.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    table
}
