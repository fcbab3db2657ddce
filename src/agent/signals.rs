//! What both loops need before they begin: the lock, and an ear for signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::process::LockError;
use crate::host::store::StoreError;

/// Why a half did not start. Each says which half: enforcer or fetcher.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One at a time.
    #[error("the {0} cannot start")]
    Lock(&'static str, #[source] LockError),
    /// One of its directories.
    #[error("the {0} cannot start")]
    Directory(&'static str, #[source] StoreError),
    /// Root's groups would be used for work done as an account.
    #[error("the enforcer cannot give up root's supplementary groups")]
    Groups(#[source] std::io::Error),
    /// Signals cannot be listened to.
    #[error("the {0} cannot listen to signals")]
    Signals(&'static str, #[source] std::io::Error),
}

/// The signals that mean something to a loop.
pub struct Signals {
    hang_up: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP: do it now, and read the config again.
    Reload,
    /// SIGUSR1, from `sync`: the same, and only this half.
    Sync,
    /// SIGTERM or SIGINT: end cleanly.
    Stop,
}

impl Signals {
    /// Before the lock is taken: who has it must live through the signals that it is sent.
    pub fn listen(who: &'static str) -> Result<Self, StartError> {
        let to = |kind| signal(kind).map_err(|error| StartError::Signals(who, error));
        Ok(Self {
            hang_up: to(SignalKind::hangup())?,
            user: to(SignalKind::user_defined1())?,
            terminate: to(SignalKind::terminate())?,
            interrupt: to(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Cancel-safe: one that comes meanwhile is kept.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::Sync,
            () = Self::stop(&mut self.terminate, &mut self.interrupt) => Asked::Stop,
        }
    }

    /// Returns when the loop is to end. Cancel-safe like [`next`](Self::next).
    pub(super) async fn stopped(&mut self) {
        Self::stop(&mut self.terminate, &mut self.interrupt).await;
    }

    async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
