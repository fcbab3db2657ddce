//! `check` against worlds in which one thing is wrong: it says which, what to do, and looks at everything else.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use authorized_keys_agent::host::sshd;
use authorized_keys_agent::model::sshd::invocation::Invocation;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::ssm_server::{Behaviour, SsmServer};
use crate::support::world::{ALICE, BOB, World, flat, key, pair, shell_as, shown};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

#[expect(
    clippy::disallowed_methods,
    reason = "what the binary compares with the service's clock"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// A world in which alice, bob and mallory have a key each.
fn world() -> World {
    let world = World::new();
    for account in ["alice", "bob", "mallory"] {
        world.approve(account, "laptop", &key(account));
    }
    world
}

/// `check` with nothing of the machine's own AWS configuration, and `sshd_config` in the place of the host's.
fn command(world: &World, sshd_config: &str, arguments: &[&str]) -> Command {
    fs::create_dir_all("/run/sshd").unwrap();
    let host_key = world.path("host_key");
    if !host_key.exists() {
        let mut keygen = Command::new("ssh-keygen");
        assert!(
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&host_key)
                .status()
                .unwrap()
                .success()
        );
    }
    let path = world.path("sshd_config");
    fs::write(
        &path,
        format!("HostKey {}\n{sshd_config}\n", host_key.display()),
    )
    .unwrap();
    let mut command = world.command("sh");
    command
        .args([
            "-c",
            "mount --bind \"$1\" /etc/ssh/sshd_config && shift && exec \"$@\"",
            "sh",
        ])
        .arg(&path)
        .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .arg("--config")
        .arg(world.config())
        .arg("check")
        .args(arguments)
        .env("HOME", world.path("nobody"))
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}

const MANAGED: &str = "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no";

/// Each of `expected` begins a line of `output`; with the code. `TMP` in it stands for the world's directory.
fn says(world: &World, output: &Output, expected: &[&str], code: i32) {
    let (text, rest) = (shown(&output.stdout), shown(&output.stderr));
    let root = world.path("x");
    let root = root.parent().unwrap().to_str().unwrap();
    for line in expected {
        let line = line.replace("TMP", root);
        assert!(
            text.lines().any(|found| found.starts_with(&line)),
            "{line}\nis missing in:\n{text}{rest}"
        );
    }
    assert_eq!(output.status.code(), Some(code), "{text}{rest}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
    assert!(!(text.clone() + &rest).contains(SECRET));
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let follows = lines
            .get(at + 1)
            .is_some_and(|next| next.starts_with("      hint: "));
        let needs = line.starts_with("warn  ") || line.starts_with("FAIL  ");
        assert!(
            follows == needs,
            "a hint for each that is not ok, and for no other: {line}\n{text}"
        );
    }
}

fn check(world: &World, expected: &[&str], code: i32) {
    says(
        world,
        &command(world, MANAGED, &[]).output().unwrap(),
        expected,
        code,
    );
}

#[test]
fn all_is_good() {
    let world = world();
    fs::write(world.path("break-glass"), key("vault")).unwrap();
    fs::set_permissions(world.path("break-glass"), fs::Permissions::from_mode(0o600)).unwrap();
    let agent = world.start();
    let output = command(&world, MANAGED, &[]).output().unwrap();
    let (fetcher, enforcer) = (
        "ok    fetcher      running (pid ".to_owned(),
        format!("ok    enforcer     running (pid {})", agent.pid()),
    );
    let expected = [
        "ok    config       `TMP/config.toml` is read, mode enforce",
        "ok    source       directory:TMP/approved: 3 files",
        "ok    keys         alice: 1 key accepted, 0 rejected",
        "ok    account      alice: `TMP/home/alice/.ssh/authorized_keys` can be replaced",
        "ok    directory    state-dir `TMP/state` is writable",
        "ok    directory    fetch-runtime-dir `TMP/fetch-run` is writable",
        "ok    break-glass  `TMP/break-glass`: 1 key",
        &fetcher,
        &enforcer,
        "ok    sshd         reads the managed file of alice, bob, mallory, OpenSSH ",
    ];
    says(&world, &output, &expected, 0);
    assert_eq!(shown(&output.stderr), "16 checks, 0 failed, 0 warnings\n");
    assert!(
        shown(&output.stdout)
            .lines()
            .all(|line| line.starts_with("ok ")),
        "{}",
        shown(&output.stdout)
    );
}

