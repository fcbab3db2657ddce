//! One pass: gather, decide, orders, work, remember, assess. Each step takes values and returns values.
//!
//! A pass cannot fail. What went wrong for one account is that account's state; what went wrong for all is a problem in
//! the status; the keys in force stay. Nothing but the files of accounts is written here: what must be saved, told and
//! published is returned.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::agent::errand::{LookAgain, Tools};
use crate::agent::gather::{self, List, World};
use crate::agent::inquiry::Bell;
use crate::agent::paths;
use crate::agent::wakeups::{AgentWatches, Subject, Trigger, Wake};
use crate::agent::workers::{PATIENCE, Workers};
use crate::host::keyfile::{Leases, own_mount};
use crate::host::process;
use crate::host::store::StoreError;
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Config, Mode};
use crate::model::desired::adopted::Adopted;
use crate::model::desired::decide::{Decision, Said, Terms};
use crate::model::desired::in_force::InForce;
use crate::model::file::difference::Difference;
use crate::model::file::orders::{self, Basis, FirstLook, Whom};
use crate::model::list::bounds::BYTES;
use crate::model::past::audit::Own;
use crate::model::past::event::Event;
use crate::model::past::memory::{Circumstances, Memory};
use crate::model::past::outcome::{Did, Outcome};
use crate::model::sorting::Gather;
use crate::model::sshd::effective::DEFAULT;
use crate::model::status::assess::{self, Judgements, Known, OfEnforcer};
use crate::model::status::problem::Cause;
use crate::model::status::schema::{Row, Rows, Status};

/// What is known between two passes. All of it can be lost: a new one reads it from disk.
pub struct Reconciler {
    pub config: Config,
    zone: TimeZone,
    pub world: World,
    pub decision: Decision,
    pub memory: Memory,
    pub workers: Workers,
    rows: Rows,
    judgements: Judgements,
    /// Files that several accounts would have.
    shared: BTreeSet<PathBuf>,
    /// The state could not be read at start, for this reason.
    pub damaged: Option<String>,
    /// Fingerprint of the state as it was read.
    pub saved: Option<u64>,
    /// Files may be written, if the config says so too.
    writes: bool,
    /// This process is about to end, and leaves nothing locked.
    ends: bool,
    /// Called with an account that joins once its file system answers.
    pub ring: Option<LookAgain>,
    /// This program, as the audit log names it.
    own: Arc<Own>,
}

/// How a look at the files goes.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    pub wake: &'a Wake,
    pub watches: Option<&'a Arc<AgentWatches>>,
    pub leases: Option<&'a Arc<Leases>>,
    pub look_again: &'a LookAgain,
    /// Also look at files outside of homes.
    pub elsewhere: bool,
    /// How long this look waits for the slow, if somebody waits for it.
    pub patience: Option<Duration>,
    /// What the audit log has said of who changes files.
    pub auditor: &'a dyn Auditor,
    /// Called again and again meanwhile.
    pub alive: &'a dyn Fn(),
    pub now: Timestamp,
    pub instant: Instant,
}

/// What knows which program changes an account's file.
pub trait Auditor {
    /// The audit log can be asked.
    fn is_here(&self) -> bool;
    fn program(&self, account: &AccountName) -> Option<String>;
}

/// An auditor that knows nothing.
pub struct NoAuditor;

impl Auditor for NoAuditor {
    fn is_here(&self) -> bool {
        false
    }

    fn program(&self, _: &AccountName) -> Option<String> {
        None
    }
}

/// What a look at the files came to.
#[derive(Default)]
pub struct Looked {
    pub events: Vec<Event>,
    /// What differs or differed, by account; only for a command, which prints it.
    pub differences: BTreeMap<AccountName, Vec<Difference>>,
    /// Accounts in whose files something stood that must not.
    pub undone: BTreeSet<AccountName>,
    /// What is in force says more of the files than before.
    pub in_force_changed: bool,
    /// Accounts whose row is another one.
    pub rows: BTreeSet<AccountName>,
    /// Rows came or went.
    pub rows_are_others: bool,
    /// A key has left a file or the list, and sessions that it opened may still live.
    pub keys_left: bool,
}

/// When files are looked at again that were to be looked at before anything is taken away, if nothing tells of them sooner.
const LOOK_FIRST_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// The same of accounts that join: what stands in their files, which they chose, is held meanwhile.
const FIRST_AT_ONCE: usize = 64;

/// How many accounts are worked on before what came of them is taken in.
const AT_ONCE: usize = 512;

