//! A line an account, and all of one that was asked for by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::view::{View, ago, duration_since, state, verdict};
use crate::cli::print;
use crate::cli::wrap::{Colour, wrap};
use crate::model::escape::escaped;
use crate::model::sorting;
use crate::model::status::problem::Cause;
use crate::model::status::schema::{AccountState, Row, Status};
use crate::model::words::{SHOWN, count, several};

/// A line an account. Those of which there is nothing to say but the same of all share one: a list may be for many hosts.
pub(super) fn accounts(t: &mut String, status: &Status, view: &View<'_>, now: Timestamp) {
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
    sorting::sort_by(&mut rows, |a, b| a.name.cmp(&b.name));
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
