//! The incident store: `incidents/ID.json`, and `incidents/ID.content` beside it, for root alone.
//!
//! Written by a thread of its own that lives while there is something to write: a repair never waits for it, and an idle
//! agent has none. What it cannot write it says once and lets go. A repair waits for the same disk, so many incidents share
//! one sync. A power cut before it may leave an empty file: who reads passes over it, and the next start removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use crate::agent::events::Teller;
use crate::agent::pass::Auditor;
use crate::host::audit::{self, From};
use crate::host::store::{self, StoreError};
use crate::host::{DETAIL, Threads, chain};
use crate::model::account::AccountName;
use crate::model::past::audit::{Calls, Sought};
use crate::model::past::event::Event;
use crate::model::past::incident::{Incident, MOST, MOST_BYTES, More, surplus};

/// Where incidents go. Dropped, it first writes what it was given.
pub struct Incidents {
    directory: PathBuf,
    teller: Teller,
    is_tidy: bool,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was added, or it is time to end.
    bell: Condvar,
}

#[derive(Default)]
struct State {
    queue: BTreeMap<String, Task>,
    /// Bytes of what is to be written, in the queue and on the way to the disk.
    held: u64,
    /// Incidents that there was no room for since the last one that was taken in.
    lost: u64,
    /// Who did these is not known yet.
    unknown: Vec<Unknown>,
    /// A thread is there to see to the queue.
    at_work: bool,
    ending: bool,
    /// Programs that the audit log named last, for each account.
    programs: BTreeMap<AccountName, String>,
    /// When the audit log was last asked.
    asked: Option<Instant>,
    /// When the disk was last waited for.
    synced: Option<Instant>,
}

/// What is to be done about one incident.
enum Task {
    /// Write it.
    New(Box<Incident>, Option<Vec<u8>>, Held),
    /// It came again.
    Again(More),
}

/// Bytes that it is counted with.
type Held = u64;

/// A change of which the audit log is asked who made it.
struct Unknown {
    incident: String,
    /// The incident had come before.
    again: bool,
    sought: Sought,
}

/// Changes that come again and are asked about at once; a rival makes hundreds of them.
const ASKED: usize = 64;

/// The ending of an older state of an incident, which is on disk.
const OLD: &str = "old";

/// Incidents that wait to be written; only a disk that stands still makes so many.
const QUEUE: usize = 1000;

/// A burst is over when nothing has come for so long. Then the disk is waited for: sooner, it would keep the disk from
/// the next repair.
const QUIET: Duration = Duration::from_secs(1);

/// Least time between two waits for the disk.
const BETWEEN: Duration = Duration::from_secs(5);

/// A burst that does not end is on disk after so long all the same.
const LONGEST: Duration = Duration::from_secs(10);

/// A record of the kernel is in the log by then.
const SETTLES: Duration = Duration::from_millis(300);

/// Least time between two searches of the audit log: they read megabytes, and a flood needs no more of them.
const PAUSE: Duration = Duration::from_secs(5);

/// `ausearch --start recent` reaches back ten minutes.
const RECENT: SignedDuration = SignedDuration::from_mins(9);

impl Incidents {
    pub fn new(directory: &Path, teller: Teller) -> Self {
        Self {
            teller,
            directory: directory.to_owned(),
            is_tidy: false,
            shared: Arc::default(),
            thread: None,
        }
    }

    /// Removes what a power cut left empty or damaged.
    pub fn tidy_up(&mut self) {
        if !self.is_tidy && self.directory.is_dir() {
            self.wake();
        }
    }

