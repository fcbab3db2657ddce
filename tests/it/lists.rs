//! From list to file: what applies, what is held, what is kept, what is said.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::support::world::{
    ALICE, BOB, World, fingerprint, flat, halt, key, key_of, mode, numbered, pair, shell_as, shown,
    signal, wait,
};

fn keys(world: &World, account: &str) -> usize {
    world
        .read(account)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count()
}

/// `n` keys for alice, one file each.
fn approve_many(world: &World, n: usize) -> Vec<String> {
    let lines: Vec<String> = (0..n).map(|i| key(&format!("key{i}"))).collect();
    for (i, line) in lines.iter().enumerate() {
        world.approve("alice", &format!("k{i}"), line);
    }
    lines
}

#[test]
fn a_changed_list_reaches_the_file() {
    let world = World::new();
    let (one, two) = (key("alice@laptop"), key("alice@phone"));
    world.approve("alice", "laptop", &one);
    let _agent = world.start();
    assert!(world.read("alice").ends_with(&format!("\n{one}\n")));
    assert_eq!(mode(&world.file("alice")), 0o600);
    world.approve("alice", "phone", &two);
    wait("the second key", || world.read("alice").contains(&two));
    world.revoke("alice", "laptop");
    wait("the first key to go", || {
        !world.read("alice").contains(&one)
    });
    assert!(world.read("alice").contains(&two));
    let account = world.account("alice");
    assert_eq!(account["state"], "in-sync");
    assert_eq!(
        account["keys"][0]["fingerprint"].as_str().unwrap(),
        fingerprint(&two)
    );
    assert_eq!(account["keys"][0]["comment"], "alice@phone");
    assert!(
        account["keys"][0]["parameter"]
            .as_str()
            .unwrap()
            .ends_with("approved/alice/phone")
    );
}

#[test]
fn nothing_is_changed_before_the_first_list() {
    let world = World::new();
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, "launch key\n");
    fs::remove_dir(world.path("approved")).unwrap();
    assert_eq!(world.pass(), 1);
    assert_eq!(world.read("alice"), "launch key\n");
    let problems = world.problems();
    assert!(problems.contains("no list has come yet"), "{problems}");
}

#[test]
fn a_list_that_looks_like_an_outage_removes_nothing() {
    type Break = fn(&World);
    let rows: [(&str, Break, &str); 7] = [
        (
            "empty",
            |w| {
                fs::remove_dir_all(w.path("approved")).unwrap();
                fs::create_dir(w.path("approved")).unwrap();
            },
            "no key at all",
        ),
        (
            "gone",
            |w| fs::remove_dir_all(w.path("approved")).unwrap(),
            "cannot list",
        ),
        (
            "shrunk",
            |w| (1..4).for_each(|i| w.revoke("alice", &format!("k{i}"))),
            "would remove 3 of 4 keys",
        ),
        (
            "a file that is none",
            |w| {
                assert!(
                    Command::new("mkfifo")
                        .arg(w.path("approved/alice/fifo"))
                        .status()
                        .unwrap()
                        .success()
                );
            },
            "not a readable text file",
        ),
        (
            "garbage",
            |w| {
                (0..4).for_each(|i| {
                    w.approve("alice", &format!("k{i}"), "<html>502 Bad Gateway</html>\n");
                });
            },
            "not taken",
        ),
        (
            "truncated to nothing",
            |w| (0..4).for_each(|i| w.approve("alice", &format!("k{i}"), "")),
            "not taken",
        ),
        (
            "a name that is none",
            |w| fs::write(w.path("approved/-rf"), "x").unwrap(),
            "is not an account name",
        ),
    ];
    for (what, spoil, expected) in rows {
        let mut world = World::new();
        // Held for good: the guard is to be seen at work.
        world.tables = "[guard]\nconfirmations = 1000000".to_owned();
        approve_many(&world, 4);
        let agent = world.start();
        let before = world.read("alice");
        let seen = fs::metadata(world.file("alice")).unwrap().ino();
        assert_eq!(keys(&world, "alice"), 4);
        spoil(&world);
        wait(&format!("{what} to be said"), || {
            world.problems().contains(expected)
        });
        assert_eq!(world.run(&["status"]).status.code(), Some(1), "{what}");
        assert_eq!(world.run(&["sync"]).status.code(), Some(1), "{what}");
        assert_eq!(world.read("alice"), before, "{what}");
        assert_eq!(
            fs::metadata(world.file("alice")).unwrap().ino(),
            seen,
            "{what}"
        );
        drop(agent);
        world.run(&["enforce", "--once"]);
        assert_eq!(world.read("alice"), before, "{what}, after a restart");
    }
}

