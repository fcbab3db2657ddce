//! A disk that is another instance's now: a clone through an image or a snapshot, and `agent seal` before one is made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::ssm_server::SsmServer;
use crate::support::world::{ALICE, BOB, World, fingerprint, key, shown, wait};

const TEMPLATE: &str = "i-0123456789abcdef0";
const CLONE: &str = "i-0fedcba9876543210";

/// The template: a list for alice and bob is in force.
fn template() -> World {
    let mut world = World::new();
    world.asset_tag = Some(TEMPLATE.to_owned());
    world.approve("alice", "laptop", &key("template-alice"));
    world.approve("bob", "laptop", &key("template-bob"));
    assert_eq!(world.pass(), 0);
    assert_eq!((world.keys("alice"), world.keys("bob")), (1, 1));
    world
}

/// A new instance boots from its disk; cloud-init has written the launch key.
fn cloned(world: &mut World) -> (u64, i64, i64) {
    world.asset_tag = Some(CLONE.to_owned());
    fs::remove_dir_all(world.path("run")).unwrap();
    fs::remove_dir_all(world.path("fetch-run")).unwrap();
    world.put("alice", ALICE, &format!("{}\n", key("launch")));
    identity(&world.file("alice"))
}

fn identity(file: &Path) -> (u64, i64, i64) {
    let meta = fs::metadata(file).unwrap();
    (meta.ino(), meta.mtime(), meta.mtime_nsec())
}

#[test]
fn a_clone_touches_nothing_before_its_own_first_list() {
    let mut world = template();
    let before = cloned(&mut world);
    let bob = identity(&world.file("bob"));
    let enforced = world.run(&["enforce", "--once"]);
    assert_eq!(
        enforced.status.code(),
        Some(1),
        "no list yet is not healthy"
    );
    let said = shown(&enforced.stderr);
    assert!(
        said.contains(
            "no list has come yet (the stored one was fetched for `i-0123456789abcdef0`)"
        ),
        "{said}"
    );
    assert!(
        said.contains("the state on this disk is of another instance"),
        "{said}"
    );
    assert_eq!(
        (identity(&world.file("alice")), identity(&world.file("bob"))),
        (before, bob)
    );
    // Not only once: the state that was put aside is put aside for good.
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(1));
    assert_eq!(identity(&world.file("alice")), before);
    assert!(
        world.problems().contains("no list has come yet"),
        "{}",
        world.problems()
    );

    world.revoke("bob", "laptop");
    fs::remove_dir(world.path("approved/bob")).unwrap();
    world.approve("alice", "laptop", &key("clone-alice"));
    assert_eq!(
        world.pass(),
        1,
        "the launch key is weighed as anywhere else"
    );
    let keys = world.read("alice");
    assert!(
        keys.contains("clone-alice") && keys.contains("launch"),
        "{keys}"
    );
    assert_eq!(world.keys("alice"), 2, "{keys}");
    assert_eq!(
        world.keys("bob"),
        0,
        "the template's key of an account that this list does not name is gone"
    );
    assert_eq!(world.accept(), 0);
    let keys = world.read("alice");
    assert!(
        keys.contains("clone-alice") && world.keys("alice") == 1,
        "{keys}"
    );
}

#[test]
fn a_clone_with_break_glass_keys_has_those_and_its_own_before_its_first_list() {
    let mut world = template();
    cloned(&mut world);
    fs::write(world.path("break-glass"), key("break-glass")).unwrap();
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(1));
    for (account, keys) in [("alice", 2), ("bob", 1)] {
        assert!(world.read(account).contains("break-glass"), "{account}");
        assert_eq!(world.keys(account), keys, "{account}");
    }
    assert!(world.read("alice").contains("launch"));
    assert!(!world.file("mallory").exists(), "no list ever spoke of it");
    assert_eq!(world.pass(), 1, "the launch key waits");
    assert_eq!((world.keys("alice"), world.keys("bob")), (3, 2));
    assert_eq!(world.accept(), 0);
    assert_eq!((world.keys("alice"), world.keys("bob")), (2, 2));
}

#[test]
fn the_same_instance_goes_on_from_its_last_list() {
    let world = template();
    let before = identity(&world.file("alice"));
    fs::remove_dir_all(world.path("run")).unwrap();
    fs::remove_dir_all(world.path("fetch-run")).unwrap();
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(0));
    assert_eq!(identity(&world.file("alice")), before);
    world.put("bob", BOB, &format!("{}\n", key("rogue")));
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(0));
    assert!(world.read("bob").contains("template-bob"));
}

