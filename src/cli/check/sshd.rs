//! What the local sshd makes of the managed files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::agent::inquiry::ask_within;
use crate::cli::check::accounts::{Accounts, HOME};
use crate::host::accounts as database;
use crate::host::keyfile;
use crate::host::process;
use crate::host::sshd::{Circumstances, find};
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Mode};
use crate::model::file::other_files::{InFile, OtherFile, OtherFiles};
use crate::model::file::wanted::Target;
use crate::model::key::grant::Grants;
use crate::model::sshd::access::{Access, Facts, Loose, RefusedBy, Verdict, judge};
use crate::model::sshd::answer::Answer;
use crate::model::status::assess::sshd_problems;
use crate::model::status::preflight::Finding;
use crate::model::status::problem::{Cause, Problem, Told, several, told};

/// How long sshd may take for all of it.
const LIMIT: Duration = Duration::from_secs(15);

/// A verdict, why, and by what.
type Judged<'a> = (Verdict, Option<&'a str>, Option<RefusedBy>);

/// Asks sshd; `None` without root, which it wants, and when it does not answer.
pub(super) async fn ask(accounts: &Accounts) -> Option<Answer> {
    if !process::is_root() {
        return None;
    }
    let people: Vec<_> = accounts
        .targets
        .iter()
        .map(|target| target.account.clone())
        .collect();
    ask_within(LIMIT, move || {
        Circumstances::look().ask(&people, &[], database::groups)
    })
    .await
}

/// Whether sshd reads the managed files and takes what is in them, and what it reads besides.
pub(super) fn look(
    answer: Option<&Answer>,
    accounts: &Accounts,
    grants: &Grants,
    loose: &BTreeMap<AccountName, Loose>,
    config: &Config,
    findings: &mut Vec<Finding>,
) {
    let accepted = &config.accounts.accepted_doors;
    let Some(path) = answer.and_then(|answer| answer.path.clone()).or_else(find) else {
        let hint = "install openssh-server, or expect nobody to log in by these files";
        findings.push(Finding::warn("sshd", "no sshd on this host", hint));
        return;
    };
    let shown = path.display().to_string();
    let Some(answer) = answer else {
        let message = if process::is_root() {
            format!("`{shown}` has not answered within {} s", LIMIT.as_secs())
        } else {
            format!("`{shown}` is there; what it reads only root may ask")
        };
        findings.push(Finding::warn("sshd", message, "run this as root"));
        return;
    };
    let version = answer
        .version
        .map(|version| format!(", OpenSSH {version}"))
        .unwrap_or_default();
    if let Some(error) = &answer.error {
        let hint = "`sshd -t` as root checks its configuration; `/run/sshd` is missing until sshd has run once";
        findings.push(Finding::warn("sshd", error, hint));
        return;
    }
    if accounts.targets.is_empty() {
        let message = format!("`{shown}`{version} is there; no managed account to ask it about");
        findings.push(Finding::ok("sshd", message));
        return;
    }
    let mut rows: Vec<(&AccountName, Access)> = Vec::new();
    for target in &accounts.targets {
        let account = &target.account;
        let keys: Vec<_> = grants.get(&account.name).into_iter().flatten().collect();
        let guarded = guarded(config, answer, target);
        let facts = Facts {
            guarded: &guarded,
            doubt: answer.doubts().next(),
            openssh: answer.version,
            account,
            managed: &target.location.path,
            keys: &keys,
            groups: answer.groups(&account.name),
            loose: loose.get(&account.name),
            private_groups: answer.private_groups,
        };
        let access = match answer.settings(&account.name) {
            Ok(settings) => judge(settings, facts, accepted),
            Err(reason) => Access::unknown(reason),
        };
        rows.push((&account.name, access));
    }
    let mut verdicts: BTreeMap<Judged<'_>, Vec<&str>> = BTreeMap::new();
    for (name, access) in &rows {
        // One that is bypassed is read as well.
        let verdict = if access.verdict == Verdict::Bypassed {
            Verdict::Effective
        } else {
            access.verdict
        };
        verdicts
            .entry((verdict, access.reason.as_deref(), access.refused_by))
            .or_default()
            .push(name.as_str());
    }
    for ((verdict, reason, by), names) in verdicts {
        let (names, reason) = (several(&names), reason.unwrap_or_default());
        findings.push(match verdict {
            Verdict::Refused => Finding::fail(
                "sshd",
                format!("sshd refuses the managed file of {names}: {reason}"),
                Cause::SshdRefuses {
                    reason: reason.to_owned(),
                    by,
                }
                .hint()
                .unwrap_or_default(),
            ),
            Verdict::Unknown => Finding::warn(
                "sshd",
                format!("what sshd makes of the managed file of {names} is not known: {reason}"),
                "`sshd -T -C user=NAME,host=localhost,addr=127.0.0.1` as root asks the same",
            ),
            Verdict::Effective | Verdict::Bypassed if !reason.is_empty() => Finding::warn(
                "sshd",
                format!("reads the managed file of {names}; {reason}"),
                "replace these keys, or change that setting in sshd_config",
            ),
            Verdict::Effective | Verdict::Bypassed => Finding::ok(
                "sshd",
                format!("reads the managed file of {names}{version}"),
            ),
        });
    }
    findings.extend(told(sshd_problems(answer)).iter().map(warning));
    let mut kept_away: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, access) in &rows {
        for door in access
            .doors
            .iter()
            .filter(|door| door.guarded && !door.accepted)
        {
            kept_away
                .entry(&door.detail)
                .or_default()
                .push(name.as_str());
        }
    }
    findings.extend(kept_away.into_iter().map(|(detail, names)| {
        let names = several(&names);
        Finding::ok(
            "sshd",
            format!("also reads `{detail}` of {names}: taken away when it comes (`other-files`)"),
        )
    }));
    let open = rows.iter().flat_map(|(name, access)| {
        let open = access.doors.iter().filter(|door| door.is_open());
        open.map(move |door| Problem::of(name, Cause::OpenDoor(door.clone())))
    });
    findings.extend(told(open).iter().map(warning));
}

