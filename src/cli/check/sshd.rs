//! What the local sshd reads.

use std::collections::BTreeMap;

use super::accounts::Accounts;
use crate::agent::events::chain;
use crate::host::{process, sshd};
use crate::model::account::AccountName;
use crate::model::doors::{Door, doors};
use crate::model::preflight::Finding;

/// What sshd reads besides the managed files.
pub(super) fn look(accounts: &Accounts, findings: &mut Vec<Finding>) {
    /// Each takes some milliseconds; `Match` blocks for more than a few users are rare.
    const ASKED: usize = 20;
    let Some(path) = sshd::find() else {
        let hint = "install openssh-server, or expect nobody to log in by these files";
        findings.push(Finding::warn("sshd", "no sshd on this host", hint));
        return;
    };
    let shown = path.display().to_string();
    if !process::is_root() {
        findings.push(Finding::warn(
            "sshd",
            format!("`{shown}` is there; what it reads only root may ask"),
            "run this as root",
        ));
        return;
    }
    let mut open: BTreeMap<Option<Door>, Vec<&AccountName>> = BTreeMap::new();
    for target in accounts.targets.iter().take(ASKED) {
        let name = &target.account.name;
        let settings = match sshd::settings(&path, name) {
            Ok(settings) => settings,
            Err(error) => {
                let hint = "`sshd -t` as root checks its configuration; `/run/sshd` is missing until sshd has run once";
                findings.push(Finding::warn("sshd", chain(&error), hint));
                return;
            }
        };
        let doors = doors(&settings, &target.location.path, &target.account);
        if doors.is_empty() {
            open.entry(None).or_default().push(name);
        }
        for door in doors {
            open.entry(Some(door)).or_default().push(name);
        }
    }
    if open.is_empty() {
        findings.push(Finding::ok("sshd", format!("`{shown}` is there; no managed account to ask it about")));
    }
    findings.extend(open.into_iter().map(|(door, names)| match door {
        None => Finding::ok("sshd", format!("reads the managed file of {} and no other", several(&names))),
        Some(door) => door.finding(&several(&names)),
    }));
}

/// A few names, and how many more.
fn several(names: &[&AccountName]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
