//! `publish --sign` and `sign`, with the real ssh-keygen and ssh-agent, into moto, and hosts that ask for signatures.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::publish::{Keys, allowed, names, published, said};
use crate::support::moto::Moto;
use crate::support::ssm_front::{Fate, SsmFront};
use crate::support::world::{ALICE, Ends, World, fingerprint, key, shown};

const PATH: &str = "/authorized-keys/web";
const SIGNED: &str = "/authorized-keys/web/.signed";

/// Keys that sign: ann and ben may, mallory may not.
struct Signers(TempDir);

impl Signers {
    fn new() -> Self {
        let signers = Self(tempfile::tempdir().unwrap());
        let mut text = String::new();
        for name in ["ann", "ben", "mallory"] {
            let public = signers.make(name, "");
            if name != "mallory" {
                text.push_str(&[name, "@example.com ", &public, "\n"].concat());
            }
        }
        fs::write(signers.path("signers"), text).unwrap();
        signers
    }

    fn make(&self, name: &str, passphrase: &str) -> String {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f"])
            .arg(self.0.path().join(name))
            .status()
            .unwrap();
        assert!(made.success());
        self.public(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The line of the key.
    fn public(&self, name: &str) -> String {
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        line.trim_end().to_owned()
    }

    fn fingerprint(&self, name: &str) -> String {
        fingerprint(&self.public(name))
    }

    /// What says who may sign.
    fn may(&self) -> String {
        format!("--signers={}", self.path("signers"))
    }

    fn by(&self, name: &str) -> String {
        format!("--sign={}", self.path(name))
    }

    /// A host whose policy asks for so many signatures.
    fn host(&self, moto: &Moto, signatures: u32) -> World {
        let mut world = World::new();
        world.use_store(&moto.endpoint(), &format!("paths = [\"{PATH}\"]"));
        let file = self.path("signers");
        world.tables = format!("[policy]\nsigned-by = \"{file}\"\nsignatures = {signatures}\n");
        world.make_ssh("alice", ALICE);
        world
    }
}

impl Keys {
    /// `publish --yes`, and what is said.
    fn publishes(&self, moto: &Moto, arguments: &[&str]) -> (String, i32) {
        said(&self.publish(moto, &[&["--yes"], arguments].concat()))
    }

    fn sign(&self, moto: &Moto, arguments: &[&str]) -> (String, i32) {
        let mut command = moto.client(env!("CARGO_BIN_EXE_authorized-keys-agent"));
        command
            .arg("sign")
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        said(&command.output().unwrap())
    }

    /// The signature in the directory.
    fn signed(&self) -> PathBuf {
        self.0.path().join("keys/.signed")
    }
}

/// The value of a parameter.
fn value(moto: &Moto, name: &str) -> String {
    published(moto)[name].1.clone()
}

fn version(moto: &Moto, name: &str) -> u64 {
    published(moto)[name].0
}

fn field(text: &str, name: &str) -> String {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
    value.unwrap_or_default().to_owned()
}

#[track_caller]
fn has(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

/// Puts what is there already, as it is, by another hand.
fn put(moto: &Moto, name: &str, value: &str) {
    moto.put("String", name, value);
}

#[test]
fn a_host_takes_what_is_published_signed_and_no_more() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, bob) = (key("alice@laptop"), key("bob"));
    let keys = Keys::new(&[("alice/laptop", &alice)]);
    let world = signers.host(&moto, 1);
    let sign = signers.by("ann");

    let (text, code) = said(&keys.publish(&moto, &["--sign", &signers.path("ann"), "--dry-run"]));
    assert_eq!(code, 1, "{text}");
    has(
        &text,
        &[
            "2 created, 0 unchanged\n",
            &format!("  + {SIGNED}  (the signature)\n"),
            "each key counts as new: nothing that is published is signed\nalice: 1 key\n  + alice@laptop ",
            "signed for no audience, with serial number 1, until ",
            &format!("\n  + ann {}\n", signers.fingerprint("ann")),
        ],
    );
    assert!(published(&moto).is_empty(), "a dry run puts nothing");
    let (text, code) = keys.publishes(&moto, &[&sign]);
    assert!(code == 0 && text.contains("\npublished\n"), "{text}");
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert!(world.read("alice").contains(&alice));

    // Renewed: the signature alone, and a dry run takes no number.
    let before = published(&moto);
    assert_eq!(said(&keys.publish(&moto, &[&sign, "--dry-run"])).1, 1);
    let (text, code) = keys.publishes(&moto, &[&sign]);
    assert_eq!(code, 0);
    has(
        &text,
        &[
            ": 1 changed, 1 unchanged\n",
            "signed for no audience, with serial number 2, until",
        ],
    );
    assert!(
        !text.contains("counts as new") && !text.contains("alice@laptop"),
        "{text}"
    );
    assert_eq!(field(&value(&moto, SIGNED), "serial"), "2");
    let laptop = format!("{PATH}/alice/laptop");
    assert_eq!(version(&moto, &laptop), before[&laptop].0);
    assert_eq!(world.pass(), 0);

    // By the AWS CLI alone nobody comes in.
    put(&moto, &format!("{PATH}/alice/evil"), &bob);
    world.run(&["fetch", "--once"]);
    world.run(&["enforce", "--once"]);
    assert_eq!(world.keys("alice"), 1);
    // What is not in the directory is not signed either.
    let (text, code) = keys.publishes(&moto, &[&sign]);
    assert_eq!(code, 2);
    has(
        &text,
        &[
            &format!(
                "published and not in the directory: {PATH}/alice/evil; a signature is of all"
            ),
            "delete them with --prune",
        ],
    );
    let (text, code) = keys.publishes(&moto, &[&sign, "--prune"]);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &["each key counts as new: what is published is not what was signed\n"],
    );
    keys.put("alice/phone", &bob);
    let (document, code) = keys.json(&moto, &[&sign, "--yes"]);
    assert_eq!(code, 0, "{document}");
    let signature = &document["signature"];
    assert_eq!(
        (
            &signature["serial"],
            &signature["audience"],
            &signature["signs"]["comment"]
        ),
        (&4.into(), &serde_json::Value::Null, &"ann".into())
    );
    assert_eq!(document["counts_as_new"], serde_json::Value::Null);
    assert_eq!(
        document["accounts"][0]["gains"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        document["parameters"]["never_touched"],
        serde_json::json!([])
    );
    assert_eq!(world.pass(), 0);
    assert_eq!(world.keys("alice"), 2);

    // A key that may not sign is told so before anything is asked or put.
    let (text, code) = keys.publishes(&moto, &[&signers.by("mallory"), &signers.may()]);
    assert_eq!(code, 2);
    has(
        &text,
        &[
            "hosts would not count it: the signature is by the key ",
            "says who may sign",
        ],
    );
}

#[test]
fn what_ends_in_the_middle_leaves_hosts_with_what_they_have_and_is_finished_by_the_next() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let [a, b, c] = ["a", "b", "c"].map(key);
    let before = Keys::new(&[("alice/1", &a), ("alice/2", &b), ("bob/1", &c)]);
    let after = Keys::new(&[("alice/1", &b), ("alice/2", &a), ("alice/3", &c)]);
    let (sign, all) = (signers.by("ann"), ["--prune", "--index"]);
    let world = signers.host(&moto, 1);
    let mut stop = 1;
    loop {
        moto.reset();
        assert_eq!(before.publishes(&moto, &[&sign, "--index"]).1, 0);
        fs::remove_dir_all(world.path("state")).ok();
        fs::remove_dir_all(world.path("fetch-state")).ok();
        assert_eq!(world.accept(), 0, "{}", world.status());
        let held = world.read("alice");
        assert_eq!(world.keys("alice"), 2);
        let limit = stop;
        let front = SsmFront::start(&moto, move |call| match call.write {
            Some(write) if write >= limit => Fate::Denied,
            _ => Fate::Passed,
        });
        let (text, code) = after.through(&moto, &front, &[&all[..], &[&sign, "--yes"]].concat());
        if code == 0 {
            let writes = front.writes();
            let last: Vec<&str> = writes
                .iter()
                .rev()
                .take(2)
                .map(|call| call.on.as_str())
                .collect();
            assert_eq!(last, [SIGNED, "/authorized-keys/web/.index"], "{writes:?}");
            assert_eq!(writes.iter().filter(|call| call.on == SIGNED).count(), 1);
            break;
        }
        has(&text, &["not done:\n", SIGNED, "run the same again"]);
        assert_eq!(field(&value(&moto, SIGNED), "serial"), "1");
        world.run(&["fetch", "--once"]);
        world.run(&["enforce", "--once"]);
        assert_eq!(world.read("alice"), held, "stopped at write {stop}");
        let (text, code) = after.publishes(&moto, &[&all[..], &[&sign]].concat());
        assert_eq!(code, 0, "{text}");
        assert_eq!(
            field(&value(&moto, SIGNED), "serial"),
            "2",
            "no number is lost"
        );
        assert_eq!(world.accept(), 0, "{}", world.status());
        assert_eq!(world.keys("alice"), 3);
        stop += 1;
    }
    assert!(stop > 6, "{stop}");
}

