//! `status`: verified as it answers. Exit 0 healthy, 1 degraded, 2 usage or config, 3 no enforcer.

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use crate::agent::pass::{Enforcer, List, Terms};
use crate::agent::work::Outcome as Found;
use crate::agent::{Trigger, events, files, sessions, sshd, unmanaged};
use crate::cli::Outcome;
use crate::host::store::StoreError;
use crate::host::{accounts, process, store};
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Mode};
use crate::model::escape::escaped;
use crate::model::list::fetch_report::FetchReport;
use crate::model::sshd::access::Verdict;
use crate::model::status::preflight::count;
use crate::model::status::schema::{
    AccountState, AccountStatus, Health, ListStatus, SshdStatus, Status, UnmanagedFile,
};

use super::duration;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  healthy
  1  degraded
  2  wrong usage or configuration
  3  no enforcer is running";

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON, schema 1
    #[arg(long)]
    json: bool,
}

const STOPPED: u8 = 3;

/// A fetched list is looked at by the enforcer long before this.
const ENFORCED_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// When an attempt is due it has begun by then, and ended.
const FETCHED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

pub(super) async fn run(arguments: &Arguments, config: Config) -> Outcome {
    let now = super::now();
    let (status, unverified) = status(config, now).await;
    let text = if arguments.json {
        let mut text = serde_json::to_string_pretty(&status)?;
        text.push('\n');
        text
    } else {
        describe(&status, unverified.as_deref(), now)
    };
    super::print(&text)?;
    Ok(match status.health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Stopped => STOPPED,
    })
}

/// The enforcer's last word, with everything that can be looked at looked at again; and why that was not all.
async fn status(config: Config, now: Timestamp) -> (Status, Option<String>) {
    let paths = config.paths.clone();
    let running = process::holder(&files::enforce_lock(&paths)).is_some();
    let said = store::read_json::<Status>(&files::status(&paths));
    let mut status = Status::unknown(&config, now);
    match said {
        Ok(Some(said)) => status = said,
        Ok(None) if running => {
            status
                .problems
                .push("the enforcer has not finished its first pass yet".to_owned());
        }
        Ok(None) => {}
        Err(error) => {
            status.problems.push(format!(
                "{}; what the enforcer says is not known",
                events::chain(&error)
            ));
        }
    }
    let unverified = look(&mut status, config.clone(), now)
        .await
        .unwrap_or_else(|error| Some(events::chain(&error)));
    let unseen = add_fetch(&mut status, &config, now);
    let unverified = unverified.or(unseen);
    status.settle_health();
    if !running {
        status.problems.insert(
            0,
            "no enforcer is running, so nothing is repaired".to_owned(),
        );
        status.health = Health::Stopped;
    }
    (status, unverified)
}

/// Looks at all that this user may look at; gives why that was not all.
async fn look(
    status: &mut Status,
    config: Config,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let mut enforcer = Enforcer::new(config, super::zone(), now)?;
    let unverified = if enforcer.is_new() {
        // Nothing is to be written.
        let config = Config {
            mode: Mode::Observe,
            ..enforcer.config().clone()
        };
        enforcer = Enforcer::new(config, super::zone(), now)?;
        compare(status, &mut enforcer, now).await
    } else {
        verify(status, &mut enforcer, now).await
    };
    if process::is_root() {
        look_at_sessions(status, &enforcer, now);
        ask_sshd(status, &enforcer, now).await;
    }
    status.weigh_access();
    Ok(unverified)
}

