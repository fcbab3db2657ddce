//! What a terminal of 80 columns shows, whole, of a few hosts.

use std::sync::Arc;

use jiff::Timestamp;

use super::describe::describe;
use super::view::View;
use crate::model::account::AccountName;
use crate::model::desired::decide::{Listed, Trouble};
use crate::model::desired::guard::{Held, HeldKey};
use crate::model::desired::signed::{Fault, Signer, Taken, Unsigned};
use crate::model::file::other_files::{InFile, OtherFile};
use crate::model::file::wanted;
use crate::model::key::id::KeyId;
use crate::model::list::rejected::{PRIVATE_KEY, Rejected};
use crate::model::past::memory::{Drift, DriftEvent};
use crate::model::session::Session;
use crate::model::sshd::access::{Access, Verdict};
use crate::model::sshd::doors::{Door, Kind};
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{
    AccountState, Enforcer, Host, KeyStatus, ListStatus, Row, Rows, SCHEMA, SshdStatus, Status,
    UnmanagedFile,
};

fn now() -> Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

fn before(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() - seconds).unwrap()
}

fn name(text: &str) -> AccountName {
    text.try_into().unwrap()
}

fn key(comment: &str) -> KeyId {
    let digest = format!("{:+<43}", comment.replace(['@', '-'], "+"));
    KeyId {
        fingerprint: format!("SHA256:{digest}"),
        algorithm: "ssh-ed25519".to_owned(),
        comment: comment.to_owned(),
    }
}

fn instance_connect() -> Access {
    Access {
        verdict: Verdict::AlsoOpen,
        reason: None,
        refused_by: None,
        doors: vec![Door {
            kind: Kind::Command,
            detail: "/opt/aws/bin/eic_run_authorized_keys %u %f".to_owned(),
            name: Some("EC2 Instance Connect".to_owned()),
            accepted: false,
            guarded: false,
        }],
    }
}

fn effective() -> Access {
    Access {
        verdict: Verdict::Effective,
        doors: Vec::new(),
        ..instance_connect()
    }
}

fn row(account: &str, keys: usize, access: &Access) -> Row {
    let keys = (1..=keys).map(|number| KeyStatus {
        key: key(&format!("{account}@laptop{number}")),
        parameter: format!("/authorized-keys/web/{account}/laptop{number}"),
        parameter_version: Some(3),
        parameter_modified_at: Some(before(9_000_000)),
        expires_at: None,
    });
    Row {
        name: name(account),
        uid: Some(1000),
        file: Some(format!("/home/{account}/.ssh/authorized_keys")),
        state: AccountState::InSync,
        why: None,
        changed_at: Some(before(263_000)),
        removed_keys: Vec::new(),
        content_digest: None,
        access: Some(Arc::new(access.clone())),
        other_files: Vec::new(),
        writes_prevented: Some(true),
        keys: Some(keys.collect()),
        buried: false,
        verified: true,
        loose: None,
    }
}

fn drifted(account: &str, changes: &[&str], in_short: &str, access: &Access) -> Row {
    Row {
        state: AccountState::Drifted,
        why: Some(Cause::FileDrifted {
            changes: changes.iter().map(ToString::to_string).collect(),
            in_short: in_short.to_owned(),
        }),
        ..row(account, 10, access)
    }
}

fn host(rows: Vec<Row>, problems: Vec<Cause>) -> Status {
    Status {
        schema: SCHEMA,
        version: "0.1.0".to_owned(),
        host: Host {
            name: "web-1".to_owned(),
            instance: Some("i-0123456789abcdef0".to_owned()),
        },
        mode: "enforce".to_owned(),
        problems: problems.into_iter().map(Problem::new).collect(),
        list: ListStatus {
            listed: Some(Listed {
                source: "ssm:/authorized-keys/web".to_owned(),
                digest: format!("sha256:{:064}", 1),
                parameters: 40,
                fetched_at: before(13),
            }),
            source: Some("ssm:/authorized-keys/web".to_owned()),
            confirmed_at: Some(before(13)),
            next_fetch_at: Some(before(-47)),
            ..ListStatus::default()
        },
        rows: rows.into_iter().collect::<Rows>(),
        rejected: Vec::new(),
        drift: Drift::default(),
        sshd: Some(SshdStatus {
            version: Some("8.7".to_owned()),
            path: Some("/usr/sbin/sshd".to_owned()),
            asked_at: now(),
            error: None,
            unasked: 0,
        }),
        unmanaged: Some(Vec::new()),
        unmanaged_cut: false,
        sessions: Vec::new(),
        enforcer: Enforcer {
            pid: 1,
            started_at: before(86_400),
            written_at: before(300),
            asked_at: None,
        },
    }
}

fn twenty() -> Vec<Row> {
    let names = (1..=20).map(|number| format!("user{number:02}"));
    names
        .map(|name| row(&name, 10, &instance_connect()))
        .collect()
}

