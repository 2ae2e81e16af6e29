//! Tests in one process. What a killed process leaves behind is tested with the real command, in the workspace's tests.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;
use tempfile::TempDir;

use super::repository::Repository;
use super::transfer::check_space;
use super::*;
use crate::identity::{Durability, Identity};
use crate::store::Store;
use crate::test_support::commit;

/// A store with some blocks, and a directory for everything else.
struct Scene {
    store: Store,
    home: TempDir,
}

impl Scene {
    fn new(blocks: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let this = Self { store: open(&home.path().join("db"), b"profile"), home };
        this.store.set_network("regtest").unwrap();
        (0..blocks).for_each(|height| this.put(height));
        this
    }

    fn put(&self, height: u32) {
        commit(&self.store, height, &[(format!("key {height}"), vec![7; 100_000])]).unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn take(&self, keep: usize) -> Result<TakenSnapshot, SnapshotError> {
        self.take_observed(keep, &mut go_on)
    }

    fn take_observed(&self, keep: usize, observer: Observer<'_>) -> Result<TakenSnapshot, SnapshotError> {
        let options = TakeOptions { module: Some(Hash::of(b"module")), keep: NonZeroUsize::new(keep) };
        take(&self.store.reader(), &self.at("snapshots"), &options, observer)
    }

    fn restore(&self, snapshot: &Path, expected: &Expected) -> Result<RestoredStore, SnapshotError> {
        restore(snapshot, &self.at("restored"), expected, &inspect_in_process, &mut go_on)
    }

    /// The names of the entries in the directory of snapshots.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("snapshots")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".lock");
        names.sort();
        names
    }
}

fn open(path: &Path, profile: &[u8]) -> Store {
    let identity = Identity { profile: Hash::of(profile), network: None };
    Store::open(path, &identity, Durability::None).unwrap()
}