#[test]
fn where_the_firmware_is_silent_the_list_says_whose_it_is() {
    let imds = ImdsServer::start(Instance {
        id: TEMPLATE,
        ..Instance::default()
    });
    let store = SsmServer::start([
        ("/k/alice/laptop", key("template")),
        ("/k/bob/laptop", key("template")),
    ]);
    let mut world = World::new();
    world.use_store(&store.endpoint(), "paths = [\"/k\"]");
    world
        .environment
        .retain(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED");
    world
        .environment
        .push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()));
    assert_eq!(world.pass(), 0);
    let list: serde_json::Value =
        serde_json::from_slice(&fs::read(world.path("fetch-state/approved.json")).unwrap())
            .unwrap();
    assert_eq!(list["instance"], TEMPLATE);

    imds.change(|instance| instance.id = CLONE);
    store.delete("/k/bob/laptop");
    store.put("/k/alice/laptop", &key("clone"));
    // Only the fetcher says whose it is, and it has no root: its word alone puts aside nothing that is in force.
    assert_eq!(world.pass(), 1);
    assert!(
        world.read("alice").contains("template") && world.keys("bob") == 1,
        "{}",
        world.problems()
    );
    wait("the list to be sure", || world.pass() == 0);
    assert!(world.read("alice").contains("clone"));
    assert_eq!(world.keys("bob"), 0);
}

#[test]
fn the_metadata_service_is_not_asked_when_nobody_wants_its_answer() {
    let imds = ImdsServer::start(Instance::default());
    let mut world = World::new();
    world
        .environment
        .push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()));
    let alice = key("alice");
    world.approve("alice", "laptop", &alice);
    assert_eq!(world.pass(), 0);
    assert_eq!(imds.paths(), Vec::<String>::new(), "the list is local");
    let store = SsmServer::start([("/k/alice/laptop", alice)]);
    world.use_store(&store.endpoint(), "paths = [\"/k\"]");
    world
        .environment
        .retain(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED");
    world
        .environment
        .push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()));
    world.asset_tag = Some(TEMPLATE.to_owned());
    assert_eq!(world.pass(), 0);
    assert_eq!(
        imds.paths(),
        Vec::<String>::new(),
        "the firmware has said it"
    );
}

#[test]
fn a_foreign_list_that_appears_while_the_agent_runs_is_not_taken() {
    let world = template();
    let path = world.path("fetch-state/approved.json");
    let running = world.start_with(&["enforce"]);
    let list = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        list.replace(TEMPLATE, CLONE)
            .replace("template-alice", "foreign"),
    )
    .unwrap();
    wait("the problem", || {
        world
            .problems()
            .contains("was fetched for `i-0fedcba9876543210`")
    });
    assert!(world.read("alice").contains("template-alice"));
    running.stop();
}

#[test]
fn seal_leaves_nothing_of_this_instance_and_only_that() {
    let world = template();
    fs::write(world.path("break-glass"), key("break-glass")).unwrap();
    fs::create_dir_all(world.path("state/backups")).unwrap();
    fs::write(world.path("state/backups/alice.authorized_keys"), "old").unwrap();
    fs::create_dir_all(world.path("state/incidents")).unwrap();
    fs::write(
        world.path("state/incidents/20261125T221133.000000Z-alice.content"),
        "evidence",
    )
    .unwrap();
    fs::write(world.path("state/enforced.json.damaged"), "x").unwrap();
    fs::write(world.path("fetch-state/approved.new"), "x").unwrap();
    let running = world.start();
    let refused = world.run(&["seal"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        shown(&refused.stderr).contains("systemctl stop"),
        "{}",
        shown(&refused.stderr)
    );
    assert!(world.path("state/enforced.json").exists());
    running.stop();
    // An enforcer takes it when it starts, so one that is there came later.
    fs::write(world.path("state/accepted.json"), "{}").unwrap();
    let before = identity(&world.file("alice"));
    let sealed = world.run(&["seal"]);
    let said = shown(&sealed.stdout);
    assert_eq!(
        sealed.status.code(),
        Some(0),
        "{said}{}",
        shown(&sealed.stderr)
    );
    for removed in [
        "enforced.json",
        "backups",
        "incidents",
        "approved.json",
        "accepted.json",
        "status.json",
        "fetch.json",
    ] {
        assert!(said.contains(removed), "{removed}: {said}");
    }
    let kept = format!(
        "kept    {}, into the image with",
        world.file("alice").display()
    );
    let line = world.read("alice");
    let line = line
        .lines()
        .find(|line| line.contains("template-alice"))
        .unwrap();
    assert!(
        said.contains(&kept) && said.contains(&fingerprint(line)),
        "{said}"
    );
    for directory in ["state", "fetch-state", "run", "fetch-run"] {
        let left: Vec<_> = fs::read_dir(world.path(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                Path::new(name)
                    .extension()
                    .is_none_or(|extension| extension != "lock")
            })
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{directory}");
    }
    assert!(world.path("config.toml").exists() && world.path("break-glass").exists());
    assert_eq!(identity(&world.file("alice")), before);
    let again = world.run(&["seal"]);
    assert_eq!(again.status.code(), Some(0));
    assert!(
        shown(&again.stdout).starts_with("nothing to remove\nkept"),
        "{}",
        shown(&again.stdout)
    );
}
