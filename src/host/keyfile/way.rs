//! From a home, or from `/`, to the directory of the file, one held descriptor at a time.

use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat, stat};

use crate::host::keyfile::held::{Entered, Held, enter, loose, start};
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::witness::inode;
use crate::model::account::Account;
use crate::model::file::wanted::Kind;
use crate::model::location::Location;

/// The way to one file, as far as it was walked.
pub(super) struct Way<'a> {
    pub(super) account: &'a Account,
    pub(super) location: &'a Location,
    /// The directory that it starts from, then those of [`Way::steps`].
    pub(super) held: Vec<Held>,
    /// The names led to what is held a moment ago, and this program has changed nothing since.
    pub(super) is_fresh: bool,
    /// A directory of root's that is locked may be the agent's own.
    pub(super) accepts_locked: bool,
}

/// What the next name in a directory is.
pub(super) enum Step {
    /// A directory, which is held now.
    Directory,
    Missing,
    Obstacle(Kind),
}

impl<'a> Way<'a> {
    pub(super) fn new(account: &'a Account, location: &'a Location) -> Self {
        Self {
            account,
            location,
            held: Vec::new(),
            is_fresh: false,
            accepts_locked: false,
        }
    }

    /// The directories that are entered one by one below the start: all those below a home; of a path from `/` the
    /// last one, which may have to be made.
    pub(super) fn steps(&self) -> &'a [String] {
        let all = &self.location.directories;
        if self.location.in_home {
            all
        } else {
            &all[all.len().saturating_sub(1)..]
        }
    }

    /// The directory of the file, once the way was walked to its end.
    pub(super) fn end(&mut self) -> Option<&mut Held> {
        let depth = self.steps().len();
        self.held.get_mut(depth)
    }

    /// Holds the directory to start from.
    pub(super) fn start(&mut self) -> Result<(), Refusal> {
        if !self.is_fresh && !self.starts_as_before() {
            self.held.clear();
            self.held.push(start(self.account, self.location)?);
        }
        Ok(())
    }

    /// Holds the directory of the step number `depth`, if it is one. Those before it must be held.
    pub(super) fn step(&mut self, depth: usize) -> Result<Step, Refusal> {
        let name = &self.steps()[depth];
        if self.held.len() > depth + 1 {
            if self.is_fresh || self.leads_as_before(depth, name) {
                return Ok(Step::Directory);
            }
            self.held.truncate(depth + 1);
        }
        match enter(&self.held[depth], name, self.account, self.location)? {
            Entered::Directory(held) => {
                self.held.push(held);
                Ok(Step::Directory)
            }
            Entered::Missing => Ok(Step::Missing),
            Entered::Locked(held) if self.accepts_locked => {
                self.held.push(held);
                Ok(Step::Directory)
            }
            Entered::Locked(held) => Ok(Step::Obstacle(Kind::DirectoryOf(held.stat.st_uid))),
            Entered::Obstacle(kind) => Ok(Step::Obstacle(kind)),
        }
    }

    /// Walks to the end; `false` when the file's directory is not there.
    pub(super) fn walk(&mut self) -> Result<bool, Refusal> {
        self.start()?;
        for depth in 0..self.steps().len() {
            if !matches!(self.step(depth)?, Step::Directory) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True when the home still is the directory that is held. A way that has to be root's from `/` on is walked anew
    /// instead: each directory of it counts.
    fn starts_as_before(&mut self) -> bool {
        let Some(held) = self.held.first_mut() else {
            return false;
        };
        if held.trusted || !self.location.in_home {
            return false;
        }
        let Some(now) = stat(&self.account.home)
            .ok()
            .filter(|now| is_same(held, now))
        else {
            return false;
        };
        held.loose = loose(&held.path, &now, self.account.uid);
        held.stat = now;
        true
    }

    /// True when the name still leads to the directory that is held for it: one that is held keeps its inode number.
    fn leads_as_before(&mut self, depth: usize, name: &str) -> bool {
        let [here, next] = &mut self.held[depth..depth + 2] else {
            return false;
        };
        match fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(now) if is_same(next, &now) => {
                next.stat = now;
                true
            }
            _ => false,
        }
    }
}

/// The same directory, with the same owner.
fn is_same(held: &Held, now: &FileStat) -> bool {
    inode(&held.stat) == inode(now) && held.stat.st_uid == now.st_uid
}
