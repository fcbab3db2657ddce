//! `lint`, as a pipeline runs it: files in, `FILE:LINE: reason` out.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::world::{fingerprint, key, key_of, pair, shown};

/// A directory to lint in. There is no config where it is looked for.
struct Repository(TempDir);

impl Repository {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        Self(directory)
    }

    fn lint(&self, arguments: &[&str]) -> Output {
        self.lint_with(arguments, b"")
    }

    fn lint_with(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_authorized-keys-agent"))
            .arg("lint")
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Lints one file `keys`; each of `expected` is the start of a line of stdout, in order.
fn check(content: impl AsRef<[u8]>, expected: &[&str], summary: &str, code: i32) {
    let output = Repository::new(&[("keys", content.as_ref())]).lint(&["keys"]);
    let (said, summed) = (shown(&output.stdout), shown(&output.stderr));
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (line, expected) in said.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    assert_eq!(summed.lines().last(), Some(summary), "{said}");
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(
        !said.contains(|c: char| c.is_control() && c != '\n'),
        "{said:?}"
    );
}

#[test]
fn every_problem_has_its_place_and_its_reason() {
    let (a, b) = (key("alice@laptop"), key("bob"));
    check(
        format!("{a}\n\n# a comment\n{b}\n"),
        &[],
        "2 keys, 0 problems",
        0,
    );
    check(
        format!("{a}\nnonsense\n"),
        &["keys:2: not an authorized_keys line"],
        "1 key, 1 problem",
        1,
    );
    check(
        format!("command=ls {a}"),
        &["keys:1: the value of `command` must be"],
        "0 keys, 1 problem",
        1,
    );
    check(
        format!("environment=\"A=b\" {a}"),
        &["keys:1: the option `environment`"],
        "0 keys, 1 problem",
        1,
    );
    check(
        format!("{a}\n{}", &b[..40]),
        &["keys:2: the `ssh-ed25519` key is damaged"],
        "1 key, 1 problem",
        1,
    );
    check(
        format!("\u{feff}{a}"),
        &["keys:1: a byte order mark"],
        "0 keys, 1 problem",
        1,
    );
    check(key_of("rsa", "old"), &[], "1 key, 0 problems", 0);
    check("", &["keys:1: the value is empty"], "0 keys, 1 problem", 1);
    check(
        "\n \n",
        &["keys:1: the value is empty"],
        "0 keys, 1 problem",
        1,
    );
    check(
        "# left in May\n",
        &["keys:1: note: holds only comments: leaves its account without keys"],
        "0 keys, 0 problems",
        0,
    );
    check(format!("{a} \x1b[2J\u{202e}"), &[], "1 key, 0 problems", 0);
    check(
        format!("evil\x1b[2J=\"\" {a}"),
        &["keys:1: an unknown option, number 1 of the line"],
        "0 keys, 1 problem",
        1,
    );
    check(
        [a.as_bytes(), b" \xff\n"].concat(),
        &["keys:1: note: not UTF-8"],
        "1 key, 0 problems",
        0,
    );
    check(
        format!("{a}\n{a} again"),
        &["keys:2: note: the same key as in line 1"],
        "1 key, 0 problems",
        0,
    );
    let past = format!("expiry-time=\"20200101Z\" {a}");
    check(
        past,
        &["keys:1: note: its expiry-time is over"],
        "1 key, 0 problems",
        0,
    );
    let padded = |size: usize| format!("{a}\n#{}", "x".repeat(size - a.len() - 2));
    check(padded(4096), &[], "1 key, 0 problems", 0);
    check(
        padded(4097),
        &["keys:1: note: 4097 bytes, more than the 4 KB"],
        "1 key, 0 problems",
        0,
    );
    check(
        padded(8192),
        &["keys:1: note: 8192 bytes"],
        "1 key, 0 problems",
        0,
    );
    check(
        padded(8193),
        &["keys:1: 8193 bytes, more than the 8 KB"],
        "1 key, 1 problem",
        1,
    );
}

#[test]
fn a_private_key_is_shouted_about_and_never_shown() {
    let (directory, public) = pair("alice");
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    for arguments in [
        &["keys"][..],
        &["--json", "keys"],
        &["--log", "trace", "keys"],
    ] {
        let content = format!("{public}\n{private}");
        let output = Repository::new(&[("keys", content.as_bytes())]).lint(arguments);
        let said = shown(&[output.stdout, output.stderr].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said.contains("a PRIVATE key") && said.contains("0 keys, 1 problem"),
            "{said}"
        );
        for line in private.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!said.contains(&line[..line.len().min(20)]), "{said}");
        }
    }
}

