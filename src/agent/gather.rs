//! Reads the world that a decision is made on: the stored list, break-glass, who exists, what sshd is.
//!
//! What may block is asked on a thread of its own. An answer that comes late counts when it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::agent::fetched::{self, ListError};
use crate::agent::inquiry::{Bell, Inquiry, ask_within};
use crate::agent::name_service::NameService;
use crate::agent::paths;
use crate::host::accounts::{self, Passwd};
use crate::host::sshd::Circumstances;
use crate::host::store::{self, StoreError};
use crate::host::{Stamp, chain, instance, mounts, process, sshd};
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Config, Paths};
use crate::model::desired::decide::{
    BreakGlassFact, Decision, Facts, ListFact, Said, SignersFact, manages,
};
use crate::model::desired::in_force::InForce;
use crate::model::instance::Identity;
use crate::model::key::release::Version;
use crate::model::list::approved::ApprovedList;
use crate::model::location::FilePattern;
use crate::model::mounts::{Mounts, OwnMount, concerns};
use crate::model::people::{Lookup, People};
use crate::model::sorting::{self, Gather};
use crate::model::sshd::answer::Answer;

/// Where the list of a pass comes from.
pub enum List<'a> {
    Stored,
    /// This one, not stored: for `diff`.
    Given(&'a ApprovedList),
}

/// What is known of the world between two passes.
pub struct World {
    pub identity: Identity,
    pub people: Arc<People>,
    name_service: NameService,
    /// Accounts that are denied now, and since when.
    vanished: BTreeMap<AccountName, Timestamp>,
    /// Tells the stored list that was read last from another one.
    list: Option<Stamp>,
    /// The same of the file of those who may sign lists.
    signers: Option<Stamp>,
    pub sshd: Sshd,
    /// Rung when an answer has come that no pass waits for.
    bell: Option<Bell>,
    /// File systems for which processes of accounts answer.
    pub own_mounts: Arc<Vec<OwnMount>>,
    mounts: Mounts,
    /// What the running enforcer said of its list, for a command that only prints.
    pub said: Option<Said>,
}

/// What is known of the sshd of this host.
#[derive(Default)]
pub struct Sshd {
    /// What it said last, and when.
    pub answer: Option<(Box<Answer>, Timestamp)>,
    /// The program that was last asked for its version.
    program: Option<(PathBuf, Option<Stamp>)>,
    asking_version: Inquiry<Option<Version>>,
    /// It was asked for its version and did not say it.
    is_silent: bool,
    asking: Inquiry<(u64, Option<Answer>)>,
    /// Something may have changed since the question that is not answered yet.
    again: bool,
    /// Tells the circumstances of the last question from others.
    circumstances: Option<u64>,
    /// It is here and could not say what it reads.
    pub is_mute: bool,
}

/// How long the name service may take before a pass goes on without: where something is known of every name, where not, and
/// for a command, which has no later pass.
const KNOWN_PATIENCE: Duration = Duration::from_millis(250);
const NEWS_PATIENCE: Duration = Duration::from_secs(2);
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// How long an account that only a service knows is denied until it is gone.
const VANISHED_SETTLES: SignedDuration = SignedDuration::from_hours(1);

/// How long sshd may take to say its version before a pass goes on without.
const VERSION_PATIENCE: Duration = Duration::from_secs(2);

/// How long a command waits for all that sshd has to say: several answers that each take their time.
const SSHD_PATIENCE: Duration = Duration::from_secs(15);

/// Made by sshd's unit; without it, `sshd -T` gives up (`sshd.c: main`, `_PATH_PRIVSEP_CHROOT_DIR`).
const PRIVSEP: &str = "/run/sshd";

/// Where it keeps the host's keys, without which it gives up too. They are made at the first boot.
const HOST_KEYS: &str = "/etc/ssh";

impl World {
    pub fn new(bell: Option<Bell>) -> Self {
        Self {
            identity: instance::identity(),
            people: Arc::default(),
            name_service: NameService::default(),
            vanished: BTreeMap::new(),
            list: None,
            signers: None,
            sshd: Sshd::default(),
            bell,
            own_mounts: Arc::default(),
            mounts: Mounts::default(),
            said: None,
        }
    }

