//! Other files in a home that sshd reads for a managed account, such as `authorized_keys2`: drift like any other.
//!
//! They are taken away once the managed file is the account's file: then the list says who gets in, and what else is
//! there says otherwise. The first time a copy is kept, as of the managed file.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::agent::events;
use crate::agent::incidents::Found;
use crate::agent::pass::Enforcer;
use crate::agent::seen::{self, Marks};
use crate::agent::sshd::{self, Answer};
use crate::agent::work::{self, ATTEMPTS, Job, Outcome};
use crate::host::keyfile::{self, Mark, Other, Refusal, Target, Terms, Visit, Witness};
use crate::host::process;
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::Mode;
use crate::model::file::difference::{Difference, OtherFile, keys_in};
use crate::model::file::other_files::{DEFAULT, Others};
use crate::model::file::wanted::{Kind, Wanted};
use crate::model::inode::Inode;
use crate::model::location::Location;
use crate::model::past::incident::Undone;
use crate::model::status::schema::{self, AccountState, InFile};

/// What is to be done about the other files of one account.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
pub struct Work {
    files: Others,
    /// Those in the home are taken away.
    remove: bool,
    /// It is known which there are.
    is_known: bool,
    /// None was left before, so what is there now is somebody else's doing.
    alone: bool,
    /// Also look at those that are never taken away.
    pub(super) everywhere: bool,
}

/// What was found, and what came of it.
#[derive(Debug, Default)]
pub struct Seen {
    /// What was taken away or, in observe mode, would be; with the copy that was kept.
    taken: Vec<Taken>,
    /// What stays.
    left: Vec<schema::OtherFile>,
    /// Why one stays that should not.
    pub(super) refused: Option<String>,
    /// This host does what it takes to keep them away.
    guards: bool,
    /// Every one of them was looked for.
    is_whole: bool,
    /// They had been away before.
    drift: bool,
}

#[derive(Debug)]
struct Taken {
    other: OtherFile,
    /// Flags that were in the way.
    unlocked: Vec<Difference>,
    /// The copy that was kept.
    copy: Option<PathBuf>,
    evidence: seen::Seen,
}

/// Notes when what is looked at was last changed.
struct Noting<'a> {
    to: &'a mut dyn Witness,
    marks: Marks,
}

impl Witness for Noting<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, inode: Inode, name: &str) {
        self.to.directory(directory, inode, name);
    }

    fn file(&mut self, file: BorrowedFd<'_>, inode: Inode) {
        self.to.file(file, inode);
    }

    fn changed(&mut self, mark: Mark) {
        self.marks.add(mark);
    }
}

/// Looks, and gives the marks too.
fn look(
    visit: &mut Visit<'_>,
    location: &Location,
    witness: &mut dyn Witness,
) -> (Result<Option<Other>, Refusal>, Marks) {
    let mut noting = Noting {
        to: witness,
        marks: Marks::default(),
    };
    (visit.look_at_other(location, &mut noting), noting.marks)
}

/// Looks at the other files of the account, and takes away what is to go. `outcome` is that of the managed file. Blocks.
pub(super) fn settle(
    job: &Job,
    visit: &mut Visit<'_>,
    outcome: &Outcome,
    witness: &mut dyn Witness,
    wanted_still: &dyn Fn() -> bool,
) -> Seen {
    let Work {
        files,
        remove,
        is_known,
        alone,
        everywhere,
    } = &job.others;
    let in_line = matches!(outcome, Outcome::InSync | Outcome::Replaced { .. });
    let observed = job.mode == Mode::Observe;
    // A managed file that cannot be written now, such as on a full disk, leaves no other one open.
    let guards = *remove && (in_line || job.adopted) && !observed;
    let mut seen = Seen {
        guards,
        is_whole: *is_known,
        drift: *alone,
        ..Seen::default()
    };
    for location in &files.in_home {
        let (found, marks) = look(visit, location, witness);
        let found = match found {
            Ok(None) => continue,
            Ok(Some(found)) => found,
            Err(refusal) => {
                // A home that cannot be worked in is the managed file's trouble already.
                if *remove && !matches!(outcome, Outcome::Refused { .. }) {
                    seen.refuse(&location.path, None, &refusal);
                }
                continue;
            }
        };
        if found.of_root || !(guards || *remove && observed) {
            let content = found.content.unwrap_or_default();
            seen.left.push(schema::OtherFile::new(
                &location.path,
                InFile::read(&content),
            ));
        } else if observed {
            let other = named(location, &found);
            let evidence = seen::Seen::beside(found.content, &marks, None);
            seen.taken.push(Taken {
                other,
                unlocked: Vec::new(),
                copy: None,
                evidence,
            });
        } else {
            clear(
                job,
                visit,
                location,
                (found, marks),
                witness,
                wanted_still,
                &mut seen,
            );
        }
    }
    if *everywhere {
        for path in &files.elsewhere {
            match keyfile::survey(&job.target.account, path) {
                Ok(content) => {
                    let found = content
                        .map(|content| InFile::read(&content))
                        .filter(|found| !found.is_idle());
                    seen.left
                        .extend(found.map(|found| schema::OtherFile::new(path, found)));
                }
                Err(refusal @ Refusal::Io { .. }) => {
                    seen.left.push(schema::OtherFile::new(
                        path,
                        InFile::unread(refusal.explained()),
                    ));
                }
                // Who may not look at the managed file either is told so.
                Err(_) => {}
            }
        }
    }
    seen
}

