//! The work on all files of one account, on a thread of its own: look, plan, do, look again.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::agent::marks::{Marks, stood, stood_beside};
use crate::agent::wakeups::{AgentWatches, Subject};
use crate::host::keyfile::{
    Attempt, By, Leases, Mark, Observed, Other, Refusal, Terms, Visit, Witness, Writing,
    groups_that_write, in_force_at, own_mount, survey,
};
use crate::host::{DETAIL, accounts, chain, store};
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::Mode;
use crate::model::file::difference::{self, Difference};
use crate::model::file::orders::{Locking, Order, Orders};
use crate::model::file::other_files::{InFile, OtherFile};
use crate::model::file::plan::Plan;
use crate::model::file::wanted::{Content, Found, Kind, Lines, Target, Wanted};
use crate::model::inode::Inode;
use crate::model::location::Location;
use crate::model::mounts::OwnMount;
use crate::model::past::evidence::Stood;
use crate::model::past::incident::Undone;
use crate::model::past::outcome::{Did, FileOutcome, Outcome, StoodBefore};

/// Replacements of one file in one pass. An account that changes it faster than that is seen by the next event.
const ATTEMPTS: u32 = 3;

/// What is tried where a key stands in the file that must go, and there is no room for the right file; each is more than the
/// one before.
const RUNGS: [Undone; 3] = [Undone::Replaced, Undone::Renewed, Undone::Cut];

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
    /// Where leases are kept, by a process that hears when one is broken.
    pub leases: Option<Arc<Leases>>,
    /// File systems that accounts answer for.
    pub own_mounts: Arc<Vec<OwnMount>>,
}

/// Everything that the work on one account needs, on its thread.
struct Errand<'a> {
    tools: &'a Tools,
    progress: &'a Progress,
    /// This thread acts as the account from the first look until the errand ends.
    visit: Visit<'a>,
    terms: Terms<'a>,
    witness: Putting<'a>,
}

/// How far the work on one account has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// What it would write is out of date: change nothing any more.
    abandoned: AtomicBool,
    /// Steps that have begun.
    steps: AtomicU64,
    /// What stood in the file and is about to be replaced, or was: it is told even if this thread never comes back.
    seen: Mutex<Option<Seen>>,
}

type Seen = (Vec<Difference>, Stood);

impl Progress {
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Acquire)
    }

    fn saw(&self, seen: Option<Seen>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    fn seen(&self) -> Option<Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take()
    }

    /// The next step begins, unless nobody waits for it any more.
    fn step(&self) -> bool {
        self.steps.fetch_add(1, Ordering::AcqRel);
        !self.abandoned.load(Ordering::Acquire)
    }
}

/// Looks, decides and does, for each file of one account. Blocks.
pub fn settle(orders: Arc<Orders>, tools: &Tools, progress: &Progress) -> Outcome {
    let for_visit = Arc::clone(&orders);
    let order = &for_visit.managed;
    let wanted_still = || progress.step();
    progress.saw(None);
    let aside = RefCell::default();
    let put_aside = |name: &str| Vec::push(&mut aside.borrow_mut(), name.to_owned());
    let terms = Terms {
        wanted_still: &wanted_still,
        clear_obstacles: order.ours,
        put_aside: &put_aside,
    };
    let mut visit = Visit::new(&order.target);
    if order.mode == Mode::Observe
        && let Some(leases) = &tools.leases
    {
        // What is not repaired is not kept from being written either.
        leases.forget(&orders.account.name);
    }
    if order.mode == Mode::Enforce {
        visit = visit.enforcing(terms, tools.leases.as_deref());
    }
    visit.accept_locked(order.lock != Locking::Open);
    let mut errand = Errand {
        tools,
        progress,
        visit,
        terms,
        witness: Putting::new(tools, &orders.account.name),
    };
    let mut outcome = Outcome {
        managed: FileOutcome::of(Did::Nothing),
        others: Vec::new(),
        left: Vec::new(),
        guards: false,
        loose: None,
        attempts: Vec::new(),
        aside: Vec::new(),
        lock: None,
        stood: Vec::new(),
        writes_prevented: None,
        orders,
    };
    if let Some(mount) = for_visit.own_mount(&tools.own_mounts) {
        outcome.managed = FileOutcome::of(Did::OnOwnMount(mount));
        return outcome;
    }
    if for_visit.adopts {
        outcome.tell_what_stands();
        return outcome;
    }
    errand.managed(&mut outcome);
    errand.others(&mut outcome);
    errand.lock(&mut outcome);
    outcome.aside = aside.take();
    outcome
}

