//! Laws of the grammar that hold for any input, and any input that we take before the real sshd.

use authorized_keys_agent::model::desired::judge::{Desired, Rules, judge};
use authorized_keys_agent::model::escape::escaped;
use authorized_keys_agent::model::file::wanted::content;
use authorized_keys_agent::model::key::grant::{Grants, with_break_glass};
use authorized_keys_agent::model::key::line::Line;
use authorized_keys_agent::model::key::policy::Policy;
use authorized_keys_agent::model::list::approved::{ApprovedList, Entry, SCHEMA};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::keys::{P256, SK_ED25519, ecdsa, ed25519, key, point, rsa};
use super::{COMMA, FROM, TWICE, ours, wide, write_lines};
use crate::support::oracle::Sshd;

const FLAGS: [&str; 9] = [
    "restrict",
    "cert-authority",
    "pty",
    "no-pty",
    "no-user-rc",
    "X11-forwarding",
    "NO-AGENT-FORWARDING",
    "port-forwarding",
    "Verify-Required",
];

/// Pieces of lines, good and bad, that a person or a program might string together.
const PIECES: [&str; 40] = [
    "restrict",
    "no-pty",
    "PTY",
    "no-restrict",
    "cert-authority",
    "principals=\"a\"",
    "X11-Forwarding",
    "verify-required",
    "command=\"ls -l\"",
    "command=\"echo \\\"a\\\\\\\"\"",
    "Command=\"a,b # c\"",
    "command=ls",
    "command=\"open",
    "command=\"\"",
    "from=\"127.0.0.1\"",
    "from=\"127.0.0.0/8,!10.0.0.1\"",
    "from=\"10.0.0.1/8\"",
    "from=\"*,!*.example.com\"",
    "from=\"::/0\"",
    "expiry-time=\"20990101\"",
    "expiry-time=\"209901010101utc\"",
    "expiry-time=\"2099010101\"",
    "permitopen=\"a:1\"",
    "permitopen=\"[::1]:*\"",
    "permitopen=\"a\"",
    "permitlisten=\"1\"",
    "permitlisten=\"localhost:1\"",
    "tunnel=\"any\"",
    "tunnel=\"7\"",
    "environment=\"A=b c\"",
    "environment=\"A\"",
    "no-touch-required",
    "\"",
    "\\\"",
    "=",
    "#",
    "\r",
    "\u{a0}",
    "\u{feff}",
    "ssh-rsa",
];

/// Where we may refuse a line in which sshd finds no fault: see [`super::LINES`]. The last two are lines that
/// it reads and never lets anybody in by.
const STRICTER: [&str; 5] = [
    TWICE,
    COMMA,
    FROM,
    "only for `cert-authority`",
    "a comment that a key follows",
];

/// An option as somebody may write it and as we render it.
fn option() -> impl Strategy<Value = (String, String)> {
    let quoted = |value: &str| format!("\"{}\"", value.replace('"', "\\\""));
    let text =
        "[ -~äßé]{0,12}".prop_filter("sshd has no way to write it", |text| !text.ends_with('\\'));
    let valued = prop_oneof![
        text.prop_map(|text| ("Command", text.clone(), text)),
        "[a-z0-9.*?]{1,9}(,!?[a-z0-9.*?]{1,9}){0,2}".prop_map(|list| ("FROM", list.clone(), list)),
        (
            "2[0-9]{3}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])",
            "(([01][0-9])([0-5][0-9]){1,2})?",
            select(vec!["", "Z"])
        )
            .prop_map(|(day, time, zone)| {
                let written = if zone.is_empty() { "" } else { "utc" };
                (
                    "expiry-time",
                    format!("{day}{time}{written}"),
                    format!("{day}{time}{zone}"),
                )
            }),
        ("[a-z0-9.*_-]{1,9}", 1..=u16::MAX).prop_map(|(host, port)| {
            let value = format!("{host}:{port}");
            ("permitopen", value.clone(), value)
        }),
        (1..=u16::MAX).prop_map(|port| ("PermitListen", port.to_string(), port.to_string())),
        ("[A-Za-z0-9_]{1,5}=[ -~]{0,8}x").prop_map(|value| ("environment", value.clone(), value)),
        (0..=u16::MAX).prop_map(|device| ("tunnel", device.to_string(), device.to_string())),
    ];
    prop_oneof![
        select(FLAGS.to_vec()).prop_map(|flag| (flag.to_owned(), flag.to_ascii_lowercase())),
        valued.prop_map(move |(name, written, value)| {
            let rendered = format!("{}={}", name.to_ascii_lowercase(), quoted(&value));
            (format!("{name}={}", quoted(&written)), rendered)
        }),
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => any::<usize>().prop_map(ed25519),
        1 => any::<[u8; 32]>().prop_map(|bytes| key(SK_ED25519, SK_ED25519, &[&bytes, b"ssh:"])),
        1 => (1024_usize..5000).prop_map(|bits| rsa("ssh-rsa", bits)),
        1 => Just(ecdsa(P256, &point(P256, false))),
    ]
}

