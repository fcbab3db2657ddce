//! Every step of the write fails once with every error, and is killed once: old file or new file, nothing else, and
//! no litter after the next pass.
//!
//! The steps are not listed here: a first run under strace shows what the write really does.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use crate::support::ssm_server::SsmServer;
use crate::support::trace::{steps, struck, traced};
use crate::support::world::{ALICE, World, key, litter, shown};

const ERRORS: [&str; 4] = ["ENOSPC", "EIO", "EROFS", "EDQUOT"];

/// A world in sync, then `spoil`ed.
fn spoiled(spoil: &dyn Fn(&World)) -> (World, String) {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    let content = world.read("alice");
    spoil(&world);
    (world, content)
}

fn check(spoil: &dyn Fn(&World), old: Option<&str>, least: usize) {
    let (world, new) = spoiled(spoil);
    let found = steps(&traced(&world, "enforce", None), &world.home("alice"));
    assert_eq!(world.read("alice"), new, "the pass without a fault repairs");
    assert!(
        found.len() >= least,
        "the write has more steps than these: {found:#?}"
    );
    for needed in ["write", "fsync", "renameat"] {
        assert!(
            found.iter().any(|step| step.call == needed),
            "no {needed} in {found:#?}"
        );
    }
    for step in &found {
        let errors = ERRORS.iter().map(|error| format!("error={error}"));
        for fault in errors.chain(["signal=KILL".to_owned()]) {
            let _ = fs::remove_dir_all(world.ssh("alice"));
            world.make_ssh("alice", ALICE);
            spoil(&world);
            struck(&world, "enforce", step, &fault);
            let left = fs::read_to_string(world.file("alice")).ok();
            let whole = left.as_deref() == old || left.as_deref() == Some(&new);
            assert!(whole, "{fault} at {} left {left:?}", step.shown);
            assert_eq!(
                world.run(&["enforce", "--once"]).status.code(),
                Some(0),
                "after {fault} at {}",
                step.shown
            );
            assert_eq!(world.read("alice"), new);
            assert!(
                litter(&world.ssh("alice"), &["authorized_keys"]).is_empty(),
                "{fault} at {}",
                step.shown
            );
            assert!(
                litter(&world.home("alice"), &[".ssh"]).is_empty(),
                "{fault} at {}",
                step.shown
            );
        }
    }
}

#[test]
fn a_tampered_file_survives_every_fault() {
    check(
        &|world| world.put("alice", ALICE, "old and whole\n"),
        Some("old and whole\n"),
        6,
    );
}

#[test]
fn a_missing_directory_survives_every_fault() {
    check(
        &|world| fs::remove_dir_all(world.ssh("alice")).unwrap(),
        None,
        8,
    );
}

#[test]
fn a_missing_directory_in_a_home_of_root_survives_every_fault() {
    let spoil = |world: &World| {
        chown(world.home("alice"), Some(0), Some(0)).unwrap();
        fs::remove_dir_all(world.ssh("alice")).unwrap();
    };
    check(&spoil, None, 10);
}

#[test]
fn a_fetch_that_dies_at_any_step_leaves_the_old_list_or_the_new() {
    let server = SsmServer::start([("/k/alice/first", key("first"))]);
    let mut world = World::new();
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    assert_eq!(world.pass(), 0);
    let old = world.read("alice");
    let second = key("second");
    let change = || server.put("/k/alice/second", &second);
    let undo = || {
        server.delete("/k/alice/second");
        assert_eq!(world.pass(), 0);
        assert_eq!(world.read("alice"), old);
    };
    change();
    // The list, then the report.
    let found = steps(&traced(&world, "fetch", None), &world.path("fetch-"));
    for (call, least) in [("openat", 4), ("write", 2), ("fsync", 4), ("rename", 2)] {
        let count = found.iter().filter(|step| step.call == call).count();
        assert!(count >= least, "{count} {call} in {found:#?}");
    }
    for step in &found {
        for fault in ["signal=KILL", "error=ENOSPC"] {
            undo();
            change();
            struck(&world, "fetch", step, fault);
            assert_eq!(
                world.run(&["enforce", "--once"]).status.code(),
                Some(0),
                "{fault} at {}",
                step.shown
            );
            let left = world.read("alice");
            assert!(
                left == old || left.contains(&second),
                "{fault} at {} left {left}",
                step.shown
            );
            assert_eq!(world.pass(), 0, "after {fault} at {}", step.shown);
            assert!(
                world.read("alice").contains(&second),
                "after {fault} at {}",
                step.shown
            );
            assert!(
                litter(&world.path("fetch-state"), &["approved.json"]).is_empty(),
                "{fault} at {}",
                step.shown
            );
        }
    }
}

#[test]
fn a_new_directory_of_the_state_is_on_disk_with_its_name() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let root = world.path("state").parent().unwrap().display().to_string();
    for (half, directory) in [("fetch", "fetch-state"), ("enforce", "state")] {
        let trace = traced(&world, half, None);
        let synced = trace
            .lines()
            .any(|line| line.contains("fsync(") && line.contains(&format!("<{root}>)")));
        assert!(world.path(directory).is_dir() && synced, "{trace}");
    }
}

#[test]
fn a_full_disk_leaves_the_old_file_and_says_so() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, "old\n");
    world.run(&["fetch", "--once"]);
    let agent = world.agent(&["enforce", "--once"]);
    let command: Vec<&str> = agent.get_args().map(|a| a.to_str().unwrap()).collect();
    // The home on a file system of its own, and that one full.
    let script = "mount -t tmpfs -o size=64k,mode=755 none \"$1\" && cp -a \"$1.copy/.\" \"$1\" && \
        chown 61001:61001 \"$1\" && { head -c 1M /dev/zero > \"$1/full\" 2>/dev/null; true; } && home=$1 && shift && \
        { unshare \"$@\"; echo \"code $?\"; cat \"$home/.ssh/authorized_keys\"; ls -A \"$home/.ssh\"; }";
    let home = world.home("alice");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&home)
        .arg(format!("{}.copy", home.display()))
        .status()
        .unwrap();
    assert!(copied.success());
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(&home)
        .args(&command)
        .output()
        .unwrap();
    let (said, log) = (shown(&output.stdout), shown(&output.stderr));
    assert_eq!(said, "code 1\nold\nauthorized_keys\n", "{log}");
    assert!(log.contains("no space left on device"), "{log}");
}
