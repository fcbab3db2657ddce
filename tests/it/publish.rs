//! `publish`: a directory into moto, with the `aws` CLI as the admin who looks, and with what goes wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use authorized_keys_agent::host::ssm::ParameterStore;
use authorized_keys_agent::model::desired::judge::{Rules, judge_drafts};
use authorized_keys_agent::model::key::policy::Policy;
use authorized_keys_agent::model::list::contents::Contents;
use jiff::tz::TimeZone;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::moto::Moto;
use crate::support::run;
use crate::support::ssm_front::{Call, Fate, SsmFront};
use crate::support::world::{fingerprint, key, shown};

const PATH: &str = "/authorized-keys/web";

/// A directory of keys.
pub struct Keys(pub TempDir);

impl Keys {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        for (name, value) in files {
            keys.put(name, value);
        }
        keys
    }

    pub fn put(&self, name: &str, value: &str) {
        let file = self.0.path().join("keys").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("{value}\n")).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join("keys").join(name)).unwrap();
    }

    pub fn command(&self, moto: &Moto, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = moto.client(env!("CARGO_BIN_EXE_authorized-keys-agent"));
        command
            .env("AWS_ENDPOINT_URL", endpoint)
            .args(["publish", "keys", "--to", PATH])
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    pub fn publish(&self, moto: &Moto, arguments: &[&str]) -> Output {
        let mut command = self.command(moto, &moto.endpoint(), arguments);
        command.output().unwrap()
    }

    /// What it says and the exit code.
    pub fn through(&self, moto: &Moto, front: &SsmFront, arguments: &[&str]) -> (String, i32) {
        said(
            &self
                .command(moto, &front.endpoint(), arguments)
                .output()
                .unwrap(),
        )
    }

    pub fn json(&self, moto: &Moto, arguments: &[&str]) -> (Value, i32) {
        let done = self.publish(moto, &[arguments, &["--json"]].concat());
        let document = serde_json::from_slice(&done.stdout);
        let code = done.status.code().unwrap();
        (document.unwrap_or_else(|_| panic!("{done:?}")), code)
    }
}

pub fn said(done: &Output) -> (String, i32) {
    let stderr = shown(&done.stderr);
    let no_config = |line: &&str| !line.starts_with("note: no config can be read at ");
    let stderr = stderr.split_inclusive('\n').filter(no_config);
    let text = shown(&done.stdout) + &stderr.collect::<String>();
    (text, done.status.code().unwrap_or(-1))
}

/// What the admin sees below the path: name, version and value.
pub fn published(moto: &Moto) -> BTreeMap<String, (u64, String)> {
    let below = [
        "get-parameters-by-path",
        "--recursive",
        "--with-decryption",
        "--path",
        "/",
    ];
    let text = moto.cli("json", &[&["ssm"], &below[..]].concat());
    let all: Value = serde_json::from_str(&text).unwrap();
    let all = all["Parameters"].as_array().unwrap();
    let one = |it: &Value| {
        let name = it["Name"].as_str().unwrap().to_owned();
        let value = it["Value"].as_str().unwrap().to_owned();
        (name, (it["Version"].as_u64().unwrap(), value))
    };
    all.iter().map(one).collect()
}

pub fn names(moto: &Moto) -> Vec<String> {
    let below = |name: String| name.trim_start_matches(PATH).to_owned();
    published(moto).into_keys().map(below).collect()
}

/// The keys of each account, as a host that fetches now takes them.
fn taken(moto: &Moto) -> BTreeMap<String, BTreeSet<String>> {
    let found = run(async {
        let store = ParameterStore::new(&moto.settings()).await.unwrap();
        store.by_path(PATH, &mut store.tries()).await.unwrap()
    });
    let mut values: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for one in found {
        let below = one.name.strip_prefix(PATH).unwrap().trim_start_matches('/');
        let account = below.split('/').next().unwrap().to_owned();
        values
            .entry(account)
            .or_default()
            .push((one.name, one.value));
    }
    let rules = Rules {
        policy: &Policy::default(),
        zone: &TimeZone::UTC,
        openssh: None,
    };
    let keys = |values: Vec<(String, String)>| {
        let values = values
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        let judged = judge_drafts(values, rules);
        judged
            .grants
            .into_iter()
            .map(|grant| grant.fingerprint)
            .collect()
    };
    values
        .into_iter()
        .map(|(account, of)| (account, keys(of)))
        .collect()
}

