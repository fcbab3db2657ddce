//! The work on the files, off the loop and within a time limit.
//!
//! A home on a dead NFS server or a hostile FUSE mount can hold a thread for ever. So the files are worked on by a
//! thread of their own; when it does not answer, it is left to its one account, and another takes the rest.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::agent::others;
use crate::agent::seen::{Gathered, Marks, Seen};
use crate::host::accounts;
use crate::host::keyfile::{Mark, Observed, Refusal, Target, Terms, Visit, Witness};
use crate::host::store;
use crate::host::watch::Watches;
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::Mode;
use crate::model::file::difference::{self, Action, Difference};
use crate::model::file::wanted::{Found, Wanted};
use crate::model::inode::Inode;
use crate::model::sshd::access::Loose;

/// What a watch is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The stored list, or what goes with it.
    List,
    /// The report of the fetcher.
    Fetched,
    /// An account's file.
    Account(AccountName),
}

/// The watches of one enforcer.
pub type AgentWatches = Watches<Subject>;

/// The work on one account.
#[derive(Debug)]
pub struct Job {
    /// Which file.
    pub target: Target,
    /// What it is to be.
    pub wanted: Wanted,
    /// Write, or only look.
    pub mode: Mode,
    /// The file was in sync before, so what differs now was changed by somebody else.
    pub adopted: bool,
    /// The last replacement did not end well; replace even if nothing seems to differ.
    pub unsettled: bool,
    /// Look for what a killed replacement left.
    pub sweep: bool,
    /// The directory for a copy of the file that was there before the first replacement.
    pub backups: PathBuf,
    /// Other files that sshd reads.
    pub others: others::Work,
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing differs.
    InSync,
    /// This differs, and nothing was to be written.
    Differs(Vec<Difference>),
    /// This differed and the file was replaced.
    Replaced {
        /// What was not as it is to be.
        differences: Vec<Difference>,
        /// The copy of the file that was not ours, on the first replacement.
        backup: Option<PathBuf>,
    },
    /// Nothing could be done.
    Refused {
        /// Why.
        reason: String,
        /// What differs, where that was seen.
        differences: Vec<Difference>,
        /// True when the replacement had begun.
        began: bool,
    },
    /// The file system has not answered yet.
    Hanging,
}

/// How long one account may take before the others go on without it. Half as long after each that does not come back in
/// the same pass: a dead server may have the homes of hundreds, and the others are not to wait for each of them.
const PATIENCE: Duration = Duration::from_secs(2);
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// Threads that may hang; below the unit's `TasksMax=`.
const MOST_HANGING: usize = 128;

/// Results that come while others are still far from done are taken together: to wake up for each costs more than many of
/// them take.
const TOGETHER: Duration = Duration::from_millis(5);
const FAR_FROM_DONE: usize = 64;

/// Replacements of one file in one pass. Somebody who changes it faster than that is found by the next event.
pub(super) const ATTEMPTS: u32 = 3;

/// Accounts whose thread has not come back.
#[derive(Default)]
pub struct Hanging(HashMap<AccountName, Arc<Worker>>);

/// One thread at work.
#[derive(Default)]
struct Worker {
    state: Mutex<State>,
    /// Set once what it would write is out of date: change nothing any more.
    abandoned: AtomicBool,
    /// Set when the thread ends, however it ends.
    done: AtomicBool,
    /// What came of it, once the pass no longer waited.
    late: Mutex<Option<Settled>>,
}

/// Both under one lock: a thread that is released has an account, and tells nobody else of it.
#[derive(Default)]
struct State {
    /// What it is, or was last, at.
    task: Option<(AccountName, Target, Wanted)>,
    /// It is at it.
    busy: bool,
    /// The pass no longer waits for this thread: it finishes its account, then ends.
    released: bool,
}

type Queue = Arc<Mutex<VecDeque<Job>>>;

/// Whether a thread of an earlier pass has a job's account.
enum Earlier {
    /// None has.
    No,
    /// One is still at it.
    Hangs,
    /// One has come back meanwhile, with this.
    Settled(Box<Settled>),
}

impl Hanging {
    fn at_work(&self) -> usize {
        self.0
            .values()
            .filter(|worker| !worker.done.load(Ordering::Acquire))
            .count()
    }

