//! The work on the files, off the loop and within a time limit.
//!
//! A home on a dead NFS server or a hostile FUSE mount can hold a thread for ever. So the files are worked on by a
//! thread of their own; when it does not answer, it is left to its one account, and another takes the rest.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::agent::errand::{self, Progress, Tools};
use crate::host::Threads;
use crate::model::account::AccountName;
use crate::model::file::orders::Orders;
use crate::model::past::incident::MOST_BYTES;
use crate::model::past::outcome::Outcome;

/// What takes longer than this goes on by itself, and the others go on without it. Half as long after each in the same pass: a
/// dead server may have the homes of hundreds.
const SLOW: Duration = Duration::from_millis(50);
const LEAST_SLOW: Duration = Duration::from_millis(5);

/// What has not moved for so long may be held by the account, for ever: another thread tries one level up.
const STUCK: Duration = Duration::from_millis(250);

/// What takes longer is said to hang.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a pass waits for the slow where all that there is to write is written at once, as at a start.
pub const LONG_PATIENCE: Duration = Duration::from_secs(5);

/// Threads that may hang; below the unit's `TasksMax=`.
const MOST_HANGING: usize = 128;

/// Results that come while others are still far from done are taken together: to wake up for each costs more than many of
/// them take.
const TOGETHER: Duration = Duration::from_millis(5);
const FAR_FROM_DONE: usize = 64;

/// Threads of one account that may hang, each for another directory that it lost by that.
const MOST_LOST: usize = 8;

/// The threads, and the accounts whose thread has not come back.
#[derive(Default)]
pub struct Workers {
    /// A thread that waits for the next pass: to start one costs more system calls than to look at a file.
    idle: Option<Hand>,
    away: HashMap<AccountName, Away>,
    /// Threads that hang in a directory that was put aside.
    lost: Vec<(AccountName, Arc<Worker>)>,
    /// Bytes of evidence that are held in this pass.
    held: u64,
}

/// A thread that takes its time.
struct Away {
    worker: Arc<Worker>,
    since: Instant,
    /// The thread that tries one level up.
    rescue: Option<Arc<Worker>>,
    /// When it is looked at again.
    next: Instant,
    /// It was said to hang.
    said: bool,
}

/// A thread, and how it is told what to do.
struct Hand {
    worker: Arc<Worker>,
    shifts: std::sync::mpsc::Sender<Shift>,
}

/// The work of one pass.
struct Shift {
    queue: Queue,
    tools: Tools,
    results: mpsc::UnboundedSender<Outcome>,
}

/// One thread at work.
#[derive(Default)]
struct Worker {
    state: Mutex<State>,
    progress: Progress,
    /// Set when the thread ends, however it ends.
    done: AtomicBool,
    /// What came of it, once the pass no longer waited.
    late: Mutex<Option<Outcome>>,
}

/// Both under one lock: a thread that is released has an account, and no other thread is told of it.
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
    Slow,
    /// The same, for longer than anybody waits.
    Hangs,
    /// It has come back meanwhile, with this.
    Settled(Box<Outcome>),
}

impl Workers {
    /// A new pass begins.
    pub fn begin(&mut self) {
        self.held = 0;
    }

    /// True while a thread is at the files of this account that no pass waits for.
    pub fn is_at_work_on(&self, name: &AccountName) -> bool {
        let away = self.away.get(name);
        away.is_some_and(|away| !away.worker.done.load(Ordering::Acquire))
    }

    /// When something is to be done about a thread that is away.
    pub fn next_due(&self) -> Option<Instant> {
        self.away.values().map(|away| away.next).min()
    }

    /// Accounts of which that is so by now.
    pub fn due(&mut self, now: Instant) -> BTreeSet<AccountName> {
        let mut due = BTreeSet::new();
        for (name, away) in self.away.iter_mut().filter(|(_, away)| away.next <= now) {
            away.next = (away.since + PATIENCE).max(now + PATIENCE);
            due.insert(name.clone());
        }
        due
    }

    /// Nobody asks what comes of these any more.
    pub fn forget(&mut self, is_gone: impl Fn(&AccountName) -> bool) {
        let gone = self.away.extract_if(|name, _| is_gone(name));
        self.lost
            .extend(gone.map(|(name, away)| (name, away.worker)));
    }

