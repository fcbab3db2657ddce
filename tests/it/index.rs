//! The index of a path: what a poll costs with it, and that it never costs more than calls. Each host runs the real agent
//! against a Parameter Store that counts.

use std::fs;
use std::time::Duration;

use authorized_keys_agent::model::list::contents::Contents;
use authorized_keys_agent::model::list::index::BEING_PUBLISHED;

use crate::support::http_server::Request;
use crate::support::moto::Moto;
use crate::support::ssm_front::{Fate, SsmFront};
use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{Running, World, comes_true, key, numbered, pair, shown, signal, wait};

const INDEX: &str = "/k/.index";

/// Long enough for each of the polls that a test waits for.
const LIMIT: Duration = Duration::from_mins(1);

/// A host whose list is served by a stand-in.
struct Site {
    world: World,
    server: SsmServer,
}

impl Site {
    /// With so many parameters for alice, an index that says so, and no reading in full for an hour.
    fn new(parameters: usize) -> Self {
        let server = SsmServer::start((0..parameters).map(parameter));
        let mut world = World::new();
        world.use_store(&server.endpoint(), "paths = [\"/k\"]");
        "100ms".clone_into(&mut world.every);
        "full-every = \"1h\"".clone_into(&mut world.source);
        let site = Self { world, server };
        site.put_index();
        site
    }

    /// Running, and past a poll that believed the index.
    fn start(&self) -> Running {
        let agent = self.world.start();
        wait("the file", || self.world.keys("alice") > 0);
        self.poll_by_index();
        agent
    }

    fn put_index(&self) {
        self.server.put(INDEX, &index(&self.server, "/k"));
    }

    /// Waits for a poll that begins now, has read the index, and nothing else.
    fn poll_by_index(&self) {
        let of_index = || {
            let requests = self.server.requests();
            requests.last().is_some_and(|last| target(last) == BY_NAME)
        };
        wait("a poll by the index", of_index);
        let calls = self.server.calls();
        assert!(self.server.wait_for_calls(calls + 2, LIMIT));
    }

    /// What is asked for in the next polls, so many calls.
    fn asked(&self, calls: usize) -> Vec<String> {
        let before = self.server.calls();
        assert!(self.server.wait_for_calls(before + calls, LIMIT));
        let requests = self.server.requests();
        let requests = requests[before..before + calls].iter();
        requests.map(target).collect()
    }

    fn has(&self, line: &str) -> bool {
        self.world.read("alice").contains(line)
    }

    fn arrives(&self, what: &str, line: &str) {
        wait(&format!("{line} after {what}"), || self.has(line));
    }
}

const BY_NAME: &str = "GetParameters";
const BY_PATH: &str = "GetParametersByPath";

fn target(request: &Request) -> String {
    let target = &request.headers["x-amz-target"];
    target.trim_start_matches("AmazonSSM.").to_owned()
}

fn parameter(at: usize) -> (String, String) {
    let name = format!("/k/alice/{at:05}");
    (name, numbered(at, &format!("key{at}")))
}

/// What the index of `path` says once it is up to date.
fn index(server: &SsmServer, path: &str) -> String {
    let mut all = server.parameters();
    all.retain(|(name, _)| name.starts_with(&format!("{path}/")));
    let mut all = all.iter().map(|(name, value)| (name, value));
    Contents::of(path, &mut all).text(path)
}

