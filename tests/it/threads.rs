//! No thread is to be had: a limit is used up, by the agent's own that hang or by whatever else. strace refuses each new one
//! while it is attached.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::sessions::{host, log_in};
use crate::support::logins;
use crate::support::world::{ALICE, Ends, World, key, signal, wait};

/// Neither a thread nor a child, until this is dropped. strace lets go of its tracee when it is told to end.
struct NoThreads(Ends);

impl NoThreads {
    fn of(pid: u32) -> Self {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=clone,clone3"])
            .args(["-e", "inject=clone,clone3:error=EAGAIN", "-p"])
            .arg(pid.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let strace = Ends(strace.spawn().expect("strace is needed"));
        let is_traced = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        wait("strace", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.flatten().all(is_traced)
        });
        Self(strace)
    }

    fn end(mut self) {
        signal("TERM", self.0.0.id());
        self.0.0.wait().unwrap();
    }
}

/// What the enforcer says is wrong, by its codes.
fn says(world: &World, code: &str) -> bool {
    let word = world.word();
    let problems = word["problems"].as_array().cloned().unwrap_or_default();
    problems
        .iter()
        .any(|problem: &Value| problem["cause"].to_string().contains(code))
}

/// One half, which strace can be attached to before it does anything.
fn start_halted(world: &World, half: &str) -> Ends {
    let mut agent = world.command("sh");
    agent
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg(half)
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(fs::File::create(world.path("log")).unwrap());
    let agent = Ends(agent.spawn().unwrap());
    let stat = format!("/proc/{}/stat", agent.0.id());
    wait("it to halt", || {
        fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    agent
}

fn assert_lives(agent: &mut Ends, world: &World) {
    let ended = agent.0.try_wait().unwrap();
    let log = || fs::read_to_string(world.path("log")).unwrap();
    assert!(ended.is_none(), "{ended:?}: {}", log());
}

#[test]
fn an_enforcer_that_gets_no_thread_says_so_and_goes_on_once_it_does() {
    let world = host();
    let alice = key("alice");
    world.approve("alice", "laptop", &alice);
    log_in(&world, "3", "alice", 103, &alice);
    world.run(&["fetch", "--once"]);
    let mut agent = start_halted(&world, "enforce");
    let none = NoThreads::of(agent.0.id());
    signal("CONT", agent.0.id());
    wait("the problem", || says(&world, "no-threads"));
    assert_lives(&mut agent, &world);
    assert_eq!(world.read("alice"), "");
    none.end();
    wait("the file", || world.read("alice").contains("alice"));
    wait("the end of the problem", || {
        !says(&world, "no-threads") && !says(&world, "nothing-watched")
    });
    let right = world.read("alice");
    world.put("alice", ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == right);
    assert_lives(&mut agent, &world);
}

#[test]
fn an_enforcer_that_gets_no_thread_any_more_loses_no_incident() {
    let world = host();
    let alice = key("alice");
    world.approve("alice", "laptop", &alice);
    log_in(&world, "3", "alice", 103, &alice);
    let agent = world.start();
    let right = world.read("alice");
    let none = NoThreads::of(agent.pid());
    for number in 1..=2 {
        world.put("alice", ALICE, &key("rogue"));
        wait("the repair", || world.read("alice") == right);
        wait("the problem", || says(&world, "no-threads"));
        wait("the count", || {
            world.word()["drift"]["repaired"].as_u64() >= Some(number)
        });
    }
    assert_eq!(world.incidents().len(), 0);
    none.end();
    wait("the incidents", || world.incidents().len() >= 2);
    wait("the end of the problem", || {
        !says(&world, "no-threads") && !says(&world, "sessions-unknown")
    });
    // And once more until the end.
    let none = NoThreads::of(agent.pid());
    let before = world.incidents().len();
    world.put("alice", ALICE, &key("rogue"));
    wait("the repair", || world.read("alice") == right);
    wait("the problem", || says(&world, "no-threads"));
    let (status, log) = agent.stop();
    assert!(status.success(), "{status}: {log}");
    assert!(world.incidents().len() > before, "{log}");
    none.end();
}

#[test]
fn sshd_is_asked_again_once_there_is_a_thread() {
    let world = logins::world("");
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let answer = || world.word()["sshd"]["asked_at"].clone();
    wait("the word of sshd", || !answer().is_null());
    let none = NoThreads::of(agent.pid());
    signal("HUP", agent.pid());
    wait("the problem", || says(&world, "no-threads"));
    none.end();
    wait("the end of the problem", || !says(&world, "no-threads"));
    let before = answer();
    logins::configure(&world, "PubkeyAuthentication no");
    wait("another word of sshd", || answer() != before);
}

#[test]
fn a_fetcher_that_gets_no_thread_fails_and_goes_on_once_it_does() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let mut fetcher = start_halted(&world, "fetch");
    let none = NoThreads::of(fetcher.0.id());
    signal("CONT", fetcher.0.id());
    let report = || fs::read_to_string(world.path("fetch-run/fetch.json")).unwrap_or_default();
    wait("the failure", || {
        report().contains("no thread is to be had")
    });
    assert_lives(&mut fetcher, &world);
    none.end();
    wait("the list", || {
        world.path("fetch-state/approved.json").exists()
    });
}