    /// The stored list is read and judged anew next time, whatever its stamp says.
    pub fn forget_list(&mut self) {
        self.list = None;
    }

    /// Reads everything that a decision is made on.
    pub async fn gather(
        &mut self,
        config: &Config,
        before: &Decision,
        list: List<'_>,
        accepted: Option<String>,
        now: Timestamp,
    ) -> Facts {
        self.read_mounts(&config.accounts.file);
        let openssh = self.version().await;
        let changed = openssh.is_some() && openssh != before.in_force.openssh;
        let is_due = before.read_again.is_some_and(|at| at <= now);
        let signed_by = config
            .policy
            .signing
            .as_ref()
            .map(|signing| &signing.signed_by);
        let signers = signed_by.and_then(|path| Stamp::unfollowed(path));
        let signs_another = signers != self.signers;
        self.signers = signers;
        if changed || accepted.is_some() || is_due || signs_another {
            self.forget_list();
        }
        let (mut list, given) = match list {
            List::Stored => (self.read_list(&config.paths), false),
            List::Given(list) => (ListFact::Read(Box::new(list.clone())), true),
        };
        let names = names(config, before, &list, &self.people);
        let known = Arc::clone(&self.people);
        let silent_about = self.look_up(names, &before.in_force, now).await;
        if self.people != known && !given && matches!(list, ListFact::AsBefore) {
            // Whom the list means is decided anew.
            self.forget_list();
            list = self.read_list(&config.paths);
        }
        let signers = match (signed_by, &list) {
            (Some(path), ListFact::Read(_)) => read_signers(path),
            _ => SignersFact::Unasked,
        };
        Facts {
            now,
            identity: self.identity.clone(),
            list,
            signers,
            break_glass: read_break_glass(&config.accounts.break_glass),
            silent_about,
            look_again: self
                .vanished
                .values()
                .map(|since| look_for(*since, now))
                .min(),
            people: Arc::clone(&self.people),
            adopted: BTreeMap::new(),
            unlooked: BTreeMap::new(),
            openssh: if changed { openssh } else { None },
            // Damaged or missing, it confirms nothing.
            fetched: fetched::report(&config.paths).ok().flatten(),
            stored_at: written_at(&paths::approved(&config.paths)),
            accepted,
            said: self.said.clone(),
        }
    }

    /// Reads what is mounted; returns the accounts whose `file` may be another one for what has come or gone.
    pub fn read_mounts(&mut self, file: &FilePattern) -> BTreeSet<AccountName> {
        let now = mounts::table();
        let places = now.changed(&self.mounts);
        let mut whom = BTreeSet::new();
        if places.is_empty() {
            return whom;
        }
        let of_accounts = now.own.iter().chain(self.own_mounts.iter());
        let makers: BTreeSet<u32> = of_accounts
            .filter(|mount| places.contains(Path::new(&mount.place)))
            .map(|mount| mount.uid)
            .gather();
        for account in self.people.found() {
            let location = file.locate(account).filter(|location| !location.in_home);
            let is_near = |place: &PathBuf| {
                concerns(place, &account.home)
                    || location
                        .iter()
                        .any(|location| concerns(place, &location.path))
            };
            if makers.contains(&account.uid) || places.iter().any(is_near) {
                whom.insert(account.name.clone());
            }
        }
        self.own_mounts = Arc::new(now.own.clone());
        self.mounts = now;
        whom
    }

    fn read_list(&mut self, paths: &Paths) -> ListFact {
        let path = paths::approved(paths);
        let stamp = Stamp::unfollowed(&path);
        if stamp.is_some() && stamp == self.list {
            return ListFact::AsBefore;
        }
        self.list = None;
        match fetched::list(paths) {
            Ok(Some(list)) => {
                self.list = stamp;
                ListFact::Read(Box::new(list))
            }
            Ok(None) => ListFact::Missing(path),
            Err(ListError::TooLarge(excess)) => ListFact::TooLarge(excess),
            Err(ListError::Store(error)) => ListFact::Unreadable(chain(&error)),
        }
    }

