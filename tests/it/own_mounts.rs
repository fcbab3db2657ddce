//! A file system that an account mounts over its home, and for which its own process answers: what that shows to the agent
//! need not be what it shows to sshd.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::fuse::Fuse;
use crate::support::world::{ALICE, BOB, World, flat, halt, key, shown, wait};

/// alice and bob, each with the approved file in place; and a copy of alice's home, for a file system to show.
fn scene() -> (World, PathBuf) {
    let mut world = World::new();
    "[verify]\nevery = \"1h\"".clone_into(&mut world.tables);
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    assert_eq!(world.pass(), 0);
    let copy = world.path("copy");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([world.home("alice"), copy.clone()])
        .status()
        .unwrap();
    assert!(copied.success());
    (world, copy)
}

/// The problem of that code in a status, if it is there.
fn problem<'a>(status: &'a Value, code: &str) -> Option<&'a Value> {
    let mut all = status["problems"].as_array()?.iter();
    all.find(|problem| problem["code"] == code)
}

fn state(status: &Value, name: &str) -> Value {
    let mut rows = status["accounts"].as_array().unwrap().iter();
    let row = rows.find(|row| row["name"] == name);
    row.map_or(Value::Null, |row| row["state"].clone())
}

#[test]
fn a_mount_of_the_accounts_own_is_noticed_when_it_comes() {
    let (world, copy) = scene();
    let agent = world.start_with(&["enforce"]);
    for place in [world.home("alice"), world.ssh("alice"), world.file("alice")] {
        let source = copy.join(place.strip_prefix(world.home("alice")).unwrap());
        assert_eq!(state(&world.word(), "alice"), "in-sync");
        let mount = Fuse::mount(&place, ALICE, &source, Some(agent.pid()));
        wait("the mount to be noticed", || {
            state(&world.word(), "alice") == "refused"
        });
        // As `status` says it where the enforcer is.
        let status = world
            .command("nsenter")
            .arg(format!("--mount=/proc/{}/ns/mnt", agent.pid()))
            .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
            .arg("--config")
            .arg(world.config())
            .args(["status", "--json"])
            .output()
            .unwrap();
        assert_eq!(status.status.code(), Some(1), "{}", shown(&status.stderr));
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let told = problem(&status, "own-mount").unwrap();
        assert_eq!(told["account"], "alice");
        assert_eq!(told["severity"], "error");
        let at = place.display().to_string();
        assert!(told["text"].as_str().unwrap().contains(&at), "{told}");
        assert!(told["hint"].as_str().unwrap().contains("umount"), "{told}");
        assert_eq!(state(&status, "alice"), "refused");
        assert_eq!(status["health"], "degraded");
        // It is nobody else's trouble.
        world.put("bob", BOB, &key("rogue"));
        wait("bob's repair", || world.read("bob").contains("bob"));
        drop(mount);
        wait("the end of the mount to be noticed", || {
            state(&world.word(), "alice") == "in-sync"
        });
    }
}

#[test]
fn a_mount_that_was_there_first_is_a_problem_for_every_command() {
    let (world, copy) = scene();
    for (place, source) in [
        (world.home("alice"), copy.clone()),
        (world.ssh("alice"), copy.join(".ssh")),
    ] {
        let mount = Fuse::mount(&place, ALICE, &source, None);
        let status = world.status();
        let told = problem(&status, "own-mount").unwrap();
        assert_eq!(told["account"], "alice");
        assert_eq!(state(&status, "alice"), "refused");
        assert_eq!(state(&status, "bob"), "in-sync");
        let check = world.run(&["check"]);
        assert_eq!(check.status.code(), Some(1));
        assert!(shown(&check.stdout).contains("umount -l"), "{check:?}");
        assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(1));
        drop(mount);
        assert_eq!(state(&world.status(), "alice"), "in-sync");
    }
}

/// sshfs for homes, gcsfuse, s3fs: whoever controls these is root.
#[test]
fn a_mount_of_roots_is_as_good_as_a_disk() {
    let (world, copy) = scene();
    let mount = Fuse::mount(&world.home("alice"), 0, &copy, None);
    let status = world.status();
    assert_eq!(problem(&status, "own-mount"), None);
    assert_eq!(state(&status, "alice"), "in-sync", "{status}");
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(0));
    drop(mount);
}

#[test]
fn where_there_are_no_leases_the_status_says_that_changes_are_undone_and_not_prevented() {
    let (world, copy) = scene();
    let mount = Fuse::mount(&world.home("alice"), 0, &copy, None);
    let agent = world.start_with(&["enforce"]);
    let prevented = |name: &str| world.account(name)["writes_prevented"].clone();
    // What only the enforcer knows, `status` takes from it.
    wait("its word", || {
        (prevented("alice"), prevented("bob")) == (false.into(), true.into())
    });
    let status = world.status();
    assert_eq!(state(&status, "alice"), "in-sync");
    let problems = status["problems"].to_string();
    assert!(!problems.contains("prevented"), "{problems}");
    let text = flat(&shown(&world.run(&["status"]).stdout));
    let told = "alice: the agent undoes changes and cannot prevent them,";
    assert_eq!(text.matches(told).count(), 1, "{text}");
    assert!(agent.stop().0.success());
    drop(mount);
}

#[test]
fn a_mount_of_the_accounts_own_that_never_answers_holds_no_thread() {
    let (world, copy) = scene();
    let mount = Fuse::mount(&world.home("alice"), ALICE, &copy, None);
    halt(mount.server());
    // A thread that hung there would keep each of these from ending.
    let status = world.status();
    assert!(problem(&status, "own-mount").is_some(), "{status}");
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(1));
    let agent = world.start_with(&["enforce"]);
    wait("its word", || state(&world.word(), "alice") == "refused");
    let (ended, log) = agent.stop();
    assert!(ended.success(), "{log}");
    drop(mount);
}