/// The text of `statement` and its signature by a key.
fn by_hand(signers: &Signers, name: &str, statement: &str) -> String {
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", "authorized-keys-list", "-f"])
        .arg(signers.path(name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(statement.as_bytes())
        .unwrap();
    statement.to_owned() + &shown(&child.wait_with_output().unwrap().stdout)
}

#[test]
fn what_others_put_chooses_neither_serial_nor_audience() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    let (sign, may) = (signers.by("ann"), signers.may());
    let (text, code) = keys.publishes(&moto, &[&sign, "--audience", "prod", "--serial", "41"]);
    assert_eq!(code, 0, "{text}");
    let good = value(&moto, SIGNED);
    assert_eq!(
        (field(&good, "serial"), field(&good, "audience")),
        ("41".into(), "prod".into())
    );
    let (statement, _) = good.split_once("-----BEGIN").unwrap();
    let huge = statement.replace("serial: 41", "serial: 18446744073709551614");
    let elsewhere = by_hand(&signers, "ann", &statement.replace("/web", "/db"));
    let forged = by_hand(&signers, "mallory", &huge.replace("prod", "stage"));
    for (planted, why) in [
        (huge.as_str(), "it has 0 signatures, and needs 1"),
        (
            &forged,
            "it has 0 good signatures, and needs 1: the signature is by the key",
        ),
        (
            &good.replace("serial: 41", "serial: 4100"),
            "does not fit what is signed",
        ),
        (&elsewhere, "it is for `/authorized-keys/db`"),
        ("<html>", "it does not begin with `authorized-keys-list 1`"),
    ] {
        put(&moto, SIGNED, planted);
        let at = version(&moto, SIGNED);
        for arguments in [
            &[sign.as_str(), &may][..],
            &[&sign],
            &[&sign, "--serial", "42"],
            &[&sign, "--audience", "prod"],
            &[&sign, "--dry-run"],
        ] {
            let (text, code) = keys.publishes(&moto, arguments);
            assert_eq!(code, 2, "{text}");
            has(
                &text,
                &[why, "so it chooses neither", "--serial with a number above"],
            );
        }
        assert_eq!(version(&moto, SIGNED), at);
        let said = ["--serial", "42", "--audience", "prod"];
        let (text, code) = keys.publishes(&moto, &[&said[..], &[&sign]].concat());
        assert_eq!(code, 0, "{text}");
        has(
            &text,
            &["each key counts as new: `/authorized-keys/web/.signed` does not count: "],
        );
        assert_eq!(field(&value(&moto, SIGNED), "serial"), "42");
    }
    // As before, the next; none; another.
    for (arguments, audience) in [
        (&[][..], "prod"),
        (&["--audience="], ""),
        (&["--audience", "stage"], "stage"),
    ] {
        assert_eq!(keys.publishes(&moto, &[arguments, &[&sign]].concat()).1, 0);
        assert_eq!(field(&value(&moto, SIGNED), "audience"), audience);
    }
    // Of ben's it is for who says that ben may.
    let (text, code) = keys.publishes(&moto, &[&signers.by("ben")]);
    assert_eq!(code, 2, "{text}");
    assert_eq!(keys.publishes(&moto, &[&signers.by("ben"), &may]).1, 0);
    assert_eq!(field(&value(&moto, SIGNED), "serial"), "46");

    for (arguments, expected) in [
        (
            &["--serial", "46"][..],
            "the serial number 46 is not above 46, which is published",
        ),
        (&["--serial", "0"], "leave --serial out for the next"),
        (&["--serial", "18446744073709551616"], "invalid value"),
        (&["--audience", "a b"], "a word of letters, digits"),
        (
            &["--expires", "366d"],
            "a time such as 90d is needed, from 1h to 365d",
        ),
        (&["--expires", "59m"], "from 1h to 365d"),
        (&["--expires", "soon"], "from 1h to 365d"),
    ] {
        let (text, code) = keys.publishes(&moto, &[arguments, &[&sign, &may]].concat());
        assert_eq!(code, 2, "{text}");
        has(&text, &[expected]);
    }
    let (text, code) = keys.publishes(&moto, &[&sign, &may, "--expires", "6d"]);
    assert_eq!(code, 0);
    has(
        &text,
        &["note: hosts warn a week before a signature expires"],
    );
    put(
        &moto,
        SIGNED,
        &by_hand(
            &signers,
            "ann",
            &statement.replace("serial: 41", &format!("serial: {}", u64::MAX)),
        ),
    );
    let (text, code) = keys.publishes(&moto, &[&sign, &may]);
    assert_eq!(code, 2);
    has(
        &text,
        &["is the highest there is", "publish below another path"],
    );
}

#[test]
fn a_signed_path_is_not_published_unsigned() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, bob) = (key("alice"), key("bob"));
    let keys = Keys::new(&[("alice/laptop", &alice)]);
    moto.put("SecureString", SIGNED, "# being made");
    let arguments = [&signers.by("ann"), "--serial", "1", "--audience", ""];
    let (text, code) = keys.publishes(&moto, &arguments);
    assert_eq!(code, 0, "{text}");
    has(&text, &["encrypted with the key aws/ssm", SIGNED]);
    let kind = [
        "describe-parameters",
        "--query",
        "Parameters[?Type=='SecureString'].Name",
    ];
    assert_eq!(moto.aws(&kind).trim(), SIGNED);
    // Nothing to do, and an index, which is not signed.
    assert_eq!(keys.publishes(&moto, &[]).1, 0);
    assert_eq!(keys.publishes(&moto, &["--index"]).1, 0);
    // What was changed by hand is put back as it was signed.
    put(&moto, &format!("{PATH}/alice/laptop"), &bob);
    assert_eq!(keys.publishes(&moto, &[]).1, 0);
    let before = published(&moto);
    keys.put("alice/phone", &bob);
    let (text, code) = keys.publishes(&moto, &["--prune"]);
    assert_eq!(code, 2, "{text}");
    has(
        &text,
        &[
            "error: nothing is put: `/authorized-keys/web/.signed` signs another list",
            "sign it with --sign KEY, or delete `/authorized-keys/web/.signed`",
        ],
    );
    let (text, code) = said(&keys.publish(&moto, &["--dry-run"]));
    assert_eq!(code, 1);
    has(
        &text,
        &[
            "  + bob SHA256:",
            "note: `/authorized-keys/web/.signed` signs another list",
        ],
    );
    assert_eq!(published(&moto), before);
    assert!(
        names(&moto).contains(&"/.signed".to_owned()),
        "--prune leaves it"
    );
}

