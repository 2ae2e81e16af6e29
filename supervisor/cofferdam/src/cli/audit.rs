//! `cofferdam audit`: whether nodes have the same results, and if not, which is the first block whose results differ.

mod report;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;

use self::report::{AuditReport, Failed, Told};
use super::error::CliError;
use super::run::print_json;
use cofferdam_base::Secret;
use cofferdam_node::agreement::audit::{self, Audit, AuditError, DigestSource, LocalStore, Peer};

const AFTER_HELP: &str = "\
Each node is asked over JSON-RPC for `cofferdam_info` and `cofferdam_digest`: twice if the nodes agree, and about twenty times
for a chain of 900,000 blocks if they differ.

Exit codes:
  0    the nodes agree up to the last height that all of them have
  1    the nodes differ: the first block that differs is printed
  2    the nodes cannot be compared: different profiles or networks, no answer, no common height, or a wrong command line";

/// Arguments of `cofferdam audit`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct AuditArgs {
    /// The JSON-RPC address of a node: http://HOST:PORT. Can be given several times.
    #[arg(long, value_name = "URL", required = true)]
    peer: Vec<Secret>,

    /// The directory of a store to compare, too. A node may be writing to the store.
    #[arg(long, value_name = "DIR")]
    db_path: Option<PathBuf>,

    /// Compare up to this height [default: the last height that all nodes have].
    #[arg(long, value_name = "HEIGHT")]
    at: Option<u32>,

    /// How long a node may take for one answer.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &AuditArgs) -> Result<CommandExit, CliError> {
    let audited = compare(args);
    if args.json {
        let printed = match &audited {
            Ok(audit) => print_json(&AuditReport::new(audit)),
            Err(error) => print_json(&Failed::new(error)),
        };
        unless_closed(printed)?;
    }
    let audit = audited.map_err(|error| CliError::from(error).not_compared())?;
    if !args.json {
        unless_closed(writeln!(io::stdout(), "{}", Told(&audit)).map_err(CliError::io("standard output")))?;
    }
    Ok(match audit.agrees() {
        Some(true) => CommandExit::Success,
        Some(false) => CommandExit::Failure,
        None => CommandExit::Usage,
    })
}

/// Ignores the error if the reader has closed the output: the exit code still tells the result.
fn unless_closed(printed: Result<(), CliError>) -> Result<(), CliError> {
    match printed {
        Err(CliError::StdoutClosed) => Ok(()),
        printed => printed,
    }
}

fn compare(args: &AuditArgs) -> Result<Audit, AuditError> {
    let mut peers = Vec::new();
    for (number, url) in (1..).zip(&args.peer) {
        let peer = Peer::new(url.expose(), args.timeout);
        peers.push(peer.map_err(|reason| AuditError::Url { number, reason })?);
    }
    let own = args.db_path.as_deref().map(|directory| {
        LocalStore::open(directory)
            .map_err(|error| AuditError::NotAnswered(vec![(directory.display().to_string(), error)]))
    });
    let own = own.transpose()?;
    let nodes = own
        .iter()
        .map(|own| own as &dyn DigestSource)
        .chain(peers.iter().map(|peer| peer as &dyn DigestSource));
    audit::audit(&nodes.collect::<Vec<_>>(), args.at)
}
