//! Signers: lines of which we know the verdict, and lines drawn at random.

use std::fmt;

use authorized_keys_agent::model::escape::escaped;
use authorized_keys_agent::model::key::absolute_time::AbsoluteTime;
use authorized_keys_agent::model::signature::signers::Signers;
use authorized_keys_agent::model::signature::sshsig::verify;
use jiff::tz::TimeZone;

use super::{Dice, Expect, ask, judge, questions};
use crate::signatures::{MESSAGE, NOW};
use crate::support::ssh_keygen::{Asked, SshKeygen};

/// Names that `alice` matches, and others.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "alice", "*", "al*,bob", "bob,alice", "?lice", "\"alice\"", "al\"ice\"", "\"alice,b ob\"", "\"a b\",alice",
    "\"alice", "alice\"", "", "bob", "bob@example.com", "#alice", "a\\\"b",
];

#[rustfmt::skip]
const BLANKS: &[&str] = &[
    " ", "\t", "  \t ", "", "\r", " \r", "\x0b",
];

#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "", "namespaces=\"authorized-keys-list\"", "namespaces=\"file,authorized-*\"", "namespaces=\"file\"",
    "namespaces=\"*,!authorized-keys-list\"", "namespaces=\"!file,*\"", "namespaces=\"\"",
    "namespaces=\"authorized-keys-list \"", "namespaces=\"a, authorized-keys-list\"",
    "namespaces=\"AUTHORIZED-KEYS-LIST\"", "NameSpaces=\"*\"", "namespaces=*", "namespaces=\"*", "namespaces",
    "namespaces=", "namespaces=\"a\\\"b,*\"", "namespaces=\"*\\\"", "namespaces=\"*\"x", "namespaces=\"a b\t*\"",
    "cert-authority", "CERT-AUTHORITY", "cert-authorityx", "no-pty", "x", "=", "\"", "\"\"", "ssh-ed25519",
    "namespaces =\"*\"",
];

#[rustfmt::skip]
const TIMES: &[&str] = &[
    "20261130220000Z", "20261130215959Z", "20261130220001Z", "20261130", "20261130Z", "20261201", "202611302200",
    "202611302300", "20261130220000", "20261130230000", "20261130230001", "20251130utc", "20271130UTC", "20260701",
    "202607010000", "20270701", "19700101Z", "2026", "", "Z", "UTC", "20261301", "20261130240000", "2026113",
    "20261130 2", " 20261130", "-2026113", "+2026113", "99991231", "0x6a000000", "20261130z", "20261130220000ZZ",
];

#[rustfmt::skip]
const KINDS: &[&str] = &[
    "ssh-rsa", "SSH-ED25519", "ed25519", "ecdsa-sha2-nistp256", "ssh-ed25519-cert-v01@openssh.com", "",
];

/// A line whose parts are drawn from what is right, what is odd, and what is wrong.
fn line(dice: &mut Dice, key: &str, other: &str) -> String {
    let (kind, base64) = key.split_once(' ').unwrap();
    let option = dice.one(OPTIONS);
    let mut field = dice.one(&["", option]).to_owned();
    for option in ["valid-after", "valid-before", "Valid-Before"] {
        if dice.roll(4) == 0 {
            let times = dice.one(&[TIMES, &TIMES[..16], &TIMES[..16]]);
            let quoted = format!("{option}=\"{}\"", dice.one(times));
            field = [field, quoted].join(dice.one(&[",", ",", ",", ",,", " ", ""]));
        }
    }
    if dice.roll(20) == 0 {
        field.push(',');
    }
    let ends = ["=", "A", "AAAA", "\r", "*"];
    let starts = ["AA\rAA", "AA\x0bAA", "AA\x0cAA", "AA AA", "AA\u{e9}AA"];
    let comments = [
        "me", "\tme you", " # me", " \"me", "\r", " me\r", " \x1b[2J", other,
    ];
    let mut text = String::new();
    text += dice.seldom("", &[" ", "\t", "#", " # ", "\u{feff}"]);
    text += dice.seldom("alice", NAMES);
    text += dice.seldom(" ", BLANKS);
    if !field.is_empty() {
        text += &field;
        text += dice.seldom(" ", BLANKS);
    }
    text += dice.seldom(kind, KINDS);
    text += dice.seldom(" ", BLANKS);
    match dice.roll(20) {
        0 => text += &base64[..dice.roll(base64.len())],
        1 => text += &base64.replacen("AAAA", dice.one(&starts), 1),
        _ => text += base64,
    }
    text += dice.seldom("", &ends);
    text += dice.seldom("", &[" ", "\t"]);
    text += dice.seldom("", &comments);
    if dice.roll(6) == 0 {
        changed(dice, &text)
    } else {
        text
    }
}

