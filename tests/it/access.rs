//! What sshd makes of the files, against the real one: each door that is named lets somebody in, and what is said to be
//! refused is refused.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use authorized_keys_agent::model::key::line::Line;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::support::logins::{
    assert_in, assert_out, by_key, configure, login, run, world, written, written_access,
};
use crate::support::world::{
    ALICE, BOB, DAEMON, Ends, World, fingerprint, flat, key, numbered, pair, shown, wait, warnings,
};

const PLAIN: &str = "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no";

#[test]
fn a_file_that_sshd_reads_and_takes_is_effective() {
    let world = world(PLAIN);
    let (identity, line) = pair("alice");
    world.approve("alice", "laptop", &line);
    let _agent = world.start();
    wait("the enforcer's word", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    assert_in(by_key(&world, "alice", &identity));
    let status = world.status();
    assert_eq!(
        (&status["health"], warnings(&status)),
        (&"healthy".into(), String::new())
    );
    assert_eq!(status["sshd"]["path"], "/usr/sbin/sshd");
    let version = run(Command::new("sh").args(["-c", "ssh -V 2>&1"]));
    let version = version
        .split("OpenSSH_")
        .nth(1)
        .unwrap()
        .split('p')
        .next()
        .unwrap();
    assert_eq!(status["sshd"]["version"], version);
    let text = shown(&world.run(&["status"]).stdout);
    assert!(flat(&text).contains("alice in-sync 1 effective"), "{text}");
    assert!(
        text.contains(&format!(
            "sshd      OpenSSH {version}, /usr/sbin/sshd, asked just now; 1 effective"
        )),
        "{text}"
    );
}

/// Each row opens one door. The `status` names it and stays healthy, `check` warns of it, and somebody without an
/// approved key gets in.
#[test]
fn each_door_is_named_and_really_open() {
    let (rogue, rogue_line) = pair("rogue");
    let row = |config: &str,
               open: &dyn Fn(&World),
               kind: &str,
               detail: &str,
               how: &dyn Fn(&World) -> (bool, String)| {
        let mut world = world(PLAIN);
        world.accounts += "\nother-files = \"report\"";
        world.approve("alice", "laptop", &key("alice"));
        let _agent = world.start();
        wait("the first answer", || {
            written_access(&world, "alice")["verdict"] == "effective"
        });
        open(&world);
        assert_out(how(&world));
        configure(&world, &format!("{config}\n{PLAIN}"));
        wait(kind, || {
            written_access(&world, "alice")["verdict"] == "also-open"
        });
        assert_in(how(&world));
        let door = &world.account("alice")["access"]["doors"][0];
        assert_eq!(
            (&door["kind"], &door["detail"]),
            (&kind.into(), &detail.into())
        );
        let status = world.run(&["status", "alice"]);
        let check = world.run(&["check"]);
        let text = shown(&status.stdout);
        assert!(
            flat(&text).contains(&format!("{kind} {detail}"))
                && text.contains("\nwarning: also open: "),
            "{text}"
        );
        assert_eq!(status.status.code(), Some(0), "{text}");
        let check = shown(&check.stdout);
        assert!(check.contains("warn  sshd         also open: "), "{check}");
    };
    let by_rogue = |world: &World| by_key(world, "alice", &rogue);
    let plant = |path: &'static str| {
        let line = rogue_line.clone();
        move |world: &World| {
            fs::write(world.ssh("alice").join(path), &line).unwrap();
            chown(world.ssh("alice").join(path), Some(ALICE), Some(ALICE)).unwrap();
        }
    };
    row(
        "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2",
        &plant("authorized_keys2"),
        "authorized-keys-file",
        ".ssh/authorized_keys2",
        &by_rogue,
    );
    row(
        "AuthorizedKeysFile /etc/ssh/keys/%u %h/.ssh/authorized_keys",
        &|world| {
            fs::create_dir(world.path("etc/ssh/keys")).unwrap();
            fs::write(world.path("etc/ssh/keys/alice"), &rogue_line).unwrap();
        },
        "authorized-keys-file",
        "/etc/ssh/keys/%u",
        &by_rogue,
    );
    row(
        "AuthorizedKeysCommand /etc/ssh/keys.sh %u\nAuthorizedKeysCommandUser root",
        &|world| {
            let script = world.path("etc/ssh/keys.sh");
            fs::write(&script, format!("#!/bin/sh\necho '{rogue_line}'\n")).unwrap();
            fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
        },
        "command",
        "/etc/ssh/keys.sh %u",
        &by_rogue,
    );
    row(
        "TrustedUserCAKeys /etc/ssh/ca.pub",
        &|world| {
            let ca = world.path("etc/ssh/ca");
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&ca));
            let public = rogue.path().join("id.pub");
            run(Command::new("ssh-keygen")
                .args(["-q", "-I", "x", "-n", "alice", "-s"])
                .arg(ca)
                .arg(public));
        },
        "authority",
        "/etc/ssh/ca.pub",
        &by_rogue,
    );
    row(
        "PasswordAuthentication yes",
        &|world| {
            let hash = run(Command::new("openssl").args(["passwd", "-6", "secret"]));
            let passwd = fs::read_to_string(world.path("passwd")).unwrap();
            let with_hash = passwd.replace("alice:x:", &format!("alice:{}:", hash.trim()));
            // In place: the file is mounted where the agent looks.
            fs::write(world.path("passwd"), with_hash).unwrap();
            fs::write(world.path("askpass"), "#!/bin/sh\necho secret\n").unwrap();
            fs::set_permissions(world.path("askpass"), fs::Permissions::from_mode(0o755)).unwrap();
        },
        "password",
        "PasswordAuthentication",
        &|world| {
            login(
                world,
                "alice",
                &[
                    "-o",
                    "PreferredAuthentications=password",
                    "-o",
                    "NumberOfPasswordPrompts=1",
                ],
            )
        },
    );
}

