//! A home in hostile hands: nothing outside it is ever touched, whatever stands in the way.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use authorized_keys_agent::host::keyfile::{By, NoWitness, Refusal, Terms, Visit};
use authorized_keys_agent::model::config::tables::Owner;
use authorized_keys_agent::model::file::difference::differences;
use authorized_keys_agent::model::file::wanted::{Found, Lines, Target};

use crate::support::world::{
    ALICE, BOB, Ends, MALLORY, World, chattr, key, litter, mode, numbered, shell_as, shown, wait,
};

const CONTENT: &str = "# ours\n";

/// alice's file, worked on directly.
fn target(world: &World, owner: Owner) -> Target {
    world.target("authorized_keys", owner)
}

fn wanted(owner: Owner) -> Lines {
    let (uid, mode) = match owner {
        Owner::Account => (ALICE, 0o600),
        Owner::Root => (0, 0o640),
    };
    Lines {
        content: CONTENT.into(),
        uid,
        gid: ALICE,
        mode,
    }
}

const TERMS: Terms<'_> = Terms {
    wanted_still: &|| true,
    clear_obstacles: false,
    put_aside: &|_| (),
};

fn replace(target: &Target) -> Result<(), Refusal> {
    Visit::new(target)
        .replace(&wanted(target.owner), TERMS, By::Owner, false)
        .map(drop)
}

fn in_sync(target: &Target) -> bool {
    Visit::new(target)
        .look(CONTENT.len(), &mut NoWitness)
        .is_ok_and(|seen| {
            seen.directories.is_empty()
                && differences(&wanted(target.owner), &seen.found).is_empty()
        })
}

/// A file outside that must stay as it is, and what it looks like.
struct Outside(PathBuf, String);

impl Outside {
    fn new(world: &World) -> Self {
        let path = world.path("outside");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("authorized_keys"), "precious\n").unwrap();
        fs::write(path.join("other"), "precious too\n").unwrap();
        let look = Self::look(&path);
        Self(path, look)
    }

    fn look(path: &Path) -> String {
        let mut names: Vec<PathBuf> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.push(path.to_owned());
        names.sort();
        let line = |path: &PathBuf| {
            let meta = fs::symlink_metadata(path).unwrap();
            let text = fs::read_to_string(path).unwrap_or_default();
            format!(
                "{} {} {:o} {} {} {text}",
                path.display(),
                meta.uid(),
                meta.mode(),
                meta.ino(),
                meta.nlink()
            )
        };
        names.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn assert_untouched(&self) {
        assert_eq!(
            Self::look(&self.0),
            self.1,
            "something outside the home was touched"
        );
    }
}

#[test]
fn an_ordinary_home_gets_its_file() {
    for owner in [Owner::Account, Owner::Root] {
        let world = World::new();
        let target = target(&world, owner);
        replace(&target).unwrap();
        assert!(in_sync(&target));
        assert_eq!(mode(&world.ssh("alice")), 0o700);
        let ssh = fs::metadata(world.ssh("alice")).unwrap();
        assert_eq!((ssh.uid(), ssh.gid()), (ALICE, ALICE));
        assert!(litter(&world.ssh("alice"), &["authorized_keys"]).is_empty());
    }
}

#[test]
fn a_home_of_root_is_worked_in_as_root_and_the_rest_given_away() {
    let world = World::new();
    chown(world.home("alice"), Some(0), Some(0)).unwrap();
    let target = target(&world, Owner::Account);
    replace(&target).unwrap();
    assert!(in_sync(&target));
    assert_eq!(fs::metadata(world.ssh("alice")).unwrap().uid(), ALICE);
}

