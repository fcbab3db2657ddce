//! A fetcher that was taken over, on a host that takes only what is signed: it writes into `approved.json` what it likes, and
//! lets nobody in, nor takes a key away, that no signature says.

use std::fs;

use serde_json::{Value, json};

use crate::support::signing::{Signer, Statement, rogue};
use crate::support::world::{World, key};

const WEB: &str = "/k/web";
const NAMED: &str = "/s/.signed";

/// A host with a list of each kind in Parameter Store, whose root half reads what the test has stored.
struct Site {
    world: World,
    ops: Signer,
    /// What is in force.
    list: Value,
}

impl Site {
    fn new() -> Self {
        Self::with(
            "paths = [\"/k/web\"]\nsigned = \"/s/.signed\"\n\
             parameters = { alice = [\"/s/shared:live\"], bob = [\"/s/shared:live\"] }",
        )
    }

    fn with(origin: &str) -> Self {
        let mut world = World::new();
        world.use_store("http://127.0.0.1:9", origin);
        let ops = Signer::new("ops@example.com");
        fs::write(world.path("allowed_signers"), ops.line("")).unwrap();
        let file = world.path("allowed_signers").display().to_string();
        world.tables = format!("[guard]\nmax-removed = 1.0\n[policy]\nsigned-by = \"{file}\"");
        fs::create_dir(world.path("fetch-state")).unwrap();
        let list = json!({"schema": 1, "source": "x", "fetched_at": "2026-01-01T00:00:00Z"});
        Self { world, ops, list }
    }

    /// Stores this as the list; the exit code of a pass.
    fn store(&self, list: &Value) -> Option<i32> {
        let text = serde_json::to_vec(list).unwrap();
        fs::write(self.world.path("fetch-state/approved.json"), text).unwrap();
        self.world.run(&["enforce", "--once"]).status.code()
    }

    /// A good list comes into force: of each statement its scope in `approved.json`.
    fn takes(&mut self, parts: &[(Value, &Statement)], entries: Value) {
        let signed = parts.iter().map(|(scope, statement)| {
            json!({"scope": scope, "text": statement.signed(&[&self.ops]), "version": 1})
        });
        self.list["signed"] = signed.collect();
        self.list["entries"] = entries;
        let code = self.store(&self.list);
        assert_eq!(code, Some(0), "{}", self.world.problems());
    }

    fn files(&self) -> [String; 4] {
        ["root", "alice", "bob", "mallory"].map(|account| self.world.read(account))
    }

    fn refuses(&self, what: &str, list: &Value, code: &str) {
        let before = self.files();
        self.store(list);
        assert_eq!(self.files(), before, "{what}");
        let status = self.world.status();
        let problems = status["problems"].to_string();
        assert!(
            problems.contains(&format!("\"{code}\"")),
            "{what}: {problems}"
        );
        self.store(&self.list);
        assert_eq!(self.files(), before, "{what}");
        let problems = self.world.status()["problems"].to_string();
        assert!(
            !problems.contains(&format!("\"{code}\"")),
            "{what}: {problems}"
        );
    }
}

fn entry(account: &str, parameter: &str, value: &str) -> Value {
    json!({"account": account, "parameter": parameter, "version": 1, "value": value})
}

fn path(path: &str) -> Value {
    json!({"path": path})
}

/// A change that the fetcher makes, and what the status calls it.
type Row = (&'static str, &'static str, fn(&mut Value, &Signer));

