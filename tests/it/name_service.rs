//! Accounts as local files and NSS know them: which of two lines counts, and what does when a service says nothing.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::support::name_service::NameService;
use crate::support::world::{ALICE, BOB, World, comes_true, fingerprint, key, plant, shown, wait};

/// Accounts that only the service knows.
const DORA: u32 = 61011;
const ERIN: u32 = 61012;

#[test]
fn a_service_that_hangs_keeps_nobody_s_file_from_being_enforced() {
    let mut world = World::new();
    let service = NameService::of(&mut world, "files test");
    service.add(&world, "dora", DORA);
    world.accounts = "manage = [\"alice\", \"dora\", \"erin\"]".to_owned();
    let (alice, dora) = (key("alice"), key("dora"));
    world.approve("alice", "laptop", &alice);
    world.approve("dora", "laptop", &dora);
    let agent = world.start();
    wait("both files", || {
        world.read("alice").contains(&alice) && world.read("dora").contains(&dora)
    });
    agent.stop();
    service.does("hangs", true);
    // What is planted while nobody looks.
    let rogue = key("rogue");
    world.put("alice", ALICE, &rogue);
    world.put("dora", DORA, &rogue);
    service.add(&world, "erin", ERIN);
    world.approve("erin", "laptop", &key("erin"));
    // `verify.every` is five minutes: no full check helps.
    let _agent = world.start();
    wait("both repairs", || {
        !world.read("alice").contains(&rogue) && !world.read("dora").contains(&rogue)
    });
    wait("the word of it", || {
        world.word()["problems"]
            .to_string()
            .contains(r#""people-silent":{"accounts":["dora","erin"]}"#)
    });
    world.put("alice", ALICE, &rogue);
    world.put("dora", DORA, &rogue);
    wait("both repairs while it hangs", || {
        !world.read("alice").contains(&rogue) && !world.read("dora").contains(&rogue)
    });
    assert_eq!(world.read("erin"), "", "nobody has said who that is");
    let said = world.word();
    let state = |name: &str| {
        let rows = said["accounts"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name);
        row.map_or("none".to_owned(), |row| row["state"].to_string())
    };
    assert_eq!(state("alice"), "\"in-sync\"", "{said:#}");
    assert_eq!(state("dora"), "\"in-sync\"", "{said:#}");
    service.does("hangs", false);
    wait("the file of who was not known", || {
        world.read("erin").contains("erin")
    });
    let mut problems = String::new();
    let healthy = comes_true(Duration::from_secs(20), || {
        problems = world.problems();
        problems == "[]"
    });
    assert!(healthy, "{problems}");
}

#[test]
fn a_service_that_fails_counts_as_it_last_said() {
    let mut world = World::new();
    let service = NameService::of(&mut world, "files test");
    service.add(&world, "dora", DORA);
    world.accounts = "manage = [\"dora\"]".to_owned();
    world.approve("dora", "laptop", &key("dora"));
    assert_eq!(world.pass(), 0);
    service.does("fails", true);
    let next = key("next");
    world.approve("dora", "second", &next);
    world.pass();
    assert!(world.read("dora").contains(&next), "{}", world.problems());
    let told = "(NSS) does not answer for dora; its last answer counts meanwhile";
    assert!(world.problems().contains(told), "{}", world.problems());
    let check = world.run(&["check"]);
    let said = shown(&check.stdout);
    assert!(
        check.status.code() == Some(1) && said.contains(told),
        "{said}"
    );
    service.does("fails", false);
    world.pass();
    assert!(!world.problems().contains("does not answer"));
}

/// glibc would go on to the files once the service has failed.
#[test]
fn local_files_answer_for_a_service_that_is_asked_first_and_hangs() {
    let mut world = World::new();
    let service = NameService::of(&mut world, "test files");
    service.does("hangs", true);
    let alice = key("alice");
    world.approve("alice", "laptop", &alice);
    let agent = world.start();
    wait("the file", || world.read("alice").contains(&alice));
    agent.stop();
}

/// `id` and the shell ask glibc as sshd does.
#[test]
fn a_line_of_passwd_means_what_it_means_to_sshd() {
    check_lines(false);
    check_lines(true);
}

fn check_lines(with_latin: bool) {
    let mut world = World::new();
    let home = |name: &str| world.home(name).display().to_string();
    let (first, second) = (home("first"), home("second"));
    let lines: Vec<Vec<u8>> = vec![
        format!("twice:x:61021:61021::{first}:/bin/sh").into(),
        format!("twice:x:61022:61022::{second}:/bin/sh").into(),
        format!("alice:x:61023:61023::{second}:/bin/sh").into(),
        format!("  blank:x:61024:61024::{}:/bin/sh", home("blank")).into(),
        format!("short:x:61025:61025::{}", home("short")).into(),
        format!("long:x:61026:61026::{}:/bin/sh:more", home("long")).into(),
        b"homeless:x:61027:61027".to_vec(),
        b"nogid:x:61028".to_vec(),
        format!("word:x:none:61029::{}:/bin/sh", home("word")).into(),
        format!("+plus:x:61030:61030::{}:/bin/sh", home("plus")).into(),
        format!("#note:x:61031:61031::{}:/bin/sh", home("note")).into(),
        [
            b"latin:x:61032:61032:J\xfcrgen:".to_vec(),
            home("latin").into_bytes(),
            b":/bin/sh".to_vec(),
        ]
        .concat(),
        format!("negative:x:-2:61033::{}:/bin/sh", home("negative")).into(),
        format!("after:x:61034:61034::{}:/bin/sh", home("after")).into(),
    ];
    let names = [
        "twice", "alice", "blank", "short", "long", "homeless", "nogid", "word", "latin", "after",
    ];
    let mut passwd = fs::OpenOptions::new()
        .append(true)
        .open(world.path("passwd"))
        .unwrap();
    for line in lines {
        if !with_latin && !line.is_ascii() {
            continue;
        }
        passwd.write_all(&[&line[..], b"\n"].concat()).unwrap();
    }
    for name in names {
        world.approve(name, "laptop", &key(name));
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    world.accounts = format!("manage = [{}]", quoted.join(", "));
    world.pass();
    let mut told = Vec::new();
    for name in names {
        let asked = format!("id -u {name} && echo ~{name}");
        let asked = world.command("sh").args(["-c", &asked]).output().unwrap();
        let asked = shown(&asked.stdout);
        let row = world.account(name);
        let ours = (
            row["uid"].to_string(),
            row["file"].as_str().unwrap_or_default().to_owned(),
        );
        let theirs = match asked.lines().collect::<Vec<_>>()[..] {
            [uid, home] if home.starts_with('/') => {
                (uid.to_owned(), format!("{home}/.ssh/authorized_keys"))
            }
            [uid, _] => (uid.to_owned(), String::new()),
            _ => ("null".to_owned(), String::new()),
        };
        told.push(((name, ours), (name, theirs)));
    }
    let (ours, theirs): (Vec<_>, Vec<_>) = told.into_iter().unzip();
    assert_eq!(ours, theirs);
    assert!(theirs.contains(&(
        "twice",
        ("61021".to_owned(), format!("{first}/.ssh/authorized_keys"))
    )));
}

#[test]
fn a_home_is_shared_whoever_is_asked_first() {
    let check = |order: &str, own: &[u8], of_service: &str| {
        let mut world = World::new();
        let service = NameService::of(&mut world, order);
        let home = world.home("alice").display().to_string();
        let mut passwd = fs::read(world.path("passwd")).unwrap();
        let line = String::from_utf8_lossy(own).into_owned();
        if line.is_empty() {
            service.add_line(&of_service.replace("HOME", &home));
        } else {
            passwd.extend(b"J\xfcrgen:x:61041:61041::/nowhere:/bin/sh\n");
            passwd.extend(line.replace("HOME", &home).into_bytes());
        }
        fs::write(world.path("passwd"), passwd).unwrap();
        world.accounts = "manage = [\"alice\", \"eve\"]".to_owned();
        world.approve("alice", "laptop", &key("alice"));
        world.approve("eve", "laptop", &key("eve"));
        world.pass();
        let row = world.account("alice");
        assert_eq!(row["state"], "refused", "{order} {line}: {row:#}");
        let reason = row["reason"].as_str().unwrap_or_default();
        assert!(
            reason.ends_with("is shared by `alice` and `eve`"),
            "{order} {line}: {reason}"
        );
        assert_eq!(world.read("alice"), "");
    };
    let eve = "eve:x:61042:61042::HOME:/bin/sh\n";
    for order in ["files", "files test", "test files"] {
        check(order, eve.as_bytes(), "");
        if order != "files" {
            check(order, b"", eve);
        }
    }
}

#[test]
fn one_byte_that_is_not_utf_8_hides_no_key_of_an_unmanaged_account() {
    let mut world = World::new();
    world.accounts = "manage = [\"alice\"]".to_owned();
    let passwd = fs::read(world.path("passwd")).unwrap();
    let odd = b"odd:x:61051:61051:J\xfcrgen:/nowhere:/bin/sh\n";
    fs::write(world.path("passwd"), [&odd[..], &passwd].concat()).unwrap();
    world.approve("alice", "laptop", &key("alice"));
    let bob = key("bob");
    world.make_ssh("bob", BOB);
    plant(&world.file("bob"), BOB, &bob);
    world.pass();
    let status = shown(&world.run(&["status", "--json"]).stdout);
    assert!(status.contains(&fingerprint(&bob)), "{status}");
}
