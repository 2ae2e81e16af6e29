//! Logs on standard error, together with progress bars.
//!
//! No function here waits for the reader of standard error, except [`finish`]. No function fails if there is no reader: see
//! [`stderr`].

mod bars;
mod stderr;
mod terminal;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

pub(super) use self::bars::bar;
use self::terminal::is_capable_terminal;
use super::error::CliError;

/// At the end of this process, how long it waits for one line to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, through `filter`.
///
/// # Errors
/// [`CliError::Usage`] if the filter does not parse.
pub(super) fn init(filter: &str, format: LogFormat) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(with_crates(filter)).map_err(|error| {
        CliError::Usage(format!("--log {filter}: {error}; give error, warn, info, debug or trace, or a filter such as cofferdam_pool=debug"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| AboveBars);
    let set = match format {
        LogFormat::Text => tracing::subscriber::set_global_default(builder.with_ansi(has_colour()).finish()),
        LogFormat::Json => {
            tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
        }
    };
    set.map_err(|error| CliError::Usage(format!("logging is set up already: {error}")))?;
    stderr::tell_losses_by(|lost| {
        tracing::warn!("{lost} lines of this log are missing, because standard error could not be written");
    });
    Ok(())
}

/// Prints panics of all threads with [`say`]. The panic hook of the standard library would wait for the reader of standard error.
pub(super) fn take_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let backtrace = Backtrace::capture();
        let mut words = format!("internal error: thread {:?} {panic}", thread.name().unwrap_or("unnamed"));
        if backtrace.status() == BacktraceStatus::Captured {
            words.push_str(&format!("\n{backtrace}"));
        }
        say(words);
        // A panic of the main thread ends the process without a call of `finish`.
        if thread.name() == Some("main") {
            finish();
        }
    }));
}

/// Prints a sentence on standard error, after the name of the command, whatever the filter of the log.
pub(super) fn say(words: impl Display) {
    say_as_it_is(&format!("cofferdam: {words}\n"));
}

/// As [`say`], without the name of the command.
pub(super) fn say_as_it_is(text: &str) {
    bars::above(|| stderr::write(text.as_bytes()));
}

/// Waits, for a short time, until the log is written.
pub(super) fn finish() {
    stderr::flush(FAREWELL);
}

/// Whether log lines have colours: on a terminal that has them, unless NO_COLOR is set (<https://no-color.org>).
pub(super) fn has_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && is_capable_terminal()
}

/// Writes whole log lines above the bars. Writing never fails: the logging library would print an error, and if it could not
/// print the error, it would panic in the thread that logs.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        bars::above(|| stderr::write(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Earlier modules of the crate `cofferdam` that have become crates or modules of other crates, with their new paths.
const MOVED: [(&str, &str); 10] = [
    ("cofferdam::agreement", "cofferdam_node::agreement"),
    ("cofferdam::blocks", "cofferdam_chain::blocks"),
    ("cofferdam::chain", "cofferdam_chain"),
    ("cofferdam::harness", "cofferdam_harness"),
    ("cofferdam::host", "cofferdam_pool::host"),
    ("cofferdam::http", "cofferdam_http"),
    ("cofferdam::node", "cofferdam_node"),
    ("cofferdam::pool", "cofferdam_pool"),
    ("cofferdam::snapshot", "cofferdam_store::snapshot"),
    ("cofferdam::store", "cofferdam_store"),
];

/// The filter with the paths of [`MOVED`] replaced by their new paths, so that older filters keep their meaning.
fn with_crates(filter: &str) -> String {
    MOVED.iter().fold(filter.to_owned(), |filter, (module, now)| filter.replace(module, now))
}

#[cfg(test)]
mod tests {
    use super::with_crates;

    #[test]
    fn filters_for_parts_that_have_become_crates_keep_their_meaning() {
        assert_eq!(
            with_crates("warn,cofferdam::pool=debug,cofferdam::blocks=info,cofferdam::guest=debug"),
            "warn,cofferdam_pool=debug,cofferdam_chain::blocks=info,cofferdam::guest=debug"
        );
    }
}
