//! A fetcher that was taken over: it has a uid of its own, and writes what it likes into its own directories, which root
//! reads. It directs no process of root's, keeps none waiting, and lets nobody in or out that Parameter Store could not.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use authorized_keys_agent::model::list::approved::ApprovedList;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::world::{Ends, World, comes_true, key, numbered, shell_as, shown, wait};

/// Its uid, as `DynamicUser=` gives it one.
const FETCHER: u32 = 61_004;

/// Puts something in the place of its lock, given the lock of a daemon of root's.
type PlantLock = dyn Fn(&Path, &Path);

/// Puts something in the place of one of its files.
type Plant = dyn Fn(&World, &Path);

/// Its directories.
const ITS_OWN: [&str; 2] = ["fetch-run", "fetch-state"];

/// A host in sync, whose fetcher has its own uid.
fn world() -> World {
    let mut world = World::new();
    "on-stale = \"revoke\"\nrevoke-after = \"24h\"".clone_into(&mut world.source);
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    give(&world);
    world
}

/// Gives the fetcher what is in its directories, as systemd does when it starts.
fn give(world: &World) {
    for directory in ITS_OWN {
        let path = world.path(directory);
        chown(&path, Some(FETCHER), Some(FETCHER)).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            chown(entry.unwrap().path(), Some(FETCHER), Some(FETCHER)).unwrap();
        }
    }
}

/// The agent, which must end by itself.
fn ends(world: &World, arguments: &[&str]) -> Output {
    let mut command = world.command("timeout");
    let output = command
        .args(["--signal=KILL", "20"])
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .args(arguments)
        .output()
        .unwrap();
    // timeout(1) dies of SIGKILL together with what it kills.
    assert!(output.status.code().is_some(), "{arguments:?} hangs");
    output
}

/// A daemon of root's that holds a lock, as many do; SIGHUP ends it.
fn daemon_with(lock: &Path) -> Ends {
    let daemon = Command::new("flock")
        .args(["--no-fork"])
        .arg(lock)
        .args(["sleep", "600"])
        .spawn()
        .unwrap();
    let daemon = Ends(daemon);
    wait("the daemon's lock", || {
        let mut tried = Command::new("flock");
        !succeeds(tried.arg("-n").arg(lock).arg("true"))
    });
    daemon
}

fn succeeds(command: &mut Command) -> bool {
    command.status().unwrap().success()
}

#[test]
fn sync_signals_no_process_of_root() {
    let link = |daemons: &Path, lock: &Path| symlink(daemons, lock).unwrap();
    let hard_link = |daemons: &Path, lock: &Path| fs::hard_link(daemons, lock).unwrap();
    let its_own = |_: &Path, lock: &Path| {
        fs::write(lock, "").unwrap();
        chown(lock, Some(FETCHER), Some(FETCHER)).unwrap();
    };
    let plants: [(&str, &PlantLock); 3] = [
        ("a link", &link),
        ("a hard link", &hard_link),
        (
            "its own file, which a process of root's has locked",
            &its_own,
        ),
    ];
    for (what, plant) in plants {
        let world = world();
        let (daemons, lock) = (
            world.path("daemon.lock"),
            world.path("fetch-run/fetch.lock"),
        );
        fs::write(&daemons, "").unwrap();
        fs::remove_file(&lock).unwrap();
        plant(&daemons, &lock);
        let mut daemon = daemon_with(&lock);
        let sync = ends(&world, &["sync", "--timeout", "1"]);
        assert_eq!(daemon.0.try_wait().unwrap(), None, "{what}");
        assert_ne!(sync.status.code(), Some(0), "{what}");
        assert!(world.read("alice").contains("alice"), "{what}");
    }
}

