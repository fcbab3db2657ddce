//! The host is not as it was: accounts come and have another uid, homes are mounted, the clock is set. The kernel or a file
//! tells, and no check has to come first.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::world::{ALICE, BOB, Running, World, key, plant, wait};

const CAROL: u32 = 61_004;

/// alice has a key, and no check comes by itself.
fn world() -> World {
    let mut world = World::new();
    "1h".clone_into(&mut world.every);
    "[verify]\nevery = \"1h\"".clone_into(&mut world.tables);
    world.approve("alice", "laptop", &key("alice"));
    world
}

fn start(world: &World) -> Running {
    world.run(&["fetch", "--once"]);
    let agent = world.start_with(&["--log", "debug", "enforce"]);
    wait("sshd's answer", || {
        crate::support::logins::written(world)["sshd"].is_object()
    });
    agent
}

#[test]
fn an_account_that_is_made_later_gets_its_keys_and_one_with_another_uid_its_file() {
    let mut world = world();
    "manage = [\"alice\", \"carol\"]".clone_into(&mut world.accounts);
    world.approve("carol", "laptop", &key("carol"));
    let _agent = start(&world);
    assert_eq!(world.account("carol")["state"], "no-account");
    let home = world.home("carol");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(CAROL), Some(CAROL)).unwrap();
    let passwd = world.path("passwd");
    let before = fs::read_to_string(&passwd).unwrap();
    let line = format!("carol:x:{CAROL}:{CAROL}::{}:/bin/sh\n", home.display());
    fs::write(&passwd, before.clone() + &line).unwrap();
    wait("carol's file", || world.read("carol").contains("carol"));
    // As usermod(8) does it: first the database, then what is in the home.
    let other = CAROL + 1;
    let moved = line.replace(&CAROL.to_string(), &other.to_string());
    fs::write(&passwd, before + &moved).unwrap();
    for path in [home, world.ssh("carol"), world.file("carol")] {
        chown(path, Some(other), Some(other)).unwrap();
    }
    wait("the new uid", || {
        let row = world.word()["accounts"].as_array().unwrap().clone();
        let row = row.iter().find(|row| row["name"] == "carol").cloned();
        row.is_some_and(|row| row["uid"] == other && row["state"] == "in-sync")
    });
    assert_eq!(fs::metadata(world.file("carol")).unwrap().uid(), other);
    let right = world.read("carol");
    plant(&world.file("carol"), other, &key("rogue"));
    wait("the repair", || world.read("carol") == right);
}

/// Runs a command where the agent has its mounts.
fn inside(agent: &Running, program: &str, arguments: &[&Path]) {
    let done = Command::new("nsenter")
        .arg(format!("--mount=/proc/{}/ns/mnt", agent.pid()))
        .arg(program)
        .args(arguments)
        .status()
        .unwrap();
    assert!(done.success(), "{program} {arguments:?}");
}

#[test]
fn a_home_that_is_mounted_later_is_looked_at_when_it_is() {
    let mut world = world();
    world.approve("bob", "laptop", &key("bob"));
    "manage = [\"alice\", \"bob\"]".clone_into(&mut world.accounts);
    let agent = start(&world);
    wait("both files", || {
        world.keys("alice") == 1 && world.keys("bob") == 1
    });
    // A home of alice's on a disk of its own, in which a key was planted; and one of both.
    for (place, disk) in [("home/alice", "disk"), ("home", "disks/home")] {
        let disk = world.path(disk);
        for (account, uid) in [("alice", ALICE), ("bob", BOB)] {
            let home = if place == "home" {
                disk.join(account)
            } else {
                disk.clone()
            };
            fs::create_dir_all(home.join(".ssh")).unwrap();
            for path in [home.clone(), home.join(".ssh")] {
                chown(path, Some(uid), Some(uid)).unwrap();
            }
            plant(&home.join(".ssh/authorized_keys"), uid, &key("rogue"));
            if place != "home" {
                break;
            }
        }
        let planted = |home: &Path| {
            let text = fs::read_to_string(home.join(".ssh/authorized_keys"));
            text.unwrap_or_default().contains("rogue")
        };
        inside(
            &agent,
            "mount",
            &[Path::new("--bind"), &disk, &world.path(place)],
        );
        if place == "home" {
            wait("both keys to go", || {
                !planted(&disk.join("alice")) && !planted(&disk.join("bob"))
            });
        } else {
            wait("the planted key to go", || !planted(&disk));
        }
        // The agent has the file open.
        inside(&agent, "umount", &[Path::new("--lazy"), &world.path(place)]);
    }
    // What is below is watched as before.
    let right = world.read("alice");
    world.put("alice", ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == right);
}

/// Set to what it is, the clock tells all the same.
fn set_clock() {
    let set = Command::new("sh")
        .args(["-c", "date -s @$(date +%s.%N)"])
        .output()
        .unwrap();
    assert!(set.status.success(), "{set:?}");
}

#[test]
fn a_clock_that_is_set_is_a_reason_to_look_and_to_fetch() {
    let world = world();
    let agent = start(&world);
    let fetcher = world
        .agent(&["fetch"])
        .stderr(std::process::Stdio::null())
        .spawn();
    let _fetcher = crate::support::world::Ends(fetcher.unwrap());
    let attempts = || {
        let text = fs::read_to_string(world.path("fetch-run/fetch.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["attempts"].as_u64()
    };
    wait("the first fetch", || attempts() >= Some(2));
    let looks = || agent.log().matches("trigger=Timer").count();
    let before = (attempts(), looks());
    set_clock();
    wait("a fetch", || attempts() > before.0);
    wait("a look", || looks() > before.1);
}

/// What is empty is not kept, and of what is kept the log tells.
#[test]
fn a_directory_in_the_files_place_is_kept_only_if_something_is_in_it() {
    let world = world();
    let agent = start(&world);
    let right = world.read("alice");
    let ssh = world.ssh("alice");
    let in_place = |script: &str| {
        let done =
            crate::support::world::shell_as(ALICE, &format!("cd {} && {script}", ssh.display()));
        assert!(done.status.success(), "{done:?}");
        wait("the file", || world.read("alice") == right);
        crate::support::world::litter(&ssh, &["authorized_keys"])
    };
    let empty = "mkdir new && mv authorized_keys old && mv new authorized_keys; rm old";
    assert_eq!(in_place(empty), [] as [&str; 0]);
    let full =
        "mkdir new && touch new/mine && mv authorized_keys old && mv new authorized_keys; rm old";
    let kept = in_place(full);
    assert_eq!(kept.len(), 1);
    assert!(ssh.join(&kept[0]).join("mine").exists());
    assert!(agent.log().contains(&kept[0]), "{}", agent.log());
}
