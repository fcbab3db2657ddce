//! One pass: read everything it needs afresh, decide, do, say.
//!
//! A pass cannot fail. What went wrong for one account is that account's state; what went wrong for all is a
//! problem in the status; the keys in force stay.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use crate::agent::decide::Decided;
use crate::agent::events::{self, chain};
use crate::agent::incidents::Found;
use crate::agent::others;
use crate::agent::recorder::Recorder;
use crate::agent::seen::Seen;
use crate::agent::sessions::Asking;
use crate::agent::sshd::Knowledge;
use crate::agent::work::{self, AgentWatches, Hanging, Job, Outcome};
use crate::agent::{Trigger, files};
use crate::host::accounts::{Directory, Lookup};
use crate::host::instance::{self, Identity};
use crate::host::keyfile::Target;
use crate::host::store::{self, StoreError};
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Accounts, Config, Mode, Owner};
use crate::model::desired::in_force::{Enforced, Synced};
use crate::model::file::difference::{Difference, KeyName};
use crate::model::file::wanted::Wanted;
use crate::model::file::wanted::content;
use crate::model::key::grant::{Grant, Grants, with_break_glass};
use crate::model::list::approved::ApprovedList;
use crate::model::list::fetch_report::FetchReport;
use crate::model::past::incident::Undone;
use crate::model::past::rivals::Recent;
use crate::model::sshd::access::Loose;
use crate::model::status::schema::{AccountState, REMOVED, Status};

/// What the enforcer knows between two passes. All of it can be lost: a new one reads it from disk.
pub struct Enforcer {
    pub(super) config: Config,
    pub(super) zone: TimeZone,
    pub(super) enforced: Enforced,
    /// Which instance this is.
    pub(super) identity: Identity,
    pub(super) decided: Decided,
    pub(super) status: Status,
    /// Keeps what `status` says from being written again.
    pub(super) written: Option<Status>,
    /// Problems of this pass that belong to no account.
    pub(super) problems: Vec<String>,
    /// The config could not be read again.
    pub(super) config_problem: Option<String>,
    /// The pass speaks to the journal, not to somebody who reads its report.
    pub(super) publishing: bool,
    /// `enforced.json` could not be read at start.
    pub(super) state_problem: Option<String>,
    /// What is in force may differ from what is on disk.
    pub(super) unsaved: bool,
    /// Places that could not be watched.
    pub(super) unwatched: u32,
    /// What sshd is and makes of the files.
    pub(super) sshd: Knowledge,
    hanging: Hanging,
    /// Files whose last replacement did not end well.
    unsettled: HashSet<AccountName>,
    /// Accounts to look at again before the next full check.
    retries: HashMap<AccountName, (Retry, Instant)>,
    /// Since when a change is seen that could not be undone yet.
    pub(super) standing: HashMap<AccountName, Timestamp>,
    /// Changes of the last minute.
    pub(super) recent: Recent,
    /// The keys of each account whose keys a list changed, as they were when its file was last in sync.
    pub(super) former: HashMap<AccountName, HashSet<String>>,
    /// A list took keys away.
    pub(super) keys_left: bool,
    /// Where incidents go.
    pub(super) recorder: Recorder,
    /// What of the fetcher was last passed on.
    pub(super) relayed: Option<FetchReport>,
    /// What is being asked about live sessions.
    pub(super) asking: Asking,
}

/// Why, and how often already, an account is looked at again.
#[derive(Clone, Copy)]
enum Retry {
    /// Its file could not be brought in line; what was in the way may go without an event (an unmount, a quota).
    Refused(u32),
    /// It was changed without an event (a store through a mapping); who did that may do it again at once.
    Unannounced(u32),
}

impl Retry {
    /// How long to wait. A refusal is not forgotten; a quiet file is, after the next full check is due anyway.
    fn wait(self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(30);
        match self {
            Self::Refused(times) => Duration::from_secs(1 << times.min(5)).min(LONGEST),
            Self::Unannounced(times) => Duration::from_secs(1 << times.min(16)),
        }
    }
}

/// Where a pass takes its list from.
pub enum List<'a> {
    /// The stored one.
    Stored,
    /// This one, not stored: for `diff`.
    Given(&'a ApprovedList),
}

