//! What a list would change, before it is published; and the first list, of the files that a host has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::logins::world as with_sshd;
use crate::support::moto::Moto;
use crate::support::oracle::Sshd;
use crate::support::world::{
    ALICE, BOB, MALLORY, World, fingerprint, key, key_of, mode, numbered, pair, plant, shown,
};

/// Writes a list into a directory: names below it and values.
fn write_list(directory: &Path, values: &[(&str, &str)]) {
    for (name, value) in values {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }
}

#[test]
fn diff_shows_what_another_list_would_change() {
    let world = World::new();
    let (alice, bob, new) = (key("alice@laptop"), key("bob"), key("new"));
    world.approve("alice", "laptop", &alice);
    world.approve("bob", "bob", &bob);
    for name in ["one", "two"] {
        world.approve("bob", name, &key(name));
    }
    assert_eq!(world.pass(), 0);
    let list = world.path("next");
    let restricted = format!("restrict,command=\"/bin/true\" {alice}");
    write_list(&list, &[("alice/laptop", &restricted), ("alice/new", &new)]);
    let of_bob = world.read("bob");
    write_list(&list, &[("bob", &of_bob)]);
    let before = fs::read(world.path("state/enforced.json")).unwrap();
    let named = list.to_str().unwrap();
    let diff = world.run(&["diff", "--list", named]);
    let (text, said) = (shown(&diff.stdout), shown(&diff.stderr));
    let expected = format!(
        "alice\n  ~ alice@laptop {} (options)\n      before: no options\n      \
         after:  restrict,command=\"/bin/true\"\n  + new {}  (",
        fingerprint(&alice),
        fingerprint(&new)
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(!text.contains("bob") && !text.contains("AAAA"), "{text}");
    let summary = format!(
        "compared with directory:{named} (2 accounts): 1 account would change, keys: +1 -0 ~1\n"
    );
    assert!(said.ends_with(&summary), "{said}");
    assert_eq!(diff.status.code(), Some(1));
    assert_eq!(fs::read(world.path("state/enforced.json")).unwrap(), before);

    // The list in force is another one, and is as it was.
    let own = world.run(&["diff"]);
    assert_eq!(own.status.code(), Some(0), "{}", shown(&own.stderr));
    assert!(shown(&own.stderr).ends_with("(2 accounts): nothing would change\n"));
    let gone = [
        ("alice/laptop", "# gone"),
        ("alice/new", "nonsense"),
        ("bob", &bob),
    ];
    write_list(&list, &gone);
    let held = world.run(&["diff", "--list", named]);
    let (text, said) = (shown(&held.stdout), shown(&held.stderr));
    assert!(
        text.contains(&format!("- alice@laptop {}", fingerprint(&alice))),
        "{text}"
    );
    assert!(
        said.contains("alice/new: 1: not an authorized_keys line")
            && said.contains("would be held once published: "),
        "{said}"
    );
    assert!(
        said.ends_with("2 accounts would change, keys: +0 -3 ~0\n"),
        "{said}"
    );
}

#[test]
fn diff_names_the_accounts_for_which_a_list_changes_nothing() {
    let mut world = World::new();
    world.accounts = "manage = [\"alice\", \"gone\"]".to_owned();
    world.approve("alice", "laptop", &key("alice"));
    world.make_ssh("alice", ALICE);
    assert_eq!(world.pass(), 0);
    let list = world.path("next");
    let line = key("other");
    let of_alice = world.read("alice");
    write_list(
        &list,
        &[("alice", &of_alice), ("gone", &line), ("bob/a", &line)],
    );
    for number in 0..12 {
        write_list(&list, &[(&format!("host-{number:02}"), &line)]);
    }
    let (code, text, said) = told(&world.run(&["diff", "--list", list.to_str().unwrap()]));
    assert_eq!((code, text.as_str()), (Some(0), ""), "{said}");
    let expected = "no account on this host: gone, host-00, host-01, host-02, host-03 and 8 more\nnot in `[accounts] \
                    manage`: bob\ncompared with ";
    assert!(said.contains(expected), "{said}");
    assert!(
        said.ends_with("(15 accounts): nothing would change\n"),
        "{said}"
    );
}

#[test]
fn diff_names_the_list_that_cannot_be_read() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    assert_eq!(world.pass(), 0);
    let check = |arguments: &[&str], expected: &str| {
        let diff = world.run(&[&["diff"], arguments].concat());
        let said = shown(&diff.stderr);
        assert_eq!(
            (diff.status.code(), shown(&diff.stdout)),
            (Some(2), String::new()),
            "{said}"
        );
        assert!(said.contains(expected), "{said}");
    };
    let list = world.path("next");
    check(&["--list", list.to_str().unwrap()], "next`");
    write_list(&list, &[(".hidden", "")]);
    check(
        &["--list", list.to_str().unwrap()],
        "there is no value in `directory:",
    );
    write_list(&list, &[("not an account", "")]);
    check(
        &["--list", list.to_str().unwrap()],
        "next/not an account` is named after no account",
    );
    check(&["--path", "/k/{nothing}"], "only {iam-role}");
    check(&["--path", "/k", "--list", "x"], "cannot be used with");
}

