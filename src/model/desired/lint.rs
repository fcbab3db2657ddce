//! What is wrong with values before they are published, said as a compiler does: file, line, reason.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use crate::model::account::AccountName;
use crate::model::desired::judge::{self, Rules};
use crate::model::escape::escaped;
use crate::model::key::grant::Grant;
use crate::model::key::line::Line;
use crate::model::key::mistake;
use crate::model::list::bounds::{ADVANCED, STANDARD};
use crate::model::list::statement;
use crate::model::list::template::check_name;
use crate::model::sorting;

/// One value, as it would be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The file's name, for messages.
    pub name: String,
    /// The name of its parameter below the path of the list, where it is in a directory in the list's layout.
    pub parameter: Option<String>,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A directory in the list's layout, as it would be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListDraft {
    pub directory: String,
    pub accounts: BTreeMap<AccountName, Vec<Draft>>,
    /// What is no part of the list by its name.
    pub left_out: Vec<String>,
    /// Directories without a value.
    pub empty: Vec<String>,
    /// For each of these the directory would give no list at all.
    pub unusable: Vec<Unusable>,
}

/// What no list can have in it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub path: String,
    pub reason: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// Every value that was read.
    pub files: Vec<Size>,
    /// Keys that would be taken, each once.
    pub keys: usize,
    /// What would not be taken.
    pub problems: Vec<Remark>,
    /// What would be taken, and may not be what was meant.
    pub notes: Vec<Remark>,
}

/// One value and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The file's name, escaped.
    pub file: String,
    /// Its size.
    pub bytes: usize,
}

/// A place and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The file's name, escaped.
    pub file: String,
    /// The line, from 1; `None` for the value as a whole.
    pub line: Option<usize>,
    /// For a person, escaped.
    pub reason: String,
}

/// Judges a whole list, account by account; `below` is the path of its parameters, where that is known.
pub fn lint_list(list: &ListDraft, below: Option<&str>, rules: Rules<'_>, now: Timestamp) -> Lint {
    let mut values = list.accounts.iter().map(|(account, of)| (account, &of[..]));
    lint_values_of(list, &mut values, below, rules, now)
}

/// The same where each file is a parameter that is named in a config, which says for which account.
pub fn lint_each(list: &ListDraft, rules: Rules<'_>, now: Timestamp) -> Lint {
    let mut values = list.accounts.iter().flat_map(|(account, of)| {
        let each = of.iter();
        each.map(move |draft| (account, std::slice::from_ref(draft)))
    });
    lint_values_of(list, &mut values, None, rules, now)
}

