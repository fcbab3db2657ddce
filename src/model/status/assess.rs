//! From what is decided, done and remembered to the status: the only place where one is made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Config, Mode};
use crate::model::desired::decide::{Decision, manages};
use crate::model::file::difference::{Difference, in_words};
use crate::model::file::orders::Unworkable;
use crate::model::file::other_files::{OtherFile, OtherFiles};
use crate::model::file::wanted::Wanted;
use crate::model::key::id::KeyId;
use crate::model::list::fetch_report::FetchReport;
use crate::model::past::evidence::digest;
use crate::model::past::memory::Memory;
use crate::model::past::outcome::{Did, Outcome};
use crate::model::people::{Lookup, People};
use crate::model::session::Session;
use crate::model::sshd::access::{self, Access, Facts};
use crate::model::sshd::answer::Answer;
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{
    AccountState, Enforcer, Host, KeyStatus, ListStatus, REMOVED, Row, Rows, SCHEMA, SshdStatus,
    Status, keys,
};

/// What is known between the looks at the files.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub config: &'a Config,
    pub decision: &'a Decision,
    pub people: &'a People,
    /// What sshd said, and when.
    pub sshd: Option<(&'a Answer, Timestamp)>,
    pub now: Timestamp,
}

/// What the enforcer alone knows.
#[derive(Clone, Debug)]
pub struct OfEnforcer {
    pub host: Host,
    pub enforcer: Enforcer,
    /// What keeps it from doing its job, besides what everybody can see.
    pub problems: Vec<Problem>,
    pub sessions: Vec<Session>,
}

/// What is known of the fetcher.
#[derive(Clone, Debug)]
pub struct OfFetcher {
    pub report: Option<FetchReport>,
    /// `None` where this user may not know.
    pub runs: Option<bool>,
    pub unreadable: Option<String>,
}

/// A fetched list is looked at by the enforcer long before this.
const ENFORCED_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// When an attempt is due it has begun by then, and ended.
const FETCHED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// Judgements that many accounts share are kept once.
#[derive(Debug, Default)]
pub struct Judgements(Vec<Arc<Access>>);

impl Judgements {
    fn share(&mut self, access: Access) -> Arc<Access> {
        const KINDS: usize = 16;
        if let Some(known) = self.0.iter().find(|known| ***known == access) {
            return Arc::clone(known);
        }
        let access = Arc::new(access);
        if self.0.len() < KINDS {
            self.0.push(Arc::clone(&access));
        }
        access
    }
}

/// The row of an account whose files were worked on; `None` where nothing is to be said of it.
pub fn row(
    known: Known<'_>,
    outcome: &Outcome,
    before: Option<&Row>,
    judgements: &mut Judgements,
) -> Option<Row> {
    if let (Did::NotAllowed { .. }, Some(before)) = (&outcome.managed.did, before) {
        return Some(before.clone());
    }
    let (mut state, mut why) = state(known, outcome)?;
    let mut other_files = outcome.left.clone();
    if let Some(before) = before
        && known.config.mode == Mode::Enforce
        && state == AccountState::Drifted
        && matches!(before.why, Some(Cause::FileRefused { .. }))
    {
        // Whoever only looks sees that it differs; why it could not be brought in line, the enforcer has found out.
        state = before.state;
        why.clone_from(&before.why);
        if !outcome.others.is_empty() {
            let stuck = before
                .other_files
                .iter()
                .filter(|other| other.found.error.is_some());
            other_files.extend(stuck.cloned());
        }
    }
    let orders = &outcome.orders;
    let name = &orders.account.name;
    let content_digest = match &orders.managed.wanted {
        Wanted::Lines(lines) => Some(digest(&lines.content)),
        Wanted::Nothing => None,
    };
    let mut row = Row {
        file: Some(orders.managed.target.location.path.display().to_string()),
        uid: Some(orders.account.uid),
        content_digest,
        other_files,
        verified: !matches!(outcome.managed.did, Did::Hanging | Did::NotAllowed { .. }),
        keys: keys_in_file(known, outcome),
        loose: outcome.loose.clone().map(Box::new),
        ..blank(name, state, why)
    };
    let was_replaced = matches!(outcome.managed.did, Did::Replaced { .. })
        && !outcome.managed.differences.is_empty();
    let mut others = outcome.others.iter();
    let other_was_removed = others.any(|(_, other)| matches!(other.did, Did::Removed { .. }));
    if was_replaced {
        row.changed_at = Some(known.now);
        row.removed_keys = removed_keys(&outcome.managed.differences);
    } else if other_was_removed {
        row.changed_at = Some(known.now);
    } else if let Some(before) = before {
        (row.changed_at, row.removed_keys) = (before.changed_at, before.removed_keys.clone());
    }
    row.access = match (known.sshd, before) {
        // Nobody asked; what was said last stays.
        (None, Some(before)) => before.access.clone(),
        _ => access(known, &row).map(|access| judgements.share(access)),
    };
    Some(row)
}