#[test]
fn a_fetcher_of_another_uid_is_asked_by_sync() {
    let world = world();
    let agent = world.path("agent");
    fs::copy(env!("CARGO_BIN_EXE_authorized-keys-agent"), &agent).unwrap();
    let slow = world.path("slow.toml");
    let text = fs::read_to_string(world.config()).unwrap();
    fs::write(&slow, text.replace("\"200ms\"", "\"1h\"")).unwrap();
    let attempts = || {
        let report = fs::read(world.path("fetch-run/fetch.json")).unwrap_or_default();
        let report: Option<serde_json::Value> = serde_json::from_slice(&report).ok();
        report.and_then(|report| report["attempts"].as_u64())
    };
    let before = attempts();
    let id = FETCHER.to_string();
    let mut fetcher = world.command("setpriv");
    fetcher.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    let fetcher = fetcher.arg(&agent).arg("--config").arg(&slow).arg("fetch");
    let _fetcher = Ends(fetcher.stderr(Stdio::null()).spawn().unwrap());
    wait("the first fetch", || attempts() > before);
    world.approve("bob", "laptop", &key("bob"));
    let sync = ends(&world, &["sync"]);
    assert_eq!(sync.status.code(), Some(0), "{}", shown(&sync.stderr));
    assert!(world.read("bob").contains("bob"));
    // Another user than root and the fetcher itself may not.
    let script = format!("{} --config {} sync", agent.display(), slow.display());
    let denied = shell_as(FETCHER + 1, &script);
    assert!(
        shown(&denied.stderr).contains("run `sync` as root"),
        "{denied:?}"
    );
}

#[test]
fn nothing_in_its_directories_is_followed_or_waited_for() {
    const SECRET: &str = "root alone may read this";
    let fifo = |_: &World, path: &Path| {
        assert!(succeeds(Command::new("mkfifo").arg(path)));
    };
    let link = |world: &World, path: &Path| symlink(world.path("secret"), path).unwrap();
    let hard_link = |world: &World, path: &Path| fs::hard_link(world.path("secret"), path).unwrap();
    let directory = |_: &World, path: &Path| fs::create_dir_all(path.join("a/b")).unwrap();
    let socket = |_: &World, path: &Path| drop(UnixListener::bind(path).unwrap());
    let nothing_ends = |_: &World, path: &Path| {
        fs::write(path, "").unwrap();
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
    };
    let plants: [(&str, &Plant); 6] = [
        ("a FIFO", &fifo),
        ("a link", &link),
        ("a hard link", &hard_link),
        ("a directory", &directory),
        ("a socket", &socket),
        ("a terabyte", &nothing_ends),
    ];
    for file in [
        "fetch-run/fetch.lock",
        "fetch-run/fetch.json",
        "fetch-state/approved.json",
    ] {
        for (what, plant) in plants {
            let world = world();
            let path: PathBuf = world.path(file);
            fs::write(world.path("secret"), SECRET).unwrap();
            fs::remove_file(&path).unwrap();
            plant(&world, &path);
            let before = fs::metadata(world.path("secret")).unwrap();
            for arguments in [
                &["status"][..],
                &["status", "--json"],
                &["check"],
                &["diff"],
                &["enforce", "--once"],
                &["sync", "--timeout", "1"],
                &["seal"],
            ] {
                let output = ends(&world, arguments);
                let said = shown(&output.stdout) + &shown(&output.stderr);
                assert!(!said.contains(SECRET), "{file}, {what}: {said}");
                assert!(!said.contains("panicked"), "{file}, {what}: {said}");
            }
            assert!(world.read("alice").contains("alice"), "{file}, {what}");
            let after = fs::metadata(world.path("secret")).unwrap();
            let facts =
                |meta: &fs::Metadata| (meta.permissions(), meta.len(), meta.modified().unwrap());
            assert_eq!(facts(&after), facts(&before), "{file}, {what}");
        }
    }
}

/// What `approved.json` holds: for each value its account, parameter and text.
fn list(values: impl IntoIterator<Item = (String, String, String)>) -> Value {
    let entry = |(account, parameter, value)| json!({"account": account, "parameter": parameter, "value": value});
    let entries: Vec<Value> = values.into_iter().map(entry).collect();
    json!({"schema": 1, "source": "x", "fetched_at": "2026-01-01T00:00:00Z", "entries": entries})
}

