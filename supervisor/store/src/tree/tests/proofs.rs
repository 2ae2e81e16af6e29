//! Proofs: every correct proof is accepted at every height, and nothing else is.

use super::*;

/// All variants of some bytes with one bit changed.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len() * 8).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    })
}

fn json(proof: &Proof) -> Vec<u8> {
    serde_json::to_vec(proof).unwrap()
}

/// Whether these bytes are a proof of the claim.
fn proves(root: Hash, key: &[u8], value: Option<&[u8]>, json: &[u8]) -> bool {
    Proof::from_json(json).is_ok_and(|proof| verify(root, key, value, &proof).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_height_has_a_proof_of_every_key(blocks in blocks(30, 15, 8)) {
        let fixture = Fixture::new();
        for (height, pairs) in &blocks {
            fixture.apply(*height, pairs).unwrap();
        }
        for (height, state) in states(&blocks) {
            let root = fixture.root(height).unwrap();
            // Ten of these keys are never written.
            for key in (0..40).map(key) {
                let proof = fixture.prove(&key, height).unwrap();
                let value = state.get(&key).map(Vec::as_slice);
                prop_assert_eq!(verify(root, &key, value, &proof), Ok(()));
                prop_assert_eq!(&Proof::from_json(&json(&proof)).unwrap(), &proof);
                let (other, wrong) = match value {
                    Some(_) => (None, VerifyError::ShowsPresence),
                    None => (Some(b"".as_slice()), VerifyError::ShowsAbsence),
                };
                prop_assert_eq!(verify(root, &key, other, &proof), Err(wrong));
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
        let _ = Proof::from_json(&bytes);
    }

    /// Parts of a proof's JSON in random order. They are nearly valid, which random bytes never are.
    #[test]
    fn no_invalid_proof_panics(pieces in prop::collection::vec(piece(), 0..12)) {
        if let Ok(proof) = Proof::from_json(pieces.concat().as_bytes()) {
            prop_assert!(verify(Hash::default(), b"key", Some(b""), &proof).is_err());
            prop_assert!(verify(Hash::default(), b"key", None, &proof).is_err());
        }
    }
}

fn piece() -> impl Strategy<Value = String> {
    let hash = format!("\"0x{}\"", Hash::of(b"some"));
    let leaf = format!("{{\"key_hash\":{hash},\"value_hash\":{hash}}}");
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "\"leaf\"",
        "\"siblings\"",
        "\"0x\"",
        "\"",
        "1e999",
        "\"\\ud800\"",
        "{\"leaf\":",
        "{\"leaf\":null,\"siblings\":[",
        "]}",
    ];
    prop::sample::select(pieces.map(str::to_owned).into_iter().chain([hash, leaf]).collect::<Vec<_>>())
}

/// A tree of enough keys that a proof has siblings of every kind.
fn state() -> (Fixture, State, Hash) {
    let fixture = Fixture::new();
    let state: State = (0..50).map(|number| (key(number), vec![1; number as usize % 3])).collect();
    let root = fixture.apply(5, &state.clone().into_iter().collect()).unwrap();
    (fixture, state, root)
}

#[test]
fn one_changed_bit_of_a_proof_or_its_value_or_root_is_detected() {
    let (fixture, state, root) = state();
    for key in (0..60).map(key) {
        let value = state.get(&key).map(Vec::as_slice);
        let proof = json(&fixture.prove(&key, 5).unwrap());
        assert!(proves(root, &key, value, &proof));
        for changed in flipped(&proof) {
            assert!(!proves(root, &key, value, &changed), "{}", String::from_utf8_lossy(&changed));
        }
        for changed in flipped(&root.0) {
            assert!(!proves(Hash(changed.try_into().unwrap()), &key, value, &proof));
        }
        for changed in value.into_iter().flat_map(flipped) {
            assert!(!proves(root, &key, Some(&changed), &proof));
        }
    }
}

/// A proof of absence holds for every absent key with the same place in the tree, but never for a key that has a value.
#[test]
fn a_proof_never_shows_something_false_about_another_key() {
    let (fixture, state, root) = state();
    for own in (0..60).map(key) {
        let value = state.get(&own).map(Vec::as_slice);
        let proof = json(&fixture.prove(&own, 5).unwrap());
        for other in flipped(&own).take(256).chain((0..60).map(key)).filter(|other| *other != own) {
            let holds = proves(root, &other, value, &proof);
            assert!(!holds || (value.is_none() && !state.contains_key(&other)), "{own:?} {other:?}");
        }
    }
}

#[test]
fn a_longer_or_shorter_proof_is_refused() {
    let (fixture, state, root) = state();
    for key in (0..60).map(key) {
        let value = state.get(&key).map(Vec::as_slice);
        let proof = fixture.prove(&key, 5).unwrap();
        for place in 0..proof.siblings.len() {
            let (mut longer, mut shorter) = (proof.clone(), proof.clone());
            longer.siblings.insert(place, EMPTY);
            shorter.siblings.remove(place);
            assert!(
                verify(root, &key, value, &longer).is_err() && verify(root, &key, value, &shorter).is_err()
            );
        }
    }
}

#[test]
fn an_empty_state_proves_absence_and_a_height_without_a_version_has_no_proof() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.prove(b"key", 9), Err(TreeError::NoVersion { height: 9 })));
    let root = fixture.apply(5, &vec![]).unwrap();
    let proof = fixture.prove(b"key", 9).unwrap();
    assert_eq!(json(&proof), br#"{"leaf":null,"siblings":[]}"#);
    assert_eq!(verify(root, b"key", None, &proof), Ok(()));
    assert!(matches!(fixture.prove(b"key", 4), Err(TreeError::NoVersion { height: 4 })));
}