    /// Takes in what of an event is to be kept.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Incident {
                incident,
                content,
                sought,
            } => self.add(*incident, content, sought),
            Event::Again {
                incident,
                more,
                sought,
            } => self.again(&incident, more, sought),
            _ => {}
        }
    }

    /// Takes a new incident in.
    fn add(&mut self, mut incident: Incident, content: Option<Vec<u8>>, sought: Sought) {
        {
            let mut state = locked(&self.shared);
            let mut size = incident.size();
            if state.queue.len() >= QUEUE || state.held.saturating_add(size) > MOST_BYTES {
                // A disk that stands still lets thousands go; the first says so.
                if state.lost == 0 {
                    tracing::warn!(
                        incident = incident.id,
                        "incident not kept: too many at once"
                    );
                }
                state.lost += 1;
                return;
            }
            let more = content.as_ref().map_or(0, |content| length(content));
            let content = content
                .filter(|_| state.held.saturating_add(size).saturating_add(more) <= MOST_BYTES);
            match &content {
                Some(_) => size += more,
                None => incident.lose_content(),
            }
            let lost = std::mem::take(&mut state.lost);
            if lost > 1 {
                tracing::warn!(incidents = lost, "incidents not kept: too many at once");
            }
            state.held += size;
            let id = incident.id.clone();
            state.unknown.push(Unknown {
                incident: id.clone(),
                again: false,
                sought,
            });
            state
                .queue
                .insert(id, Task::New(Box::new(incident), content, size));
        }
        self.wake();
    }

    /// Adds to an incident that was taken in before.
    fn again(&mut self, id: &str, more: More, sought: Sought) {
        {
            let mut state = locked(&self.shared);
            if more.repeated > 0 && state.unknown.len() < ASKED {
                state.unknown.push(Unknown {
                    incident: id.to_owned(),
                    again: true,
                    sought,
                });
            }
            match state.queue.get_mut(id) {
                Some(Task::New(incident, ..)) => incident.add(more),
                Some(Task::Again(before)) => before.add(more),
                None => drop(state.queue.insert(id.to_owned(), Task::Again(more))),
            }
        }
        self.wake();
    }

    /// Forgets the programs of accounts that are not `wanted`.
    pub fn forget(&self, wanted: impl Fn(&AccountName) -> bool) {
        locked(&self.shared)
            .programs
            .retain(|account, _| wanted(account));
    }

    /// What had to wait for a thread is written now, if there is one.
    pub fn try_again(&mut self) {
        if !locked(&self.shared).queue.is_empty() {
            self.wake();
        }
    }

    fn wake(&mut self) {
        let starts = !std::mem::replace(&mut locked(&self.shared).at_work, true);
        if starts {
            let (shared, directory) = (Arc::clone(&self.shared), self.directory.clone());
            let (teller, is_tidy) = (self.teller.clone(), self.is_tidy);
            let work = move || Burst::new(&shared, directory, teller).work(is_tidy);
            match Threads::spawn(work) {
                Ok(thread) => (self.thread, self.is_tidy) = (Some(thread), true),
                Err(_) => locked(&self.shared).at_work = false,
            }
        }
        self.shared.bell.notify_one();
    }
}

impl Auditor for Incidents {
    fn is_here(&self) -> bool {
        audit::is_here()
    }

    /// The program that the audit log named for this account since it was last forgotten.
    fn program(&self, account: &AccountName) -> Option<String> {
        locked(&self.shared).programs.get(account).cloned()
    }
}

impl Drop for Incidents {
    fn drop(&mut self) {
        locked(&self.shared).ending = true;
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let is_left = {
            let state = locked(&self.shared);
            !state.at_work && !state.queue.is_empty()
        };
        if is_left {
            // There was no thread for it, and nothing waits for this one any more.
            let directory = self.directory.clone();
            Burst::new(&self.shared, directory, self.teller.clone()).work(self.is_tidy);
        }
    }
}

impl Task {
    fn size(&self) -> u64 {
        match self {
            Self::New(.., size) => *size,
            Self::Again(_) => 0,
        }
    }
}

/// One life of the thread.
struct Burst<'a> {
    shared: &'a Shared,
    directory: PathBuf,
    teller: Teller,
    /// Everything that is kept: its id, and the sizes of its files by their ending.
    kept: BTreeMap<String, BTreeMap<String, u64>>,
    unsynced: Unsynced,
    /// Who did these is not known yet.
    unknown: Vec<Unknown>,
    failed: bool,
}

impl<'a> Burst<'a> {
    fn new(shared: &'a Shared, directory: PathBuf, teller: Teller) -> Self {
        Self {
            shared,
            directory,
            teller,
            kept: BTreeMap::new(),
            unsynced: Unsynced::default(),
            unknown: Vec::new(),
            failed: false,
        }
    }