#[test]
fn what_the_directory_says_is_what_is_published() {
    let moto = Moto::start();
    let (alice, bob) = (key("alice@laptop"), key("bob"));
    let keys = Keys::new(&[
        ("ec2-user/alice", &alice),
        ("ec2-user/bob", &bob),
        ("deploy", &alice),
    ]);

    let (text, code) = said(&keys.publish(&moto, &["--dry-run"]));
    assert_eq!(code, 1, "{text}");
    let alices = fingerprint(&alice);
    let expected = format!(
        "{PATH} in eu-central-1: 3 created, 0 unchanged\n  + {PATH}/deploy\n  + {PATH}/ec2-user/alice\n  \
         + {PATH}/ec2-user/bob\ndeploy: 1 key\n  + alice@laptop {alices}\nec2-user: 2 keys\n  + alice@laptop {alices}\n  \
         + bob {}\n",
        fingerprint(&bob)
    );
    assert_eq!(text, expected);
    assert!(published(&moto).is_empty(), "a dry run puts nothing");

    let (text, code) = said(&keys.publish(&moto, &["--yes"]));
    assert_eq!((text, code), (expected + "published\n", 0));
    let there = published(&moto);
    assert_eq!(there[&format!("{PATH}/ec2-user/alice")], (1, alice.clone()));
    let (text, code) = said(&keys.publish(&moto, &["--yes"]));
    assert_eq!(
        (text.as_str(), code),
        ("/authorized-keys/web in eu-central-1: 3 unchanged\n", 0)
    );
    assert_eq!(said(&keys.publish(&moto, &["--dry-run"])).1, 0);
    assert_eq!(published(&moto), there, "not even a version");

    // Another key, other options, one that is gone; and what is not ours.
    let carol = key("carol");
    keys.put("ec2-user/carol", &carol);
    keys.put("ec2-user/alice", &format!("from=\"10.0.0.0/8\" {alice}"));
    keys.remove("ec2-user/bob");
    for stranger in [
        "/authorized-keys/website/bob",
        "/authorized-keys/web/-rf",
        "/authorized-keys/web",
    ] {
        moto.put("String", stranger, "mine");
    }
    let (document, code) = keys.json(&moto, &["--yes"]);
    assert_eq!(code, 0);
    let parameters = &document["parameters"];
    assert_eq!(
        parameters["created"],
        serde_json::json!([format!("{PATH}/ec2-user/carol")])
    );
    assert_eq!(
        parameters["changed"],
        serde_json::json!([format!("{PATH}/ec2-user/alice")])
    );
    assert_eq!(
        parameters["not_in_directory"],
        serde_json::json!([format!("{PATH}/ec2-user/bob")])
    );
    assert_eq!(
        parameters["never_touched"],
        serde_json::json!([format!("{PATH}/-rf")])
    );
    assert_eq!(
        (&parameters["unchanged"], &document["writes_done"]),
        (&1.into(), &2.into())
    );
    let account = &document["accounts"][0];
    assert_eq!(
        (&account["account"], &account["keys"]),
        (&"ec2-user".into(), &3.into())
    );
    assert_eq!(account["gains"][0]["fingerprint"], fingerprint(&carol));
    assert_eq!(account["other_options"][0]["comment"], "alice@laptop");
    assert_eq!(account["loses"], serde_json::json!([]), "without --prune");
    assert_eq!(document["accounts"].as_array().unwrap().len(), 1);

    let (text, code) = said(&keys.publish(&moto, &["--yes", "--prune"]));
    assert!(
        text.contains(&format!(
            "1 deleted, 3 unchanged\n  - {PATH}/ec2-user/bob\nec2-user: 2 keys\n  - bob "
        )),
        "{text}"
    );
    assert_eq!(code, 0);
    let left = [
        "",
        "/-rf",
        "/deploy",
        "/ec2-user/alice",
        "/ec2-user/carol",
        "site/bob",
    ];
    assert_eq!(names(&moto), left);
}

#[test]
fn an_account_that_leaves_has_a_tombstone_until_it_has_keys_again() {
    let moto = Moto::start();
    let (alice, bob) = (key("alice"), key("bob"));
    let keys = Keys::new(&[
        ("web/alice", &alice),
        ("ci/alice", &alice),
        ("ci/bob", &bob),
    ]);
    assert_eq!(keys.publish(&moto, &["--yes"]).status.code(), Some(0));
    keys.remove("ci/alice");
    keys.remove("ci/bob");
    let (text, code) = said(&keys.publish(&moto, &["--yes", "--prune"]));
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("1 left without keys, 1 deleted, 1 unchanged\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!("ci: no keys\n  - alice {}", fingerprint(&alice))),
        "{text}"
    );
    assert_eq!(names(&moto), ["/ci/alice", "/web/alice"]);
    assert!(
        published(&moto)[&format!("{PATH}/ci/alice")]
            .1
            .starts_with('#')
    );
    // It stays, and is no news.
    for arguments in [&["--yes", "--prune"][..], &["--yes"]] {
        let done = keys.publish(&moto, arguments);
        let expected = "/authorized-keys/web in eu-central-1: 2 unchanged\n";
        let said = shown(&done.stdout);
        assert_eq!((said.as_str(), done.status.code()), (expected, Some(0)));
    }
    keys.put("ci/bob", &bob);
    assert_eq!(
        keys.publish(&moto, &["--yes", "--prune"]).status.code(),
        Some(0)
    );
    assert_eq!(names(&moto), ["/ci/bob", "/web/alice"]);
}

#[test]
fn nothing_is_put_where_a_line_would_be_refused_or_no_one_can_be_asked() {
    let moto = Moto::start();
    let front = SsmFront::start(&moto, |_| Fate::Passed);
    let alice = key("alice");
    let keys = Keys::new(&[("web/alice", &alice), ("web/bob", "not a key")]);
    let (text, code) = keys.through(&moto, &front, &["--yes"]);
    assert_eq!(code, 2);
    assert!(
        text.contains("keys/web/bob:1: not an authorized_keys line"),
        "{text}"
    );
    assert!(
        text.ends_with("error: 1 problem: nothing is put\n"),
        "{text}"
    );
    let done = keys.publish(&moto, &["--dry-run", "--json"]);
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(document["lint"]["problems"][0]["file"], "keys/web/bob");
    assert_eq!(document["error"], "1 problem: nothing is put");
    keys.remove("web/bob");

    for (arguments, expected) in [
        (&[][..], "without a terminal it cannot ask: add --yes"),
        (&["--json"], "with --json it cannot ask"),
    ] {
        let (text, code) = keys.through(&moto, &front, arguments);
        assert!(code == 2 && text.contains(expected), "{text}");
    }
    fs::write(keys.0.path().join("keys/web/latin"), b"# \xe4\n").unwrap();
    let (text, _) = keys.through(&moto, &front, &["--yes"]);
    assert!(text.contains("keys/web/latin:1: not UTF-8"), "{text}");
    keys.remove("web/latin");
    for (to, expected) in [
        ("/keys/{tag:Role}", "has no place of its own"),
        ("/", "is all of Parameter Store"),
        ("/a b", "a parameter name has only"),
        ("/SSM-keys/web", "begins with `ssm`, which AWS keeps"),
        ("aws/web", "`/aws/web` begins with `aws`"),
    ] {
        let mut command = moto.client(env!("CARGO_BIN_EXE_authorized-keys-agent"));
        let command = command
            .args(["publish", "keys", "--yes", "--to", to])
            .current_dir(keys.0.path());
        let (text, code) = said(&command.output().unwrap());
        assert!(code == 2 && text.contains(expected), "{text}");
    }
    assert_eq!(
        front.calls(),
        [],
        "it is all found out before Parameter Store is asked"
    );
    // A policy of one's own.
    fs::write(keys.0.path().join("strict.toml"), "[source]\npaths = [\"/k\"]\n[accounts]\nmanage = [\"web\"]\n[policy]\nalgorithms = [\"ssh-rsa\"]\n").unwrap();
    let (text, code) = keys.through(&moto, &front, &["--yes", "--config", "strict.toml"]);
    assert!(
        code == 2 && text.contains("is not in `[policy] algorithms`"),
        "{text}"
    );
}

