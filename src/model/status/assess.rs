//! From what is decided, done and remembered to the status: the only place where one is made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Config, Mode};
use crate::model::desired::decide::{Decision, Trouble, manages};
use crate::model::file::difference::{Difference, in_short, in_words};
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
use crate::model::sorting::Gather;
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

/// When an attempt is due it has begun by then, and ended: one takes a minute at most.
const FETCHED_WITHIN: SignedDuration = SignedDuration::from_secs(75);

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
    if matches!(outcome.managed.did, Did::NotAllowed { .. })
        && (before.is_some() || !outcome.orders.listed)
    {
        return before.cloned();
    }
    let (mut state, mut why) = state(known, outcome);
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
        buried: known.decision.tombstones.contains(name),
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
    if known.config.mode == Mode::Enforce {
        // Who only looks takes no lease, and so does not find out.
        let before = before.and_then(|before| before.writes_prevented);
        row.writes_prevented = outcome.writes_prevented.or(before);
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
        writes_prevented: None,
        keys: None,
        buried: false,
        verified: true,
        loose: None,
    }
}

fn state(known: Known<'_>, outcome: &Outcome) -> (AccountState, Option<Cause>) {
    let managed = &outcome.managed;
    let refused = match &managed.did {
        Did::OnOwnMount(mount) => Some(Cause::OwnMount(mount.clone())),
        did => did.refusal().map(|reason| Cause::FileRefused {
            reason: reason.to_owned(),
            hint: did.hint().map(str::to_owned),
        }),
    };
    if !outcome.orders.listed {
        // What cannot be looked at may have keys.
        let has_keys = managed.differences.iter().any(Difference::held_a_key);
        let why = refused.or(has_keys.then_some(Cause::NotListed));
        return (AccountState::NotListed, why);
    }
    if refused.is_some() {
        return (AccountState::Refused, refused);
    }
    if outcome.orders.stays {
        let account = known
            .decision
            .in_force
            .accounts
            .get(&outcome.orders.account.name);
        let lines = account.map_or(0, |account| account.obscure);
        return (AccountState::Held, Some(Cause::FilesStay { lines }));
    }
    let mut differing = match managed.did {
        Did::Reported => managed.differences.clone(),
        _ => Vec::new(),
    };
    if differing.is_empty()
        && let Some(reason) = outcome.other_refused()
    {
        let hint = outcome.other_hint().map(str::to_owned);
        let cause = Cause::FileRefused { reason, hint };
        return (AccountState::Refused, Some(cause));
    }
    if !outcome.guards {
        differing.extend(outcome.other_differences());
    }
    if !differing.is_empty() {
        let drifted = Cause::FileDrifted {
            changes: in_words(&differing),
            in_short: in_short(&differing),
        };
        return (AccountState::Drifted, Some(drifted));
    }
    if known.decision.is_held_back(&outcome.orders.account.name) {
        return (AccountState::Held, Some(Cause::HeldBack));
    }
    (AccountState::InSync, None)
}