/// How a pass runs.
pub struct Terms<'a> {
    /// Why.
    pub trigger: Trigger,
    /// Only these accounts; everything else is taken from the last pass.
    pub only: Option<BTreeSet<AccountName>>,
    /// Where the list is.
    pub list: List<'a>,
    /// Removals of the list with this digest are accepted.
    pub accepted: Option<String>,
    /// Where watches are put.
    pub watches: Option<Arc<AgentWatches>>,
    /// This pass is the only one, so it waits for what sshd has to say.
    pub consults: bool,
    /// Write the status; `diff` writes nothing.
    pub publish: bool,
    /// Called again and again while the pass goes on.
    pub alive: &'a dyn Fn(),
    /// What the clock says.
    pub now: Timestamp,
}

/// What a pass found and did, for the loop and the commands.
pub struct Report {
    /// Differences by account, repaired or not.
    pub differences: Vec<(AccountName, Vec<Difference>)>,
    /// When everything must be looked at again: a key expires, or something was left to settle.
    pub next_look: Option<Timestamp>,
    /// A thread did not come back; the watcher may hang with it.
    pub newly_hanging: bool,
}

impl Enforcer {
    /// Reads what earlier runs left. State that cannot be read now may be readable later, so that is an error;
    /// state that is damaged is started anew.
    pub fn new(config: Config, zone: TimeZone, now: Timestamp) -> Result<Self, StoreError> {
        let (enforced, state_problem) = match store::read_json(&files::enforced(&config.paths)) {
            Ok(enforced) => (enforced, None),
            // Nothing counts as managed before then, so nothing is emptied; the list is applied afresh.
            Err(error @ StoreError::Damaged { .. }) => (None, Some(chain(&error))),
            Err(error) => return Err(error),
        };
        // The last word of an enforcer before this one: counts and times go on.
        let last = store::read_json::<Status>(&files::status(&config.paths))
            .ok()
            .flatten();
        let mut status = Status::unknown(&config, now);
        status.enforcer.pid = std::process::id();
        if let Some(last) = last {
            (status.accounts, status.drift, status.sessions) =
                (last.accounts, last.drift, last.sessions);
            for account in status.accounts.values_mut() {
                (account.keys, account.access) = (Vec::new(), None);
            }
        }
        let mut enforcer = Self {
            config,
            zone,
            decided: Decided::after(enforced.as_ref().map(fingerprint)),
            enforced: enforced.unwrap_or_default(),
            identity: instance::identity(),
            status,
            written: None,
            problems: Vec::new(),
            config_problem: None,
            publishing: true,
            state_problem,
            unsaved: true,
            unwatched: 0,
            sshd: Knowledge::default(),
            hanging: Hanging::default(),
            unsettled: HashSet::new(),
            retries: HashMap::new(),
            standing: HashMap::new(),
            recent: Recent::default(),
            former: HashMap::new(),
            keys_left: false,
            recorder: Recorder::new(),
            relayed: None,
            asking: Asking::default(),
        };
        if let Some(id) = enforcer.identity.id().map(ToOwned::to_owned) {
            enforcer.belong_to(&id);
        }
        Ok(enforcer)
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the last pass found.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let in_sync = self
            .status
            .accounts
            .values()
            .filter(|a| a.state == AccountState::InSync)
            .count();
        let managed = self.enforced.managed().count();
        let list = if self.status.list.digest.is_some() {
            ""
        } else {
            ", no list yet"
        };
        format!(
            "{} ({}): {in_sync} of {managed} accounts in sync, {} changes undone{list}",
            self.status.health.as_str(),
            self.status.mode,
            self.status.drift.repaired
        )
    }

    /// When some accounts are to be looked at again, before the next full check. Each keeps its time, whatever other accounts do
    /// meanwhile.
    pub fn next_retry(&self) -> Option<Instant> {
        self.retries.values().map(|(_, due)| *due).min()
    }

    /// Those that are to be looked at by now.
    pub fn due_retries(&self) -> BTreeSet<AccountName> {
        due(self.retries.iter().map(|(name, (_, at))| (name, *at)))
    }