#[test]
fn a_tombstone_removes_the_last_key() {
    let world = World::new();
    approve_many(&world, 3);
    let _agent = world.start();
    // On purpose: it needs nobody, though it is all that the host has.
    (1..3).for_each(|i| world.revoke("alice", &format!("k{i}")));
    world.approve("alice", "k0", "# left the company\n");
    wait("the tombstone", || keys(&world, "alice") == 0);
    assert_eq!(world.account("alice")["state"], "in-sync");
}

#[test]
fn a_person_accepts_one_list() {
    let mut world = World::new();
    world.hold_for_long();
    let lines = approve_many(&world, 1);
    let _agent = world.start();
    world.revoke("alice", "k0");
    let held = world.run(&["sync"]);
    assert_eq!((held.status.code(), keys(&world, "alice")), (Some(1), 1));
    let accepted = world.run(&["sync", "--accept-removals"]);
    assert_eq!(
        accepted.status.code(),
        Some(0),
        "{}",
        shown(&accepted.stderr)
    );
    assert!(shown(&accepted.stdout).contains(&format!("- key0 {}", fingerprint(&lines[0]))));
    assert_eq!(keys(&world, "alice"), 0);
    // It counted for that list alone.
    world.approve("alice", "k0", &lines[0]);
    wait("the key again", || keys(&world, "alice") == 1);
    world.revoke("alice", "k0");
    assert_eq!(world.run(&["sync"]).status.code(), Some(1));
    assert_eq!(keys(&world, "alice"), 1);
}

#[test]
fn a_shrunk_list_applies_once_it_has_come_often_enough() {
    let world = World::new();
    approve_many(&world, 4);
    assert_eq!(world.pass(), 0);
    (1..4).for_each(|i| world.revoke("alice", &format!("k{i}")));
    for seen in 1..3 {
        assert_eq!(world.pass(), 1);
        assert_eq!(keys(&world, "alice"), 4, "seen {seen} times");
        assert_eq!(world.account("alice")["state"], "held");
    }
    // Sooner than half of `every` it is no confirmation.
    wait("the third time", || world.pass() == 0);
    assert_eq!(keys(&world, "alice"), 1);
}

/// A source that answers wrongly for a moment does so however often it is asked in that moment.
#[test]
fn asking_again_and_again_confirms_nothing() {
    let mut world = World::new();
    world.every = "1h".to_owned();
    approve_many(&world, 4);
    let _agent = world.start();
    (1..4).for_each(|i| world.revoke("alice", &format!("k{i}")));
    for _ in 0..6 {
        assert_eq!(world.run(&["sync"]).status.code(), Some(1));
    }
    assert_eq!(keys(&world, "alice"), 4);
    assert_eq!(
        world.run(&["sync", "--accept-removals"]).status.code(),
        Some(0)
    );
    assert_eq!(keys(&world, "alice"), 1);
}

#[test]
fn a_list_that_heals_is_never_applied() {
    let world = World::new();
    let lines = approve_many(&world, 4);
    assert_eq!(world.pass(), 0);
    for _ in 0..3 {
        (1..4).for_each(|i| world.revoke("alice", &format!("k{i}")));
        assert_eq!(world.pass(), 1);
        assert_eq!(world.pass(), 1);
        (1..4).for_each(|i| world.approve("alice", &format!("k{i}"), &lines[i]));
        assert_eq!(world.pass(), 0);
        assert_eq!(keys(&world, "alice"), 4);
    }
}

