//! What a file has besides mode and owner, and an attacker uses: the immutable and append-only flags
//! (`ioctl_iflags(2)`) that keep a planted key in place, and access control lists (`acl(5)`) that a directory hands
//! down to what is made in it.
//!
//! Setting or clearing a flag takes `CAP_LINUX_IMMUTABLE` and, on another's file, `CAP_FOWNER`: so it was root who
//! locked the file, and it is as root, on a descriptor that was looked at, that it is unlocked again.

use std::os::fd::AsFd;

use nix::errno::Errno;
use rustix::fs::{IFlags, fgetxattr, fremovexattr, ioctl_getflags, ioctl_setflags};

/// The flags by which even its owner cannot replace a file, or what is in a directory.
const LOCKS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// The name under which Linux keeps the list of a file itself.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// True when a flag locks what is held; false too where the file system has no flags.
pub(super) fn is_locked(file: impl AsFd) -> bool {
    ioctl_getflags(file).is_ok_and(|flags| flags.intersects(LOCKS))
}

/// Clears the flags; all others stay.
pub(super) fn unlock(file: impl AsFd) -> nix::Result<()> {
    let flags = ioctl_getflags(&file).map_err(errno)?;
    ioctl_setflags(&file, flags.difference(LOCKS)).map_err(errno)
}

/// True when the file has a list of its own.
pub(super) fn has_access_list(file: impl AsFd) -> bool {
    fgetxattr(file, ACCESS_LIST, &mut [0_u8; 0]).is_ok()
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