#[test]
fn a_job_without_a_key_puts_what_a_person_signed() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, bob) = (key("alice"), key("bob"));
    let keys = Keys::new(&[("alice/laptop", &alice), ("bob", &bob)]);
    let sign = ["keys", "--to", PATH, &signers.by("ann"), &signers.may()];
    let world = signers.host(&moto, 1);
    // White space at the end of what is published was not signed.
    put(&moto, &format!("{PATH}/bob"), &format!("{bob}\n"));
    let (text, code) = keys.sign(&moto, &sign);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "1 created, 1 changed, 0 unchanged",
            "  + alice SHA256:",
            "signed: keys/.signed\n",
        ],
    );
    assert_eq!(names(&moto), ["/bob"], "nothing is put");
    let front = SsmFront::start(&moto, |_| Fate::Passed);
    let (text, code) = keys.through(&moto, &front, &["--yes", &signers.may()]);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[&format!(
            "    ann@example.com {}\n",
            signers.fingerprint("ann")
        )],
    );
    let writes: Vec<String> = front.writes().into_iter().map(|call| call.on).collect();
    assert_eq!(writes.last().unwrap(), SIGNED);
    assert_eq!(writes.len(), 3);
    let text = fs::read_to_string(keys.signed()).unwrap();
    assert_eq!(value(&moto, SIGNED), text.trim_end());
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 1);
    // Once more there is nothing to do, with who may sign and without.
    for arguments in [&[][..], &[signers.may().as_str()]] {
        let (text, code) = keys.publishes(&moto, arguments);
        assert_eq!(code, 0);
        has(&text, &["web in eu-central-1: 2 unchanged\n"]);
    }

    let before = published(&moto);
    let check = |arguments: &[&str], expected: &[&str]| {
        for always in [&["--yes"][..], &["--dry-run"]] {
            let (text, code) = said(&keys.publish(&moto, &[always, arguments].concat()));
            assert_eq!(code, 2, "{text}");
            has(&text, expected);
        }
        assert_eq!(published(&moto), before);
    };
    // Another value, one more, another name.
    let other = "keys/.signed` is of 2 parameters with other names or values than the";
    keys.put("bob", &key("other"));
    check(
        &[],
        &[
            other,
            "2 in the directory",
            "sign it anew with `agent sign`",
        ],
    );
    keys.put("bob", &bob);
    keys.put("alice/phone", &bob);
    check(&[], &[other, "3 in the directory"]);
    keys.remove("alice/phone");
    // Of another path, another time, or of nobody who may.
    let own = fs::read_to_string(keys.signed()).unwrap();
    let (statement, blocks) = own.split_at(own.find("-----BEGIN").unwrap());
    let with = |text: &str, may: &[&str], expected: &[&str]| {
        fs::write(keys.signed(), text).unwrap();
        check(may, expected);
    };
    let may = signers.may();
    with(
        &own.replace("/web", "/db"),
        &[],
        &["keys/.signed` cannot be used: it is for `/authorized-keys/db`"],
    );
    with(statement, &[], &["it has no signature"]);
    with("x", &[], &["cannot be used: it does not begin with"]);
    with(
        &format!("{statement}\n{blocks}"),
        &[],
        &["a line of it is missing, or is not as"],
    );
    with(
        &own.replace("serial: 1", "serial: 7"),
        &[&may],
        &["it has 0 good signatures, and needs 1"],
    );
    with(
        &by_hand(&signers, "mallory", statement),
        &[&may],
        &["it has 0 good signatures, and needs 1"],
    );
    let year = field(&own, "expires")[..4].to_owned();
    let past = statement
        .replace(&format!("expires: {year}"), "expires: 2020")
        .replace("issued: 20", "issued: 19");
    with(
        &by_hand(&signers, "ann", &past),
        &[],
        &["what was signed expired at 2020"],
    );
    let future = statement
        .replace("issued: 20", "issued: 21")
        .replace("expires: 20", "expires: 22");
    with(
        &by_hand(&signers, "ann", &future),
        &[],
        &["is still to come: one of two clocks is wrong"],
    );
    with(
        &by_hand(
            &signers,
            "ann",
            &statement.replace("serial: 1", "serial: 0"),
        ),
        &[],
        &["the serial number 0 is not above 1, which is published"],
    );
    with(
        &own,
        &["--audience", "prod"],
        &["its audience is none, not prod"],
    );

    // An account that leaves needs a file that says so.
    keys.remove("bob");
    let (text, code) = keys.sign(&moto, &sign);
    assert_eq!(code, 2, "{text}");
    let more = format!("there would be more than `keys/.signed` is of: {PATH}/bob\n");
    has(&text, &[&more, "make this file, with a comment alone"]);
    keys.put("bob", "# gone");
    let (text, code) = keys.sign(&moto, &sign);
    assert_eq!(code, 0, "{text}");
    has(&text, &["bob: no keys\n  - bob SHA256:", "serial number 2"]);
    let (text, code) = keys.publishes(&moto, &["--prune"]);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &["by whom is not known here: --signers says who may sign"],
    );
    assert_eq!(world.accept(), 0, "{}", world.status());
    // An old run that is run again puts nothing older.
    fs::write(keys.signed(), &own).unwrap();
    keys.put("bob", &bob);
    let (text, code) = keys.publishes(&moto, &["--prune"]);
    assert_eq!(code, 2);
    has(
        &text,
        &["the serial number 1 is not above 2, which is published"],
    );
    // What an attacker puts stops the job only where nobody is named.
    put(
        &moto,
        SIGNED,
        &by_hand(
            &signers,
            "mallory",
            &statement.replace("serial: 1", "serial: 99"),
        ),
    );
    let sign = [&sign[..], &["--serial", "3", "--audience", ""]].concat();
    assert_eq!(keys.sign(&moto, &sign).1, 0);
    assert_eq!(keys.publishes(&moto, &[]).1, 2);
    let (text, code) = keys.publishes(&moto, &[&may]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(world.accept(), 0, "{}", world.status());
}

