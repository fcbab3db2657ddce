//! Signed lists through the fetcher: what it asks for while nothing changes, what it makes of faults, and that the signature
//! covers what is named and what is in a directory as it does a path.

use std::fs;

use serde_json::{Value, json};

use crate::support::signing::{Local, Signer, Statement, rogue};
use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{Running, World, key, numbered, shown, wait};

const SIGNED: &str = "/k/.signed";

/// A host that takes only what `ops` has signed, from a stand-in that counts.
struct Site {
    world: World,
    server: SsmServer,
    ops: Signer,
    list: Statement,
}

impl Site {
    fn new(origin: &str, list: Statement) -> Self {
        let server = SsmServer::start([] as [(&str, &str); 0]);
        let mut world = World::new();
        world.use_store(&server.endpoint(), origin);
        "100ms".clone_into(&mut world.every);
        "full-every = \"1h\"".clone_into(&mut world.source);
        let ops = Signer::new("ops@example.com");
        fs::write(world.path("allowed_signers"), ops.line("")).unwrap();
        let file = world.path("allowed_signers").display().to_string();
        world.tables = format!("[guard]\nmax-removed = 1.0\n[policy]\nsigned-by = \"{file}\"");
        Self {
            world,
            server,
            ops,
            list,
        }
    }

    /// Values first.
    fn publish(&mut self, at: &str, below: &str) {
        for (name, value) in &self.list.parameters {
            self.server.put(&format!("{below}{name}"), value);
        }
        self.server.put(at, &self.list.signed(&[&self.ops]));
    }

    fn start(&self) -> Running {
        let agent = self.world.start();
        wait("the file", || self.world.keys("alice") > 0);
        agent
    }

    /// The calls of the next polls.
    fn asked(&self, calls: usize) -> Vec<String> {
        let before = self.server.calls();
        wait("calls", || self.server.calls() >= before + calls);
        let requests = self.server.requests();
        let requests = requests[before..before + calls].iter();
        let told = requests.map(|one| one.headers["x-amz-target"].clone() + &one.body);
        told.collect()
    }

    fn says(&self, code: &str) {
        let code = format!("\"{code}\"");
        wait(&code, || {
            self.world.status()["problems"].to_string().contains(&code)
        });
    }
}

fn path() -> Site {
    let mut list = Statement::new("/k", 1);
    for at in 0..25 {
        list = list.with(&format!("alice/{at:02}"), &numbered(at, "x"));
    }
    let mut site = Site::new("paths = [\"/k\"]", list);
    site.publish(SIGNED, "/k/");
    site
}

#[test]
fn while_the_signature_is_the_same_it_alone_is_asked_for() {
    let mut site = path();
    let agent = site.start();
    wait("polls by the signature", || {
        let last = site.asked(2);
        last.iter()
            .all(|one| one.contains("GetParameters{") && one.contains(SIGNED))
    });
    // A value that changes without it waits to be found, by a person or by `full-every`.
    site.server.put("/k/alice/rogue", &rogue());
    for one in site.asked(6) {
        assert!(one.contains(SIGNED) && !one.contains("ByPath"), "{one}");
    }
    let sync = site.world.run(&["sync"]);
    assert_ne!(sync.status.code(), Some(0), "{}", shown(&sync.stdout));
    site.says("not-as-signed");
    assert_eq!(site.world.keys("alice"), 25);
    site.server.delete("/k/alice/rogue");
    wait("what is signed", || {
        site.world.status()["health"] == "healthy"
    });
    // A new list is read when its signature says so, and not before.
    site.list.serial += 1;
    site.list.parameters.remove("alice/00");
    site.list
        .parameters
        .insert("alice/new".to_owned(), key("new"));
    site.server.delete("/k/alice/00");
    site.publish(SIGNED, "/k/");
    wait("the new key", || {
        site.world.read("alice").contains(" new\n")
    });
    assert!(!site.world.read("alice").contains(&numbered(0, "x")));
    assert_eq!(site.world.problems(), "[]");
    drop(agent);

    // By itself, with a shorter one.
    "full-every = \"2s\"".clone_into(&mut site.world.source);
    let _agent = site.world.start();
    let before = site.world.read("alice");
    site.server.put("/k/alice/01", &rogue());
    site.says("not-as-signed");
    assert_eq!(site.world.read("alice"), before);
}

#[test]
fn an_outage_is_no_list_and_no_fault_of_a_signature() {
    let mut site = path();
    "full-every = \"100ms\"".clone_into(&mut site.world.source);
    let _agent = site.start();
    let before = site.world.read("alice");
    for behaviour in [
        Behaviour::throttle(),
        Behaviour::denied(),
        Behaviour::Html(502),
        Behaviour::TruncatedJson,
        Behaviour::OnLaterPages(Box::new(Behaviour::throttle())),
    ] {
        let told = format!("{behaviour:?}");
        site.server.always(behaviour);
        wait(&told, || {
            let status = site.world.status();
            status["problems"].to_string().contains("fetch-failed")
        });
        let problems = site.world.status()["problems"].to_string();
        assert!(
            !problems.contains("signature") && !problems.contains("signed"),
            "{problems}"
        );
        assert_eq!(site.world.read("alice"), before, "{told}");
        site.server.always(Behaviour::Good);
        wait("health", || {
            site.world.run(&["sync"]);
            site.world.problems() == "[]"
        });
    }
    // As an outage was once answered: nothing there, so nothing signed.
    site.server.always(Behaviour::EmptyList);
    site.says("signature-missing");
    assert_eq!(site.world.read("alice"), before);
    site.server.always(Behaviour::Good);
    wait("health", || site.world.status()["health"] == "healthy");
    assert_eq!(site.world.read("alice"), before);
}

