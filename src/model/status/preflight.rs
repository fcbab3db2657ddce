//! What a preflight check found, and the decisions behind it.

use std::collections::BTreeSet;
use std::fmt;

use jiff::SignedDuration;
use serde::Serialize;

use crate::model::account::AccountName;
use crate::model::desired::decide::{Decision, Terms};
use crate::model::desired::judge::{self, Desired};
use crate::model::escape::escaped;
use crate::model::key::grant::GrantsOf;
use crate::model::key::secret;
use crate::model::list::approved::ApprovedList;
use crate::model::list::rejected::Rejected;
use crate::model::sorting::Gather;
use crate::model::words::count;
use crate::model::words::several;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A person should look; the agent does its job.
    Warn,
    /// The agent cannot do its job, or not for this account.
    Fail,
}

/// One thing that was looked at. All text is escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing, in one word.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What a person can do about it; only `Ok` has none.
    pub hint: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: &'static str, message: impl AsRef<str>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            message: escaped(message.as_ref()),
            hint: None,
        }
    }

    /// A person should look.
    pub fn warn(check: &'static str, message: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        let hint = Some(escaped(hint.as_ref()));
        Self {
            verdict: Verdict::Warn,
            hint,
            ..Self::ok(check, message)
        }
    }

    /// The agent cannot do its job.
    pub fn fail(check: &'static str, message: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(check, message, hint)
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

impl fmt::Display for Finding {
    /// One line, and one more for the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            check,
            verdict,
            message,
            hint,
        } = self;
        write!(f, "{verdict:4}  {check:11}  {message}")?;
        hint.as_ref()
            .map_or(Ok(()), |hint| write!(f, "\n      hint: {hint}"))
    }
}

/// How far the service's clock is ahead of the host's.
pub fn clock(skew: SignedDuration) -> Finding {
    /// More than rounding and a slow network.
    const NOTABLE: i64 = 60;
    /// "Within 5 minutes of the timestamp in the request" (IAM guide, `SigV4`); beyond it AWS refuses.
    const REFUSED: i64 = 5 * 60;
    let seconds = skew.as_secs().saturating_abs();
    let message = format!(
        "the clock of this host is {seconds} s {} that of AWS",
        if skew.is_negative() {
            "ahead of"
        } else {
            "behind"
        }
    );
    let hint = "let chrony or systemd-timesyncd set the clock (on EC2 from 169.254.169.123); AWS refuses \
        requests that are 5 minutes off";
    match seconds {
        0..=1 => Finding::ok("clock", "agrees with that of AWS"),
        2..=NOTABLE => Finding::ok("clock", message),
        ..=REFUSED => Finding::warn("clock", message, hint),
        _ => Finding::fail("clock", message, hint),
    }
}

/// What an account of the list is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// It exists and `manage` names it.
    Managed,
    /// It exists and `manage` does not name it.
    Unmanaged,
    /// No such account.
    Unknown,
}

/// How many keys the list has for whom, and every line that the `decision` on it did not take. `here` tells the accounts
/// apart; only a `whole` list can be silent about one.
pub fn keys(
    list: &ApprovedList,
    whole: bool,
    decision: &Decision,
    terms: Terms<'_>,
    here: impl Fn(&AccountName) -> Here,
) -> Vec<Finding> {
    let config = terms.config;
    // Not what is in force already: how many keys this list gives by itself.
    let desired = judge::judge(list, decision.rules(terms), &GrantsOf::new(), |_| true);
    // A parameter that serves two accounts is judged for each.
    let mut rejected: Vec<&Rejected> = Vec::new();
    for one in &decision.rejected {
        if !rejected.contains(&one) {
            rejected.push(one);
        }
    }
    let mut findings = Vec::new();
    for account in desired.grants.keys() {
        findings.push(of_account(
            account,
            list,
            &desired,
            &rejected,
            here(account),
        ));
    }
    if whole {
        findings.extend(nobody(&desired, &here));
    }
    let silent = config
        .accounts
        .named()
        .filter(|name| whole && !desired.grants.contains_key(*name));
    findings.extend(silent.filter(|name| here(name) == Here::Managed).map(|name| {
        Finding::warn(
            "keys",
            format!("{name}: managed, and the list says nothing about it"),
            "its file stays as it is; publish keys for it, or a comment-only value to leave it without",
        )
    }));
    findings.extend(rejected.into_iter().map(|rejected| reject(rejected, list)));
    findings
}

