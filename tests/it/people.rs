//! What a person types and reads: commands, exit codes, messages.

use std::fs;

use crate::support::world::{
    ALICE, BOB, Ends, World, fingerprint, flat, halt, key, shell_as, shown, signal, wait,
};

#[test]
fn status_tells_the_truth_at_every_stage() {
    let world = World::new();
    let line = key("alice@laptop");
    world.approve("alice", "laptop", &line);
    let before = world.run(&["status"]);
    assert_eq!(before.status.code(), Some(3));
    assert!(shown(&before.stdout).starts_with("stopped"));
    let agent = world.start();
    wait("healthy", || {
        world.run(&["status"]).status.code() == Some(0)
    });
    let status = world.status();
    assert_eq!(
        (&status["schema"], &status["health"], &status["mode"]),
        (&2.into(), &"healthy".into(), &"enforce".into())
    );
    assert_eq!(world.problems(), "[]");
    assert!(
        status["list"]["digest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
    assert!(status["list"]["age_seconds"].as_i64().unwrap() < 60);
    assert_eq!(world.account("alice")["verified"], true);
    let text = shown(&world.run(&["status", "--keys"]).stdout);
    for part in [
        "healthy",
        "alice",
        "in-sync",
        &fingerprint(&line),
        "alice@laptop",
        "drift     0 changes undone",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(
        !text.contains('\x1b'),
        "no colour where it is not a terminal"
    );
    // Frozen, the enforcer repairs nothing; the status says what is on disk, not what was said before.
    halt(agent.pid());
    world.put("alice", ALICE, &key("rogue"));
    let seen = world.status();
    signal("CONT", agent.pid());
    assert_eq!(seen["health"], "degraded");
    assert_eq!(seen["accounts"][0]["state"], "drifted");
    // Killed, it says so.
    drop(agent);
    let after = world.run(&["status"]);
    assert_eq!(after.status.code(), Some(3));
    assert!(shown(&after.stdout).contains("no enforcer is running"));
}

/// What the list says is not in force there, and no command may say that it is: neither root's, nor a plain user's.
#[test]
fn in_observe_mode_every_command_tells_the_same_truth() {
    let mut world = World::new();
    world.hold_for_long();
    let (carol, dave) = (key("carol"), key("dave"));
    world.approve("alice", "key", &carol);
    assert_eq!(world.pass(), 0);
    world.top = "mode = \"observe\"".to_owned();
    let _agent = world.start();
    wait("observing", || world.word()["mode"] == "observe");
    world.approve("alice", "key", &dave);
    world.run(&["sync"]);
    wait("the enforcer's word", || {
        world.word()["accounts"][0]["state"] == "drifted"
    });
    assert!(world.read("alice").contains("carol"), "nothing is written");
    let status = world.run(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(1));
    let alice = world.account("alice");
    assert_eq!(alice["state"], "drifted");
    assert_eq!(alice["keys"].as_array().unwrap().len(), 1);
    assert_eq!(alice["keys"][0]["fingerprint"], fingerprint(&carol));
    let told = world.problems();
    assert!(told.contains(&fingerprint(&dave)), "{told}");
    assert_eq!(world.run(&["diff"]).status.code(), Some(1));
    let sync = world.run(&["sync"]);
    assert_eq!(
        (sync.status.code(), shown(&sync.stdout).as_str()),
        (Some(1), "")
    );
    fs::copy(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        world.path("agent"),
    )
    .unwrap();
    let (agent, config) = (world.path("agent"), world.config());
    let mut plain = world.command("setpriv");
    plain.args(["--reuid", "61003", "--regid", "61003", "--clear-groups"]);
    plain.arg(agent).arg("--config").arg(config);
    let plain = plain.args(["status", "--json"]).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert_eq!(
        (plain.status.code(), &said["accounts"][0]["state"]),
        (Some(1), &"drifted".into())
    );
    assert_eq!(said["accounts"][0]["keys"], alice["keys"]);
}

#[test]
fn any_user_may_ask_and_is_told_what_was_not_looked_at() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    let binary = env!("CARGO_BIN_EXE_authorized-keys-agent");
    // A copy that every user can execute, wherever the build is.
    fs::copy(binary, world.path("agent")).unwrap();
    let script = format!(
        "{} --config {} status",
        world.path("agent").display(),
        world.config().display()
    );
    let output = shell_as(ALICE, &script);
    let text = flat(&shown(&output.stdout));
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        shown(&output.stderr)
    );
    assert!(
        text.contains("in-sync")
            && text.contains("as the enforcer said last")
            && text.contains("as root"),
        "{text}"
    );
}

/// As with `DynamicUser=`, whose directories are for root alone.
#[test]
fn what_a_user_may_not_see_is_not_denied() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(world.path("fetch-run"), closed).unwrap();
    fs::copy(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        world.path("agent"),
    )
    .unwrap();
    let script = format!(
        "{} --config {} status",
        world.path("agent").display(),
        world.config().display()
    );
    let told = || flat(&shown(&shell_as(ALICE, &script).stdout));
    let text = told();
    assert!(
        text.starts_with("healthy") && text.contains("as the enforcer said last"),
        "{text}"
    );
    assert!(!text.contains("no fetcher"), "{text}");
    // The enforcer passes on what it sees there.
    fs::rename(world.path("approved"), world.path("away")).unwrap();
    wait("the outage", || {
        told().contains("error: the last fetch failed: cannot list")
    });
    assert_eq!(shell_as(ALICE, &script).status.code(), Some(1));
    fs::rename(world.path("away"), world.path("approved")).unwrap();
    wait("its end", || told().starts_with("healthy"));
}