/// Until it is gone. Somebody who puts it back faster than that is found by the next event.
fn clear(
    job: &Job,
    visit: &mut Visit<'_>,
    location: &Location,
    found: (Other, Marks),
    witness: &mut dyn Witness,
    wanted_still: &dyn Fn() -> bool,
    seen: &mut Seen,
) {
    let alone = job.others.alone;
    let terms = Terms {
        wanted_still,
        clear_obstacles: alone,
    };
    let mut next = Some(found);
    for _ in 0..ATTEMPTS {
        let Some((found, marks)) = next else { return };
        let copy = keep(job, visit, location, &found);
        // A file that was there first is not lost for want of a copy; what somebody planted since does not stay for it.
        let copy = match copy {
            Ok(copy) => copy,
            Err(_) if alone => None,
            Err(reason) => return seen.refuse_for(&location.path, Some(&found), &reason),
        };
        let aside = !alone && found.kind == Kind::File && !(found.whole && copy.is_some());
        let unlocked = match visit.remove_other(location, terms, aside) {
            Ok(unlocked) => unlocked.into_iter().map(Difference::Locked).collect(),
            Err(refusal) => return seen.refuse(&location.path, Some(&found), &refusal),
        };
        let other = named(location, &found);
        let (now, after) = look(visit, location, witness);
        if seen.taken.iter().all(|known| known.other != other) {
            let evidence = seen::Seen::beside(found.content, &marks, Some(&after));
            seen.taken.push(Taken {
                other,
                unlocked,
                copy,
                evidence,
            });
        }
        next = match now {
            Ok(next) => next.map(|next| (next, after)),
            Err(refusal) => return seen.refuse(&location.path, None, &refusal),
        };
    }
    if let Some((found, _)) = next {
        let path = &location.path;
        seen.refuse(path, Some(&found), &Refusal::Contended(path.clone()));
    }
}

/// Keeps a copy of what is about to be taken away; `None` when there is nothing to keep, or enough of it is kept.
fn keep(
    job: &Job,
    visit: &Visit<'_>,
    location: &Location,
    found: &Other,
) -> Result<Option<PathBuf>, String> {
    let content = found
        .content
        .as_deref()
        .filter(|content| !content.is_empty());
    let Some(content) = content else {
        return Ok(None);
    };
    let name = format!("{}.{}", job.target.account.name, location.file);
    visit
        .as_self(|| work::keep_copy(&job.backups, &name, content))
        .map_err(|refusal| refusal.explained())
        .flatten()
}

fn named(location: &Location, found: &Other) -> OtherFile {
    let (keys, unclear) = found.content.as_deref().map(keys_in).unwrap_or_default();
    OtherFile {
        path: location.path.clone(),
        kind: found.kind,
        keys,
        unclear,
    }
}

impl Seen {
    fn refuse(&mut self, path: &Path, found: Option<&Other>, refusal: &Refusal) {
        self.refuse_for(path, found, &refusal.explained());
    }

    fn refuse_for(&mut self, path: &Path, found: Option<&Other>, reason: &str) {
        let content = found
            .and_then(|found| found.content.as_deref())
            .unwrap_or_default();
        let found = InFile {
            error: Some(reason.to_owned()),
            ..InFile::read(content)
        };
        let file = schema::OtherFile::new(path, found);
        self.refused.get_or_insert(format!(
            "sshd also reads `{}`, which is not taken away: {reason}",
            file.file
        ));
        self.left.push(file);
    }

