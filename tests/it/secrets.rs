//! No secret leaves the process: not into a log at the most verbose level, not into a file, not onto a terminal.

use std::fs;
use std::path::Path;

use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{
    ALICE, SECRET, SESSION, World, key, mode, pair, shell_as, shown, wait,
};

/// All regular files below `directory`, with their content.
fn files(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push((path.display().to_string(), shown(&fs::read(&path).unwrap())));
        }
    }
}

#[test]
fn nothing_secret_is_written_anywhere() {
    let (directory, public) = pair("mistaken");
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    let body: Vec<&str> = private
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let server = SsmServer::start([
        ("/k/alice/good", key("alice@laptop")),
        ("/k/alice/private", format!("# my key\n{private}")),
        ("/k/bob/one-line", private.replace('\n', " ")),
        ("/k/bob/body", body.join("\n")),
    ]);
    let mut world = World::new();
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    // What the SDK logs requests and replies by.
    let all = "trace".to_owned();
    world.environment.extend([
        ("RUST_LOG", all.clone()),
        ("LOG_SENSITIVE_BODIES", "true".to_owned()),
    ]);
    let mut said = Vec::new();
    let agent = world.start_with(&["--log", "trace", "run"]);
    wait("the private keys to be said", || {
        world.status()["rejected"].as_array().unwrap().len() == 3
    });
    assert!(
        world.status()["rejected"]
            .to_string()
            .contains("a PRIVATE key: nothing of this value is used")
    );
    for behaviour in [
        Behaviour::denied(),
        Behaviour::expired(),
        Behaviour::Error(400, "InvalidSignatureException", SECRET),
        Behaviour::TruncatedJson,
        Behaviour::Html(200),
        Behaviour::HangUp,
    ] {
        server.always(behaviour.clone());
        wait(&format!("{behaviour:?}"), || {
            world.problems().contains("the last fetch failed")
        });
        for arguments in [
            &["sync"][..],
            &["diff"],
            &["status"],
            &["status", "--json"],
            &["fetch", "--once"],
        ] {
            let output = world.run(&[&["--log", "trace"], arguments].concat());
            said.push((
                format!("{behaviour:?} {arguments:?}"),
                shown(&output.stdout) + &shown(&output.stderr),
            ));
        }
        server.always(Behaviour::Good);
        wait("recovery", || {
            !world.problems().contains("the last fetch failed")
        });
    }
    for arguments in [&["sync"][..], &["diff"], &["status", "--json"]] {
        let output = world.run(&[&["--log", "trace"], arguments].concat());
        said.push((
            format!("{arguments:?}"),
            shown(&output.stdout) + &shown(&output.stderr),
        ));
    }
    let (status, log) = agent.stop();
    assert!(status.success());
    assert!(
        log.contains("asking parameter store"),
        "the level is as asked: {log}"
    );
    said.push(("the log".to_owned(), log));
    files(&world.path(""), &mut said);
    for expected in [
        "log",
        "fetch-state/approved.json",
        "fetch-run/fetch.json",
        "run/status.json",
        "state/enforced.json",
    ] {
        assert!(
            said.iter().any(|(place, _)| place.ends_with(expected)),
            "{expected}"
        );
    }
    for (place, text) in &said {
        for secret in [SECRET, SESSION, "AKIAIOSFODNN7EXAMPLE", "AWS4-HMAC"]
            .iter()
            .chain(&body)
        {
            assert!(!text.contains(secret), "{secret} in {place}:\n{text}");
        }
    }
    assert!(!world.read("alice").contains(&public));
}

#[test]
fn the_list_is_for_root_and_the_report_for_all() {
    let server = SsmServer::start([("/k/alice", key("alice"))]);
    let mut world = World::new();
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    assert_eq!(world.pass(), 0);
    assert_eq!(mode(&world.path("fetch-state")), 0o700);
    let reads = |file: &str| {
        shell_as(ALICE, &format!("cat {}", world.path(file).display()))
            .status
            .success()
    };
    assert!(!reads("fetch-state/approved.json") && reads("fetch-run/fetch.json"));
    // Taken away, the list comes back with the next fetch.
    fs::remove_file(world.path("fetch-state/approved.json")).unwrap();
    let _agent = world.start();
    wait("the list", || {
        world.path("fetch-state/approved.json").exists()
    });
    fs::remove_file(world.path("fetch-state/approved.json")).unwrap();
    wait("the list again", || {
        world.path("fetch-state/approved.json").exists()
    });
}
