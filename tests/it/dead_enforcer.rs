//! An enforcer that is killed while a thread of it hangs stays as a dead process that keeps its lock. It is no enforcer.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use authorized_keys_agent::host::process::lock;

use crate::support::fuse::Fuse;
use crate::support::world::{ALICE, BOB, Ends, World, key, shown, signal, wait};

/// Who writes into a file in alice's home never gets an answer. All that hangs there ends with it, so it is dropped first.
struct Scene {
    _home: Fuse,
    enforcers: Vec<Ends>,
    world: World,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        for account in ["alice", "bob"] {
            world.approve(account, "laptop", &key(account));
        }
        world.run(&["fetch", "--once"]);
        world.make_ssh("alice", ALICE);
        world.put("alice", ALICE, &key("rogue"));
        let (place, shown) = (world.home("alice"), world.path("shown"));
        fs::rename(&place, &shown).unwrap();
        fs::create_dir(&place).unwrap();
        // Root's own mount, as of sshfs for homes.
        let home = Fuse::mount(&place, 0, &shown, None);
        Self {
            _home: home,
            enforcers: Vec::new(),
            world,
        }
    }

    fn start(&mut self, half: &str) -> u32 {
        let started = self
            .world
            .agent(&[half])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = started.id();
        self.enforcers.push(Ends(started));
        pid
    }

    fn wait_for_the_word_of(&self, pid: u32) {
        wait("the word of the enforcer", || {
            let word = self.world.word();
            let is = |name, state: &str| {
                let mut rows = word["accounts"].as_array().unwrap().iter();
                rows.any(|row| row["name"] == name && row["state"] == state)
            };
            word["enforcer"]["pid"] == pid && is("bob", "in-sync") && is("alice", "refused")
        });
    }
}

/// Kills an enforcer that hangs in alice's home.
fn kill(pid: u32) {
    signal("KILL", pid);
    wait("the enforcer to be dead and not gone", || {
        state(pid) == Some('Z')
    });
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    assert!(threads.count() > 1, "no thread of it hangs");
}

/// `proc_pid_stat(5)`, of the main thread.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[test]
fn a_dead_enforcer_is_replaced() {
    let mut scene = Scene::new();
    let first = scene.start("enforce");
    scene.wait_for_the_word_of(first);
    kill(first);
    let status = scene.world.status();
    assert_eq!(status["health"], "stopped", "{status}");
    let check = scene.world.run(&["check"]);
    assert!(shown(&check.stdout).contains("not running"), "{check:?}");
    scene.world.put("bob", BOB, &key("rogue"));
    let second = scene.start("enforce");
    scene.wait_for_the_word_of(second);
    assert!(scene.world.read("bob").contains("bob"));
    assert_eq!(scene.world.status()["health"], "degraded");
    // That one lives, and is the only one.
    let third = scene.world.run(&["enforce", "--once"]);
    assert_eq!(third.status.code(), Some(2));
    let said = shown(&third.stderr);
    assert!(
        said.contains(&format!("another one is running (pid {second})")),
        "{said}"
    );
}

/// Locks the files that it is told of, and then hangs in a write that is never answered; its main thread can be killed.
const HOLDER: &str = "import fcntl, os, sys, threading, time
held = [open(name, 'w') for name in sys.argv[2:]]
for file in held: fcntl.flock(file, fcntl.LOCK_EX)
hangs = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
threading.Thread(target=lambda: os.write(hangs, b'x')).start()
print('ready', flush=True)
time.sleep(1000)";

#[test]
fn of_many_that_would_replace_a_dead_enforcer_one_does() {
    const ROUNDS: usize = 300;
    const STARTERS: usize = 8;
    let mut scene = Scene::new();
    fs::create_dir(scene.world.path("run")).unwrap();
    let path = |round: usize| scene.world.path(&format!("run/{round}.lock"));
    let mut holder = Command::new("python3")
        .args(["-c", HOLDER])
        .arg(scene.world.home("alice").join("hangs"))
        .args((0..ROUNDS).map(path))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert_eq!(ready, "ready\n");
    let pid = holder.id();
    let paths: Vec<PathBuf> = (0..ROUNDS).map(path).collect();
    scene.enforcers.push(Ends(holder));
    kill(pid);
    for (round, path) in paths.iter().enumerate() {
        let begin = Barrier::new(STARTERS);
        let take = || {
            begin.wait();
            self::lock(path)
        };
        // Each keeps what it has until all have tried.
        let taken: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(take)).collect();
            starters
                .into_iter()
                .map(|starter| starter.join().unwrap())
                .collect()
        });
        let owners = taken.iter().filter(|taken| taken.is_ok()).count();
        assert_eq!(owners, 1, "round {round}: {taken:?}");
    }
}

/// Then the dead one has the fetcher's lock as well.
#[test]
fn both_halves_in_one_process_are_replaced_together() {
    let mut scene = Scene::new();
    for _ in 0..2 {
        let pid = scene.start("run");
        scene.wait_for_the_word_of(pid);
        kill(pid);
    }
}

#[test]
fn sync_and_seal_do_what_a_dead_enforcer_would_not() {
    let mut scene = Scene::new();
    let first = scene.start("enforce");
    scene.wait_for_the_word_of(first);
    kill(first);
    // Or what does it would hang as well.
    scene.world.accounts = "manage = [\"bob\"]".to_owned();
    scene.world.put("bob", BOB, &key("rogue"));
    scene.world.run(&["sync"]);
    assert!(scene.world.read("bob").contains("bob"));
    let sealed = scene.world.run(&["seal"]);
    assert_eq!(sealed.status.code(), Some(0), "{}", shown(&sealed.stderr));
    assert!(!scene.world.path("state/enforced.json").exists());
}
