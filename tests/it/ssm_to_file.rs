//! From Parameter Store into the file and past the real sshd: moto serves it, the real `aws` CLI administers it as a
//! person would, and the agent is the real binary.

use std::fs;

use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::moto::Moto;
use crate::support::oracle::Sshd;
use crate::support::world::{ALICE, World, flat, key, numbered, pair, shown, wait};

const BY_PATH: &str = "paths = [\"/authorized-keys/web\"]";

fn world(moto: &Moto, origin: &str) -> World {
    let mut world = World::new();
    world.use_store(&moto.endpoint(), origin);
    world
}

#[test]
fn any_number_of_parameters_reaches_the_file() {
    let moto = Moto::start();
    let world = world(&moto, BY_PATH);
    let parameter = |at: usize| {
        (
            format!("/authorized-keys/web/alice/{at:03}"),
            numbered(at, &format!("key{at:03}@laptop")),
        )
    };
    moto.put_many([parameter(0)]);
    let _agent = world.start();
    let mut there = 1;
    for count in [1, 9, 10, 11, 250] {
        moto.put_many((there..count).map(parameter));
        there = count;
        wait(&format!("{count} keys"), || world.keys("alice") == count);
        let text = world.read("alice");
        assert!(
            (0..count).all(|at| text.contains(&parameter(at).1)),
            "{count}: {text}"
        );
    }
    wait("healthy", || {
        world.run(&["status"]).status.code() == Some(0)
    });
    assert_eq!(world.status()["list"]["parameters"], 250);
}

#[test]
fn a_key_comes_and_goes_with_its_parameter() {
    let moto = Moto::start();
    let mut world = world(&moto, BY_PATH);
    let (stays, first, second) = (pair("stays"), pair("first"), pair("second"));
    let sshd = Sshd::new();
    let logs_in = |world: &World, pair: &(tempfile::TempDir, String)| {
        sshd.login(&world.file("alice"), &pair.0.path().join("id"))
    };
    moto.put("String", "/authorized-keys/web/alice", &stays.1);
    let agent = world.start();
    let laptop = "/authorized-keys/web/alice/laptop";
    moto.put("SecureString", laptop, &first.1);
    wait("the new key", || world.keys("alice") == 2);
    assert!(logs_in(&world, &first) && logs_in(&world, &stays));
    moto.put("SecureString", laptop, &second.1);
    wait("the other key", || world.read("alice").contains(&second.1));
    assert!(logs_in(&world, &second) && !logs_in(&world, &first));
    moto.aws(&["delete-parameter", "--name", laptop]);
    wait("the key to go", || world.keys("alice") == 1);
    assert!(logs_in(&world, &stays) && !logs_in(&world, &second));
    drop(agent);

    // One poll is enough for each: this agent makes none by itself but the first.
    world.every = "1h".to_owned();
    let _agent = world.start();
    moto.put("String", laptop, &first.1);
    let sync = world.run(&["sync"]);
    assert_eq!(sync.status.code(), Some(0), "{}", shown(&sync.stderr));
    assert!(
        shown(&sync.stdout).contains(&format!("({laptop} version 1 of 20")),
        "{}",
        shown(&sync.stdout)
    );
    assert!(logs_in(&world, &first));
    moto.aws(&["delete-parameter", "--name", laptop]);
    assert_eq!(world.run(&["sync"]).status.code(), Some(0));
    assert!(!logs_in(&world, &first) && logs_in(&world, &stays));
}

#[test]
fn a_value_is_lines_whatever_its_type() {
    let moto = Moto::start();
    let world = world(&moto, BY_PATH);
    let (one, two, listed, secured) = (key("one"), key("two"), key("listed"), key("secured"));
    moto.put(
        "String",
        "/authorized-keys/web/alice/string",
        &format!("# team\n{one}\r\n\n  {two}"),
    );
    // A StringList is no list of keys: a comma separates options.
    let listed = format!("from=\"192.0.2.0/24,198.51.100.7\",no-pty {listed}");
    moto.put("StringList", "/authorized-keys/web/alice/list", &listed);
    moto.put(
        "SecureString",
        "/authorized-keys/web/alice/secure",
        &secured,
    );
    assert_eq!(world.pass(), 0, "{}", world.problems());
    let text = world.read("alice");
    for line in [&one, &two, &listed, &secured] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} in {text}");
    }
    assert_eq!(world.keys("alice"), 4);
}