#[test]
fn before_the_first_start_nothing_fails_and_nothing_is_written() {
    let world = world();
    let expected = [
        "ok    account      alice: `TMP/home/alice/.ssh/authorized_keys` can be made",
        "ok    directory    state-dir `TMP/state` can be made",
        "ok    break-glass  none: there is no `TMP/break-glass`",
        "warn  fetcher      not running",
        "      hint: systemctl enable --now authorized-keys-fetch.service",
        "warn  enforcer     not running",
        "      hint: systemctl enable --now authorized-keys-agent.service",
    ];
    check(&world, &expected, 0);
    for path in [
        world.path("state"),
        world.path("run"),
        world.path("fetch-run"),
        world.ssh("alice"),
    ] {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn every_value_and_line_is_judged() {
    let mut world = world();
    world.accounts =
        "manage = [\"alice\", \"bob\", \"svc?\", \"nobody-here\", \"mallory\"]".to_owned();
    world.approve(
        "alice",
        "bad\u{1b}[2J",
        &format!("{}\nenvironment=\"A=b\" {}\n", key("one"), key("two")),
    );
    world.approve("bob", "laptop", "# left\n");
    world.approve("svc", "laptop", &key("svc"));
    world.approve("ghost", "laptop", &key("ghost"));
    world.revoke("mallory", "laptop");
    fs::remove_dir(world.path("approved/mallory")).unwrap();
    let expected = [
        "ok    keys         alice: 2 keys accepted, 1 rejected",
        "ok    keys         bob: no keys, as its comment-only value says",
        "ok    keys         ghost: 1 key accepted, 0 rejected (no such account on this host)",
        "ok    keys         svc: 1 key accepted, 0 rejected (not managed on this host)",
        "warn  keys         mallory: managed, and the list says nothing about it",
        "warn  rejected     `TMP/approved/alice/bad\\u{1b}[2J` line 2: the option `environment` is not in",
        "warn  account      nobody-here: no such account on this host",
    ];
    check(&world, &expected, 0);
    let (directory, public) = pair("alice");
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    world.approve("alice", "laptop", &format!("{public}\n{private}"));
    let output = command(&world, MANAGED, &[]).output().unwrap();
    says(
        &world,
        &output,
        &["FAIL  rejected     `TMP/approved/alice/laptop` line 2: a PRIVATE key"],
        1,
    );
    assert!(!shown(&output.stdout).contains(private.lines().nth(1).unwrap()));
}

#[test]
fn one_failure_hides_no_other() {
    let row = |spoil: &dyn Fn(&World), expected: &[&str], code: i32| {
        let world = world();
        spoil(&world);
        check(&world, expected, code);
        // Everything after it was looked at all the same.
        check(
            &world,
            &["ok    sshd         reads the managed file of"],
            code,
        );
    };
    let of_alice = |line: &str| line.replace("HOME", "TMP/home/alice");
    row(
        &|world| fs::remove_dir_all(world.path("approved")).unwrap(),
        &["FAIL  source       directory:TMP/approved: cannot list `TMP/approved`: No such file"],
        1,
    );
    row(
        &|world| fs::remove_dir_all(world.home("alice")).unwrap(),
        &[
            &of_alice("FAIL  account      alice: cannot open the home `HOME`: "),
            "      hint: make the home",
        ],
        1,
    );
    row(
        &|world| symlink("/etc", world.ssh("alice")).unwrap(),
        &[&of_alice(
            "FAIL  account      alice: `HOME/.ssh` is a symbolic link, not a directory of the account",
        )],
        1,
    );
    row(
        &|world| chown(world.home("alice"), Some(1), Some(1)).unwrap(),
        &[&of_alice(
            "FAIL  account      alice: `HOME` belongs to uid 1, neither to the account nor to root",
        )],
        1,
    );
    row(
        &|world| {
            world.make_ssh("alice", ALICE);
            symlink("/etc/shadow", world.file("alice")).unwrap();
        },
        &[&of_alice(
            "ok    account      alice: `HOME/.ssh/authorized_keys` is a symbolic link, and can be replaced",
        )],
        0,
    );
    row(
        &|world| fs::write(world.path("state"), "").unwrap(),
        &["FAIL  directory    state-dir `TMP/state` is not writable: `TMP/state`: not a directory"],
        1,
    );
    let break_glass = |text: &'static str, mode: u32| {
        move |world: &World| {
            fs::write(world.path("break-glass"), text).unwrap();
            fs::set_permissions(world.path("break-glass"), fs::Permissions::from_mode(mode))
                .unwrap();
        }
    };
    row(
        &break_glass("# none", 0o666),
        &[
            "FAIL  break-glass  `TMP/break-glass` can be changed by others than root (owner 0, mode 0666)",
        ],
        1,
    );
    row(
        &break_glass("garbage\u{1b}[2J\n", 0o600),
        &[
            "warn  break-glass  `TMP/break-glass` line 1: not an authorized_keys line",
            "FAIL  break-glass  no line of `TMP/break-glass` can be read",
        ],
        1,
    );
    row(
        &break_glass("", 0o644),
        &["ok    break-glass  `TMP/break-glass`: 0 keys"],
        0,
    );
    row(
        &|world| symlink("/etc/passwd", world.path("break-glass")).unwrap(),
        &["FAIL  break-glass  cannot open `TMP/break-glass`"],
        1,
    );
}

#[test]
fn without_root_it_says_what_it_could_not_look_at() {
    let world = world();
    fs::copy(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        world.path("agent"),
    )
    .unwrap();
    fs::write(world.path("break-glass"), key("vault")).unwrap();
    fs::set_permissions(world.path("break-glass"), fs::Permissions::from_mode(0o600)).unwrap();
    // In the world's own namespace, so that the accounts are there.
    let script = format!(
        "{} --config {} check",
        world.path("agent").display(),
        world.config().display()
    );
    let id = ALICE.to_string();
    let mut as_alice = world.command("setpriv");
    as_alice.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "sh",
        "-c",
        &script,
    ]);
    let expected = [
        "ok    account      alice: `TMP/home/alice/.ssh/authorized_keys` can be made",
        "warn  account      bob: its file was not looked at: only root may work on the file of uid 61002",
        "warn  directory    state-dir `TMP/state` is not writable: `TMP`: Permission denied",
        "warn  break-glass  not looked at: cannot open `TMP/break-glass`: Permission denied",
        "warn  sshd         `/usr/sbin/sshd` is there; only root can ask it what it reads",
        "      hint: run this as root",
    ];
    says(&world, &as_alice.output().unwrap(), &expected, 0);
    // Outside of the namespace nobody of these exists.
    let nobody = shell_as(ALICE, &script);
    says(
        &world,
        &nobody,
        &[
            "warn  account      alice: no such account on this host",
            "FAIL  keys         no account would be managed: the list names alice, bob, mallory, and no such account is on this host",
        ],
        1,
    );
}

