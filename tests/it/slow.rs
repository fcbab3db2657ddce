//! Slow and hanging file systems: slow work is finished, and one account's disk is nobody else's trouble.
//!
//! strace holds a system call for a while, as a busy journal, an exhausted volume or a dead server would.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::world::{ALICE, BOB, Ends, World, key, shell_as, signal, wait};

/// One half, or both (`run`), below strace with these arguments.
pub fn start_traced(world: &World, arguments: &[&str], paths: &[PathBuf], half: &str) -> Ends {
    let mut command = world.command("strace");
    command
        .args(["-f", "-qqq", "-o", "/dev/null"])
        .args(arguments);
    for path in paths {
        command.arg("-P").arg(path);
    }
    command
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg(half);
    // The agent goes with strace: a tracer that is killed lets its tracee run on.
    let mut guarded = std::process::Command::new("setpriv");
    guarded
        .args(["--pdeathsig", "TERM"])
        .arg(command.get_program())
        .args(command.get_args());
    Ends(
        guarded
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// One half, or both, with every `call` on `paths` (or everywhere) held for `seconds`.
fn start_slow(world: &World, call: &str, seconds: u32, paths: &[PathBuf], half: &str) -> Ends {
    let inject = format!(
        "inject={call}:delay_enter={}",
        u64::from(seconds) * 1_000_000
    );
    start_traced(
        world,
        &["-e", &format!("trace={call}"), "-e", &inject],
        paths,
        half,
    )
}

/// Ends the agent itself, which strace leaves running when it is killed; killed at once, it also loses the signal, which
/// passes through it.
pub fn end(world: &World, slow: Ends) {
    let pid = || world.word()["enforcer"]["pid"].as_u64();
    wait("the agent's word", || pid().is_some());
    let pid = pid().unwrap();
    signal("TERM", u32::try_from(pid).unwrap());
    // Threads that strace holds keep what is left of the process.
    wait("the agent's end", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    });
    drop(slow);
}

#[test]
fn a_replacement_that_takes_longer_than_anybody_waits_is_finished() {
    let world = World::new();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    let slow = start_slow(&world, "renameat", 3, &[], "run");
    wait("both files", || {
        world.read("alice").contains("alice") && world.read("bob").contains("bob")
    });
    let content = world.read("alice");
    world.put("alice", ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == content);
    wait("a status that knows", || {
        world.account("alice")["state"] == "in-sync"
    });
    // Nobody waited for it, and it is known all the same.
    wait("the incident", || {
        world
            .incidents()
            .iter()
            .any(|incident| incident.to_string().contains("\"rogue\""))
    });
    assert_eq!(world.status()["drift"]["repaired"], 1);
    end(&world, slow);
}

/// The file is the account's from the moment that it has the name, and not only once it was looked at again; and what was seen
/// is told whatever becomes of the thread that saw it.
#[test]
fn a_key_that_is_planted_before_the_look_after_the_first_write_is_an_incident() {
    for call in ["delay_exit=150000", "delay_exit=2000000:when=1"] {
        let world = World::new();
        world.approve("alice", "laptop", &key("alice"));
        world.run(&["fetch", "--once"]);
        // A directory and a file that are there: then the first rename of the agent is that of its file.
        fs::create_dir(world.ssh("alice")).unwrap();
        chown(world.ssh("alice"), Some(ALICE), Some(ALICE)).unwrap();
        world.put("alice", ALICE, "");
        let inject = format!("inject=renameat:{call}");
        let late = ["-e", "trace=renameat", "-e", &inject];
        let slow = start_traced(&world, &late, &[world.ssh("alice")], "enforce");
        wait("the file", || world.read("alice").contains("alice"));
        let content = world.read("alice");
        world.put("alice", ALICE, &key("rogue"));
        wait("the repair", || world.read("alice") == content);
        wait("the incident", || {
            let mut all = world.incidents().into_iter();
            all.any(|incident| incident.to_string().contains("\"rogue\""))
        });
        end(&world, slow);
    }
}

/// The kernel tells of a lease by a signal to whoever took it, and that thread may have ended: here it took bob's, and then was
/// slow with alice.
#[test]
fn a_write_is_prevented_whichever_thread_took_the_lease() {
    let world = World::new();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    world.run(&["fetch", "--once"]);
    let slow = start_slow(&world, "renameat", 1, &[world.ssh("alice")], "enforce");
    let in_sync = |account: &str| world.account(account)["state"] == "in-sync";
    wait("both files", || in_sync("alice") && in_sync("bob"));
    let (alice, bob) = (world.read("alice"), world.read("bob"));
    world.put("alice", ALICE, &key("rogue"));
    wait("alice's repair", || world.read("alice") == alice);
    let repaired = || world.status()["drift"]["repaired"].as_u64().unwrap();
    wait("its word", || repaired() == 1);
    let write = format!("echo rogue >> {}", world.file("bob").display());
    let began = Instant::now();
    assert!(shell_as(BOB, &write).status.success());
    assert!(began.elapsed() < Duration::from_secs(30));
    wait("the incident", || {
        let all = world.incidents();
        all.iter().any(|incident| incident["undone"] == "prevented")
    });
    assert_eq!(world.read("bob"), bob);
    end(&world, slow);
}

/// A server with many homes dies: each of them would be waited for, one after the other, at every start.
#[test]
fn homes_that_hang_keep_the_others_waiting_for_a_moment_only() {
    use std::fmt::Write;
    const HANGING: u32 = 40;
    let mut world = World::new();
    world.accounts = "manage = [\"bob\", \"a*\"]".to_owned();
    let mut passwd = fs::read_to_string(world.path("passwd")).unwrap();
    let names: Vec<String> = (0..HANGING).map(|number| format!("aaa{number}")).collect();
    for (name, uid) in names.iter().zip(41_000..) {
        let home = world.home(name);
        writeln!(passwd, "{name}:x:{uid}:{uid}::{}:/bin/sh", home.display()).unwrap();
        std::fs::create_dir_all(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
        world.approve(name, "laptop", &key(name));
    }
    fs::write(world.path("passwd"), passwd).unwrap();
    world.approve("bob", "laptop", &key("bob"));
    world.run(&["fetch", "--once"]);
    let homes: Vec<PathBuf> = names.iter().map(|name| world.home(name)).collect();
    let slow = start_slow(&world, "mkdirat", 120, &homes, "enforce");
    wait("bob's file", || world.read("bob").contains("bob"));
    wait("the others to be reported", || {
        names
            .iter()
            .all(|name| world.account(name)["state"] == "refused")
    });
    // Who waits for a pass that hangs waits for ever; a stop does not.
    end(&world, slow);
}

#[test]
fn an_account_whose_disk_hangs_is_alone_with_it() {
    let world = World::new();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    assert_eq!(world.pass(), 0);
    let (alice, bob) = (world.read("alice"), world.read("bob"));
    // All of it: what is only held by the account is mended one level up.
    let disk = [world.home("alice"), world.ssh("alice")];
    let slow = start_slow(&world, "renameat,mkdirat", 12, &disk, "run");
    wait("the running agent", || {
        world.status()["health"] != "stopped"
    });
    world.put("alice", ALICE, &key("rogue"));
    wait("alice to be reported", || {
        world.problems().contains("alice is refused")
    });
    for _ in 0..3 {
        world.put("bob", BOB, &key("rogue"));
        wait("bob's repair meanwhile", || world.read("bob") == bob);
        assert_ne!(world.read("alice"), alice, "alice's disk still hangs");
    }
    // What is wanted of bob changes meanwhile, too.
    world.approve("bob", "phone", &key("bob@phone"));
    wait("bob's new key", || world.read("bob").contains("bob@phone"));
    wait("alice's repair in the end", || world.read("alice") == alice);
    wait("alice in sync", || {
        world.account("alice")["state"] == "in-sync"
    });
    end(&world, slow);
}

/// True while a thread of this world's agent is about to put a watch on.
fn puts_a_watch_on(world: &World) -> bool {
    let number = if cfg!(target_arch = "x86_64") {
        "254 "
    } else {
        "27 "
    };
    let config = world.path("config.toml").display().to_string();
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let own = line.contains(&config)
            && line
                .split('\0')
                .next()
                .is_some_and(|program| program.ends_with("-agent"));
        let threads = || {
            fs::read_dir(process.path().join("task"))
                .into_iter()
                .flatten()
                .flatten()
        };
        let calls = |task: std::fs::DirEntry| {
            fs::read_to_string(task.path().join("syscall")).unwrap_or_default()
        };
        own && threads().any(|task| calls(task).starts_with(number))
    })
}

#[test]
fn a_list_whose_directory_comes_while_it_is_looked_for_is_seen() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let held = "inject=inotify_add_watch:delay_enter=500000:when=1..2";
    let slow = start_traced(
        &world,
        &["-e", "trace=inotify_add_watch", "-e", held],
        &[],
        "enforce",
    );
    wait("the watch on what is above", || puts_a_watch_on(&world));
    std::fs::create_dir(world.path("fetch-state")).unwrap();
    wait("the first pass", || world.path("run/status.json").exists());
    world.run(&["fetch", "--once"]);
    wait("the list", || world.read("alice").contains("alice"));
    end(&world, slow);
}
