//! Whatever is done to a managed file while the agent runs is undone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::oracle::Sshd;
use crate::support::world::{
    ALICE, BOB, MALLORY, World, chattr, fingerprint, halt, key, litter, pair, plant, shell_as,
    shown, signal, wait,
};

/// The file is what it was, in every respect.
fn whole(world: &World, content: &str) -> bool {
    let (file, ssh) = (world.file("alice"), world.ssh("alice"));
    let (Ok(meta), Ok(directory)) = (fs::symlink_metadata(&file), fs::symlink_metadata(&ssh))
    else {
        return false;
    };
    meta.is_file()
        && meta.uid() == ALICE
        && meta.gid() == ALICE
        && meta.nlink() == 1
        && meta.permissions().mode() & 0o7777 == 0o600
        && directory.is_dir()
        && directory.uid() == ALICE
        && directory.permissions().mode() & 0o022 == 0
        && fs::read_to_string(&file).is_ok_and(|text| text == content)
}

/// What an incident says was changed, in short; a key by its fingerprint.
fn changes(incident: &Value) -> Vec<String> {
    let short = |change: &Value| {
        let text = |field: &str| change[field].as_str().map(ToOwned::to_owned);
        let detail = text("fingerprint")
            .or_else(|| text("to"))
            .or_else(|| text("on"))
            .unwrap_or_default();
        format!("{} {detail}", change["change"].as_str().unwrap())
            .trim_end()
            .to_owned()
    };
    incident["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(short)
        .collect()
}

/// How often each incident came.
fn counts(world: &World) -> BTreeMap<String, (u64, Value)> {
    let count = |incident: &Value| 1 + incident["repeated"].as_u64().unwrap();
    let row = |incident: Value| {
        (
            incident["id"].as_str().unwrap().to_owned(),
            (count(&incident), incident),
        )
    };
    world.incidents().into_iter().map(row).collect()
}

/// Tampers, and waits for the file to be whole again, and for the incident; then once more, so that a watch that was lost
/// shows. `expected` is what the incident says, one of them: a script of two steps can be undone between them.
fn check(world: &World, what: &str, expected: &[&str], tamper: impl Fn()) {
    let content = world.read("alice");
    for round in 1..=2 {
        let before = world.status()["drift"]["repaired"].as_u64().unwrap();
        let known = counts(world);
        let began = Instant::now();
        tamper();
        wait(&format!("{what} undone, round {round}"), || {
            whole(world, &content) && world.status()["drift"]["repaired"].as_u64().unwrap() > before
        });
        let most = began.elapsed().as_millis();
        let mut seen = Vec::new();
        wait(&format!("the incident of {what}, round {round}"), || {
            let news = counts(world);
            let news = news
                .iter()
                .filter(|(id, (count, _))| known.get(*id).is_none_or(|(before, _)| before < count));
            seen = news.map(|(_, (_, incident))| incident.clone()).collect();
            !seen.is_empty()
        });
        let said = |incident: &Value| {
            let changes = changes(incident);
            expected
                .iter()
                .any(|expected| changes.iter().any(|change| change == expected))
        };
        assert!(
            seen.iter().any(said),
            "{what}, round {round}: expected one of {expected:?}: {seen:#?}"
        );
        for incident in &seen {
            assert_eq!(incident["account"], "alice");
            let undone = incident["undone"].as_str().unwrap();
            assert!(["replaced", "prevented"].contains(&undone), "{incident:#}");
            let stood = incident["stood_milliseconds"]
                .as_u64()
                .unwrap_or_else(|| panic!("{incident:#}"));
            // The kernel stamps files with the time of its last tick, and a repeated one keeps its longest.
            let first = incident["repeated"] == 0;
            assert!(
                !first || u128::from(stood) <= most + 20,
                "{what}: {stood} ms of {most}: {incident:#}"
            );
        }
    }
}

/// A script that loses the race against the repair has tampered all the same.
fn as_alice(script: &str) {
    shell_as(ALICE, script);
}

#[test]
fn every_change_to_the_file_is_undone() {
    let world = World::new();
    let laptop = key("alice@laptop");
    world.approve("alice", "laptop", &laptop);
    world.approve("alice", "phone", &key("alice@phone"));
    let agent = world.start();
    let (file, ssh) = (world.file("alice"), world.ssh("alice"));
    let rogue = key("rogue");
    let (f, s) = (file.display(), ssh.display());
    assert!(whole(&world, &world.read("alice")));
    let added = format!("added {}", fingerprint(&rogue));
    let removed = format!("removed {}", fingerprint(&laptop));
    let (added, removed) = (added.as_str(), removed.as_str());
    let owner = format!("owner {MALLORY}:{MALLORY}");

    check(&world, "append", &[added], || {
        as_alice(&format!("echo '{rogue}' >> {f}"));
    });
    check(&world, "truncate", &[removed], || {
        as_alice(&format!(": > {f}"));
    });
    check(&world, "rename over", &[added], || {
        as_alice(&format!("echo '{rogue}' > {s}/x && mv {s}/x {f}"));
    });
    check(&world, "delete", &["deleted"], || {
        as_alice(&format!("rm {f}"));
    });
    check(&world, "chmod 666", &["mode 0666"], || {
        as_alice(&format!("chmod 666 {f}"));
    });
    check(&world, "chmod 000", &["mode 0000"], || {
        as_alice(&format!("chmod 000 {f}"));
    });
    check(&world, "chown", &[&owner], || {
        chown(&file, Some(MALLORY), Some(MALLORY)).unwrap();
    });
    check(
        &world,
        "a symlink",
        &["kind symbolic link", "deleted"],
        || {
            as_alice(&format!("rm {f}; ln -s /etc/passwd {f}"));
        },
    );
    check(
        &world,
        "a directory",
        &["kind directory", "deleted"],
        || {
            as_alice(&format!("rm {f}; mkdir {f}; touch {f}/kept"));
        },
    );
    check(&world, "a FIFO", &["kind fifo", "deleted"], || {
        as_alice(&format!("rm {f}; mkfifo {f}"));
    });
    check(&world, "append again", &[added], || {
        as_alice(&format!("echo '{rogue}' >> {f}"));
    });

    assert!(
        fs::read_to_string("/etc/passwd").unwrap().contains("root:"),
        "nothing was followed"
    );
    let (status, log) = agent.stop();
    assert!(status.success(), "{log}");
    assert!(log.contains("drift undone"), "{log}");
}

#[test]
fn every_change_to_the_directory_is_undone() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let _agent = world.start();
    let (file, ssh, home) = (world.file("alice"), world.ssh("alice"), world.home("alice"));
    let rogue = key("rogue");
    let (f, s, h) = (file.display(), ssh.display(), home.display());
    let added = format!("added {}", fingerprint(&rogue));
    let added = added.as_str();
    let with = |own: &'static str| [own, "deleted"];

    // A shell makes the file before it writes it, and the repair may have come before that.
    let content = world.read("alice");
    let emptied = format!("removed {}", fingerprint(content.lines().last().unwrap()));
    let remade = [added, "deleted", emptied.as_str()];

    check(&world, "rm -rf and recreate", &remade, || {
        as_alice(&format!(
            "rm -rf {s}; mkdir -m 700 {s}; echo '{rogue}' > {f}"
        ));
    });
    check(&world, "mv away and a new one", &remade, || {
        as_alice(&format!(
            "rm -rf {h}/old; mv {s} {h}/old; mkdir -m 700 {s}; echo '{rogue}' > {f}"
        ));
    });
    check(&world, ".ssh chmod 777", &["directory-mode 0777"], || {
        as_alice(&format!("chmod 777 {s}"));
    });
    check(&world, ".ssh chmod 000", &["directory-mode 0000"], || {
        as_alice(&format!("chmod 000 {s}"));
    });
    check(&world, ".ssh deleted", &["deleted"], || {
        as_alice(&format!("rm -rf {s}"));
    });
    check(
        &world,
        ".ssh a symlink",
        &with("kind symbolic link"),
        || {
            as_alice(&format!(
                "mkdir -p -m 700 {h}/elsewhere; echo '{rogue}' > {h}/elsewhere/authorized_keys; rm -rf {s}; ln -s elsewhere {s}"
            ));
        },
    );
    check(&world, ".ssh a file", &with("kind file"), || {
        as_alice(&format!("rm -rf {s}; echo '{rogue}' > {s}"));
    });
    check(&world, ".ssh a FIFO", &with("kind fifo"), || {
        as_alice(&format!("rm -rf {s}; mkfifo {s}"));
    });
    check(
        &world,
        "a directory of root moved in its place",
        &with("kind directory of uid 0"),
        || {
            let old = home.join("old-of-root");
            let _ = fs::remove_dir_all(&old);
            fs::create_dir(&old).unwrap();
            fs::write(old.join("authorized_keys"), &rogue).unwrap();
            as_alice(&format!(
                "rm -rf {h}/x; mv {s} {h}/x; mv -T {h}/old-of-root {s}"
            ));
        },
    );
    check(&world, "append again", &[added], || {
        as_alice(&format!("echo '{rogue}' >> {f}"));
    });

    assert!(
        fs::read_to_string(home.join("elsewhere/authorized_keys"))
            .unwrap()
            .contains("rogue")
    );
}

