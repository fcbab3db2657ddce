//! A file that may grant keys and is none of ours, looked at as sshd looks at it and never touched.
//!
//! sshd opens it as the account and follows links (`auth2-pubkeyfile.c`, `auth.c: auth_openkeyfile`), so that is done
//! here too: what the account could not read itself stays unread. sshd has the account's further groups as well
//! (`initgroups(3)`), which belong to a whole process and so are not taken on: what these would open is said to be unread.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};

use crate::host::Bounded;
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::refusal::{Refusal, errno};
use crate::model::account::Account;

/// The most that is taken of it as it is: hundreds of keys.
const LIMIT: u64 = 256 << 10;

/// The file at `path` as `account` sees it, of a large one the lines that may be keys; `None` where there is no regular
/// file. What cannot be read is an error. Blocks for as long as the file system does.
pub fn survey(account: &Account, path: &Path) -> Result<Option<Vec<u8>>, Refusal> {
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

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Neither waits for a FIFO nor takes a terminal; sshd reads regular files only.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let read = Bounded::read_keys(&file, LIMIT, meta.len())?;
    if !read.is_whole {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(Some(read.bytes))
}