    fn work(mut self, is_tidy: bool) {
        let _ends = Ends(self.shared);
        let listed = store::make_directory(&self.directory, 0o700).and_then(|()| self.list());
        self.note(listed);
        if !is_tidy {
            self.tidy_up();
        }
        let audited = audit::is_here();
        let mut ask_at = None;
        loop {
            let (tasks, unknown, ending) = {
                let mut state = locked(self.shared);
                let unknown = std::mem::take(&mut state.unknown);
                (std::mem::take(&mut state.queue), unknown, state.ending)
            };
            if audited {
                self.unknown.extend(unknown);
            }
            let idle = tasks.is_empty();
            for (id, task) in tasks {
                let size = task.size();
                self.take(&id, task);
                // Until now the memory was in use.
                let mut state = locked(self.shared);
                state.held = state.held.saturating_sub(size);
            }
            if !self.unknown.is_empty() && ask_at.is_none() {
                let next = locked(self.shared).asked.map(|at| at + PAUSE);
                ask_at = Some((Instant::now() + SETTLES).max(next.unwrap_or_else(Instant::now)));
            }
            if let Some(at) = ask_at.filter(|at| ending || *at <= Instant::now()) {
                ask_at = None;
                tracing::info!(target: DETAIL, late = ?at.elapsed(), incidents = self.unknown.len(), "asking the audit log");
                self.ask();
                continue;
            }
            let sync_at = self.unsynced.due(locked(self.shared).synced);
            if let Some(at) = sync_at
                && (ending || at <= Instant::now())
            {
                self.sync();
                continue;
            }
            if !idle {
                continue;
            }
            let mut state = locked(self.shared);
            if !state.queue.is_empty() || state.ending != ending {
                continue;
            }
            let Some(until) = ask_at.into_iter().chain(sync_at).min() else {
                state.at_work = false;
                return;
            };
            let wait = until.saturating_duration_since(Instant::now());
            drop(self.shared.bell.wait_timeout(state, wait));
        }
    }