#[test]
fn a_write_through_a_mapping_is_undone_when_it_is_closed() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let _agent = world.start();
    let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[0:5]=b'#evil'\nm.flush()\nm.close()\nf.close()";
    check(&world, "a write through mmap", &["bytes"], || {
        let done = Command::new("python3")
            .args(["-c", script])
            .arg(world.file("alice"))
            .status()
            .unwrap();
        assert!(done.success());
    });
}

#[test]
fn a_write_through_a_hard_link_is_undone() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"500ms\"".to_owned();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let _agent = world.start();
    let rogue = key("rogue");
    let (f, h) = (world.file("alice"), world.home("alice"));
    check(&world, "a hard link", &["links"], || {
        as_alice(&format!("ln -f {} {}/link", f.display(), h.display()));
    });
    check(
        &world,
        "a write through a hard link",
        &["links", &format!("added {}", fingerprint(&rogue))],
        || {
            as_alice(&format!(
                "ln -f {} {h}/link; echo '{rogue}' >> {h}/link",
                f.display(),
                h = h.display()
            ));
        },
    );
}

#[test]
fn what_was_refused_is_tried_again_without_an_event() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"1h\"".to_owned();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let agent = world.start();
    wait("the list", || world.keys("alice") == 1);
    let content = world.read("alice");
    // A flag on a file of root's that has another name too keeps the rogue key; taking it off is an event that no watch
    // tells of.
    let flag = |how| chattr(how, &world.file("alice"));
    as_alice(&format!(
        "echo '{}' >> {f}",
        key("rogue"),
        f = world.file("alice").display()
    ));
    wait("the repair", || world.read("alice") == content);
    halt(agent.pid());
    world.put("alice", 0, &key("rogue"));
    fs::hard_link(world.file("alice"), world.home("alice").join("link")).unwrap();
    flag("+i");
    signal("CONT", agent.pid());
    wait("the refusal", || {
        world.account("alice")["state"] == "refused"
    });
    flag("-i");
    wait("the repair after the refusal", || whole(&world, &content));
}

