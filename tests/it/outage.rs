//! Parameter Store fails in every way that is known while the real agent runs: the file stays as it was, `status` says
//! what is wrong and what to do, and once the service is well again nobody needs to do anything.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::support::http_server::full;
use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{Running, World, comes_true, numbered, pair, shown, wait};

/// More than one page, so that later pages can fail.
const KEYS: usize = 25;

/// A host whose list is served by a stand-in that obeys.
struct Site {
    world: World,
    server: Option<SsmServer>,
    added: usize,
}

impl Site {
    /// In sync, and running.
    fn start() -> (Self, Running) {
        let server = SsmServer::start((0..KEYS).map(|at| parameter("k", at)));
        let mut world = World::new();
        world.use_store(&server.endpoint(), "paths = [\"/k\"]");
        "timeout = \"1600ms\"".clone_into(&mut world.source);
        let agent = world.start();
        assert_eq!(world.keys("alice"), KEYS);
        (
            Self {
                world,
                server: Some(server),
                added: 0,
            },
            agent,
        )
    }

    fn server(&self) -> &SsmServer {
        self.server.as_ref().unwrap()
    }

    /// Waits until `status` says each of these parts, and is degraded by it.
    fn says(&self, what: &str, parts: &[&str]) {
        wait(&format!("{what} to be said: {parts:?}"), || {
            let problems = self.world.problems();
            parts.iter().all(|part| problems.contains(part))
        });
        assert_eq!(self.world.run(&["status"]).status.code(), Some(1), "{what}");
    }

    /// While it `breaks`, the file is not even written; after it `mends`, a new key arrives.
    fn check(
        &mut self,
        what: &str,
        parts: &[&str],
        breaks: impl FnOnce(&mut Self),
        mends: impl FnOnce(&mut Self),
    ) {
        let before = self.file();
        let attempts = self.attempts();
        breaks(self);
        self.says(what, parts);
        wait(&format!("{what} to last"), || {
            self.attempts() >= attempts + 2
        });
        self.says(what, parts);
        assert_eq!(self.file(), before, "{what}");
        mends(self);
        self.arrives(what);
    }

    /// A key that is put now arrives, and all is well.
    fn arrives(&mut self, what: &str) {
        self.added += 1;
        let (name, line) = parameter("new", 1000 + self.added);
        self.server().put(&name, &line);
        wait(&format!("a new key after {what}"), || {
            self.world.read("alice").contains(&line)
        });
        wait(&format!("health after {what}"), || {
            self.world.problems() == "[]"
        });
        assert_eq!(self.world.run(&["status"]).status.code(), Some(0), "{what}");
    }

    fn behaves(&mut self, what: &str, behaviour: Behaviour, parts: &[&str]) {
        let breaks = |site: &mut Self| site.server().always(behaviour);
        self.check(what, parts, breaks, |site| {
            site.server().always(Behaviour::Good);
        });
    }

    /// Content and inode.
    fn file(&self) -> (String, u64) {
        (
            self.world.read("alice"),
            fs::metadata(self.world.file("alice")).unwrap().ino(),
        )
    }

