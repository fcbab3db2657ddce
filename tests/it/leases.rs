//! A write into a managed file never takes effect, whatever way it takes: whoever reads the file sees the right content,
//! always.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::disk::Disk;
use crate::support::trace::steps_in;
use crate::support::world::{
    ALICE, BOB, Ends, Running, World, comes_true, litter, numbered, shell_as, signal, wait,
};
use crate::support::writes::{KINDS, Reader, Writer};

/// Accounts with a dozen keys each.
fn scene() -> World {
    let world = World::new();
    for account in ["alice", "bob"] {
        let keys: Vec<String> = (0..12).map(|number| numbered(number, account)).collect();
        world.approve(account, "keys", &keys.join("\n"));
    }
    world.run(&["fetch", "--once"]);
    world
}

/// Writers of each kind.
const PROCESSES: usize = 7;

/// Writes in every way at once, each so many times, for no longer than so many seconds; and reads meanwhile.
fn besiege(world: &World, most: u32, seconds: u64) {
    let agent = world.start_with(&["enforce"]);
    let files = ["alice", "bob"].map(|account| (world.file(account), world.read(account)));
    let began = Instant::now();
    let reader = Reader::start(files.to_vec());
    let writer = Writer::built(&world.path(""));
    let [(alice, _), (bob, _)] = &files;
    // All wait for the same lease, and go on together: many of them make many writes.
    let each = KINDS.into_iter().flat_map(|kind| [kind; PROCESSES]);
    let of_alice: Vec<_> = each
        .map(|kind| (kind, writer.start(ALICE, alice, kind, most, seconds)))
        .collect();
    // A new link each time is the same change again and again, which makes the agent wait: so it has an account of its own.
    let of_bob = (
        "hard-link",
        writer.start(BOB, bob, "hard-link", most, seconds),
    );
    let mut all = 0;
    for (kind, writing) in of_alice.into_iter().chain([of_bob]) {
        match writing.end() {
            Ok(writes) => {
                assert!(writes >= 3, "{kind}: only {writes} writes");
                all += writes;
            }
            Err(why) => println!("{kind}: not tried here: {why}"),
        }
    }
    let reads = reader.reads();
    println!("{all} writes, {reads} reads in {:?}", began.elapsed());
    assert_eq!(reader.end(), None);
    assert!(reads > u64::from(all), "{reads} reads");

    for account in ["alice", "bob"] {
        wait("calm", || world.account(account)["state"] == "in-sync");
        assert_eq!(litter(&world.ssh(account), &["authorized_keys"]), [""; 0]);
        let mut incidents = world.incidents();
        incidents.retain(|one| one["account"] == account);
        let prevented = incidents.iter().any(|one| one["undone"] == "prevented");
        assert!(prevented, "{incidents:#?}");
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
        let kept = incidents.len();
        assert!(kept <= 30 * (seconds / 60 + 1), "{kept} incidents");
        let log = agent.log();
        let about = format!("account={account}");
        let lines = log.lines().filter(|line| line.contains(&about)).count();
        assert!(lines <= 31 + seconds, "{lines} lines in {seconds} s");
    }
    let (ended, log) = agent.stop();
    assert!(ended.success(), "{log}");
}

#[test]
fn ten_thousand_writes_in_place_of_every_kind_are_never_seen() {
    besiege(&scene(), 110, 45);
}

#[test]
fn writes_in_place_are_never_seen_on_xfs_and_tmpfs() {
    for kind in ["xfs", "tmpfs"] {
        let world = scene();
        let _disk = Disk::mount(kind, &world.home("alice"), &world.path("image"));
        besiege(&world, 8, 20);
    }
}

/// The root of a container, or of a live image. It does not tell that a file without a name was closed.
#[test]
fn a_write_that_takes_its_time_on_overlayfs_is_an_incident() {
    let world = scene();
    let _disk = Disk::mount("overlay", &world.home("alice"), &world.path("image"));
    let agent = world.start_with(&["enforce"]);
    let (file, right) = (world.file("alice"), world.read("alice"));
    let write = format!("exec 3>> {}; echo rogue >&3; sleep 0.7", file.display());
    assert!(shell_as(ALICE, &write).status.success());
    assert_eq!(world.read("alice"), right);
    wait("the incident", || {
        let incidents = world.incidents();
        incidents.iter().any(|one| one["undone"] == "prevented")
    });
    assert!(agent.stop().0.success());
}

/// The kernel breaks no lease for `open(2)` with `O_RDONLY | O_TRUNC`. That lets nobody in, and is undone like a deletion.
#[test]
fn a_file_that_is_emptied_without_being_opened_for_writing_is_filled_again() {
    let world = scene();
    let agent = world.start_with(&["enforce"]);
    let (file, right) = (world.file("alice"), world.read("alice"));
    for round in 0..30 {
        let empty = "import os, sys; os.open(sys.argv[1], os.O_RDONLY | os.O_TRUNC)";
        let script = format!("python3 -c '{empty}' {}", file.display());
        assert!(shell_as(ALICE, &script).status.success());
        wait(&format!("the file, round {round}"), || {
            world.read("alice") == right
        });
    }
    // What is written then waits again.
    let reader = Reader::start(vec![(file.clone(), right.clone())]);
    let writer = Writer::built(&world.path(""));
    assert_eq!(writer.start(ALICE, &file, "rewrite", 5, 20).end(), Ok(5));
    assert_eq!(reader.end(), None);
    assert!(agent.stop().0.success());
}

