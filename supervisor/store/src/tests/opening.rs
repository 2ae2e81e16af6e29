//! Opening a store: what is refused, and what is resumed.

use std::fs;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state;
use cofferdam_worker::state::Table;
use heed::EnvOpenOptions;
use tempfile::TempDir;

use crate::error::StoreError;
use crate::identity::{Durability, Identity};
use crate::store::Store;
use crate::test_support::{commit, identity, open};

fn refusal(dir: &TempDir, identity: &Identity) -> String {
    Store::open(dir.path(), identity, Durability::None).unwrap_err().to_string()
}

#[test]
fn a_store_is_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Store>();
}

#[test]
fn a_store_is_resumed_where_it_was_left() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made/by/open");
    let store = Store::open(&dir, &identity(), Durability::Block).unwrap();
    assert_eq!(store.tip().unwrap(), None);
    commit(&store, 0, &[("key", "value")]).unwrap();
    commit(&store, 9, &[("", "of the empty key")]).unwrap();
    let (tip, hash) = (store.tip().unwrap(), store.content_hash().unwrap());
    drop(store);

    let store = Store::open(&dir, &identity(), Durability::Block).unwrap();
    assert_eq!(store.path(), dir.canonicalize().unwrap());
    assert_eq!(store.tip().unwrap(), tip);
    assert_eq!(store.block(9).unwrap(), tip);
    assert_eq!(store.block(0).unwrap().unwrap().height, 0);
    assert_eq!(store.block(1).unwrap(), None);
    assert_eq!(store.get(b"", 9).unwrap().unwrap(), b"of the empty key");
    assert_eq!(store.content_hash().unwrap(), hash);
}

#[test]
fn another_profile_is_refused_and_both_are_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir).unwrap());
    let other = Identity { profile: Hash::of(b"other"), network: None };
    let message = refusal(&dir, &other);
    assert!(message.contains(&identity().profile.to_string()), "{message}");
    assert!(message.contains(&other.profile.to_string()), "{message}");
}

#[test]
fn another_network_is_refused_when_opening_and_later() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| Identity { network: Some(name.to_owned()), ..identity() };
    let store = open(&dir).unwrap();
    store.set_network("signet").unwrap();
    store.set_network("signet").unwrap();
    let error = store.set_network("main").unwrap_err().to_string();
    assert!(error.contains("\"signet\"") && error.contains("\"main\""), "{error}");
    drop(store);
    let message = refusal(&dir, &of("main"));
    assert!(message.contains("\"signet\"") && message.contains("\"main\""), "{message}");
    drop(open(&dir).unwrap());
    drop(Store::open(dir.path(), &of("signet"), Durability::None).unwrap());
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let mut txn = store.env.write_txn().unwrap();
    store.meta.put(&mut txn, state::FORMAT_KEY, &7u32.to_le_bytes()).unwrap();
    txn.commit().unwrap();
    drop(store);
    let message = refusal(&dir, &identity());
    assert!(message.contains("format 7") && message.contains("format 1"), "{message}");
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("wallet.dat"), "precious").unwrap();
    assert!(refusal(&dir, &identity()).contains("wallet.dat"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data.mdb"), [b'x'; 8192]).unwrap();
    assert!(refusal(&dir, &identity()).contains("is not a Cofferdam store"));

    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path(), &identity(), Durability::None).unwrap_err();
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
}

#[test]
#[allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]
fn another_programs_lmdb_is_refused() {
    for table in [Some("accounts"), Some(state::META), None] {
        let dir = tempfile::tempdir().unwrap();
        // SAFETY: a new directory of this test's own.
        let env = unsafe { EnvOpenOptions::new().max_dbs(1).open(dir.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let theirs: Table = env.create_database(&mut txn, table).unwrap();
        theirs.put(&mut txn, b"meta", b"value").unwrap();
        txn.commit().unwrap();
        drop(env);
        assert!(refusal(&dir, &identity()).contains("is not a Cofferdam store"), "{table:?}");
    }
}

#[test]
fn files_of_an_interrupted_start_are_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    for left in ["writer.lock", "lock.mdb", "data.mdb"] {
        fs::write(dir.path().join(left), "").unwrap();
    }
    commit(&open(&dir).unwrap(), 1, &[("a", "b")]).unwrap();
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let message = refusal(&dir, &identity());
    assert!(message.contains("being written by another process"), "{message}");
    drop(store);
    drop(open(&dir).unwrap());
}