    /// Does all orders, and returns what came of each account. One that takes its time is left out, and looked at again when
    /// it is done; with `patience` it is waited for first, for so long. `alive` is called again and again meanwhile.
    pub async fn work(
        &mut self,
        orders: Vec<Orders>,
        tools: &Tools,
        patience: Option<Duration>,
        alive: &dyn Fn(),
    ) -> Vec<Outcome> {
        let (sender, mut results) = mpsc::unbounded_channel();
        let (mut outcomes, mut queued) = (Vec::new(), VecDeque::new());
        for orders in orders.into_iter().map(Arc::new) {
            match self.earlier(&orders, tools) {
                Earlier::No => queued.push_back(orders),
                Earlier::Slow => {}
                Earlier::Hangs => outcomes.push(Outcome::hanging(orders)),
                Earlier::Settled(outcome) => {
                    // It was so when the thread came back.
                    (tools.look_again)(outcome.orders.account.name.clone());
                    outcomes.push(*outcome);
                }
            }
        }
        let total = outcomes.len() + queued.len();
        let queue: Queue = Arc::new(Mutex::new(queued));
        let shift = || Shift {
            queue: Arc::clone(&queue),
            tools: tools.clone(),
            results: sender.clone(),
        };
        let mut hand = if outcomes.len() < total {
            self.start(shift())
        } else {
            None
        };
        let (mut batch, mut slow) = (Vec::new(), SLOW);
        let (mut waits_until, mut sent_away) = (None, 0);
        while outcomes.len() < total {
            alive();
            let taken = results.recv_many(&mut batch, FAR_FROM_DONE);
            if let Ok(taken) = tokio::time::timeout(slow, taken).await
                && taken > 0
            {
                sent_away -= self.take(&mut batch, &mut outcomes);
                if total - outcomes.len() > FAR_FROM_DONE {
                    tokio::time::sleep(TOGETHER).await;
                }
                continue;
            }
            let now = Instant::now();
            if let Some(Hand { worker, .. }) = &hand {
                let mut state = locked(&worker.state);
                if state.busy
                    && let Some(orders) = &state.task
                {
                    let name = orders.account.name.clone();
                    state.released = true;
                    drop(state);
                    self.away.insert(name, Away::new(worker, now));
                    sent_away += 1;
                    hand = None;
                    slow = (slow / 2).max(LEAST_SLOW);
                }
            }
            if hand.is_some() && total - outcomes.len() > sent_away {
                // It has not begun yet, or its result is on the way.
                continue;
            }
            if !locked(&queue).is_empty() {
                if self.at_work() < MOST_HANGING {
                    hand = self.start(shift());
                }
                if hand.is_none() {
                    let left = std::mem::take(&mut *locked(&queue));
                    outcomes.extend(left.into_iter().map(Outcome::unattended));
                }
                continue;
            }
            let until = *waits_until.get_or_insert(now + patience.unwrap_or_default());
            if now >= until {
                break;
            }
            slow = SLOW;
        }
        // From now on what is done keeps its outcome itself.
        results.close();
        while let Ok(outcome) = results.try_recv() {
            batch.push(outcome);
        }
        self.take(&mut batch, &mut outcomes);
        if patience.is_some() {
            outcomes.extend(self.say_hanging(&outcomes));
        }
        // A thread that was released ends by itself.
        self.idle = hand;
        for outcome in &mut outcomes {
            self.bound_evidence(outcome);
        }
        outcomes
    }

    /// Returns how many of them came from a thread that was away.
    fn take(&mut self, batch: &mut Vec<Outcome>, outcomes: &mut Vec<Outcome>) -> usize {
        let mut back = 0;
        for outcome in batch.drain(..) {
            back += usize::from(self.away.remove(&outcome.orders.account.name).is_some());
            outcomes.push(outcome);
        }
        back
    }

    /// Those of the slow that nothing came of.
    fn say_hanging(&mut self, outcomes: &[Outcome]) -> Vec<Outcome> {
        let come: HashSet<&AccountName> = outcomes
            .iter()
            .map(|outcome| &outcome.orders.account.name)
            .collect();
        let mut hanging = Vec::new();
        for (name, away) in &mut self.away {
            let task = locked(&away.worker.state).task.clone();
            if let Some(orders) = task
                && !away.said
                && !come.contains(name)
            {
                away.said = true;
                hanging.push(Outcome::hanging(orders));
            }
        }
        hanging
    }

    /// The thread that waits, or a new one.
    fn start(&mut self, shift: Shift) -> Option<Hand> {
        let shift = match self.idle.take() {
            Some(hand) => match hand.shifts.send(shift) {
                Ok(()) => return Some(hand),
                // It ended by a panic.
                Err(refused) => refused.0,
            },
            None => shift,
        };
        spawn(shift)
    }

    fn at_work(&self) -> usize {
        let away = self.away.values().map(|away| &away.worker);
        let lost = self.lost.iter().map(|(_, worker)| worker);
        let is_done = |worker: &&Arc<Worker>| !worker.done.load(Ordering::Acquire);
        away.chain(lost).filter(is_done).count()
    }

