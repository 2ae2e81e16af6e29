//! `cofferdam verify-proof`: whether a proof of the state tree proves a claim. The claim is that a key has a certain value, or
//! has none. The command asks no node and opens no store.
//!
//! The input is the answer of the JSON-RPC method `cofferdam_proof`: the whole answer, its `result`, or the `proof` in the
//! `result`. If the command line does not name a key or a value, the key and the value in the answer are the claim. The root
//! always comes from the command line, because the sender of the answer could choose a root that fits the proof.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Hash;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::args::{HexBytes, parse_hash};
use super::error::CliError;
use super::{logging, output};
use cofferdam_store::tree::{Proof, verify};

/// The most bytes that are read: a value as large as the default output limit (128 MiB) in hexadecimal, and a proof.
const MAX_ANSWER_BYTES: u64 = 260 << 20;

/// Arguments of `cofferdam verify-proof`.
#[derive(Debug, Args)]
pub(super) struct VerifyProofArgs {
    /// The state root, from a source that you trust: 64 hexadecimal digits, with or without 0x.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    root: Hash,

    /// The key, in hexadecimal [default: the key in the answer of cofferdam_proof].
    #[arg(long, value_name = "HEX")]
    key: Option<HexBytes>,

    /// Claim that the key has this value, in hexadecimal. 0x is a value of no bytes [default: the value in the answer of
    /// cofferdam_proof].
    #[arg(long, value_name = "HEX", conflicts_with = "absent")]
    value: Option<HexBytes>,

    /// Claim that the key has no value.
    #[arg(long)]
    absent: bool,

    /// Print one JSON object instead of a line of text.
    #[arg(long)]
    json: bool,

    /// The answer of cofferdam_proof, its result, or the proof in it; - for standard input.
    #[arg(value_name = "PROOF.json|-")]
    proof: PathBuf,
}

#[derive(Debug, Serialize)]
struct VerifyReport {
    verified: bool,
    reason: Option<String>,
}

/// What `cofferdam_proof` answers.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    message: String,
}

/// The result of `cofferdam_proof`.
#[derive(Deserialize)]
struct ProofResult<'a> {
    key: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    proof: Option<&'a RawValue>,
}

/// Reads a field that exists. `null` is kept, because it says that the key has no value. A missing field does not say this.
fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(field).map(Some)
}

/// The claim about a key, and the proof.
struct Claim {
    key: Vec<u8>,
    /// The value; none for no value.
    value: Option<Vec<u8>>,
    proof: Proof,
}

/// Runs the command.
pub(super) fn run(args: &VerifyProofArgs) -> Result<CommandExit, CliError> {
    let bytes = read(&args.proof)?;
    let claim = match claim(args, &bytes) {
        Err(Refusal::Usage(reason)) => return Err(CliError::Usage(reason)),
        Err(Refusal::NoProof(reason)) => Err(reason),
        Ok(claim) => Ok(claim),
    };
    let verified = claim.and_then(|claim| {
        verify(args.root, &claim.key, claim.value.as_deref(), &claim.proof)
            .map_err(|error| format!("not verified: {error}"))?;
        Ok(claim)
    });
    let exit = if verified.is_ok() { CommandExit::Success } else { CommandExit::Failure };
    let text = match (verified, args.json) {
        (verified, true) => {
            let report = VerifyReport { verified: verified.is_ok(), reason: verified.err() };
            serde_json::to_string(&report).map_err(io::Error::other)
        }
        (Ok(claim), false) => Ok(sentence(args, &claim)),
        (Err(reason), false) => {
            logging::say(reason);
            return Ok(exit);
        }
    };
    output::print(text)?;
    Ok(exit)
}

/// Why there is nothing to verify.
enum Refusal {
    /// The command line does not say what is claimed, and neither does the file.
    Usage(String),
    /// The file is no proof.
    NoProof(String),
}

/// The claim: from the command line, or else from the answer that has the proof.
fn claim(args: &VerifyProofArgs, bytes: &[u8]) -> Result<Claim, Refusal> {
    let no_proof = |error: &dyn std::fmt::Display| Refusal::NoProof(error.to_string());
    let (result, proof) = unwrap(bytes).map_err(Refusal::NoProof)?;
    let usage = |missing: &str| {
        Refusal::Usage(format!("{missing}, and the file is no result of cofferdam_proof that names one"))
    };
    let hexadecimal =
        |text: &str| text.parse::<HexBytes>().map(|bytes| bytes.0).map_err(|error| no_proof(&error));
    let key = match (&args.key, result.as_ref().and_then(|result| result.key.as_deref())) {
        (Some(key), _) => key.0.clone(),
        (None, Some(key)) => hexadecimal(key)?,
        (None, None) => return Err(usage("give --key")),
    };
    let value = match (&args.value, args.absent, result.and_then(|result| result.value)) {
        (Some(value), ..) => Some(value.0.clone()),
        (None, true, _) => None,
        (None, false, Some(value)) => {
            let value: Option<String> =
                serde_json::from_str(value.get()).map_err(|error| no_proof(&error))?;
            value.as_deref().map(hexadecimal).transpose()?
        }
        (None, false, None) => return Err(usage("give --value or --absent")),
    };
    let proof = Proof::from_json(proof).map_err(|error| no_proof(&error))?;
    Ok(Claim { key, value, proof })
}

/// The result in an answer of `cofferdam_proof`, if there is one, and the JSON of the proof.
fn unwrap(bytes: &[u8]) -> Result<(Option<ProofResult<'_>>, &[u8]), String> {
    let answer = serde_json::from_slice::<Answer<'_>>(bytes).ok();
    if let Some(RpcError { message }) = answer.as_ref().and_then(|answer| answer.error.as_ref()) {
        return Err(format!("the answer has no proof but an error: {message:?}"));
    }
    let inner = answer.and_then(|answer| answer.result).map_or(bytes, |result| result.get().as_bytes());
    match serde_json::from_slice::<ProofResult<'_>>(inner) {
        Ok(ProofResult { proof: Some(proof), key, value }) => {
            Ok((Some(ProofResult { key, value, proof: None }), proof.get().as_bytes()))
        }
        _ => Ok((None, inner)),
    }
}

fn sentence(args: &VerifyProofArgs, claim: &Claim) -> String {
    let key = match args.key {
        Some(_) => "the key".to_owned(),
        // Whoever did not give the key wants to know which one the answer is about.
        None => format!("the key 0x{}", hex::encode(&claim.key)),
    };
    match &claim.value {
        Some(value) => format!("verified: the state has this value of {} bytes for {key}", value.len()),
        None => format!("verified: the state has no value for {key}"),
    }
}

/// Reads the file, or standard input.
fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(MAX_ANSWER_BYTES).read_to_end(&mut bytes),
        false => File::open(path).and_then(|file| file.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)),
    };
    read.map_err(|source| CliError::File { path: path.to_owned(), source })?;
    Ok(bytes)
}