/// A good line with a few bytes inserted, removed, replaced or repeated.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let bytes =
        prop_oneof![3 => select(b" \t,=\"\\#\r\x00\x0b\xa0-aA0Z/@".to_vec()), 1 => any::<u8>()];
    let good = prop_oneof![
        Just(ed25519(1)),
        Just(format!(
            "restrict,command=\"a \\\"b\\\"\",from=\"10.0.0.0/8,!::1\" {} me@host",
            ed25519(2)
        )),
        Just(format!(
            "expiry-time=\"20300101Z\",permitopen=\"[::1]:1\",tunnel=\"0\"\t{}",
            ed25519(3)
        )),
        Just(format!(
            "{} # words",
            key(SK_ED25519, SK_ED25519, &[&[1; 32], b"ssh:"])
        )),
    ];
    (good, vec((0..4, any::<Index>(), bytes), 1..6)).prop_map(|(line, changes)| {
        let mut line = line.into_bytes();
        for (change, at, byte) in changes {
            let at = at.index(line.len() + 1);
            match change {
                0 => line.insert(at, byte),
                1 => drop(line.splice(at.saturating_sub(1)..at, [byte])),
                2 => drop(line.drain(at.saturating_sub(usize::from(byte % 8))..at)),
                _ => line.extend_from_within(at..),
            }
        }
        line
    })
}