/// The row of a managed account on whose file no work can be done.
pub fn unworkable_row(
    known: Known<'_>,
    name: &AccountName,
    why: &Unworkable,
    before: Option<&Row>,
) -> Row {
    let cause = Cause::FileRefused {
        reason: why.in_words(),
        hint: Some(why.hint(name)),
    };
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
    let names: BTreeSet<&AccountName> = gone.chain(&decision.strangers).gather();
    for name in names {
        let (state, why) = match people.lookup(name) {
            Some(Lookup::Unknown) => (AccountState::NoAccount, None),
            Some(Lookup::Failed(error))
                if is_stranger(decision, name)
                    && manages(config, people, &decision.in_force, name) =>
            {
                let why = Unworkable::LookupFailed(error.clone());
                rows.push(unworkable_row(known, name, &why, None));
                continue;
            }
            Some(Lookup::Found(account)) if is_stranger(decision, name) => {
                if !manages(config, people, &decision.in_force, name) {
                    let is_system = account.uid < people.uid_min;
                    let uid_min = is_system.then_some(people.uid_min);
                    (AccountState::Unmanaged, Some(Cause::NotManaged { uid_min }))
                } else if let Some(reason) = decision.unlooked.get(name) {
                    let cause = Cause::FileRefused {
                        reason: reason.clone(),
                        hint: None,
                    };
                    (AccountState::Refused, Some(cause))
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
    let vanished = known.people.vanished.iter();
    let vanished = vanished.filter(|name| decision.speaks_of(name));
    problems.extend(vanished.map(|name| Problem::of(name, Cause::Vanished)));
    let (private, of_list): (Vec<_>, Vec<_>) = decision
        .rejected
        .iter()
        .partition(|one| one.is_private_key());
    if let Some(first) = private.first() {
        let (place, more) = (first.place(), private.len() - 1);
        problems.push(Problem::new(Cause::PrivateKey { place, more }));
    }
    let is_told = |trouble| matches!(trouble, &Trouble::BreakGlassRefused { .. });
    let of_break_glass = if decision.troubles.iter().any(is_told) {
        0
    } else {
        decision.break_glass_rejected.len()
    };
    let lines = of_list.len() + of_break_glass;
    if lines > 0 {
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
        in_force: decision.in_force.list.clone(),
        held: decision.held.clone(),
        signed: decision.in_force.signed.clone(),
        refused_since: decision.in_force.refused_since,
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

/// Which accounts fight, for the enforcer's own problems.
pub fn fights(memory: &Memory) -> Vec<Problem> {
    let all = memory.fights.all().map(|(account, fight)| {
        let cause = Cause::Fight {
            times: fight.times,
            until: fight.until,
            cannot: fight.cannot.clone(),
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
        _ if late => add(Cause::FetcherLate),
        _ => {}
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
        let other = report.digest.is_some() && !is_the_same && list.refused_since.is_none();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::desired::decide::Listed;
    use crate::model::desired::guard::Held;
    use crate::model::desired::in_force::Account as InForceOf;
    use crate::model::desired::judge::Desired;
    use crate::model::file::orders::{self, Basis};
    use crate::model::file::other_files::InFile;
    use crate::model::key::grant::Grant;
    use crate::model::mounts::OwnMount;
    use crate::model::past::incident::Undone;
    use crate::model::past::outcome::FileOutcome;
    use crate::model::sshd::access::{Doubt, RefusedBy, Verdict};
    use crate::model::sshd::effective::{DEFAULT, Settings};
    use crate::model::status::problem::Severity;
    use crate::model::status::schema::Health;

    const OTHER: &str = "/home/alice/.ssh/authorized_keys2";

    /// One host: alice has the keys 1 and 2; bob is managed, and no list has named him.
    struct Scene {
        config: Config,
        decision: Decision,
        people: People,
        sshd: Option<Answer>,
        now: Timestamp,
        memory: Memory,
    }

    impl Scene {
        fn new() -> Self {
            let mut host = Self {
                config: Config::read("[accounts]\nmanage = [\"alice\", \"bob\"]").unwrap(),
                decision: Decision::default(),
                people: People {
                    uid_min: 1000,
                    ..People::default()
                },
                sshd: None,
                now: at(0),
                memory: Memory::default(),
            };
            for (account, uid) in [("alice", 1001), ("bob", 1002), ("svc", 200), ("eve", 1003)] {
                let account = Account {
                    name: name(account),
                    uid,
                    gid: uid,
                    home: format!("/home/{account}").into(),
                };
                let found = Lookup::Found(account.clone());
                host.people.accounts.insert(account.name, found);
            }
            host.people.accounts.insert(name("ghost"), Lookup::Unknown);
            let in_force = &mut host.decision.in_force;
            in_force.list = Some("sha256:x".to_owned());
            in_force.sshd_reads = Some(DEFAULT.to_owned());
            let alice = InForceOf {
                managed: true,
                grants: vec![grant(1), grant(2)],
                alone: true,
                ..InForceOf::default()
            };
            in_force.accounts.insert(name("alice"), alice);
            host.decision.list = Some(Listed {
                source: "test".to_owned(),
                digest: "sha256:x".to_owned(),
                parameters: 1,
                fetched_at: at(-100),
            });
            host
        }

        fn known(&self) -> Known<'_> {
            Known {
                config: &self.config,
                decision: &self.decision,
                people: &self.people,
                sshd: self.sshd.as_ref().map(|answer| (answer, self.now)),
                now: self.now,
            }
        }

        /// What came of alice's file, or of bob's, which is only looked at.
        fn outcome(&self, account: &str, did: Did, differences: &[Difference]) -> Outcome {
            let basis = Basis {
                config: &self.config,
                decision: &self.decision,
                people: &self.people,
                sshd_is_mute: false,
                shared: &BTreeSet::new(),
                writes: true,
                now: self.now,
            };
            let name = name(account);
            let names = [(&name, account == "alice")];
            let (mut orders, _) = orders::orders(basis, &names, |_| false, |_| false, false);
            let guards = self.config.mode == Mode::Enforce && orders[0].removes_others;
            Outcome {
                orders: Arc::new(orders.remove(0)),
                managed: FileOutcome {
                    differences: differences.to_vec(),
                    did,
                    stood: None,
                },
                others: Vec::new(),
                left: Vec::new(),
                guards,
                loose: None,
                attempts: Vec::new(),
                lock: None,
                stood: Vec::new(),
                writes_prevented: None,
                aside: Vec::new(),
            }
        }

        fn row(&self, outcome: &Outcome, before: Option<&Row>) -> Option<Row> {
            row(self.known(), outcome, before, &mut Judgements::default())
        }

        /// The row of alice after this.
        fn alice(&self, did: Did, differences: &[Difference], before: Option<&Row>) -> Row {
            let outcome = self.outcome("alice", did, differences);
            self.row(&outcome, before).unwrap()
        }

        fn status(&self, rows: impl IntoIterator<Item = Row>, problems: Vec<Problem>) -> Status {
            let of = OfEnforcer {
                host: Host::default(),
                enforcer: Enforcer {
                    pid: 1,
                    started_at: at(0),
                    written_at: at(0),
                    asked_at: None,
                },
                problems,
                sessions: Vec::new(),
            };
            status(self.known(), of, &self.memory, rows.into_iter().collect())
        }

        /// sshd reads these files for everybody, and lets a password in or not.
        fn sshd_says(&mut self, files: &str, password: bool) {
            let password = if password { "yes" } else { "no" };
            let text = format!("authorizedkeysfile {files}\npasswordauthentication {password}");
            self.sshd = Some(Answer {
                settings: vec![Settings::read(&text)],
                for_all: true,
                ..Answer::default()
            });
        }
    }

    fn name(text: &str) -> AccountName {
        text.try_into().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn grant(number: u8) -> Grant {
        Grant {
            algorithm: "ssh-ed25519".to_owned(),
            ..Grant::of_line(format!("ssh-ed25519 {number}"), number.to_string())
        }
    }

    fn added(number: u8) -> Difference {
        Difference::Added(KeyId::from(&grant(number)))
    }

    fn removed(number: u8) -> Difference {
        Difference::Removed(KeyId::from(&grant(number)))
    }

    fn replaced() -> Did {
        Did::Replaced {
            how: Undone::Replaced,
            backup: None,
        }
    }

    fn refused(reason: &str) -> Did {
        Did::Refused {
            reason: reason.to_owned(),
            hint: "do this".to_owned(),
            began: false,
        }
    }

    fn not_allowed() -> Did {
        Did::NotAllowed {
            reason: "needs root".to_owned(),
        }
    }

    fn other(error: Option<&str>) -> OtherFile {
        let found = InFile {
            keys: vec![KeyId::from(&grant(7))],
            error: error.map(str::to_owned),
            ..InFile::default()
        };
        OtherFile::new(Path::new(OTHER), found)
    }

    fn shown(row: &Row) -> String {
        match &row.why {
            Some(why) => format!("{}: {}", row.state.as_str(), why.reason()),
            None => row.state.as_str().to_owned(),
        }
    }

    #[test]
    fn whether_writes_are_prevented_is_said_as_the_enforcer_last_knew_and_is_no_problem() {
        let check = |mode, said: Option<bool>, now: Option<bool>, expected: Option<bool>| {
            let mut host = Scene::new();
            host.config.mode = mode;
            let mut outcome = host.outcome("alice", Did::Nothing, &[]);
            outcome.writes_prevented = said;
            let before = host.row(&outcome, None).unwrap();
            outcome.writes_prevented = now;
            let row = host.row(&outcome, Some(&before)).unwrap();
            assert_eq!(row.writes_prevented, expected, "{said:?}, then {now:?}");
            assert_eq!(
                (shown(&row), row.problems().len()),
                ("in-sync".to_owned(), 0)
            );
        };
        check(Mode::Enforce, None, None, None);
        check(Mode::Enforce, None, Some(true), Some(true));
        check(Mode::Enforce, Some(true), Some(false), Some(false));
        check(Mode::Enforce, Some(false), Some(true), Some(true));
        check(Mode::Enforce, Some(false), None, Some(false));
        check(Mode::Observe, Some(true), Some(true), None);
    }

    #[test]
    fn what_came_of_a_file_is_the_state_of_its_account() {
        let check = |did: Did, differences: &[Difference], expected: &str| {
            let host = Scene::new();
            let row = host.alice(did.clone(), differences, None);
            assert_eq!(shown(&row), expected, "{did:?}");
            assert_eq!(
                (row.uid, row.file.as_deref()),
                (Some(1001), Some("/home/alice/.ssh/authorized_keys"))
            );
            let unverified = matches!(did, Did::Hanging | Did::NotAllowed { .. });
            assert_eq!(row.verified, !unverified);
        };
        check(Did::Nothing, &[], "in-sync");
        check(replaced(), &[added(7), removed(1)], "in-sync");
        check(
            Did::Reported,
            &[added(7), removed(1)],
            "drifted: not on the list: (no name) 7, missing: (no name) 1",
        );
        check(refused("no room"), &[added(7)], "refused: no room");
        check(not_allowed(), &[], "refused: needs root");
        check(
            Did::Hanging,
            &[],
            "refused: its file system has not answered within 2 s",
        );
        let mount = OwnMount {
            device: (0, 39),
            place: "/home/alice".to_owned(),
            uid: 1001,
        };
        check(
            Did::OnOwnMount(mount),
            &[],
            "refused: a process of uid 1001 serves the file system at `/home/alice` and can show sshd other keys than the agent",
        );
    }

    #[test]
    fn another_file_counts_where_the_managed_one_is_as_it_should_be() {
        let check = |mode: Mode, did: Did, file: Did, expected: &str| {
            let mut host = Scene::new();
            host.config.mode = mode;
            let mut outcome = host.outcome("alice", did, &[]);
            let mut beside = FileOutcome::of(file);
            beside.differences.push(Difference::OtherFile(other(None)));
            outcome.others.push((other(None), beside));
            let row = host.row(&outcome, None).unwrap();
            assert_eq!(shown(&row), expected);
        };
        let taken = || Did::Removed { copy: None };
        let stuck = format!("refused: sshd also reads `{OTHER}`, which is not taken away: a mount");
        let drifted = format!("drifted: another file that sshd reads: `{OTHER}` with (no name) 7");
        check(Mode::Enforce, Did::Nothing, taken(), "in-sync");
        check(Mode::Enforce, Did::Nothing, refused("a mount"), &stuck);
        check(
            Mode::Enforce,
            refused("no room"),
            refused("a mount"),
            "refused: no room",
        );
        check(Mode::Observe, Did::Nothing, Did::Reported, &drifted);
    }

    #[test]
    fn an_account_that_no_list_named_is_wrong_only_with_keys() {
        let check = |did: Did, differences: &[Difference], expected: Option<&str>| {
            let host = Scene::new();
            let row = host.row(&host.outcome("bob", did, differences), None);
            assert_eq!(row.as_ref().map(shown).as_deref(), expected);
            if let Some(row) = row {
                let told = host.status([row.clone()], Vec::new()).told();
                assert_eq!(told.len(), usize::from(row.why.is_some()));
            }
        };
        let keys = "not-listed: no list has ever named it, so its keys stay";
        check(Did::Nothing, &[], Some("not-listed"));
        check(Did::Reported, &[Difference::Missing], Some("not-listed"));
        check(
            Did::Reported,
            &[Difference::Mode(0o644)],
            Some("not-listed"),
        );
        check(Did::Reported, &[added(7)], Some(keys));
        check(Did::Reported, &[Difference::Unclear(1)], Some(keys));
        check(refused("no room"), &[], Some("not-listed: no room"));
    }

    #[test]
    fn a_held_list_holds_back_those_whose_keys_it_would_change() {
        let mut host = Scene::new();
        let keys_of_alice = |keys: Vec<Grant>| Desired {
            grants: [(name("alice"), keys)].into(),
            ..Desired::default()
        };
        host.decision.desired = Some(keys_of_alice(vec![grant(1)]));
        let row = host.alice(Did::Nothing, &[], None);
        assert_eq!(
            shown(&row),
            "held: keys that are not on the list stay, since it is held"
        );
        assert_eq!(
            shown(&host.alice(Did::Reported, &[added(7)], None)),
            "drifted: not on the list: (no name) 7"
        );
        assert!(row.problems().is_empty(), "the held list is the problem");
        host.decision.desired = Some(keys_of_alice(vec![grant(1), grant(2)]));
        assert_eq!(shown(&host.alice(Did::Nothing, &[], None)), "in-sync");
    }

    #[test]
    fn who_only_looks_keeps_the_reason_that_the_enforcer_found() {
        let check = |mode: Mode, did: Did, differences: &[Difference], expected: &str| {
            let mut host = Scene::new();
            let before = host.alice(refused("no room"), &[], None);
            host.config.mode = mode;
            let row = host.alice(did, differences, Some(&before));
            assert_eq!(shown(&row), expected);
        };
        check(
            Mode::Enforce,
            Did::Reported,
            &[added(7)],
            "refused: no room",
        );
        check(Mode::Enforce, Did::Nothing, &[], "in-sync");
        check(
            Mode::Observe,
            Did::Reported,
            &[added(7)],
            "drifted: not on the list: (no name) 7",
        );
        check(Mode::Enforce, refused("a loop"), &[], "refused: a loop");
        // One that may not look takes the enforcer's word, whatever it was.
        check(Mode::Enforce, not_allowed(), &[], "refused: no room");
        let host = Scene::new();
        let before = host.alice(Did::Nothing, &[], None);
        assert_eq!(host.alice(not_allowed(), &[], Some(&before)), before);
    }

    #[test]
    fn the_enforcer_s_word_on_another_file_stays_while_it_is_there() {
        let host = Scene::new();
        let mut outcome = host.outcome("alice", Did::Nothing, &[]);
        outcome
            .others
            .push((other(None), FileOutcome::of(refused("a mount"))));
        outcome.left.push(other(Some("a mount")));
        let before = host.row(&outcome, None).unwrap();
        // The same, by one that only looks.
        let mut outcome = host.outcome("alice", Did::Nothing, &[]);
        outcome.guards = false;
        let mut seen = FileOutcome::of(Did::Reported);
        seen.differences.push(Difference::OtherFile(other(None)));
        outcome.others.push((other(None), seen));
        let row = host.row(&outcome, Some(&before)).unwrap();
        assert_eq!((row.state, &row.why), (before.state, &before.why));
        assert_eq!(row.other_files, [other(Some("a mount"))]);
        outcome.others.clear();
        let row = host.row(&outcome, Some(&before)).unwrap();
        assert_eq!(
            (row.state, row.other_files.len()),
            (AccountState::InSync, 0)
        );
    }

    #[test]
    fn when_a_file_was_changed_last_is_remembered() {
        let mut host = Scene::new();
        let first = host.alice(replaced(), &[added(7), removed(1)], None);
        assert_eq!(first.changed_at, Some(at(0)));
        assert_eq!(first.removed_keys, [KeyId::from(&grant(7))]);
        host.now = at(10);
        for (did, differences) in [
            (Did::Nothing, vec![]),
            (replaced(), vec![]),
            (refused("x"), vec![added(8)]),
        ] {
            let row = host.alice(did, &differences, Some(&first));
            assert_eq!(
                (row.changed_at, &row.removed_keys),
                (Some(at(0)), &first.removed_keys)
            );
        }
        // A second file was taken away: nothing left the managed one then.
        let mut outcome = host.outcome("alice", Did::Nothing, &[]);
        let taken = FileOutcome::of(Did::Removed { copy: None });
        outcome.others.push((other(None), taken));
        let row = host.row(&outcome, Some(&first)).unwrap();
        assert_eq!((row.changed_at, row.removed_keys), (Some(at(10)), vec![]));
        let many: Vec<_> = (10..60).map(added).collect();
        let row = host.alice(replaced(), &many, Some(&first));
        assert_eq!(
            (row.changed_at, row.removed_keys.len()),
            (Some(at(10)), REMOVED)
        );
    }

    #[test]
    fn in_observe_mode_the_keys_are_those_of_the_file() {
        let check = |mode: Mode, did: Did, differences: &[Difference], expected: Option<&str>| {
            let mut host = Scene::new();
            host.config.mode = mode;
            let row = host.alice(did, differences, None);
            let keys = row.keys.map(|keys| {
                let keys: Vec<_> = keys.into_iter().map(|key| key.key.fingerprint).collect();
                keys.join(",")
            });
            assert_eq!(keys.as_deref(), expected, "{differences:?}");
        };
        let observe = |differences: &[Difference], expected| {
            check(Mode::Observe, Did::Reported, differences, Some(expected));
        };
        observe(&[added(7)], "1,2,7");
        observe(&[added(7), removed(1)], "2,7");
        observe(&[Difference::Missing, removed(1), removed(2)], "");
        observe(&[Difference::Unreadable], "");
        observe(&[Difference::Mode(0o644)], "1,2");
        check(Mode::Observe, Did::Nothing, &[], None);
        check(Mode::Enforce, Did::Reported, &[added(7)], None);
        check(Mode::Enforce, replaced(), &[added(7)], None);
    }

    #[test]
    fn what_sshd_makes_of_a_file_stays_until_it_is_asked_again() {
        let mut host = Scene::new();
        assert_eq!(host.alice(Did::Nothing, &[], None).access, None);
        host.sshd_says(".ssh/authorized_keys", true);
        let verdict = |row: &Row| row.access.as_ref().map(|access| access.verdict);
        let before = host.alice(Did::Nothing, &[], None);
        assert_eq!(verdict(&before), Some(Verdict::AlsoOpen));
        host.sshd = None;
        let row = host.alice(replaced(), &[added(7)], Some(&before));
        assert_eq!(verdict(&row), Some(Verdict::AlsoOpen));
        host.sshd_says("/etc/keys/%u", false);
        let row = host.alice(Did::Nothing, &[], Some(&before));
        assert_eq!(verdict(&row), Some(Verdict::Refused));
        // Every row, once it has answered.
        let mut rows: Rows = [before].into_iter().collect();
        judge_all(host.known(), &mut rows, &mut Judgements::default());
        assert_eq!(
            rows.values().map(verdict).collect::<Vec<_>>(),
            [Some(Verdict::Refused)]
        );
        // Not its file as it should be.
        let row = host.alice(refused("no room"), &[], None);
        assert_eq!(verdict(&row), Some(Verdict::Unknown));
        host.sshd = Some(Answer {
            error: Some("no answer".to_owned()),
            ..Answer::default()
        });
        let row = host.alice(Did::Nothing, &[], None);
        assert_eq!(row.access.as_deref(), Some(&Access::unknown("no answer")));
        assert!(
            row.problems().is_empty(),
            "that sshd is silent is said once"
        );
    }

    #[test]
    fn a_second_file_is_no_door_where_it_is_taken_away() {
        let check = |change: fn(&mut Scene), expected: Verdict| {
            let mut host = Scene::new();
            host.sshd_says(DEFAULT, false);
            change(&mut host);
            let row = host.alice(Did::Nothing, &[], None);
            assert_eq!(row.access.unwrap().verdict, expected);
        };
        check(|_| {}, Verdict::Effective);
        check(
            |host| {
                let accounts = &mut host.decision.in_force.accounts;
                accounts.get_mut(&name("alice")).unwrap().alone = false;
            },
            Verdict::AlsoOpen,
        );
        check(|host| host.config.mode = Mode::Observe, Verdict::AlsoOpen);
    }

    #[test]
    fn accounts_on_which_there_is_no_work_have_a_row_that_says_why() {
        let check = |change: fn(&mut Scene), account: &str, expected: Option<&str>| {
            let mut host = Scene::new();
            change(&mut host);
            host.decision.strangers.sort();
            let rows = passive_rows(host.known());
            let row = rows.iter().find(|row| row.name.as_str() == account);
            assert_eq!(row.map(shown).as_deref(), expected, "{account}");
            for row in &rows {
                assert!(is_spoken_of(host.known(), row), "{row:?}");
            }
        };
        let strange = |host: &mut Scene| {
            host.decision.strangers = ["svc", "eve", "ghost", "bob"].map(name).to_vec();
        };
        check(|_| {}, "alice", None);
        check(strange, "alice", None);
        check(strange, "ghost", Some("no-account"));
        check(strange, "eve", Some("unmanaged: not in `manage`"));
        check(
            strange,
            "svc",
            Some(
                "unmanaged: a system account (uid below 1000); name it in full in `manage` to manage it",
            ),
        );
        check(
            strange,
            "bob",
            Some("held: the list gives it no key that can be used, so its file stays as it is"),
        );
        check(
            |host| {
                host.decision.strangers = vec![name("bob")];
                let reason = "its home hangs".to_owned();
                host.decision.unlooked.insert(name("bob"), reason);
            },
            "bob",
            Some("refused: its home hangs"),
        );
        // It was deleted from the host.
        let deleted = |host: &mut Scene| {
            host.people.accounts.insert(name("alice"), Lookup::Unknown);
        };
        check(deleted, "alice", Some("no-account"));
        check(
            |host| {
                let failed = Lookup::Failed("no answer".to_owned());
                host.people.accounts.insert(name("alice"), failed);
            },
            "alice",
            None,
        );
    }

    fn held() -> Held {
        Held {
            removed: 3,
            of: 4,
            seen: 1,
            needed: Some(3),
            ..Held::default()
        }
    }

    #[test]
    fn a_row_goes_when_nothing_speaks_of_its_account() {
        let host = Scene::new();
        let row = |account: &str, state| blank(&name(account), state, None);
        let spoken = |account: &str, state| is_spoken_of(host.known(), &row(account, state));
        assert!(spoken("alice", AccountState::InSync));
        assert!(spoken("bob", AccountState::NotListed));
        assert!(!spoken("bob", AccountState::InSync));
        assert!(!spoken("eve", AccountState::NotListed));
        assert!(!spoken("eve", AccountState::Unmanaged));
    }

    #[test]
    fn an_account_on_which_no_work_can_be_done_is_refused() {
        let host = Scene::new();
        let before = host.alice(replaced(), &[added(7)], None);
        let why =
            Unworkable::SharedHome("/home/x".to_owned(), "alice".to_owned(), "eve".to_owned());
        let row = unworkable_row(host.known(), &name("alice"), &why, Some(&before));
        assert_eq!(
            shown(&row),
            "refused: its home `/home/x` is shared by `alice` and `eve`"
        );
        assert_eq!((row.uid, row.changed_at), (Some(1001), before.changed_at));
    }

    #[test]
    fn problems_are_told_once_the_worst_first() {
        let mut host = Scene::new();
        let drifted = |account: &str, changes: &str| {
            let why = Cause::FileDrifted {
                changes: vec![changes.to_owned()],
                in_short: changes.to_owned(),
            };
            blank(&name(account), AccountState::Drifted, Some(why))
        };
        let mut effective = blank(&name("frank"), AccountState::InSync, None);
        effective.other_files.push(other(None));
        let rows = [
            drifted("alice", "file missing"),
            drifted("bob", "mode 0644"),
            drifted("eve", "file missing"),
            effective,
        ];
        host.decision.troubles = vec![Trouble::PeopleSilent {
            accounts: vec![name("alice")],
        }];
        host.decision.held = Some(held());
        host.sshd = Some(Answer {
            error: Some("no answer".to_owned()),
            by_connection: true,
            ..Answer::default()
        });
        let error = "no room".to_owned();
        let own = Problem::new(Cause::StateUnsaved { error });
        let status = host.status(rows, vec![own]);
        let told: Vec<_> = status
            .told()
            .iter()
            .map(|told| {
                let names: Vec<_> = told.accounts.iter().map(AccountName::as_str).collect();
                format!(
                    "{} {} {}",
                    told.cause.severity().as_str(),
                    told.cause.code(),
                    names.join(",")
                )
            })
            .collect();
        let expected = [
            "error file-drifted alice,eve",
            "error file-drifted bob",
            "error state-unsaved ",
            "error accounts-unknown ",
            "error list-held ",
            "warning other-file frank",
            "warning sshd-silent ",
            "warning sshd-not-judged ",
        ];
        assert_eq!(told, expected);
        let first = &status.told()[0];
        assert_eq!(first.text(), "alice, eve have drifted: file missing");
    }

    #[test]
    fn health_is_as_bad_as_the_worst_problem() {
        let check = |rows: Vec<Row>, problems: Vec<Cause>, expected: Health, summary: &str| {
            let problems = problems.into_iter().map(Problem::new).collect();
            let status = Scene::new().status(rows, problems);
            assert_eq!(status.health(), expected);
            assert_eq!(status.summary(), summary);
            let worst = status.told().first().map(|told| told.cause.severity());
            assert_eq!(worst == Some(Severity::Error), expected != Health::Healthy);
        };
        let row = |account: &str, state, why| blank(&name(account), state, why);
        let in_sync = || row("alice", AccountState::InSync, None);
        let all = "healthy (enforce): 1 of 1 accounts in sync, 0 changes undone";
        check(vec![in_sync()], vec![], Health::Healthy, all);
        check(
            vec![in_sync()],
            vec![Cause::SshdDoubt(Doubt::Blanks)],
            Health::Healthy,
            all,
        );
        let held = row("bob", AccountState::Held, Some(Cause::HeldBack));
        let unmanaged = Cause::NotManaged { uid_min: None };
        let svc = row("svc", AccountState::Unmanaged, Some(unmanaged));
        let ghost = row("ghost", AccountState::NoAccount, None);
        check(
            vec![in_sync(), held, svc, ghost],
            vec![],
            Health::Healthy,
            "healthy (enforce): 1 of 2 accounts in sync, 0 changes undone",
        );
        let why = Cause::FileRefused {
            reason: "x".to_owned(),
            hint: None,
        };
        check(
            vec![in_sync(), row("bob", AccountState::Refused, Some(why))],
            vec![],
            Health::Degraded,
            "degraded (enforce): 1 of 2 accounts in sync, 0 changes undone",
        );
        let mut shut = in_sync();
        shut.access = Some(Arc::new(Access {
            verdict: Verdict::Refused,
            reason: Some("PubkeyAuthentication no".to_owned()),
            refused_by: Some(RefusedBy::Setting),
            doors: Vec::new(),
        }));
        let degraded = "degraded (enforce): 1 of 1 accounts in sync, 0 changes undone";
        check(vec![shut], vec![], Health::Degraded, degraded);
        check(
            vec![in_sync()],
            vec![Cause::NoFetcher],
            Health::Degraded,
            degraded,
        );
        let stopped = "stopped (enforce): 1 of 1 accounts in sync, 0 changes undone";
        check(
            vec![in_sync()],
            vec![Cause::NoEnforcer],
            Health::Stopped,
            stopped,
        );
    }

    fn report(of: &mut OfFetcher) -> &mut FetchReport {
        of.report.as_mut().unwrap()
    }

    #[test]
    fn how_the_fetcher_fares_is_judged_when_it_is_asked_for() {
        let check = |change: fn(&mut OfFetcher), codes: &[&str]| {
            let host = Scene::new();
            let mut status = host.status([], Vec::new());
            let mut of = OfFetcher {
                report: Some(FetchReport {
                    digest: Some("sha256:x".to_owned()),
                    last_success: Some(at(-60)),
                    next_attempt: Some(at(10)),
                    ..FetchReport::default()
                }),
                runs: Some(true),
                unreadable: None,
            };
            change(&mut of);
            add_fetcher(&mut status, of, &host.config, host.now);
            let told: Vec<_> = status.told().iter().map(|told| told.cause.code()).collect();
            assert_eq!(told, codes);
        };
        check(|_| {}, &[]);
        check(|of| of.runs = Some(false), &["no-fetcher"]);
        check(|of| of.runs = None, &[]);
        check(
            |of| {
                of.runs = None;
                report(of).next_attempt = Some(at(-120));
            },
            &["fetcher-late"],
        );
        check(
            |of| report(of).next_attempt = Some(at(-120)),
            &["fetcher-late"],
        );
        check(
            |of| report(of).error = Some("down".to_owned()),
            &["fetch-failed"],
        );
        check(|of| report(of).last_success = Some(at(-3600)), &[]);
        check(
            |of| report(of).last_success = Some(at(-3601)),
            &["list-stale"],
        );
        // Another list than the one that is judged, for longer than the enforcer takes.
        check(
            |of| {
                report(of).digest = Some("sha256:y".to_owned());
                report(of).last_success = Some(at(-30));
            },
            &[],
        );
        check(
            |of| report(of).digest = Some("sha256:y".to_owned()),
            &["list-unenforced"],
        );
        // Without a report, the list itself says when it was fetched.
        check(|of| of.report = None, &[]);
        check(
            |of| {
                of.report = None;
                of.unreadable = Some("damaged".to_owned());
            },
            &["fetch-report-unreadable"],
        );
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let state = prop::sample::select(vec![
            AccountState::InSync,
            AccountState::Drifted,
            AccountState::Held,
            AccountState::Refused,
            AccountState::NoAccount,
            AccountState::NotListed,
            AccountState::Unmanaged,
        ]);
        let why = prop::option::of(prop::sample::select(vec![
            Cause::HeldBack,
            Cause::NotListed,
            Cause::FileDrifted {
                changes: Vec::new(),
                in_short: String::new(),
            },
            Cause::NotManaged { uid_min: None },
        ]));
        let verdict = prop::option::of(prop::sample::select(vec![
            Verdict::Effective,
            Verdict::Refused,
            Verdict::Unknown,
        ]));
        ("[a-d]", state, why, verdict).prop_map(|(account, state, why, verdict)| Row {
            access: verdict.map(|verdict| {
                let reason = None;
                let doors = Vec::new();
                Arc::new(Access {
                    verdict,
                    reason,
                    refused_by: None,
                    doors,
                })
            }),
            ..blank(&name(&account), state, why)
        })
    }

    proptest! {
        #[test]
        fn rows_are_counted_as_they_come_and_go(
            all in prop::collection::vec((any_row(), 0..4_u8), 0..30)
        ) {
            let mut rows = Rows::default();
            for (row, how) in all {
                match how {
                    0 => drop(rows.remove(&row.name)),
                    1 => rows.retain(|known| known.name != row.name),
                    _ => rows.insert(row),
                }
                // Made anew from what is left, and so counted anew.
                let recounted: Rows = rows.values().cloned().collect();
                prop_assert_eq!(&rows, &recounted);
                let in_sync = rows.values().filter(|row| row.state == AccountState::InSync).count();
                let managed = rows.values().filter(|row| row.state.is_managed()).count();
                let status = Scene::new().status(rows.values().cloned(), Vec::new());
                let counts = format!(": {in_sync} of {managed} accounts");
                prop_assert!(status.summary().contains(&counts), "{}", status.summary());
                let wrong = status.told().iter().any(|told| told.cause.severity() == Severity::Error);
                prop_assert_eq!(wrong, status.health() == Health::Degraded);
            }
        }
    }
}