/// Whoever was root for a moment locks a planted key in, so that nobody gets rid of it.
#[test]
fn flags_that_lock_a_planted_key_in_are_cleared() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let agent = world.start();
    let content = world.read("alice");
    let (file, ssh) = (world.file("alice"), world.ssh("alice"));
    // A directory that its owner cannot list is no shelter.
    let all =
        [("i", &file), ("a", &file), ("i", &ssh), ("a", &ssh)].map(|(flag, on)| (flag, on, 0o700));
    for (flag, on, mode) in all
        .into_iter()
        .chain([("i", &ssh, 0o300), ("a", &ssh, 0o300)])
    {
        let what = format!("chattr +{flag} {} of mode {mode:o}", on.display());
        halt(agent.pid());
        world.put("alice", ALICE, &key("rogue"));
        fs::set_permissions(&ssh, fs::Permissions::from_mode(mode)).unwrap();
        chattr(&format!("+{flag}"), on);
        signal("CONT", agent.pid());
        wait(&what, || whole(&world, &content));
        assert!(litter(&ssh, &["authorized_keys"]).is_empty(), "{what}");
        wait(&what, || {
            let last = world.status()["drift"]["last"]["changes"].to_string();
            last.contains("immutable or append-only flag")
                && last.contains("directory") == (on == &ssh)
        });
        let locked = format!("locked {}", if on == &ssh { "directory" } else { "file" });
        wait(&what, || {
            counts(&world)
                .values()
                .any(|(_, incident)| changes(incident).contains(&locked))
        });
    }
    // Nor is another name of the file, where that is the account's.
    let name = world.home("alice").join("name");
    halt(agent.pid());
    world.put("alice", ALICE, &key("rogue"));
    fs::hard_link(&file, &name).unwrap();
    chattr("+i", &file);
    signal("CONT", agent.pid());
    wait("a file of two names", || whole(&world, &content));
    assert_eq!(world.account("alice")["state"], "in-sync");
}