/// The text with a byte or two more, less or other.
fn changed(dice: &mut Dice, text: &str) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for _ in 0..=dice.roll(2) {
        let at = dice.roll(text.len());
        let new = dice.one(&[
            ' ', '\t', '"', ',', '=', '\\', '#', '\r', '\n', 'A', '*', '?',
        ]);
        match dice.roll(3) {
            0 => text[at] = new,
            1 => text.insert(at, new),
            _ => drop(text.remove(at)),
        }
    }
    text.into_iter().collect()
}

/// Lines of signers that we know.
fn lines() -> Vec<(&'static str, Expect)> {
    use Expect::{Both, Neither, Newer, Stricter};
    const NO_DAY: &str = "there is no such day or second, and OpenSSH takes another";
    let excluded = "names are matched against nothing here";
    vec![
        ("alice KEY", Both),
        ("alice KEY\r", Both),
        (" \talice \t KEY\tme", Both),
        ("\ralice KEY", Newer),
        ("\"alice\"KEY", Both),
        ("\"a b\",alice KEY", Neither),
        ("#alice KEY\n# KEY\nalice KEY", Both),
        ("nonsense\nalice x KEY\nalice KEY AAAA\n", Both),
        ("alice valid-before=\"20200101\" KEY\nalice KEY", Both),
        (
            "alice namespaces=\"file\" KEY\nalice namespaces=\"a*\" KEY",
            Both,
        ),
        ("alice namespaces=\"file\" KEY", Neither),
        ("alice ,,valid-before=\"20270101\",, KEY", Neither),
        (
            "alice ,,valid-before=\"20270101\",,namespaces=\"*\" KEY",
            Both,
        ),
        ("alice valid-before=\"99991231\" KEY", Both),
        ("alice cert-authority KEY", Neither),
        ("alice KEY\nalice cert-authority KEY", Both),
        ("alice valid-before=\"20261130220000Z\" KEY", Both),
        ("alice valid-before=\"20261130215959Z\" KEY", Neither),
        ("alice valid-after=\"20261130220000Z\" KEY", Both),
        ("alice valid-after=\"20261130220001Z\" KEY", Neither),
        ("alice valid-after=\"20260230\" KEY", Stricter(NO_DAY)),
        ("alice valid-before=\"20270230\" KEY", Stricter(NO_DAY)),
        ("alice valid-after=\"20261031235960\" KEY", Stricter(NO_DAY)),
        (
            "alice valid-after=\"2026 1 1\" KEY",
            Stricter("a digit is not a blank"),
        ),
        ("alice valid-before=\"19700101Z\" KEY", Neither),
        ("!bob,alice KEY", Stricter(excluded)),
        ("alice,!bob KEY", Stricter(excluded)),
        ("alice KEY me\0", Stricter("no line has a NUL")),
    ]
}

/// What [`lines`] has and chance or a change of a byte can bring about.
fn is_known(text: &str) -> bool {
    let carriage_return = |line: &str| {
        let blanks = line.len() - line.trim_start().len();
        blanks < line.len() && line[..blanks].contains('\r')
    };
    let excluded = |line: &str| {
        let (name, rest) = line.trim_start().split_once('"').unwrap_or_default();
        !name.contains([' ', '\t', '\r']) && rest.split('"').next().unwrap().contains('!')
    };
    let parts: Vec<&str> = text.split('"').collect();
    let blank_in_time = |pair: &[&str]| {
        let option = pair[0].to_ascii_lowercase();
        (option.ends_with("valid-after=") || option.ends_with("valid-before="))
            && pair[1].contains(' ')
    };
    text.split('\n')
        .any(|line| carriage_return(line) || excluded(line))
        || parts.windows(2).any(blank_in_time)
}

/// In winter, so that both zones have their standard time: for summer there are rows.
const WHEN: [Asked<'_>; 3] = [
    NOW,
    Asked {
        at: "20261130220000Z",
        zone: BERLIN,
    },
    Asked {
        at: "20271130220000Z",
        zone: BERLIN,
    },
];