/// Replaces a file of the fetcher's, as it would.
fn put(world: &World, name: &str, content: &Value) {
    let (new, path) = (world.path("new"), world.path(name));
    fs::write(&new, serde_json::to_vec(content).unwrap()).unwrap();
    chown(&new, Some(FETCHER), Some(FETCHER)).unwrap();
    fs::rename(new, path).unwrap();
}

/// The most memory that a process ever had, in MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() >> 10
}

#[test]
fn a_list_beyond_a_bound_is_no_list_and_said() {
    let world = world();
    let before = world.read("alice");
    let agent = world.start_with(&["enforce"]);
    let alice = |value: String| ("alice".to_owned(), "/k/alice".to_owned(), value);
    let values = |count: usize| {
        list((0..count).map(|at| (format!("nobody{at}"), "/k".to_owned(), "#".to_owned())))
    };
    let text = "x".repeat(1 << 20);
    let mut talks = values(1);
    talks["unusable"] =
        json!([{"parameter": "/k", "parameter_version": 1, "line": 0, "reason": text}]);
    for (list, expected) in [
        (
            list((0..200).map(|_| alice(text.clone()))),
            "more than 32 MiB",
        ),
        // Nobody of them is here.
        (values(100_000), "more than 10000 parameters"),
        (
            list((0..300).map(|at| (format!("n{at}"), "/k".to_owned(), "\n".repeat(1000)))),
            "more than 200000 lines",
        ),
        (
            list([alice("\n".repeat(40_001))]),
            "more than 40000 lines for one account",
        ),
        (
            list([("alice".to_owned(), "x".repeat(4097), String::new())]),
            "a name of more than 4096 bytes",
        ),
        (talks, "a name of more than 4096 bytes"),
    ] {
        put(&world, "fetch-state/approved.json", &list);
        let said = || {
            let code = world.word()["problems"].to_string();
            code.contains("list-too-large") && world.problems().contains(expected)
        };
        wait(expected, said);
        assert!(
            world.problems().contains("split the hierarchy"),
            "{}",
            world.problems()
        );
        assert_eq!(world.read("alice"), before, "{expected}");
    }
    let peak = peak(agent.pid());
    assert!(peak < 256, "{peak} MiB");
    // A good one is taken again.
    put(
        &world,
        "fetch-state/approved.json",
        &list([alice(format!("{}\n{before}", key("new")))]),
    );
    wait("the good list", || world.keys("alice") == 2);
}

#[test]
fn a_list_takes_memory_for_what_is_managed_here() {
    let mut world = world();
    world.tables = "[guard]\nconfirmations = 1".to_owned();
    let agent = world.start_with(&["enforce"]);
    // As many as there may be, most of accounts that are not here.
    let value = |at: usize| -> String {
        let keys = (0..20).map(|line| numbered(at * 20 + line, "x") + "\n");
        keys.collect()
    };
    let account = |at: usize| match at {
        ..1000 => "alice".to_owned(),
        _ => format!("nobody{at}"),
    };
    let all = (0..10_000).map(|at| (account(at), format!("/k/{at}"), value(at)));
    put(&world, "fetch-state/approved.json", &list(all));
    let limit = Duration::from_mins(2);
    let done = comes_true(limit, || world.keys("alice") == 20_000);
    assert!(done, "{}", world.problems());
    let peak = peak(agent.pid());
    // With every key of every account that is not here it would be 197.
    assert!(peak < 160, "{peak} MiB of 512");
}

#[test]
fn a_report_beyond_its_bound_is_not_passed_on() {
    let world = world();
    let agent = world.start_with(&["enforce"]);
    let copy = world.path("run/fetch-report.json");
    wait("the copy", || copy.exists());
    let before = fs::read(&copy).unwrap();
    let report = fs::read(world.path("fetch-run/fetch.json")).unwrap();
    let mut report: Value = serde_json::from_slice(&report).unwrap();
    report["error"] = "x".repeat(100 << 20).into();
    put(&world, "fetch-run/fetch.json", &report);
    wait("the problem", || {
        world.status()["problems"]
            .to_string()
            .contains("fetch-report-unreadable")
    });
    assert!(
        world.problems().contains("has more than 1048576 bytes"),
        "{}",
        world.problems()
    );
    // Now the enforcer has looked, too.
    report["error"] = "short".into();
    put(&world, "fetch-run/fetch.json", &report);
    wait("the next copy", || {
        String::from_utf8_lossy(&fs::read(&copy).unwrap()).contains("short")
    });
    let peak = peak(agent.pid());
    assert!(peak < 100, "{peak} MiB");
    assert!(before.len() < 4096);
}

