//! `status`: looks at the files as it answers. Exit 0 healthy, 1 degraded, 2 usage or config, 3 no enforcer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use jiff::Timestamp;

use crate::agent::fetched;
use crate::agent::gather::List;
use crate::agent::pass::Reconciler;
use crate::agent::{paths, publish, sessions, unmanaged};
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::store::{self, StoreError};
use crate::host::{accounts, chain, process};
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Paths};
use crate::model::escape::escaped;
use crate::model::sshd::access::Verdict;
use crate::model::status::assess::{self, OfEnforcer, OfFetcher};
use crate::model::status::preflight::count;
use crate::model::status::problem::{Cause, Problem, SHOWN, Severity, duration, several};
use crate::model::status::schema::{
    AccountState, Enforcer, Health, Host, Row, SshdStatus, Status, UnmanagedFile, keys,
};

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent status
      What is wrong, the worst first, and what to do
  agent status --json
      For scripts, which go by the codes of the problems

Exit status:
  0  healthy
  1  degraded
  2  wrong usage or configuration
  3  no enforcer is running";

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON, schema 2
    #[arg(long)]
    json: bool,
}

const STOPPED: u8 = 3;

pub(super) async fn run(arguments: &Arguments, config: Config, path: &Path) -> Outcome {
    let now = surroundings::now();
    let (mut status, unseen) = status(config, now).await;
    let open = surroundings::open_config(path);
    status.problems.extend(open.map(Problem::new));
    print::data(&text(arguments, &status, unseen.as_deref(), now)?)?;
    Ok(match status.health() {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Stopped => STOPPED,
    })
}

/// With a config that cannot be used: what the enforcer said last, which goes by the config that it read before.
pub(super) fn last_word(
    arguments: &Arguments,
    path: &Path,
    error: &anyhow::Error,
) -> anyhow::Result<()> {
    let config = std::fs::read_to_string(path).unwrap_or_default();
    let paths = Paths::of_broken(&config);
    let Some(mut status) = publish::read_with_keys(&paths).ok().flatten() else {
        return Ok(());
    };
    let is_known = |problem: &Problem| matches!(problem.cause, Cause::ConfigUnusable { .. });
    if !status.problems.iter().any(is_known) {
        let error = format!("{error:#}");
        status
            .problems
            .push(Problem::new(Cause::ConfigUnusable { error }));
    }
    if process::holder(&paths::enforce_lock(&paths)).is_none() {
        status.problems.push(Problem::new(Cause::NoEnforcer));
    }
    let unseen = Some("the config cannot be used");
    print::data(&text(arguments, &status, unseen, surroundings::now())?)
}