/// An installation that serves nobody is none.
#[test]
fn a_list_for_nobody_here_fails() {
    let row = |world: &World, why: &str| {
        let expected = format!("FAIL  keys         no account would be managed: {why}");
        check(world, &[&expected], 1);
    };
    row(&World::new(), "the list names no account");
    // A path that is a level too low, or too high.
    let mut low = World::new();
    low.approve("alice", "laptop", &key("alice"));
    low.origin = format!("directory = \"{}/alice\"", low.path("approved").display());
    row(
        &low,
        "the list names laptop, and no such account is on this host",
    );
    let high = World::new();
    high.approve("web", "alice", &key("alice"));
    row(
        &high,
        "the list names web, and no such account is on this host",
    );
    // A name that is misspelt on the list, or in `manage`.
    let misspelt = World::new();
    misspelt.approve("alcie", "laptop", &key("alice"));
    row(
        &misspelt,
        "the list names alcie, and no such account is on this host",
    );
    let mut unmanaged = World::new();
    unmanaged.approve("alice", "laptop", &key("alice"));
    unmanaged.accounts = "manage = [\"alcie\"]".to_owned();
    row(
        &unmanaged,
        "`manage` does not name the accounts of the list that are on this host",
    );
    let unusable = World::new();
    unusable.approve("alice", "laptop", "nonsense");
    row(
        &unusable,
        "the list has no usable key for any account of this host",
    );
    // A tombstone is said on purpose, and one account is enough.
    let left = World::new();
    left.approve("alice", "laptop", "# left in May");
    check(&left, &["ok    keys         alice: no keys"], 0);
    let one = World::new();
    one.approve("alice", "laptop", &key("alice"));
    one.approve("web", "laptop", &key("web"));
    check(
        &one,
        &["ok    keys         web: 1 key accepted, 0 rejected (no such account"],
        0,
    );
}