    /// A thread that slowly does what is wanted goes on; one that would write something else is told to change nothing.
    fn earlier(&mut self, orders: &Arc<Orders>, tools: &Tools) -> Earlier {
        let name = &orders.account.name;
        self.lost
            .retain(|(_, worker)| !worker.done.load(Ordering::Acquire));
        let at_work = self.at_work();
        let Some(away) = self.away.get_mut(name) else {
            return Earlier::No;
        };
        let same = match &locked(&away.worker.state).task {
            Some(task) => {
                // A first look tells what stands there, and no other one does.
                task.adopts == orders.adopts
                    && task.managed.target == orders.managed.target
                    && task.managed.wanted == orders.managed.wanted
            }
            None => false,
        };
        if away.worker.done.load(Ordering::Acquire) {
            let late = locked(&away.worker.late).take();
            self.away.remove(name);
            return match late {
                Some(outcome) if same => Earlier::Settled(Box::new(outcome)),
                // What was done for another list is not this one's doing; looking again shows what there is.
                _ => Earlier::No,
            };
        }
        if !same {
            away.worker.progress.abandon();
        }
        let rescued = away
            .rescue
            .as_ref()
            .and_then(|rescue| locked(&rescue.late).take());
        if let Some(outcome) = rescued {
            // It would go on in the directory that was put aside.
            away.worker.progress.abandon();
            let threads = [Some(Arc::clone(&away.worker)), away.rescue.take()];
            self.away.remove(name);
            let lost = threads.into_iter().flatten();
            self.lost.extend(lost.map(|thread| (name.clone(), thread)));
            return Earlier::Settled(Box::new(outcome));
        }
        let is_over = |rescue: &Arc<Worker>| rescue.done.load(Ordering::Acquire);
        let lost = self.lost.iter().filter(|(lost, _)| lost == name).count();
        if away.since.elapsed() >= STUCK
            && away.rescue.as_ref().is_none_or(is_over)
            && lost < MOST_LOST
            && at_work < MOST_HANGING
        {
            away.rescue = rescue(Arc::clone(orders), &away.worker, tools);
        }
        if away.since.elapsed() < PATIENCE {
            return Earlier::Slow;
        }
        away.said = true;
        Earlier::Hangs
    }

    /// Thousands of accounts can be changed at once; no more of what stood there is held than is kept.
    fn bound_evidence(&mut self, outcome: &mut Outcome) {
        let others = outcome.others.iter_mut().map(|(_, outcome)| outcome);
        let files = others.chain(&mut outcome.attempts);
        for file in files.chain([&mut outcome.managed]) {
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

impl Away {
    fn new(worker: &Arc<Worker>, since: Instant) -> Self {
        Self {
            worker: Arc::clone(worker),
            since,
            rescue: None,
            next: since + STUCK,
            said: false,
        }
    }
}

/// Starts a thread that mends one level up what `stuck` does not come back from.
fn rescue(orders: Arc<Orders>, stuck: &Arc<Worker>, tools: &Tools) -> Option<Arc<Worker>> {
    let worker = Arc::new(Worker::default());
    let (own, stuck, tools) = (Ends(Arc::clone(&worker)), Arc::clone(stuck), tools.clone());
    let begun = stuck.progress.steps();
    let work = move || {
        let is_stuck = || !stuck.done.load(Ordering::Acquire) && stuck.progress.steps() == begun;
        let name = orders.account.name.clone();
        errand::rescue(orders, &tools, &stuck.progress, &is_stuck, |outcome| {
            *locked(&own.0.late) = Some(outcome);
            (tools.look_again)(name);
        });
    };
    Threads::spawn(work).ok()?;
    Some(worker)
}

fn spawn(first: Shift) -> Option<Hand> {
    let worker = Arc::new(Worker::default());
    let mut own = Ends(Arc::clone(&worker));
    let (shifts, told) = std::sync::mpsc::channel();
    let work = move || {
        let mut shift = first;
        loop {
            match shift.work(own) {
                Some(idle) => own = idle,
                None => return,
            }
            let Ok(next) = told.recv() else { return };
            shift = next;
        }
    };
    Threads::spawn(work).ok()?;
    Some(Hand { worker, shifts })
}

impl Shift {
    /// Works until there is nothing left, and returns the thread to wait for the next pass; `None` once the pass no longer waits for it.
    fn work(self, own: Ends) -> Option<Ends> {
        while let Some(orders) = next(&self.queue, &own.0) {
            let name = orders.account.name.clone();
            let outcome = errand::settle(orders, &self.tools, &own.0.progress);
            let released = {
                let mut state = locked(&own.0.state);
                state.busy = false;
                state.released
            };
            let sent = self.results.send(outcome);
            if !released && sent.is_ok() {
                continue;
            }
            if let Err(unsent) = sent {
                *locked(&own.0.late) = Some(unsent.0);
            }
            drop(own);
            (self.tools.look_again)(name);
            return None;
        }
        Some(own)
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
