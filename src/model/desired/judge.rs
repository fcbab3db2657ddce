//! The desired state: which keys each account has, by the list and the policy, and what was rejected and why.

use crate::model::key::grant;
use crate::model::key::grant::{Grant, Grants, GrantsOf};
use crate::model::list::rejected::{PRIVATE_KEY, Rejected};
use crate::model::sorting;
use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::key::inside::{bodies, squeezed};
use crate::model::key::lenient::FoundLine;
use crate::model::key::line::{KeyLine, Line};
use crate::model::key::mistake;
use crate::model::key::policy::Policy;
use crate::model::key::release::Version;
use crate::model::key::secret;
use crate::model::list::approved::{ApprovedList, Entry};

/// What the list says, judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Keys of each account, sorted by line; no key for an account the list leaves empty.
    pub grants: Grants,
    /// Accounts of which every value is only comments: left without keys, on purpose.
    pub tombstones: Vec<AccountName>,
    /// The comment-only values of each account, by parameter.
    pub comment_only: BTreeMap<AccountName, Vec<String>>,
    /// What was not taken.
    pub rejected: Vec<Rejected>,
    /// Keys that stand in lines which were not taken, `None` for a line that may hold any: the list may mean to approve
    /// them.
    pub meant: BTreeMap<AccountName, Vec<Option<String>>>,
}

impl Desired {
    /// The keys of an account; none for one that the list does not name.
    pub fn keys_of(&self, name: &AccountName) -> &[Grant] {
        self.grants.get(name).map_or(&[], Vec::as_slice)
    }

    /// True where the list is reason enough to manage the file of an account that never was.
    pub fn takes_on(&self, name: &AccountName, accepted: bool) -> bool {
        let is_named = self.grants.contains_key(name);
        let may_empty = accepted || self.tombstones.contains(name);
        is_named && (may_empty || !self.keys_of(name).is_empty())
    }
}

/// By what a line is judged and written.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Which lines are taken.
    pub policy: &'a Policy,
    /// The system's, in which sshd reads a time without `Z`.
    pub zone: &'a TimeZone,
    /// The sshd that is to read them; `None` for one that understands all of it.
    pub openssh: Option<Version>,
}

/// Judges a list. `previous` are the keys in force: a value of which no line can be read says nothing, so
/// the keys that it gave before stay. Of an account whose keys nobody `keeps`, because it is not this host's business,
/// one is enough to tell that the list has some: what a list takes in memory goes by what is managed here.
pub fn judge(
    list: &ApprovedList,
    rules: Rules<'_>,
    previous: &GrantsOf<'_>,
    keeps: impl Fn(&AccountName) -> bool,
) -> Desired {
    let mut desired = Desired {
        rejected: list.unusable.clone(),
        ..Desired::default()
    };
    let mut by_account: BTreeMap<&AccountName, Vec<&Entry>> = BTreeMap::new();
    for entry in &list.entries {
        by_account.entry(&entry.account).or_default().push(entry);
    }
    let mut untold = 0;
    for (account, entries) in by_account {
        let mut given: HashMap<&str, Vec<&Grant>> = HashMap::new();
        let before = previous.get(account).copied().unwrap_or_default();
        for grant in before {
            given.entry(&grant.parameter).or_default().push(grant);
        }
        let (mut candidates, mut comment_only) = (Vec::new(), Vec::new());
        let mut unread = Vec::new();
        for entry in &entries {
            let value = read_value(entry, rules);
            unread.push(value.unread);
            desired.rejected.extend(value.rejected);
            if !value.meant.is_empty() {
                let meant = desired.meant.entry(account.clone()).or_default();
                meant.extend(value.meant);
            }
            match value.says {
                Says::Keys(keys) => candidates.extend(keys),
                Says::NoKeys => comment_only.push(entry.parameter.clone()),
                Says::Nothing => {
                    let kept = given.get(entry.parameter.as_str());
                    candidates.extend(kept.into_iter().flatten().copied().cloned());
                }
            }
        }
        if comment_only.len() == entries.len() {
            desired.tombstones.push(account.clone());
        }
        let named = fingerprints(&candidates);
        let mut grants = settle(candidates, &mut desired.rejected);
        keep(&mut grants, still_there(before, &unread), &named);
        let granted: HashSet<&str> = grants.iter().map(|one| one.fingerprint.as_str()).collect();
        let is_refused = |key: &String| !granted.contains(key.as_str());
        for key in named.into_iter().filter(is_refused) {
            let meant = desired.meant.entry(account.clone()).or_default();
            meant.push(Some(key));
        }
        if !keeps(account) {
            grants = grants.into_iter().take(1).collect();
        }
        desired.grants.insert(account.clone(), grants);
        if !comment_only.is_empty() {
            sorting::sort(&mut comment_only);
            desired.comment_only.insert(account.clone(), comment_only);
        }
        untold += shorten(&mut desired.rejected);
    }
    sorting::sort_by(&mut desired.rejected, |a, b| {
        (&a.parameter, a.line).cmp(&(&b.parameter, b.line))
    });
    if untold > 0 {
        let last = desired.rejected.last().cloned();
        desired.rejected.extend(last.map(|last| Rejected {
            line: 0,
            reason: format!("and {untold} more lines or values, here and in other parameters"),
            ..last
        }));
    }
    desired
}

