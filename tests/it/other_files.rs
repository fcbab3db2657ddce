//! Every other file in a home that sshd reads for a managed account goes, and goes again.
//!
//! What somebody would try, each of it done below:
//! - plant a key in `authorized_keys2`, before the agent ever ran, while it runs, while it does not, before sshd runs;
//! - let the name be a link to a file of their own that changes later, or to somebody else's file, so that root reads,
//!   copies or removes that one;
//! - let it be a second name of the managed file, so that this one goes, or is written through the other name;
//! - put a file of comments there, and write the key through another name of it, or through a descriptor kept open;
//! - put a directory or a FIFO in its place, or of the directory above it, to hold the agent or to have root follow;
//! - take every right off it, lock it, make it too large to look at;
//! - exchange it, or its directory, for something else between the look and the removal;
//! - put it back again and again, so that nobody else's file is seen to.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use authorized_keys_agent::host::keyfile::{NoWitness, Other, Refusal, Terms, Visit};
use authorized_keys_agent::model::config::tables::Owner;
use authorized_keys_agent::model::file::difference::Lock;
use authorized_keys_agent::model::file::wanted::Target;
use serde_json::Value;

use crate::support::logins::{
    assert_in, assert_out, by_key, configure, world, written, written_access,
};
use crate::support::trace::{steps_in, struck, traced};
use crate::support::world::{
    ALICE, BOB, Ends, MALLORY, Running, World, chattr, comes_true, fingerprint, halt, key, litter,
    mode, pair, shell_as, shown, signal, wait, warnings,
};

const PLAIN: &str = "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no";
const TWO: &str = "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2\nPasswordAuthentication no\nUsePAM no";

fn second(world: &World, account: &str) -> PathBuf {
    world.ssh(account).join("authorized_keys2")
}

/// Puts a file there as the account would.
fn plant(path: &Path, uid: u32, content: &str) {
    let directory = path.parent().unwrap();
    if !directory.exists() {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(uid), Some(uid)).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let new = directory.join("new");
    fs::write(&new, content).unwrap();
    chown(&new, Some(uid), Some(uid)).unwrap();
    fs::rename(new, path).unwrap();
}

/// Nothing at all, not even a link.
fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err()
}

fn stamp(path: &Path) -> (u64, i64, i64, u64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.nlink())
}

fn repaired(world: &World) -> u64 {
    written(world)["drift"]["repaired"]
        .as_u64()
        .unwrap_or_default()
}

fn others(world: &World, account: &str) -> Value {
    world.account(account)["other_files"].clone()
}

/// In a world whose sshd reads both files, after the first passes.
fn guarded(world: &World) -> Running {
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    wait("the first answer", || {
        written_access(world, "alice")["verdict"] == "effective"
    });
    agent
}

