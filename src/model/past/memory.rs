//! What is remembered between two looks at a file: what came of the last one, and so what of the next is news.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::tables::Mode;
use crate::model::desired::in_force::{InForce, Synced};
use crate::model::file::difference::{Difference, in_words};
use crate::model::file::orders::Order;
use crate::model::file::other_files::OtherFile;
use crate::model::file::wanted::{Lines, Wanted};
use crate::model::key::id::KeyId;
use crate::model::past::audit::{Own, Sought};
use crate::model::past::event::{Change, Event};
use crate::model::past::evidence::{Stood, digest};
use crate::model::past::fights::Fights;
use crate::model::past::incident::{Incident, More, SCHEMA, Since, Undone};
use crate::model::past::outcome::{Did, FileOutcome, Outcome};
use crate::model::past::rivals::{News, Rival, Rivals};

/// All of it can be lost: a new one begins with what an earlier process said last.
#[derive(Debug, Default)]
pub struct Memory {
    /// Only accounts of which there is something to remember.
    accounts: BTreeMap<AccountName, Remembered>,
    rivals: Rivals,
    pub fights: Fights,
    pub drift: Drift,
}

/// Changes that were undone, since the host booted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Drift {
    pub repaired: u64,
    pub last: Option<DriftEvent>,
}

/// One change that was undone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DriftEvent {
    pub at: Timestamp,
    pub account: AccountName,
    pub changes: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
struct Remembered {
    retry: Option<(Retry, Instant)>,
    /// Since when a change is seen that could not be undone yet.
    standing: Option<Timestamp>,
    /// Its keys when its file was last in sync, where a list has changed them since.
    former: Option<HashSet<String>>,
    /// The last replacement of its file did not end well.
    unsettled: bool,
    /// What was said last of the managed file that is still so.
    said: Option<String>,
    /// The same of its other files, in observe mode.
    said_of_others: Option<String>,
    /// Other files that stay, and were told of.
    left: Vec<OtherFile>,
}

/// Why, and how often already, an account is looked at again before the next full check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Its file could not be brought in line; what was in the way may go without an event (an unmount, a quota).
    Refused(u32),
    /// It was changed without an event (a store through a mapping); the account may do that again at once.
    Unannounced(u32),
}

/// What remembering depends on besides the outcome.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    pub now: Timestamp,
    pub instant: Instant,
    pub mode: Mode,
    /// Time between two full checks.
    pub every: Duration,
    /// No event announced this look: a timer did.
    pub by_timer: bool,
    /// Other files are taken away (`[accounts] other-files`).
    pub removes_others: bool,
    pub own: &'a Arc<Own>,
    /// The audit log can be asked who made a change.
    pub audited: &'a dyn Fn() -> bool,
    /// The program that the audit log named last for an account.
    pub program: &'a dyn Fn(&AccountName) -> Option<String>,
}

impl Retry {
    /// A refusal is not forgotten; a quiet file is, after the next full check is due anyway.
    fn wait(self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(30);
        match self {
            Self::Refused(times) => Duration::from_secs(1 << times.min(5)).min(LONGEST),
            Self::Unannounced(times) => Duration::from_secs(1 << times.min(16)),
        }
    }
}

impl Memory {
    /// Goes on from what an earlier process said of an account's file.
    pub fn resume(&mut self, account: &AccountName, said: String) {
        self.of(account).said = Some(said);
    }

    /// The keys of these accounts as they were before the list changed them.
    pub fn note_former(
        &mut self,
        former: impl IntoIterator<Item = (AccountName, HashSet<String>)>,
    ) {
        for (account, keys) in former {
            self.of(&account).former.get_or_insert(keys);
        }
    }

    pub fn is_unsettled(&self, account: &AccountName) -> bool {
        self.accounts
            .get(account)
            .is_some_and(|known| known.unsettled)
    }

    /// When the agent looks at some accounts again. Each keeps its time, whatever other accounts do meanwhile.
    pub fn next_retry(&self) -> Option<Instant> {
        let retries = self.accounts.values().filter_map(|known| known.retry);
        let ends = self.fights.next_end();
        retries.map(|(_, due)| due).chain(ends).min()
    }

    /// Those that are due by now.
    pub fn due_retries(&mut self, now: Instant) -> BTreeSet<AccountName> {
        let mut all = self.fights.ended(now);
        let is_due = |known: &Remembered| known.retry.is_some_and(|(_, due)| due <= now);
        let due = self.accounts.iter().filter(|(_, known)| is_due(known));
        all.extend(due.map(|(name, _)| name.clone()));
        all
    }

    /// Accounts that were to be looked at and are no longer there are not looked at for ever.
    pub fn keep_retries(&mut self, keep: impl Fn(&AccountName) -> bool) {
        for (name, known) in &mut self.accounts {
            if !keep(name) {
                known.retry = None;
            }
        }
        self.accounts
            .retain(|_, known| *known != Remembered::default());
    }

    /// How long the next repair of an account waits for a rival's sake. Not where the account may be the rival: what it planted
    /// would stand for so long.
    pub fn back_off(&self, account: &AccountName, now: Timestamp) -> Option<Duration> {
        if self.fights.is_rival(account, now) {
            self.pace(account, now)
        } else {
            None
        }
    }

    /// The same where whoever wants to write waits in the kernel meanwhile.
    pub fn pace(&self, account: &AccountName, now: Timestamp) -> Option<Duration> {
        let wait = self.rivals.recent_rival(account, now)?.wait;
        (!wait.is_zero()).then_some(wait)
    }

    pub fn rivals(&self) -> impl Iterator<Item = (&AccountName, &Rival)> {
        self.rivals.rivals()
    }

    /// True when a change of this account came within the last minute.
    pub fn knows_a_change(&self, account: &AccountName) -> bool {
        self.rivals.knows(account)
    }

    /// When something will have been quiet for so long that this is worth telling.
    pub fn quiet_at(&self) -> Option<Timestamp> {
        self.rivals.quiet_at()
    }

    /// Forgets what has been quiet for a minute.
    pub fn forget(&mut self, now: Timestamp) {
        self.rivals.forget(now);
        self.fights.forget(now);
    }

