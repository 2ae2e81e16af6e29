//! Kills and stops while a snapshot is taken or restored.

use super::*;

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