/// In observe mode the keys in force need not be those of a file that differs; these are.
fn keys_in_file(known: Known<'_>, outcome: &Outcome) -> Option<Vec<KeyStatus>> {
    if known.config.mode == Mode::Enforce || outcome.managed.did != Did::Reported {
        return None;
    }
    let differences = &outcome.managed.differences;
    let mut keys = keys(known.decision, &outcome.orders.account.name, known.now);
    for difference in differences {
        match difference {
            Difference::Missing | Difference::Kind(_) | Difference::Unreadable => keys.clear(),
            Difference::Removed(gone) => {
                keys.retain(|known| known.key.fingerprint != gone.fingerprint);
            }
            Difference::Added(key) => keys.push(KeyStatus {
                key: key.clone(),
                parameter: String::new(),
                parameter_version: None,
                parameter_modified_at: None,
                expires_at: None,
            }),
            _ => {}
        }
    }
    Some(keys)
}

fn removed_keys(differences: &[Difference]) -> Vec<KeyId> {
    let removed = differences
        .iter()
        .filter_map(|difference| match difference {
            Difference::Added(key) => Some(key.clone()),
            _ => None,
        });
    removed.take(REMOVED).collect()
}

fn blank(name: &AccountName, state: AccountState, why: Option<Cause>) -> Row {
    Row {
        name: name.clone(),
        uid: None,
        file: None,
        state,
        why,
        changed_at: None,
        removed_keys: Vec::new(),
        content_digest: None,
        access: None,
        other_files: Vec::new(),
        keys: None,
        verified: true,
        loose: None,
    }
}

fn state(known: Known<'_>, outcome: &Outcome) -> Option<(AccountState, Option<Cause>)> {
    let managed = &outcome.managed;
    if !outcome.orders.listed {
        let has_keys = managed.differences.iter().any(Difference::held_a_key);
        return match managed.did.refusal() {
            Some(_) => None,
            None => Some((
                AccountState::NotListed,
                has_keys.then_some(Cause::NotListed),
            )),
        };
    }
    if let Some(reason) = managed.did.refusal() {
        let reason = reason.to_owned();
        return Some((AccountState::Refused, Some(Cause::FileRefused { reason })));
    }
    let mut differing = match managed.did {
        Did::Reported => managed.differences.clone(),
        _ => Vec::new(),
    };
    if differing.is_empty()
        && let Some(reason) = outcome.other_refused()
    {
        return Some((AccountState::Refused, Some(Cause::FileRefused { reason })));
    }
    if !outcome.guards {
        differing.extend(outcome.other_differences());
    }
    if !differing.is_empty() {
        let changes = in_words(&differing).join(", ");
        return Some((AccountState::Drifted, Some(Cause::FileDrifted { changes })));
    }
    if known.decision.is_held_back(&outcome.orders.account.name) {
        return Some((AccountState::Held, Some(Cause::HeldBack)));
    }
    Some((AccountState::InSync, None))
}

