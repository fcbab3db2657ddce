//! What sshd makes of the files: it is asked after a full pass, on a thread of its own, and only when something of it
//! or of its configuration changed since. Nothing here holds up a pass, and none of it changes a file.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::agent::events::chain;
use crate::agent::pass::Enforcer;
use crate::host::sshd::{self, Stamp};
use crate::host::{accounts, process};
use crate::model::account::{Account, AccountName};
use crate::model::desired::judge::Rules;
use crate::model::key::release::{UNTOLD, Version};
use crate::model::sshd::access::{self, Access, Doubt, Facts, Loose};
use crate::model::sshd::effective::Settings;
use crate::model::status::schema::{AccountState, OtherFile, SshdStatus};

/// What sshd said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
pub struct Answer {
    /// The program; `None` where there is none.
    pub path: Option<PathBuf>,
    /// Its release, where it says.
    pub version: Option<Version>,
    /// Why it did not say its configuration.
    pub error: Option<String>,
    /// It takes a directory that a group can write to which is nobody else's.
    pub private_groups: bool,
    /// Accounts that a `Match` may treat apart and that were not asked about.
    pub unasked: usize,
    /// The paths in `AuthorizedKeysFile` cannot be told from one another.
    has_blanks: bool,
    /// It depends on the connection who gets in.
    by_connection: bool,
    /// It depends on the connection which files are read.
    files_by_connection: bool,
    /// Others that listen too, by their command lines.
    others: Vec<String>,
    /// It is said somewhere which files are read.
    pub(super) names_files: bool,
    /// Each answer once.
    settings: Vec<Settings>,
    /// Which of them is whose; without a `Match` the first is everybody's.
    of: BTreeMap<AccountName, usize>,
    for_all: bool,
    groups: BTreeMap<AccountName, Vec<String>>,
    /// What the answer depends on.
    files: Vec<PathBuf>,
    /// Directories in which a new file would change it.
    directories: Vec<PathBuf>,
}

/// Each takes some milliseconds. More accounts than this behind a `Match` are not asked about one by one, nor more than
/// this that are not managed.
const ASKED: usize = 50;

/// How long sshd may take to say its version before a pass goes on without.
const VERSION_PATIENCE: Duration = Duration::from_secs(2);

/// How long a command waits for all of it: several answers that each take their time.
const PATIENCE: Duration = Duration::from_secs(15);

/// Made by sshd's unit; without it, `sshd -T` gives up (`sshd.c: main`, `_PATH_PRIVSEP_CHROOT_DIR`).
const PRIVSEP: &str = "/run/sshd";

/// What an enforcer knows of sshd between two passes.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
pub(super) struct Knowledge {
    /// The program that was last asked for its version.
    binary: Option<(PathBuf, Stamp)>,
    /// It was asked for its version and has not answered.
    version_asked: Option<Asked>,
    /// It was asked for its version and did not say it.
    is_silent: bool,
    /// It said another version than lines were written for.
    version_anew: bool,
    /// Called when a version comes that no pass waits for any more.
    bell: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(super) answer: Option<Box<Answer>>,
    at: Option<Timestamp>,
    /// The answer is not judged yet.
    news: bool,
    /// Tells the circumstances of the last question from others.
    circumstances: Option<u64>,
    asked: Option<oneshot::Receiver<(u64, Option<Answer>)>>,
    /// Judgements that many accounts share.
    shared: Vec<Arc<Access>>,
    /// What `StrictModes` refuses, by account.
    pub(super) loose: BTreeMap<AccountName, Loose>,
    /// It is here and could not say what it reads.
    pub(super) is_mute: bool,
    /// What was last said of other files that nothing is done about (`mode = "observe"`).
    pub(super) observed: BTreeMap<AccountName, String>,
    /// It reads other files than it did: every account is to be looked at.
    pub(super) reads_anew: bool,
}

/// A version that will be told.
struct Asked {
    version: oneshot::Receiver<Option<Version>>,
    /// Nobody waits for it any more.
    is_late: Arc<AtomicBool>,
}

