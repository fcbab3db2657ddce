//! Problems as a person is told of them: the same cause once, with the accounts that it concerns, the worst first.

use std::collections::BTreeMap;

use crate::model::account::AccountName;
use crate::model::status::problem::{Cause, Problem, Severity};
use crate::model::words::several;

/// Problems with the same cause. Where they differ in no more than a key or a path, they are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The first of them.
    pub cause: Cause,
    /// Those that differ from it.
    pub others: Vec<Cause>,
    pub accounts: Vec<AccountName>,
}

/// Puts problems with the same cause together, the worst first.
pub fn told(problems: impl IntoIterator<Item = Problem>) -> Vec<Told> {
    let mut all: BTreeMap<(Severity, usize, String), Told> = BTreeMap::new();
    for Problem { cause, account } in problems {
        let kind = kind(&cause, account.as_ref());
        let told = all
            .entry((cause.severity(), cause.rank(), kind))
            .or_insert_with(|| Told {
                cause: cause.clone(),
                others: Vec::new(),
                accounts: Vec::new(),
            });
        if told.cause != cause {
            told.others.push(cause);
        }
        // Those of one account come together.
        if told.accounts.last() != account.as_ref() {
            told.accounts.extend(account);
        }
    }
    all.into_values().collect()
}

/// What problems of one cause have in common.
fn kind(cause: &Cause, account: Option<&AccountName>) -> String {
    match cause {
        Cause::FileDrifted { in_short, .. } => in_short.clone(),
        Cause::FileRefused { reason, .. }
        | Cause::SshdRefuses { reason, .. }
        | Cause::KeysRefused { reason } => generally(reason, account),
        Cause::OtherFile(other) => generally(&other.file, account),
        Cause::Session(_) => String::new(),
        cause => cause.text("", false),
    }
}

/// `text` for any account: `/home/alice/.ssh` becomes `/home/*/.ssh`, and the keys in parentheses are left out.
fn generally(text: &str, account: Option<&AccountName>) -> String {
    let mut text = without_keys(text);
    if let Some(account) = account {
        let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || "_.-@+$".contains(c);
        let own = format!("/{account}");
        let mut out = String::new();
        while let Some(at) = text.find(&own) {
            let rest = text.split_off(at + own.len());
            if rest.starts_with(is_of_a_name) {
                out += &text;
            } else {
                out += &text[..=at];
                out.push('*');
            }
            text = rest;
        }
        text = out + &text;
    }
    text
}

fn without_keys(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (") {
        let (inside, after) = after.split_at(end_of_parenthesis(after));
        out += before;
        if !inside.contains("SHA256:") {
            out += " (";
            out += inside;
        }
        rest = after;
    }
    out + rest
}

fn end_of_parenthesis(text: &str) -> usize {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

impl Told {
    /// One sentence.
    pub fn text(&self) -> String {
        let names: Vec<&str> = self.accounts.iter().map(AccountName::as_str).collect();
        let whom = several(&names);
        if self.others.is_empty() {
            return self.cause.text(&whom, names.len() > 1);
        }
        let in_general = || kind(&self.cause, self.accounts.first());
        match &self.cause {
            Cause::FileDrifted { in_short, .. } => {
                format!("{whom} have drifted, each: {in_short}")
            }
            Cause::FileRefused { .. } => format!("{whom} are refused: {}", in_general()),
            Cause::SshdRefuses { .. } => format!("{whom} are refused by sshd: {}", in_general()),
            Cause::OtherFile(_) => {
                format!("{whom}: sshd also reads `{}`, which has keys", in_general())
            }
            Cause::Session(_) => {
                let many = self.others.len() + 1;
                format!(
                    "{many} sessions of {whom} were opened with keys that are not approved: {}",
                    self.sessions().join(", ")
                )
            }
            _ => format!("{whom}: {}", in_general()),
        }
    }

    /// What a person can type or change about it.
    pub fn hint(&self) -> Option<String> {
        let first = self.cause.hint();
        if let Cause::Session(_) = self.cause
            && !self.others.is_empty()
        {
            return Some(format!(
                "loginctl kill-session --signal=SIGKILL {}; or `end-sessions = true` in `[accounts]`",
                self.sessions().join(" ")
            ));
        }
        match (first, self.accounts.first()) {
            (Some(hint), Some(account))
                if self
                    .others
                    .iter()
                    .any(|other| other.hint().as_ref() != Some(&hint)) =>
            {
                Some(format!(
                    "for {account}: {hint}; `agent status NAME` tells it for each"
                ))
            }
            (first, _) => first,
        }
    }

    fn sessions(&self) -> Vec<&str> {
        let all = [&self.cause].into_iter().chain(&self.others);
        let ids = all.filter_map(|cause| match cause {
            Cause::Session(session) => Some(session.id.as_str()),
            _ => None,
        });
        ids.collect()
    }

    /// The sentence and what a person can do, in one line.
    pub fn line(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{}; hint: {hint}", self.text()),
            None => self.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_a_name_or_a_key_is_the_same() {
        let check = |text: &str, expected: &str| {
            let account = AccountName::try_from("bob").unwrap();
            assert_eq!(generally(text, Some(&account)), expected);
        };
        check(
            "`/home/bob/.ssh` is a directory of uid 0, /home/bobby/x /bob",
            "`/home/*/.ssh` is a directory of uid 0, /home/bobby/x /*",
        );
        check(
            "not taken: no ((no name) SHA256:x, b SHA256:y); not (why)",
            "not taken: no; not (why)",
        );
    }
}