#[test]
fn a_poll_with_an_index_is_one_call_however_long_the_list() {
    for (parameters, pages) in [(1, 1), (25, 3), (250, 26)] {
        let mut site = Site::new(parameters);
        let agent = site.world.start();
        wait("the keys", || site.world.keys("alice") == parameters);
        site.poll_by_index();
        let requests = site.server.requests();
        let targets: Vec<String> = requests.iter().map(target).collect();
        assert_eq!(
            targets[..pages],
            vec![BY_PATH; pages],
            "the first is in full"
        );
        assert_eq!(targets[pages..], vec![BY_NAME; targets.len() - pages]);
        assert!(requests[pages].body.contains("[\"/k/.index\"]"));
        assert_eq!(site.asked(5), [BY_NAME; 5]);
        drop(agent);

        // Without an index each is in full; what is named is never more than ten a call.
        site.server.delete(INDEX);
        let agent = site.world.start();
        let without = if parameters == 250 { 25 } else { pages };
        assert_eq!(site.asked(2 * without), vec![BY_PATH; 2 * without]);
        drop(agent);

        let names: Vec<String> = (0..parameters).map(|at| parameter(at).0).collect();
        site.world.origin = format!("parameters = {{ alice = {names:?} }}");
        let _agent = site.world.start();
        // In so many calls there is a whole poll.
        let before = site.server.calls();
        assert_eq!(site.asked(2 * without), vec![BY_NAME; 2 * without]);
        let requests = site.server.requests();
        let bodies = requests[before..before + 2 * without].iter();
        let bodies = bodies.map(|one| one.body.as_str()).collect::<String>();
        assert!(names.iter().all(|name| bodies.contains(name)), "{bodies}");
    }
}

#[test]
fn several_indexes_and_what_is_named_are_one_call() {
    let mut site = Site::new(25);
    for (name, value) in [("/d/bob", key("bob")), ("/s/alice:live", key("live"))] {
        site.server.put(name, &value);
    }
    site.server.put("/d/.index", &index(&site.server, "/d"));
    "paths = [\"/k\", \"/d\"]\nparameters = { alice = [\"/s/alice:live\"] }"
        .clone_into(&mut site.world.origin);
    let _agent = site.start();
    wait("the keys", || site.world.keys("alice") == 26);
    assert_eq!(site.asked(3), [BY_NAME; 3]);
    // What is named is read each time.
    let live = key("newly-live");
    site.server.put("/s/alice:live", &live);
    site.arrives("a label moved", &live);
    assert_eq!(site.asked(2), [BY_NAME; 2]);
    // Of two paths the one that has changed is read.
    let bob = key("bob@phone");
    site.server.put("/d/bob/phone", &bob);
    site.server.put("/d/.index", &index(&site.server, "/d"));
    wait("bob's key", || site.world.read("bob").contains(&bob));
    let requests = site.server.requests();
    let by_path = requests.iter().filter(|one| target(one) == BY_PATH);
    let of_d = by_path.filter(|one| one.body.contains("\"/d\"")).count();
    assert_eq!(of_d, 2);
    assert_eq!(site.world.keys("alice"), 26);
    // One that has none is read in full, beside the other.
    site.server.delete("/d/.index");
    let mut asked = site.asked(8);
    asked.sort();
    assert!(
        asked.iter().filter(|one| *one == BY_PATH).count() >= 3,
        "{asked:?}"
    );
    assert!(
        asked.iter().filter(|one| *one == BY_NAME).count() >= 3,
        "{asked:?}"
    );
}

#[test]
fn what_changes_with_its_index_arrives_and_is_then_one_call_again() {
    let site = Site::new(25);
    let _agent = site.start();
    for at in 0..3 {
        let (name, line) = parameter(1000 + at);
        site.server.put(&name, &line);
        site.put_index();
        site.arrives("a new index", &line);
        site.server.delete(&name);
        site.put_index();
        wait("the key to go", || !site.has(&line));
        site.poll_by_index();
        assert_eq!(site.asked(3), [BY_NAME; 3]);
    }
    assert_eq!(site.world.problems(), "[]");
}

