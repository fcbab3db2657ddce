//! What wakes the enforcer, and at whom it then looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::agent::paths;
use crate::host::watch::{ANY, Change, Watches};
use crate::host::{DETAIL, accounts, store};
use crate::model::account::AccountName;
use crate::model::config::tables::Config;
use crate::model::file::orders::Whom;
use crate::model::sorting::Gather;

/// Why a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The enforcer has just started.
    Startup,
    /// The stored list changed.
    ListChanged,
    /// Who exists here may be others.
    PeopleChanged,
    /// A managed file, or a directory on the way to it, changed.
    Drift,
    /// It is time: a full check, or a key expires.
    Timer,
    /// The name service was slow, and has answered.
    NamesAnswered,
    /// sshd was asked what it makes of the files, and has answered.
    SshdAnswered,
    /// SIGHUP, or `sync`.
    Reload,
}

/// A pass that is to run.
#[derive(Clone, Debug)]
pub struct Wake {
    pub why: Trigger,
    pub whom: Whom,
}

/// What a watch is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The stored list, or what goes with it.
    List,
    /// The report of the fetcher.
    Fetched,
    /// Who exists.
    People,
    /// An account's file.
    Account(AccountName),
}

/// The watches of one enforcer.
pub type AgentWatches = Watches<Subject>;

/// What changed since the last pass.
#[derive(Default)]
pub struct Pending {
    changed: Mutex<Changed>,
    bell: Notify,
}

/// What changed.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bell of its own")]
pub struct Changed {
    /// The stored list, or what goes with it.
    pub list: bool,
    pub accounts: BTreeSet<AccountName>,
    /// The fetcher has tried again.
    pub fetched: bool,
    /// Events were lost: anything may have changed.
    pub lost: bool,
    /// A question to the host is answered.
    pub answered: bool,
    /// Something was mounted or unmounted.
    pub mounts: bool,
    /// Who exists here may be others.
    pub people: bool,
    /// The clock was set.
    pub clock: bool,
}

impl Pending {
    pub fn add(&self, change: Change<Subject>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::At(Subject::List) => changed.list = true,
            Change::At(Subject::Fetched) => changed.fetched = true,
            Change::At(Subject::Account(name)) => drop(changed.accounts.insert(name)),
            Change::At(Subject::People) => changed.people = true,
            Change::Mounts => changed.mounts = true,
            Change::Clock => changed.clock = true,
            Change::Everything => changed.lost = true,
        }
        self.bell.notify_one();
    }

    pub fn answered(&self) {
        self.changed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answered = true;
        self.bell.notify_one();
    }

    /// Returns once something has changed. Cancel-safe: a change that comes meanwhile is kept.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    pub fn take(&self) -> Changed {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Accounts that are not looked at yet, though something of theirs has changed, each from its first change on: for a
/// rival's sake, or since they had their share of looks. The last change is always followed by a look.
#[derive(Default)]
pub struct HeldBack {
    waiting: BTreeMap<AccountName, Instant>,
    /// When the looks at an account, at one in [`LOOK_EVERY`], would be over.
    looked: BTreeMap<AccountName, Instant>,
}