#[test]
fn each_host_has_the_list_of_its_role_and_tags() {
    let moto = Moto::start();
    let (web, db, own) = (key("web"), key("db"), key("own"));
    moto.put("String", "/authorized-keys/web/alice", &web);
    moto.put("String", "/authorized-keys/db/alice", &db);
    moto.put(
        "String",
        "/authorized-keys/hosts/eu-central-1/i-0db/bob",
        &own,
    );
    let of_role = key("role");
    moto.put(
        "String",
        "/authorized-keys/111122223333/db-host/alice/role",
        &of_role,
    );
    let host = |id, role, tags: &[(&'static str, &'static str)]| {
        let imds = ImdsServer::start(Instance {
            id,
            role: Some(role),
            tags: Some(tags.iter().copied().collect()),
            ..Instance::default()
        });
        let paths = "paths = [\"/authorized-keys/{tag:Role}\", \"/authorized-keys/{account-id}/{iam-role}\", \
                     \"/authorized-keys/hosts/{region}/{instance-id}\"]";
        let mut world = world(&moto, paths);
        world
            .environment
            .retain(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED" && *name != "AWS_REGION");
        world
            .environment
            .push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()));
        (imds, world)
    };
    let (web_imds, web_host) = host("i-0web", "web-host", &[("Role", "web")]);
    let (_db_imds, db_host) = host("i-0db", "db-host", &[("Role", "db")]);
    let _web = web_host.start();
    let _db = db_host.start();
    let of = |world: &World, account: &str| {
        world
            .read(account)
            .lines()
            .skip(2)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        (of(&web_host, "alice"), of(&web_host, "bob")),
        (web.clone(), String::new())
    );
    let db_alice = of(&db_host, "alice");
    assert_eq!((db_host.keys("alice"), of(&db_host, "bob")), (2, own));
    assert!(
        db_alice.contains(&db) && db_alice.contains(&of_role),
        "{db_alice}"
    );
    let source = web_host.status()["list"]["source"].to_string();
    assert!(
        source.contains("ssm:/authorized-keys/web") && source.contains("eu-central-1/i-0web"),
        "{source}"
    );

    // What the instance does not say is an error, never an empty name; and it needs nobody to recover.
    let check = |what: fn(&mut Instance), expected: &str, hint: &str| {
        web_imds.change(what);
        wait(expected, || world_says(&web_host, &[expected, hint]));
        assert_eq!(of(&web_host, "alice"), web);
        web_imds.change(|instance| {
            instance.status = None;
            instance.tags = Some([("Role", "web")].into());
        });
        wait("healthy again", || {
            web_host.run(&["status"]).status.code() == Some(0)
        });
    };
    check(
        |i| i.tags = Some([("role", "web")].into()),
        "has no tag `Role`",
        "case-sensitive",
    );
    check(
        |i| i.tags = Some([("Role", "")].into()),
        "has an empty value: `Role`",
        "create-tags",
    );
    check(
        |i| i.tags = None,
        "does not show tags",
        "--instance-metadata-tags enabled",
    );
    check(|i| i.status = Some(503), "status 503", "by itself");
    // Another role is another list: more than half of the keys would go, so the guard asks to see it again.
    web_imds.change(|instance| instance.tags = Some([("Role", "db")].into()));
    wait("the list of the new role", || of(&web_host, "alice") == db);
}

fn world_says(world: &World, parts: &[&str]) -> bool {
    let problems = world.problems();
    parts.iter().all(|part| problems.contains(part))
}