#[test]
fn what_stands_in_the_way_of_the_directory_is_refused_and_stays() {
    type Plant = fn(&World);
    let rows: [(&str, Plant, &str); 6] = [
        (
            "a symlink",
            |w| symlink(w.path("outside"), w.ssh("alice")).unwrap(),
            "is a symbolic link, not a directory",
        ),
        (
            "a file",
            |w| fs::write(w.ssh("alice"), "x").unwrap(),
            "not a directory",
        ),
        (
            "a FIFO",
            |w| {
                assert!(
                    Command::new("mkfifo")
                        .arg(w.ssh("alice"))
                        .status()
                        .unwrap()
                        .success()
                );
            },
            "is a FIFO, not a directory",
        ),
        (
            "of a third uid",
            |w| w.make_ssh("alice", MALLORY),
            "is a directory of uid 61003, not a directory of the account",
        ),
        (
            "of root",
            |w| w.make_ssh("alice", 0),
            "is a directory of uid 0, not a directory of the account",
        ),
        (
            "a home of a third uid",
            |w| chown(w.home("alice"), Some(BOB), Some(BOB)).unwrap(),
            "neither to the account nor to root",
        ),
    ];
    for (what, plant, expected) in rows {
        let world = World::new();
        let outside = Outside::new(&world);
        plant(&world);
        let before = fs::symlink_metadata(world.ssh("alice"))
            .map(|meta| meta.ino())
            .ok();
        let refusal = replace(&target(&world, Owner::Account))
            .unwrap_err()
            .explained();
        assert!(refusal.contains(expected), "{what}: {refusal}");
        assert_eq!(
            fs::symlink_metadata(world.ssh("alice"))
                .map(|meta| meta.ino())
                .ok(),
            before,
            "{what}"
        );
        outside.assert_untouched();
    }
}

#[test]
fn what_stands_in_the_way_of_the_file_is_replaced_and_never_followed() {
    type Plant = fn(&World);
    let rows: [(&str, Plant); 7] = [
        ("a symlink to passwd", |w| {
            symlink("/etc/passwd", w.file("alice")).unwrap();
        }),
        ("a symlink outside", |w| {
            symlink(w.path("outside/authorized_keys"), w.file("alice")).unwrap();
        }),
        ("a hard link", |w| {
            fs::hard_link(w.path("outside/other"), w.file("alice")).unwrap();
        }),
        ("a directory", |w| fs::create_dir(w.file("alice")).unwrap()),
        ("a FIFO", |w| {
            assert!(
                Command::new("mkfifo")
                    .arg(w.file("alice"))
                    .status()
                    .unwrap()
                    .success()
            );
        }),
        ("a device", |w| {
            assert!(
                Command::new("mknod")
                    .arg(w.file("alice"))
                    .args(["c", "1", "5"])
                    .status()
                    .unwrap()
                    .success()
            );
        }),
        ("a socket", |w| {
            drop(std::os::unix::net::UnixListener::bind(w.file("alice")).unwrap());
        }),
    ];
    let passwd = fs::read("/etc/passwd").unwrap();
    for (what, plant) in rows {
        for owner in [Owner::Account, Owner::Root] {
            let world = World::new();
            world.make_ssh("alice", ALICE);
            let outside = Outside::new(&world);
            plant(&world);
            let target = target(&world, owner);
            assert!(!in_sync(&target), "{what}");
            replace(&target).unwrap_or_else(|refusal| panic!("{what}: {}", refusal.explained()));
            assert!(in_sync(&target), "{what}");
            // A hard link has one name less, the rest is as it was.
            if what != "a hard link" {
                outside.assert_untouched();
            }
            assert_eq!(
                fs::read_to_string(world.path("outside/other")).unwrap(),
                "precious too\n"
            );
        }
    }
    assert_eq!(fs::read("/etc/passwd").unwrap(), passwd);
}

#[test]
fn a_directory_that_others_can_write_to_is_closed_again() {
    let world = World::new();
    world.make_ssh("alice", ALICE);
    fs::set_permissions(world.ssh("alice"), fs::Permissions::from_mode(0o777)).unwrap();
    let target = target(&world, Owner::Account);
    assert!(!in_sync(&target));
    replace(&target).unwrap();
    assert!(in_sync(&target));
    assert_eq!(mode(&world.ssh("alice")), 0o755);
}

#[test]
fn a_bind_mount_and_a_flag_are_reported() {
    let world = World::new();
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, "rogue\n");
    world.approve("alice", "laptop", &key("alice"));
    let (file, agent) = (world.file("alice"), world.agent(&["enforce", "--once"]));
    world.run(&["fetch", "--once"]);
    let command: Vec<String> = agent
        .get_args()
        .map(|a| a.to_str().unwrap().to_owned())
        .collect();
    let mounted = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!(
            "mount --bind /etc/hostname {} && exec unshare \"$@\"",
            file.display()
        ))
        .arg("sh")
        .args(&command)
        .output()
        .unwrap();
    let said = shown(&mounted.stderr);
    assert!(said.contains("is a mount point"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "rogue\n");

    let flag = |how| chattr(how, &file);
    flag("+i");
    let code = world.pass();
    let status = world.account("alice");
    flag("-i");
    assert_eq!(code, 1);
    assert!(
        status["reason"]
            .as_str()
            .unwrap()
            .contains("immutable or append-only"),
        "{status}"
    );
    assert!(litter(&world.ssh("alice"), &["authorized_keys"]).is_empty());
    assert_eq!(world.pass(), 0);
}

