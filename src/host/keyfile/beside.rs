//! Another file in the home that sshd would read keys from: looked at, and taken away.
//!
//! sshd reads it as the account, follows links, and takes nothing but a regular file (`auth2-pubkeyfile.c:
//! auth_openfile`). Taken away is a name in a directory of the account's own, with the account's rights, on a descriptor
//! that is held: whatever the account put there meanwhile, it loses a name that it could have removed itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat2, renameat2};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::replace::{
    clear, random_hex, reopen, still_wanted, tidy, unlock, unlock_file,
};
use crate::host::keyfile::resolve::{
    Held, Step, beneath, enter, inode, kind, mark, permissions, start, steps,
};
use crate::host::keyfile::survey::survey;
use crate::host::keyfile::{Marked, READ_LIMIT, Refusal, Target, Terms, Witness, flags};
use crate::model::file::difference::Lock;
use crate::model::file::other_files::holds_nothing;
use crate::model::file::wanted::Kind;

/// What stands there and lets somebody in, or may at any moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// A file or a symbolic link at its name, or something on the way to it.
    pub kind: Kind,
    /// What sshd would read; `None` where the account can read nothing there.
    pub content: Option<Vec<u8>>,
    /// That is all of it.
    pub whole: bool,
    /// The directory is root's, so only root can have put it there.
    pub of_root: bool,
}

/// Looks at the file as its account sees it. `None` where there is nothing that sshd would read: no file, one of comments,
/// a directory, a FIFO.
pub fn look_beside(target: &Target, witness: &mut dyn Witness) -> Result<Option<Beside>, Refusal> {
    let _identity = Identity::of(target.account.uid, target.account.gid)?;
    let mut here = start(target)?;
    for name in steps(target) {
        witness.directory(here.descriptor.as_fd(), inode(&here.stat), name);
        let of_root = is_of_root(&here, target);
        here = match enter(&here, name, target) {
            Ok(Step::Directory(held)) => held,
            Ok(Step::Obstacle(kind @ (Kind::Symlink | Kind::DirectoryOf(_)))) => {
                let beside = behind(target, kind, of_root)?;
                // What leads to nothing may be of use.
                return Ok(Some(beside).filter(|beside| beside.content.is_some() || !beside.whole));
            }
            // Where the account cannot go, sshd cannot either.
            Ok(Step::Missing | Step::Obstacle(_))
            | Err(Refusal::Io {
                source: Errno::EACCES,
                ..
            }) => {
                return Ok(None);
            }
            Err(refusal @ Refusal::Mounted(_)) => return mounted(target, refusal),
            Err(refusal) => return Err(refusal),
        };
    }
    witness.directory(
        here.descriptor.as_fd(),
        inode(&here.stat),
        &target.location.file,
    );
    witness.changed(mark(Marked::Directory, &here.stat));
    look(&here, target, witness)
}

/// What stands at the name, in a directory that is held.
fn look(
    here: &Held,
    target: &Target,
    witness: &mut dyn Witness,
) -> Result<Option<Beside>, Refusal> {
    let (name, path) = (target.location.file.as_str(), &target.location.path);
    let of_root = is_of_root(here, target);
    let unreadable = Beside {
        kind: Kind::File,
        content: None,
        whole: false,
        of_root,
    };
    let stat = match fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT | Errno::EACCES) => return Ok(None),
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
        // What it leads to can change without anybody being told.
        Kind::Symlink => return behind(target, Kind::Symlink, of_root).map(Some),
        _ => return Ok(None),
    }
    // Not blocking, or a FIFO put here since, or a lease on the file, would hold us.
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = match openat2(&here.descriptor, name, beneath(flags)) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EXDEV) => return mounted(target, Refusal::Mounted(path.clone())),
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
    let mut content = Vec::new();
    if file.take(READ_LIMIT).read_to_end(&mut content).is_err() {
        return Ok(Some(unreadable));
    }
    let whole = u64::try_from(content.len()).is_ok_and(|length| length < READ_LIMIT);
    // Through another name it would be written to without anybody being told.
    let harmless = whole && stat.st_nlink == 1 && holds_nothing(&content);
    Ok((!harmless).then_some(Beside {
        content: Some(content),
        whole,
        ..unreadable
    }))
}

/// What sshd would read through something that is no directory or file of the account. It may reach further than is seen
/// from here.
fn behind(target: &Target, kind: Kind, of_root: bool) -> Result<Beside, Refusal> {
    let (content, whole) = match survey(&target.account, &target.location.path) {
        Err(Refusal::Io { .. }) => (None, false),
        read => (read?.filter(|content| !holds_nothing(content)), true),
    };
    Ok(Beside {
        kind,
        content,
        whole,
        of_root,
    })
}

