//! No secret leaves the process: not into a log at the most verbose level, not into a file, not onto a terminal.

use std::fs;
use std::path::Path;

use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{
    ALICE, SECRET, SESSION, World, key, mode, numbered, pair, shell_as, shown, wait,
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

/// Lines that are not taken, strung together from words that nobody but their owner may see. A comment, an option that exists
/// and a key type may be said.
fn mistaken(random: &mut impl FnMut() -> usize, told: &mut Vec<String>) -> String {
    let mut word = |dash: &str| {
        let word = format!("q{:08x}{dash}{:08x}z", random(), random());
        told.push(word.clone());
        word
    };
    let (a, b, c) = (word("-"), word(""), word("."));
    let keys = [numbered(random(), "me"), numbered(random(), "you")];
    let [body, other] = keys
        .clone()
        .map(|key| key.split(' ').nth(1).unwrap().to_owned());
    // Each key has its own end; what all keys begin with is no secret.
    told.extend([&body, &other].map(|body| body[40..].to_owned()));
    let [key, second] = keys;
    let field = |text: &str| {
        [
            &u32::try_from(text.len()).unwrap().to_be_bytes(),
            text.as_bytes(),
        ]
        .concat()
    };
    match random() % 24 {
        0 => a,
        1 => format!("{a} {b}"),
        2 => format!("ssh-ed25519{body}"),
        3 => format!("ssh-ed25519 {b}"),
        4 => format!("{a} {body}"),
        5 => format!("{b}=\"{a}\" {key}"),
        6 => format!("no-pty,{a} {key}"),
        7 => format!("command={a} {key}"),
        8 => format!("from=\"{a} {c}\" {key}"),
        9 => format!("expiry-time=\"{a}\" {key}"),
        10 => format!("{key},{second}"),
        11 => format!("ssh-rsa {body} me"),
        12 => format!("\"{key}\""),
        13 => format!("https://{b}:{a}@example.com/{c}"),
        14 => format!("{b}: {c}"),
        15 => format!("# a remark\r{key}"),
        16 => {
            use base64ct::{Base64, Encoding};
            let kind = format!("{a}@example.com");
            format!(
                "{kind} {} me",
                Base64::encode_string(&[field(&kind), field(&b)].concat())
            )
        }
        17 => format!("-----BEGIN PUBLIC KEY-----\n{b}\n{c}\n-----END PUBLIC KEY-----"),
        18 => format!("permitopen=\"{c}\",environment=\"{a}\" {key}"),
        19 => format!("tunnel=\"{b}\" {key}"),
        20 => format!("{{\"{a}\": \"{key}\"}}"),
        21 => format!("restrict {a} {key}"),
        22 => format!("{body} {second}"),
        _ => format!("{}\n{}", &key[..50], &key[50..]),
    }
}

/// What is said of a list repeats nothing of it, whoever says it.
#[test]
fn nothing_of_a_line_that_is_not_taken_is_said_anywhere() {
    let world = World::new();
    // Always the same numbers: what fails once fails again.
    let mut state = 42_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let mut secrets = Vec::new();
    for number in 0..120 {
        let lines: Vec<String> = (0..=random() % 4)
            .map(|_| mistaken(&mut random, &mut secrets))
            .collect();
        world.approve("alice", &number.to_string(), &lines.join("\n"));
    }
    world.approve("alice", "good", &key("alice@laptop"));
    let agent = world.start_with(&["--log", "trace", "run"]);
    wait("the list", || world.keys("alice") == 1);
    let mut said = Vec::new();
    let lists: Vec<String> = (0..120)
        .map(|number| {
            world
                .path("approved/alice")
                .join(number.to_string())
                .display()
                .to_string()
        })
        .collect();
    let lint: Vec<&str> = ["lint"]
        .into_iter()
        .chain(lists.iter().map(String::as_str))
        .collect();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["check", "--json"],
        &["diff"],
        &["sync"],
        &lint,
    ] {
        let output = world.run(&[&["--log", "trace"], arguments].concat());
        said.push((
            arguments[0].to_owned(),
            shown(&output.stdout) + &shown(&output.stderr),
        ));
    }
    said.push(("the log".to_owned(), agent.stop().1));
    said.push((
        "the word".to_owned(),
        fs::read_to_string(world.path("run/status.json")).unwrap(),
    ));
    for (place, text) in &said {
        for secret in &secrets {
            let at = text.find(secret).map(|at| &text[at.saturating_sub(200)..]);
            let line = at.and_then(|at| at.lines().next());
            assert_eq!(line, None, "{secret} is said by {place}");
        }
    }
    // All of them.
    let text = &said[1].1;
    assert!(
        text.contains("more than one key") && text.contains("in quotes"),
        "{text}"
    );
}