/// Rejects that are told one by one: more than a person reads, less than fills a journal.
const TOLD: usize = 1000;

/// Leaves the first rejects, and returns how many others there were.
fn shorten(rejected: &mut Vec<Rejected>) -> usize {
    let more = rejected.len().saturating_sub(TOLD);
    rejected.truncate(TOLD);
    more
}

/// Judges the break-glass file, whose lines every managed account keeps; `before` are those that it had. No keys for a file
/// that is empty or only comments; `None` when it has lines and not one of them can be read.
pub fn judge_break_glass(
    path: &str,
    text: &str,
    rules: Rules<'_>,
    before: &[Grant],
) -> (Option<Vec<Grant>>, Vec<Rejected>) {
    if text.trim().is_empty() {
        return (Some(Vec::new()), Vec::new());
    }
    let source = Source {
        parameter: path,
        version: None,
        modified: None,
    };
    let value = read_lines(source, text, rules);
    let mut rejected = value.rejected;
    let grants = match value.says {
        Says::Keys(candidates) => {
            let named: Vec<String> = fingerprints(&candidates);
            let mut grants = settle(candidates, &mut rejected);
            keep(&mut grants, still_there(before, &[value.unread]), &named);
            Some(grants)
        }
        Says::NoKeys => Some(Vec::new()),
        Says::Nothing => None,
    };
    (grants, rejected)
}

/// Values that are not on a list yet, judged as those of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drafts {
    /// Every line that the policy takes, in the order of the values.
    pub lines: Vec<Grant>,
    /// The keys that come of them.
    pub grants: Vec<Grant>,
    /// The values that are only comments.
    pub tombstones: Vec<String>,
    /// What is not taken.
    pub rejected: Vec<Rejected>,
}

/// Judges values by name and text, each as [`judge`] would judge a parameter.
pub fn judge_drafts<'a>(
    values: impl IntoIterator<Item = (&'a str, &'a str)>,
    rules: Rules<'_>,
) -> Drafts {
    let mut drafts = Drafts::default();
    for (name, text) in values {
        let value = read_lines(
            Source {
                parameter: name,
                version: None,
                modified: None,
            },
            text,
            rules,
        );
        drafts.rejected.extend(value.rejected);
        match value.says {
            Says::Keys(keys) => drafts.lines.extend(keys),
            Says::NoKeys => drafts.tombstones.push(name.to_owned()),
            Says::Nothing => {}
        }
    }
    drafts.grants = settle(drafts.lines.clone(), &mut drafts.rejected);
    drafts
}

/// What a value says.
enum Says {
    /// These keys (none, if the policy refused them all).
    Keys(Vec<Grant>),
    /// Only comments: a tombstone.
    NoKeys,
    /// Empty, or nothing in it can be read.
    Nothing,
}

struct Value {
    says: Says,
    rejected: Vec<Rejected>,
    /// The lines that cannot be read as keys, [`squeezed`].
    unread: String,
    /// See [`Desired::meant`].
    meant: Vec<Option<String>>,
}

#[derive(Clone, Copy)]
struct Source<'a> {
    parameter: &'a str,
    version: Option<u64>,
    modified: Option<Timestamp>,
}

