//! Acting as the account, on this thread only.
//!
//! `setfsuid(2)` changes what the kernel checks for file access and drops `CAP_DAC_*`, `CAP_CHOWN`, `CAP_FOWNER`
//! and `CAP_LINUX_IMMUTABLE` meanwhile. The real uid stays root's, so that the account can neither signal nor
//! trace the daemon (CVE-2020-16126).

use std::marker::PhantomData;
use std::sync::LazyLock;

use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid, setgroups};

use crate::host::keyfile::refusal::Refusal;

/// Another identity for file access, until dropped; may be nested.
pub struct Identity {
    before: Option<(Uid, Gid)>,
    /// It is this thread's, and must be given back by this thread.
    _thread: PhantomData<*const ()>,
}

/// What `setfsuid` and `setfsgid` are asked in order to read: an id that cannot be set.
const ASK: u32 = u32::MAX;

/// The process's own ids, which this program never changes.
static OWN: LazyLock<(Uid, Gid)> = LazyLock::new(|| (Uid::effective(), Gid::effective()));

/// True when this process may act as an account.
pub(super) fn is_root() -> bool {
    OWN.0.is_root()
}

impl Identity {
    /// Takes on `uid` and `gid` for file access, and checks that it worked.
    pub(super) fn of(uid: u32, gid: u32) -> Result<Self, Refusal> {
        if !is_root() {
            return if OWN.0.as_raw() == uid {
                Ok(Self::new(None))
            } else {
                Err(Refusal::NeedsRoot(uid))
            };
        }
        let group = setfsgid(Gid::from_raw(gid));
        let user = setfsuid(Uid::from_raw(uid));
        let identity = Self::new(Some((user, group)));
        // Both calls report what was before and never a failure, so ask.
        let is = (
            setfsuid(Uid::from_raw(ASK)).as_raw(),
            setfsgid(Gid::from_raw(ASK)).as_raw(),
        );
        if is == (uid, gid) {
            Ok(identity)
        } else {
            Err(Refusal::CannotActAs { uid, gid })
        }
    }

    /// The process's own, whatever this thread was before.
    pub fn own() -> Result<Self, Refusal> {
        Self::of(OWN.0.as_raw(), OWN.1.as_raw())
    }

    fn new(before: Option<(Uid, Gid)>) -> Self {
        Self {
            before,
            _thread: PhantomData,
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.before {
            setfsuid(uid);
            setfsgid(gid);
        }
    }
}

/// Empties the supplementary groups of the whole process; once, at start. Otherwise work done as an account
/// would have root's groups besides.
pub fn drop_supplementary_groups() -> nix::Result<()> {
    if !is_root() || getgroups()?.iter().all(|group| *group == OWN.1) {
        return Ok(());
    }
    setgroups(&[])
}