/// Mends one level up what another thread, whose progress is `stuck`, does not come back from: only while it `is_stuck`, which
/// is asked again once the new directory is whole and on disk, and only where the file was ours. What came of it is `reported`
/// before the rest is moved over, which may wait for ever. Blocks.
pub fn rescue(
    orders: Arc<Orders>,
    tools: &Tools,
    stuck: &Progress,
    is_stuck: &dyn Fn() -> bool,
    report: impl FnOnce(Outcome),
) {
    let for_visit = Arc::clone(&orders);
    let order = &for_visit.managed;
    let Wanted::Lines(wanted) = &order.wanted else {
        return;
    };
    if !order.ours || order.mode == Mode::Observe {
        return;
    }
    let terms = Terms {
        wanted_still: is_stuck,
        clear_obstacles: true,
        // Nothing is in the way in a new directory.
        put_aside: &|_| (),
    };
    let mut visit = Visit::new(&order.target).enforcing(terms, tools.leases.as_deref());
    visit.accept_locked(order.lock != Locking::Open);
    let aside = match visit.renew(wanted, terms, By::Owner) {
        Ok(aside) => aside,
        Err(refusal) => {
            let (account, reason) = (&orders.account.name, refusal.explained());
            tracing::info!(target: DETAIL, %account, reason, "no new directory in the place of one that hangs");
            return;
        }
    };
    let content = aside.peek(&order.target.location.file);
    let mut witness = Putting::new(tools, &orders.account.name);
    // A look for the lease and the watches; what it finds is the next errand's.
    let looked = visit.look(wanted.content.len(), &mut witness);
    // Another look follows.
    let _ = visit.hold(looked.is_ok());
    let mut file = FileOutcome::of(Did::Replaced {
        how: Undone::Renewed,
        backup: None,
    });
    file.differences.push(Difference::NoAnswer);
    let (differences, stood) = stuck.seen().unwrap_or_else(|| {
        let differences = match &content {
            Some(content) => difference::written(wanted, &content.bytes),
            None => Vec::new(),
        };
        let mut stood = Stood::default();
        stood.take_down(content.map(Content::from));
        (differences, stood)
    });
    file.differences.extend(differences);
    file.stood = Some(stood);
    let names: Vec<String> = order_names(&orders)
        .into_iter()
        .map(str::to_owned)
        .collect();
    report(Outcome {
        managed: file,
        ..Outcome::hanging(orders)
    });
    aside.move_over(&names);
}