#[test]
fn what_the_fetcher_makes_of_a_signed_list_is_none() {
    let mut site = Site::new();
    site.world.accounts = "manage = [\"root\", \"alice\", \"bob\", \"mallory\"]".to_owned();
    let (alice, bob, shared) = (key("alice"), key("bob"), key("shared"));
    let web = Statement::new(WEB, 1)
        .with("-odd/x", "not an account's")
        .with("alice/laptop", &alice)
        .with("bob/laptop", &bob);
    let named = Statement::new(&format!("parameters:{NAMED}"), 1).with("s/shared", &shared);
    let entries = json!([
        entry("alice", "/k/web/alice/laptop", &alice),
        entry("bob", "/k/web/bob/laptop", &bob),
        entry("alice", "/s/shared:live", &shared),
        entry("bob", "/s/shared:live", &shared),
    ]);
    site.list["signed"] = json!([]);
    let parts = [(path(WEB), &web), (json!({"parameters": NAMED}), &named)];
    // With what serves no account, as the fetcher tells it.
    let signed = parts.iter().map(|(scope, statement)| {
        let others = if scope["path"].is_string() {
            json!([["/k/web/-odd/x", "not an account's"]])
        } else {
            json!([])
        };
        let text = statement.signed(&[&site.ops]);
        json!({"scope": scope, "text": text, "version": 1, "others": others})
    });
    site.list["signed"] = signed.collect();
    site.list["entries"] = entries;
    assert_eq!(site.store(&site.list), Some(0), "{}", site.world.problems());
    assert_eq!((site.world.keys("alice"), site.world.keys("bob")), (2, 2));
    let rows: [Row; 22] = [
        ("a key for root", "not-as-signed", |list, _| {
            push(list, entry("root", "/k/web/root/x", &rogue()));
        }),
        ("a key for root, of nowhere", "not-as-signed", |list, _| {
            push(list, entry("root", "/elsewhere/root", &rogue()));
        }),
        ("alice's for root", "not-as-signed", |list, _| {
            list["entries"][0]["account"] = "root".into();
        }),
        ("alice's for mallory", "not-as-signed", |list, _| {
            list["entries"][0]["account"] = "mallory".into();
        }),
        (
            "the shared one for mallory too",
            "not-as-signed",
            |list, _| {
                let value = list["entries"][2]["value"].as_str().unwrap().to_owned();
                push(list, entry("mallory", "/s/shared:live", &value));
            },
        ),
        (
            "the shared one for alice alone",
            "not-as-signed",
            |list, _| {
                list["entries"].as_array_mut().unwrap().remove(3);
            },
        ),
        (
            "a name that only looks like one below",
            "not-as-signed",
            |list, _| {
                push(list, entry("alice", "/k/webb/alice/x", &rogue()));
            },
        ),
        ("two slashes", "not-as-signed", |list, _| {
            push(list, entry("alice", "/k/web//alice/x", &rogue()));
        }),
        ("a directory up", "not-as-signed", |list, _| {
            push(list, entry("alice", "/k/web/../web/alice/x", &rogue()));
        }),
        ("a version of it", "not-as-signed", |list, _| {
            push(list, entry("alice", "/k/web/alice/laptop:3", &rogue()));
        }),
        ("a hidden one", "not-as-signed", |list, _| {
            push(list, entry("alice", "/k/web/.x/alice", &rogue()));
        }),
        ("in the clothes of a file", "not-as-signed", |list, _| {
            list["entries"][0]["version"] = Value::Null;
        }),
        ("the same name twice", "not-as-signed", |list, _| {
            push(list, entry("alice", "/k/web/alice/laptop", &rogue()));
        }),
        (
            "bob's among those of no account",
            "not-as-signed",
            |list, _| {
                let bob = list["entries"].as_array_mut().unwrap().remove(1);
                let other = json!([bob["parameter"], bob["value"]]);
                list["signed"][0]["others"]
                    .as_array_mut()
                    .unwrap()
                    .push(other);
            },
        ),
        (
            "the path's signature left out",
            "signature-missing",
            |list, _| {
                list["signed"].as_array_mut().unwrap().remove(0);
            },
        ),
        (
            "that of the named ones left out",
            "signature-missing",
            |list, _| {
                list["signed"].as_array_mut().unwrap().remove(1);
            },
        ),
        ("a part left out", "signature-missing", |list, _| {
            list["signed"].as_array_mut().unwrap().remove(0);
            list["entries"].as_array_mut().unwrap().drain(..2);
        }),
        ("one for the other", "signature-scope", |list, _| {
            list["signed"][0]["text"] = list["signed"][1]["text"].clone();
        }),
        (
            "a list of another class beside it, well signed",
            "not-as-signed",
            |list, ops| {
                let db = Statement::new("/k/db", 1).with("alice/x", &rogue());
                let one = json!({"scope": path("/k/db"), "text": db.signed(&[ops]), "version": 1});
                list["signed"].as_array_mut().unwrap().push(one);
                push(list, entry("alice", "/k/db/alice/x", &rogue()));
            },
        ),
        (
            "a list of another class instead, well signed",
            "signature-missing",
            |list, ops| {
                let db = Statement::new("/k/db", 1).with("alice/x", &rogue());
                list["signed"][0] =
                    json!({"scope": path("/k/db"), "text": db.signed(&[ops]), "version": 1});
                list["entries"][0] = entry("alice", "/k/db/alice/x", &rogue());
                list["entries"].as_array_mut().unwrap().remove(1);
            },
        ),
        (
            "one signature a thousand times",
            "not-as-signed",
            |list, _| {
                let one = list["signed"][0].clone();
                list["signed"]
                    .as_array_mut()
                    .unwrap()
                    .extend(std::iter::repeat_n(one, 1000));
            },
        ),
        (
            "a megabyte of signatures",
            "signature-malformed",
            |list, _| {
                let text = list["signed"][0]["text"].as_str().unwrap().repeat(1000);
                list["signed"][0]["text"] = text.into();
            },
        ),
    ];
    for (what, code, spoil) in rows {
        let mut list = site.list.clone();
        spoil(&mut list, &site.ops);
        site.refuses(what, &list, code);
    }
}