/// Where nothing is in force, compares the files with the stored list, as the enforcer does in observe mode.
async fn compare(status: &mut Status, enforcer: &mut Enforcer, now: Timestamp) -> Option<String> {
    let terms = Terms {
        trigger: Trigger::Timer,
        only: None,
        list: List::Stored,
        accepted: None,
        watches: None,
        consults: false,
        publish: false,
        alive: &|| (),
        now,
    };
    enforcer.pass(terms, |_| {}).await;
    let mut unverified = None;
    let mut grants = enforcer.grants();
    for (name, row) in &enforcer.status().accounts {
        if row.state == AccountState::Refused && !process::is_root() {
            unverified.clone_from(&row.reason);
            continue;
        }
        let keys = grants
            .remove(name)
            .unwrap_or_default()
            .iter()
            .map(Into::into)
            .collect();
        let wrong = match row.state {
            AccountState::Refused | AccountState::Drifted => true,
            AccountState::Held => !enforcer.enforces(name),
            AccountState::InSync | AccountState::NoAccount | AccountState::Unmanaged => false,
        };
        status.take_problem(name, row.state, row.reason.as_deref().filter(|_| wrong));
        status.accounts.insert(
            name.clone(),
            AccountStatus {
                verified: true,
                keys,
                ..row.clone()
            },
        );
    }
    let unseen = status.accounts.values().any(|account| !account.verified);
    unverified.or_else(|| unseen.then(|| "what is stored cannot be read".to_owned()))
}

/// Looks at the files now. What differs this very moment is said, whatever the enforcer said before.
async fn verify(status: &mut Status, enforcer: &mut Enforcer, now: Timestamp) -> Option<String> {
    let mut unverified = None;
    let seen = enforcer.verify(now).await;
    for (name, seen, others) in seen {
        let Some(account) = status.accounts.get_mut(&name) else {
            continue;
        };
        let (others, left, refused) = others.describe();
        account
            .other_files
            .retain(|other| other.found.error.is_some() && !others.is_empty());
        account.other_files.extend(left);
        let seen = match (seen, refused) {
            (Found::InSync, Some(reason)) => Found::Refused {
                reason,
                differences: others,
                began: false,
            },
            (Found::InSync, None) if !others.is_empty() => Found::Differs(others),
            (Found::Differs(differences), _) => Found::Differs([differences, others].concat()),
            (seen, _) => seen,
        };
        let (state, reason) = match seen {
            Found::InSync => (AccountState::InSync, None),
            Found::Differs(differences) | Found::Replaced { differences, .. } => (
                AccountState::Drifted,
                Some(events::changes(&differences).join(", ")),
            ),
            Found::Refused { reason, .. } if !process::is_root() => {
                unverified = Some(reason);
                continue;
            }
            Found::Refused { reason, .. } => (AccountState::Refused, Some(reason)),
            Found::Hanging => (
                AccountState::Refused,
                Some("its file system does not answer".to_owned()),
            ),
        };
        account.verified = true;
        // Why it is held, or could not be brought in line, only the enforcer knows.
        let known = match account.state {
            AccountState::Held => state == AccountState::InSync,
            AccountState::Refused => state == AccountState::Drifted,
            _ => false,
        };
        if known {
            continue;
        }
        let verdict = (state, reason.clone());
        (account.state, account.reason) = (state, reason);
        status.take_problem(&name, verdict.0, verdict.1.as_deref());
    }
    unverified
}

/// Asks sshd what it makes of the files, and looks for keys that are nobody's business. For root only: what the
/// enforcer was told stays where it says nothing now.
async fn ask_sshd(status: &mut Status, enforcer: &Enforcer, now: Timestamp) {
    let others = accounts::local();
    let Some(answer) = sshd::ask_within_patience(enforcer.people(), others.clone()).await else {
        let late = "it has not answered in time".to_owned();
        status.sshd = status.sshd.take().map(|known| SshdStatus {
            error: Some(late),
            ..known
        });
        return;
    };
    status.sshd = Some(answer.describe(now));
    let ours = |row: &AccountStatus| match row.state {
        AccountState::InSync | AccountState::Drifted | AccountState::Refused => true,
        AccountState::Held => enforcer.enforces(&row.name),
        AccountState::NoAccount | AccountState::Unmanaged => false,
    };
    for row in status.accounts.values_mut() {
        row.access = enforcer
            .access(&answer, &row.name, row.state, &row.other_files)
            .map(Arc::new);
    }
    let managed = |name: &AccountName| status.accounts.get(name).is_some_and(ours);
    let found = unmanaged::look(&answer, others, managed);
    let mut files = found.files;
    for file in &mut files {
        let name = AccountName::try_from(file.name.as_str());
        file.awaits_list = name.is_ok_and(|name| enforcer.claims(&name, file.uid));
    }
    (status.unmanaged, status.unmanaged_cut) = (Some(files), found.cut);
}