/// What the answer will depend on.
struct Circumstances {
    started: sshd::Started,
    configuration: sshd::Configuration,
}

impl Circumstances {
    fn look() -> Self {
        let started = sshd::started(Path::new("/"));
        let configuration = sshd::configuration(started.invocation.config.as_deref());
        Self {
            started,
            configuration,
        }
    }

    fn fingerprint(&self, accounts: &[Account]) -> u64 {
        let mut hasher = DefaultHasher::new();
        let paths = self
            .started
            .program
            .iter()
            .chain(&self.started.files)
            .chain(&self.configuration.files);
        for path in paths.chain(&self.configuration.directories) {
            (path, sshd::stamp(path)).hash(&mut hasher);
        }
        (&self.started.invocation, &self.started.others).hash(&mut hasher);
        for account in accounts {
            (account.name.as_str(), account.uid, &account.home).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Asks sshd about `accounts`, then about `others`, which may be left out. Blocks for seconds at worst.
pub fn ask(accounts: &[Account], others: &[Account]) -> Answer {
    answer(Circumstances::look(), accounts, others)
}

fn answer(about: Circumstances, accounts: &[Account], others: &[Account]) -> Answer {
    let Circumstances {
        started,
        configuration,
    } = about;
    let path = started.program;
    let (files, directories): (Vec<_>, Vec<_>) =
        started.files.into_iter().partition(|path| !path.is_dir());
    let port = started.invocation.port.or(configuration.port);
    let said =
        |what: fn(&str) -> bool| started.invocation.options.iter().any(|option| what(option));
    let names_files = configuration.names_files || said(sshd::names_files);
    let mut answer = Answer {
        for_all: !configuration.has_match,
        has_blanks: configuration.has_blanks || said(sshd::has_blank),
        by_connection: configuration.by_connection,
        files_by_connection: configuration.files_by_connection,
        names_files,
        others: started.others,
        files: configuration.files.into_iter().chain(files).collect(),
        directories: configuration
            .directories
            .into_iter()
            .chain(directories)
            .collect(),
        ..Answer::default()
    };
    let Some(path) = path else {
        answer.error = Some("no sshd on this host".to_owned());
        return answer;
    };
    match sshd::version(&path) {
        Ok(version) => answer.version = version,
        Err(error) => answer.error = Some(chain(&error)),
    }
    let managed: BTreeSet<&AccountName> = accounts.iter().map(|account| &account.name).collect();
    let mut others: Vec<&Account> = others
        .iter()
        .filter(|other| !managed.contains(&other.name))
        .collect();
    // Whoever else is left out, root is not.
    others.sort_by_key(|other| other.uid != 0);
    let all = accounts.len() + others.len();
    let asked = accounts
        .iter()
        .take(ASKED)
        .chain(others.into_iter().take(ASKED));
    let asked: Vec<&Account> = asked.take(if answer.for_all { 1 } else { all }).collect();
    answer.unasked = if answer.for_all { 0 } else { all - asked.len() };
    for account in asked {
        if answer.error.is_some() {
            break;
        }
        match sshd::settings(&path, &started.invocation, port, &account.name) {
            Ok(text) => {
                let settings = Settings::read(&text);
                let known = answer.settings.iter().position(|known| *known == settings);
                let number = known.unwrap_or(answer.settings.len());
                if known.is_none() {
                    answer.settings.push(settings);
                }
                answer.of.insert(account.name.clone(), number);
            }
            Err(error) => answer.error = Some(chain(&error)),
        }
    }
    answer.private_groups = sshd::minds_private_groups(&path);
    answer.path = Some(path);
    let by_groups = |settings: &Settings| {
        !(settings.allow_groups.is_empty() && settings.deny_groups.is_empty())
    };
    if answer.settings.iter().any(by_groups) {
        for account in accounts.iter().take(ASKED) {
            answer
                .groups
                .extend(accounts::groups(account).map(|groups| (account.name.clone(), groups)));
        }
    }
    answer
}

/// As [`ask`], with an end; `None` when it has not come.
pub async fn ask_within_patience(accounts: Vec<Account>, others: Vec<Account>) -> Option<Answer> {
    let (told, asked) = oneshot::channel();
    std::thread::spawn(move || told.send(ask(&accounts, &others)).ok());
    tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
}

impl Answer {
    /// The configuration for an account, or why it is not known.
    pub fn settings(&self, name: &AccountName) -> Result<&Settings, String> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let number = self
            .of
            .get(name)
            .copied()
            .or_else(|| self.for_all.then_some(0));
        let found = number.and_then(|number| self.settings.get(number));
        found.ok_or_else(|| {
            format!("sshd's configuration has a `Match`, and only {ASKED} accounts are asked about")
        })
    }

    /// `AuthorizedKeysFile` of `name`, or that of everybody where there is no `Match`; `None` where sshd has not said.
    /// Where its paths cannot be told apart, or are others for other connections, none is meant.
    pub fn reads(&self, name: Option<&AccountName>) -> Option<&str> {
        let settings = match name {
            Some(name) => self.settings(name).ok()?,
            None => self
                .settings
                .first()
                .filter(|_| self.for_all && self.error.is_none())?,
        };
        Some(if self.has_blanks || self.files_by_connection {
            ""
        } else {
            &settings.files
        })
    }

    /// What makes it less than the whole.
    pub fn doubt(&self) -> Option<Doubt> {
        let by_connection = self.by_connection.then_some(Doubt::ByConnection);
        by_connection.or(self.has_blanks.then_some(Doubt::Blanks))
    }

    /// The groups of an account, where they were asked for.
    pub fn groups(&self, name: &AccountName) -> Option<&[String]> {
        self.groups.get(name).map(Vec::as_slice)
    }

    /// The same; for an account that was not asked about, that of one that was.
    pub fn settings_or_like(&self, name: &AccountName) -> Option<&Settings> {
        self.settings(name)
            .ok()
            .or_else(|| self.settings.first().filter(|_| self.error.is_none()))
    }

    /// For the status.
    pub fn describe(&self, at: Timestamp) -> SshdStatus {
        SshdStatus {
            version: self.version.map(|version| version.to_string()),
            path: self.path.as_ref().map(|path| path.display().to_string()),
            asked_at: at,
            error: self.error.clone(),
            unasked: self.unasked,
            unjudged: self.unjudged(),
        }
    }

    /// What of sshd is not judged, for a person.
    pub fn unjudged(&self) -> Vec<String> {
        let doubts = [
            (self.by_connection, Doubt::ByConnection),
            (self.has_blanks, Doubt::Blanks),
        ];
        let doubts = doubts.into_iter().filter(|(is_here, _)| *is_here);
        let others = self.others.iter().map(|words| {
            format!("another sshd listens, and whom it lets in is not judged: `{words}`")
        });
        doubts
            .map(|(_, doubt)| doubt.describe().to_owned())
            .chain(others)
            .collect()
    }
}

impl Enforcer {
    /// By what lines are judged and written here.
    pub(super) fn rules(&self) -> Rules<'_> {
        let openssh = Some(self.enforced.openssh.unwrap_or(UNTOLD));
        Rules {
            policy: &self.config.policy,
            zone: &self.zone,
            openssh,
        }
    }

    /// `tell` is called when sshd says its version after a pass has gone on without.
    pub(super) fn when_version_comes(&mut self, tell: impl Fn() + Send + Sync + 'static) {
        self.sshd.bell = Some(Arc::new(tell));
    }

    /// Asks the sshd that is installed for its version, when it is not the one that was asked or has not said. The answer
    /// of a new one is waited for; if it comes later, it counts when it does. Until then, and where it says none, the last
    /// one counts.
    pub(super) async fn know_openssh(&mut self) {
        let found = self
            .sshd
            .answer
            .as_ref()
            .and_then(|answer| answer.path.clone())
            .or_else(sshd::find);
        let found = found
            .map(|path| (sshd::stamp(&path), path))
            .map(|(stamp, path)| (path, stamp));
        let is_new = found != self.sshd.binary;
        let again = self.sshd.is_silent && self.sshd.version_asked.is_none();
        if let Some((path, _)) = found.clone().filter(|_| is_new || again) {
            let (told, version) = oneshot::channel();
            let is_late = Arc::new(AtomicBool::new(!is_new));
            self.sshd.version_asked = Some(Asked {
                version,
                is_late: Arc::clone(&is_late),
            });
            let bell = self.sshd.bell.clone();
            std::thread::spawn(move || {
                let version = sshd::version(&path).ok().flatten();
                let is_news = told.send(version).is_ok() && version.is_some();
                if let Some(bell) = bell.filter(|_| is_news && is_late.load(Ordering::SeqCst)) {
                    bell();
                }
            });
        }
        self.sshd.binary = found;
        if let Some(Asked { version, is_late }) =
            self.sshd.version_asked.as_mut().filter(|_| is_new)
        {
            if let Ok(told) = tokio::time::timeout(VERSION_PATIENCE, version).await {
                self.sshd.version_asked = None;
                self.take_version(told.ok().flatten());
            } else {
                // One that is told this very moment is there below.
                is_late.store(true, Ordering::SeqCst);
            }
        }
        self.hear_version();
        // It counts in this very pass.
        self.sshd.version_anew = false;
    }

    /// Takes the version, if it has come.
    fn hear_version(&mut self) {
        let Some(asked) = &mut self.sshd.version_asked else {
            return;
        };
        let told = asked.version.try_recv();
        if told != Err(oneshot::error::TryRecvError::Empty) {
            self.sshd.version_asked = None;
            self.take_version(told.ok().flatten());
        }
    }

    fn take_version(&mut self, told: Option<Version>) {
        self.sshd.is_silent = told.is_none();
        if told.is_none() || told == self.enforced.openssh {
            return;
        }
        tracing::debug!(version = told.map(|version| version.to_string()), "sshd");
        self.enforced.openssh = told;
        self.unsaved = true;
        self.sshd.version_anew = true;
        self.decided.forget();
    }

    /// True when lines are to be written for another version than they were.
    pub(super) fn is_version_anew(&mut self) -> bool {
        self.hear_version();
        std::mem::take(&mut self.sshd.version_anew)
    }

    /// The managed accounts that exist.
    pub fn people(&self) -> Vec<Account> {
        let managed = self
            .enforced
            .managed()
            .filter(|(name, _)| self.manages(name));
        managed
            .filter_map(|(name, _)| self.decided.account(name).cloned())
            .collect()
    }

    /// Asks sshd again if anything may have changed; `tell` is called once there is news. Needs root.
    pub(super) fn ask_sshd(&mut self, now: Timestamp, tell: impl FnOnce() + Send + 'static) {
        self.hear_sshd(now);
        let accounts = self.people();
        if self.sshd.asked.is_some() || accounts.is_empty() || !process::is_root() {
            return;
        }
        let known = self.sshd.circumstances;
        let last = self.sshd.answer.clone();
        let failed = last.as_ref().is_some_and(|answer| answer.error.is_some());
        let (told, asked) = oneshot::channel();
        self.sshd.asked = Some(asked);
        std::thread::spawn(move || {
            let circumstances = Circumstances::look();
            let fingerprint = circumstances.fingerprint(&accounts);
            let same = !failed && known == Some(fingerprint);
            let fresh = (!same).then(|| answer(circumstances, &accounts, &[]));
            let news = fresh.filter(|fresh| last.as_deref() != Some(fresh));
            let is_news = news.is_some();
            if told.send((fingerprint, news)).is_ok() && is_news {
                tell();
            }
        });
    }

    /// Takes the answer, if it has come; true for news.
    pub(super) fn hear_sshd(&mut self, now: Timestamp) -> bool {
        let Some(asked) = &mut self.sshd.asked else {
            return false;
        };
        match asked.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return false,
            Err(oneshot::error::TryRecvError::Closed) => self.sshd.asked = None,
            Ok((fingerprint, news)) => {
                self.sshd.asked = None;
                self.sshd.circumstances = Some(fingerprint);
                if let Some(answer) = news {
                    self.learn_files(&answer);
                    if answer.version.is_some() {
                        self.take_version(answer.version);
                    }
                    self.sshd.answer = Some(Box::new(answer));
                    self.sshd.at = Some(now);
                    self.sshd.news = true;
                    return true;
                }
            }
        }
        false
    }

