//! What is kept of a change that was undone, who made it, and what stays within bounds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::world::{
    ALICE, BOB, Ends, World, fingerprint, key, litter, mode, numbered, plant, shell_as, shown,
    signal, wait,
};

/// The one incident that is kept, once it is there.
fn one(world: &World) -> Value {
    let mut all = Vec::new();
    wait("the incident", || {
        all = world.incidents();
        !all.is_empty()
    });
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// Prints the time, and the inode of the first argument as the audit log has it.
const RECORD: &str = r#"echo "$(date +%s.%3N) $(stat -c %i "$1") dev=$(printf '%02x:%02x' $(stat -c '%Hd %Ld' "$1"))""#;

/// In a copy that takes its place: a write into the file itself never takes effect.
fn append(world: &World, account: &str, uid: u32, text: &str) {
    let content = world.read(account);
    let done = shell_as(
        uid,
        &format!(
            "cd {}; cp -p authorized_keys x; printf '%s\\n' '{text}' >> x; mv x authorized_keys",
            world.ssh(account).display()
        ),
    );
    assert!(done.status.success(), "{}", shown(&done.stderr));
    wait("the repair", || world.read(account) == content);
}

#[test]
fn an_incident_tells_what_it_was_and_keeps_what_stood_there() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    // What stood in a file before the agent came is no incident.
    world.make_ssh("alice", ALICE);
    let before = key("first run");
    world.put("alice", ALICE, &before);
    let _agent = world.start();
    wait("its removal", || !world.read("alice").contains(&before));
    let content = world.read("alice");
    let rogue = format!("{} \u{1b}[2Jrogue", key("rogue"));
    append(&world, "alice", ALICE, &rogue);
    let incident = one(&world);
    assert_eq!(incident["file"], world.file("alice").display().to_string());
    let added = &incident["changes"][0];
    assert_eq!(
        (&added["change"], &added["fingerprint"]),
        (&"added".into(), &fingerprint(&rogue).into())
    );
    assert_eq!(incident["changes"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&incident["stood_since"], &incident["who"]),
        (&"file".into(), &Value::Null)
    );
    let tampered = format!("{content}{rogue}\n");
    assert_eq!(
        (
            &incident["evidence"]["bytes"],
            &incident["evidence"]["kept"]
        ),
        (&tampered.len().into(), &"whole".into())
    );
    let kept = incident["content_file"].as_str().unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), tampered);
    let directory = world.path("state/incidents");
    assert_eq!((mode(&directory), mode(kept.as_ref())), (0o700, 0o600));
    assert_eq!(fs::metadata(&directory).unwrap().uid(), 0);

    let text = shown(&world.run(&["incidents"]).stdout);
    for part in [
        "alice",
        "not on the list: rogue ",
        &fingerprint(&rogue),
        "stood ",
        "undone: the agent replaced the file",
        kept,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let since = |when: &str| world.run(&["incidents", "--since", when]);
    assert_eq!(shown(&since("1h").stdout), text);
    assert_eq!(shown(&since("2100-01-01").stdout), "no incident\n");
    let nonsense = since("soon");
    assert_eq!(nonsense.status.code(), Some(2));
    assert!(
        shown(&nonsense.stderr).contains("not a time: `soon`"),
        "{}",
        shown(&nonsense.stderr)
    );
    // Another instance's incidents do not go into an image.
    let sealed = shown(&world.run(&["seal"]).stderr);
    assert!(sealed.contains("nothing is removed"), "{sealed}");
}

