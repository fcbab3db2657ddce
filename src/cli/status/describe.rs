//! A status for people: health and counts, what is wrong and what to do, then a line an account. 80 columns, no word broken.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::cli::print;
use crate::cli::wrap::{Colour, wrap};
use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::key::lenient::unclear;
use crate::model::list::rejected::Rejected;
use crate::model::session::Session;
use crate::model::sshd::access::{Access, Verdict};
use crate::model::status::preflight::count;
use crate::model::status::problem::{Cause, SHOWN, Severity, duration, several};
use crate::model::status::schema::{AccountState, Health, Row, Status, UnmanagedFile};

/// How much of it, and how.
pub(super) struct View<'a> {
    /// The accounts that were named; all when there are none.
    pub(super) accounts: &'a [AccountName],
    pub(super) keys: bool,
    /// Why not all files were looked at.
    pub(super) unseen: Option<&'a str>,
    pub(super) colour: bool,
}

impl View<'_> {
    fn has(&self, name: &AccountName) -> bool {
        self.accounts.is_empty() || self.accounts.contains(name)
    }
}

pub(super) fn describe(status: &Status, view: &View<'_>, now: Timestamp) -> String {
    let mut text = String::new();
    let t = &mut text;
    head(t, status, view);
    if view.accounts.is_empty() {
        counts(t, status, now);
    }
    problems(t, status, view);
    accounts(t, status, view, now);
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
    line("drift", drift(status, now));
}

/// `17 in-sync, 3 drifted`, the most first.
fn tally(of: BTreeMap<&str, usize>) -> String {
    let mut of: Vec<(&str, usize)> = of.into_iter().collect();
    of.sort_by_key(|(_, number)| Reverse(*number));
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
        words += &count(listed.parameters, "parameter");
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

/// A line an account. Those of which there is nothing to say but the same of all share one: a list may be for many hosts.
fn accounts(t: &mut String, status: &Status, view: &View<'_>, now: Timestamp) {
    let mut alike: BTreeMap<(&str, Option<String>), Vec<&Row>> = BTreeMap::new();
    let mut rows: Vec<&Row> = Vec::new();
    for row in status.rows.values().filter(|row| view.has(&row.name)) {
        if is_bare(row) && view.accounts.is_empty() {
            let why = row.why.as_ref().map(Cause::reason);
            alike.entry((state(row), why)).or_default().push(row);
        } else {
            rows.push(row);
        }
    }
    alike.retain(|_, same| {
        if same.len() > SHOWN {
            return true;
        }
        rows.append(same);
        false
    });
    rows.sort_by_key(|row| &row.name);
    if !rows.is_empty() || !alike.is_empty() {
        t.push('\n');
    }
    table(t, &rows, view, now);
    for ((state, why), rows) in alike {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let mut words = format!(
            "{} {state}: {}",
            count(rows.len(), "account"),
            several(&names)
        );
        if let Some(why) = why {
            let _ = write!(words, " ({})", escaped(&why));
        }
        wrap(t, ("", Colour::None), 2, &words);
    }
    if !view.keys {
        notes(t, &rows);
    }
}

fn table(t: &mut String, rows: &[&Row], view: &View<'_>, now: Timestamp) {
    let lengths = rows.iter().map(|row| row.name.as_str().len());
    let Some(longest) = lengths.max() else { return };
    let width = longest.max("account".len());
    let title = ["account", "state", "keys", "sshd", "changed"];
    columns(t, width, title);
    for row in rows {
        let mark = if is_seen(row) { "" } else { "*" };
        let keys = row.keys.as_ref().map(|keys| keys.len().to_string());
        let changed = row.changed_at.map(|at| ago(at, now));
        let cells = [
            row.name.as_str(),
            &format!("{}{mark}", state(row)),
            keys.as_deref().unwrap_or_default(),
            row.access.as_deref().map_or("", verdict),
            changed.as_deref().unwrap_or_default(),
        ];
        columns(t, width, cells);
        if view.keys {
            detail(t, row, now);
        }
    }
}

fn columns(t: &mut String, width: usize, [name, state, keys, sshd, changed]: [&str; 5]) {
    let line = format!("{name:width$}  {state:11} {keys:>5}  {sshd:9}  {changed}");
    let _ = writeln!(t, "{}", line.trim_end());
}

/// The state in one word, as the JSON has it but for an account without keys.
fn state(row: &Row) -> &'static str {
    if row.state == AccountState::InSync && row.has_no_keys() {
        "no keys"
    } else {
        row.state.as_str()
    }
}

