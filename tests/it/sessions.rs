//! Live sessions of keys that are not approved: named, and ended where that is asked for. logind and the journal are
//! stand-ins that print what systemd prints; the rest is the agent.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::world::{
    ALICE, Ends, MALLORY, Running, World, fingerprint, key, numbered, shown, wait, warnings,
};

/// 2026-11-25T22:11:33Z, in the words of logind and in the number of the journal.
const BEGAN: &str = "Wed 2026-11-25 22:11:33 UTC";
const LOGGED: u64 = 1_795_644_693_250_000;

/// logind: ending a session is a word to its processes, after which it is closing for as long as one of them lives on; for
/// a session that is closing it does nothing (`logind-session.c: session_stop`), and a signal still reaches them all.
const LOGINCTL: &str = r#"echo "$*" >> "$WORLD/asked"
case "$1" in
list-sessions) for id in $(ls "$WORLD/sessions"); do echo "     $id 61001 alice -    4711 user pts/0 no -"; done ;;
show-session)
  for id; do
    [ -e "$WORLD/sessions/$id" ] || continue
    [ -z "$more" ] || echo
    more=1
    cat "$WORLD/sessions/$id"
  done ;;
terminate-session)
  [ -e "$WORLD/stays" ] || grep -q State=closing "$WORLD/sessions/$2" || { rm "$WORLD/sessions/$2"; exit; }
  sed -i s/State=.*/State=closing/ "$WORLD/sessions/$2" ;;
kill-session) [ "$2" = --signal=SIGKILL ] && rm "$WORLD/sessions/$3" ;;
esac"#;

/// journalctl: values of one field are alternatives, and each field must have one of them (`journalctl(1)`).
const JOURNALCTL: &str = r#"echo "$*" >> "$WORLD/asked"
exec python3 - "$WORLD/journal" "$@" <<'END'
import json, sys
fields = {}
for argument in sys.argv[2:]:
    name, _, value = argument.replace("--identifier", "SYSLOG_IDENTIFIER").partition("=")
    if not name.startswith("-"):
        fields.setdefault(name, set()).add(value)
for line in open(sys.argv[1]):
    entry = json.loads(line)
    if all(entry.get(name) in values for name, values in fields.items()):
        print(line, end="")
END"#;

/// A host where somebody can be logged in.
pub fn host() -> World {
    let world = World::new();
    world.stand_in("loginctl", LOGINCTL);
    world.stand_in("journalctl", JOURNALCTL);
    fs::create_dir(world.path("sessions")).unwrap();
    fs::write(world.path("journal"), "").unwrap();
    world
}

/// `account` logs in with a key.
pub fn log_in(world: &World, id: &str, account: &str, leader: u32, key: &str) {
    open_session(world, id, account, leader);
    say_in_the_journal(world, leader, &accepted(account, key), json!({}));
}

fn open_session(world: &World, id: &str, account: &str, leader: u32) {
    let shown = format!(
        "Id={id}\nName={account}\nTimestamp={BEGAN}\nRemoteHost=192.0.2.1\nService=sshd\nLeader={leader}\nState=active\n"
    );
    fs::write(world.path("sessions").join(id), shown).unwrap();
}

fn accepted(account: &str, key: &str) -> String {
    let key = fingerprint(key);
    format!("Accepted publickey for {account} from 192.0.2.1 port 4711 ssh2: ED25519 {key}")
}

/// An entry as sshd's are, but for these fields.
fn say_in_the_journal(world: &World, pid: u32, message: &str, but: Value) {
    let mut entry = json!({
        "_PID": pid.to_string(), "_UID": "0", "_COMM": "sshd", "SYSLOG_IDENTIFIER": "sshd",
        "MESSAGE": message, "__REALTIME_TIMESTAMP": LOGGED.to_string(),
    });
    let Value::Object(but) = but else {
        unreachable!()
    };
    entry.as_object_mut().unwrap().extend(but);
    let journal = fs::read_to_string(world.path("journal")).unwrap();
    fs::write(world.path("journal"), format!("{journal}{entry}\n")).unwrap();
}

fn ids(status: &Value) -> Vec<String> {
    let sessions = status["sessions"].as_array().unwrap();
    sessions
        .iter()
        .map(|session| session["id"].as_str().unwrap().to_owned())
        .collect()
}