/// Whoever plants a key just before the list changes, or while the host is off, is not let off for that.
#[test]
fn a_list_that_changes_meanwhile_hides_no_planted_key() {
    let mut world = World::new();
    world.every = "1h".to_owned();
    let (gone, new, rogue) = (key("gone"), key("new"), key("rogue"));
    world.approve("alice", "stays", &key("stays"));
    world.approve("alice", "gone", &gone);
    assert_eq!(world.pass(), 0);
    let content = world.read("alice");
    world.revoke("alice", "gone");
    world.approve("alice", "new", &new);
    world.put("alice", ALICE, &format!("{content}{rogue}\n"));
    assert_eq!(world.pass(), 0);
    assert!(world.read("alice").contains("new") && !world.read("alice").contains("rogue"));
    let incident = one(&world);
    let changes = incident["changes"].as_array().unwrap();
    assert_eq!(
        changes.len(),
        1,
        "what came and went by the list is no incident: {incident:#}"
    );
    assert_eq!(changes[0]["fingerprint"], fingerprint(&rogue));
    assert!(
        fs::read_to_string(incident["content_file"].as_str().unwrap())
            .unwrap()
            .contains("rogue")
    );
    // By itself, a list that changes is none; neither are break-glass keys that come and go.
    for (label, glass) in [("second", key("glass")), ("third", "# none\n".to_owned())] {
        world.approve("alice", label, &key(label));
        fs::write(world.path("break-glass"), glass).unwrap();
        assert_eq!(world.pass(), 0, "{}", world.problems());
        assert_eq!(world.incidents().len(), 1);
    }
}

#[test]
fn a_key_that_only_sshd_would_read_is_named_and_a_line_that_nobody_reads_is_counted() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    let content = world.read("alice");
    let rogue = key("rogue");
    world.put(
        "alice",
        ALICE,
        &format!("{content}no-pty,no-pty {rogue}\0hidden\nhello\n"),
    );
    assert_eq!(
        shown(&world.run(&["diff"]).stdout)
            .matches(&fingerprint(&rogue))
            .count(),
        1
    );
    assert_eq!(world.pass(), 0);
    let changes = &one(&world)["changes"];
    let expected = serde_json::json!([
        {"change": "added", "fingerprint": fingerprint(&rogue), "type": "ssh-ed25519", "comment": "rogue"},
        {"change": "unclear", "lines": 1},
    ]);
    assert_eq!(changes, &expected);
    let text = shown(&world.run(&["incidents"]).stdout);
    assert!(
        text.contains("\n  1 line that is not understood\n"),
        "{text}"
    );
}

#[test]
fn incidents_are_for_root_alone() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    world.put("alice", ALICE, &key("rogue"));
    assert_eq!(world.pass(), 0);
    one(&world);
    // A copy that everybody can run.
    let agent = world.path("agent");
    fs::copy(env!("CARGO_BIN_EXE_authorized-keys-agent"), &agent).unwrap();
    let asked = shell_as(
        BOB,
        &format!(
            "{} --config {} incidents",
            agent.display(),
            world.config().display()
        ),
    );
    assert_eq!(asked.status.code(), Some(2));
    assert!(
        shown(&asked.stderr).contains("incidents are for root alone"),
        "{}",
        shown(&asked.stderr)
    );
}

#[test]
fn a_change_made_while_no_agent_ran_has_stood_since_then() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    let began = Instant::now();
    fs::remove_file(world.file("alice")).unwrap();
    wait("some time to pass", || {
        began.elapsed() > Duration::from_millis(300)
    });
    assert_eq!(world.pass(), 0);
    let incident = one(&world);
    let stood = incident["stood_milliseconds"].as_u64().unwrap();
    assert!(
        (280..=began.elapsed().as_millis().try_into().unwrap()).contains(&stood),
        "{incident:#}"
    );
    assert_eq!(
        (&incident["stood_since"], &incident["evidence"]),
        (&"directory".into(), &Value::Null)
    );
}

#[test]
fn observe_mode_keeps_one_incident_of_what_it_sees() {
    let mut world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    world.top = "mode = \"observe\"".to_owned();
    world.tables = "[verify]\nevery = \"100ms\"".to_owned();
    let agent = world.start_with(&["--log", "debug", "run"]);
    shell_as(
        ALICE,
        &format!(
            "echo '{}' >> {}",
            key("rogue"),
            world.file("alice").display()
        ),
    );
    wait("the incident", || !world.incidents().is_empty());
    let passes = || agent.log().matches("trigger=Timer").count();
    let before = passes();
    wait("ten more passes", || passes() >= before + 10);
    let incident = one(&world);
    assert_eq!(
        (&incident["undone"], &incident["repeated"]),
        (&"seen-only".into(), &0.into())
    );
    assert!(shown(&world.run(&["incidents"]).stdout).contains("seen and not undone"));
}

#[test]
fn the_audit_log_says_who_it_was() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    // What the kernel records of `tee -a .ssh/authorized_keys`, and of the agent before it was restarted, at the time at which
    // it is asked for.
    let script = r#"echo "$*" >> "$WORLD/asked"
