//! The state of a file, without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what `path` leads to; `None` when there is nothing.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::new(&meta))
    }

    /// Of what is at `path` itself: a link there may lead to a file system that does not answer.
    pub fn unfollowed(path: &Path) -> Option<Self> {
        let meta = path.symlink_metadata().ok()?;
        Some(Self::new(&meta))
    }

    fn new(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}
