//! The files of an account as values of a list: a value a key, named by the key's comment.
//!
//! What a list would take is in its one spelling; what it would not take is there as it stands, so that `lint` names it and
//! nothing is lost. A private key is never there.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;

use crate::model::account::AccountName;
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::{Draft, Lint, Remark, lint_lines, looks_left_over};
use crate::model::escape::escaped;
use crate::model::file::other_files::holds_nothing;
use crate::model::key::lenient::FoundLine;
use crate::model::key::line::{KeyLine, Line, LineError};
use crate::model::key::secret;

/// What comes of the files of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Labels below the account, and the values.
    pub values: Vec<(String, Vec<u8>)>,
    /// How many of the values are a key that sshd reads in the files, whether a list would take it or not.
    pub keys: usize,
    /// What there is to say of the files.
    pub lint: Lint,
}

/// The value with the lines that are no keys.
const NO_KEYS: &str = "not-understood";

/// Makes values of `files`, in the order in which sshd reads them.
pub fn export(
    account: &AccountName,
    mut files: Vec<Draft>,
    rules: Rules<'_>,
    now: Timestamp,
) -> Exported {
    let mut private = Vec::new();
    for file in &mut files {
        private.extend(take_private_key(file));
    }
    files.retain(|file| !holds_nothing(&file.bytes));
    let mut exported = Exported {
        lint: lint_lines(&files, Some(account), rules, now),
        ..Exported::default()
    };
    exported.lint.problems.splice(0..0, private);
    let (mut known, mut not_understood) = (HashSet::new(), Vec::new());
    let mut labels = Labels(BTreeSet::from([NO_KEYS.to_owned()]));
    let lines = files
        .iter()
        .flat_map(|file| file.bytes.split(|b| *b == b'\n'));
    for line in lines {
        let key = match Line::read(line) {
            Ok(Line::Blank | Line::Comment) => continue,
            Ok(Line::Key(key)) if !known.insert(grants(&key)) => continue,
            Ok(Line::Key(key)) => {
                let label = labels.of(&key.comment, key.key.fingerprint());
                Some((label, key.to_string().into_bytes()))
            }
            // sshd does not take such a key either; what follows may be the rest of it.
            Err(LineError::Key(_)) => None,
            Err(_) => match FoundLine::read(line) {
                FoundLine::Key(key) => {
                    let label = labels.of(&key.comment(), &key.fingerprint);
                    Some((label, line.to_vec()))
                }
                FoundLine::Nothing | FoundLine::Unclear => None,
            },
        };
        match key {
            Some((label, line)) => exported.values.push((label, [&line[..], b"\n"].concat())),
            None => not_understood.extend([line, b"\n"].concat()),
        }
    }
    exported.keys = exported.values.len();
    if !not_understood.is_empty() {
        exported.values.push((NO_KEYS.to_owned(), not_understood));
    }
    exported
}

/// What a line lets in, and how.
fn grants(line: &KeyLine) -> (String, String) {
    (line.options.to_string(), line.key.fingerprint().to_owned())
}

/// Of a file with a private key every line that is no public key becomes blank, since it may be a part of it; what to say then.
fn take_private_key(file: &mut Draft) -> Option<Remark> {
    let begins = secret::private_key(&String::from_utf8_lossy(&file.bytes))?;
    let is_public = |line: &&[u8]| {
        matches!(FoundLine::read(line), FoundLine::Key(_))
            && secret::private_key(&String::from_utf8_lossy(line)).is_none()
    };
    let lines = file.bytes.split(|b| *b == b'\n');
    let kept: Vec<&[u8]> = lines
        .map(|line| Some(line).filter(is_public).unwrap_or_default())
        .collect();
    file.bytes = kept.join(&b'\n');
    let reason =
        "a PRIVATE key, which is not exported: it belongs with its owner alone, take it away";
    Some(Remark {
        file: escaped(&file.name),
        line: Some(begins),
        reason: reason.to_owned(),
    })
}

/// Labels that are taken, in small letters: not every file system tells large ones apart.
struct Labels(BTreeSet<String>);