[ -e "$WORLD/at" ] || exit 1
read at inode < "$WORLD/at"
cat <<END
type=SYSCALL msg=audit($at:41): arch=c000003e syscall=257 success=yes exit=3 a0=ffffff9c a1=55 a2=441 a3=1b6 items=2 ppid=10 pid=11 auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 comm="tee" exe="/usr/bin/tee" subj=unconfined key="authorized_keys"
type=CWD msg=audit($at:41): cwd="$WORLD/home/alice"
type=PATH msg=audit($at:41): item=0 name=".ssh/" inode=70 dev=fd:01 mode=040700 ouid=1000 ogid=1000 rdev=00:00 nametype=PARENT
type=PATH msg=audit($at:41): item=1 name=".ssh/authorized_keys" inode=$inode mode=0100600 ouid=1000 ogid=1000 rdev=00:00 nametype=NORMAL
type=SYSCALL msg=audit($at:42): arch=c000003e syscall=82 success=yes exit=0 items=4 ppid=1 pid=12 auid=4294967295 uid=0 comm="agent" exe="AGENT" key="authorized_keys"
type=PATH msg=audit($at:42): item=1 name="$WORLD/home/alice/.ssh/authorized_keys" inode=$inode nametype=NORMAL
END"#;
    let script = script.replace("AGENT", env!("CARGO_BIN_EXE_authorized-keys-agent"));
    world.stand_in("ausearch", &script);
    let agent = world.start();
    append(&world, "alice", ALICE, &key("unknown"));
    wait("the first question", || world.path("asked").exists());
    assert_eq!(one(&world)["who"], Value::Null, "the log has no record");
    let content = world.read("alice");
    let record = format!("{RECORD} > {}", world.path("at").display());
    let record = Command::new("sh")
        .args(["-c", &record, "sh"])
        .arg(world.file("alice"))
        .status();
    assert!(record.unwrap().success());
    shell_as(
        ALICE,
        &format!(
            "echo '{}' >> {}",
            key("rogue"),
            world.file("alice").display()
        ),
    );
    wait("the repair", || world.read("alice") == content);
    let mut incident = Value::Null;
    wait("who it was", || {
        incident = world.incidents().pop().unwrap();
        !incident["who"].is_null()
    });
    let who = &incident["who"];
    assert_eq!(
        (&who["exe"], &who["pid"], &who["auid"], &who["uid"]),
        (&"/usr/bin/tee".into(), &11.into(), &1000.into(), &0.into())
    );
    assert!(
        agent
            .log()
            .contains("the audit log says who changed the file"),
        "{}",
        agent.log()
    );
    assert!(
        shown(&world.run(&["incidents"]).stdout)
            .contains("by /usr/bin/tee (tee), pid 11, uid 0, logged in as uid 1000")
    );
    let asked = fs::read_to_string(world.path("asked")).unwrap();
    assert!(
        asked
            .lines()
            .all(|line| line == "--input-logs -k authorized_keys --start recent --format raw"),
        "{asked}"
    );
}

