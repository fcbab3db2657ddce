//! The work on the files, off the loop and within a time limit.
//!
//! A home on a dead NFS server or a hostile FUSE mount can hold a thread for ever. So the files are worked on by a
//! thread of their own; when it does not answer, it is left to its one account, and another takes the rest.

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::agent::wakeups::{AgentWatches, Subject};
use crate::host::keyfile::{Mark, Marked, Observed, Other, Refusal, Terms, Visit, Witness, survey};
use crate::host::{accounts, chain, store};
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::Mode;
use crate::model::file::difference::{self, Difference};
use crate::model::file::orders::{Order, Orders};
use crate::model::file::other_files::{InFile, OtherFile};
use crate::model::file::plan::Plan;
use crate::model::file::wanted::{Found, Kind, Lines, Target, Wanted};
use crate::model::inode::Inode;
use crate::model::location::Location;
use crate::model::past::evidence::Stood;
use crate::model::past::incident::{MOST_BYTES, Since};
use crate::model::past::outcome::{Did, FileOutcome, Outcome};
use crate::model::sshd::access::Loose;

/// How long one account may take before the others go on without it. Half as long after each that does not come back in
/// the same pass: a dead server may have the homes of hundreds, and the others do not wait for each of them.
const PATIENCE: Duration = Duration::from_secs(2);
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// Threads that may hang; below the unit's `TasksMax=`.
const MOST_HANGING: usize = 128;

/// Results that come while others are still far from done are taken together: to wake up for each costs more than many of
/// them take.
const TOGETHER: Duration = Duration::from_millis(5);
const FAR_FROM_DONE: usize = 64;

/// Replacements of one file in one pass. An account that changes it faster than that is seen by the next event.
const ATTEMPTS: u32 = 3;

/// For a copy that cannot be kept.
const ROOM: &str = "make room in the agent's state directory, or let it be written to";

/// Called with an account whose file system answers at last.
pub type LookAgain = Arc<dyn Fn(AccountName) + Send + Sync>;

/// How the work is done.
#[derive(Clone)]
pub struct Tools {
    /// Where watches are put.
    pub watches: Option<Arc<AgentWatches>>,
    /// The directory for copies of files that were not ours.
    pub backups: PathBuf,
    pub look_again: LookAgain,
    /// Also look at files outside of homes, which are never touched.
    pub elsewhere: bool,
}

/// The threads, and the accounts whose thread has not come back.
pub struct Workers {
    hanging: HashMap<AccountName, Arc<Worker>>,
    patience: Duration,
    /// Bytes of evidence that are held in this pass.
    held: u64,
    /// A thread did not come back in this pass; the watcher may hang with it.
    pub newly_hanging: bool,
}

/// One thread at work.
#[derive(Default)]
struct Worker {
    state: Mutex<State>,
    /// Set once what it would write is out of date: change nothing any more.
    abandoned: AtomicBool,
    /// Set when the thread ends, however it ends.
    done: AtomicBool,
    /// What came of it, once the pass no longer waited.
    late: Mutex<Option<Outcome>>,
}

/// Both under one lock: a thread that is released has an account, and tells nobody else of it.
#[derive(Default)]
struct State {
    /// What it is, or was last, at.
    task: Option<Arc<Orders>>,
    busy: bool,
    /// The pass no longer waits for this thread: it finishes its account, then ends.
    released: bool,
}

type Queue = Arc<Mutex<VecDeque<Arc<Orders>>>>;

/// Whether a thread of an earlier pass has an account.
enum Earlier {
    No,
    /// It is still at it.
    Hangs,
    /// It has come back meanwhile, with this.
    Settled(Box<Outcome>),
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            hanging: HashMap::new(),
            patience: PATIENCE,
            held: 0,
            newly_hanging: false,
        }
    }
}

impl Workers {
    /// A new pass begins, and with it everybody's patience.
    pub fn begin(&mut self) {
        self.patience = PATIENCE;
        self.held = 0;
        self.newly_hanging = false;
    }

