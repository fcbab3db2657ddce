//! Looking at another file in the home that sshd would read keys from.
//!
//! sshd reads it as the account, follows links, and takes nothing but a regular file (`auth2-pubkeyfile.c:
//! auth_openfile`).

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, openat2};
use nix::sys::stat::{fstat, fstatat};

use crate::host::Bounded;
use crate::host::keyfile::held::{Held, READ_LIMIT, READING, beneath, kind, permissions};
use crate::host::keyfile::lease::{Lease, NoLease};
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::survey::survey;
use crate::host::keyfile::visit::Visit;
use crate::host::keyfile::way::{Step, Way};
use crate::host::keyfile::witness::{Marked, Witness, inode, mark};
use crate::model::account::Account;
use crate::model::file::other_files::holds_nothing;
use crate::model::file::wanted::Kind;
use crate::model::location::Location;

/// Another file that lets the account in, or may at any moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// A file or a symbolic link at its name, or something on the way to it.
    pub kind: Kind,
    /// What sshd would read; `None` where the account can read nothing there.
    pub content: Option<Vec<u8>>,
    /// That is all of it.
    pub whole: bool,
    /// The directory is root's, so only root can have put it there.
    pub of_root: bool,
}

impl Visit<'_> {
    /// Looks at another file as its account sees it. `None` where there is nothing that sshd would read: no file, one of
    /// comments, a directory, a FIFO. What `guards` keeps away may not be written to unseen either: through a mapping a key
    /// stands there without an event.
    pub fn look_at_other(
        &mut self,
        other: &Location,
        guards: bool,
        witness: &mut dyn Witness,
    ) -> Result<Option<Other>, Refusal> {
        self.act()?;
        let account = &self.target.account;
        let (shares, leases) = (self.shares_way(other), guards && self.leases_others());
        let leases = leases.then_some(&mut self.beside);
        if shares {
            look(&mut self.way, other, leases, witness)
        } else {
            look(&mut Way::new(account, other), other, leases, witness)
        }
    }

    /// True where the other file is in the directory of the managed one.
    pub(super) fn shares_way(&self, other: &Location) -> bool {
        let managed = &self.target.location;
        (managed.in_home, &managed.directories) == (other.in_home, &other.directories)
    }
}

fn look(
    way: &mut Way<'_>,
    other: &Location,
    leases: Option<&mut Vec<Lease>>,
    witness: &mut dyn Witness,
) -> Result<Option<Other>, Refusal> {
    let account = way.account;
    way.start()?;
    for (depth, name) in way.steps().iter().enumerate() {
        let here = &way.held[depth];
        witness.directory(here.descriptor.as_fd(), inode(&here.stat), name);
        let of_root = is_of_root(here, account);
        match way.step(depth) {
            Ok(Step::Directory) => {}
            Ok(Step::Obstacle(kind @ (Kind::Symlink | Kind::DirectoryOf(_)))) => {
                let found = behind(account, other, kind, of_root)?;
                if found.content.is_none() && found.whole {
                    // What leads to nothing may be of use.
                    return Ok(None);
                }
                return Ok(Some(found));
            }
            Ok(Step::Missing | Step::Obstacle(_)) => return Ok(None),
            // Where the account cannot go, sshd cannot either.
            Err(Refusal::Io {
                source: Errno::EACCES,
                ..
            }) if !lets_a_group_in(&way.held[depth]) => return Ok(None),
            Err(refusal @ Refusal::Mounted(_)) => return mounted(account, other, refusal),
            Err(refusal) => return Err(refusal),
        }
    }
    way.is_fresh = true;
    let Some(here) = way.end() else {
        return Ok(None);
    };
    witness.directory(here.descriptor.as_fd(), inode(&here.stat), &other.file);
    witness.changed(mark(Marked::Directory, &here.stat));
    look_at_file(here, account, other, leases, witness)
}

/// sshd has all groups of the account, and this program only the first one.
fn lets_a_group_in(here: &Held) -> bool {
    permissions(&here.stat) & 0o010 != 0
}