/// What the enforcer itself says, not what `status` finds.
fn word(world: &World) -> Value {
    world.word()
}

fn asked(world: &World) -> usize {
    fs::read_to_string(world.path("asked"))
        .unwrap_or_default()
        .lines()
        .count()
}

fn said(agent: &Running, what: &str) -> usize {
    agent.log().matches(what).count()
}

const NAMED: &str = "a live session was opened with a key that is not approved";

#[test]
fn the_session_of_a_revoked_key_is_named_and_left_alone() {
    let world = host();
    let (kept, revoked) = (key("kept"), key("revoked"));
    world.approve("alice", "kept", &kept);
    world.approve("alice", "revoked", &revoked);
    log_in(&world, "3", "alice", 103, &kept);
    log_in(&world, "c4", "alice", 104, &revoked);
    // Nobody manages these keys.
    log_in(&world, "5", "svc", 105, &key("of a system account"));
    let agent = world.start();
    assert_eq!(ids(&world.status()), Vec::<String>::new());
    assert_eq!(world.status()["health"], "healthy");

    world.revoke("alice", "revoked");
    wait("the enforcer to name it", || ids(&word(&world)) == ["c4"]);
    let session = &word(&world)["sessions"][0];
    assert_eq!(
        *session,
        json!({"account": "alice", "id": "c4", "leader": 104, "fingerprint": fingerprint(&revoked),
               "from": "192.0.2.1", "since": "2026-11-25T22:11:33Z"})
    );
    let status = world.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    let text = shown(&status.stdout);
    assert!(
        text.contains("  alice: session c4, pid 104, from 192.0.2.1, since 2026-11-25T22:11:33Z"),
        "{text}"
    );
    assert!(
        text.contains("hint: loginctl kill-session --signal=SIGKILL c4"),
        "{text}"
    );
    assert_eq!(said(&agent, NAMED), 1, "{}", agent.log());
    // Approved again, it is nobody's business.
    world.approve("alice", "revoked", &revoked);
    wait("the list", || world.keys("alice") == 2);
    assert_eq!(ids(&world.status()), Vec::<String>::new());
    let asked = fs::read_to_string(world.path("asked")).unwrap();
    assert!(
        asked.contains("--since=@1795644573 ") && !asked.contains("terminate"),
        "{asked}"
    );
}

#[test]
fn a_session_that_ends_is_no_longer_spoken_of() {
    let mut world = host();
    world.tables = "[verify]\nevery = \"100ms\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    log_in(&world, "3", "alice", 103, &key("never approved"));
    let agent = world.start_with(&["--log", "debug", "run"]);
    wait("the session", || ids(&word(&world)) == ["3"]);
    assert_eq!(world.status()["health"], "degraded");
    fs::remove_file(world.path("sessions/3")).unwrap();
    wait("its end", || ids(&word(&world)).is_empty());
    assert_eq!(world.status()["health"], "healthy");
    assert_eq!(said(&agent, NAMED), 1, "{}", agent.log());
    // From now on nobody is asked.
    let passes = || said(&agent, "trigger=Timer");
    let (before, passed) = (asked(&world), passes());
    wait("ten more passes", || passes() >= passed + 10);
    assert_eq!(asked(&world), before);
}

#[test]
fn a_key_that_opened_a_session_while_it_stood_is_named() {
    let world = host();
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    let rogue = key("rogue");
    log_in(&world, "7", "alice", 107, &rogue);
    assert_eq!(ids(&word(&world)), Vec::<String>::new());
    world.put("alice", ALICE, &rogue);
    wait("its session", || ids(&word(&world)) == ["7"]);
}

