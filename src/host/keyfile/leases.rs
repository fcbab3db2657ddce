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
use crate::model::sorting::Gather;

/// Every lease that the enforcer holds, by account.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    accounts: HashMap<AccountName, Of>,
    /// Leases on files that have lost their name; the first to be given back first.
    spent: VecDeque<Spent>,
    /// When an account's attempts are to be looked at.
    looks: HashMap<AccountName, Instant>,
}

/// A lease that is given back in a moment.
#[derive(Debug)]
struct Spent {
    due: Instant,
    account: AccountName,
    lease: Lease,
    /// To read the file by then: to close the descriptor of a lease gives it back, and to give it back and keep the descriptor
    /// takes the owner's rights, or a capability.
    file: Option<File>,
}

/// What is held of one account.
#[derive(Debug, Default)]
struct Of {
    lease: Option<Lease>,
    /// Those on other files in the home that may stay while nobody writes to them.
    beside: Vec<Lease>,
    /// The oldest first.
    attempts: VecDeque<Released>,
}

/// What became of a write that had no effect.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// What was in the file once it was closed.
    Closed(Inode, Bounded),
    /// It still is open, or mapped: to read it may wait for ever.
    Open(Inode),
}

/// A file of ours that lost its name since somebody opened it for writing.
#[derive(Debug)]
struct Released {
    file: File,
    inode: Inode,
    /// When the writer was let go on.
    since: Instant,
}

/// Files of one account that are kept until their writers are done.
const MOST_ATTEMPTS: usize = 8;

/// A writer that has not closed the file by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most writers have closed the file by then. One that has not is looked for at twice the time each: not every file system
/// tells that a file without a name was closed.
const WRITTEN: Duration = Duration::from_millis(50);

/// A file that has lost its name is kept from being written to for so long: sshd may have opened it before, and have yet to
/// read it. The writer waits as long, so it is short.
const STILL_READ: Duration = Duration::from_millis(250);

impl Leases {
    /// Takes the lease on the file that has the name now; the one that was held before is given back in a moment. Returns
    /// whether a writer waits for the new one already: of that no signal may come any more.
    pub fn hold(&self, account: &AccountName, lease: Lease) -> bool {
        let inode = lease.inode();
        let before = {
            let mut held = self.locked();
            let of = held.accounts.entry(account.clone()).or_default();
            of.lease.replace(lease)
        };
        if let Some(lease) = before.filter(|before| before.inode() != inode) {
            // Nobody waits for this one account's file system.
            let file = lease.open_again();
            self.locked().spent.push_back(Spent {
                due: Instant::now() + STILL_READ,
                account: account.clone(),
                lease,
                file,
            });
        }
        self.is_awaited(account)
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
        awaited.map(|(name, _)| name.clone()).gather()
    }

    /// When the next lease is to be given back, or what was written to be looked at.
    pub fn next_due(&self) -> Option<Instant> {
        let held = self.locked();
        let released = held.spent.front().map(|spent| spent.due);
        held.looks.values().copied().chain(released).min()
    }

    /// Gives back what is due by now, and whoever waits for it goes on; returns accounts whose attempts are to be looked at.
    pub fn release(&self, now: Instant) -> BTreeSet<AccountName> {
        let mut held = self.locked();
        let Held {
            accounts,
            spent,
            looks,
        } = &mut *held;
        while let Some(spent) = spent.pop_front_if(|spent| spent.due <= now) {
            let Spent {
                account,
                lease,
                file,
                ..
            } = spent;
            if let Some(of) = accounts.get_mut(&account)
                && !lease.holds()
                && let Some(file) = file
            {
                if of.attempts.len() == MOST_ATTEMPTS {
                    of.attempts.pop_front();
                }
                let (inode, since) = (lease.inode(), now);
                of.attempts.push_back(Released { file, inode, since });
                looks.entry(account).or_insert(now + WRITTEN);
            }
        }
        let due = looks.extract_if(|_, due| *due <= now);
        due.map(|(account, _)| account).gather()
    }