    /// Does all orders, and returns each account's outcome. `alive` is called again and again meanwhile.
    pub async fn work(
        &mut self,
        orders: Vec<Orders>,
        tools: &Tools,
        alive: &dyn Fn(),
    ) -> Vec<Outcome> {
        let (sender, mut results) = mpsc::unbounded_channel();
        let (mut outcomes, mut queued) = (Vec::new(), VecDeque::new());
        let total = orders.len();
        for orders in orders.into_iter().map(Arc::new) {
            match self.earlier(&orders) {
                Earlier::No => queued.push_back(orders),
                Earlier::Hangs => outcomes.push(Outcome::hanging(orders)),
                Earlier::Settled(outcome) => {
                    // It was so when the thread came back.
                    (tools.look_again)(outcome.orders.account.name.clone());
                    let _ = sender.send(*outcome);
                }
            }
        }
        let queue: Queue = Arc::new(Mutex::new(queued));
        let mut worker = spawn(&queue, tools, &sender);
        let mut batch = Vec::new();
        while outcomes.len() < total {
            alive();
            let taken = results.recv_many(&mut batch, FAR_FROM_DONE);
            if let Ok(taken) = tokio::time::timeout(self.patience, taken).await
                && taken > 0
            {
                for mut outcome in batch.drain(..) {
                    self.bound_evidence(&mut outcome);
                    outcomes.push(outcome);
                }
                if total - outcomes.len() > FAR_FROM_DONE {
                    tokio::time::sleep(TOGETHER).await;
                }
                continue;
            }
            if let Some(running) = &worker {
                let mut state = locked(&running.state);
                let orders = match &state.task {
                    Some(orders) if state.busy => Arc::clone(orders),
                    // Between two accounts: its result is on the way.
                    _ => continue,
                };
                state.released = true;
                let name = orders.account.name.clone();
                self.hanging.insert(name, Arc::clone(running));
                outcomes.push(Outcome::hanging(orders));
            }
            self.newly_hanging = true;
            self.patience = (self.patience / 2).max(LEAST_PATIENCE);
            worker = if self.at_work() < MOST_HANGING {
                spawn(&queue, tools, &sender)
            } else {
                None
            };
            if worker.is_none() {
                let left = std::mem::take(&mut *locked(&queue));
                outcomes.extend(left.into_iter().map(Outcome::hanging));
            }
        }
        outcomes
    }

    fn at_work(&self) -> usize {
        let is_done = |worker: &&Arc<Worker>| !worker.done.load(Ordering::Acquire);
        self.hanging.values().filter(is_done).count()
    }

    /// A thread that slowly does what is wanted goes on; one that would write something else is told to change nothing.
    fn earlier(&mut self, orders: &Orders) -> Earlier {
        let name = &orders.account.name;
        let Some(worker) = self.hanging.get(name) else {
            return Earlier::No;
        };
        let same = match &locked(&worker.state).task {
            Some(task) => {
                (&task.managed.target, &task.managed.wanted)
                    == (&orders.managed.target, &orders.managed.wanted)
            }
            None => false,
        };
        if worker.done.load(Ordering::Acquire) {
            let late = locked(&worker.late).take();
            self.hanging.remove(name);
            return match late {
                Some(outcome) if same => Earlier::Settled(Box::new(outcome)),
                // What was done for another list is not this one's doing; looking again shows what there is.
                _ => Earlier::No,
            };
        }
        if !same {
            worker.abandoned.store(true, Ordering::Release);
        }
        Earlier::Hangs
    }

    /// Thousands of accounts can be changed at once; no more of what stood there is held than is kept.
    fn bound_evidence(&mut self, outcome: &mut Outcome) {
        let others = outcome.others.iter_mut().map(|(_, outcome)| outcome);
        for file in [&mut outcome.managed].into_iter().chain(others) {
            let Some(stood) = &mut file.stood else {
                continue;
            };
            let more = stood.content.as_ref().map_or(0, Vec::len);
            let more = u64::try_from(more).unwrap_or(u64::MAX);
            if self.held.saturating_add(more) > MOST_BYTES {
                stood.forget_content();
            } else {
                self.held += more;
            }
        }
    }
}