/// A home that its account closes keeps nothing: whoever opens it for a moment lets nobody else in.
#[test]
fn a_home_that_is_closed_shelters_no_key() {
    for (file, mode) in [
        ("%h/.ssh/authorized_keys", 0o000),
        ("%h/.keys", 0o500),
        ("%h/.keys", 0o000),
    ] {
        let mut world = World::new();
        let table = format!("{}\nfile = \"{file}\"", world.accounts);
        world.accounts = table;
        world.approve("alice", "laptop", &key("alice@laptop"));
        let agent = world.start();
        let path = world.home("alice").join(file.trim_start_matches("%h/"));
        let content = fs::read_to_string(&path).unwrap();
        halt(agent.pid());
        plant(&path, ALICE, &key("rogue"));
        fs::set_permissions(world.home("alice"), fs::Permissions::from_mode(mode)).unwrap();
        signal("CONT", agent.pid());
        wait("the repair", || {
            fs::read_to_string(&path).unwrap() == content
        });
        wait("the word", || world.account("alice")["state"] == "in-sync");
    }
}

/// A file that another list than its mode opens to others, or closes to its account, is not as it is to be.
#[test]
fn access_control_lists_are_undone_and_not_handed_down() {
    for (owner, wanted) in [("account", 0o600), ("root", 0o640)] {
        let mut world = World::new();
        world.accounts = format!("{}\nowner = \"{owner}\"", world.accounts);
        world.approve("alice", "laptop", &key("alice@laptop"));
        let _agent = world.start();
        let content = world.read("alice");
        let list = |arguments: &[&str], on: &Path| {
            assert!(
                Command::new("setfacl")
                    .args(arguments)
                    .arg(on)
                    .status()
                    .unwrap()
                    .success(),
                "{arguments:?}"
            );
        };
        let of = |path: &Path| {
            let told = Command::new("getfacl")
                .args(["-cpE", "--skip-base"])
                .arg(path)
                .output()
                .unwrap();
            shown(&told.stdout)
        };
        list(
            &["-m", &format!("u:{MALLORY}:rw,m::r")],
            &world.file("alice"),
        );
        let restored = || {
            let meta = fs::metadata(world.file("alice"));
            let mode = meta.is_ok_and(|meta| meta.permissions().mode() & 0o7777 == wanted);
            mode && world.read("alice") == content && of(&world.file("alice")).is_empty()
        };
        wait("a list on the file", restored);
        wait("its incident", || {
            counts(&world)
                .values()
                .any(|(_, incident)| changes(incident).contains(&"access-list".to_owned()))
        });
        list(
            &["-m", &format!("d:u:{MALLORY}:rwx,d:g::-")],
            &world.ssh("alice"),
        );
        fs::write(world.file("alice"), key("rogue")).unwrap();
        wait(
            "the repair below a default list, which is not handed down",
            restored,
        );
        assert_eq!(world.account("alice")["state"], "in-sync");
    }
}