/// A problem of the status, as a finding.
fn warning(told: &Told) -> Finding {
    let text = match &told.cause {
        Cause::OpenDoor(door) => {
            let names: Vec<&str> = told.accounts.iter().map(AccountName::as_str).collect();
            door.describe(&several(&names))
        }
        _ => told.text(),
    };
    Finding::warn("sshd", text, told.cause.hint().unwrap_or_default())
}

/// The other files that are taken away, once the enforcer runs.
fn guarded(config: &Config, answer: &Answer, target: &Target) -> Vec<PathBuf> {
    let Target {
        account, location, ..
    } = target;
    let guards = config.mode == Mode::Enforce && config.accounts.removes_other_files();
    let reads = answer
        .reads(Some(&account.name))
        .filter(|_| guards)
        .unwrap_or_default();
    let others = OtherFiles::of(reads, account, &location.path);
    others
        .in_home
        .into_iter()
        .map(|location| location.path)
        .collect()
}

/// Keys in other files of the managed accounts, which the first pass takes away: somebody may still need them.
pub(super) async fn others(
    answer: Option<&Answer>,
    accounts: &Accounts,
    config: &Config,
    findings: &mut Vec<Finding>,
) {
    let Some(answer) = answer else { return };
    for target in &accounts.targets {
        let files = guarded(config, answer, target);
        let account = target.account.clone();
        let look = move || -> Vec<OtherFile> {
            let read = |path: &PathBuf| {
                let content = keyfile::survey(&account, path).ok().flatten()?;
                Some(InFile::read(&content))
                    .filter(|found| !found.is_idle())
                    .map(|found| OtherFile::new(path, found))
            };
            files.iter().filter_map(read).collect()
        };
        // A home that does not answer is said elsewhere.
        for other in ask_within(HOME, look).await.unwrap_or_default() {
            let problem = Problem::of(&target.account.name, Cause::OtherFile(other));
            let message = told([problem]).iter().map(Told::text).collect::<String>();
            let hint = "the file is taken away when the list is enforced, and a copy kept: publish these keys if they \
                        are meant, or set `other-files = \"report\"` in `[accounts]`";
            findings.push(Finding::warn("sshd", message, hint));
        }
    }
}
