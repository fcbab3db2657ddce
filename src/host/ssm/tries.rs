//! A list that is half read is read to its end, though the account is throttled meanwhile.
//!
//! To begin it anew would cost the calls that it has had: of a list of 25 pages the hosts of a fleet would read first pages
//! and nothing else. The first call of a list is made once, and the fetch loop backs off.

use std::time::Duration;

use crate::model::list::cadence::pause;

/// The tries of the next call of a list.
pub struct Tries {
    /// The pauses of one call may take as long as the call itself.
    limit: Duration,
    /// Whether a call of this list was answered.
    begun: bool,
    throttled: u32,
    paused: Duration,
}

impl Tries {
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            begun: false,
            throttled: 0,
            paused: Duration::ZERO,
        }
    }

    /// After an answer.
    pub fn answered(&mut self) {
        *self = Self {
            begun: true,
            ..Self::new(self.limit)
        };
    }

    /// After a call that was throttled: pauses, and returns whether it is to be made again.
    pub async fn go_on(&mut self) -> bool {
        self.throttled += 1;
        let random = getrandom::u64().unwrap_or_default();
        let pause = pause(self.throttled, random);
        self.paused += pause;
        let goes_on = self.begun && self.paused <= self.limit;
        if goes_on {
            tokio::time::sleep(pause).await;
        }
        goes_on
    }
}