#[test]
fn files_are_judged_together() {
    let line = key("alice");
    let options = format!("restrict {line}");
    let repository = Repository::new(&[
        ("laptop", line.as_bytes()),
        ("copy", line.as_bytes()),
        ("desk", options.as_bytes()),
        ("bad\x1b[2J", b"x"),
    ]);
    let copies = repository.lint(&["laptop", "copy"]);
    assert_eq!(
        shown(&copies.stdout),
        "laptop:1: note: the same key as in line 1 of `copy`\n"
    );
    assert_eq!(copies.status.code(), Some(0));
    assert_eq!(
        repository.lint(&["laptop", "laptop"]).stdout,
        b"",
        "one file named twice"
    );
    let conflict = repository.lint(&["laptop", "desk"]);
    let said = shown(&conflict.stdout);
    let print = fingerprint(&line);
    assert_eq!(conflict.status.code(), Some(1));
    for place in [
        format!("laptop:1: the same key ({print}) has other options in line 1 of `desk`"),
        "desk:1:".into(),
    ] {
        assert!(said.contains(&place), "{place} is missing in {said}");
    }
    let escaped = repository.lint(&["bad\x1b[2J", "laptop"]);
    assert!(
        shown(&escaped.stdout).starts_with("bad\\u{1b}[2J:1: not an"),
        "{}",
        shown(&escaped.stdout)
    );
    let piped = repository.lint_with(&["-", "laptop"], b"\nnonsense\n");
    assert!(
        shown(&piped.stdout).starts_with("<stdin>:2: not an"),
        "{}",
        shown(&piped.stdout)
    );
    assert!(
        shown(&piped.stderr).ends_with("1 key, 1 problem\n"),
        "{}",
        shown(&piped.stderr)
    );
}