fn text(
    arguments: &Arguments,
    status: &Status,
    unseen: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<String> {
    if !arguments.json {
        return Ok(describe(status, unseen, now));
    }
    let mut text = serde_json::to_string_pretty(&status.document(now))?;
    text.push('\n');
    Ok(text)
}

/// The status of this moment as far as this user may look; and why that was not all.
async fn status(config: Config, now: Timestamp) -> (Status, Option<String>) {
    let holder = process::holder(&paths::enforce_lock(&config.paths));
    let runs = holder.is_some();
    let mut problems = Vec::new();
    let said = match publish::read_with_keys(&config.paths) {
        Ok(said) => said,
        Err(error) => {
            let error = chain(&error);
            problems.push(Problem::new(Cause::WordUnreadable { error }));
            None
        }
    };
    // Another process than the one that spoke last has the lock: it has not spoken yet.
    let is_of_another = |said: &Status| {
        let pid = holder.as_ref().and_then(|holder| holder.pid);
        pid.is_some_and(|pid| pid != said.enforcer.pid)
    };
    if runs && said.as_ref().is_none_or(is_of_another) && problems.is_empty() {
        problems.push(Problem::new(Cause::FirstPass));
    }
    let (mut status, mut unseen) = match look(&config, said.clone(), now).await {
        Ok(status) => (status, None),
        Err(error) => (
            said.unwrap_or_else(|| unknown(&config, now)),
            Some(chain(&error)),
        ),
    };
    status.problems.extend(problems);
    let (of_fetcher, not_told) = fetcher(&config);
    assess::add_fetcher(&mut status, of_fetcher, &config, now);
    if !runs {
        status.problems.push(Problem::new(Cause::NoEnforcer));
    }
    let row = status
        .rows
        .values()
        .find(|row| !row.verified && row.state.is_managed());
    if let Some(row) = row
        && unseen.is_none()
    {
        unseen = Some(format!("the file of {} was not looked at", row.name));
    }
    (status, unseen.or(not_told))
}

/// Nothing is known.
fn unknown(config: &Config, now: Timestamp) -> Status {
    let of = OfEnforcer {
        host: host(None),
        enforcer: no_enforcer(now),
        problems: Vec::new(),
        sessions: Vec::new(),
    };
    assess::nothing_known(config, of)
}

fn host(instance: Option<String>) -> Host {
    Host {
        name: process::host_name(),
        instance,
    }
}

fn no_enforcer(now: Timestamp) -> Enforcer {
    Enforcer {
        pid: 0,
        started_at: now,
        written_at: now,
        asked_at: None,
    }
}

/// Makes the decisions of the enforcer with the same code, and looks at the files; writes nothing. What only the enforcer
/// knows is taken from what it `said`.
async fn look(config: &Config, said: Option<Status>, now: Timestamp) -> Result<Status, StoreError> {
    let mut reconciler = Reconciler::observer(config.clone(), surroundings::zone(), said.clone())?;
    reconciler.decide(List::Stored, None, now).await;
    let local = accounts::local();
    let asked = reconciler.consult_sshd(local.clone(), now).await;
    reconciler
        .look_once(true, now, surroundings::instant())
        .await;
    let live = if process::is_root() {
        sessions::now_live(&reconciler.decision, now)
    } else {
        None
    };
    let mut problems = Vec::new();
    let mut of = OfEnforcer {
        host: host(reconciler.in_force().instance.clone()),
        enforcer: no_enforcer(now),
        problems: Vec::new(),
        sessions: Vec::new(),
    };
    let mut sshd = None;
    if let Some(said) = said {
        problems.extend(said.problems);
        of.enforcer = said.enforcer;
        of.sessions = said.sessions;
        sshd = said.sshd;
    }
    of.sessions = live.unwrap_or(of.sessions);
    problems.retain(|one: &Problem| {
        let of_sshd = !asked && one.cause.is_of_sshd();
        of_sshd || one.cause.is_the_enforcers_own()
    });
    if process::is_root() && !asked && !reconciler.people().is_empty() {
        let error = "it has not answered in time".to_owned();
        sshd = sshd.map(|known| SshdStatus {
            error: Some(error.clone()),
            ..known
        });
        problems.push(Problem::new(Cause::SshdSilent { error }));
    }
    of.problems = problems;
    let mut status = reconciler.status(of, now);
    if !asked {
        // What the enforcer was told stays.
        status.sshd = sshd;
    }
    let names: Vec<AccountName> = status.rows.names().cloned().collect();
    for name in names {
        let keys = keys(&reconciler.decision, &name, now);
        status.rows.set_keys(&name, keys);
    }
    if let Some((answer, _)) = reconciler.world.sshd.said()
        && asked
    {
        let managed = |name: &AccountName| {
            let row = status.rows.get(name);
            row.is_some_and(|row| row.state.is_managed() && reconciler.is_in_force(name))
        };
        let found = unmanaged::look(answer, local, managed);
        let mut files = found.files;
        for file in &mut files {
            let name = AccountName::try_from(file.name.as_str());
            file.awaits_list = name.is_ok_and(|name| reconciler.claims(&name, file.uid));
        }
        status.unmanaged = Some(files);
        status.unmanaged_cut = found.cut;
    }
    Ok(status)
}

/// What the fetcher says; and why that is not known. Its own directory may be for root alone (`DynamicUser=`): then what the
/// enforcer has passed on.
fn fetcher(config: &Config) -> (OfFetcher, Option<String>) {
    let nothing = OfFetcher {
        report: None,
        runs: None,
        unreadable: None,
    };
    match fetched::report(&config.paths) {
        Ok(report) => {
            let runs = process::holder(&paths::fetch_lock(&config.paths)).is_some();
            let of = OfFetcher {
                report,
                runs: Some(runs),
                ..nothing
            };
            (of, None)
        }
        Err(error) if error.is_denied() => {
            match store::read_json(&paths::fetch_report_copy(&config.paths)) {
                Ok(Some(report)) => {
                    let report = Some(report);
                    (OfFetcher { report, ..nothing }, None)
                }
                _ => (nothing, Some(chain(&error))),
            }
        }
        Err(error) => {
            let of = OfFetcher {
                runs: Some(process::holder(&paths::fetch_lock(&config.paths)).is_some()),
                unreadable: Some(chain(&error)),
                ..nothing
            };
            (of, None)
        }
    }
}

/// For people.
fn describe(status: &Status, unseen: Option<&str>, now: Timestamp) -> String {
    let mut text = String::new();
    let t = &mut text;
    let health = status.health().as_str();
    let _ = writeln!(
        t,
        "{health} (mode {}, version {})",
        status.mode, status.version
    );
    for told in status.told() {
        let mark = match told.cause.severity() {
            Severity::Error => '!',
            Severity::Warning => '~',
        };
        let _ = writeln!(t, "  {mark} {}", escaped(&told.text()));
        if let Some(hint) = told.cause.hint() {
            let _ = writeln!(t, "      hint: {}", escaped(&hint));
        }
    }
    describe_list(t, status, now);
    describe_accounts(t, status, now);
    describe_rejected(t, status);
    describe_sessions(t, status);
    describe_unmanaged(t, status);
    describe_sshd(t, status, now);
    let drift = &status.drift;
    let repaired = usize::try_from(drift.repaired).unwrap_or(usize::MAX);
    let _ = writeln!(t, "drift    {} undone", count(repaired, "change"));
    if let Some(last) = &drift.last {
        let ago = ago(last.at, now);
        let changes = escaped(&last.changes.join(", "));
        let _ = writeln!(t, "         last {ago} ago, {}: {changes}", last.account);
    }
    if let Some(why) = unseen.filter(|_| status.enforcer.pid != 0) {
        let age = ago(status.enforcer.written_at, now);
        let _ = writeln!(
            t,
            "\nfiles without `looked at just now` are as the enforcer last said, {age} ago and unchanged since:"
        );
        let _ = writeln!(t, "{}; run this as root to look now", escaped(why));
    }
    text
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(at).as_secs().max(0))
}

