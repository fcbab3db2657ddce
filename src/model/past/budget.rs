//! How much is said of one account in the journal: a burst, and then one line a second, whatever kind of line it is.
//!
//! An account can change its files hundreds of times a second. journald drops lines of a service that says too much, and
//! would drop those about other accounts (`journald.conf(5)`, `RateLimitBurst=`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::account::AccountName;

/// Lines that are said as they come: what a first list, or a day of tinkering, gives rise to.
const BURST: u32 = 30;

/// After that, one line in this time.
const PACE: Duration = Duration::from_secs(1);

/// An account of which nothing was to be said for so long has calmed down.
const QUIET: Duration = Duration::from_mins(1);

/// What was said lately, account by account.
#[derive(Debug, Default)]
pub struct Budget {
    accounts: BTreeMap<AccountName, Spent>,
}

#[derive(Debug)]
struct Spent {
    /// When the lines that were said will be paid for, each with [`PACE`].
    paid: Instant,
    /// When the last line came.
    last: Instant,
    /// Lines since the last one that was said.
    unsaid: u64,
}

impl Budget {
    /// Whether a line about this account is said: then how many before it were not.
    pub fn may_say(&mut self, account: &AccountName, now: Instant) -> Option<u64> {
        let fresh = || Spent {
            paid: now,
            last: now,
            unsaid: 0,
        };
        let spent = self.accounts.entry(account.clone()).or_insert_with(fresh);
        spent.last = now;
        let paid = spent.paid.max(now) + PACE;
        if paid > now + PACE * BURST {
            spent.unsaid += 1;
            return None;
        }
        spent.paid = paid;
        Some(std::mem::take(&mut spent.unsaid))
    }

    /// Forgets accounts that have calmed down, and returns of which of them how many lines were never said.
    pub fn calmed(&mut self, now: Instant) -> Vec<(AccountName, u64)> {
        let mut unsaid = Vec::new();
        self.accounts.retain(|account, spent| {
            let is_calm = now.saturating_duration_since(spent.last) >= QUIET;
            if is_calm && spent.unsaid > 0 {
                unsaid.push((account.clone(), spent.unsaid));
            }
            !is_calm
        });
        unsaid
    }

    /// When an account of which something was not said will have calmed down.
    pub fn calm_at(&self) -> Option<Instant> {
        let owing = self.accounts.values().filter(|spent| spent.unsaid > 0);
        owing.map(|spent| spent.last + QUIET).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_once_a_second_and_what_was_not_is_counted() {
        let [alice, bob] = ["alice", "bob"].map(|name| AccountName::try_from(name).unwrap());
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut budget = Budget::default();
        let (mut said, mut not_said) = (0_u64, 0);
        for number in 0..1000 {
            if let Some(before) = budget.may_say(&alice, at(number * 10)) {
                (said, not_said) = (said + 1, not_said + before);
            }
        }
        assert_eq!(said, 30 + 9, "a burst, then one a second");
        assert_eq!(budget.may_say(&bob, at(9_990)), Some(0), "another's own");
        assert_eq!(budget.calm_at(), Some(at(9_990 + 60_000)));
        assert_eq!(budget.calmed(at(69_989)), []);
        let rest = budget.calmed(at(69_990));
        assert_eq!(rest, [(alice.clone(), 1000 - said - not_said)]);
        assert_eq!((budget.calm_at(), budget.accounts.len()), (None, 0));
        // Half a minute without a line is half a minute's worth of lines.
        let said = |budget: &mut Budget, from: u64| {
            let lines = (0..100).filter_map(|_| budget.may_say(&alice, at(from)));
            lines.count()
        };
        assert_eq!(said(&mut budget, 100_000), 30);
        assert_eq!(said(&mut budget, 115_000), 15);
        assert_eq!(said(&mut budget, 115_999), 0);
        assert_eq!(said(&mut budget, 116_000), 1);
    }
}