#[test]
fn a_key_in_a_second_file_lets_in_until_the_agent_runs_and_never_again() {
    let world = world(TWO);
    let ((laptop, line), (rogue, planted)) = (pair("alice"), pair("rogue"));
    world.approve("alice", "laptop", &line);
    let (file, content) = (second(&world, "alice"), format!("{planted}\n"));
    plant(&file, ALICE, &content);
    assert_in(by_key(&world, "alice", &rogue));
    let agent = world.start();
    wait("the file to go", || is_gone(&file));
    assert_out(by_key(&world, "alice", &rogue));
    assert_in(by_key(&world, "alice", &laptop));
    wait("the enforcer's word", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    let copy = world.path("state/backups/alice.authorized_keys2");
    assert_eq!(fs::read_to_string(&copy).unwrap(), content);
    assert_eq!(
        (fs::metadata(&copy).unwrap().uid(), mode(&copy)),
        (0, 0o600)
    );
    let log = agent.log();
    assert!(
        log.contains("key removed that is not on the list") && log.contains(&fingerprint(&planted)),
        "{log}"
    );
    assert_eq!(repaired(&world), 0, "it was there first");
    let door = &world.account("alice")["access"]["doors"][0];
    assert_eq!(
        (&door["detail"], &door["guarded"]),
        (&".ssh/authorized_keys2".into(), &true.into())
    );
    let text = shown(&world.run(&["status", "--keys"]).stdout);
    assert!(
        text.contains("  authorized-keys-file .ssh/authorized_keys2: guarded"),
        "{text}"
    );
    assert!(!text.contains("also open"), "{text}");

    for round in 1..=3 {
        let (again, comes_back) = pair(&format!("again{round}"));
        plant(&file, ALICE, &format!("{comes_back}\n"));
        wait("the file to go again", || is_gone(&file));
        assert_out(by_key(&world, "alice", &again));
        wait("the drift to be counted", || repaired(&world) == round);
        let last = written(&world)["drift"]["last"]["changes"].to_string();
        assert!(
            last.contains("another file that sshd reads: `")
                && last.contains(&fingerprint(&comes_back)),
            "{last}"
        );
    }
    assert!(agent.log().contains("drift undone"), "{}", agent.log());
    wait("the incidents", || {
        shown(&world.run(&["incidents"]).stdout)
            .matches("another file that sshd reads")
            .count()
            == 3
    });
    let incidents =
        serde_json::from_slice::<Value>(&world.run(&["incidents", "--json"]).stdout).unwrap();
    let last = &incidents["incidents"][0];
    assert_eq!(
        (&last["file"], &last["undone"]),
        (&file.display().to_string().into(), &"removed".into())
    );
    assert!(
        last["changes"][0]["keys"][0]["comment"]
            .as_str()
            .unwrap()
            .starts_with("again"),
        "{last}"
    );
    assert!(
        last["stood_milliseconds"].as_u64().unwrap() < 10_000,
        "{last}"
    );
    let kept = fs::read_to_string(last["content_file"].as_str().unwrap()).unwrap();
    assert!(kept.contains("again"), "{kept}");
    assert_in(by_key(&world, "alice", &laptop));
    assert!(litter(&world.ssh("alice"), &["authorized_keys"]).is_empty());
    let status = world.run(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", shown(&status.stdout));
}

#[test]
fn reported_it_stays_until_it_is_to_be_removed() {
    let mut world = world(TWO);
    let manage = world.accounts.clone();
    world.accounts += "\nother-files = \"report\"";
    let (rogue, planted) = pair("rogue");
    world.approve("alice", "laptop", &key("alice"));
    let file = second(&world, "alice");
    plant(&file, ALICE, &format!("{planted}\n"));
    let before = stamp(&file);
    let _fetcher = Ends(
        world
            .agent(&["fetch"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let agent = world.start_with(&["enforce"]);
    wait("the enforcer's word", || {
        written_access(&world, "alice")["verdict"] == "also-open"
    });
    let fingerprint = fingerprint(&planted);
    wait("the keys", || {
        written(&world).to_string().contains(&fingerprint)
    });
    assert_eq!(stamp(&file), before);
    assert_in(by_key(&world, "alice", &rogue));
    assert_eq!(world.account("alice")["state"], "in-sync");
    assert_eq!(
        others(&world, "alice")[0]["keys"][0]["fingerprint"],
        fingerprint.as_str()
    );
    let text = shown(&world.run(&["status", "alice"]).stdout);
    assert!(
        text.contains(&format!(
            "  other file {}\n    rogue {fingerprint}",
            file.display()
        )),
        "{text}"
    );
    assert!(
        text.contains("warning: alice: sshd also reads") && text.contains("warning: also open: "),
        "{text}"
    );
    assert!(
        agent
            .log()
            .contains("sshd also reads this file, and the agent leaves it"),
        "{}",
        agent.log()
    );
    let check = shown(&world.run(&["check"]).stdout);
    assert!(
        check
            .contains("also open: keys in `.ssh/authorized_keys2` (AuthorizedKeysFile), for alice"),
        "{check}"
    );

    world.accounts = manage;
    let preview = world.run(&["diff"]);
    let expected = format!(
        "alice\n  - rogue {fingerprint}  ({f})\n  - {f}\n",
        f = file.display()
    );
    assert_eq!(
        (preview.status.code(), shown(&preview.stdout)),
        (Some(1), expected),
        "{}",
        shown(&preview.stderr)
    );
    let check = shown(&world.run(&["check"]).stdout);
    assert!(
        check.contains(&format!("with rogue {fingerprint}"))
            && check.contains("publish these keys"),
        "{check}"
    );
    assert!(
        check.contains("taken away when it comes (`other-files`)"),
        "{check}"
    );
    assert_eq!(stamp(&file), before);
    let synced = world.run(&["sync"]);
    let said = shown(&synced.stdout);
    assert!(
        said.contains(&format!("  - rogue {fingerprint}  ({})", file.display())),
        "{said}{}",
        agent.log()
    );
    assert!(is_gone(&file));
    assert_out(by_key(&world, "alice", &rogue));
    assert!(
        world.path("state/backups/alice.authorized_keys2").exists(),
        "it was there first"
    );
    assert_eq!(others(&world, "alice"), Value::Array(Vec::new()));
}

#[test]
fn a_door_that_is_accepted_stays_open() {
    let mut world = world(TWO);
    world.accounts += "\naccepted-doors = [\"authorized-keys-file\"]";
    world.approve("alice", "laptop", &key("alice"));
    let (other, planted) = pair("other");
    plant(&second(&world, "alice"), ALICE, &format!("{planted}\n"));
    let _agent = guarded(&world);
    assert_in(by_key(&world, "alice", &other));
}

#[test]
fn observed_it_is_drift_and_stays() {
    let mut world = world(TWO);
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    world.top = "mode = \"observe\"".to_owned();
    let agent = world.start();
    wait("the first answer", || {
        written_access(&world, "alice")["verdict"] == "also-open"
    });
    let (file, planted) = (second(&world, "alice"), key("rogue"));
    plant(&file, ALICE, &format!("{planted}\n"));
    let before = stamp(&file);
    let reason = format!(
        "another file that sshd reads: `{}` with rogue {}",
        file.display(),
        fingerprint(&planted)
    );
    wait("the drift to be seen", || {
        let rows = written(&world);
        let row = rows["accounts"]
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["name"] == "alice"))
            .cloned();
        row.is_some_and(|row| {
            row["state"] == "drifted" && row["why"]["file-drifted"]["changes"][0] == reason.as_str()
        })
    });
    assert_eq!(
        (
            world.account("alice")["state"].clone(),
            world.run(&["status"]).status.code()
        ),
        ("drifted".into(), Some(1))
    );
    assert_eq!(
        agent.log().matches("file differs, not written").count(),
        1,
        "{}",
        agent.log()
    );
    assert_eq!(stamp(&file), before);
    fs::remove_file(&file).unwrap();
    wait("it to be gone", || {
        world.account("alice")["state"] == "in-sync"
    });
}

#[test]
fn nothing_is_taken_before_the_list_says_who_gets_in() {
    let world = world(TWO);
    let planted = format!("{}\n", key("launch"));
    for (account, uid) in [("alice", ALICE), ("bob", BOB), ("mallory", MALLORY)] {
        plant(&second(&world, account), uid, &planted);
    }
    let before: Vec<_> = ["alice", "bob", "mallory"]
        .iter()
        .map(|name| stamp(&second(&world, name)))
        .collect();
    assert_eq!(
        world.run(&["enforce", "--once"]).status.code(),
        Some(1),
        "no list yet"
    );
    // A list that says nothing of them, or nothing that can be used.
    world.approve("bob", "broken", "nonsense");
    world.pass();
    let after: Vec<_> = ["alice", "bob", "mallory"]
        .iter()
        .map(|name| stamp(&second(&world, name)))
        .collect();
    assert_eq!(after, before);
    world.approve("alice", "laptop", &key("alice"));
    world.pass();
    // What it holds is in force, and so it stays until a person has accepted that it goes.
    assert_eq!(stamp(&second(&world, "alice")), before[0]);
    assert_eq!(world.keys("alice"), 2);
    world.revoke("bob", "broken");
    assert_eq!(world.accept(), 0);
    assert!(is_gone(&second(&world, "alice")));
    assert_eq!(world.keys("alice"), 1);
    assert_eq!(
        (
            stamp(&second(&world, "bob")),
            stamp(&second(&world, "mallory"))
        ),
        (before[1], before[2])
    );
    // The list in force is enforced, whatever the next one waits for.
    world.revoke("alice", "laptop");
    world.pass();
    assert!(
        world.status()["list"]["held"].is_object(),
        "{}",
        world.status()
    );
    plant(&second(&world, "alice"), ALICE, &planted);
    world.pass();
    assert!(is_gone(&second(&world, "alice")) && world.keys("alice") == 1);
}

#[test]
fn before_sshd_runs_what_it_read_last_counts() {
    let world = world(
        "AuthorizedKeysFile .ssh/authorized_keys .keys/%u\nPasswordAuthentication no\nUsePAM no",
    );
    guarded(&world).stop();
    let (second, third) = (
        second(&world, "alice"),
        world.home("alice").join(".keys/alice"),
    );
    plant(&second, ALICE, &format!("{}\n", key("rogue")));
    plant(&third, ALICE, &format!("{}\n", key("rogue")));
    fs::remove_file(world.path("run/status.json")).unwrap();
    let agent = Ends(world.before_sshd(&["run"]).spawn().unwrap());
    wait("the first pass", || world.path("run/status.json").exists());
    assert!(is_gone(&third), "not even once the first pass is done");
    wait("the complaint", || {
        written(&world)["sshd"]["error"].is_string()
    });
    assert!(!is_gone(&second), "sshd does not read it");
    drop(agent);
    // Seen by nobody: not the configuration but its absence is what is new.
    plant(&third, ALICE, &format!("{}\n", key("rogue")));
    world.before_sshd(&["enforce", "--once"]).status().unwrap();
    assert!(is_gone(&third) && !is_gone(&second));
}

#[test]
fn where_sshd_never_said_what_it_reads_its_default_counts() {
    let world = world("UsePAM no\n");
    world.approve("alice", "laptop", &key("alice"));
    let (second, third) = (second(&world, "alice"), world.ssh("alice").join("other"));
    plant(&second, ALICE, &format!("{}\n", key("rogue")));
    plant(&third, ALICE, &format!("{}\n", key("rogue")));
    let _agent = Ends(world.before_sshd(&["run"]).spawn().unwrap());
    wait("the second file to go", || is_gone(&second));
    assert!(!is_gone(&third) && world.path("state/backups/alice.authorized_keys2").exists());
}

/// On a first boot the agent is there before the host has keys, without which sshd says nothing.
#[test]
fn what_is_taken_away_before_the_host_has_keys_is_said_to_be() {
    let world = world("PasswordAuthentication no\nUsePAM no\n");
    world.approve("alice", "laptop", &key("alice"));
    let host_key = world.path("etc/ssh/host_key");
    fs::rename(&host_key, world.path("host_key")).unwrap();
    let _agent = world.start();
    wait("the complaint", || {
        written(&world)["sshd"]["error"].is_string()
    });
    let doors = |row: &Value| {
        let doors = row["access"]["doors"].as_array().cloned();
        let is_open = |door: &Value| door["guarded"] == false && door["accepted"] == false;
        doors
            .unwrap_or_default()
            .iter()
            .filter(|door| is_open(door))
            .count()
    };
    assert_eq!(
        doors(&world.account("alice")),
        0,
        "{}",
        world.account("alice")
    );
    plant(
        &second(&world, "alice"),
        ALICE,
        &format!("{}\n", key("rogue")),
    );
    wait("the second file to go", || {
        is_gone(&second(&world, "alice"))
    });
    fs::rename(world.path("host_key"), &host_key).unwrap();
    let row = world.account("alice");
    assert_eq!(
        (doors(&row), &row["access"]["verdict"]),
        (0, &"effective".into()),
        "{row}"
    );
    wait("the answer", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
}

/// The second file could be the only one that sshd will read: without it nobody would get in.
#[test]
fn where_the_configuration_names_files_nothing_goes_before_sshd_says_which() {
    let world = world(PLAIN);
    world.approve("alice", "laptop", &key("alice"));
    let second = second(&world, "alice");
    plant(&second, ALICE, &format!("{}\n", key("rogue")));
    let _agent = Ends(world.before_sshd(&["run"]).spawn().unwrap());
    wait("the list", || world.keys("alice") == 1);
    world.approve("alice", "phone", &key("phone"));
    wait("the next list", || world.read("alice").contains("phone"));
    assert!(!is_gone(&second));
    fs::create_dir(world.path("own-run/sshd")).unwrap();
    wait("the answer", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    assert!(!is_gone(&second), "sshd does not read it");
    configure(
        &world,
        &PLAIN.replace(
            "authorized_keys\n",
            "authorized_keys .ssh/authorized_keys2\n",
        ),
    );
    wait("the second file to go", || is_gone(&second));
}

/// Who was not asked about may be told apart by a `Match`, and what a connection decides nobody can say beforehand.
#[test]
fn what_a_match_by_connection_decides_takes_nothing_away() {
    let world = world(&format!(
        "{PLAIN}\nMatch Address 192.0.2.0/24\nAuthorizedKeysFile .ssh/authorized_keys2\n"
    ));
    world.approve("alice", "laptop", &key("alice"));
    let second = second(&world, "alice");
    plant(&second, ALICE, &format!("{}\n", key("somebody")));
    let agent = world.start();
    wait("the answer", || {
        written_access(&world, "alice")["verdict"] == "unknown"
    });
    let reason = written_access(&world, "alice")["reason"].clone();
    assert!(
        reason
            .as_str()
            .unwrap()
            .contains("a `Match` by address, host or port"),
        "{reason}"
    );
    world.approve("alice", "phone", &key("phone"));
    wait("the next list", || world.read("alice").contains("phone"));
    assert!(!is_gone(&second));
    let status = world.status();
    assert_eq!(
        (&status["health"], warnings(&status)),
        (&"healthy".into(), reason.as_str().unwrap().to_owned())
    );
    // Nor is it said to be taken away, whether or not it was before.
    configure(&world, TWO);
    wait("the second file to go", || is_gone(&second));
    wait("the answer", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    let (rogue, planted) = pair("rogue");
    for config in [
        format!("{TWO}\nMatch LocalPort 2222\nAuthorizedKeysFile .ssh/authorized_keys\n"),
        TWO.replace("keys2", "keys2 \"/etc/ssh/my keys\""),
    ] {
        configure(&world, &config);
        wait("the answer", || {
            written_access(&world, "alice")["verdict"] == "also-open"
        });
        plant(&second, ALICE, &format!("{planted}\n"));
        signal("HUP", agent.pid());
        assert!(!comes_true(Duration::from_millis(300), || is_gone(&second)));
        assert_in(by_key(&world, "alice", &rogue));
        let door = &world.account("alice")["access"]["doors"][0];
        assert_eq!(
            (&door["detail"], &door["guarded"]),
            (&".ssh/authorized_keys2".into(), &false.into())
        );
        assert!(!shown(&world.run(&["status", "--keys"]).stdout).contains("guarded"));
        let check = shown(&world.run(&["check"]).stdout);
        assert!(
            !check.contains("taken away when it comes") && check.contains("is not judged"),
            "{check}"
        );
    }
}

/// What a `Match` by connection says of other things than files leaves these what they are for everybody.
#[test]
fn a_match_by_connection_that_names_no_file_keeps_none() {
    let world = world(&format!(
        "{TWO}\nMatch Address 10.0.0.0/8\nX11Forwarding no\n"
    ));
    let agent = guarded(&world);
    let (second, planted) = (second(&world, "alice"), format!("{}\n", key("rogue")));
    plant(&second, ALICE, &planted);
    wait("the file to go", || is_gone(&second));
    wait("the drift to be counted", || repaired(&world) == 1);
    assert_eq!(world.account("alice")["access"]["verdict"], "effective");
    configure(
        &world,
        &format!("{TWO}\nMatch Address 10.0.0.0/8\nPasswordAuthentication yes\n"),
    );
    wait("the answer", || {
        written_access(&world, "alice")["verdict"] == "unknown"
    });
    plant(&second, ALICE, &planted);
    wait("the file to go again", || is_gone(&second));
    assert!(agent.log().contains("drift undone"), "{}", agent.log());
}

/// Whoever puts it back so fast that it stands for a while does not come off as the first of them.
#[test]
fn what_could_not_be_taken_away_for_a_while_is_no_first_run() {
    let world = world(TWO);
    let agent = guarded(&world);
    let (rogue, planted) = pair("rogue");
    let file = second(&world, "alice");
    let script = format!(
        "open(F, '>', 'x'); print F \"{}\\n\"; close(F); rename('x', '.ssh/authorized_keys2')",
        planted.replace('@', "\\@")
    );
    let looping = exchanging(&world, &script);
    wait("a refusal", || {
        agent
            .log()
            .contains("was changed again and again while it was replaced")
    });
    drop(looping);
    wait("the last one", || {
        is_gone(&file) && written(&world)["accounts"][0]["state"] == "in-sync"
    });
    let before = repaired(&world);
    plant(&file, ALICE, &format!("{planted}\n"));
    wait("the drift to be counted", || repaired(&world) > before);
    assert!(
        !agent.log().contains("key removed that is not on the list"),
        "{}",
        agent.log()
    );
    assert_out(by_key(&world, "alice", &rogue));
}

#[test]
fn what_sshd_begins_to_read_is_looked_at_when_it_does() {
    let world = world(PLAIN);
    let agent = guarded(&world);
    let file = world.home("alice").join(".keys/extra");
    let (rogue, planted) = pair("rogue");
    plant(&file, ALICE, &format!("{planted}\n"));
    configure(
        &world,
        &PLAIN.replace("authorized_keys\n", "authorized_keys %h/.keys/extra\n"),
    );
    wait("the file to go", || is_gone(&file));
    assert!(
        world.path("state/backups/alice.extra").exists(),
        "it was there first"
    );
    wait("the enforcer's word", || {
        written_access(&world, "alice")["doors"][0]["guarded"] == true
    });
    assert_out(by_key(&world, "alice", &rogue));
    // By event, there too, and where its directory has to come first.
    fs::remove_dir(file.parent().unwrap()).unwrap();
    plant(&file, ALICE, &format!("{planted}\n"));
    wait("the file to go again", || is_gone(&file));
    configure(&world, PLAIN);
    wait("the change", || {
        written_access(&world, "alice")["doors"] == Value::Array(Vec::new())
    });
    plant(&file, ALICE, &format!("{planted}\n"));
    signal("HUP", agent.pid());
    assert!(
        !comes_true(Duration::from_millis(300), || is_gone(&file)),
        "sshd does not read it any more"
    );
    // A path with a blank looks like two, and one of them may be anything.
    let innocent = world.home("alice").join("keys");
    plant(&innocent, ALICE, "my own notes\n");
    configure(
        &world,
        &PLAIN.replace(
            "authorized_keys\n",
            "authorized_keys \".ssh/my keys\" keys\n",
        ),
    );
    wait("the change", || {
        written_access(&world, "alice")["doors"]
            .to_string()
            .contains("my")
    });
    assert!(!comes_true(Duration::from_millis(300), || is_gone(
        &innocent
    )));
}

#[test]
fn where_sshd_reads_another_file_than_the_managed_one_nothing_goes() {
    let world = world("AuthorizedKeysFile .ssh/other\nPasswordAuthentication no\nUsePAM no");
    let (other, line) = pair("other");
    world.approve("alice", "laptop", &key("alice"));
    plant(
        &world.ssh("alice").join("other"),
        ALICE,
        &format!("{line}\n"),
    );
    let _agent = world.start();
    wait("the enforcer's word", || {
        written_access(&world, "alice")["verdict"] == "refused"
    });
    assert_in(by_key(&world, "alice", &other));
    assert_eq!(
        others(&world, "alice")[0]["keys"][0]["fingerprint"],
        fingerprint(&line).as_str()
    );
}

#[test]
fn files_of_root_elsewhere_stay_and_are_named() {
    let world = world(
        "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u /etc/ssh/all\nPasswordAuthentication no\nUsePAM no",
    );
    let (central, line) = pair("central");
    fs::create_dir(world.path("etc/ssh/keys")).unwrap();
    fs::write(world.path("etc/ssh/keys/alice"), format!("{line}\n")).unwrap();
    fs::write(world.path("etc/ssh/all"), format!("{}\n", key("all"))).unwrap();
    let before = (
        stamp(&world.path("etc/ssh/keys/alice")),
        stamp(&world.path("etc/ssh/all")),
    );
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    wait("the enforcer's word", || {
        written_access(&world, "alice")["verdict"] == "also-open"
    });
    assert_eq!(
        (
            stamp(&world.path("etc/ssh/keys/alice")),
            stamp(&world.path("etc/ssh/all"))
        ),
        before
    );
    assert_in(by_key(&world, "alice", &central));
    let named: Vec<_> = others(&world, "alice")
        .as_array()
        .unwrap()
        .iter()
        .map(|other| other["file"].clone())
        .collect();
    assert_eq!(named, ["/etc/ssh/keys/alice", "/etc/ssh/all"]);
    assert_eq!(world.account("alice")["state"], "in-sync");
}

#[test]
fn with_a_central_managed_file_the_one_in_the_home_goes() {
    let mut world = world(
        "AuthorizedKeysFile /etc/ssh/keys/%u .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no",
    );
    world.accounts += "\nfile = \"/etc/ssh/keys/%u\"\nowner = \"root\"";
    let ((laptop, line), (rogue, planted)) = (pair("alice"), pair("rogue"));
    world.approve("alice", "laptop", &line);
    plant(&world.file("alice"), ALICE, &format!("{planted}\n"));
    let _agent = world.start();
    wait("the file to go", || is_gone(&world.file("alice")));
    assert_in(by_key(&world, "alice", &laptop));
    assert_out(by_key(&world, "alice", &rogue));
    assert!(
        fs::read_to_string(world.path("state/backups/alice.authorized_keys"))
            .unwrap()
            .contains("rogue")
    );
}

/// In alice's hands, each planted while the agent runs. What sshd cannot read is left where it is.
#[test]
fn whatever_takes_the_name_goes_and_nothing_else_does() {
    let world = world(TWO);
    world.approve("bob", "laptop", &key("bob"));
    let agent = guarded(&world);
    wait("bob's file", || world.read("bob").contains("bob"));
    let (file, h) = (second(&world, "alice"), world.home("alice"));
    let (f, s, m) = (file.display(), world.ssh("alice"), world.file("alice"));
    let (s, m) = (s.display(), m.display());
    let rogue = key("rogue");
    let hidden = h.join("hidden");
    fs::write(&hidden, format!("{rogue}\n")).unwrap();
    chown(&hidden, Some(ALICE), Some(ALICE)).unwrap();
    let readable = world.path("readable");
    fs::write(&readable, format!("{}\n", key("precious"))).unwrap();
    let bobs = world.file("bob");
    let watched = [hidden.clone(), readable.clone(), bobs.clone()];
    let look = || {
        watched
            .iter()
            .map(|path| (stamp(path), fs::read(path).unwrap()))
            .collect::<Vec<_>>()
    };
    let before = look();
    let managed = world.read("alice");
    let rows: [(&str, String); 11] = [
        ("a file", format!("echo '{rogue}' > {f}")),
        ("a link to a file of hers", format!("ln -s ../hidden {f}")),
        (
            "a link to a file of root's",
            format!("ln -s {} {f}", readable.display()),
        ),
        (
            "a link to a file of bob's that she cannot read",
            format!("ln -s {} {f}", bobs.display()),
        ),
        (
            "a link that leads nowhere yet",
            format!("ln -s nowhere {f}"),
        ),
        ("a link to itself", format!("ln -s authorized_keys2 {f}")),
        (
            "a link to the managed file",
            format!("ln -s authorized_keys {f}"),
        ),
        (
            "a file without rights",
            format!("umask 777; echo '{rogue}' > {s}/x; mv {s}/x {f}"),
        ),
        (
            "a very large file",
            format!(
                "{{ head -c 3000000 /dev/zero | tr '\\0' '#'; echo; echo '{rogue}'; }} > {s}/x; mv {s}/x {f}"
            ),
        ),
        (
            "a line that no sshd of today takes",
            format!("echo 'future@example.org AAAA' > {f}"),
        ),
        (
            "a file in a directory that is back",
            format!("rm -rf {s}; mkdir -m 700 {s}; echo '{rogue}' > {f}"),
        ),
    ];
    for (what, script) in rows {
        let count = repaired(&world);
        shell_as(ALICE, &script);
        wait(what, || is_gone(&file) && repaired(&world) > count);
        assert_eq!(look(), before, "{what}");
        wait(what, || {
            world.read("alice") == managed
                && litter(&world.ssh("alice"), &["authorized_keys"]).is_empty()
        });
    }
    // Its second name is the managed file's trouble first, then it is a file like any other.
    shell_as(ALICE, &format!("ln {m} {f}"));
    wait("a hard link to the managed file", || {
        is_gone(&file)
            && world.read("alice") == managed
            && fs::metadata(world.file("alice")).is_ok_and(|m| m.nlink() == 1)
    });
    shell_as(ALICE, &format!("mv {m} {f}"));
    wait("the managed file under the other name", || {
        is_gone(&file) && world.read("alice") == managed
    });
    for (what, script) in [
        ("a directory", format!("mkdir {f}; touch {f}/kept")),
        ("a FIFO", format!("rm -rf {f}; mkfifo {f}")),
    ] {
        let count = repaired(&world);
        shell_as(ALICE, &script);
        let ino = fs::symlink_metadata(&file).unwrap().ino();
        shell_as(ALICE, &format!("echo '{rogue}' >> {m}"));
        wait(what, || {
            world.read("alice") == managed && repaired(&world) > count
        });
        assert_eq!(
            fs::symlink_metadata(&file).unwrap().ino(),
            ino,
            "sshd does not read {what}"
        );
    }
    assert_eq!(
        world.account("alice")["state"],
        "in-sync",
        "{}",
        agent.log()
    );
    assert_eq!(look(), before);
    let log = agent.log();
    assert!(
        !log.contains("ERROR") && !log.contains(rogue.split(' ').nth(1).unwrap()),
        "{log}"
    );
}

#[test]
fn a_file_of_comments_stays_until_it_is_written_to_by_whatever_name() {
    let world = world(TWO);
    let _agent = guarded(&world);
    let (file, other) = (second(&world, "alice"), world.home("alice").join("x"));
    let (f, o, rogue) = (file.display(), other.display(), key("rogue"));
    let harmless = || {
        // Whole at once: one that is open for writing does not stay.
        shell_as(
            ALICE,
            &format!("rm -f {o}; printf '# none\\n\\n' > {o} && mv {o} {f}"),
        );
        let ino = fs::metadata(&file).unwrap().ino();
        // What is asked for after it is done after it.
        shell_as(
            ALICE,
            &format!("chmod 644 {}", world.file("alice").display()),
        );
        wait("a later repair", || mode(&world.file("alice")) == 0o600);
        assert_eq!(fs::metadata(&file).unwrap().ino(), ino, "it lets nobody in");
    };
    harmless();
    shell_as(ALICE, &format!("echo '{rogue}' >> {f}"));
    wait("a line", || is_gone(&file));
    harmless();
    shell_as(ALICE, &format!("ln {f} {o}"));
    wait("another name", || is_gone(&file));
    harmless();
    // Opened for writing before; the descriptor outlives the look.
    let writer = fs::OpenOptions::new().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut &writer, rogue.as_bytes()).unwrap();
    wait("a descriptor", || is_gone(&file));
    assert_eq!(world.account("alice")["state"], "in-sync");
}

/// A store through a mapping is an event to nobody: what is mapped so goes before anything can stand in it.
#[test]
fn a_file_of_comments_that_is_mapped_holds_no_key_for_longer_than_a_moment() {
    for first in [true, false] {
        let world = world(TWO);
        let (rogue, planted) = pair("rogue");
        let file = second(&world, "alice");
        let comments = format!("#{}\n", "#".repeat(planted.len()));
        // Read: the word to store the key; said: what was done.
        let script = "import mmap,os,sys\nos.setgroups([])\nos.setgid(int(sys.argv[3]))\nos.setuid(int(sys.argv[3]))\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nf.close()\nprint('mapped',flush=True)\n\
            input()\nt=sys.argv[2].encode()+b'\\n'\nm[0:len(t)]=t\nprint('stored',flush=True)\ninput()";
        let map = || {
            let mut python = Ends(
                Command::new("python3")
                    .args(["-c", script])
                    .arg(&file)
                    .arg(&planted)
                    .arg(ALICE.to_string())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap(),
            );
            let mut said = BufReader::new(python.0.stdout.take().unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, "mapped\n");
            (python, said)
        };
        let store = |(python, said): &mut (Ends, BufReader<ChildStdout>)| {
            let word = python.0.stdin.as_mut().unwrap();
            std::io::Write::write_all(word, b"\n").unwrap();
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, "stored\n");
        };
        let plant = || plant(&file, ALICE, &comments);
        let (mut mapping, agent);
        if first {
            plant();
            mapping = map();
            agent = guarded(&world);
        } else {
            agent = guarded(&world);
            plant();
            // Looked at and left.
            shell_as(
                ALICE,
                &format!("chmod 644 {}", world.file("alice").display()),
            );
            wait("a later repair", || mode(&world.file("alice")) == 0o600);
            assert_eq!(fs::read_to_string(&file).unwrap(), comments);
            mapping = map();
        }
        wait("the mapped file to go", || is_gone(&file));
        store(&mut mapping);
        assert_out(by_key(&world, "alice", &rogue));
        assert!(is_gone(&file));
        // One that nobody maps stays.
        plant();
        shell_as(
            ALICE,
            &format!("chmod 644 {}", world.file("alice").display()),
        );
        wait("a later repair", || mode(&world.file("alice")) == 0o600);
        assert_eq!(fs::read_to_string(&file).unwrap(), comments);
        assert_eq!(world.account("alice")["state"], "in-sync");
        drop(agent);
    }
}

#[test]
fn what_leads_to_the_file_is_taken_where_it_lets_somebody_in() {
    let world = world(
        "AuthorizedKeysFile .ssh/authorized_keys .keys/extra\nPasswordAuthentication no\nUsePAM no",
    );
    let _agent = guarded(&world);
    let (h, (rogue, line)) = (world.home("alice"), pair("rogue"));
    let keys = h.join(".keys");
    let (k, hd) = (keys.display(), h.display());
    shell_as(
        ALICE,
        &format!("mkdir -m 700 {hd}/hidden; ln -s hidden {k}"),
    );
    assert!(
        !comes_true(Duration::from_millis(300), || is_gone(&keys)),
        "it leads to nothing, and may be of use"
    );
    // It leads to what only a further group of hers may read.
    let group = world.path("group-only");
    fs::create_dir(&group).unwrap();
    fs::set_permissions(&group, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(group.join("extra"), &line).unwrap();
    shell_as(ALICE, &format!("rm {k}; ln -s {} {k}", group.display()));
    wait("the link into the dark to go", || is_gone(&keys));
    assert!(group.join("extra").exists());
    shell_as(
        ALICE,
        &format!("echo '{line}' > {hd}/hidden/extra; ln -s hidden {k}"),
    );
    wait("the link to go", || is_gone(&keys));
    assert!(h.join("hidden/extra").exists(), "what it led to is hers");
    // A directory of root's that she moved there.
    let of_root = h.join("of-root");
    fs::create_dir(&of_root).unwrap();
    fs::write(of_root.join("extra"), &line).unwrap();
    shell_as(ALICE, &format!("mv -T {} {k}", of_root.display()));
    wait("the directory to go", || is_gone(&keys));
    let aside: Vec<_> = litter(&h, &[".ssh", "hidden"]);
    assert!(
        aside.len() == 1 && aside[0].starts_with(".keys.aside-"),
        "{aside:?}"
    );
    // One that she closed to herself after the file was there.
    shell_as(
        ALICE,
        &format!("mkdir -m 300 {k}; echo '{line}' > {k}/extra"),
    );
    wait("the file in a directory that cannot be listed", || {
        is_gone(&keys.join("extra"))
    });
    assert_out(by_key(&world, "alice", &rogue));
    assert_eq!(world.account("alice")["state"], "in-sync");
}

#[test]
fn a_flag_that_was_there_first_is_reported_and_one_set_since_is_cleared() {
    let mut world = world(TWO);
    world.tables = "[verify]\nevery = \"1h\"".to_owned();
    let file = second(&world, "alice");
    let (rogue, planted) = pair("rogue");
    plant(&file, ALICE, &format!("{planted}\n"));
    let flag = |how| chattr(how, &file);
    flag("+i");
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    wait("the refusal", || {
        world.account("alice")["state"] == "refused"
    });
    let alice = world.account("alice");
    let reason = alice["reason"].as_str().unwrap();
    assert!(
        reason.contains("authorized_keys2`, which is not taken away")
            && reason.contains("immutable"),
        "{reason}"
    );
    assert_eq!(
        (
            &alice["access"]["verdict"],
            world.run(&["status"]).status.code()
        ),
        (&"also-open".into(), Some(1))
    );
    assert_eq!(
        alice["other_files"][0]["keys"][0]["fingerprint"],
        fingerprint(&planted).as_str()
    );
    assert_in(by_key(&world, "alice", &rogue));
    flag("-i");
    wait("the file to go without an event", || is_gone(&file));
    wait("all well", || world.account("alice")["state"] == "in-sync");
    assert_eq!(
        agent
            .log()
            .matches("the agent cannot bring the file in line")
            .count(),
        1,
        "{}",
        agent.log()
    );

    for how in ["+i", "+a"] {
        halt(agent.pid());
        plant(&file, ALICE, &format!("{planted}\n"));
        flag(how);
        signal("CONT", agent.pid());
        wait(how, || is_gone(&file));
        wait("the flag to be named", || {
            written(&world)["drift"]["last"]["changes"]
                .to_string()
                .contains("immutable or append-only flag")
        });
    }
    assert_eq!(world.account("alice")["state"], "in-sync");
}

#[test]
fn without_room_for_a_copy_the_first_one_stays_and_later_ones_go() {
    let world = world(TWO);
    let file = second(&world, "alice");
    plant(&file, ALICE, &format!("{}\n", key("launch")));
    world.approve("alice", "laptop", &key("alice"));
    fs::create_dir(world.path("state")).unwrap();
    fs::write(world.path("state/backups"), "in the way").unwrap();
    assert_eq!(world.pass(), 1);
    assert_eq!(world.accept(), 1);
    let reason = world.account("alice")["reason"].to_string();
    assert!(
        !is_gone(&file) && reason.contains("cannot be backed up"),
        "{reason}"
    );
    fs::remove_file(world.path("state/backups")).unwrap();
    assert_eq!(world.pass(), 0);
    assert!(is_gone(&file));
    fs::remove_dir_all(world.path("state/backups")).unwrap();
    fs::write(world.path("state/backups"), "in the way").unwrap();
    plant(&file, ALICE, &format!("{}\n", key("rogue")));
    assert_eq!(world.pass(), 0);
    assert!(is_gone(&file));
}

#[test]
fn what_cannot_be_copied_the_first_time_is_put_aside() {
    let world = world(TWO);
    let file = second(&world, "alice");
    let large = format!("{}\n{}", key("launch"), "#".repeat(3_000_000));
    plant(&file, ALICE, &large);
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 1);
    assert!(!is_gone(&file));
    assert_eq!(world.accept(), 0);
    let aside = litter(&world.ssh("alice"), &["authorized_keys"]);
    assert!(
        is_gone(&file) && aside.len() == 1 && aside[0].starts_with("authorized_keys2.aside-"),
        "{aside:?}"
    );
    assert_eq!(
        fs::read_to_string(world.ssh("alice").join(&aside[0])).unwrap(),
        large
    );
}

fn target(world: &World, file: &str) -> Target {
    world.target(file, Owner::Account)
}

fn remove(
    other: &Target,
    managed: &Target,
    terms: Terms<'_>,
    aside: bool,
) -> Result<Vec<Lock>, Refusal> {
    Visit::new(managed).remove_other(&other.location, terms, aside)
}

fn look(other: &Target, managed: &Target) -> Result<Option<Other>, Refusal> {
    Visit::new(managed).look_at_other(&other.location, false, &mut NoWitness)
}

const TERMS: Terms<'_> = Terms {
    wanted_still: &|| true,
    clear_obstacles: true,
    put_aside: &|_| (),
};

#[test]
fn the_managed_file_is_no_other_file_in_any_spelling() {
    let world = World::new();
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, "managed\n");
    let managed = target(&world, "authorized_keys");
    // As a directory without upper and lower case would give it.
    remove(&managed, &managed, TERMS, false).unwrap();
    assert_eq!(world.read("alice"), "managed\n");
    fs::hard_link(world.file("alice"), second(&world, "alice")).unwrap();
    let refused = remove(&target(&world, "authorized_keys2"), &managed, TERMS, false);
    assert!(matches!(refused, Err(Refusal::Contended(_))), "{refused:?}");
    assert_eq!(world.read("alice"), "managed\n");
}

#[test]
fn nobody_waits_for_it_and_nothing_is_taken() {
    let world = World::new();
    world.make_ssh("alice", ALICE);
    let file = second(&world, "alice");
    plant(&file, ALICE, "x\n");
    let (other, managed) = (
        target(&world, "authorized_keys2"),
        target(&world, "authorized_keys"),
    );
    let terms = Terms {
        wanted_still: &|| false,
        clear_obstacles: true,
        put_aside: &|_| (),
    };
    let taken = remove(&other, &managed, terms, false);
    assert!(
        matches!(taken, Err(Refusal::Abandoned)) && !is_gone(&file),
        "{taken:?}"
    );
    remove(&other, &managed, TERMS, false).unwrap();
    assert!(is_gone(&file) && look(&other, &managed).unwrap().is_none());
}

/// Runs `perl` as alice, until it is dropped. `exchange(A, B)` is one step: at every moment one of the two stands there.
fn exchanging(world: &World, script: &str) -> Ends {
    let number = if cfg!(target_arch = "x86_64") {
        316
    } else {
        276
    };
    let script = format!(
        "chdir '{}'; sub exchange {{ my ($a, $b) = @_; syscall({number}, -100, $a, -100, $b, 2) }}; while (1) {{ {script} }}",
        world.home("alice").display()
    );
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &ALICE.to_string(),
        "--regid",
        &ALICE.to_string(),
        "--clear-groups",
    ]);
    Ends(command.args(["perl", "-e", &script]).spawn().unwrap())
}

