//! When to poll next.

use std::time::Duration;

/// Waits between polls: the configured time while all is well, growing while it is not.
#[derive(Clone, Copy, Debug)]
pub struct Cadence {
    /// Time between two polls that succeed.
    pub every: Duration,
    /// Polls in a row that failed.
    pub failures: u32,
}

/// However long a source is down, it is asked this often, so that recovery needs no person.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(10);

impl Cadence {
    /// A fresh start.
    pub fn new(every: Duration) -> Self {
        Self { every, failures: 0 }
    }

    /// After a poll.
    #[must_use]
    pub fn after(self, succeeded: bool) -> Self {
        Self {
            failures: if succeeded {
                0
            } else {
                self.failures.saturating_add(1)
            },
            ..self
        }
    }

    /// How long to wait now. `random` is uniform over all of `u64`; it spreads a fleet over ±10 % of a quiet
    /// wait, and over the upper half of a back-off (a full jitter would bring some retries at once).
    pub fn wait(self, random: u64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a fraction of a wait needs no 64 bits"
        )]
        let fraction = random as f64 / u64::MAX as f64;
        if self.failures == 0 {
            return self.every.mul_f64(0.9 + 0.2 * fraction);
        }
        let doubled = self.every.saturating_mul(1 << (self.failures - 1).min(16));
        let longest = doubled.min(LONGEST_BACK_OFF.max(self.every));
        longest.mul_f64(0.5 + 0.5 * fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_failing_and_recovers_at_once() {
        let every = Duration::from_mins(1);
        let mut cadence = Cadence::new(every);
        assert_eq!(cadence.wait(u64::MAX / 2).as_secs(), 60);
        let mut waits = Vec::new();
        for _ in 0..40 {
            cadence = cadence.after(false);
            waits.push(cadence.wait(u64::MAX).as_secs());
            assert!(cadence.wait(0) >= every / 2);
        }
        assert_eq!(waits[..5], [60, 120, 240, 480, 600]);
        assert_eq!(waits[39], 600);
        assert_eq!(cadence.after(true).wait(0).as_secs(), 54);
    }
}