/// Asks for live sessions again; where the host does not say, the enforcer's word stays.
fn look_at_sessions(status: &mut Status, enforcer: &Enforcer, now: Timestamp) {
    let Some(sessions) = enforcer.sessions_now(now) else {
        return;
    };
    let before: Vec<String> = status.sessions.iter().map(sessions::problem).collect();
    status.problems.retain(|problem| !before.contains(problem));
    status
        .problems
        .extend(sessions.iter().map(sessions::problem));
    status.sessions = sessions;
}

/// What the fetcher says; and why that is not known. Its own directory may be for root alone (`DynamicUser=`): then what the
/// enforcer has passed on.
fn add_fetch(status: &mut Status, config: &Config, now: Timestamp) -> Option<String> {
    let (report, seen) = match read_report(config) {
        Ok(read) => read,
        Err(error) if error.is_denied() => {
            add_age(&mut status.list, now);
            return Some(events::chain(&error));
        }
        Err(error) => {
            status.problems.push(events::chain(&error));
            (None, Seen::Here)
        }
    };
    let next = report.as_ref().and_then(|report| report.next_attempt);
    let confirmed = report.and_then(|report| {
        let confirmed = report.last_success;
        add_report(status, report, now);
        confirmed
    });
    let running = match seen {
        Seen::Here => process::holder(&files::fetch_lock(&config.paths)).is_some(),
        Seen::PassedOn => next.is_none_or(|at| now.duration_since(at) < FETCHED_WITHIN),
    };
    if !running {
        let problem = match seen {
            Seen::Here => "no fetcher is running, so no change of the list arrives".to_owned(),
            Seen::PassedOn => "the fetcher has not tried when it was to: is it running?".to_owned(),
        };
        status.problems.push(problem);
    }
    add_age(&mut status.list, now);
    let age = confirmed
        .or(status.list.fetched_at)
        .map(|at| now.duration_since(at));
    if let Some(age) =
        age.filter(|age| age.unsigned_abs() > config.source.stale_after && age.is_positive())
    {
        let limit = i64::try_from(config.source.stale_after.as_secs()).unwrap_or(i64::MAX);
        status.problems.push(format!(
            "the list is stale: no fetch has confirmed it for {} (`stale-after` is {})",
            duration(age.as_secs()),
            duration(limit)
        ));
    }
    None
}

/// By whom a report was read.
#[derive(Clone, Copy)]
enum Seen {
    Here,
    PassedOn,
}

fn read_report(config: &Config) -> Result<(Option<FetchReport>, Seen), StoreError> {
    match store::read_json(&files::fetch_report(&config.paths)) {
        Err(error) if error.is_denied() => {
            let copy = store::read_json(&files::fetch_report_copy(&config.paths))?;
            copy.map(|report| (Some(report), Seen::PassedOn))
                .ok_or(error)
        }
        read => read.map(|report| (report, Seen::Here)),
    }
}