    fn plan_retry(
        &mut self,
        name: &AccountName,
        outcome: &Outcome,
        others_refused: bool,
        wanted: Option<&Wanted>,
        trigger: Trigger,
    ) {
        let before = self.retries.remove(name).map(|(retry, _)| retry);
        let refused = match before {
            Some(Retry::Refused(times)) => times,
            _ => 0,
        };
        let next = match (outcome, before) {
            (Outcome::Refused { .. } | Outcome::Hanging, _) => Some(Retry::Refused(refused + 1)),
            _ if others_refused => Some(Retry::Refused(refused + 1)),
            (Outcome::Replaced { .. }, _)
                if trigger == Trigger::Timer && self.is_drift(name, wanted) =>
            {
                Some(Retry::Unannounced(0))
            }
            (Outcome::InSync, Some(Retry::Unannounced(times))) => {
                Some(Retry::Unannounced(times + 1))
            }
            _ => None,
        };
        let next = next.filter(|next| {
            next.wait() < self.config.verify.every || matches!(next, Retry::Refused(_))
        });
        self.retries
            .extend(next.map(|next| (name.clone(), (next, Instant::now() + next.wait()))));
    }

    /// True when the file was in sync with just this content before: then what differs now is not the list's doing.
    fn is_drift(&self, name: &AccountName, wanted: Option<&Wanted>) -> bool {
        let synced = self
            .enforced
            .accounts
            .get(name)
            .and_then(|account| account.synced.as_ref());
        synced.is_some_and(|synced| {
            wanted.is_some_and(|wanted| {
                synced.digest == crate::agent::report::digest(&wanted.content)
            })
        })
    }

    /// What of `differences` is somebody else's doing, in a file that was ours; `None` if nothing is. When the list has changed
    /// besides, a key that came or went by the list is not.
    fn foreign(
        &self,
        name: &AccountName,
        wanted: &Wanted,
        seen: &Seen,
        differences: &[Difference],
    ) -> Option<Vec<Difference>> {
        if self.is_drift(name, Some(wanted)) {
            return Some(differences.to_vec());
        }
        let account = self.enforced.accounts.get(name)?;
        let synced = account.synced.as_ref()?;
        if seen
            .evidence
            .as_ref()
            .is_some_and(|evidence| evidence.sha256 == synced.digest)
        {
            return None;
        }
        let in_force: Vec<&str> = account
            .grants
            .iter()
            .chain(&self.enforced.break_glass)
            .map(|g| &*g.fingerprint)
            .collect();
        let former = self.former.get(name);
        let stood = |key: &KeyName| {
            let now = || in_force.contains(&&*key.fingerprint);
            former.map_or_else(now, |former| former.contains(&key.fingerprint))
        };
        let mut foreign = differences.to_vec();
        foreign.retain(|difference| match difference {
            Difference::Added(key) => !stood(key),
            Difference::Removed(key) | Difference::Altered(key) => stood(key),
            _ => true,
        });
        if foreign.is_empty() {
            foreign.push(Difference::Bytes);
        }
        Some(foreign)
    }

    /// The keys in force, break-glass keys included for every account.
    pub fn grants(&self) -> Grants {
        let break_glass = &self.enforced.break_glass;
        let all = |grants: &[Grant]| grants.iter().chain(break_glass).cloned().collect();
        self.enforced
            .grants()
            .into_iter()
            .map(|(name, grants)| (name.clone(), all(grants)))
            .collect()
    }

    /// A guard holds a list, so the fetcher's report matters too.
    pub fn holds_a_list(&self) -> bool {
        self.decided.held.is_some()
    }

    /// Takes a configuration that was read again; an error is a problem, and the old one stays.
    pub fn reconfigure(&mut self, config: Result<Config, String>) {
        let config = config.and_then(|config| {
            let same = config.paths == self.config.paths;
            same.then_some(config).ok_or_else(|| {
                "`[paths]` cannot change while the agent runs; restart it".to_owned()
            })
        });
        match config {
            Ok(config) => {
                // The same config judges the same list in the same way.
                if config != self.config {
                    self.decided.forget();
                }
                self.config = config;
                self.config_problem = None;
            }
            Err(error) => {
                tracing::error!(error, "config not read again, the old one stays");
                self.config_problem = Some(error);
            }
        }
    }