/// The list is changed, and the index is not the one that says so.
#[test]
fn an_index_that_is_wrong_costs_calls_and_nothing_else() {
    let site = Site::new(12);
    site.server.put("/d/alice", &key("other"));
    let _agent = site.start();
    let good = index(&site.server, "/k");
    let rows: [(&str, Option<String>); 8] = [
        ("deleted", None),
        ("interrupted", Some(BEING_PUBLISHED.to_owned())),
        ("garbage", Some("<html>502 Bad Gateway</html>".to_owned())),
        ("of another version", Some(good.replace("list 1", "list 2"))),
        ("of another path", Some(index(&site.server, "/d"))),
        (
            "of another path, copied",
            Some(good.replace("scope: /k", "scope: /d")),
        ),
        ("huge", Some(format!("{good}\n{}", "x: y\n".repeat(2000)))),
        (
            "another digest",
            Some(good.replace("sha256: ", "sha256: 0")),
        ),
    ];
    for (at, (what, value)) in rows.into_iter().enumerate() {
        let (name, line) = parameter(1000 + at);
        site.server.put(&name, &line);
        match value {
            Some(value) => site.server.put(INDEX, &value),
            None => site.server.delete(INDEX),
        }
        site.arrives(what, &line);
        // And the next change too, while it stays so.
        site.server.delete(&name);
        wait(&format!("{what}: the key to go"), || !site.has(&line));
        assert_eq!(site.asked(4).last().unwrap(), BY_PATH, "{what}");
        assert_eq!(site.world.problems(), "[]", "{what}");
        assert_eq!(site.world.status()["rejected"].as_array().unwrap().len(), 0);
        site.put_index();
        site.poll_by_index();
    }
}

#[test]
fn what_the_index_hides_arrives_at_once_when_asked_and_else_within_full_every() {
    let mut site = Site::new(12);
    let agent = site.start();
    let revoke = |site: &Site, at: usize| {
        let (name, line) = parameter(at);
        site.server.delete(&name);
        site.poll_by_index();
        site.poll_by_index();
        assert!(site.has(&line), "it is believed");
        line
    };
    let first = revoke(&site, 1);
    let sync = site.world.run(&["sync"]);
    assert_eq!(sync.status.code(), Some(0), "{}", shown(&sync.stderr));
    assert!(!site.has(&first));
    // The index is wrong, and stays so: it is believed no more.
    let (name, second) = parameter(2);
    site.server.delete(&name);
    wait("the second key to go", || !site.has(&second));
    let log = agent.log();
    let said = "the index says something else than the path holds";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    let check = shown(&site.world.run(&["check"]).stdout);
    assert!(check.contains("its index says something else"), "{check}");
    assert_eq!(site.world.run(&["status"]).status.code(), Some(0));

    site.put_index();
    site.poll_by_index();
    let check = shown(&site.world.run(&["check"]).stdout);
    assert!(check.contains("a poll is one call"), "{check}");
    let third = revoke(&site, 3);
    signal("HUP", agent.pid());
    wait("the third key to go", || !site.has(&third));
    drop(agent);

    // What else keeps it from saving a call.
    site.server.put(INDEX, BEING_PUBLISHED);
    let check = shown(&site.world.run(&["check"]).stdout);
    assert!(check.contains("says that it is being published"), "{check}");
    site.put_index();
    "full-every = \"100ms\"".clone_into(&mut site.world.source);
    let check = shown(&site.world.run(&["check"]).stdout);
    assert!(
        check.contains("`full-every` is not longer than `every`"),
        "{check}"
    );

    // By itself; the file is not even touched by the polls before.
    site.put_index();
    "full-every = \"3s\"".clone_into(&mut site.world.source);
    let _agent = site.start();
    let (name, fourth) = parameter(4);
    site.server.delete(&name);
    wait("the fourth key to go", || !site.has(&fourth));
    assert_eq!(site.world.problems(), "[]");
}