fn lint_values_of(
    list: &ListDraft,
    values: &mut dyn Iterator<Item = (&AccountName, &[Draft])>,
    below: Option<&str>,
    rules: Rules<'_>,
    now: Timestamp,
) -> Lint {
    let mut lint = Lint::default();
    for (account, drafts) in values {
        lint.add(lint_values(drafts, Some(account), rules, now));
        for draft in drafts {
            let name = draft.parameter.as_deref().unwrap_or_default();
            let full = format!("{}/{name}", below.unwrap_or_default());
            if let Err(error) = check_name(full.trim_start_matches('/')) {
                lint.problems
                    .push(remark(&draft.name, None, error.to_string()));
            }
            if looks_left_over(name) {
                let text = format!("counts as keys of `{account}`: move it away if it should not");
                lint.notes.push(remark(&draft.name, None, text));
            }
        }
    }
    for Unusable { path, reason } in &list.unusable {
        lint.problems.push(remark(path, None, reason.clone()));
    }
    for path in &list.left_out {
        // What git keeps in a repository of keys is no surprise, nor is a signature of them.
        let name = path.rsplit('/').next().unwrap_or_default();
        if !name.starts_with(".git") && name != statement::NAME {
            let text = "left out: its name begins with a dot or ends in `~`";
            lint.notes.push(remark(path, None, text.to_owned()));
        }
    }
    for path in &list.empty {
        let text = "an empty directory says nothing, not even that an account has no keys";
        lint.notes.push(remark(path, None, text.to_owned()));
    }
    if list.accounts.is_empty() {
        let text = "no list: it names no account; each needs a file, or a directory of files";
        lint.problems
            .push(remark(&list.directory, None, text.to_owned()));
    }
    for remarks in [&mut lint.problems, &mut lint.notes] {
        sorting::sort_by(remarks, |a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    }
    lint
}

/// Names that editors, package managers and people give to what is no longer meant, or not for a program.
pub fn looks_left_over(parameter: &str) -> bool {
    const ENDS: [&str; 10] = [
        ".bak",
        ".old",
        ".orig",
        ".rej",
        ".save",
        ".swp",
        ".tmp",
        ".rpmsave",
        ".rpmnew",
        ".disabled",
    ];
    /// An account has none of these names; a label may well end so.
    const NO_ACCOUNT: [&str; 5] = [".pub", ".md", ".txt", ".yml", ".yaml"];
    const PAPERS: [&str; 5] = ["readme", "license", "licence", "makefile", "codeowners"];
    let parameter = parameter.to_ascii_lowercase();
    let account = parameter.split('/').next().unwrap_or_default();
    let has = |name: &str, ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    parameter.split('/').any(|name| has(name, &ENDS))
        || has(account, &NO_ACCOUNT)
        || PAPERS.contains(&account)
}

/// Judges `drafts` as the values of one account. `now` tells which keys have expired.
pub fn lint(drafts: &[Draft], rules: Rules<'_>, now: Timestamp) -> Lint {
    let mut lint = lint_values(drafts, None, rules, now);
    let places: HashMap<String, usize> = drafts
        .iter()
        .enumerate()
        .map(|(at, draft)| (escaped(&draft.name), at))
        .collect();
    for remarks in [&mut lint.problems, &mut lint.notes] {
        let place = |remark: &Remark| (places.get(&remark.file).copied(), remark.line);
        sorting::sort_by(remarks, |a, b| place(a).cmp(&place(b)));
    }
    lint
}

fn lint_values(
    drafts: &[Draft],
    account: Option<&AccountName>,
    rules: Rules<'_>,
    now: Timestamp,
) -> Lint {
    let mut lint = lint_lines(drafts, account, rules, now);
    for draft in drafts {
        let size = draft.bytes.len();
        lint.files.push(Size {
            file: escaped(&draft.name),
            bytes: size,
        });
        if let Some(problem) = too_large(size) {
            lint.problems.push(remark(&draft.name, None, problem));
        } else if size > STANDARD {
            let text = format!(
                "{size} bytes, more than the 4 KB of a standard parameter: publish it with `--tier Advanced`"
            );
            lint.notes.push(remark(&draft.name, None, text));
        }
        let text = String::from_utf8_lossy(&draft.bytes);
        let line_of = |at: usize| text[..at].split('\n').count();
        if let Some(at) = text.find("{{").filter(|at| text[*at..].contains("}}")) {
            let text = "`{{` and `}}`, which Parameter Store refuses in a value: take them out";
            lint.problems
                .push(remark(&draft.name, Some(line_of(at)), text.to_owned()));
        }
        let is_told = mistake::is_utf16(&text);
        if let Err(error) = std::str::from_utf8(&draft.bytes)
            && !is_told
        {
            let line = draft.bytes[..error.valid_up_to()]
                .split(|b| *b == b'\n')
                .count();
            let text = "not UTF-8 here, which Parameter Store does not take";
            lint.notes
                .push(remark(&draft.name, Some(line), text.to_owned()));
        }
    }
    lint
}

/// Judges the lines alone, wherever they stand.
pub fn lint_lines(
    drafts: &[Draft],
    account: Option<&AccountName>,
    rules: Rules<'_>,
    now: Timestamp,
) -> Lint {
    let texts: Vec<_> = drafts
        .iter()
        .map(|draft| (draft.name.as_str(), String::from_utf8_lossy(&draft.bytes)))
        .collect();
    let judged = judge::judge_drafts(texts.iter().map(|(name, text)| (*name, &**text)), rules);
    let mut lint = Lint {
        keys: judged.grants.len(),
        ..Lint::default()
    };
    for rejected in &judged.rejected {
        let line = Some(rejected.line).filter(|line| *line > 0);
        lint.problems
            .push(remark(&rejected.parameter, line, rejected.reason.clone()));
    }
    let all_are_tombstones = judged.tombstones.len() == drafts.len();
    for name in &judged.tombstones {
        let text = match account {
            None => {
                "holds only comments: leaves its account without keys, unless another value gives it some".to_owned()
            }
            Some(account) if all_are_tombstones => {
                format!("holds only comments: leaves `{account}` without keys")
            }
            Some(account) => {
                format!("holds only comments: says nothing beside the other values of `{account}`")
            }
        };
        lint.notes.push(remark(name, None, text));
    }
    let kept: HashMap<&str, &Grant> = judged
        .grants
        .iter()
        .map(|g| (g.fingerprint.as_str(), g))
        .collect();
    for line in &judged.lines {
        let at = Some(line.parameter_line);
        if let Ok(Line::Key(read)) = Line::read(line.line.as_bytes())
            && read.options.asks_for_names()
        {
            let text =
                "`from` names hosts, and sshd looks up no names (`UseDNS no`): use addresses";
            lint.notes
                .push(remark(&line.parameter, at, text.to_owned()));
        }
        match kept.get(line.fingerprint.as_str()) {
            Some(first)
                if (&first.parameter, first.parameter_line)
                    != (&line.parameter, line.parameter_line) =>
            {
                let text = format!(
                    "the same key as in line {} of `{}`",
                    first.parameter_line,
                    escaped(&first.parameter)
                );
                lint.notes.push(remark(&line.parameter, at, text));
            }
            Some(_) if !line.is_good_at(now) => {
                lint.notes.push(remark(
                    &line.parameter,
                    at,
                    "its expiry-time is over, so it lets nobody in".to_owned(),
                ));
            }
            _ => {}
        }
    }
    lint
}

impl ListDraft {
    /// Names below the directory and what is in them.
    pub fn texts(&self) -> Vec<(String, String)> {
        let drafts = self.accounts.values().flatten();
        let texts = drafts.filter_map(|draft| {
            let name = draft.parameter.clone()?;
            Some((name, String::from_utf8_lossy(&draft.bytes).into_owned()))
        });
        texts.collect()
    }
}

impl Lint {
    /// Adds what is to be said of a whole file.
    pub fn add_problem(&mut self, file: &str, reason: String) {
        self.problems.push(remark(file, None, reason));
    }

    pub fn add_note(&mut self, file: &str, reason: String) {
        self.notes.push(remark(file, None, reason));
    }

    /// With what was found in other values.
    pub fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        self.keys += other.keys;
        self.problems.extend(other.problems);
        self.notes.extend(other.notes);
    }
}

