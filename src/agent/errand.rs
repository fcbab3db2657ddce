//! The work on all files of one account, on a thread of its own: look, plan, do, look again.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::agent::marks::{Marks, stood, stood_beside};
use crate::agent::wakeups::{AgentWatches, Subject};
use crate::host::keyfile::{
    Mark, Observed, Other, Refusal, Terms, Visit, Witness, own_mount, survey,
};
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
use crate::model::mounts::OwnMount;
use crate::model::past::outcome::{Did, FileOutcome, Outcome};
use crate::model::sshd::access::Loose;

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
    /// File systems that accounts answer for.
    pub own_mounts: Arc<Vec<OwnMount>>,
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
pub fn settle(orders: Arc<Orders>, tools: &Tools, abandoned: &AtomicBool) -> Outcome {
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
    if let Some(mount) = for_visit.own_mount(&tools.own_mounts) {
        outcome.managed = FileOutcome::of(Did::OnOwnMount(mount));
        return outcome;
    }
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
        let mut keeps = !order.ours && is_unknown(found);
        for _ in 0..ATTEMPTS {
            let abandoned = self.abandoned;
            let terms = Terms {
                wanted_still: &|| !abandoned.load(Ordering::Acquire),
                clear_obstacles: order.ours,
            };
            match self.visit.replace(wanted, terms, keeps) {
                Ok(unlocked) => differences.extend(unlocked.into_iter().map(Difference::Locked)),
                Err(refusal) => return refused(&refusal, true),
            }
            keeps = false;
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

/// Nobody could look into the file, or into its directory, so that no copy of it can be made.
fn is_unknown(found: &Found) -> bool {
    match found {
        Found::Nothing => true,
        Found::File(file) => file.content.is_none(),
        Found::Other(_) => false,
    }
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
