//! Too few watches, or none: whom no event tells of is looked at every few seconds, and the status says so.

use std::fs;

use crate::slow::{end, start_traced};
use crate::support::world::{ALICE, BOB, Running, World, key, signal, wait};

/// alice and bob with a key each, and no check that would come by itself.
fn world() -> World {
    let mut world = World::new();
    "[verify]\nevery = \"1h\"".clone_into(&mut world.tables);
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    assert_eq!(world.pass(), 0);
    fs::remove_file(world.path("run/status.json")).unwrap();
    world
}

/// What `status` says of a problem, with its hint.
fn says(world: &World, code: &str) -> Option<String> {
    let status = world.status();
    let problems = status["problems"].as_array().unwrap();
    let problem = problems.iter().find(|problem| problem["code"] == code)?;
    assert_eq!(status["health"], "degraded");
    Some(format!("{}; {}", problem["text"], problem["hint"]))
}

/// A planted key goes, and a new list is applied.
fn assert_guarded(world: &World) {
    let right = world.read("bob");
    world.put("bob", BOB, &key("rogue"));
    wait("the planted key to go", || world.read("bob") == right);
    world.approve("alice", "phone", &key("phone"));
    world.run(&["fetch", "--once"]);
    wait("the new list", || world.read("alice").contains("phone"));
}

#[test]
fn without_inotify_everybody_is_looked_at_until_it_is_to_be_had() {
    let world = world();
    let none = "inject=inotify_init1:error=EMFILE:when=1..5";
    let agent = start_traced(
        &world,
        &["-e", "trace=inotify_init1", "-e", none],
        &[],
        "enforce",
    );
    wait("the first pass", || world.path("run/status.json").exists());
    let said = says(&world, "nothing-watched").unwrap();
    assert!(said.contains("fs.inotify.max_user_instances"), "{said}");
    assert_guarded(&world);
    wait("watches", || says(&world, "nothing-watched").is_none());
    world.put("bob", BOB, &key("rogue"));
    wait("a repair by an event", || world.read("bob").contains("bob"));
    end(&world, agent);
}

#[test]
fn without_watches_everybody_is_looked_at_and_how_many_are_needed_is_said_once() {
    let world = world();
    let none = "inject=inotify_add_watch:error=ENOSPC";
    let agent = start_traced(
        &world,
        &["-e", "trace=inotify_add_watch", "-e", none],
        &[],
        "enforce",
    );
    wait("the first pass", || world.path("run/status.json").exists());
    let said = says(&world, "unwatched").unwrap();
    for part in [
        "3 accounts",
        "it needs 14 watches",
        "sysctl -w fs.inotify.max_user_watches=",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_guarded(&world);
    end(&world, agent);
}

#[test]
fn a_place_that_root_may_not_read_is_watched_as_its_owner() {
    let world = world();
    // As a file server says that squashes root. What is asked again is asked as the account.
    let squashed = "inject=inotify_add_watch:error=EACCES:when=1+2";
    let agent = start_traced(
        &world,
        &["-e", "trace=inotify_add_watch", "-e", squashed],
        &[],
        "enforce",
    );
    wait("the first pass", || world.path("run/status.json").exists());
    assert_eq!(says(&world, "unwatched"), None);
    let right = world.read("bob");
    world.put("bob", BOB, &key("rogue"));
    wait("the repair", || world.read("bob") == right);
    end(&world, agent);
}

/// The watches of a process.
pub fn watches(agent: &Running) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap();
    let texts = descriptors
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let of = |text: String| {
        text.lines()
            .filter(|line| line.starts_with("inotify wd:"))
            .count()
    };
    texts.map(of).sum()
}

#[test]
fn who_is_not_managed_any_more_gives_watches_back() {
    let mut world = world();
    let agent = world.start_with(&["enforce"]);
    wait("sshd's answer", || {
        crate::support::logins::written(&world)["sshd"].is_object()
    });
    let before = watches(&agent);
    "manage = [\"alice\"]".clone_into(&mut world.accounts);
    world.config();
    signal("HUP", agent.pid());
    // bob's home, its `.ssh` and the file there.
    wait("watches to be given back", || watches(&agent) + 3 <= before);
    let right = world.read("alice");
    world.put("alice", ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == right);
    assert_eq!(says(&world, "unwatched"), None);
}
