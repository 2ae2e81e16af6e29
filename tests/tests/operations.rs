//! Every numeric and vector operation on every class of value, with the results that each host must come to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use cofferdam::pool::{Job, Limits};
use cofferdam_tests::support::guests::OPERATIONS;
use cofferdam_tests::support::operations::{all, text};
use cofferdam_tests::support::pool::{build, call, pairs, small};
use wasmparser::{Parser, Payload};

cofferdam::enable_test_support!();

/// A line for each operation, in the order of their numbers: its name, and the hash of its results in hexadecimal.
const EXPECTED: &str = include_str!("../guests/operations.txt");

/// With this variable set, the two files are written anew instead of compared. A change of a hash is a change of consensus.
const WRITE: &str = "COFFERDAM_WRITE_OPERATIONS";

fn guests(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("guests").join(file)
}

fn writes() -> bool {
    std::env::var_os(WRITE).is_some()
}

#[test]
fn the_guest_is_what_the_generator_makes() {
    if writes() {
        fs::write(guests("operations.wat"), text()).unwrap();
    }
    let checked_in = fs::read_to_string(guests("operations.wat")).unwrap();
    assert!(checked_in == text(), "set {WRITE}=1 to write it anew");
}

/// Each operation's hash, from a worker.
fn results() -> String {
    let text = if writes() { text() } else { OPERATIONS.to_owned() };
    let pool = build(small(text).memory(16 << 20).limits(Limits { retries: 0, ..Limits::default() }));
    let lines = all().into_iter().zip(0..).map(|(operation, number)| {
        let result = call(&pool, &Job::block(number, Vec::new()));
        let pairs = pairs(&result);
        let hash = u64::from_le_bytes(pairs[0].1.as_slice().try_into().expect("a hash has eight bytes"));
        assert_ne!(hash, 0, "{} has run", operation.name);
        format!("{} {hash:016x}\n", operation.name)
    });
    lines.collect()
}

#[test]
fn each_operation_gives_what_it_gave_on_other_machines() {
    let results = results();
    if writes() {
        fs::write(guests("operations.txt"), &results).unwrap();
        return;
    }
    let differ: Vec<_> =
        results.lines().zip(EXPECTED.lines()).filter(|(found, expected)| found != expected).collect();
    assert!(differ.is_empty(), "found and expected: {differ:#?}");
    assert_eq!(results.lines().count(), EXPECTED.lines().count());
}

/// Names of operators and the proposals that they are of, as the parser has them.
macro_rules! operators {
    ($( @$proposal:ident $op:ident $({ $($arg:ident: $ty:ty),* })? => $visit:ident ($($ann:tt)*) )*) => {
        &[$((stringify!($proposal), stringify!($op))),*]
    };
}
const OPERATORS: &[(&str, &str)] = wasmparser::for_each_operator!(operators);

/// What moves control and not values; and the four operations that no module may use.
const LEFT_OUT: [&str; 13] = [
    "Unreachable",
    "Nop",
    "Block",
    "LocalTee",
    "Else",
    "Br",
    "BrTable",
    "Return",
    "Drop",
    "F32x4RelaxedMadd",
    "F32x4RelaxedNmadd",
    "F64x2RelaxedMadd",
    "F64x2RelaxedNmadd",
];

#[test]
fn no_operation_is_missing() {
    let binary = wat::parse_str(text()).unwrap();
    let mut used = BTreeSet::new();
    for payload in Parser::new(0).parse_all(&binary) {
        if let Payload::CodeSectionEntry(body) = payload.unwrap() {
            for operator in body.get_operators_reader().unwrap() {
                let name = format!("{:?}", operator.unwrap());
                used.insert(name.split([' ', '(']).next().unwrap().to_owned());
            }
        }
    }
    let wanted = ["mvp", "sign_extension", "saturating_float_to_int", "simd", "relaxed_simd"];
    let missing: Vec<_> = OPERATORS
        .iter()
        .filter(|(proposal, name)| wanted.contains(proposal) && !LEFT_OUT.contains(name))
        .filter(|(_, name)| !used.contains(*name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(LEFT_OUT.iter().all(|name| !used.contains(*name)), "left out, and used");
    assert!(OPERATORS.iter().filter(|(proposal, _)| *proposal == "simd").count() >= 236);
}

#[test]
fn every_operation_has_a_block_among_the_bundled_ones() {
    let mut names = BTreeMap::new();
    all().into_iter().for_each(|operation| *names.entry(operation.name).or_insert(0) += 1);
    assert!(names.values().all(|count| *count == 1), "{names:?}");
    // Heights 0 to 438 are bundled: `cofferdam run --module operations.wat` runs them all.
    assert!(names.len() <= 439, "{}", names.len());
}