#[test]
fn an_index_that_may_not_be_read_alone_is_not_asked_for_each_time() {
    let site = Site::new(12);
    let denied = Behaviour::Error(
        400,
        "AccessDeniedException",
        "User: x is not authorized to perform: ssm:GetParameters on resource: \
         arn:aws:ssm:eu-central-1:111122223333:parameter/k/.index because no identity-based policy allows it",
    );
    let agent = site.start();
    for (what, behaviour) in [
        ("denied", denied.clone()),
        ("malformed", Behaviour::Body("{}".to_owned())),
        ("a word", Behaviour::Error(400, "InvalidKeyId", "disabled")),
    ] {
        site.server.always(Behaviour::ByName(Box::new(behaviour)));
        wait("a poll in full", || site.asked(1) == [BY_PATH]);
        let asked = site.asked(8);
        assert_eq!(asked, [BY_PATH; 8], "{what}");
        let (name, line) = parameter(2000);
        site.server.put(&name, &line);
        site.arrives(what, &line);
        site.server.delete(&name);
        wait("it to go", || !site.has(&line));
        assert_eq!(site.world.problems(), "[]", "{what}");
        site.server.always(Behaviour::Good);
        // Once a person has mended it.
        signal("HUP", agent.pid());
        site.poll_by_index();
    }
    let said = "the index cannot be read";
    assert_eq!(agent.log().matches(said).count(), 3, "{}", agent.log());
    site.server.always(Behaviour::ByName(Box::new(denied)));
    let check = site.world.run(&["check"]);
    let text = shown(&check.stdout);
    for part in [
        "its index cannot be read alone",
        "`ssm:GetParameters` on",
        "parameter/k/.index",
    ] {
        assert!(text.replace(['\n'], " ").contains(part), "{text}");
    }
}

/// It is the named parameter that may not be read, and the index is not blamed.
#[test]
fn an_index_that_is_asked_for_beside_what_is_denied_is_not_what_was_denied() {
    let mut site = Site::new(12);
    site.server.put("/s/alice", &key("named"));
    "paths = [\"/k\"]\nparameters = { alice = [\"/s/alice\"] }".clone_into(&mut site.world.origin);
    let agent = site.start();
    let denied = Behaviour::Error(400, "AccessDeniedException", "no");
    site.server.always(Behaviour::ByName(Box::new(denied)));
    wait("the failure", || {
        site.world.problems().contains("access denied")
    });
    site.server.always(Behaviour::Good);
    wait("health", || site.world.problems() == "[]");
    assert_eq!(site.asked(3), [BY_NAME; 3]);
    let log = agent.log();
    assert!(!log.contains("the index cannot be read"), "{log}");
}

#[test]
fn a_poll_that_fails_is_no_reason_for_more_calls() {
    let site = Site::new(25);
    let agent = site.start();
    for (behaviour, says) in [
        (Behaviour::throttle(), "throttles this account"),
        (Behaviour::Status(503), "HTTP status 503"),
        (Behaviour::HangUp, "the connection was closed"),
        (Behaviour::expired(), "credentials have expired"),
    ] {
        let before = site.server.connections();
        let is_throttled = says.contains("throttles");
        site.server.always(behaviour);
        wait(says, || site.world.problems().contains(says));
        assert_eq!(site.asked(3), [BY_NAME; 3], "{says}");
        // Neither is it a reason for another handshake.
        let is_the_same = site.server.connections() == before;
        assert!(is_the_same || !is_throttled, "{says}");
        site.server.always(Behaviour::Good);
        wait("health", || site.world.problems() == "[]");
        assert_eq!(site.asked(3), [BY_NAME; 3], "{says}");
    }
    drop(agent);
}

#[test]
fn the_list_that_is_believed_is_the_one_that_is_stored() {
    let site = Site::new(12);
    let approved = site.world.path("fetch-state/approved.json");
    let agent = site.start();
    // Removed, it is written again.
    let entries = || {
        let text = fs::read_to_string(&approved).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        list["entries"].to_string()
    };
    let before = entries();
    fs::remove_file(&approved).unwrap();
    wait("the list to be stored again", || approved.is_file());
    assert!(entries() == before);
    assert_eq!(site.asked(3), [BY_NAME; 3]);
    // A list that cannot be stored is not the one that is held, though its index was read.
    fs::remove_file(&approved).unwrap();
    fs::create_dir(&approved).unwrap();
    let (name, line) = parameter(1000);
    site.server.put(&name, &line);
    site.put_index();
    wait("the trouble to be said", || {
        agent.log().contains("cannot be stored")
    });
    let calls = site.server.calls();
    assert!(site.server.wait_for_calls(calls + 6, LIMIT));
    fs::remove_dir(&approved).unwrap();
    site.arrives("the disk", &line);
    site.poll_by_index();
    drop(agent);

    // Another start reads in full, whatever the index says.
    let (name, gone) = parameter(3);
    site.server.delete(&name);
    let calls = site.server.calls();
    let _agent = site.world.start();
    wait("the key to go", || !site.has(&gone));
    assert_eq!(target(&site.server.requests()[calls]), BY_PATH);
}

