//! `cofferdam verify-proof`, given proofs that this test makes from the documented form alone, with SHA-256 and nothing of
//! the tree's own code: a client in another language has no more.

use cofferdam_tests::support::command::{Cofferdam, Files, Output, text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type Hash = [u8; 32];

fn sha256(parts: &[&[u8]]) -> Hash {
    Sha256::digest(parts.concat()).into()
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn leaf(key: &[u8], value: &[u8]) -> Hash {
    sha256(&[b"JMT::LeafNode", &sha256(&[key]), &sha256(&[value])])
}

fn first_bit(key: &[u8]) -> bool {
    sha256(&[key])[0] >= 0x80
}

/// A state of two keys whose hashes differ in the first bit, so that each leaf is the other's only sibling.
struct State {
    left: &'static [u8],
    right: Vec<u8>,
    /// A key that is not there, and would stand where the right one is.
    absent: Vec<u8>,
}

const LEFT_VALUE: &[u8] = b"left";

impl State {
    fn new() -> Self {
        let mut rights = (0u8..).map(|number| vec![number]).filter(|key| first_bit(key));
        let mut two = || rights.next().expect("half of all keys");
        let (right, absent) = (two(), two());
        let left = [b"a".as_slice(), b"b", b"c", b"d", b"e"].into_iter().find(|key| !first_bit(key));
        Self { left: left.expect("one of five"), right, absent }
    }

    fn root(&self) -> String {
        hex(&sha256(&[b"JMT::IntrnalNode", &leaf(self.left, LEFT_VALUE), &leaf(&self.right, b"")]))
    }

    /// The proof whose way ends at the right key, which has the value of no bytes.
    fn right_proof(&self) -> Value {
        json!({
            "leaf": {"key_hash": hex(&sha256(&[&self.right])), "value_hash": hex(&sha256(&[b""]))},
            "siblings": [hex(&leaf(self.left, LEFT_VALUE))],
        })
    }

    fn left_proof(&self) -> Value {
        json!({
            "siblings": [hex(&leaf(&self.right, b""))],
            "leaf": {"value_hash": hex(&sha256(&[LEFT_VALUE])), "key_hash": hex(&sha256(&[self.left]))},
        })
    }
}

fn verify(root: &str, key: &[u8], claim: &[&str], proof: &Value) -> Output {
    let command = Cofferdam::new(["verify-proof", "--root", root, "--key", &hex(key)]);
    claim.iter().fold(command, |command, word| command.arg(*word)).arg("-").stdin(proof.to_string()).output()
}

#[test]
fn values_and_absence_are_verified_from_the_documented_form() {
    let state = State::new();
    let root = state.root();
    let left = verify(&root, state.left, &["--value", &hex(LEFT_VALUE)], &state.left_proof()).expect_code(0);
    assert_eq!(left.stdout().trim(), "verified: the state has this value of 4 bytes for the key");
    verify(&root, &state.right, &["--value", "0x"], &state.right_proof()).expect_code(0);
    let absent = verify(&root, &state.absent, &["--absent"], &state.right_proof()).expect_code(0);
    assert_eq!(absent.stdout().trim(), "verified: the state has no value for the key");
}

#[test]
fn digits_may_come_without_0x_and_the_proof_from_a_file() {
    let state = State::new();
    let files = Files::new();
    let path = files.add("proof.json", state.left_proof().to_string());
    let root = state.root();
    Cofferdam::new(["verify-proof", "--json", "--value"])
        .arg(hex::encode(LEFT_VALUE))
        .with(&format!("--root {} --key {}", &root[2..], hex::encode(state.left)))
        .arg(path)
        .output()
        .expect_code(0);
}

#[test]
fn the_answer_of_cofferdam_proof_is_taken_as_it_is() {
    let state = State::new();
    let root = state.root();
    let result = |key: &[u8], value: Value, proof: Value| json!({"height": 7, "root": hex(&[9; 32]), "key": hex(key), "value": value, "proof": proof});
    let verify = |claim: &[&str], answer: &Value| {
        let command = Cofferdam::new(["verify-proof", "--root", &root]);
        claim
            .iter()
            .fold(command, |command, word| command.arg(*word))
            .arg("-")
            .stdin(answer.to_string())
            .output()
    };
    let left = result(state.left, hex(LEFT_VALUE).into(), state.left_proof());
    let absent = result(&state.absent, Value::Null, state.right_proof());
    for answer in [left.clone(), json!({"jsonrpc": "2.0", "id": 1, "result": left})] {
        let told = verify(&[], &answer).expect_code(0);
        let said = format!("verified: the state has this value of 4 bytes for the key {}", hex(state.left));
        assert_eq!(told.stdout().trim(), said);
        // What the command line claims counts for more than the answer.
        let key = hex(state.left);
        verify(&["--key", &key, "--value", &hex(LEFT_VALUE)], &answer).expect_code(0);
        let refused = verify(&["--value", "0x00"], &answer).expect_code(1);
        assert!(refused.reason().contains("value with the SHA-256"), "{refused}");
        verify(&["--key", &hex(&state.right)], &answer).expect_code(1);
        verify(&["--absent"], &answer).expect_code(1);
    }
    let told = verify(&[], &absent).expect_code(0);
    assert!(told.stdout().starts_with("verified: the state has no value for the key 0x"), "{told}");
    // A proof alone does not say what it is of, and an error has none.
    let bare = verify(&["--absent"], &state.right_proof()).expect_code(2);
    assert!(bare.reason().contains("give --key"), "{bare}");
    let bare = verify(&["--key", "00"], &state.right_proof()).expect_code(2);
    assert!(bare.reason().contains("give --value or --absent"), "{bare}");
    let error = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32003, "message": "not yet"}});
    let error = verify(&[], &error).expect_code(1);
    assert!(error.reason().contains("an error: \"not yet\""), "{error}");
}