    /// Takes in what came of one account, and returns what of it is worth telling. What was in sync is noted in
    /// `in_force`; returns whether that changed.
    pub fn after(
        &mut self,
        outcome: &mut Outcome,
        in_force: &mut InForce,
        when: Circumstances<'_>,
    ) -> (Vec<Event>, bool) {
        let name = outcome.orders.account.name.clone();
        let orders = Arc::clone(&outcome.orders);
        let Wanted::Lines(wanted) = &orders.managed.wanted else {
            return (Vec::new(), false);
        };
        let mut story = Story {
            digest: digest(&wanted.content),
            memory: self,
            name,
            wanted,
            when,
            events: Vec::new(),
        };
        story.plan_retry(outcome, in_force);
        story.managed(outcome, in_force);
        story.attempts(outcome);
        if outcome.managed.did != Did::Hanging {
            story.others(outcome);
        }
        for aside in outcome.aside.drain(..) {
            let account = story.name.clone();
            story.events.push(Event::PutAside { account, aside });
        }
        let changed = story.note_in_force(outcome, in_force);
        let Story { events, name, .. } = story;
        if self.accounts.get(&name) == Some(&Remembered::default()) {
            self.accounts.remove(&name);
        }
        (events, changed)
    }

    /// The same for an account on which no work can be done.
    pub fn unworkable(&mut self, account: &AccountName, reason: &str) -> Vec<Event> {
        self.refused(account, reason).into_iter().collect()
    }

    fn refused(&mut self, account: &AccountName, reason: &str) -> Option<Event> {
        let said = self.of(account).said.replace(reason.to_owned());
        (said.as_deref() != Some(reason)).then(|| Event::Refused {
            account: account.clone(),
            reason: reason.to_owned(),
        })
    }

    fn of(&mut self, account: &AccountName) -> &mut Remembered {
        self.accounts.entry(account.clone()).or_default()
    }
}

/// One account's outcome while it is taken in.
struct Story<'a> {
    memory: &'a mut Memory,
    name: AccountName,
    wanted: &'a Lines,
    /// Of the content that is wanted.
    digest: String,
    when: Circumstances<'a>,
    events: Vec<Event>,
}