/// Where nothing is in force yet, or ever, it is looked at all the same.
#[test]
fn status_looks_before_anything_is_enforced() {
    let mut world = World::new();
    world.top = "mode = \"observe\"".to_owned();
    let (rogue, approved) = (key("rogue"), key("approved"));
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &rogue);
    world.make_ssh("bob", BOB);
    world.put("bob", BOB, &key("bob"));
    let text = shown(&world.run(&["status", "--keys"]).stdout);
    assert!(
        text.contains("no list has named these accounts yet")
            && text.contains(&fingerprint(&rogue)),
        "{text}"
    );
    world.approve("alice", "laptop", &approved);
    let _agent = world.start();
    let status = world.status();
    let alice = world.account("alice");
    assert_eq!(
        (&alice["state"], &alice["verified"]),
        (&"drifted".into(), &true.into()),
        "{alice:#}"
    );
    assert_eq!(
        alice["keys"][0]["fingerprint"],
        fingerprint(&rogue),
        "the keys are those of the file: {alice:#}"
    );
    assert_eq!(alice["keys"].as_array().unwrap().len(), 1);
    assert!(
        alice["reason"]
            .as_str()
            .unwrap()
            .contains(&fingerprint(&approved)),
        "{alice:#}"
    );
    assert!(
        status["problems"].to_string().contains("alice has drifted"),
        "{status:#}"
    );
    assert!(
        status["unmanaged"].is_array() && status["sshd"]["version"].is_string(),
        "{status:#}"
    );
    assert_eq!(world.read("alice"), rogue, "nothing is written");
}

#[test]
fn diff_says_what_sync_then_does() {
    let world = World::new();
    let (old, new) = (key("old"), key("new"));
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &old);
    world.approve("alice", "laptop", &new);
    let diff = world.run(&["diff"]);
    let text = shown(&diff.stdout);
    assert_eq!(diff.status.code(), Some(1), "{text}{}", shown(&diff.stderr));
    assert!(
        text.contains(&format!("- old {}", fingerprint(&old))),
        "{text}"
    );
    assert!(
        text.contains(&format!("+ new {}", fingerprint(&new))) && text.contains("alice/laptop"),
        "{text}"
    );
    assert_eq!(world.read("alice"), old, "diff writes nothing");
    assert!(
        !world.path("run/status.json").exists() && !world.path("state").exists(),
        "diff writes nothing at all"
    );
    let (goes, comes) = (
        format!("- old {}", fingerprint(&old)),
        format!("+ new {}", fingerprint(&new)),
    );
    let sync = world.run(&["sync"]);
    let said = shown(&sync.stdout);
    assert_eq!(sync.status.code(), Some(1), "{said}{}", shown(&sync.stderr));
    assert!(said.contains(&comes) && !said.contains(&goes), "{said}");
    let sync = world.run(&["sync", "--accept-removals"]);
    let said = shown(&sync.stdout);
    assert_eq!(sync.status.code(), Some(0), "{said}{}", shown(&sync.stderr));
    assert!(said.contains(&goes) && !said.contains(&comes), "{said}");
    assert_eq!(world.run(&["diff"]).status.code(), Some(0));
    fs::remove_dir_all(world.path("approved")).unwrap();
    let stored = world.run(&["diff"]);
    assert_eq!(
        stored.status.code(),
        Some(2),
        "what a new list would change is not known"
    );
    assert!(
        shown(&stored.stderr).contains("the stored list is compared"),
        "{}",
        shown(&stored.stderr)
    );
}