    /// The same for the other files of the account that stay, all of them.
    pub(super) fn hold_beside(&self, account: &AccountName, leases: Vec<Lease>) {
        let mut held = self.locked();
        held.accounts.entry(account.clone()).or_default().beside = leases;
    }

    /// What was written to the files whose lease was broken, as far as that is known. Only as their owner.
    pub(super) fn attempts(&self, account: &AccountName, limit: u64) -> Vec<Attempt> {
        let released = match self.locked().accounts.get_mut(account) {
            Some(of) => std::mem::take(&mut of.attempts),
            None => return Vec::new(),
        };
        let (mut attempts, mut waits) = (Vec::new(), VecDeque::new());
        let mut youngest = None;
        for Released { file, inode, since } in released {
            match Lease::take(file, inode) {
                Ok(lease) => {
                    let file = lease.release();
                    let read = file.and_then(|file| read(&file, limit));
                    attempts.extend(read.map(|read| Attempt::Closed(inode, read)));
                }
                Err((NoLease::Busy, file)) if since.elapsed() < PATIENCE => {
                    youngest = Some(since);
                    waits.push_back(Released { file, inode, since });
                }
                Err(_) => attempts.push(Attempt::Open(inode)),
            }
        }
        let mut held = self.locked();
        if let Some(since) = youngest {
            let next = Instant::now() + since.elapsed().max(WRITTEN);
            held.looks.insert(account.clone(), next);
        }
        if let Some(of) = held.accounts.get_mut(account) {
            waits.append(&mut of.attempts);
            of.attempts = waits;
        }
        attempts
    }

    /// Gives back what is held of an account whose file is not to be kept as it is any more.
    pub fn forget(&self, account: &AccountName) {
        self.locked().accounts.remove(account);
    }

    /// Lets go of the accounts that are not to be kept.
    pub fn keep(&self, keep: impl Fn(&AccountName) -> bool) {
        self.locked().accounts.retain(|name, _| keep(name));
    }

    fn locked(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the start: the file was read before.
fn read(mut file: &File, limit: u64) -> Option<Bounded> {
    file.rewind().ok()?;
    Bounded::read_keys(file, limit, 0).ok()
}

impl Of {
    /// A writer waits until the lease is given back.
    fn is_awaited(&self) -> bool {
        let mut all = self.lease.iter().chain(&self.beside);
        all.any(|lease| !lease.holds())
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
        assert_eq!(leases.next_due(), None);
        leases.hold(&account, file(2));
        let due = leases.next_due().unwrap();
        leases.release(due.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(!is_writable(1));
        assert!(leases.release(due).is_empty());
        assert!(is_writable(1) && leases.next_due() == Some(due + WRITTEN));
        let looks = leases.release(due + WRITTEN);
        assert_eq!(looks, BTreeSet::from([account.clone()]));
        assert_eq!(leases.next_due(), None);
        assert_eq!(
            leases.attempts(&account, 9),
            [Attempt::Closed(
                (0, 1),
                Bounded {
                    bytes: b"right".to_vec(),
                    is_whole: true,
                    is_boiled: false,
                }
            )]
        );
        // However many writers have not closed their files: one look an account.
        let open = [4, 5, 6].map(|number| {
            let lease = file(number);
            assert!(!is_writable(number));
            leases.hold(&account, lease);
            leases.hold(&account, file(2));
            leases.release(Instant::now() + STILL_READ);
            let path = place.path().join(number.to_string());
            File::options().append(true).open(path).unwrap()
        });
        for _ in 0..3 {
            assert!(leases.attempts(&account, 9).is_empty());
            assert_eq!(leases.locked().looks.len(), 1);
        }
        drop(open);
        assert_eq!(leases.attempts(&account, 9).len(), 3);
        assert!(leases.broken().is_empty() && !is_writable(2));
        assert_eq!(leases.broken(), BTreeSet::from([account.clone()]));
        // Of this one no signal comes any more.
        let awaited = file(3);
        assert!(!is_writable(3));
        assert!(leases.hold(&account, awaited));
    }
}
