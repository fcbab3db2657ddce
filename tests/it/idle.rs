//! An idle agent does no work: no write, no line in the log.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::logins::written;
use crate::support::world::{ALICE, Ends, World, key, shell_as, wait};

/// Every file of the agent's and what would change if it were written.
fn stamps(world: &World) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let files = [
        "home/alice/.ssh/authorized_keys",
        "state/enforced.json",
        "run/status.json",
        "fetch-state/approved.json",
    ];
    let stamp = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.ino(), meta.mtime(), meta.mtime_nsec())
    };
    files
        .iter()
        .map(|name| (world.path(name), stamp(&world.path(name))))
        .collect()
}

#[test]
fn many_passes_write_nothing_and_say_nothing() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"100ms\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start_with(&["--log", "debug", "run"]);
    // What it says is taken down once.
    wait("sshd's answer", || written(&world)["sshd"].is_object());
    let passes = |text: &str| text.matches("trigger=Timer").count();
    let (before, log, attempts) = (stamps(&world), agent.log(), attempts(&world));
    wait("twenty more passes", || {
        passes(&agent.log()) >= passes(&log) + 20
    });
    wait("five more fetches", || {
        self::attempts(&world) >= attempts + 5
    });
    assert_eq!(stamps(&world), before);
    let new: Vec<String> = agent.log()[log.len()..]
        .lines()
        .map(str::to_owned)
        .collect();
    let loud = new
        .iter()
        .filter(|line| !line.trim_start().starts_with("DEBUG"));
    assert_eq!(loud.count(), 0, "{new:?}");
    let drift = new
        .iter()
        .filter(|line| line.contains("trigger=Drift"))
        .count();
    assert_eq!(drift, 0, "the agent's own reading wakes it: {new:?}");
}

fn attempts(world: &World) -> u64 {
    let text = fs::read_to_string(world.path("fetch-run/fetch.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["attempts"]
        .as_u64()
        .unwrap()
}

/// The watchdog is fed by time, not by quiet: what the fetcher does every moment is no reason to starve it.
#[test]
fn a_loop_that_is_woken_all_the_time_still_says_that_it_works() {
    let mut world = World::new();
    world.every = "100ms".to_owned();
    world.tables = "[verify]\nevery = \"1h\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    world.run(&["fetch", "--once"]);
    let path = world.path("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_nonblocking(true).unwrap();
    let _fetcher = Ends(
        world
            .agent(&["fetch"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    world
        .environment
        .push(("NOTIFY_SOCKET", path.display().to_string()));
    world
        .environment
        .push(("WATCHDOG_USEC", "900000".to_owned()));
    let _agent = world.start_with(&["enforce"]);
    let begun = attempts(&world);
    let mut beats = 0;
    let mut buffer = [0; 4096];
    wait("the watchdog to be fed", || {
        while let Ok(length) = told.recv(&mut buffer) {
            // A pass says so too; there is none but the first, and what sshd's answer brings about.
            beats += String::from_utf8_lossy(&buffer[..length])
                .matches("WATCHDOG=1")
                .count();
        }
        beats >= 12
    });
    assert!(attempts(&world) > begun + 10, "it was woken meanwhile");
}

/// sshd reads the file at each login, and the account may read it in a loop: neither is the agent's business.
#[test]
fn reading_a_managed_file_wakes_no_thread_that_watches_it() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"1h\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    world.run(&["fetch", "--once"]);
    let agent = world.start_with(&["enforce"]);
    wait("sshd's answer", || {
        crate::support::logins::written(&world)["sshd"].is_object()
    });
    let watcher = watcher(agent.pid());
    wait("the watcher to sleep", || {
        let before = woken(&watcher);
        std::thread::sleep(Duration::from_millis(100));
        woken(&watcher) == before
    });
    let before = woken(&watcher);
    let file = world.file("alice");
    let reading = format!(
        "cd {} && i=0; while [ $i -lt 3000 ]; do read -r line < authorized_keys || exit; i=$((i + 1)); done; ls",
        file.parent().unwrap().display()
    );
    let read = shell_as(ALICE, &reading);
    assert!(read.status.success(), "{read:?}");
    assert_eq!(woken(&watcher), before, "the watcher was woken by reading");
    // It sleeps, and is not dead.
    let written = shell_as(ALICE, &format!("echo planted >> {}", file.display()));
    assert!(written.status.success(), "{written:?}");
    wait("the write to be undone", || {
        !world.read("alice").contains("planted")
    });
    assert!(woken(&watcher) > before);
}

/// The thread of a process that waits for inotify, as `proc(5)` shows it.
fn watcher(pid: u32) -> PathBuf {
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let is_it = |thread: &Path| {
        fs::read_to_string(thread.join("comm"))
            .unwrap()
            .contains("inoti")
    };
    threads
        .find_map(|thread| Some(thread.unwrap().path()).filter(|thread| is_it(thread)))
        .unwrap()
}

/// How often a thread has gone to sleep: once each time it was woken.
fn woken(thread: &Path) -> u64 {
    let text = fs::read_to_string(thread.join("status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}
