//! Removing another file in the home that sshd would read keys from.
//!
//! What is removed is a name in a directory of the account's own, with the account's rights, on a descriptor that is held:
//! whatever the account put there meanwhile, it loses a name that it could have removed itself.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat2, renameat, renameat2};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use crate::host::keyfile::directories::{clear, let_owner_in, tidy};
use crate::host::keyfile::flags::{self, unlock, unlock_file};
use crate::host::keyfile::held::{Held, beneath, kind, permissions};
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::names;
use crate::host::keyfile::other::is_of_root;
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::visit::Visit;
use crate::host::keyfile::way::{Step, Way};
use crate::host::keyfile::witness::inode;
use crate::model::account::Account;
use crate::model::file::difference::Lock;
use crate::model::file::wanted::Kind;
use crate::model::location::Location;

impl Visit<'_> {
    /// Removes the file, or what leads to it, never what a link leads to; returns what was unlocked for that. With `aside` a
    /// file is not lost but gets another name beside. The managed file is never removed. On an error the other file may
    /// still be there; after one from the last `fsync` it is gone, and may be back after a power cut.
    pub fn remove_other(
        &mut self,
        other: &Location,
        terms: Terms<'_>,
        aside: bool,
    ) -> Result<Vec<Lock>, Refusal> {
        self.act()?;
        let target = self.target;
        let managed = &target.location.file;
        if !self.shares_way(other) {
            let managed = if self.way.walk()? {
                self.way.end().and_then(|here| entry(here, managed))
            } else {
                None
            };
            let mut way = Way::new(&target.account, other);
            return remove(&mut way, other, |_| managed, terms, aside);
        }
        let removed = remove(
            &mut self.way,
            other,
            |here| entry(here, managed),
            terms,
            aside,
        );
        self.way.is_fresh = false;
        removed
    }
}

impl Visit<'_> {
    /// Takes the managed file away, to be written over under a name that sshd does not read: a full disk has no room for
    /// another one. Nobody gets in until then.
    pub fn cut(&mut self, terms: Terms<'_>) -> Result<(), Refusal> {
        self.act()?;
        // Or this process would wait for itself, and the blocks of the file before would not be free.
        self.let_go();
        let (location, account) = (&self.target.location, &self.target.account);
        let (name, path) = (location.file.as_str(), &location.path);
        self.way.is_fresh = false;
        if !self.way.walk()? {
            return Ok(());
        }
        let Some(here) = self.way.end().filter(|here| !is_of_root(here, account)) else {
            return Err(Refusal::Contended(path.clone()));
        };
        terms.ask()?;
        // As root: the account may have taken its own right away.
        let root = Identity::own()?;
        let writing = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = openat2(&here.descriptor, name, beneath(writing)).ok();
        drop(root);
        let spare = names::temporary(name)?;
        let mut taken = renameat(&here.descriptor, name, &here.descriptor, spare.as_str());
        if taken.is_err() {
            taken = unlinkat(&here.descriptor, name, UnlinkatFlags::NoRemoveDir);
        } else {
            // What has other names is not written over.
            let named = entry(here, &spare).filter(|named| named.st_nlink == 1);
            let is_named = |stat: FileStat| named.is_some_and(|it| inode(&it) == inode(&stat));
            match file.map(File::from) {
                Some(file) if fstat(&file).is_ok_and(is_named) => self.spare = Some((spare, file)),
                _ => taken = unlinkat(&here.descriptor, spare.as_str(), UnlinkatFlags::NoRemoveDir),
            }
        }
        match taken {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(source) => Err(Refusal::io("take away", path)(source)),
        }
    }
}