#[test]
fn the_same_change_by_another_person_is_not_the_first_one_s() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    // Of each `mv` that the test makes.
    world.stand_in(
        "ausearch",
        r#"while read at inode who; do
  n=$((n + 1))
  echo "type=SYSCALL msg=audit($at:$n): success=yes $who comm=\"mv\" exe=\"/usr/bin/mv\" key=\"authorized_keys\""
  echo "type=PATH msg=audit($at:$n): item=0 name=\"$WORLD/home/alice/.ssh/authorized_keys\" inode=$inode nametype=CREATE"
done < "$WORLD/records" | sed "s/inode=\([0-9]*\) nametype/inode=\1 $(cat "$WORLD/device") nametype/""#,
    );
    fs::write(world.path("records"), "").unwrap();
    let device = "printf 'dev=%02x:%02x' $(stat -c '%Hd %Ld' \"$1\")";
    let device = Command::new("sh")
        .args(["-c", device, "sh"])
        .arg(world.home("alice"))
        .output();
    fs::write(world.path("device"), device.unwrap().stdout).unwrap();
    let _agent = world.start();
    let (content, rogue) = (world.read("alice"), key("rogue"));
    let change = |who: &str| {
        let new = world.ssh("alice").join("x");
        plant(&new, ALICE, &format!("{content}{rogue}\n"));
        let records = fs::read_to_string(world.path("records")).unwrap();
        let inode = fs::metadata(&new).unwrap().ino();
        let now = Command::new("date").arg("+%s.%3N").output().unwrap();
        let record = format!("{} {inode} {who}\n", shown(&now.stdout).trim());
        fs::write(world.path("records"), records + &record).unwrap();
        fs::rename(new, world.file("alice")).unwrap();
        wait("the repair", || world.read("alice") == content);
    };
    change("pid=11 auid=1000 uid=1000");
    wait("who it was", || !one(&world)["who"].is_null());
    let again = |times: usize| {
        let all = &one(&world)["again_by"];
        all.as_array().is_some_and(|all| all.len() == times)
    };
    change("pid=12 auid=2000 uid=0");
    wait("who it was the second time", || again(1));
    change("pid=13 auid=1000 uid=1000");
    wait("who it was the third time", || again(2));
    let incident = one(&world);
    assert_eq!(
        (
            &incident["who"]["pid"],
            &incident["again_by"][0]["auid"],
            &incident["repeated"]
        ),
        (&11.into(), &2000.into(), &2.into())
    );
    let text = shown(&world.run(&["incidents"]).stdout);
    for part in [
        "the first by /usr/bin/mv (mv), pid 11",
        "again by /usr/bin/mv (mv), pid 12",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_directory_that_was_given_away_stood_so_since_then() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    let began = Instant::now();
    wait("some time to pass", || {
        began.elapsed() > Duration::from_millis(500)
    });
    let began = Instant::now();
    std::os::unix::fs::chown(world.ssh("alice"), Some(BOB), Some(BOB)).unwrap();
    assert_eq!(world.pass(), 0);
    let incident = one(&world);
    let stood = u128::from(incident["stood_milliseconds"].as_u64().unwrap());
    assert!(stood <= began.elapsed().as_millis() + 20, "{incident:#}");
    assert_eq!(incident["stood_since"], "directory");
}

#[test]
fn an_audit_log_that_does_not_answer_keeps_nobody_waiting() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    world.stand_in("ausearch", "echo $$ > \"$WORLD/asked\"; exec sleep 1000");
    let agent = world.start();
    append(&world, "alice", ALICE, &key("rogue"));
    wait("the question", || world.path("asked").exists());
    append(&world, "alice", ALICE, &key("another"));
    wait("both incidents", || world.incidents().len() == 2);
    wait("the end of waiting", || {
        agent.log().contains("did not end within 2 s")
    });
    let pid = fs::read_to_string(world.path("asked")).unwrap();
    wait("the end of the program", || {
        !fs::exists(format!("/proc/{}", pid.trim())).unwrap()
    });
}

