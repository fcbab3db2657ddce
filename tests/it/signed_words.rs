//! What the commands say of signed lists: by whom, until when, and what is wrong.

use std::fs;
use std::process::Output;

use jiff::SignedDuration;

use crate::support::signing::{Local, Signer, Statement, now, rogue};
use crate::support::world::{flat, key, shown, wait};

/// What a command prints, on both ways, in one line of single blanks.
fn said(output: &Output) -> String {
    flat(&(shown(&output.stdout) + &shown(&output.stderr)))
}

fn run(local: &Local, arguments: &[&str]) -> (Option<i32>, String) {
    let output = local.world.run(arguments);
    (output.status.code(), said(&output))
}

fn contains(text: &str, all: &[&str]) {
    for one in all {
        assert!(text.contains(one), "`{one}` in:\n{text}");
    }
}

fn fingerprint(signer: &Signer) -> String {
    crate::support::world::fingerprint(&signer.public)
}

#[test]
fn status_says_who_signed_and_until_when() {
    let local = Local::new();
    let signer = format!("ops@example.com {}", fingerprint(&local.ops));
    let (_, text) = run(&local, &["status"]);
    contains(
        &text,
        &[&format!(
            "signed by {signer}, serial 1, expires in 29 d 23 h"
        )],
    );
    let status = local.world.status();
    let signature = &status["list"]["signatures"][0];
    assert_eq!(signature["scope"], local.list.scope.as_str());
    assert_eq!(
        (&signature["serial"], &signature["signers"][0]["principals"]),
        (&1.into(), &"ops@example.com".into())
    );
    assert_eq!(status["list"]["refused_since"], serde_json::Value::Null);
    let (_, line) = run(&local, &["status", "--format", "summary"]);
    contains(&line, &["\"signature_days\":29"]);

    // A restart later the keys in force are still there, and not a word of a first list.
    local.put(&local.next(&rogue()), "");
    assert_eq!(local.world.pass(), 1);
    let (_, text) = run(&local, &["status"]);
    contains(
        &text,
        &[
            "refused no list that was fetched has counted for ",
            &format!(
                "the list of `{}` does not count: its signature is damaged",
                local.list.scope
            ),
            "the keys in force stay",
            &signer,
        ],
    );
    assert!(
        !text.contains("no list has come") && !text.contains("none yet"),
        "{text}"
    );
    let status = local.world.status();
    assert!(status["list"]["refused_since"].is_string());
    assert!(status["list"]["digest"].is_string(), "{}", status["list"]);
}

#[test]
fn sync_is_not_in_sync_with_a_list_that_does_not_count() {
    let local = Local::new();
    assert_eq!(run(&local, &["sync"]).1, "in sync");
    let next = local.next(&rogue());
    local.put(&next, &local.list.signed(&[&local.ops]));
    for arguments in [&["sync"][..], &["sync", "--accept-removals"]] {
        // As while it is being published.
        let (code, text) = run(&local, arguments);
        assert_eq!(code, Some(1), "{text}");
        contains(&text, &["does not count", "hint: wait"]);
        assert!(!text.contains("in sync"), "{text}");
    }
    local.put(&next, &next.signed(&[&Signer::new("mallory")]));
    let (code, text) = run(&local, &["sync", "--accept-removals"]);
    assert_eq!(code, Some(1), "{text}");
    contains(&text, &["not one that may sign", "`signed-by`"]);
    assert_eq!((local.world.keys("alice"), local.world.keys("bob")), (1, 1));
    assert!(!local.world.read("alice").contains("rogue"));
}

#[test]
fn the_journal_is_told_once_and_once_that_it_is_over() {
    let local = Local::new();
    let agent = local.world.start();
    let next = local.next(&key("next"));
    local.put(&next, &next.signed(&[&Signer::new("mallory")]));
    let told = |what: &str| agent.log().matches(what).count();
    wait("the refusal", || told("the list does not count") == 1);
    contains(
        &agent.log(),
        &["code=signature-refused", "scope=directory:", "reason="],
    );
    local.put(&next, &next.signed(&[&local.ops]));
    wait("the list", || told("the list counts again") == 1);
    assert_eq!(told("the list does not count"), 1, "{}", agent.log());
}

/// In observe mode nothing is saved: what a command says is what the enforcer knows.
#[test]
fn in_observe_mode_status_agrees_with_the_enforcer() {
    let mut local = Local::before_first_list();
    "mode = \"observe\"".clone_into(&mut local.world.top);
    local.put(&local.list, &local.list.signed(&[&local.ops]));
    let _agent = local.world.start();
    let next = local.next(&key("next"));
    local.put(&next, &local.list.signed(&[&local.ops]));
    let list = |status: &serde_json::Value| {
        let list = &status["list"];
        (list["refused_since"].clone(), list["digest"].clone())
    };
    wait("the refusal", || {
        local.world.word()["list"]["refused_since"].is_string()
    });
    let status = local.world.status();
    let word = local.world.word();
    assert_eq!(list(&status).0, word["list"]["refused_since"]);
    assert_eq!(status["list"]["signatures"][0]["serial"], 1);
    assert_eq!(
        status["accounts"].as_array().unwrap().len(),
        word["accounts"].as_array().unwrap().len()
    );
}