impl Errand<'_> {
    /// Brings the managed file in line, and takes down what stood there.
    fn managed(&mut self, outcome: &mut Outcome) {
        let orders = Arc::clone(&outcome.orders);
        let order = &orders.managed;
        let Wanted::Lines(wanted) = &order.wanted else {
            return;
        };
        if order.lock == Locking::Opens && order.mode == Mode::Enforce {
            // Where that fails the file is looked at all the same.
            outcome.lock = self.visit.unlock().is_ok().then_some(Ok(false));
        }
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
        outcome.writes_prevented = observed.writing.is_prevented();
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
                if order.ours {
                    let stood = stood(observed.found.clone(), &before, None);
                    self.progress.saw(Some((file.differences.clone(), stood)));
                }
                file.did = self.bring_in_line(order, wanted, &observed, outcome, &mut file);
                if order.ours && matches!(file.did, Did::Replaced { .. }) {
                    file.stood = Some(stood(observed.found, &before, Some(&self.witness.marks)));
                }
                file
            }
        };
        if order.mode == Mode::Enforce && self.visit.hold(outcome.managed.is_in_line()) {
            (self.tools.look_again)(order.target.account.name.clone());
        }
        outcome.attempts.extend(self.attempts(wanted));
    }

    /// Sees to it that the account can change nothing there for now.
    fn lock(&mut self, outcome: &mut Outcome) {
        let orders = Arc::clone(&outcome.orders);
        let order = &orders.managed;
        let Wanted::Lines(wanted) = &order.wanted else {
            return;
        };
        let enforces = order.mode == Mode::Enforce && order.lock == Locking::Locked;
        if !enforces || !outcome.managed.is_in_line() {
            return;
        }
        let names = order_names(&orders);
        let locked = match self.visit.lock(wanted, self.terms, &names) {
            // Already, with nothing to do.
            Ok(false) => return,
            Ok(true) => self
                .look_after(order, wanted, outcome)
                .map(|(left, _)| left.is_empty()),
            Err(refusal) => Err(refusal),
        };
        outcome.lock = match locked {
            Ok(true) => {
                if self.visit.hold(true) {
                    (self.tools.look_again)(order.target.account.name.clone());
                }
                Some(Ok(true))
            }
            Err(refusal) if refusal.is_no_lock() => {
                let _ = self.visit.unlock();
                Some(Err(refusal.explained()))
            }
            // The account was in the way, and gains nothing by that.
            Ok(false) | Err(Refusal::Contended(_) | Refusal::Crowded(_)) => {
                (self.tools.look_again)(order.target.account.name.clone());
                None
            }
            // A full disk, say: with the next look.
            Err(_) => None,
        };
    }

    /// Replaces the file, and where that does not do, climbs: root's rights, a new directory, and the file cut to nothing.
    fn bring_in_line(
        &mut self,
        order: &Order,
        wanted: &Lines,
        observed: &Observed,
        outcome: &mut Outcome,
        file: &mut FileOutcome,
    ) -> Did {
        let backup = match self.back_up(order, &observed.found) {
            Ok(backup) => backup,
            Err(reason) => {
                return Did::Refused {
                    reason,
                    hint: ROOM.to_owned(),
                    began: false,
                };
            }
        };
        // What was there first is kept, however long that takes; so is a file in which nothing is too much.
        let climbs = order.ours && file.differences.iter().any(Difference::lets_in);
        let keeps = !order.ours && is_unknown(&observed.found);
        let mut refusal = match self.replace(order, wanted, By::Owner, keeps, outcome, file) {
            Ok(()) => {
                let how = Undone::Replaced;
                return Did::Replaced { how, backup };
            }
            Err(refusal) => refusal,
        };
        for rung in RUNGS {
            if !climbs || !refusal.is_want_of_room() && !matches!(refusal, Refusal::Crowded(_)) {
                break;
            }
            let done = match rung {
                Undone::Renewed => self.renew(order, wanted, outcome),
                Undone::Cut => self
                    .visit
                    .cut(self.terms)
                    .and_then(|()| self.replace(order, wanted, By::Owner, false, outcome, file)),
                _ => self.replace(order, wanted, By::Root, false, outcome, file),
            };
            match done {
                Ok(()) => return Did::Replaced { how: rung, backup },
                Err(next) => refusal = next,
            }
        }
        refused(&refusal, true)
    }

    /// Until every name leads to the right file.
    fn replace(
        &mut self,
        order: &Order,
        wanted: &Lines,
        by: By,
        mut keeps: bool,
        outcome: &mut Outcome,
        file: &mut FileOutcome,
    ) -> Result<(), Refusal> {
        let mut changed: Option<FileOutcome> = None;
        for _ in 0..ATTEMPTS {
            let unlocked = self.visit.replace(wanted, self.terms, by, keeps)?;
            if order.lock == Locking::Open {
                // Otherwise the flags are the agent's own.
                let unlocked = unlocked.into_iter().map(Difference::Locked);
                file.differences.extend(unlocked);
            }
            keeps = false;
            outcome.attempts.extend(changed.take());
            let (left, found) = self.look_after(order, wanted, outcome)?;
            let path = &order.target.location.path;
            match left.as_slice() {
                [] => return Ok(()),
                [Difference::Owner(0, 0), Difference::Mode(_)] if by == By::Root => {
                    return Err(Refusal::NoQuota(path.clone()));
                }
                _ => {}
            }
            // Somebody changed what was the right file a moment ago; once it is replaced again, that is undone.
            if left.iter().any(Difference::lets_in) {
                let stood = stood(found, &self.witness.marks, None);
                self.progress.saw(Some((left.clone(), stood.clone())));
                let how = Undone::Replaced;
                changed = Some(FileOutcome {
                    differences: left,
                    did: Did::Replaced { how, backup: None },
                    stood: Some(stood),
                });
            }
        }
        let path = order.target.location.path.clone();
        Err(Refusal::Contended(path))
    }

    /// Puts a new directory in the place of the file's own.
    fn renew(
        &mut self,
        order: &Order,
        wanted: &Lines,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        let aside = self.visit.renew(wanted, self.terms, By::Owner)?;
        let names = order_names(&outcome.orders);
        aside.move_over(&names);
        if self.look_after(order, wanted, outcome)?.0.is_empty() {
            return Ok(());
        }
        let path = order.target.location.path.clone();
        Err(Refusal::Contended(path))
    }

    /// What still differs, and what is there. Resolved again from the home: that is what sshd will read.
    fn look_after(
        &mut self,
        order: &Order,
        wanted: &Lines,
        outcome: &mut Outcome,
    ) -> Result<(Vec<Difference>, Found), Refusal> {
        self.witness.marks = Marks::default();
        let now = self.look(order, wanted)?;
        let left = differences(wanted, &now);
        if left.is_empty() {
            outcome.writes_prevented = now.writing.is_prevented();
            outcome.loose = now.loose;
        }
        Ok((left, now.found))
    }

    /// What somebody wrote into files that were ours before, after all.
    fn attempts(&mut self, wanted: &Lines) -> Vec<FileOutcome> {
        let attempts = self.visit.attempts().unwrap_or_default().into_iter();
        let outcomes = attempts.map(|attempt| {
            let (inode, differences, read) = match attempt {
                Attempt::Closed(inode, read) => {
                    (inode, difference::written(wanted, &read.bytes), Some(read))
                }
                Attempt::Open(inode) => (inode, vec![Difference::OpenForWriting], None),
            };
            let mut stood = Stood {
                inode: Some(inode),
                ..Stood::default()
            };
            stood.take_down(read.map(Content::from));
            FileOutcome {
                differences,
                did: Did::Nothing,
                stood: Some(stood),
            }
        });
        // Opened and closed again, as an editor does.
        outcomes
            .filter(|file| !file.differences.is_empty())
            .collect()
    }

    /// Observes. Something that is no directory in a directory's place is a difference once the file was ours.
    fn look(&mut self, order: &Order, wanted: &Lines) -> Result<Observed, Refusal> {
        let (account, size) = (&order.target.account, wanted.content.len());
        match observe(&mut self.visit, account, size, &mut self.witness) {
            Err(Refusal::Obstacle { kind, .. }) if order.ours => Ok(Observed {
                found: Found::Other {
                    kind,
                    content: self.visit.behind().map(Content::from),
                },
                directories: Vec::new(),
                loose: None,
                writing: Writing::Unknown,
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
            let (found, marks) = self.look_beside(&order.target.location, outcome.guards);
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
        self.visit.hold_others();
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
            let terms = Terms {
                clear_obstacles: order.ours,
                ..self.terms
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
            let (now, after) = self.look_beside(&order.target.location, outcome.guards);
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
    fn look_beside(
        &mut self,
        other: &Location,
        guards: bool,
    ) -> (Result<Option<Other>, Refusal>, Marks) {
        self.witness.marks = Marks::default();
        let found = self.visit.look_at_other(other, guards, &mut self.witness);
        (found, std::mem::take(&mut self.witness.marks))
    }

    /// Copies the file that is about to be replaced for the first time.
    fn back_up(&self, order: &Order, found: &Found) -> Result<Option<PathBuf>, String> {
        let Found::File(file) = found else {
            return Ok(None);
        };
        match &file.content {
            Some(Content { bytes, is_whole }) if !order.ours && *is_whole && !bytes.is_empty() => {
                let name = format!("{}.authorized_keys", order.target.account.name);
                self.keep_copy(&name, bytes)
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
                // A user who may not look at the managed file either is told so.
                Ok(None) | Err(_) => {}
            }
        }
    }
}

impl Orders {
    /// The first of `mounts` that one of the files is on.
    fn own_mount(&self, mounts: &[OwnMount]) -> Option<OwnMount> {
        let mut all = [&self.managed].into_iter().chain(&self.others);
        all.find_map(|order| own_mount(&order.target, mounts).cloned())
    }
}

impl Outcome {
    /// What sshd reads in each file, with the account's rights.
    fn tell_what_stands(&mut self) {
        let orders = Arc::clone(&self.orders);
        for order in [&orders.managed].into_iter().chain(&orders.others) {
            let path = &order.target.location.path;
            match in_force_at(&orders.account, path) {
                Ok(content) => self.stood.extend(content.map(|content| StoodBefore {
                    file: path.clone(),
                    content,
                    is_open: is_open_to_others(&orders.account, path),
                })),
                Err(refusal) => {
                    self.managed = FileOutcome::of(refused(&refusal, false));
                    return;
                }
            }
        }
    }

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
    if observed.writing == Writing::Busy {
        all.push(Difference::OpenForWriting);
    }
    all
}

/// Others than the account and root could have written what is at `path`.
fn is_open_to_others(account: &Account, path: &Path) -> bool {
    let is_private = |gid: &u32| accounts::is_private_group(account, *gid);
    groups_that_write(account, path).is_none_or(|groups| !groups.iter().all(is_private))
}

/// Names of files that sshd reads keys from.
fn order_names(orders: &Orders) -> Vec<&str> {
    let all = std::iter::once(&orders.managed).chain(&orders.others);
    all.map(|order| order.target.location.file.as_str())
        .collect()
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

/// Nobody could look into the file, or into its directory, or not into all of it, so that no copy of it can be made.
fn is_unknown(found: &Found) -> bool {
    match found {
        Found::Nothing => true,
        Found::File(file) => {
            let content = file.content.as_ref();
            content.is_none_or(|content| !content.is_whole)
        }
        Found::Other { .. } => false,
    }
}

/// Puts a watch on everything that is looked at, and notes when it was last changed.
struct Putting<'a> {
    watches: Option<&'a AgentWatches>,
    subject: Subject,
    marks: Marks,
}

impl<'a> Putting<'a> {
    fn new(tools: &'a Tools, account: &AccountName) -> Self {
        let putting = Self {
            watches: tools.watches.as_deref(),
            subject: Subject::Account(account.clone()),
            marks: Marks::default(),
        };
        if let Some(watches) = putting.watches {
            watches.begin_look(&putting.subject);
        }
        putting
    }

    fn put(&self, descriptor: BorrowedFd<'_>, inode: Inode, name: Option<&str>) {
        let Some(watches) = self.watches else { return };
        if let Err(error) = watches.put(descriptor, inode, name, &self.subject) {
            // It is looked at every few seconds instead, and the status says so.
            tracing::info!(target: DETAIL, subject = ?self.subject, error = error.desc(), "not watched");
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