fn describe_list(t: &mut String, status: &Status, now: Timestamp) {
    let list = &status.list;
    let source = list.source.as_deref().unwrap_or("none yet");
    let _ = writeln!(t, "\nlist     {}", escaped(source));
    if let Some(listed) = &list.listed {
        let short: String = listed.digest.chars().take(19).collect();
        let parameters = count(listed.parameters, "parameter");
        let age = match list.age(now) {
            Some(age) => format!(", confirmed {} ago", duration(age)),
            None => String::new(),
        };
        let _ = writeln!(t, "         {parameters}, {short}…{age}");
    }
    if let Some(next) = list.next_fetch_at {
        let _ = if next < now {
            writeln!(t, "         a fetch was due {} ago", ago(next, now))
        } else {
            writeln!(t, "         next fetch in {}", ago(now, next))
        };
    }
}

fn describe_rejected(t: &mut String, status: &Status) {
    if !status.rejected.is_empty() {
        let _ = writeln!(t, "\nrejected");
    }
    for rejected in &status.rejected {
        let version = match rejected.parameter_version {
            Some(version) => format!(" version {version}"),
            None => String::new(),
        };
        // The value as a whole has no line.
        let line = match rejected.line {
            0 => String::new(),
            line => format!(" line {line}"),
        };
        let _ = writeln!(t, "  {}{version}{line}", escaped(&rejected.parameter));
        let _ = writeln!(t, "    {}", escaped(&rejected.reason));
    }
}

fn describe_sessions(t: &mut String, status: &Status) {
    if !status.sessions.is_empty() {
        let _ = writeln!(t, "\nsessions opened with a key that is not approved");
    }
    for session in &status.sessions {
        let from = match &session.from {
            Some(from) => format!(" from {}", escaped(from)),
            None => String::new(),
        };
        let since = match session.since {
            Some(since) => format!(" since {since:.0}"),
            None => String::new(),
        };
        let (account, id, leader) = (&session.account, escaped(&session.id), session.leader);
        let _ = writeln!(t, "  {account}  session {id}, pid {leader}{from}{since}");
        let _ = writeln!(t, "    {}", escaped(&session.fingerprint));
    }
}

/// Accounts of which there is nothing to say but the same of all are named in one line: a list may be for many hosts.
fn describe_accounts(t: &mut String, status: &Status, now: Timestamp) {
    let mut alike: BTreeMap<(&str, Option<String>), Vec<&Row>> = BTreeMap::new();
    for row in status.rows.values() {
        if is_bare(row) {
            let why = row.why.as_ref().map(Cause::reason);
            alike
                .entry((row.state.as_str(), why))
                .or_default()
                .push(row);
        } else {
            describe_account(t, row, now);
        }
    }
    for ((state, why), rows) in alike {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        if names.len() > SHOWN {
            let accounts = count(names.len(), "account");
            let _ = writeln!(t, "\n{accounts}  {state}  {}", several(&names));
            if let Some(why) = why {
                let _ = writeln!(t, "  {}", escaped(&why));
            }
        } else {
            for row in rows {
                describe_account(t, row, now);
            }
        }
    }
}

fn is_bare(row: &Row) -> bool {
    let is_worked_on = matches!(
        row.state,
        AccountState::InSync | AccountState::Drifted | AccountState::Refused
    );
    let has_keys = row.keys.as_ref().is_some_and(|keys| !keys.is_empty());
    !is_worked_on && !has_keys && row.access.is_none() && row.other_files.is_empty()
}

