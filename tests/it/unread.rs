//! Nobody takes what the agent says: the log's pipe is not read, journald is stopped, the service manager hangs. It goes on
//! repairing, and ends when it is told to; what was lost is counted and said.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::journal::with_journald;
use crate::support::world::{ALICE, Ends, World, key, signal, wait};

/// alice's file, with one key, and an agent to be started.
fn world() -> World {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    world
}

/// Tampers until more was said than anybody holds for a reader; each time the file is right again.
fn tamper(world: &World, times: usize) {
    let right = world.read("alice");
    for _ in 0..times {
        world.put("alice", ALICE, &key("rogue"));
        wait("the repair", || world.read("alice") == right);
    }
}

fn ends_in_time(mut agent: Ends) {
    let begun = Instant::now();
    signal("TERM", agent.0.id());
    let status = agent.0.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

/// What a stuck reader leaves to its writers: nothing.
fn fill(pipe: &OwnedFd) {
    let filler = Command::new("sh")
        .args([
            "-c",
            "exec timeout 1 dd if=/dev/zero bs=4096 count=1000 2>&-",
        ])
        .stdout(pipe.try_clone().unwrap())
        .status()
        .unwrap();
    assert!(!filler.success(), "a pipe has an end");
}

#[test]
fn a_log_that_nobody_reads_stops_no_repair_and_what_was_lost_is_said() {
    let world = world();
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    fill(&writer);
    let mut command = world.agent(&["--log", "debug", "run"]);
    command.stdout(Stdio::null()).stderr(writer);
    let agent = Ends(command.spawn().unwrap());
    drop(command);
    wait("the first pass", || {
        world.read("alice").contains("alice@laptop")
    });
    tamper(&world, 3);
    // More than is kept for a reader: the list changes, with a line for each of many that cannot be taken.
    let long = world.path("approved/bob").join("x".repeat(250));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("x".repeat(250)), "not a key\n".repeat(1000)).unwrap();
    let lost = || world.word()["problems"].to_string().contains("log-lost");
    wait("the problem", || {
        signal("HUP", agent.0.id());
        lost()
    });
    tamper(&world, 1);
    // Somebody reads again.
    let read = world.path("read");
    let mut reading = Command::new("cat")
        .stdin(reader)
        .stdout(File::create(&read).unwrap())
        .spawn()
        .unwrap();
    wait("the end of the problem", || {
        signal("HUP", agent.0.id());
        !lost()
    });
    ends_in_time(agent);
    reading.wait().unwrap();
    let log = String::from_utf8_lossy(&fs::read(read).unwrap()).into_owned();
    assert!(
        log.contains("so many lines were not logged"),
        "{}",
        log.len()
    );
}

#[test]
fn a_log_that_is_never_read_keeps_nobody_from_ending() {
    let world = world();
    let (_reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    fill(&writer);
    let mut command = world.agent(&["run"]);
    let agent = Ends(
        command
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap(),
    );
    wait("the first pass", || {
        world.read("alice").contains("alice@laptop")
    });
    tamper(&world, 1);
    ends_in_time(agent);
    // One that cannot even start ends, too.
    fs::write(world.path("broken.toml"), "x").unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    fill(&writer);
    let mut broken = world.command(env!("CARGO_BIN_EXE_authorized-keys-agent"));
    broken
        .arg("--config")
        .arg(world.path("broken.toml"))
        .arg("run");
    let mut broken = Ends(broken.stderr(writer).spawn().unwrap());
    wait("its end", || broken.0.try_wait().unwrap().is_some());
}

/// A socket whose queue is full.
fn full_socket(path: &std::path::Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"x", path).is_ok() {}
    socket
}

#[test]
fn a_service_manager_that_hangs_stops_nothing_and_hears_all_once_it_goes_on() {
    let world = world();
    let path = world.path("notify");
    let manager = full_socket(&path);
    let mut command = world.agent(&["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdout(Stdio::null())
        .stderr(File::create(world.path("log")).unwrap());
    let agent = Ends(command.spawn().unwrap());
    wait("the first pass", || {
        world.read("alice").contains("alice@laptop")
    });
    tamper(&world, 3);
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut buffer = [0; 4096];
    let mut told = || {
        let length = manager.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    while !told().contains("READY=1") {}
    while !told().contains("WATCHDOG=1") {}
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"x", &path).is_ok() {}
    ends_in_time(agent);
}

#[test]
fn a_journald_that_is_stopped_stops_no_repair() {
    let world = world();
    fs::create_dir(world.path("journal")).unwrap();
    // Bound first: it must answer when the agent starts.
    let journal = UnixDatagram::bind(world.path("journal/socket")).unwrap();
    let agent = Ends(with_journald(&world, &["run"]).spawn().unwrap());
    wait("the first pass", || {
        world.read("alice").contains("alice@laptop")
    });
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"x", world.path("journal/socket")).is_ok() {}
    tamper(&world, 3);
    ends_in_time(agent);
    drop(journal);
}