fn too_large(size: usize) -> Option<String> {
    (size > ADVANCED).then(|| {
        format!(
            "{size} bytes, more than the 8 KB that even an advanced parameter holds: split it into several"
        )
    })
}

fn remark(file: &str, line: Option<usize>, reason: String) -> Remark {
    Remark {
        file: escaped(file),
        line,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::key::policy::Policy;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    /// Each of `expected` is `file:line reason`, with `0` for a whole file; problems first.
    fn check(drafts: &[(&str, String)], keys: usize, problems: &[&str], notes: &[&str]) {
        let drafts: Vec<_> = drafts
            .iter()
            .map(|(name, text)| Draft {
                parameter: None,
                name: (*name).to_owned(),
                bytes: text.clone().into_bytes(),
            })
            .collect();
        let rules = Rules {
            policy: &Policy::default(),
            zone: &TimeZone::UTC,
            openssh: None,
        };
        let lint = lint(&drafts, rules, Timestamp::UNIX_EPOCH);
        assert_eq!(lint.keys, keys, "{lint:?}");
        for (found, expected) in [(&lint.problems, problems), (&lint.notes, notes)] {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                let shown = format!(
                    "{}:{} {}",
                    found.file,
                    found.line.unwrap_or(0),
                    found.reason
                );
                assert!(shown.starts_with(expected), "{shown}");
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_two_tiers() {
        let of = |size: usize| format!("{A} {}\n", "x".repeat(size - A.len() - 2));
        check(&[("a", of(4096))], 1, &[], &[]);
        check(
            &[("a", of(4097))],
            1,
            &[],
            &["a:0 4097 bytes, more than the 4 KB"],
        );
        check(&[("a", of(8192))], 1, &[], &["a:0 8192 bytes"]);
        check(
            &[("a", of(8193))],
            1,
            &["a:0 8193 bytes, more than the 8 KB"],
            &[],
        );
    }

    #[test]
    fn a_name_that_sshd_does_not_look_up_is_told() {
        for (from, is_name) in [
            ("*.example.com", true),
            ("10.0.0.0/8,host-1.example.com", true),
            ("10.0.0.0/8,!bad.example.com", true),
            ("10.0.0.*,fe80::/10,2001:db8::?,*", false),
        ] {
            let notes: &[&str] = if is_name {
                &["a:1 `from` names hosts"]
            } else {
                &[]
            };
            check(&[("a", format!("from=\"{from}\" {A}"))], 1, &[], notes);
        }
    }

    /// Lints a list; `values` are names below it and what is in them. Each finding is `NAME:LINE REASON`.
    fn check_list(values: &[(&str, String)], below: Option<&str>, expected: &[&str]) {
        let mut list = ListDraft {
            directory: "list".to_owned(),
            ..ListDraft::default()
        };
        for (parameter, text) in values {
            let account = parameter.split('/').next().unwrap();
            let account = AccountName::try_from(account).unwrap();
            list.accounts.entry(account).or_default().push(Draft {
                name: format!("list/{parameter}"),
                parameter: Some((*parameter).to_owned()),
                bytes: text.clone().into_bytes(),
            });
        }
        let rules = Rules {
            policy: &Policy::default(),
            zone: &TimeZone::UTC,
            openssh: None,
        };
        let lint = lint_list(&list, below, rules, Timestamp::UNIX_EPOCH);
        let told = |what: &str, remarks: &[Remark]| -> Vec<String> {
            let shown = |one: &Remark| {
                let file = one.file.trim_start_matches("list/");
                format!("{what}{file}:{} {}", one.line.unwrap_or(0), one.reason)
            };
            remarks.iter().map(shown).collect()
        };
        let found = [told("", &lint.problems), told("note ", &lint.notes)].concat();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn a_list_is_judged_account_by_account() {
        let (key, gone) = (A.to_owned(), "# left".to_owned());
        let restricted = format!("restrict {A}");
        check_list(
            &[("alice/laptop", key.clone()), ("bob", restricted.clone())],
            None,
            &[],
        );
        check_list(
            &[("alice/a", key.clone()), ("alice/b", restricted)],
            None,
            &["alice/a:1 the same key", "alice/b:1 the same key"],
        );
        check_list(
            &[("alice/a", key.clone()), ("alice/b", key.clone())],
            None,
            &["note alice/b:1 the same key as in line 1 of `list/alice/a`"],
        );
        check_list(
            &[
                ("alice/a", key.clone()),
                ("alice/b", gone.clone()),
                ("bob", gone),
            ],
            None,
            &[
                "note alice/b:0 holds only comments: says nothing beside the other values of `alice`",
                "note bob:0 holds only comments: leaves `bob` without keys",
            ],
        );
        check_list(&[], None, &["list:0 no list: it names no account"]);
    }

    #[test]
    fn names_that_no_parameter_can_have_and_left_overs_are_told() {
        let names = |names: &[&str], below: Option<&str>, expected: &[&str]| {
            let values: Vec<_> = names.iter().map(|name| (*name, A.to_owned())).collect();
            check_list(&values, below, expected);
        };
        names(
            &["alice/my laptop", "bob@corp/a"],
            None,
            &[
                "alice/my laptop:0 no parameter name has ` `",
                "bob@corp/a:0 no parameter name has `@`",
            ],
        );
        let deep = "/x".repeat(14);
        names(
            &["alice/a"],
            Some(&deep),
            &["alice/a:0 no parameter name has more than 15"],
        );
        names(&["alice"], Some(&deep), &[]);
        for left_over in [
            "bob.bak",
            "README",
            "README.md",
            "bob.pub",
            "bob/laptop.orig",
            "bob.old/a",
        ] {
            let told = format!("note {left_over}:0 counts as keys of `");
            names(&[left_over], None, &[&told]);
        }
        for fine in ["bob/laptop.pub", "bob/readme", "j.doe/work.txt"] {
            names(&[fine], None, &[]);
        }
    }

    #[test]
    fn braces_that_parameter_store_refuses_are_told() {
        let refused = "a:2 `{{` and `}}`, which Parameter Store refuses";
        for (line, is_refused) in [
            (format!("{A} {{{{me}}}}"), true),
            (format!("command=\"echo {{{{}}}}\" {A}"), true),
            (format!("{A} me}}}} {{{{"), false),
            (format!("{A} {{me}}"), false),
        ] {
            let problems: &[&str] = if is_refused { &[refused] } else { &[] };
            check(&[("a", format!("# ours\n{line}"))], 1, problems, &[]);
        }
    }

    #[test]
    fn utf_16_is_told_once() {
        let bytes: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain(A.bytes().flat_map(|b| [b, 0]))
            .collect();
        let draft = Draft {
            parameter: None,
            name: "a".to_owned(),
            bytes,
        };
        let rules = Rules {
            policy: &Policy::default(),
            zone: &TimeZone::UTC,
            openssh: None,
        };
        let lint = lint(&[draft], rules, Timestamp::UNIX_EPOCH);
        assert_eq!((lint.problems.len(), lint.notes.len()), (1, 0), "{lint:?}");
        assert!(lint.problems[0].reason.starts_with("UTF-16"), "{lint:?}");
    }

    #[test]
    fn a_key_counts_once() {
        check(
            &[("a", format!("{A} x\n{A} y"))],
            1,
            &[],
            &["a:2 the same key as in line 1 of `a`"],
        );
        check(
            &[("b", A.to_owned()), ("a", A.to_owned())],
            1,
            &[],
            &["b:1 the same key as in line 1 of `a`"],
        );
        let options = format!("restrict {A}");
        check(
            &[("a", A.to_owned()), ("b", options)],
            0,
            &["a:1 the same key (SHA256:", "b:1 the same key"],
            &[],
        );
        check(
            &[("a", format!("expiry-time=\"19690101Z\" {A}"))],
            0,
            &["a:1 the value of `expiry-time`"],
            &[],
        );
    }

    #[test]
    fn names_are_escaped_and_keep_their_order() {
        let bad = "nonsense".to_owned();
        check(
            &[("z", bad.clone()), ("a\u{1b}[2J", bad)],
            0,
            &["z:1 not an", "a\\u{1b}[2J:1 not an"],
            &[],
        );
        check(
            &[("a", String::new()), ("b", "# gone".to_owned())],
            0,
            &["a:0 the value is empty"],
            &["b:0 holds only comments"],
        );
    }
}
