//! A status for people: health and counts, what is wrong and what to do, then a line an account. 80 columns, no word broken.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::rows;
use super::view::{View, ago, duration_since, state, verdict};
use crate::cli::print;
use crate::cli::wrap::{Colour, wrap};
use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::key::lenient::unclear;
use crate::model::list::rejected::Rejected;
use crate::model::session::Session;
use crate::model::sorting;
use crate::model::status::problem::{Severity, duration};
use crate::model::status::schema::{Health, ListStatus, Status, UnmanagedFile};
use crate::model::words::count;

pub(super) fn describe(status: &Status, view: &View<'_>, now: Timestamp) -> String {
    let mut text = String::new();
    let t = &mut text;
    head(t, status, view);
    if view.accounts.is_empty() {
        counts(t, status, now);
    }
    problems(t, status, view);
    rows::accounts(t, status, view, now);
    rejected(t, &status.rejected);
    sessions(t, status, view);
    unmanaged(t, status, view);
    not_looked_at(t, status, view, now);
    text
}

/// True when a person can ask about this account by name.
pub(super) fn speaks_of(status: &Status, name: &AccountName) -> bool {
    let mut unmanaged = status.unmanaged.iter().flatten();
    status.rows.get(name).is_some() || unmanaged.any(|file| file.name == name.as_str())
}

fn head(t: &mut String, status: &Status, view: &View<'_>) {
    let health = status.health();
    let colour = match health {
        Health::Healthy => Colour::Green,
        Health::Degraded | Health::Stopped => Colour::Red,
    };
    let instance = match &status.host.instance {
        Some(instance) => format!(", {}", escaped(instance)),
        None => String::new(),
    };
    let (mode, version) = (&status.mode, &status.version);
    let host = escaped(&status.host.name);
    let words = format!("{host}{instance}, mode {mode}, version {version}");
    wrap(t, (health.as_str(), colour.when(view.colour)), 10, &words);
}

/// How many accounts, keys and changes there are, and where the list stands.
fn counts(t: &mut String, status: &Status, now: Timestamp) {
    let mut line = |label: &str, words: String| wrap(t, (label, Colour::None), 10, &words);
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut keys = 0;
    for row in status.rows.values() {
        *states.entry(state(row)).or_default() += 1;
        if let Some(access) = &row.access {
            *verdicts.entry(verdict(access)).or_default() += 1;
        }
        keys += row.keys.as_ref().map_or(0, Vec::len);
    }
    let accounts: usize = states.values().sum();
    let words = match states.len() {
        0 => "none".to_owned(),
        1 => tally(states),
        _ => format!("{accounts}: {}", tally(states)),
    };
    line("accounts", words);
    line("keys", keys.to_string());
    line("sshd", sshd(status, verdicts, now));
    line("list", list(status, now));
    for words in signed(&status.list, now) {
        line("signed", words);
    }
    if let Some(since) = status.list.refused_since {
        let since = duration_since(since, now);
        line(
            "refused",
            format!("no list that was fetched has counted for {since}"),
        );
    }
    line("drift", drift(status, now));
}

/// `17 in-sync, 3 drifted`, the most first.
fn tally(of: BTreeMap<&str, usize>) -> String {
    let mut of: Vec<(&str, usize)> = of.into_iter().collect();
    sorting::sort_by(&mut of, |(_, a), (_, b)| b.cmp(a));
    let of = of
        .into_iter()
        .map(|(what, number)| format!("{number} {what}"));
    of.collect::<Vec<_>>().join(", ")
}

fn sshd(status: &Status, verdicts: BTreeMap<&str, usize>, now: Timestamp) -> String {
    let Some(sshd) = &status.sshd else {
        return "not asked yet".to_owned();
    };
    let mut words = match &sshd.version {
        Some(version) => format!("OpenSSH {version}, "),
        None => String::new(),
    };
    words += &escaped(sshd.path.as_deref().unwrap_or("none on this host"));
    match duration_since(sshd.asked_at, now).as_str() {
        "0 s" => words += ", asked just now",
        ago => {
            let _ = write!(words, ", asked {ago} ago, nothing has changed since");
        }
    }
    if !verdicts.is_empty() {
        let _ = write!(words, "; {}", tally(verdicts));
    }
    if sshd.unasked > 0 {
        let accounts = count(sshd.unasked, "account");
        let _ = write!(
            words,
            "; not asked about {accounts}, as its configuration has a `Match`"
        );
    }
    words
}

fn list(status: &Status, now: Timestamp) -> String {
    let list = &status.list;
    let mut words = escaped(list.source.as_deref().unwrap_or("none yet"));
    if let Some(listed) = &list.listed {
        words += ", ";
        let are_files = !listed.source.contains("ssm:");
        let noun = if are_files { "file" } else { "parameter" };
        words += &count(listed.parameters, noun);
        if let Some(age) = list.age(now) {
            let _ = write!(words, ", confirmed {} ago", duration(age));
        }
    }
    if let Some(next) = list.next_fetch_at {
        let _ = if next < now {
            write!(words, ", a fetch was due {} ago", duration_since(next, now))
        } else {
            write!(words, ", next fetch in {}", duration_since(now, next))
        };
    }
    words
}

/// By whom, a line a signature.
fn signed(list: &ListStatus, now: Timestamp) -> Vec<String> {
    let several = list.signatures().count() > 1;
    let mut lines = Vec::new();
    for (scope, taken) in list.signatures() {
        let mut words = String::new();
        if several {
            words += &escaped(scope);
            words.push(' ');
        }
        words += &print::signature(taken, now);
        lines.push(words);
    }
    lines
}