/// While no agent runs, writes take effect; from its first pass on they do not.
#[test]
fn an_agent_that_is_killed_at_any_moment_takes_the_file_back_when_it_starts() {
    let world = scene();
    let file = world.file("alice");
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(0));
    let right = world.read("alice");
    let writer = Writer::built(&world.path(""));
    let writings = KINDS.map(|kind| writer.start(ALICE, &file, kind, u32::MAX >> 1, 600));
    let mut landed = 0;
    for round in 0..20_u64 {
        let agent = world.start_with(&["enforce"]);
        wait("the first pass", || {
            world.word()["enforcer"]["pid"] == agent.pid()
        });
        assert_eq!(world.read("alice"), right, "round {round}");
        let reader = Reader::start(vec![(file.clone(), right.clone())]);
        // A moment that comes from nowhere.
        std::thread::sleep(Duration::from_millis(round * 7919 % 97));
        assert_eq!(reader.end(), None, "round {round}");
        drop(agent);
        landed += usize::from(comes_true(Duration::from_secs(2), || {
            world.read("alice") != right
        }));
    }
    assert!(landed > 0, "nobody wrote");
    drop(writings);
    let agent = world.start_with(&["enforce"]);
    wait("the file", || world.account("alice")["state"] == "in-sync");
    assert_eq!(world.read("alice"), right);
    assert!(agent.stop().0.success());
}

/// strace on a running agent, on all its threads.
fn strace(world: &World, agent: &Running, inject: Option<&str>) -> Ends {
    let said = world.path("strace-said");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o"])
        .arg(world.path("trace"))
        .args(["-e", "trace=fcntl,renameat", "-p", &agent.pid().to_string()])
        .args(inject.map(|inject| format!("--inject={inject}")));
    let strace = command.stderr(fs::File::create(&said).unwrap());
    let strace = Ends(strace.spawn().expect("strace"));
    wait("strace", || {
        fs::read_to_string(&said).unwrap().contains(" attached")
    });
    strace
}

/// Killed, though its last threads may not be gone yet.
fn is_dead(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().any(|line| line.starts_with("State:\tZ"))
}

/// Lets the agent go on without it.
fn detach(mut strace: Ends) {
    signal("INT", strace.0.id());
    strace.0.wait().unwrap();
}

/// The agent at work, its thread that works included, and nothing left to do.
fn at_rest(world: &World) -> Running {
    let agent = world.start_with(&["enforce"]);
    wait("the first pass, and sshd's answer", || {
        let word = world.word();
        word["enforcer"]["pid"] == agent.pid() && word["sshd"].is_object()
    });
    agent
}

#[test]
fn a_write_in_place_is_answered_whatever_fails_at_the_lease_or_the_rename() {
    let world = scene();
    let mut agent = at_rest(&world);
    let (file, right) = (world.file("alice"), world.read("alice"));
    let writer = Writer::built(&world.path(""));
    let append = || writer.start(ALICE, &file, "append", 1, 60);
    let trace = || fs::read_to_string(world.path("trace")).unwrap_or_default();

    let traced = strace(&world, &agent, None);
    assert_eq!(append().end(), Ok(1));
    wait("the lease to be given back", || trace().contains("F_UNLCK"));
    detach(traced);
    let is_one = |line: &str| line.contains("F_SETLEASE, F_RDLCK") || line.contains("renameat(");
    let found = steps_in(&trace(), is_one, is_one);
    let renames = found.iter().filter(|step| step.call == "renameat").count();
    assert!(renames == 1 && found.len() >= 4, "{found:#?}");

    for step in &found {
        let errors = match step.call.as_str() {
            "fcntl" => [
                "error=EAGAIN",
                "error=EINVAL",
                "error=ENOLCK",
                "signal=KILL",
            ],
            _ => ["error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL"],
        };
        for fault in errors {
            let what = format!("{fault} at {}", step.shown);
            let kills = fault == "signal=KILL";
            let reader = Reader::start(vec![(file.clone(), right.clone())]);
            let inject = format!("{}:{fault}:when={}", step.call, step.nth);
            let traced = strace(&world, &agent, Some(&inject));
            let happened = || trace().contains("INJECTED") || trace().contains("killed by SIGKILL");
            // How many calls a repair takes depends on what was tried before.
            for _ in 0..10 {
                assert_eq!(append().end(), Ok(1), "{what}");
                if happened() {
                    break;
                }
            }
            assert!(happened(), "{what}");
            if kills {
                // It does not end by itself: the dead process is this test's to wait for.
                drop(traced);
                wait("its end", || is_dead(agent.pid()));
            } else {
                detach(traced);
            }
            let seen = reader.end();
            if kills {
                // With the agent its leases are gone.
                let whole = world.read("alice").starts_with(&right);
                assert!(whole, "{what}: {}", world.read("alice"));
                agent = at_rest(&world);
            } else {
                assert_eq!(seen, None, "{what}");
            }
            wait(&what, || world.read("alice") == right);
            wait(&what, || world.account("alice")["state"] == "in-sync");
            wait(&what, || {
                litter(&world.ssh("alice"), &["authorized_keys"]).is_empty()
            });
            // And the next write is prevented as before.
            let reader = Reader::start(vec![(file.clone(), right.clone())]);
            assert_eq!(append().end(), Ok(1), "{what}");
            assert_eq!(reader.end(), None, "after {what}");
        }
    }
    assert!(agent.stop().0.success());
}
