//! One visit to the files of one account: one way there, and one change of identity for all that is done.

use std::fs::File;

use crate::host::keyfile::held::READ_LIMIT;
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::lease::Lease;
use crate::host::keyfile::leases::{Attempt, Leases};
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::way::Way;
use crate::model::config::tables::Owner;
use crate::model::file::wanted::Target;
use crate::model::inode::Inode;

/// A visit holds a descriptor of each directory on the way, and this thread acts as the account from the first look until
/// the visit is dropped.
///
/// ```text
/// let mut visit = Visit::new(&target);            // nothing is done yet
/// visit.sweep_up()?;                              // at start, and after a replacement that did not end well
/// let observed = visit.look(size, witness)?;      // walks there
/// visit.as_self(|| back_up(&observed))?;          // whatever is not in the home: as this process
/// let unlocked = visit.replace(&wanted, terms, keeps)?;  // goes on from what is held
/// let after = visit.look(size, witness)?;         // compares every name with what is held; walks anew where it differs
/// if let Some(other) = visit.look_at_other(&location, guards, witness)? {
///     visit.remove_other(&location, terms, false)?;
/// }
/// ```
///
/// Between a replacement or a removal and the next look nothing is known of what the names lead to.
pub struct Visit<'a> {
    pub(super) target: &'a Target,
    pub(super) way: Way<'a>,
    /// What a look may change; without, nothing.
    pub(super) terms: Option<Terms<'a>>,
    /// Where leases are kept, by an enforcer that hears when they are broken.
    leases: Option<&'a Leases>,
    /// The lease on the file that this visit gave the name.
    lease: Option<Lease>,
    /// The lease on the file that the last look found there.
    pub(super) seen: Option<Lease>,
    /// What had the file's name, and another one now, to be written over where there is no room for another file.
    pub(super) spare: Option<(String, File)>,
    /// The leases on other files that stay.
    pub(super) beside: Vec<Lease>,
    identity: Option<Identity>,
}

impl<'a> Visit<'a> {
    /// Does nothing yet.
    pub fn new(target: &'a Target) -> Self {
        Self {
            target,
            way: Way::new(&target.account, &target.location),
            terms: None,
            leases: None,
            lease: None,
            seen: None,
            spare: None,
            beside: Vec::new(),
            identity: None,
        }
    }

    /// Not only looks: what a look needs it brings about, and what it finds it keeps from being written to.
    #[must_use]
    pub fn enforcing(self, terms: Terms<'a>, leases: Option<&'a Leases>) -> Self {
        Self {
            terms: Some(terms),
            leases,
            ..self
        }
    }

    /// A new file has the name.
    pub(super) fn has_name(&mut self, lease: Option<Lease>) {
        let before = std::mem::replace(&mut self.lease, lease);
        if let (Some(leases), Some(before)) = (self.leases, before) {
            let _ = leases.hold(&self.target.account.name, before);
        }
    }

    /// The file with this inode is the one that this visit gave the name, with a lease.
    pub(super) fn has_leased(&self, inode: Inode) -> bool {
        let own = self.lease.as_ref();
        own.is_some_and(|own| own.inode() == inode)
    }

    /// A managed file of root's is not the account's to write to.
    pub(super) fn leases(&self) -> bool {
        self.leases_others() && self.target.owner == Owner::Account
    }

    /// Others are the account's own in any case.
    pub(super) fn leases_others(&self) -> bool {
        self.leases.is_some()
    }

    /// From now on the lease of the file that the last look found is held, if that `is_right`, and if not, that of the file
    /// which this visit gave the name. Returns whether a writer waits for it already.
    #[must_use]
    pub fn hold(&mut self, is_right: bool) -> bool {
        let Some(leases) = self.leases else {
            return false;
        };
        let lease = match self.seen.take() {
            Some(seen) if is_right => Some(seen),
            _ => self.lease.take(),
        };
        let account = &self.target.account.name;
        match lease {
            Some(lease) => leases.hold(account, lease),
            // That there is none is no reason to let a writer go on.
            None => is_right && leases.is_awaited(account),
        }
    }

    /// A directory of root's that is locked may be the agent's own.
    pub fn accept_locked(&mut self, accepts: bool) {
        self.way.accepts_locked = accepts;
    }

    /// What is held is in the way of this process itself.
    pub(super) fn let_go(&mut self) {
        self.seen = None;
        if let Some(leases) = self.leases {
            leases.forget(&self.target.account.name);
        }
    }

    /// The other files are gone, or they stay and nobody writes to them.
    pub fn hold_others(&mut self) {
        if let Some(leases) = self.leases {
            let beside = std::mem::take(&mut self.beside);
            leases.hold_beside(&self.target.account.name, beside);
        }
    }

    /// What somebody wrote into files of ours after all, once they had lost their name.
    pub fn attempts(&mut self) -> Result<Vec<Attempt>, Refusal> {
        self.act()?;
        let account = &self.target.account.name;
        let attempts = self
            .leases
            .map(|leases| leases.attempts(account, READ_LIMIT));
        Ok(attempts.unwrap_or_default())
    }

    /// Does something as this process. What has nothing to do with the account's files would fail as the account.
    pub fn as_self<T>(&self, work: impl FnOnce() -> T) -> Result<T, Refusal> {
        let _own = match self.identity {
            Some(_) => Some(Identity::own()?),
            None => None,
        };
        Ok(work())
    }

    /// Acts as the account from here on.
    pub(super) fn act(&mut self) -> Result<(), Refusal> {
        if self.identity.is_none() {
            let account = &self.target.account;
            self.identity = Some(Identity::of(account.uid, account.gid)?);
        }
        Ok(())
    }
}
