//! Opening a file that another user may have put there.
//!
//! The fetcher has no root and writes into directories of its own; root reads what is there. A link would have root open a
//! file of another's, a hard link change one, and a FIFO wait for ever.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

/// A regular file, opened without following a link at its name or waiting for anybody.
pub struct PlainFile;

impl PlainFile {
    /// As `options` say; and what the file is.
    pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
        let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
        let meta = file.metadata()?;
        if meta.is_file() {
            Ok((file, meta))
        } else {
            Err(refused("not a regular file"))
        }
    }

    /// To be changed or locked, so not what has another name elsewhere: it may be a file of root's.
    pub fn open_to_change(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
        let (file, meta) = Self::open(path, options)?;
        if meta.nlink() <= 1 {
            Ok((file, meta))
        } else {
            Err(refused("it has another name elsewhere"))
        }
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