#[test]
fn a_person_is_asked_and_what_others_publish_meanwhile_is_seen() {
    let moto = Moto::start();
    let check = |answer: &str, meanwhile: bool, expected: &str, puts: usize| {
        moto.reset();
        let front = SsmFront::start(&moto, |_| Fate::Passed);
        let keys = Keys::new(&[("web/alice", &key("alice"))]);
        let endpoint = front.endpoint();
        let command = keys.command(&moto, &endpoint, &[]);
        let words: Vec<String> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap().to_owned())
            .collect();
        // script(1) is the terminal.
        let mut terminal = Command::new("script");
        let environment = command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        terminal
            .envs(environment)
            .current_dir(keys.0.path())
            .args(["-qefc", &words.join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = terminal.spawn().unwrap();
        let (mut typed, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut seen = String::new();
        let mut one = [0];
        while !seen.contains("[y/N] ") {
            use std::io::Read;
            assert_eq!(screen.read(&mut one).unwrap(), 1, "{seen}");
            seen.push(char::from(one[0]));
        }
        assert!(seen.contains("+ alice SHA256:"), "{seen}");
        assert_eq!(front.writes(), []);
        if meanwhile {
            moto.put("String", &format!("{PATH}/web/bob"), "# none");
        }
        {
            use std::io::{Read, Write};
            writeln!(typed, "{answer}").unwrap();
            screen.read_to_string(&mut seen).unwrap();
        }
        assert!(seen.contains(expected), "{seen}");
        assert_eq!(front.writes().len(), puts, "{seen}");
        assert_eq!(
            child.wait().unwrap().code(),
            Some(if puts > 0 { 0 } else { 2 })
        );
    };
    check("y", false, "published", 1);
    check("n", false, "nothing is put", 0);
    check("", false, "nothing is put", 0);
    check(
        "y",
        true,
        "changed by another publisher since it was shown",
        0,
    );
}

#[test]
fn many_accounts_and_pages_and_a_store_that_is_busy() {
    let moto = Moto::start();
    let line = key("shared");
    let names: Vec<String> = (0..25)
        .flat_map(|account| (0..5).map(move |at| format!("a{account:02}/k{at}")))
        .collect();
    let keys = Keys::new(
        &names
            .iter()
            .map(|name| (name.as_str(), line.as_str()))
            .collect::<Vec<_>>(),
    );
    moto.put_many(
        names
            .iter()
            .map(|name| (format!("{PATH}/{name}"), "# to be replaced".to_owned())),
    );
    // Each tenth write, and once a page in the middle of reading.
    let (refused, pages) = (Mutex::new(BTreeSet::new()), AtomicU32::new(0));
    let front = SsmFront::start(&moto, move |call| match call.write {
        None if pages.fetch_add(1, Ordering::SeqCst) == 7 => Fate::Throttled,
        Some(write) if write % 10 == 0 && refused.lock().unwrap().insert(call.on.clone()) => {
            Fate::Throttled
        }
        _ => Fate::Passed,
    });
    let (text, code) = keys.through(&moto, &front, &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("throttles this account and region; it goes on, slower"),
        "{text}"
    );
    assert!(text.contains("125 changed, 0 unchanged"), "{text}");
    assert!(
        published(&moto)
            .values()
            .all(|(version, value)| (*version, value) == (2, &line))
    );
    assert!(front.writes().len() > 125, "some were tried twice");
    let reads = front.calls().len() - front.writes().len();
    assert_eq!(
        reads,
        1 + 13,
        "the one that was throttled, and all of thirteen pages"
    );
}

/// Keys that change places and options, come, go, and leave an account empty: [`before`] and [`after`].
struct Story {
    before: Keys,
    after: Keys,
    /// Accounts and the keys that each has before and after.
    kept: BTreeMap<String, BTreeSet<String>>,
}

impl Story {
    fn new() -> Self {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(key);
        let restricted = format!("restrict {c}");
        let before = Keys::new(&[
            ("web/1", &a),
            ("web/2", &b),
            ("web/3", &c),
            ("ci/old", &a),
            ("gone/1", &a),
            ("gone/2", &b),
        ]);
        let after = Keys::new(&[
            ("web/1", &b),
            ("web/2", &a),
            ("web/4", &restricted),
            ("ci/new", &d),
        ]);
        let kept = [("web", vec![&a, &b, &c]), ("ci", vec![])];
        let kept = kept.map(|(account, keys)| {
            (
                account.to_owned(),
                keys.into_iter().map(|key| fingerprint(key)).collect(),
            )
        });
        Self {
            before,
            after,
            kept: kept.into(),
        }
    }

    /// What must be so at every moment.
    fn check(&self, moto: &Moto) {
        check_kept(&self.kept, moto);
    }
}

fn check_kept(kept: &BTreeMap<String, BTreeSet<String>>, moto: &Moto) {
    let now = taken(moto);
    for (account, keys) in kept {
        let now = now.get(account).cloned().unwrap_or_default();
        assert!(
            !now.is_empty() && now.is_superset(keys),
            "{account}: {now:?}"
        );
    }
}

#[test]
fn killed_at_any_write_and_run_again_it_finishes_and_no_account_is_ever_empty() {
    let story = Story::new();
    let all = ["--yes", "--prune"];
    // Once without a fault, with a fetch before each write.
    let moto = Arc::new(Moto::start());
    assert_eq!(story.before.publish(&moto, &all).status.code(), Some(0));
    let (kept, also) = (story.kept.clone(), Arc::clone(&moto));
    let (failed, failures) = mpsc::channel();
    let front = SsmFront::start(&moto, move |call| {
        if call.write.is_some() {
            let checked = std::panic::catch_unwind(|| check_kept(&kept, &also));
            if checked.is_err() {
                failed.send(call.clone()).unwrap();
            }
        }
        Fate::Passed
    });
    let (text, code) = story.after.through(&moto, &front, &all);
    assert_eq!(code, 0, "{text}");
    assert_eq!(failures.try_iter().collect::<Vec<Call>>(), []);
    let (writes, whole) = (front.writes(), values(&moto));
    assert!(writes.len() >= 9, "{writes:?}");
    let last_put = writes
        .iter()
        .rposition(|call| call.action == "ssm:PutParameter");
    let first_deletion = writes
        .iter()
        .position(|call| call.action == "ssm:DeleteParameter");
    assert!(last_put < first_deletion, "{writes:?}");

    for at in 1..=writes.len() {
        for arrives in [false, true] {
            moto.reset();
            assert_eq!(story.before.publish(&moto, &all).status.code(), Some(0));
            let pid = Arc::new(AtomicU32::new(0));
            let to_kill = Arc::clone(&pid);
            let front = SsmFront::start(&moto, move |call| {
                if call.write != Some(at) {
                    return Fate::Passed;
                }
                while to_kill.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                let pid = to_kill.load(Ordering::SeqCst).to_string();
                assert!(
                    Command::new("kill")
                        .args(["-9", &pid])
                        .status()
                        .unwrap()
                        .success()
                );
                if arrives { Fate::Passed } else { Fate::Lost }
            });
            let mut command = story.after.command(&moto, &front.endpoint(), &all);
            let mut child = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            pid.store(child.id(), Ordering::SeqCst);
            assert_eq!(child.wait().unwrap().code(), None, "killed at write {at}");
            drop(front);
            story.check(&moto);
            let (text, code) = said(&story.after.publish(&moto, &all));
            assert_eq!(code, 0, "{text}");
            story.check(&moto);
            assert_eq!(values(&moto), whole, "killed at write {at}");
        }
    }
}

fn values(moto: &Moto) -> BTreeMap<String, String> {
    let all = published(moto).into_iter();
    all.map(|(name, (_, value))| (name, value)).collect()
}

#[test]
fn an_answer_that_is_lost_is_no_second_publisher() {
    let moto = Moto::start();
    let keys = Keys::new(&[("web/alice", &key("alice")), ("web/bob", &key("bob"))]);
    moto.put("String", &format!("{PATH}/web/alice"), "# none");
    let lost = Mutex::new(BTreeSet::new());
    let front = SsmFront::start(&moto, move |call| {
        let first = call.write.is_some() && lost.lock().unwrap().insert(call.on.clone());
        if first {
            Fate::Unanswered
        } else {
            Fate::Passed
        }
    });
    let (text, code) = keys.through(&moto, &front, &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("the connection was closed; it goes on, slower"),
        "{text}"
    );
    let versions: Vec<u64> = published(&moto)
        .values()
        .map(|(version, _)| *version)
        .collect();
    assert_eq!(versions, [3, 1]);
    assert_eq!(keys.publish(&moto, &["--dry-run"]).status.code(), Some(0));
}

#[test]
fn a_second_publisher_is_noticed_by_the_versions() {
    let moto = Arc::new(Moto::start());
    let other = key("other");
    // What the other does before a write, and what is said.
    let check = |at: usize, name: &str, value: Option<&str>, expected: &[&str], code: i32| {
        moto.reset();
        let (alice, bob) = (key("alice"), key("bob"));
        let before = Keys::new(&[
            ("web/alice", &alice),
            ("web/bob", &bob),
            ("web/old", &other),
        ]);
        assert_eq!(before.publish(&moto, &["--yes"]).status.code(), Some(0));
        let keys = Keys::new(&[
            ("web/alice", &format!("restrict {alice}")),
            ("web/bob", &format!("restrict {bob}")),
            ("web/carol", &other),
        ]);
        let (also, name) = (Arc::clone(&moto), format!("{PATH}/{name}"));
        let value = value.map(str::to_owned);
        let front = SsmFront::start(&moto, move |call| {
            if call.write == Some(at) {
                match &value {
                    Some(value) => also.put("String", &name, value),
                    None => drop(also.aws(&["delete-parameter", "--name", &name])),
                }
            }
            Fate::Passed
        });
        let (text, exit) = keys.through(&moto, &front, &["--yes", "--prune"]);
        for expected in expected {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert_eq!(exit, code, "{text}");
        // Run again, it finishes.
        if exit != 0 {
            assert_eq!(
                keys.publish(&moto, &["--yes", "--prune"]).status.code(),
                Some(0)
            );
        }
        assert_eq!(names(&moto), ["/web/alice", "/web/bob", "/web/carol"]);
    };
    check(
        1,
        "web/alice",
        Some("# theirs"),
        &[
            "another publisher is at work",
            "/web/alice` was to become version 2, and became 3",
            "aws ssm get-parameter-history --name /authorized-keys/web/web/alice",
            "0 writes done, not done:\n",
            "run the same again",
        ],
        2,
    );
    check(
        1,
        "web/carol",
        Some("# theirs"),
        &["/web/carol` was not there, and is there now"],
        2,
    );
    // The same by another hand.
    check(1, "web/carol", Some(&other), &["published"], 0);
    // What came, or would be deleted: up to the deletion itself, on which Parameter Store sets no condition.
    check(4, "web/old", Some("# theirs"), &["published"], 0);
    check(
        3,
        "web/old",
        Some("# theirs"),
        &["/web/old` has version 2 meanwhile", "nothing is deleted"],
        2,
    );
    check(
        3,
        "web/new",
        Some("# theirs"),
        &["/web/new` has version 1 meanwhile"],
        2,
    );
}

#[test]
fn advanced_parameters_are_made_only_when_told() {
    let moto = Moto::start();
    let line = key("alice");
    let sized = |size: usize| format!("# {}\n{line}", "x".repeat(size - 3 - line.len()));
    let (small, large) = (sized(4096), sized(4097));
    assert_eq!((small.len(), large.len()), (4096, 4097));
    let keys = Keys::new(&[("web/a", &small)]);
    assert_eq!(
        keys.publish(&moto, &["--yes", "--tier", "advanced"])
            .status
            .code(),
        Some(0)
    );
    keys.put("web/a", &large);
    let (text, code) = said(&keys.publish(&moto, &["--yes"]));
    assert_eq!(code, 2);
    for expected in [
        "web/a` will have 4097 bytes",
        "--tier advanced: AWS bills those",
        "nothing is put",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let tiers = || moto.aws(&["describe-parameters", "--query", "Parameters[].[Name,Tier]"]);
    assert!(tiers().contains("web/a\tStandard"), "{}", tiers());
    let (text, code) = said(&keys.publish(&moto, &["--yes", "--tier", "advanced"]));
    assert_eq!(code, 0, "{text}");
    assert!(tiers().contains("web/a\tAdvanced"), "{}", tiers());
    // It stays one, and nobody has to say so.
    keys.put("web/a", &sized(8191));
    assert_eq!(keys.publish(&moto, &["--yes"]).status.code(), Some(0));
    keys.put("web/a", &small);
    assert_eq!(keys.publish(&moto, &["--yes"]).status.code(), Some(0));
    assert!(tiers().contains("web/a\tAdvanced"), "{}", tiers());
    keys.put("web/a", &sized(8192));
    let (text, code) = said(&keys.publish(&moto, &["--yes", "--tier", "Advanced"]));
    assert!(code == 2 && text.contains("more than the 8 KB"), "{text}");
}

#[test]
fn a_parameter_keeps_its_type() {
    let moto = Moto::start();
    let front = SsmFront::start(&moto, |_| Fate::Passed);
    moto.put("SecureString", &format!("{PATH}/web/secret"), "# none");
    moto.put("StringList", &format!("{PATH}/web/list"), "# none");
    let keys = Keys::new(&[("web/secret", &key("alice")), ("web/list", "# none")]);
    let (text, code) = keys.through(&moto, &front, &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("encrypted with the key aws/ssm, as --kms-key names no other:\n"),
        "{text}"
    );
    let put = front.writes().remove(0).body;
    assert_eq!(
        (&put["Type"], &put["Overwrite"]),
        (&"SecureString".into(), &true.into())
    );
    assert!(put["KeyId"].is_null());
    keys.put("web/secret", &key("bob"));
    keys.put("web/new", &key("bob"));
    let (text, code) = keys.through(&moto, &front, &["--yes", "--kms-key", "alias/keys"]);
    assert!(code == 0 && !text.contains("aws/ssm"), "{text}");
    let puts = front.writes();
    let of = |name: &str| {
        puts.iter()
            .rfind(|call| call.on.ends_with(name))
            .unwrap()
            .body
            .clone()
    };
    assert_eq!(of("/secret")["KeyId"], "alias/keys");
    assert_eq!(
        (&of("/new")["Type"], &of("/new")["Tier"]),
        (&"String".into(), &"Standard".into())
    );
    assert!(of("/new")["KeyId"].is_null() && of("/new")["Overwrite"] == false);
    assert_eq!(
        moto.aws(&[
            "describe-parameters",
            "--query",
            "Parameters[?Type=='SecureString'].Name"
        ])
        .trim(),
        format!("{PATH}/web/secret")
    );
    keys.put("web/list", &key("carol"));
    let (text, code) = keys.through(&moto, &front, &["--yes"]);
    assert!(
        code == 2 && text.contains("/web/list` is a StringList"),
        "{text}"
    );
}

#[test]
fn prune_takes_nothing_away_for_a_wrong_directory_or_path() {
    let moto = Moto::start();
    let (alice, bob) = (key("alice"), key("bob"));
    let keys = Keys::new(&[("ec2-user/alice", &alice), ("ec2-user/bob", &bob)]);
    assert_eq!(keys.publish(&moto, &["--yes"]).status.code(), Some(0));
    let before = published(&moto);
    let publish = |directory: &str, to: &str| {
        let mut command = moto.client(env!("CARGO_BIN_EXE_authorized-keys-agent"));
        command.args(["publish", directory, "--to", to, "--yes", "--prune"]);
        said(&command.current_dir(keys.0.path()).output().unwrap())
    };
    // An account's files, what the directory is in, and a path too short.
    for (directory, to, published_as, listed) in [
        ("keys/ec2-user", PATH, "ec2-user", "alice, bob"),
        (".", PATH, "ec2-user", "keys"),
        ("keys", "/authorized-keys", "web", "ec2-user"),
    ] {
        let (text, code) = publish(directory, to);
        let expected = format!(
            "--prune would take away every account that is published ({published_as}), and the directory has only others ({listed})\n"
        );
        assert!(code == 2 && text.contains(&expected), "{text}");
        assert!(text.contains("nothing is put"), "{text}");
        assert_eq!(published(&moto), before);
    }
    fs::create_dir(keys.0.path().join("empty")).unwrap();
    let (text, code) = publish("empty", PATH);
    assert!(code == 2 && text.contains("it names no account"), "{text}");
    // Where all accounts are meant to be others.
    fs::rename(
        keys.0.path().join("keys/ec2-user"),
        keys.0.path().join("keys/ubuntu"),
    )
    .unwrap();
    assert_eq!(keys.publish(&moto, &["--yes"]).status.code(), Some(0));
    let (text, code) = publish("keys", PATH);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        names(&moto),
        ["/ec2-user/alice", "/ubuntu/alice", "/ubuntu/bob"]
    );
}

#[test]
fn a_key_that_would_be_refused_beside_what_stays_is_told() {
    let moto = Moto::start();
    let alice = key("alice");
    let keys = Keys::new(&[("web/old", &alice)]);
    assert_eq!(keys.publish(&moto, &["--yes"]).status.code(), Some(0));
    keys.remove("web/old");
    keys.put("web/new", &format!("restrict {alice}"));
    let (text, code) = said(&keys.publish(&moto, &["--yes"]));
    assert_eq!(code, 2);
    let expected = format!(
        "alice {} of `web` stands with other options in `{PATH}/web/new` and `{PATH}/web/old`",
        fingerprint(&alice)
    );
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("delete it with --prune"), "{text}");
    let (text, code) = said(&keys.publish(&moto, &["--yes", "--prune"]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(names(&moto), ["/web/new"]);
}

#[test]
fn who_may_not_is_told_what_is_missing_and_what_is_done() {
    let moto = Moto::start();
    let keys = Keys::new(&[("web/alice", &key("alice")), ("web/bob", &key("bob"))]);
    let front = SsmFront::start(&moto, |call| match call.write {
        Some(2) => Fate::Denied,
        _ => Fate::Passed,
    });
    let (text, code) = keys.through(&moto, &front, &["--yes"]);
    assert_eq!(code, 2);
    let arn = "arn:aws:ssm:eu-central-1:111122223333:parameter/authorized-keys/web/web/bob";
    for expected in [
        &format!(
            "error: access denied: `ssm:PutParameter` on `{arn}`\n  hint: allow `ssm:PutParameter` on `{arn}`"
        ),
        "publisher-policy.json",
        "1 write done, not done:\n  /authorized-keys/web/web/bob\nrun the same again: it does what is left\n",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    // A document comes of every failure, with what the person reads.
    let closed = SsmFront::start(&moto, |_| Fate::Denied);
    for (endpoint, arguments, expected) in [
        (closed.endpoint(), &["--yes", "--json"][..], "access denied"),
        (
            "http://127.0.0.1:1".to_owned(),
            &["--yes", "--json"],
            "connection refused",
        ),
    ] {
        let mut command = keys.command(&moto, &endpoint, arguments);
        let done = command.output().unwrap();
        let document: Value = serde_json::from_slice(&done.stdout).unwrap();
        let error = document["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(shown(&done.stderr).contains(error), "{done:?}");
        assert_eq!(
            (done.status.code(), &document["writes_done"]),
            (Some(2), &0.into())
        );
    }
    fs::rename(keys.0.path().join("keys"), keys.0.path().join("kept")).unwrap();
    let (document, code) = keys.json(&moto, &["--yes"]);
    assert_eq!(code, 2);
    assert_eq!(
        document["error"],
        "cannot list `keys`: No such file or directory (os error 2)"
    );
    fs::rename(keys.0.path().join("kept"), keys.0.path().join("keys")).unwrap();

    let without = |variable: &str, value: Option<&str>| {
        let mut command = keys.command(&moto, &moto.endpoint(), &["--yes"]);
        match value {
            None => command.env_remove(variable),
            Some(value) => command.env(variable, value),
        };
        said(
            &command
                .env_remove("AWS_PROFILE")
                .env_remove("AWS_REGION")
                .output()
                .unwrap(),
        )
    };
    for (variable, value, expected, hint) in [
        (
            "AWS_ACCESS_KEY_ID",
            None,
            "no AWS credentials",
            "aws sso login",
        ),
        (
            "AWS_DEFAULT_REGION",
            None,
            "no AWS region",
            "set AWS_REGION",
        ),
        (
            "AWS_DEFAULT_REGION",
            Some("eu central"),
            "no AWS region is called `eu central`",
            "eu-central-1",
        ),
        (
            "AWS_ENDPOINT_URL",
            Some("http://127.0.0.1:1"),
            "connection refused",
            "AWS_ENDPOINT_URL_SSM",
        ),
    ] {
        let (text, code) = without(variable, value);
        assert_eq!(code, 2);
        assert!(text.contains(expected) && text.contains(hint), "{text}");
    }
}

/// The policy that is shipped for publishers, as IAM reads it, without its conditions.
pub fn allowed(call: &Call) -> bool {
    let policy = include_str!("../../packaging/aws/publisher-policy.json");
    let policy: Value = serde_json::from_str(policy).unwrap();
    let arn = format!("arn:aws:ssm:eu-central-1:111122223333:parameter{}", call.on);
    let list = |value: &Value| -> Vec<String> {
        let one = value.as_str().map(|one| vec![one.to_owned()]);
        one.unwrap_or_else(|| serde_json::from_value(value.clone()).unwrap())
    };
    policy["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .any(|statement| {
            let fits = |pattern: &String| glob::Pattern::new(pattern).unwrap().matches(&arn);
            list(&statement["Action"]).contains(&call.action)
                && list(&statement["Resource"]).iter().any(fits)
        })
}

#[test]
fn the_policy_for_publishers_allows_what_is_called_and_no_more() {
    let moto = Moto::start();
    let front = SsmFront::start(&moto, |call| {
        if allowed(call) {
            Fate::Passed
        } else {
            Fate::Denied
        }
    });
    let keys = Keys::new(&[("web/alice", &key("alice")), ("web/bob", &key("bob"))]);
    keys.put("web/bob", &key("bob"));
    assert_eq!(keys.through(&moto, &front, &["--yes"]).1, 0);
    keys.remove("web/bob");
    keys.put("web/alice", &key("alice"));
    let (text, code) = keys.through(&moto, &front, &["--yes", "--prune"]);
    assert_eq!(code, 0, "{text}");
    let called: BTreeSet<String> = front.calls().into_iter().map(|call| call.action).collect();
    let policy = include_str!("../../packaging/aws/publisher-policy.json");
    let policy: Value = serde_json::from_str(policy).unwrap();
    let mut allowed = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        if let Some(action) = statement["Action"].as_str() {
            allowed.insert(action.to_owned());
            continue;
        }
        // What SecureStrings take beside: only through Parameter Store, and only of the list's parameters.
        let keys = serde_json::json!(["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"]);
        assert_eq!(statement["Action"], keys);
        let only = &statement["Condition"]["StringLike"];
        let through = serde_json::json!(["ssm.*.amazonaws.com", "ssm.*.amazonaws.com.cn"]);
        assert_eq!(only["kms:ViaService"], through);
        let below = "arn:aws*:ssm:*:*:parameter/authorized-keys/*";
        assert_eq!(only["kms:EncryptionContext:PARAMETER_ARN"], below);
    }
    assert_eq!(called, allowed);
    // Elsewhere it allows nothing.
    let elsewhere = Call {
        on: "/other/web/alice".to_owned(),
        ..front.writes().remove(0)
    };
    assert!(!self::allowed(&elsewhere));
}

#[test]
fn the_workflow_for_a_repository_of_keys_judges_shows_and_publishes() {
    let text = include_str!("../../packaging/examples/keys.yml");
    let read = "import json, sys, yaml; print(json.dumps(yaml.load(sys.stdin, yaml.BaseLoader)))";
    let mut python = Command::new("python3");
    let mut child = python
        .args(["-c", read])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let workflow: Value =
        serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();

    assert_eq!(workflow["permissions"], serde_json::json!({}));
    for job in workflow["jobs"].as_object().unwrap().values() {
        assert_eq!(
            job["permissions"],
            serde_json::json!({"contents": "read", "id-token": "write"})
        );
    }
    let publishing = &workflow["jobs"]["publish"];
    assert_eq!(publishing["concurrency"]["cancel-in-progress"], "false");
    assert_eq!(publishing["steps"][0]["with"]["ref"], "main");
    // A pull request from a fork has no variable and no role.
    for step in workflow["jobs"]["look"]["steps"].as_array().unwrap() {
        let is_for_all = step["if"].is_null();
        assert!(!is_for_all || !step.to_string().contains("vars."), "{step}");
    }
    let environment = workflow["env"].as_object().unwrap();
    let of_repository = environment
        .iter()
        .filter(|(_, value)| value.as_str().unwrap().contains("vars."));
    let of_repository: Vec<&String> = of_repository.map(|(name, _)| name).collect();
    assert_eq!(of_repository, ["KEYS_PATH"]);
    assert!(workflow["jobs"]["publish"]["environment"] == "keys");
    for line in text.lines().filter(|line| line.contains("uses: ")) {
        let (_, pin) = line.split_once('@').unwrap();
        let (commit, version) = pin.split_once(" # v").unwrap();
        assert!(
            commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()),
            "{line}"
        );
        assert!(version.split('.').count() == 3, "{line}");
    }
    // What is written by others reaches no shell.
    let scripts = |job: &str| -> Vec<String> {
        let steps = workflow["jobs"][job]["steps"].as_array().unwrap();
        let scripts = steps.iter().filter_map(|step| step["run"].as_str());
        scripts.map(str::to_owned).collect()
    };
    let (look, publish) = (scripts("look"), scripts("publish"));
    assert!(
        look.iter()
            .chain(&publish)
            .all(|script| !script.contains("${{"))
    );

    // Its steps, run; of a release that has this program in a package of the name that one has.
    let moto = Moto::start();
    let keys = Keys::new(&[("ec2-user/alice", &key("alice"))]);
    moto.put("String", &format!("{PATH}/ec2-user/bob"), &key("bob"));
    let version = environment["AGENT_VERSION"].as_str().unwrap();
    let (of_program, release) = version.rsplit_once('-').unwrap();
    assert_eq!((of_program, release), (env!("CARGO_PKG_VERSION"), "1"));
    for (script, name) in [
        (
            include_str!("../../packaging/build-deb"),
            "package=$output/${name}_$version-${release}_$debian.deb\n",
        ),
        (
            include_str!("../../packaging/release"),
            "published=$output/$version-$release\n",
        ),
    ] {
        assert!(script.contains(name), "{name}");
    }
    let (tree, releases) = (keys.0.path().join("tree"), keys.0.path().join("releases"));
    for directory in [
        tree.join("DEBIAN"),
        tree.join("usr/bin"),
        releases.join(version),
    ] {
        fs::create_dir_all(directory).unwrap();
    }
    let control = format!(
        "Package: authorized-keys-agent\nVersion: {version}\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: x\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    std::os::unix::fs::symlink(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        tree.join("usr/bin/authorized-keys-agent"),
    )
    .unwrap();
    let package = releases.join(format!(
        "{version}/authorized-keys-agent_{version}_amd64.deb"
    ));
    let mut build = Command::new("dpkg-deb");
    let build = build.args(["-Znone", "--build"]).args([&tree, &package]);
    assert!(build.output().unwrap().status.success());
    let sum = Command::new("sha256sum").arg(&package).output().unwrap();
    let sum = shown(&sum.stdout)[..64].to_owned();
    let search = format!("{}/agent/usr/bin:{}", keys.0.path().display(), env!("PATH"));
    let run = |script: &str| {
        let mut bash = moto.client("bash");
        let bash = bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]);
        bash.env("KEYS_PATH", PATH)
            .env("SIGNED", environment["SIGNED"].as_str().unwrap())
            .env("PATH", &search)
            .env("GITHUB_STEP_SUMMARY", keys.0.path().join("summary"));
        said(&bash.current_dir(keys.0.path()).output().unwrap())
    };
    assert_eq!((look.len(), publish.len()), (3, 2));
    assert!(look[0] == publish[0] && look[0].contains("sha256sum --check"));
    let take = |sum: &str| {
        let mut bash = Command::new("bash");
        let bash = bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", &look[0]]);
        bash.env("PACKAGES", format!("file://{}", releases.display()))
            .env("AGENT_VERSION", version)
            .env("AGENT_SHA256", sum)
            .env("RUNNER_TEMP", keys.0.path())
            .env("GITHUB_PATH", keys.0.path().join("path"));
        said(&bash.output().unwrap())
    };
    for wrong in ["", &"0".repeat(64)] {
        let (text, code) = take(wrong);
        assert!(code != 0 && !keys.0.path().join("agent").exists(), "{text}");
    }
    let (text, code) = take(&sum);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        fs::read_to_string(keys.0.path().join("path")).unwrap(),
        format!("{}/agent/usr/bin\n", keys.0.path().display())
    );
    let (text, code) = run(&look[1]);
    assert_eq!(code, 0, "{text}");
    let (text, code) = run(&look[2]);
    assert!(
        code == 0 && text.contains("  + alice SHA256:") && text.contains("  - bob SHA256:"),
        "{text}"
    );
    let summary = fs::read_to_string(keys.0.path().join("summary")).unwrap();
    assert!(summary.contains("  + alice SHA256:"), "{summary}");
    assert_eq!(
        names(&moto),
        ["/ec2-user/bob"],
        "a pull request puts nothing"
    );
    let (text, code) = run(&publish[1]);
    assert!(code == 0 && text.ends_with("published\n"), "{text}");
    assert_eq!(names(&moto), ["/ec2-user/alice"]);
    keys.put("ec2-user/carol", "nonsense");
    for script in [&look[1], &look[2], &publish[1]] {
        let (text, code) = run(script);
        assert!(code != 0, "{text}");
    }
}