    /// What is kept already, without what a crash left half written.
    fn list(&mut self) -> Result<(), StoreError> {
        for (name, size) in store::names(&self.directory)? {
            match name.rsplit_once('.') {
                Some((_, "new")) => drop(std::fs::remove_file(self.directory.join(name))),
                Some((id, what)) => {
                    self.kept
                        .entry(id.to_owned())
                        .or_default()
                        .insert(what.to_owned(), size);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, id: &str, task: Task) {
        match task {
            Task::New(mut incident, content, _) => {
                if let Some(content) = &content
                    && let Err(error) = self.put(id, "content", content)
                {
                    incident.lose_content();
                    self.note(Err(error));
                }
                self.save(&incident);
            }
            Task::Again(more) => {
                self.change(id, |incident| incident.add(more));
            }
        }
    }

    /// Reads an incident, changes it, writes it. One that is gone stays gone.
    fn change<T>(&mut self, id: &str, change: impl FnOnce(&mut Incident) -> T) -> Option<T> {
        match store::read_json::<Incident>(&self.path(id, "json")) {
            Ok(Some(mut incident)) => {
                let changed = change(&mut incident);
                self.save(&incident);
                Some(changed)
            }
            Ok(None) => None,
            Err(error) => {
                self.note(Err(error));
                None
            }
        }
    }

    fn save(&mut self, incident: &Incident) {
        let bytes = incident.written();
        let saved = self.put(&incident.id, "json", &bytes);
        self.note(saved);
    }

    fn put(&mut self, id: &str, what: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let files = self.kept.entry(id.to_owned()).or_default();
        let before = files.insert(what.to_owned(), length(bytes));
        if before.is_some() && what == "json" && !files.contains_key(OLD) {
            // Until the new one is on disk, a power cut may leave it empty.
            let (now, old) = (self.path(id, what), self.path(id, OLD));
            if std::fs::hard_link(now, old).is_ok() {
                let files = self.kept.entry(id.to_owned()).or_default();
                files.insert(OLD.to_owned(), 0);
            }
        }
        self.make_room();
        let path = self.path(id, what);
        if !self.kept.contains_key(id) {
            return Ok(());
        }
        store::write_soon(&path, bytes, 0o600)?;
        self.unsynced.note(path, Instant::now());
        Ok(())
    }

    fn make_room(&mut self) {
        let size = |files: &BTreeMap<String, u64>| files.values().sum::<u64>();
        if self.kept.len() <= MOST && self.kept.values().map(size).sum::<u64>() <= MOST_BYTES {
            return;
        }
        let kept: Vec<_> = self
            .kept
            .iter()
            .map(|(id, files)| (id.clone(), size(files)))
            .collect();
        for id in surplus(&kept) {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &str) {
        let files = self.kept.remove(id).unwrap_or_default();
        for what in files.into_keys() {
            let _ = std::fs::remove_file(self.path(id, &what));
        }
    }

    /// Removes incidents, and contents of incidents, that a power cut left empty or damaged; where there is an older state of
    /// one, that counts.
    fn tidy_up(&mut self) {
        let ids: Vec<String> = self.kept.keys().cloned().collect();
        let mut removed = 0;
        for id in ids {
            self.tidy_old(&id);
            match store::read_json::<Incident>(&self.path(&id, "json")) {
                Ok(Some(incident)) if incident.id == id => self.tidy_content(incident),
                Ok(_) | Err(StoreError::Damaged { .. }) => {
                    self.remove(&id);
                    removed += 1;
                }
                Err(error) => self.note(Err(error)),
            }
        }
        if removed > 0 {
            tracing::info!(removed, "incidents removed that were empty or damaged");
        }
    }

    fn tidy_old(&mut self, id: &str) {
        let files = self.kept.entry(id.to_owned()).or_default();
        if files.remove(OLD).is_none() {
            return;
        }
        let (now, old) = (self.path(id, "json"), self.path(id, OLD));
        let is_whole = |path: &Path| matches!(store::read_json::<Incident>(path), Ok(Some(_)));
        if !is_whole(&now) && is_whole(&old) {
            let restored = std::fs::rename(&old, &now);
            if restored.is_ok() {
                self.kept
                    .entry(id.to_owned())
                    .or_default()
                    .insert("json".to_owned(), 0);
            }
        } else {
            let _ = std::fs::remove_file(&old);
        }
    }

    fn tidy_content(&mut self, mut incident: Incident) {
        let id = incident.id.clone();
        let has_content = |files: &BTreeMap<String, u64>| files.contains_key("content");
        if !self.kept.get(&id).is_some_and(has_content) {
            return;
        }
        let path = self.path(&id, "content");
        let Ok(Some(content)) = store::read(&path) else {
            return;
        };
        let evidence = incident.evidence.as_ref();
        if evidence.is_some_and(|evidence| evidence.is_of(&content)) {
            return;
        }
        let _ = std::fs::remove_file(&path);
        if let Some(files) = self.kept.get_mut(&id) {
            files.remove("content");
        }
        incident.lose_content();
        self.save(&incident);
    }

    fn path(&self, id: &str, what: &str) -> PathBuf {
        self.directory.join(format!("{id}.{what}"))
    }

    /// Asks the audit log once for all that are unknown.
    fn ask(&mut self) {
        let now = Instant::now();
        let unknown = std::mem::take(&mut self.unknown);
        let all = || unknown.iter().map(|unknown| &unknown.sought);
        let oldest = all()
            .map(|sought| sought.changed_at.unwrap_or(sought.undone_at))
            .min();
        let newest = all().map(|sought| sought.undone_at).max();
        let old = oldest
            .zip(newest)
            .is_some_and(|(oldest, newest)| newest.duration_since(oldest) > RECENT);
        let records = audit::records(if old { From::Today } else { From::Recent });
        locked(self.shared).asked = Some(now);
        let calls = match records {
            Ok(records) => Calls::read(&records),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the audit log does not say who did it"
                );
                return;
            }
        };
        for Unknown {
            incident,
            again,
            sought,
        } in unknown
        {
            let account = Incident::account_of(&incident).map(AccountName::try_from);
            let (Some(who), Some(Ok(account))) = (calls.find(&sought), account) else {
                continue;
            };
            let attribute = |incident: &mut Incident| incident.attribute(who.clone(), again);
            if self.change(&incident, attribute) == Some(true) {
                self.teller.attributed(&account, &incident, &who, now);
            }
            locked(self.shared).programs.insert(account, who.exe);
        }
    }

    /// Waits until all that was written is on disk: a few files one by one, and of many the whole file system, with one commit
    /// of its journal. Of a file's size the journal knows only once its bytes are written (xfs), so that its name is not enough.
    fn sync(&mut self) {
        /// One incident and its content. Each costs a flush of the disk's own cache.
        const FEW: usize = 2;
        let files = std::mem::take(&mut self.unsynced).files;
        let synced = if files.len() > FEW {
            store::sync_file_system(&self.directory)
        } else {
            // What went to make room meanwhile needs no disk.
            let there = files.iter().filter(|path| path.exists());
            let mut there = there.map(PathBuf::as_path).chain([&*self.directory]);
            there.try_for_each(store::sync)
        };
        locked(self.shared).synced = Some(Instant::now());
        if synced.is_ok() {
            for path in &files {
                let old = path.with_extension(OLD);
                let id = path
                    .file_stem()
                    .and_then(|id| id.to_str())
                    .unwrap_or_default();
                if let Some(files) = self.kept.get_mut(id)
                    && files.remove(OLD).is_some()
                {
                    let _ = std::fs::remove_file(old);
                }
            }
        }
        self.note(synced);
    }

    /// Says what went wrong, once a burst.
    fn note(&mut self, outcome: Result<(), StoreError>) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!(error = chain(&error), "incident not kept, or not all of it");
        }
    }
}