    fn attempts(&self) -> u64 {
        let text = fs::read(self.world.path("fetch-run/fetch.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["attempts"]
            .as_u64()
            .unwrap()
    }
}

fn parameter(label: &str, at: usize) -> (String, String) {
    (
        format!("/k/alice/{label}{at:05}"),
        numbered(at, &format!("key{at}")),
    )
}

#[test]
fn no_answer_of_the_service_removes_a_key() {
    let (mut site, _agent) = Site::start();
    let later = |behaviour| Behaviour::OnLaterPages(Box::new(behaviour));
    for (what, behaviour, parts) in [
        (
            "throttled",
            Behaviour::throttle(),
            ["throttles this account", "hint: all readers"],
        ),
        (
            "throttled later",
            later(Behaviour::throttle()),
            ["throttles this account", "raise `every`"],
        ),
        (
            "a 500",
            Behaviour::Status(500),
            ["HTTP status 500", "health.aws.amazon.com"],
        ),
        (
            "a 503 later",
            later(Behaviour::Status(503)),
            ["HTTP status 503", "by itself"],
        ),
        (
            "denied",
            Behaviour::denied(),
            [
                "access denied: `ssm:GetParametersByPath`",
                "hint: allow `ssm:Get",
            ],
        ),
        (
            "nothing",
            Behaviour::EmptyList,
            ["no key at all", "--accept-removals"],
        ),
        (
            "truncated",
            Behaviour::TruncatedJson,
            ["malformed reply", "proxy"],
        ),
        (
            "truncated later",
            later(Behaviour::TruncatedJson),
            ["malformed reply", "proxy"],
        ),
        (
            "a page of HTML",
            Behaviour::Html(200),
            ["malformed reply", "proxy"],
        ),
        (
            "a page of a proxy",
            Behaviour::Html(502),
            ["HTTP status 502", "by itself"],
        ),
        (
            "the same page",
            Behaviour::SameToken,
            ["token of a page came twice", "proxy"],
        ),
        (
            "expired",
            Behaviour::expired(),
            ["credentials have expired", "renew them"],
        ),
    ] {
        site.behaves(what, behaviour, &parts);
    }
}

#[test]
fn no_state_of_the_network_removes_a_key() {
    let (mut site, _agent) = Site::start();
    site.behaves(
        "silence",
        Behaviour::Silence,
        &["no answer in time", "security group"],
    );
    site.behaves(
        "a stalled body",
        Behaviour::StallInBody,
        &["no answer in time", "security group"],
    );
    let later = Behaviour::OnLaterPages(Box::new(Behaviour::CutInBody));
    site.behaves(
        "a cut body",
        later,
        &["the connection was closed", "by itself"],
    );
    let address = site.server().address();
    let parameters = site.server().parameters();
    let gone = |site: &mut Site| site.server = None;
    let back =
        |site: &mut Site| site.server = Some(SsmServer::start_at(address, parameters.clone()));
    site.check(
        "refused",
        &["connection refused", "AWS_ENDPOINT_URL_SSM"],
        gone,
        back,
    );
    let parameters = site.server().parameters();
    let hangs = std::cell::RefCell::new(None);
    site.check(
        "a hang at connect",
        &["no answer in time", "security group"],
        |site| {
            site.server = None;
            *hangs.borrow_mut() = Some(full(address));
        },
        |site| {
            drop(hangs.take());
            site.server = Some(SsmServer::start_at(address, parameters.clone()));
        },
    );
}

#[test]
fn a_name_that_does_not_resolve_removes_no_key() {
    let server = SsmServer::start([parameter("k", 1)]);
    let mut world = World::new();
    let endpoint = server
        .endpoint()
        .replace("127.0.0.1", "parameter-store.test");
    world.use_store(&endpoint, "paths = [\"/k\"]");
    fs::write(
        world.path("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files\n",
    )
    .unwrap();
    let hosts = |text: &str| fs::write(world.path("etc/hosts"), text).unwrap();
    hosts("127.0.0.1 parameter-store.test\n");
    let _agent = world.start();
    let mut site = Site {
        world,
        server: Some(server),
        added: 0,
    };
    let hosts = site.world.path("etc/hosts");
    let breaks = |site: &mut Site| {
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        // What is connected needs no name.
        site.server().script([Behaviour::HangUp]);
    };
    let mends = |_: &mut Site| fs::write(&hosts, "127.0.0.1 parameter-store.test\n").unwrap();
    site.check(
        "no name",
        &["the name does not resolve", "resolver"],
        breaks,
        mends,
    );
}

#[test]
fn credentials_that_come_late_are_taken() {
    let server = SsmServer::start([parameter("k", 1)]);
    let mut world = World::new();
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    world.environment.retain(|(name, _)| {
        !matches!(
            *name,
            "AWS_ACCESS_KEY_ID"
                | "AWS_SECRET_ACCESS_KEY"
                | "AWS_SESSION_TOKEN"
                | "AWS_SHARED_CREDENTIALS_FILE"
        )
    });
    let file = world.path("credentials");
    world
        .environment
        .push(("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string()));
    let write = |text: &str| fs::write(&file, text).unwrap();
    let keys = "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = x\n";
    write(keys);
    let _agent = world.start();
    let mut site = Site {
        world,
        server: Some(server),
        added: 0,
    };
    let breaks = |site: &mut Site| {
        write("[other]\n");
        site.server().script([Behaviour::expired()]);
    };
    site.check(
        "no credentials",
        &["no AWS credentials", "instance profile"],
        breaks,
        |_| write(keys),
    );
}

#[test]
fn an_error_that_passes_is_logged_once_and_so_is_its_end() {
    let (mut site, agent) = Site::start();
    let calls = site.server().calls();
    site.server().script([
        Behaviour::Status(503),
        Behaviour::Status(503),
        Behaviour::Status(503),
    ]);
    wait("the calls", || site.server().calls() > calls + 4);
    site.arrives("three errors");
    let log = agent.stop().1;
    let count = |text: &str| log.matches(text).count();
    assert_eq!(
        (
            count("fetch failed, the last list stays"),
            count("fetch works again")
        ),
        (1, 1),
        "{log}"
    );
    assert!(
        log.contains("HTTP status 503") && log.contains("hint=the fetcher tries again"),
        "{log}"
    );
}

#[test]
fn the_good_part_of_an_odd_list_applies() {
    let (mut site, _agent) = Site::start();
    let put = |site: &Site, value: &str| site.server().put("/k/alice/odd", value);
    // As much as an advanced parameter holds.
    let many: Vec<_> = (2000..2076)
        .map(|at| numbered(at, "a-comment-as-people-write"))
        .collect();
    let many = many.join("\n");
    assert!((8000..=8192).contains(&many.len()), "{}", many.len());
    put(&site, &many);
    wait("8 KB of keys", || site.world.keys("alice") == KEYS + 76);
    wait("health", || site.world.problems() == "[]");
    // Nothing that can be read, nothing that is taken; what the value said before stays.
    let with_many = site.file();
    put(&site, &"x".repeat(8192));
    site.says("8 KB of nothing", &["1 line of the list was not taken"]);
    assert_eq!(site.file(), with_many);
    let (directory, _) = pair("mistaken");
    put(
        &site,
        &fs::read_to_string(directory.path().join("id")).unwrap(),
    );
    wait("the private key to be said", || {
        site.world.status()["rejected"]
            .to_string()
            .contains("a PRIVATE key")
    });
    assert_eq!(site.file(), with_many);
    put(&site, "# nobody\n");
    wait("the good part alone", || site.world.keys("alice") == KEYS);
    site.arrives("odd values");
}

#[test]
fn a_hundred_thousand_lines_are_no_more_than_lines() {
    const ACCOUNTS: [&str; 3] = ["alice", "bob", "mallory"];
    let value = |at: usize| {
        (at..at + 10)
            .map(|at| numbered(at, "x"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let name = |at: usize| format!("/k/{}/{at:05}", ACCOUNTS[at % 3]);
    let server = SsmServer::start((0..10_000).map(|at| (name(at), value(at * 10))));
    let mut world = World::new();
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    let enforce = || world.run(&["enforce", "--once"]);
    let files = || ACCOUNTS.map(|account| world.read(account));
    world.run(&["fetch", "--once"]);
    // A machine may be too slow to do it within the time that one account has, but not for ever.
    let done = comes_true(Duration::from_mins(2), || {
        enforce().status.code() == Some(0)
    });
    assert!(done, "{}", world.problems());
    assert_eq!(
        ACCOUNTS
            .map(|account| world.keys(account))
            .iter()
            .sum::<usize>(),
        100_000
    );
    let before = files();
    // As many that are no keys: told in a number that a person reads, and nothing is lost.
    for (name, _) in server.parameters() {
        server.put(&name, &"no key\n".repeat(10));
    }
    world.run(&["fetch", "--once"]);
    let output = enforce();
    assert_eq!(output.status.code(), Some(1));
    assert!(files() == before);
    assert!(shown(&output.stderr).lines().count() < 1100);
    let rejected = world.status()["rejected"].clone();
    let last = rejected.as_array().unwrap().last().unwrap().clone();
    assert!(
        last["reason"]
            .as_str()
            .unwrap()
            .starts_with("and 99000 more"),
        "{last}"
    );
}

#[test]
fn a_list_that_shrinks_is_held_until_it_is_sure() {
    let parameters = || (0..250).map(|at| parameter("k", at));
    let server = SsmServer::start(parameters());
    let mut world = World::new();
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    let shrink = || (3..250).for_each(|at| server.delete(&parameter("k", at).0));
    let heal = || {
        parameters()
            .skip(3)
            .for_each(|(name, line)| server.put(&name, &line));
    };
    assert_eq!(world.pass(), 0);
    let before = world.read("alice");
    // A list that comes twice and heals, again and again, is never sure; an error between is no list.
    for _ in 0..2 {
        shrink();
        for fault in [
            Behaviour::Good,
            Behaviour::throttle(),
            Behaviour::EmptyList,
            Behaviour::Good,
        ] {
            server.always(fault);
            assert_eq!(world.pass(), 1);
            assert_eq!(world.read("alice"), before);
        }
        assert!(
            world.problems().contains("would remove 247 of 250 keys"),
            "{}",
            world.problems()
        );
        assert_eq!(world.account("alice")["state"], "held");
        heal();
        assert_eq!(world.pass(), 0);
        assert_eq!(world.keys("alice"), 250);
    }
    let before = world.read("alice");
    shrink();
    for seen in 1..3 {
        assert_eq!(world.pass(), 1);
        assert_eq!(world.read("alice"), before, "seen {seen} times");
    }
    wait("the third time", || world.pass() == 0);
    assert_eq!(world.keys("alice"), 3);

    // The same in a daemon, which needs nobody for it.
    heal();
    world.tables = "[guard]\nconfirmations = 20".to_owned();
    let _agent = world.start();
    wait("all keys", || world.keys("alice") == 250);
    shrink();
    wait("the list to be held", || {
        world.problems().contains("would remove 247 of 250 keys")
    });
    wait("the list to be sure", || world.keys("alice") == 3);
    wait("health", || world.problems() == "[]");
}