#[test]
fn swapping_the_directory_for_a_link_a_thousand_times_gains_nothing() {
    for owner in [Owner::Account, Owner::Root] {
        let world = World::new();
        let outside = Outside::new(&world);
        let (h, o) = (world.home("alice"), outside.0.display().to_string());
        // An account that could write there is the strongest attacker: only root's rights would be misused.
        world.make_ssh("alice", ALICE);
        symlink(&o, h.join("link")).unwrap();
        std::os::unix::fs::lchown(h.join("link"), Some(ALICE), Some(ALICE)).unwrap();
        // renameat2 with RENAME_EXCHANGE: at every moment one of the two stands there.
        let number = if cfg!(target_arch = "x86_64") {
            316
        } else {
            276
        };
        let script = format!(
            "chdir '{}'; my ($a, $b) = ('.ssh', 'link'); while (1) {{ syscall({number}, -100, $a, -100, $b, 2) }}",
            h.display()
        );
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &ALICE.to_string(),
            "--regid",
            &ALICE.to_string(),
            "--clear-groups",
        ]);
        let swapper = Ends(command.args(["perl", "-e", &script]).spawn().unwrap());
        let target = target(&world, owner);
        let (mut done, mut refused) = (0, 0);
        while done + refused < 1000 || done < 50 || refused < 50 {
            let mut visit = Visit::new(&target);
            // Every other time the directory was looked at, and is held, before.
            let held =
                (done + refused) % 2 == 0 && visit.look(CONTENT.len(), &mut NoWitness).is_err();
            if held
                || visit
                    .replace(&wanted(owner), TERMS, By::Owner, false)
                    .is_err()
            {
                refused += 1;
            } else {
                done += 1;
            }
            assert!(
                done + refused < 100_000,
                "the race was not run: {done} done, {refused} refused"
            );
        }
        drop(swapper);
        outside.assert_untouched();
    }
}

/// What is held may have another name by then: what counts is what sshd would read.
#[test]
fn a_look_after_a_replacement_goes_by_the_names() {
    type Swap = fn(&World);
    let rows: [(&str, Swap); 3] = [
        ("the directory", |w| {
            fs::rename(w.ssh("alice"), w.home("alice").join("moved")).unwrap();
            w.make_ssh("alice", ALICE);
        }),
        ("the home", |w| {
            fs::rename(w.home("alice"), w.path("moved")).unwrap();
            fs::create_dir(w.home("alice")).unwrap();
            chown(w.home("alice"), Some(ALICE), Some(ALICE)).unwrap();
            w.make_ssh("alice", ALICE);
        }),
        ("the directory, for a link", |w| {
            let moved = w.home("alice").join("moved");
            fs::rename(w.ssh("alice"), &moved).unwrap();
            symlink(moved, w.ssh("alice")).unwrap();
        }),
    ];
    for (what, swap) in rows {
        let world = World::new();
        world.make_ssh("alice", ALICE);
        let target = target(&world, Owner::Account);
        let mut visit = Visit::new(&target);
        let look = |visit: &mut Visit<'_>| visit.look(CONTENT.len(), &mut NoWitness);
        let is_ours = |found: &Found| differences(&wanted(Owner::Account), found).is_empty();
        assert_eq!(look(&mut visit).unwrap().found, Found::Nothing, "{what}");
        visit.as_self(|| swap(&world)).unwrap();
        // Into what is held: the account could have moved the file there itself.
        visit
            .replace(&wanted(Owner::Account), TERMS, By::Owner, false)
            .unwrap();
        match look(&mut visit) {
            Ok(seen) => assert_eq!(seen.found, Found::Nothing, "{what}"),
            Err(refusal) => assert!(
                matches!(refusal, Refusal::Obstacle { .. }),
                "{what}: {refusal}"
            ),
        }
        let terms = Terms {
            clear_obstacles: true,
            ..TERMS
        };
        visit
            .replace(&wanted(Owner::Account), terms, By::Owner, false)
            .unwrap();
        assert!(is_ours(&look(&mut visit).unwrap().found), "{what}");
        drop(visit);
        assert!(in_sync(&target), "{what}");
    }
}

