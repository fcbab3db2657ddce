//! Signed lists under attack by one who may put, delete and read everything in Parameter Store. Whatever that is, the files
//! stay what they were, the status names the check that failed, and the next good list arrives.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::support::moto::Moto;
use crate::support::signing::{AwsCli, NAMESPACE, Signer, Statement, now, rogue};
use crate::support::world::{Ends, World, comes_true, key, numbered, wait};

const PATH: &str = "/authorized-keys/web";
const SIGNED: &str = "/authorized-keys/web/.signed";

/// Until a poll has read what an attacker put.
const LIMIT: Duration = Duration::from_secs(20);

/// A host that takes only what `ops` has signed, and the Parameter Store that it asks.
struct Site {
    world: World,
    _moto: Moto,
    aws: AwsCli,
    ops: Signer,
    /// Another list for these hosts, signed as it should be.
    list: Statement,
    agent: Option<Ends>,
}

impl Site {
    fn new() -> Self {
        let moto = Moto::start();
        let aws = AwsCli::new(&moto);
        let mut world = World::new();
        world.use_store(&moto.endpoint(), &format!("paths = [\"{PATH}\"]"));
        let ops = Signer::new("ops@example.com");
        fs::write(world.path("allowed_signers"), ops.line("")).unwrap();
        let file = world.path("allowed_signers").display().to_string();
        world.tables = format!(
            "[policy]\nsigned-by = \"{file}\"\naudience = \"prod\"\n[guard]\nmax-removed = 1.0"
        );
        // Each poll reads all, whatever the signature says.
        "full-every = \"100ms\"".clone_into(&mut world.source);
        let mut list = Statement::new(PATH, 0)
            .with("alice/laptop", &key("alice@laptop"))
            .with("alice/phone", &key("alice@phone"))
            .with("bob/laptop", &key("bob@laptop"));
        list.audience = Some("prod".to_owned());
        let mut site = Self {
            world,
            _moto: moto,
            aws,
            ops,
            list,
            agent: None,
        };
        site.publish();
        site.start();
        site.arrives("the first list");
        site
    }

    /// Both daemons anew, as after a boot.
    fn start(&mut self) {
        self.agent = None;
        let log = fs::File::create(self.world.path("log")).unwrap();
        let mut agent = self.world.agent(&["run"]);
        let agent = agent.stderr(log).stdout(Stdio::null()).spawn().unwrap();
        self.agent = Some(Ends(agent));
    }

    /// The next list: a key of alice's comes or goes.
    fn publish(&mut self) {
        self.list.serial += 1;
        self.list.issued = now();
        if self.list.parameters.remove("alice/extra").is_none() {
            let line = numbered(1, "extra");
            self.list.parameters.insert("alice/extra".to_owned(), line);
        }
        let list = self.list.clone();
        let text = list.signed(&[&self.ops]);
        self.put(&list, &text);
    }

    /// Puts the values of a list, and in the end what stands for its signature.
    fn put(&mut self, list: &Statement, signed: &str) {
        let there = self.there();
        for (name, value) in &list.parameters {
            let name = format!("{PATH}/{name}");
            if there.get(&name) != Some(value) {
                self.aws.put(&name, value);
            }
        }
        for name in there.keys() {
            let below = name.strip_prefix(&format!("{PATH}/")).unwrap();
            if !below.starts_with('.') && !list.parameters.contains_key(below) {
                self.aws.delete(name);
            }
        }
        if there.get(SIGNED).is_none_or(|there| there != signed) {
            self.aws.put(SIGNED, signed);
        }
    }

    /// What Parameter Store holds below the path.
    fn there(&mut self) -> BTreeMap<String, String> {
        let said = self.aws.ssm(&[
            "get-parameters-by-path",
            "--recursive",
            "--with-decryption",
            "--path",
            PATH,
            "--output",
            "json",
        ]);
        let said: Value = serde_json::from_str(&said).unwrap();
        let all = said["Parameters"].as_array().unwrap().iter();
        let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
        all.map(|one| (text(one, "Name"), text(one, "Value")))
            .collect()
    }

    /// A list that `ops` signs, and that is the next one but for what the row changes.
    fn next(&self) -> Statement {
        let mut next = self.list.clone();
        next.serial += 1;
        next
    }

    fn files(&self) -> [String; 3] {
        ["alice", "bob", "mallory"].map(|account| self.world.read(account))
    }

