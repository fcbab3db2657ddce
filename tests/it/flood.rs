//! An account that makes events without end costs root little, and delays nobody.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::world::{ALICE, BOB, Ends, World, key, shell_as, wait};

/// What an account can do in its home as fast as it can: names that come and go in both directories, modes; and, by a process
/// of its own since that waits, files opened for writing and closed.
const FLOOD: &str = r#"
my ($home) = @ARGV;
my $parent = $$;
if (!fork) {
    while (getppid == $parent) {
        open(my $file, '>>', "$home/.ssh/authorized_keys") and close $file;
    }
    exit;
}
while (1) {
    open(my $file, '>', "$home/\xff$$") and close $file and unlink "$home/\xff$$";
    open($file, '>', "$home/.ssh/x$$") and close $file and unlink "$home/.ssh/x$$";
    chmod 0700, $home;
    chmod 0755, $home;
}
"#;

fn flood(world: &World) -> Ends {
    let id = ALICE.to_string();
    let started = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["perl", "-e", FLOOD])
        .arg(world.home("alice"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Ends(started)
}

/// Ticks that a process has used so far, in all its threads (`proc_pid_stat(5)`, utime and stime).
fn used(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    let times = fields.skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}

#[test]
fn an_account_that_makes_events_without_end_costs_little_and_delays_nobody() {
    let mut world = World::new();
    world.tables = "[verify]\nevery = \"1h\"".to_owned();
    for account in ["alice", "bob"] {
        world.approve(account, "laptop", &key(account));
    }
    world.run(&["fetch", "--once"]);
    let agent = world.start_with(&["--log", "debug", "enforce"]);
    wait("sshd's answer", || world.word()["sshd"].is_object());
    let (alice, bob) = (world.read("alice"), world.read("bob"));
    let flooder = flood(&world);
    // Past the first rests, which are short.
    wait("the flood", || used(flooder.0.id()) > 100);

    let (begin, known) = (Instant::now(), agent.log().len());
    let (of_agent, of_flooder) = (used(agent.pid()), used(flooder.0.id()));
    wait("more of it", || used(flooder.0.id()) > of_flooder + 200);
    let of_agent = used(agent.pid()) - of_agent;
    let of_flooder = used(flooder.0.id()) - of_flooder;
    let seconds = begin.elapsed().as_secs() + 1;
    assert!(
        of_agent * 2 < of_flooder,
        "the agent used {of_agent} ticks, the account {of_flooder}"
    );
    let log = agent.log();
    let passes = log[known..]
        .lines()
        .filter(|line| line.contains("pass trigger="));
    let passes: Vec<&str> = passes.collect();
    let most = usize::try_from(seconds).unwrap() * 25 + 25;
    assert!(
        passes.len() < most,
        "{} passes in {seconds} s",
        passes.len()
    );
    let full = passes.iter().filter(|line| line.contains("whom=Everybody"));
    assert!(full.count() <= 2, "events were lost again and again");

    // Another account's tampering is undone as if nothing were.
    for _ in 0..20 {
        world.put("bob", BOB, &key("rogue"));
        wait("bob's repair", || world.read("bob") == bob);
    }
    // The flooder's own is undone too, while it goes on and once it has ended.
    let plant = || {
        let rogue = format!("echo rogue > {}", world.file("alice").display());
        assert!(shell_as(ALICE, &rogue).status.success());
    };
    plant();
    wait("alice's repair", || world.read("alice") == alice);
    plant();
    drop(flooder);
    plant();
    wait("alice's last repair", || world.read("alice") == alice);
    wait("quiet", || {
        let before = agent.log().len();
        std::thread::sleep(Duration::from_millis(300));
        agent.log().len() == before
    });
    // Watched again, not looked at again and again.
    let before = used(agent.pid());
    plant();
    wait("a repair after all that", || world.read("alice") == alice);
    assert!(used(agent.pid()) - before < 50);
}