fn check(status: &Status, view: &View<'_>, expected: &str) {
    let text = describe(status, view, now());
    assert_eq!(text, expected, "\n{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

const ALL: View<'_> = View {
    accounts: &[],
    keys: false,
    unseen: None,
    colour: false,
};

/// And `more` that are not told one by one.
fn launch_key_of_root(more: usize) -> UnmanagedFile {
    UnmanagedFile {
        name: "root".to_owned(),
        uid: 0,
        file: "/root/.ssh/authorized_keys".to_owned(),
        found: InFile {
            keys: vec![key("launch")],
            more,
            ..InFile::default()
        },
        awaits_list: false,
    }
}

#[test]
fn a_host_without_a_list() {
    let mut status = host(Vec::new(), vec![Cause::NoEnforcer]);
    status.list = ListStatus::default();
    status.sshd = None;
    check(&status, &ALL, include_str!("golden/no-list.txt"));
}

#[test]
fn one_account() {
    let mut status = host(vec![row("ec2-user", 2, &effective())], Vec::new());
    status.drift = Drift {
        repaired: 1,
        last: Some(DriftEvent {
            at: before(250),
            account: name("ec2-user"),
            changes: vec![format!("not on the list: {}", key("rogue"))],
        }),
    };
    status.unmanaged = Some(vec![launch_key_of_root(0)]);
    check(&status, &ALL, include_str!("golden/one.txt"));
    let named = View {
        accounts: &[name("ec2-user")],
        keys: true,
        ..ALL
    };
    check(&status, &named, include_str!("golden/one-named.txt"));
}

#[test]
fn twenty_accounts_with_two_hundred_keys() {
    let expected = include_str!("golden/twenty.txt");
    check(&host(twenty(), Vec::new()), &ALL, expected);
    assert!(expected.lines().count() < 40);
}

#[test]
fn a_first_list_that_is_held() {
    let held = |name: &str| Row {
        state: AccountState::Held,
        why: Some(Cause::HeldBack),
        ..row(name, 3, &effective())
    };
    let waits = |account: &str, comment: &str| HeldKey {
        account: name(account),
        key: key(comment),
    };
    let cause = Cause::ListHeld(Held {
        removed: 3,
        of: 5,
        seen: 1,
        needed: Some(3),
        since: Some(before(10)),
        until: Some(before(-110)),
        keys: vec![
            waits("deploy", "rogue@laptop"),
            waits("ec2-user", "dana@laptop"),
            waits("ec2-user", "carol@laptop"),
        ],
        ..Held::default()
    });
    let status = host(vec![held("deploy"), held("ec2-user")], vec![cause]);
    check(&status, &ALL, include_str!("golden/held.txt"));
}

/// With as many days left, and as many signers.
fn signed(days: i64, signers: &[&str]) -> Taken {
    let signers = signers.iter().map(|name| Signer {
        fingerprint: key(name).fingerprint,
        principals: (*name).to_owned(),
    });
    Taken {
        serial: 42,
        sha256: String::new(),
        issued: before(864_000),
        expires: before(-86_400 * days - 3600),
        signers: signers.collect(),
        current: true,
    }
}

#[test]
fn a_signed_list() {
    let mut status = host(vec![row("ec2-user", 2, &effective())], Vec::new());
    let web = "/authorized-keys/web".to_owned();
    let all = &mut status.list.signed;
    all.insert(web.clone(), signed(80, &["alice@example.com"]));
    // Of a path that the config named once.
    let former = Taken {
        current: false,
        ..signed(1, &["bob@example.com"])
    };
    all.insert("/authorized-keys/db".to_owned(), former);
    check(&status, &ALL, include_str!("golden/signed.txt"));
    assert_eq!(status.list.signature_days(now()), Some(80));

    // Two scopes, and a newer list that nobody who may has signed.
    status.list.refused_since = Some(before(723));
    let all = &mut status.list.signed;
    let both = ["alice@example.com", "bob@example.com"];
    all.insert("/authorized-keys/all".to_owned(), signed(-2, &both));
    let fault = Fault::Refused {
        good: 0,
        needed: 1,
        faults: vec![format!(
            "the signature is by the key {}, which is not one that may sign",
            key("mallory").fingerprint
        )],
    };
    let trouble = Trouble::Unsigned {
        what: Unsigned { scope: web, fault },
        lasts: true,
        is_first: false,
    };
    status.problems.push(Problem::from(trouble));
    check(&status, &ALL, include_str!("golden/signed-refused.txt"));
    assert_eq!(status.list.signature_days(now()), Some(-2));
}

#[test]
fn three_kinds_of_trouble_at_once() {
    let access = instance_connect();
    let mut rows = twenty();
    for (row, rogue) in rows.iter_mut().zip(["rogue", "mallory@desk", ""]) {
        let account = row.name.to_string();
        let change = format!("not on the list: {}", key(rogue));
        *row = drifted(&account, &[&change], "1 key not on the list", &access);
    }
    rows[4] = row("user05", 0, &access);
    rows[4].buried = true;
    rows[5] = row("user06", 0, &access);
    rows[6].verified = false;
    for row in &mut rows[8..10] {
        row.state = AccountState::Refused;
        row.why = Some(Cause::FileRefused {
            reason: format!("`/home/{}/.ssh` is a directory of uid 0", row.name),
            hint: Some(format!("chown {0}: /home/{0}/.ssh", row.name)),
        });
    }
    let mut status = host(
        rows,
        vec![
            Cause::LinesRejected { lines: 4 },
            Cause::PrivateKey {
                place: "/authorized-keys/web/user03/laptop version 7 line 1".to_owned(),
                more: 0,
            },
        ],
    );
    let rejected = |line, reason: &str| Rejected {
        parameter: "/authorized-keys/web/user03/laptop".to_owned(),
        parameter_version: Some(7),
        line,
        reason: reason.to_owned(),
    };
    status.rejected = (1..=4)
        .map(|line| {
            rejected(
                line,
                "not an authorized_keys line: no key type or option at its start",
            )
        })
        .collect();
    status.rejected.push(rejected(1, PRIVATE_KEY));
    status.sessions = ["c4", "c7"]
        .map(|id| Session {
            account: name("user01"),
            id: id.to_owned(),
            leader: 4711,
            fingerprint: key("rogue").fingerprint,
            from: Some("203.0.113.9".to_owned()),
            since: Some(before(4000)),
        })
        .to_vec();
    let sessions = status.sessions.iter().cloned();
    status
        .problems
        .extend(sessions.map(|session| Problem::of(&name("user01"), Cause::Session(session))));
    let view = View {
        unseen: Some("the file of user07 was not looked at"),
        ..ALL
    };
    check(&status, &view, include_str!("golden/trouble.txt"));

    let line = status.fleet_line(now());
    assert_eq!(line, include_str!("golden/summary.txt"));
    assert!(line.len() < 500);
}

#[test]
fn the_same_host_for_prometheus_and_for_systems_manager() {
    let mut user = row("alice", 1, &effective());
    user.other_files = vec![OtherFile {
        file: "/home/alice/.ssh/authorized_keys2".to_owned(),
        kind: wanted::Kind::File,
        found: InFile {
            keys: vec![key("old")],
            unclear: 2,
            ..InFile::default()
        },
    }];
    let refused = Cause::FileRefused {
        reason: "`/home/bob` is a \"link\"\n".to_owned(),
        hint: None,
    };
    let bob = Row {
        state: AccountState::Refused,
        why: Some(refused),
        ..row("bob", 0, &effective())
    };
    let mut status = host(vec![user, bob], Vec::new());
    status.list.held = Some(Held {
        removed: 7,
        ..Held::default()
    });
    let taken = signed(80, &["alice@example.com"]);
    status.list.signed.insert("/k".to_owned(), taken);
    status.unmanaged = Some(vec![launch_key_of_root(3)]);
    status.drift.repaired = 4;
    assert_eq!(status.metrics(now()), include_str!("golden/metrics.txt"));
    let inventory = status.inventory(now());
    let both = inventory.agent + &inventory.keys;
    assert_eq!(both, include_str!("golden/inventory.txt"));

    // No enforcer has spoken since the host booted, and no list has come.
    status.enforcer.pid = 0;
    status.list = ListStatus::default();
    let text = status.metrics(now());
    for unknown in [
        "repairs_total",
        "enforcer_start",
        "list_confirmed",
        "signature_expires",
    ] {
        assert!(!text.contains(unknown), "{text}");
    }
}

#[test]
fn colour_is_for_the_health_and_how_bad_a_problem_is() {
    let status = host(Vec::new(), vec![Cause::NoEnforcer]);
    let view = View {
        colour: true,
        ..ALL
    };
    let text = describe(&status, &view, now());
    assert!(
        text.starts_with("\x1b[31mstopped\x1b[0m   web-1"),
        "{text:?}"
    );
    assert!(
        text.contains("\n\x1b[31merror:\x1b[0m no enforcer"),
        "{text:?}"
    );
    assert_eq!(text.matches('\x1b').count(), 4, "{text:?}");
}

/// Names, paths and reasons as long as they come.
#[test]
fn nothing_makes_a_line_too_long_but_a_word_that_is_longer() {
    let long = "a".repeat(32);
    let mut status = host(vec![row(&long, 1, &effective())], Vec::new());
    let mut problems = Vec::new();
    for number in 0..60 {
        problems.push(Problem::new(Cause::SshdSilent {
            error: format!("number {number} {}", "words and words ".repeat(20)),
        }));
    }
    status.problems = problems;
    status.host.name = "b".repeat(64);
    let mut ended = signed(-9999, &["x@example.com"; 3]);
    ended.serial = u64::MAX;
    status.list.signed.insert("/k".to_owned(), ended);
    status.list.refused_since = Some(before(86_400 * 9999));
    let text = describe(&status, &ALL, now());
    assert!(text.contains("and 40 more problems"), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let line = status.fleet_line(now());
    assert!(line.len() < 500, "{line}");
}
