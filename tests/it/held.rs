//! Calls that never return: an account holds the lock of its file, or of the directory, for as long as it likes.
//!
//! Whoever would write there waits in the kernel with it and cannot be ended.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::support::grip::Grip;
use crate::support::world::{ALICE, BOB, World, key, plant, wait};

/// What an account has there besides.
const OTHERS: [&str; 4] = ["known_hosts", "config", "id_ed25519", "other"];

/// Puts a key where alice's file is, in a directory of its own that is held already as `how` says.
fn plant_held(world: &World, how: &str) -> Grip {
    let own = world.home("alice").join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&own, Some(ALICE), Some(ALICE)).unwrap();
    let file = own.join("authorized_keys");
    plant(&file, ALICE, &key("rogue"));
    for name in OTHERS {
        plant(&own.join(name), ALICE, name);
    }
    plant(&own.join("authorized_keys2"), ALICE, &key("second"));
    let what = if how == "list" { &own } else { &file };
    let grip = Grip::on(ALICE, &world.path("grip"), how, what);
    fs::rename(world.ssh("alice"), world.home("alice").join("old")).unwrap();
    fs::rename(own, world.ssh("alice")).unwrap();
    grip
}

#[test]
fn a_key_in_a_file_or_directory_that_is_held_for_ever_goes_and_nobody_else_waits() {
    for how in ["write", "fiemap", "list"] {
        let world = World::new();
        for account in ["alice", "bob"] {
            world.approve(account, "laptop", &key(account));
        }
        let agent = world.start();
        let (alice, bob) = (world.read("alice"), world.read("bob"));
        let grip = plant_held(&world, how);
        world.put("bob", BOB, &key("rogue"));
        wait(&format!("{how}: bob's repair"), || world.read("bob") == bob);
        wait(&format!("{how}: the planted key to go"), || {
            fs::read_to_string(world.file("alice")).is_ok_and(|now| now == alice)
        });
        wait(&format!("{how}: the status"), || {
            world.account("alice")["state"] == "in-sync"
        });
        wait(&format!("{how}: the incident"), || {
            world
                .incidents()
                .iter()
                .any(|incident| incident["undone"] == "renewed")
        });
        // It is watched as before.
        world.put("alice", ALICE, &key("another"));
        wait(&format!("{how}: the repair of another change"), || {
            world.read("alice") == alice
        });
        drop(grip);
        assert!(agent.stop().0.success());
    }
}

#[test]
fn an_enforcer_that_starts_while_the_file_is_held_mends_it() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    let content = world.read("alice");
    let grip = plant_held(&world, "write");
    let agent = world.start();
    // Dropped before the agent, which does not end while a thread of it hangs.
    let grip = grip;
    wait("the planted key to go", || {
        fs::read_to_string(world.file("alice")).is_ok_and(|now| now == content)
    });
    drop(grip);
    assert!(agent.stop().0.success());
}

/// What `ssh` has in the directory is not lost with it.
#[test]
fn what_else_is_in_the_directory_moves_over() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let content = world.read("alice");
    let grip = plant_held(&world, "write");
    wait("the planted key to go", || {
        fs::read_to_string(world.file("alice")).is_ok_and(|now| now == content)
    });
    drop(grip);
    for name in OTHERS {
        wait(name, || {
            fs::read_to_string(world.ssh("alice").join(name)).is_ok_and(|text| text == name)
        });
    }
    assert!(!world.ssh("alice").join("authorized_keys2").exists());
    assert!(agent.stop().0.success());
}
