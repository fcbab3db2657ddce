//! One visit to the files of one account: one way there, and one change of identity for all that is done.

use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::way::Way;
use crate::model::file::wanted::Target;

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
/// if let Some(other) = visit.look_at_other(&location, witness)? {
///     visit.remove_other(&location, terms, false)?;
/// }
/// ```
///
/// Between a replacement or a removal and the next look nothing is known of what the names lead to.
pub struct Visit<'a> {
    pub(super) target: &'a Target,
    pub(super) way: Way<'a>,
    identity: Option<Identity>,
}

impl<'a> Visit<'a> {
    /// Does nothing yet.
    pub fn new(target: &'a Target) -> Self {
        Self {
            target,
            way: Way::new(&target.account, &target.location),
            identity: None,
        }
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
