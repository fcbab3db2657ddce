//! A first list takes no key away by itself: what let people in before stays in force until a person accepts that it goes, or
//! the list has come often enough.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::slow::{end, start_traced};
use crate::support::disk::Disk;
use crate::support::logins::{assert_in, assert_out, by_key, world as world_with_sshd};
use crate::support::world::{
    ALICE, BOB, World, fingerprint, key, pair, plant, shown, signal, wait,
};

const TWO: &str = "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2\nPasswordAuthentication no\nUsePAM no";

/// Accounts with keys made by hand, and a list with other ones.
fn by_hand() -> World {
    let world = World::new();
    for (account, uid) in [("alice", ALICE), ("bob", BOB)] {
        world.make_ssh(account, uid);
        world.put(
            account,
            uid,
            &format!("{}\n", key(&format!("{account} by hand"))),
        );
        world.approve(account, "laptop", &key(&format!("{account} on the list")));
    }
    world
}

fn held(world: &World) -> Value {
    world.status()["list"]["held"].clone()
}

fn has(world: &World, account: &str, comment: &str) -> bool {
    world.read(account).contains(comment)
}

#[test]
fn whoever_got_in_before_the_first_list_gets_in_until_it_is_accepted() {
    let world = world_with_sshd(TWO);
    let (own, own_line) = pair("own");
    let (bound, bound_line) = pair("bound");
    let (second, second_line) = pair("second");
    let (new, new_line) = pair("new");
    world.make_ssh("alice", ALICE);
    let options = "no-agent-forwarding,from=\"UNKNOWN,127.0.0.1,::1,0.0.0.0/0\"";
    let by_hand = format!("{own_line}\n# the bastion\n{options} {bound_line}\n");
    world.put("alice", ALICE, &by_hand);
    let other = world.ssh("alice").join("authorized_keys2");
    plant(&other, ALICE, &format!("{second_line}\n"));
    for identity in [&own, &second] {
        assert_in(by_key(&world, "alice", identity));
    }
    let is_bound_in = by_key(&world, "alice", &bound).0;
    world.approve("alice", "laptop", &new_line);
    for _ in 0..2 {
        assert_eq!(world.pass(), 1, "held is not in sync");
        for identity in [&own, &second, &new] {
            assert_in(by_key(&world, "alice", identity));
        }
        assert_eq!(by_key(&world, "alice", &bound).0, is_bound_in);
        assert!(has(&world, "alice", &format!("{options} {bound_line}")));
        assert!(other.exists());
    }
    let row = world.account("alice");
    assert_eq!(row["state"], "held", "{row}");
    let from: Vec<&str> = row["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["parameter"].as_str().unwrap())
        .collect();
    assert!(
        from.iter().any(|from| from.ends_with("authorized_keys2")),
        "{row}"
    );
    assert_eq!(world.accept(), 0);
    for identity in [&own, &bound, &second] {
        assert_out(by_key(&world, "alice", identity));
    }
    assert_in(by_key(&world, "alice", &new));
    assert!(!other.exists());
}

#[test]
fn what_waits_is_said_by_every_command_in_the_same_way() {
    for observes in [false, true] {
        let mut world = by_hand();
        world.hold_for_long();
        if observes {
            "mode = \"observe\"".clone_into(&mut world.top);
        }
        let before = world.read("alice");
        let sync = world.run(&["sync"]);
        assert_eq!(sync.status.code(), Some(1));
        let said = shown(&sync.stderr);
        let line = before.trim_end();
        let waits = format!(
            "would remove 2 of 2 keys on this host: alice by hand {} of alice",
            fingerprint(line)
        );
        assert!(said.contains(&waits), "{said}");
        assert!(
            said.contains("`agent diff` shows what waits")
                && said.contains("until 1000 polls in a row have found it"),
            "{said}"
        );
        let agent = world.start();
        wait("the enforcer's word", || held(&world)["removed"] == 2);
        let held = held(&world);
        assert_eq!(
            (&held["of"], &held["needed"]),
            (&2.into(), &1000.into()),
            "{held}"
        );
        assert_eq!(held["keys"].as_array().unwrap().len(), 2, "{held}");
        for name in ["since", "until"] {
            assert!(held[name].is_string(), "{held}");
        }
        assert!(held["text"].as_str().unwrap().contains(&waits), "{held}");
        let diff = shown(&world.run(&["diff"]).stdout);
        let (at_once, waits) = diff.split_once("waits:\n").unwrap();
        assert_eq!(
            at_once.contains("at once:\nalice\n  + alice on the list"),
            observes,
            "{diff}"
        );
        assert!(waits.contains("  - alice by hand"), "{diff}");
        assert!(!waits.contains("on the list"), "{diff}");
        for arguments in [&["diff"][..], &["status"], &["check"]] {
            let output = world.run(arguments);
            let said = shown(&output.stdout) + &shown(&output.stderr);
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                said.contains("would remove 2 of 2 keys on this host"),
                "{arguments:?}: {said}"
            );
        }
        let keys = if observes { 1 } else { 2 };
        assert_eq!(world.keys("alice"), keys);
        assert!(agent.stop().0.success());
    }
}

