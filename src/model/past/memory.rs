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
use crate::model::past::audit::Sought;
use crate::model::past::event::{Change, Event};
use crate::model::past::evidence::{Stood, digest};
use crate::model::past::incident::{Incident, More, SCHEMA, Since, Undone};
use crate::model::past::outcome::{Did, FileOutcome, Outcome};
use crate::model::past::rivals::{News, Rival, Rivals};

/// All of it can be lost: a new one begins with what an earlier process said last.
#[derive(Debug, Default)]
pub struct Memory {
    /// Only accounts of which there is something to remember.
    accounts: BTreeMap<AccountName, Remembered>,
    rivals: Rivals,
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
    pub own_pid: u32,
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

    /// When some accounts are to be looked at again. Each keeps its time, whatever other accounts do meanwhile.
    pub fn next_retry(&self) -> Option<Instant> {
        let retries = self.accounts.values().filter_map(|known| known.retry);
        retries.map(|(_, due)| due).min()
    }

    /// Those that are due by now.
    pub fn due_retries(&self, now: Instant) -> BTreeSet<AccountName> {
        let is_due = |known: &Remembered| known.retry.is_some_and(|(_, due)| due <= now);
        let due = self.accounts.iter().filter(|(_, known)| is_due(known));
        due.map(|(name, _)| name.clone()).collect()
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

    /// How long the next repair of an account waits for a rival's sake.
    pub fn back_off(&self, account: &AccountName, now: Timestamp) -> Option<Duration> {
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
    pub fn forget(&mut self, now: Timestamp) -> Vec<Event> {
        let untold = self.rivals.forget(now).into_iter();
        untold
            .map(|(account, changes)| Event::Untold { account, changes })
            .collect()
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
        if outcome.managed.did != Did::Hanging {
            story.others(outcome);
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
        if !outcome.orders.listed {
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
            Did::Replaced { backup } => {
                self.known().unsettled = false;
                self.first_run(&file, backup.as_ref(), differences);
                if !self.is_drift(in_force) {
                    self.events.push(Event::Applied {
                        account: self.name.clone(),
                        file: file.clone(),
                        differences: differences.clone(),
                    });
                }
                if let Some(stood) = stood.take()
                    && let Some(foreign) = self.foreign(in_force, &stood, differences)
                {
                    let told = self.incident(&file, &foreign, stood, Undone::Replaced, 0);
                    self.repaired(file, foreign, told);
                    self.name_rival();
                }
            }
            Did::Refused { .. } | Did::NotAllowed { .. } | Did::Hanging => {
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
            fingerprint: key.fingerprint.clone(),
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
        if let Some(change) = self.change(file, differences, Some(told)) {
            self.events.push(Event::Repaired(change));
        }
    }

    fn differs(&mut self, file: PathBuf, differences: &[Difference], told: Option<Told>) {
        if let Some(change) = self.change(file, differences.to_vec(), told) {
            self.events.push(Event::Differs(change));
        }
    }

    /// `None` where the account makes more changes than are told.
    fn change(
        &self,
        file: PathBuf,
        differences: Vec<Difference>,
        told: Option<Told>,
    ) -> Option<Change> {
        let untold = match &told {
            Some(told) => told.untold?,
            None => 0,
        };
        let (incident, stood_milliseconds) = match told {
            Some(told) => (Some(told.incident), told.stood_milliseconds),
            None => (None, None),
        };
        Some(Change {
            account: self.name.clone(),
            file,
            differences,
            incident,
            stood_milliseconds,
            untold,
        })
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
            Difference::Removed(key) | Difference::Altered(key) => stood_before(key),
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
        let (incident, more) = match news {
            News::Again(id) => (id, more(1, 0)),
            News::Flood(id) => (id, more(0, 1)),
            News::Fresh => {
                self.fresh(
                    id.clone(),
                    file,
                    differences,
                    stood,
                    undone,
                    at,
                    how_long,
                    since,
                );
                return self.told(id, how_long, now);
            }
        };
        self.events.push(Event::Again {
            incident: incident.clone(),
            more,
        });
        self.told(incident, how_long, now)
    }

    fn told(&mut self, incident: String, stood_milliseconds: Option<u64>, now: Timestamp) -> Told {
        Told {
            incident,
            stood_milliseconds,
            untold: self.memory.rivals.may_say(&self.name, now),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an incident has that many parts")]
    fn fresh(
        &mut self,
        id: String,
        file: &Path,
        differences: &[Difference],
        stood: Stood,
        undone: Undone,
        at: Timestamp,
        stood_milliseconds: Option<u64>,
        stood_since: Option<Since>,
    ) {
        let sought = Sought {
            file: file.to_owned(),
            inode: stood.inode,
            directory: stood.directory,
            changed_at: stood.since.map(|(at, _)| at),
            undone_at: at,
            own_pid: self.when.own_pid,
        };
        let (changes, more_changes) = Incident::changes(differences, self.wanted);
        let mut incident = Incident {
            schema: SCHEMA,
            id,
            at,
            last_at: at,
            account: self.name.clone(),
            file: file.display().to_string(),
            changes,
            more_changes,
            stood_milliseconds,
            stood_since,
            undone,
            evidence: stood.evidence,
            who: None,
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
    fn note_in_force(&self, outcome: &Outcome, in_force: &mut InForce) -> bool {
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
    /// Changes before it that were not told; `None` when it is not told itself.
    untold: Option<u64>,
}