/// What is written and may not be on disk; since when there is any, and when the last of it was.
#[derive(Default)]
struct Unsynced {
    files: BTreeSet<PathBuf>,
    times: Option<(Instant, Instant)>,
}

impl Unsynced {
    fn note(&mut self, file: PathBuf, now: Instant) {
        self.files.insert(file);
        let since = self.times.map_or(now, |(since, _)| since);
        self.times = Some((since, now));
    }

    /// When to wait for the disk.
    fn due(&self, synced: Option<Instant>) -> Option<Instant> {
        let (since, last) = self.times?;
        let at = (last + QUIET).min(since + LONGEST);
        Some(match synced {
            Some(synced) => at.max(synced + BETWEEN),
            None => at,
        })
    }
}

/// Says that the thread has ended by a panic, so that the next incident has another one.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = locked(self.0);
            state.at_work = false;
            state.held = state.queue.values().map(Task::size).sum();
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn locked(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::key::id::KeyId;
    use crate::model::past::evidence::digest;
    use crate::model::past::incident::{Change, Evidence, Kept, SCHEMA, Undone};

    fn incident(number: i64, comment: &str) -> (Incident, Sought) {
        let account = AccountName::try_from("alice").unwrap();
        let at = Timestamp::from_second(number).unwrap();
        let added = Change::Added(KeyId {
            fingerprint: "SHA256:x".to_owned(),
            algorithm: "ssh-ed25519".to_owned(),
            comment: comment.to_owned(),
        });
        let incident = Incident {
            schema: SCHEMA,
            id: Incident::name(&account, at),
            at,
            last_at: at,
            account,
            file: String::new(),
            changes: vec![added],
            more_changes: 0,
            stood_milliseconds: None,
            stood_since: None,
            undone: Undone::Replaced,
            evidence: Some(Evidence {
                sha256: String::new(),
                bytes: 1,
                kept: Kept::Whole,
            }),
            who: None,
            again_by: Vec::new(),
            repeated: 0,
            uncounted: 0,
        };
        let sought = Sought {
            file: PathBuf::new(),
            inode: None,
            directory: None,
            changed_at: None,
            directory_changed_at: None,
            undone_at: at,
            own: Arc::default(),
        };
        (incident, sought)
    }

    #[test]
    fn a_disk_that_stands_still_costs_no_more_memory_than_is_kept() {
        let mut recorder = Incidents::new(Path::new(""), Teller::default());
        // There is a thread, and it waits for the disk.
        locked(&recorder.shared).at_work = true;
        for number in 0..i64::try_from(QUEUE).unwrap() {
            let (incident, sought) = incident(number, &"c".repeat(100_000));
            recorder.add(incident, Some(vec![0; 1 << 20]), sought);
        }
        let state = locked(&recorder.shared);
        let mut sum = 0;
        for task in state.queue.values() {
            let Task::New(incident, content, ..) = task else {
                panic!("none came again")
            };
            let kept = incident.evidence.as_ref().unwrap().kept;
            assert_eq!(content.is_some(), kept == Kept::Whole);
            sum += incident.size() + content.as_ref().map_or(0, |content| length(content));
        }
        assert!((MOST_BYTES / 2..=MOST_BYTES).contains(&sum), "{sum}");
        assert!(
            (sum..=MOST_BYTES).contains(&state.held),
            "{} held",
            state.held
        );
        assert_eq!(
            state.lost,
            u64::try_from(QUEUE - state.queue.len()).unwrap()
        );
    }

    #[test]
    fn what_is_written_is_no_longer_held() {
        let directory = tempfile::tempdir().unwrap();
        let mut recorder = Incidents::new(directory.path(), Teller::default());
        for number in 0..10 {
            let (incident, sought) = incident(number, "");
            recorder.add(incident, Some(vec![0; 1000]), sought);
        }
        let shared = Arc::clone(&recorder.shared);
        drop(recorder);
        assert_eq!(locked(&shared).held, 0);
        assert!(locked(&shared).queue.is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 20);
    }

    #[test]
    fn what_a_power_cut_left_empty_or_damaged_is_removed_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let content = b"ssh-ed25519 AAAA rogue\n".to_vec();
        let mut recorder = Incidents::new(directory.path(), Teller::default());
        let mut ids = Vec::new();
        for number in 0..5 {
            let (mut incident, sought) = incident(number, "");
            incident.evidence.as_mut().unwrap().sha256 = digest(&content);
            ids.push(incident.id.clone());
            recorder.add(incident, Some(content.clone()), sought);
        }
        drop(recorder);
        let path = |number: usize, what: &str| {
            let name = format!("{}.{what}", ids[number]);
            directory.path().join(name)
        };
        std::fs::write(path(1, "json"), "").unwrap();
        // An older state of it is on disk: it had come again.
        std::fs::copy(path(0, "json"), path(0, "old")).unwrap();
        std::fs::write(path(0, "json"), "").unwrap();
        // Its length is on disk, its bytes are not.
        std::fs::write(path(2, "json"), [0; 700]).unwrap();
        std::fs::remove_file(path(3, "json")).unwrap();
        std::fs::write(path(4, "content"), vec![0; content.len()]).unwrap();
        let mut recorder = Incidents::new(directory.path(), Teller::default());
        recorder.tidy_up();
        drop(recorder);
        let mut left: Vec<PathBuf> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        left.sort();
        assert_eq!(left, [path(0, "content"), path(0, "json"), path(4, "json")]);
        let without = store::read_json::<Incident>(&path(4, "json")).unwrap();
        assert_eq!(without.unwrap().evidence.unwrap().kept, Kept::No);
    }

    /// A minute of changes, so far apart.
    #[test]
    fn however_changes_come_the_disk_is_waited_for_seldom_and_in_time() {
        let check = |apart: u64, expected: std::ops::RangeInclusive<usize>| {
            let start = Instant::now();
            let (mut unsynced, mut synced) = (Unsynced::default(), None);
            let (mut waits, mut since): (Vec<Instant>, _) = (Vec::new(), None);
            for millisecond in 0..60_000 {
                let now = start + Duration::from_millis(millisecond);
                if millisecond % apart == 0 {
                    unsynced.note(PathBuf::from("x"), now);
                    since.get_or_insert(now);
                }
                if unsynced.due(synced).is_some_and(|due| due <= now) {
                    assert!(now - since.take().unwrap() <= LONGEST);
                    unsynced = Unsynced::default();
                    synced = Some(now);
                    waits.push(now);
                }
            }
            assert!(expected.contains(&waits.len()), "{apart}: {}", waits.len());
            let too_soon = |pair: &[Instant]| pair[1] - pair[0] < BETWEEN;
            assert!(!waits.windows(2).any(too_soon));
        };
        check(20, 5..=6);
        check(999, 5..=6);
        check(1_100, 8..=12);
        check(30_000, 2..=2);
    }
}