#[test]
fn the_second_signer_sees_what_changes_and_signs_just_that() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, bob, evil) = (key("alice@laptop"), key("bob"), key("evil"));
    let keys = Keys::new(&[("alice/laptop", &alice)]);
    let (ann, ben, may) = (signers.by("ann"), signers.by("ben"), signers.may());
    let to = ["keys", "--to", PATH];
    let world = signers.host(&moto, 2);
    let second = [ben.as_str(), "--add-signature", &may, "--prune"];
    // The first list: all of it is new.
    let (text, code) = keys.publishes(&moto, &second);
    assert_eq!(code, 2);
    has(
        &text,
        &[
            "there is no signature to add one to, neither `keys/.signed` nor `/authorized-keys/web/.signed`",
        ],
    );
    assert_eq!(keys.sign(&moto, &[&to[..], &[&ann, &may]].concat()).1, 0);
    let own = fs::read_to_string(keys.signed()).unwrap();
    let (text, code) = keys.publishes(&moto, &second);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "each key counts as new: nothing that is published is signed\nalice: 1 key\n  + alice@laptop",
            &format!("    ann@example.com {}\n", signers.fingerprint("ann")),
            &format!("  + ben {}\n", signers.fingerprint("ben")),
        ],
    );
    assert!(
        value(&moto, SIGNED).starts_with(own.trim_end()),
        "and not another word"
    );
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 1);

    // What changes against what is in force.
    keys.put("alice/phone", &bob);
    assert_eq!(keys.sign(&moto, &[&to[..], &[&ann, &may]].concat()).1, 0);
    let (text, code) = said(&keys.publish(&moto, &[&second[..], &["--dry-run"]].concat()));
    assert_eq!(code, 1, "{text}");
    has(
        &text,
        &["alice: 2 keys\n  + bob SHA256:", "with serial number 2"],
    );
    assert!(
        !text.contains("counts as new") && !text.contains("+ alice@laptop"),
        "{text}"
    );

    // The first signer took a key in that an attacker has put: what is published is not believed then, so it is seen.
    let laptop = format!("{PATH}/alice/laptop");
    put(&moto, &laptop, &evil);
    keys.put("alice/laptop", &evil);
    assert_eq!(keys.sign(&moto, &[&to[..], &[&ann, &may]].concat()).1, 0);
    let (text, code) = said(&keys.publish(&moto, &[&second[..], &["--dry-run"]].concat()));
    assert_eq!(code, 1);
    has(
        &text,
        &[
            "each key counts as new: what is published is not what was signed\n",
            "  + evil SHA256:",
        ],
    );
    keys.put("alice/laptop", &alice);
    let (text, code) = keys.publishes(&moto, &second);
    assert_eq!(code, 2);
    has(
        &text,
        &["keys/.signed` is of 2 parameters with other names or values than the 2"],
    );
    assert_eq!(version(&moto, SIGNED), 1);
    put(&moto, &laptop, &alice);

    // By whom it is not taken.
    assert_eq!(keys.sign(&moto, &[&to[..], &[&ann, &may]].concat()).1, 0);
    let own = fs::read_to_string(keys.signed()).unwrap();
    let (statement, _) = own.split_at(own.find("-----BEGIN").unwrap());
    let check = |own: &str, arguments: &[&str], expected: &[&str]| {
        fs::write(keys.signed(), own).unwrap();
        let (text, code) = keys.publishes(&moto, arguments);
        assert_eq!(code, 2, "{text}");
        has(&text, expected);
        assert_eq!(version(&moto, SIGNED), 1);
    };
    check(
        &own,
        &[&ann, "--add-signature", &may],
        &["ann ", "has signed it already"],
    );
    check(
        &own,
        &[&ben, "--add-signature"],
        &["must know whether the signature that is there counts"],
    );
    check(
        &own,
        &["--add-signature", &may],
        &["required", "--sign <KEY>"],
    );
    check(
        &own,
        &[&ben, "--add-signature", &may, "--expires", "2d"],
        &["cannot be used with"],
    );
    check(
        &by_hand(&signers, "mallory", statement),
        &second,
        &["which is not one that may sign"],
    );
    check(
        &own.replace("AAAAB", "AAAAC"),
        &second,
        &["the signature is damaged"],
    );
    check(statement, &second, &["it has 0 signatures, and needs 1"]);
    let jump = by_hand(
        &signers,
        "ann",
        &statement.replace("serial: 2", "serial: 200"),
    );
    check(
        &jump,
        &second,
        &[
            "200, is not known to be the next: 1 is published",
            "agree with --serial 200",
        ],
    );
    fs::write(keys.signed(), &own).unwrap();
    let (text, code) = keys.publishes(&moto, &second);
    assert_eq!(code, 0, "{text}");
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 2);
    // The job that puts what is in the repository takes no signature away.
    let (text, code) = keys.publishes(&moto, &[&may]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(version(&moto, SIGNED), 2, "{text}");

    // The first signer may publish, too: hosts wait for the second.
    fs::remove_file(keys.signed()).unwrap();
    keys.put("alice/tablet", &key("tablet"));
    let (text, code) = keys.publishes(&moto, &[&ann, &may]);
    assert_eq!(code, 0, "{text}");
    world.run(&["fetch", "--once"]);
    world.run(&["enforce", "--once"]);
    assert_eq!(world.keys("alice"), 2);
    let (text, code) = keys.publishes(&moto, &second);
    assert_eq!(code, 2);
    has(
        &text,
        &["it has 1 signature, and needs 2", "agree with --serial 3"],
    );
    let (text, code) = keys.publishes(&moto, &[&second[..], &["--serial=3"]].concat());
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "web in eu-central-1: 1 changed, 3 unchanged",
            "counts as new",
        ],
    );
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 3);
}