#[test]
fn diff_reads_another_path_of_parameter_store() {
    let moto = Moto::start();
    let mut world = World::new();
    world.use_store(&moto.endpoint(), "paths = [\"/keys/web\"]");
    let (alice, bob) = (key("alice"), key("bob"));
    moto.put_many([
        ("/keys/web/alice/laptop".to_owned(), alice.clone()),
        ("/keys/next/alice/laptop".to_owned(), alice.clone()),
        ("/keys/next/bob".to_owned(), bob.clone()),
    ]);
    for (account, uid) in [("alice", ALICE), ("bob", BOB)] {
        world.make_ssh(account, uid);
    }
    world.put("alice", ALICE, &alice);
    assert_eq!(world.run(&["sync"]).status.code(), Some(0));
    let diff = world.run(&["diff", "--path", "/keys/next/"]);
    let (text, said) = (shown(&diff.stdout), shown(&diff.stderr));
    assert_eq!(diff.status.code(), Some(1), "{said}");
    assert!(!text.contains("alice"), "{text}");
    assert!(
        text.contains(&format!(
            "+ bob {}  (/keys/next/bob version 1",
            fingerprint(&bob)
        )),
        "{text}"
    );
    assert!(
        said.contains("compared with ssm:/keys/next (2 accounts)"),
        "{said}"
    );
    let none = world.run(&["diff", "--path", "/keys/nxt"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(
        shown(&none.stderr).contains("there is no value in `ssm:/keys/nxt`"),
        "{}",
        shown(&none.stderr)
    );
    world.use_store("http://127.0.0.1:1", "paths = [\"/keys/web\"]");
    let (code, _, said) = told(&world.run(&["diff", "--path", "/keys/next"]));
    assert_eq!(code, Some(2));
    assert!(
        said.contains("error: no list: ") && said.contains("\n  hint: nothing listens there"),
        "{said}"
    );
}

/// What a command said, and how it ended.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let (text, said) = (shown(&output.stdout), shown(&output.stderr));
    (output.status.code(), text, said)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn hand_made_files_become_a_list_under_which_nobody_is_locked_out() {
    let mut world = World::new();
    let sshd = Sshd::new();
    let (laptop, phone, bob) = (pair("alice@laptop"), pair("alice@phone"), pair(""));
    let restricted = format!("no-pty,command=\"/bin/echo \\\"hi\\\"\" {}", phone.1);
    let own = format!("# by hand\n{}\n\n{restricted}\n", laptop.1);
    for (account, uid, content) in [("alice", ALICE, &own), ("bob", BOB, &bob.1)] {
        world.make_ssh(account, uid);
        world.put(account, uid, content);
    }
    let old = key("old");
    plant(&world.ssh("alice").join("authorized_keys2"), ALICE, &old);
    fs::create_dir(world.ssh("svc")).unwrap();
    fs::write(world.file("svc"), key("deploy")).unwrap();
    world.accounts = "manage = [\"alice\"]".to_owned();

    let list = world.path("list");
    let directory = list.to_str().unwrap();
    let (code, text, said) = told(&world.run(&["export", directory]));
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "alice  2 keys\nbob    1 key\n"),
        "{said}"
    );
    let home = world.path("home").display().to_string();
    for line in [
        format!(
            "left out: alice: 1 key in {home}/alice/.ssh/authorized_keys2; --all-files exports it\n"
        ),
        format!("left out: svc: 1 key in {home}/svc/.ssh/authorized_keys; name it to export it\n"),
        "note: bob is not in `[accounts] manage`\n".to_owned(),
        format!("exported 2 accounts, 3 keys to {directory}\nnext: agent lint {directory}\n"),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
    assert_eq!(
        (world.read("alice"), world.read("bob")),
        (own, bob.1.clone())
    );
    assert_eq!(
        fs::read_to_string(list.join("alice/alice-phone")).unwrap(),
        format!("{restricted}\n")
    );
    assert_eq!(
        (
            mode(&list.join("alice")),
            mode(&list.join("alice/alice-phone"))
        ),
        (0o755, 0o644)
    );

    world.accounts = "manage = [\"alice\", \"bob\"]".to_owned();
    let (code, text, said) = told(&world.run(&["lint", directory]));
    assert_eq!((code, text.as_str()), (Some(0), ""), "{said}");
    let (code, text, said) = told(&world.run(&["diff", "--list", directory]));
    assert_eq!(code, Some(1), "{said}");
    let gone: Vec<&str> = text
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .collect();
    assert!(
        gone.iter().all(|line| line.contains("authorized_keys2")),
        "{text}"
    );
    assert!(
        !text.contains("  + ") && !text.contains("(options)"),
        "{text}"
    );

    let before: Vec<String> = ["alice", "bob"].map(|name| world.read(name)).into();
    fs::remove_dir(world.path("approved")).unwrap();
    fs::rename(&list, world.path("approved")).unwrap();
    assert_eq!(world.pass(), 0);
    for (name, before) in ["alice", "bob"].iter().zip(&before) {
        let after = world.read(name);
        assert_eq!(sorted(&after), sorted(&before.replace("\n\n", "\n")));
    }
    for (account, pair) in [("alice", &laptop), ("alice", &phone), ("bob", &bob)] {
        assert!(
            sshd.login(&world.file(account), &pair.0.path().join("id")),
            "{account}"
        );
    }
}

#[test]
fn what_a_list_would_not_take_is_named_and_exported_as_it_stands() {
    let mut world = World::new();
    world.tables = "[policy]\nmin-rsa-bits = 4096".to_owned();
    let (directory, twice) = pair("alice");
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    let (other, short) = (key("other"), key_of("rsa", "old"));
    world.make_ssh("alice", ALICE);
    world.put(
        "alice",
        ALICE,
        &format!("{twice}\n{twice} again\nno-pty {other}\n{other}\nhello\n{short}\n"),
    );
    world.make_ssh("bob", BOB);
    world.put("bob", BOB, &format!("{private}{}\n", key("bob")));
    let list = world.path("list");
    let directory = list.to_str().unwrap();
    let (code, text, said) = told(&world.run(&["export", directory]));
    assert_eq!(
        (code, text.as_str()),
        (Some(1), "alice  4 keys\nbob    1 key\n"),
        "{said}"
    );
    let alice = world.file("alice").display().to_string();
    for expected in [
        format!("{alice}:2: note: the same key as in line 1"),
        format!("{alice}:3: the same key ("),
        format!("{alice}:4: the same key ("),
        format!("{alice}:5: not an authorized_keys line"),
        format!("{alice}:6: an RSA key of 3072 bits"),
        format!(
            "{}:1: a PRIVATE key, which is not exported",
            world.file("bob").display()
        ),
    ] {
        assert!(said.contains(&expected), "{expected}\n{said}");
    }
    let next = format!("next: correct 5 problems there, then agent lint {directory}\n");
    assert!(said.ends_with(&next), "{said}");
    let linted = shown(&world.run(&["lint", directory]).stdout);
    for name in [
        "alice/other:1: the same",
        "alice/other-2:1: the same",
        "alice/not-understood:1",
        "alice/old:1",
    ] {
        assert!(linted.contains(&format!("list/{name}")), "{name}\n{linted}");
    }
    assert!(!linted.contains("list/bob"), "{linted}");
    let all = Command::new("grep")
        .args(["-r", "", directory])
        .output()
        .unwrap();
    for line in private.lines() {
        assert!(!shown(&all.stdout).contains(line) && !said.contains(line));
    }
}

#[test]
fn export_makes_a_new_list_of_those_who_are_named() {
    let world = World::new();
    let root = key("root");
    for (account, uid, line) in [("root", 0, &root), ("alice", ALICE, &key("alice"))] {
        world.make_ssh(account, uid);
        world.put(account, uid, line);
    }
    plant(
        &world.ssh("root").join("authorized_keys2"),
        0,
        &key("second"),
    );
    let list = world.path("list");
    let directory = list.to_str().unwrap();
    let export = |arguments: &[&str]| told(&world.run(&[&["export"], arguments].concat()));
    let (code, text, said) = export(&["--all-files", directory, "root"]);
    assert_eq!((code, text.as_str()), (Some(0), "root  2 keys\n"), "{said}");
    assert_eq!(
        fs::read_to_string(list.join("root/root")).unwrap(),
        format!("{root}\n")
    );
    let (code, text, said) = export(&[directory, "root"]);
    assert_eq!((code, text.as_str()), (Some(2), ""), "{said}");
    assert!(
        said.contains("is there and not empty: name a directory that is new or empty"),
        "{said}"
    );
    let new = world.path("new");
    let new_name = new.to_str().unwrap();
    for (directory, account, expected) in [
        ("/nowhere/list", "alice", "cannot make `/nowhere/list`"),
        (new_name, "nobody-here", "no account `nobody-here`"),
        (new_name, "a/b", "is not an account name"),
        (
            new_name,
            "mallory",
            "left out: mallory: no keys\nerror: nothing is exported",
        ),
    ] {
        let (code, text, said) = export(&[directory, account]);
        assert_eq!(
            (code, text.as_str(), new.exists()),
            (Some(2), "", false),
            "{said}"
        );
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn no_home_makes_root_read_for_it_or_write_elsewhere() {
    let world = World::new();
    for (account, uid) in [("alice", ALICE), ("bob", BOB)] {
        world.make_ssh(account, uid);
    }
    let secret = key("secret");
    fs::write(world.path("secret"), &secret).unwrap();
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink(world.path("secret"), world.file("alice")).unwrap();
    world.put("bob", BOB, &key("../../../etc/cron.d/x"));
    let list = world.path("list");
    fs::create_dir(&list).unwrap();
    let (code, text, said) = told(&world.run(&["export", list.to_str().unwrap()]));
    assert_eq!((code, text.as_str()), (Some(2), "bob  1 key\n"), "{said}");
    let expected = format!("left out: {}: cannot read", world.file("alice").display());
    assert!(said.contains(&expected), "{said}");
    assert!(list.join("bob/etc-cron.d-x").is_file() && !list.join("alice").exists());
    symlink("/tmp", world.path("link")).unwrap();
    let (code, _, said) = told(&world.run(&["export", world.path("link").to_str().unwrap()]));
    assert_eq!(code, Some(2), "{said}");
}

/// Names below `directory`, with what tells whether one was changed.
fn all_of(directory: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(directory)
        .args(["-printf", "%p %y %m %u %g %n %s %T@ %C@ %l\n"]);
    let mut all: Vec<String> = shown(&find.output().unwrap().stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn whatever_homes_hold_export_reads_on_and_changes_nothing() {
    let world = World::new();
    for (account, uid) in [("alice", ALICE), ("bob", BOB), ("mallory", MALLORY)] {
        world.make_ssh(account, uid);
    }
    let made = Command::new("mkfifo").arg(world.file("alice")).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::chown(world.file("alice"), Some(ALICE), Some(ALICE)).unwrap();
    symlink(world.file("mallory"), world.file("mallory")).unwrap();
    let comments = [
        "\u{1b}[2J\u{7}",
        "-rf",
        "..",
        "../..",
        ".hidden",
        "a b",
        "A-B",
        "a/b",
        "",
        "\u{202e}x",
        "not-understood",
        "x~",
        "gone.bak",
        "c\r",
    ];
    let lines = comments.iter().enumerate();
    let lines = lines.map(|(at, comment)| numbered(at, comment) + "\n");
    world.put("bob", BOB, &lines.collect::<String>());
    let before = all_of(&world.path("home"));
    let list = world.path("list");
    fs::create_dir(&list).unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(0o700)).unwrap();
    let (code, text, said) = told(&world.run(&["export", list.to_str().unwrap()]));
    assert_eq!((code, text.as_str()), (Some(0), "bob  14 keys\n"), "{said}");
    assert!(
        !said.contains(|c: char| c.is_control() && c != '\n'),
        "{said:?}"
    );
    assert_eq!(all_of(&world.path("home")), before);
    assert_eq!(mode(&list), 0o700, "it was there");
    let mut labels: Vec<String> = fs::read_dir(list.join("bob"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    labels.sort_unstable();
    let is_plain = |label: &String| {
        let ends_well = |c: char| c.is_ascii_alphanumeric();
        label.starts_with(ends_well)
            && label.ends_with(ends_well)
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    assert!(
        labels.len() == 14 && labels.iter().all(is_plain),
        "{labels:?}"
    );
    for label in [
        "A-B-2",
        "a-b",
        "a-b-3",
        "gone-bak",
        "not-understood-2",
        "rf",
    ] {
        assert!(labels.iter().any(|found| found == label), "{labels:?}");
    }
    // A list is made of it as it is.
    fs::set_permissions(&list, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text, said) = told(&world.run(&["lint", list.to_str().unwrap()]));
    assert_eq!((code, text.as_str()), (Some(0), ""), "{said}");
}

#[test]
fn an_account_exports_its_own_keys_without_root_and_config() {
    let world = World::new();
    fs::copy(
        env!("CARGO_BIN_EXE_authorized-keys-agent"),
        world.path("agent"),
    )
    .unwrap();
    for (account, uid) in [("alice", ALICE), ("bob", BOB)] {
        world.make_ssh(account, uid);
        world.put(account, uid, &key(account));
    }
    let as_alice = |arguments: &[&str]| {
        let id = ALICE.to_string();
        let mut command = world.command("setpriv");
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(world.path("agent"))
            .arg("export")
            .args(arguments)
            .current_dir(world.home("alice"));
        told(&command.output().unwrap())
    };
    let (code, text, said) = as_alice(&["list"]);
    assert_eq!((code, text.as_str()), (Some(0), "alice  1 key\n"), "{said}");
    assert!(
        said.contains("note: which files sshd reads is not known (only root can ask it)"),
        "{said}"
    );
    let (code, _, said) = as_alice(&["other", "bob"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("run this as root"), "{said}");
}

#[test]
fn what_sshd_reads_elsewhere_is_named_and_exported_when_asked_for() {
    let world = with_sshd(
        "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u /etc/ssh/all\nPasswordAuthentication no\nUsePAM no",
    );
    let (central, all) = (key("central"), key("everywhere"));
    fs::create_dir(world.path("etc/ssh/keys")).unwrap();
    fs::write(world.path("etc/ssh/keys/alice"), format!("{central}\n")).unwrap();
    fs::write(world.path("etc/ssh/all"), format!("{all}\n")).unwrap();
    world.make_ssh("alice", ALICE);
    world.put("alice", ALICE, &key("own"));
    let list = world.path("list");
    let (code, text, said) = told(&world.run(&["export", list.to_str().unwrap(), "alice"]));
    assert_eq!((code, text.as_str()), (Some(0), "alice  1 key\n"), "{said}");
    for path in ["/etc/ssh/keys/alice", "/etc/ssh/all"] {
        let line = format!("left out: alice: 1 key in {path}; --all-files exports it\n");
        assert!(said.contains(&line), "{said}");
    }
    fs::remove_dir_all(&list).unwrap();
    let arguments = [
        "export",
        "--all-files",
        list.to_str().unwrap(),
        "alice",
        "bob",
    ];
    let (code, text, said) = told(&world.run(&arguments));
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "alice  3 keys\nbob    1 key\n"),
        "{said}"
    );
    for (name, line) in [
        ("alice/central", &central),
        ("alice/everywhere", &all),
        ("bob/everywhere", &all),
    ] {
        assert_eq!(
            fs::read_to_string(list.join(name)).unwrap(),
            format!("{line}\n")
        );
    }
}

/// As operations.md leads there, with what the agent prints at each step.
#[test]
fn from_hand_made_files_to_a_first_list_in_five_steps() {
    let moto = Moto::start();
    let sshd = Sshd::new();
    let mut world = World::new();
    world.use_store(&moto.endpoint(), "paths = [\"/keys/web\"]");
    let (laptop, bob) = (pair("alice@laptop"), pair("bob"));
    let restricted = format!("no-pty {}", laptop.1);
    for (account, uid, line) in [("alice", ALICE, &restricted), ("bob", BOB, &bob.1)] {
        world.make_ssh(account, uid);
        world.put(account, uid, &format!("{line}\n"));
    }
    let list = world.path("list");
    let directory = list.to_str().unwrap();
    let step = |world: &World, arguments: &[&str], expected: i32| {
        let (code, text, said) = told(&world.run(arguments));
        assert_eq!(code, Some(expected), "{arguments:?}: {text}{said}");
        text + &said
    };
    step(&world, &["export", directory], 0);
    step(&world, &["lint", directory], 0);
    let keys_would_stay = |said: &str| assert!(said.contains("keys: +0 -0 ~0"), "{said}");
    keys_would_stay(&step(&world, &["diff", "--list", directory], 1));
    let publish = ["publish", directory, "--to", "/keys/web", "--yes"];
    let said = step(&world, &publish, 0);
    assert!(said.contains("alice@laptop"), "{said}");

    world.top = "mode = \"observe\"".to_owned();
    let before = world.read("alice");
    step(&world, &["sync"], 1);
    keys_would_stay(&step(&world, &["diff"], 1));
    assert_eq!(world.read("alice"), before);

    world.top = String::new();
    step(&world, &["sync"], 0);
    assert_eq!(sorted(&world.read("alice")), [restricted.as_str()]);
    for (account, pair) in [("alice", &laptop), ("bob", &bob)] {
        let identity = pair.0.path().join("id");
        assert!(sshd.login(&world.file(account), &identity), "{account}");
    }
    step(&world, &["diff"], 0);
}