fn go_on(_: Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_restored_store_equals_the_store_at_the_snapshot() {
    let scene = Scene::new(5);
    let mut steps = Vec::new();
    let taken = scene.take_observed(0, &mut |step| {
        steps.push(step);
        go_on(step)
    });
    let taken = taken.unwrap();
    let manifest = &taken.manifest;
    let tip = scene.store.tip().unwrap().unwrap();
    assert_eq!(
        (manifest.height, manifest.digest, manifest.network.as_deref()),
        (4, tip.digest, Some("regtest"))
    );
    assert_eq!((manifest.profile, manifest.module), (Hash::of(b"profile"), Some(Hash::of(b"module"))));
    let data = fs::read(taken.path.join("data.mdb")).unwrap();
    assert_eq!((manifest.data_bytes, manifest.data_sha256), (data.len() as u64, Hash::of(&data)));
    assert!(
        steps.contains(&Step::Data { done: manifest.data_bytes, total: manifest.data_bytes }),
        "{steps:?}"
    );
    assert_eq!(steps[steps.len() - 3..], [Step::Inspecting, Step::Renaming, Step::Done]);

    // The store continues, and the snapshot does not change.
    let content = scene.store.content_hash().unwrap();
    scene.put(5);
    let verified = verify(&taken.path, true, &inspect_in_process, &mut go_on).unwrap();
    assert_eq!((&verified.manifest, verified.inspection.content), (manifest, Some(content)));
    let expected = Expected {
        height: Some(4),
        digest: Some(tip.digest),
        sha256: Some(manifest.data_sha256),
        content: Some(content),
    };
    let restored = scene.restore(&taken.path, &expected).unwrap();
    let copy = open(&restored.path, b"profile");
    assert_eq!(copy.content_hash().unwrap(), content);
    assert_eq!((copy.tip().unwrap(), copy.block(2).unwrap()), (Some(tip), scene.store.block(2).unwrap()));
    commit(&copy, 5, &[("key 5", vec![7; 100_000])]).unwrap();
    assert_eq!(copy.content_hash().unwrap(), scene.store.content_hash().unwrap());
}

#[test]
fn one_state_has_one_snapshot() {
    let scene = Scene::new(3);
    let first = scene.take(0).unwrap();
    let again = scene.take(0).unwrap();
    assert_eq!((first.is_new, again.is_new), (true, false));
    assert_eq!((&again.path, &again.manifest), (&first.path, &first.manifest));
    assert_eq!(scene.names().len(), 1);
}

#[test]
fn the_newest_of_this_profile_are_kept() {
    let scene = Scene::new(1);
    let other = open(&scene.at("other"), b"another profile");
    commit(&other, 9000, &[("key", "value")]).unwrap();
    let options = TakeOptions { keep: NonZeroUsize::new(1), ..TakeOptions::default() };
    take(&other.reader(), &scene.at("snapshots"), &options, &mut go_on).unwrap();
    fs::create_dir(scene.at("snapshots/snapshot-0000000000-of-somebody")).unwrap();
    for height in 1..5 {
        let taken = scene.take(2).unwrap();
        assert_eq!(taken.removed.len(), usize::from(height > 2));
        scene.put(height);
    }
    let ours: Vec<_> = scene
        .names()
        .into_iter()
        .filter(|name| name.starts_with("snapshot-000000000") && !name.contains("of-somebody"))
        .collect();
    assert_eq!(
        ours.iter().map(|name| &name[..19]).collect::<Vec<_>>(),
        ["snapshot-0000000002", "snapshot-0000000003"]
    );
    assert_eq!(scene.names().len(), 4, "nothing else was touched: {:?}", scene.names());
    // After a rollback the snapshot with the lower height is the newer one.
    scene.store.roll_back(Some(1), 100).unwrap();
    let taken = scene.take(1).unwrap();
    assert_eq!((taken.manifest.height, taken.removed.len()), (1, 2));
}

#[test]
fn cancelled_work_leaves_nothing_behind() {
    let scene = Scene::new(30);
    let fits = |step: Step, at: usize| match step {
        Step::Data { done, .. } => at == 0 || at == 1 && done > 1 << 20,
        Step::Inspecting => at == 2,
        Step::Renaming => at == 3,
        Step::Done => false,
    };
    for at in 0..4 {
        let mut cancel = |step| if fits(step, at) { ControlFlow::Break(()) } else { go_on(step) };
        let error = scene.take_observed(1, &mut cancel).unwrap_err();
        assert!(matches!(error, SnapshotError::Cancelled), "{error}");
        assert!(scene.names().is_empty(), "{:?}", scene.names());
    }
    let taken = scene.take(1).unwrap();
    for at in 0..4 {
        let mut cancel = |step| if fits(step, at) { ControlFlow::Break(()) } else { go_on(step) };
        let expected = Expected::default();
        let error = restore(&taken.path, &scene.at("restored"), &expected, &inspect_in_process, &mut cancel)
            .unwrap_err();
        assert!(matches!(error, SnapshotError::Cancelled), "{error}");
        let left: Vec<_> =
            fs::read_dir(scene.at("restored")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["writer.lock"]);
    }
    // Such a directory counts as empty.
    scene.restore(&taken.path, &Expected::default()).unwrap();
}

#[test]
fn leftovers_of_a_killed_writer_are_removed_and_a_running_writer_is_not_disturbed() {
    let scene = Scene::new(2);
    let snapshots = scene.at("snapshots");
    for name in [".taking", ".removing"] {
        fs::create_dir_all(snapshots.join(name)).unwrap();
        fs::write(snapshots.join(name).join("data.mdb"), "half").unwrap();
    }
    let repository = Repository::lock(&snapshots).unwrap();
    assert!(scene.names().is_empty(), "{:?}", scene.names());
    let incomplete = repository.begin().unwrap();
    let error = scene.take(1).unwrap_err();
    assert!(matches!(error, SnapshotError::Busy { .. }), "{error}");
    assert_eq!(scene.names(), [".taking"]);
    drop(incomplete);
    drop(repository);
    scene.take(1).unwrap();
}

#[test]
fn a_store_without_a_block_has_no_snapshot() {
    let scene = Scene::new(0);
    let error = scene.take(1).unwrap_err();
    assert!(matches!(error, SnapshotError::EmptyStore { .. }), "{error}");
    assert!(scene.names().is_empty());
}

#[test]
fn too_little_space_is_reported_before_it_is_used_up() {
    let home = tempfile::tempdir().unwrap();
    check_space(home.path(), 1).unwrap();
    let error = check_space(home.path(), u64::MAX).unwrap_err().to_string();
    assert!(error.contains("make room") && error.contains(home.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_snapshot_of_another_state_is_refused() {
    let scene = Scene::new(2);
    let taken = scene.take(0).unwrap();
    let other = Some(Hash::of(b"other"));
    let cases = [
        ("height", Expected { height: Some(2), ..Expected::default() }),
        ("digest", Expected { digest: other, ..Expected::default() }),
        ("SHA-256", Expected { sha256: other, ..Expected::default() }),
        ("content hash", Expected { content: other, ..Expected::default() }),
    ];
    for (what, expected) in cases {
        let error = scene.restore(&taken.path, &expected).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(matches!(error, SnapshotError::Unexpected { .. }), "{error}");
        assert!(!scene.at("restored/data.mdb").exists());
    }
}

/// Damages the snapshot at this path.
type Damage = fn(&Path);

fn change_manifest(snapshot: &Path, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = Manifest::read(snapshot).unwrap();
    change(&mut manifest);
    fs::write(snapshot.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn replace(path: &Path, put: impl FnOnce(&Path)) {
    fs::remove_file(path).unwrap();
    put(path);
}

fn flip(path: &Path, at: u64) {
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

/// Replaces the data by `data`, with a manifest that matches it.
fn forge(snapshot: &Path, data: &[u8]) {
    fs::write(snapshot.join("data.mdb"), data).unwrap();
    change_manifest(snapshot, |manifest| {
        (manifest.data_bytes, manifest.data_sha256) = (data.len() as u64, Hash::of(data));
    });
}

#[test]
fn a_damaged_or_forged_snapshot_is_refused() {
    let scene = Scene::new(3);
    let good = scene.take(0).unwrap().path;
    let damages: &[(&str, Damage)] = &[
        ("should have", |path| {
            fs::File::options().write(true).open(path.join("data.mdb")).unwrap().set_len(9000).unwrap();
        }),
        ("SHA-256", |path| {
            flip(&path.join("data.mdb"), 100_000);
        }),
        ("SHA-256", |path| {
            flip(&path.join("data.mdb"), 0);
        }),
        ("should have 18446744073709551615", |path| {
            change_manifest(path, |manifest| manifest.data_bytes = u64::MAX);
        }),
        ("should have 0", |path| {
            change_manifest(path, |manifest| manifest.data_bytes = 0);
        }),
        ("the manifest says height 4294967295", |path| {
            change_manifest(path, |manifest| manifest.height = u32::MAX);
        }),
        ("the manifest says digest", |path| {
            change_manifest(path, |manifest| manifest.digest = Hash::of(b"x"));
        }),
        ("the manifest says profile", |path| {
            change_manifest(path, |manifest| manifest.profile = Hash::of(b"x"));
        }),
        ("the manifest says network", |path| {
            change_manifest(path, |manifest| manifest.network = None);
        }),
        ("the manifest says block", |path| {
            change_manifest(path, |manifest| manifest.block_hash.push('0'));
        }),
        ("not LMDB data", |path| {
            forge(path, &[]);
        }),
        ("not LMDB data", |path| {
            forge(path, &[7; 50_000]);
        }),
        ("has no manifest.json", |path| {
            fs::remove_file(path.join("manifest.json")).unwrap();
        }),
        ("not a manifest", |path| {
            fs::write(path.join("manifest.json"), [0xff; 100]).unwrap();
        }),
        ("not a manifest", |path| {
            fs::write(path.join("manifest.json"), "[".repeat(9000)).unwrap();
        }),
        ("longer than", |path| {
            fs::write(path.join("manifest.json"), " ".repeat(1 << 20)).unwrap();
        }),
        ("a symbolic link", |path| {
            replace(&path.join("manifest.json"), |at| symlink("/dev/zero", at).unwrap());
        }),
        ("a symbolic link", |path| {
            replace(&path.join("data.mdb"), |at| symlink("/dev/zero", at).unwrap());
        }),
        ("a directory", |path| {
            replace(&path.join("data.mdb"), |at| fs::create_dir(at).unwrap());
        }),
        ("a device or a pipe", |path| {
            replace(&path.join("data.mdb"), |at| {
                nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap();
            });
        }),
        ("cannot be opened", |path| {
            fs::remove_file(path.join("data.mdb")).unwrap();
        }),
    ];
    for (number, (said, damage)) in damages.iter().enumerate() {
        let path = scene.at(&format!("damaged-{number}"));
        fs::create_dir(&path).unwrap();
        for name in ["data.mdb", "manifest.json"] {
            fs::copy(good.join(name), path.join(name)).unwrap();
        }
        damage(&path);
        let errors = [
            verify(&path, true, &inspect_in_process, &mut go_on).unwrap_err(),
            scene.restore(&path, &Expected::default()).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(said), "no {said:?} in {error}");
        }
        assert!(!scene.at("restored/data.mdb").exists() && !scene.at("restored/restoring.mdb").exists());
    }
    scene.restore(&good, &Expected::default()).unwrap();
}

#[test]
fn a_snapshot_is_restored_only_into_an_empty_directory() {
    let scene = Scene::new(1);
    let taken = scene.take(0).unwrap();
    let error =
        restore(&taken.path, scene.store.path(), &Expected::default(), &inspect_in_process, &mut go_on);
    assert!(error.unwrap_err().to_string().contains("give an empty directory"));
    scene.restore(&taken.path, &Expected::default()).unwrap();
    let again = scene.restore(&taken.path, &Expected::default()).unwrap_err();
    assert!(again.to_string().contains("data.mdb"), "{again}");
}
