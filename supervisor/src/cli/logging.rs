//! Logs to standard error, which share it with a progress bar.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

use super::error::CliError;

/// The bars that are on the terminal. Nothing is drawn where standard error is none.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging what `filter` lets through.
pub(super) fn init(filter: &str, format: LogFormat) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        CliError::Usage(format!("--log {filter}: {error}; try `info` or `cofferdam=debug`"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| AboveBars);
    let set = match format {
        LogFormat::Text => {
            tracing::subscriber::set_global_default(builder.with_ansi(io::stderr().is_terminal()).finish())
        }
        LogFormat::Json => {
            tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
        }
    };
    set.map_err(|error| CliError::Usage(format!("logging is set up already: {error}")))
}

/// A bar on standard error; `template` as indicatif's.
pub(super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    // A template is a constant of ours; should one be wrong, the default style serves.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = BARS.add(bar.with_style(style));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes whole log lines above the bars.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