fn drift(status: &Status, now: Timestamp) -> String {
    let drift = &status.drift;
    let repaired = usize::try_from(drift.repaired).unwrap_or(usize::MAX);
    let mut words = format!("{} undone", count(repaired, "change"));
    if let Some(last) = &drift.last {
        let (ago, changes) = (duration_since(last.at, now), last.changes.join(", "));
        let _ = write!(
            words,
            ", the last {ago} ago, {}: {}",
            last.account,
            escaped(&changes)
        );
    }
    words
}

/// The worst first. Of a named account only what concerns it, or all.
fn problems(t: &mut String, status: &Status, view: &View<'_>) {
    /// More are no help at a glance.
    const MOST: usize = 20;
    let all = status.told_of(view.accounts);
    if !all.is_empty() {
        t.push('\n');
    }
    for told in all.iter().take(MOST) {
        let severity = told.cause.severity();
        let colour = match severity {
            Severity::Error => Colour::Red,
            Severity::Warning => Colour::Yellow,
        };
        let label = format!("{}:", severity.as_str());
        wrap(
            t,
            (&label, colour.when(view.colour)),
            2,
            &escaped(&told.text()),
        );
        if let Some(hint) = told.hint() {
            wrap(t, ("  hint:", Colour::None), 4, &escaped(&hint));
        }
    }
    if let more @ 1.. = all.len().saturating_sub(MOST) {
        let more = count(more, "more problem");
        let _ = writeln!(t, "and {more}, see `agent status --json`");
    }
}

fn rejected(t: &mut String, all: &[Rejected]) {
    const MOST: usize = 3;
    if all.is_empty() {
        return;
    }
    let _ = writeln!(
        t,
        "\nrejected: {} of the list not taken",
        count(all.len(), "line")
    );
    // A private key is the worst of them.
    let (private, others): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.is_private_key());
    for rejected in private.into_iter().chain(others).take(MOST) {
        let place = format!("  {}:", escaped(&rejected.place()));
        wrap(t, (&place, Colour::None), 4, &escaped(&rejected.reason));
    }
    if let more @ 1.. = all.len().saturating_sub(MOST) {
        let _ = writeln!(t, "  and {more} more, see `agent status --json`");
    }
}

fn sessions(t: &mut String, status: &Status, view: &View<'_>) {
    const MOST: usize = 10;
    let all: Vec<&Session> = status
        .sessions
        .iter()
        .filter(|session| view.has(&session.account))
        .collect();
    if !all.is_empty() {
        let _ = writeln!(
            t,
            "\nsessions that were opened with a key that is not approved"
        );
    }
    for session in all.iter().take(MOST) {
        let from = match &session.from {
            Some(from) => format!(", from {from}"),
            None => String::new(),
        };
        let since = match session.since {
            Some(since) => format!(", since {since:.0}"),
            None => String::new(),
        };
        let (account, id, leader) = (&session.account, &session.id, session.leader);
        let words = format!("{account}: session {id}, pid {leader}{from}{since}");
        wrap(t, ("", Colour::None), 2, &escaped(&words));
        // Its name is known when the agent took the key out of the file.
        let row = status.rows.get(account);
        let mut removed = row.iter().flat_map(|row| &row.removed_keys);
        let key = removed.find(|key| key.fingerprint == session.fingerprint);
        let key = key.map_or_else(|| session.fingerprint.clone(), ToString::to_string);
        wrap(t, ("", Colour::None), 4, &escaped(&key));
    }
    if let more @ 1.. = all.len().saturating_sub(MOST) {
        let _ = writeln!(t, "  and {more} more, see `agent status --json`");
    }
}

/// Files that the agent leaves alone, a line each.
fn unmanaged(t: &mut String, status: &Status, view: &View<'_>) {
    /// Files that a person reads of.
    const MOST: usize = 10;
    let files = status.unmanaged.iter().flatten().filter(|file| {
        let mut named = view.accounts.iter();
        view.accounts.is_empty() || named.any(|name| name.as_str() == file.name)
    });
    let (awaiting, others): (Vec<_>, Vec<_>) = files.partition(|file| file.awaits_list);
    for (title, files) in [
        (
            "managed, but no list has named these accounts yet, so their keys stay",
            awaiting,
        ),
        (
            "not managed, so the agent never changes these files",
            others,
        ),
    ] {
        if !files.is_empty() {
            let _ = writeln!(t, "\n{title}");
        }
        for file in files.iter().take(MOST) {
            let found = &file.found;
            let mut keys = count(found.keys.len() + found.more, "key");
            if found.unclear > 0 {
                keys = format!("{keys}, {}", unclear(found.unclear));
            }
            let UnmanagedFile {
                name, uid, file, ..
            } = file;
            let words = format!("{name} (uid {uid}): {} ({keys})", escaped(file));
            wrap(t, ("", Colour::None), 2, &words);
            if view.keys {
                print::keys_in_file(t, "    ", found);
            }
        }
        if let more @ 1.. = files.len().saturating_sub(MOST) {
            let more = count(more, "more file");
            let _ = writeln!(t, "  and {more}, see `agent status --json`");
        }
    }
    if status.unmanaged_cut && view.accounts.is_empty() {
        let _ = writeln!(t, "  and more, which are not listed");
    }
}

/// What this user may not look at is as the enforcer said.
fn not_looked_at(t: &mut String, status: &Status, view: &View<'_>, now: Timestamp) {
    let Some(why) = view.unseen.filter(|_| status.enforcer.pid != 0) else {
        return;
    };
    let said = ago(status.enforcer.written_at, now);
    let words = format!(
        "as the enforcer said last, {said} and unchanged since: {}; run this as root to look now",
        escaped(why)
    );
    t.push('\n');
    wrap(t, ("*", Colour::None), 2, &words);
}