#[test]
fn exchanging_the_file_or_its_directory_a_thousand_times_gains_nothing() {
    // Each keeps making what was taken from it.
    let link = "symlink('OUT/precious', 'link') unless -l 'link';";
    let file =
        "unless (-e 'file') { open(F, '>', 'file'); print F \"ssh-ed25519 AAAA\\n\"; close(F) }";
    let rename = |from: &str| format!("rename('{from}', '.ssh/authorized_keys2');");
    let directory = "mkdir('.ssh', 0700) unless -e '.ssh'; symlink('OUT', 'dirlink') unless -l '.ssh' || -e 'dirlink'; \
        if (!-l '.ssh') { open(F, '>', '.ssh/authorized_keys2'); print F \"ssh-ed25519 AAAA\\n\"; close(F) }; \
        exchange('.ssh', 'dirlink');";
    for script in [
        format!("{link}{file}{}{}", rename("link"), rename("file")),
        directory.to_owned(),
        format!(
            "{file}{}rename('.ssh/authorized_keys2', 'file');",
            rename("file")
        ),
        format!(
            "{file}{}mkdir('directory'); exchange('.ssh/authorized_keys2', 'directory'); rmdir('.ssh/authorized_keys2');",
            rename("file")
        ),
    ] {
        let world = World::new();
        world.make_ssh("alice", ALICE);
        world.put("alice", ALICE, "managed\n");
        let outside = world.path("outside");
        fs::create_dir(&outside).unwrap();
        // She could remove these herself; whoever follows her there does it for her.
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
        let names = ["authorized_keys", "authorized_keys2", "precious"];
        for name in names {
            fs::write(outside.join(name), "ssh-ed25519 AAAA\n").unwrap();
        }
        let stamps = || names.map(|name| stamp(&outside.join(name)));
        let before = stamps();
        let (other, managed) = (
            target(&world, "authorized_keys2"),
            target(&world, "authorized_keys"),
        );
        let _swapper = exchanging(&world, &script.replace("OUT", outside.to_str().unwrap()));
        let (mut seen, mut taken, mut rounds) = (0, 0, 0);
        while seen < 1000 || taken < 100 {
            rounds += 1;
            assert!(
                rounds < 1_000_000,
                "{script}: the race was not run: {seen} seen, {taken} taken"
            );
            let mut visit = Visit::new(&managed);
            let found = visit.look_at_other(&other.location, false, &mut NoWitness);
            if found.is_ok_and(|found| found.is_some()) {
                seen += 1;
                let aside = rounds % 2 == 0;
                taken += usize::from(visit.remove_other(&other.location, TERMS, aside).is_ok());
            }
        }
        assert_eq!(stamps(), before, "{script}: something outside was touched");
    }
}

