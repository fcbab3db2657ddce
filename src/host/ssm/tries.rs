//! A fetch that has had an answer goes on, though the account is throttled meanwhile.
//!
//! To begin it anew would cost the calls that it has had: of lists of 25 pages the hosts of a fleet would read first pages and
//! nothing else. The first call of a fetch is made once, and the fetch loop backs off.

use std::time::Duration;

use tokio::time::Instant;

use super::connect::Limits;
use crate::model::list::cadence::pause;

/// The tries of the next call of a fetch.
pub struct Tries {
    /// When the fetch ends, whatever it has.
    pub end: Instant,
    /// The pauses of one call may take as long as the call itself.
    limit: Duration,
    /// Whether a call was answered.
    begun: bool,
    throttled: u32,
    paused: Duration,
}

impl Tries {
    /// Of a fetch that begins now.
    pub fn new(limits: Limits) -> Self {
        Self {
            end: Instant::now() + limits.fetch,
            limit: limits.operation,
            begun: false,
            throttled: 0,
            paused: Duration::ZERO,
        }
    }

    /// After an answer.
    pub fn answered(&mut self) {
        self.begun = true;
        self.throttled = 0;
        self.paused = Duration::ZERO;
    }

    /// After a call that was throttled: pauses, and returns whether it is to be made again.
    pub async fn go_on(&mut self) -> bool {
        self.throttled += 1;
        let random = getrandom::u64().unwrap_or_default();
        let pause = pause(self.throttled, random);
        self.paused += pause;
        let is_in_time = self.paused <= self.limit && Instant::now() + pause < self.end;
        let goes_on = self.begun && is_in_time;
        if goes_on {
            tokio::time::sleep(pause).await;
        }
        goes_on
    }
}