fn add_report(status: &mut Status, report: FetchReport, now: Timestamp) {
    let list = &mut status.list;
    list.source = Some(report.source);
    // The stored list was found so at the last good fetch.
    if report.digest == list.digest {
        list.fetched_at = report.last_success.or(list.fetched_at);
    }
    let found = report
        .last_success
        .filter(|_| report.digest.is_some() && report.digest != list.digest);
    if found.is_some_and(|at| now.duration_since(at) > ENFORCED_WITHIN) {
        let problem = "the list that was fetched is not the one the enforcer speaks of";
        status.problems.push(problem.to_owned());
    }
    list.error.clone_from(&report.error);
    list.next_fetch_at = report.next_attempt;
    if let Some(error) = report.error {
        let hint = report
            .hint
            .map(|hint| format!("; hint: {hint}"))
            .unwrap_or_default();
        status
            .problems
            .push(format!("the last fetch failed: {error}{hint}"));
    }
}

fn add_age(list: &mut ListStatus, now: Timestamp) {
    list.age_seconds = list
        .fetched_at
        .map(|at| now.duration_since(at).as_secs().max(0));
}

/// For people.
fn describe(status: &Status, unverified: Option<&str>, now: Timestamp) -> String {
    let mut text = String::new();
    let t = &mut text;
    let _ = writeln!(
        t,
        "{} (mode {}, version {})",
        status.health.as_str(),
        status.mode,
        status.version
    );
    for problem in &status.problems {
        let _ = writeln!(t, "  ! {}", escaped(problem));
    }
    for warning in &status.warnings {
        let _ = writeln!(t, "  ~ {}", escaped(warning));
    }
    let list = &status.list;
    let source = list.source.as_deref().unwrap_or("none yet");
    let _ = writeln!(t, "\nlist     {}", escaped(source));
    if let Some(digest) = &list.digest {
        let short: String = digest.chars().take(19).collect();
        let parameters = count(list.parameters, "parameter");
        let age = list
            .age_seconds
            .map(|age| format!(", confirmed {} ago", duration(age)))
            .unwrap_or_default();
        let _ = writeln!(t, "         {parameters}, {short}…{age}");
    }
    if let Some(next) = list.next_fetch_at {
        let _ = writeln!(
            t,
            "         next fetch in {}",
            duration(next.duration_since(now).as_secs().max(0))
        );
    }
    for account in status.accounts.values() {
        describe_account(t, account, now);
    }
    if !status.rejected.is_empty() {
        let _ = writeln!(t, "\nrejected");
        for rejected in &status.rejected {
            let version = rejected
                .parameter_version
                .map(|v| format!(" version {v}"))
                .unwrap_or_default();
            // The value as a whole has no line.
            let line = if rejected.line == 0 {
                String::new()
            } else {
                format!(" line {}", rejected.line)
            };
            let _ = writeln!(t, "  {}{version}{line}", escaped(&rejected.parameter));
            let _ = writeln!(t, "    {}", escaped(&rejected.reason));
        }
    }
    if !status.sessions.is_empty() {
        let _ = writeln!(t, "\nsessions opened with a key that is not approved");
    }
    for session in &status.sessions {
        let from = session
            .from
            .as_deref()
            .map(|from| format!(" from {}", escaped(from)))
            .unwrap_or_default();
        let since = session
            .since
            .map(|since| format!(" since {since:.0}"))
            .unwrap_or_default();
        let (account, id, leader) = (&session.account, escaped(&session.id), session.leader);
        let _ = writeln!(t, "  {account}  session {id}, pid {leader}{from}{since}");
        let _ = writeln!(t, "    {}", escaped(&session.fingerprint));
    }
    describe_unmanaged(t, status);
    describe_sshd(t, status, now);
    let drift = &status.drift;
    let _ = writeln!(
        t,
        "drift    {} undone",
        count(
            usize::try_from(drift.repaired).unwrap_or(usize::MAX),
            "change"
        )
    );
    if let Some(last) = &drift.last {
        let ago = duration(now.duration_since(last.at).as_secs().max(0));
        let _ = writeln!(
            t,
            "         last {ago} ago, {}: {}",
            last.account,
            escaped(&last.changes.join(", "))
        );
    }
    if let Some(why) = unverified {
        let age = duration(
            now.duration_since(status.enforcer.written_at)
                .as_secs()
                .max(0),
        );
        let _ = writeln!(
            t,
            "\nfiles without `looked at just now` are as the enforcer last said, {age} ago and unchanged since:"
        );
        let _ = writeln!(t, "{}; run this as root to look now", escaped(why));
    }
    text
}