    /// A thread that slowly does what is wanted goes on; one that would write something else is told to change nothing.
    fn has(&mut self, job: &Job) -> Earlier {
        let name = &job.target.account.name;
        let Some(worker) = self.0.get(name) else {
            return Earlier::No;
        };
        let same = {
            let state = locked(&worker.state);
            let task = state.task.as_ref();
            task.is_some_and(|(_, target, wanted)| (target, wanted) == (&job.target, &job.wanted))
        };
        if worker.done.load(Ordering::Acquire) {
            // What was done for another list is not this one's doing; looking again shows what there is.
            let late = locked(&worker.late).take().filter(|_| same);
            self.0.remove(name);
            return late.map_or(Earlier::No, |late| Earlier::Settled(Box::new(late)));
        }
        if !same {
            worker.abandoned.store(true, Ordering::Release);
        }
        Earlier::Hangs
    }
}

/// What became of all jobs.
pub struct Done {
    /// One for each job.
    pub outcomes: Vec<(AccountName, Outcome)>,
    /// What sshd's `StrictModes` refuses on the way to each file that was looked at.
    pub loose: Vec<(AccountName, Option<Loose>)>,
    /// What stood in files that were ours and had been changed.
    pub seen: HashMap<AccountName, Seen>,
    /// The other files of each account that was looked at.
    pub others: HashMap<AccountName, others::Seen>,
    /// A thread did not come back in time.
    pub newly_hanging: bool,
}

/// One account that was looked at.
#[derive(Debug)]
struct Settled {
    name: AccountName,
    outcome: Outcome,
    loose: Option<Loose>,
    /// What stood there, where that was not ours to expect.
    seen: Option<Seen>,
    /// The other files.
    others: others::Seen,
}

/// Does all `jobs`, and gives each account's outcome. `look_again` is called when a thread that was given up on
/// comes back, `alive` again and again meanwhile.
pub async fn work(
    jobs: Vec<Job>,
    watches: Option<&Arc<AgentWatches>>,
    hanging: &mut Hanging,
    look_again: impl Fn(AccountName) + Clone + Send + 'static,
    alive: &dyn Fn(),
) -> Done {
    let mut newly_hanging = false;
    let mut seen = Gathered::default();
    let (sender, mut results) = mpsc::unbounded_channel();
    let (mut outcomes, mut queued) = (Vec::new(), VecDeque::new());
    let total = jobs.len();
    for job in jobs {
        match hanging.has(&job) {
            Earlier::No => queued.push_back(job),
            Earlier::Hangs => outcomes.push((job.target.account.name, Outcome::Hanging)),
            Earlier::Settled(settled) => {
                // It was so when the thread came back.
                look_again(settled.name.clone());
                let _ = sender.send(*settled);
            }
        }
    }
    let (mut loose, mut others) = (Vec::new(), HashMap::new());
    let queue: Queue = Arc::new(Mutex::new(queued));
    let start = || {
        spawn(
            Arc::clone(&queue),
            watches.cloned(),
            sender.clone(),
            look_again.clone(),
        )
    };
    let mut patience = PATIENCE;
    let mut worker = start();
    let mut batch = Vec::new();
    while outcomes.len() < total {
        alive();
        let taken = tokio::time::timeout(patience, results.recv_many(&mut batch, FAR_FROM_DONE));
        if taken.await.is_ok_and(|taken| taken > 0) {
            for mut settled in batch.drain(..) {
                loose.push((settled.name.clone(), settled.loose));
                seen.add(&settled.name, settled.seen);
                settled.others.evidence().for_each(|one| seen.hold(one));
                others.insert(settled.name.clone(), settled.others);
                outcomes.push((settled.name, settled.outcome));
            }
            if total - outcomes.len() > FAR_FROM_DONE {
                tokio::time::sleep(TOGETHER).await;
            }
            continue;
        }
        if let Some(running) = &worker {
            let mut state = locked(&running.state);
            // Between two accounts: its result is on the way.
            let Some((name, ..)) = state.task.clone().filter(|_| state.busy) else {
                continue;
            };
            state.released = true;
            hanging.0.insert(name.clone(), Arc::clone(running));
            outcomes.push((name, Outcome::Hanging));
        }
        newly_hanging = true;
        patience = (patience / 2).max(LEAST_PATIENCE);
        worker = if hanging.at_work() < MOST_HANGING {
            start()
        } else {
            None
        };
        if worker.is_none() {
            let left = std::mem::take(&mut *locked(&queue));
            outcomes.extend(
                left.into_iter()
                    .map(|job| (job.target.account.name, Outcome::Hanging)),
            );
        }
    }
    Done {
        outcomes,
        loose,
        seen: seen.all,
        others,
        newly_hanging,
    }
}

