//! The config as a file: who may write it, and what `status` says while it cannot be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::world::{ALICE, World, key, shown, signal, wait};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_config_that_an_account_may_write_is_a_problem() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    assert_eq!(world.status()["health"], "healthy", "{}", world.status());
    let (config, directory) = (world.config(), world.path(""));
    let check = |open: &Path| {
        let problems = world.problems();
        let open = open.to_str().unwrap().trim_end_matches('/');
        assert!(
            problems.contains(&format!("others than root can change `{open}`")),
            "{problems}"
        );
        assert!(problems.contains("chmod go-w"), "{problems}");
        let check = world.run(&["check"]);
        assert_eq!(check.status.code(), Some(1));
        assert!(
            shown(&check.stdout).contains("FAIL  config"),
            "{}",
            shown(&check.stdout)
        );
    };
    set_mode(&config, 0o664);
    check(&config);
    signal("HUP", agent.pid());
    wait("the line", || {
        agent.log().contains("others than root can change")
    });
    set_mode(&config, 0o644);
    chown(&config, Some(ALICE), None).unwrap();
    check(&config);
    chown(&config, Some(0), None).unwrap();
    set_mode(&directory, 0o777);
    check(&directory);
    set_mode(&directory, 0o1777);
    assert_eq!(world.problems(), "[]");
}

#[test]
fn while_the_config_cannot_be_used_status_says_what_the_enforcer_does() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let right = fs::read_to_string(world.config()).unwrap();
    let status = |text: &str, arguments: &[&str]| {
        // Not by `World::agent`, which writes it anew.
        fs::write(world.path("config.toml"), text).unwrap();
        let mut command = world.command(env!("CARGO_BIN_EXE_authorized-keys-agent"));
        command
            .arg("--config")
            .arg(world.path("config.toml"))
            .arg("status")
            .args(arguments);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output.stderr));
        assert!(
            shown(&output.stderr).contains("error: in the config"),
            "{}",
            shown(&output.stderr)
        );
        shown(&output.stdout)
    };
    for broken in [
        right.replace("[source]", "[sauce]"),
        right.replace("[source]", "[source"),
    ] {
        let said = status(&broken, &[]);
        assert!(
            said.contains("cannot use it") && said.contains("\nalice "),
            "{said}"
        );
        assert!(!said.contains("no enforcer is running"), "{said}");
        let json: Value = serde_json::from_str(&status(&broken, &["--json"])).unwrap();
        assert_eq!(
            (&json["health"], &json["problems"][0]["code"]),
            (&"degraded".into(), &"config-unusable".into())
        );
    }
    drop(agent);
    let said = status(&right.replace("[source]", "[sauce]"), &[]);
    assert!(said.contains("no enforcer is running"), "{said}");
}

#[test]
fn a_reader_that_is_gone_is_no_success() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["incidents"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.agent(arguments);
        let status = command
            .stdout(writer)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(141), "{arguments:?}");
    }
}

#[test]
fn a_diff_of_an_empty_list_says_that_it_is_empty() {
    let world = World::new();
    let diff = world.run(&["diff"]);
    assert!(
        shown(&diff.stderr).contains("the list is empty"),
        "{}",
        shown(&diff.stderr)
    );
}
