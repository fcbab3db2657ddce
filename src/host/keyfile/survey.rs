//! A file that may grant keys and is none of ours, looked at as sshd looks at it and never touched.
//!
//! sshd opens it as the account and follows links (`auth2-pubkeyfile.c`, `auth.c: auth_openkeyfile`), so that is done
//! here too: what the account could not read itself stays unread. sshd has the account's further groups as well
//! (`initgroups(3)`), which belong to a whole process and so are not taken on: what these would open is said to be unread.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};

use crate::host::Bounded;
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::refusal::{Refusal, errno};
use crate::model::account::Account;
use crate::model::file::wanted::Content;

/// The most that is taken of it as it is: hundreds of keys.
const LIMIT: u64 = 256 << 10;

/// The file at `path` as `account` sees it, of a large one the lines that may be keys; `None` where there is no regular
/// file. What cannot be read is an error. Blocks for as long as the file system does.
pub fn survey(account: &Account, path: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    match survey_bounded(account, path)? {
        Some(read) if !read.is_whole => Err(Refusal::Io {
            what: "read",
            path: path.to_owned(),
            source: Errno::EFBIG,
        }),
        read => Ok(read.map(|read| read.bytes)),
    }
}

/// What lets `account` in by the file at `path`, and is to be known before that is taken away; `None` where nothing does. What
/// sshd may read and this program cannot is content too, of which nothing is known. Blocks for as long as the file system does.
pub fn in_force_at(account: &Account, path: &Path) -> Result<Option<Content>, Refusal> {
    match survey_bounded(account, path) {
        Ok(read) => Ok(read.map(Content::from)),
        Err(refusal @ Refusal::NeedsRoot(_)) => Err(refusal),
        Err(Refusal::Io {
            source: Errno::EACCES,
            ..
        }) if is_closed(account, path) => Ok(None),
        Err(_) => Ok(Some(Content {
            bytes: Vec::new(),
            is_whole: false,
        })),
    }
}

/// The groups that may write what is at `path`, or put something else there; `None` where others than the account and root
/// may, or where that is not known. sshd judges alike unless `StrictModes` is off (`misc.c: safe_path`). Blocks for as long as
/// the file system does.
pub fn groups_that_write(account: &Account, path: &Path) -> Option<Vec<u32>> {
    let _identity = Identity::of(account.uid, account.gid).ok()?;
    let home = account.home.canonicalize().ok()?;
    let real = path.canonicalize().ok()?;
    let mut groups = Vec::new();
    // The way there too: where others may put a link, the next look is led elsewhere.
    for (file, home) in [(path, &account.home), (&real, &home)] {
        for one in file.ancestors() {
            let meta = std::fs::metadata(one).ok()?;
            let is_owned = meta.uid() == 0 || meta.uid() == account.uid;
            // In such a directory nobody puts a file in the place of another's.
            let is_sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
            if !is_owned || meta.mode() & 0o002 != 0 && !is_sticky {
                return None;
            }
            if meta.mode() & 0o020 != 0 && !is_sticky {
                groups.push(meta.gid());
            }
            if one == home {
                break;
            }
        }
    }
    Some(groups)
}

/// The same as [`survey`], and whether that is all of it.
fn survey_bounded(account: &Account, path: &Path) -> Result<Option<Bounded>, Refusal> {
    let _identity = Identity::of(account.uid, account.gid)?;
    read(path).or_else(|error| match errno(&error) {
        // No file, a name that none can have, a link to itself, a socket.
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP | Errno::ENXIO => {
            Ok(None)
        }
        source => Err(Refusal::Io {
            what: "read",
            path: path.to_owned(),
            source,
        }),
    })
}

/// True where the account may not read what is at `path`, nor would sshd with the further groups of the account.
fn is_closed(account: &Account, path: &Path) -> bool {
    let Ok(_identity) = Identity::of(account.uid, account.gid) else {
        return false;
    };
    let is_denied = |path: &Path| {
        let opened = std::fs::metadata(path);
        matches!(opened, Err(error) if error.kind() == ErrorKind::PermissionDenied)
    };
    // What keeps the account out: the last that it may still look at.
    let Some(barrier) = path.ancestors().find(|one| !is_denied(one)) else {
        return false;
    };
    let Ok(meta) = std::fs::metadata(barrier) else {
        return false;
    };
    let needed = if meta.is_dir() { 0o010 } else { 0o040 };
    meta.uid() == account.uid || meta.gid() == account.gid || meta.mode() & needed == 0
}

fn read(path: &Path) -> io::Result<Option<Bounded>> {
    // Neither waits for a FIFO nor takes a terminal; sshd reads regular files only.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    Bounded::read_keys(&file, LIMIT, meta.len()).map(Some)
}