fn spawn(
    queue: &Queue,
    tools: &Tools,
    results: &mpsc::UnboundedSender<Outcome>,
) -> Option<Arc<Worker>> {
    let worker = Arc::new(Worker::default());
    let own = Ends(Arc::clone(&worker));
    let (queue, tools, results) = (Arc::clone(queue), tools.clone(), results.clone());
    let work = move || {
        while let Some(orders) = next(&queue, &own.0) {
            let name = orders.account.name.clone();
            let outcome = settle(orders, &tools, &own.0.abandoned);
            let released = {
                let mut state = locked(&own.0.state);
                state.busy = false;
                state.released
            };
            if released {
                *locked(&own.0.late) = Some(outcome);
                drop(own);
                (tools.look_again)(name);
                return;
            }
            if results.send(outcome).is_err() {
                return;
            }
        }
    };
    match std::thread::Builder::new().spawn(work) {
        Ok(_) => Some(worker),
        Err(error) => {
            tracing::error!(error = chain(&error), "no thread to work with");
            None
        }
    }
}

/// Takes an account, and says so before anybody can wonder where it is.
fn next(queue: &Queue, worker: &Worker) -> Option<Arc<Orders>> {
    let mut waiting = locked(queue);
    let orders = waiting.pop_front()?;
    let mut state = locked(&worker.state);
    state.task = Some(Arc::clone(&orders));
    state.busy = true;
    Some(orders)
}

/// Says that a thread has ended, even by a panic.
struct Ends(Arc<Worker>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Everything that the work on one account needs, on its thread.
struct Errand<'a> {
    tools: &'a Tools,
    abandoned: &'a AtomicBool,
    /// This thread acts as the account from the first look until the errand ends.
    visit: Visit<'a>,
    witness: Putting<'a>,
}

/// Looks, decides and does, for each file of one account. Blocks.
fn settle(orders: Arc<Orders>, tools: &Tools, abandoned: &AtomicBool) -> Outcome {
    let for_visit = Arc::clone(&orders);
    let mut errand = Errand {
        tools,
        abandoned,
        visit: Visit::new(&for_visit.managed.target),
        witness: Putting {
            watches: tools.watches.as_deref(),
            subject: Subject::Account(orders.account.name.clone()),
            marks: Marks::default(),
        },
    };
    let mut outcome = Outcome {
        managed: FileOutcome::of(Did::Nothing),
        others: Vec::new(),
        left: Vec::new(),
        guards: false,
        loose: None,
        orders,
    };
    errand.managed(&mut outcome);
    errand.others(&mut outcome);
    outcome
}