fn push(list: &mut Value, entry: Value) {
    list["entries"].as_array_mut().unwrap().push(entry);
}

/// A name that begins with a dot is about a list, and in no digest.
#[test]
fn a_named_parameter_in_a_hidden_place_never_counts() {
    let site = Site::with(
        "parameters = { alice = [\"/.keys/alice\", \"/s/alice\"] }\nsigned = \"/s/.signed\"",
    );
    let good = key("alice");
    let named = Statement::new(&format!("parameters:{NAMED}"), 1).with("s/alice", &good);
    let mut list = site.list.clone();
    let text = named.signed(&[&site.ops]);
    list["signed"] = json!([{"scope": {"parameters": NAMED}, "text": text, "version": 1}]);
    list["entries"] = json!([
        entry("alice", "/s/alice", &good),
        entry("alice", "/.keys/alice", &rogue()),
    ]);
    site.store(&list);
    assert_eq!(site.world.read("alice"), "");
    let problems = site.world.status()["problems"].to_string();
    assert!(
        problems.contains("`/.keys/alice` is in no part that is signed"),
        "{problems}"
    );
}

/// Below `/k` it is the account `web` that a parameter of `/k/web` serves.
#[test]
fn paths_in_one_another_are_signed_each_by_itself() {
    let mut site = Site::with("paths = [\"/k\", \"/k/web\"]");
    let (alice, bob) = (key("alice"), key("bob"));
    let all = Statement::new("/k", 1)
        .with("bob/laptop", &bob)
        .with("web/alice/laptop", &alice);
    let web = Statement::new(WEB, 1).with("alice/laptop", &alice);
    let entries = json!([
        entry("alice", "/k/web/alice/laptop", &alice),
        entry("bob", "/k/bob/laptop", &bob),
        entry("web", "/k/web/alice/laptop", &alice),
    ]);
    site.takes(&[(path("/k"), &all), (path(WEB), &web)], entries);
    // Who may sign for `/k` alone says nothing about alice, nor who may for `/k/web` about web.
    let mut list = site.list.clone();
    list["signed"].as_array_mut().unwrap().remove(1);
    site.refuses("without that of the inner one", &list, "signature-missing");
    let mut list = site.list.clone();
    list["entries"][0]["account"] = "bob".into();
    site.refuses("for another account", &list, "not-as-signed");
    let mut list = site.list.clone();
    list["entries"].as_array_mut().unwrap().remove(2);
    site.refuses("without one of the outer one", &list, "not-as-signed");
}

/// Root cannot know a tag of its instance: the fetcher can bring the list of another class, if that is signed. It cannot
/// bring two at once.
#[test]
fn a_path_with_a_tag_is_one_path() {
    let mut site = Site::with("paths = [\"/k/{tag:class}\"]");
    let (alice, bob) = (key("alice"), key("bob"));
    let web = Statement::new(WEB, 1).with("alice/x", &alice);
    let db = Statement::new("/k/db", 1).with("bob/x", &bob);
    let of_alice = entry("alice", "/k/web/alice/x", &alice);
    let of_bob = entry("bob", "/k/db/bob/x", &bob);
    site.takes(&[(path(WEB), &web)], json!([of_alice]));
    let mut both = site.list.clone();
    let text = db.signed(&[&site.ops]);
    let signed = json!({"scope": path("/k/db"), "text": text, "version": 1});
    both["signed"].as_array_mut().unwrap().push(signed);
    push(&mut both, of_bob.clone());
    site.refuses("two classes", &both, "not-as-signed");
    site.takes(&[(path("/k/db"), &db)], json!([of_bob]));
    assert_eq!((site.world.keys("alice"), site.world.keys("bob")), (0, 1));
    // A path of another depth, or with more in it, is none that the template could be.
    let deep = Statement::new("/k/db/x", 1).with("alice/x", &alice);
    let mut list = site.list.clone();
    let text = deep.signed(&[&site.ops]);
    list["signed"] = json!([{"scope": path("/k/db/x"), "text": text, "version": 1}]);
    list["entries"] = json!([entry("alice", "/k/db/x/alice/x", &alice)]);
    site.refuses("a deeper path", &list, "signature-missing");
}