#[test]
fn a_central_directory_of_root_needs_nothing_in_the_home() {
    let mut world = World::new();
    let keys = world.path("keys.d");
    world.accounts = format!(
        "manage = [\"alice\"]\nfile = \"{}/%u\"\nowner = \"root\"",
        keys.display()
    );
    world.approve("alice", "laptop", &key("alice@laptop"));
    world.run(&["fetch", "--once"]);
    // The umask of the unit: it is no word on who may pass through what root makes.
    let mut enforced = Command::new("sh");
    enforced.args(["-c", "umask 077; exec unshare \"$@\"", "sh"]);
    enforced.args(world.agent(&["enforce", "--once"]).get_args());
    assert!(enforced.status().unwrap().success(), "{}", world.status());
    let meta = fs::metadata(keys.join("alice")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), mode(&keys.join("alice"))),
        (0, ALICE, 0o640)
    );
    assert!(!world.ssh("alice").exists());
    // sshd reads it as the account.
    assert!(
        shell_as(ALICE, &format!("cat {}/alice", keys.display()))
            .status
            .success()
    );
    // A directory on the way that others can write to is not one for root to work in.
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(keys.join("alice"), "x").unwrap();
    assert_eq!(world.pass(), 1);
    assert!(
        world.account("alice")["reason"]
            .as_str()
            .unwrap()
            .contains("can be changed by others than root")
    );
}

#[test]
fn homes_that_are_no_homes_are_refused() {
    let world = World::new();
    let passwd = world.path("passwd");
    let text = fs::read_to_string(&passwd).unwrap();
    let shared = world.home("bob").display().to_string();
    for (home, expected) in [
        ("/".to_owned(), "not one to work in"),
        (String::new(), "not one to work in"),
        ("relative".to_owned(), "not one to work in"),
        ("/nonexistent/home".to_owned(), "cannot open the home"),
        (shared, "is shared by"),
    ] {
        let changed = text.replace(
            &format!(":{}:", world.home("alice").display()),
            &format!(":{home}:"),
        );
        fs::write(&passwd, changed).unwrap();
        world.approve("alice", "laptop", &key("alice@laptop"));
        world.pass();
        let alice = world.account("alice");
        assert_eq!(alice["state"], "refused", "{home}: {alice}");
        assert!(
            alice["reason"].as_str().unwrap().contains(expected),
            "{home}: {alice}"
        );
    }
}

/// Each file that stood there for a moment was watched; who keeps it open keeps the watch, and there are only so many.
#[test]
fn an_account_does_not_use_up_the_watches_of_the_host() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let agent = world.start();
    let content = world.read("alice");
    let watches = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))
            .unwrap()
            .flatten();
        let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        texts
            .map(|text| {
                text.lines()
                    .filter(|line| line.starts_with("inotify wd:"))
                    .count()
            })
            .sum::<usize>()
    };
    let mut kept = Vec::new();
    for number in 0..300 {
        let planted = world.home("alice").join("planted");
        fs::write(&planted, numbered(number, "rogue")).unwrap();
        std::os::unix::fs::chown(&planted, Some(ALICE), Some(ALICE)).unwrap();
        kept.push(fs::File::open(&planted).unwrap());
        fs::rename(&planted, world.file("alice")).unwrap();
        wait("the repair", || world.read("alice") == content);
    }
    assert!(watches() < 200, "{} watches", watches());
    world.put("alice", ALICE, &key("rogue"));
    wait("a repair after all that", || world.read("alice") == content);
}

#[test]
fn a_replacement_nobody_waits_for_changes_nothing() {
    let world = World::new();
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, "old\n");
    let target = target(&world, Owner::Account);
    for allowed in 0..3_u32 {
        let left = std::cell::Cell::new(allowed);
        let wanted_still = || left.replace(left.get().saturating_sub(1)) > 0;
        let terms = Terms {
            wanted_still: &wanted_still,
            clear_obstacles: false,
            put_aside: &|_| (),
        };
        match Visit::new(&target).replace(&wanted(Owner::Account), terms, By::Owner, false) {
            Err(Refusal::Abandoned) => assert_eq!(world.read("alice"), "old\n"),
            other => assert!(other.is_ok() && allowed == 2, "{allowed}: {other:?}"),
        }
        assert!(litter(&world.ssh("alice"), &["authorized_keys"]).is_empty());
    }
    assert!(matches!(
        Visit::new(&target).look(0, &mut NoWitness).unwrap().found,
        Found::File(file) if file.content.as_ref().is_some_and(|read| read.bytes == CONTENT.as_bytes())
    ));
}