/// What is at the file's name, in a directory that is held.
fn look_at_file(
    here: &Held,
    account: &Account,
    other: &Location,
    leases: Option<&mut Vec<Lease>>,
    witness: &mut dyn Witness,
) -> Result<Option<Other>, Refusal> {
    let (name, path) = (other.file.as_str(), &other.path);
    let of_root = is_of_root(here, account);
    let unreadable = Other {
        kind: Kind::File,
        content: None,
        whole: false,
        of_root,
    };
    let stat = match fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EACCES) if !lets_a_group_in(here) => return Ok(None),
        Err(source) => {
            return Err(Refusal::Io {
                what: "look at",
                path: path.clone(),
                source,
            });
        }
    };
    witness.changed(mark(Marked::File, &stat));
    match kind(&stat) {
        Kind::File => {}
        // What it leads to can change without an event.
        Kind::Symlink => return behind(account, other, Kind::Symlink, of_root).map(Some),
        _ => return Ok(None),
    }
    let file = match openat2(&here.descriptor, name, beneath(READING)) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EXDEV) => return mounted(account, other, Refusal::Mounted(path.clone())),
        Err(Errno::EACCES | Errno::EWOULDBLOCK | Errno::ELOOP | Errno::ENXIO) => {
            return Ok(Some(unreadable));
        }
        Err(source) => {
            return Err(Refusal::Io {
                what: "open",
                path: path.clone(),
                source,
            });
        }
    };
    let stat = fstat(&file).map_err(Refusal::io("look at", path))?;
    if kind(&stat) != Kind::File {
        return Ok(None);
    }
    if stat.st_nlink == 1 {
        witness.file(file.as_fd(), inode(&stat));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    // Before it is read, or it could be written to after that.
    let taken = match &leases {
        Some(_) => Lease::take(file, inode(&stat)),
        None => Err((NoLease::Unsupported, file)),
    };
    let (read, lease) = match taken {
        Ok(lease) => (
            Bounded::read_keys(lease.file(), READ_LIMIT, size),
            Some(lease),
        ),
        Err((NoLease::Unsupported, file)) => (Bounded::read_keys(&file, READ_LIMIT, size), None),
        // The writer may hold the file's lock for ever.
        Err((NoLease::Busy, file)) => {
            let Ok(read) = Bounded::read_keys_at_once(&file, READ_LIMIT) else {
                return Ok(Some(unreadable));
            };
            return Ok(Some(Other {
                content: Some(read.bytes),
                whole: read.is_whole && !read.is_boiled,
                ..unreadable
            }));
        }
    };
    let Ok(read) = read else {
        return Ok(Some(unreadable));
    };
    // Through another name it would be written to without an event.
    if read.is_whole && stat.st_nlink == 1 && holds_nothing(&read.bytes) {
        if let (Some(leases), Some(lease)) = (leases, lease) {
            leases.push(lease);
        }
        return Ok(None);
    }
    Ok(Some(Other {
        content: Some(read.bytes),
        whole: read.is_whole && !read.is_boiled,
        ..unreadable
    }))
}

/// What sshd would read through something that is no directory or file of the account. It may reach further than is seen
/// from here.
fn behind(
    account: &Account,
    other: &Location,
    kind: Kind,
    of_root: bool,
) -> Result<Other, Refusal> {
    let (content, whole) = match survey(account, &other.path) {
        Err(Refusal::Io { .. }) => (None, false),
        read => (read?.filter(|content| !holds_nothing(content)), true),
    };
    Ok(Other {
        kind,
        content,
        whole,
        of_root,
    })
}

/// Only root can take a mount away; one that holds no keys may stay.
fn mounted(
    account: &Account,
    other: &Location,
    refusal: Refusal,
) -> Result<Option<Other>, Refusal> {
    match survey(account, &other.path) {
        Ok(content) if content.as_deref().is_none_or(holds_nothing) => Ok(None),
        _ => Err(refusal),
    }
}

pub(super) fn is_of_root(here: &Held, account: &Account) -> bool {
    here.stat.st_uid != account.uid
}