fn spawn(
    queue: Queue,
    watches: Option<Arc<AgentWatches>>,
    results: mpsc::UnboundedSender<Settled>,
    look_again: impl Fn(AccountName) + Send + 'static,
) -> Option<Arc<Worker>> {
    let worker = Arc::new(Worker::default());
    let own = Ends(Arc::clone(&worker));
    let work = move || {
        while let Some(job) = next(&queue, &own.0) {
            let mut loose = None;
            let mut visit = Visit::new(&job.target);
            let (outcome, seen) = settle(
                &job,
                &mut visit,
                watches.as_deref(),
                &own.0.abandoned,
                &mut loose,
            );
            let subject = Subject::Account(job.target.account.name.clone());
            let mut witness = Putting {
                watches: watches.as_deref(),
                subject,
                marks: Marks::default(),
            };
            let wanted_still = || !own.0.abandoned.load(Ordering::Acquire);
            let others = others::settle(&job, &mut visit, &outcome, &mut witness, &wanted_still);
            drop(visit);
            let name = job.target.account.name;
            let released = {
                let mut state = locked(&own.0.state);
                state.busy = false;
                state.released
            };
            let settled = Settled {
                name: name.clone(),
                outcome,
                loose,
                seen,
                others,
            };
            if released {
                *locked(&own.0.late) = Some(settled);
                drop(own);
                look_again(name);
                return;
            }
            if results.send(settled).is_err() {
                return;
            }
        }
    };
    match std::thread::Builder::new().spawn(work) {
        Ok(_) => Some(worker),
        Err(error) => {
            tracing::error!(
                error = crate::agent::events::chain(&error),
                "no thread to work with"
            );
            None
        }
    }
}

/// Takes a job, and says so before anybody can wonder where it is.
fn next(queue: &Queue, worker: &Worker) -> Option<Job> {
    let mut jobs = locked(queue);
    let job = jobs.pop_front()?;
    let (target, wanted) = (job.target.clone(), job.wanted.clone());
    let mut state = locked(&worker.state);
    (state.task, state.busy) = (Some((target.account.name.clone(), target, wanted)), true);
    Some(job)
}

