//! What cannot be mended in place is mended all the same: the real sshd lets the approved key in, and the planted one not,
//! whatever the account did to its directories and to the room on its disk.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tempfile::TempDir;

use crate::support::disk::Disk;
use crate::support::logins::{self, assert_in, assert_out, by_key};
use crate::support::trace::{steps, trace_with};
use crate::support::world::{
    ALICE, World, halt, key, mode, pair, plant, shell_as, shown, signal, wait,
};

const SSHD: &str = "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no";

const KINDS: [&str; 3] = ["ext4", "xfs", "tmpfs"];

/// alice's home on a disk of its own, with the approved file in place; another key that she would like to get in by.
struct Scene {
    // Unmounted before the directory of the world goes.
    disk: Disk,
    world: World,
    approved: TempDir,
    rogue: TempDir,
    planted: String,
}

impl Scene {
    fn new(kind: &str, make: &[&str], options: &str) -> Self {
        let mut world = logins::world(SSHD);
        // A key that is revoked goes at once.
        "[guard]\nmax-removed = 1.0".clone_into(&mut world.tables);
        let disk = Disk::under_homes(&world, kind, make, options);
        let ((approved, line), (rogue, planted)) = (pair("approved"), pair("rogue"));
        world.approve("alice", "laptop", &line);
        // Or a list that empties alice's file would empty all.
        world.approve("bob", "laptop", &key("bob"));
        assert_eq!(world.pass(), 0);
        Self {
            disk,
            world,
            approved,
            rogue,
            planted,
        }
    }

    fn is_in_line(&self) -> bool {
        let file = self.world.file("alice");
        let is_right = |text: String| text.contains("approved") && !text.contains("rogue");
        let is_file = fs::symlink_metadata(&file)
            .is_ok_and(|meta| meta.is_file() && meta.mode() & 0o7777 == 0o600);
        let directory = fs::symlink_metadata(self.world.ssh("alice"));
        is_file
            && directory.is_ok_and(|meta| meta.is_dir())
            && fs::read_to_string(&file).is_ok_and(is_right)
    }

    /// The purpose of it all, and nothing is left to do.
    fn judge(&self, what: &str) {
        wait(&format!("{what}: in sync"), || {
            self.is_in_line() && self.world.account("alice")["state"] == "in-sync"
        });
        assert_in(by_key(&self.world, "alice", &self.approved));
        assert_out(by_key(&self.world, "alice", &self.rogue));
    }

    fn assert_planted(&self) {
        assert_in(by_key(&self.world, "alice", &self.rogue));
    }

    fn as_alice(&self, script: &str) {
        let home = self.world.home("alice");
        let done = shell_as(ALICE, &format!("cd {} && {script}", home.display()));
        assert!(done.status.success(), "{script}: {}", shown(&done.stderr));
    }

    fn undone(&self, how: &str) -> bool {
        let all = self.world.incidents();
        all.iter().any(|incident| incident["undone"] == how)
    }
}

#[test]
fn a_home_that_is_closed_with_a_linked_directory_in_it_lets_nobody_in() {
    for kind in KINDS {
        let scene = Scene::new(kind, &[], "");
        let (world, home) = (&scene.world, scene.world.home("alice"));
        let agent = world.start();
        for bits in [0o500, 0o100, 0o555] {
            let what = format!("{kind}: home {bits:o}");
            halt(agent.pid());
            scene.as_alice(&format!(
                "rm -rf own old && mkdir -m 700 own && echo '{}' > own/authorized_keys && chmod 600 own/authorized_keys \
                 && mv .ssh old && ln -s own .ssh && chmod {bits:o} .",
                scene.planted
            ));
            scene.assert_planted();
            signal("CONT", agent.pid());
            scene.judge(&what);
            assert_eq!(mode(&home), bits | 0o700, "{what}");
            assert_eq!(mode(&world.ssh("alice")), 0o700, "{what}");
        }
    }
}

