//! Whether an account answers for the file system that its file is on.

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::host::keyfile::identity::Identity;
use crate::model::file::wanted::Target;
use crate::model::mounts::OwnMount;

/// The first of `mounts` on the way from the home to the file. Asks that file system nothing, so it cannot hang there.
pub fn own_mount<'a>(target: &Target, mounts: &'a [OwnMount]) -> Option<&'a OwnMount> {
    let location = &target.location;
    // Elsewhere only root mounts something.
    if mounts.is_empty() || !location.in_home {
        return None;
    }
    let account = &target.account;
    let _identity = Identity::of(account.uid, account.gid).ok()?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut names = location.directories.iter().chain([&location.file]);
    let mut here = open(
        &account.home,
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    loop {
        // Asked for nothing, the kernel tells the device all the same and leaves the file system alone.
        let at = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let seen = statx(&here, "", at, StatxFlags::empty()).ok()?;
        let device = (seen.stx_dev_major, seen.stx_dev_minor);
        let own = mounts.iter().find(|mount| mount.device == device);
        if own.is_some() {
            return own;
        }
        here = openat(&here, names.next()?.as_str(), flags, Mode::empty()).ok()?;
    }
}