    /// For `status`: what enforcing would take away at this moment, what stays, and why it should not.
    pub fn describe(self) -> (Vec<Difference>, Vec<schema::OtherFile>, Option<String>) {
        (self.differences(), self.left, self.refused)
    }

    /// Everything that is gone, or would be.
    fn differences(&self) -> Vec<Difference> {
        self.taken.iter().flat_map(Taken::differences).collect()
    }

    /// What was taken down of each.
    pub(super) fn evidence(&mut self) -> impl Iterator<Item = &mut seen::Seen> {
        self.taken.iter_mut().map(|taken| &mut taken.evidence)
    }
}

impl Taken {
    fn differences(&self) -> Vec<Difference> {
        let other = Difference::OtherFile(self.other.clone());
        [other]
            .into_iter()
            .chain(self.unlocked.iter().cloned())
            .collect()
    }
}

impl Enforcer {
    /// What is to be done about the other files of `target`.
    pub(super) fn others(&self, target: &Target, listed: bool) -> Work {
        let name = &target.account.name;
        let known = self.enforced.sshd_reads(name);
        // Soon it will run, and read what it reads unless told otherwise.
        let entries = known
            .or(self.sshd.is_mute.then_some(DEFAULT))
            .unwrap_or_default();
        let in_force = listed && self.enforced.list.is_some();
        Work {
            files: Others::of(entries, &target.account, &target.location.path),
            remove: in_force
                && (known.is_some() || self.sshd.is_mute)
                && self.config.accounts.removes_other_files(),
            is_known: !entries.is_empty(),
            alone: self
                .enforced
                .accounts
                .get(name)
                .is_some_and(|account| account.alone),
            everywhere: false,
        }
    }

    /// The other files by which nobody gets in, since they are taken away when they come.
    pub(super) fn guarded(
        &self,
        account: &Account,
        managed: &Path,
        left: &[schema::OtherFile],
    ) -> Vec<PathBuf> {
        let known = self.enforced.accounts.get(&account.name);
        let guards = self.config.mode == Mode::Enforce
            && self.config.accounts.removes_other_files()
            && known.is_some_and(|account| account.alone);
        if !guards {
            return Vec::new();
        }
        // What is looked for, whatever sshd has begun to read since.
        let entries = self.enforced.sshd_reads(&account.name).unwrap_or_default();
        let all = Others::of(entries, account, managed)
            .in_home
            .into_iter()
            .map(|location| location.path);
        all.filter(|path| {
            left.iter()
                .all(|left| left.file != path.display().to_string())
        })
        .collect()
    }

    /// True where an account is refused for the sake of one of its other files, which should not be there, and not for its
    /// own.
    pub(super) fn is_in_the_way(
        &self,
        account: &Account,
        managed: &Path,
        others: &[schema::OtherFile],
    ) -> bool {
        let entries = self.enforced.sshd_reads(&account.name).unwrap_or_default();
        let in_home = Others::of(entries, account, managed).in_home;
        let is_there = |file: &str| {
            in_home
                .iter()
                .any(|location| location.path.display().to_string() == file)
        };
        others
            .iter()
            .any(|other| other.found.error.is_some() && is_there(&other.file))
    }

    /// Takes what was seen into the status; gives what was taken away or, in observe mode, would be.
    pub(super) fn record_others(
        &mut self,
        name: &AccountName,
        seen: Seen,
        wanted: &Wanted,
        now: Timestamp,
    ) -> Vec<Difference> {
        let differences = seen.differences();
        let Seen {
            taken,
            left,
            refused,
            guards,
            is_whole,
            drift,
        } = seen;
        let Some(row) = self.status.accounts.get_mut(name) else {
            return differences;
        };
        let before = (
            row.state,
            std::mem::replace(&mut row.other_files, left.clone()),
        );
        if let Some(reason) = refused.filter(|_| row.state == AccountState::InSync) {
            (row.state, row.reason) = (AccountState::Refused, Some(reason));
        } else if !guards && !differences.is_empty() {
            let also = events::changes(&differences).join(", ");
            let known = row
                .reason
                .take()
                .filter(|_| row.state == AccountState::Drifted);
            row.reason = Some(known.map_or(also.clone(), |known| format!("{known}, {also}")));
            if row.state == AccountState::InSync {
                row.state = AccountState::Drifted;
            }
        }
        if guards && !taken.is_empty() {
            row.changed_at = Some(now);
        }
        let state = row.state;
        let news: Vec<_> = left
            .iter()
            .filter(|other| !before.1.contains(other))
            .collect();
        for other in news.into_iter().filter(|_| self.publishing) {
            match &other.found.error {
                Some(reason) => events::refused(name, &format!("`{}`: {reason}", other.file)),
                None => events::other_file(name, other),
            }
        }
        let mut changed = before != (state, left.clone());
        let removes = self.config.accounts.removes_other_files();
        if let Some(account) = self.enforced.accounts.get_mut(name)
            && self.config.mode == Mode::Enforce
        {
            // Once none was left, one that cannot be taken away now is still somebody else's doing.
            let alone = removes && (account.alone || guards && is_whole && left.is_empty());
            if account.alone != alone {
                account.alone = alone;
                (changed, self.unsaved) = (true, true);
            }
        }
        if changed {
            let access = self.judge_one(name, state, &left);
            if let Some(row) = self.status.accounts.get_mut(name) {
                row.access = access;
            }
        }
        if !guards && !self.is_news(name, &differences) {
            return differences;
        }
        // What of the managed file could not be undone yet is another matter.
        let standing = self.standing.remove(name);
        for (number, taken) in (1..).zip(taken) {
            // The managed file, and each other one, may have an incident of the same moment.
            self.say_taken(
                name,
                taken,
                wanted,
                (guards, drift),
                now + SignedDuration::from_micros(number),
            );
        }
        self.standing
            .extend(standing.map(|since| (name.clone(), since)));
        if guards && drift {
            self.name_rival(name);
        }
        differences
    }