#[test]
fn a_second_publisher_is_noticed_before_the_signature_is_put() {
    let (moto, signers) = (Arc::new(Moto::start()), Signers::new());
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    let sign = signers.by("ann");
    let (name, text) = (format!("{PATH}/alice/laptop"), key("theirs"));
    for (name, text, expected, is_put) in [
        (
            name.as_str(),
            text.as_str(),
            "laptop` has version 3 meanwhile",
            false,
        ),
        (
            "/authorized-keys/web/bob",
            &text,
            "bob` has version 1 meanwhile",
            false,
        ),
        (
            "/authorized-keys/web/-rf",
            &text,
            "what is below `/authorized-keys/web` is not what was signed",
            false,
        ),
        (SIGNED, &text, "was to become version 2, and became 3", true),
    ] {
        moto.reset();
        assert_eq!(keys.publishes(&moto, &[&sign]).1, 0);
        keys.put("alice/laptop", &key("alice"));
        let (also, name, text) = (Arc::clone(&moto), name.to_owned(), text.to_owned());
        // Before the look at what there is once the value is put; of the signature, after that.
        let is_done = AtomicBool::new(false);
        let is_begun = AtomicBool::new(false);
        let front = SsmFront::start(&moto, move |call| {
            let is_now = if name == SIGNED {
                call.write == Some(2)
            } else {
                is_begun.fetch_or(call.write == Some(1), Ordering::SeqCst) && call.write.is_none()
            };
            if is_now && !is_done.swap(true, Ordering::SeqCst) {
                also.put("String", &name, &text);
            }
            Fate::Passed
        });
        let (text, code) = keys.through(&moto, &front, &["--yes", &sign]);
        assert_eq!(code, 2, "{text}");
        has(&text, &["another publisher is at work: ", expected]);
        let puts = front.writes();
        assert_eq!(puts.iter().any(|call| call.on == SIGNED), is_put, "{text}");
    }
}