    /// Waits until the files say what the list says, and all is well.
    fn arrives(&self, what: &str) {
        wait(&format!("the good list after {what}"), || {
            let has = |name: &str, value: &str| {
                let account = name.split('/').next().unwrap();
                self.world.read(account).contains(value)
            };
            let mut wanted = self.list.parameters.iter();
            let extra = self.list.parameters.contains_key("alice/extra");
            wanted.all(|(name, value)| has(name, value))
                && has("alice", &numbered(1, "extra")) == extra
                && self.world.word()["problems"] == json!([])
        });
        let status = self.world.status();
        assert_eq!(
            status["health"], "healthy",
            "{what}: {}",
            status["problems"]
        );
    }

    /// Waits until the status says this.
    fn says(&self, what: &str, code: &str) {
        let there = comes_true(LIMIT, || {
            codes(&self.world.status()).contains(&code.to_owned())
        });
        assert!(
            there,
            "{code} after {what}: {}",
            self.world.status()["problems"]
        );
    }
}

fn codes(status: &Value) -> Vec<String> {
    let problems = status["problems"].as_array().into_iter().flatten();
    problems
        .map(|problem| problem["code"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What an attacker does, and what the status calls it.
type Attack = (&'static str, &'static str, fn(&mut Site));

/// Each attack against the one host, which then hears of a good list at once: that brings a key or takes one away.
fn attacked(attacks: &[Attack]) {
    let mut site = Site::new();
    for (what, code, attack) in attacks {
        let before = site.files();
        attack(&mut site);
        site.says(what, code);
        assert_eq!(site.files(), before, "{what}");
        let status = site.world.status();
        let problems = status["problems"].as_array().unwrap();
        let problem = problems.iter().find(|problem| problem["code"] == **code);
        let problem = problem.unwrap_or_else(|| panic!("{what}: {problems:?}"));
        // What every publishing looks like is an error only when it lasts.
        let passes = ["not-as-signed", "signature-missing"].contains(code);
        let (severity, health) = if passes {
            ("warning", "healthy")
        } else {
            ("error", "degraded")
        };
        assert_eq!(problem["severity"], severity, "{what}: {problem}");
        assert_eq!(status["health"], health, "{what}: {problems:?}");
        assert!(problem["text"].is_string() && problem["hint"].is_string());
        assert_eq!(site.files(), before, "{what}");
        site.publish();
        site.arrives(what);
    }
}

/// The text of a good signature with another line in it.
fn with_line(site: &mut Site, name: &str, line: impl Fn(&str) -> String) {
    let text = site.list.signed(&[&site.ops]);
    let start = format!("{name}: ");
    let lines = text.split_inclusive('\n').map(|one| {
        one.strip_prefix(&start)
            .map_or(one.to_owned(), |value| start.clone() + &line(value))
    });
    let changed: String = lines.collect();
    assert_ne!(changed, text);
    site.aws.put(SIGNED, &changed);
}

#[test]
fn what_is_not_signed_by_who_may_lets_nobody_in() {
    attacked(&[
        ("an unsigned list", "signature-missing", |site| {
            site.aws.delete(SIGNED);
            site.aws.put(&format!("{PATH}/alice/laptop"), &rogue());
        }),
        ("another signer", "signature-refused", |site| {
            let next = site.next().with("alice/rogue", &rogue());
            let text = next.signed(&[&Signer::new("eve@example.com")]);
            site.put(&next, &text);
        }),
        (
            "another signer by the name of one who may",
            "signature-refused",
            |site| {
                let next = site.next().with("alice/rogue", &rogue());
                let text = next.signed(&[&Signer::new("ops@example.com")]);
                site.put(&next, &text);
            },
        ),
        ("another namespace", "signature-refused", |site| {
            let next = site.next().with("alice/rogue", &rogue());
            let text = next.text();
            let text = text.clone() + &site.ops.sign("file", &text);
            site.put(&next, &text);
        }),
        (
            "the signature of another list",
            "signature-refused",
            |site| {
                let text = site.list.text();
                let block = site.ops.sign(NAMESPACE, &text);
                let next = site.next().with("alice/rogue", &rogue());
                site.put(&next, &(next.text() + &block));
            },
        ),
        ("no block at all", "signatures-too-few", |site| {
            let next = site.next().with("alice/rogue", &rogue());
            site.put(&next, &next.text());
        }),
        ("garbage for a block", "signature-refused", |site| {
            let next = site.next().with("alice/rogue", &rogue());
            let block = "-----BEGIN SSH SIGNATURE-----\n%%%%\n-----END SSH SIGNATURE-----\n";
            site.put(&next, &(next.text() + block));
        }),
        ("half a block", "signature-refused", |site| {
            let next = site.next();
            let text = next.signed(&[&site.ops]);
            site.put(&next, &text[..text.len() - 60]);
        }),
        ("a blank", "signature-malformed", |site| {
            site.aws.put(SIGNED, " ");
        }),
        ("a page of a proxy", "signature-malformed", |site| {
            site.aws.put(SIGNED, "<html>502</html>");
        }),
        ("a block and no text", "signature-malformed", |site| {
            let block = site.ops.sign(NAMESPACE, "");
            site.aws.put(SIGNED, &block);
        }),
        ("lines that end with CR LF", "signature-malformed", |site| {
            let next = site.next().with("alice/rogue", &rogue());
            let text = next.text().replace('\n', "\r\n");
            let text = text.clone() + &site.ops.sign(NAMESPACE, &text);
            site.put(&next, &text);
        }),
        ("a text of more than 8 KB", "signature-malformed", |site| {
            let next = site.next();
            let text = next.signed(&[&site.ops]);
            site.put(&next, &(text + &"x".repeat(8192)));
        }),
    ]);
}

#[test]
fn what_is_signed_for_something_else_lets_nobody_in() {
    attacked(&[
        ("a whole list of another class", "signature-scope", |site| {
            let mut db = site.next().with("alice/rogue", &rogue());
            "/authorized-keys/db".clone_into(&mut db.scope);
            let text = db.signed(&[&site.ops]);
            site.put(&db, &text);
        }),
        ("a longer path", "signature-scope", |site| {
            let mut other = site.next();
            "/authorized-keys/web/".clone_into(&mut other.scope);
            let text = other.signed(&[&site.ops]);
            site.put(&other, &text);
        }),
        ("of another environment", "signature-audience", |site| {
            let mut staging = site.next().with("alice/rogue", &rogue());
            staging.audience = Some("staging".to_owned());
            let text = staging.signed(&[&site.ops]);
            site.put(&staging, &text);
        }),
        ("of no environment", "signature-audience", |site| {
            let mut any = site.next().with("alice/rogue", &rogue());
            any.audience = None;
            let text = any.signed(&[&site.ops]);
            site.put(&any, &text);
        }),
        (
            "an old list with its signature",
            "serial-went-back",
            |site| {
                let (old, text) = (site.list.clone(), site.list.signed(&[&site.ops]));
                site.publish();
                site.arrives("a newer list");
                let now = site.files();
                site.put(&old, &text);
                site.says("an old list", "serial-went-back");
                assert_eq!(site.files(), now);
                // The other half of the row looks again.
                site.publish();
                site.arrives("a newer list still");
                let now = site.files();
                site.put(&old, &text);
                site.start();
                site.says("an old list and a boot", "serial-went-back");
                assert_eq!(site.files(), now);
                // What the row found before has changed meanwhile; back to it.
                site.publish();
                site.arrives("the list as it was");
                site.publish();
                site.arrives("and another");
                site.put(&old, &text);
            },
        ),
        ("a serial number again", "serial-reused", |site| {
            let other = site.list.clone().with("alice/rogue", &rogue());
            let text = other.signed(&[&site.ops]);
            site.put(&other, &text);
        }),
        ("expired", "signature-expired", |site| {
            let mut list = site.next().with("alice/rogue", &rogue());
            list.issued = now() - SignedDuration::from_hours(2);
            list.expires = now() - SignedDuration::from_secs(1);
            let text = list.signed(&[&site.ops]);
            site.put(&list, &text);
        }),
        ("of tomorrow", "signature-from-future", |site| {
            let mut list = site.next().with("alice/rogue", &rogue());
            list.issued = now() + SignedDuration::from_hours(24);
            let text = list.signed(&[&site.ops]);
            site.put(&list, &text);
        }),
        (
            "expired before it was issued",
            "signature-malformed",
            |site| {
                let mut list = site.next();
                list.expires = list.issued;
                let text = list.signed(&[&site.ops]);
                site.put(&list, &text);
            },
        ),
    ]);
}

#[test]
fn each_line_of_what_is_signed_counts() {
    attacked(&[
        ("scope", "signature-scope", |site| {
            with_line(site, "scope", |value| value.replace("web", "wea"));
        }),
        ("audience", "signature-audience", |site| {
            with_line(site, "audience", |value| value.replace("prod", "proe"));
        }),
        ("serial", "signature-refused", |site| {
            with_line(site, "serial", |value| {
                let serial: u64 = value.trim().parse().unwrap();
                format!("{}\n", serial + 1)
            });
        }),
        ("serial, back", "serial-went-back", |site| {
            with_line(site, "serial", |_| "0\n".to_owned());
        }),
        (
            "serial, of another spelling",
            "signature-malformed",
            |site| {
                with_line(site, "serial", |value| format!("0{value}"));
            },
        ),
        ("issued", "signature-refused", |site| {
            with_line(site, "issued", |_| "2020-01-01T00:00:00Z\n".to_owned());
        }),
        ("expires", "signature-refused", |site| {
            with_line(site, "expires", |_| "2999-01-01T00:00:00Z\n".to_owned());
        }),
        ("parameters", "not-as-signed", |site| {
            with_line(site, "parameters", |_| "9\n".to_owned());
        }),
        ("sha256", "serial-reused", |site| {
            with_line(site, "sha256", |value| {
                let (first, rest) = value.split_at(1);
                if first == "0" {
                    "1".to_owned() + rest
                } else {
                    "0".to_owned() + rest
                }
            });
        }),
        ("the first line", "signature-malformed", |site| {
            let text = site.list.signed(&[&site.ops]);
            site.aws.put(SIGNED, &text.replace("list 1", "list 2"));
        }),
        ("a line more", "signature-malformed", |site| {
            with_line(site, "sha256", |value| format!("{value}note: x\n"));
        }),
    ]);
}

#[test]
fn each_name_and_each_value_counts() {
    attacked(&[
        ("a bit of alice's laptop", "not-as-signed", |site| {
            flip(site, "alice/laptop");
        }),
        ("a bit of alice's phone", "not-as-signed", |site| {
            flip(site, "alice/phone");
        }),
        ("a bit of bob's laptop", "not-as-signed", |site| {
            flip(site, "bob/laptop");
        }),
        ("one more for alice", "not-as-signed", |site| {
            site.aws.put(&format!("{PATH}/alice/rogue"), &rogue());
        }),
        ("an account more", "not-as-signed", |site| {
            site.aws.put(&format!("{PATH}/mallory/rogue"), &rogue());
        }),
        ("one that serves no account", "not-as-signed", |site| {
            site.aws.put(&format!("{PATH}/-x/rogue"), &rogue());
        }),
        ("one removed", "not-as-signed", |site| {
            site.aws.delete(&format!("{PATH}/alice/phone"));
        }),
        ("an account removed", "not-as-signed", |site| {
            site.aws.delete(&format!("{PATH}/bob/laptop"));
        }),
        ("renamed", "not-as-signed", |site| {
            let value = site.list.parameters["alice/laptop"].clone();
            site.aws.put(&format!("{PATH}/alice/desktop"), &value);
            site.aws.delete(&format!("{PATH}/alice/laptop"));
        }),
        ("of other letters", "not-as-signed", |site| {
            let value = site.list.parameters["bob/laptop"].clone();
            site.aws.put(&format!("{PATH}/bob/Laptop"), &value);
            site.aws.delete(&format!("{PATH}/bob/laptop"));
        }),
        ("swapped between accounts", "not-as-signed", |site| {
            let value = |name: &str| site.list.parameters[name].clone();
            let (alice, bob) = (value("alice/laptop"), value("bob/laptop"));
            site.aws.put(&format!("{PATH}/alice/laptop"), &bob);
            site.aws.put(&format!("{PATH}/bob/laptop"), &alice);
        }),
        ("given to another account", "not-as-signed", |site| {
            let value = site.list.parameters["alice/phone"].clone();
            site.aws.put(&format!("{PATH}/bob/phone"), &value);
            site.aws.delete(&format!("{PATH}/alice/phone"));
        }),
        (
            "a line more at the end of a value",
            "not-as-signed",
            |site| {
                let value = site.list.parameters["alice/phone"].clone();
                site.aws
                    .put(&format!("{PATH}/alice/phone"), &(value + "\n"));
            },
        ),
        ("everything deleted", "signature-missing", |site| {
            for name in site.there().keys() {
                site.aws.delete(name);
            }
        }),
        (
            "the signature of another type, and a value changed",
            "not-as-signed",
            |site| {
                let text = site.list.signed(&[&site.ops]);
                flip(site, "alice/laptop");
                site.aws.delete(SIGNED);
                site.aws.put_as(&["--type", "StringList"], SIGNED, &text);
            },
        ),
        (
            "the signature encrypted, and a value changed",
            "not-as-signed",
            |site| {
                let text = site.list.signed(&[&site.ops]);
                flip(site, "alice/laptop");
                site.aws.delete(SIGNED);
                site.aws.put_as(&["--type", "SecureString"], SIGNED, &text);
            },
        ),
    ]);
}

/// Changes one value by a bit, and has it read: the signature is the same, so hosts would not look at it.
fn flip(site: &mut Site, name: &str) {
    let value = &site.list.parameters[name];
    let at = value.find("AAAAI").unwrap() + 40;
    let changed = if &value[at..=at] == "A" { "B" } else { "A" };
    let value = [&value[..at], changed, &value[at + 1..]].concat();
    site.aws.put(&format!("{PATH}/{name}"), &value);
}
