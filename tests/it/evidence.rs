//! What an incident says of a key that was hidden: behind modes, megabytes or links.

use std::fs;

use serde_json::Value;

use crate::support::world::{
    ALICE, Running, World, fingerprint, halt, key, plant, shell_as, shown, signal, wait,
};

/// alice's file in place, and the agent stopped for a moment.
fn scene() -> (World, Running) {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let agent = world.start();
    halt(agent.pid());
    (world, agent)
}

fn as_alice(world: &World, script: &str) {
    let home = world.home("alice");
    let done = shell_as(ALICE, &format!("cd {} && {script}", home.display()));
    assert!(done.status.success(), "{script}: {}", shown(&done.stderr));
}

/// Lets the agent go on, and gives the incident that names the key, and what is kept of the content.
fn named(world: &World, agent: &Running, what: &str, rogue: &str) -> (Value, String) {
    let content = fingerprint(rogue);
    signal("CONT", agent.pid());
    let mut found = None;
    wait(&format!("{what}: the incident"), || {
        found = world.incidents().into_iter().find(|incident| {
            let mut changes = incident["changes"].as_array().unwrap().iter();
            changes.any(|change| {
                change["change"] == "added" && change["fingerprint"] == content.as_str()
            })
        });
        found.is_some()
    });
    let incident = found.unwrap();
    let kept = incident["content_file"].as_str();
    let kept = kept.unwrap_or_else(|| panic!("{what}: nothing kept: {incident:#}"));
    let kept = String::from_utf8_lossy(&fs::read(kept).unwrap()).into_owned();
    assert!(kept.contains(rogue), "{what}: {incident:#}");
    wait(&format!("{what}: the repair"), || {
        world.keys("alice") == 1 && world.read("alice").contains("alice@laptop")
    });
    (incident, kept)
}

#[test]
fn a_key_in_a_directory_that_is_closed_is_named_and_kept() {
    for mode in ["500", "300", "100", "000"] {
        let (world, agent) = scene();
        let rogue = key("rogue");
        plant(&world.file("alice"), ALICE, &rogue);
        as_alice(&world, &format!("chmod {mode} .ssh"));
        let (incident, _) = named(&world, &agent, mode, &rogue);
        let changes = incident["changes"].to_string();
        assert!(!changes.contains("deleted"), "{mode}: {changes}");
    }
}

#[test]
fn a_key_beside_megabytes_is_named_and_kept_without_them() {
    let comments = |megabytes: usize| "# nothing to see here\n".repeat(megabytes * 48_000);
    let garbage = |megabytes: usize| {
        "\u{1}what this is nobody knows, and it is no comment\n".repeat(megabytes * 24_000)
    };
    let line = |megabytes: usize| "x".repeat(megabytes << 20) + "\n";
    for (what, before) in [
        ("1 MiB of comments", comments(1)),
        ("8 MiB of comments", comments(8)),
        ("1 MiB of garbage", garbage(1)),
        ("8 MiB of garbage", garbage(8)),
        ("8 MiB in one line", line(8)),
    ] {
        assert!(before.len() > 1 << 20, "{what}");
        let (world, agent) = scene();
        let rogue = key("rogue");
        plant(&world.file("alice"), ALICE, &format!("{before}{rogue}\n"));
        let (incident, kept) = named(&world, &agent, what, &rogue);
        assert_eq!(incident["evidence"]["kept"], "lines", "{what}");
        assert!(
            !kept.contains("# nothing") && kept.len() <= 256 << 10,
            "{what}"
        );
    }
}

/// The file as such was not: it was written to when it had no name any more.
#[test]
fn a_key_that_is_written_after_megabytes_is_named_though_it_never_counted() {
    let (world, agent) = scene();
    let rogue = key("rogue");
    let (file, text) = (world.file("alice"), world.path("text"));
    signal("CONT", agent.pid());
    fs::write(&text, "# nothing\n".repeat(200_000) + &rogue + "\n").unwrap();
    as_alice(
        &world,
        &format!("cat {} >> {}", text.display(), file.display()),
    );
    let (incident, _) = named(&world, &agent, "an append", &rogue);
    assert_eq!(incident["undone"], "prevented");
}

/// What is too large to be copied stays beside the new file as a whole.
#[test]
fn a_large_file_that_was_there_first_is_not_boiled_down() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    world.make_ssh("alice", ALICE);
    let first = "# mine\n".repeat(200_000) + &key("first") + "\n";
    world.put("alice", ALICE, &first);
    assert_eq!(world.pass(), 1, "a key of two would go");
    assert_eq!(world.accept(), 0);
    let mut all = fs::read_dir(world.ssh("alice")).unwrap().flatten();
    let aside = all
        .find(|entry| entry.file_name().to_string_lossy().contains(".aside-"))
        .unwrap();
    assert_eq!(fs::read_to_string(aside.path()).unwrap(), first);
}

#[test]
fn a_key_behind_a_link_is_named_and_kept() {
    for (what, script) in [
        (
            "a linked file",
            "rm .ssh/authorized_keys && ln -s ../own/authorized_keys .ssh/authorized_keys",
        ),
        (
            "a linked file, by its whole path",
            "rm .ssh/authorized_keys && ln -s $PWD/own/authorized_keys .ssh/authorized_keys",
        ),
        ("a linked directory", "mv .ssh old && ln -s own .ssh"),
        (
            "a linked directory, by its whole path",
            "mv .ssh old && ln -s $PWD/own .ssh",
        ),
        (
            "two links",
            "mv .ssh old && ln -s own two && ln -s two .ssh",
        ),
        (
            "a link in a home that is closed",
            "mv .ssh old && ln -s own .ssh && chmod 100 .",
        ),
    ] {
        let (world, agent) = scene();
        let rogue = key("rogue");
        as_alice(&world, "mkdir -m 700 own");
        plant(
            &world.home("alice").join("own/authorized_keys"),
            ALICE,
            &rogue,
        );
        as_alice(&world, script);
        let (incident, _) = named(&world, &agent, what, &rogue);
        let changes = incident["changes"].to_string();
        assert!(changes.contains("symbolic link"), "{what}: {changes}");
        let own = world.home("alice").join("own/authorized_keys");
        assert_eq!(fs::read_to_string(own).unwrap(), rogue, "{what}");
    }
}