#[test]
fn a_door_that_is_accepted_is_named_and_not_warned_of() {
    let mut world = world(&format!("TrustedUserCAKeys /etc/ssh/ca.pub\n{PLAIN}"));
    world.accounts += "\naccepted-doors = [\"authority\"]";
    world.approve("alice", "laptop", &key("alice"));
    let _agent = world.start();
    wait("the enforcer's word", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    let status = world.status();
    assert_eq!(
        status["accounts"][0]["access"]["doors"][0]["accepted"],
        true
    );
    assert_eq!(warnings(&status), "");
    let text = shown(&world.run(&["status", "--keys"]).stdout);
    assert!(
        text.contains("  authority /etc/ssh/ca.pub: accepted"),
        "{text}"
    );
    assert!(!shown(&world.run(&["check"]).stdout).contains("TrustedUserCAKeys"));
    world.accounts = "manage = [\"alice\"]\naccepted-doors = [\"window\"]".to_owned();
    let refused = shown(&world.run(&["status"]).stderr);
    assert!(
        refused.contains("not a door: authorized-keys-file, command, authority, "),
        "{refused}"
    );
}

#[test]
fn a_home_that_others_can_write_to_is_refused_by_sshd() {
    let world = world(PLAIN);
    let (identity, line) = pair("alice");
    world.approve("alice", "laptop", &line);
    world.approve("bob", "laptop", &key("bob"));
    let _agent = world.start();
    wait("the first answer", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    assert_in(by_key(&world, "alice", &identity));
    let open =
        |mode| fs::set_permissions(world.home("alice"), fs::Permissions::from_mode(mode)).unwrap();
    // A group of its own, which Debian's sshd minds and others do not: what is said is what it does.
    open(0o775);
    wait("the full check", || {
        written_access(&world, "alice") != Value::Null
    });
    let settled = |world: &World| {
        let said = written_access(world, "alice")["verdict"].clone();
        (said == "effective") == by_key(world, "alice", &identity).0
    };
    wait("the enforcer to agree with sshd", || settled(&world));
    assert_eq!(
        world.account("alice")["access"],
        written_access(&world, "alice")
    );
    chown(world.home("alice"), None, Some(BOB)).unwrap();
    wait("the enforcer to notice", || {
        written_access(&world, "alice")["verdict"] == "refused"
    });
    let (is_in, log) = by_key(&world, "alice", &identity);
    assert!(
        !is_in && log.contains("Authentication refused: bad ownership or modes for directory"),
        "{log}"
    );
    assert_eq!(written_access(&world, "bob")["verdict"], "effective");
    let reason = format!(
        "StrictModes: `{}` has mode 0775",
        world.home("alice").display()
    );
    assert!(
        world
            .problems()
            .contains(&format!("alice is refused by sshd: {reason}")),
        "{}",
        world.problems()
    );
    let status = world.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    let text = shown(&status.stdout);
    assert!(flat(&text).contains("alice in-sync 1 refused"), "{text}");
    open(0o755);
    wait("the enforcer to notice that too", || {
        world.status()["health"] == "healthy"
    });
    assert_in(by_key(&world, "alice", &identity));
}

#[test]
fn what_sshd_s_configuration_refuses_is_noticed_while_the_agent_runs() {
    let world = world(&format!("Include /etc/ssh/more/*.conf\n{PLAIN}"));
    fs::create_dir(world.path("etc/ssh/more")).unwrap();
    let (identity, line) = pair("alice");
    world.approve("alice", "laptop", &line);
    world.approve("bob", "laptop", &key("bob"));
    let _agent = world.start();
    let more = world.path("etc/ssh/more/10.conf");
    let put = |config: Option<&str>| match config {
        Some(config) => fs::write(&more, config).unwrap(),
        None => fs::remove_file(&more).unwrap(),
    };
    let becomes = |config: Option<&str>, verdict: &str, reason: Value| {
        put(config);
        wait(verdict, || {
            let access = written_access(&world, "alice");
            access["verdict"] == verdict && access["reason"] == reason
        });
        // What the enforcer wrote is what `status` then hears itself.
        assert_eq!(
            world.account("alice")["access"],
            written_access(&world, "alice")
        );
    };
    wait("the first answer", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    // A file that was not there, then one that was.
    becomes(
        Some("PubkeyAuthentication no\n"),
        "refused",
        "PubkeyAuthentication no".into(),
    );
    assert_out(by_key(&world, "alice", &identity));
    put(Some("Nonsense yes\n"));
    wait("sshd's complaint", || {
        written_access(&world, "alice")["verdict"] == "unknown"
    });
    let why = written_access(&world, "alice")["reason"].clone();
    assert!(
        why.as_str()
            .unwrap()
            .starts_with("`/usr/sbin/sshd -T` failed: "),
        "{why}"
    );
    assert_eq!(world.status()["health"], "healthy");
    becomes(
        Some("Match User alice\nDenyUsers *\n"),
        "refused",
        "DenyUsers *".into(),
    );
    assert_out(by_key(&world, "alice", &identity));
    becomes(
        Some("Match User alice\nPubkeyAcceptedAlgorithms rsa-sha2-512\n"),
        "refused",
        format!(
            "not taken: ssh-ed25519 is not in PubkeyAcceptedAlgorithms (alice {})",
            fingerprint(&line)
        )
        .into(),
    );
    assert_out(by_key(&world, "alice", &identity));
    wait("bob's own answer", || {
        written_access(&world, "bob")["verdict"] == "effective"
    });
    becomes(None, "effective", Value::Null);
    assert_in(by_key(&world, "alice", &identity));
}

/// In a pid namespace of its own no other sshd listens.
fn alone(world: &World, script: &str) -> String {
    let mut command = world.command("unshare");
    command.args([
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    command
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg("check");
    shown(&command.output().unwrap().stdout)
}

#[test]
fn what_the_command_line_of_sshd_adds_is_seen() {
    let world = world(PLAIN);
    world.approve("alice", "laptop", &key("alice"));
    let units = world.path("etc/systemd/system");
    fs::create_dir_all(units.join("ssh.service.d")).unwrap();
    fs::write(
        units.join("ssh.service"),
        "[Service]\nExecStart=/usr/sbin/sshd -D\n",
    )
    .unwrap();
    let connect = "/usr/share/ec2-instance-connect/eic_run_authorized_keys %u %f";
    let warning =
        "also open: EC2 Instance Connect (AuthorizedKeysCommand), for alice, bob, mallory";
    assert!(!alone(&world, "\"$@\"").contains(warning));
    let options =
        format!("-o \"AuthorizedKeysCommand {connect}\" -o \"AuthorizedKeysCommandUser root\"");
    // The one that listens counts, not what the unit would start.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let listening = |options: &str| {
        format!(
            "/usr/sbin/sshd {options} -o PidFile=none -o ListenAddress=127.0.0.1 -p {port} && \
             until grep -qs listening /proc/[0-9]*/cmdline || grep -qs '\\[listener\\]' /proc/[0-9]*/cmdline; do :; done; \
             \"$@\""
        )
    };
    let text = alone(&world, &listening(&options));
    assert!(text.contains(warning), "{text}");
    let drop_in = options.replace('%', "%%");
    let drop_in = format!("[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D {drop_in}\n");
    fs::write(
        units.join("ssh.service.d/ec2-instance-connect.conf"),
        drop_in,
    )
    .unwrap();
    let text = alone(&world, "\"$@\"");
    assert!(text.contains(warning), "{text}");
    let text = alone(&world, &listening(""));
    assert!(
        !text.contains(warning) && text.contains("reads the managed file of alice"),
        "{text}"
    );
    // Beside it, one that reads something else.
    fs::write(
        world.path("etc/ssh/second"),
        "HostKey /etc/ssh/host_key\nPidFile none\n",
    )
    .unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let other = format!("/usr/sbin/sshd -f /etc/ssh/second -o ListenAddress=127.0.0.1 -p {other}");
    let text = alone(&world, &format!("{other} && {}", listening("")));
    assert_eq!(
        text.matches("another sshd listens, and the agent does not judge whom it lets in: `")
            .count(),
        1,
        "{text}"
    );
    // Another file altogether.
    fs::write(
        world.path("etc/ssh/other"),
        "HostKey /etc/ssh/host_key\nAuthorizedKeysFile none\n",
    )
    .unwrap();
    let text = alone(&world, &listening("-f /etc/ssh/other"));
    assert!(
        text.contains("sshd refuses the managed file of alice, bob, mallory: sshd reads `none`"),
        "{text}"
    );
}

/// A stand-in for `/usr/sbin/sshd` in the world's namespace. `REAL` in the script is the real one.
fn with_sshd(world: &World, script: &str, arguments: &[&str]) -> Command {
    let (real, own) = (world.path("real-sshd"), world.path("own-sshd"));
    if !real.exists() {
        fs::copy("/usr/sbin/sshd", &real).unwrap();
    }
    let text = format!(
        "#!/bin/sh\n{}\n",
        script.replace("REAL", &real.display().to_string())
    );
    // By another process: one that is forked meanwhile would keep it open for writing, and so from running.
    let put = "printf %s \"$2\" > \"$1\" && chmod 755 \"$1\"";
    run(Command::new("sh")
        .args(["-c", put, "sh"])
        .arg(&own)
        .arg(text));
    let mut command = world.command("sh");
    command
        .args([
            "-c",
            "mount --bind \"$1\" /usr/sbin/sshd && shift && exec \"$@\"",
            "sh",
        ])
        .arg(own)
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .args(arguments);
    command
}

/// As 8.3 to 8.7 answer `-V`: they do not know it.
fn old(version: &str) -> String {
    format!(
        "[ \"$1\" = -V ] || exec REAL \"$@\"; echo 'unknown option -- V' >&2; \
         echo 'OpenSSH_{version}p1, OpenSSL 1.1.1k  FIPS 25 Mar 2021' >&2; exit 1"
    )
}

#[test]
fn lines_are_written_for_the_sshd_that_is_installed() {
    let mut world = world(PLAIN);
    world
        .environment
        .push(("TZ", "CET-1CEST,M3.5.0,M10.5.0/3".to_owned()));
    let line = key("alice");
    world.approve("alice", "utc", &format!("expiry-time=\"20990101Z\" {line}"));
    world.approve(
        "alice",
        "touch",
        &format!("restrict,verify-required {}", key("touch")),
    );
    world.run(&["fetch", "--once"]);
    let enforce = |script: &str| {
        with_sshd(&world, script, &["enforce", "--once"])
            .output()
            .unwrap();
        world.read("alice")
    };
    let utc = format!("expiry-time=\"20990101Z\" {line}\n");
    let local = format!("expiry-time=\"20990101010000\" {line}\n");
    let touch = "restrict,verify-required ";
    let now = enforce("exec REAL \"$@\"");
    assert!(now.contains(&utc) && now.contains(touch), "{now}");
    let amazon = enforce(&old("8.7"));
    assert!(
        amazon.contains(&local) && amazon.contains(touch),
        "{amazon}"
    );
    let older = enforce(&old("8.3"));
    assert!(
        older.contains(&local) && !older.contains("verify-required"),
        "{older}"
    );
    let status = with_sshd(&world, &old("8.3"), &["status", "--json"])
        .output()
        .unwrap();
    let rejected = serde_json::from_slice::<Value>(&status.stdout).unwrap()["rejected"].to_string();
    let reason = "the option `verify-required` needs OpenSSH 8.4, and here it is 8.3";
    assert!(rejected.contains(reason), "{rejected}");
    // It says nothing, nor does the client, or fails: what it said last counts.
    let silent = "[ \"$1\" = -V ] || exec REAL \"$@\"; mount --bind /bin/true /usr/bin/ssh";
    for script in [
        silent,
        "[ \"$1\" = -V ] || exec REAL \"$@\"; exec sleep 100",
    ] {
        assert_eq!(enforce(script), older, "{script}");
    }
    // If it never said it, what every one understands is written.
    let path = world.path("state/enforced.json");
    let state = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        state.replace("\"openssh\":\"8.3\"", "\"openssh\":null"),
    )
    .unwrap();
    let untold = enforce(silent);
    assert!(
        untold.contains(&local) && untold.contains(touch),
        "{untold}"
    );
    fs::write(world.path("draft"), format!("verify-required {line}\n")).unwrap();
    let draft = world.path("draft").display().to_string();
    let lint = |version: &str| world.run(&["lint", "--openssh", version, &draft]);
    assert_eq!(lint("8.4").status.code(), Some(0));
    let found = lint("8.3");
    assert_eq!(found.status.code(), Some(1));
    assert!(
        shown(&found.stdout).contains(reason),
        "{}",
        shown(&found.stdout)
    );
}

/// Nothing else happens in this world that would have the agent look again.
#[test]
fn a_version_that_is_said_late_counts_when_it_is() {
    let mut world = world(PLAIN);
    world.tables = "[verify]\nevery = \"1h\"".to_owned();
    world.approve(
        "alice",
        "utc",
        &format!("expiry-time=\"20990101Z\" {}", key("alice")),
    );
    world.run(&["fetch", "--once"]);
    let script = format!("[ \"$1\" != -V ] || sleep 3\n{}", old("8.7"));
    let now = world.path("now");
    let script = format!(
        "if [ -e {} ]; then exec REAL \"$@\"; fi\n{script}",
        now.display()
    );
    let mut command = with_sshd(&world, &script, &["enforce"]);
    let agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    wait("the first pass", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    wait("the version", || {
        fs::read_to_string(world.path("state/enforced.json"))
            .unwrap_or_default()
            .contains("\"8.7\"")
    });
    assert!(
        !world.read("alice").contains("Z\""),
        "{}",
        world.read("alice")
    );
    drop(agent);
    // Where it is another one by then, every line is written anew.
    fs::write(now, "").unwrap();
    let script = script.replacen("exec REAL", "[ \"$1\" != -V ] || sleep 3; exec REAL", 1);
    let mut command = with_sshd(&world, &script, &["enforce"]);
    let _agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    wait("the time in UTC", || {
        world.read("alice").contains("20990101Z\"")
    });
}

/// sshd itself, in a zone that has summer now and in one that has winter: a line rewritten for an older one opens and
/// closes when it should, to well within the hour that could be lost.
#[test]
fn a_time_in_utc_is_rewritten_as_sshd_reads_local_time() {
    #[expect(clippy::disallowed_methods, reason = "what sshd compares with")]
    let now = Timestamp::now();
    for zone in [
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "AEST-10AEDT,M10.1.0,M4.1.0/3",
        "XYZ3:30",
    ] {
        for (minutes, expected) in [(-30, false), (30, true)] {
            let mut world = world(&format!("SetEnv TZ={zone}\n{PLAIN}"));
            world.environment.push(("TZ", zone.to_owned()));
            let (identity, public) = pair("alice");
            let at = (now + SignedDuration::from_mins(minutes)).strftime("%Y%m%d%H%M%SZ");
            let Ok(Line::Key(line)) =
                Line::read(format!("expiry-time=\"{at}\" {public}").as_bytes())
            else {
                panic!("{public}")
            };
            let line = line
                .for_openssh("8.7".parse().unwrap(), &TimeZone::posix(zone).unwrap())
                .unwrap();
            assert!(!line.to_string().contains("Z\""), "{line}");
            world.make_ssh("alice", ALICE);
            world.put("alice", ALICE, &format!("{line}\n"));
            let (is_in, log) = by_key(&world, "alice", &identity);
            assert_eq!(is_in, expected, "{zone} {line} at {now}\n{log}");
        }
    }
}

#[test]
fn keys_of_accounts_nobody_manages_are_listed_and_left_alone() {
    let world = world(PLAIN);
    world.approve("alice", "laptop", &key("alice"));
    let (svc, root) = (key("svc@host"), key("root\u{1b}[2J"));
    world.make_ssh("svc", DAEMON);
    world.put("svc", DAEMON, &format!("# mine\n{svc}\nnonsense\n"));
    fs::create_dir(world.ssh("root")).unwrap();
    world.put("root", 0, &format!("no-pty,no-pty {root}\n"));
    // Managed by name, and the list says nothing of it, so its keys stay. A pipe holds nobody up.
    world.make_ssh("bob", BOB);
    world.put("bob", BOB, &key("bob"));
    let stamps = |account: &str| {
        let meta = fs::metadata(world.file(account)).unwrap();
        (
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.mtime_nsec(),
            meta.ctime_nsec(),
            world.read(account),
        )
    };
    let before = (stamps("svc"), stamps("root"));
    let _agent = world.start();
    let status = world.status();
    let files = status["unmanaged"].as_array().unwrap();
    let names: Vec<&Value> = files.iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["root", "bob", "svc"], "{files:?}");
    assert_eq!(
        (&files[1]["awaits_list"], &files[2]["awaits_list"]),
        (&true.into(), &false.into())
    );
    assert_eq!(
        files[0]["keys"][0]["fingerprint"],
        fingerprint(&root).as_str()
    );
    let own = serde_json::json!({
        "name": "svc", "uid": DAEMON, "file": world.file("svc").display().to_string(), "more": 0, "unclear": 1,
        "error": null, "awaits_list": false,
        "keys": [{"fingerprint": fingerprint(&svc), "type": "ssh-ed25519", "comment": "svc@host"}],
    });
    assert_eq!(files[2], own);
    let text = shown(&world.run(&["status", "--keys"]).stdout);
    assert!(
        text.contains("not managed, so the agent never") && text.contains(&fingerprint(&svc)),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    assert_eq!((stamps("svc"), stamps("root")), before);
    // Where sshd looks elsewhere, so does this.
    configure(
        &world,
        &format!("AuthorizedKeysFile /etc/ssh/keys/%u .ssh/authorized_keys\n{PLAIN}"),
    );
    fs::create_dir(world.path("etc/ssh/keys")).unwrap();
    fs::write(
        world.path("etc/ssh/keys/svc"),
        (0..60).fold(String::new(), |all, n| all + &numbered(n, "n") + "\n"),
    )
    .unwrap();
    fs::remove_file(world.file("svc")).unwrap();
    run(Command::new("mkfifo").arg(world.file("svc")));
    let status = world.status();
    let files = status["unmanaged"].as_array().unwrap();
    assert_eq!(
        (&files[2]["file"], &files[2]["more"]),
        (&"/etc/ssh/keys/svc".into(), &10.into())
    );
    assert_eq!(
        (files.len(), files[2]["keys"].as_array().unwrap().len()),
        (3, 50)
    );
    // What the account can read only as a member of a further group is no file without keys.
    let central = world.path("etc/ssh/keys");
    fs::write(central.join("alice"), key("extra")).unwrap();
    for name in ["svc", "alice"] {
        fs::set_permissions(central.join(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let status = world.status();
    let unread = |name: &str| format!("cannot read `/etc/ssh/keys/{name}`: permission denied");
    assert_eq!(status["unmanaged"][2]["error"], unread("svc"));
    let alice = world.account("alice");
    assert_eq!(
        (&alice["other_files"][0]["error"], &alice["state"]),
        (&unread("alice").into(), &"in-sync".into())
    );
}

#[test]
fn without_an_sshd_nothing_is_claimed_and_everything_enforced() {
    let world = world(PLAIN);
    world.approve("alice", "laptop", &key("alice"));
    let mut command = world.command("sh");
    command
        .args([
            "-c",
            "mount --bind /dev/null /usr/sbin/sshd && exec \"$@\"",
            "sh",
        ])
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg("run");
    let _agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    wait("the answer", || {
        written(&world)["sshd"]["error"] == "no sshd on this host"
    });
    assert_eq!(written_access(&world, "alice")["verdict"], "unknown");
    assert_eq!(world.status()["health"], "healthy");
    assert!(world.read("alice").contains("alice"));
}

#[test]
fn an_sshd_that_hangs_holds_nobody_up() {
    let world = world(PLAIN);
    world.approve("alice", "laptop", &key("alice"));
    let start = Instant::now();
    let mut command = with_sshd(&world, "exec sleep 100", &["run"]);
    let _agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    wait("the file", || world.read("alice").contains("alice"));
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    // Later lists wait for nothing.
    wait("the answer", || {
        written(&world)["sshd"]["error"] == "`/usr/sbin/sshd` did not end within 5 s"
    });
    world.approve("alice", "second", &key("second"));
    let start = Instant::now();
    wait("the second key", || world.read("alice").contains("second"));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(written_access(&world, "alice")["verdict"], "unknown");
    assert_eq!(world.status()["health"], "healthy");
}

/// The first start after a boot reads it from a cold disk.
#[test]
fn what_a_slow_sshd_says_in_the_end_is_learned() {
    let second = PLAIN.replace("_keys\n", "_keys .ssh/authorized_keys2\n");
    let world = world(&second);
    world.approve("alice", "laptop", &key("alice"));
    let once = world.path("once");
    let script = format!(
        "[ \"$1\" = -V ] || exec REAL \"$@\"; [ -e {0} ] || {{ : >{0}; sleep 3; }}; exec REAL -V",
        once.display()
    );
    let mut command = with_sshd(&world, &script, &["run"]);
    let _agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    wait("what sshd reads", || {
        let state = fs::read(world.path("state/enforced.json")).unwrap_or_default();
        let state: Value = serde_json::from_slice(&state).unwrap_or_default();
        state["openssh"].is_string() && !state["sshd_reads"].is_null()
    });
    wait("what sshd makes of the file", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
}

#[test]
fn a_missing_privsep_directory_is_unknown_until_it_is_there() {
    let world = world(PLAIN);
    world.approve("alice", "laptop", &key("alice"));
    let own_run = world.path("own-run");
    let mut command = world.before_sshd(&["run"]);
    let _agent = Ends(command.stderr(Stdio::null()).spawn().unwrap());
    wait("the complaint", || {
        written(&world)["sshd"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("privilege separation"))
    });
    assert_eq!(written_access(&world, "alice")["verdict"], "unknown");
    assert_eq!(world.status()["health"], "healthy");
    fs::create_dir(own_run.join("sshd")).unwrap();
    wait("the answer", || {
        written_access(&world, "alice")["verdict"] == "effective"
    });
    assert!(Path::new("/run/sshd").exists());
}

/// Behind a `Match` every account may be treated apart, and ten thousand questions are too many.
#[test]
fn of_very_many_accounts_behind_a_match_not_all_are_asked_about() {
    let mut world = world(&format!(
        "{PLAIN}\nMatch User u07\nAuthorizedKeysFile none\n"
    ));
    world.accounts = "manage = [\"u*\"]".to_owned();
    let mut passwd = fs::read_to_string(world.path("passwd")).unwrap();
    for number in 0..55_u32 {
        let name = format!("u{number:02}");
        let (uid, home) = (61_100 + number, world.home(&name));
        writeln!(passwd, "{name}:x:{uid}:{uid}::{}:/bin/sh", home.display()).unwrap();
        fs::create_dir(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        world.approve(&name, "laptop", &numbered(number as usize, &name));
    }
    fs::write(world.path("passwd"), passwd).unwrap();
    let _agent = world.start();
    let verdict = |name: &str| written_access(&world, name)["verdict"].clone();
    wait("the answers", || verdict("u00") == "effective");
    assert_eq!(
        (verdict("u07"), verdict("u49"), verdict("u50")),
        ("refused".into(), "effective".into(), "unknown".into())
    );
    assert_eq!(written(&world)["sshd"]["unasked"], 5);
    let text = shown(&world.run(&["status"]).stdout);
    assert!(
        flat(&text).contains("not asked about 5 accounts, as its configuration has a `Match`"),
        "{text}"
    );
    assert!(
        flat(&text).contains(
            "u07 is refused by sshd: sshd reads `none` (AuthorizedKeysFile) and not this file"
        ),
        "{text}"
    );
    // Nor is root left out, whose keys are somewhere else.
    configure(
        &world,
        &format!(
            "{PLAIN}\nMatch User root\nAuthorizedKeysFile /etc/ssh/of_root\nMatch User u07\nAuthorizedKeysFile none\n"
        ),
    );
    fs::write(world.path("etc/ssh/of_root"), key("root")).unwrap();
    let status = world.status();
    let files = status["unmanaged"].as_array().unwrap();
    assert!(
        files.iter().any(|file| file["file"] == "/etc/ssh/of_root"),
        "{files:?}"
    );
    // Without it, one answer is everybody's.
    configure(&world, PLAIN);
    wait("one answer for all", || {
        verdict("u50") == "effective" && verdict("u07") == "effective"
    });
}
