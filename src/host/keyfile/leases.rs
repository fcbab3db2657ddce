//! The leases on all managed files, and the files whose lease was broken: what somebody wrote there, after all.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Seek;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Bounded;
use crate::host::keyfile::lease::{Lease, NoLease};
use crate::model::account::AccountName;

/// Every lease that the enforcer holds, by account.
#[derive(Debug, Default)]
pub struct Leases(Mutex<HashMap<AccountName, Of>>);

/// What is held of one account.
#[derive(Debug, Default)]
struct Of {
    lease: Option<Lease>,
    /// Those on other files in the home that may stay while nobody writes to them.
    beside: Vec<Lease>,
    attempt: Option<Released>,
}

/// What became of a write that had no effect.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// What was in the file once it was closed.
    Closed(Bounded),
    /// It still is open, or mapped: to read it may wait for ever.
    Open,
}

/// A file of ours that lost its name since somebody opened it for writing.
#[derive(Debug)]
struct Released {
    file: File,
    /// When the writer was let go on.
    since: Instant,
}

/// A writer that has not closed the file by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Leases {
    /// Takes the lease on the file that has the name now, `None` where there is none. The one that was held before is given
    /// back, and whoever waits for it goes on.
    pub fn hold(&self, account: &AccountName, lease: Option<Lease>) {
        let mut all = self.locked();
        let of = all.entry(account.clone()).or_default();
        let before = std::mem::replace(&mut of.lease, lease);
        if let Some(before) = before
            && !before.holds()
        {
            of.attempt = Some(Released {
                file: before.release(),
                since: Instant::now(),
            });
        }
    }

    /// The same for the other files of the account that stay, all of them.
    pub(super) fn hold_beside(&self, account: &AccountName, leases: Vec<Lease>) {
        let mut all = self.locked();
        all.entry(account.clone()).or_default().beside = leases;
    }

    /// Accounts whose lease somebody waits for.
    pub fn broken(&self) -> BTreeSet<AccountName> {
        let all = self.locked();
        let broken = |of: &Of| {
            of.lease
                .iter()
                .chain(&of.beside)
                .any(|lease| !lease.holds())
        };
        all.iter()
            .filter(|(_, of)| broken(of))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What was written to the file whose lease was broken last, once that is known. Only as its owner.
    pub(super) fn attempt(&self, account: &AccountName, limit: u64) -> Option<Attempt> {
        let mut all = self.locked();
        let of = all.get_mut(account)?;
        let Released { file, since } = of.attempt.take()?;
        let file = match Lease::take(file) {
            Ok(lease) => lease.release(),
            Err((NoLease::Busy, file)) if since.elapsed() < PATIENCE => {
                of.attempt = Some(Released { file, since });
                return None;
            }
            Err(_) => return Some(Attempt::Open),
        };
        drop(all);
        // From the start: the file was read before.
        (&file).rewind().ok()?;
        let read = Bounded::read_keys(&file, limit, 0).ok()?;
        Some(Attempt::Closed(read))
    }

    /// Lets go of the accounts that are not to be kept.
    pub fn keep(&self, keep: impl Fn(&AccountName) -> bool) {
        self.locked().retain(|name, _| keep(name));
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<AccountName, Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