#[test]
fn check_looks_at_the_signers_and_the_signature() {
    let local = Local::before_first_list();
    local.put(&local.list, &local.list.signed(&[&local.ops]));
    let check = |expected: &[&str]| {
        let (_, text) = run(&local, &["check"]);
        contains(&text, expected);
        text
    };
    let file = local.world.path("allowed_signers");
    let shown = file.display().to_string();
    check(&[
        &format!("ok signers `{shown}`: 1 key may sign, and a list must be signed by 1"),
        &format!(
            "ok signature {}: signed by ops@example.com SHA256:",
            local.list.scope
        ),
        "ok keys alice: 1 key accepted",
    ]);
    // A line that does not count, a key whose time ends, a signature that ends.
    let soon = (now() + SignedDuration::from_hours(100))
        .strftime("%Y%m%d%H%MZ")
        .to_string();
    let lines = local.ops.line(&format!("valid-before=\"{soon}\"")) + "nonsense\n";
    fs::write(&file, lines).unwrap();
    let text = check(&[
        &format!("warn signers line 2 of `{shown}` does not count"),
        "may sign until",
        "warn signature",
        "expires in 4 d",
    ]);
    assert!(!text.contains("FAIL sign"), "{text}");
    local.put(&local.next(&rogue()), &local.list.signed(&[&local.ops]));
    check(&[
        "FAIL signature",
        "parameters signed, and 1 found",
        "hint: find out who changed it",
    ]);
    fs::remove_file(local.world.path("approved/.signed")).unwrap();
    check(&[
        "FAIL signature",
        "it has no signature",
        "hint: sign the list",
    ]);
    fs::remove_file(&file).unwrap();
    check(&[&format!("FAIL signers `{shown}` is missing")]);
}

#[test]
fn lint_looks_at_the_signature_of_a_directory() {
    let local = Local::before_first_list();
    let directory = local.world.path("approved").display().to_string();
    let lint = |more: &[&str], code: i32, expected: &[&str]| {
        let (ended, text) = run(&local, &[&["lint", &directory], more].concat());
        assert_eq!(ended, Some(code), "{text}");
        contains(&text, expected);
        assert!(!text.contains("left out"), "{text}");
    };
    local.put(&local.list, &local.list.signed(&[&local.ops]));
    let good = format!(
        "note: signed for `{}` by ops@example.com SHA256:",
        local.list.scope
    );
    lint(&[], 0, &[&good, "serial 1, expires in 29 d"]);
    let file = format!("{directory}/.signed");
    let (ended, text) = run(&local, &["lint", &file]);
    assert_eq!(ended, Some(0), "{text}");
    contains(&text, &[&good]);
    // For a path, whose parameters have no white space at their end.
    let mut of_path = Statement {
        scope: "/k/web".to_owned(),
        ..local.list.clone()
    };
    local.put(&of_path, &of_path.signed(&[&local.ops]));
    let line = local.world.path("approved/alice/laptop");
    fs::write(&line, of_path.parameters["alice/laptop"].clone() + "\n").unwrap();
    lint(&[], 0, &["note: signed for `/k/web` by"]);
    fs::write(&line, rogue()).unwrap();
    lint(
        &[],
        1,
        &["/.signed:1: does not fit what is there, so sign it again"],
    );
    local.put(&of_path, &of_path.signed(&[&Signer::new("mallory")]));
    lint(&[], 1, &["which is not one that may sign"]);
    let signers = local.world.path("allowed_signers").display().to_string();
    lint(
        &["--signers", &signers],
        1,
        &["which is not one that may sign"],
    );
    of_path.expires = now() - SignedDuration::from_secs(1);
    of_path.issued = of_path.expires - SignedDuration::from_hours(1);
    local.put(&of_path, &of_path.signed(&[&local.ops]));
    lint(&[], 1, &["its signature expired at"]);
    of_path.expires = now() + SignedDuration::from_hours(25);
    local.put(&of_path, &of_path.signed(&[&local.ops]));
    lint(&[], 0, &["expires in 1 d", "sign it again before that"]);
    local.put(&of_path, "garbage");
    lint(&[], 1, &["its signature is damaged"]);
}

#[test]
fn diff_compares_a_named_list_and_says_whether_it_would_count() {
    let local = Local::new();
    let other = tempfile::tempdir().unwrap();
    let place = other.path().display().to_string();
    fs::create_dir(other.path().join("alice")).unwrap();
    let line = key("next");
    fs::write(other.path().join("alice/laptop"), &line).unwrap();
    let (code, text) = run(&local, &["diff", "--list", &place]);
    assert_eq!(code, Some(1), "{text}");
    contains(
        &text,
        &["+ next SHA256:", "does not count: it has no signature"],
    );
    let next = local.next(&line);
    fs::write(other.path().join(".signed"), next.signed(&[&local.ops])).unwrap();
    let (_, text) = run(&local, &["diff", "--list", &place]);
    contains(
        &text,
        &[
            "+ next SHA256:",
            "signed by ops@example.com",
            "serial 2",
            "it would count today",
        ],
    );
    let old = Statement {
        serial: 0,
        ..next.clone()
    };
    fs::write(other.path().join(".signed"), old.signed(&[&local.ops])).unwrap();
    let (_, text) = run(&local, &["diff", "--list", &place]);
    contains(
        &text,
        &["its serial number is 0, and a list with 1 was in force"],
    );
    // What is fetched and does not count changes nothing.
    local.put(&local.next(&rogue()), "");
    let (code, text) = run(&local, &["diff"]);
    assert_eq!(code, Some(0), "{text}");
    contains(
        &text,
        &["does not count, so compared with the keys in force: nothing would change"],
    );
}
