//! Signed lists on one host: who may sign, how many must, how long that counts, and what a crash, a clock, a clone and a
//! damaged state make of it. The list is a directory; each pass is a process of its own, as after a boot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use jiff::SignedDuration;

use crate::support::signing::{Clock, Local, NAMESPACE, Signer, Statement, now, rogue};
use crate::support::trace::{steps, struck, traced};
use crate::support::world::{ALICE, MALLORY, key, numbered, pair, signal, wait};

/// What the status says is about the signature of the list that is there; the clock is that of the host alone.
#[test]
fn time_makes_no_list_valid_again() {
    let hours = SignedDuration::from_hours;
    let mut local = Local::before_first_list();
    let clock = Clock::of(&mut local.world);
    local.list.expires = local.list.issued + hours(48);
    local.takes(&local.list);
    assert!(local.warns("signature-ends"), "within a week of its end");

    // A value is changed: a list is being published, or was tampered with.
    let changed = local.list.clone().with("alice/laptop", &rogue());
    local.put(&changed, &local.list.signed(&[&local.ops]));
    local.refuses("");
    assert!(local.warns("not-as-signed"));
    clock.set(SignedDuration::from_secs(119));
    local.refuses("");
    clock.set(SignedDuration::from_secs(125));
    local.refuses("not-as-signed");
    // Set back, the clock makes it no younger than it is.
    clock.set(SignedDuration::from_secs(-3600));
    local.refuses("");
    clock.set(SignedDuration::from_secs(-3400));
    local.refuses("not-as-signed");
    clock.set(SignedDuration::ZERO);

    // Nothing new comes after the end, and what is in force stays.
    local.takes(&local.list);
    clock.set(hours(49));
    local.refuses("signature-expired");
    let mut late = local.next(&key("alice@late"));
    late.expires = late.issued + hours(48);
    local.put(&late, &late.signed(&[&local.ops]));
    local.refuses("signature-expired");
    // One that was issued then counts, and from now on no clock is believed that is before it.
    let mut newer = local.next(&key("alice@newer"));
    newer.issued = now() + hours(49) - SignedDuration::from_secs(5);
    newer.expires = newer.issued + hours(1000);
    local.takes(&newer);
    clock.set(SignedDuration::ZERO);
    late.serial = newer.serial + 1;
    local.put(&late, &late.signed(&[&local.ops]));
    local.refuses("signature-expired");
    local.put(&newer, &newer.signed(&[&local.ops]));
    local.takes(&newer);

    // One of tomorrow waits for tomorrow.
    let mut tomorrow = local.next(&key("alice@tomorrow"));
    tomorrow.serial = newer.serial + 1;
    tomorrow.issued = now() + hours(72);
    tomorrow.expires = now() + hours(1000);
    local.put(&tomorrow, &tomorrow.signed(&[&local.ops]));
    local.refuses("signature-from-future");
    clock.set(hours(72));
    local.takes(&tomorrow);
}