#[test]
fn what_is_not_taken_is_still_said_when_it_is_not_read_again() {
    let site = Site::new(3);
    let (directory, _) = pair("mistaken");
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    site.server.put("/k/alice/private", &private);
    site.server.put("/k/-rf/x", &key("nobody"));
    site.put_index();
    let _agent = site.start();
    let said = |site: &Site| {
        let status = site.world.status();
        (
            status["rejected"].to_string(),
            status["list"]["digest"].clone(),
        )
    };
    let before = said(&site);
    assert!(
        before.0.contains("a PRIVATE key") && before.0.contains("/k/-rf/x"),
        "{}",
        before.0
    );
    assert!(!before.0.contains(".index"));
    assert_eq!(site.asked(4), [BY_NAME; 4]);
    assert_eq!(said(&site), before);
    let stored = fs::read_to_string(site.world.path("fetch-state/approved.json")).unwrap();
    assert!(!stored.contains(private.lines().nth(2).unwrap()));
    assert!(!stored.contains(".index"), "{stored}");
}

#[test]
fn another_path_is_read_when_the_config_names_it() {
    let mut site = Site::new(3);
    let other = key("other");
    site.server.put("/d/alice", &other);
    site.server.put("/d/.index", &index(&site.server, "/d"));
    let agent = site.start();
    "paths = [\"/d\"]".clone_into(&mut site.world.origin);
    site.world.config();
    signal("HUP", agent.pid());
    site.arrives("the reload", &other);
    let asked = || site.server.requests().last().unwrap().body.clone();
    wait("a poll by the other index", || {
        asked().contains("[\"/d/.index\"]")
    });
}

/// As an admin sees it: moto, the AWS CLI, an index that is encrypted.
#[test]
fn an_index_may_be_a_secure_string_and_made_by_hand() {
    let moto = Moto::start();
    let front = SsmFront::start(&moto, |_| Fate::Passed);
    let mut world = World::new();
    world.use_store(&front.endpoint(), "paths = [\"/authorized-keys/web\"]");
    "full-every = \"1h\"".clone_into(&mut world.source);
    let (one, two) = (key("one"), key("two"));
    moto.put("String", "/authorized-keys/web/alice/one", &one);
    moto.put("SecureString", "/authorized-keys/web/alice/two", &two);
    let put_index = || {
        let found = moto.by_path("/authorized-keys/web");
        let mut all = found.iter().map(|one| (&one.name, &one.value));
        let contents = Contents::of("/authorized-keys/web", &mut all);
        let text = contents.text("/authorized-keys/web");
        moto.put("SecureString", "/authorized-keys/web/.index", &text);
    };
    put_index();
    let _agent = world.start();
    wait("the keys", || world.keys("alice") == 2);
    let last = || front.calls().pop().unwrap();
    wait("a poll by the index", || {
        last().action == "ssm:GetParameters"
    });
    assert_eq!(last().body["WithDecryption"], true);
    moto.aws(&[
        "delete-parameter",
        "--name",
        "/authorized-keys/web/alice/one",
    ]);
    put_index();
    wait("the key to go", || world.keys("alice") == 1);
    wait("a poll by the index", || {
        last().action == "ssm:GetParameters"
    });
    assert!(!comes_true(Duration::from_millis(700), || {
        last().action == "ssm:GetParametersByPath"
    }));
    assert_eq!(world.problems(), "[]");
}