/// Says that a thread has ended, even by a panic.
struct Ends(Arc<Worker>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Looks, decides, does; notes what is `loose` on the way, and takes down what stood there when the file is right again.
/// Blocks.
fn settle(
    job: &Job,
    visit: &mut Visit<'_>,
    watches: Option<&AgentWatches>,
    abandoned: &AtomicBool,
    loose: &mut Option<Loose>,
) -> (Outcome, Option<Seen>) {
    let subject = Subject::Account(job.target.account.name.clone());
    let mut witness = Putting {
        watches,
        subject,
        marks: Marks::default(),
    };
    let mut looked = None;
    let outcome = bring_in_line(job, visit, &mut witness, abandoned, &mut looked, loose);
    let seen = looked
        .filter(|_| job.adopted)
        .and_then(|(found, before)| match &outcome {
            Outcome::Replaced { .. } => Some(Seen::new(found, &before, Some(&witness.marks))),
            Outcome::Differs(_) => Some(Seen::new(found, &before, None)),
            _ => None,
        });
    (outcome, seen)
}

/// `looked` is what was found, and the marks of it.
fn bring_in_line(
    job: &Job,
    visit: &mut Visit<'_>,
    witness: &mut Putting<'_>,
    abandoned: &AtomicBool,
    looked: &mut Option<(Found, Marks)>,
    loose: &mut Option<Loose>,
) -> Outcome {
    if (job.sweep || job.unsettled) && job.mode == Mode::Enforce {
        // What cannot be swept shows up again in what follows.
        let _ = visit.sweep_up();
    }
    let refused = |refusal: &Refusal, differences, began| Outcome::Refused {
        reason: refusal.explained(),
        differences,
        began,
    };
    let observed = match look(job, visit, witness) {
        Ok(observed) => observed,
        Err(refusal) => return refused(&refusal, Vec::new(), false),
    };
    loose.clone_from(&observed.loose);
    let mut differences = differences(&job.wanted, &observed);
    let (found, _) = looked.insert((observed.found, std::mem::take(&mut witness.marks)));
    match difference::action(job.mode, &differences) {
        Action::Nothing if !job.unsettled || job.mode == Mode::Observe => return Outcome::InSync,
        Action::Report => return Outcome::Differs(differences),
        Action::Nothing | Action::Replace => {}
    }
    let backup = match back_up(job, visit, found) {
        Ok(backup) => backup,
        Err(reason) => {
            return Outcome::Refused {
                reason,
                differences,
                began: false,
            };
        }
    };
    let terms = Terms {
        wanted_still: &|| !abandoned.load(Ordering::Acquire),
        clear_obstacles: job.adopted,
    };
    for _ in 0..ATTEMPTS {
        match visit.replace(&job.wanted, terms) {
            Ok(unlocked) => differences.extend(unlocked.into_iter().map(Difference::Locked)),
            Err(refusal) => return refused(&refusal, differences, true),
        }
        witness.marks = Marks::default();
        // Resolved again from the home: what is there now is what sshd will read.
        match look(job, visit, witness) {
            Ok(now) if self::differences(&job.wanted, &now).is_empty() => {
                *loose = now.loose;
                return Outcome::Replaced {
                    differences,
                    backup,
                };
            }
            Ok(_) => {}
            Err(refusal) => return refused(&refusal, differences, true),
        }
    }
    refused(
        &Refusal::Contended(job.target.location.path.clone()),
        differences,
        true,
    )
}

/// Observes, and says of a directory that its group can write to whose group that is.
pub fn observe(
    visit: &mut Visit<'_>,
    account: &Account,
    expected: usize,
    witness: &mut dyn Witness,
) -> Result<Observed, Refusal> {
    let mut observed = visit.look(expected, witness)?;
    if let Some(loose) = &mut observed.loose
        && loose.is_group_writable(account.uid)
    {
        let is_private = || accounts::is_private_group(account, loose.gid);
        loose.private_group = visit.as_self(is_private)?;
    }
    Ok(observed)
}

/// Observes. Something that is no directory in a directory's place is a difference once the file was ours.
fn look(job: &Job, visit: &mut Visit<'_>, witness: &mut Putting<'_>) -> Result<Observed, Refusal> {
    let expected = job.wanted.content.len();
    match observe(visit, &job.target.account, expected, witness) {
        Err(Refusal::Obstacle { kind, .. }) if job.adopted => Ok(Observed {
            found: Found::Other(kind),
            directories: Vec::new(),
            loose: None,
        }),
        observed => observed,
    }
}

fn differences(wanted: &Wanted, observed: &Observed) -> Vec<Difference> {
    let mut all = observed.directories.clone();
    all.extend(difference::differences(wanted, &observed.found));
    all
}

/// Copies the file that is about to be replaced for the first time.
fn back_up(job: &Job, visit: &Visit<'_>, found: &Found) -> Result<Option<PathBuf>, String> {
    let Found::File(file) = found else {
        return Ok(None);
    };
    let Some(content) = file
        .content
        .as_deref()
        .filter(|content| !job.adopted && !content.is_empty())
    else {
        return Ok(None);
    };
    let name = format!("{}.authorized_keys", job.target.account.name);
    visit
        .as_self(|| keep_copy(&job.backups, &name, content))
        .map_err(|refusal| refusal.explained())
        .flatten()
}

/// Keeps a copy of `content` as `name`. Tried again, it makes no second copy of the same content, and never more than a
/// few: the content is the account's to choose. `None` when there are that many.
pub(super) fn keep_copy(
    backups: &Path,
    name: &str,
    content: &[u8],
) -> Result<Option<PathBuf>, String> {
    const COPIES: [&str; 3] = ["", ".2", ".3"];
    let failed = |error| {
        format!(
            "the file that is there cannot be backed up: {}",
            crate::agent::events::chain(&error)
        )
    };
    store::make_directory(backups, 0o700).map_err(failed)?;
    for copy in COPIES {
        let path = backups.join(format!("{name}{copy}"));
        match store::read(&path).map_err(failed)? {
            Some(there) if there == content => return Ok(Some(path)),
            Some(_) => {}
            None => {
                store::write(&path, content, 0o600).map_err(failed)?;
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// Puts a watch on everything that is looked at, and notes when it was last changed.
struct Putting<'a> {
    watches: Option<&'a AgentWatches>,
    subject: Subject,
    marks: Marks,
}

impl Putting<'_> {
    fn put(&self, descriptor: std::os::fd::BorrowedFd<'_>, inode: Inode, name: Option<&str>) {
        let Some(watches) = self.watches else { return };
        if let Err(error) = watches.put(descriptor, inode, name, &self.subject) {
            // The periodic check still looks.
            tracing::warn!(subject = ?self.subject, error = crate::agent::events::chain(&error), "not watched");
        }
    }
}

impl Witness for Putting<'_> {
    fn directory(&mut self, directory: std::os::fd::BorrowedFd<'_>, inode: Inode, name: &str) {
        self.put(directory, inode, Some(name));
    }

    fn file(&mut self, file: std::os::fd::BorrowedFd<'_>, inode: Inode) {
        self.put(file, inode, None);
    }

    fn changed(&mut self, mark: Mark) {
        self.marks.add(mark);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