    /// Looks everybody up, in local files, and asks the name service for the rest. Returns of whom it has not said anything:
    /// what was known of them last counts meanwhile.
    async fn look_up(
        &mut self,
        names: Vec<AccountName>,
        in_force: &InForce,
        now: Timestamp,
    ) -> Vec<AccountName> {
        let passwd = Passwd::read();
        let mut local = passwd.find(&names);
        let mut people = People {
            uid_min: accounts::uid_min(),
            ..People::default()
        };
        let mut asked = Vec::new();
        for name in names {
            match local.remove(&name) {
                Some(account) if passwd.comes_first() => {
                    people.accounts.insert(name, Lookup::Found(account));
                }
                found => {
                    local.extend(found.map(|account| (name.clone(), account)));
                    asked.push(name);
                }
            }
        }
        let before = Arc::clone(&self.people);
        let known = |name: &AccountName| match before.lookup(name) {
            Some(Lookup::Failed(_)) | None => in_force.person(name).map(Lookup::Found),
            known => known.cloned(),
        };
        let patience = if self.bell.is_none() {
            COMMAND_PATIENCE
        } else if asked.iter().all(|name| known(name).is_some()) {
            KNOWN_PATIENCE
        } else {
            NEWS_PATIENCE
        };
        let answering = &mut self.name_service;
        let mut said = answering
            .look_up(asked.clone(), self.bell.as_ref(), patience)
            .await;
        let mut silent_about = Vec::new();
        for name in asked {
            let lookup = match said.remove(&name) {
                Some(Lookup::Failed(error)) => Err(error),
                Some(answer) => Ok(answer),
                None => Err("the account database does not answer".to_owned()),
            };
            let local = local.remove(&name);
            let lookup = lookup.unwrap_or_else(|error| {
                silent_about.push(name.clone());
                let known = known(&name).or(local.clone().map(Lookup::Found));
                known.unwrap_or(Lookup::Failed(error))
            });
            if let Lookup::Found(account) = &lookup
                && Some(account) != local.as_ref()
            {
                people.distant.insert(name.clone());
            }
            people.accounts.insert(name, lookup);
        }
        self.keep_vanished(&mut people, &passwd, now);
        people.shared_homes = passwd.shared_homes(&people.accounts);
        self.people = Arc::new(people);
        silent_about
    }

    /// An account that only a service knows and that is denied now is not gone at once: the service may be down. One of local
    /// files is, and userdel(8) may be at its home; should it come back, the watch on them tells.
    fn keep_vanished(&mut self, people: &mut People, passwd: &Passwd, now: Timestamp) {
        let before = Arc::clone(&self.people);
        for (name, lookup) in &mut people.accounts {
            let known = before
                .account(name)
                .filter(|_| before.distant.contains(name));
            let Some(known) = known.filter(|_| *lookup == Lookup::Unknown) else {
                continue;
            };
            let since = *self.vanished.entry(name.clone()).or_insert(now);
            let age = now.duration_since(since);
            // Under another name it is still there, and somebody else's.
            if age >= SignedDuration::ZERO && age < VANISHED_SETTLES && !passwd.has_uid(known.uid) {
                *lookup = Lookup::Found(known.clone());
                people.vanished.insert(name.clone());
                people.distant.insert(name.clone());
            }
        }
        self.vanished
            .retain(|name, _| people.vanished.contains(name));
    }

    /// Takes what the name service has said since; returns whether that is anything.
    pub fn hear_names(&mut self) -> bool {
        self.name_service.hear(self.bell.as_ref())
    }

    /// The release of the sshd that is installed, if it has just said it. A new program is waited for; if its answer comes
    /// later, it counts when it does. Until then, and where it says none, the last one counts.
    async fn version(&mut self) -> Option<Version> {
        let known = self
            .sshd
            .answer
            .as_ref()
            .and_then(|(answer, _)| answer.path.clone());
        let path = known.or_else(sshd::find);
        let program = path.map(|path| (path.clone(), Stamp::of(&path)));
        let is_new = program != self.sshd.program;
        if is_new {
            self.sshd.asking_version = Inquiry::default();
        }
        let again = self.sshd.is_silent && !self.sshd.asking_version.is_open();
        if let Some((path, _)) = program.clone()
            && (is_new || again)
        {
            let bell = self.bell.clone();
            let question = move || sshd::version(&path).ok().flatten();
            self.sshd.asking_version.ask(bell, question);
        }
        self.sshd.program = program;
        if is_new && let Some(told) = self.sshd.asking_version.wait(VERSION_PATIENCE).await {
            self.sshd.is_silent = told.is_none();
            return told;
        }
        self.hear_version()
    }