/// `agent publish` in a terminal, script(1), where `typed` is answered to what ends in `asked`.
fn in_terminal(command: &Command, answers: &[(&str, &str)]) -> (String, i32) {
    let words: Vec<String> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| word.to_str().unwrap().to_owned())
        .collect();
    let mut terminal = Command::new("script");
    let environment = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    terminal
        .envs(environment)
        .env_remove("SSH_AUTH_SOCK")
        // A display, and no program that could ask there.
        .env("DISPLAY", ":7")
        .current_dir(command.get_current_dir().unwrap())
        .args(["-qefc", &words.join(" "), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = terminal.spawn().unwrap();
    let (mut typed, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut seen, mut one, mut from) = (String::new(), [0], 0);
    for (asked, answer) in answers {
        while !seen[from..].contains(asked) {
            assert_eq!(screen.read(&mut one).unwrap(), 1, "no {asked:?} in {seen}");
            seen.push(char::from(one[0]));
        }
        from = seen.len();
        writeln!(typed, "{answer}").unwrap();
    }
    screen.read_to_string(&mut seen).unwrap();
    (seen, child.wait().unwrap().code().unwrap())
}

#[test]
fn keys_that_take_a_passphrase_or_an_agent_sign_and_what_fails_puts_nothing() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    signers.make("locked", "open sesame");
    let endpoint = moto.endpoint();
    let locked = signers.by("locked");
    let command = keys.command(&moto, &endpoint, &[&locked]);
    let check = |passphrase: &str, expected: &[&str], is_put: bool| {
        let answers = [("[y/N] ", "y"), ("passphrase", passphrase)];
        let (text, code) = in_terminal(&command, &answers);
        has(&text, expected);
        assert_eq!(
            (code, published(&moto).is_empty()),
            (if is_put { 0 } else { 2 }, !is_put),
            "{text}"
        );
    };
    check(
        "wrong",
        &[
            "incorrect passphrase supplied to decrypt private key",
            "`ssh-keygen` did not sign with locked SHA256:",
            "hint: it says why above",
        ],
        false,
    );
    check("open sesame", &["published"], true);
    let (text, code) = in_terminal(&command, &[("[y/N] ", "n")]);
    assert!(code == 2 && !text.contains("passphrase"), "{text}");
    moto.reset();

    // Nobody is there to type it.
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = keys.command(&moto, &endpoint, &[&["--yes"], arguments].concat());
        command
            .env_remove("SSH_AUTH_SOCK")
            .envs(environment.iter().copied());
        let mut session = Command::new("/usr/bin/setsid");
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        session.arg("--wait").args(words).stdin(Stdio::null());
        session.current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        said(&session.output().unwrap())
    };
    let fails = |arguments: &[&str], environment: &[(&str, &str)], expected: &[&str]| {
        let (text, code) = run(arguments, environment);
        assert_eq!(code, 2, "{text}");
        has(&text, expected);
        assert!(published(&moto).is_empty(), "{text}");
    };
    fails(&[&locked], &[], &["`ssh-keygen` did not sign with locked"]);
    // The public half alone, without an agent, with one that lacks it, and with one that has it.
    let public = signers.0.path().join("public");
    fs::create_dir(&public).unwrap();
    fs::copy(signers.path("locked.pub"), public.join("locked.pub")).unwrap();
    let by_agent = format!("--sign={}", public.join("locked.pub").display());
    let in_agent = "the key must be in ssh-agent, `ssh-add -l` shows those";
    fails(&[&by_agent], &[], &[in_agent]);
    let socket = signers.path("agent");
    let agent = Command::new("ssh-agent")
        .args(["-D", "-a", &socket])
        .stdout(Stdio::null())
        .spawn();
    let _agent = Ends(agent.unwrap());
    crate::support::world::wait("the agent", || Path::new(&socket).exists());
    let environment = [("SSH_AUTH_SOCK", socket.as_str())];
    fails(&[&by_agent], &environment, &[in_agent]);
    let asks = signers.path("asks");
    fs::write(&asks, "#!/bin/sh\necho open sesame\n").unwrap();
    fs::set_permissions(&asks, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let add: Output = Command::new("ssh-add")
        .arg(signers.path("locked"))
        .envs(environment)
        .envs([
            ("SSH_ASKPASS", asks.as_str()),
            ("SSH_ASKPASS_REQUIRE", "force"),
        ])
        .output()
        .unwrap();
    assert!(add.status.success(), "{}", shown(&add.stderr));
    let (text, code) = run(&[&by_agent], &environment);
    assert_eq!(code, 0, "{text}");
    // As a person wishes.
    let askpass = [
        ("SSH_ASKPASS", asks.as_str()),
        ("SSH_ASKPASS_REQUIRE", "force"),
    ];
    let (text, code) = run(&[&locked], &askpass);
    assert_eq!(code, 0, "{text}");
    moto.reset();

    // No key, no ssh-keygen, and keys that no host takes.
    fails(
        &["--sign=nowhere"],
        &[],
        &["cannot read the key `nowhere`: No such file"],
    );
    fails(&["--sign=keys"], &[], &["`keys`"]);
    fs::write(keys.0.path().join("text"), "hello").unwrap();
    fails(
        &["--sign=text"],
        &[],
        &["`text` holds no key that ssh-keygen signs with"],
    );
    let bin = keys.0.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let path = bin.display().to_string();
    symlink("/usr/bin/true", bin.join("true")).unwrap();
    fails(
        &[&signers.by("ann")],
        &[("PATH", &path)],
        &["there is no `ssh-keygen` here", "openssh-client"],
    );
    let rsa = Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "old", "-f"])
        .arg(signers.path("rsa"))
        .status();
    assert!(rsa.unwrap().success());
    fails(
        &[&signers.by("rsa")],
        &[],
        &["no host would count its signature: an RSA key of 2048 bits"],
    );
    // What stands for ssh-keygen and signs something else.
    symlink("/bin/cat", bin.join("ssh-keygen")).unwrap();
    fails(
        &[&signers.by("ann")],
        &[("PATH", &path)],
        &["`ssh-keygen` did not sign with ann"],
    );
    fs::remove_file(bin.join("ssh-keygen")).unwrap();
    let wrong = format!(
        "#!/bin/sh\nexec /usr/bin/ssh-keygen -Y sign -n file -f {}\n",
        signers.path("ann")
    );
    fs::write(bin.join("ssh-keygen"), wrong).unwrap();
    fs::set_permissions(
        bin.join("ssh-keygen"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    fails(
        &[&signers.by("ann")],
        &[("PATH", &path)],
        &["hosts would not count what ssh-keygen made: the signature is for the namespace `file`"],
    );
}

#[test]
fn as_many_signatures_as_fit_are_put() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    assert_eq!(
        keys.sign(&moto, &["keys", "--to", PATH, &signers.by("ann")])
            .1,
        0
    );
    let own = fs::read_to_string(keys.signed()).unwrap();
    let (statement, block) = own.split_at(own.find("-----BEGIN").unwrap());
    let of = |blocks: usize| statement.to_owned() + &block.repeat(blocks);
    let fit = (4096 - statement.len()) / block.len();
    assert!(fit >= 12, "{fit}");
    let fits = |fit: usize| format!("{fit} such signatures fit");
    fs::write(keys.signed(), of(fit)).unwrap();
    let (text, code) = keys.publishes(&moto, &[]);
    assert_eq!(code, 0, "{text}");
    fs::write(keys.signed(), of(fit + 1)).unwrap();
    let (text, code) = keys.publishes(&moto, &[]);
    assert_eq!(code, 2);
    has(
        &text,
        &[
            "more than the 4096 of a standard parameter",
            &fits(fit),
            "--tier advanced: AWS bills it",
        ],
    );
    let (text, code) = keys.publishes(&moto, &["--tier", "advanced"]);
    assert_eq!(code, 0, "{text}");
    let advanced = [
        "describe-parameters",
        "--query",
        "Parameters[?Tier=='Advanced'].Name",
    ];
    assert_eq!(moto.aws(&advanced).trim(), SIGNED);
    // It is one then, and stays one.
    fs::write(keys.signed(), of(fit + 2)).unwrap();
    assert_eq!(keys.publishes(&moto, &[]).1, 0);
    let most = (8192 - statement.len()) / block.len();
    fs::write(keys.signed(), of(most)).unwrap();
    assert_eq!(keys.publishes(&moto, &[]).1, 0);
    fs::write(keys.signed(), of(most + 1)).unwrap();
    let (text, code) = keys.publishes(&moto, &[]);
    assert_eq!(code, 2);
    has(&text, &["it has more than 8 KB"]);
    // A person who adds one too many.
    let others: Vec<String> = (0..most)
        .map(|at| {
            let name = format!("k{at}");
            let public = signers.make(&name, "");
            format!("{name} {public}")
        })
        .collect();
    fs::write(
        signers.path("all"),
        format!("{}\nann {}\n", others.join("\n"), signers.public("ann")),
    )
    .unwrap();
    let blocks: String = (0..most)
        .map(|at| {
            let whole = by_hand(&signers, &format!("k{at}"), statement);
            whole[statement.len()..].to_owned()
        })
        .collect();
    fs::write(keys.signed(), format!("{statement}{blocks}")).unwrap();
    let all = format!("--signers={}", signers.path("all"));
    let add = [
        "keys",
        "--to",
        PATH,
        &signers.by("ann"),
        "--add-signature",
        &all,
        "--yes",
    ];
    let (text, code) = keys.sign(&moto, &[&add[..], &["--serial=1"]].concat());
    assert_eq!(code, 2);
    has(&text, &["more than the 8192 of a parameter", &fits(most)]);
}