/// Good and bad lists by turns: the good one is in force all the while.
#[test]
fn an_attacker_who_alternates_gets_nothing_in() {
    let mut site = path();
    "full-every = \"100ms\"".clone_into(&mut site.world.source);
    let _agent = site.start();
    let (before, good) = (site.world.read("alice"), site.list.signed(&[&site.ops]));
    for at in 0..4 {
        site.server.put("/k/alice/rogue", &rogue());
        if at % 2 == 0 {
            site.server.put(SIGNED, "<html>");
            site.says("signature-malformed");
        } else {
            site.says("not-as-signed");
        }
        assert_eq!(site.world.read("alice"), before);
        site.server.delete("/k/alice/rogue");
        site.server.put(SIGNED, &good);
        wait("the good list", || {
            site.world.word()["problems"] == json!([])
        });
        assert_eq!(site.world.read("alice"), before);
    }
}

#[test]
fn named_parameters_have_one_signature_together() {
    let list = Statement::new("parameters:/s/.signed", 1)
        .with("s/alice", &key("alice"))
        .with("s/ops", &key("ops"))
        .with("flat", &key("flat"));
    let mut site = Site::new(
        "parameters = { alice = [\"/s/alice\", \"/s/ops:live\"], bob = [\"/s/ops:live\", \"flat\"] }\n\
         signed = \"/s/.signed:live\"",
        list,
    );
    let publish = |site: &mut Site| {
        let put = |name: &str, value: &str| site.server.put(name, value);
        for (name, at) in [
            ("s/alice", "/s/alice"),
            ("s/ops", "/s/ops:live"),
            ("flat", "/flat"),
        ] {
            put(at, &site.list.parameters[name]);
            put(at.trim_start_matches('/'), &site.list.parameters[name]);
        }
        put("/s/.signed:live", &site.list.signed(&[&site.ops]));
    };
    publish(&mut site);
    let _agent = site.start();
    assert_eq!((site.world.keys("alice"), site.world.keys("bob")), (2, 2));
    let files = |site: &Site| (site.world.read("alice"), site.world.read("bob"));
    let before = files(&site);
    // A label is moved to another value; two are swapped; the signature is gone.
    let value = |site: &Site, name: &str| site.list.parameters[name].clone();
    site.server.put("/s/ops:live", &rogue());
    site.says("not-as-signed");
    assert_eq!(files(&site), before);
    let (alice, ops) = (value(&site, "s/alice"), value(&site, "s/ops"));
    site.server.put("/s/ops:live", &alice);
    site.server.put("/s/alice", &ops);
    site.says("not-as-signed");
    assert_eq!(files(&site), before);
    site.server.delete("/s/.signed:live");
    site.says("signature-missing");
    assert_eq!(files(&site), before);
    site.list.serial += 1;
    site.list
        .parameters
        .insert("s/ops".to_owned(), key("other-ops"));
    publish(&mut site);
    wait("the other key", || {
        let has = |account: &str| site.world.read(account).contains(" other-ops\n");
        has("alice") && has("bob") && site.world.status()["health"] == "healthy"
    });
}

/// As rsync(1) would: the values, and the signature last. In between the list is none yet.
#[test]
fn a_directory_that_is_copied_comes_into_force_with_its_signature() {
    let mut local = Local::new();
    let _agent = local.world.start();
    let next = local.next(&key("alice@next"));
    let before = local.world.read("alice");
    local
        .world
        .approve("alice", "laptop", &next.parameters["alice/laptop"]);
    fs::remove_dir_all(local.world.path("approved/bob")).unwrap();
    wait("what is half copied", || {
        local.world.status()["problems"]
            .to_string()
            .contains("not-as-signed")
    });
    assert_eq!(local.world.read("alice"), before);
    assert_eq!(local.world.status()["health"], "healthy");
    let new = local.world.path("approved/.signed.new");
    fs::write(&new, next.signed(&[&local.ops])).unwrap();
    fs::rename(new, local.world.path("approved/.signed")).unwrap();
    wait("the new list", || {
        local.world.read("alice").contains(" alice@next\n")
    });
    let says = |status: Value| status["problems"].to_string();
    wait("no word of it", || {
        !says(local.world.status()).contains("signed")
    });
    local.list = next;
}

#[test]
fn what_is_in_the_place_of_a_signature_keeps_no_list_from_a_host_that_asks_for_none() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    fs::create_dir(world.path("approved/.signed")).unwrap();
    world.run(&["fetch", "--once"]);
    world.run(&["enforce", "--once"]);
    assert_eq!(world.keys("alice"), 1);
}
