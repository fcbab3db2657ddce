//! Files in a directory of root's, which systemd makes a mount point for the service; and services that may not write where the
//! files are.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::support::world::{Ends, World, key, shown, wait};

/// alice has a key, in a file of her own in `central`.
fn world() -> World {
    let mut world = World::new();
    fs::create_dir(world.path("central")).unwrap();
    let central = world.path("central").display().to_string();
    world.accounts = format!("manage = [\"alice\"]\nfile = \"{central}/%u\"");
    world.approve("alice", "laptop", &key("alice"));
    world
}

/// The enforcer, after a command for its own view of the host.
fn service(world: &World, mount: &str) -> Ends {
    let mut command = world.command("sh");
    command
        .args(["-c", &format!("{mount} && shift && exec \"$@\""), "sh"])
        .arg(world.path("central"))
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg("enforce")
        .stdout(Stdio::null())
        .stderr(fs::File::create(world.path("log")).unwrap());
    Ends(command.spawn().unwrap())
}

fn checked(world: &World) -> String {
    fs::create_dir_all("/run/sshd").unwrap();
    shown(&world.run(&["check"]).stdout)
}

fn alice(world: &World) -> String {
    fs::read_to_string(world.path("central/alice")).unwrap_or_default()
}

#[test]
fn a_directory_that_systemd_makes_a_mount_point_is_as_good_as_any() {
    let world = world();
    world.run(&["fetch", "--once"]);
    let _agent = service(&world, "mount --bind \"$1\" \"$1\"");
    wait("the file", || alice(&world).contains("alice"));
    let right = alice(&world);
    fs::write(world.path("central/new"), key("rogue")).unwrap();
    fs::rename(world.path("central/new"), world.path("central/alice")).unwrap();
    wait("the repair", || alice(&world) == right);
    let checked = checked(&world);
    assert!(checked.contains("ok    account      alice"), "{checked}");
}

#[test]
fn check_says_where_the_service_that_runs_cannot_write() {
    let world = world();
    world.run(&["fetch", "--once"]);
    let place = world.path("central").display().to_string();
    let failure = format!("FAIL  account      alice: the service cannot write in `{place}`");
    assert!(!checked(&world).contains(&failure));
    let _agent = service(
        &world,
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"",
    );
    wait("the refusal", || {
        world.path("run/status.json").exists() && world.word()["accounts"][0]["state"] == "refused"
    });
    let checked = checked(&world);
    assert!(checked.contains(&failure), "{checked}");
    assert!(
        checked.contains(&format!("`ReadWritePaths={place}`")),
        "{checked}"
    );
    let refused = world.word()["accounts"][0].to_string();
    assert!(refused.contains("ReadWritePaths="), "{refused}");
}

#[test]
fn check_says_where_a_service_that_is_to_start_could_not_write() {
    let world = world();
    let central = world.path("central");
    let central = central.display();
    let failure = "FAIL  account      alice: the service cannot write in";
    let shows = |paths: &str| {
        world.stand_in(
            "systemctl",
            &format!("echo 'ReadWritePaths={paths}'; echo ProtectSystem=strict"),
        );
    };
    shows("-/etc/ssh/authorized_keys.d");
    assert!(checked(&world).contains(failure));
    shows(&format!("-/etc/ssh/authorized_keys.d -{central}"));
    assert!(!checked(&world).contains(failure));
    fs::remove_dir(world.path("central")).unwrap();
    assert!(checked(&world).contains(failure), "it cannot make it");
}

/// What the shipped unit names, a package brings.
#[test]
fn the_directory_that_the_unit_names_is_packaged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let unit = read("systemd/authorized-keys-agent.service");
    let named = unit
        .lines()
        .find_map(|line| line.strip_prefix("ReadWritePaths=-"));
    let named = named.unwrap();
    assert!(read("docs/configuration.md").contains(&format!("{named}/%u")));
    assert!(read("packaging/stage").contains(&format!("\"$root{named}\"")));
    let spec = read("packaging/rpm/authorized-keys-agent.spec");
    assert!(spec.lines().any(|line| line == format!("%dir {named}")));
}
