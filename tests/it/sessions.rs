//! Live sessions of keys that are not approved: named, and ended where that is asked for. logind and the journal are
//! stand-ins that print what systemd prints; the rest is the agent.

use std::fs;

use serde_json::{Value, json};

use crate::support::world::{ALICE, Running, World, fingerprint, key, shell_as, shown, wait};

/// 2026-11-25T22:11:33Z, in the words of logind and in the number of the journal.
const BEGAN: &str = "Wed 2026-11-25 22:11:33 UTC";
const LOGGED: u64 = 1_795_644_693_250_000;

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
terminate-session) rm "$WORLD/sessions/$2" ;;
esac"#;

/// A host where somebody can be logged in.
pub fn host() -> World {
    let world = World::new();
    world.stand_in("loginctl", LOGINCTL);
    world.stand_in(
        "journalctl",
        "echo \"$*\" >> \"$WORLD/asked\"; cat \"$WORLD/journal\"",
    );
    fs::create_dir(world.path("sessions")).unwrap();
    fs::write(world.path("journal"), "").unwrap();
    world
}

/// `account` logs in with a key.
pub fn log_in(world: &World, id: &str, account: &str, leader: u32, key: &str) {
    let message = format!(
        "Accepted publickey for {account} from 192.0.2.1 port 4711 ssh2: ED25519 {}",
        fingerprint(key)
    );
    let entry = json!({"_PID": leader.to_string(), "MESSAGE": message, "__REALTIME_TIMESTAMP": LOGGED.to_string()});
    let journal = fs::read_to_string(world.path("journal")).unwrap();
    fs::write(world.path("journal"), format!("{journal}{entry}\n")).unwrap();
    let shown = format!(
        "Id={id}\nName={account}\nTimestamp={BEGAN}\nRemoteHost=192.0.2.1\nService=sshd\nLeader={leader}\nState=active\n"
    );
    fs::write(world.path("sessions").join(id), shown).unwrap();
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
        text.contains("  alice  session c4, pid 104 from 192.0.2.1 since 2026-11-25T22:11:33Z"),
        "{text}"
    );
    assert!(
        text.contains("hint: loginctl terminate-session c4"),
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
    shell_as(
        ALICE,
        &format!("echo '{rogue}' >> {}", world.file("alice").display()),
    );
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
        said(&agent, "session ended") == 1
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