impl Errand<'_> {
    /// Brings the managed file in line, and takes down what stood there.
    fn managed(&mut self, outcome: &mut Outcome) {
        let orders = Arc::clone(&outcome.orders);
        let order = &orders.managed;
        let Wanted::Lines(wanted) = &order.wanted else {
            return;
        };
        if (order.sweep || order.unsettled) && order.mode == Mode::Enforce {
            // What cannot be swept shows up again in what follows.
            let _ = self.visit.sweep_up();
        }
        let observed = match self.look(order, wanted) {
            Ok(observed) => observed,
            Err(refusal) => {
                outcome.managed = FileOutcome::of(refused(&refusal, false));
                return;
            }
        };
        outcome.loose.clone_from(&observed.loose);
        let differences = differences(wanted, &observed);
        let before = std::mem::take(&mut self.witness.marks);
        outcome.managed = match Plan::of(order.mode, &differences, order.unsettled) {
            Plan::Leave => FileOutcome::of(Did::Nothing),
            Plan::Report => FileOutcome {
                differences,
                did: Did::Reported,
                stood: order.ours.then(|| stood(observed.found, &before, None)),
            },
            Plan::Replace => {
                let mut file = FileOutcome {
                    differences,
                    did: Did::Nothing,
                    stood: None,
                };
                file.did = self.replace(
                    order,
                    wanted,
                    &observed.found,
                    &mut file.differences,
                    &mut outcome.loose,
                );
                if order.ours && matches!(file.did, Did::Replaced { .. }) {
                    file.stood = Some(stood(observed.found, &before, Some(&self.witness.marks)));
                }
                file
            }
        };
    }

    fn replace(
        &mut self,
        order: &Order,
        wanted: &Lines,
        found: &Found,
        differences: &mut Vec<Difference>,
        loose: &mut Option<Loose>,
    ) -> Did {
        let backup = match self.back_up(order, found) {
            Ok(backup) => backup,
            Err(reason) => {
                return Did::Refused {
                    reason,
                    hint: ROOM.to_owned(),
                    began: false,
                };
            }
        };
        for _ in 0..ATTEMPTS {
            let abandoned = self.abandoned;
            let terms = Terms {
                wanted_still: &|| !abandoned.load(Ordering::Acquire),
                clear_obstacles: order.ours,
            };
            match self.visit.replace(wanted, terms) {
                Ok(unlocked) => differences.extend(unlocked.into_iter().map(Difference::Locked)),
                Err(refusal) => return refused(&refusal, true),
            }
            self.witness.marks = Marks::default();
            // Resolved again from the home: what is there now is what sshd will read.
            match self.look(order, wanted) {
                Ok(now) if self::differences(wanted, &now).is_empty() => {
                    *loose = now.loose;
                    return Did::Replaced { backup };
                }
                Ok(_) => {}
                Err(refusal) => return refused(&refusal, true),
            }
        }
        let path = order.target.location.path.clone();
        refused(&Refusal::Contended(path), true)
    }

    /// Observes. Something that is no directory in a directory's place is a difference once the file was ours.
    fn look(&mut self, order: &Order, wanted: &Lines) -> Result<Observed, Refusal> {
        let (account, size) = (&order.target.account, wanted.content.len());
        match observe(&mut self.visit, account, size, &mut self.witness) {
            Err(Refusal::Obstacle { kind, .. }) if order.ours => Ok(Observed {
                found: Found::Other(kind),
                directories: Vec::new(),
                loose: None,
            }),
            observed => observed,
        }
    }

    /// Looks at the other files that sshd reads, and takes away what should not be there.
    ///
    /// They go once the managed file is the account's file: then the list says who gets in, and what else is there says
    /// otherwise. A managed file that cannot be written now, such as on a full disk, leaves no other one open.
    fn others(&mut self, outcome: &mut Outcome) {
        let orders = Arc::clone(&outcome.orders);
        let enforces = orders.managed.mode == Mode::Enforce;
        let in_line = outcome.managed.is_in_line() || orders.managed.ours;
        outcome.guards = orders.removes_others && in_line && enforces;
        for order in &orders.others {
            let (found, marks) = self.look_beside(&order.target.location);
            let found = match found {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(refusal) => {
                    // A home that cannot be worked in is the managed file's trouble already.
                    let is_known = outcome.managed.did.refusal().is_some();
                    if orders.removes_others && !is_known {
                        outcome.refuse_other(order, None, refused(&refusal, false));
                    }
                    continue;
                }
            };
            let only_seen = orders.removes_others && !enforces;
            if found.of_root || !(outcome.guards || only_seen) {
                outcome.left.push(named(order, &found));
            } else if only_seen {
                let other = named(order, &found);
                let mut file = FileOutcome::of(Did::Reported);
                file.differences.push(Difference::OtherFile(other.clone()));
                file.stood = Some(stood_beside(found, &marks, None));
                outcome.others.push((other, file));
            } else {
                self.clear(order, (found, marks), outcome);
            }
        }
        if self.tools.elsewhere {
            Self::look_elsewhere(&orders, outcome);
        }
    }

    /// Until it is gone. An account that puts it back faster than that is seen by the next event.
    fn clear(&mut self, order: &Order, found: (Other, Marks), outcome: &mut Outcome) {
        let mut next = Some(found);
        for _ in 0..ATTEMPTS {
            let Some((found, marks)) = next else { return };
            let copy = match self.keep(order, &found) {
                Ok(copy) => copy,
                // A file that was there first is not lost for want of a copy; what was planted since does not stay for it.
                Err(_) if order.ours => None,
                Err(reason) => {
                    let did = Did::Refused {
                        reason,
                        hint: ROOM.to_owned(),
                        began: false,
                    };
                    return outcome.refuse_other(order, Some(&found), did);
                }
            };
            let is_kept = found.whole && copy.is_some();
            let aside = !order.ours && found.kind == Kind::File && !is_kept;
            let abandoned = self.abandoned;
            let terms = Terms {
                wanted_still: &|| !abandoned.load(Ordering::Acquire),
                clear_obstacles: order.ours,
            };
            let taken = self
                .visit
                .remove_other(&order.target.location, terms, aside);
            let unlocked = match taken {
                Ok(unlocked) => unlocked,
                Err(refusal) => {
                    return outcome.refuse_other(order, Some(&found), refused(&refusal, false));
                }
            };
            let other = named(order, &found);
            let (now, after) = self.look_beside(&order.target.location);
            if outcome.others.iter().all(|(known, _)| *known != other) {
                let mut file = FileOutcome::of(Did::Removed { copy });
                file.differences.push(Difference::OtherFile(other.clone()));
                file.differences
                    .extend(unlocked.into_iter().map(Difference::Locked));
                file.stood = Some(stood_beside(found, &marks, Some(&after)));
                outcome.others.push((other, file));
            }
            next = match now {
                Ok(next) => next.map(|next| (next, after)),
                Err(refusal) => {
                    return outcome.refuse_other(order, None, refused(&refusal, false));
                }
            };
        }
        if let Some((found, _)) = next {
            let path = order.target.location.path.clone();
            let refusal = Refusal::Contended(path);
            outcome.refuse_other(order, Some(&found), refused(&refusal, false));
        }
    }

    /// Looks at another file, and returns the marks too.
    fn look_beside(&mut self, other: &Location) -> (Result<Option<Other>, Refusal>, Marks) {
        self.witness.marks = Marks::default();
        let found = self.visit.look_at_other(other, &mut self.witness);
        (found, std::mem::take(&mut self.witness.marks))
    }

    /// Copies the file that is about to be replaced for the first time.
    fn back_up(&self, order: &Order, found: &Found) -> Result<Option<PathBuf>, String> {
        let Found::File(file) = found else {
            return Ok(None);
        };
        match &file.content {
            Some(content) if !order.ours && !content.is_empty() => {
                let name = format!("{}.authorized_keys", order.target.account.name);
                self.keep_copy(&name, content)
            }
            _ => Ok(None),
        }
    }

    /// Keeps a copy of what is about to be taken away; `None` when there is nothing to keep, or enough of it is kept.
    fn keep(&self, order: &Order, found: &Other) -> Result<Option<PathBuf>, String> {
        match &found.content {
            Some(content) if !content.is_empty() => {
                let Target {
                    account, location, ..
                } = &order.target;
                self.keep_copy(&format!("{}.{}", account.name, location.file), content)
            }
            _ => Ok(None),
        }
    }

    fn keep_copy(&self, name: &str, content: &[u8]) -> Result<Option<PathBuf>, String> {
        let backups = &self.tools.backups;
        let kept = self.visit.as_self(|| keep_copy(backups, name, content));
        kept.map_err(|refusal| refusal.explained())?
    }

    fn look_elsewhere(orders: &Orders, outcome: &mut Outcome) {
        for path in &orders.elsewhere {
            match survey(&orders.account, path) {
                Ok(Some(content)) => {
                    let found = InFile::read(&content);
                    if !found.is_idle() {
                        outcome.left.push(OtherFile::new(path, found));
                    }
                }
                Err(refusal @ Refusal::Io { .. }) => {
                    let found = InFile::unread(refusal.explained());
                    outcome.left.push(OtherFile::new(path, found));
                }
                // Whoever may not look at the managed file either is told so.
                Ok(None) | Err(_) => {}
            }
        }
    }
}