/// The row of a managed account on whose file no work can be done.
pub fn unworkable_row(
    known: Known<'_>,
    name: &AccountName,
    why: &Unworkable,
    before: Option<&Row>,
) -> Row {
    let reason = why.in_words();
    let cause = Cause::FileRefused { reason };
    let account = known.people.account(name);
    let location = account.and_then(|account| known.config.accounts.file.locate(account));
    Row {
        uid: account.map(|account| account.uid),
        file: location.map(|location| location.path.display().to_string()),
        changed_at: before.and_then(|before| before.changed_at),
        ..blank(name, AccountState::Refused, Some(cause))
    }
}

/// The rows of accounts that the list or the state names and on which there is no work.
pub fn passive_rows(known: Known<'_>) -> Vec<Row> {
    let Known {
        decision,
        people,
        config,
        ..
    } = known;
    let mut rows = Vec::new();
    let gone = decision.in_force.accounts.keys();
    let names: BTreeSet<&AccountName> = gone.chain(&decision.strangers).collect();
    for name in names {
        let (state, why) = match people.lookup(name) {
            Some(Lookup::Unknown) => (AccountState::NoAccount, None),
            Some(Lookup::Found(account)) if is_stranger(decision, name) => {
                if !manages(config, people, &decision.in_force, name) {
                    let is_system = account.uid < people.uid_min;
                    let uid_min = is_system.then_some(people.uid_min);
                    (AccountState::Unmanaged, Some(Cause::NotManaged { uid_min }))
                } else if decision.held.is_some() {
                    (AccountState::Held, Some(Cause::HeldBack))
                } else {
                    (AccountState::Held, Some(Cause::NothingUsable))
                }
            }
            _ => continue,
        };
        let account = people.account(name);
        let location = account.and_then(|account| config.accounts.file.locate(account));
        rows.push(Row {
            uid: account.map(|account| account.uid),
            file: location.map(|location| location.path.display().to_string()),
            ..blank(name, state, why)
        });
    }
    rows
}

fn is_stranger(decision: &Decision, name: &AccountName) -> bool {
    decision.strangers.binary_search(name).is_ok()
}

/// True while the list, the state or the config speaks of the account of a row.
pub fn is_spoken_of(known: Known<'_>, row: &Row) -> bool {
    let named = row.state == AccountState::NotListed
        && known
            .config
            .accounts
            .named()
            .any(|named| *named == row.name);
    named
        || known.decision.in_force.accounts.contains_key(&row.name)
        || is_stranger(known.decision, &row.name)
}

/// Judges anew what sshd makes of the file of every row.
pub fn judge_all(known: Known<'_>, rows: &mut Rows, judgements: &mut Judgements) {
    *judgements = Judgements::default();
    let names: Vec<AccountName> = rows.names().cloned().collect();
    for name in names {
        let Some(mut row) = rows.remove(&name) else {
            continue;
        };
        row.access = access(known, &row).map(|access| judgements.share(access));
        rows.insert(row);
    }
}