    /// What to watch so that a change of sshd's configuration is noticed: files, and directories for any new file.
    pub(super) fn sshd_inputs(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let Some(answer) = &self.sshd.answer else {
            return Default::default();
        };
        let mut files = answer.files.clone();
        if answer.error.is_some() {
            files.push(PRIVSEP.into());
        }
        (files, answer.directories.clone())
    }

    /// Judges every account anew, after an answer.
    pub(super) fn judge_access(&mut self) {
        if !std::mem::take(&mut self.sshd.news) {
            return;
        }
        self.sshd.shared.clear();
        let Some(answer) = self.sshd.answer.take() else {
            return;
        };
        let at = self.sshd.at.unwrap_or(self.status.enforcer.started_at);
        self.status.sshd = Some(answer.describe(at));
        let names: Vec<AccountName> = self.status.accounts.keys().cloned().collect();
        for name in names {
            let Some(row) = self.status.accounts.get(&name) else {
                continue;
            };
            let access = self.access(&answer, &name, row.state, &row.other_files);
            let access = access.map(|access| self.share(access));
            if let Some(row) = self.status.accounts.get_mut(&name) {
                row.access = access;
            }
        }
        self.sshd.answer = Some(answer);
    }

    /// Judges one account that was just looked at.
    pub(super) fn judge_one(
        &mut self,
        name: &AccountName,
        state: AccountState,
        others: &[OtherFile],
    ) -> Option<Arc<Access>> {
        let answer = self.sshd.answer.take()?;
        let access = self.access(&answer, name, state, others);
        self.sshd.answer = Some(answer);
        access.map(|access| self.share(access))
    }