/// One printable line that reads as itself.
fn check_taken(line: &[u8]) {
    if let Ok(Line::Key(key)) = Line::read(line) {
        let rendered = key.to_string();
        // A tab in a command is all that is not printable.
        let plain = rendered.replace('\t', " ");
        assert_eq!(escaped(&plain), plain, "from {}", line.escape_ascii());
        assert_eq!(Line::read(rendered.as_bytes()), Ok(Line::Key(key)));
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_rendered_line_reads_as_itself(
        options in vec(option(), 0..5),
        blanks in "[ \t]{1,3}",
        key in any_key(),
        comment in "([!-~]([ -~]{0,9}[!-~])?)?",
    ) {
        let name = |text: &str| text.split('=').next().unwrap().to_owned();
        let mut options = options;
        let mut seen = std::collections::HashSet::new();
        options.retain(|(_, rendered)| seen.insert(name(rendered)));
        let (written, rendered): (Vec<_>, Vec<_>) = options.into_iter().unzip();
        let join = |options: &[String], blanks: &str| [&options.join(","), key.as_str(), &comment].join(blanks);
        let line = join(&written, &blanks);
        match Line::read(line.as_bytes()) {
            Ok(Line::Key(read)) => prop_assert_eq!(read.to_string(), join(&rendered, " ").trim().to_owned()),
            other => prop_assert!(false, "{}: {:?}", line, other),
        }
        check_taken(line.as_bytes());
    }

    #[test]
    fn the_order_of_entries_does_not_matter(
        (entries, shuffled) in vec((0..2_usize, vec(0..6_usize, 0..4)), 1..6).prop_flat_map(|values| {
            let entries: Vec<Entry> = values.iter().enumerate().map(|(i, (who, lines))| entry(i, *who, lines)).collect();
            (Just(entries.clone()), Just(entries).prop_shuffle())
        }),
        kept in vec((0..2_usize, vec(0..6_usize, 0..4)), 0..4),
    ) {
        let kept = kept.iter().enumerate().map(|(i, (who, lines))| entry(i, *who, lines)).collect();
        let previous = judged(kept, &Grants::new()).grants;
        let (one, other) = (judged(entries, &previous), judged(shuffled, &previous));
        prop_assert_eq!(contents(&one), contents(&other));
        prop_assert_eq!(one, other);
    }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn any_bytes_are_read_or_refused(line in vec(any::<u8>(), 0..80)) {
        check_taken(&line);
    }

    #[test]
    fn damaged_lines_are_read_or_refused(line in mutated()) {
        check_taken(&line);
    }
}

fn entry(number: usize, who: usize, lines: &[usize]) -> Entry {
    let line = |line: &usize| match line {
        0 => "# comment".to_owned(),
        1 => "nonsense".to_owned(),
        2 => format!("restrict {}", ed25519(3)),
        key => format!("{} of entry {number}", ed25519(*key)),
    };
    Entry {
        account: ["alice", "bob"][who].try_into().unwrap(),
        parameter: format!("/keys/{number}"),
        version: None,
        last_modified: None,
        value: lines.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

fn judged(entries: Vec<Entry>, previous: &Grants) -> Desired {
    let list = ApprovedList {
        schema: SCHEMA,
        source: String::new(),
        fetched_at: Timestamp::UNIX_EPOCH,
        entries,
        unusable: Vec::new(),
        instance: None,
        signed: Vec::new(),
    };
    let previous = previous
        .iter()
        .map(|(name, grants)| (name, grants.as_slice()))
        .collect();
    judge(
        &list,
        Rules {
            policy: &Policy::default(),
            zone: &TimeZone::UTC,
            openssh: None,
        },
        &previous,
        |_| true,
    )
}

fn contents(desired: &Desired) -> Vec<Vec<u8>> {
    desired
        .grants
        .values()
        .map(|grants| content(&with_break_glass(grants, &[], Timestamp::UNIX_EPOCH)))
        .collect()
}

/// Lines strung together from [`PIECES`], each around a key of its own.
fn soup(lines: usize) -> Vec<String> {
    let comma = prop_oneof![12 => Just(","), 1 => Just(" "), 1 => Just(""), 1 => Just(",,"), 1 => Just(" ,")];
    let blank = prop_oneof![6 => Just(" "), 1 => Just("\t"), 1 => Just(" \t "), 1 => Just(""), 1 => Just("\r "), 1 => Just(", ")];
    let piece = prop_oneof![20 => select(PIECES[..32].to_vec()), 1 => select(PIECES.to_vec())];
    let line = (
        vec((piece.clone(), comma), 0..4),
        blank.clone(),
        blank,
        vec(piece, 0..2),
    );
    let mut runner = TestRunner::new(cases(1));
    let mut next = |number: usize| {
        let (options, before, after, comment) = line.new_tree(&mut runner).unwrap().current();
        let mut text = String::new();
        for (i, (piece, comma)) in options.iter().enumerate() {
            text += if i > 0 { comma } else { "" };
            text += piece;
        }
        let before = if text.is_empty() { "" } else { before };
        format!(
            "{text}{before}{}{after}{}",
            ed25519(number),
            comment.join(",")
        )
    };
    (0..lines).map(&mut next).collect()
}

#[test]
fn whatever_we_take_sshd_takes_in_the_same_sense() {
    let all = soup(3000).into_iter().enumerate();
    let (taken, refused): (Vec<_>, Vec<_>) = all
        .filter_map(|(number, line)| match ours(line.as_bytes(), &wide()) {
            Ok(rendered) => Some((number, line, Ok(rendered?))),
            Err(error) => Some((number, line, Err(error))),
        })
        .partition(|(_, _, ours)| ours.is_ok());
    assert!(
        taken.len() > 300,
        "only {} lines are good enough to ask",
        taken.len()
    );
    let sshd = Sshd::new();
    let dir = tempfile::tempdir().unwrap();

    let written = write_lines(
        &dir,
        "written",
        taken.iter().map(|(_, written, _)| written.as_bytes()),
    );
    let lines = taken.iter().filter_map(|(_, _, ours)| ours.as_ref().ok());
    let rendered = write_lines(&dir, "rendered", lines.map(String::as_bytes));
    for file in [&written, &rendered] {
        let complaints = sshd.refused(file);
        let first = complaints
            .iter()
            .next()
            .map(|(line, complaint)| (complaint, &taken[line - 1]));
        assert_eq!(first, None, "in {}", file.display());
    }
    let offered: Vec<String> = taken
        .iter()
        .map(|(number, ..)| ed25519(*number))
        .take(200)
        .collect();
    let (written, rendered) = (
        sshd.admissions(&written, &offered),
        sshd.admissions(&rendered, &offered),
    );
    assert!(
        written.iter().flatten().count() > 50,
        "hardly a key gets in"
    );
    for ((written, rendered), line) in written.iter().zip(&rendered).zip(&taken) {
        assert_eq!(written, rendered, "{line:?}");
    }

    let file = write_lines(
        &dir,
        "refused",
        refused.iter().map(|(_, written, _)| written.as_bytes()),
    );
    let complaints = sshd.refused(&file);
    for ((_, line, ours), number) in refused.iter().zip(1..) {
        let stricter = ours
            .as_ref()
            .is_err_and(|error| STRICTER.iter().any(|why| error.contains(why)));
        assert!(
            stricter || complaints.contains_key(&number),
            "sshd takes {line:?}\n{ours:?}"
        );
    }
}