#[test]
fn where_it_is_asked_for_the_session_is_ended_and_no_other() {
    let mut world = host();
    world.accounts.push_str("\nend-sessions = true");
    let (kept, revoked, moved) = (key("kept"), key("revoked"), key("moved"));
    for (label, key) in [("kept", &kept), ("revoked", &revoked), ("moved", &moved)] {
        world.approve("alice", label, key);
    }
    log_in(&world, "3", "alice", 103, &kept);
    log_in(&world, "4", "alice", 104, &revoked);
    // One that is another's by the time it is to be ended: it is looked at again, alone, just before.
    log_in(&world, "5", "alice", 105, &moved);
    let moves =
        "case \"$*\" in *\" Timestamp 5\") sed -i s/=105/=205/ \"$WORLD/sessions/5\" ;; esac";
    world.stand_in("loginctl", &format!("{moves}\n{LOGINCTL}"));
    let agent = world.start();
    world.revoke("alice", "revoked");
    wait("the end of the session", || {
        said(&agent, "the agent ended a session") == 1
    });
    wait("the status", || ids(&word(&world)).is_empty());
    world.revoke("alice", "moved");
    wait("the list", || world.keys("alice") == 1);
    wait("the look before the end", || {
        fs::read_to_string(world.path("asked"))
            .unwrap()
            .lines()
            .any(|line| line.ends_with(" Timestamp 5"))
    });
    wait("the answer", || ids(&word(&world)).is_empty());
    let asked = fs::read_to_string(world.path("asked")).unwrap();
    let ended: Vec<&str> = asked
        .lines()
        .filter(|line| line.starts_with("terminate"))
        .collect();
    assert_eq!(ended, ["terminate-session 4"]);
    assert!(world.path("sessions/3").exists() && world.path("sessions/5").exists());
}

#[test]
fn a_list_that_is_held_ends_nothing() {
    let mut world = host();
    world.hold_for_long();
    world.accounts.push_str("\nend-sessions = true");
    let alice = key("alice");
    world.approve("alice", "laptop", &alice);
    log_in(&world, "3", "alice", 103, &alice);
    let _agent = world.start();
    world.revoke("alice", "laptop");
    wait("the list to be held", || {
        world.problems().contains("would remove 1 of 1 keys")
    });
    let status = word(&world);
    assert_eq!(ids(&status), Vec::<String>::new(), "{status:#}");
    assert_eq!(ids(&world.status()), Vec::<String>::new());
    assert!(world.path("sessions/3").exists());
}

#[test]
fn observe_mode_ends_nothing() {
    let mut world = host();
    world.accounts.push_str("\nend-sessions = true");
    world.top = "mode = \"observe\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    log_in(&world, "3", "alice", 103, &key("never approved"));
    let _agent = world.start();
    wait("the session", || ids(&word(&world)) == ["3"]);
    assert!(world.path("sessions/3").exists());
}

#[test]
fn what_cannot_be_asked_is_waited_for_no_longer_than_a_moment() {
    let world = host();
    world.stand_in(
        "loginctl",
        "echo 'Failed to connect to bus: No such file or directory' >&2; exit 1",
    );
    world.approve("alice", "laptop", &key("alice"));
    log_in(&world, "3", "alice", 103, &key("never approved"));
    let agent = world.start();
    wait("the warning", || {
        agent.log().contains("live sessions are not known")
    });
    assert_eq!(world.status()["health"], "healthy");
}

/// The sessions that the agent had ended, and how.
fn ended(world: &World) -> Vec<String> {
    let asked = fs::read_to_string(world.path("asked")).unwrap_or_default();
    let ends = |line: &&str| line.starts_with("terminate") || line.starts_with("kill");
    asked.lines().filter(ends).map(str::to_owned).collect()
}

fn closes(world: &World, id: &str) {
    let path = world.path("sessions").join(id);
    let shown = fs::read_to_string(&path).unwrap();
    fs::write(path, shown.replace("State=active", "State=closing")).unwrap();
}

/// A file that cannot be written is no reason to let the session of a revoked key live: only what is in force counts.
#[test]
fn a_home_in_which_nothing_can_be_done_keeps_no_session() {
    let mut world = host();
    world.accounts.push_str("\nend-sessions = true");
    let (kept, revoked) = (key("kept"), key("revoked"));
    world.approve("alice", "kept", &kept);
    world.approve("alice", "revoked", &revoked);
    log_in(&world, "3", "alice", 103, &kept);
    log_in(&world, "4", "alice", 104, &revoked);
    let _agent = world.start();
    chown(world.home("alice"), Some(MALLORY), None).unwrap();
    world.revoke("alice", "revoked");
    wait("the end of the session", || {
        !world.path("sessions/4").exists()
    });
    wait("the status", || ids(&word(&world)).is_empty());
    assert_eq!(world.account("alice")["state"], "refused");
    assert_eq!(ended(&world), ["terminate-session 4"]);
}

