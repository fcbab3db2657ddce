//! The flag by which nobody can rename, change or remove something, nor anything in a directory (`ioctl_iflags(2)`).

use std::os::fd::AsFd;

use nix::errno::Errno;
use rustix::fs::{
    AtFlags, IFlags, StatxAttributes, StatxFlags, ioctl_getflags, ioctl_setflags, statx,
};

/// True when it is set on what is held, or on the entry `name` in it; that takes no right to read.
pub(super) fn is_immutable(place: impl AsFd, name: &str) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(place, name, flags, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::IMMUTABLE))
}

/// Sets or clears it on what is open for reading; only as root.
pub(super) fn set_immutable(file: impl AsFd, is_set: bool) -> nix::Result<()> {
    let errno = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let mut flags = ioctl_getflags(&file).map_err(errno)?;
    flags.set(IFlags::IMMUTABLE, is_set);
    ioctl_setflags(&file, flags).map_err(errno)
}
