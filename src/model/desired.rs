//! The desired state: which keys each account has, by the list and the policy, and what was rejected and why.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::line::{KeyLine, Line};
use crate::model::list::{ApprovedList, Entry};
use crate::model::policy::Policy;

/// One key granted to one account, with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The canonical line, without `\n`.
    pub line: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Key type.
    #[serde(rename = "type")]
    pub algorithm: String,
    /// Printable ASCII.
    pub comment: String,
    /// The parameter or file it stands in.
    pub parameter: String,
    /// The parameter's version.
    pub parameter_version: Option<u64>,
    /// Line in the value, from 1.
    pub parameter_line: usize,
    /// When the key leaves the file.
    pub expires_at: Option<Timestamp>,
}

/// The keys of each account that the list speaks of.
pub type Grants = BTreeMap<AccountName, Vec<Grant>>;

/// What was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The parameter or file.
    pub parameter: String,
    /// The parameter's version.
    pub parameter_version: Option<u64>,
    /// Line in the value, from 1; 0 for the value as a whole.
    pub line: usize,
    /// What is wrong, for a person.
    pub reason: String,
}

/// What the list says, judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Keys of each account, sorted by line; no key for an account the list leaves empty.
    pub grants: Grants,
    /// Accounts that a comment-only value leaves without keys, on purpose.
    pub tombstones: Vec<AccountName>,
    /// What was not taken.
    pub rejected: Vec<Rejected>,
}

/// A key that was read, before the lines of one account are compared.
struct Candidate {
    /// The line without its comment: what sshd acts on.
    authorises: String,
    grant: Grant,
}

/// Judges a list. `previous` are the keys in force: a value of which no line can be read says nothing, so
/// the keys that it gave before stay.
pub fn judge(list: &ApprovedList, policy: &Policy, zone: &TimeZone, previous: &Grants) -> Desired {
    let mut desired = Desired::default();
    let mut candidates: BTreeMap<&AccountName, Vec<Candidate>> = BTreeMap::new();
    let mut tombstones = Vec::new();
    for entry in &list.entries {
        let of_account = candidates.entry(&entry.account).or_default();
        let value = read_value(entry, policy, zone);
        desired.rejected.extend(value.rejected);
        match value.says {
            Says::Keys(keys) => of_account.extend(keys),
            Says::NoKeys => tombstones.push(&entry.account),
            Says::Nothing => of_account.extend(
                previous
                    .get(&entry.account)
                    .into_iter()
                    .flatten()
                    .filter(|grant| grant.parameter == entry.parameter)
                    .map(kept),
            ),
        }
    }
    for (account, candidates) in candidates {
        if candidates.is_empty() && tombstones.contains(&account) {
            desired.tombstones.push(account.clone());
        }
        desired.grants.insert(account.clone(), settle(candidates, &mut desired.rejected));
    }
    desired.rejected.sort_by(|a, b| (&a.parameter, a.line).cmp(&(&b.parameter, b.line)));
    desired
}

/// Judges the break-glass file, whose lines every managed account keeps.
pub fn judge_break_glass(
    path: &str,
    text: &str,
    policy: &Policy,
    zone: &TimeZone,
) -> (Vec<Grant>, Vec<Rejected>) {
    let source = Source { parameter: path, version: None };
    let value = read_lines(source, text, policy, zone);
    let Says::Keys(candidates) = value.says else { return (Vec::new(), value.rejected) };
    let mut rejected = value.rejected;
    (settle(candidates, &mut rejected), rejected)
}

/// The lines of one account: its grants that are good at `now`, and the break-glass keys, which win over a
/// line with the same key.
pub fn with_break_glass<'a>(grants: &'a [Grant], break_glass: &'a [Grant], now: Timestamp) -> Vec<&'a Grant> {
    let same = |grant: &&Grant| break_glass.iter().any(|kept| kept.fingerprint == grant.fingerprint);
    let mut all: Vec<&Grant> = break_glass.iter().chain(grants.iter().filter(|g| !same(g))).collect();
    all.retain(|grant| grant.is_good_at(now));
    all.sort_by(|a, b| a.line.cmp(&b.line));
    all
}

