//! Snapshots by the real command: taken while a run goes on, gone on from elsewhere, and never half of one taken for whole,
//! whatever was damaged, forged, full or killed.

mod commands;
mod damage;
mod interruptions;

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam::profile::Hash;
use cofferdam::store::{BlockRecord, Durability, Identity, Store};
use cofferdam::verdict::GuestVerdict;
use cofferdam::writes::Writes;
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cofferdam, content, cut_records, guest, number, record, text,
    wait_until,
};
use cofferdam_tests::support::random::Random;
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The first `count` blocks of mainnet, in one file.
fn chain(files: &Files, count: usize) -> PathBuf {
    let bytes: Vec<u8> = cut_records(EARLY_RECORDS)[..count].iter().flat_map(|block| record(block)).collect();
    files.add(&format!("first-{count}.blk"), bytes)
}

fn index(blocks: &Path, db: &Path) -> Cofferdam<'static> {
    Cofferdam::run().path("--blocks", blocks).path("--db-path", db)
}

fn snapshot(command: &str) -> Cofferdam<'static> {
    Cofferdam::new(["snapshot", command])
}

fn take(db: &Path, to: &Path) -> Cofferdam<'static> {
    snapshot("take").path("--db-path", db).path("--to", to).with("--json")
}

fn verify(path: &Path) -> Cofferdam<'static> {
    snapshot("verify").arg(path).with("--json")
}

fn restore(path: &Path, db: &Path) -> Cofferdam<'static> {
    snapshot("restore").arg(path).path("--db-path", db).with("--json")
}

/// Where the command says that it is.
fn path(output: &Output) -> PathBuf {
    text(&output.object(), "path").into()
}

/// The names in a directory, without those of locks.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("it can be listed").file_name().display().to_string());
    let mut names: Vec<_> = names.filter(|name| !name.ends_with(".lock")).collect();
    names.sort();
    names
}

/// A store of one block and some megabytes that nobody can compress, as no run makes them so quickly.
fn large_store(files: &Files, mebibytes: usize) -> PathBuf {
    let profile = Hash::of(b"profile");
    let store = Store::open(&files.at("large"), &Identity { profile, network: None }, Durability::None);
    let mut random = Random::new(7);
    let value = (0..mebibytes << 17).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
    // One pair: each field after its length.
    let mut pairs = Vec::new();
    for field in [b"key".to_vec(), value] {
        pairs.extend(u32::try_from(field.len()).expect("some megabytes").to_le_bytes());
        pairs.extend(field);
    }
    let writes = Writes::parse(pairs).expect("pairs");
    let record = BlockRecord {
        height: 5,
        hash: [5; 32],
        digest: Hash::of(b"digest"),
        verdict: GuestVerdict::Completed,
        writes: writes.count(),
        writes_sha256: writes.hash(),
    };
    store.and_then(|store| store.commit(&record, &writes)).expect("it can be written");
    files.at("large")
}