#[test]
fn diff_of_an_empty_list_says_that_it_is_one() {
    let diff = World::new().run(&["diff"]);
    let said = shown(&diff.stderr);
    assert_eq!(diff.status.code(), Some(0), "{said}");
    assert!(said.contains("the list is empty"), "{said}");
}

/// What a held list would remove is seen before it is accepted; to look is no poll.
#[test]
fn diff_shows_what_a_held_list_would_take_away() {
    let world = World::new();
    let keys: Vec<String> = (0..3).map(|number| key(&format!("key{number}"))).collect();
    for (number, line) in keys.iter().enumerate() {
        world.approve("alice", &number.to_string(), line);
    }
    assert_eq!(world.pass(), 0);
    let before = (
        world.read("alice"),
        fs::read(world.path("state/enforced.json")).unwrap(),
    );
    for number in [0, 1] {
        world.revoke("alice", &number.to_string());
    }
    let diff = world.run(&["diff"]);
    let (text, said) = (shown(&diff.stdout), shown(&diff.stderr));
    assert_eq!(diff.status.code(), Some(1), "{text}{said}");
    let gone: Vec<String> = keys[..2]
        .iter()
        .enumerate()
        .map(|(number, line)| format!("- key{number} {}", fingerprint(line)))
        .filter(|line| !text.contains(line))
        .collect();
    assert!(
        gone.is_empty() && text.starts_with("waits:\n") && said.contains("(0 so far)"),
        "{text}{said}"
    );
    assert_eq!(
        (
            world.read("alice"),
            fs::read(world.path("state/enforced.json")).unwrap()
        ),
        before
    );
    let closed: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(world.path("state"), closed).unwrap();
    fs::copy(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        world.path("agent"),
    )
    .unwrap();
    let script = format!(
        "{} --config {} diff",
        world.path("agent").display(),
        world.config().display()
    );
    let denied = shell_as(ALICE, &script);
    assert!(
        denied.status.code() == Some(2) && shown(&denied.stderr).contains("run this as root"),
        "{denied:?}"
    );
}

#[test]
fn sync_asks_the_running_services_and_waits() {
    let mut world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    // Polls that would come far too late.
    world.tables = String::new();
    let config = world.config();
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("every = \"200ms\"", "every = \"1h\"");
    fs::write(world.path("slow.toml"), text).unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_authorized-keys-agent"));
    command
        .arg("--config")
        .arg(world.path("slow.toml"))
        .arg("run")
        .stderr(std::process::Stdio::null());
    let mut agent = Ends(command.spawn().unwrap());
    wait("the first file", || world.read("alice").contains("alice"));
    wait("the first status", || {
        world.path("run/status.json").exists()
    });
    // An account that the list begins to speak of loses what was there before.
    let launch = key("launch");
    world.make_ssh("bob", BOB);
    world.put("bob", BOB, &launch);
    world.approve("bob", "laptop", &key("bob"));
    let said = shown(&world.run(&["sync"]).stdout);
    assert!(
        said.contains(&format!("- launch {}", fingerprint(&launch))),
        "{said}"
    );
    assert_eq!(
        shown(&world.run(&["sync"]).stdout),
        "in sync\n",
        "said once"
    );
    let second = key("second");
    world.approve("alice", "second", &second);
    let sync = world.run(&["sync"]);
    assert_eq!(sync.status.code(), Some(0), "{}", shown(&sync.stderr));
    assert!(
        shown(&sync.stdout).contains(&format!("+ second {}", fingerprint(&second))),
        "{}",
        shown(&sync.stdout)
    );
    assert!(world.read("alice").contains(&second));
    halt(agent.0.id());
    let late = world.run(&["sync", "--timeout", "1"]);
    signal("CONT", agent.0.id());
    assert_eq!(late.status.code(), Some(2));
    assert!(
        shown(&late.stderr).contains("the enforcer has not made its pass within 1 s"),
        "{}",
        shown(&late.stderr)
    );
    signal("TERM", agent.0.id());
    assert!(agent.0.wait().unwrap().success());
}