/// Killed at any step of a pass that takes a new list, the enforcer has either never had it, or never goes back behind it.
#[test]
fn a_crash_brings_no_old_list_back() {
    let mut local = Local::new();
    let world_files = |local: &Local| (local.world.read("alice"), local.world.read("bob"));
    let signed = |local: &Local, list: &Statement| list.signed(&[&local.ops]);
    let next = local.next(&key("alice@next"));
    local.put(&next, &signed(&local, &next));
    assert!(local.world.run(&["fetch", "--once"]).status.success());
    let root = local.world.path("state");
    let trace = traced(&local.world, "enforce", None);
    let mut found = steps(&trace, &root);
    found.extend(steps(&trace, &local.world.home("alice")));
    let renames = found.iter().filter(|step| step.call.starts_with("rename"));
    assert!(
        renames.count() >= 2,
        "of the state and of a file: {found:#?}"
    );
    local.list = next;
    let (mut before, mut after) = (0, 0);
    for step in &found {
        // Everything else is written once the list is in force.
        if !["fsync", "rename", "renameat"].contains(&step.call.as_str()) {
            continue;
        }
        let old = local.list.clone();
        local.takes(&old);
        let files = world_files(&local);
        let next = local.next(&key("alice@next"));
        local.put(&next, &signed(&local, &next));
        assert!(local.world.run(&["fetch", "--once"]).status.success());
        struck(&local.world, "enforce", step, "signal=KILL");
        let had_next = local
            .world
            .read("alice")
            .contains(&next.parameters["alice/laptop"]);
        // The attacker puts the old list back, before the enforcer starts again.
        local.put(&old, &signed(&local, &old));
        let code = local.world.pass();
        if code == 0 {
            assert!(!had_next, "{} after the file was replaced", step.shown);
            assert_eq!(world_files(&local), files, "{}", step.shown);
            before += 1;
        } else {
            local.says("serial-went-back");
            // What was in force stays, and is completed.
            let now = local.world.read("alice");
            assert!(
                now.contains(&next.parameters["alice/laptop"]),
                "{}",
                step.shown
            );
            assert!(!local.world.read("bob").contains("ssh-"), "{}", step.shown);
            after += 1;
        }
        local.list = next;
        local.takes(&local.list);
    }
    assert!(
        before > 0 && after > 0,
        "{before} before the state, {after} after it: {found:#?}"
    );
}

