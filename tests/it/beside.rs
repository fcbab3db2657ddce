//! `sync` beside others: a second one, a service that is just starting, one that has stopped, both halves in one.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use authorized_keys_agent::host::process;

use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{Ends, World, key, shown, signal, wait};

#[test]
fn a_second_one_waits_for_the_first_where_no_service_runs() {
    let mut world = World::new();
    let server = SsmServer::start([("/k/alice", key("alice").as_str())]);
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    server.always(Behaviour::Slow(Duration::from_millis(500)));
    let sync = || {
        let mut command = world.agent(&["sync"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let all: Vec<_> = (0..3).map(|_| sync()).collect();
    for one in all {
        let output = one.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output.stderr));
    }
    assert_eq!(server.calls(), 3);
    assert!(world.read("alice").contains("alice"));
}

#[test]
fn who_has_a_lock_lives_through_the_signals_it_is_sent() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    for _ in 0..10 {
        for (half, lock) in [
            ("fetch", "fetch-run/fetch.lock"),
            ("enforce", "run/enforce.lock"),
        ] {
            let mut command = world.agent(&[half]);
            let mut service = Ends(command.stderr(Stdio::null()).spawn().unwrap());
            let pid = service.0.id();
            wait("the lock", || {
                process::holder(&world.path(lock)).is_some_and(|holder| holder.pid == Some(pid))
            });
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
            // SIGHUP is 1, SIGUSR1 10, SIGTERM 15.
            for number in [1, 10, 15] {
                assert!(
                    caught & (1 << (number - 1)) != 0,
                    "{half}: {number}: {caught:x}"
                );
            }
            signal("TERM", pid);
            assert!(service.0.wait().unwrap().success());
        }
    }
}

#[test]
fn the_link_that_a_stopped_service_leaves_is_followed() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    fs::create_dir(world.path("private")).unwrap();
    symlink("private/fetch-run", world.path("fetch-run")).unwrap();
    let sync = world.run(&["sync"]);
    assert_eq!(sync.status.code(), Some(0), "{}", shown(&sync.stderr));
    assert!(world.path("private/fetch-run/fetch.json").exists());
    assert!(world.path("fetch-run").is_symlink());
    // One that leads nowhere is an error, and no loop.
    fs::remove_dir_all(world.path("private/fetch-run")).unwrap();
    for target in ["fetch-run", "nowhere/fetch-run", "fetch-run/below"] {
        fs::remove_file(world.path("fetch-run")).unwrap();
        symlink(target, world.path("fetch-run")).unwrap();
        let fetch = world.run(&["fetch", "--once"]);
        assert_eq!(fetch.status.code(), Some(2), "{}", shown(&fetch.stderr));
        assert!(
            shown(&fetch.stderr).contains("cannot make"),
            "{}",
            shown(&fetch.stderr)
        );
    }
}

#[test]
fn both_halves_of_one_fetch_once() {
    let mut world = World::new();
    let server = SsmServer::start([("/k/alice", key("alice").as_str())]);
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    world.every = "1h".to_owned();
    let agent = world.start();
    let before = server.calls();
    let sync = world.run(&["sync"]);
    assert_eq!(sync.status.code(), Some(0), "{}", shown(&sync.stderr));
    assert_eq!(shown(&sync.stdout), "in sync\n");
    assert_eq!(server.calls(), before + 1);
    // A person who reloads means both.
    signal("HUP", agent.pid());
    wait("the fetch", || server.calls() == before + 2);
    let (status, log) = agent.stop();
    assert!(status.success(), "{status}: {log}");
    for line in [
        "enforcer started",
        "fetcher started",
        "config read again",
        "enforcer ended",
        "fetcher ended",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn a_fetcher_that_ends_takes_nothing_with_it_and_is_started_again() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let fetcher =
        || process::holder(&world.path("fetch-run/fetch.lock")).and_then(|holder| holder.pid);
    let first = fetcher().unwrap();
    assert_ne!(first, agent.pid());
    signal("KILL", first);
    wait("the line", || agent.log().contains("the fetcher has ended"));
    let right = world.read("alice");
    world.put("alice", crate::support::world::ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == right);
    wait("the next one", || fetcher().is_some_and(|pid| pid != first));
    let second = fetcher().unwrap();
    // However the process above it ends.
    signal("KILL", agent.pid());
    wait("its end", || {
        !fs::exists(format!("/proc/{second}")).unwrap() || fetcher().is_none()
    });
    let again = world.start();
    wait("the third", || fetcher().is_some_and(|pid| pid != second));
    drop(again);
}