    /// The release, if sshd has said it since it was last heard.
    pub fn hear_version(&mut self) -> Option<Version> {
        let told = self.sshd.asking_version.take()?.flatten();
        self.sshd.is_silent = told.is_none();
        told
    }

    /// Asks sshd again what it makes of the files of these accounts, if anything may have changed. Needs root.
    pub fn ask_sshd(&mut self, accounts: Vec<Account>) {
        if accounts.is_empty() || !process::is_root() {
            return;
        }
        if self.sshd.asking.is_open() {
            self.sshd.again = true;
            return;
        }
        let known = self.sshd.circumstances;
        let last = self.sshd.answer.as_ref().map(|(answer, _)| answer.clone());
        let failed = last.as_ref().is_some_and(|answer| answer.error.is_some());
        let question = move || {
            let circumstances = Circumstances::look();
            let fingerprint = circumstances.fingerprint(&accounts);
            if !failed && known == Some(fingerprint) {
                return (fingerprint, None);
            }
            let answer = circumstances.ask(&accounts, &[], accounts::groups);
            let is_news = last.as_deref() != Some(&answer);
            (fingerprint, is_news.then_some(answer))
        };
        self.sshd.asking.ask(self.bell.clone(), question);
    }

    /// Takes what sshd said, if it has answered; returns whether it is news.
    pub fn hear_sshd(&mut self, now: Timestamp) -> bool {
        let Some(Some((fingerprint, news))) = self.sshd.asking.take() else {
            return false;
        };
        self.sshd.circumstances = Some(fingerprint);
        let Some(answer) = news else { return false };
        self.sshd.take(answer, now);
        true
    }

    /// Asks sshd and waits for it: there will be no later pass to take the answer. Returns whether it has answered.
    pub async fn consult_sshd(
        &mut self,
        accounts: Vec<Account>,
        others: Vec<Account>,
        now: Timestamp,
    ) -> bool {
        if !process::is_root() {
            return false;
        }
        let question = move || Circumstances::look().ask(&accounts, &others, accounts::groups);
        let Some(answer) = ask_within(SSHD_PATIENCE, question).await else {
            return false;
        };
        self.sshd.take(answer, now);
        true
    }

    /// Asks sshd which files it reads for accounts that join. Needs root.
    pub async fn what_sshd_reads(&self, accounts: Vec<Account>) -> Option<Answer> {
        if !process::is_root() {
            return None;
        }
        let patience = if self.bell.is_some() {
            VERSION_PATIENCE
        } else {
            SSHD_PATIENCE
        };
        let question = move || Circumstances::look().ask(&accounts, &[], accounts::groups);
        ask_within(patience, question).await
    }

    /// What to watch so that a change of sshd's configuration is noticed: files, and directories for any new file.
    pub fn sshd_inputs(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let Some((answer, _)) = &self.sshd.answer else {
            return (Vec::new(), Vec::new());
        };
        let (mut files, mut directories) = (answer.files.clone(), answer.directories.clone());
        if answer.error.is_some() {
            files.push(PRIVSEP.into());
            directories.push(HOST_KEYS.into());
        }
        (files, directories)
    }
}

impl Sshd {
    fn take(&mut self, answer: Answer, now: Timestamp) {
        self.is_mute = answer.is_mute();
        self.answer = Some((Box::new(answer), now));
    }

    /// True once, when sshd has answered and must be asked again.
    pub fn take_again(&mut self) -> bool {
        !self.asking.is_open() && std::mem::take(&mut self.again)
    }

    pub fn said(&self) -> Option<(&Answer, Timestamp)> {
        let (answer, at) = self.answer.as_ref()?;
        Some((answer, *at))
    }
}