#[test]
fn a_directory_that_is_closed_shelters_no_key_and_keeps_the_approved_one_out_no_longer() {
    for kind in KINDS {
        let scene = Scene::new(kind, &[], "");
        let world = &scene.world;
        let agent = world.start();
        for bits in [
            0o600, 0o400, 0o500, 0o300, 0o100, 0o000, 0o511, 0o455, 0o077,
        ] {
            let what = format!("{kind}: directory {bits:o}");
            halt(agent.pid());
            plant(&world.file("alice"), ALICE, &scene.planted);
            scene.as_alice(&format!("chmod {bits:o} .ssh"));
            signal("CONT", agent.pid());
            scene.judge(&what);
            let tidy = (bits & !0o022) | 0o700;
            assert_eq!(mode(&world.ssh("alice")), tidy, "{what}");
        }
    }
}

#[test]
fn a_directory_without_room_for_one_name_more_is_made_anew() {
    // So that a few thousand names do what 122,575 links do elsewhere.
    let (make, options) = (["-O", "^dir_index"], "max_dir_size_kb=64");
    let scene = Scene::new("ext4", &make, options);
    let world = &scene.world;
    let agent = world.start();
    halt(agent.pid());
    plant(&world.file("alice"), ALICE, &scene.planted);
    let fill = "import os, sys\nos.chdir(sys.argv[1])\nopen('known_hosts', 'w').write('a host')\nnumber = 0\n\
        while True:\n  try: os.link('known_hosts', '%x' % number)\n  except OSError as error:\n    assert error.errno == 28\n\
        \x20   break\n  number += 1\n";
    let filled = Command::new("python3")
        .args(["-c", fill])
        .arg(world.ssh("alice"))
        .status()
        .unwrap();
    assert!(filled.success());
    assert!(
        !shell_as(ALICE, &format!("echo > {}/x", world.ssh("alice").display()))
            .status
            .success()
    );
    scene.assert_planted();
    signal("CONT", agent.pid());
    scene.judge("a full directory");
    assert!(scene.undone("renewed"));
    let hosts = world.ssh("alice").join("known_hosts");
    assert_eq!(fs::read_to_string(hosts).unwrap(), "a host");
    // The agent looks at the new one as at the old.
    plant(&world.file("alice"), ALICE, &scene.planted);
    scene.judge("the new directory");
}

#[test]
fn a_full_disk_keeps_no_planted_key() {
    for kind in KINDS {
        let make: &[&str] = if kind == "ext4" { &["-m", "0"] } else { &[] };
        let scene = Scene::new(kind, make, "");
        let world = &scene.world;
        let agent = world.start();
        halt(agent.pid());
        plant(&world.file("alice"), ALICE, &scene.planted);
        let second = world.home("alice").join("second");
        plant(&second, ALICE, &scene.planted);
        let filler = world.home("alice").join("filler");
        scene.disk.fill(ALICE, &filler);
        scene.disk.fill(0, &world.home("bob").join("filler"));
        scene.assert_planted();
        signal("CONT", agent.pid());
        scene.judge(&format!("{kind}: full"));
        assert!(scene.undone("cut"), "{kind}: {:#?}", world.incidents());
        // One that the account can still write to is not written over.
        let held = fs::OpenOptions::new().append(true).open(&second).unwrap();
        fs::rename(second, world.file("alice")).unwrap();
        wait("the second key to go", || {
            !world.read("alice").contains("rogue")
        });
        writeln!(&held, "{}", scene.planted).unwrap();
        assert_out(by_key(world, "alice", &scene.rogue));
        drop(held);
        fs::remove_file(filler).unwrap();
        scene.judge(&format!("{kind}: room"));
        plant(&world.file("alice"), ALICE, &scene.planted);
        scene.judge(&format!("{kind}: room again"));
    }
}

#[test]
fn a_full_disk_keeps_no_revoked_key() {
    for kind in KINDS {
        let make: &[&str] = if kind == "ext4" { &["-m", "0"] } else { &[] };
        let scene = Scene::new(kind, make, "");
        let world = &scene.world;
        world.approve("alice", "other", &scene.planted);
        assert_eq!(world.pass(), 0);
        scene.assert_planted();
        let filler = world.home("alice").join("filler");
        scene.disk.fill(ALICE, &filler);
        scene.disk.fill(0, &world.home("bob").join("filler"));
        world.revoke("alice", "other");
        assert_eq!(world.pass(), 0, "{kind}: {}", world.problems());
        scene.judge(&format!("{kind}: revoked"));
        world.approve("alice", "laptop", "# nobody");
        assert_eq!(world.pass(), 0, "{kind}: {}", world.problems());
        assert_out(by_key(world, "alice", &scene.approved));
        fs::remove_file(filler).unwrap();
        assert_eq!(world.pass(), 0, "{kind}: {}", world.problems());
        assert_eq!(world.account("alice")["state"], "in-sync", "{kind}");
    }
}