/// A list is for many hosts, and a status is for people.
#[test]
fn names_that_are_not_on_this_host_take_one_line() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    for number in 0..300 {
        world.approve(
            &format!("ghost{number:03}"),
            "laptop",
            &numbered(number, "ghost"),
        );
    }
    world.approve("web", "laptop", &key("web"));
    assert_eq!(world.pass(), 0);
    let text = shown(&world.run(&["status"]).stdout);
    assert!(
        flat(&text).contains(
            "301 accounts no-account: ghost000, ghost001, ghost002, ghost003, ghost004 and 296 more"
        ),
        "{text}"
    );
    assert!(
        flat(&text).contains(" alice in-sync ") && text.lines().count() < 40,
        "{text}"
    );
    let all = world.status()["accounts"].as_array().unwrap().len();
    assert_eq!(all, 304, "for programs each is there");
}

/// New accounts wait for the same as all others: the list speaks of them, and there is nothing to publish.
#[test]
fn accounts_that_are_new_on_a_held_list_get_its_keys_and_keep_theirs() {
    let mut world = World::new();
    world.hold_for_long();
    world.accounts = "manage = [\"*\"]".to_owned();
    let mut passwd = fs::read_to_string(world.path("passwd")).unwrap();
    for uid in 62_000..62_020 {
        let name = format!("u{uid}");
        let home = world.home(&name);
        writeln!(passwd, "{name}:x:{uid}:{uid}::{}:/bin/sh", home.display()).unwrap();
        fs::create_dir_all(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        world.make_ssh(&name, uid);
        world.put(&name, uid, &numbered(1, "by hand"));
    }
    fs::write(world.path("passwd"), passwd).unwrap();
    approve_many(&world, 3);
    assert_eq!(world.pass(), 0);
    for label in ["k0", "k1"] {
        world.revoke("alice", label);
    }
    for uid in 62_000..62_020 {
        world.approve(&format!("u{uid}"), "laptop", &numbered(2, "new"));
    }
    let _agent = world.start();
    wait("the list to be held", || {
        world.problems().contains("would remove 22 of 23")
    });
    wait("what it adds", || keys(&world, "u62019") == 2);
    assert_eq!(keys(&world, "alice"), 3);
    for account in ["u62000", "alice"] {
        assert_eq!(world.account(account)["state"], "held", "{account}");
    }
}

#[test]
fn drift_is_undone_while_a_list_is_held() {
    let world = World::new();
    approve_many(&world, 4);
    assert_eq!(world.pass(), 0);
    let before = world.read("alice");
    (1..4).for_each(|i| world.revoke("alice", &format!("k{i}")));
    world.put("alice", ALICE, &key("rogue"));
    assert_eq!(world.pass(), 1);
    assert_eq!(world.read("alice"), before);
}

#[test]
fn an_account_that_leaves_the_list_is_emptied_even_after_a_restart() {
    let world = World::new();
    approve_many(&world, 4);
    world.approve("bob", "laptop", &key("bob"));
    assert_eq!(world.pass(), 0);
    fs::remove_dir_all(world.path("approved/bob")).unwrap();
    assert_eq!(world.pass(), 0);
    assert_eq!((keys(&world, "alice"), keys(&world, "bob")), (4, 0));
    world.put("bob", BOB, &key("rogue"));
    assert_eq!(world.pass(), 0);
    assert_eq!(keys(&world, "bob"), 0);
}

#[test]
fn a_bad_line_loses_only_itself() {
    let world = World::new();
    let (good, other) = (key("good"), key("other"));
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7";
    world.approve(
        "alice",
        "team",
        &format!("# the team\n{good}\nssh-ed25519 AAAA broken\n{rsa}\n\n{other}\n"),
    );
    assert_eq!(world.pass(), 1, "rejects are a reason to look");
    assert_eq!(keys(&world, "alice"), 2);
    let rejected = world.status()["rejected"].clone();
    assert_eq!(rejected.as_array().unwrap().len(), 2, "{rejected}");
    assert_eq!(rejected[0]["line"], 3);
    assert!(
        rejected[0]["parameter"]
            .as_str()
            .unwrap()
            .ends_with("alice/team")
    );
}

/// A value that a template wrote anew with its keys on one line takes none of them away, and lets no other in.
#[test]
fn keys_that_were_joined_to_one_line_stay_and_are_reported() {
    let world = World::new();
    let (one, two, three) = (key("one"), key("two"), key("three"));
    world.approve("alice", "team", &format!("{one}\n{two}"));
    let _agent = world.start();
    assert_eq!(keys(&world, "alice"), 2);
    let content = world.read("alice");
    for joined in [
        format!("{one},{two},{three}"),
        format!("# team\r{one}\r{two}\r{three}\r"),
    ] {
        world.approve("alice", "team", &joined);
        world.approve("alice", "other", &key("other"));
        wait("the new value", || keys(&world, "alice") == 3);
        assert!(world.read("alice").contains(&one) && world.read("alice").contains(&two));
        wait("the line to be reported", || {
            let rejected = world.status()["rejected"].to_string();
            rejected.contains("a line of its own") && !rejected.contains("AAAA")
        });
        world.approve("alice", "team", &format!("{one}\n{two}"));
        world.revoke("alice", "other");
        wait("the value as it was", || world.read("alice") == content);
    }
}

#[test]
fn a_private_key_is_shouted_about_and_never_shown() {
    let world = World::new();
    let (directory, public) = pair("alice");
    world.approve("alice", "laptop", &public);
    assert_eq!(world.pass(), 0);
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    let secret = private.lines().nth(2).unwrap().to_owned();
    world.approve("alice", "laptop", &private);
    let fetched = world.run(&["--log", "trace", "fetch", "--once"]);
    let enforced = world.run(&["--log", "trace", "enforce", "--once"]);
    assert_eq!(keys(&world, "alice"), 1, "what the value gave before stays");
    let status = world.run(&["status", "--json"]);
    let all: Vec<String> = [&fetched, &enforced, &status]
        .iter()
        .flat_map(|output| [shown(&output.stdout), shown(&output.stderr)])
        .collect();
    assert!(all.join("").contains("a PRIVATE key"));
    assert!(!all.join("").contains(&secret));
    assert!(
        !fs::read_to_string(world.path("run/status.json"))
            .unwrap()
            .contains(&secret)
    );
}

#[test]
fn a_key_leaves_the_file_when_it_expires() {
    let world = World::new();
    let stays = key("stays");
    let at = Command::new("date")
        .args(["-u", "-d", "+2 seconds", "+%Y%m%d%H%M%SZ"])
        .output()
        .unwrap();
    let at = shown(&at.stdout).trim().to_owned();
    let leaves = format!("expiry-time=\"{at}\" {}", key("leaves"));
    world.approve("alice", "both", &format!("{leaves}\n{stays}\n"));
    let _agent = world.start();
    assert!(
        world.read("alice").contains("leaves"),
        "{}",
        world.read("alice")
    );
    wait("the expiry", || !world.read("alice").contains("leaves"));
    assert!(world.read("alice").contains("stays"));
    assert_eq!(world.account("alice")["state"], "in-sync");
    assert_eq!(
        world.status()["drift"]["repaired"],
        0,
        "an expiry is no drift"
    );
}

#[test]
fn break_glass_keys_stay_whatever_the_list_says() {
    let world = World::new();
    let (glass, normal) = (key("break-glass"), key("normal"));
    fs::write(world.path("break-glass"), format!("{glass}\n")).unwrap();
    world.approve("alice", "laptop", &normal);
    assert_eq!(world.pass(), 0);
    assert!(world.read("alice").contains(&glass) && world.read("alice").contains(&normal));
    world.approve("alice", "laptop", "# none\n");
    wait("the tombstone", || world.pass() == 0);
    assert!(world.read("alice").contains(&glass) && !world.read("alice").contains(&normal));
    // Unreadable is no reason to drop it; removed is.
    fs::remove_file(world.path("break-glass")).unwrap();
    fs::create_dir(world.path("break-glass")).unwrap();
    assert_eq!(world.pass(), 1);
    assert!(world.read("alice").contains(&glass));
    fs::remove_dir(world.path("break-glass")).unwrap();
    // Nor are a file that is gone for a moment, or one of which nothing can be read.
    assert_eq!(world.pass(), 0);
    assert!(world.read("alice").contains(&glass));
    fs::write(world.path("break-glass"), "<html>").unwrap();
    assert_eq!(world.pass(), 1);
    assert!(world.read("alice").contains(&glass));
    fs::write(world.path("break-glass"), "# nobody any more\n").unwrap();
    assert_eq!(world.pass(), 0);
    assert!(!world.read("alice").contains(&glass));
    // Gone for good, it is gone.
    fs::write(world.path("break-glass"), &glass).unwrap();
    let _agent = world.start();
    wait("the break-glass key", || {
        world.read("alice").contains(&glass)
    });
    fs::remove_file(world.path("break-glass")).unwrap();
    wait("the end of it", || !world.read("alice").contains(&glass));
}

/// Whoever can write to that file would be let in everywhere.
#[test]
fn a_break_glass_file_that_others_can_write_to_counts_as_it_was() {
    let world = World::new();
    let (glass, planted, file) = (
        key("break-glass"),
        key("planted"),
        world.path("break-glass"),
    );
    let open = |mode: u32| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    world.approve("alice", "laptop", &key("normal"));
    fs::write(&file, &planted).unwrap();
    open(0o666);
    assert_eq!(world.pass(), 1);
    assert!(
        !world.read("alice").contains(&planted),
        "it was so from the beginning"
    );
    fs::write(&file, &glass).unwrap();
    open(0o600);
    assert_eq!(world.pass(), 0);
    assert!(world.read("alice").contains(&glass));
    fs::write(&file, &planted).unwrap();
    open(0o620);
    assert_eq!(world.pass(), 1);
    assert!(world.read("alice").contains(&glass) && !world.read("alice").contains(&planted));
    assert!(
        world.problems().contains("others than root can change"),
        "{}",
        world.problems()
    );
    open(0o600);
    std::os::unix::fs::chown(&file, Some(ALICE), None).unwrap();
    assert_eq!(world.pass(), 1);
    assert!(world.read("alice").contains(&glass) && !world.read("alice").contains(&planted));
}

#[test]
fn a_first_list_without_a_usable_key_empties_nothing() {
    let short = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 short";
    for value in [
        "",
        "ssh-ed25519 garbage",
        "cert-authority ssh-ed25519 AAAA",
        short,
    ] {
        let world = World::new();
        let launch = key("launch");
        world.make_ssh("alice", ALICE);
        world.put("alice", ALICE, &launch);
        world.approve("alice", "laptop", value);
        world.approve("bob", "laptop", &key("bob"));
        assert_eq!(world.pass(), 1, "{value}");
        assert_eq!(world.read("alice"), launch, "{value}");
        assert_eq!(keys(&world, "bob"), 1, "{value}");
        assert_eq!(world.account("alice")["state"], "held", "{value}");
        world.approve("alice", "laptop", "# on purpose\n");
        assert_eq!(world.pass(), 0, "{value}");
        assert_eq!(keys(&world, "alice"), 0, "{value}");
    }
}

#[test]
fn a_comment_beside_keys_is_no_tombstone_when_the_keys_are_missing() {
    let world = World::new();
    world.approve("alice", "README", "# the keys of alice\n");
    approve_many(&world, 4);
    assert_eq!(world.pass(), 0);
    (0..4).for_each(|i| world.revoke("alice", &format!("k{i}")));
    assert_eq!(world.pass(), 1);
    assert_eq!(keys(&world, "alice"), 4);
}

#[test]
fn a_new_policy_is_no_confirmation() {
    let mut world = World::new();
    let ecdsa: Vec<String> = (0..3).map(|_| key_of("ecdsa", "old")).collect();
    world.approve(
        "alice",
        "team",
        &format!("{}\n{}\n", ecdsa.join("\n"), key("new")),
    );
    for _ in 0..5 {
        assert_eq!(world.pass(), 0);
    }
    world.tables = "[policy]\nalgorithms = [\"ssh-ed25519\"]".to_owned();
    for seen in 1..3 {
        assert_eq!(world.pass(), 1);
        assert_eq!(keys(&world, "alice"), 4, "seen {seen} times");
    }
    wait("the third time", || {
        world.pass();
        keys(&world, "alice") == 1
    });
}

#[test]
fn an_acceptance_that_nobody_took_is_worth_nothing_later() {
    let mut world = World::new();
    world.hold_for_long();
    let lines = approve_many(&world, 2);
    let agent = world.start();
    halt(agent.pid());
    (0..2).for_each(|i| world.revoke("alice", &format!("k{i}")));
    assert_eq!(
        world
            .run(&["sync", "--accept-removals", "--timeout", "1"])
            .status
            .code(),
        Some(2)
    );
    signal("CONT", agent.pid());
    wait("the list to be held", || {
        world.problems().contains("would remove")
    });
    signal("HUP", agent.pid());
    assert_eq!(world.run(&["sync"]).status.code(), Some(1));
    assert_eq!(keys(&world, "alice"), 2);
    (0..2).for_each(|i| world.approve("alice", &format!("k{i}"), &lines[i]));
    assert_eq!(world.run(&["sync"]).status.code(), Some(0));
}

#[test]
fn an_account_taken_out_of_manage_is_remembered() {
    let mut world = World::new();
    approve_many(&world, 4);
    world.approve("bob", "laptop", &key("bob"));
    assert_eq!(world.pass(), 0);
    let all = std::mem::replace(&mut world.accounts, "manage = [\"alice\"]".to_owned());
    assert_eq!(world.pass(), 0);
    assert_eq!(keys(&world, "bob"), 1, "let go as it was");
    fs::remove_dir_all(world.path("approved/bob")).unwrap();
    assert_eq!(world.pass(), 0);
    world.accounts = all;
    assert_eq!(world.pass(), 0);
    assert_eq!(
        keys(&world, "bob"),
        0,
        "its revocation arrives when it is managed again"
    );
}

#[test]
fn nobody_else_can_hold_the_lock() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    for lock in ["run/enforce.lock", "fetch-run/fetch.lock"] {
        assert_eq!(mode(&world.path(lock)), 0o600);
        let tried = shell_as(
            ALICE,
            &format!("flock -n {} true", world.path(lock).display()),
        );
        assert!(!tried.status.success());
    }
}