/// How many keys these have together, unless one alone has more: what is in work holds each key several times.
const KEYS_AT_ONCE: usize = 16_384;

impl Reconciler {
    /// Goes on from what an earlier process left in force and said last. What sshd made of the files then, it is asked anew.
    pub fn new(
        config: Config,
        zone: TimeZone,
        mut said: Option<Status>,
        bell: Option<Bell>,
    ) -> Result<Self, StoreError> {
        if let Some(said) = &mut said {
            said.rows = said.rows.values().map(Row::without_access).collect();
        }
        let state = gather::read_in_force(&config.paths)?;
        Ok(Self::resumed(config, zone, state, said, bell, true))
    }

    /// The same for a command that only prints: it looks, and writes nothing.
    pub fn observer(
        config: Config,
        zone: TimeZone,
        said: Option<Status>,
    ) -> Result<Self, StoreError> {
        let of_list = said.as_ref().and_then(|said| {
            let digest = said.list.listed.as_ref()?.digest.clone();
            let held = said.list.held.clone();
            Some(Said { digest, held })
        });
        let mut state = gather::read_in_force(&config.paths)?;
        // The enforcer saves nothing then, so its word has the serial numbers, and since when a list does not count.
        if let (Mode::Observe, Some(said)) = (config.mode, &said) {
            let in_force = state.0.get_or_insert_default();
            in_force.signed.clone_from(&said.list.signed);
            in_force.refused_since = said.list.refused_since;
        }
        let mut observer = Self::resumed(config, zone, state, said, None, false);
        observer.world.said = of_list;
        Ok(observer)
    }

    /// The same for a command that asks how it will be: whether or not this user may know what is in force now.
    pub fn preflight(config: Config, zone: TimeZone) -> (Self, Option<StoreError>) {
        let (state, error) = match gather::read_in_force(&config.paths) {
            Ok(state) => (state, None),
            Err(error) => (Default::default(), Some(error)),
        };
        let preflight = Self::resumed(config, zone, state, None, None, false);
        (preflight, error)
    }

    fn resumed(
        config: Config,
        zone: TimeZone,
        (in_force, damaged): (Option<InForce>, Option<String>),
        said: Option<Status>,
        bell: Option<Bell>,
        writes: bool,
    ) -> Self {
        let world = World::new(bell);
        let saved = in_force.as_ref().map(InForce::fingerprint);
        let decision = Decision::resumed(in_force.unwrap_or_default(), &world.identity);
        let mut memory = Memory::default();
        let mut rows = Rows::default();
        if let Some(said) = said {
            memory.drift = said.drift;
            for row in said.rows.values() {
                if let Some(Cause::FileRefused { .. } | Cause::FileDrifted { .. }) = row.why {
                    let said = row.why.as_ref().map(Cause::reason);
                    memory.resume(&row.name, said.unwrap_or_default());
                }
            }
            rows = said.rows;
        }
        Self {
            config,
            zone,
            world,
            decision,
            memory,
            workers: Workers::default(),
            rows,
            judgements: Judgements::default(),
            shared: BTreeSet::new(),
            damaged,
            saved,
            writes,
            ends: false,
            ring: None,
            own: Arc::new(Own {
                exe: process::executable(),
                uid: process::user(),
            }),
        }
    }

    /// Takes a config that was read again. Under another one, the same list may say something else. Where nothing was to be
    /// written until now, what is in force is what was saved before, as after a start: what the files hold is looked at anew.
    pub fn reconfigure(&mut self, config: Config) -> Result<(), StoreError> {
        if self.writes && self.config.mode == Mode::Observe && config.mode == Mode::Enforce {
            let (in_force, damaged) = gather::read_in_force(&config.paths)?;
            let in_force = in_force.unwrap_or_default();
            self.decision = Decision::resumed(in_force, &self.world.identity);
            self.decision.changed = true;
            self.damaged = damaged;
        }
        if config != self.config {
            self.world.forget_list();
        }
        self.config = config;
        Ok(())
    }