/// A mount can be taken away by root alone; one that lets nobody in may stay.
fn mounted(target: &Target, refusal: Refusal) -> Result<Option<Beside>, Refusal> {
    match survey(&target.account, &target.location.path) {
        Ok(content) if content.as_deref().is_none_or(holds_nothing) => Ok(None),
        _ => Err(refusal),
    }
}

fn is_of_root(here: &Held, target: &Target) -> bool {
    here.stat.st_uid != target.account.uid
}

/// Takes the file away, or what leads to it, never what a link leads to; gives what was unlocked for that. With `aside` a
/// file is not lost but gets another name beside. The file that is `managed` is never taken. On an error it may still be
/// there; after one from the last `fsync` it is gone, and may be back after a power cut.
pub fn take_away(
    target: &Target,
    managed: &Target,
    terms: Terms<'_>,
    aside: bool,
) -> Result<Vec<Lock>, Refusal> {
    let mut unlocked = Vec::new();
    let _account = Identity::of(target.account.uid, target.account.gid)?;
    let mut here = start(target)?;
    for name in steps(target) {
        let path = here.path.join(name);
        here = match enter(&here, name, target)? {
            Step::Directory(held) => held,
            Step::Obstacle(kind @ (Kind::Symlink | Kind::DirectoryOf(_))) => {
                // What stood there before is the account's own doing, and more may hang on it than keys.
                if is_of_root(&here, target) || !terms.clear_obstacles {
                    return Err(Refusal::Obstacle { path, kind });
                }
                still_wanted(terms)?;
                clear(&here, name, kind, &path)?;
                let directory = reopen(&here)?;
                fsync(directory).map_err(Refusal::io("sync the directory of", &path))?;
                return Ok(unlocked);
            }
            Step::Missing | Step::Obstacle(_) => return Ok(unlocked),
        };
        if permissions(&here.stat) & 0o700 != 0o700 && !is_of_root(&here, target) {
            tidy(&here, terms, &mut unlocked)?;
        }
    }
    let path = &target.location.path;
    if is_of_root(&here, target) {
        return Err(Refusal::Obstacle {
            path: here.path.clone(),
            kind: Kind::DirectoryOf(here.stat.st_uid),
        });
    }
    let directory = reopen(&here)?;
    if flags::is_locked(&directory) {
        unlock(&directory, &here.path, terms)?;
        unlocked.push(Lock::Directory);
    }
    let name = target.location.file.as_str();
    let stat = match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
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
    if managed_stat(managed)?.is_some_and(|managed| inode(&managed) == inode(&stat)) {
        // One file with two names was the managed one's trouble a moment ago; one name in two spellings is no other file.
        return if stat.st_nlink == 1 {
            Ok(unlocked)
        } else {
            Err(Refusal::Contended(path.clone()))
        };
    }
    still_wanted(terms)?;
    let aside = if aside {
        Some(format!("{name}.aside-{}", random_hex()?))
    } else {
        None
    };
    let mut taken = take(&directory, name, aside.as_deref());
    if taken == Err(Errno::EPERM) {
        unlock_file(&directory, target, terms)?;
        unlocked.push(Lock::File);
        taken = take(&directory, name, aside.as_deref());
    }
    match taken {
        Ok(()) => {}
        // Gone, or a directory: whoever did that is seen by the next look.
        Err(Errno::ENOENT | Errno::EISDIR) => return Ok(unlocked),
        Err(Errno::EBUSY | Errno::EXDEV) => return Err(Refusal::Mounted(path.clone())),
        Err(Errno::EPERM) => return Err(Refusal::Locked(path.clone())),
        Err(source) => {
            return Err(Refusal::Io {
                what: "remove",
                path: path.clone(),
                source,
            });
        }
    }
    fsync(&directory).map_err(Refusal::io("sync the directory of", path))?;
    Ok(unlocked)
}

fn take(directory: &OwnedFd, name: &str, aside: Option<&str>) -> nix::Result<()> {
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

/// What stands at the name of the managed file.
fn managed_stat(managed: &Target) -> Result<Option<FileStat>, Refusal> {
    let mut here = start(managed)?;
    for name in steps(managed) {
        match enter(&here, name, managed)? {
            Step::Directory(held) => here = held,
            Step::Missing | Step::Obstacle(_) => return Ok(None),
        }
    }
    let name = managed.location.file.as_str();
    Ok(fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok())
}
