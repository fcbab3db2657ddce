//! The work on the files, off the loop and within a time limit.
//!
//! A home on a dead NFS server or a hostile FUSE mount can hold a thread for ever. So the files are worked on by a
//! thread of their own; when it does not answer, it is left to its one account, and another takes the rest.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::host::keyfile::{self, Inode, Observed, Refusal, Target, Terms, Witness};
use crate::host::store;
use crate::host::watch::Watches;
use crate::model::account::AccountName;
use crate::model::config::Mode;
use crate::model::plan::{self, Action, Difference, Found, Wanted};

/// What a watch is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The stored list, or the report of the fetcher.
    List,
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
    /// Where the file that was there before the first replacement is copied to.
    pub backup: PathBuf,
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

/// How long one account may take before the others go on without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Replacements of one file in one pass. Somebody who changes it faster than that is found by the next event.
const ATTEMPTS: u32 = 3;

/// Accounts whose thread has not come back.
#[derive(Default)]
pub struct Hanging(HashMap<AccountName, Arc<Worker>>);

/// One thread at work.
struct Worker {
    /// Set once the pass no longer waits: finish this account, then end.
    released: AtomicBool,
    /// Set once nobody wants the result: change nothing any more.
    abandoned: AtomicBool,
    done: AtomicBool,
    current: Mutex<Option<AccountName>>,
}

type Queue = Arc<Mutex<VecDeque<Job>>>;

impl Hanging {
    /// Accounts that are still being waited for. A thread that works on one of them changes nothing any more:
    /// what it would write may be out of date.
    fn give_up(&mut self) {
        self.0.retain(|_, worker| !worker.done.load(Ordering::Acquire));
        for worker in self.0.values() {
            worker.abandoned.store(true, Ordering::Release);
        }
    }
}

/// What became of all jobs.
pub struct Done {
    /// One for each job.
    pub outcomes: Vec<(AccountName, Outcome)>,
    /// A thread did not come back in time.
    pub newly_hanging: bool,
}

/// Does all `jobs`, and gives each account's outcome. `look_again` is called when a thread that was given up on
/// comes back.
pub async fn work(
    jobs: Vec<Job>,
    watches: Option<&Arc<AgentWatches>>,
    hanging: &mut Hanging,
    look_again: impl Fn(AccountName) + Clone + Send + 'static,
) -> Done {
    hanging.give_up();
    let mut newly_hanging = false;
    let (stuck, jobs): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| hanging.0.contains_key(&job.target.account.name));
    let mut outcomes: Vec<_> =
        stuck.into_iter().map(|job| (job.target.account.name, Outcome::Hanging)).collect();
    let total = outcomes.len() + jobs.len();
    let queue: Queue = Arc::new(Mutex::new(jobs.into()));
    let (sender, mut results) = mpsc::unbounded_channel();
    let start = || spawn(Arc::clone(&queue), watches.cloned(), sender.clone(), look_again.clone());
    let mut worker = start();
    while outcomes.len() < total {
        match tokio::time::timeout(PATIENCE, results.recv()).await {
            Ok(Some(outcome)) => outcomes.push(outcome),
            Ok(None) => break,
            Err(_) => {
                worker.released.store(true, Ordering::Release);
                newly_hanging = true;
                if let Some(name) = locked(&worker.current).clone() {
                    hanging.0.insert(name.clone(), Arc::clone(&worker));
                    outcomes.push((name, Outcome::Hanging));
                }
                worker = start();
            }
        }
    }
    Done { outcomes, newly_hanging }
}