    /// Gathers what there is to know, and decides which keys are in force. With `patience`, accounts that join and whose files
    /// take their time are waited for.
    pub async fn decide(
        &mut self,
        list: List<'_>,
        accepted: Option<String>,
        patience: Option<Duration>,
        alive: &dyn Fn(),
        now: Timestamp,
    ) {
        let mut facts = self
            .world
            .gather(&self.config, &self.decision, list, accepted, now)
            .await;
        let newcomers = self.decision.newcomers(&facts, &self.config);
        if !newcomers.is_empty() {
            let looking = self.look_first(&newcomers, patience, alive, now);
            let (adopted, unlooked) = Box::pin(looking).await;
            if !unlooked.is_empty() {
                // It speaks of them too.
                self.world.forget_list();
            }
            if unlooked.keys().any(|name| !self.tells_when_to_look(name)) {
                let soon = now + LOOK_FIRST_AGAIN;
                facts.look_again = Some(facts.look_again.map_or(soon, |at| at.min(soon)));
            }
            (facts.adopted, facts.unlooked) = (adopted, unlooked);
        }
        let terms = Terms {
            config: &self.config,
            zone: &self.zone,
        };
        self.decision = std::mem::take(&mut self.decision).decide(&mut facts, terms);
        self.shared = orders::shared_files(&self.config, &self.decision, &self.world.people);
        self.memory
            .note_former(std::mem::take(&mut self.decision.former));
    }

    /// True where one of these has joined, and its file system has answered since it was last asked what stands in its files.
    pub fn can_look_first(&self, whom: &Whom) -> bool {
        let Whom::These(names) = whom else {
            return false;
        };
        let waits = |name: &&AccountName| self.decision.unlooked.contains_key(*name);
        let mut waiting = names.iter().filter(waits);
        waiting.any(|name| !self.tells_when_to_look(name))
    }

    /// A thread still waits for its file system, or it is the account's own: when that changes, it is heard of. Until then
    /// nobody is looked at for its sake.
    fn tells_when_to_look(&self, name: &AccountName) -> bool {
        let people = &self.world.people;
        let account = people.account(name);
        let target = account.map(|account| orders::target(&self.config.accounts, people, account));
        let is_its_own = match target {
            Some(Ok(target)) => own_mount(&target, &self.world.own_mounts).is_some(),
            Some(Err(_)) | None => false,
        };
        is_its_own || self.workers.is_at_work_on(name)
    }

    /// What stands in the files of accounts that were never in force, and of whom that is not known, and why.
    pub async fn look_first(
        &mut self,
        names: &[AccountName],
        patience: Option<Duration>,
        alive: &dyn Fn(),
        now: Timestamp,
    ) -> (
        BTreeMap<AccountName, Adopted>,
        BTreeMap<AccountName, String>,
    ) {
        let people = Arc::clone(&self.world.people);
        let newcomers: Vec<&Account> = names
            .iter()
            .filter_map(|name| people.account(name))
            .collect();
        let accounts = newcomers.iter().map(|account| (*account).clone()).collect();
        let reports = !self.config.accounts.removes_other_files();
        let answer = if reports {
            None
        } else {
            self.world.what_sshd_reads(accounts).await
        };
        let is_silent = answer.is_none() && !reports;
        let own = |name: &AccountName| {
            let answer = answer.as_ref()?;
            let silent = answer.is_mute().then_some(DEFAULT);
            answer.reads(Some(name)).or(silent)
        };
        let (mut orders, mut unlooked) = (Vec::new(), BTreeMap::new());
        for account in newcomers {
            let name = &account.name;
            let known = own(name).or(self.decision.in_force.sshd_reads(name));
            let reads = known.or(is_silent.then_some(DEFAULT));
            // One that no work can be done on has no file of the agent's either.
            let look = FirstLook { account, reads };
            orders.extend(orders::first_look(self.basis(now), look));
        }
        let expected: Vec<AccountName> =
            orders.iter().map(|one| one.account.name.clone()).collect();
        let nobody: LookAgain = Arc::new(|_| {});
        let tools = Tools {
            watches: None,
            backups: paths::backups(&self.config.paths),
            look_again: self.ring.clone().unwrap_or(nobody),
            elsewhere: false,
            leases: None,
            own_mounts: Arc::clone(&self.world.own_mounts),
        };
        let (mut adopted, mut room, mut patience) = (BTreeMap::new(), BYTES, patience);
        let mut orders = orders.into_iter().peekable();
        while orders.peek().is_some() {
            let some = orders.by_ref().take(FIRST_AT_ONCE).collect();
            for outcome in self.workers.work(some, &tools, patience, alive).await {
                let name = outcome.orders.account.name.clone();
                if outcome.managed.did == Did::Hanging {
                    // It was waited for long enough, and so are those that come after it.
                    patience = None;
                }
                if let Some(reason) = outcome.managed.did.refusal() {
                    unlooked.insert(name, reason.to_owned());
                    continue;
                }
                let of_host = answer.as_ref().and_then(|answer| answer.reads(None));
                let reads = own(&name).filter(|own| of_host.is_some_and(|of_host| of_host != *own));
                let mut found = Adopted {
                    sshd_reads: reads.map(str::to_owned),
                    unasked: is_silent && self.decision.in_force.sshd_reads(&name).is_none(),
                    ..Adopted::default()
                };
                for stood in &outcome.stood {
                    let (bytes, is_whole) = (&stood.content.bytes, stood.content.is_whole);
                    if stood.is_open {
                        found.count(&stood.file, bytes, is_whole, &self.zone);
                    } else {
                        found.read(&stood.file, bytes, is_whole, &self.zone);
                    }
                }
                found.fit(&mut room);
                adopted.insert(name, found);
            }
        }
        for name in expected {
            if !adopted.contains_key(&name) {
                let slow = || "its file system has not answered yet".to_owned();
                unlooked.entry(name).or_insert_with(slow);
            }
        }
        (adopted, unlooked)
    }