    /// What sshd makes of the file of an account, by `answer`; `None` where there is no file of ours. `others` are the files
    /// that are there besides.
    pub fn access(
        &self,
        answer: &Answer,
        name: &AccountName,
        state: AccountState,
        others: &[OtherFile],
    ) -> Option<Access> {
        let account = self.decided.account(name)?;
        let location = self.config.accounts.file.locate(account)?;
        match state {
            AccountState::NoAccount | AccountState::Unmanaged => return None,
            // For the sake of another file, its own is as it is to be.
            AccountState::Refused if self.is_in_the_way(account, &location.path, others) => {}
            AccountState::Refused => {
                return Some(Access::unknown("its file is not as it is to be"));
            }
            AccountState::InSync | AccountState::Drifted | AccountState::Held => {}
        }
        let settings = match answer.settings(name) {
            Ok(settings) => settings,
            Err(reason) => return Some(Access::unknown(reason)),
        };
        let in_force = self
            .enforced
            .accounts
            .get(name)
            .filter(|_| !self.decided.revoked);
        let grants = in_force
            .map(|account| account.grants.as_slice())
            .unwrap_or_default();
        let facts = Facts {
            account,
            managed: &location.path,
            guarded: &self.guarded(account, &location.path, others),
            doubt: answer.doubt(),
            openssh: answer.version.or(self.enforced.openssh),
            // Expired or not: sshd's reasons to refuse a key are others.
            keys: &grants
                .iter()
                .chain(&self.enforced.break_glass)
                .collect::<Vec<_>>(),
            groups: answer.groups(name),
            loose: self.sshd.loose.get(name),
            private_groups: answer.private_groups,
        };
        Some(access::judge(
            settings,
            facts,
            &self.config.accounts.accepted_doors,
        ))
    }

    /// Most accounts have the same one.
    fn share(&mut self, access: Access) -> Arc<Access> {
        const KINDS: usize = 16;
        if let Some(known) = self.sshd.shared.iter().find(|known| ***known == access) {
            return Arc::clone(known);
        }
        let access = Arc::new(access);
        if self.sshd.shared.len() < KINDS {
            self.sshd.shared.push(Arc::clone(&access));
        }
        access
    }
}