impl Outcome {
    /// Another file that should not be there stays.
    fn refuse_other(&mut self, order: &Order, found: Option<&Other>, did: Did) {
        let content = found.and_then(|found| found.content.as_deref());
        let found = InFile {
            error: did.refusal().map(str::to_owned),
            ..InFile::read(content.unwrap_or_default())
        };
        let other = OtherFile::new(&order.target.location.path, found);
        self.others.push((other.clone(), FileOutcome::of(did)));
        self.left.push(other);
    }
}

fn refused(refusal: &Refusal, began: bool) -> Did {
    let reason = refusal.explained();
    match refusal {
        Refusal::NeedsRoot(_) => Did::NotAllowed { reason },
        _ => Did::Refused {
            reason,
            hint: refusal.hint().to_owned(),
            began,
        },
    }
}

fn named(order: &Order, found: &Other) -> OtherFile {
    OtherFile {
        kind: found.kind,
        ..OtherFile::new(
            &order.target.location.path,
            InFile::read(found.content.as_deref().unwrap_or_default()),
        )
    }
}

/// Looks, and says of a directory that its group can write to whose group that is.
fn observe(
    visit: &mut Visit<'_>,
    account: &Account,
    expected: usize,
    witness: &mut dyn Witness,
) -> Result<Observed, Refusal> {
    let mut observed = visit.look(expected, witness)?;
    if let Some(loose) = &mut observed.loose
        && loose.is_group_writable(account.uid)
    {
        let gid = loose.gid;
        loose.private_group = visit.as_self(|| accounts::is_private_group(account, gid))?;
    }
    Ok(observed)
}

