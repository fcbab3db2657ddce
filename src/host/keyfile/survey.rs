//! A file that may grant keys and is none of ours, looked at as sshd looks at it and never touched.
//!
//! sshd opens it as the account and follows links (`auth2-pubkeyfile.c`, `auth.c: auth_openkeyfile`), so that is done
//! here too: what the account could not read itself stays unread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use crate::host::keyfile::Refusal;
use crate::host::keyfile::identity::Identity;
use crate::model::account::Account;

/// The most that is read of it: hundreds of keys.
const LIMIT: u64 = 256 << 10;

/// The first bytes of the file at `path` as `account` sees it; `None` where it sees no regular file. Blocks for as long
/// as the file system does.
pub fn survey(account: &Account, path: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    let _identity = Identity::of(account.uid, account.gid)?;
    // Neither waits for a FIFO nor takes a terminal; sshd reads regular files only.
    let open = || OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path);
    let read = |file: File| -> io::Result<Option<Vec<u8>>> {
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    Ok(open().and_then(read).unwrap_or(None))
}