/// The bytes of a managed file.
pub fn content(grants: &[&Grant]) -> Vec<u8> {
    let mut bytes = HEADER.as_bytes().to_vec();
    for grant in grants {
        bytes.extend_from_slice(grant.line.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// First lines of a managed file. No time and no version: the same list always gives the same bytes.
pub const HEADER: &str = "\
# Managed by authorized-keys-agent. Any other change to this file is undone at once.
# Change the approved list instead; `agent status` says where each key comes from.
";

impl Grant {
    /// False from the second of its expiry-time on.
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

/// What a value says.
enum Says {
    /// These keys (none, if the policy refused them all).
    Keys(Vec<Candidate>),
    /// Only comments: a tombstone.
    NoKeys,
    /// Empty, or nothing in it can be read.
    Nothing,
}

struct Value {
    says: Says,
    rejected: Vec<Rejected>,
}

#[derive(Clone, Copy)]
struct Source<'a> {
    parameter: &'a str,
    version: Option<u64>,
}

fn read_value(entry: &Entry, policy: &Policy, zone: &TimeZone) -> Value {
    let source = Source { parameter: &entry.parameter, version: entry.version };
    read_lines(source, &entry.value, policy, zone)
}

fn read_lines(source: Source<'_>, text: &str, policy: &Policy, zone: &TimeZone) -> Value {
    let reject = |line: usize, reason: String| Rejected {
        parameter: source.parameter.to_owned(),
        parameter_version: source.version,
        line,
        reason: escaped(&reason),
    };
    if let Some(line) = text.lines().position(is_private_key) {
        let reason = "a PRIVATE key: nothing of this value is used; delete it and replace that key \
            everywhere, it is known to all who can read the list";
        return Value { says: Says::Nothing, rejected: vec![reject(line + 1, reason.to_owned())] };
    }
    let (mut keys, mut rejected, mut comments, mut readable) = (Vec::new(), Vec::new(), 0, 0);
    for (index, bytes) in text.as_bytes().split(|b| *b == b'\n').enumerate() {
        match Line::read(bytes) {
            Ok(Line::Blank) => {}
            Ok(Line::Comment) => comments += 1,
            Ok(Line::Key(line)) => {
                readable += 1;
                match policy.judge(&line) {
                    Ok(()) => keys.push(candidate(source, index + 1, &line, zone)),
                    Err(error) => rejected.push(reject(index + 1, error.to_string())),
                }
            }
            Err(error) => rejected.push(reject(index + 1, error.to_string())),
        }
    }
    let says = match (readable, rejected.is_empty(), comments) {
        (0, true, 1..) => Says::NoKeys,
        (0, true, 0) => {
            let reason = "the value is empty and says nothing; to leave the account without keys, \
                write a `#` comment";
            rejected.push(reject(0, reason.to_owned()));
            Says::Nothing
        }
        (0, false, _) => Says::Nothing,
        _ => Says::Keys(keys),
    };
    Value { says, rejected }
}

/// `-----BEGIN … PRIVATE KEY-----`, and PuTTY's own form.
fn is_private_key(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY")
        || line.starts_with("PuTTY-User-Key-File-")
}

fn candidate(source: Source<'_>, line_number: usize, line: &KeyLine, zone: &TimeZone) -> Candidate {
    Candidate {
        authorises: format!("{} {}", line.options, line.key.base64()),
        grant: Grant {
            line: line.to_string(),
            fingerprint: line.key.fingerprint().to_owned(),
            algorithm: line.key.algorithm().to_owned(),
            comment: line.comment.clone(),
            parameter: source.parameter.to_owned(),
            parameter_version: source.version,
            parameter_line: line_number,
            expires_at: line.options.expires_at(zone),
        },
    }
}

/// A key in force whose value can no longer be read.
fn kept(grant: &Grant) -> Candidate {
    let comment = grant.line.len() - grant.comment.len();
    Candidate { authorises: grant.line[..comment].trim_end().to_owned(), grant: grant.clone() }
}

/// One line a key: the first line that authorises wins in sshd, and a refused one does not stop a later
/// duplicate, so the same key with other options is dangerous and both lines are refused.
fn settle(candidates: Vec<Candidate>, rejected: &mut Vec<Rejected>) -> Vec<Grant> {
    let mut by_key: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_key.entry(candidate.grant.fingerprint.clone()).or_default().push(candidate);
    }
    let mut grants = Vec::new();
    for mut same_key in by_key.into_values() {
        same_key.sort_by(|a, b| a.grant.place().cmp(&b.grant.place()));
        let agreed = same_key.windows(2).all(|pair| pair[0].authorises == pair[1].authorises);
        if agreed {
            grants.extend(same_key.into_iter().next().map(|candidate| candidate.grant));
            continue;
        }
        for (index, candidate) in same_key.iter().enumerate() {
            let other = &same_key[usize::from(index == 0)].grant;
            rejected.push(Rejected {
                parameter: candidate.grant.parameter.clone(),
                parameter_version: candidate.grant.parameter_version,
                line: candidate.grant.parameter_line,
                reason: format!(
                    "the same key ({}) has other options in line {} of `{}`; sshd would use either, so neither is taken",
                    candidate.grant.fingerprint,
                    other.parameter_line,
                    escaped(&other.parameter),
                ),
            });
        }
    }
    grants.sort_by(|a, b| a.line.cmp(&b.line));
    grants
}

impl Grant {
    fn place(&self) -> (&str, usize) {
        (&self.parameter, self.parameter_line)
    }
}
