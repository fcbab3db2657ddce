//! What a file has besides mode and owner, and an attacker uses: the immutable and append-only flags
//! (`ioctl_iflags(2)`) that keep a planted key in place, and access control lists (`acl(5)`) that a directory hands
//! down to what is made in it.
//!
//! Setting or clearing a flag takes `CAP_LINUX_IMMUTABLE` and, on another's file, `CAP_FOWNER`: so it was root who
//! locked the file, and it is as root, on a descriptor that was looked at, that it is unlocked again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, openat2};
use nix::sys::stat::{FileStat, fstat, fstatat};
use rustix::fs::{IFlags, fgetxattr, fremovexattr, ioctl_getflags, ioctl_setflags};

use crate::host::keyfile::held::{READING, beneath, kind};
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::terms::Terms;
use crate::model::account::Account;
use crate::model::file::wanted::Kind;
use crate::model::location::Location;

/// The flags by which even its owner cannot replace a file, or what is in a directory.
const LOCKS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// The name under which Linux keeps the list of a file itself.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// The same for what is made in a directory.
const DEFAULT_LIST: &str = "system.posix_acl_default";

/// True when a flag locks what is held; false too where the file system has no flags.
pub(super) fn is_locked(file: impl AsFd) -> bool {
    ioctl_getflags(file).is_ok_and(|flags| flags.intersects(LOCKS))
}

/// Clears the flags; all others stay.
fn clear_locks(file: impl AsFd) -> nix::Result<()> {
    let flags = ioctl_getflags(&file).map_err(errno)?;
    ioctl_setflags(&file, flags.difference(LOCKS)).map_err(errno)
}

/// Clears the flags that lock what is held, as root; one that root set before the file was ours is root's decision.
pub(super) fn unlock(held: &OwnedFd, path: &Path, terms: Terms<'_>) -> Result<(), Refusal> {
    let locked = || Refusal::Locked(path.to_owned());
    if !terms.clear_obstacles {
        return Err(locked());
    }
    terms.ask()?;
    let _root = Identity::own()?;
    clear_locks(held).map_err(|_| locked())
}

/// The file under its name, if a flag locks it. One of root's with another name elsewhere could be anything and stays locked.
pub(super) fn unlock_file(
    directory: &OwnedFd,
    account: &Account,
    location: &Location,
    terms: Terms<'_>,
) -> Result<(), Refusal> {
    let (name, path) = (location.file.as_str(), &location.path);
    let locked = |_| Refusal::Locked(path.clone());
    let ours = |stat: &FileStat| match kind(stat) {
        Kind::Directory => stat.st_uid == account.uid || stat.st_uid == 0,
        Kind::File => stat.st_uid == account.uid || stat.st_uid == 0 && stat.st_nlink == 1,
        _ => false,
    };
    let before = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(locked)?;
    if !ours(&before) {
        return Err(locked(Errno::EPERM));
    }
    // As root: a planted file may be one that its account cannot read.
    let root = Identity::own()?;
    let opened = openat2(directory, name, beneath(READING)).map_err(locked)?;
    drop(root);
    if !ours(&fstat(&opened).map_err(locked)?) || !is_locked(&opened) {
        return Err(locked(Errno::EPERM));
    }
    unlock(&opened, path, terms)
}

/// True when the file has a list of its own.
pub(super) fn has_access_list(file: impl AsFd) -> bool {
    fgetxattr(file, ACCESS_LIST, &mut [0_u8; 0]).is_ok()
}

/// Takes both lists off that a new directory was handed down.
pub(super) fn drop_directory_lists(directory: impl AsFd) -> nix::Result<()> {
    drop_access_list(&directory)?;
    match fremovexattr(directory, DEFAULT_LIST).map_err(errno) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        dropped => dropped,
    }
}

/// Takes the list off that a new file was handed down; without one, or where there are none, all is well.
pub(super) fn drop_access_list(file: impl AsFd) -> nix::Result<()> {
    match fremovexattr(file, ACCESS_LIST).map_err(errno) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        dropped => dropped,
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
