//! What `status --json` prints is what `packaging/status.schema.json` says, on hosts in every state; and each code of a
//! problem is in the schema and in `docs/problems.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use authorized_keys_agent::model::status::problem::CODES;
use serde_json::{Value, json};

use crate::sessions::{host, log_in};
use crate::support::deployed::packaging;
use crate::support::logins::{configure, world, written_access};
use crate::support::signing::{Local, Signer};
use crate::support::world::{ALICE, BOB, MALLORY, World, halt, key, shell_as, shown, signal, wait};

const PLAIN: &str = "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no";

/// Says of each document that is not as the schema has it what is wrong, a JSON text a line.
const JUDGE: &str = "\
import json, sys
from jsonschema import Draft202012Validator
with open(sys.argv[1]) as file:
    schema = json.load(file)
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
for document in json.load(sys.stdin):
    print(json.dumps([f'{error.json_path}: {error.message}' for error in validator.iter_errors(document)]))
";

fn schema() -> Value {
    serde_json::from_slice(&fs::read(packaging("status.schema.json")).unwrap()).unwrap()
}

/// What is wrong with each document.
fn judge(documents: &[Value]) -> Vec<Vec<String>> {
    let mut python = Command::new("python3")
        .args(["-c", JUDGE])
        .arg(packaging("status.schema.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 with jsonschema");
    let documents = Value::Array(documents.to_vec()).to_string();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(documents.as_bytes()).unwrap();
    drop(stdin);
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success(), "python3 with jsonschema");
    let lines = shown(&done.stdout);
    let complaints = lines.lines();
    complaints
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What `status --json` prints for alice.
fn of_a_plain_user(world: &World) -> Value {
    // A copy that every user can execute, wherever the build is.
    let agent = world.path("agent");
    fs::copy(env!("CARGO_BIN_EXE_authorized-keys-agent"), &agent).unwrap();
    let id = ALICE.to_string();
    let output = world
        .command("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(agent)
        .arg("--config")
        .arg(world.config())
        .args(["status", "--json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A host that goes from nothing to every kind of trouble, and what its status is on the way.
fn life() -> BTreeMap<&'static str, Value> {
    let mut seen = BTreeMap::new();
    let mut world = world(PLAIN);
    world.hold_for_long();
    seen.insert("nothing yet", world.status());
    fs::create_dir_all(world.ssh("root")).unwrap();
    fs::write(world.file("root"), key("root")).unwrap();
    world.approve("alice", "laptop", &key("alice"));
    world.approve("bob", "laptop", &key("bob"));
    let agent = world.start();
    let access_of =
        |world: &World, account: &str| written_access(world, account)["verdict"].clone();
    wait("sshd's answer", || {
        access_of(&world, "alice") == "effective"
    });
    seen.insert("healthy", world.status());
    seen.insert("a plain user's", of_a_plain_user(&world));

    halt(agent.pid());
    let plant = |rogue: &str| {
        let into = world.file("bob");
        shell_as(BOB, &format!("echo '{rogue}' >> {}", into.display()));
    };
    plant(&key("rogue"));
    seen.insert("drifted", world.status());
    signal("CONT", agent.pid());
    wait("the repair", || {
        world.word()["drift"]["last"].is_object() && world.keys("bob") == 1
    });
    seen.insert("repaired", world.status());

    // What sshd makes of them, while nothing else changes.
    fs::create_dir(world.path("etc/ssh/keys")).unwrap();
    for account in ["alice", "bob"] {
        fs::write(world.path("etc/ssh/keys").join(account), key("other")).unwrap();
    }
    let open = format!("AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u\n{PLAIN}");
    let shut = format!("AllowUsers root\n{PLAIN}");
    for (name, config, verdict) in [
        ("also-open", &open, "also-open"),
        ("refused by sshd", &shut, "refused"),
    ] {
        configure(&world, config);
        wait(name, || access_of(&world, "alice") == verdict);
        seen.insert(name, world.status());
    }

    // What the list says of others, and lines that are none.
    world.approve("alice", "broken", "ssh-ed25519 AAAA\n");
    world.approve("svc", "laptop", &key("svc"));
    world.approve("nobody-here", "laptop", &key("nobody"));
    world.make_ssh("mallory", MALLORY);
    world.put("mallory", MALLORY, &key("launch"));
    chown(world.home("bob"), Some(MALLORY), Some(MALLORY)).unwrap();
    wait("the list", || world.account("svc")["state"] == "unmanaged");
    wait("the refusal", || world.account("bob")["state"] == "refused");
    seen.insert("in all kinds of trouble", world.status());

    // A fetch in between applies the first: alice's key must be the last one.
    world.revoke("bob", "laptop");
    world.revoke("alice", "laptop");
    wait("the list to be held", || {
        world.status()["list"]["held"].is_object()
    });
    seen.insert("held", world.status());
    fs::remove_dir_all(world.path("approved")).unwrap();
    wait("the outage", || world.status()["list"]["error"].is_string());
    seen.insert("cut off", world.status());
    agent.stop();
    seen.insert("stopped", world.status());
    fs::write(world.path("run/status.json"), "{").unwrap();
    seen.insert("without the enforcer's word", world.status());
    "mode = \"observe\"".clone_into(&mut world.top);
    seen.insert("stopped in observe mode", world.status());
    seen
}

/// Observe mode, with a file that is a link.
fn observed() -> Value {
    let mut world =
        world("AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2\nUsePAM no");
    "mode = \"observe\"".clone_into(&mut world.top);
    world.accounts += "\nother-files = \"report\"";
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &key("rogue"));
    fs::write(world.ssh("alice").join("elsewhere"), key("linked")).unwrap();
    symlink("elsewhere", world.ssh("alice").join("authorized_keys2")).unwrap();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    wait("sshd's answer", || {
        written_access(&world, "alice")["verdict"] == "also-open"
    });
    world.status()
}

fn with_a_session() -> Value {
    let world = host();
    let revoked = key("revoked");
    world.approve("alice", "kept", &key("kept"));
    world.approve("alice", "revoked", &revoked);
    log_in(&world, "c4", "alice", 104, &revoked);
    let _agent = world.start();
    world.revoke("alice", "revoked");
    wait("the session", || !world.word()["sessions"][0].is_null());
    world.status()
}

/// A signed list in force, and one that does not count.
fn signed() -> Value {
    let local = Local::new();
    let next = local.next(&key("next"));
    local.put(&next, &next.signed(&[&Signer::new("mallory")]));
    assert_eq!(local.world.pass(), 1);
    local.world.status()
}

#[test]
fn what_status_prints_is_as_the_schema_says() {
    let mut seen = life();
    seen.insert("observed", observed());
    seen.insert("with a session", with_a_session());
    seen.insert("signed", signed());
    let documents: Vec<Value> = seen.values().cloned().collect();
    for (name, complaints) in seen.keys().zip(judge(&documents)) {
        assert!(
            complaints.is_empty(),
            "{name}: {complaints:#?}\n{:#}",
            seen[name]
        );
    }

    // They show what there is to show, or the schema is not tried.
    let values = |path: &str| -> BTreeSet<String> {
        let all = documents.iter().flat_map(|document| at(document, path));
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let words = |words: &str| words.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    for (path, expected) in [
        ("health", "healthy degraded stopped"),
        ("mode", "enforce observe"),
        ("problems.*.severity", "error warning"),
        (
            "accounts.*.state",
            "in-sync drifted held refused no-account not-listed unmanaged",
        ),
        (
            "accounts.*.access.verdict",
            "effective also-open refused unknown",
        ),
        ("accounts.*.other_files.*.kind", "symlink"),
    ] {
        assert_eq!(values(path), words(expected), "{path}");
    }
    for path in [
        "problems.*.account",
        "problems.*.accounts.*",
        "problems.*.hint",
        "accounts.*.removed_keys.*.fingerprint",
        "accounts.*.keys.*.fingerprint",
        "accounts.*.access.doors.*.detail",
        "accounts.*.other_files.*.keys.*.fingerprint",
        "rejected.*.reason",
        "drift.last.changes.*",
        "sshd.version",
        "unmanaged.*.keys.*.fingerprint",
        "sessions.*.fingerprint",
        "list.held.text",
        "list.held.keys.*.fingerprint",
        "list.error",
        "list.signatures.*.signers.*.fingerprint",
        "list.signatures.*.expires_at",
        "list.refused_since",
    ] {
        assert!(!values(path).is_empty(), "none has {path}");
    }

    // A field, or a word, that the schema does not have is a complaint wherever it stands.
    let mut changed = BTreeMap::new();
    for document in &documents {
        change(document, &mut |path, other| {
            changed.entry(path).or_insert(other);
        });
    }
    assert!(changed.len() > 25, "{:?}", changed.keys());
    let others: Vec<Value> = changed.values().cloned().collect();
    for (path, complaints) in changed.keys().zip(judge(&others)) {
        assert!(
            !complaints.is_empty(),
            "the schema takes anything at {path}"
        );
    }

    // What is documented as an error is one.
    let documented = documented();
    for problem in documents
        .iter()
        .flat_map(|document| at(document, "problems.*"))
    {
        let (code, severity) = (problem["code"].as_str(), problem["severity"].as_str());
        let section = &documented[code.unwrap()];
        assert_eq!(*section, format!("{}s", severity.unwrap()), "{problem}");
    }
}

#[test]
fn the_schema_leaves_nothing_open() {
    // What is left out where there is nothing to say.
    let optional = ["account", "accounts", "hint", "kind"];
    let mut objects = 0;
    let mut all = vec![schema()];
    while let Some(one) = all.pop() {
        let Some(properties) = one["properties"].as_object() else {
            all.extend(children(&one));
            continue;
        };
        objects += 1;
        assert_eq!(one["additionalProperties"], false, "{one:#}");
        let required = one["required"].as_array().unwrap();
        for (name, property) in properties {
            assert!(property["description"].is_string(), "{name}: {property}");
            let is_required = required.contains(&json!(name));
            // The kind of a door is always there.
            let may_be_missing = optional.contains(&name.as_str()) && !is_required;
            assert!(is_required || may_be_missing, "{name}: {one:#}");
        }
        all.extend(children(&one));
    }
    assert!(objects > 15, "the test looks at {objects} objects");
}

#[test]
fn every_code_is_in_the_schema_and_in_the_documentation() {
    let codes: BTreeSet<&str> = CODES.iter().copied().collect();
    assert_eq!(codes.len(), CODES.len(), "a code stands for two causes");
    let schema = schema();
    assert_eq!(
        schema["$defs"]["problem"]["properties"]["code"]["enum"],
        json!(CODES)
    );
    let documented = documented();
    assert_eq!(
        documented
            .keys()
            .map(String::as_str)
            .collect::<BTreeSet<_>>(),
        codes
    );
}

/// The codes in `docs/problems.md`, each with the heading it stands below, in small letters.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/problems.md");
    let (mut section, mut all) = (String::new(), BTreeMap::new());
    for line in fs::read_to_string(path).unwrap().lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_lowercase();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
            assert!(
                cells.len() == 3 && cells.iter().all(|cell| cell.len() > 3),
                "{line}"
            );
            let code = cells[0].trim_end_matches('`').to_owned();
            let before = all.insert(code, section.clone());
            assert_eq!(before, None, "documented twice: {line}");
        }
    }
    all
}

/// The values at a path such as `accounts.*.state`.
fn at<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in path.split('.') {
        found = match step {
            "*" => found
                .into_iter()
                .filter_map(Value::as_array)
                .flatten()
                .collect(),
            name => found
                .into_iter()
                .filter_map(|value| value.get(name))
                .collect(),
        };
    }
    found
}