/// A leaf of the tree that is not at the place of the key does not prove that the key has no value.
#[test]
fn a_leaf_from_elsewhere_proves_no_absence() {
    let (fixture, _, root) = state();
    let (present, absent) = (key(7), b"absent".to_vec());
    let proof = fixture.prove(&present, 5).unwrap();
    assert!(matches!(verify(root, &absent, None, &proof), Err(VerifyError::Elsewhere { .. })));
}

#[test]
fn one_proof_has_one_form() {
    let (fixture, ..) = state();
    let text = String::from_utf8(json(&fixture.prove(&key(7), 5).unwrap())).unwrap();
    let doubled = text.replacen("{\"leaf\"", "{\"siblings\":[],\"leaf\"", 1);
    let wrong = [
        text.replace("0x", "0X"),
        text.replace("0x", ""),
        text.replacen("0x", "0x0", 1),
        text.to_uppercase().replace("0X", "0x").replace("LEAF", "leaf").replace("SIBLINGS", "siblings"),
        text.replacen("\"leaf\"", "\"leaf_\"", 1),
        text.replacen("{\"leaf\"", "{\"more\":1,\"leaf\"", 1),
        "{\"siblings\":[]}".to_owned(),
        "{\"leaf\":null}".to_owned(),
        doubled,
        format!("{text} x"),
    ];
    for wrong in wrong {
        assert!(matches!(Proof::from_json(wrong.as_bytes()), Err(ProofError::Malformed(_))), "{wrong}");
    }
}

#[test]
fn lengths_are_limited() {
    let with = |count| json(&Proof::new(None, vec![EMPTY; count]));
    assert!(Proof::from_json(&with(256)).is_ok());
    let error = Proof::from_json(&with(257)).unwrap_err().to_string();
    assert!(error.contains("at most 256 hashes"), "{error}");
    let mut long = with(1);
    long.resize(MAX_PROOF_BYTES, b' ');
    assert!(Proof::from_json(&long).is_ok());
    long.push(b' ');
    assert!(matches!(Proof::from_json(&long), Err(ProofError::TooLong { .. })));
}
