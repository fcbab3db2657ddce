//! What a list would change, before it is published; and the first list, of the files that a host has.

use std::fs;
use std::path::Path;

use crate::support::moto::Moto;
use crate::support::world::{ALICE, BOB, World, fingerprint, key, shown};

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
    check(&["--path", "/k/{nothing}"], "only {region}");
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
}