/// Root, key, what is claimed of it, and the reason why the proof does not show that.
type Case<'c> = (&'c str, &'c [u8], &'c [&'c str], &'c str);

#[test]
fn whatever_the_proof_does_not_show_ends_with_1_and_the_reason() {
    let state = State::new();
    let (root, right) = (state.root(), state.right_proof());
    let other_root = hex(&[0; 32]);
    let left_value = hex(LEFT_VALUE);
    let cases: [Case<'_>; 5] = [
        (&root, &state.right, &["--absent"], "shows a value of the key"),
        (&root, &state.right, &["--value", &left_value], "value with the SHA-256"),
        (&root, &state.absent, &["--value", "0x"], "absence of a value"),
        (&root, state.left, &["--absent"], "another key"),
        (&other_root, &state.right, &["--value", "0x"], "leads to the root"),
    ];
    for (root, key, claim, reason) in cases {
        let refused = verify(root, key, claim, &right).expect_code(1);
        assert!(refused.reason().contains(reason), "{}", refused.reason());
        let json = verify(root, key, &[claim, &["--json"]].concat(), &right).expect_code(1).object();
        assert_eq!(json["verified"], json!(false));
        assert!(text(&json, "reason").contains(reason));
    }
    let verified = verify(&root, &state.right, &["--value", "0x", "--json"], &right).expect_code(0).object();
    assert_eq!(verified, json!({"verified": true, "reason": null}));
}

#[test]
fn what_is_no_proof_ends_with_1() {
    let state = State::new();
    let too_long = json!({"leaf": null, "siblings": vec![hex(&[0; 32]); 257]});
    let endless = Value::String("x".repeat(1 << 20));
    for (proof, reason) in
        [(json!({}), "not a proof"), (too_long, "at most 256"), (endless, "at most 65536 bytes")]
    {
        let refused = verify(&state.root(), b"key", &["--absent"], &proof).expect_code(1);
        assert!(refused.reason().contains(reason), "{}", refused.reason());
    }
    let missing = Cofferdam::new(["verify-proof", "--root", &state.root(), "--key", "00", "--absent"]);
    let missing = missing.arg("/nowhere/proof.json").output().expect_code(1);
    assert!(missing.reason().contains("/nowhere/proof.json"), "{}", missing.reason());
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let root = "00".repeat(32);
    let wrong = [
        format!("--root {root} --key 00 -"),
        format!("--root {root} --key 00 --absent --value 00 -"),
        format!("--root {root} --key 0 --absent -"),
        format!("--root {root}00 --key 00 --absent -"),
        format!("--root {root} --key 00 --absent"),
    ];
    for arguments in wrong {
        Cofferdam::new(["verify-proof"]).with(&arguments).output().expect_code(2);
    }
}
