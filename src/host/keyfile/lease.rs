//! A read lease on a file (`fcntl(2)`, "Leases"): no write to it takes effect.
//!
//! Whoever opens the file for writing, by whatever name, or truncates it, waits in the kernel from then on, and this process
//! gets SIGIO. Once a fresh copy has the file's name the lease is given back, and the writer goes on with a file that has no
//! name any more. An account that never closes its file, or has it mapped, is told from one that does not: then no lease is
//! to be had. Where this process does nothing, the kernel lets the writer go on after `/proc/sys/fs/lease-break-time`.
//!
//! `nix` and `rustix` do not have these calls.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::libc::{F_GETLEASE, F_RDLCK, F_SETLEASE, F_SETOWN, F_UNLCK};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, fstatfs};

use crate::model::inode::Inode;

/// A file that nobody has open for writing, or writes to before the lease is given back.
#[derive(Debug)]
pub struct Lease(File, Inode);

/// This process, which never changes.
static PROCESS: LazyLock<i32> =
    LazyLock::new(|| i32::try_from(std::process::id()).unwrap_or_default());

/// Why there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// The file is open for writing, or mapped so, or about to be.
    Busy,
    /// Its file system has none, or none that other hosts know of.
    Unsupported,
}

impl Lease {
    /// Takes a lease on a file that is open for reading, and is this one; only as its owner.
    pub(super) fn take(file: File, inode: Inode) -> Result<Self, (NoLease, File)> {
        if !is_local(&file) {
            return Err((NoLease::Unsupported, file));
        }
        // Or only the thread that took the lease would hear of it, and it may have ended by then.
        let owned = fcntl(file.as_raw_fd(), F_SETOWN, *PROCESS);
        match owned.and_then(|_| fcntl(file.as_raw_fd(), F_SETLEASE, F_RDLCK)) {
            Ok(_) => Ok(Self(file, inode)),
            Err(Errno::EAGAIN) => Err((NoLease::Busy, file)),
            Err(_) => Err((NoLease::Unsupported, file)),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    pub(super) fn inode(&self) -> Inode {
        self.1
    }

    /// True while no writer waits for it.
    pub fn holds(&self) -> bool {
        fcntl(self.0.as_raw_fd(), F_GETLEASE, 0) == Ok(F_RDLCK)
    }

    /// Another descriptor for the file, which may lose its name; only as its owner.
    pub(super) fn open_again(&self) -> Option<File> {
        File::open(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()
    }

    /// Gives it back, and returns the file; `None` where that failed: to close it gives it back too. Only as its owner.
    pub(super) fn release(self) -> Option<File> {
        fcntl(self.0.as_raw_fd(), F_SETLEASE, F_UNLCK).ok()?;
        Some(self.0)
    }
}

/// Nobody writes to it but through this kernel: no other host, and no program that answers for its file system. Of one that
/// does not say what it is that is not known.
fn is_local(file: &File) -> bool {
    let others = [NFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, SMB_SUPER_MAGIC];
    fstatfs(file).is_ok_and(|of| !others.contains(&of.filesystem_type()))
}

#[expect(
    unsafe_code,
    reason = "fcntl(2) calls with integer arguments, on a descriptor that is held"
)]
fn fcntl(descriptor: RawFd, call: i32, argument: i32) -> nix::Result<i32> {
    // SAFETY: none of these calls reads or writes memory of this process.
    Errno::result(unsafe { nix::libc::fcntl(descriptor, call, argument) })
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn only_a_file_that_nobody_writes_to_is_leased() {
        let place = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let read = || File::open(place.path()).unwrap();
        // `place` itself is open for writing.
        let take = || Lease::take(read(), (0, 0));
        let busy = take().unwrap_err();
        assert_eq!(busy.0, NoLease::Busy);
        let path = place.into_temp_path();
        let take = || Lease::take(File::open(&path).unwrap(), (0, 0));
        let lease = take().unwrap();
        assert!(lease.holds());
        drop(take().unwrap());
        // Released, the file can be opened for writing at once.
        drop(lease.release().unwrap());
        OpenOptions::new().append(true).open(&path).unwrap();
    }
}