impl Story<'_> {
    fn known(&mut self) -> &mut Remembered {
        self.memory.of(&self.name)
    }

    /// True when the file was in sync with just this content before: then what differs now is not the list's doing.
    fn is_drift(&self, in_force: &InForce) -> bool {
        let account = in_force.accounts.get(&self.name);
        let synced = account.and_then(|account| account.synced.as_ref());
        synced.is_some_and(|synced| synced.digest == self.digest)
    }

    fn plan_retry(&mut self, outcome: &Outcome, in_force: &InForce) {
        let is_refused =
            outcome.managed.did.refusal().is_some() || outcome.other_refused().is_some();
        let was_replaced = matches!(outcome.managed.did, Did::Replaced { .. });
        let in_sync = outcome.managed.did == Did::Nothing;
        let unannounced = was_replaced && self.when.by_timer && self.is_drift(in_force);
        let (every, instant) = (self.when.every, self.when.instant);
        let known = self.known();
        let before = known.retry.take().map(|(retry, _)| retry);
        let next = match before {
            Some(Retry::Refused(times)) if is_refused => Retry::Refused(times + 1),
            _ if is_refused => Retry::Refused(1),
            _ if unannounced => Retry::Unannounced(0),
            Some(Retry::Unannounced(times)) if in_sync => Retry::Unannounced(times + 1),
            _ => return,
        };
        if is_refused || next.wait() < every {
            known.retry = Some((next, instant + next.wait()));
        }
    }

    fn managed(&mut self, outcome: &mut Outcome, in_force: &InForce) {
        let FileOutcome {
            differences,
            did,
            stood,
        } = &mut outcome.managed;
        let order = &outcome.orders.managed;
        let file = order.target.location.path.clone();
        if !outcome.orders.listed || outcome.orders.stays {
            // Nothing is done there, and the status says so.
            return;
        }
        match did {
            Did::Nothing | Did::Removed { .. } => {}
            Did::Reported => {
                let words = in_words(differences).join(", ");
                if self.known().said.replace(words.clone()).as_ref() == Some(&words) {
                    return;
                }
                let foreign = match stood.take() {
                    Some(stood) => self
                        .foreign(in_force, &stood, differences)
                        .map(|all| (all, stood)),
                    None => None,
                };
                let told = foreign
                    .map(|(all, stood)| self.incident(&file, &all, stood, Undone::SeenOnly, 0));
                self.differs(file, differences, told);
            }
            Did::Replaced { how, backup } => {
                self.known().unsettled = false;
                self.first_run(&file, backup.as_ref(), differences);
                if !self.is_drift(in_force) {
                    self.events.push(Event::Applied {
                        account: self.name.clone(),
                        file: file.clone(),
                        differences: differences.clone(),
                    });
                }
                // An editor that only opened it has changed nothing; what it writes is another matter.
                let is_changed = differences.iter().any(|d| *d != Difference::OpenForWriting);
                if let Some(stood) = stood.take()
                    && is_changed
                    && let Some(foreign) = self.foreign(in_force, &stood, differences)
                {
                    let (name, now) = (self.name.clone(), self.when.now);
                    if *how == Undone::Renewed {
                        self.memory.fights.came_to_stay(&name, now);
                    } else {
                        self.memory.fights.came(&name, 1, now);
                    }
                    let told = self.incident(&file, &foreign, stood, *how, 0);
                    self.repaired(file, foreign, told);
                    self.name_rival();
                }
            }
            Did::Refused { .. } | Did::NotAllowed { .. } | Did::OnOwnMount(_) | Did::Hanging => {
                let (now, drift) = (self.when.now, self.is_drift(in_force));
                let known = self.known();
                known.unsettled |= matches!(did, Did::Refused { began: true, .. });
                if drift && !differences.is_empty() {
                    known.standing.get_or_insert(now);
                }
                let reason = did.refusal().unwrap_or_default();
                self.events.extend(self.memory.refused(&self.name, reason));
            }
        }
        if outcome.managed.is_in_line() {
            let known = self.known();
            (known.standing, known.former, known.said) = (None, None, None);
        }
    }

    /// What was written into the file once it had lost its name, or right after it had been written.
    fn attempts(&mut self, outcome: &mut Outcome) {
        if outcome.attempts.is_empty() {
            return;
        }
        let file = outcome.orders.managed.target.location.path.clone();
        // What of the file itself could not be undone yet is another matter.
        let standing = self.known().standing.take();
        // After those of all files.
        let first = i64::try_from(outcome.others.len()).unwrap_or(0) + 1;
        for (number, attempt) in (first..).zip(outcome.attempts.drain(..)) {
            let (stood, differences) = (attempt.stood.unwrap_or_default(), attempt.differences);
            let how = match attempt.did {
                Did::Replaced { how, .. } => how,
                _ => Undone::Prevented,
            };
            let told = self.incident(&file, &differences, stood, how, number);
            self.repaired(file.clone(), differences, told);
        }
        self.name_rival();
        self.known().standing = standing;
    }

    /// Other files that were taken away or, in observe mode, would be; and those that stay.
    fn others(&mut self, outcome: &mut Outcome) {
        let left = std::mem::replace(&mut self.known().left, outcome.left.clone());
        for other in outcome.left.iter().filter(|other| !left.contains(other)) {
            let account = self.name.clone();
            self.events.push(match &other.found.error {
                Some(reason) => Event::Refused {
                    account,
                    reason: format!("`{}`: {reason}", other.file),
                },
                None => Event::OtherFile {
                    account,
                    other: other.clone(),
                },
            });
        }
        let differences = outcome.other_differences();
        let guards = outcome.guards;
        if !guards {
            let words = (!differences.is_empty()).then(|| in_words(&differences).join(", "));
            let said = std::mem::replace(&mut self.known().said_of_others, words.clone());
            if words.is_none() || said == words {
                return;
            }
        }
        // What of the managed file could not be undone yet is another matter.
        let standing = self.known().standing.take();
        let drift = outcome.orders.others.iter().any(|order: &Order| order.ours);
        for (number, (other, outcome)) in (1..).zip(&mut outcome.others) {
            if outcome.did.refusal().is_none() {
                self.other(other, outcome, guards, drift, number);
            }
        }
        self.known().standing = standing;
        if guards && drift {
            if !differences.is_empty() {
                let (name, now) = (self.name.clone(), self.when.now);
                self.memory.fights.came(&name, 1, now);
            }
            self.name_rival();
        }
    }

    fn other(
        &mut self,
        other: &OtherFile,
        outcome: &mut FileOutcome,
        guards: bool,
        drift: bool,
        number: i64,
    ) {
        let file = PathBuf::from(&other.file);
        let differences = std::mem::take(&mut outcome.differences);
        let undone = if guards {
            Undone::Removed
        } else {
            Undone::SeenOnly
        };
        let stood = outcome.stood.take().unwrap_or_default();
        let told = drift.then(|| self.incident(&file, &differences, stood, undone, number));
        match told {
            Some(told) if guards => self.repaired(file, differences.clone(), told),
            told if !guards => self.differs(file, &differences, told),
            _ => {
                if let Did::Removed { copy: Some(copy) } = &outcome.did {
                    for key in &other.found.keys {
                        self.first_run_of(&file, key, copy);
                    }
                }
                self.events.push(Event::Applied {
                    account: self.name.clone(),
                    file,
                    differences: differences.clone(),
                });
            }
        }
        outcome.differences = differences;
    }

    fn first_run(&mut self, file: &Path, backup: Option<&PathBuf>, differences: &[Difference]) {
        let Some(backup) = backup else { return };
        for difference in differences {
            if let Difference::Added(key) = difference {
                self.first_run_of(file, key, backup);
            }
        }
    }

    fn first_run_of(&mut self, file: &Path, key: &KeyId, backup: &Path) {
        self.events.push(Event::FirstRun {
            account: self.name.clone(),
            file: file.to_owned(),
            key: key.clone(),
            backup: backup.to_owned(),
        });
    }

    fn repaired(&mut self, file: PathBuf, differences: Vec<Difference>, told: Told) {
        self.memory.drift.repaired += 1;
        self.memory.drift.last = Some(DriftEvent {
            at: self.when.now,
            account: self.name.clone(),
            changes: in_words(&differences),
        });
        let change = self.change(file, differences, Some(told));
        self.events.push(Event::Repaired(change));
    }

    fn differs(&mut self, file: PathBuf, differences: &[Difference], told: Option<Told>) {
        let change = self.change(file, differences.to_vec(), told);
        self.events.push(Event::Differs(change));
    }

    fn change(&self, file: PathBuf, differences: Vec<Difference>, told: Option<Told>) -> Change {
        let (incident, stood_milliseconds) = match told {
            Some(told) => (Some(told.incident), told.stood_milliseconds),
            None => (None, None),
        };
        Change {
            account: self.name.clone(),
            file,
            differences,
            incident,
            stood_milliseconds,
        }
    }

    /// What of `differences` an account or a program made, in a file that was ours; `None` if nothing is. When the list
    /// has changed besides, a key that came or went by the list is not.
    fn foreign(
        &self,
        in_force: &InForce,
        stood: &Stood,
        differences: &[Difference],
    ) -> Option<Vec<Difference>> {
        if self.is_drift(in_force) {
            return Some(differences.to_vec());
        }
        let account = in_force.accounts.get(&self.name)?;
        let synced = account.synced.as_ref()?;
        // As the agent left it before the list changed, or when it last began to write it.
        if stood.sha256() == Some(&synced.digest) || differences.is_empty() {
            return None;
        }
        let known = self.memory.accounts.get(&self.name);
        let former = known.and_then(|known| known.former.as_ref());
        let stood_before = |key: &KeyId| {
            if let Some(former) = former {
                return former.contains(&key.fingerprint);
            }
            let mut all = account.grants.iter().chain(&in_force.break_glass);
            all.any(|grant| grant.fingerprint == key.fingerprint)
        };
        let mut foreign = differences.to_vec();
        foreign.retain(|difference| match difference {
            Difference::Added(key) => !stood_before(key),
            Difference::Removed(key)
            | Difference::Altered(key)
            | Difference::Options { key, .. } => stood_before(key),
            _ => true,
        });
        if foreign.is_empty() {
            foreign.push(Difference::Bytes);
        }
        Some(foreign)
    }

    /// Takes an incident down: a new one, or the last one again. The managed file and each other file, by its `number`,
    /// may have an incident of the same moment.
    fn incident(
        &mut self,
        file: &Path,
        differences: &[Difference],
        stood: Stood,
        undone: Undone,
        number: i64,
    ) -> Told {
        let now = self.when.now + SignedDuration::from_micros(number);
        let milliseconds =
            |stood: SignedDuration| u64::try_from(stood.as_millis()).unwrap_or_default();
        let mut how_long = stood.how_long(now).map(milliseconds);
        let mut since = stood.since.map(|(_, since)| since);
        // Changed again while it could not be undone, it has a younger time than when it was first seen.
        let first = self.known().standing.take();
        let first = first.map(|first| milliseconds(now.duration_since(first)));
        if first > how_long {
            (how_long, since) = (first, Some(Since::Seen));
        }
        if undone == Undone::Prevented {
            how_long = Some(0);
        }
        let id = Incident::name(&self.name, now);
        let what = in_words(differences).join(", ");
        let news = self
            .memory
            .rivals
            .take(&self.name, &what, stood.sha256(), &id, now);
        let at = stood.undone_at.unwrap_or(now);
        let more = |repeated, uncounted| More {
            repeated,
            uncounted,
            at,
            stood_milliseconds: how_long,
        };
        let told = |incident: &str| Told {
            incident: incident.to_owned(),
            stood_milliseconds: how_long,
        };
        let sought = Sought {
            file: file.to_owned(),
            inode: stood.inode,
            directory: stood.directory,
            changed_at: stood.since.map(|(at, _)| at),
            directory_changed_at: stood.directory_changed_at,
            undone_at: at,
            own: Arc::clone(self.when.own),
        };
        let (incident, more) = match news {
            News::Again(id) => (id, more(1, 0)),
            News::Flood(id) => (id, more(0, 1)),
            News::Fresh => {
                let told = told(&id);
                self.fresh(id, differences, stood, undone, sought, how_long, since);
                return told;
            }
        };
        let told = told(&incident);
        self.events.push(Event::Again {
            incident,
            more,
            sought,
        });
        told
    }

    #[expect(clippy::too_many_arguments, reason = "an incident has that many parts")]
    fn fresh(
        &mut self,
        id: String,
        differences: &[Difference],
        stood: Stood,
        undone: Undone,
        sought: Sought,
        stood_milliseconds: Option<u64>,
        stood_since: Option<Since>,
    ) {
        let at = sought.undone_at;
        let (changes, more_changes) = Incident::changes(differences, self.wanted);
        let mut incident = Incident {
            schema: SCHEMA,
            id,
            at,
            last_at: at,
            account: self.name.clone(),
            file: sought.file.display().to_string(),
            changes,
            more_changes,
            stood_milliseconds,
            stood_since,
            undone,
            evidence: stood.evidence,
            who: None,
            again_by: Vec::new(),
            repeated: 0,
            uncounted: 0,
        };
        let rivals = &mut self.memory.rivals;
        if !rivals.may_keep(&self.name, incident.size()) {
            incident.shorten();
        }
        let room = |content: &Vec<u8>| u64::try_from(content.len()).unwrap_or(u64::MAX);
        let content = match stood.content {
            Some(content) if rivals.may_keep(&self.name, room(&content)) => Some(content),
            _ => None,
        };
        self.events.push(Event::Incident {
            incident: Box::new(incident),
            content,
            sought,
        });
    }

    /// Says once that an account has a rival; with its name, if that is still to come.
    fn name_rival(&mut self) {
        /// The audit log is asked for the first of these; by then it has answered.
        const NAMED_BY: u64 = 20;
        let times = match self.memory.rivals.rival(&self.name) {
            Some(rival) if !rival.said => rival.times,
            _ => return,
        };
        let program = (self.when.program)(&self.name);
        if program.is_some() || times >= NAMED_BY || !(self.when.audited)() {
            self.memory.rivals.said(&self.name);
            self.events.push(Event::Rival {
                account: self.name.clone(),
                times,
                program,
            });
        }
    }

    /// Notes in what is in force that the file is in sync, and that no other one is left.
    fn note_in_force(&mut self, outcome: &Outcome, in_force: &mut InForce) -> bool {
        let Some(account) = in_force.accounts.get_mut(&self.name) else {
            return false;
        };
        let mut changed = false;
        if outcome.managed.is_in_line() && outcome.orders.listed {
            let synced = Some(Synced {
                file: outcome.orders.managed.target.location.path.clone(),
                digest: self.digest.clone(),
            });
            changed |= account.synced != synced;
            account.synced = synced;
        }
        if let Some(lock) = &outcome.lock {
            if let Err(why) = lock {
                let (fights, now) = (&mut self.memory.fights, self.when.now);
                fights.cannot_lock(&self.name, why.clone(), now);
            }
            let locked = *lock == Ok(true);
            let seconds = self.memory.fights.seconds_left(&self.name, self.when.now);
            if lock.is_ok() && locked == seconds.is_some() {
                let account = self.name.clone();
                self.events.push(Event::Lock { account, seconds });
            }
            changed |= account.locked != locked;
            account.locked = locked;
        }
        if self.when.mode == Mode::Enforce && outcome.managed.did != Did::Hanging {
            // Once none was left, one that cannot be taken away now was still put there by the account.
            let none_left = outcome.guards
                && outcome.orders.others_are_known
                && outcome.left.is_empty()
                && outcome.other_refused().is_none();
            let alone = self.when.removes_others && (account.alone || none_left);
            changed |= account.alone != alone;
            account.alone = alone;
        }
        changed
    }
}

