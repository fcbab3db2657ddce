//! What the service manager is told (`sd_notify(3)`), without waiting for it. Without one this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::host::Outbox;

/// To the socket of `NOTIFY_SOCKET`, whose queue is full where the manager hangs.
static MANAGER: Outbox = Outbox::new(
    |message| {
        let message = String::from_utf8_lossy(message);
        // A manager that cannot be told is no reason not to work, and there is nobody else to tell.
        let _ = sd_notify::notify(&[NotifyState::Custom(&message)]);
        true
    },
    |_| (),
);

/// The moments at which a loop says that it works.
#[derive(Debug)]
pub struct Heartbeat(Option<Interval>);

impl Heartbeat {
    /// The next one; never without a watchdog. Cancel-safe: however often it is waited for anew, it comes at its time.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(beats) => drop(beats.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// The service that this process is, or is not.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// How often systemd wants to hear that the loop works, if at all.
    watchdog: Option<Duration>,
    speaks: bool,
}

impl Service {
    /// As the environment says.
    #[expect(
        clippy::disallowed_methods,
        reason = "the library reads it too, but does not say whether it is set"
    )]
    pub fn of_this_process() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            speaks: std::env::var_os("NOTIFY_SOCKET").is_some(),
        }
    }

    /// For a half that is not what systemd started: it says nothing.
    pub fn silent() -> Self {
        Self {
            watchdog: None,
            speaks: false,
        }
    }

    /// When to say that the loop works: three times in the time that systemd allows.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat(self.watchdog.map(|allowed| {
            let every = allowed / 3;
            let mut beats = tokio::time::interval_at(Instant::now() + every, every);
            // After a long pass, which says so itself, one is enough.
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        }))
    }

    /// The loop works.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// The first pass is done, or a reload is.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// What is going on.
    pub fn says(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// SIGHUP was received.
    pub fn reloading(&self) {
        // systemd 253 and later want the time beside it; earlier ones ignore it.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]);
        }
    }

    /// SIGTERM was received.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.speaks {
            let states: Vec<String> = states.iter().map(ToString::to_string).collect();
            MANAGER.put(states.join("\n").into_bytes());
        }
    }
}

/// Waits until the manager has taken what it was told, no longer than `limit`.
pub fn flush(limit: Duration) {
    MANAGER.flush(limit);
}