/// The purpose of it all: who is let in.
#[test]
fn a_real_sshd_lets_the_approved_key_in_and_refuses_the_others() {
    let world = World::new();
    let ((approved, line), (revoked, old), (rogue, planted)) =
        (pair("approved"), pair("revoked"), pair("rogue"));
    world.approve("alice", "approved", &line);
    world.approve("alice", "revoked", &old);
    let _agent = world.start();
    let sshd = Sshd::new();
    let let_in = |key: &tempfile::TempDir| sshd.login(&world.file("alice"), &key.path().join("id"));
    assert!(let_in(&approved) && let_in(&revoked) && !let_in(&rogue));
    as_alice(&format!(
        "echo '{planted}' >> {}",
        world.file("alice").display()
    ));
    world.revoke("alice", "revoked");
    wait("the list and the repair", || {
        !world.read("alice").contains("rogue") && !world.read("alice").contains("revoked")
    });
    assert!(let_in(&approved) && !let_in(&revoked) && !let_in(&rogue));
}

#[test]
fn observe_mode_reports_and_writes_nothing() {
    let mut world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    world.top = "mode = \"observe\"".to_owned();
    let _agent = world.start();
    let rogue = key("rogue");
    as_alice(&format!(
        "echo '{rogue}' >> {}",
        world.file("alice").display()
    ));
    let before = fs::metadata(world.file("alice")).unwrap();
    wait("the drift to be seen", || {
        let reason = world.account("alice")["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        reason == format!("not on the list: rogue {}", fingerprint(&rogue))
    });
    assert_eq!(world.account("alice")["state"], "drifted");
    let status = world.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    let after = fs::metadata(world.file("alice")).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec(), before.len()),
        (after.ino(), after.mtime_nsec(), after.len())
    );
}

#[test]
fn one_account_in_trouble_is_alone_with_it() {
    let world = World::new();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    world.make_ssh("bob", MALLORY);
    let _agent = world.start();
    assert_eq!(world.account("bob")["state"], "refused");
    let reason = world.account("bob")["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains(&format!("is a directory of uid {MALLORY}")),
        "{reason}"
    );
    check(&world, "append", &["unclear"], || {
        as_alice(&format!("echo x >> {}", world.file("alice").display()));
    });
    assert_eq!(world.run(&["status"]).status.code(), Some(1));
    // Set right by a person, it is taken up at once.
    chown(world.ssh("bob"), Some(BOB), Some(BOB)).unwrap();
    wait("bob's file", || {
        world.read("bob").contains("bob") && world.account("bob")["state"] == "in-sync"
    });
}

#[test]
fn a_home_that_another_account_replaced_by_a_link_leads_nowhere() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    fs::remove_dir(world.home("alice")).unwrap();
    chown(world.path("home"), Some(MALLORY), Some(MALLORY)).unwrap();
    assert!(
        shell_as(
            MALLORY,
            &format!("ln -s /etc {}", world.home("alice").display())
        )
        .status
        .success()
    );
    world.pass();
    assert_eq!(world.account("alice")["state"], "refused");
    assert!(!Path::new("/etc/.ssh").exists());
}