fn spawn(
    queue: Queue,
    watches: Option<Arc<AgentWatches>>,
    results: mpsc::UnboundedSender<(AccountName, Outcome)>,
    look_again: impl Fn(AccountName) + Send + 'static,
) -> Arc<Worker> {
    let worker = Arc::new(Worker {
        released: AtomicBool::new(false),
        abandoned: AtomicBool::new(false),
        done: AtomicBool::new(false),
        current: Mutex::new(None),
    });
    let own = Arc::clone(&worker);
    std::thread::spawn(move || {
        loop {
            let Some(job) = locked(&queue).pop_front() else { break };
            let name = job.target.account.name.clone();
            *locked(&own.current) = Some(name.clone());
            let outcome = settle(&job, watches.as_deref(), &own.abandoned);
            *locked(&own.current) = None;
            if own.released.load(Ordering::Acquire) {
                own.done.store(true, Ordering::Release);
                look_again(name);
                break;
            }
            if results.send((name, outcome)).is_err() {
                break;
            }
        }
        own.done.store(true, Ordering::Release);
    });
    worker
}

/// Looks, decides, does. Blocks.
fn settle(job: &Job, watches: Option<&AgentWatches>, abandoned: &AtomicBool) -> Outcome {
    let mut witness = Putting { watches, subject: Subject::Account(job.target.account.name.clone()) };
    if job.sweep && job.mode == Mode::Enforce {
        // What cannot be swept shows up again in what follows.
        let _ = keyfile::sweep_up(&job.target);
    }
    let refused = |refusal: &Refusal, differences, began| Outcome::Refused {
        reason: refusal.explained(),
        differences,
        began,
    };
    let observed = match look(job, &mut witness) {
        Ok(observed) => observed,
        Err(refusal) => return refused(&refusal, Vec::new(), false),
    };
    let differences = differences(&job.wanted, &observed);
    match plan::action(job.mode, &differences) {
        Action::Nothing if !job.unsettled => return Outcome::InSync,
        Action::Report => return Outcome::Differs(differences),
        Action::Nothing | Action::Replace => {}
    }
    let backup = match back_up(job, &observed.found) {
        Ok(backup) => backup,
        Err(reason) => return Outcome::Refused { reason, differences, began: false },
    };
    let terms = Terms { wanted_still: &|| !abandoned.load(Ordering::Acquire), clear_obstacles: job.adopted };
    for _ in 0..ATTEMPTS {
        if let Err(refusal) = keyfile::replace(&job.target, &job.wanted, terms) {
            return refused(&refusal, differences, true);
        }
        // Resolved again from the home: what is there now is what sshd will read.
        match look(job, &mut witness) {
            Ok(now) if self::differences(&job.wanted, &now).is_empty() => {
                return Outcome::Replaced { differences, backup };
            }
            Ok(_) => {}
            Err(refusal) => return refused(&refusal, differences, true),
        }
    }
    refused(&Refusal::Contended(job.target.location.path.clone()), differences, true)
}

/// Observes. Something that is no directory in a directory's place is a difference once the file was ours.
fn look(job: &Job, witness: &mut Putting<'_>) -> Result<Observed, Refusal> {
    match keyfile::observe(&job.target, job.wanted.content.len(), witness) {
        Err(Refusal::Obstacle { kind, .. }) if job.adopted => {
            Ok(Observed { found: Found::Other(kind), directories: Vec::new() })
        }
        observed => observed,
    }
}

fn differences(wanted: &Wanted, observed: &Observed) -> Vec<Difference> {
    let mut all = observed.directories.clone();
    all.extend(plan::differences(wanted, &observed.found));
    all
}

/// Copies the file that is about to be replaced for the first time.
fn back_up(job: &Job, found: &Found) -> Result<Option<PathBuf>, String> {
    let Found::File(file) = found else { return Ok(None) };
    let Some(content) = file.content.as_deref().filter(|content| !job.adopted && !content.is_empty()) else {
        return Ok(None);
    };
    let directory = job.backup.parent().unwrap_or(&job.backup);
    store::make_directory(directory, 0o700)
        .and_then(|()| store::write(&job.backup, content, 0o600))
        .map_err(|error| {
            format!("the file that is there cannot be backed up: {}", crate::agent::events::chain(&error))
        })?;
    Ok(Some(job.backup.clone()))
}

/// Puts a watch on everything that is looked at.
struct Putting<'a> {
    watches: Option<&'a AgentWatches>,
    subject: Subject,
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
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
