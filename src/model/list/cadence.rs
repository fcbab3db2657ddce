//! When to ask the source next.
//!
//! Each host decides alone, and the hosts of an account share its limit of calls: so after whatever brought them
//! together (a start, a push, an outage) the next wait spreads them, and who is throttled asks less for a while.
//! `tests/fleet` shows what that does to fleets of 10 to 1,000,000.

use std::time::Duration;

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// The list does not fit its signature: it is being published, or was changed.
    Unsettled,
    Failed,
    /// The source answered, and only that the account asks it too much.
    Throttled,
}

/// Waits between polls: the configured time while all is well, growing while it is not.
#[derive(Clone, Copy, Debug)]
pub struct Cadence {
    /// Time between two polls that succeed, as configured.
    every: Duration,
    /// The same as the account's limit allows it: `every`, or longer while polls are throttled.
    pace: Duration,
    /// The longest that it gets.
    slowest: Duration,
    last: Outcome,
    /// Polls in a row that ended like the last one.
    streak: u32,
    /// Polls since one was asked for, perhaps of the whole fleet in the same second.
    polls: u32,
}

/// However long a source is down, it is asked this often, so that recovery needs no person.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(10);

/// However much the account is throttled, this host has its turn; and before its list is stale, for it may be answered each time.
const SLOWEST_PACE: Duration = Duration::from_hours(1);

/// How long a list that is being published is waited for, the first time.
const SOONER: Duration = Duration::from_secs(5);

/// The longest pause in a list that is half read.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

impl Cadence {
    /// A fresh start. `stale_after`: how old the list may get.
    pub fn new(every: Duration, stale_after: Duration) -> Self {
        Self {
            every,
            pace: every,
            slowest: SLOWEST_PACE.min(stale_after / 2).max(every * 2),
            last: Outcome::Succeeded,
            streak: 0,
            polls: 0,
        }
    }

    /// When a poll is asked for, perhaps with other settings. Throttled hosts that are all asked stay slow.
    #[must_use]
    pub fn asked(self, every: Duration, stale_after: Duration) -> Self {
        let new = Self::new(every, stale_after);
        if (new.every, new.slowest) == (self.every, self.slowest) {
            Self { polls: 0, ..self }
        } else {
            new
        }
    }

    /// After a poll. A throttled one makes the pace slower by `every`, as much for a host that is fast as for one that is
    /// slow, and those in a row that succeed make it faster by a tenth, two tenths, and so on: so the hosts of a fleet
    /// that asks too much come to the same pace, and back to `every` when there is room again.
    #[must_use]
    pub fn after(self, outcome: Outcome) -> Self {
        let streak = if outcome == self.last {
            self.streak.saturating_add(1)
        } else {
            1
        };
        let pace = match outcome {
            Outcome::Succeeded => (self.pace * (10 - streak.min(5)) / 10).max(self.every),
            Outcome::Failed | Outcome::Unsettled => self.pace,
            Outcome::Throttled => (self.pace + self.every).min(self.slowest),
        };
        Self {
            pace,
            last: outcome,
            streak,
            polls: self.polls.saturating_add(1),
            ..self
        }
    }

    /// How long to wait now; `random` is uniform over all of `u64`.
    pub fn wait(self, random: u64) -> Duration {
        match self.last {
            Outcome::Succeeded if self.polls > 1 => self.pace.mul_f64(0.9 + 0.2 * fraction(random)),
            Outcome::Succeeded => spread(self.pace, random),
            Outcome::Unsettled => spread(doubled(SOONER, self.streak).min(self.pace), random),
            // A spread wait is half as long on average: twice the pace, and a long outage ends without a rush.
            Outcome::Failed => {
                let longest = LONGEST_BACK_OFF.max(self.pace * 2);
                spread(doubled(self.pace, self.streak).min(longest), random)
            }
            // The first time over a whole `every`, for this may be a fleet that was brought together. Then it has waited, and
            // has its turn before a host that had one.
            Outcome::Throttled if self.streak == 1 => spread(self.pace / 2, random),
            Outcome::Throttled => spread(self.pace / 4, random),
        }
    }
}

/// How long to wait before a call that was throttled `tries` times is made again, in a list that is half read: to begin it
/// anew would cost the calls that it has had.
pub fn pause(tries: u32, random: u64) -> Duration {
    let longest = doubled(Duration::from_secs(1), tries).min(LONGEST_PAUSE);
    spread(longest, random)
}

/// Twice as long each time, from the second.
fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16))
}

/// Spreads a fleet over all of a wait; but nothing is asked again at once.
fn spread(longest: Duration, random: u64) -> Duration {
    longest.mul_f64(0.1 + 0.9 * fraction(random))
}