#[test]
fn a_directory_is_judged_as_a_whole_list() {
    let (alice, bob) = (key("alice"), key("bob"));
    let repository = Repository::new(&[]);
    let list = repository.path().join("list");
    let write = |name: &str, content: &str| {
        let path = list.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("ec2-user/alice", &alice);
    write("ec2-user/bob", &bob);
    write("deploy", &format!("restrict {alice}\n"));
    write(".git/config", "x");
    let good = repository.lint(&["list"]);
    assert_eq!(
        (shown(&good.stdout).as_str(), good.status.code()),
        ("", Some(0))
    );
    assert!(shown(&good.stderr).ends_with("2 accounts, 3 keys, 0 problems\n"));

    write("ec2-user/old", &format!("restrict {alice}\n"));
    write("ec2-user/.alice.swp", "x");
    write("ec2-user/notes~", "x");
    write("gone", "# nobody\n");
    write("bob.bak", &bob);
    write("an account/x", &bob);
    fs::create_dir(list.join("empty")).unwrap();
    nix::unistd::mkfifo(&list.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bad = repository.lint(&["list"]);
    let said = shown(&bad.stdout);
    for (line, expected) in said.lines().zip([
        "list/an account:1: `an account` is not an account name",
        "list/ec2-user/alice:1: the same key (",
        "list/ec2-user/old:1: the same key (",
        "list/fifo:1: not a readable text file: move it out of the directory, or let its name begin",
        "list/bob.bak:1: note: counts as keys of `bob.bak`: move it away if it should not",
        "list/ec2-user/.alice.swp:1: note: left out: its name begins with a dot or ends in `~`",
        "list/ec2-user/notes~:1: note: left out",
        "list/empty:1: note: an empty directory says nothing",
        "list/gone:1: note: holds only comments: leaves `gone` without keys",
        "no more",
    ]) {
        assert!(line.starts_with(expected), "{line}\n{said}");
    }
    assert_eq!(said.lines().count(), 9, "{said}");
    assert!(
        shown(&bad.stderr).ends_with("4 accounts, 3 keys, 4 problems\n"),
        "{}",
        shown(&bad.stderr)
    );
    assert_eq!(bad.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&repository.lint(&["--json", "list"]).stdout).unwrap();
    assert_eq!(json["problems"].as_array().unwrap().len(), 4);

    std::os::unix::fs::symlink("nowhere", list.join("dangling")).unwrap();
    let broken = repository.lint(&["list"]);
    assert_eq!(broken.status.code(), Some(2));
    assert!(
        shown(&broken.stderr).contains("`list/dangling`"),
        "{}",
        shown(&broken.stderr)
    );
}

#[test]
fn the_policy_is_the_config_s() {
    let line = key("alice");
    let config = "[accounts]\nmanage = [\"alice\"]\n[policy]\nalgorithms = [\"ssh-rsa\"]\n";
    let repository = Repository::new(&[
        ("keys", line.as_bytes()),
        ("config.toml", config.as_bytes()),
        ("broken.toml", b"[policy]\nalgorithm = 1\n"),
    ]);
    let default = repository.lint(&["keys"]);
    assert!(
        shown(&default.stderr)
            .starts_with("note: no config can be read at `/etc/authorized-keys-agent/")
    );
    let strict = repository.lint(&["--config", "config.toml", "keys"]);
    assert_eq!(strict.status.code(), Some(1));
    let said = shown(&strict.stdout);
    assert!(
        said.starts_with("keys:1: the key type `ssh-ed25519` is not in `[policy] algorithms`"),
        "{said}"
    );
    assert!(
        !shown(&strict.stderr).contains("note"),
        "{}",
        shown(&strict.stderr)
    );
    for (arguments, expected) in [
        (&["--config", "broken.toml", "keys"][..], "line 2"),
        (
            &["--config", "missing.toml", "keys"],
            "cannot read the config `missing.toml`",
        ),
        (&["missing"], "cannot read `missing`: No such file"),
        (&[], "<PATH>..."),
    ] {
        let output = repository.lint(arguments);
        assert_eq!(
            (output.status.code(), shown(&output.stdout)),
            (Some(2), String::new())
        );
        assert!(
            shown(&output.stderr).contains(expected),
            "{}",
            shown(&output.stderr)
        );
    }
}

#[test]
fn json_says_the_same() {
    let line = key("alice");
    let repository = Repository::new(&[
        ("keys", format!("{line}\n{line}\nbad\u{9b}x").as_bytes()),
        ("none", b""),
    ]);
    let output = repository.lint(&["--json", "keys", "none"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["schema"], &json["keys"], &json["config"]),
        (&1.into(), &1.into(), &Value::Null)
    );
    assert_eq!(
        (&json["files"][1]["file"], &json["files"][1]["bytes"]),
        (&"none".into(), &0.into())
    );
    let (problems, notes) = (
        json["problems"].as_array().unwrap(),
        json["notes"].as_array().unwrap(),
    );
    assert_eq!((problems.len(), notes.len()), (2, 1));
    assert_eq!(
        (&problems[0]["file"], &problems[0]["line"]),
        (&"keys".into(), &3.into())
    );
    assert_eq!(
        (&problems[1]["file"], &problems[1]["line"]),
        (&"none".into(), &Value::Null)
    );
    assert_eq!(notes[0]["line"], 2);
}
