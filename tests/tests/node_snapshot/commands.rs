//! Snapshots that are taken, verified and restored.

use super::*;

#[test]
fn a_snapshot_is_gone_on_from_elsewhere() {
    let files = Files::new();
    let (db, other, taken_to) = (files.at("db"), files.at("other"), files.at("snapshots"));
    let blocks: Vec<_> = cut_records(EARLY_RECORDS)[..120].iter().map(|block| record(block)).collect();
    let mut run = Cofferdam::run().with("--blocks -").path("--db-path", &db).open_stdin().start();
    run.feed(&blocks[..60].concat());
    let lines = run.next_lines(60);
    // The run waits for blocks, and has the store open.
    let taken = take(&db, &taken_to).output().expect_code(0).object();
    assert_eq!((number(&taken, "height"), &taken["digest"]), (59, &lines[59]["digest"]));
    // A stream does not say of which network it is.
    assert_eq!((&taken["block_hash"], &taken["network"]), (&lines[59]["hash"], &Value::Null));
    // And now it goes on while another one is taken.
    run.feed(&blocks[60..].concat());
    let second = take(&db, &taken_to).output().expect_code(0).object();
    let rest = run.next_lines(60);
    let whole = run.finish().expect_code(0);
    let at = usize::try_from(number(&second, "height")).expect("a height");
    assert_eq!(second["digest"], lines.iter().chain(&rest).nth(at).expect("one of them")["digest"]);

    let snapshot: PathBuf = text(&taken, "path").into();
    assert_eq!(
        text(&verify(&snapshot).output().expect_code(0).object(), "profile"),
        text(&whole.summary(), "profile")
    );
    let digest = text(&taken, "digest");
    let restored = restore(&snapshot, &other).with(&format!("--height 59 --digest {digest}"));
    assert_eq!(path(&restored.output().expect_code(0)), other.canonicalize().expect("it was made"));
    let on = index(&chain(&files, 120), &other).output().expect_code(0);
    assert_eq!((number(&on.summary(), "skipped"), on.heights()), (60, (60..120).collect()));
    assert_eq!((on.digest(), content(&other, &on)), (whole.digest(), content(&db, &whole)));
    // What two nodes can compare: the hash over all values, whoever took the snapshot and of which file.
    let hashes = [(&db, "a"), (&other, "b")].map(|(db, name)| {
        let taken = path(&take(db, &files.at(name)).output().expect_code(0));
        text(&verify(&taken).with("--content").output().expect_code(0).object(), "content")
    });
    assert_eq!(hashes, [content(&db, &whole), content(&db, &whole)]);
}

#[test]
fn what_is_said_to_people_names_what_matters() {
    let files = Files::new();
    index(&chain(&files, 10), &files.at("db")).output().expect_code(0);
    let take = || snapshot("take").path("--db-path", &files.at("db")).path("--to", &files.at("to")).output();
    let first = take().expect_code(0).stdout();
    let name = names(&files.at("to")).remove(0);
    for part in [name.as_str(), ": taken", "block    9 of bitcoin", "digest ", "profile ", "SHA-256 "] {
        assert!(first.contains(part), "no {part:?} in {first}");
    }
    assert!(take().expect_code(0).stdout().contains("already there"));
    let whole = snapshot("verify").arg(files.at("to").join(&name)).output().expect_code(0);
    assert!(whole.stdout().contains(": whole"), "{whole}");
}

#[test]
fn a_restored_store_of_another_profile_is_refused_by_a_run() {
    let files = Files::new();
    let blocks = chain(&files, 10);
    index(&blocks, &files.at("db")).output().expect_code(0);
    let taken = path(&take(&files.at("db"), &files.at("to")).output().expect_code(0));
    restore(&taken, &files.at("new")).output().expect_code(0);
    let other = index(&blocks, &files.at("new")).path("--module", &guest("cli_sums.wat")).output();
    assert!(other.expect_code(1).reason().contains("profile"));
    assert_eq!(number(&index(&blocks, &files.at("new")).output().expect_code(0).summary(), "skipped"), 10);
}

#[test]
fn what_is_not_wanted_is_not_restored() {
    let files = Files::new();
    index(&chain(&files, 10), &files.at("db")).output().expect_code(0);
    let taken = path(&take(&files.at("db"), &files.at("to")).output().expect_code(0));
    let zeros = "0".repeat(64);
    for wanted in [
        "--height 8".to_owned(),
        format!("--digest {zeros}"),
        format!("--sha256 {zeros}"),
        format!("--content {zeros}"),
    ] {
        let output = restore(&taken, &files.at("new")).with(&wanted).output().expect_code(1);
        assert!(output.reason().contains("was asked for"), "{output}");
        assert!(names(&files.at("new")).is_empty());
    }
    let known = verify(&taken).with("--content").output().expect_code(0).object();
    let wanted = format!(
        "--height 9 --digest {} --sha256 {} --content {}",
        text(&known, "digest"),
        text(&known, "data_sha256"),
        text(&known, "content")
    );
    restore(&taken, &files.at("new")).with(&wanted).output().expect_code(0);
    let again = restore(&taken, &files.at("new")).output().expect_code(1);
    assert!(again.reason().contains("give an empty directory"), "{again}");
    let malformed = restore(&taken, &files.at("newer")).with("--digest 12").output();
    assert_eq!(malformed.code(), 2, "{malformed}");
}

#[test]
fn only_a_store_is_taken_and_only_as_often_as_it_changes() {
    let files = Files::new();
    let (db, to) = (files.at("db"), files.at("to"));
    let none = take(&files.at("nowhere"), &to).output().expect_code(1);
    assert!(none.reason().contains("nowhere"), "{none}");
    assert!(!files.at("nowhere").exists());
    for count in [10, 10, 20, 30] {
        index(&chain(&files, count), &db).output().expect_code(0);
        take(&db, &to).with("--keep 2").output().expect_code(0);
    }
    let heights: Vec<_> = names(&to).iter().map(|name| name[..19].to_owned()).collect();
    assert_eq!(heights, ["snapshot-0000000019", "snapshot-0000000029"]);
}
