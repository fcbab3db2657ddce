//! What the local sshd makes of the managed files.

use std::collections::BTreeMap;

use crate::agent::pass::{Looked, Reconciler};
use crate::host::{process, sshd};
use crate::model::account::AccountName;
use crate::model::config::tables::Mode;
use crate::model::file::difference::Difference;
use crate::model::sshd::access::{Access, RefusedBy, Verdict};
use crate::model::status::assess::sshd_problems;
use crate::model::status::preflight::Finding;
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{AccountState, Row};
use crate::model::status::told::{Told, told};
use crate::model::words::several;

/// Whether sshd reads the managed files and takes what is in them, and what it reads besides.
pub(super) fn look(reconciler: &Reconciler, looked: &Looked, findings: &mut Vec<Finding>) {
    let said = reconciler.world.sshd.said().map(|(answer, _)| answer);
    let path = said.and_then(|answer| answer.path.clone());
    let Some(path) = path.or_else(sshd::find) else {
        let hint = "install openssh-server: without sshd these files let no one in";
        findings.push(Finding::warn("sshd", "no sshd on this host", hint));
        return;
    };
    let shown = path.display();
    let version = match reconciler.in_force().openssh {
        Some(version) => format!(", OpenSSH {version}"),
        None => String::new(),
    };
    let Some(answer) = said else {
        findings.push(if !process::is_root() {
            let message = format!("`{shown}` is there; only root can ask it what it reads");
            Finding::warn("sshd", message, "run this as root")
        } else if reconciler.people().is_empty() {
            let nobody = "no managed account to ask it about";
            Finding::ok("sshd", format!("`{shown}`{version} is there; {nobody}"))
        } else {
            let error = "it has not answered in time".to_owned();
            let silent = Problem::new(Cause::SshdSilent { error });
            return findings.extend(told([silent]).iter().map(warning));
        });
        return;
    };
    if let Some(error) = answer.error.clone() {
        let hint = Cause::SshdSilent {
            error: error.clone(),
        }
        .hint();
        findings.push(Finding::warn("sshd", error, hint.unwrap_or_default()));
        return;
    }
    verdicts(reconciler, &version, findings);
    findings.extend(told(sshd_problems(answer)).iter().map(warning));
    kept_away(reconciler, findings);
    let rows = reconciler.rows().values();
    let besides = rows
        .flat_map(Row::problems)
        .filter(|problem| matches!(problem.cause, Cause::OpenDoor(_) | Cause::OtherFile(_)));
    findings.extend(told(besides).iter().map(warning));
    if reconciler.config.mode == Mode::Enforce {
        go_away(looked, findings);
    }
}

/// The rows of which sshd was asked. What is not as it should be in the first place is said of the account.
fn judged(reconciler: &Reconciler) -> impl Iterator<Item = (&AccountName, &Access)> {
    reconciler.rows().values().filter_map(|row| {
        let access = row.access.as_deref()?;
        let is_said = row.state == AccountState::Refused && access.verdict == Verdict::Unknown;
        (!is_said).then_some((&row.name, access))
    })
}

/// A verdict, why, and by what.
type Judged<'a> = (Verdict, Option<&'a str>, Option<RefusedBy>);

fn verdicts(reconciler: &Reconciler, version: &str, findings: &mut Vec<Finding>) {
    let mut all: BTreeMap<Judged<'_>, Vec<&str>> = BTreeMap::new();
    for (name, access) in judged(reconciler) {
        // One of an account with another door open is read as well.
        let verdict = match access.verdict {
            Verdict::AlsoOpen => Verdict::Effective,
            verdict => verdict,
        };
        let judged = (verdict, access.reason.as_deref(), access.refused_by);
        let same = all.entry(judged).or_default();
        same.push(name.as_str());
    }
    for ((verdict, reason, by), names) in all {
        let (names, reason) = (several(&names), reason.unwrap_or_default().to_owned());
        findings.push(match verdict {
            Verdict::Refused => {
                let message = format!("sshd refuses the managed file of {names}: {reason}");
                let hint = Cause::SshdRefuses { reason, by }.hint();
                Finding::fail("sshd", message, hint.unwrap_or_default())
            }
            Verdict::Unknown => Finding::warn(
                "sshd",
                format!("what sshd makes of the managed file of {names} is not known: {reason}"),
                "`sshd -T -C user=NAME,host=localhost,addr=127.0.0.1` as root asks the same",
            ),
            _ if reason.is_empty() => {
                let message = format!("reads the managed file of {names}{version}");
                Finding::ok("sshd", message)
            }
            _ => {
                let message = format!("reads the managed file of {names}; {reason}");
                let hint = Cause::KeysRefused { reason }.hint();
                Finding::warn("sshd", message, hint.unwrap_or_default())
            }
        });
    }
}

/// Doors that nobody gets in by, as what comes there is taken away.
fn kept_away(reconciler: &Reconciler, findings: &mut Vec<Finding>) {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, access) in judged(reconciler) {
        for door in &access.doors {
            if door.guarded && !door.accepted {
                all.entry(&door.detail).or_default().push(name.as_str());
            }
        }
    }
    for (detail, names) in all {
        let names = several(&names);
        let message =
            format!("also reads `{detail}` of {names}: taken away when it comes (`other-files`)");
        findings.push(Finding::ok("sshd", message));
    }
}

/// Keys in other files, which the first pass takes away: an account may still need them.
fn go_away(looked: &Looked, findings: &mut Vec<Finding>) {
    for (name, differences) in &looked.differences {
        for difference in differences {
            let Difference::OtherFile(other) = difference else {
                continue;
            };
            if other.found.is_idle() {
                continue;
            }
            let problem = Problem::of(name, Cause::OtherFile(other.clone()));
            let message: String = told([problem]).iter().map(Told::text).collect();
            let hint = "the file is taken away when the list is enforced, and a copy kept: publish these keys if they \
                        are meant, or set `other-files = \"report\"` in `[accounts]`";
            findings.push(Finding::warn("sshd", message, hint));
        }
    }
}

/// A problem of the status, as a finding.
fn warning(told: &Told) -> Finding {
    Finding::warn("sshd", told.text(), told.hint().unwrap_or_default())
}