/// Looks at one account that find nothing to undo: so many as it comes, and then at this pace. An account can make events
/// without end, and each look costs root more than the event cost the account.
const LOOKS_AT_ONCE: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl HeldBack {
    /// Those of `accounts` that are looked at now; the others wait.
    pub fn sift(
        &mut self,
        mut accounts: BTreeSet<AccountName>,
        wait: impl Fn(&AccountName) -> Option<Duration>,
        now: Instant,
    ) -> BTreeSet<AccountName> {
        accounts.retain(|name| {
            let over = self.looked.get(name).copied();
            let share = now + LOOKS_AT_ONCE * LOOK_EVERY;
            let too_many = over.and_then(|over| over.checked_duration_since(share));
            let Some(wait) = wait(name).max(too_many) else {
                return true;
            };
            let at = self.waiting.entry(name.clone()).or_insert(now + wait);
            *at = (*at).min(now + wait);
            false
        });
        accounts
    }

    /// These are looked at, whatever else.
    pub fn release(&mut self, whom: &Whom, now: Instant) {
        self.waiting.retain(|name, _| !whom.includes(name));
        self.looked.retain(|_, over| *over > now);
        // A look at everybody is nobody's doing.
        if let Whom::These(names) = whom {
            for name in names {
                let over = self.looked.entry(name.clone()).or_insert(now);
                *over += LOOK_EVERY;
            }
        }
    }

    /// What an account changed was undone: the next change of the kind must not stand until its turn comes.
    pub fn forgive(&mut self, name: &AccountName) {
        self.looked.remove(name);
    }

    pub fn next(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    pub fn due(&self, now: Instant) -> BTreeSet<AccountName> {
        let due = self.waiting.iter().filter(|(_, at)| **at <= now);
        due.map(|(name, _)| name.clone()).gather()
    }
}

/// New watches, or why they cannot be heard.
pub fn watch(pending: &Arc<Pending>) -> Result<Arc<AgentWatches>, String> {
    let told = Arc::clone(pending);
    // To look at one account costs little; the list and the fetcher's report are not an account's to write.
    let is_account = |subject: &Subject| matches!(subject, Subject::Account(_));
    let started = Watches::start(move |change| told.add(change), is_account);
    started.map(Arc::new).map_err(|error| error.to_string())
}

/// Watches what a decision is made on. A directory that was missing may be there by now.
pub fn watch_inputs(
    watches: &AgentWatches,
    config: &Config,
    (files, directories): (Vec<std::path::PathBuf>, Vec<std::path::PathBuf>),
) {
    watches.share();
    for subject in [&Subject::List, &Subject::Fetched, &Subject::People] {
        watches.begin_look(subject);
    }
    watch_file(watches, &paths::approved(&config.paths), &Subject::List);
    watch_file(watches, &config.accounts.break_glass, &Subject::List);
    if let Some(signing) = &config.policy.signing {
        watch_file(watches, &signing.signed_by, &Subject::List);
    }
    watch_file(
        watches,
        &paths::fetch_report(&config.paths),
        &Subject::Fetched,
    );
    for path in accounts::FILES.map(Path::new) {
        watch_file(watches, path, &Subject::People);
        // In a container it may be another one's, mounted here.
        if let Ok(opened) = File::open(path) {
            put(watches, &opened, None, &Subject::People, path);
        }
    }
    for path in files {
        watch_file(watches, &path, &Subject::List);
    }
    for path in directories {
        match store::open_directory(&path) {
            Ok(opened) => put(watches, &opened, Some(ANY), &Subject::List, &path),
            Err(_) => watch_file(watches, &path, &Subject::List),
        }
    }
}

/// Watches for a file to be replaced or, where its directory is missing too, for the directory to appear.
fn watch_file(watches: &AgentWatches, path: &Path, subject: &Subject) {
    let watch = |place: &Path| -> Option<()> {
        let (directory, name) = (place.parent()?, place.file_name()?.to_str()?);
        let opened = store::open_directory(directory).ok()?;
        put(watches, &opened, Some(name), subject, path);
        Some(())
    };
    if watch(path).is_none() {
        path.parent().and_then(watch);
        // The directory may have come before that watch was on.
        watch(path);
    }
}

fn put(watches: &AgentWatches, opened: &File, name: Option<&str>, subject: &Subject, path: &Path) {
    let Ok(meta) = opened.metadata() else { return };
    let inode = (meta.dev(), meta.ino());
    if let Err(error) = watches.put(opened.as_fd(), inode, name, subject) {
        // The status says it, and it is looked at instead.
        tracing::info!(target: DETAIL, path = %path.display(), error = error.desc(), "not watched");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_its_share_of_looks_and_the_last_change_gets_one() {
        let (eve, alice) = ("eve".try_into().unwrap(), "alice".try_into().unwrap());
        let mut held = HeldBack::default();
        let begin = Instant::now();
        let (mut looks, mut last_change) = (Vec::new(), Duration::ZERO);
        // A change every millisecond for five seconds, then none.
        for milliseconds in 0..7000 {
            let passed = Duration::from_millis(milliseconds);
            let now = begin + passed;
            let mut whom = held.due(now);
            if milliseconds < 5000 {
                last_change = passed;
                let changed = BTreeSet::from([AccountName::clone(&eve)]);
                whom.extend(held.sift(changed, |_| None, now));
            }
            if milliseconds == 4000 {
                // Nobody else waits for it.
                let other = BTreeSet::from([AccountName::clone(&alice)]);
                assert_eq!(held.sift(other.clone(), |_| None, now), other);
            }
            if whom.contains(&eve) {
                held.release(&Whom::These(whom), now);
                looks.push(passed);
            }
        }
        assert!((100..=125).contains(&looks.len()), "{}", looks.len());
        assert!(looks.last() >= Some(&last_change), "{looks:?}");
        // What a look undid does not count.
        let now = begin + Duration::from_secs(7);
        for _ in 0..1000 {
            let changed = BTreeSet::from([AccountName::clone(&eve)]);
            assert_eq!(held.sift(changed.clone(), |_| None, now), changed);
            held.release(&Whom::These(changed), now);
            held.forgive(&eve);
        }
        // A rival's wait counts all the same.
        let changed = BTreeSet::from([AccountName::clone(&eve)]);
        let wait = |_: &AccountName| Some(Duration::from_millis(7));
        assert_eq!(held.sift(changed, wait, now), BTreeSet::new());
        assert_eq!(held.next(), Some(now + Duration::from_millis(7)));
    }
}
