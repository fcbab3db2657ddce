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

    /// The next accounts to whose files somebody wants to write. Cancel-safe: a signal that comes meanwhile is kept.
    pub(super) async fn next(&mut self) -> BTreeSet<AccountName> {
        loop {
            match self.due {
                None => {
                    self.heard.recv().await;
                    self.due = Some(self.rests_until);
                }
                Some(due) => {
                    sleep_until(due).await;
                    self.due = None;
                    let begun = Instant::now();
                    let broken = self.leases.broken();
                    self.rests_until = begun + begun.elapsed() * SHARE;
                    if !broken.is_empty() {
                        return broken;
                    }
                }
            }
        }
    }
}