#[test]
fn doors_that_sshd_opens_are_named() {
    let world = world();
    let row = |config: &str, expected: &[&str], code: i32| {
        let config = format!("{config}\nPasswordAuthentication no");
        says(
            &world,
            &command(&world, &config, &[]).output().unwrap(),
            expected,
            code,
        );
    };
    let all = "alice, bob, mallory";
    row(
        "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2",
        &[
            &format!("ok    sshd         reads the managed file of {all}"),
            &format!(
                "ok    sshd         also reads `.ssh/authorized_keys2` of {all}: taken away when it comes"
            ),
        ],
        0,
    );
    row(
        "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u",
        &[&format!(
            "warn  sshd         also open: keys in `/etc/ssh/keys/%u` (AuthorizedKeysFile), for {all}"
        )],
        0,
    );
    row(
        "AuthorizedKeysFile /etc/ssh/keys/%u",
        &[&format!(
            "FAIL  sshd         sshd refuses the managed file of {all}: sshd reads `/etc/ssh/keys/%u` (AuthorizedKeysFile)"
        )],
        1,
    );
    row(
        "Match User bob\nAuthorizedKeysFile none\nTrustedUserCAKeys /etc/ca.pub\nMatch all\n\
         AuthorizedKeysFile .ssh/authorized_keys",
        &[
            "ok    sshd         reads the managed file of alice, mallory",
            "FAIL  sshd         sshd refuses the managed file of bob: sshd reads `none`",
            "warn  sshd         also open: certificates of the authorities in `/etc/ca.pub` (TrustedUserCAKeys), for bob",
        ],
        1,
    );
    let command = "AuthorizedKeysFile .ssh/authorized_keys\nAuthorizedKeysCommandUser nobody\nAuthorizedKeysCommand";
    row(
        &format!("{command} /bin/true %u"),
        &[&format!(
            "warn  sshd         also open: keys from `/bin/true %u` (AuthorizedKeysCommand), for {all}"
        )],
        0,
    );
    row(
        &format!("{command} /opt/aws/bin/eic_run_authorized_keys %u %f"),
        &[
            "warn  sshd         also open: EC2 Instance Connect (AuthorizedKeysCommand)",
            "      hint: if you use it: `accepted-doors = [\"instance-connect\"]` in `[accounts]`",
        ],
        0,
    );
    row(
        &format!("{MANAGED}\nMatch Address 10.0.0.0/8\nX11Forwarding no\nMatch all"),
        &["ok    sshd "],
        0,
    );
    // For a connection from here it says so; for the others it does not.
    row(
        &format!(
            "PasswordAuthentication yes\n{MANAGED}\nMatch Address 127.0.0.0/8\nPasswordAuthentication no"
        ),
        &[&format!(
            "warn  sshd         what sshd makes of the managed file of {all} is not known: sshd's configuration has a `Match`"
        )],
        0,
    );
    for criterion in ["LocalPort 2222", "LocalAddress 192.0.2.1", "RDomain x"] {
        row(
            &format!("{MANAGED}\nMatch {criterion}\nX11Forwarding no\nMatch all"),
            &["ok    sshd         reads "],
            0,
        );
    }
    // The port it listens at.
    row(
        &format!("{MANAGED}\nPort 2222\nMatch LocalPort 2222\nTrustedUserCAKeys /etc/ca.pub"),
        &["warn  sshd         also open: certificates"],
        0,
    );
    row(
        "Nonsense yes",
        &["warn  sshd         `/usr/sbin/sshd -T` failed: "],
        0,
    );
}

