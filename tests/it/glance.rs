//! `status` at a glance, through the real program: accounts by name, files for a fleet, a private key first.

use std::fs;

use serde_json::Value;

use crate::support::world::{ALICE, World, fingerprint, flat, key, shown, wait};

/// Lines that a terminal of 80 columns would break: of more than one word.
fn too_long(text: &str) -> Vec<&str> {
    let is_long = |line: &&str| line.chars().count() > 80 && line.trim().contains(' ');
    text.lines().filter(is_long).collect()
}

#[test]
fn an_account_that_is_named_is_told_in_full_and_one_that_is_not_there_is_a_mistake() {
    let world = World::new();
    let (laptop, desk) = (key("alice@laptop"), key("bob@desk"));
    world.approve("alice", "laptop", &laptop);
    world.approve("bob", "desk", &desk);
    let _agent = world.start();
    let all = shown(&world.run(&["status"]).stdout);
    assert!(all.starts_with("healthy"), "{all}");
    assert!(flat(&all).contains(" keys 2 "), "{all}");
    assert!(!all.contains("SHA256:"), "keys only when asked for: {all}");
    let with_keys = shown(&world.run(&["status", "--keys"]).stdout);
    for line in [&laptop, &desk] {
        assert!(with_keys.contains(&fingerprint(line)), "{with_keys}");
    }
    let alice = shown(&world.run(&["status", "alice"]).stdout);
    assert!(
        alice.contains(&format!("  alice@laptop {}\n", fingerprint(&laptop)))
            && alice.contains("approved/alice/laptop")
            && !alice.contains("bob"),
        "{alice}"
    );
    for text in [&all, &with_keys, &alice] {
        assert_eq!(too_long(text), [""; 0], "{text}");
    }
    let json = world.run(&["status", "alice", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let names: Vec<&Value> = json["accounts"].as_array().unwrap().iter().collect();
    assert_eq!((names.len(), &names[0]["name"]), (1, &"alice".into()));

    for name in ["carol", "no/name"] {
        let missing = world.run(&["status", "alice", name]);
        let said = shown(&missing.stderr);
        assert_eq!(missing.status.code(), Some(2), "{said}");
        assert!(
            said.contains(&format!("`{name}`")) && said.contains("it names alice, bob"),
            "{said}"
        );
        assert_eq!(shown(&missing.stdout), "");
    }
}

#[test]
fn a_fleet_collects_one_line_that_is_always_whole() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    let line = shown(&world.run(&["status", "--format", "summary"]).stdout);
    assert!(line.len() < 500 && line.ends_with("}\n"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    let summary: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (
            &summary["health"],
            &summary["mode"],
            &summary["accounts"]["in-sync"],
            &summary["keys"],
            &summary["held"],
        ),
        (
            &"healthy".into(),
            &"enforce".into(),
            &1.into(),
            &1.into(),
            &false.into(),
        ),
        "{line}"
    );
    assert!(summary["list_age_seconds"].as_i64().unwrap() < 60, "{line}");

    let file = world.path("summary.json");
    fs::write(&file, "old").unwrap();
    let before = fs::File::open(&file).unwrap();
    let to = file.to_str().unwrap();
    let written = world.run(&["status", "--format", "summary", "--output", to]);
    assert_eq!(
        (written.status.code(), shown(&written.stdout)),
        (Some(0), String::new()),
        "{}",
        shown(&written.stderr)
    );
    let said: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(said["health"], "healthy");
    // Who has the old file open reads the old one: it was replaced, not written over.
    assert_eq!(std::io::read_to_string(before).unwrap(), "old");
    let away = world.path("no-such-directory/summary.json");
    let failed = world.run(&["status", "--output", away.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(2), "{}", shown(&failed.stderr));
    assert!(shown(&failed.stderr).contains("no-such-directory"));
}

#[test]
fn a_private_key_that_was_pasted_is_the_first_thing_said() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let pasted = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n";
    world.approve("alice", "pasted", pasted);
    world.approve("alice", "broken", "ssh-ed25519 AAAA\n");
    wait("the problem", || world.problems().contains("PRIVATE"));
    let status = world.status();
    let codes: Vec<&str> = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes[..2], ["private-key", "lines-rejected"]);
    let told = world.run(&["status"]);
    let text = shown(&told.stdout);
    assert_eq!(told.status.code(), Some(1), "{text}");
    let first = text
        .lines()
        .find(|line| line.starts_with("error:"))
        .unwrap();
    assert!(first.starts_with("error: a PRIVATE key is in"), "{text}");
    assert!(
        flat(&text).contains("approved/alice/pasted line 1"),
        "{text}"
    );
    assert!(
        agent
            .log()
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("a PRIVATE key")),
        "{}",
        agent.log()
    );
}

#[test]
fn an_account_without_keys_is_seen_unless_the_list_says_so() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    world.approve("bob", "desk", &key("bob"));
    assert_eq!(world.pass(), 0);
    world.revoke("alice", "laptop");
    let _agent = world.start();
    world.run(&["sync", "--accept-removals"]);
    let codes = || world.status()["problems"].to_string();
    wait("the warning", || codes().contains("no-keys"));
    let told = world.run(&["status"]);
    let text = shown(&told.stdout);
    assert_eq!(told.status.code(), Some(0), "{text}");
    assert!(
        flat(&text).contains("alice no keys 0 ") && text.contains("warning: alice has no keys"),
        "{text}"
    );
    assert_eq!(
        world.account("alice")["state"],
        "in-sync",
        "a state of the file, not of what is in it"
    );
    world.approve("alice", "none", "# left the company\n");
    wait("its end", || !codes().contains("no-keys"));
    let text = shown(&world.run(&["status"]).stdout);
    assert!(flat(&text).contains("alice no keys 0 "), "{text}");
}

#[test]
fn accounts_in_the_same_trouble_are_one_problem() {
    let mut world = World::new();
    world.top = "mode = \"observe\"".to_owned();
    for (account, uid) in [("alice", ALICE), ("bob", crate::support::world::BOB)] {
        world.make_ssh(account, uid);
        world.put(account, uid, &key(&format!("rogue-of-{account}")));
        world.approve(account, "laptop", &key(account));
    }
    let _agent = world.start();
    // While the list is held, a key that it does not name is no drift.
    wait("the list in force, and both drifted", || {
        let status = world.status();
        let all = status["problems"].as_array().unwrap();
        let mut drifted = all.iter().filter(|one| one["code"] == "file-drifted");
        let of_both = |one: &Value| one["accounts"].as_array().map(Vec::len) == Some(2);
        status["list"]["held"].is_null()
            && drifted.next().is_some_and(of_both)
            && drifted.next().is_none()
    });
    let text = flat(&shown(&world.run(&["status"]).stdout));
    let expected = "error: alice, bob have drifted, each: 1 key not on the list, 1 key missing";
    assert!(text.contains(expected), "{text}");
    // Of one alone it is told which.
    let text = flat(&shown(&world.run(&["status", "bob"]).stdout));
    assert!(
        text.contains("error: bob has drifted: not on the list: rogue-of-bob SHA256:")
            && !text.contains("alice"),
        "{text}"
    );
}
