//! Acting as somebody else, on this thread only.
//!
//! `setfsuid(2)` changes what the kernel checks for file access and drops `CAP_DAC_*`, `CAP_CHOWN`, `CAP_FOWNER`
//! and `CAP_LINUX_IMMUTABLE` meanwhile. The real uid stays root's, so that the account can neither signal nor
//! trace the daemon (CVE-2020-16126).

use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid, setgroups};

use crate::host::keyfile::Refusal;

/// File access as somebody else until dropped; may be nested.
pub(super) struct Identity {
    before: Option<(Uid, Gid)>,
}

/// What `setfsuid` and `setfsgid` are asked in order to read: an id that cannot be set.
const ASK: u32 = u32::MAX;

impl Identity {
    /// Takes on `uid` and `gid` for file access, and checks that it worked.
    pub(super) fn of(uid: u32, gid: u32) -> Result<Self, Refusal> {
        let own = Uid::effective();
        if !own.is_root() {
            return if own.as_raw() == uid {
                Ok(Self { before: None })
            } else {
                Err(Refusal::NeedsRoot(uid))
            };
        }
        let identity = Self {
            before: Some(current()),
        };
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        // Both calls report nothing, so ask.
        let is = current();
        if (is.0.as_raw(), is.1.as_raw()) == (uid, gid) {
            Ok(identity)
        } else {
            Err(Refusal::CannotActAs { uid, gid })
        }
    }

    /// The process's own, whatever this thread was before.
    pub(super) fn own() -> Result<Self, Refusal> {
        Self::of(Uid::effective().as_raw(), Gid::effective().as_raw())
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

/// The ids that this thread's file access is checked against.
fn current() -> (Uid, Gid) {
    (setfsuid(Uid::from_raw(ASK)), setfsgid(Gid::from_raw(ASK)))
}

/// Empties the supplementary groups of the whole process; once, at start. Otherwise work done as an account
/// would have root's groups besides.
pub fn drop_supplementary_groups() -> nix::Result<()> {
    if !Uid::effective().is_root() || getgroups()?.iter().all(|group| *group == Gid::effective()) {
        return Ok(());
    }
    setgroups(&[])
}
