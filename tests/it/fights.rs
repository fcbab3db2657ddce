//! An account that plants a key again and again, by processes of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::slow::{end, start_traced};
use crate::support::world::{ALICE, Ends, World, comes_true, key, mode, plant, shell_as, wait};

/// alice plants in a loop, as fast as can be; ends with the test.
fn planting(world: &World) -> Ends {
    let script = format!(
        "cd {}; while :; do cp /dev/stdin x <<'END'\n{}\nEND\nmv -f x authorized_keys; done",
        world.ssh("alice").display(),
        key("rogue")
    );
    // By its path each time: the directory may be another one.
    let script = script.replacen(
        "while :; do",
        &format!("while :; do cd {} &&", world.ssh("alice").display()),
        1,
    );
    let id = ALICE.to_string();
    let child = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["sh", "-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Ends(child)
}

fn is_locked(world: &World) -> bool {
    let flags = Command::new("lsattr")
        .arg("-d")
        .arg(world.ssh("alice"))
        .output()
        .unwrap();
    let flags = String::from_utf8_lossy(&flags.stdout).into_owned();
    flags
        .split_whitespace()
        .next()
        .is_some_and(|flags| flags.contains('i'))
}

fn problem(world: &World) -> Option<String> {
    let status = world.status();
    let mut all = status["problems"].as_array().unwrap().iter();
    let fight = all.find(|problem| problem["code"] == "fight")?;
    Some(fight["text"].as_str().unwrap().to_owned())
}

#[test]
fn who_fights_changes_nothing_any_more_and_gets_its_directory_back() {
    let mut world = World::new();
    world.accounts.push_str("\nlock = \"in-a-fight\"");
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let content = world.read("alice");
    plant(&world.ssh("alice").join("known_hosts"), ALICE, "a host\n");
    let fight = planting(&world);
    wait("the lock", || is_locked(&world));
    wait("the word", || problem(&world).is_some());
    let text = problem(&world).unwrap();
    assert!(
        text.contains("alice changes the file again and again") && text.contains("until"),
        "{text}"
    );
    // However often it is read, and whatever the account tries.
    for _ in 0..2000 {
        assert_eq!(world.read("alice"), content);
    }
    let (h, s) = (world.home("alice"), world.ssh("alice"));
    for script in [
        format!("mv {s} {h}/gone", s = s.display(), h = h.display()),
        format!("rm -rf {}", s.display()),
        format!("echo x > {}/authorized_keys2", s.display()),
        format!("chmod 700 {}", s.display()),
        format!("ls {}", s.display()),
    ] {
        assert!(!shell_as(ALICE, &script).status.success(), "{script}");
    }
    // What ssh has there it can still use.
    let hosts = shell_as(ALICE, &format!("cat {}/known_hosts", s.display()));
    assert_eq!(hosts.stdout, b"a host\n");
    // A list that changes meanwhile arrives all the same.
    world.approve("alice", "phone", &key("alice@phone"));
    wait("the new key", || {
        world.read("alice").contains("alice@phone")
    });
    wait("the lock after it", || is_locked(&world));
    drop(fight);
    let content = world.read("alice");
    assert!(
        comes_true(std::time::Duration::from_mins(1), || !is_locked(&world)
            && fs::metadata(world.ssh("alice"))
                .is_ok_and(|meta| meta.uid() == ALICE)),
        "given back"
    );
    let meta = fs::metadata(world.ssh("alice")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o700);
    wait("a status without it", || {
        world.account("alice")["state"] == "in-sync"
    });
    assert_eq!(world.read("alice"), content);
    plant(&world.file("alice"), ALICE, &key("once more"));
    wait("the repair as ever", || world.read("alice") == content);
    let (status, log) = agent.stop();
    assert!(status.success());
    for line in [
        "plants keys again and again",
        "belongs to the account again",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn an_agent_that_ends_leaves_nothing_locked_and_one_that_was_killed_opens_it_at_the_next_start() {
    let mut world = World::new();
    world.accounts.push_str("\nlock = \"always\"");
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let content = world.read("alice");
    wait("the lock", || is_locked(&world));
    assert!(agent.stop().0.success());
    assert!(!is_locked(&world));
    assert_eq!(fs::metadata(world.ssh("alice")).unwrap().uid(), ALICE);
    let agent = world.start();
    wait("the lock again", || is_locked(&world));
    crate::support::world::signal("KILL", agent.pid());
    drop(agent);
    assert!(is_locked(&world));
    world.accounts = world.accounts.replace("always", "in-a-fight");
    let agent = world.start();
    wait("the directory to be given back", || {
        !is_locked(&world) && fs::metadata(world.ssh("alice")).unwrap().uid() == ALICE
    });
    assert_eq!(world.read("alice"), content);
    assert!(agent.stop().0.success());
}

/// What alice does when she sees the directory that the agent makes: another one of root's gets its name.
const EXCHANGES: &str = r#"
my ($home) = @ARGV;
while (1) {
    opendir(my $all, $home);
    my ($made) = grep { /^\.ssh\.aside-/ } readdir($all);
    next unless $made;
    syscall(RENAMEAT2, -100, "$home/$made", -100, "$home/of-root", 2);
    last;
}
sleep 100;
"#;

/// Root works in no directory but the one it made, whatever has its name by then.
#[test]
fn a_directory_of_roots_that_an_account_moves_there_stays_as_it_is() {
    let mut world = World::new();
    world.accounts.push_str("\nlock = \"always\"");
    world.approve("alice", "laptop", &key("alice"));
    let private = world.home("alice").join("of-root");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(private.join("secret"), "of root").unwrap();
    let inode = fs::metadata(&private).unwrap().ino();
    let number = if cfg!(target_arch = "x86_64") {
        "316"
    } else {
        "276"
    };
    let id = ALICE.to_string();
    let moving = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["perl", "-e", &EXCHANGES.replace("RENAMEAT2", number)])
        .arg(world.home("alice"))
        .spawn()
        .unwrap();
    let moving = Ends(moving);
    // Between the making of the directory and its opening.
    let held = "inject=mkdirat:delay_exit=500000";
    let slow = start_traced(&world, &["-e", "trace=mkdirat", "-e", held], &[], "run");
    wait("the exchange", || {
        fs::metadata(&private).is_ok_and(|meta| meta.ino() != inode)
    });
    wait("the lock all the same", || is_locked(&world));
    let moved = fs::read_dir(world.home("alice")).unwrap().flatten();
    let is_it = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == inode);
    let moved = moved.map(|entry| entry.path()).find(is_it).unwrap();
    assert_eq!(mode(&moved), 0o700);
    let names: Vec<_> = fs::read_dir(&moved).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    drop(moving);
    end(&world, slow);
}

/// A lock that is not to be had is said once, and not tried again and again.
#[test]
fn what_cannot_be_locked_is_said_and_left_as_it_is() {
    let mut world = World::new();
    world
        .accounts
        .push_str("\nlock = \"always\"\nfile = \"%h/.keys\"");
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start_with(&["--log", "debug", "run"]);
    wait("the word", || problem(&world).is_some());
    let text = problem(&world).unwrap();
    assert!(
        text.contains("cannot lock the directory of alice")
            && text.contains("not in a directory of its own"),
        "{text}"
    );
    // Whatever else happens there.
    let passes = || agent.log().matches("trigger=Drift").count();
    let (before, saved) = (
        passes(),
        fs::metadata(world.path("state/enforced.json")).unwrap(),
    );
    for number in 0..5 {
        plant(
            &world.home("alice").join(".keys"),
            ALICE,
            &format!("{number}\n"),
        );
        wait("the repair", || {
            fs::read_to_string(world.home("alice").join(".keys"))
                .is_ok_and(|text| text.contains("alice"))
        });
    }
    wait("the passes", || passes() >= before + 5);
    let now = fs::metadata(world.path("state/enforced.json")).unwrap();
    assert_eq!(
        now.ino(),
        saved.ino(),
        "nothing is noted of a lock any more"
    );
    assert!(problem(&world).is_some());
    assert!(agent.stop().0.success());
}
