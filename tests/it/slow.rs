//! Slow and hanging file systems: slow work is finished, and one account's disk is nobody else's trouble.
//!
//! strace holds a system call for a while, as a busy journal, an exhausted volume or a dead server would.

use std::process::Stdio;

use crate::world::{ALICE, BOB, Ends, World, key, wait};

/// `run`, with every `call` on `path` (or everywhere) held for `seconds`.
fn start_slow(world: &World, call: &str, seconds: u32, path: Option<&std::path::Path>) -> Ends {
    let mut command = world.command("strace");
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:delay_enter={}", u64::from(seconds) * 1_000_000)]);
    if let Some(path) = path {
        command.arg("-P").arg(path);
    }
    command.arg(env!("CARGO_BIN_EXE_authorized-keys-agent")).arg("--config").arg(world.config()).arg("run");
    // The agent goes with strace: a tracer that is killed lets its tracee run on.
    let mut guarded = std::process::Command::new("setpriv");
    guarded.args(["--pdeathsig", "TERM"]).arg(command.get_program()).args(command.get_args());
    Ends(guarded.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Ends the agent itself, which strace leaves running when it is killed.
fn end(world: &World, slow: Ends) {
    let text = std::fs::read_to_string(world.path("run/status.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&text).unwrap()["enforcer"]["pid"].as_u64().unwrap();
    crate::world::signal("TERM", u32::try_from(pid).unwrap());
    drop(slow);
}

#[test]
fn a_replacement_that_takes_longer_than_anybody_waits_is_finished() {
    let world = World::new();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    let slow = start_slow(&world, "renameat", 3, None);
    wait("both files", || world.read("alice").contains("alice") && world.read("bob").contains("bob"));
    let content = world.read("alice");
    world.put("alice", ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == content);
    wait("a status that knows", || world.account("alice")["state"] == "in-sync");
    end(&world, slow);
}

#[test]
fn an_account_whose_disk_hangs_is_alone_with_it() {
    let world = World::new();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    assert_eq!(world.pass(), 0);
    let (alice, bob) = (world.read("alice"), world.read("bob"));
    let slow = start_slow(&world, "renameat", 12, Some(&world.ssh("alice")));
    wait("the running agent", || world.status()["health"] != "stopped");
    world.put("alice", ALICE, &key("rogue"));
    wait("alice to be reported", || world.status()["problems"].to_string().contains("alice is refused"));
    for _ in 0..3 {
        world.put("bob", BOB, &key("rogue"));
        wait("bob's repair meanwhile", || world.read("bob") == bob);
        assert_ne!(world.read("alice"), alice, "alice's disk still hangs");
    }
    // What is wanted of bob changes meanwhile, too.
    world.approve("bob", "phone", &key("bob@phone"));
    wait("bob's new key", || world.read("bob").contains("bob@phone"));
    wait("alice's repair in the end", || world.read("alice") == alice);
    wait("alice in sync", || world.account("alice")["state"] == "in-sync");
    end(&world, slow);
}