/// What looking has counted, enforcing does not go by.
#[test]
fn after_observing_a_restart_counts_the_polls_anew() {
    let mut world = by_hand();
    "mode = \"observe\"".clone_into(&mut world.top);
    let agent = world.start();
    wait("three polls", || {
        world.account("alice")["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("not on the list: alice by hand"))
    });
    let diff = shown(&world.run(&["diff"]).stdout);
    assert!(!diff.contains("waits:"), "{diff}");
    assert!(agent.stop().0.success());
    world.top.clear();
    world.hold_for_long();
    let _agent = world.start();
    wait("the list held again", || held(&world)["removed"] == 2);
    for account in ["alice", "bob"] {
        assert!(has(&world, account, "by hand") && has(&world, account, "on the list"));
    }
}

#[test]
fn the_same_list_again_is_enough_and_what_was_planted_meanwhile_is_none_of_it() {
    let world = by_hand();
    let mut passes = 0;
    while world.pass() != 0 {
        passes += 1;
        assert!(
            passes < 100 && has(&world, "alice", "by hand") && has(&world, "alice", "on the list")
        );
        world.put(
            "alice",
            ALICE,
            &format!("{}{}\n", world.read("alice"), key("planted")),
        );
        world.run(&["enforce", "--once"]);
        assert!(!has(&world, "alice", "planted"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(passes >= 2, "{passes}");
    for account in ["alice", "bob"] {
        assert!(!has(&world, account, "by hand") && has(&world, account, "on the list"));
    }
}

#[test]
fn with_a_persons_word_alone_it_waits_for_that() {
    let mut world = by_hand();
    world.tables.push_str("\n[guard]\nconfirm = \"person\"\n");
    let agent = world.start();
    let polls = || {
        world.status()["list"]["fetched_at"]
            .as_str()
            .map(str::to_owned)
    };
    for _ in 0..6 {
        let before = polls();
        wait("another poll", || polls() != before);
    }
    assert_eq!((world.keys("alice"), world.keys("bob")), (2, 2));
    let text = held(&world)["text"].to_string();
    assert!(text.contains("until a person accepts that"), "{text}");
    assert!(held(&world)["until"].is_null());
    assert_eq!(world.accept(), 0);
    assert_eq!((world.keys("alice"), world.keys("bob")), (1, 1));
    assert!(agent.stop().0.success());
}

#[test]
fn who_joins_later_keeps_its_keys_and_nobody_elses() {
    let world = by_hand();
    fs::remove_dir_all(world.path("approved/bob")).unwrap();
    world.approve("alice", "second", &key("second"));
    assert_eq!(world.pass(), 1);
    assert_eq!(world.accept(), 1, "bob has keys and is not listed");
    let planted = (0..9).map(|number| key(&number.to_string()));
    let planted = planted.collect::<Vec<_>>().join("\n");
    world.put("bob", BOB, &planted);
    world.approve("bob", "laptop", &key("bob on the list"));
    world.revoke("alice", "second");
    assert_eq!(world.pass(), 1);
    assert_eq!((world.keys("alice"), world.keys("bob")), (1, 10));
    assert_eq!(world.account("bob")["state"], "held");
    assert_eq!(world.account("alice")["state"], "in-sync");
    assert_eq!(world.accept(), 0);
    assert_eq!(world.keys("bob"), 1);
}

#[test]
fn lines_that_the_agent_cannot_read_are_not_lost() {
    let mut world = by_hand();
    world.hold_for_long();
    let strange = format!(
        "{}\nnext-type@example.com AAAAB3NzaC1y me\n",
        key("alice by hand")
    );
    world.put("alice", ALICE, &strange);
    assert_eq!(world.pass(), 1);
    assert_eq!(world.read("alice"), strange);
    assert_eq!(world.keys("bob"), 2, "one account's lines are its own");
    let row = world.account("alice");
    assert_eq!(row["state"], "held", "{row}");
    assert!(
        world.problems().contains("1 line that only sshd can judge"),
        "{}",
        world.problems()
    );
    assert_eq!(world.accept(), 0);
    assert_eq!(world.keys("alice"), 1);
    let copy = fs::read_to_string(world.path("state/backups/alice.authorized_keys"));
    assert_eq!(copy.unwrap(), strange);
}

#[test]
fn an_older_version_finds_every_key_in_the_state() {
    let world = by_hand();
    let more = format!("{}{}\n", world.read("alice"), key("alice too"));
    world.put("alice", ALICE, &more);
    assert_eq!(world.pass(), 1);
    let state = fs::read_to_string(world.path("state/enforced.json")).unwrap();
    let mut state: Value = serde_json::from_str(&state).unwrap();
    let alice = &state["accounts"]["alice"];
    let comments: Vec<&str> = alice["grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grant| grant["comment"].as_str().unwrap())
        .collect();
    assert_eq!(comments.len(), 3, "{alice}");
    assert!(comments.contains(&"alice by hand"), "{alice}");
    // And this one the state of an older one, which knows nothing of held keys.
    state.as_object_mut().unwrap().remove("steps");
    state["holding"].as_object_mut().unwrap().remove("since");
    for account in state["accounts"].as_object_mut().unwrap().values_mut() {
        for name in ["brought", "brought_at", "joining", "obscure", "inherited"] {
            account.as_object_mut().unwrap().remove(name);
        }
    }
    fs::write(world.path("state/enforced.json"), state.to_string()).unwrap();
    assert_eq!(world.pass(), 1);
    assert_eq!((world.keys("alice"), world.keys("bob")), (3, 2));
}

#[test]
fn a_home_that_hangs_waits_alone_and_is_looked_at_when_it_answers() {
    let world = by_hand();
    world.run(&["fetch", "--once"]);
    let file = world.file("alice");
    let hang = [
        "-e",
        "trace=openat",
        "-e",
        "inject=openat:delay_enter=4000000:when=1",
    ];
    let slow = start_traced(&world, &hang, &[file], "run");
    wait("bob's keys", || {
        world.file("bob").exists() && world.keys("bob") == 2
    });
    let row = || {
        let word = world.word();
        let rows = word["accounts"].as_array().cloned().unwrap_or_default();
        rows.into_iter()
            .find(|row| row["name"] == "alice")
            .unwrap_or_default()
    };
    assert!(has(&world, "alice", "by hand") && world.keys("alice") == 1);
    wait("alice's keys", || {
        world.keys("alice") == 2 || row()["state"] == "in-sync"
    });
    assert!(has(&world, "alice", "on the list"));
    end(&world, slow);
    assert!(Path::new(&world.path("state/backups/alice.authorized_keys")).exists());
}

/// The first pass waits for 5 s. What a slow thread finds that looked at the account before the list named it says nothing of the keys in its files.
#[test]
fn a_look_from_before_the_list_named_the_account_is_no_first_look() {
    let mut world = by_hand();
    world.hold_for_long();
    let approved = world.path("approved/alice");
    fs::rename(&approved, world.path("later")).unwrap();
    world.run(&["fetch", "--once"]);
    let hang = [
        "-e",
        "trace=openat2",
        "-e",
        "inject=openat2:delay_enter=8000000:when=1",
    ];
    let slow = start_traced(&world, &hang, &[world.ssh("alice")], "run");
    wait("bob's keys", || {
        world.file("bob").exists() && world.keys("bob") == 2
    });
    fs::rename(world.path("later"), approved).unwrap();
    wait("alice's keys", || has(&world, "alice", "on the list"));
    assert!(has(&world, "alice", "by hand"));
    end(&world, slow);
}

#[test]
fn enforcing_after_observing_is_a_first_list_too() {
    let mut world = by_hand();
    "mode = \"observe\"".clone_into(&mut world.top);
    let agent = world.start();
    wait("the list to come often enough", || {
        world.word()["list"]["held"].is_null()
    });
    assert_eq!((world.keys("alice"), world.keys("bob")), (1, 1));
    world.top.clear();
    world.hold_for_long();
    world.config();
    signal("HUP", agent.pid());
    wait("the list in force", || {
        has(&world, "alice", "on the list") && has(&world, "bob", "on the list")
    });
    for account in ["alice", "bob"] {
        assert!(has(&world, account, "by hand"), "{account}");
    }
    wait("what waits", || {
        world.word()["list"]["held"]["removed"] == 2
    });
    assert!(agent.stop().0.success());
}

/// sshd refuses what others than the account can write to, and the agent makes files that it does not refuse.
#[test]
fn what_others_could_have_written_lets_nobody_in() {
    for way in ["file", "directory", "owner"] {
        let mut world = world_with_sshd(TWO);
        world.hold_for_long();
        let (rogue, rogue_line) = pair("rogue");
        let (new, new_line) = pair("new");
        world.make_ssh("alice", ALICE);
        world.put("alice", ALICE, &format!("{rogue_line}\n"));
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        match way {
            "file" => open(&world.file("alice"), 0o666),
            "directory" => open(&world.ssh("alice"), 0o777),
            _ => chown(world.file("alice"), Some(BOB), Some(ALICE)).unwrap(),
        }
        open(&world.home("alice"), 0o755);
        if way == "owner" {
            open(&world.file("alice"), 0o644);
        }
        assert_out(by_key(&world, "alice", &rogue));
        world.approve("alice", "laptop", &new_line);
        assert_eq!(world.pass(), 1, "{way}");
        assert_out(by_key(&world, "alice", &rogue));
        let problems = world.problems();
        assert!(
            problems.contains("1 line that only sshd can judge"),
            "{way}: {problems}"
        );
        assert_eq!(world.accept(), 0, "{way}");
        assert_out(by_key(&world, "alice", &rogue));
        assert_in(by_key(&world, "alice", &new));
    }
}

#[test]
fn an_account_that_comes_after_the_first_list_joins_as_any_other() {
    let mut world = by_hand();
    world.hold_for_long();
    let passwd = fs::read_to_string(world.path("passwd")).unwrap();
    let without: Vec<&str> = passwd
        .lines()
        .filter(|line| !line.starts_with("alice:"))
        .collect();
    fs::write(world.path("passwd"), without.join("\n") + "\n").unwrap();
    assert_eq!(world.pass(), 1);
    assert_eq!(world.account("alice")["state"], "no-account");
    fs::write(world.path("passwd"), passwd).unwrap();
    assert_eq!(world.pass(), 1);
    assert_eq!((world.keys("alice"), world.keys("bob")), (2, 2));
}

/// Neither what is in force nor a copy of the file can be kept.
#[test]
fn a_state_directory_without_room_costs_nobody_a_key() {
    let world = by_hand();
    let (state, filler) = (world.path("state"), world.path("state/filler"));
    fs::create_dir(&state).unwrap();
    let _disk = Disk::mount("tmpfs", &state, &world.path("image"));
    let remount = Command::new("mount")
        .args(["-o", "remount,size=64k"])
        .arg(&state)
        .status();
    assert!(remount.unwrap().success());
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err(), "it has room");
    for _ in 0..5 {
        assert_eq!(world.pass(), 1);
        for account in ["alice", "bob"] {
            assert!(has(&world, account, "by hand"), "{}", world.read(account));
        }
    }
    fs::remove_file(&filler).unwrap();
    assert_eq!(world.accept(), 0, "{}", world.problems());
    for account in ["alice", "bob"] {
        assert!(!has(&world, account, "by hand") && has(&world, account, "on the list"));
        let backup = world.path(&format!("state/backups/{account}.authorized_keys"));
        assert!(fs::read_to_string(backup).unwrap().contains("by hand"));
    }
}
