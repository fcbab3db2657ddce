//! The work on the files, off the loop and within a time limit.
//!
//! A home on a dead NFS server or a hostile FUSE mount can hold a thread for ever. So the files are worked on by a
//! thread of their own; when it does not answer, it is left to its one account, and another takes the rest.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::agent::errand::{Tools, settle};
use crate::host::Threads;
use crate::model::account::AccountName;
use crate::model::file::orders::Orders;
use crate::model::past::incident::MOST_BYTES;
use crate::model::past::outcome::Outcome;

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

/// The threads, and the accounts whose thread has not come back.
pub struct Workers {
    /// A thread that waits for the next pass: to start one costs more system calls than to look at a file.
    idle: Option<Hand>,
    hanging: HashMap<AccountName, Arc<Worker>>,
    patience: Duration,
    /// Bytes of evidence that are held in this pass.
    held: u64,
    /// A thread did not come back in this pass; the watcher may hang with it.
    pub newly_hanging: bool,
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
    /// Set once what it would write is out of date: change nothing any more.
    abandoned: AtomicBool,
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
    Hangs,
    /// It has come back meanwhile, with this.
    Settled(Box<Outcome>),
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            idle: None,
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
        let shift = || Shift {
            queue: Arc::clone(&queue),
            tools: tools.clone(),
            results: sender.clone(),
        };
        let mut hand = if total > 0 { self.start(shift()) } else { None };
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
            if let Some(Hand { worker, .. }) = &hand {
                let mut state = locked(&worker.state);
                let orders = match &state.task {
                    Some(orders) if state.busy => Arc::clone(orders),
                    // Between two accounts: its result is on the way.
                    _ => continue,
                };
                state.released = true;
                let name = orders.account.name.clone();
                self.hanging.insert(name, Arc::clone(worker));
                outcomes.push(Outcome::hanging(orders));
            }
            self.newly_hanging = true;
            self.patience = (self.patience / 2).max(LEAST_PATIENCE);
            hand = if self.at_work() < MOST_HANGING {
                self.start(shift())
            } else {
                None
            };
            if hand.is_none() {
                let left = std::mem::take(&mut *locked(&queue));
                outcomes.extend(left.into_iter().map(Outcome::unattended));
            }
        }
        // A thread that was released ends by itself.
        self.idle = hand;
        outcomes
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
            let outcome = settle(orders, &self.tools, &own.0.abandoned);
            let released = {
                let mut state = locked(&own.0.state);
                state.busy = false;
                state.released
            };
            if released {
                *locked(&own.0.late) = Some(outcome);
                drop(own);
                (self.tools.look_again)(name);
                return None;
            }
            if self.results.send(outcome).is_err() {
                return None;
            }
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