impl Labels {
    /// A label that a parameter and a file can have, for a key with this comment.
    fn of(&mut self, comment: &str, fingerprint: &str) -> String {
        /// Characters.
        const MOST: usize = 64;
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let words = comment
            .split(|c| !is_good(c))
            .filter(|word| !word.is_empty());
        let joined = words.collect::<Vec<_>>().join("-");
        let ends = ['-', '.'];
        let mut label: String = joined.trim_matches(ends).chars().take(MOST).collect();
        label.truncate(label.trim_end_matches(ends).len());
        if looks_left_over(&format!("account/{label}")) {
            label = label.replace('.', "-");
        }
        if label.is_empty() {
            let body = fingerprint.trim_start_matches("SHA256:");
            let body = body.chars().filter(char::is_ascii_alphanumeric).take(8);
            label = format!("key-{}", body.collect::<String>());
        }
        let mut unique = label.clone();
        let mut number = 1;
        while !self.0.insert(unique.to_ascii_lowercase()) {
            number += 1;
            unique = format!("{label}-{number}");
        }
        unique
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::key::policy::Policy;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const B: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIaDx5TTkaWJ8Qra3i8J59dHlibub2Qiv69l7JVqY6ql";

    fn of(files: &[&str]) -> Exported {
        let files = files
            .iter()
            .enumerate()
            .map(|(at, text)| Draft {
                name: format!("f{at}"),
                parameter: None,
                bytes: text.as_bytes().to_vec(),
            })
            .collect();
        let rules = Rules {
            policy: &Policy::default(),
            zone: &TimeZone::UTC,
            openssh: None,
        };
        export(
            &"alice".try_into().unwrap(),
            files,
            rules,
            Timestamp::UNIX_EPOCH,
        )
    }

    /// Of files the values, as `label: value`, and what is said of them.
    fn check(files: &[&str], values: &[String], problems: &[&str], notes: &[&str]) {
        let exported = of(files);
        let shown = |(label, value): &(String, Vec<u8>)| {
            format!("{label}: {}", String::from_utf8_lossy(value).trim_end())
        };
        let found: Vec<String> = exported.values.iter().map(shown).collect();
        assert_eq!(found, values, "{files:?}");
        for (found, expected) in [
            (&exported.lint.problems, problems),
            (&exported.lint.notes, notes),
        ] {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                let said = format!(
                    "{}:{} {}",
                    found.file,
                    found.line.unwrap_or(0),
                    found.reason
                );
                assert!(said.starts_with(expected), "{said}");
            }
        }
    }

    #[test]
    fn labels_are_made_of_comments() {
        let check = |comments: &[&str], expected: &[&str]| {
            let mut labels = Labels(BTreeSet::new());
            let found: Vec<String> = comments
                .iter()
                .map(|c| labels.of(c, "SHA256:a/b+cdefghij"))
                .collect();
            assert_eq!(found, expected);
        };
        check(&["alice@laptop"], &["alice-laptop"]);
        check(
            &["Alice Liddell <a@b.example>"],
            &["Alice-Liddell-a-b.example"],
        );
        check(
            &["", "  ", "???"],
            &["key-abcdefgh", "key-abcdefgh-2", "key-abcdefgh-3"],
        );
        check(&["a", "A", "a"], &["a", "A-2", "a-3"]);
        check(&["a", "a-2", "a"], &["a", "a-2", "a-3"]);
        check(
            &["../../etc/passwd", ".hidden", "x~"],
            &["etc-passwd", "hidden", "x"],
        );
        check(&["bob.bak"], &["bob-bak"]);
        check(&[&"x".repeat(200)], &[&"x".repeat(64)]);
        let dots = format!("{}...y", "x".repeat(62));
        check(&[&dots], &[&"x".repeat(62)]);
    }

    #[test]
    fn each_key_is_a_value_in_its_one_spelling() {
        check(&["", "# none\n"], &[], &[], &[]);
        check(
            &[&format!("# ours\n\tRESTRICT,pty {A}  alice@a \r\n{B}\n")],
            &[
                format!("alice-a: restrict,pty {A} alice@a"),
                format!("key-XMXDrO0q: {B}"),
            ],
            &[],
            &[],
        );
        check(
            &[&format!("{A} one"), &format!("{A} two\n{B} two")],
            &[format!("one: {A} one"), format!("two: {B} two")],
            &[],
            &["f1:1 the same key as in line 1 of `f0`"],
        );
    }

    #[test]
    fn what_a_list_would_not_take_is_named_and_not_lost() {
        check(
            &[&format!("{A} a\nno-pty {A} a\n")],
            &[format!("a: {A} a"), format!("a-2: no-pty {A} a")],
            &["f0:1 the same key", "f0:2 the same key"],
            &[],
        );
        let twice = format!("no-pty,no-pty {A} a");
        check(
            &[&twice],
            &[format!("a: {twice}")],
            &["f0:1 `no-pty` stands there twice"],
            &[],
        );
        let wrapped = A.replacen("ILM", "\nILM", 1);
        check(
            &[&wrapped],
            &[format!("not-understood: {wrapped}")],
            &["f0:1 a key that is wrapped"],
            &[],
        );
        let agent = format!("environment=\"A=b\" {A} not-understood");
        check(
            &[&format!("hello\n{agent}\nworld\n")],
            &[
                format!("not-understood-2: {agent}"),
                "not-understood: hello\nworld".to_owned(),
            ],
            &[
                "f0:1 not an",
                "f0:2 the option `environment`",
                "f0:3 not an",
            ],
            &[],
        );
    }

    #[test]
    fn no_part_of_a_private_key_is_exported() {
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nQUJD\n-----END OPENSSH PRIVATE KEY-----";
        check(
            &[&format!("{A} a\n{private}\n{B} b\n"), private, B],
            &[format!("a: {A} a"), format!("b: {B} b")],
            &["f0:2 a PRIVATE key", "f1:1 a PRIVATE key"],
            &["f2:1 the same key as in line 6 of `f0`"],
        );
        let joined = format!("{A} b3BlbnNzaC1rZXktdjEAAAAA");
        check(&[&joined], &[], &["f0:1 a PRIVATE key"], &[]);
    }
}