fn describe_account(t: &mut String, row: &Row, now: Timestamp) {
    let file = row.file.as_deref().unwrap_or_default();
    let looked = if row.verified {
        ", looked at just now"
    } else {
        ""
    };
    let access = row.access.as_deref();
    let verdict = match access.map(|access| access.verdict) {
        Some(Verdict::Refused) => ", refused by sshd".to_owned(),
        Some(Verdict::Unknown) | None => String::new(),
        Some(verdict) => format!(", {}", verdict.as_str()),
    };
    let (name, state) = (&row.name, row.state.as_str());
    let _ = writeln!(t, "\n{name}  {state}{looked}{verdict}  {}", escaped(file));
    if let Some(why) = &row.why {
        let _ = writeln!(t, "  {}", escaped(&why.reason()));
    }
    if row.writes_prevented == Some(false) {
        let _ = writeln!(
            t,
            "  changes are undone, not prevented: its file system has no leases"
        );
    }
    if let Some(reason) = access.and_then(|access| access.reason.as_ref()) {
        let _ = writeln!(t, "  sshd: {}", escaped(reason));
    }
    for door in access.iter().flat_map(|access| &access.doors) {
        let name = match &door.name {
            Some(name) => format!(" ({name})"),
            None => String::new(),
        };
        let accepted = match (door.accepted, door.guarded) {
            (true, _) => ", accepted",
            (false, true) => ", guarded: taken away when it comes",
            (false, false) => "",
        };
        let (kind, detail) = (door.kind.as_str(), escaped(&door.detail));
        let _ = writeln!(t, "  door: {kind} {detail}{name}{accepted}");
    }
    for other in &row.other_files {
        let _ = writeln!(t, "  other file: {}", escaped(&other.file));
        print::keys_in_file(t, "    ", &other.found);
    }
    for status in row.keys.iter().flatten() {
        let expires = match status.expires_at {
            Some(at) => format!(", expires in {}", ago(now, at)),
            None => String::new(),
        };
        let key = &status.key;
        let _ = writeln!(t, "  {key}");
        if status.parameter.is_empty() {
            let _ = writeln!(t, "    not on the list");
        } else {
            let _ = writeln!(t, "    {}{expires}", print::provenance(status));
        }
    }
}

fn describe_unmanaged(t: &mut String, status: &Status) {
    /// Files that a person reads of.
    const MOST: usize = 100;
    let files = status.unmanaged.as_deref().unwrap_or_default();
    let is_held = |file: &UnmanagedFile| {
        let name = AccountName::try_from(file.name.as_str());
        let row = name.ok().and_then(|name| status.rows.get(&name));
        row.is_some_and(|row| row.why == Some(Cause::HeldBack))
    };
    let (awaiting, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.awaits_list);
    let (held, awaiting): (Vec<_>, Vec<_>) = awaiting.into_iter().partition(|file| is_held(file));
    for (title, files) in [
        (
            "managed, and the list that speaks of them is held, so their keys stay",
            held,
        ),
        (
            "managed, but no list has spoken of them yet, so their keys stay",
            awaiting,
        ),
        ("not managed, so never touched", others),
    ] {
        if !files.is_empty() {
            let _ = writeln!(t, "\n{title} (local accounts, looked at just now)");
        }
        for UnmanagedFile {
            name,
            uid,
            file,
            found,
            ..
        } in files.iter().take(MOST)
        {
            let _ = writeln!(t, "{name}  uid {uid}  {}", escaped(file));
            print::keys_in_file(t, "  ", found);
        }
        if let more @ 1.. = files.len().saturating_sub(MOST) {
            let _ = writeln!(
                t,
                "and {}, see `agent status --json`",
                count(more, "more file")
            );
        }
    }
    if status.unmanaged_cut {
        let _ = writeln!(t, "and more, which are not listed");
    }
}

fn describe_sshd(t: &mut String, status: &Status, now: Timestamp) {
    let _ = writeln!(t);
    let Some(sshd) = &status.sshd else { return };
    let version = match &sshd.version {
        Some(version) => format!("OpenSSH {version}, "),
        None => String::new(),
    };
    let path = sshd.path.as_deref().unwrap_or("none on this host");
    let asked = match ago(sshd.asked_at, now).as_str() {
        "0 s" => "just now".to_owned(),
        ago => format!("{ago} ago, nothing has changed since"),
    };
    let _ = writeln!(t, "sshd     {version}{}, asked {asked}", escaped(path));
    if sshd.unasked > 0 {
        let accounts = count(sshd.unasked, "account");
        let _ = writeln!(
            t,
            "         not asked about {accounts}, as its configuration has a `Match`"
        );
    }
}