    /// True when this was not said of the account in observe mode.
    fn is_news(&mut self, name: &AccountName, differences: &[Difference]) -> bool {
        let seen = events::changes(differences).join(", ");
        let observed = &mut self.sshd.observed;
        if seen.is_empty() {
            observed.remove(name);
            return false;
        }
        self.publishing && observed.insert(name.clone(), seen.clone()) != Some(seen)
    }

    fn say_taken(
        &mut self,
        name: &AccountName,
        taken: Taken,
        wanted: &Wanted,
        (guards, drift): (bool, bool),
        now: Timestamp,
    ) {
        let differences = taken.differences();
        let Taken {
            other,
            copy,
            evidence: seen,
            ..
        } = taken;
        let (file, undone) = (
            &other.path,
            if guards {
                Undone::Removed
            } else {
                Undone::SeenOnly
            },
        );
        let found = Found {
            account: name,
            file,
            differences: &differences,
            wanted,
            seen,
            undone,
        };
        let recorded = drift.then(|| self.incident(found, now));
        match recorded {
            Some(recorded) if guards => {
                events::repaired(name, file, &differences, &recorded);
                self.drifted(name, &differences, now);
            }
            recorded if !guards => events::differs(name, file, &differences, recorded.as_ref()),
            _ => {
                for key in copy.iter().flat_map(|_| &other.keys) {
                    events::first_run(
                        name,
                        file,
                        &key.fingerprint,
                        copy.as_deref().unwrap_or(file),
                    );
                }
                events::applied(name, file, &differences);
            }
        }
    }

    /// Takes what sshd says that it reads.
    pub(super) fn learn_files(&mut self, answer: &Answer) {
        let is_silent = answer.error.is_some();
        // Where its configuration names files, its own default would be the wrong ones to take away.
        self.sshd.is_mute = is_silent && answer.path.is_some() && !answer.names_files;
        if is_silent {
            self.sshd.reads_anew |= self.sshd.is_mute && self.enforced.sshd_reads.is_none();
            return;
        }
        if self
            .enforced
            .learn(answer.reads(None), |name| answer.reads(Some(name)))
        {
            self.sshd.reads_anew = true;
            self.unsaved = true;
        }
    }

    /// Asks sshd what it reads, and waits for it: there will be no later pass to take the answer.
    pub(super) async fn consult_sshd(&mut self) {
        let people = self.people();
        if people.is_empty() || !process::is_root() {
            return;
        }
        if let Some(answer) = sshd::ask_within_patience(people, Vec::new()).await {
            self.learn_files(&answer);
            self.sshd.reads_anew = false;
        }
    }

    /// `only` these accounts, or all of them where sshd reads other files than it did; everything where it is another sshd.
    pub(super) fn widen(
        &mut self,
        only: Option<BTreeSet<AccountName>>,
    ) -> Option<BTreeSet<AccountName>> {
        let only = only.filter(|_| !self.is_version_anew());
        let anew = std::mem::take(&mut self.sshd.reads_anew);
        only.map(|mut only| {
            only.extend(
                self.enforced
                    .managed()
                    .filter(|_| anew)
                    .map(|(name, _)| name.clone()),
            );
            only
        })
    }
}