    /// One pass. `look_again` is called with an account whose file system answers at last.
    pub async fn pass(
        &mut self,
        terms: Terms<'_>,
        look_again: impl Fn(AccountName) + Clone + Send + 'static,
    ) -> Report {
        let Terms {
            trigger,
            only,
            list,
            accepted,
            watches,
            consults,
            publish,
            alive,
            now,
        } = terms;
        let only = self.widen(only);
        let full = only.is_none();
        tracing::debug!(
            ?trigger,
            accounts = only.as_ref().map(BTreeSet::len),
            "pass"
        );
        self.publishing = publish;
        if full {
            self.problems.clear();
            self.decide(&list, accepted.as_deref(), now).await;
        }
        if consults {
            self.consult_sshd().await;
        }
        let mut rows = self.rows();
        rows.retain(|row| only.as_ref().is_none_or(|only| only.contains(&row.name)));
        let (jobs, mut outcomes) = self.jobs(rows, trigger, now);
        let wanted: HashMap<AccountName, Wanted> = jobs
            .iter()
            .map(|job| (job.target.account.name.clone(), job.wanted.clone()))
            .collect();
        let mut done =
            work::work(jobs, watches.as_ref(), &mut self.hanging, look_again, alive).await;
        outcomes.extend(done.outcomes);
        self.know_ways(done.loose);
        let mut differences = Vec::new();
        for (name, outcome) in outcomes {
            let others = done.others.remove(&name);
            let stuck = others
                .as_ref()
                .is_some_and(|others| others.refused.is_some());
            self.plan_retry(&name, &outcome, stuck, wanted.get(&name), trigger);
            let (seen, wanted) = (done.seen.remove(&name), wanted.get(&name));
            let mut changed = self.record(&name, outcome, wanted, seen, now);
            let others = others
                .zip(wanted)
                .map(|(others, wanted)| self.record_others(&name, others, wanted, now));
            let others = others.unwrap_or_default();
            if !others.is_empty() {
                changed
                    .get_or_insert_with(|| (name, Vec::new()))
                    .1
                    .extend(others);
            }
            differences.extend(changed);
        }
        // Who was to be looked at and is not there any more is not to be looked at for ever.
        self.retries.retain(|name, _| {
            wanted.contains_key(name) || only.as_ref().is_some_and(|only| !only.contains(name))
        });
        self.forget_rivals(now);
        let key_left = |(_, differences): &(_, Vec<Difference>)| {
            let left = |difference: &_| {
                matches!(
                    difference,
                    Difference::Added(_) | Difference::Unclear(_) | Difference::OtherFile(_)
                )
            };
            differences.iter().any(left)
        };
        let known = full && !self.status.sessions.is_empty();
        let asked = matches!(trigger, Trigger::Startup | Trigger::Reload);
        let left = std::mem::take(&mut self.keys_left) || differences.iter().any(key_left);
        if publish && (known || asked || left) {
            self.ask_for_sessions();
        }
        if publish && left {
            self.ask_again_later();
        }
        self.unwatched = watches.as_ref().map_or(0, |watches| watches.refused());
        self.save();
        self.judge_access();
        self.update_status(trigger, now);
        if publish {
            self.publish(now);
        }
        let next_expiry = self
            .enforced
            .accounts
            .values()
            .flat_map(|account| &account.grants)
            .chain(&self.enforced.break_glass)
            .filter_map(|grant| grant.expires_at)
            .filter(|at| *at > now)
            .min();
        let next_look = next_expiry
            .into_iter()
            .chain(self.decided.look_again)
            .chain(self.recent.quiet_at())
            .min();
        Report {
            differences,
            next_look,
            newly_hanging: done.newly_hanging,
        }
    }

    /// True before there is anything in force: no list yet, or nothing is to be written (`mode = "observe"`).
    pub fn is_new(&self) -> bool {
        self.enforced.list.is_none()
    }

    /// True when the file of an account is what this program says that it is to be.
    pub fn enforces(&self, name: &AccountName) -> bool {
        self.enforced
            .accounts
            .get(name)
            .is_some_and(|account| account.managed)
    }