const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

/// Rows of summer: what begins then begins as in OpenSSH, what ends then ends by the clock on the wall.
fn summer() -> Vec<(&'static str, &'static str, Expect)> {
    use Expect::{Both, Neither, Stricter};
    const WALL: &str = "OpenSSH reckons without summer time, an hour late";
    vec![
        (
            "alice valid-after=\"202607010000\" KEY",
            "20260630225959Z",
            Neither,
        ),
        (
            "alice valid-after=\"202607010000\" KEY",
            "20260630230000Z",
            Both,
        ),
        (
            "alice valid-before=\"202607010000\" KEY",
            "20260630220000Z",
            Both,
        ),
        (
            "alice valid-before=\"202607010000\" KEY",
            "20260630220001Z",
            Stricter(WALL),
        ),
        (
            "alice valid-before=\"202607010000\" KEY",
            "20260630230000Z",
            Stricter(WALL),
        ),
        (
            "alice valid-before=\"202607010000\" KEY",
            "20260630230001Z",
            Neither,
        ),
        (
            "alice valid-before=\"202607010000Z\" KEY",
            "20260701000000Z",
            Both,
        ),
        (
            "alice valid-before=\"202607010000Z\" KEY",
            "20260701000001Z",
            Neither,
        ),
    ]
}

struct SignersFile {
    text: String,
    asked: Asked<'static>,
}

impl fmt::Display for SignersFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{:?}", self.asked, self.text)
    }
}

/// Both verdicts on a signature by a key of the file, for a name of its line.
fn verdicts(keygen: &SshKeygen, file: &SignersFile, signature: &str) -> (bool, bool) {
    let SignersFile { text, asked } = file;
    let zone = TimeZone::posix(asked.zone).unwrap_or(TimeZone::UTC);
    let at = AbsoluteTime::read(asked.at).unwrap().by_the_wall(&zone);
    let ours = verify(MESSAGE, signature, &Signers::read(text, &zone).0, at);
    let ours = ours.ok().map(|by| by.principals);
    let found = keygen.principals(*asked, text, signature);
    if let (Some(ours), Some(theirs)) = (&ours, &found)
        && !theirs.is_empty()
        && !text.to_ascii_lowercase().contains("namespaces")
    {
        // It prints none behind an empty one.
        let shown: Vec<&str> = ours
            .split(',')
            .take_while(|name| !name.is_empty())
            .collect();
        assert_eq!(escaped(theirs), shown.join(","), "{file}");
    }
    let mut names = vec!["alice".to_owned()];
    names.extend(ours.clone());
    names.extend(found);
    names.dedup();
    let theirs = names.iter().any(|names| {
        let name = names
            .split(',')
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        keygen.verifies(*asked, text, name, MESSAGE, signature)
    });
    (ours.is_some(), theirs)
}

#[test]
fn signers_count_where_ssh_keygen_says_so() {
    let keygen = SshKeygen::new();
    let [key, other] = ["one", "two"].map(|name| keygen.key(name, &["-t", "ed25519"]));
    let signature = keygen.sign("one", MESSAGE, &[]);
    let mut rows = Vec::new();
    for (text, expect) in lines() {
        rows.push((text.to_owned(), NOW, expect));
    }
    for (text, at, expect) in summer() {
        rows.push((text.to_owned(), Asked { at, zone: BERLIN }, expect));
    }
    let mut dice = Dice(16);
    while rows.len() < questions(400) {
        let mut text = String::new();
        for _ in 0..=dice.roll(3) {
            let (of, another) = if dice.roll(4) == 0 {
                (&other, &key)
            } else {
                (&key, &other)
            };
            text += &line(&mut dice, of, another);
            text += dice.one(&["\n", "\n", "\r\n", "\n\n"]);
        }
        if !is_known(&text) {
            rows.push((text, dice.one(&WHEN), Expect::Same));
        }
    }
    let (mut files, mut expected) = (Vec::new(), Vec::new());
    for (text, asked, expect) in rows {
        let text = text.replace("KEY", &key);
        files.push(SignersFile { text, asked });
        expected.push(expect);
    }
    let answers = ask(&files, |file| verdicts(&keygen, file, &signature));
    let taken = judge(&files, &expected, &answers);
    assert!(taken > 100, "{taken} of {} were taken", files.len());
}
