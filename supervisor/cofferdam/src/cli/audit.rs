//! `cofferdam audit`: whether nodes came to the same results, and if not, from which block on.

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
use cofferdam_node::agreement::audit::{self, Audit, AuditError, Node, OwnStore, Peer};

const AFTER_HELP: &str = "\
A peer is asked for `cofferdam_info` and `cofferdam_digest` over JSON-RPC, some twenty times for a chain of 900,000 blocks
if it differs, and twice if it does not.

Exit codes:
  0    the nodes agree up to their lowest common height
  1    they differ: the first block that differs is printed
  2    they cannot be compared: other profiles, no answer, no common height, a wrong command line";

/// Arguments of `cofferdam audit`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct AuditArgs {
    /// A node's JSON-RPC, http://HOST:PORT. May be given several times.
    #[arg(long, value_name = "URL", required = true)]
    peer: Vec<Secret>,

    /// Compare with the store in this directory, too, which a node may be writing.
    #[arg(long, value_name = "DIR")]
    db_path: Option<PathBuf>,

    /// Compare up to this height, instead of the lowest of the newest ones.
    #[arg(long, value_name = "HEIGHT")]
    at: Option<u32>,

    /// Time that a node may take for one answer.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// One JSON object instead of text.
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

/// Whoever reads no further still gets the exit code.
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
        OwnStore::open(directory)
            .map_err(|error| AuditError::Nodes(vec![(directory.display().to_string(), error)]))
    });
    let own = own.transpose()?;
    let nodes = own.iter().map(|own| own as &dyn Node).chain(peers.iter().map(|peer| peer as &dyn Node));
    audit::audit(&nodes.collect::<Vec<_>>(), args.at)
}