    /// True for an account of this uid whose file is, or will be, this program's business.
    pub fn claims(&self, name: &AccountName, uid: u32) -> bool {
        self.config
            .accounts
            .manages(name, Some(uid), self.decided.directory.uid_min)
    }

    /// Looks at every managed file and writes nothing; for `status`.
    pub async fn verify(&mut self, now: Timestamp) -> Vec<(AccountName, Outcome, others::Seen)> {
        let names = self
            .enforced
            .accounts
            .keys()
            .chain(self.config.accounts.named());
        self.look_up(names.cloned().collect(), now).await;
        self.check_age(now);
        let mut rows = self.rows();
        rows.retain(|row| row.listed);
        let (mut jobs, mut outcomes) = self.jobs(rows, Trigger::Timer, now);
        for job in &mut jobs {
            job.mode = Mode::Observe;
            job.others.everywhere = true;
        }
        let mut done = work::work(jobs, None, &mut self.hanging, |_| {}, &|| ()).await;
        outcomes.extend(done.outcomes);
        self.know_ways(done.loose);
        let mut others = |name: AccountName, outcome| {
            let others = done.others.remove(&name).unwrap_or_default();
            (name, outcome, others)
        };
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|(name, outcome)| others(name, outcome))
            .collect()
    }

    /// Notes for each file that was looked at what `StrictModes` of sshd refuses on the way to it.
    fn know_ways(&mut self, seen: Vec<(AccountName, Option<Loose>)>) {
        for (name, loose) in seen {
            match loose {
                Some(loose) => drop(self.sshd.loose.insert(name, loose)),
                None => drop(self.sshd.loose.remove(&name)),
            }
        }
    }

    /// The accounts to look at, each with what NSS says.
    fn rows(&self) -> Vec<Row> {
        let unlisted = self.config.accounts.named().filter(|name| {
            self.enforced.list.is_some() && !self.enforced.accounts.contains_key(*name)
        });
        let listed = self.enforced.managed().map(|(name, _)| (name, true));
        listed
            .chain(unlisted.map(|name| (name, false)))
            .filter(|(name, _)| self.manages(name))
            .filter_map(
                |(name, listed)| match self.decided.directory.accounts.get(name)? {
                    Lookup::Found(account) => Some(Row {
                        name: name.clone(),
                        account: Ok(account.clone()),
                        listed,
                    }),
                    Lookup::Failed(error) => Some(Row {
                        name: name.clone(),
                        account: Err(error.clone()),
                        listed,
                    }),
                    Lookup::Unknown => None,
                },
            )
            .collect()
    }

    /// The work on each account, or why there is none.
    fn jobs(
        &self,
        rows: Vec<Row>,
        trigger: Trigger,
        now: Timestamp,
    ) -> (Vec<Job>, Vec<(AccountName, Outcome)>) {
        let (mut jobs, mut refused) = (Vec::<Job>::new(), Vec::new());
        let refusal = |reason: String| Outcome::Refused {
            reason,
            differences: Vec::new(),
            began: false,
        };
        for row in rows {
            match row.account.and_then(|account| self.target(account)) {
                Ok(target) => jobs.push(self.job(target, row.listed, trigger, now)),
                Err(reason) if row.listed => refused.push((row.name, refusal(reason))),
                Err(_) => {}
            }
        }
        let mut paths: HashMap<_, u32> = HashMap::new();
        for job in &jobs {
            *paths.entry(job.target.location.path.clone()).or_default() += 1;
        }
        let (jobs, clashing): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| paths.get(&job.target.location.path) == Some(&1));
        refused.extend(clashing.into_iter().map(|job| {
            let reason = format!(
                "`{}` is the file of several accounts",
                job.target.location.path.display()
            );
            (job.target.account.name, refusal(reason))
        }));
        (jobs, refused)
    }

    fn target(&self, account: Account) -> Result<Target, String> {
        target(&self.config.accounts, &self.decided.directory, account)
    }

    fn job(&self, target: Target, listed: bool, trigger: Trigger, now: Timestamp) -> Job {
        let name = &target.account.name;
        let account = self.enforced.accounts.get(name);
        let grants = account.filter(|_| !self.decided.revoked);
        let grants = grants
            .map(|account| account.grants.as_slice())
            .unwrap_or_default();
        let break_glass = if listed {
            self.enforced.break_glass.as_slice()
        } else {
            &[]
        };
        let (uid, mode) = match target.owner {
            Owner::Account => (target.account.uid, 0o600),
            Owner::Root => (0, 0o640),
        };
        Job {
            others: self.others(&target, listed),
            wanted: Wanted {
                content: content(&with_break_glass(grants, break_glass, now)),
                uid,
                gid: target.account.gid,
                mode,
            },
            // A name in `manage` that no list ever spoke of: its keys are reported, never taken.
            mode: if listed {
                self.config.mode
            } else {
                Mode::Observe
            },
            adopted: account
                .and_then(|account| account.synced.as_ref())
                .is_some_and(|synced| synced.file == target.location.path),
            unsettled: self.unsettled.contains(name),
            sweep: trigger == Trigger::Startup,
            backups: files::backups(&self.config.paths),
            target,
        }
    }

    /// Takes one outcome into the status; gives what differed.
    fn record(
        &mut self,
        name: &AccountName,
        outcome: Outcome,
        wanted: Option<&Wanted>,
        seen: Option<Seen>,
        now: Timestamp,
    ) -> Option<(AccountName, Vec<Difference>)> {
        let digest = wanted.map(|wanted| crate::agent::report::digest(&wanted.content));
        let listed = self.enforced.accounts.contains_key(name);
        let drift = wanted.zip(seen);
        let file = self
            .decided
            .account(name)
            .and_then(|account| self.config.accounts.file.locate(account))
            .map(|location| location.path);
        let path = file.clone().unwrap_or_default();
        if !listed && matches!(outcome, Outcome::Refused { .. } | Outcome::Hanging) {
            // Nothing is to be done there.
            return None;
        }
        let (state, reason, differences) = match outcome {
            Outcome::InSync => (AccountState::InSync, None, Vec::new()),
            Outcome::Differs(differences) if !listed => {
                let keys = differences
                    .iter()
                    .any(|d| matches!(d, Difference::Added(_) | Difference::Unclear(_)));
                let reason = "the list says nothing about it and never did, so its keys stay; \
                    publish keys for it, or a comment-only value to leave it without";
                let state = if keys {
                    AccountState::Held
                } else {
                    AccountState::Unmanaged
                };
                (state, Some(reason.to_owned()), Vec::new())
            }
            Outcome::Differs(differences) => {
                let reason = events::changes(&differences).join(", ");
                if self.said(name, AccountState::Drifted, &reason) {
                    let recorded = drift.and_then(|(wanted, seen)| {
                        let foreign = self.foreign(name, wanted, &seen, &differences)?;
                        let undone = Undone::SeenOnly;
                        let (account, file, differences) =
                            (name, path.as_path(), foreign.as_slice());
                        Some(self.incident(
                            Found {
                                account,
                                file,
                                differences,
                                wanted,
                                seen,
                                undone,
                            },
                            now,
                        ))
                    });
                    events::differs(name, &path, &differences, recorded.as_ref());
                }
                (AccountState::Drifted, Some(reason), differences)
            }
            Outcome::Replaced {
                differences,
                backup,
            } => {
                self.unsettled.remove(name);
                self.say_replaced(name, &path, &differences, backup, drift, now);
                (AccountState::InSync, None, differences)
            }
            Outcome::Refused {
                reason,
                differences,
                began,
            } => {
                if began {
                    self.unsettled.insert(name.clone());
                }
                if !differences.is_empty() && self.is_drift(name, wanted) {
                    self.standing.entry(name.clone()).or_insert(now);
                }
                if self.said(name, AccountState::Refused, &reason) {
                    events::refused(name, &reason);
                }
                (AccountState::Refused, Some(reason), differences)
            }
            Outcome::Hanging => {
                let reason = "its file system has not answered within 2 s".to_owned();
                if self.said(name, AccountState::Refused, &reason) {
                    events::refused(name, &reason);
                }
                (AccountState::Refused, Some(reason), Vec::new())
            }
        };
        if state == AccountState::InSync {
            self.standing.remove(name);
            self.former.remove(name);
        }
        if state == AccountState::InSync
            && let (Some(account), Some(digest)) = (self.enforced.accounts.get_mut(name), &digest)
        {
            let synced = Some(Synced {
                file: path,
                digest: digest.clone(),
            });
            self.unsaved |= account.synced != synced;
            account.synced = synced;
        }
        let changed = (!differences.is_empty() && state == AccountState::InSync).then_some(now);
        self.note(name, state, reason, digest, changed);
        if let Some(row) = self
            .status
            .accounts
            .get_mut(name)
            .filter(|_| changed.is_some())
        {
            let removed = differences
                .iter()
                .filter_map(|difference| match difference {
                    Difference::Added(key) => Some(key.clone()),
                    _ => None,
                });
            row.removed_keys = removed.take(REMOVED).collect();
        }
        (!differences.is_empty()).then(|| (name.clone(), differences))
    }

    /// A file was replaced: for the list, for the first time, or since somebody else had changed it.
    fn say_replaced(
        &mut self,
        account: &AccountName,
        file: &Path,
        differences: &[Difference],
        backup: Option<PathBuf>,
        drift: Option<(&Wanted, Seen)>,
        now: Timestamp,
    ) {
        if let Some(backup) = backup {
            for difference in differences {
                if let Difference::Added(key) = difference {
                    events::first_run(account, file, &key.fingerprint, &backup);
                }
            }
        }
        if !self.is_drift(account, drift.as_ref().map(|(wanted, _)| *wanted)) {
            events::applied(account, file, differences);
        }
        let Some((wanted, seen)) = drift else { return };
        let Some(foreign) = self.foreign(account, wanted, &seen, differences) else {
            return;
        };
        let (differences, undone) = (foreign.as_slice(), Undone::Replaced);
        let recorded = self.incident(
            Found {
                account,
                file,
                differences,
                wanted,
                seen,
                undone,
            },
            now,
        );
        events::repaired(account, file, differences, &recorded);
        self.drifted(account, differences, now);
        self.name_rival(account);
    }

    /// Writes what is in force, if it changed; in observe mode nothing is.
    pub(super) fn save(&mut self) {
        if self.config.mode == Mode::Observe || !self.unsaved {
            return;
        }
        let fingerprint = Some(fingerprint(&self.enforced));
        if self.decided.saved == fingerprint {
            self.unsaved = false;
            return;
        }
        let paths = &self.config.paths;
        if self.state_problem.is_some() && self.decided.saved.is_none() {
            // For a person to look at; without room for it, the state that works matters more.
            let _ = std::fs::rename(files::enforced(paths), files::damaged(paths));
        }
        let saved = store::make_directory(&paths.state_dir, 0o700)
            .and_then(|()| store::write_json(&files::enforced(paths), &self.enforced, 0o600));
        match saved {
            Ok(()) => {
                self.decided.saved = fingerprint;
                self.unsaved = false;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "state not saved");
                let problem = format!("{error}; what is in force is lost when the agent restarts");
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
    }
}