#[test]
fn a_second_one_says_who_runs() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    for command in ["enforce", "fetch", "run"] {
        let second = world.run(&[command]);
        assert_eq!(second.status.code(), Some(2));
        let said = shown(&second.stderr);
        let holder = match command {
            // A process below that one.
            "fetch" => "the fetcher cannot start: another one is running (pid ".to_owned(),
            _ => format!("another one is running (pid {})", agent.pid()),
        };
        assert!(said.contains(&holder), "{said}");
    }
}

#[test]
fn a_config_error_names_file_line_and_cure_and_a_bad_reload_changes_nothing() {
    let mut world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let before = world.read("alice");
    world.top = "mod = \"enforce\"".to_owned();
    let path = world.config();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(&path)
        .arg("status")
        .output()
        .unwrap();
    let said = shown(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        path.to_str().unwrap(),
        "line 1",
        "^^^",
        "unknown field `mod`",
    ] {
        assert!(said.contains(part), "{part} is missing in: {said}");
    }
    signal("HUP", agent.pid());
    wait("the bad reload to be said", || {
        agent.log().contains("the old one stays")
    });
    world.top = String::new();
    world.config();
    wait("the problem in the status", || {
        world.problems().contains("cannot use it")
    });
    assert_eq!(world.read("alice"), before);
    signal("HUP", agent.pid());
    wait("healthy again", || {
        world.run(&["status"]).status.code() == Some(0)
    });
    let missing = std::process::Command::new(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .args(["--config", "/nonexistent.toml", "status"])
        .output()
        .unwrap();
    assert!(shown(&missing.stderr).contains("cannot read the config `/nonexistent.toml`"));
}

#[test]
fn names_and_comments_are_harmless_on_a_terminal() {
    let world = World::new();
    let line = key("plain");
    world.approve(
        "alice",
        "laptop",
        &format!("{line} \x1b[2J\u{202e}evil\u{2028}\n"),
    );
    world.approve("alice", "bad\x1b[2Jname", "ssh-ed25519 AAAA\x1b[2J\n");
    world.pass();
    for output in [
        world.run(&["status"]),
        world.run(&["diff"]),
        world.run(&["enforce", "--once"]),
    ] {
        let all = [output.stdout, output.stderr].concat();
        assert!(!all.contains(&0x1b), "{}", shown(&all));
    }
    assert!(world.read("alice").is_ascii() && !world.read("alice").contains('\x1b'));
}

#[test]
fn without_root_everything_works_for_ones_own_account() {
    let mut world = World::new();
    world.accounts = "manage = [\"alice\"]".to_owned();
    world.approve("alice", "laptop", &key("alice@laptop"));
    fs::copy(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        world.path("agent"),
    )
    .unwrap();
    let config = world.config();
    for name in ["state", "run", "fetch-state", "fetch-run"] {
        fs::create_dir(world.path(name)).unwrap();
        std::os::unix::fs::chown(world.path(name), Some(ALICE), Some(ALICE)).unwrap();
    }
    let as_alice = |arguments: &[&str]| {
        let id = ALICE.to_string();
        let mut command = world.command("setpriv");
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(world.path("agent"));
        command.arg("--config").arg(&config).args(arguments);
        command
    };
    let mut agent = Ends(
        as_alice(&["run"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait("the file", || world.read("alice").contains("alice@laptop"));
    shell_as(
        ALICE,
        &format!(
            "echo '{}' >> {}",
            key("rogue"),
            world.file("alice").display()
        ),
    );
    wait("the repair", || {
        !world.read("alice").contains("rogue") && world.read("alice").contains("alice@laptop")
    });
    let looked = || shown(&as_alice(&["status", "--keys"]).output().unwrap().stdout);
    wait("a status that has looked", || {
        looked().contains("looked at just now") && looked().starts_with("healthy")
    });
    signal("TERM", agent.0.id());
    assert!(agent.0.wait().unwrap().success());
    // Another account's file is refused in words.
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("[\"alice\"]", "[\"alice\", \"bob\"]");
    fs::write(world.path("two.toml"), text).unwrap();
    world.approve("bob", "laptop", &key("bob"));
    let id = ALICE.to_string();
    let mut command = world.command("setpriv");
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(world.path("agent"));
    let sync = command
        .arg("--config")
        .arg(world.path("two.toml"))
        .arg("sync")
        .output()
        .unwrap();
    assert_eq!(sync.status.code(), Some(1));
    assert!(
        shown(&sync.stderr).contains("only root may work on the file of uid"),
        "{}",
        shown(&sync.stderr)
    );
}