/// What is said of an incident in the log.
struct Told {
    incident: String,
    stood_milliseconds: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::Account;
    use crate::model::config::tables::Owner;
    use crate::model::desired::in_force::Account as InForceOf;
    use crate::model::file::orders::Locking;
    use crate::model::file::orders::Orders;
    use crate::model::file::other_files::InFile;
    use crate::model::file::wanted::{Content, Target};
    use crate::model::key::grant::Grant;
    use crate::model::location::Location;

    const FILE: &str = "/home/alice/.ssh/authorized_keys";
    const OTHER: &str = "/home/alice/.ssh/authorized_keys2";

    /// alice's file, seen again and again.
    struct Past {
        memory: Memory,
        in_force: InForce,
        orders: Orders,
        start: Instant,
        milliseconds: u64,
        mode: Mode,
        by_timer: bool,
        audited: bool,
        program: Option<String>,
        /// What is in force says more than before.
        changed: bool,
        own: Arc<Own>,
    }

    impl Past {
        /// A file that was never ours, and the keys 1 and 2 for it.
        fn new() -> Self {
            let account = Account {
                name: alice(),
                uid: 1001,
                gid: 1001,
                home: "/home/alice".into(),
            };
            let order = |path: &str, wanted| Order {
                target: Target {
                    account: account.clone(),
                    location: Location::in_home(Path::new(path), &account).unwrap(),
                    owner: Owner::Account,
                },
                wanted,
                mode: Mode::Enforce,
                ours: false,
                unsettled: false,
                sweep: false,
                lock: Locking::Open,
            };
            let wanted = Lines {
                content: b"1 2".to_vec(),
                uid: 1001,
                gid: 1001,
                mode: 0o600,
            };
            let orders = Orders {
                account: account.clone(),
                listed: true,
                managed: order(FILE, Wanted::Lines(wanted)),
                others: vec![order(OTHER, Wanted::Nothing)],
                elsewhere: Vec::new(),
                others_are_known: true,
                removes_others: true,
                stays: false,
                adopts: false,
            };
            let mut in_force = InForce::default();
            in_force.accounts.insert(alice(), InForceOf::default());
            let mut past = Self {
                memory: Memory::default(),
                in_force,
                orders,
                start: Instant::now(),
                milliseconds: 0,
                mode: Mode::Enforce,
                by_timer: false,
                audited: false,
                program: None,
                changed: false,
                own: Arc::default(),
            };
            past.list(&[1, 2]);
            past
        }