/// Names whose existence matters: those of the list, those in force, and those that the config names.
fn names(config: &Config, before: &Decision, list: &ListFact, people: &People) -> Vec<AccountName> {
    let mut all: Vec<AccountName> = before.in_force.accounts.keys().cloned().collect();
    all.extend(config.accounts.named().cloned());
    match list {
        ListFact::Read(list) => all.extend(list.entries.iter().map(|entry| entry.account.clone())),
        _ => all.extend(people.accounts.keys().cloned()),
    }
    sorting::sort(&mut all);
    all.dedup();
    all
}

/// The managed accounts that exist.
pub fn managed_people(config: &Config, decision: &Decision, people: &People) -> Vec<Account> {
    let in_force = &decision.in_force;
    let names = in_force.managed().map(|(name, _)| name);
    let managed = names.filter(|name| manages(config, people, in_force, name));
    managed
        .filter_map(|name| people.account(name).cloned())
        .collect()
}

/// When an account that vanished then is looked for again: the longer ago, the rarer.
fn look_for(since: Timestamp, now: Timestamp) -> Timestamp {
    let age = now.duration_since(since);
    now + age.clamp(SignedDuration::from_secs(1), SignedDuration::from_mins(1))
}

fn written_at(path: &Path) -> Option<Timestamp> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Timestamp::try_from(meta.modified().ok()?).ok()
}

fn read_break_glass(path: &Path) -> BreakGlassFact {
    let owner = store::owner(path);
    let bytes = match store::read(path) {
        Ok(bytes) => bytes.unwrap_or_default(),
        // A link too: it has no mode of its own, and is not followed.
        Err(error) => return BreakGlassFact::Unreadable(chain(&error)),
    };
    match owner {
        Ok(Some(owner)) if is_open_to_others(owner) => BreakGlassFact::Open,
        _ => BreakGlassFact::Read(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// It says who decides which keys count, so it counts only while nobody but root can change it.
pub fn read_signers(path: &Path) -> SignersFact {
    if let Some(open) = store::open_to_others(path) {
        return SignersFact::Open(open.display().to_string());
    }
    match store::read_within(path, SIGNERS) {
        Ok(Some(bytes)) => SignersFact::Read(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(None) => SignersFact::Unreadable(format!("`{}` is missing", path.display())),
        Err(error) => SignersFact::Unreadable(chain(&error)),
    }
}

/// The most that is read of it: thousands of keys.
const SIGNERS: u64 = 1 << 20;

/// Others than root, or the user of this process, own a file or may write to it.
fn is_open_to_others((uid, mode): (u32, u32)) -> bool {
    !(uid == 0 || uid == process::user()) || mode & 0o022 != 0
}

/// What `sync --accept-removals` leaves for the enforcer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Digest of the list whose removals are accepted.
    pub digest: String,
    pub at: Timestamp,
}

/// An acceptance is for now: an empty list always has the same digest, and the next one may be an outage.
const ACCEPTANCE_LASTS: SignedDuration = SignedDuration::from_mins(10);

/// The digest that `sync --accept-removals` left; it counts once, whatever comes of it.
pub fn take_accepted(paths: &Paths, now: Timestamp) -> Option<String> {
    let path = paths::accepted(paths);
    let accepted = store::read_json::<Accepted>(&path).ok().flatten();
    // If it stays, its time runs out.
    let _ = std::fs::remove_file(&path);
    let accepted = accepted?;
    let age = now.duration_since(accepted.at);
    let counts = age >= SignedDuration::ZERO && age < ACCEPTANCE_LASTS;
    counts.then_some(accepted.digest)
}

/// What an earlier process left in force, and why it could not be read where the state is started anew. State that
/// cannot be read now may be readable later, so that is an error.
pub fn read_in_force(paths: &Paths) -> Result<(Option<InForce>, Option<String>), StoreError> {
    match store::read_json(&paths::in_force(paths)) {
        Ok(in_force) => Ok((in_force, None)),
        // Nothing counts as managed before then, so nothing is emptied; the list is applied afresh.
        Err(error @ StoreError::Damaged { .. }) => Ok((None, Some(chain(&error)))),
        Err(error) => Err(error),
    }
}
