//! Snapshots by the real command: taken while a run goes on, gone on from elsewhere, and never half of one taken for whole,
//! whatever was damaged, forged, full or killed.

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

/// A snapshot of which a copy can be spoilt.
struct Good {
    files: Files,
    taken: PathBuf,
}

impl Good {
    fn new() -> Self {
        let files = Files::new();
        index(&chain(&files, 50), &files.at("db")).output().expect_code(0);
        let taken = path(&take(&files.at("db"), &files.at("to")).output().expect_code(0));
        Self { files, taken }
    }

    /// A copy whose data was changed, and whose manifest says that it should be so.
    fn forged(&self, name: &str, forge: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut data = fs::read(self.taken.join("data.mdb")).expect("it is there");
        forge(&mut data);
        let manifest = fs::read(self.taken.join("manifest.json")).expect("it is there");
        let mut manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        manifest["data_bytes"] = data.len().into();
        manifest["data_sha256"] = hex::encode(Sha256::digest(&data)).into();
        self.files.add(&format!("{name}/data.mdb"), data);
        self.files.add(&format!("{name}/manifest.json"), manifest.to_string());
        self.files.at(name)
    }

    /// Checks that neither command takes it, and that each says why in a sentence.
    fn assert_refused(&self, path: &Path) -> String {
        let new = self.files.at("new");
        let outputs = [verify(path).with("--content").output(), restore(path, &new).output()];
        for output in &outputs {
            assert_eq!(output.code(), 1, "{output}");
            assert!(!output.stderr.contains("panicked"), "{output}");
            assert!(output.stdout().is_empty(), "{output}");
        }
        assert!(names(&new).is_empty(), "{:?}", names(&new));
        outputs[1].reason().to_owned()
    }
}