fn differences(wanted: &Lines, observed: &Observed) -> Vec<Difference> {
    let mut all = observed.directories.clone();
    all.extend(difference::differences(wanted, &observed.found));
    all
}

/// Keeps a copy of `content` as `name`. Tried again, it makes no second copy of the same content, and never more than a
/// few: the content is the account's to choose. `None` when there are that many.
fn keep_copy(backups: &Path, name: &str, content: &[u8]) -> Result<Option<PathBuf>, String> {
    const COPIES: [&str; 3] = ["", ".2", ".3"];
    let failed = |error: store::StoreError| {
        format!(
            "the file that is there cannot be backed up: {}",
            chain(&error)
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

/// The last change of each kind of thing on the way to a file.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    directory: Option<Mark>,
    untidy: Option<Mark>,
    file: Option<Mark>,
}

impl Marks {
    /// The last one counts: it is the nearest to the file.
    fn add(&mut self, mark: Mark) {
        match mark.of {
            Marked::Directory => self.directory = Some(mark),
            Marked::UntidyDirectory => {
                self.directory = Some(mark);
                self.untidy = Some(mark);
            }
            Marked::File => self.file = Some(mark),
        }
    }
}

/// `found` stood there with the marks `before`; afterwards the marks were `after`. Both times are those of the one clock by
/// which the kernel stamps that file system.
fn stood(found: Found, before: &Marks, after: Option<&Marks>) -> Stood {
    // A directory that others may write to is a change of its own; the file in it may be as it was for years.
    let file = match found {
        Found::Nothing => None,
        _ => before.file,
    };
    let since = match (before.untidy, file, before.directory) {
        (Some(untidy), ..) => at(untidy).map(|at| (at, Since::Directory)),
        (None, Some(file), _) => at(file).map(|at| (at, Since::File)),
        (None, None, Some(directory)) => at(directory).map(|at| (at, Since::Directory)),
        (None, None, None) => None,
    };
    let mut stood = Stood {
        since,
        inode: before.file.map(|mark| mark.inode),
        directory: before.directory.map(|mark| mark.inode.1),
        undone_at: after.and_then(|after| after.file).and_then(at),
        ..Stood::default()
    };
    if let Found::File(file) = found {
        stood.take_down(file.content);
    }
    stood
}

/// The same for another file, once it is gone.
fn stood_beside(found: Other, before: &Marks, after: Option<&Marks>) -> Stood {
    let mut stood = Stood {
        since: before.file.and_then(at).map(|at| (at, Since::File)),
        inode: before.file.map(|mark| mark.inode),
        directory: before.directory.map(|mark| mark.inode.1),
        undone_at: after.and_then(|after| after.directory).and_then(at),
        ..Stood::default()
    };
    stood.take_down(found.content);
    stood
}

fn at(mark: Mark) -> Option<Timestamp> {
    let (seconds, nanoseconds) = mark.changed_at;
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

/// Puts a watch on everything that is looked at, and notes when it was last changed.
struct Putting<'a> {
    watches: Option<&'a AgentWatches>,
    subject: Subject,
    marks: Marks,
}

impl Putting<'_> {
    fn put(&self, descriptor: BorrowedFd<'_>, inode: Inode, name: Option<&str>) {
        let Some(watches) = self.watches else { return };
        if let Err(error) = watches.put(descriptor, inode, name, &self.subject) {
            // The periodic check still looks.
            tracing::warn!(subject = ?self.subject, error = chain(&error), "not watched");
        }
    }
}

impl Witness for Putting<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, inode: Inode, name: &str) {
        self.put(directory, inode, Some(name));
    }

    fn file(&mut self, file: BorrowedFd<'_>, inode: Inode) {
        self.put(file, inode, None);
    }

    fn changed(&mut self, mark: Mark) {
        self.marks.add(mark);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