    /// How it will be once a list has spoken of every managed account and was enforced. Returns whether sshd has answered.
    pub async fn foresee(&mut self, now: Timestamp) -> bool {
        let people = &self.world.people;
        self.decision.take_on_everybody(&self.config, people);
        self.shared = orders::shared_files(&self.config, &self.decision, people);
        let answered = self.consult_sshd(Vec::new(), now).await;
        self.decision.once_enforced();
        answered
    }

    /// Looks at everybody's files once, for a command that prints what it finds.
    pub async fn look_once(&mut self, elsewhere: bool, now: Timestamp, instant: Instant) -> Looked {
        let nobody: LookAgain = Arc::new(|_| {});
        let wake = Wake {
            why: Trigger::Timer,
            whom: Whom::Everybody,
        };
        self.look(Look {
            wake: &wake,
            watches: None,
            leases: None,
            look_again: &nobody,
            elsewhere,
            patience: Some(PATIENCE),
            auditor: &NoAuditor,
            alive: &|| (),
            now,
            instant,
        })
        .await
    }

    /// Looks at the files of these accounts, and brings them in line.
    pub async fn look(&mut self, look: Look<'_>) -> Looked {
        let Look { wake, now, .. } = look;
        let mut looked = Looked::default();
        self.workers.begin();
        let names: Vec<(AccountName, bool)> = orders::names(self.basis(now), &wake.whom)
            .into_iter()
            .map(|(name, listed)| (name.clone(), listed))
            .collect();
        let keys_of = |(name, _): &(AccountName, bool)| self.decision.grants_of(name).len();
        let (mut accounts, mut keys) = (1, names.first().map_or(0, keys_of));
        let together = |_: &(AccountName, bool), next: &(AccountName, bool)| {
            (accounts, keys) = (accounts + 1, keys + keys_of(next));
            let fits = accounts <= AT_ONCE && keys <= KEYS_AT_ONCE;
            if !fits {
                (accounts, keys) = (1, keys_of(next));
            }
            fits
        };
        let chunks: Vec<&[(AccountName, bool)]> = names.chunk_by(together).collect();
        for chunk in chunks {
            self.look_at(chunk, look, &mut looked).await;
            if look.watches.is_some() {
                // Only a command prints them.
                looked.differences.clear();
            }
        }
        let known: HashSet<&AccountName> = names.iter().map(|(name, _)| name).collect();
        let is_gone = |name: &AccountName| {
            wake.whom.includes(name)
                && !known.contains(name)
                && !self.decision.unlooked.contains_key(name)
        };
        self.memory.keep_retries(|name| !is_gone(name));
        self.workers.forget(is_gone);
        if let Some(leases) = look.leases {
            leases.keep(|name| !is_gone(name));
        }
        if let Some(watches) = look.watches {
            watches.keep(|subject| match subject {
                Subject::Account(name) => !is_gone(name),
                _ => true,
            });
        }
        self.memory.forget(now);
        if wake.whom == Whom::Everybody {
            self.assess_the_rest(now, &mut looked);
        }
        looked.keys_left |= std::mem::take(&mut self.decision.keys_left);
        looked
    }