/// What sshd makes of the file of an account; `None` until it was asked, and where there is no file of ours.
fn access(known: Known<'_>, row: &Row) -> Option<Access> {
    let (answer, _) = known.sshd?;
    let account = known.people.account(&row.name)?;
    let location = known.config.accounts.file.locate(account)?;
    match row.state {
        AccountState::NoAccount | AccountState::Unmanaged | AccountState::NotListed => return None,
        AccountState::Held if is_stranger(known.decision, &row.name) => return None,
        AccountState::Refused if !is_in_the_way(known, account, &location.path, row) => {
            return Some(Access::unknown("its file is not as it should be"));
        }
        // Refused for the sake of another file, its own is as it should be.
        AccountState::Refused
        | AccountState::InSync
        | AccountState::Drifted
        | AccountState::Held => {}
    }
    let settings = match answer.settings(&row.name) {
        Ok(settings) => settings,
        Err(reason) => return Some(Access::unknown(reason)),
    };
    let in_force = &known.decision.in_force;
    let grants = known.decision.grants_of(&row.name);
    let facts = Facts {
        account,
        managed: &location.path,
        guarded: &guarded(known, account, &location.path, &row.other_files),
        doubt: answer.doubts().next(),
        openssh: answer.version.or(in_force.openssh),
        // Expired or not: sshd's reasons to refuse a key are others.
        keys: &grants
            .iter()
            .chain(&in_force.break_glass)
            .collect::<Vec<_>>(),
        groups: answer.groups(&row.name),
        loose: row.loose.as_deref(),
        private_groups: answer.private_groups,
    };
    Some(access::judge(
        settings,
        facts,
        &known.config.accounts.accepted_doors,
    ))
}

/// The other files by which nobody gets in, since they are taken away when they come.
fn guarded(
    known: Known<'_>,
    account: &Account,
    managed: &Path,
    left: &[OtherFile],
) -> Vec<PathBuf> {
    let state = known.decision.in_force.accounts.get(&account.name);
    let guards = known.config.mode == Mode::Enforce
        && known.config.accounts.removes_other_files()
        && state.is_some_and(|account| account.alone);
    if !guards {
        return Vec::new();
    }
    let all = in_home(known, account, managed).into_iter();
    let is_left = |path: &PathBuf| left.iter().any(|left| Path::new(&left.file) == path);
    all.filter(|path| !is_left(path)).collect()
}

/// Other files in the home that are looked for, whatever sshd has begun to read since.
fn in_home(known: Known<'_>, account: &Account, managed: &Path) -> Vec<PathBuf> {
    let entries = known.decision.in_force.sshd_reads(&account.name);
    let others = OtherFiles::of(entries.unwrap_or_default(), account, managed);
    others
        .in_home
        .into_iter()
        .map(|location| location.path)
        .collect()
}

/// True where an account is refused for the sake of one of its other files, and not for its own.
fn is_in_the_way(known: Known<'_>, account: &Account, managed: &Path, row: &Row) -> bool {
    let in_home = in_home(known, account, managed);
    let is_there = |file: &str| in_home.iter().any(|path| path == Path::new(file));
    let mut others = row.other_files.iter();
    others.any(|other| other.found.error.is_some() && is_there(&other.file))
}

/// The status of the host, with these rows.
pub fn status(known: Known<'_>, of: OfEnforcer, memory: &Memory, rows: Rows) -> Status {
    let decision = known.decision;
    let mut rejected = decision.rejected.clone();
    rejected.extend(decision.break_glass_rejected.iter().cloned());
    let mut problems = of.problems;
    problems.extend(decision.troubles.iter().cloned().map(Problem::from));
    problems.extend(
        decision
            .held
            .clone()
            .map(|held| Problem::new(Cause::ListHeld(held))),
    );
    problems.extend(of.sessions.iter().map(session_problem));
    if !rejected.is_empty() {
        let lines = rejected.len();
        problems.push(Problem::new(Cause::LinesRejected { lines }));
    }
    problems.extend(
        known
            .sshd
            .iter()
            .flat_map(|(answer, _)| sshd_problems(answer)),
    );
    let list = ListStatus {
        listed: decision.list.clone(),
        held: decision.held.clone(),
        ..ListStatus::default()
    };
    Status {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: of.host,
        mode: known.config.mode.as_str().to_owned(),
        problems,
        list,
        rows,
        rejected,
        drift: memory.drift.clone(),
        sshd: known.sshd.map(|(answer, at)| sshd_status(answer, at)),
        unmanaged: None,
        unmanaged_cut: false,
        sessions: of.sessions,
        enforcer: of.enforcer,
    }
}