        /// The file is as it should be, and was ours before.
        fn in_sync() -> Self {
            let mut past = Self::new();
            assert_eq!(past.see(Did::Nothing, &[], None), [""; 0]);
            past
        }

        /// The list gives alice these keys.
        fn list(&mut self, keys: &[u8]) {
            let Wanted::Lines(lines) = &mut self.orders.managed.wanted else {
                return;
            };
            lines.content = format!("{keys:?}").into_bytes();
            let account = self.in_force.accounts.get_mut(&alice()).unwrap();
            let former = account.grants.iter().map(|grant| grant.fingerprint.clone());
            let former: HashSet<String> = former.collect();
            account.managed = true;
            account.grants = keys.iter().map(|number| grant(*number)).collect();
            if !former.is_empty() {
                self.memory.note_former([(alice(), former)]);
            }
        }

        fn now(&self) -> Timestamp {
            at(i64::try_from(self.milliseconds).unwrap())
        }

        fn outcome(&self, did: Did, differences: &[Difference], stood: Option<Stood>) -> Outcome {
            Outcome {
                orders: Arc::new(self.orders.clone()),
                managed: FileOutcome {
                    differences: differences.to_vec(),
                    did,
                    stood,
                },
                others: Vec::new(),
                left: Vec::new(),
                guards: self.orders.removes_others && self.mode == Mode::Enforce,
                loose: None,
                attempts: Vec::new(),
                lock: None,
                stood: Vec::new(),
                writes_prevented: None,
                aside: Vec::new(),
            }
        }

        fn after(&mut self, mut outcome: Outcome) -> Vec<Event> {
            let (now, program) = (self.now(), self.program.clone());
            let when = Circumstances {
                now,
                instant: self.start + Duration::from_millis(self.milliseconds),
                mode: self.mode,
                every: Duration::from_mins(5),
                by_timer: self.by_timer,
                removes_others: self.orders.removes_others,
                own: &self.own,
                audited: &|| self.audited,
                program: &move |_| program.clone(),
            };
            let (events, changed) = self.memory.after(&mut outcome, &mut self.in_force, when);
            self.changed = changed;
            events
        }

        /// What is told of one look.
        fn see(
            &mut self,
            did: Did,
            differences: &[Difference],
            stood: Option<Stood>,
        ) -> Vec<String> {
            let outcome = self.outcome(did, differences, stood);
            let events = self.after(outcome);
            events.iter().map(told).collect()
        }

        fn refuse(&mut self, reason: &str) -> Vec<String> {
            self.see(refused(reason), &[], None)
        }

        /// A change to a file of ours was undone.
        fn repair(&mut self, differences: &[Difference], content: &str) -> Vec<String> {
            self.see(replaced(), differences, Some(stood(content)))
        }

        /// Seconds until alice is looked at again.
        fn retry(&self) -> Option<f32> {
            let due = self.memory.next_retry()?;
            let now = self.start + Duration::from_millis(self.milliseconds);
            Some(due.duration_since(now).as_secs_f32())
        }

        fn wait(&mut self, seconds: u64) {
            self.milliseconds += 1000 * seconds;
        }
    }

    fn alice() -> AccountName {
        "alice".try_into().unwrap()
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
    }

    fn grant(number: u8) -> Grant {
        Grant::of_line(number.to_string(), number.to_string())
    }

    fn key(number: u8) -> KeyId {
        KeyId::from(&grant(number))
    }

    fn added(number: u8) -> Difference {
        Difference::Added(key(number))
    }

    fn removed(number: u8) -> Difference {
        Difference::Removed(key(number))
    }