const INDEX: &str = "/authorized-keys/web/.index";

/// Whether the index says just what an admin sees below the path.
fn index_is_right(moto: &Moto) -> bool {
    let found = moto.by_path(PATH);
    let mut all = found.iter().map(|one| (&one.name, &one.value));
    let contents = Contents::of(PATH, &mut all);
    let index = found.iter().find(|one| one.name == INDEX);
    index.is_some_and(|index| contents.are_said_by(&index.value, PATH))
}

#[test]
fn an_index_is_put_last_and_kept_up_to_date_from_then_on() {
    let moto = Moto::start();
    let (alice, bob) = (key("alice@laptop"), key("bob"));
    let keys = Keys::new(&[("web/alice", &alice)]);
    // In no account's place, and not this command's to touch; the index is of it too.
    moto.put("String", "/authorized-keys/web/-rf", "mine");
    let front = SsmFront::start(&moto, |_| Fate::Passed);
    let through = |arguments: &[&str]| {
        let before = front.writes().len();
        let (text, code) = keys.through(&moto, &front, arguments);
        let writes = front.writes().split_off(before);
        let name = |call: Call| call.on.trim_start_matches(PATH).to_owned();
        let names: Vec<String> = writes.into_iter().map(name).collect();
        (text, code, names)
    };
    let (text, code, writes) = through(&["--index", "--dry-run"]);
    assert_eq!((code, writes), (1, Vec::new()));
    assert!(
        text.contains(&format!(
            ": 2 created, 0 unchanged\n  + {INDEX}  (the index)\n"
        )),
        "{text}"
    );
    let (_, code, writes) = through(&["--index", "--yes"]);
    assert_eq!(
        (code, writes),
        (0, vec!["/web/alice".into(), "/.index".into()])
    );
    assert!(index_is_right(&moto));
    let (text, code, writes) = through(&["--yes", "--index"]);
    assert_eq!((code, writes.len()), (0, 0), "{text}");

    // Without the option: it says nothing while the rest is written, deletions too.
    keys.put("web/bob", &bob);
    keys.remove("web/alice");
    let (text, code, writes) = through(&["--prune", "--yes"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(writes, ["/.index", "/web/bob", "/web/alice", "/.index"]);
    assert_eq!(front.writes()[2].body["Value"], "# being published");
    assert!(index_is_right(&moto));
    let found = names(&moto);
    assert!(
        found.contains(&"/.index".to_owned()),
        "--prune leaves it: {found:?}"
    );
    assert!(!text.contains("in no account's place, never touched:\n  /authorized-keys/web/.index"));

    // Changed by hand, it is wrong, and put right even where nothing else is to do.
    moto.put(
        "String",
        "/authorized-keys/web/web/bob",
        &format!("# by hand\n{bob}"),
    );
    keys.put("web/bob", &format!("# by hand\n{bob}"));
    let (document, code) = keys.json(&moto, &["--dry-run"]);
    assert_eq!(code, 1);
    assert_eq!(
        document["parameters"]["changed"],
        serde_json::json!([INDEX])
    );
    let (text, code, writes) = through(&["--yes"]);
    assert_eq!((code, writes), (0, vec!["/.index".into()]), "{text}");
    assert!(index_is_right(&moto));

    // A SecureString stays one.
    moto.aws(&["delete-parameter", "--name", INDEX]);
    moto.put("SecureString", INDEX, "x");
    keys.put("web/carol", &alice);
    let (text, code, _) = through(&["--yes"]);
    assert_eq!(code, 0);
    assert!(
        text.contains(&format!(
            "encrypted with the key aws/ssm, as --kms-key names no other:\n  {INDEX}"
        )),
        "{text}"
    );
    assert!(index_is_right(&moto));
    let kind = [
        "describe-parameters",
        "--query",
        "Parameters[?Name==`/authorized-keys/web/.index`].Type",
    ];
    assert_eq!(moto.aws(&kind).trim(), "SecureString");
}

#[test]
fn a_publishing_that_ends_in_the_middle_leaves_an_index_that_says_nothing() {
    let moto = Moto::start();
    let story = Story::new();
    let (text, code) = said(&story.before.publish(&moto, &["--index", "--yes"]));
    assert_eq!(code, 0, "{text}");
    let whole = said(&story.after.publish(&moto, &["--prune", "--dry-run"])).0;
    assert!(
        whole.contains(&format!("~ {INDEX}  (the index)")),
        "{whole}"
    );
    for stop in 1.. {
        moto.reset();
        let (text, code) = said(&story.before.publish(&moto, &["--index", "--yes"]));
        assert_eq!(code, 0, "{text}");
        let front = SsmFront::start(&moto, move |call| {
            let is_over = call.write.is_some_and(|write| write >= stop);
            if is_over { Fate::Denied } else { Fate::Passed }
        });
        let (text, code) = story.after.through(&moto, &front, &["--prune", "--yes"]);
        if code == 0 {
            assert!(stop > 6, "{stop}");
            break;
        }
        assert_eq!(index_is_right(&moto), stop == 1, "{stop}: {text}");
        let (text, code) = said(&story.after.publish(&moto, &["--prune", "--yes"]));
        assert_eq!(code, 0, "{text}");
        assert!(index_is_right(&moto), "{stop}");
    }
}

#[test]
fn an_index_that_another_publisher_writes_stops_the_first() {
    let moto = Moto::start();
    let keys = Keys::new(&[("web/alice", &key("alice"))]);
    assert_eq!(said(&keys.publish(&moto, &["--index", "--yes"])).1, 0);
    keys.put("web/bob", &key("bob"));
    let other = Arc::new(moto);
    let inside = Arc::clone(&other);
    let front = SsmFront::start(&other, move |call| {
        // Before the last write, which is the index.
        if call.write == Some(3) {
            inside.put("String", INDEX, "# being published");
        }
        Fate::Passed
    });
    let (text, code) = keys.through(&other, &front, &["--yes"]);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("another publisher is at work: `/authorized-keys/web/.index`"),
        "{text}"
    );
}