    async fn look_at(
        &mut self,
        names: &[(AccountName, bool)],
        look: Look<'_>,
        looked: &mut Looked,
    ) {
        let Look {
            wake,
            auditor,
            now,
            instant,
            ..
        } = look;
        let names: Vec<(&AccountName, bool)> =
            names.iter().map(|(name, listed)| (name, *listed)).collect();
        let sweep = wake.why == Trigger::Startup;
        let unsettled = |name: &AccountName| self.memory.is_unsettled(name);
        let is_locked = |name: &AccountName| {
            !self.ends
                && self
                    .config
                    .accounts
                    .locks(self.memory.fights.is_locked(name, now))
        };
        let (orders, unworkable) =
            orders::orders(self.basis(now), &names, unsettled, is_locked, sweep);
        looked.in_force_changed |= self.lock_soon(&names, look);
        let tools = Tools {
            watches: look.watches.cloned(),
            backups: paths::backups(&self.config.paths),
            look_again: Arc::clone(look.look_again),
            elsewhere: look.elsewhere,
            leases: look.leases.cloned(),
            own_mounts: Arc::clone(&self.world.own_mounts),
        };
        let outcomes = self
            .workers
            .work(orders, &tools, look.patience, look.alive)
            .await;
        let own = Arc::clone(&self.own);
        let when = Circumstances {
            now,
            instant,
            mode: if self.writes {
                self.config.mode
            } else {
                Mode::Observe
            },
            every: self.config.verify.every,
            by_timer: wake.why == Trigger::Timer,
            removes_others: self.config.accounts.removes_other_files(),
            own: &own,
            audited: &|| auditor.is_here(),
            program: &|account| auditor.program(account),
        };
        for (name, why) in &unworkable {
            looked
                .events
                .extend(self.memory.unworkable(name, &why.in_words()));
            let before = self.rows.get(name);
            let row = assess::unworkable_row(self.known(now), name, why, before);
            self.put(row, looked);
        }
        for mut outcome in outcomes {
            let (events, changed) =
                self.memory
                    .after(&mut outcome, &mut self.decision.in_force, when);
            looked.events.extend(events);
            looked.in_force_changed |= changed;
            self.assess(&outcome, now, looked);
        }
    }

    /// Notes whose file is to be locked, before that is done: a crash between the two must not forget it. They are looked at
    /// again once that is saved.
    fn lock_soon(&mut self, names: &[(&AccountName, bool)], look: Look<'_>) -> bool {
        let Look { now, instant, .. } = look;
        let mut changed = false;
        if !self.writes || self.config.mode == Mode::Observe || self.ends {
            return false;
        }
        for (name, _) in names.iter().filter(|(_, listed)| *listed) {
            let Some(account) = self.world.people.account(name) else {
                continue;
            };
            if self.memory.fights.is_suspect(name, now) {
                let is_the_account = process::is_running_as(account.uid);
                if !is_the_account {
                    self.memory.fights.dismiss(name, now);
                } else if self.config.accounts.locks(true) {
                    self.memory.fights.lock(name, now, instant);
                }
            }
            let fights = self.memory.fights.is_locked(name, now);
            if !self.config.accounts.locks(fights) || self.memory.fights.cannot_be_locked(name) {
                continue;
            }
            if let Some(known) = self.decision.in_force.accounts.get_mut(*name)
                && known.synced.is_some()
                && !known.locked
            {
                known.locked = true;
                changed = true;
                (look.look_again)((*name).clone());
            }
        }
        changed
    }

    /// Accounts whose directories are locked; from now on none is any more.
    pub fn open_all(&mut self) -> BTreeSet<AccountName> {
        self.ends = true;
        let locked = self.decision.in_force.managed();
        let locked = locked.filter(|(_, account)| account.locked);
        locked.map(|(name, _)| name.clone()).gather()
    }

    fn assess(&mut self, outcome: &Outcome, now: Timestamp, looked: &mut Looked) {
        let name = outcome.orders.account.name.clone();
        let known = known(&self.config, &self.decision, &self.world, now);
        let before = self.rows.get(&name);
        if let Some(row) = assess::row(known, outcome, before, &mut self.judgements) {
            self.put(row, looked);
        }
        let differences = outcome.differences();
        if !differences.is_empty() && outcome.orders.listed && !outcome.orders.stays {
            looked.keys_left |= differences.iter().any(Difference::held_a_key);
            // Opened for writing, it has changed nothing.
            if differences
                .iter()
                .any(|one| *one != Difference::OpenForWriting)
            {
                looked.undone.insert(name.clone());
            }
            looked.differences.insert(name, differences);
        }
    }

    fn put(&mut self, row: Row, looked: &mut Looked) {
        let before = self.rows.get(&row.name);
        if before == Some(&row) {
            return;
        }
        looked.rows_are_others |= before.is_none();
        looked.rows.insert(row.name.clone());
        self.rows.insert(row);
    }