#[test]
fn who_may_sign_is_said_by_a_file_that_root_alone_can_change() {
    type Spoil = fn(&Local, &Path);
    let mut local = Local::new();
    let path = local.world.path("allowed_signers");
    let rows: [(&str, &str, Spoil); 12] = [
        ("writable by all", "signers-open", |_, path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("writable by its group", "signers-open", |_, path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap();
        }),
        ("of an account", "signers-open", |_, path| {
            chown(path, Some(MALLORY), Some(MALLORY)).unwrap();
        }),
        ("a link into a home", "signers-open", |local, path| {
            let other = local.world.home("mallory").join("signers");
            fs::rename(path, &other).unwrap();
            symlink(other, path).unwrap();
        }),
        ("a link through a home", "signers-open", |local, path| {
            let (real, link) = (
                path.with_extension("real"),
                local.world.home("mallory").join("l"),
            );
            fs::rename(path, &real).unwrap();
            let _ = fs::remove_file(&link);
            symlink(real, &link).unwrap();
            symlink(link, path).unwrap();
        }),
        ("missing", "signers-unreadable", |_, path| {
            fs::remove_file(path).unwrap();
        }),
        ("a directory", "signers-unreadable", |_, path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("empty", "signers-too-few", |_, path| {
            fs::write(path, "").unwrap();
        }),
        (
            "a certificate authority",
            "signers-too-few",
            |local, path| {
                fs::write(path, local.ops.line("cert-authority")).unwrap();
            },
        ),
        ("for files alone", "signers-too-few", |local, path| {
            fs::write(path, local.ops.line("namespaces=\"file\"")).unwrap();
        }),
        ("over", "signature-refused", |local, path| {
            fs::write(path, local.ops.line("valid-before=\"20200101\"")).unwrap();
        }),
        ("not yet", "signature-refused", |local, path| {
            fs::write(path, local.ops.line("valid-after=\"29990101\"")).unwrap();
        }),
    ];
    for (what, code, spoil) in rows {
        spoil(&local, &path);
        // Now, for the list in force, and for the next one.
        local.refuses(code);
        let next = local.next(&key("alice@next"));
        local.put(&next, &next.signed(&[&local.ops]));
        local.refuses(code);
        let _ = fs::remove_dir(&path);
        let _ = fs::remove_file(&path);
        fs::write(&path, local.ops.line("")).unwrap();
        local.takes(&next);
        local.list = next;
        assert!(!what.is_empty());
    }
    // Places where an account can put another one.
    let home = local.world.home("mallory");
    fs::create_dir(home.join("real")).unwrap();
    fs::copy(&path, home.join("real/allowed_signers")).unwrap();
    symlink(local.world.path(""), home.join("etc")).unwrap();
    symlink(home.join("etc"), local.world.path("through")).unwrap();
    let tables = local.world.tables.clone();
    for place in [home.join("real"), local.world.path("through")] {
        let other = place.join("allowed_signers").display().to_string();
        local.world.tables = tables.replace(&path.display().to_string(), &other);
        local.refuses("signers-open");
    }
    local.world.tables = tables;

    // A signer goes while the list is in force: its keys stay, and another one signs the next.
    let new = Signer::new("new@example.com");
    fs::write(&path, new.line("")).unwrap();
    local.refuses("signature-refused");
    let text = local.world.problems();
    assert!(text.contains("which is not one that may sign"), "{text}");
    local.ops = new;
    local.takes(&local.next(&key("alice@rotated")));
}

#[test]
fn so_many_must_sign_each_with_a_key_of_its_own() {
    let mut local = Local::new();
    let (second, third) = (Signer::new("second"), Signer::new("third"));
    let signers = |options: &str| -> String {
        let all = [&local.ops, &second, &local.ops].map(|signer| signer.line(options));
        // The same key by another name is no second one.
        all.concat()
            .replacen("ops@example.com", "other@example.com", 1)
    };
    fs::write(local.world.path("allowed_signers"), signers("")).unwrap();
    local.world.tables += "\nsignatures = 2";
    local.refuses("signatures-too-few");
    let next = local.next(&key("alice@two"));
    let text = |by: &[&Signer]| next.signed(by);
    let block = |by: &Signer| by.sign(NAMESPACE, &next.text());
    for (what, text, code) in [
        ("one", text(&[&local.ops]), "signatures-too-few"),
        (
            "one twice",
            text(&[&local.ops, &local.ops]),
            "signature-refused",
        ),
        (
            "a block twice",
            next.text() + &block(&local.ops).repeat(2),
            "signature-refused",
        ),
        (
            "another's",
            text(&[&local.ops, &third]),
            "signature-refused",
        ),
        (
            "the second of another text",
            text(&[&local.ops]) + &second.sign(NAMESPACE, &local.list.text()),
            "signature-refused",
        ),
        (
            "the second for another use",
            text(&[&local.ops]) + &second.sign("file", &next.text()),
            "signature-refused",
        ),
    ] {
        local.put(&next, &text);
        local.refuses(code);
        assert!(!what.is_empty());
    }
    // In any order, with more than are needed, and with what does not count beside them.
    for (line, by) in [
        ("both", vec![&local.ops, &second]),
        ("the other way round", vec![&second, &local.ops]),
        ("with a stranger's", vec![&third, &second, &local.ops]),
    ] {
        let mut next = local.next(&key(line));
        next.serial = local.list.serial + 1;
        local.put(&next, &next.signed(&by));
        assert_eq!(local.world.pass(), 0, "{line}: {}", local.world.problems());
        assert!(local.world.read("alice").contains(line));
        local.list.serial += 1;
    }

    // As many as a parameter holds, of a hundred who may.
    let mut many: Vec<Signer> = (0..24).map(|at| Signer::new(&format!("s{at}"))).collect();
    let strangers = (0..76).map(|at| format!("x{at} {}\n", numbered(at, "")));
    let all = strangers.chain(many.iter().map(|signer| signer.line("")));
    fs::write(local.world.path("allowed_signers"), all.collect::<String>()).unwrap();
    let tables = local.world.tables.clone();
    for (signatures, limit) in [(11, 4096), (24, 8192)] {
        many.truncate(24);
        local.world.tables =
            tables.replace("signatures = 2", &format!("signatures = {signatures}"));
        let next = local.next(&key(&format!("alice@{signatures}")));
        let by: Vec<&Signer> = many.iter().take(signatures).collect();
        let text = next.signed(&by);
        assert!(
            text.len() < limit && text.len() > limit * 7 / 8,
            "{}",
            text.len()
        );
        local.put(&next, &text);
        assert_eq!(local.world.pass(), 0, "{}", local.world.problems());
        assert!(
            local
                .world
                .read("alice")
                .contains(&format!("alice@{signatures}"))
        );
        local.list.serial += 1;
    }
}

/// What else decides about keys goes on deciding, whether or not a list counts.
#[test]
fn a_list_that_does_not_count_leaves_everything_else_as_it_is() {
    let mut local = Local::before_first_list();
    local.world.make_ssh("alice", ALICE);
    let launch = key("launch");
    local.world.put("alice", ALICE, &format!("{launch}\n"));
    let unsigned = local.list.clone().with("alice/rogue", &rogue());
    local.put(&unsigned, "");
    fs::remove_file(local.world.path("approved/.signed")).unwrap();
    local.refuses("");
    assert!(local.warns("signature-missing"));
    assert_eq!(local.world.read("alice"), format!("{launch}\n"));
    // Break-glass keys wait for no signature: nothing is managed before a first list, and then they are there.
    let glass = key("break-glass");
    fs::write(local.world.path("break-glass"), format!("{glass}\n")).unwrap();
    local.list = local.list.clone().with("alice/launch", &launch);
    local.takes(&local.list);
    assert!(local.world.read("alice").contains(&glass));
    local.put(&unsigned, "<html>");
    let other = key("other-glass");
    fs::write(local.world.path("break-glass"), format!("{other}\n")).unwrap();
    assert_eq!(local.world.pass(), 1);
    let now = local.world.read("alice");
    assert!(
        now.contains(&other) && !now.contains(&glass) && !now.contains("rogue"),
        "{now}"
    );
    assert!(local.world.read("bob").contains(&other));
    // And what is planted goes.
    local.world.put("alice", ALICE, &rogue());
    assert_eq!(local.world.pass(), 1);
    assert_eq!(local.world.read("alice"), now);
    // A person's word about removals is none about signatures.
    assert_eq!(local.world.accept(), 1);
    assert_eq!(local.world.read("alice"), now);
    local.takes(&local.list);
}

#[test]
fn a_list_that_does_not_count_is_no_list_for_one_that_must_be_fresh() {
    let mut local = Local::before_first_list();
    local.world.source =
        "on-stale = \"revoke\"\nrevoke-after = \"24h\"\nstale-after = \"2h\"".to_owned();
    let clock = Clock::of(&mut local.world);
    local.takes(&local.list);
    local.put(&local.list, "<html>");
    local.refuses("signature-malformed");
    clock.set(SignedDuration::from_hours(23));
    local.refuses("signature-malformed");
    clock.set(SignedDuration::from_hours(25));
    assert_eq!(local.world.pass(), 1);
    assert_eq!((local.world.keys("alice"), local.world.keys("bob")), (0, 0));
    local.takes(&local.list);
}

#[test]
fn held_removals_wait_although_they_are_signed() {
    let mut local = Local::new();
    local.world.tables = local.world.tables.replace(
        "max-removed = 1.0",
        "max-removed = 0.1\nconfirmations = 1000",
    );
    let next = local.next(&key("alice@next"));
    local.put(&next, &next.signed(&[&local.ops]));
    assert_eq!(local.world.pass(), 1);
    local.says("list-held");
    let both = local.world.read("alice");
    assert!(
        both.contains(&next.parameters["alice/laptop"])
            && both.contains(&local.list.parameters["alice/laptop"])
    );
    // It is known all the same: the one before it is an old one.
    local.put(&local.list, &local.list.signed(&[&local.ops]));
    assert_eq!(local.world.pass(), 1);
    assert!(
        local
            .world
            .problems()
            .contains("a list with 2 was in force"),
        "{}",
        local.world.problems()
    );
    local.put(&next, &next.signed(&[&local.ops]));
    local.world.pass();
    assert_eq!(local.world.accept(), 0, "{}", local.world.problems());
    assert_eq!((local.world.keys("alice"), local.world.keys("bob")), (1, 0));
}

/// Where no serial number is known, any list counts that is signed and has not expired.
#[test]
fn a_clone_and_a_sealed_host_start_without_serial_numbers() {
    let mut local = Local::before_first_list();
    local.world.asset_tag = Some("i-0000000000000000a".to_owned());
    local.list.serial = 7;
    local.takes(&local.list);
    let state = local.world.path("state/enforced.json");
    let serials = || fs::read_to_string(&state).unwrap_or_default();
    assert!(serials().contains("\"serial\":7"), "{}", serials());
    let mut old = local.list.clone();
    old.serial = 3;
    local.put(&old, &old.signed(&[&local.ops]));
    local.refuses("serial-went-back");
    assert!(local.world.run(&["seal"]).status.success());
    assert!(!serials().contains("\"serial\":7"));
    local.takes(&old);
    local.list.serial = 7;
    local.takes(&local.list);
    // A clone of the disk.
    local.world.asset_tag = Some("i-0000000000000000b".to_owned());
    local.takes(&old);
    local.takes(&local.list);
    // Only root can damage it. It is put aside and said, and what is there is taken.
    fs::write(local.world.path("state/enforced.json"), "{").unwrap();
    local.put(&old, &old.signed(&[&local.ops]));
    assert_eq!(local.world.pass(), 1);
    let problems = local.world.problems();
    assert!(
        problems.contains("has started with an empty state"),
        "{problems}"
    );
    assert!(serials().contains("\"serial\":3"), "{}", serials());
}

#[test]
fn a_host_that_only_observes_says_it_too() {
    let mut local = Local::new();
    let changed = local.list.clone().with("alice/laptop", &rogue());
    local.world.top = "mode = \"observe\"".to_owned();
    local.put(&changed, "<html>");
    local.world.pass();
    local.says("signature-malformed");
    assert!(!local.world.read("alice").contains("rogue"));
}

/// Told of the config, both daemons judge the list that they have by it.
#[test]
fn signatures_are_asked_for_and_not_while_the_daemons_run() {
    let mut local = Local::new();
    let tables = local.world.tables.clone();
    "[guard]\nmax-removed = 1.0".clone_into(&mut local.world.tables);
    let unsigned = local.next(&key("alice@unsigned"));
    local.put(&unsigned, "");
    let agent = local.world.start();
    wait("the list", || {
        local.world.read("alice").contains(" alice@unsigned\n")
    });
    let reload = |local: &Local| {
        local.world.config();
        signal("HUP", agent.pid());
    };
    let says =
        |local: &Local, code: &str| local.world.status()["problems"].to_string().contains(code);
    local.world.tables = tables;
    reload(&local);
    wait("a word of it", || says(&local, "\"signature-malformed\""));
    let more = unsigned.clone().with("alice/rogue", &rogue());
    local.put(&more, "");
    local.world.run(&["sync"]);
    assert!(local.world.read("alice").contains(" alice@unsigned\n"));
    assert!(!local.world.read("alice").contains("rogue"));
    let next = local.next(&key("alice@signed"));
    local.put(&next, &next.signed(&[&local.ops]));
    wait("the signed one", || {
        local.world.read("alice").contains(" alice@signed\n")
    });
    wait("health", || local.world.status()["health"] == "healthy");
    // Another audience is another list.
    local.world.tables += "\naudience = \"prod\"";
    reload(&local);
    wait("a word of the audience", || {
        says(&local, "\"signature-audience\"")
    });
    assert!(local.world.read("alice").contains(" alice@signed\n"));
}

/// It is the first thing that one must know, signed or not.
#[test]
fn a_private_key_is_said_where_the_list_does_not_count() {
    let local = Local::new();
    let (directory, _) = pair("leaked");
    let private = fs::read_to_string(directory.path().join("id")).unwrap();
    let mut next = local.list.clone().with("alice/laptop", &private);
    next.serial += 1;
    local.put(&next, &next.signed(&[&local.ops]));
    assert_eq!(local.world.pass(), 1);
    let status = local.world.status();
    let problems = status["problems"].to_string();
    assert!(problems.contains("\"not-as-signed\""), "{problems}");
    let codes: Vec<&str> = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes[0], "private-key", "{}", status["problems"]);
    let stored = fs::read_to_string(local.world.path("fetch-state/approved.json")).unwrap();
    assert!(!stored.contains(&private[60..100]));
}
