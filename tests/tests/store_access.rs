//! Stores that were moved, restored, mounted read-only, or belong to another user: each command that opens one works, or says in a
//! sentence what to do. Root may do everything, so what a user may not do is tried as the user `nobody`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam::store::newest_block;
use cofferdam_test_skips::skip;
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cofferdam, cut_records, record, store,
};
use nix::unistd::geteuid;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// A directory that everybody may look into, with a store of ten blocks in it.
struct Scene {
    files: Files,
    db: PathBuf,
    output: Output,
}

impl Scene {
    fn new() -> Self {
        let files = Files::new();
        let db = files.at("db");
        let blocks = cut_records(EARLY_RECORDS);
        let bytes: Vec<u8> = blocks[..10].iter().flat_map(|block| record(block)).collect();
        let blocks = files.add("ten.blk", bytes);
        let output =
            Cofferdam::run().path("--blocks", &blocks).path("--db-path", &db).output().expect_code(0);
        let home = db.parent().expect("it lies somewhere");
        fs::set_permissions(home, Permissions::from_mode(0o755)).expect("it is ours");
        Self { files, db, output }
    }

    fn give(&self, name: &str, to: u32) {
        chown(self.db.join(name), Some(to), Some(to)).expect("root may");
    }

    fn give_all(&self, to: u32) {
        for name in ["", "data.mdb", "lock.mdb", "writer.lock"] {
            self.give(name, to);
        }
    }

    /// Indexes into the store in `db`, with settings of another profile: it ends before any memory is committed.
    fn run(&self, db: &Path, user: Option<u32>) -> (bool, String) {
        let blocks = self.files.at("ten.blk");
        said(user, &["run".as_ref(), "--blocks".as_ref(), &blocks, "--db-path".as_ref(), db])
    }

    /// Takes a snapshot of the store in `db`.
    fn take(&self, db: &Path, user: Option<u32>) -> (bool, String) {
        let to = tempfile::tempdir().expect("a directory");
        chown(to.path(), user, user).expect("it is ours");
        said(
            user,
            &["snapshot".as_ref(), "take".as_ref(), "--db-path".as_ref(), db, "--to".as_ref(), to.path()],
        )
    }
}

/// Whether the command succeeds, and what it says, as another user if one is given.
fn said(user: Option<u32>, arguments: &[&Path]) -> (bool, String) {
    let mut command = match user {
        None => Command::new(cofferdam()),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--clear-groups");
            command.arg(cofferdam());
            command
        }
    };
    let output = command.args(arguments).output().expect("it can be started");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn refused((succeeded, said): (bool, String), words: &[&str]) {
    assert!(!succeeded, "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

fn works((succeeded, said): (bool, String)) {
    assert!(succeeded, "{said}");
}

#[test]
fn a_store_of_another_user_is_refused_with_what_to_do() {
    let scene = Scene::new();
    if !geteuid().is_root() || !said(Some(NOBODY), &["--version".as_ref()]).0 {
        skip("this user may not become another one (that takes root, and setpriv)");
        return;
    }
    refused(scene.run(&scene.db, Some(NOBODY)), &["writer.lock cannot be", "Permission denied", "chown -R"]);
    refused(scene.take(&scene.db, Some(NOBODY)), &["data.mdb cannot be opened for reading", "chown -R"]);
    scene.give("data.mdb", NOBODY);
    refused(scene.take(&scene.db, Some(NOBODY)), &["lock.mdb cannot be opened for writing", "chown -R"]);
    scene.give_all(NOBODY);
    works(scene.take(&scene.db, Some(NOBODY)));
    scene.give("data.mdb", 0);
    refused(scene.run(&scene.db, Some(NOBODY)), &["data.mdb cannot be opened for writing", "chown -R"]);
    scene.give("lock.mdb", 0);
    refused(scene.run(&scene.db, Some(NOBODY)), &["lock.mdb cannot be", "chown -R"]);
    // In a directory in which nothing can be made.
    let closed = scene.files.at("closed");
    fs::create_dir(&closed).expect("a new directory");
    refused(scene.run(&closed.join("db"), Some(NOBODY)), &["cannot be created", "chown -R"]);
    refused(scene.run(&closed, Some(NOBODY)), &["writer.lock cannot be", "chown -R"]);
}

#[test]
fn a_store_that_was_moved_without_its_lock_files_is_read_and_keeps_its_owner() {
    let scene = Scene::new();
    let moved = scene.files.at("moved");
    fs::create_dir(&moved).expect("a new directory");
    fs::copy(scene.db.join("data.mdb"), moved.join("data.mdb")).expect("there is room");
    works(scene.take(&moved, None));
    assert!(moved.join("lock.mdb").is_file());
    if geteuid().is_root() {
        fs::remove_file(moved.join("lock.mdb")).expect("it is there");
        chown(moved.join("data.mdb"), Some(NOBODY), Some(NOBODY)).expect("root may");
        works(scene.take(&moved, None));
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(moved.join("lock.mdb")).expect("it was made").uid(), NOBODY);
    }
    // By another name, through a link.
    let link = scene.files.at("link");
    symlink(&scene.db, &link).expect("a new link");
    works(scene.take(&link, None));
    let blocks = scene.files.at("ten.blk");
    Cofferdam::run().path("--blocks", &blocks).path("--db-path", &link).output().expect_code(0);
    // And where there is none, none is made.
    let empty = scene.files.at("empty");
    fs::create_dir(&empty).expect("a new directory");
    refused(scene.take(&empty, None), &["there is no store in", "data.mdb is missing", "--db-path"]);
    assert_eq!(empty.read_dir().expect("a directory").count(), 0);
    let dangling = scene.files.at("dangling");
    symlink("/nowhere/at/all", &dangling).expect("a new link");
    refused(scene.run(&dangling, None), &["cannot be created", "name a directory"]);
}

/// A directory mounted again, read-only; none where this process may not mount.
struct Mounted(PathBuf);

impl Mounted {
    fn read_only(directory: &Path, at: &Path) -> Option<Self> {
        fs::create_dir(at).expect("a new directory");
        let mount = |arguments: &[&str]| {
            let status = Command::new("mount").args(arguments).arg(at).status();
            status.is_ok_and(|status| status.success())
        };
        if !mount(&["--bind", directory.to_str().expect("a plain path")]) {
            return None;
        }
        let mounted = Self(at.to_owned());
        mount(&["-o", "remount,ro,bind"]).then_some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_store_on_a_read_only_mount_is_read_unless_somebody_writes_it() {
    let scene = Scene::new();
    let Some(mounted) = Mounted::read_only(&scene.db, &scene.files.at("mounted")) else {
        skip("no file system can be mounted here (that takes root)");
        return;
    };
    refused(scene.run(&mounted.0, None), &["writer.lock cannot be", "read-only", "mount it for writing"]);
    works(scene.take(&mounted.0, None));
    let writer = store(&scene.db, &scene.output);
    assert!(newest_block(&writer.reader()).expect("it can be read").is_some());
    refused(
        scene.take(&mounted.0, None),
        &["is being written by another process", "Mount the directory for writing"],
    );
    drop(writer);
    for name in ["lock.mdb", "writer.lock"] {
        fs::remove_file(scene.db.join(name)).expect("it was there");
    }
    works(scene.take(&mounted.0, None));
}