#[test]
fn what_keeps_sshd_from_taking_a_file_fails() {
    let row = |config: &str, spoil: &dyn Fn(&World), expected: &[&str], code: i32| {
        let world = world();
        spoil(&world);
        says(
            &world,
            &command(&world, &format!("{config}\n{MANAGED}"), &[])
                .output()
                .unwrap(),
            expected,
            code,
        );
    };
    let nothing = |_: &World| ();
    let group_writable = |world: &World| {
        fs::set_permissions(world.home("bob"), fs::Permissions::from_mode(0o777)).unwrap();
    };
    row(
        "",
        &nothing,
        &["ok    sshd         reads the managed file of alice, bob, mallory"],
        0,
    );
    row(
        "",
        &group_writable,
        &[
            "ok    sshd         reads the managed file of alice, mallory",
            "FAIL  sshd         sshd refuses the managed file of bob: StrictModes: `TMP/home/bob` has mode 0777",
            "      hint: chmod go-w on what the text names",
        ],
        1,
    );
    row(
        "StrictModes no",
        &group_writable,
        &["ok    sshd         reads the managed file of alice, bob, mallory"],
        0,
    );
    row(
        "DenyUsers b*",
        &nothing,
        &["FAIL  sshd         sshd refuses the managed file of bob: DenyUsers b*"],
        1,
    );
    row(
        "AllowGroups alice",
        &nothing,
        &["ok    sshd         reads the managed file of alice, OpenSSH"],
        1,
    );
    row(
        "PubkeyAuthentication no",
        &nothing,
        &["FAIL  sshd         sshd refuses the managed file of alice, bob, mallory: Pub"],
        1,
    );
    row(
        "PubkeyAcceptedAlgorithms rsa-sha2-512",
        &nothing,
        &["FAIL  sshd         sshd refuses the managed file of "],
        1,
    );
}

/// What the service decides and finds is what is told: the two cannot disagree.
#[test]
fn check_says_of_an_account_what_status_says() {
    let mut world = world();
    world.top = "mode = \"observe\"".to_owned();
    fs::remove_dir_all(world.home("alice")).unwrap();
    assert_eq!(world.pass(), 1);
    let (reason, hint) = (
        "cannot open the home `TMP/home/alice`: ",
        "      hint: make the home",
    );
    check(
        &world,
        &[&format!("FAIL  account      alice: {reason}"), hint],
        1,
    );
    let status = shown(&world.run(&["status"]).stdout);
    let reason = reason.replace(
        "TMP",
        world.path("").to_str().unwrap().trim_end_matches('/'),
    );
    assert!(
        flat(&status).contains(&format!("error: alice is refused: {reason}"))
            && flat(&status).contains(hint.trim()),
        "{status}"
    );
    let file = world.path("keys/%U");
    writeln!(world.accounts, "\nfile = {file:?}").unwrap();
    let passwd = fs::read_to_string(world.path("passwd")).unwrap();
    let twins = passwd.replace(&format!("bob:x:{BOB}:"), &format!("bob:x:{ALICE}:"));
    fs::write(world.path("passwd"), twins).unwrap();
    let shared = [
        "FAIL  account      bob: `TMP/keys/61001` is the file of several accounts",
        "      hint: give each account a uid and a home of its own, or name the file by %u",
    ];
    check(&world, &shared, 1);
}

/// A list that waits for confirmation is told, and so is what it would come to.
#[test]
fn a_list_that_would_be_held_is_told() {
    let mut world = world();
    world.accounts = "manage = [\"[abm]*\"]".to_owned();
    assert_eq!(world.pass(), 0);
    world.approve("alice", "laptop", &key("another"));
    world.approve("bob", "laptop", &key("another of bob"));
    let held = [
        "warn  keys         the list would remove 2 of 3 keys on this host: alice SHA256:",
        "      hint: `agent diff` shows what waits",
        "ok    keys         bob: 1 key accepted, 0 rejected",
        "ok    account      alice: `TMP/home/alice/.ssh/authorized_keys` can be replaced",
        "ok    sshd         reads the managed file of alice, bob, mallory",
    ];
    check(&world, &held, 0);
    // An account that left the list is emptied, so its file is looked at too.
    world.approve("alice", "laptop", &key("alice"));
    world.approve("bob", "laptop", &key("bob"));
    fs::remove_dir_all(world.path("approved/mallory")).unwrap();
    let left =
        ["ok    account      mallory: `TMP/home/mallory/.ssh/authorized_keys` can be replaced"];
    check(&world, &left, 0);
}