#[test]
fn a_damaged_snapshot_is_refused_wherever_the_damage_is() {
    let good = Good::new();
    let length = fs::metadata(good.taken.join("data.mdb")).expect("it is there").len();
    let mut random = Random::new(11);
    for _ in 0..10 {
        let spoilt = good.forged("flipped", |_| {});
        let at = random.below(length);
        let file = fs::File::options().read(true).write(true).open(spoilt.join("data.mdb")).expect("a file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)
            .and_then(|()| file.write_all_at(&[!byte[0]], at))
            .expect("it is long enough");
        assert!(good.assert_refused(&spoilt).contains("SHA-256"));
        file.set_len(at).expect("it can be cut");
        assert!(good.assert_refused(&spoilt).contains("cut short"));
    }
    fs::remove_file(good.files.at("flipped/manifest.json")).expect("it is there");
    assert!(good.assert_refused(&good.files.at("flipped")).contains("no manifest.json"));
    assert!(good.assert_refused(&good.files.at("nowhere")).contains("no manifest.json"));
}

#[test]
fn data_that_is_made_to_mislead_is_refused() {
    const PAGE: usize = 4096;
    let good = Good::new();
    let mut random = Random::new(13);
    let empty = good.forged("empty", Vec::clear);
    assert!(good.assert_refused(&empty).contains("LMDB"));
    let text = good.forged("text", |data| data.fill(b'x'));
    assert!(good.assert_refused(&text).contains("LMDB"));
    // Its two first pages say that there are others.
    let cut = good.forged("cut", |data| data.truncate(2 * PAGE));
    let reason = good.assert_refused(&cut);
    assert!(reason.contains("SIGBUS"), "{reason}");
    for round in 0..8 {
        let noise = good.forged(&format!("noise-{round}"), |data| {
            for chunk in data[2 * PAGE..].chunks_mut(8) {
                chunk.copy_from_slice(&random.below(u64::MAX).to_le_bytes()[..chunk.len()]);
            }
        });
        good.assert_refused(&noise);
    }
    // A page size and roots from nowhere, in both pages that say where everything is.
    for at in [16..64, 40..44, 64..160] {
        let wild = good.forged("wild", |data| {
            for page in [0, PAGE] {
                data[page..][at.clone()].fill(0xf3);
            }
        });
        good.assert_refused(&wild);
    }
}

#[test]
fn a_manifest_leads_nowhere_else() {
    let good = Good::new();
    let secret = good.files.add("secret", "of somebody else");
    let spoilt = good.forged("spoilt", |_| {});
    let manifest = fs::read_to_string(spoilt.join("manifest.json")).expect("it is there");
    for (change, said) in [
        (
            manifest.replacen('{', &format!("{{\"data\":{:?},", secret.display().to_string()), 1),
            "unknown field",
        ),
        (manifest.replace("\"height\":49", "\"height\":-1"), "not a manifest"),
        (manifest.replace("\"height\":49", "\"height\":50"), "the manifest says height 50"),
        (manifest.replace("\"format\":1", "\"format\":4000000000"), "format 4000000000"),
        (" ".repeat(100 << 20), "longer than"),
    ] {
        assert_ne!(change, manifest);
        fs::write(spoilt.join("manifest.json"), change).expect("it can be written");
        let reason = good.assert_refused(&spoilt);
        assert!(reason.contains(said), "no {said:?} in {reason}");
    }
    fs::write(spoilt.join("manifest.json"), manifest).expect("it can be written");
    fs::rename(spoilt.join("data.mdb"), good.files.at("elsewhere")).expect("it can be moved");
    std::os::unix::fs::symlink(good.files.at("elsewhere"), spoilt.join("data.mdb")).expect("a link");
    assert!(good.assert_refused(&spoilt).contains("symbolic link"));
}

/// Runs the command with a limit on the size of files, which stands in for a full disk.
fn on_a_full_disk(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh"])
        .arg(cofferdam())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it can be started");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    let files = Files::new();
    let db = large_store(&files, 8);
    let (to, new) = (files.at("to"), files.at("new"));
    let text = |path: &Path| path.display().to_string();
    let (code, stderr) = on_a_full_disk(&["snapshot", "take", "--db-path", &text(&db), "--to", &text(&to)]);
    assert!(code == Some(1) && stderr.contains("make room"), "{stderr}");
    assert!(names(&to).is_empty(), "{:?}", names(&to));
    let taken = path(&take(&db, &to).output().expect_code(0));
    let (code, stderr) = on_a_full_disk(&["snapshot", "restore", &text(&taken), "--db-path", &text(&new)]);
    assert!(code == Some(1) && stderr.contains("make room"), "{stderr}");
    assert!(names(&new).is_empty(), "{:?}", names(&new));
    restore(&taken, &new).output().expect_code(0);
}

#[test]
fn a_kill_at_any_step_leaves_a_whole_one_or_none() {
    let files = Files::new();
    let db = large_store(&files, 8);
    let to = files.at("to");
    for at in ["data", "looking", "naming"] {
        let killed = take(&db, &to).with(&format!("--plant-kill {at}")).output();
        assert_eq!(killed.signal(), Some(9), "{killed}");
        assert_eq!(names(&to), [".taking"], "killed at {at}");
    }
    let killed = take(&db, &to).with("--plant-kill done").output();
    assert_eq!(killed.signal(), Some(9), "{killed}");
    assert_eq!(names(&to).len(), 1, "what was left is removed: {:?}", names(&to));
    let taken = to.join(names(&to).remove(0));
    verify(&taken).output().expect_code(0);

    for at in ["data", "looking", "naming"] {
        let new = files.at(&format!("new-{at}"));
        let killed = restore(&taken, &new).with(&format!("--plant-kill {at}")).output();
        assert_eq!(killed.signal(), Some(9), "{killed}");
        assert_eq!(names(&new), ["restoring.mdb"], "killed at {at}");
        // Neither does a run start from it, nor does it make a store beside it.
        let run = index(&chain(&files, 3), &new).output().expect_code(1);
        assert!(run.reason().contains("restoring.mdb"), "{run}");
        assert_eq!(names(&new), ["restoring.mdb"]);
        restore(&taken, &new).output().expect_code(0);
        assert_eq!(names(&new), ["data.mdb"]);
    }
    let new = files.at("new-done");
    assert_eq!(restore(&taken, &new).with("--plant-kill done").output().signal(), Some(9));
    assert_eq!(
        fs::read(new.join("data.mdb")).expect("it is there"),
        fs::read(taken.join("data.mdb")).expect("it is")
    );
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_one_or_none() {
    let files = Files::new();
    let db = large_store(&files, 48);
    let whole = path(&take(&db, &files.at("whole")).output().expect_code(0));
    let length = fs::metadata(whole.join("data.mdb")).expect("it is there").len();
    let mut random = Random::new(17);
    let mut killed = 0;
    for round in 0..12 {
        let (to, new) = (files.at("to"), files.at("new"));
        for (command, place) in [(take(&db, &to), &to), (restore(&whole, &new), &new)] {
            let mut running = command.start();
            // Killed when it has written so much, at the beginning, in the middle or at the end.
            let enough = random.below(length + 1);
            wait_until("it has written enough, or ended", || {
                (bytes_below(place) >= enough || !running.is_running()).then_some(())
            });
            if running.is_running() {
                running.signal(Signal::SIGKILL);
            }
            killed += u32::from(running.finish().signal() == Some(9));
        }
        for name in names(&to).iter().filter(|name| *name != ".taking") {
            verify(&to.join(name)).output().expect_code(0);
        }
        match names(&new).as_slice() {
            [] => {}
            [one] if one == "restoring.mdb" => {}
            [one] => {
                assert_eq!(one, "data.mdb", "round {round}");
                let wanted = fs::read(whole.join("data.mdb")).expect("it is there");
                assert!(fs::read(new.join("data.mdb")).expect("it is there") == wanted, "round {round}");
            }
            more => panic!("{more:?}"),
        }
        for directory in [to, new] {
            fs::remove_dir_all(directory)
                .or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })
                .expect("it can be removed");
        }
    }
    assert!(killed > 0, "none was killed");
}

/// Bytes of all files in a directory and in those below it.
fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            // It has been renamed or removed by now.
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn asked_to_stop_it_leaves_nothing() {
    let files = Files::new();
    let db = large_store(&files, 64);
    let mut child = Command::new(cofferdam())
        .args(["snapshot", "take", "--db-path"])
        .arg(&db)
        .arg("--to")
        .arg(files.at("to"))
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    wait_until("it has begun, or ended", || {
        let begun = !names(&files.at("to")).is_empty();
        (begun || child.try_wait().expect("a child of ours").is_some()).then_some(())
    });
    let _ended_already = nix::sys::signal::kill(pid, Signal::SIGTERM);
    let status = child.wait().expect("a child of ours");
    assert_eq!(status.signal(), None, "it ends by itself");
    for name in names(&files.at("to")) {
        // It was quicker than the signal.
        verify(&files.at("to").join(name)).output().expect_code(0);
    }
}