/// What is at a name, if something is.
fn entry(here: &Held, name: &str) -> Option<FileStat> {
    fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

/// `managed` says what is at the name of the managed file, in the directory of the other one if they share it.
fn remove(
    way: &mut Way<'_>,
    other: &Location,
    managed: impl FnOnce(&Held) -> Option<FileStat>,
    terms: Terms<'_>,
    aside: bool,
) -> Result<Vec<Lock>, Refusal> {
    let mut unlocked = Vec::new();
    let account = way.account;
    way.start()?;
    for (depth, name) in way.steps().iter().enumerate() {
        match way.step(depth)? {
            Step::Directory => {}
            Step::Obstacle(kind @ (Kind::Symlink | Kind::DirectoryOf(_))) => {
                let here = &mut way.held[depth];
                let path = here.path.join(name);
                // What was there before is the account's own doing, and more may hang on it than keys.
                if is_of_root(here, account) || !terms.clear_obstacles {
                    return Err(Refusal::Obstacle { path, kind });
                }
                terms.ask()?;
                let_owner_in(here, terms, account.uid, 0o700)?;
                clear(&here.descriptor, name, kind, &path, terms)?;
                fsync(here.readable()?).map_err(Refusal::io("sync the directory of", &path))?;
                return Ok(unlocked);
            }
            Step::Missing | Step::Obstacle(_) => return Ok(unlocked),
        }
        let here = &mut way.held[depth + 1];
        if permissions(&here.stat) & 0o700 != 0o700 && !is_of_root(here, account) {
            tidy(here, terms, &mut unlocked)?;
        }
    }
    let Some(here) = way.end() else {
        return Ok(unlocked);
    };
    if is_of_root(here, account) {
        return Err(Refusal::Obstacle {
            path: here.path.clone(),
            kind: Kind::DirectoryOf(here.stat.st_uid),
        });
    }
    let_owner_in(here, terms, account.uid, 0o700)?;
    let directory = here.path.clone();
    let opened = here.readable()?;
    if flags::is_locked(opened) {
        unlock(opened, &directory, terms)?;
        unlocked.push(Lock::Directory);
    }
    let (name, path) = (other.file.as_str(), &other.path);
    let stat = match fstatat(opened, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(unlocked),
        Err(source) => {
            return Err(Refusal::Io {
                what: "look at",
                path: path.clone(),
                source,
            });
        }
    };
    if !matches!(kind(&stat), Kind::File | Kind::Symlink) {
        // It has just become something that sshd does not read.
        return Ok(unlocked);
    }
    if managed(here).is_some_and(|managed| inode(&managed) == inode(&stat)) {
        // One file with two names was the managed one's trouble a moment ago; one name in two spellings is no other file.
        return if stat.st_nlink == 1 {
            Ok(unlocked)
        } else {
            Err(Refusal::Contended(path.clone()))
        };
    }
    terms.ask()?;
    let opened = here.readable()?;
    take(opened, account, other, terms, aside, &mut unlocked)?;
    fsync(opened).map_err(Refusal::io("sync the directory of", path))?;
    Ok(unlocked)
}

/// Removes the name, or changes it; a flag that locks the file is cleared for that.
fn take(
    directory: &OwnedFd,
    account: &Account,
    other: &Location,
    terms: Terms<'_>,
    aside: bool,
    unlocked: &mut Vec<Lock>,
) -> Result<(), Refusal> {
    let (name, path) = (other.file.as_str(), &other.path);
    let aside = if aside {
        Some(names::aside(name)?)
    } else {
        None
    };
    let mut taken = unname(directory, name, aside.as_deref());
    if taken == Err(Errno::EPERM) {
        unlock_file(directory, account, other, terms)?;
        unlocked.push(Lock::File);
        taken = unname(directory, name, aside.as_deref());
    }
    match taken {
        // Gone already, or a directory: the next look sees what the account did.
        Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => Ok(()),
        Err(Errno::EBUSY | Errno::EXDEV) => Err(Refusal::Mounted(path.clone())),
        Err(Errno::EPERM) => Err(Refusal::Locked(path.clone())),
        Err(source) => Err(Refusal::Io {
            what: "remove",
            path: path.clone(),
            source,
        }),
    }
}

fn unname(directory: &OwnedFd, name: &str, aside: Option<&str>) -> nix::Result<()> {
    match aside {
        Some(aside) => renameat2(
            directory,
            name,
            directory,
            aside,
            RenameFlags::RENAME_NOREPLACE,
        ),
        None => unlinkat(directory, name, UnlinkatFlags::NoRemoveDir),
    }
}