/// Those whose time has come.
pub(super) fn due<'a>(
    times: impl Iterator<Item = (&'a AccountName, Instant)>,
) -> BTreeSet<AccountName> {
    let now = Instant::now();
    times
        .filter(|(_, at)| *at <= now)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Tells whether what is in force differs from what is on disk, without keeping it twice.
fn fingerprint(enforced: &Enforced) -> u64 {
    let mut hasher = DefaultHasher::new();
    enforced.hash(&mut hasher);
    hasher.finish()
}

/// The file of an account, or why there is none to work on.
pub fn target(
    accounts: &Accounts,
    directory: &Directory,
    account: Account,
) -> Result<Target, String> {
    let location = accounts.file.locate(&account).ok_or_else(|| {
        format!(
            "its home `{}` is not one to work in",
            account.home.display().to_string().escape_debug()
        )
    })?;
    if location.in_home
        && let Some((one, other)) = directory.shared_homes.get(&account.home)
    {
        return Err(format!(
            "its home `{}` is shared by `{one}` and `{other}`",
            account.home.display()
        ));
    }
    Ok(Target {
        account,
        location,
        owner: accounts.owner,
    })
}

/// One account to look at.
struct Row {
    name: AccountName,
    account: Result<Account, String>,
    listed: bool,
}