#[test]
fn damaged_state_is_kept_aside_and_said() {
    let world = World::new();
    approve_many(&world, 2);
    assert_eq!(world.pass(), 0);
    fs::write(world.path("state/enforced.json"), "{\"schema\": 1, \"acc").unwrap();
    assert_eq!(world.pass(), 1);
    assert!(world.problems().contains("with an empty state"));
    assert_eq!(keys(&world, "alice"), 2);
    assert!(world.path("state/enforced.json.damaged").exists());
    assert_eq!(world.pass(), 0);
}

#[test]
fn a_stale_list_is_revoked_only_where_that_was_asked_for() {
    let mut world = World::new();
    let (glass, normal) = (key("break-glass"), key("normal"));
    fs::write(world.path("break-glass"), &glass).unwrap();
    world.source = "stale-after = \"1s\"\non-stale = \"revoke\"\nrevoke-after = \"2s\"".to_owned();
    world.approve("alice", "laptop", &normal);
    let _agent = world.start();
    wait("both keys", || keys(&world, "alice") == 2);
    fs::rename(world.path("approved"), world.path("away")).unwrap();
    wait("the revocation", || {
        keys(&world, "alice") == 1 && world.read("alice").contains(&glass)
    });
    wait("the reason", || world.problems().contains("on-stale"));
    let account = world.account("alice");
    assert_eq!(
        (&account["state"], account["keys"].as_array().unwrap().len()),
        (&"in-sync".into(), 1),
        "{account}"
    );
    fs::rename(world.path("away"), world.path("approved")).unwrap();
    wait("the keys again", || keys(&world, "alice") == 2);
}