#[test]
fn an_sshd_that_does_not_answer_is_left_behind() {
    let name = "alice".try_into().unwrap();
    let ask = |path: &Path| {
        sshd::settings(path, &Invocation::default(), None, &name).map_err(|error| error.to_string())
    };
    assert_eq!(ask(Path::new("/bin/true")), Ok(String::new()));
    assert_eq!(
        ask(Path::new("/bin/false")),
        Err("`/bin/false -T` failed: nothing was said".to_owned())
    );
    assert_eq!(
        ask(Path::new("/nonexistent")),
        Err("cannot run `/nonexistent`".to_owned())
    );
    let directory = tempfile::tempdir().unwrap();
    let hangs = directory.path().join("sshd");
    // Written by another process: one that is forked meanwhile would keep it open for writing, and so from running.
    let script = "printf '#!/bin/sh\nexec sleep 100\n' > \"$1\" && chmod 755 \"$1\"";
    assert!(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&hangs)
            .status()
            .unwrap()
            .success()
    );
    let start = Instant::now();
    assert_eq!(
        ask(&hangs),
        Err(format!("`{}` did not end within 5 s", hangs.display()))
    );
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn an_instance_with_a_role() {
    let imds = ImdsServer::start(Instance {
        tags: Some([("Role", "web")].into()),
        role: Some("web"),
        ..Instance::default()
    });
    let server = SsmServer::start([
        ("/k/web/alice/laptop", key("alice")),
        ("/s/bob:live", key("bob")),
    ]);
    let mut world = world();
    let check = |world: &World, expected: &[&str], code: i32| {
        let output = command(world, MANAGED, &[])
            .env("AWS_ENDPOINT_URL_SSM", server.endpoint())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint())
            .output();
        says(world, &output.unwrap(), expected, code);
    };
    world.source =
        "paths = [\"/k/{tag:Role}\", \"/empty\"]\nparameters = { bob = [\"/s/bob:live\"] }"
            .to_owned();
    let ahead = |seconds| server.set_clock(now() + SignedDuration::from_secs(seconds));
    ahead(0);
    let good = [
        "ok    metadata     {tag:Role} is `web`",
        "ok    region       eu-central-1 (from instance metadata)",
        "ok    credentials  ASIA…MPLE from instance role, until 2099-01-01T00:00:00Z",
        "ok    source       ssm:/k/web: 1 parameter",
        "warn  source       ssm:/empty: readable, and nothing in it",
        "      hint: is it the right path, region and AWS account?",
        "ok    source       ssm:/s/bob:live: 1 parameter",
        "ok    source       directory:TMP/approved: 3 files",
        "ok    keys         alice: 2 keys accepted, 0 rejected",
    ];
    check(&world, &good, 0);
    ahead(100);
    check(
        &world,
        &["warn  clock        the clock of this host is "],
        0,
    );
    ahead(-400);
    check(
        &world,
        &["FAIL  clock        the clock of this host is "],
        1,
    );
    ahead(0);
    // The other name and the directory are asked for all the same.
    server.script([Behaviour::denied()]);
    let denied = [
        "FAIL  source       ssm:/k/web: access denied: `ssm:GetParametersByPath` on `arn:aws:ssm:",
        "      hint: allow `ssm:GetParametersByPath` on `arn:aws:ssm:eu-central-1:111122223333:parameter/k` in",
        "ok    source       ssm:/s/bob:live: 1 parameter",
        "ok    keys         alice: 1 key accepted",
    ];
    check(&world, &denied, 1);
    server.delete("/s/bob:live");
    check(
        &world,
        &["FAIL  source       ssm:/s/bob:live: no such parameter, version or label: `/s/bob:live`"],
        1,
    );
    server.always(Behaviour::Error(
        400,
        "UnrecognizedClientException",
        "The security token is invalid.",
    ));
    let unknown = [
        "FAIL  source       ssm:/k/web: parameter store refused: UnrecognizedClientException",
        "      hint: the access key id is not known here: check the credentials and the region",
    ];
    check(&world, &unknown, 1);
    server.always(Behaviour::HangUp);
    check(
        &world,
        &[
            "FAIL  source       ssm:/k/web: cannot reach `http://127",
            "warn  source       ssm:/empty: not asked",
        ],
        1,
    );
    server.always(Behaviour::Good);
    imds.change(|instance| instance.tags = None);
    let disabled = [
        "FAIL  metadata     the instance metadata service does not show tags, which {tag:Role} needs",
        "      hint: set InstanceMetadataTags to enabled: aws ec2 modify-instance-metadata-options",
        "warn  source       ssm:/k/{tag:Role}: not asked for",
        "warn  source       ssm:/empty: readable, and nothing in it",
    ];
    check(&world, &disabled, 1);
    imds.change(|instance| instance.tags = Some([("Role", "../x")].into()));
    check(
        &world,
        &["FAIL  source       ssm:/k/{tag:Role}: the value of {tag:Role} cannot be one part of"],
        1,
    );
    imds.change(|instance| instance.role = None);
    let roleless = [
        "FAIL  credentials  no AWS credentials: not in the environment, not in a profile, and no instance role",
        "      hint: attach an instance profile",
        "warn  source       ssm:/empty: not asked for",
        "ok    source       directory:TMP/approved: 3 files",
    ];
    check(&world, &roleless, 1);
}