/// Two programs of root's that both think the file is theirs. Of an account of which no process lives: one that did it itself
/// would not be waited for.
#[test]
fn a_rival_is_recognised_and_the_host_is_not_burnt() {
    let mut world = World::new();
    world.accounts = "manage = [\"svc\"]".to_owned();
    world.approve("svc", "laptop", &key("svc@laptop"));
    // The audit log has the record of each `mv`.
    world.stand_in(
        "ausearch",
        r#"dev=$(printf '%02x:%02x' $(stat -c '%Hd %Ld' "$WORLD/home/svc"))
tail -n 300 "$WORLD/moves" | while read at inode; do
  n=$((n + 1))
  echo "type=SYSCALL msg=audit($at:$n): success=yes pid=12 auid=4294967295 uid=0 comm=\"mv\" exe=\"/opt/rival/agent\" key=\"authorized_keys\""
  echo "type=PATH msg=audit($at:$n): item=0 name=\"$WORLD/home/svc/.ssh/authorized_keys\" inode=$inode dev=$dev nametype=CREATE"
done"#,
    );
    let agent = world.start();
    let (content, f, s) = (world.read("svc"), world.file("svc"), world.ssh("svc"));
    fs::write(world.path("theirs"), key("theirs")).unwrap();
    let script = format!(
        "while :; do cmp -s {theirs} {f} || {{ cp {theirs} {s}/.theirs && chown 601:601 {s}/.theirs && \
         echo \"$(date +%s.%3N) $(stat -c %i {s}/.theirs)\" >> {moves} && mv {s}/.theirs {f}; }}; done",
        moves = world.path("moves").display(),
        theirs = world.path("theirs").display(),
        f = f.display(),
        s = s.display()
    );
    let rival = Command::new("nice")
        .args(["sh", "-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let rival = Ends(rival);
    wait("the rival to be named", || {
        world
            .problems()
            .contains("undoes the same change again and again")
    });
    let repaired = || world.status()["drift"]["repaired"].as_u64().unwrap();
    wait("the back-off to grow", || repaired() >= 16);
    // From here on each repair waits a second.
    let (before, began) = (repaired(), Instant::now());
    wait("three more repairs", || repaired() >= before + 3);
    assert!(
        began.elapsed() > Duration::from_millis(1900),
        "{:?}",
        began.elapsed()
    );
    drop(rival);
    wait("the file, for good", || world.read("svc") == content);
    assert_eq!(
        agent
            .log()
            .matches("another program makes the same change")
            .count(),
        1,
        "{}",
        agent.log()
    );
    assert!(
        agent.log().contains("program=/opt/rival/agent"),
        "{}",
        agent.log()
    );
    assert!(
        world
            .problems()
            .contains("`/opt/rival/agent` writes this file too"),
        "{}",
        world.problems()
    );
    let all = world.incidents();
    let counted: u64 = all
        .iter()
        .map(|incident| 1 + incident["repeated"].as_u64().unwrap())
        .sum();
    assert!(all.len() <= 3 && counted >= before + 3, "{all:#?}");
}

/// Every drift another one, as fast as they are undone.
#[test]
fn a_thousand_drifts_stay_within_bounds_and_cost_nobody_else_anything() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    world.approve("bob", "laptop", &key("bob@laptop"));
    let agent = world.start();
    let rogue = key("rogue of bob");
    append(&world, "bob", BOB, &rogue);
    let right = world.read("alice");
    let began = Instant::now();
    for number in 0..1000 {
        let content = format!("{}\n{}", numbered(number, "rogue"), "#".repeat(2000));
        world.put("alice", ALICE, &content);
        wait("the repair", || world.read("alice") == right);
    }
    let minutes = began.elapsed().as_secs() / 60 + 1;
    let of = |account: &str| -> Vec<Value> {
        world
            .incidents()
            .into_iter()
            .filter(|incident| incident["account"] == account)
            .collect()
    };
    let counted = |incidents: &[Value]| -> u64 {
        let count = |incident: &Value| {
            1 + incident["uncounted"].as_u64().unwrap() + incident["repeated"].as_u64().unwrap()
        };
        incidents.iter().map(count).sum()
    };
    // What comes while a repair is still being checked is undone with it, and counted once.
    let repaired = || world.status()["drift"]["repaired"].as_u64().unwrap();
    wait("all to be counted", || {
        counted(&world.incidents()) == repaired()
    });
    assert!(repaired() > 100, "{}", repaired());
    let kept = u64::try_from(of("alice").len()).unwrap();
    assert!(kept <= 30 * minutes, "{kept} in {minutes} minutes");
    let content =
        |incident: &Value| fs::read_to_string(incident["content_file"].as_str().unwrap()).unwrap();
    // The first may be what a write has emptied and not filled yet.
    assert!(
        of("alice")[..2]
            .iter()
            .any(|incident| content(incident).contains("rogue"))
    );
    let bob = of("bob");
    assert_eq!(bob.len(), 1);
    assert!(content(&bob[0]).contains(&rogue));
    // Bob's line, thirty of alice's, of which some are of another kind, and then one a second.
    let (lines, seconds) = (
        agent.log().matches("drift undone").count(),
        began.elapsed().as_secs(),
    );
    let most = usize::try_from(1 + 30 + 1 + seconds).unwrap();
    assert!((21..=most).contains(&lines), "{lines} lines in {seconds} s");
    assert!(agent.log().contains("not_said="), "{}", agent.log());
}

/// Whatever kind of line it is: in observe mode nothing is undone, and no incident bounds what is said.
#[test]
fn an_account_that_goes_back_and_forth_does_not_fill_the_log() {
    let mut world = World::new();
    world.top = "mode = \"observe\"".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    world.make_ssh("alice", ALICE);
    let agent = world.start();
    let began = Instant::now();
    let is_seen = |key: &str| {
        let rows = world.word()["accounts"].clone();
        rows.to_string().contains(&fingerprint(key))
    };
    for number in 0..80 {
        let rogue = numbered(number, "rogue");
        world.put("alice", ALICE, &rogue);
        wait("the agent to see it", || is_seen(&rogue));
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let lines = |log: &str| {
        log.lines()
            .filter(|line| line.contains("account=alice"))
            .count()
    };
    let said = lines(&agent.log());
    assert!(
        (30..=31 + seconds).contains(&said),
        "{said} lines in {seconds} s"
    );
    let (_, log) = agent.stop();
    let last = log
        .lines()
        .rfind(|line| line.contains("account=alice"))
        .unwrap();
    assert!(
        // With what it could say itself, or at the end.
        last.contains("not_said="),
        "{log}"
    );
}

/// A repair waits for the same disk.
#[test]
fn many_incidents_share_one_sync_and_none_comes_during_a_burst() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    world.approve("bob", "laptop", &key("bob@laptop"));
    let trace = world.path("trace");
    let mut command = world.command("strace");
    command
        .args(["-f", "-qq", "-y", "-o"])
        .arg(&trace)
        .args(["-e", "trace=fsync,fdatasync,syncfs,sync"])
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg("run");
    // The agent goes with strace: a tracer that is killed lets its tracee run on.
    let mut guarded = Command::new("setpriv");
    guarded
        .args(["--pdeathsig", "TERM"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let traced = Ends(guarded.spawn().unwrap());
    wait("both files", || {
        !world.read("alice").is_empty() && !world.read("bob").is_empty()
    });
    let place = world.path("state/incidents").display().to_string();
    let syncs = || {
        let trace = fs::read_to_string(&trace).unwrap_or_default();
        let syncs = |line: &&str| line.contains("sync(") || line.contains("syncfs(");
        trace
            .lines()
            .filter(syncs)
            .filter(|line| line.contains(&place))
            .count()
    };
    wait("the directory", || {
        append(&world, "bob", BOB, &key("first"));
        world.path("state/incidents").is_dir()
    });
    let before = syncs();
    for number in 0..10 {
        append(&world, "alice", ALICE, &numbered(number, "rogue"));
        append(&world, "bob", BOB, &numbered(number, "rogue"));
    }
    let during = syncs() - before;
    assert!(during <= 4, "{during} while changes came");
    wait("all incidents", || world.incidents().len() > 20);
    wait("the disk", || syncs() > before);
    let all = syncs() - before;
    assert!((1..=6).contains(&all), "{all} for 20 incidents");
    let pid = world.word()["enforcer"]["pid"].as_u64().unwrap();
    signal("TERM", u32::try_from(pid).unwrap());
    drop(traced);
}

/// Every account may write a megabyte, all of it one comment.
#[test]
fn long_comments_push_nothing_out_of_the_store() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    let _agent = world.start();
    let first = key("the first");
    append(&world, "alice", ALICE, &first);
    one(&world);
    let right = world.read("alice");
    for number in 0..20 {
        let long = format!("{} {}\n", numbered(number, "rogue"), "c".repeat(1_000_000));
        fs::write(world.path("long"), long).unwrap();
        let (long, file) = (world.path("long"), world.file("alice"));
        shell_as(
            ALICE,
            &format!("cat {} >> {}", long.display(), file.display()),
        );
        wait("the repair", || world.read("alice") == right);
    }
    wait("the last incidents", || world.incidents().len() > 10);
    let all = world.incidents();
    assert_eq!(all[0]["changes"][0]["fingerprint"], fingerprint(&first));
    let cut = |change: &Value| {
        change["comment"]
            .as_str()
            .is_some_and(|comment| comment.ends_with("ccc..."))
    };
    assert!(
        all.iter()
            .any(|incident| incident["changes"].as_array().unwrap().iter().any(cut)),
        "{all:#?}"
    );
    let files = fs::read_dir(world.path("state/incidents")).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 4 << 20, "{bytes}");
}

#[test]
fn the_store_makes_room_at_the_cost_of_the_account_that_fills_it() {
    let world = World::new();
    for (account, uid) in [("alice", ALICE), ("bob", BOB)] {
        world.approve(account, "laptop", &key(account));
        assert_eq!(world.pass(), 0);
        world.put(account, uid, &key("rogue"));
        assert_eq!(world.pass(), 0);
    }
    let directory = world.path("state/incidents");
    let template = world.incidents().remove(0);
    let fill = |number: usize, content: usize| {
        let mut incident = template.clone();
        let id = format!("20200101T000000.{number:06}Z-alice");
        incident["id"] = id.as_str().into();
        fs::write(directory.join(format!("{id}.json")), incident.to_string()).unwrap();
        if content > 0 {
            fs::write(directory.join(format!("{id}.content")), "x".repeat(content)).unwrap();
        }
    };
    (0..1100).for_each(|number| fill(number, 0));
    fs::write(directory.join("20200101T000000.000000Z-alice.new"), "half").unwrap();
    let tamper = |what: &str| {
        world.put("alice", ALICE, &key(what));
        assert_eq!(world.pass(), 0);
    };
    tamper("one more");
    let ids = || -> Vec<String> {
        world
            .incidents()
            .iter()
            .map(|incident| incident["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids().len(), 1000);
    assert!(
        ids()[0].contains(".000103Z"),
        "the oldest of alice's went first: {}",
        ids()[0]
    );
    assert!(ids().iter().any(|id| id.ends_with("-bob")));
    assert_eq!(
        fs::read_dir(&directory)
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().path().extension().unwrap() == "new" })
            .count(),
        0
    );

    (200..220).for_each(|number| fill(number, 1 << 20));
    tamper("and another");
    let bytes: u64 = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 16 << 20, "{bytes}");
    assert!(
        ids().iter().any(|id| id.ends_with("-bob")) && ids().last().unwrap().ends_with("-alice")
    );
    assert!(world.incidents().last().unwrap()["content_file"].is_string());
}

#[test]
fn a_content_too_large_to_keep_is_cut_and_said_to_be() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    world.put(
        "alice",
        ALICE,
        &format!("{}\n{}", key("rogue"), "#".repeat(300_000)),
    );
    assert_eq!(world.pass(), 0);
    let incident = one(&world);
    assert_eq!(incident["evidence"]["kept"], "cut");
    assert!(incident["evidence"]["bytes"].as_u64().unwrap() > 300_000);
    assert_eq!(
        fs::metadata(incident["content_file"].as_str().unwrap())
            .unwrap()
            .len(),
        256 << 10
    );
}