/// Every step of the removal fails once with every error, and is killed once.
#[test]
fn a_removal_that_fails_or_dies_at_any_step_harms_nothing() {
    for first in [true, false] {
        let world = world(TWO);
        world.approve("alice", "laptop", &key("alice"));
        let (file, content) = (second(&world, "alice"), format!("{}\n", key("launch")));
        let backups = world.path("state/backups");
        let copy = backups.join("alice.authorized_keys2");
        let spoil = || {
            // As if it had never been seen, or as if all had been well.
            let _ = fs::remove_file(&file);
            assert_eq!(world.pass(), 0);
            let _ = fs::remove_dir_all(&backups);
            if first {
                let path = world.path("state/enforced.json");
                let state = fs::read_to_string(&path).unwrap();
                fs::write(path, state.replace("\"alone\":true", "\"alone\":false")).unwrap();
            }
            plant(&file, ALICE, &content);
        };
        spoil();
        let managed = world.read("alice");
        let (ssh, kept) = (
            world.ssh("alice").display().to_string(),
            backups.display().to_string(),
        );
        let in_place = |line: &str| line.contains(&ssh) || line.contains(&kept);
        let changes = |line: &str| line.contains("O_EXCL") || line.contains("unlink");
        let found = steps_in(&traced(&world, "enforce", None), in_place, changes);
        assert!(is_gone(&file) && fs::read_to_string(&copy).unwrap() == content);
        for (call, least) in [("write", 1), ("fsync", 3), ("unlinkat", 1), ("rename", 1)] {
            let count = found.iter().filter(|step| step.call == call).count();
            assert!(count >= least, "{count} {call} in {found:#?}");
        }
        for step in &found {
            for fault in ["error=ENOSPC", "error=EIO", "signal=KILL"] {
                spoil();
                struck(&world, "enforce", step, fault);
                let what = format!("{fault} at {}, first {first}", step.shown);
                assert_eq!(world.read("alice"), managed, "{what}");
                let is_copied = fs::read_to_string(&copy).is_ok_and(|copied| copied == content);
                match fs::read_to_string(&file) {
                    Ok(left) => assert_eq!(left, content, "{what}"),
                    Err(_) => assert!(is_copied || !first, "{what}: gone without a copy"),
                }
                assert_eq!(
                    world.run(&["enforce", "--once"]).status.code(),
                    Some(0),
                    "after {what}"
                );
                assert!(is_gone(&file), "after {what}");
                assert!(
                    litter(&world.ssh("alice"), &["authorized_keys"]).is_empty(),
                    "after {what}"
                );
            }
        }
    }
}

