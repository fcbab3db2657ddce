//! The leases on all managed files, and the files whose lease was broken: what somebody wrote there, after all.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::Seek;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Bounded;
use crate::host::keyfile::lease::{Lease, NoLease};
use crate::model::account::AccountName;
use crate::model::inode::Inode;

/// Every lease that the enforcer holds, one an account.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    accounts: HashMap<AccountName, Of>,
    /// Leases on files that have lost their name, and when each is given back; the first first.
    spent: VecDeque<(Instant, AccountName, Lease)>,
}

/// What is held of one account.
#[derive(Debug, Default)]
struct Of {
    lease: Option<Lease>,
    attempt: Option<Released>,
}

/// What became of a write that had no effect.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The first bytes of the file once it was closed.
    Closed(Vec<u8>),
    /// It still is open, or mapped: to read it may wait for ever.
    Open,
}

/// A file of ours that lost its name since somebody opened it for writing.
#[derive(Debug)]
struct Released {
    file: File,
    inode: Inode,
    /// When the writer was let go on.
    since: Instant,
}

/// A writer that has not closed the file by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file that has lost its name is kept from being written to for so long: sshd may have opened it before, and have yet to
/// read it. The writer waits as long, so it is short.
const STILL_READ: Duration = Duration::from_millis(250);

impl Leases {
    /// Takes the lease on the file that has the name now; the one that was held before is given back in a moment. Returns
    /// whether a writer waits for the new one already: of that no signal may come any more.
    pub fn hold(&self, account: &AccountName, lease: Lease) -> bool {
        let mut held = self.locked();
        let Held { accounts, spent } = &mut *held;
        let of = accounts.entry(account.clone()).or_default();
        let inode = lease.inode();
        if let Some(before) = of.lease.replace(lease)
            && before.inode() != inode
        {
            let due = Instant::now() + STILL_READ;
            spent.push_back((due, account.clone(), before));
        }
        of.is_awaited()
    }

    /// A writer waits for the lease of this account.
    pub(super) fn is_awaited(&self, account: &AccountName) -> bool {
        let held = self.locked();
        held.accounts.get(account).is_some_and(Of::is_awaited)
    }

    /// Accounts whose lease a writer waits for.
    pub fn broken(&self) -> BTreeSet<AccountName> {
        let held = self.locked();
        let awaited = held.accounts.iter().filter(|(_, of)| of.is_awaited());
        awaited.map(|(name, _)| name.clone()).collect()
    }

    /// When the next lease is to be given back.
    pub fn next_release(&self) -> Option<Instant> {
        self.locked().spent.front().map(|(due, ..)| *due)
    }

    /// Gives back what is due by now, and whoever waits for it goes on.
    pub fn release(&self, now: Instant) {
        let mut held = self.locked();
        let Held { accounts, spent } = &mut *held;
        while let Some((_, account, lease)) = spent.pop_front_if(|(due, ..)| *due <= now) {
            let inode = lease.inode();
            if let Some(of) = accounts.get_mut(&account)
                && !lease.holds()
                && let Some(file) = lease.release()
            {
                let since = now;
                of.attempt = Some(Released { file, inode, since });
            }
        }
    }

    /// What was written to the file whose lease was broken last, once that is known. Only as its owner.
    pub(super) fn attempt(&self, account: &AccountName, limit: u64) -> Option<Attempt> {
        let mut held = self.locked();
        let of = held.accounts.get_mut(account)?;
        let Released { file, inode, since } = of.attempt.take()?;
        let file = match Lease::take(file, inode) {
            Ok(lease) => lease.release()?,
            Err((NoLease::Busy, file)) if since.elapsed() < PATIENCE => {
                of.attempt = Some(Released { file, inode, since });
                return None;
            }
            Err(_) => return Some(Attempt::Open),
        };
        drop(held);
        // From the start: the file was read before.
        (&file).rewind().ok()?;
        let bytes = Bounded::read(&file, limit, 0).ok()?.bytes;
        Some(Attempt::Closed(bytes))
    }

    /// Lets go of the accounts that are not to be kept.
    pub fn keep(&self, keep: impl Fn(&AccountName) -> bool) {
        self.locked().accounts.retain(|name, _| keep(name));
    }

    fn locked(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Of {
    /// A writer waits until the lease is given back.
    fn is_awaited(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| !lease.holds())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    /// Who has opened the file by its name a moment ago reads what it was.
    #[tokio::test]
    async fn a_file_that_lost_its_name_is_not_written_to_while_it_may_still_be_read() {
        // The signal ends a process that does not listen to it.
        let _heard = signal(SignalKind::io()).unwrap();
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let account = AccountName::try_from("alice").unwrap();
        let file = |number: u64| {
            let path = place.path().join(number.to_string());
            if !path.exists() {
                std::fs::write(&path, "right").unwrap();
            }
            Lease::take(File::open(path).unwrap(), (0, number)).unwrap()
        };
        let is_writable = |number: u64| {
            let mut how = File::options();
            let how = how.append(true).custom_flags(nix::libc::O_NONBLOCK);
            how.open(place.path().join(number.to_string())).is_ok()
        };
        let leases = Leases::default();
        leases.hold(&account, file(1));
        // Another look at the same file.
        leases.hold(&account, file(1));
        assert_eq!(leases.next_release(), None);
        leases.hold(&account, file(2));
        let due = leases.next_release().unwrap();
        leases.release(due.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(!is_writable(1));
        leases.release(due);
        assert!(is_writable(1) && leases.next_release().is_none());
        assert_eq!(
            leases.attempt(&account, 9),
            Some(Attempt::Closed(b"right".to_vec()))
        );
        assert!(leases.broken().is_empty() && !is_writable(2));
        assert_eq!(leases.broken(), BTreeSet::from([account.clone()]));
        // Of this one no signal comes any more.
        let awaited = file(3);
        assert!(!is_writable(3));
        assert!(leases.hold(&account, awaited));
    }
}