#[test]
fn a_key_that_a_bad_line_may_mean_loses_no_session() {
    let mut world = host();
    world.accounts.push_str("\nend-sessions = true");
    let keys = ["mistyped", "torn", "revoked", "kept", "kept too", "and too"].map(key);
    let [mistyped, torn, revoked, kept @ ..] = &keys;
    world.approve("alice", "all", &keys.join("\n"));
    let (bob, torn_of_bob) = (key("bob"), key("torn of bob"));
    let both = format!("{bob}\n{torn_of_bob}");
    world.approve("bob", "all", &both);
    log_in(&world, "1", "alice", 101, mistyped);
    log_in(&world, "3", "alice", 103, revoked);
    log_in(&world, "4", "bob", 104, &torn_of_bob);
    let _agent = world.start();
    // Which key this was to be cannot be told, so it may be any of bob's.
    let end = both.find(" torn").unwrap();
    let cut = format!("{}{}", &both[..end - 6], &both[end..]);
    world.approve("bob", "all", &cut);
    wait("bob's list", || world.keys("bob") == 1);
    let line = format!("comand=\"ls\" {mistyped}\n");
    world.approve("alice", "all", &(line + &kept.join("\n")));
    wait("the end of the other session", || {
        !world.path("sessions/3").exists()
    });
    // The key of session 1 stays in force, as it stands in a line that cannot be taken.
    wait("the status", || ids(&word(&world)) == ["4"]);
    assert!(world.path("sessions/1").exists());
    // Mended, and then taken away.
    world.approve("alice", "all", &kept.join("\n"));
    wait("the end", || !world.path("sessions/1").exists());
    assert_eq!(
        ended(&world),
        ["terminate-session 3", "terminate-session 1"]
    );
    assert!(!kept.contains(torn));
}

/// What goes on in a session whose leader has left, such as a shell that was started with `setsid`.
#[test]
fn a_session_that_is_closing_is_named_and_its_processes_are_killed() {
    let mut world = host();
    let (kept, revoked) = (key("kept"), key("revoked"));
    world.approve("alice", "kept", &kept);
    world.approve("alice", "revoked", &revoked);
    for (id, leader, key) in [("3", 103, &kept), ("4", 104, &revoked)] {
        log_in(&world, id, "alice", leader, key);
        closes(&world, id);
    }
    let agent = world.start();
    world.revoke("alice", "revoked");
    wait("the name", || ids(&word(&world)) == ["4"]);
    assert_eq!(ended(&world), [""; 0]);
    drop(agent);
    world.accounts.push_str("\nend-sessions = true");
    let _agent = world.start();
    wait("the end of the session", || {
        !world.path("sessions/4").exists()
    });
    wait("the status", || ids(&word(&world)).is_empty());
    assert_eq!(ended(&world), ["kill-session --signal=SIGKILL 4"]);
}

#[test]
fn a_session_that_does_not_go_when_it_is_told_to_is_killed() {
    let mut world = host();
    world.accounts.push_str("\nend-sessions = true");
    let (kept, revoked) = (key("kept"), key("revoked"));
    world.approve("alice", "kept", &kept);
    world.approve("alice", "revoked", &revoked);
    log_in(&world, "4", "alice", 104, &revoked);
    fs::write(world.path("stays"), "").unwrap();
    let _agent = world.start();
    world.revoke("alice", "revoked");
    wait("the end of the session", || {
        !world.path("sessions/4").exists()
    });
    assert_eq!(
        ended(&world),
        ["terminate-session 4", "kill-session --signal=SIGKILL 4"]
    );
}

