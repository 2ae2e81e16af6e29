//! Snapshots that are damaged or made to mislead, and full disks.

use super::*;

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