#[test]
fn the_first_run_keeps_one_copy_and_names_each_key_it_removes() {
    let world = World::new();
    let (launch, approved) = (key("launch"), key("approved"));
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &format!("{launch}\n{approved}\n"));
    world.approve("alice", "laptop", &approved);
    world.run(&["fetch", "--once"]);
    let output = world.run(&["enforce", "--once"]);
    let log = shown(&output.stderr);
    assert!(
        log.contains("key removed that is not on the list") && log.contains(&fingerprint(&launch)),
        "{log}"
    );
    let copies: Vec<_> = fs::read_dir(world.path("state/backups"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(
        fs::read_to_string(&copies[0]).unwrap(),
        format!("{launch}\n{approved}\n")
    );
    assert_eq!(mode(&copies[0]), 0o600);
    world.put("alice", ALICE, "later drift\n");
    assert_eq!(world.pass(), 0);
    assert_eq!(
        fs::read_dir(world.path("state/backups")).unwrap().count(),
        1
    );
    // What nobody can read, or look at, cannot be copied, and stays beside the new file.
    for (directory, file, bytes) in [
        (0o700, 0o000, 100),
        (0o300, 0o600, 100),
        (0o700, 0o600, 2 << 20),
    ] {
        let world = World::new();
        world.make_ssh("alice", ALICE);
        let before = format!("{launch}\n#{}\n", "x".repeat(bytes));
        world.put("alice", ALICE, &before);
        let set = |path: &Path, bits| {
            fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
        };
        set(&world.file("alice"), file);
        set(&world.ssh("alice"), directory);
        world.approve("alice", "laptop", &approved);
        world.pass();
        world.accept();
        assert!(world.read("alice").contains(&approved));
        let beside = fs::read_dir(world.ssh("alice")).unwrap();
        let beside = beside.map(|entry| entry.unwrap().path());
        let aside: Vec<_> = beside.filter(|path| *path != world.file("alice")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(fs::read_to_string(&aside[0]).unwrap() == before);
        world.put("alice", ALICE, "later drift\n");
        assert_eq!(world.pass(), 0);
        assert_eq!(fs::read_dir(world.ssh("alice")).unwrap().count(), 2);
    }
    // No room for the copy: nothing is lost.
    let world = World::new();
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &launch);
    world.approve("alice", "laptop", &approved);
    fs::create_dir(world.path("state")).unwrap();
    fs::write(world.path("state/backups"), "in the way").unwrap();
    assert_eq!(world.pass(), 1);
    assert_eq!(world.read("alice"), launch);
    assert!(
        world.account("alice")["reason"]
            .as_str()
            .unwrap()
            .contains("cannot be backed up")
    );
}

#[test]
fn only_what_is_managed_is_touched() {
    let mut world = World::new();
    world.accounts = "manage = [\"a*\", \"s*\"]".to_owned();
    for account in ["alice", "bob", "svc", "nobody-here"] {
        world.approve(account, "laptop", &key(account));
    }
    assert_eq!(world.pass(), 0);
    assert_eq!(keys(&world, "alice"), 1);
    for account in ["bob", "svc"] {
        assert!(!world.ssh(account).exists(), "{account}");
        assert_eq!(world.account(account)["state"], "unmanaged");
    }
    assert_eq!(world.account("nobody-here")["state"], "no-account");
    world.accounts = "manage = [\"svc\", \"nobody-here\"]".to_owned();
    assert_eq!(world.pass(), 0);
    assert_eq!(keys(&world, "svc"), 1, "a system account named in full");
    assert_eq!(keys(&world, "alice"), 1, "let go as it was");
}

#[test]
fn a_named_account_that_no_list_ever_spoke_of_keeps_its_keys_and_is_reported() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    world.make_ssh("bob", BOB);
    let old = key("launch");
    world.put("bob", BOB, &old);
    assert_eq!(world.pass(), 1);
    assert_eq!(world.read("bob"), old);
    assert_eq!(world.account("bob")["state"], "not-listed");
    assert!(
        world.problems().contains("bob is not listed")
            && world.problems().contains("a value of comments alone")
    );
    world.approve("bob", "none", "# nobody\n");
    assert_eq!(world.pass(), 0);
    assert_eq!(keys(&world, "bob"), 0);
}

#[test]
fn the_state_files_are_for_root_and_the_status_for_all() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    assert_eq!(mode(&world.path("state")), 0o700);
    assert_eq!(mode(&world.path("state/enforced.json")), 0o600);
    assert_eq!(mode(&world.path("run/status.json")), 0o644);
    assert_eq!(
        fs::metadata(world.path("run"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
}