/// The same words, the same process, and even root's: but not sshd.
#[test]
fn what_another_program_says_in_the_name_of_sshd_counts_for_nothing() {
    let world = host();
    let (kept, revoked) = (key("kept"), key("revoked"));
    world.approve("alice", "kept", &kept);
    world.approve("bob", "laptop", &key("bob"));
    open_session(&world, "4", "alice", 104);
    log_in(&world, "5", "bob", 105, &key("never approved"));
    let say =
        |pid, account, key, but| say_in_the_journal(&world, pid, &accepted(account, key), but);
    say(
        104,
        "alice",
        &revoked,
        json!({"_COMM": "sshd-session", "SYSLOG_IDENTIFIER": "sshd-session"}),
    );
    // However much it is.
    let entry = json!({
        "_PID": "4", "_UID": ALICE.to_string(), "_COMM": "sshd", "SYSLOG_IDENTIFIER": "sshd",
        "MESSAGE": "x".repeat(1 << 16), "__REALTIME_TIMESTAMP": LOGGED.to_string(),
    });
    let journal = fs::read_to_string(world.path("journal")).unwrap();
    let flood = format!("{entry}\n").repeat(160);
    fs::write(world.path("journal"), journal + &flood).unwrap();
    for but in [json!({"_UID": ALICE.to_string()}), json!({"_COMM": "sudo"})] {
        // An approved key for its own session, a key that is not for that of another account.
        say(104, "alice", &kept, but.clone());
        say(105, "bob", &revoked, but);
    }
    let _agent = world.start();
    wait("the names", || ids(&word(&world)) == ["4", "5"]);
    let status = word(&world);
    let of = |at: usize| {
        status["sessions"][at]["fingerprint"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(of(0), fingerprint(&revoked));
    assert_ne!(of(1), fingerprint(&revoked));
}

/// Any account writes into `/var/log/auth.log` by `logger`, under any name and pid.
#[test]
fn a_log_file_is_no_evidence_and_what_is_not_known_is_said() {
    let world = host();
    let (kept, rogue) = (key("kept"), key("rogue"));
    world.approve("alice", "laptop", &kept);
    world.approve("bob", "laptop", &key("bob"));
    log_in(&world, "3", "alice", 103, &kept);
    open_session(&world, "5", "bob", 105);
    fs::write(
        world.path("auth.log"),
        format!(
            "Nov 25 22:11:33 web1 sshd[105]: {}\n",
            accepted("bob", &rogue)
        ),
    )
    .unwrap();
    world.run(&["fetch", "--once"]);
    let logs =
        "mount -t tmpfs none /var/log && cp \"$0/auth.log\" /var/log/auth.log && exec \"$@\"";
    let mut enforce = world.command("sh");
    enforce
        .args(["-c", logs])
        .arg(world.path(""))
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg("enforce")
        .stderr(Stdio::null());
    let _agent = Ends(enforce.spawn().unwrap());
    let unknown = || {
        let status = word(&world);
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let own = |problem: &Value| problem["cause"].to_string().contains("sessions-unknown");
        problems
            .into_iter()
            .find(own)
            .map(|problem| (problem, status))
    };
    wait("what is not known", || unknown().is_some());
    let (problem, status) = unknown().unwrap();
    assert!(
        problem.to_string().contains("session 5 of bob"),
        "{problem}"
    );
    assert_eq!(ids(&status), Vec::<String>::new());
    // It is a warning, and what is known is known all the same.
    let warnings = warnings(&world.status());
    assert!(warnings.contains("session 5 of bob"), "{warnings}");
    assert!(!warnings.contains("alice"), "{warnings}");
}

/// Each key that left a file is a reason to look for its sessions.
#[test]
fn planting_in_a_loop_does_not_keep_root_asking() {
    let world = host();
    let alice = key("alice");
    world.approve("alice", "laptop", &alice);
    log_in(&world, "3", "alice", 103, &alice);
    let _agent = world.start();
    let rounds = || {
        let asked = fs::read_to_string(world.path("asked")).unwrap();
        asked.matches("list-sessions").count()
    };
    let (before, began, right) = (rounds(), Instant::now(), world.read("alice"));
    for number in 0..100 {
        let rogue = numbered(number, "rogue");
        world.put("alice", ALICE, &rogue);
        wait("the repair", || world.read("alice") == right);
    }
    // The last one lets somebody in.
    let rogue = key("rogue");
    world.put("alice", ALICE, &rogue);
    log_in(&world, "7", "alice", 107, &rogue);
    wait("its session", || ids(&word(&world)) == ["7"]);
    let (rounds, seconds) = (rounds() - before, began.elapsed().as_secs());
    let most = usize::try_from(seconds).unwrap() + 2;
    assert!(
        (1..=most).contains(&rounds),
        "{rounds} rounds in {seconds} s"
    );
}