/// The status of a host of which nothing is known.
pub fn nothing_known(config: &Config, of: OfEnforcer) -> Status {
    let known = Known {
        config,
        decision: &Decision::default(),
        people: &People::default(),
        sshd: None,
        now: of.enforcer.written_at,
    };
    status(known, of, &Memory::default(), Rows::default())
}

fn session_problem(session: &Session) -> Problem {
    Problem::of(&session.account, Cause::Session(session.clone()))
}

/// What of sshd is not known or not judged.
pub fn sshd_problems(answer: &Answer) -> Vec<Problem> {
    let mut all: Vec<Problem> = Vec::new();
    if let Some(error) = answer.error.clone() {
        all.push(Problem::new(Cause::SshdSilent { error }));
    }
    all.extend(
        answer
            .doubts()
            .map(|doubt| Problem::new(Cause::SshdDoubt(doubt))),
    );
    for command in answer.others.iter().cloned() {
        all.push(Problem::new(Cause::OtherSshd { command }));
    }
    all
}

fn sshd_status(answer: &Answer, asked_at: Timestamp) -> SshdStatus {
    SshdStatus {
        version: answer.version.map(|version| version.to_string()),
        path: answer.path.as_ref().map(|path| path.display().to_string()),
        asked_at,
        error: answer.error.clone(),
        unasked: answer.unasked,
    }
}

/// What rivals there are, for the enforcer's own problems.
pub fn rivals(memory: &Memory, program: impl Fn(&AccountName) -> Option<String>) -> Vec<Problem> {
    let all = memory.rivals().map(|(account, rival)| {
        let cause = Cause::Rival {
            program: program(account),
            times: rival.times,
            since: rival.since,
        };
        Problem::of(account, cause)
    });
    all.collect()
}

/// Adds what is known of the fetcher, as it is at the moment somebody asks.
pub fn add_fetcher(status: &mut Status, of: OfFetcher, config: &Config, now: Timestamp) {
    let mut add = |cause| status.problems.push(Problem::new(cause));
    if let Some(error) = of.unreadable {
        add(Cause::FetchReportUnreadable { error });
    }
    let next = of.report.as_ref().and_then(|report| report.next_attempt);
    let late = next.is_some_and(|at| now.duration_since(at) >= FETCHED_WITHIN);
    match of.runs {
        Some(false) => add(Cause::NoFetcher),
        None if late => add(Cause::FetcherLate),
        Some(true) | None => {}
    }
    let list = &mut status.list;
    let digest = list.listed.as_ref().map(|listed| &listed.digest);
    list.confirmed_at = list.listed.as_ref().map(|listed| listed.fetched_at);
    let mut last_success = None;
    if let Some(report) = of.report {
        last_success = report.last_success;
        // The stored list was found so at the last good fetch.
        let is_the_same = report.digest.as_ref() == digest;
        if is_the_same {
            list.confirmed_at = report.last_success.or(list.confirmed_at);
        }
        let other = report.digest.is_some() && !is_the_same;
        let long_ago = |at: Timestamp| now.duration_since(at) > ENFORCED_WITHIN;
        if other && report.last_success.is_some_and(long_ago) {
            add(Cause::ListUnenforced);
        }
        list.next_fetch_at = report.next_attempt;
        list.error.clone_from(&report.error);
        list.source = Some(report.source);
        if let Some(error) = report.error {
            add(Cause::FetchFailed {
                error,
                hint: report.hint,
            });
        }
    } else {
        list.source = list.listed.as_ref().map(|listed| listed.source.clone());
    }
    let confirmed = last_success.or(list.confirmed_at);
    let Some(age) = confirmed.map(|at| now.duration_since(at)) else {
        return;
    };
    let limit = config.source.stale_after;
    if age.is_positive() && age.unsigned_abs() > limit {
        status.problems.push(Problem::new(Cause::ListStale {
            seconds: age.as_secs(),
            limit: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        }));
    }
}