fn children(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(fields) => fields.values().cloned().collect(),
        Value::Array(values) => values.clone(),
        _ => Vec::new(),
    }
}

/// Passes on, for each place, the document with one field more there; and with another word, where one is of a few.
fn change(document: &Value, with: &mut impl FnMut(String, Value)) {
    const WORDS: [&str; 7] = [
        "code", "severity", "state", "verdict", "health", "mode", "kind",
    ];
    let mut places = vec![(String::new(), String::new())];
    while let Some((pointer, path)) = places.pop() {
        match document.pointer(&pointer).unwrap() {
            Value::Object(fields) => {
                let mut other = document.clone();
                other.pointer_mut(&pointer).unwrap()["unheard-of"] = json!(1);
                with(format!("{path}/unheard-of"), other);
                for name in fields.keys() {
                    places.push((format!("{pointer}/{name}"), format!("{path}/{name}")));
                }
            }
            Value::Array(values) => {
                for number in 0..values.len() {
                    places.push((format!("{pointer}/{number}"), format!("{path}/*")));
                }
            }
            Value::String(_) if WORDS.iter().any(|word| path.ends_with(&format!("/{word}"))) => {
                let mut other = document.clone();
                *other.pointer_mut(&pointer).unwrap() = json!("unheard-of");
                with(path, other);
            }
            _ => {}
        }
    }
}
