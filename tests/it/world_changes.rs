//! The host is not as it was: accounts come and have another uid, homes are mounted, the clock is set. The kernel or a file
//! tells, and no check has to come first.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::name_service::NameService;
use crate::support::world::{
    ALICE, BOB, Running, World, flat, halt, key, plant, shell_as, shown, signal, wait,
};

const CAROL: u32 = 61_004;
/// Known to a service alone.
const DORA: u32 = 61_011;

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

/// The enforcer says that an account has vanished.
fn says_vanished(world: &World) -> bool {
    let status = world.status();
    let problems = status["problems"].as_array().unwrap();
    let is_it = |problem: &&Value| problem["code"] == "account-vanished";
    problems.iter().find(is_it).is_some_and(|problem| {
        assert_eq!(status["health"], "degraded");
        !problem["account"].is_null()
    })
}

#[test]
fn an_account_that_vanishes_is_kept_for_a_while_and_is_a_problem() {
    let mut world = world();
    let service = NameService::of(&mut world, "files test");
    let add = |world: &World| service.add(world, "dora", DORA);
    add(&world);
    "manage = [\"alice\", \"dora\"]".clone_into(&mut world.accounts);
    world.approve("dora", "laptop", &key("dora"));
    let agent = start(&world);
    wait("both files", || {
        world.keys("alice") == 1 && world.keys("dora") == 1
    });
    let (alice, dora) = (world.read("alice"), world.read("dora"));
    // The service is down; whoever asks is told that there is no such account.
    service.forget();
    signal("HUP", agent.pid());
    wait("the problem", || says_vanished(&world));
    plant(&world.file("dora"), DORA, &key("rogue"));
    wait("the repair", || world.read("dora") == dora);
    add(&world);
    wait("the end of it", || !says_vanished(&world));
    // A local one is gone at once, and back at once.
    let passwd = world.path("passwd");
    let before = fs::read_to_string(&passwd).unwrap();
    let without: String = before
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("alice:"))
        .collect();
    fs::write(&passwd, &without).unwrap();
    let state = |name: &str| {
        let rows = world.word()["accounts"].as_array().unwrap().clone();
        let row = rows.iter().find(|row| row["name"] == name).cloned();
        row.unwrap_or_default()["state"].clone()
    };
    wait("the end of the account", || state("alice") == "no-account");
    assert!(!says_vanished(&world));
    world.put("alice", ALICE, &key("rogue"));
    fs::write(&passwd, before).unwrap();
    wait("the repair", || world.read("alice") == alice);
    assert_eq!(world.account("dora")["state"], "in-sync");
}

#[test]
fn a_fetch_that_is_overdue_is_said_to_be() {
    let mut world = world();
    "1h".clone_into(&mut world.every);
    let fetcher = world
        .agent(&["fetch"])
        .stderr(std::process::Stdio::null())
        .spawn();
    let fetcher = crate::support::world::Ends(fetcher.unwrap());
    let path = world.path("fetch-run/fetch.json");
    wait("the first fetch", || path.exists());
    let _agent = world.start_with(&["enforce"]);
    wait("healthy", || world.status()["health"] == "healthy");
    // Stopped, it still has its lock.
    halt(fetcher.0.id());
    let mut report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    report["next_attempt"] = "2026-01-01T00:00:00Z".into();
    fs::write(&path, report.to_string()).unwrap();
    let said = flat(&shown(&world.run(&["status"]).stdout));
    assert!(
        said.starts_with("degraded") && said.contains("a fetch is overdue"),
        "{said}"
    );
    assert!(
        said.contains("a fetch was due") && !said.contains("next fetch in"),
        "{said}"
    );
    signal("CONT", fetcher.0.id());
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

/// An account that puts one there after the other does not fill root's log.
#[test]
fn directories_in_the_files_place_without_end_do_not_fill_the_log() {
    let world = world();
    let agent = start(&world);
    let (right, ssh) = (world.read("alice"), world.ssh("alice"));
    let began = Instant::now();
    let script = "cd $0 && for i in $(seq 80); do mkdir new && touch new/mine; \
        until rm -f authorized_keys; mv -T new authorized_keys 2>/dev/null; do :; done; \
        while [ -d authorized_keys ]; do :; done; done";
    let script = script.replace("$0", &ssh.display().to_string());
    assert!(shell_as(ALICE, &script).status.success());
    wait("the file", || world.read("alice") == right);
    let lines = agent
        .log()
        .lines()
        .filter(|line| line.contains("has another name now") || line.contains("account=alice"))
        .count();
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(lines <= 31 + seconds, "{lines} lines in {seconds} s");
}

/// What is empty is not kept, and of what is kept the log tells.
#[test]
fn a_directory_in_the_files_place_is_kept_only_if_something_is_in_it() {
    let world = world();
    let agent = start(&world);
    let right = world.read("alice");
    let ssh = world.ssh("alice");
    let in_place = |script: &str| {
        let done = shell_as(ALICE, &format!("cd {} && {script}", ssh.display()));
        assert!(done.status.success(), "{done:?}");
        wait("the file", || world.read("alice") == right);
        crate::support::world::litter(&ssh, &["authorized_keys"])
    };
    // Until it comes before the repair of what it takes away.
    let put = "until rm -f authorized_keys; mv -T new authorized_keys 2>/dev/null; do :; done";
    let empty = format!("mkdir new && {put}");
    assert_eq!(in_place(&empty), [] as [&str; 0]);
    let full = format!("mkdir new && touch new/mine && {put}");
    let kept = in_place(&full);
    assert_eq!(kept.len(), 1);
    assert!(ssh.join(&kept[0]).join("mine").exists());
    wait("the log to tell", || agent.log().contains(&kept[0]));
}