/// The list gives no account of this host a key, nor leaves one without on purpose: nothing would be managed.
fn nobody(desired: &Desired, here: &impl Fn(&AccountName) -> Here) -> Option<Finding> {
    let names: Vec<&AccountName> = desired.grants.keys().collect();
    let is_served = |name: &&AccountName| {
        let has_keys = !desired.keys_of(name).is_empty() || desired.tombstones.contains(name);
        here(name) == Here::Managed && has_keys
    };
    if names.iter().any(is_served) {
        return None;
    }
    let (why, hint) = if names.is_empty() {
        let hint =
            "publish keys for an account of this host; below a path the first name is the account";
        ("the list names no account".to_owned(), hint)
    } else if names.iter().any(|name| here(name) == Here::Managed) {
        let why = "the list has no usable key for any account of this host".to_owned();
        (why, "correct what is rejected below")
    } else if names.iter().any(|name| here(name) == Here::Unmanaged) {
        let why =
            "`manage` does not name the accounts of the list that are on this host".to_owned();
        (
            why,
            "name them in full in `[accounts] manage`; is one misspelt there?",
        )
    } else {
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        let why = format!(
            "the list names {}, and no such account is on this host",
            several(&names)
        );
        let hint = "below a path the first name is the account: is the path a level too high or too low, or a name misspelt?";
        (why, hint)
    };
    Some(Finding::fail(
        "keys",
        format!("no account would be managed: {why}"),
        hint,
    ))
}

fn of_account(
    account: &AccountName,
    list: &ApprovedList,
    desired: &Desired,
    rejected: &[&Rejected],
    here: Here,
) -> Finding {
    let entries = list
        .entries
        .iter()
        .filter(|entry| entry.account == *account);
    let parameters: BTreeSet<&str> = entries.map(|entry| entry.parameter.as_str()).gather();
    let accepted = desired.grants.get(account).map_or(0, Vec::len);
    let refused = rejected
        .iter()
        .filter(|one| parameters.contains(one.parameter.as_str()))
        .count();
    let mut message = format!(
        "{account}: {} accepted, {refused} rejected",
        count(accepted, "key")
    );
    message.push_str(match here {
        Here::Managed => "",
        Here::Unmanaged => " (not managed on this host)",
        Here::Unknown => " (no such account on this host)",
    });
    if desired.tombstones.contains(account) {
        return Finding::ok(
            "keys",
            format!("{account}: no keys, as its comment-only value says"),
        );
    }
    if accepted == 0 && here == Here::Managed {
        return Finding::warn(
            "keys",
            message,
            "its file stays as it is; correct what is rejected below, or publish a comment-only value to leave it without keys",
        );
    }
    Finding::ok("keys", message)
}

fn reject(rejected: &Rejected, list: &ApprovedList) -> Finding {
    let version = rejected
        .parameter_version
        .map(|version| format!(" version {version}"))
        .unwrap_or_default();
    let line = if rejected.line > 0 {
        format!(" line {}", rejected.line)
    } else {
        String::new()
    };
    let message = format!(
        "`{}`{version}{line}: {}",
        rejected.parameter, rejected.reason
    );
    let mut entries = list
        .entries
        .iter()
        .filter(|entry| entry.parameter == rejected.parameter);
    if entries.any(|entry| secret::private_key(&entry.value).is_some()) {
        let hint = "delete the parameter, its history too, and make a new key pair";
        return Finding::fail("rejected", message, hint);
    }
    let hint = "correct it and publish it again; `agent lint` judges it before that";
    Finding::warn("rejected", message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_aws_takes() {
        let check = |seconds, expected: &str| {
            let shown = clock(SignedDuration::from_secs(seconds)).to_string();
            assert!(shown.starts_with(expected), "{shown}");
        };
        check(-1, "ok    clock        agrees");
        check(
            60,
            "ok    clock        the clock of this host is 60 s behind that of AWS",
        );
        check(
            -61,
            "warn  clock        the clock of this host is 61 s ahead of that of AWS\n      hint: ",
        );
        check(300, "warn");
        check(301, "FAIL");
        check(-301, "FAIL");
        check(i64::MIN, "FAIL");
    }
}