#[test]
fn a_label_chooses_the_version() {
    let moto = Moto::start();
    let name = "/ssh/prod/team";
    let origin =
        "parameters = { alice = [\"/ssh/prod/team:live\"], bob = [\"/ssh/prod/team:canary\"] }";
    let world = world(&moto, origin);
    let (old, new) = (key("old"), key("new"));
    let label = |version: &str, label: &str| {
        moto.aws(&[
            "label-parameter-version",
            "--name",
            name,
            "--parameter-version",
            version,
            "--labels",
            label,
        ])
    };
    moto.put("String", name, &old);
    label("1", "live");
    moto.put("String", name, &new);
    label("2", "canary");
    let _agent = world.start();
    assert!(world.read("alice").contains(&old) && !world.read("alice").contains(&new));
    assert!(world.read("bob").contains(&new) && !world.read("bob").contains(&old));
    assert_eq!(
        world.account("alice")["keys"][0]["parameter"],
        "/ssh/prod/team:live"
    );
    assert_eq!(world.account("alice")["keys"][0]["parameter_version"], 1);
    label("2", "live");
    wait("the canary to go live", || {
        world.read("alice").contains(&new)
    });
    assert!(!world.read("alice").contains(&old));
}

#[test]
fn a_name_that_is_gone_is_a_failure_and_no_deletion() {
    let moto = Moto::start();
    let mut world = world(
        &moto,
        "parameters = { alice = [\"/ssh/a\", \"/ssh/b\"], bob = [\"/ssh/b\"] }",
    );
    world.every = "1h".to_owned();
    let (a, b) = (key("a"), key("b"));
    moto.put("String", "/ssh/a", &a);
    moto.put("String", "/ssh/b", &b);
    let _agent = world.start();
    let before = (world.read("alice"), world.read("bob"));
    assert_eq!((world.keys("alice"), world.keys("bob")), (2, 1));
    moto.aws(&["delete-parameter", "--name", "/ssh/b"]);
    for _ in 0..5 {
        assert_eq!(world.run(&["sync"]).status.code(), Some(1));
        assert!(world_says(
            &world,
            &[
                "no such parameter, version or label: `/ssh/b`",
                "last good list stays"
            ]
        ));
        assert_eq!((world.read("alice"), world.read("bob")), before);
    }
    // Taken off the list of names, it is a deletion.
    world.origin = "parameters = { alice = [\"/ssh/a\"] }".to_owned();
    world.accounts = "manage = [\"alice\"]".to_owned();
    world.config();
    assert_eq!(
        world.run(&["sync"]).status.code(),
        Some(0),
        "{}",
        world.problems()
    );
    assert_eq!(world.read("alice").lines().last(), Some(a.as_str()));
    assert_eq!(world.keys("alice"), 1);
}

#[test]
fn every_key_says_where_it_comes_from() {
    let moto = Moto::start();
    let mut world = world(&moto, BY_PATH);
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &key("launch"));
    let name = "/authorized-keys/web/alice/laptop";
    moto.put("String", name, &key("first"));
    moto.put("String", name, &key("alice@laptop"));
    let changed = moto.aws(&[
        "get-parameter",
        "--name",
        name,
        "--query",
        "Parameter.LastModifiedDate",
    ]);
    // The CLI says it in the local zone, with fractions; the day of it in UTC is enough to tell it from the fetch.
    let diff = world.run(&["diff"]);
    assert_eq!(diff.status.code(), Some(1), "{}", shown(&diff.stderr));
    let from = format!("({name} version 2 of 20");
    assert!(
        shown(&diff.stdout).contains(&from),
        "{}{changed}",
        shown(&diff.stdout)
    );
    assert_eq!(world.accept(), 0, "{}", world.problems());
    let key = world.account("alice")["keys"][0].clone();
    assert_eq!(
        (&key["parameter"], &key["parameter_version"]),
        (&name.into(), &2.into())
    );
    assert!(
        key["parameter_modified_at"]
            .as_str()
            .unwrap()
            .starts_with("20"),
        "{key}"
    );
    let text = flat(&shown(&world.run(&["status", "--keys"]).stdout));
    assert!(text.contains(&format!("{name} version 2 of 20")), "{text}");
    // The list's age is said, and is a problem once it is too old.
    world.every = "1h".to_owned();
    world.source = "stale-after = \"2s\"".to_owned();
    let _agent = world.start();
    wait("a stale list", || {
        world_says(&world, &["the list is stale", "`stale-after` is 2 s"])
    });
    assert_eq!(world.status()["health"], "degraded");
    assert_eq!(world.run(&["sync"]).status.code(), Some(0));
    assert_eq!(world.problems(), "[]");
    assert!(
        fs::read_to_string(world.file("alice"))
            .unwrap()
            .contains("alice@laptop")
    );
}