    /// Accounts that no work was for, and those of which nothing speaks any more.
    fn assess_the_rest(&mut self, now: Timestamp, looked: &mut Looked) {
        for row in assess::passive_rows(self.known(now)) {
            self.put(row, looked);
        }
        let known = known(&self.config, &self.decision, &self.world, now);
        let before = self.rows.names().count();
        self.rows.retain(|row| assess::is_spoken_of(known, row));
        looked.rows_are_others |= self.rows.names().count() != before;
    }

    /// Takes what sshd has said since; returns whose files must be looked at for it, if it said something new.
    pub fn hear_sshd(&mut self, now: Timestamp) -> Option<Whom> {
        let is_news = self.world.hear_sshd(now);
        let said = match &self.world.sshd.answer {
            Some((answer, _)) if is_news => answer.version,
            _ => self.world.hear_version(),
        };
        let is_another = said.is_some() && said != self.decision.in_force.openssh;
        let mut reads_others = false;
        if is_news {
            reads_others = self.learn_files();
            let known = known(&self.config, &self.decision, &self.world, now);
            assess::judge_all(known, &mut self.rows, &mut self.judgements);
        }
        if is_another {
            // Lines are written for it.
            self.decision.in_force.openssh = said;
            self.world.forget_list();
            return Some(Whom::Everybody);
        }
        if !is_news {
            return None;
        }
        let managed = self
            .decision
            .in_force
            .managed()
            .map(|(name, _)| name.clone());
        Some(Whom::These(if reads_others {
            managed.gather()
        } else {
            BTreeSet::new()
        }))
    }

    /// Takes what sshd says that it reads; returns whether it reads other files than it did.
    fn learn_files(&mut self) -> bool {
        let Some((answer, _)) = &self.world.sshd.answer else {
            return false;
        };
        let in_force = &mut self.decision.in_force;
        if answer.error.is_some() {
            return self.world.sshd.is_mute && in_force.sshd_reads.is_none();
        }
        let changed = in_force.learn(answer.reads(None), |name| answer.reads(Some(name)));
        self.decision.changed |= changed;
        changed
    }

    /// Asks sshd what it reads, and waits for it: there will be no later pass to take the answer.
    pub async fn consult_sshd(&mut self, others: Vec<Account>, now: Timestamp) -> bool {
        let people = self.people();
        if people.is_empty() && others.is_empty() {
            return false;
        }
        let answered = self.world.consult_sshd(people, others, now).await;
        if answered {
            self.learn_files();
        }
        answered
    }

    /// The managed accounts that exist.
    pub fn people(&self) -> Vec<Account> {
        gather::managed_people(&self.config, &self.decision, &self.world.people)
    }

    /// True for an account of this uid whose file is, or will be, the agent's business.
    pub fn claims(&self, name: &AccountName, uid: u32) -> bool {
        self.config
            .accounts
            .manages(name, Some(uid), self.world.people.uid_min)
    }

    /// True when the file of an account should say what the list says.
    pub fn is_in_force(&self, name: &AccountName) -> bool {
        let account = self.decision.in_force.accounts.get(name);
        account.is_some_and(|account| account.managed)
    }

    /// The status of this moment.
    pub fn status(&mut self, of: OfEnforcer, now: Timestamp) -> Status {
        let rows = std::mem::take(&mut self.rows);
        assess::status(self.known(now), of, &self.memory, rows)
    }

    /// Takes the rows back that a status was made with.
    pub fn keep_rows(&mut self, rows: Rows) {
        self.rows = rows;
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    fn basis(&self, now: Timestamp) -> Basis<'_> {
        Basis {
            config: &self.config,
            decision: &self.decision,
            people: &self.world.people,
            sshd_is_mute: self.world.sshd.is_mute,
            shared: &self.shared,
            writes: self.writes,
            now,
        }
    }

    fn known(&self, now: Timestamp) -> Known<'_> {
        known(&self.config, &self.decision, &self.world, now)
    }

    /// What is in force.
    pub fn in_force(&self) -> &InForce {
        &self.decision.in_force
    }
}

/// Of the parts, so that the rows can be changed meanwhile.
fn known<'a>(
    config: &'a Config,
    decision: &'a Decision,
    world: &'a World,
    now: Timestamp,
) -> Known<'a> {
    Known {
        config,
        decision,
        people: &world.people,
        sshd: world.sshd.said(),
        now,
    }
}