/// The private keys in a list, whether or not it counts.
pub fn leaked(list: &ApprovedList) -> Vec<Rejected> {
    let mut leaked = Vec::new();
    for entry in &list.entries {
        if let Some(line) = secret::private_key(&entry.value) {
            leaked.push(Rejected {
                parameter: entry.parameter.clone(),
                parameter_version: entry.version,
                line,
                reason: PRIVATE_KEY.to_owned(),
            });
        }
    }
    leaked
}

fn read_value(entry: &Entry, rules: Rules<'_>) -> Value {
    let source = Source {
        parameter: &entry.parameter,
        version: entry.version,
        modified: entry.last_modified,
    };
    read_lines(source, &entry.value, rules)
}

fn read_lines(source: Source<'_>, text: &str, rules: Rules<'_>) -> Value {
    let reject = |line: usize, reason: String| Rejected {
        parameter: source.parameter.to_owned(),
        parameter_version: source.version,
        line,
        reason: escaped(&reason),
    };
    if let Some(line) = secret::private_key(text) {
        return Value {
            says: Says::Nothing,
            rejected: vec![reject(line, PRIVATE_KEY.to_owned())],
            unread: String::new(),
            meant: vec![None],
        };
    }
    let (mut keys, mut rejected, mut comments, mut readable) = (Vec::new(), Vec::new(), 0, 0);
    let (mut meant, mut unread) = (Vec::new(), String::new());
    let lines: Vec<&[u8]> = text.as_bytes().split(|b| *b == b'\n').collect();
    let mut next = 0;
    while let Some(bytes) = lines.get(next) {
        next += 1;
        let number = next;
        match Line::read(bytes) {
            Ok(Line::Blank) => {}
            Ok(Line::Comment) => comments += 1,
            Ok(Line::Key(line)) => {
                readable += 1;
                let taken = rules.policy.judge(&line).map_err(|error| error.to_string());
                match taken.and_then(|()| granted(source, number, &line, rules)) {
                    Ok(grant) => keys.push(grant),
                    Err(reason) => {
                        meant.push(Some(line.key.fingerprint().to_owned()));
                        rejected.push(reject(number, reason));
                    }
                }
            }
            Err(error) => {
                let (reason, more) = mistake::explain(&error, bytes, &lines[next..]);
                next += more;
                for bytes in &lines[number - 1..next] {
                    meant.push(key_in(bytes));
                    unread.push_str(&squeezed(bytes));
                }
                rejected.push(reject(number, reason));
            }
        }
    }
    if readable == 0
        && let Some(first) = rejected.first_mut()
        && let Some(reason) = mistake::of_value(text)
    {
        reason.clone_into(&mut first.reason);
        rejected.truncate(1);
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
    Value {
        says,
        rejected,
        unread,
        meant,
    }
}

/// The keys in force that stand somewhere in what cannot be read of each value: it was not meant to take them away.
fn still_there(before: &[Grant], unread: &[String]) -> Vec<Grant> {
    let mut by_body: BTreeMap<&str, &Grant> = BTreeMap::new();
    if unread.iter().any(|text| !text.is_empty()) {
        let by_own = |grant| Grant::body(grant).map(|body| (body, grant));
        by_body.extend(before.iter().filter_map(by_own));
    }
    let mut found = Vec::new();
    for text in unread {
        for rest in bodies(text).map(|at| &text[at..]) {
            // A blob says itself how long it is, so none begins another one: if one begins `rest`, it is the last up to that.
            let last = by_body.range(..=rest).next_back();
            let last = last.map(|(body, _)| *body);
            if let Some(body) = last.filter(|body| rest.starts_with(body)) {
                found.extend(by_body.remove(body).cloned());
            }
        }
    }
    found
}

/// Adds the `unread` keys that no line which was read has a say about.
fn keep(grants: &mut Vec<Grant>, unread: Vec<Grant>, named: &[String]) {
    let known = grants.iter().map(|known| &known.fingerprint).chain(named);
    let mut known: HashSet<String> = known.cloned().collect();
    for grant in unread {
        if known.insert(grant.fingerprint.clone()) {
            grants.push(grant);
        }
    }
    grant::sort_by_line(grants);
}

fn fingerprints(grants: &[Grant]) -> Vec<String> {
    grants
        .iter()
        .map(|grant| grant.fingerprint.clone())
        .collect()
}

/// The key in a line that cannot be taken, where it is clear that there is one and which.
fn key_in(line: &[u8]) -> Option<String> {
    match FoundLine::read(line) {
        // What stands behind it may be another key.
        FoundLine::Key(key) if !key.comment().contains("AAAA") => Some(key.fingerprint),
        _ => None,
    }
}

fn granted(
    source: Source<'_>,
    line_number: usize,
    line: &KeyLine,
    rules: Rules<'_>,
) -> Result<Grant, String> {
    let written = rules
        .openssh
        .map(|version| line.for_openssh(version, rules.zone));
    let written = written.transpose().map_err(|error| error.to_string())?;
    Ok(Grant {
        line: written.as_ref().unwrap_or(line).to_string(),
        fingerprint: line.key.fingerprint().to_owned(),
        algorithm: line.key.algorithm().to_owned(),
        comment: line.comment.clone(),
        parameter: source.parameter.to_owned(),
        parameter_version: source.version,
        parameter_modified_at: source.modified,
        parameter_line: line_number,
        expires_at: line.options.expires_at(rules.zone),
    })
}

/// One line a key: the first line that authorises wins in sshd, and a refused one does not stop a later
/// duplicate, so the same key with other options is dangerous and both lines are refused.
fn settle(candidates: Vec<Grant>, rejected: &mut Vec<Rejected>) -> Vec<Grant> {
    let mut by_key: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
    for candidate in candidates {
        by_key
            .entry(candidate.fingerprint.clone())
            .or_default()
            .push(candidate);
    }
    let mut grants = Vec::new();
    for mut same_key in by_key.into_values() {
        sorting::sort_by(&mut same_key, |a, b| a.place().cmp(&b.place()));
        let other = |one: &Grant| {
            same_key
                .iter()
                .find(|other| other.authorises() != one.authorises())
        };
        let conflicts = same_key
            .iter()
            .filter_map(|one| other(one).map(|other| conflict(one, other)));
        let before = rejected.len();
        rejected.extend(conflicts);
        if rejected.len() == before {
            grants.extend(same_key.into_iter().next());
        }
    }
    grant::sort_by_line(&mut grants);
    grants
}

fn conflict(one: &Grant, other: &Grant) -> Rejected {
    Rejected {
        parameter: one.parameter.clone(),
        parameter_version: one.parameter_version,
        line: one.parameter_line,
        reason: format!(
            "the same key ({}) has other options in line {} of `{}`; sshd would use either, so neither is taken",
            one.fingerprint,
            other.parameter_line,
            escaped(&other.parameter),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::file::wanted::{HEADER, content};
    use crate::model::key::grant::with_break_glass;

    fn rules(policy: &Policy) -> Rules<'_> {
        static ZONE: std::sync::LazyLock<TimeZone> = std::sync::LazyLock::new(|| TimeZone::UTC);
        Rules {
            policy,
            zone: &ZONE,
            openssh: None,
        }
    }

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const B: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    const C: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIaDx5TTkaWJ8Qra3i8J59dHlibub2Qiv69l7JVqY6ql";
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// Judges `values`, each of a parameter of its own for the account `alice`; `previous` is what such a
    /// list of values left in force.
    fn judged(values: &[&str], previous: &[&str]) -> Desired {
        let parameters = ["/1", "/2", "/3"];
        let entries = parameters
            .into_iter()
            .zip(values)
            .map(|(parameter, value)| Entry {
                account: alice(),
                parameter: parameter.to_owned(),
                version: Some(1),
                last_modified: None,
                value: (*value).to_owned(),
            });
        let list = ApprovedList::new("test".to_owned(), NOW, entries.collect(), Vec::new());
        let previous = if previous.is_empty() {
            Grants::new()
        } else {
            judged(previous, &[]).grants
        };
        let previous = previous
            .iter()
            .map(|(name, grants)| (name, grants.as_slice()))
            .collect();
        judge(&list, rules(&Policy::default()), &previous, |_| true)
    }

    #[test]
    fn rejects_are_told_up_to_a_number_that_a_person_reads() {
        let desired = judged(&[&"no key\n".repeat(100_000), A], &[]);
        assert_eq!(desired.grants[&alice()].len(), 1);
        assert_eq!(desired.rejected.len(), TOLD + 1);
        let last = desired.rejected.last().unwrap();
        assert_eq!((last.parameter.as_str(), last.line), ("/1", 0));
        assert!(last.reason.starts_with("and 99000 more"), "{}", last.reason);
    }

    fn alice() -> AccountName {
        "alice".try_into().unwrap()
    }

    /// `keys` are the lines that `values` give; each of `rejected` is `parameter:line` and part of the reason.
    fn check(
        values: &[&str],
        previous: &[&str],
        keys: &[&str],
        rejected: &[(&str, &str)],
    ) -> Desired {
        let desired = judged(values, previous);
        let lines: Vec<_> = desired.grants[&alice()]
            .iter()
            .map(|grant| grant.line.as_str())
            .collect();
        assert_eq!(lines, keys, "{values:?}");
        assert_eq!(
            desired.rejected.len(),
            rejected.len(),
            "{:?}",
            desired.rejected
        );
        for (found, (place, reason)) in desired.rejected.iter().zip(rejected) {
            assert_eq!(&format!("{}:{}", found.parameter, found.line), place);
            assert!(found.reason.contains(reason), "{}", found.reason);
        }
        desired
    }

    #[test]
    fn only_a_comment_takes_all_keys_away() {
        assert_eq!(
            check(&["# left the company"], &[A], &[], &[]).tombstones,
            [alice()]
        );
        for (value, why) in [
            ("", "the value is empty"),
            (" \n\t\n", "the value is empty"),
        ] {
            assert!(
                check(&[value], &[A], &[A], &[("/1:0", why)])
                    .tombstones
                    .is_empty()
            );
        }
        assert!(
            check(&["# a tombstone", A], &[], &[A], &[])
                .tombstones
                .is_empty()
        );
        assert!(
            check(&["# a tombstone", ""], &["", A], &[A], &[("/2:0", "empty")])
                .tombstones
                .is_empty()
        );
    }

    #[test]
    fn a_value_that_cannot_be_read_keeps_its_keys() {
        let html = "# comment\n<html>503</html>";
        check(&[html], &[A], &[A], &[("/1:2", "HTML")]);
        check(&[html], &[], &[], &[("/1:2", "HTML")]);
        check(&[html, B], &[A, ""], &[B, A], &[("/1:2", "HTML")]);
        check(
            &["garbage\nssh-rsa AAAA", A],
            &["", B],
            &[A],
            &[("/1:1", ""), ("/1:2", "")],
        );
        // What the policy refuses was read all the same: its keys go.
        let tunnel = format!("tunnel=\"0\" {A}");
        check(
            &[&tunnel],
            &[A],
            &[],
            &[("/1:1", "`tunnel` is not in `[policy] options`")],
        );
        check(
            &[&format!("nonsense\n{B}")],
            &[A],
            &[B],
            &[("/1:1", "not an authorized_keys line")],
        );
    }

    #[test]
    fn a_key_in_force_stays_while_it_stands_in_a_line_that_cannot_be_read() {
        const JOINED: &str = "more than one key";
        let good = format!("{C} c");
        let ab = format!("{A} a\n{B} b");
        for between in [",", " ", ";", "\r", "\\n", "\\r\\n", "", "\",\"", " b,"] {
            let joined = format!("{A}{between}{B} b");
            let (a, b) = (format!("{A} a"), format!("{B} b"));
            // With another value's good line, and with one of its own.
            check(
                &[&joined, &good],
                &[&ab],
                &[&b, &good, &a],
                &[("/1:1", JOINED)],
            );
            let own = format!("{joined}\n{good}");
            check(&[&own], &[&ab], &[&b, &good, &a], &[("/1:1", JOINED)]);
            // What was not in force is not let in.
            check(&[&own], &[&good], &[&good], &[("/1:1", JOINED)]);
            check(&[&own], &[&a], &[&good, &a], &[("/1:1", JOINED)]);
        }
        // As it was in force, though the line would have it otherwise.
        let restricted = format!("no-restrict {A}\n{good}");
        check(
            &[&restricted],
            &[A],
            &[&good, A],
            &[("/1:1", "unknown option")],
        );
        // Cut over two lines.
        let wrapped = format!("{}\n{}\n{good}", &A[..40], &A[40..]);
        check(&[&wrapped], &[A], &[&good, A], &[("/1:1", "wrapped")]);
        // A line that was read says more than one that was not.
        let both = format!("restrict {A}\n{A},{B}");
        check(
            &[&both],
            &[A],
            &[&format!("restrict {A}")],
            &[("/1:2", JOINED)],
        );
        // A remark that keys were joined to is no tombstone, a key that is commented out is one.
        let remark = format!("# team\r{A}\r{B}\r");
        let kept = check(
            &[&remark],
            &[&ab],
            &[&format!("{B} b"), &format!("{A} a")],
            &[("/1:1", "a comment that a key follows")],
        );
        assert!(kept.tombstones.is_empty());
        let gone = check(&[&format!("# {A}")], &[&ab], &[], &[]);
        assert_eq!(gone.tombstones, [alice()]);
        // The same for the break-glass file.
        let text = format!("{A},{B}\n{good}");
        let policy = Policy::default();
        let (before, _) = judge_break_glass("/etc/glass", &ab, rules(&policy), &[]);
        let (grants, rejected) =
            judge_break_glass("/etc/glass", &text, rules(&policy), &before.unwrap());
        assert_eq!((grants.unwrap().len(), rejected.len()), (3, 1));
    }

    #[test]
    fn a_private_key_spoils_its_value() {
        let pem = format!("{A}\n  -----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n{B}");
        check(&[&pem], &[], &[], &[("/1:2", "a PRIVATE key")]);
        check(&[&pem], &[B], &[B], &[("/1:2", "a PRIVATE key")]);
        check(
            &["PuTTY-User-Key-File-3: ssh-ed25519"],
            &[],
            &[],
            &[("/1:1", "a PRIVATE key")],
        );
    }

    #[test]
    fn lines_that_differ_in_the_comment_alone_are_one() {
        let desired = check(
            &[&format!("{A} second"), &format!("{A} first")],
            &[],
            &[&format!("{A} second")],
            &[],
        );
        assert_eq!(desired.grants[&alice()][0].parameter, "/1");
        let restricted = format!("restrict,command=\"a b\" {A}");
        check(
            &[&format!("{restricted} x\n{restricted}")],
            &[],
            &[&format!("{restricted} x")],
            &[],
        );
    }

    #[test]
    fn a_kept_key_agrees_with_itself() {
        for line in [
            A,
            &format!("{A} me@host"),
            &format!("no-pty,command=\"a b\" {A} me@host"),
        ] {
            check(
                &["", line],
                &[line],
                &[line],
                &[("/1:0", "the value is empty")],
            );
        }
        let restricted = format!("restrict {A}");
        check(
            &["", &restricted],
            &[A],
            &[],
            &[
                ("/1:0", ""),
                ("/1:1", "other options"),
                ("/2:1", "other options"),
            ],
        );
    }

    #[test]
    fn one_key_with_different_options_is_refused_everywhere() {
        let restricted = format!("restrict {A}");
        let twice = format!("{A} x\n{A} y\n{restricted}\n{B}");
        let rejected = [
            ("/1:1", "line 3 of `/1`"),
            ("/1:2", "line 3 of `/1`"),
            ("/1:3", "line 1 of `/1`"),
        ];
        check(&[&twice], &[], &[B], &rejected);
        check(
            &[A, &restricted],
            &[],
            &[],
            &[("/1:1", "line 1 of `/2`"), ("/2:1", "line 1 of `/1`")],
        );
    }

    #[test]
    fn break_glass_wins_and_expired_lines_are_left_out() {
        let expiring = format!("expiry-time=\"20300101Z\" {A}");
        let list = judged(
            &[&format!("restrict {A}\nexpiry-time=\"20300101Z\" {B}")],
            &[],
        );
        let (glass, rejected) =
            judge_break_glass("/etc/glass", &expiring, rules(&Policy::default()), &[]);
        assert!(rejected.is_empty());
        let glass = glass.unwrap();
        let lines = |now: &str| {
            let all = with_break_glass(&list.grants[&alice()], &glass, now.parse().unwrap());
            String::from_utf8(content(&all))
                .unwrap()
                .replace(HEADER, "")
        };
        assert_eq!(
            lines("2029-12-31T23:59:59Z"),
            format!("expiry-time=\"20300101Z\" {B}\nexpiry-time=\"20300101Z\" {A}\n")
        );
        assert_eq!(lines("2030-01-01T00:00:00Z"), format!("restrict {A}\n"));
    }
}