#[test]
fn a_store_that_cannot_be_written_keeps_no_repair_from_happening() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(world.pass(), 0);
    fs::write(world.path("state/incidents"), "in the way").unwrap();
    let agent = world.start();
    for number in 0..3 {
        append(&world, "alice", ALICE, &numbered(number, "rogue"));
        // Two that come at once are one.
        wait("its repair", || {
            world.status()["drift"]["repaired"].as_u64() > u64::try_from(number).ok()
        });
    }
    let (status, log) = agent.stop();
    assert!(status.success());
    let complaints = log.matches("incident not kept").count();
    assert!((1..=3).contains(&complaints), "{log}");
    assert!(litter(&world.path("state"), &["enforced.json", "incidents"]).is_empty());
}

/// What the rule makes the kernel record; the rule itself is loaded where there is a kernel of one's own.
#[test]
fn the_shipped_audit_rule_gives_the_key_that_is_asked_for() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/audit/authorized_keys.rules");
    let rules = fs::read_to_string(path).unwrap();
    let rules: Vec<&str> = rules
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .filter(|line| line.starts_with("-a"))
        .collect();
    assert!(
        !rules.is_empty()
            && rules
                .iter()
                .all(|rule| rule.ends_with("-k authorized_keys")),
        "{rules:?}"
    );
    // A program of 32 bits is one more way to write.
    for rule in &rules {
        let twin = rule.replace("arch=b64", "arch=b32");
        assert!(
            rule.contains("arch=b32") || rules.contains(&twin.as_str()),
            "{rule}"
        );
    }
}
