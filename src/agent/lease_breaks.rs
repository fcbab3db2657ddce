//! Hearing that somebody wants to write to a managed file, and waits in the kernel until the agent gives its lease back.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::host::keyfile::Leases;
use crate::model::account::AccountName;

/// The signal does not say which lease it is about, so all are asked. Whoever waits loses nothing by waiting a little
/// longer, so that takes no more than this part of the time.
const SHARE: u32 = 50;

/// The leases, and an ear for the signal that one of them is to be given back.
pub(super) struct LeaseBreaks {
    pub(super) leases: Arc<Leases>,
    heard: Signal,
    due: Option<Instant>,
    rests_until: Instant,
}

impl LeaseBreaks {
    /// To be called before there is a lease: the signal ends a process that does not listen to it.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            leases: Arc::default(),
            heard: signal(SignalKind::io())?,
            due: None,
            rests_until: Instant::now(),
        })
    }

    /// The next accounts to whose files somebody wants to write, or did in vain. Gives leases back meanwhile that are spent.
    /// Cancel-safe: a signal that comes meanwhile is kept.
    pub(super) async fn next(&mut self) -> BTreeSet<AccountName> {
        loop {
            let release = self.leases.next_due().map(Instant::from_std);
            let (due, now) = (self.due, Instant::now());
            // Both signals and sleeping are cancel-safe.
            tokio::select! {
                _ = self.heard.recv(), if due.is_none() => self.due = Some(self.rests_until),
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {
                    self.due = None;
                    let begun = Instant::now();
                    let broken = self.leases.broken();
                    self.rests_until = begun + begun.elapsed() * SHARE;
                    if !broken.is_empty() {
                        return broken;
                    }
                }
                () = sleep_until(release.unwrap_or(now)), if release.is_some() => {
                    let written = self.leases.release(Instant::now().into_std());
                    if !written.is_empty() {
                        return written;
                    }
                }
            }
        }
    }
}