/// From 0 to 1.
fn fraction(random: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a fraction of a wait needs no 64 bits"
    )]
    let fraction = random as f64 / u64::MAX as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_mins(1);
    const STALE_AFTER: Duration = Duration::from_hours(1);

    /// The shortest and the longest wait, in seconds.
    fn range(cadence: Cadence) -> (u64, u64) {
        (cadence.wait(0).as_secs(), cadence.wait(u64::MAX).as_secs())
    }

    fn after(outcomes: &[(Outcome, u32)]) -> Cadence {
        let each = outcomes
            .iter()
            .flat_map(|&(outcome, times)| (0..times).map(move |_| outcome));
        each.fold(Cadence::new(EVERY, STALE_AFTER), Cadence::after)
    }

    #[test]
    fn waits_as_long_as_the_last_polls_say() {
        use Outcome::{Failed, Succeeded, Throttled};
        let check = |outcomes: &[(Outcome, u32)], expected| {
            assert_eq!(range(after(outcomes)), expected, "{outcomes:?}");
        };
        // All that started at once are spread over the first wait, and stay so.
        check(&[(Succeeded, 1)], (6, 60));
        check(&[(Succeeded, 2)], (54, 66));
        check(&[(Succeeded, 1_000)], (54, 66));
        // A source that is down is asked at least every ten minutes, and one success ends it.
        check(&[(Failed, 1)], (6, 60));
        check(&[(Failed, 2)], (12, 120));
        check(&[(Failed, 4)], (48, 480));
        check(&[(Failed, 5)], (60, 600));
        check(&[(Failed, u32::from(u16::MAX))], (60, 600));
        check(&[(Failed, 40), (Succeeded, 1)], (54, 66));
        // A throttled host has another turn soon, and then leaves the others theirs.
        check(&[(Succeeded, 9), (Throttled, 1)], (6, 60));
        check(&[(Succeeded, 9), (Throttled, 2)], (4, 45));
        check(&[(Succeeded, 9), (Throttled, 3)], (6, 60));
        check(&[(Succeeded, 9), (Throttled, 1), (Succeeded, 1)], (97, 118));
        check(&[(Succeeded, 9), (Throttled, 1), (Succeeded, 3)], (54, 66));
        check(&[(Throttled, 1_000)], (45, 450));
        check(&[(Throttled, 1_000), (Succeeded, 1)], (1_458, 1_782));
        check(&[(Throttled, 1_000), (Succeeded, 9)], (54, 66));
        // An outage of an account that is throttled does not hurry it.
        check(&[(Throttled, 1_000), (Failed, 40)], (360, 3_600));
    }

    /// Else the list of a host that is answered would be stale, and with `on-stale = "revoke"` its keys go.
    #[test]
    fn a_throttled_host_that_is_answered_polls_before_its_list_is_stale() {
        let minutes = Duration::from_mins;
        for (every, stale_after, expected) in [
            (minutes(1), minutes(60), minutes(30)),
            (minutes(1), minutes(10), minutes(5)),
            (minutes(1), minutes(24 * 60), minutes(60)),
            // What polls so seldom has its own reason.
            (minutes(10), minutes(15), minutes(20)),
            (minutes(60), minutes(180), minutes(120)),
        ] {
            let cadence = Cadence::new(every, stale_after);
            let slow = (0..1_000).fold(cadence, |cadence, _| cadence.after(Outcome::Throttled));
            assert_eq!(slow.pace, expected, "{every:?} {stale_after:?}");
        }
    }

    #[test]
    fn a_poll_that_is_asked_for_spreads_the_next_one_and_forgives_nothing() {
        let slow = after(&[(Outcome::Throttled, 3)]);
        let asked = slow.asked(EVERY, STALE_AFTER).after(Outcome::Succeeded);
        assert_eq!(range(asked), (21, 216));
        let quick = slow.asked(EVERY / 2, STALE_AFTER).after(Outcome::Succeeded);
        assert_eq!(range(quick), (3, 30));
        let failing = after(&[(Outcome::Failed, 9)]).asked(EVERY, STALE_AFTER);
        assert_eq!(range(failing.after(Outcome::Failed)), (60, 600));
    }

    #[test]
    fn a_page_is_asked_for_again_sooner_than_a_list() {
        let pauses = [1, 2, 3, 4, 40].map(|tries| pause(tries, u64::MAX).as_secs());
        assert_eq!(pauses, [1, 2, 4, 4, 4]);
        assert_eq!(pause(1, 0), Duration::from_millis(100));
    }
}