fn describe_account(t: &mut String, account: &AccountStatus, now: Timestamp) {
    let file = account.file.as_deref().unwrap_or("");
    let looked = if account.verified {
        ", looked at just now"
    } else {
        ""
    };
    let access = account.access.as_deref();
    let verdict = access.filter(|access| access.verdict != Verdict::Unknown);
    let verdict = verdict.map(|access| match access.verdict {
        Verdict::Refused => ", refused by sshd".to_owned(),
        verdict => format!(", {}", verdict.as_str()),
    });
    let verdict = verdict.unwrap_or_default();
    let _ = writeln!(
        t,
        "\n{}  {}{looked}{verdict}  {}",
        account.name,
        account.state.as_str(),
        escaped(file)
    );
    if let Some(reason) = &account.reason {
        let _ = writeln!(t, "  {}", escaped(reason));
    }
    if let Some(reason) = access.and_then(|access| access.reason.as_ref()) {
        let _ = writeln!(t, "  sshd: {}", escaped(reason));
    }
    for door in access.iter().flat_map(|access| &access.doors) {
        let name = door
            .name
            .as_ref()
            .map(|name| format!(" ({name})"))
            .unwrap_or_default();
        let accepted = match (door.accepted, door.guarded) {
            (true, _) => ", accepted",
            (false, true) => ", guarded: taken away when it comes",
            (false, false) => "",
        };
        let _ = writeln!(
            t,
            "  door: {} {}{}{accepted}",
            door.kind.as_str(),
            escaped(&door.detail),
            name
        );
    }
    for other in &account.other_files {
        let _ = writeln!(t, "  other file: {}", escaped(&other.file));
        super::describe_keys(t, "    ", &other.found);
    }
    for key in &account.keys {
        let expires = match key.expires_at {
            Some(at) => format!(
                ", expires in {}",
                duration(at.duration_since(now).as_secs().max(0))
            ),
            None => String::new(),
        };
        let _ = writeln!(
            t,
            "  {} {} {}",
            key.fingerprint,
            key.algorithm,
            escaped(&key.comment)
        );
        let _ = writeln!(t, "    {}{expires}", super::provenance(key));
    }
}

fn describe_unmanaged(t: &mut String, status: &Status) {
    let files = status.unmanaged.as_deref().unwrap_or_default();
    let (awaiting, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.awaits_list);
    for (title, files) in [
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
        } in files
        {
            let _ = writeln!(t, "{name}  uid {uid}  {}", escaped(file));
            super::describe_keys(t, "  ", found);
        }
    }
    if status.unmanaged_cut {
        let _ = writeln!(t, "and more, which are not listed");
    }
}

fn describe_sshd(t: &mut String, status: &Status, now: Timestamp) {
    let _ = writeln!(t);
    let Some(sshd) = &status.sshd else { return };
    let version = sshd
        .version
        .as_ref()
        .map(|version| format!("OpenSSH {version}, "));
    let path = sshd.path.as_deref().unwrap_or("none on this host");
    let ago = match duration(now.duration_since(sshd.asked_at).as_secs().max(0)).as_str() {
        "0 s" => "just now".to_owned(),
        ago => format!("{ago} ago, nothing has changed since"),
    };
    let _ = writeln!(
        t,
        "sshd     {}{}, asked {ago}",
        version.unwrap_or_default(),
        escaped(path)
    );
    if sshd.unasked > 0 {
        let accounts = count(sshd.unasked, "account");
        let _ = writeln!(
            t,
            "         not asked about {accounts}, as its configuration has a `Match`"
        );
    }
}