#[test]
fn what_a_disk_keeps_for_root_serves_to_take_a_key_out() {
    let scene = Scene::new("ext4", &["-m", "5"], "");
    let world = &scene.world;
    scene.disk.fill(ALICE, &world.home("alice").join("filler"));
    // As the shipped unit runs: what is kept for root is not for everything that root's process does.
    let enforce = || {
        let agent = world.agent(&["enforce", "--once"]);
        let mut command = world.command("setpriv");
        command.arg("--bounding-set=-sys_resource");
        let own = agent.get_args().skip_while(|argument| {
            argument.to_str() != Some(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        });
        command.args(own).output().unwrap()
    };
    // Over the old file: there is no room for a new one.
    let done = shell_as(
        ALICE,
        &format!(
            "echo '{}' > {}",
            scene.planted,
            world.file("alice").display()
        ),
    );
    assert!(done.status.success(), "{}", shown(&done.stderr));
    scene.assert_planted();
    let done = enforce();
    assert_eq!(done.status.code(), Some(0), "{}", shown(&done.stderr));
    scene.judge("room that is root's");
    assert!(scene.undone("replaced"), "{:#?}", world.incidents());
}

/// A quota counts against the owner of a file: root's own file has room, and cannot be given away.
#[test]
fn a_quota_that_is_used_up_keeps_no_revoked_key() {
    let scene = Scene::new("ext4", &[], "");
    let world = &scene.world;
    let revoke = || {
        world.approve("alice", "laptop", &scene.planted);
        assert_eq!(world.pass(), 0);
        scene.assert_planted();
        world.approve("alice", "laptop", "# nobody");
        world.run(&["fetch", "--once"]);
    };
    revoke();
    let trace = trace_with(world, "enforce", &[]);
    let found = steps(&trace, &world.home("alice"));
    let made = found.iter().find(|step| step.call == "openat").unwrap();
    revoke();
    let faults = [
        format!("openat:error=EDQUOT:when={}", made.nth),
        "fchown:error=EDQUOT".to_owned(),
    ];
    let trace = trace_with(world, "enforce", &faults);
    assert!(trace.matches("INJECTED").count() >= 2, "{trace}");
    assert_out(by_key(world, "alice", &scene.rogue));
    let meta = fs::metadata(world.file("alice")).unwrap();
    assert_eq!((meta.uid(), mode(&world.file("alice"))), (0, 0o644));
    let said = world.account("alice")["reason"].to_string();
    assert!(said.contains("quota"), "{said}");
    // While there is no room nothing more is done to it: nobody gets in by it.
    let trace = trace_with(world, "enforce", &["renameat:error=EDQUOT".to_owned()]);
    let now = fs::metadata(world.file("alice")).unwrap();
    assert_eq!(now.ino(), meta.ino(), "{trace}");
    assert_eq!(world.pass(), 0);
    let meta = fs::metadata(world.file("alice")).unwrap();
    assert_eq!((meta.uid(), mode(&world.file("alice"))), (ALICE, 0o600));
    assert_out(by_key(world, "alice", &scene.rogue));
}

/// Nobody else loses anything by a key that is revoked while there is no room, and the agent's own lease is not in its way.
#[test]
fn a_key_that_is_revoked_on_a_full_disk_costs_nobody_else_the_way_in() {
    for kind in KINDS {
        let make: &[&str] = if kind == "ext4" { &["-m", "0"] } else { &[] };
        let scene = Scene::new(kind, make, "");
        let world = &scene.world;
        world.approve("alice", "other", &scene.planted);
        let agent = world.start();
        scene.assert_planted();
        for account in ["alice", "bob"] {
            let uid = if account == "bob" { 0 } else { ALICE };
            scene.disk.fill(uid, &world.home(account).join("filler"));
        }
        world.revoke("alice", "other");
        scene.judge(&format!("{kind}: revoked"));
        assert!(agent.stop().0.success());
    }
}