fn verdict(access: &Access) -> &'static str {
    match access.verdict {
        Verdict::AlsoOpen => "also open",
        verdict => verdict.as_str(),
    }
}

fn is_seen(row: &Row) -> bool {
    row.verified || !row.state.is_managed()
}

fn is_bare(row: &Row) -> bool {
    let is_worked_on = matches!(
        row.state,
        AccountState::InSync | AccountState::Drifted | AccountState::Refused
    );
    let has_keys = row.keys.as_ref().is_some_and(|keys| !keys.is_empty());
    !is_worked_on && !has_keys && row.access.is_none() && row.other_files.is_empty()
}

/// What else is worth knowing of several accounts, once.
fn notes(t: &mut String, rows: &[&Row]) {
    let mut notes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let name = row.name.as_str();
        if let Some(why) = row.why.as_ref().filter(|why| why.is_only_a_reason()) {
            notes.entry(why.reason()).or_default().push(name);
        }
        if row.writes_prevented == Some(false) {
            notes.entry(UNDONE.to_owned()).or_default().push(name);
        }
    }
    for (note, names) in notes {
        let words = format!("{}: {}", several(&names), escaped(&note));
        wrap(t, ("", Colour::None), 2, &words);
    }
}

const UNDONE: &str = "the agent undoes changes and cannot prevent them, as the file system of the file has no leases";

/// All that is known of one account.
fn detail(t: &mut String, row: &Row, now: Timestamp) {
    let mut line = |words: &str| wrap(t, ("", Colour::None), 2, &escaped(words));
    if let Some(file) = &row.file {
        let looked = if row.verified {
            ", looked at just now"
        } else {
            ""
        };
        line(&format!("file {file}{looked}"));
    }
    if let Some(why) = &row.why {
        line(&why.reason());
    }
    if row.writes_prevented == Some(false) {
        line(UNDONE);
    }
    if let Some(access) = row.access.as_deref() {
        if let Some(reason) = &access.reason {
            line(&format!("sshd: {reason}"));
        }
        for door in &access.doors {
            let name = match &door.name {
                Some(name) => format!(" ({name})"),
                None => String::new(),
            };
            let open = match (door.accepted, door.guarded) {
                (true, _) => "accepted",
                (false, true) => "guarded: the agent removes that file when it comes",
                (false, false) => "also open",
            };
            line(&format!(
                "{} {}{name}: {open}",
                door.kind.as_str(),
                door.detail
            ));
        }
    }
    for other in &row.other_files {
        wrap(
            t,
            ("", Colour::None),
            2,
            &format!("other file {}", escaped(&other.file)),
        );
        print::keys_in_file(t, "    ", &other.found);
    }
    for status in row.keys.iter().flatten() {
        wrap(t, ("", Colour::None), 2, &status.key.to_string());
        let expires = match status.expires_at {
            Some(at) => format!(", expires in {}", duration_since(now, at)),
            None => String::new(),
        };
        let from = match status.parameter.as_str() {
            "" => "not on the list".to_owned(),
            _ => print::provenance(status) + &expires,
        };
        wrap(t, ("", Colour::None), 4, &from);
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
    let is_held = |file: &UnmanagedFile| {
        let name = AccountName::try_from(file.name.as_str());
        let row = name.ok().and_then(|name| status.rows.get(&name));
        row.is_some_and(|row| row.why == Some(Cause::HeldBack))
    };
    let (awaiting, others): (Vec<_>, Vec<_>) = files.partition(|file| file.awaits_list);
    let (held, awaiting): (Vec<_>, Vec<_>) = awaiting.into_iter().partition(|file| is_held(file));
    for (title, files) in [
        (
            "the list that names these accounts is held, so their keys stay",
            held,
        ),
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

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration_since(at, now))
}

fn duration_since(at: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(at).as_secs().max(0))
}
