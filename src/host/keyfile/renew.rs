//! One level up: a new directory in the place of the file's own, where that one has no room or does not answer.
//!
//! A call of the account's that never returns can hold the lock of the file, or of its directory, for ever; whoever would
//! write there waits with it and cannot be ended. To rename the directory takes neither lock: only that of the home.

use std::fs::File;
use std::os::fd::AsFd;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat2, renameat, renameat2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use crate::host::Bounded;
use crate::host::keyfile::directories::{let_owner_in, make_directory};
use crate::host::keyfile::flags;
use crate::host::keyfile::held::{Entered, Held, READ_LIMIT, READING, beneath, enter, permissions};
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::label::Label;
use crate::host::keyfile::lease::Lease;
use crate::host::keyfile::names;
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::replace::{By, drop_temporary, write_new, writer};
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::visit::Visit;
use crate::host::keyfile::way::Step;
use crate::model::file::wanted::{Lines, Target};

/// A directory that was put aside, and the one that has its name now.
pub struct Aside {
    old: Held,
    new: Held,
    parent: Held,
    name: String,
}

/// Entries of the old directory that are looked at. An account that fills it loses what it has besides.
const MOVED_ENTRIES: usize = 1000;

/// What `ssh` itself has there, moved first.
const OF_SSH: [&str; 5] = ["config", "known_hosts", "known_hosts2", "environment", "rc"];

impl Visit<'_> {
    /// Makes a new directory with the file that is `wanted`, whole and on disk, and only then gives it the name of the old
    /// one. Asked last of all whether that is still wanted: a disk that is only slow has answered by then. On an error the
    /// old directory is still there.
    /// By root, the directory is root's, and its owner may only go through it.
    pub fn renew(&mut self, wanted: &Lines, terms: Terms<'_>, by: By) -> Result<Aside, Refusal> {
        let target = self.target;
        let leases = self.leases();
        let _label = Label::for_new_files(target.location.in_home);
        self.act()?;
        let way = &mut self.way;
        let Some((last, before)) = way.steps().split_last().filter(|_| target.location.in_home)
        else {
            return Err(Refusal::Contended(target.location.path.clone()));
        };
        way.is_fresh = false;
        way.start()?;
        for (depth, _) in before.iter().enumerate() {
            if !matches!(way.step(depth)?, Step::Directory) {
                return Err(Refusal::Contended(target.location.path.clone()));
            }
        }
        way.held.truncate(before.len() + 1);
        let Some(mut parent) = way.held.pop() else {
            return Err(Refusal::Contended(target.location.path.clone()));
        };
        let_owner_in(&mut parent, terms, target.account.uid, 0o700)?;
        terms.ask()?;
        let aside = names::aside(last)?;
        let mut new = make(&mut parent, &aside, target, by)?;
        let lease = match fill(&mut new, target, wanted, by, (terms, leases)) {
            Ok(lease) => lease,
            Err(refusal) => {
                discard(&parent, &aside, &new, target);
                return Err(refusal);
            }
        };
        let swapped = terms.ask().and_then(|()| {
            let _root = root_in(&parent, target)?;
            swap(&parent, &aside, last, target)
        });
        if let Err(refusal) = swapped {
            discard(&parent, &aside, &new, target);
            return Err(refusal);
        }
        let path = parent.path.clone();
        // Synced or not, sshd reads it from now on.
        self.has_name(lease);
        fsync(parent.readable()?).map_err(Refusal::io("sync", &path))?;
        let old = match enter(&parent, &aside, &target.account, &target.location)? {
            Entered::Directory(old) => old,
            // Whatever it was, it is no longer in the way.
            Entered::Missing | Entered::Locked(_) | Entered::Obstacle(_) => {
                return Err(Refusal::Contended(target.location.path.clone()));
            }
        };
        Ok(Aside {
            old,
            new,
            parent,
            name: aside,
        })
    }
}

/// In a home of root's only root makes and renames anything.
fn root_in(parent: &Held, target: &Target) -> Result<Option<Identity>, Refusal> {
    if parent.stat.st_uid == target.account.uid {
        Ok(None)
    } else {
        Ok(Some(Identity::own()?))
    }
}

/// A new directory.
fn make(parent: &mut Held, name: &str, target: &Target, by: By) -> Result<Held, Refusal> {
    if by == By::Root {
        return roots_directory(parent, name);
    }
    make_directory(parent, name, &target.account, true)?;
    match enter(parent, name, &target.account, &target.location)? {
        Entered::Directory(new) => Ok(new),
        _ => Err(Refusal::Contended(target.location.path.clone())),
    }
}