#[test]
fn the_fetcher_stores_nothing_of_a_list_beyond_a_bound() {
    let world = world();
    let stored = || fs::read(world.path("fetch-state/approved.json")).unwrap();
    let before = stored();
    let directory = world.path("approved/many");
    fs::create_dir(&directory).unwrap();
    for at in 0..10_000 {
        fs::write(directory.join(at.to_string()), "#\n").unwrap();
    }
    let fetch = world.run(&["fetch", "--once"]);
    assert_eq!(fetch.status.code(), Some(1));
    assert!(
        world.problems().contains(
            "the last fetch failed: the list has more than 10000 parameters or files; hint: split"
        ),
        "{}",
        world.problems()
    );
    assert_eq!(stored(), before);
    // One less is a list.
    fs::remove_file(directory.join("0")).unwrap();
    assert_eq!(world.run(&["fetch", "--once"]).status.code(), Some(0));
}

#[expect(
    clippy::disallowed_methods,
    reason = "what it says must be believable to a real process"
)]
fn now() -> String {
    Timestamp::now().to_string()
}

/// A fetch that ended well a moment ago and found `list`, as often in a row as it likes to say.
fn found(world: &World, list: &Value, confirmations: u32) {
    put(world, "fetch-state/approved.json", list);
    let approved: ApprovedList = serde_json::from_value(list.clone()).unwrap();
    let now = now();
    let report = json!({
        "schema": 1, "source": "x", "attempts": 1000, "began": now, "last_attempt": now, "last_success": now,
        "digest": approved.digest(), "confirmations": confirmations, "counted_at": "2000-01-01T00:00:00Z"
    });
    put(world, "fetch-run/fetch.json", &report);
}

#[test]
fn it_cannot_hurry_a_list_that_is_held() {
    let mut world = world();
    world.every = "1h".to_owned();
    let before = world.read("alice");
    let value = |account: &str, value: &str| {
        (
            account.to_owned(),
            format!("/k/{account}"),
            value.to_owned(),
        )
    };
    let another = |list: Value, instance: &str| {
        let mut list = list;
        list["instance"] = instance.into();
        list
    };
    let stays = |what: &str| {
        let now = world.read("alice");
        let mut keys = before.lines().filter(|line| !line.starts_with('#'));
        assert!(keys.all(|line| now.contains(line)), "{what}: {now}");
    };
    for (what, lists) in [
        ("other keys", vec![list([value("alice", &key("rogue"))]); 4]),
        // Each is another list that leaves the same here.
        (
            "the same in other words",
            (0..4)
                .map(|at| {
                    list([
                        value("alice", "# gone"),
                        value(&format!("n{at}"), &numbered(1, "x")),
                    ])
                })
                .collect(),
        ),
        (
            "tombstones alone",
            vec![list([value("alice", "# gone")]); 4],
        ),
        ("nothing", vec![list([]); 4]),
        // The firmware here does not say which instance it is.
        (
            "another instance's",
            ["i-00000001", "i-00000002", "i-00000003", "i-00000004"]
                .map(|id| another(list([]), id))
                .into(),
        ),
    ] {
        for (list, confirmations) in lists.iter().zip([1, 1000, 2000, 3000]) {
            found(&world, list, confirmations);
            for _ in 0..2 {
                assert_eq!(
                    ends(&world, &["enforce", "--once"]).status.code(),
                    Some(1),
                    "{what}"
                );
                stays(what);
            }
        }
        assert!(
            world.problems().contains("would remove 1 of 1 keys"),
            "{what}: {}",
            world.problems()
        );
    }
    stays("in the end");
}