#[test]
fn a_laptop_with_keys_in_its_environment() {
    let server = SsmServer::start([("/k/alice/laptop", "bad\u{1b}[2J \u{202e}")]);
    server.set_clock(now());
    let mut world = world();
    world.source = "paths = [\"/k\"]".to_owned();
    let environment = [
        ("AWS_ENDPOINT_URL_SSM", server.endpoint()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ];
    let run = |arguments: &[&str]| {
        command(&world, MANAGED, arguments)
            .envs(environment.clone())
            .output()
            .unwrap()
    };
    let regionless = [
        "FAIL  region       no AWS region: not in the environment, not in a profile, not in instance metadata",
        "      hint: set AWS_REGION",
        "warn  source       ssm:/k: not asked for",
    ];
    says(&world, &run(&["--log", "trace"]), &regionless, 1);
    let there = command(&world, MANAGED, &["--json"])
        .envs(environment.clone())
        .env("AWS_REGION", "us-east-1")
        .output();
    let there = there.unwrap();
    assert_eq!(there.status.code(), Some(0), "{}", shown(&there.stdout));
    assert!(!shown(&there.stdout).contains(['\u{1b}', '\u{202e}']));
    let report: Value = serde_json::from_slice(&there.stdout).unwrap();
    assert_eq!(
        (&report["schema"], &report["verdict"]),
        (&1.into(), &"warn".into())
    );
    let checks = report["checks"].as_array().unwrap();
    let find = |check: &str| {
        checks
            .iter()
            .find(|row| row["check"] == check)
            .unwrap_or_else(|| panic!("{checks:?}"))
    };
    assert_eq!(find("config")["hint"], Value::Null);
    assert!(find("region")["message"] == "us-east-1 (from environment)");
    let who = find("credentials")["message"].as_str().unwrap();
    assert!(
        who.starts_with("AKIA…MPLE from environment") && !who.contains(SECRET),
        "{who}"
    );
    assert_eq!(find("rejected")["verdict"], "warn");
    let reason = find("rejected")["message"].as_str().unwrap();
    assert!(
        reason.starts_with("`/k/alice/laptop` version 1 line 1: not an authorized_keys line"),
        "{reason}"
    );
    // Of a list that could not be read whole nobody says whom it leaves out.
    fs::remove_dir_all(world.path("approved/mallory")).unwrap();
    for (behaviour, silent) in [(Behaviour::Good, true), (Behaviour::denied(), false)] {
        server.always(behaviour);
        let output = command(&world, MANAGED, &[])
            .envs(environment.clone())
            .env("AWS_REGION", "us-east-1")
            .output();
        let text = shown(&output.unwrap().stdout);
        assert_eq!(
            text.contains("mallory: managed, and the list says nothing about it"),
            silent,
            "{text}"
        );
    }
}

#[test]
fn a_config_that_cannot_be_used_ends_it() {
    let mut world = world();
    world.top = "mod = 1".to_owned();
    let output = command(&world, MANAGED, &[]).output().unwrap();
    assert_eq!(
        (output.status.code(), shown(&output.stdout)),
        (Some(2), String::new())
    );
    assert!(shown(&output.stderr).contains("unknown field `mod`"));
}

/// As root all of it can be read; the service is another user.
#[test]
fn what_the_fetcher_cannot_read_is_said_to_root() {
    let world = world();
    let file = fs::read_dir(world.path("approved/alice"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let expected = format!(
        "warn  source       directory:TMP/approved: the fetcher, which is not root, cannot read `TMP/approved/alice/{name}`"
    );
    check(
        &world,
        &[
            &expected,
            "      hint: chmod -R a+rX on the directory, which must not be in a home",
        ],
        0,
    );
}

/// `command` on a host whose `/etc/audit/rules.d` holds `files`, and whose kernel has the rules `loaded`.
fn with_audit(world: &World, loaded: &str, files: &[(&str, &str)]) -> Output {
    world.stand_in(
        "auditctl",
        &format!("[ \"$*\" = -l ] && cat <<'END'\n{loaded}\nEND"),
    );
    let rules = world.path("rules.d");
    fs::create_dir_all(&rules).unwrap();
    for (name, text) in files {
        fs::write(rules.join(name), text).unwrap();
    }
    let inner = command(world, MANAGED, &[]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(
            "mkdir \"$1/over\" && mount -t tmpfs none \"$1/over\" && mkdir \"$1/over/up\" \"$1/over/work\" && \
             mount -t overlay -o \"lowerdir=/etc,upperdir=$1/over/up,workdir=$1/over/work\" none /etc && \
             mkdir -p /etc/audit && rm -rf /etc/audit/rules.d && cp -r \"$1/rules.d\" /etc/audit && shift && exec \"$@\"",
        )
        .arg("sh")
        .arg(world.path("x").parent().unwrap())
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    fs::remove_dir(world.path("over")).unwrap();
    output
}

#[test]
fn an_audit_rule_that_records_nothing_is_told() {
    const RULE: &str = "-a always,exit -F arch=b64 -S all -F dir=/home/alice/.ssh -F perm=wa -F key=authorized_keys";
    let world = world();
    let none = with_audit(&world, "No rules", &[]);
    assert!(!shown(&none.stdout).contains(" audit "), "{none:?}");
    // What others have on purpose is no business of the agent's.
    let others = with_audit(&world, "-a never,task", &[("a.rules", "-a never,task")]);
    assert!(!shown(&others.stdout).contains(" audit "), "{others:?}");
    let alive = with_audit(&world, RULE, &[]);
    says(
        &world,
        &alive,
        &["ok    audit        the rule `authorized_keys` records who changes a file"],
        0,
    );
    let dead = "warn  audit        the rule `authorized_keys` records nothing: `-a never,task` is loaded too";
    let loaded = format!("-a never,task\n{RULE}");
    let unknown = with_audit(&world, &loaded, &[("a.rules", "-a never,exit")]);
    let hint = "      hint: take `-a never,task` away, then `augenrules --load`";
    says(&world, &unknown, &[dead, hint], 0);
    let files = [
        ("a.rules.bak", "-a never,task"),
        ("audit.rules", "## as shipped\n-D\n-a task,never\n"),
    ];
    let known = with_audit(&world, &loaded, &files);
    let hint = "      hint: take line 3 of `/etc/audit/rules.d/audit.rules` away, then";
    says(&world, &known, &[dead, hint], 0);
    // Only root may ask the kernel, and others are told so by much else.
    world.stand_in(
        "auditctl",
        "echo 'You must be root to run this program.' >&2; exit 4",
    );
    check(&world, &["ok    config"], 0);
}
