//! Telling the caller what was looked at, so that it can be watched and dated.

use std::os::fd::BorrowedFd;

use nix::sys::stat::FileStat;

use crate::model::inode::Inode;

/// Told of every descriptor on the way, so that it can be watched: the very thing that was looked at, not a
/// name that may mean another thing by now.
pub trait Witness {
    /// A directory, and the one name in it that matters.
    fn directory(&mut self, directory: BorrowedFd<'_>, inode: Inode, name: &str);
    /// The file itself.
    fn file(&mut self, file: BorrowedFd<'_>, inode: Inode);
    /// When what was looked at was last changed, on the way from the home to what is at the file's name.
    fn changed(&mut self, _: Mark) {}
}

/// What was looked at, and its change time (`inode(7)`, `st_ctime`): set by the kernel at each change, and by nothing
/// else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What it is.
    pub of: Marked,
    /// Seconds and nanoseconds since 1970, by the clock of its file system.
    pub changed_at: (i64, i64),
    /// Which one it is.
    pub inode: Inode,
}

/// What a [`Mark`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// A directory that only its owner can write to.
    Directory,
    /// One that lets others write, or keeps its owner out; or what is in its place.
    UntidyDirectory,
    /// What is at the file's name.
    File,
}

/// For a look that is neither watched nor dated.
pub struct NoWitness;

impl Witness for NoWitness {
    fn directory(&mut self, _: BorrowedFd<'_>, _: Inode, _: &str) {}
    fn file(&mut self, _: BorrowedFd<'_>, _: Inode) {}
}

pub(super) fn mark(of: Marked, stat: &FileStat) -> Mark {
    Mark {
        of,
        changed_at: (stat.st_ctime, stat.st_ctime_nsec),
        inode: inode(stat),
    }
}

pub(super) fn inode(stat: &FileStat) -> Inode {
    (stat.st_dev, stat.st_ino)
}