#[test]
fn a_directory_is_signed_for_the_hosts_that_have_it() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, bob) = (key("alice"), key("bob"));
    let keys = Keys::new(&[("alice/laptop", &alice)]);
    let mut world = World::new();
    world.tables = format!(
        "[policy]\nsigned-by = \"{}\"\nsignatures = 2\n",
        signers.path("signers")
    );
    world.make_ssh("alice", ALICE);
    let place = world.path("approved").display().to_string();
    let (ann, ben, may) = (signers.by("ann"), signers.by("ben"), signers.may());
    let copy = || {
        fs::remove_dir_all(&place).unwrap();
        let copied = Command::new("cp")
            .arg("-r")
            .arg(keys.0.path().join("keys"))
            .arg(&place)
            .status();
        assert!(copied.unwrap().success());
    };
    // A copy of what hosts have, and what they have itself.
    let first = ["keys", "--as", &format!("{place}/"), &ann, &may];
    let (text, code) = keys.sign(&moto, &first);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "/alice/laptop\n  + alice SHA256:",
            "with serial number 1, until",
            "signed: keys/.signed\n",
        ],
    );
    copy();
    let second = [place.as_str(), &ben, &may, "--add-signature"];
    let (text, code) = keys.sign(&moto, &second);
    assert!(
        code == 2 && text.contains("without a terminal it cannot ask: add --yes"),
        "{text}"
    );
    let (text, code) = keys.sign(&moto, &[&second[..], &["--yes"]].concat());
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &["  + alice SHA256:", "    ann@example.com ", "  + ben "],
    );
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 1);

    // The next, a file whose end is signed as it is, and one that is changed afterwards.
    keys.put("alice/phone", &format!("{bob}\n\n"));
    let (text, code) = keys.sign(&moto, &first);
    assert_eq!(code, 0, "{text}");
    has(&text, &["with serial number 2, until"]);
    copy();
    let yes = [&second[..], &["--yes"]].concat();
    assert_eq!(keys.sign(&moto, &yes).1, 0);
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 2);
    fs::write(format!("{place}/alice/laptop"), key("evil")).unwrap();
    let held = world.read("alice");
    world.run(&["fetch", "--once"]);
    world.run(&["enforce", "--once"]);
    assert_eq!(world.read("alice"), held);
    let (text, code) = keys.sign(&moto, &yes);
    assert_eq!(code, 2, "{text}");
    has(&text, &["has signed it already"]);
    for (arguments, expected) in [
        (&["keys", &may][..], "name the key that signs: --sign KEY"),
        (
            &["keys", &ann, "--to", "/k", "--as", "/x"],
            "cannot be used with",
        ),
        (
            &["keys", &ann, "--to", "/k/{region}"],
            "has no place of its own",
        ),
        (&["nowhere", &ann], "nowhere"),
        (
            &["keys", &ann, "--as", "/elsewhere"],
            "it is for `directory:",
        ),
        (
            &["keys", &ann, "--as", "/elsewhere", "--serial", "9"],
            "it is for `directory:",
        ),
    ] {
        let (text, code) = keys.sign(&moto, arguments);
        assert_eq!(code, 2, "{text}");
        has(&text, &[expected]);
    }
    keys.put("alice/tablet", "nonsense");
    let (text, code) = keys.sign(&moto, &first);
    assert_eq!(code, 2);
    has(
        &text,
        &[
            "keys/alice/tablet:1: not an authorized_keys line",
            "1 problem: nothing is signed",
        ],
    );
    let signed = fs::read_to_string(keys.signed()).unwrap();
    assert_eq!(
        field(&signed, "serial"),
        "2",
        "and what was signed is as it was"
    );
}

#[test]
fn named_parameters_are_signed_together() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, bob) = (key("alice"), key("bob"));
    // Two parameters have one key with other options, for two accounts.
    let keys = Keys::new(&[
        ("shared/alice", &alice),
        ("shared/bob", &format!("restrict {alice}\n{bob}")),
    ]);
    let mut world = signers.host(&moto, 1);
    world.origin = "signed = \"/shared/.signed\"".to_owned();
    world.tables += "[source.parameters]\nalice = [\"/shared/alice\"]\nbob = [\"/shared/bob\"]\n";
    let sign = [
        "keys",
        "--named",
        "/shared/.signed",
        &signers.by("ann"),
        &signers.may(),
    ];
    let (text, code) = keys.sign(&moto, &sign);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "/shared/alice\n  + alice SHA256:",
            "/shared/bob\n  + alice SHA256:",
        ],
    );
    // As the help says.
    let put = "for one in shared/alice shared/bob; do aws ssm put-parameter --overwrite --type String --name \"/$one\" \
               --value \"$(cat keys/$one)\"; done; aws ssm put-parameter --overwrite --type String --name /shared/.signed \
               --value \"$(cat keys/.signed)\"";
    let puts = || {
        let mut shell = moto.client("sh");
        let done = shell
            .args(["-ec", put])
            .current_dir(keys.0.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", shown(&done.stderr));
    };
    puts();
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(
        (world.keys("alice"), world.read("bob").contains("restrict")),
        (1, true)
    );
    keys.put("shared/alice", &bob);
    let (text, code) = keys.sign(&moto, &sign);
    assert_eq!(code, 0, "{text}");
    has(&text, &["with serial number 2"]);
    puts();
    assert_eq!(world.accept(), 0, "{}", world.status());
    assert!(world.read("alice").contains(&bob));
}

#[test]
fn a_path_is_signed_where_parameter_store_is_out_of_reach_if_all_is_said() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    let sign = |arguments: &[&str]| {
        let mut command = moto.client(env!("CARGO_BIN_EXE_authorized-keys-agent"));
        command
            .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            .args(["sign", "keys", "--to", PATH, &signers.by("ann")])
            .args(arguments)
            .current_dir(keys.0.path());
        said(&command.output().unwrap())
    };
    let (text, code) = sign(&[]);
    assert_eq!(code, 2);
    has(
        &text,
        &[
            "Parameter Store cannot be asked: ",
            "connection refused",
            "say both: --serial",
        ],
    );
    assert!(!keys.signed().exists());
    let (text, code) = sign(&["--serial", "7", "--audience", "prod"]);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "each key counts as new: Parameter Store cannot be asked: ",
            "/alice/laptop\n  + alice SHA256:",
        ],
    );
    let text = fs::read_to_string(keys.signed()).unwrap();
    assert_eq!(
        (field(&text, "serial"), field(&text, "scope")),
        ("7".into(), PATH.into())
    );
    assert_eq!(keys.publishes(&moto, &[]).1, 0);
}

