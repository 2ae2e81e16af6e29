//! `cofferdam verify-proof`: whether a proof of the state tree shows what somebody says. It asks no node and opens no
//! store.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgGroup, Args};
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Hash;
use serde::Serialize;

use super::error::CliError;
use super::{logging, output};
use cofferdam_store::tree::{MAX_PROOF_BYTES, Proof, verify};

/// Arguments of `cofferdam verify-proof`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("claim").required(true).args(["value", "absent"]))]
pub(super) struct VerifyProofArgs {
    /// The state root, from somebody who is trusted: 64 hexadecimal digits, with or without 0x.
    #[arg(long, value_name = "HEX", value_parser = parse_root)]
    root: Hash,

    /// The key, in hexadecimal.
    #[arg(long, value_name = "HEX")]
    key: HexBytes,

    /// The value that the key is said to have, in hexadecimal. 0x is a value of no bytes.
    #[arg(long, value_name = "HEX")]
    value: Option<HexBytes>,

    /// Say that the key has no value.
    #[arg(long)]
    absent: bool,

    /// One JSON object instead of a line of text.
    #[arg(long)]
    json: bool,

    /// The proof, or - for standard input.
    #[arg(value_name = "PROOF.json|-")]
    proof: PathBuf,
}

/// Bytes as they are written on a command line.
#[derive(Clone, Debug)]
struct HexBytes(Vec<u8>);

impl FromStr for HexBytes {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text.strip_prefix("0x").unwrap_or(text)).map(Self)
    }
}

#[derive(Debug, Serialize)]
struct VerifyReport {
    verified: bool,
    reason: Option<String>,
}

pub(super) fn run(args: &VerifyProofArgs) -> Result<CommandExit, CliError> {
    let bytes = read_proof(&args.proof)?;
    let value = args.value.as_ref().map(|value| value.0.as_slice());
    let refused = Proof::from_json(&bytes).map_err(|error| error.to_string()).and_then(|proof| {
        verify(args.root, &args.key.0, value, &proof).map_err(|error| format!("not verified: {error}"))
    });
    let reason = refused.err();
    let exit = if reason.is_none() { CommandExit::Success } else { CommandExit::Failure };
    let text = match (reason, args.json) {
        (reason, true) => {
            let report = VerifyReport { verified: reason.is_none(), reason };
            serde_json::to_string(&report).map_err(io::Error::other)
        }
        (None, false) => Ok(sentence(args.value.as_ref())),
        (Some(reason), false) => {
            logging::say(reason);
            return Ok(exit);
        }
    };
    output::print(text)?;
    Ok(exit)
}

fn sentence(value: Option<&HexBytes>) -> String {
    match value {
        Some(value) => format!("verified: the state has this value of {} bytes for the key", value.0.len()),
        None => "verified: the state has no value for the key".to_owned(),
    }
}

/// Reads one byte more than a proof may have at most, so that a longer one is refused by its length.
fn read_proof(path: &Path) -> Result<Vec<u8>, CliError> {
    let limit = MAX_PROOF_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(limit).read_to_end(&mut bytes),
        false => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map_err(|source| CliError::File { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn parse_root(text: &str) -> Result<Hash, String> {
    let HexBytes(bytes) = text.parse().map_err(|error: hex::FromHexError| error.to_string())?;
    let length = bytes.len();
    let bytes = bytes.try_into().map_err(|_| format!("a root has 32 bytes, and this has {length}"))?;
    Ok(Hash(bytes))
}