    fn stood(content: &str) -> Stood {
        let mut stood = Stood::default();
        stood.take_down(Some(Content {
            bytes: content.into(),
            is_whole: true,
        }));
        stood
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

    fn other(number: u8) -> OtherFile {
        let keys = vec![key(number)];
        OtherFile::new(
            Path::new(OTHER),
            InFile {
                keys,
                ..InFile::default()
            },
        )
    }

    fn told(event: &Event) -> String {
        let change = |what: &str, change: &Change| {
            let incident = if change.incident.is_some() {
                ""
            } else {
                ", no incident"
            };
            format!(
                "{what} {}{incident}",
                in_words(&change.differences).join(", ")
            )
        };
        match event {
            Event::Applied { differences, .. } => {
                format!("applied {}", in_words(differences).join(", "))
            }
            Event::FirstRun { key, backup, .. } => {
                format!("first run {key} {}", backup.display())
            }
            Event::Repaired(repaired) => change("repaired", repaired),
            Event::Differs(differs) => change("differs", differs),
            Event::Refused { reason, .. } => format!("refused {reason}"),
            Event::OtherFile { other, .. } => format!("other file {other}"),
            Event::Incident { incident, .. } => {
                format!("incident {:?} {}", incident.undone, incident.changes.len())
            }
            Event::Again { more, .. } => format!("again {} {}", more.repeated, more.uncounted),
            Event::Rival { times, program, .. } => format!("rival {times} {program:?}"),
            Event::Lock { seconds, .. } => format!("lock {seconds:?}"),
            Event::PutAside { aside, .. } => format!("put aside {aside}"),
        }
    }

    #[test]
    fn a_first_run_a_change_of_the_list_and_a_change_of_the_file_are_told_apart() {
        let mut past = Past::new();
        let backup = Some("/backups/alice".into());
        let took_over = past.see(
            Did::Replaced {
                how: Undone::Replaced,
                backup,
            },
            &[added(7), removed(1)],
            None,
        );
        assert_eq!(
            took_over,
            [
                "first run (no name) 7 /backups/alice",
                "applied not on the list: (no name) 7, missing: (no name) 1"
            ]
        );
        assert_eq!(past.see(Did::Nothing, &[], None), [""; 0]);
        // The list gives another key, and the file was as it should be until then.
        past.list(&[1, 3]);
        assert_eq!(
            past.repair(&[added(2), removed(3)], "[1, 2]"),
            ["applied not on the list: (no name) 2, missing: (no name) 3"]
        );
        assert_eq!(past.memory.drift, Drift::default());
        // The account adds a key.
        let told = past.repair(&[added(7)], "[1, 3, 7]");
        assert_eq!(
            told,
            [
                "incident Replaced 1",
                "repaired not on the list: (no name) 7"
            ]
        );
        assert_eq!(past.memory.drift.repaired, 1);
        let last = past.memory.drift.last.clone().unwrap();
        assert_eq!(
            (last.at, last.account, last.changes),
            (
                at(0),
                alice(),
                vec!["not on the list: (no name) 7".to_owned()]
            )
        );
        // What the list does not know of either.
        let told = past.repair(&[Difference::Mode(0o666)], "[1, 3]");
        assert_eq!(told, ["incident Replaced 1", "repaired mode 0666"]);
    }

    #[test]
    fn beside_a_change_of_the_list_only_what_the_account_did_is_an_incident() {
        let check = |differences: &[Difference], content: &str, foreign: Option<&str>| {
            let mut past = Past::in_sync();
            past.list(&[2, 3]);
            let told = past.repair(differences, content);
            let words = in_words(differences).join(", ");
            let mut expected = vec![format!("applied {words}")];
            if let Some(foreign) = foreign {
                expected.push("incident Replaced 1".to_owned());
                expected.push(format!("repaired {foreign}"));
            }
            assert_eq!(told, expected);
        };
        // As the agent left it.
        check(&[added(1), removed(3)], "[1, 2]", None);
        // The account added 7, which neither list has.
        check(
            &[added(1), added(7), removed(3)],
            "x",
            Some("not on the list: (no name) 7"),
        );
        // It had taken 2 out, which both lists have.
        check(
            &[added(1), removed(2), removed(3)],
            "x",
            Some("missing: (no name) 2"),
        );
        // It put 3 in before the list did.
        check(&[added(1)], "x", Some("the same keys, written differently"));
        check(
            &[added(1), removed(3), Difference::Mode(0o640)],
            "x",
            Some("mode 0640"),
        );
    }

    #[test]
    fn a_replacement_that_is_made_again_is_no_incident() {
        let mut past = Past::in_sync();
        past.list(&[3]);
        let began = Did::Refused {
            reason: "no fsync".to_owned(),
            hint: "do this".to_owned(),
            began: true,
        };
        let differences = [added(1), added(2), removed(3)];
        assert_eq!(past.see(began, &differences, None), ["refused no fsync"]);
        assert!(past.memory.is_unsettled(&alice()));
        // By now the file is as it should be, and is replaced all the same.
        assert_eq!(past.repair(&[], "[3]"), ["applied "]);
        assert!(!past.memory.is_unsettled(&alice()));
        assert_eq!(past.memory.drift.repaired, 0);
    }

    #[test]
    fn a_refusal_is_told_once_and_again_after_it_has_ended() {
        for ends in [Did::Nothing, replaced()] {
            let mut past = Past::new();
            assert_eq!(past.refuse("no room"), ["refused no room"]);
            assert_eq!(past.refuse("no room"), [""; 0]);
            assert_eq!(past.refuse("a loop"), ["refused a loop"]);
            past.see(ends.clone(), &[], None);
            assert_eq!(past.refuse("a loop"), ["refused a loop"], "{ends:?}");
        }
        // An earlier process has told it.
        let mut past = Past::new();
        past.memory.resume(&alice(), "no room".to_owned());
        assert_eq!(past.refuse("no room"), [""; 0]);
        let told = |reason: &str, past: &mut Past| past.memory.unworkable(&alice(), reason).len();
        assert_eq!(told("its home is shared", &mut past), 1);
        assert_eq!(told("its home is shared", &mut past), 0);
        let hangs = past.see(Did::Hanging, &[], None);
        assert_eq!(
            hangs,
            ["refused its file system has not answered within 2 s"]
        );
    }

    #[test]
    fn a_refused_account_is_looked_at_again_less_and_less_often() {
        let mut past = Past::new();
        let mut waits = Vec::new();
        for _ in 0..6 {
            past.refuse("no room");
            waits.extend(past.retry());
            past.wait(1);
        }
        assert_eq!(waits, [2., 4., 8., 16., 30., 30.]);
        // What other accounts do meanwhile changes nothing of it.
        let due = past.memory.next_retry();
        past.orders.account.name = "bob".try_into().unwrap();
        past.see(replaced(), &[added(7)], None);
        assert_eq!(past.memory.next_retry(), due);
        past.refuse("no room");
        assert_eq!(past.retry(), Some(2.), "bob's own");
        assert_eq!(
            past.memory.accounts[&alice()].retry.map(|(_, due)| due),
            due
        );
        let soon = past.start + Duration::from_millis(past.milliseconds) + Duration::from_secs(2);
        let of = |due: BTreeSet<AccountName>| due.into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(of(past.memory.due_retries(soon)), ["bob"]);
        assert_eq!(
            of(past.memory.due_retries(soon + Duration::from_secs(30))),
            ["alice", "bob"]
        );
        past.memory.keep_retries(|name| *name == alice());
        assert_eq!(past.memory.next_retry(), due);
        past.orders.account.name = alice();
        past.see(Did::Nothing, &[], None);
        assert_eq!(past.memory.next_retry(), None);
    }

    #[test]
    fn an_other_file_that_stays_is_a_refusal_too() {
        let mut past = Past::in_sync();
        let mut outcome = past.outcome(Did::Nothing, &[], None);
        outcome
            .others
            .push((other(7), FileOutcome::of(refused("a mount"))));
        past.after(outcome);
        assert_eq!(past.retry(), Some(2.));
    }

    #[test]
    fn a_change_without_an_event_is_waited_for_until_a_full_check_comes_anyway() {
        let mut past = Past::in_sync();
        past.repair(&[added(7)], "x");
        assert_eq!(past.retry(), None, "an event told of it");
        past.by_timer = true;
        past.repair(&[added(7)], "x");
        let mut waits = Vec::new();
        while let Some(wait) = past.retry() {
            waits.push(wait);
            past.see(Did::Nothing, &[], None);
        }
        assert_eq!(waits, [1., 2., 4., 8., 16., 32., 64., 128., 256.]);
        past.list(&[3]);
        past.repair(&[removed(3)], "[1, 2]");
        assert_eq!(past.retry(), None, "the list did that");
    }

    #[test]
    fn the_same_change_again_is_the_same_incident() {
        let mut past = Past::in_sync();
        let fresh = [
            "incident Replaced 1",
            "repaired not on the list: (no name) 7",
        ];
        let again = ["again 1 0", "repaired not on the list: (no name) 7"];
        assert_eq!(past.repair(&[added(7)], "x"), fresh);
        past.wait(59);
        assert_eq!(past.repair(&[added(7)], "x"), again);
        past.wait(59);
        assert_eq!(past.repair(&[added(7)], "x"), again);
        assert_eq!(
            past.repair(&[added(7)], "y"),
            fresh,
            "other bytes are evidence of their own"
        );
        past.wait(60);
        assert_eq!(past.repair(&[added(7)], "y"), fresh, "a minute later");
        assert_eq!(past.memory.drift.repaired, 5);
    }

    #[test]
    fn a_flood_is_counted_and_not_kept_each_time() {
        let mut past = Past::in_sync();
        let mut all = Vec::new();
        for number in 0..100 {
            all.extend(past.repair(&[added(number)], &number.to_string()));
        }
        let count = |what: &str| all.iter().filter(|told| told.starts_with(what)).count();
        assert_eq!(count("incident"), 30);
        assert_eq!(count("again 0 1"), 70);
        past.memory.forget(past.now());
        assert!(past.memory.knows_a_change(&alice()));
        past.wait(60);
        past.memory.forget(past.now());
        assert!(!past.memory.knows_a_change(&alice()));
        assert_eq!(past.memory.drift.repaired, 100);
    }

    #[test]
    fn a_rival_is_named_once() {
        let check = |audited: bool, program: Option<(u64, &str)>, expected: &[&str]| {
            let mut past = Past::in_sync();
            past.audited = audited;
            let mut rivals = Vec::new();
            for number in 1..=30 {
                if let Some((from, program)) = program
                    && number >= from
                {
                    past.program = Some(program.to_owned());
                }
                past.wait(1);
                let told = past.repair(&[added(7)], "x");
                rivals.extend(told.into_iter().filter(|told| told.starts_with("rival")));
            }
            assert_eq!(rivals, expected);
            assert_eq!(past.memory.rivals().count(), 1);
        };
        check(false, None, &["rival 10 None"]);
        // The audit log is waited for, and not for ever.
        check(true, None, &["rival 20 None"]);
        check(true, Some((1, "chef")), &["rival 10 Some(\"chef\")"]);
        check(true, Some((13, "chef")), &["rival 13 Some(\"chef\")"]);
        check(true, Some((25, "chef")), &["rival 20 None"]);
    }

    #[test]
    fn in_observe_mode_a_difference_is_told_once() {
        let mut past = Past::in_sync();
        past.mode = Mode::Observe;
        let mut see =
            |did: Did, differences: &[Difference], stood| past.see(did, differences, stood);
        let x = || Some(stood("x"));
        let first = see(Did::Reported, &[added(7)], x());
        assert_eq!(
            first,
            [
                "incident SeenOnly 1",
                "differs not on the list: (no name) 7"
            ]
        );
        assert_eq!(see(Did::Reported, &[added(7)], x()), [""; 0]);
        let more = see(Did::Reported, &[added(7), added(8)], x());
        assert_eq!(
            more,
            [
                "incident SeenOnly 2",
                "differs not on the list: (no name) 7, not on the list: (no name) 8"
            ]
        );
        assert_eq!(see(Did::Nothing, &[], None), [""; 0]);
        let again = see(Did::Reported, &[added(7)], x());
        assert_eq!(again, ["again 1 0", "differs not on the list: (no name) 7"]);
        assert_eq!(past.memory.drift.repaired, 0, "nothing was undone");
        // A file that was never ours is no incident.
        let mut past = Past::new();
        let told = past.see(Did::Reported, &[added(7)], None);
        assert_eq!(told, ["differs not on the list: (no name) 7, no incident"]);
        assert!(past.in_force.accounts[&alice()].synced.is_none());
    }

    #[test]
    fn of_an_account_that_no_list_named_nothing_is_told() {
        let mut past = Past::new();
        past.orders.listed = false;
        past.orders.removes_others = false;
        assert_eq!(past.see(Did::Reported, &[added(7)], None), [""; 0]);
        assert_eq!(past.see(Did::Nothing, &[], None), [""; 0]);
        assert!(past.in_force.accounts[&alice()].synced.is_none());
    }

    #[test]
    fn how_long_a_change_stood_counts_from_when_it_was_seen_first() {
        let told_of = |past: &mut Past, since: Option<i64>| {
            let mut there = stood("x");
            there.since = since.map(|milliseconds| (at(milliseconds), Since::File));
            let outcome = past.outcome(replaced(), &[added(7)], Some(there));
            let incident = past
                .after(outcome)
                .into_iter()
                .find_map(|event| match event {
                    Event::Incident { incident, .. } => Some(incident),
                    _ => None,
                });
            let incident = incident.unwrap();
            (incident.stood_milliseconds, incident.stood_since)
        };
        let refused_for_ten_seconds = |synced: bool| {
            let mut past = if synced { Past::in_sync() } else { Past::new() };
            past.milliseconds = 100_000;
            past.see(refused("no room"), &[added(7)], None);
            past.wait(4);
            past.see(refused("no room"), &[added(7)], None);
            past.wait(6);
            past
        };
        let mut past = refused_for_ten_seconds(true);
        assert_eq!(told_of(&mut past, None), (Some(10_000), Some(Since::Seen)));
        assert_eq!(
            past.memory.accounts.get(&alice()),
            None,
            "the next one is another one"
        );
        // Changed again meanwhile.
        let mut past = refused_for_ten_seconds(true);
        assert_eq!(
            told_of(&mut past, Some(109_000)),
            (Some(10_000), Some(Since::Seen))
        );
        let mut past = refused_for_ten_seconds(true);
        assert_eq!(
            told_of(&mut past, Some(90_000)),
            (Some(20_000), Some(Since::File))
        );
        // What the list asks for does not stand there by the account's doing.
        let past = refused_for_ten_seconds(false);
        assert_eq!(past.memory.accounts[&alice()].standing, None);
    }

    #[test]
    fn what_is_in_sync_is_noted_in_what_is_in_force() {
        let check = |did: Did, listed: bool, synced: bool| {
            let mut past = Past::new();
            past.orders.removes_others = false;
            past.orders.listed = listed;
            past.see(did.clone(), &[], None);
            let account = &past.in_force.accounts[&alice()];
            let expected = synced.then(|| Synced {
                file: FILE.into(),
                digest: digest(b"[1, 2]"),
            });
            assert_eq!(account.synced, expected, "{did:?}");
            assert_eq!(past.changed, synced);
            past.see(did, &[], None);
            assert!(!past.changed, "no news the second time");
        };
        check(Did::Nothing, true, true);
        check(replaced(), true, true);
        check(Did::Nothing, false, false);
        check(Did::Reported, true, false);
        check(refused("x"), true, false);
        check(Did::Hanging, true, false);
    }

    #[test]
    fn an_account_is_alone_once_no_other_file_was_left() {
        let check = |change: fn(&mut Past, &mut Outcome), before: bool, after: bool| {
            let mut past = Past::in_sync();
            past.in_force.accounts.get_mut(&alice()).unwrap().alone = before;
            let mut outcome = past.outcome(Did::Nothing, &[], None);
            change(&mut past, &mut outcome);
            past.after(outcome);
            assert_eq!(past.in_force.accounts[&alice()].alone, after);
            assert_eq!(past.changed, before != after);
        };
        check(|_, _| {}, false, true);
        check(|_, _| {}, true, true);
        check(|_, outcome| outcome.left.push(other(7)), false, false);
        check(|_, outcome| outcome.guards = false, false, false);
        check(
            |_, outcome| Arc::make_mut(&mut outcome.orders).others_are_known = false,
            false,
            false,
        );
        // What comes later was put there by the account, even where it cannot be taken away.
        let stuck = |_: &mut Past, outcome: &mut Outcome| {
            let refused = FileOutcome::of(refused("a mount"));
            outcome.others.push((other(7), refused));
        };
        check(stuck, false, false);
        check(stuck, true, true);
        check(|past, _| past.orders.removes_others = false, true, false);
        check(|past, _| past.mode = Mode::Observe, false, false);
        check(|past, _| past.mode = Mode::Observe, true, true);
        check(
            |_, outcome| outcome.managed.did = Did::Hanging,
            false,
            false,
        );
    }

    #[test]
    fn another_file_is_the_account_s_doing_once_none_was_left() {
        let taken = |past: &Past, number: u8| {
            let mut outcome = past.outcome(Did::Nothing, &[], None);
            let copy = Some("/backups/alice2".into());
            let file = FileOutcome {
                differences: vec![Difference::OtherFile(other(number))],
                did: Did::Removed { copy },
                stood: Some(stood("x")),
            };
            outcome.others.push((other(number), file));
            outcome
        };
        let words = |events: Vec<Event>| events.iter().map(told).collect::<Vec<_>>();
        let mut past = Past::in_sync();
        let outcome = taken(&past, 7);
        let name = format!("another file that sshd reads: `{OTHER}` with (no name) 7");
        assert_eq!(
            words(past.after(outcome)),
            [
                "first run (no name) 7 /backups/alice2".to_owned(),
                format!("applied {name}")
            ]
        );
        past.orders.others[0].ours = true;
        let outcome = taken(&past, 8);
        let told = words(past.after(outcome));
        assert_eq!(
            told,
            [
                "incident Removed 1",
                &format!("repaired another file that sshd reads: `{OTHER}` with (no name) 8")
            ]
        );
        assert_eq!(past.memory.drift.repaired, 1);
    }

    #[test]
    fn another_file_that_stays_is_told_of_once() {
        let mut past = Past::in_sync();
        past.orders.removes_others = false;
        let words = |events: Vec<Event>| events.iter().map(told).collect::<Vec<_>>();
        let mut see = |left: Vec<OtherFile>| {
            let mut outcome = past.outcome(Did::Nothing, &[], None);
            outcome.left = left;
            words(past.after(outcome))
        };
        let seven = format!("other file `{OTHER}` with (no name) 7");
        assert_eq!(see(vec![other(7)]), [seven.as_str()]);
        assert_eq!(see(vec![other(7)]), [""; 0]);
        let stuck = OtherFile::new(Path::new(OTHER), InFile::unread("a mount".to_owned()));
        assert_eq!(
            see(vec![other(7), stuck]),
            [format!("refused `{OTHER}`: a mount")]
        );
        assert_eq!(see(Vec::new()), [""; 0]);
        assert_eq!(see(vec![other(7)]), [seven]);
        // Seen in observe mode, where it would be taken away.
        past.mode = Mode::Observe;
        past.orders.others[0].ours = true;
        let mut see = |number: Option<u8>| {
            let mut outcome = past.outcome(Did::Nothing, &[], None);
            if let Some(number) = number {
                let mut file = FileOutcome::of(Did::Reported);
                file.differences.push(Difference::OtherFile(other(number)));
                outcome.others.push((other(number), file));
            }
            words(past.after(outcome))
        };
        let differs = format!("differs another file that sshd reads: `{OTHER}` with (no name) 7");
        assert_eq!(see(Some(7)), ["incident SeenOnly 1", &differs]);
        assert_eq!(see(Some(7)), [""; 0]);
        assert_eq!(see(None), [""; 0]);
        assert_eq!(see(Some(7)), ["again 1 0", &differs]);
    }
}