#[test]
fn the_policy_for_publishers_is_enough_to_sign() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let front = SsmFront::start(&moto, |call| {
        if allowed(call) {
            Fate::Passed
        } else {
            Fate::Denied
        }
    });
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    let (text, code) = keys.through(&moto, &front, &["--yes", "--prune", &signers.by("ann")]);
    assert_eq!(code, 0, "{text}");
    let mut command = moto.client(env!("CARGO_BIN_EXE_authorized-keys-agent"));
    command
        .env("AWS_ENDPOINT_URL", front.endpoint())
        .args(["sign", "keys", "--to", PATH, &signers.by("ann")])
        .current_dir(keys.0.path());
    let (text, code) = said(&command.output().unwrap());
    assert_eq!(code, 0, "{text}");
}

/// The script of a step of the workflow for a repository of keys.
fn step(name: &str) -> String {
    let workflow = include_str!("../../packaging/examples/keys.yml");
    let (_, step) = workflow.split_once(&format!("- name: {name}\n")).unwrap();
    let (_, script) = step.split_once("run: ").unwrap();
    let script = script.strip_prefix("|\n").unwrap_or(script);
    let is_own = |line: &&str| !line.starts_with("      -") && !line.is_empty();
    let lines: Vec<&str> = script.lines().take_while(is_own).collect();
    let from = lines[0].len() - lines[0].trim_start().len();
    let lines = lines.into_iter().map(|line| line.get(from..).unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_workflow_publishes_what_two_people_signed_and_has_no_key() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let keys = Keys::new(&[("alice/laptop", &key("alice"))]);
    let path = |name: &str| keys.0.path().join(name);
    fs::copy(signers.path("signers"), path("allowed_signers")).unwrap();
    let workflow = include_str!("../../packaging/examples/keys.yml");
    let options = "--signers allowed_signers --signatures 2";
    has(
        workflow,
        &[&format!("#   {options}\n"), "\n  SIGNED: \"\"\n"],
    );
    let (_, command) = workflow.split_once("#   agent sign ").unwrap();
    let command = command.lines().next().unwrap().replace("KEYS_PATH", PATH);
    let signs = |name: &str, more: &[&str]| {
        let command = command.replace("KEY", &signers.path(name));
        let words: Vec<&str> = command.split(' ').chain(more.iter().copied()).collect();
        let (text, code) = keys.sign(&moto, &words);
        assert_eq!(code, 0, "{text}");
    };
    fs::create_dir(path("bin")).unwrap();
    symlink(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        path("bin/authorized-keys-agent"),
    )
    .unwrap();
    let search = format!("{}:{}", path("bin").display(), env!("PATH"));
    let run = |name: &str| {
        let mut bash = moto.client("bash");
        bash.args([
            "--noprofile",
            "--norc",
            "-eo",
            "pipefail",
            "-c",
            &step(name),
        ])
        .env("KEYS_PATH", PATH)
        .env("SIGNED", options)
        .env("PATH", &search)
        .env("GITHUB_STEP_SUMMARY", path("summary"));
        said(&bash.current_dir(keys.0.path()).output().unwrap())
    };
    let look = "Show who would gain and who would lose";
    signs("ann", &[]);
    for name in [look, "Publish"] {
        let (text, code) = run(name);
        assert_ne!(code, 0, "{text}");
        has(
            &text,
            &[
                "keys/.signed` cannot be used: it has 1 signature, and needs 2\n  hint: the next person signs it with --add-signature\n",
                "  + alice SHA256:",
            ],
        );
    }
    signs("ben", &["--add-signature", "--yes"]);
    let (text, code) = run(look);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &["    ann@example.com SHA256:", "    ben@example.com SHA256:"],
    );
    assert!(published(&moto).is_empty());
    let (text, code) = run("Publish");
    assert!(code == 0 && text.contains("\npublished\n"), "{text}");
    let world = signers.host(&moto, 2);
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 1);
    // What is changed after they signed.
    keys.put("alice/phone", &key("later"));
    for name in [look, "Publish"] {
        let (text, code) = run(name);
        assert_ne!(code, 0, "{text}");
        has(
            &text,
            &["with other names or values than the 2 in the directory"],
        );
    }
    signs("ben", &[]);
    signs("ann", &["--add-signature", "--yes"]);
    let (text, code) = run("Publish");
    assert_eq!(code, 0, "{text}");
    assert_eq!(world.pass(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 2);
}

#[test]
fn an_old_list_that_was_put_back_brings_nothing_of_it_in_again() {
    let (moto, signers) = (Moto::start(), Signers::new());
    let (alice, gone) = (key("alice"), key("gone"));
    let keys = Keys::new(&[("alice/laptop", &alice), ("alice/gone", &gone)]);
    let sign = [&signers.by("ann"), "--prune"];
    let world = signers.host(&moto, 1);
    assert_eq!(keys.publishes(&moto, &sign).1, 0);
    let old = value(&moto, SIGNED);
    assert_eq!(world.pass(), 0, "{}", world.status());
    keys.remove("alice/gone");
    assert_eq!(keys.publishes(&moto, &sign).1, 0);
    assert_eq!(world.accept(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 1);
    put(&moto, &format!("{PATH}/alice/gone"), &gone);
    put(&moto, SIGNED, &old);
    // It counts here, where no state says that there was a later one; what is not in the directory is not signed again.
    let (text, code) = keys.publishes(&moto, &[&signers.by("ann")]);
    assert_eq!(code, 2);
    has(
        &text,
        &[&format!(
            "published and not in the directory: {PATH}/alice/gone"
        )],
    );
    let (text, code) = keys.publishes(&moto, &sign);
    assert_eq!(code, 0, "{text}");
    has(
        &text,
        &[
            "alice: 1 key\n  - gone SHA256:",
            "with serial number 2, until",
        ],
    );
    let names = [&sign[..], &["--serial", "3"]].concat();
    assert_eq!(keys.publishes(&moto, &names).1, 0);
    assert_eq!(world.accept(), 0, "{}", world.status());
    assert_eq!(world.keys("alice"), 1);
}