/// Puts the file into it.
fn fill(
    new: &mut Held,
    target: &Target,
    wanted: &Lines,
    by: By,
    (terms, leases): (Terms<'_>, bool),
) -> Result<Option<Lease>, Refusal> {
    let path = &target.location.path;
    let _identity = writer(new, target, by)?;
    let directory = new.readable()?;
    let (temporary, lease) = write_new(directory, target, wanted, terms, leases)?;
    let file = target.location.file.as_str();
    if let Err(source) = renameat(directory, temporary.as_str(), directory, file) {
        drop_temporary(directory, &temporary);
        return Err(Refusal::io("name the new", path)(source));
    }
    fsync(directory).map_err(Refusal::io("sync the directory of", path))?;
    Ok(lease)
}

/// A directory of root's, from its first moment on, that others can only go through.
fn roots_directory(parent: &Held, name: &str) -> Result<Held, Refusal> {
    let path = parent.path.join(name);
    let failed = |what| Refusal::io(what, &path);
    let _root = Identity::own()?;
    mkdirat(&parent.descriptor, name, Mode::S_IRWXU).map_err(failed("make"))?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let made = openat2(&parent.descriptor, name, beneath(flags)).map_err(failed("open"))?;
    let stat = fstat(&made).map_err(failed("look at"))?;
    // The account may have given the name to another one of root's by now: one in which there is something stays as it is.
    let listing = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries =
        Dir::openat(made.as_fd(), ".", listing, Mode::empty()).map_err(failed("list"))?;
    // Itself, and the one above it.
    let is_empty = entries.iter().nth(2).is_none();
    if stat.st_uid != 0 || permissions(&stat) & 0o777 != 0o700 || !is_empty {
        return Err(Refusal::Contended(path));
    }
    flags::drop_directory_lists(&made).map_err(failed("take the access lists off"))?;
    let through = Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH;
    fchmod(&made, through).map_err(failed("set the mode of"))?;
    Ok(Held::new(made, stat, path, false))
}

/// Exchanges the names, so that there is one at every moment.
fn swap(parent: &Held, aside: &str, name: &str, target: &Target) -> Result<(), Refusal> {
    let at = &parent.descriptor;
    let swapped = match renameat2(at, aside, at, name, RenameFlags::RENAME_EXCHANGE) {
        Err(Errno::ENOENT) => renameat(at, aside, at, name),
        swapped => swapped,
    };
    swapped.map_err(Refusal::io(
        "put aside the directory of",
        &target.location.path,
    ))
}

/// Takes away what was made for nothing; by what is held, as another directory may have the name by now.
fn discard(parent: &Held, name: &str, made: &Held, target: &Target) {
    if let Ok(_identity) = writer(made, target, By::Owner) {
        drop_temporary(&made.descriptor, &target.location.file);
    }
    let _ = unlinkat(&parent.descriptor, name, UnlinkatFlags::RemoveDir);
}

impl Aside {
    /// What stood in the file `name` of the old directory, as far as it is to be had at once.
    pub fn peek(&self, name: &str) -> Option<Bounded> {
        let opened = openat2(&self.old.descriptor, name, beneath(READING)).ok()?;
        let file = File::from(opened);
        let is_regular = file.metadata().ok()?.is_file();
        is_regular.then(|| Bounded::read_keys_at_once(&file, READ_LIMIT).ok())?
    }

    /// Moves over what the account has there besides, but for the names that sshd reads keys from. Waits, for ever perhaps,
    /// where the account holds the lock of the old directory: by then everything else is done.
    pub fn move_over(self, except: &[impl AsRef<str>]) {
        self.moved(except);
    }

    /// Does so, and returns the new directory.
    pub(super) fn moved(mut self, except: &[impl AsRef<str>]) -> Held {
        // The account cannot write to one of root's. What is moved are names in a directory of the account's.
        let _root = (self.new.stat.st_uid == 0).then(Identity::own);
        let names = self.names();
        for name in OF_SSH.into_iter().chain(names.iter().map(String::as_str)) {
            if except.iter().all(|except| except.as_ref() != name) {
                // One that is gone, or that has come anew, is no loss.
                let _ = renameat2(
                    &self.old.descriptor,
                    name,
                    &self.new.descriptor,
                    name,
                    RenameFlags::RENAME_NOREPLACE,
                );
            }
        }
        // Kept while anything is left in it.
        let _ = unlinkat(
            &self.parent.descriptor,
            self.name.as_str(),
            UnlinkatFlags::RemoveDir,
        );
        self.new
    }

    fn names(&mut self) -> Vec<String> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(directory) = self.old.readable() else {
            return Vec::new();
        };
        let Ok(mut entries) = Dir::openat(directory.as_fd(), ".", flags, Mode::empty()) else {
            return Vec::new();
        };
        let regular = entries
            .iter()
            .take(MOVED_ENTRIES)
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_none_or(|of| of != Type::Fifo));
        let names = regular.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| name != "." && name != "..").collect()
    }
}