#[test]
fn an_account_that_puts_it_back_in_a_loop_holds_nobody_up() {
    let world = world(TWO);
    world.approve("bob", "laptop", &key("bob"));
    let _agent = guarded(&world);
    let bob = world.read("bob");
    let line = key("rogue");
    let script = format!(
        "open(F, '>', 'x'); print F \"{}\\n\"; close(F); rename('x', '.ssh/authorized_keys2')",
        line.replace('@', "\\@")
    );
    let looping = exchanging(&world, &script);
    wait("a few of them", || repaired(&world) > 5);
    for _ in 0..3 {
        world.put("bob", BOB, &key("rogue"));
        wait("bob's repair meanwhile", || world.read("bob") == bob);
    }
    drop(looping);
    wait("the last one", || {
        is_gone(&second(&world, "alice")) && world.account("alice")["state"] == "in-sync"
    });
    let copies = fs::read_dir(world.path("state/backups"))
        .map(Iterator::count)
        .unwrap_or_default();
    assert!(copies <= 3, "{copies} copies");
}

#[test]
fn a_mount_over_it_is_reported_unless_it_lets_nobody_in() {
    let world = world(TWO);
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    let file = second(&world, "alice");
    let (rogue, null) = (world.path("rogue"), PathBuf::from("/dev/null"));
    fs::write(&rogue, format!("{}\n", key("rogue"))).unwrap();
    for (over, code, state) in [(&null, 0, "in-sync"), (&rogue, 1, "refused")] {
        plant(&file, ALICE, "");
        let mut command = world.command("sh");
        command
            .args(["-c", "mount --bind \"$1\" \"$2\" && shift 2 && \"$@\" enforce --once; code=$?; \"$@\" status; exit $code", "sh"])
            .args([over, &file])
            .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
            .arg("--config")
            .arg(world.config());
        let output = command.output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}",
            shown(&output.stderr)
        );
        let rows = written(&world);
        let alice = rows["accounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == "alice")
            .unwrap();
        assert_eq!(alice["state"], state, "{alice}");
        // What `status` sees itself is the same.
        let text = shown(&output.stdout);
        assert!(text.contains(&format!("\nalice    {state} ")), "{text}");
    }
    assert!(rogue.exists());
}
