//! Accounts that plant a key again and again, by processes of their own: for a while nothing can be changed there at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::model::account::AccountName;
use crate::model::sorting::Gather;

/// So many changes within [`WITHIN`] are no mistake.
const CHANGES: usize = 5;
const WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// The first lock; each further one takes four times as long, up to [`LONGEST`].
const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// The accounts that fight, or lately did.
#[derive(Debug, Default)]
pub struct Fights(BTreeMap<AccountName, Fight>);

/// What an account does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fight {
    /// The last changes.
    lately: VecDeque<Timestamp>,
    /// How many there were in all.
    pub times: u64,
    /// When the first lock began.
    pub since: Option<Timestamp>,
    /// Until when the last lock lasts, or lasted, and how long that is.
    pub until: Option<Timestamp>,
    length: SignedDuration,
    opens_at: Option<Instant>,
    /// Why it cannot be locked.
    pub cannot: Option<String>,
    /// When it was last found out that a program of root's does it.
    rival_at: Option<Timestamp>,
}

impl Fights {
    /// The account changed its file, once or as good as `weight` times, and that was undone.
    pub fn came(&mut self, account: &AccountName, weight: usize, now: Timestamp) {
        let fight = self.0.entry(account.clone()).or_default();
        fight.times += 1;
        for _ in 0..weight.min(CHANGES) {
            if fight.lately.len() == CHANGES {
                fight.lately.pop_front();
            }
            fight.lately.push_back(now);
        }
    }

    /// What is as good as a fight: a hold on the file for ever is no mistake either.
    pub fn came_to_stay(&mut self, account: &AccountName, now: Timestamp) {
        self.came(account, CHANGES, now);
    }

    /// True for an account that is to be locked, if it is the account that does it.
    pub fn is_suspect(&self, account: &AccountName, now: Timestamp) -> bool {
        let Some(fight) = self.0.get(account) else {
            return false;
        };
        if fight.cannot.is_some() || fight.is_locked(now) || fight.is_rival(now) {
            return false;
        }
        let last = fight.lately.back();
        // Once it was locked, the next change is enough for as long again.
        let goes_on = match (fight.until, last) {
            (Some(until), Some(last)) => *last >= until && now < until + fight.length,
            _ => false,
        };
        let is_fast = fight.lately.len() == CHANGES
            && fight
                .lately
                .front()
                .is_some_and(|first| now < *first + WITHIN);
        goes_on || is_fast
    }

    /// It is the account: it is locked from now on, and longer each time.
    pub fn lock(&mut self, account: &AccountName, now: Timestamp, instant: Instant) {
        let fight = self.0.entry(account.clone()).or_default();
        fight.length = if fight.length.is_zero() {
            FIRST
        } else {
            (fight.length * 4).min(LONGEST)
        };
        fight.since.get_or_insert(now);
        fight.until = Some(now + fight.length);
        let length = Duration::try_from(fight.length).unwrap_or_default();
        // A moment later, or it would not be over yet.
        fight.opens_at = Some(instant + length + Duration::from_millis(50));
        fight.lately.clear();
    }

    /// It is not: a program of root's does it.
    pub fn dismiss(&mut self, account: &AccountName, now: Timestamp) {
        if let Some(fight) = self.0.get_mut(account) {
            fight.rival_at = Some(now);
        }
    }

    /// True while that is known: to wait for the other program lets nobody in.
    pub fn is_rival(&self, account: &AccountName, now: Timestamp) -> bool {
        self.0.get(account).is_some_and(|fight| fight.is_rival(now))
    }

    /// Its file system knows no flag, or something else is in the way: that is not tried again for as long as the longest lock.
    pub fn cannot_lock(&mut self, account: &AccountName, why: String, now: Timestamp) {
        let fight = self.0.entry(account.clone()).or_default();
        fight.cannot = Some(why);
        (fight.until, fight.opens_at) = (Some(now), None);
        fight.length = LONGEST;
    }

    pub fn cannot_be_locked(&self, account: &AccountName) -> bool {
        self.0
            .get(account)
            .is_some_and(|fight| fight.cannot.is_some())
    }

    pub fn is_locked(&self, account: &AccountName, now: Timestamp) -> bool {
        self.0
            .get(account)
            .is_some_and(|fight| fight.is_locked(now))
    }

    /// How long the lock of an account still lasts.
    pub fn seconds_left(&self, account: &AccountName, now: Timestamp) -> Option<i64> {
        let fight = self.0.get(account).filter(|fight| fight.is_locked(now))?;
        Some(fight.until?.duration_since(now).as_secs())
    }

    /// When the next lock is over.
    pub fn next_end(&self) -> Option<Instant> {
        self.0.values().filter_map(|fight| fight.opens_at).min()
    }

    /// Accounts whose lock has just ended.
    pub fn ended(&mut self, now: Instant) -> BTreeSet<AccountName> {
        let mut ended = BTreeSet::new();
        for (name, fight) in &mut self.0 {
            if fight.opens_at.take_if(|at| *at <= now).is_some() {
                ended.insert(name.clone());
            }
        }
        ended
    }

    /// Accounts that fight, and those that lately did.
    pub fn all(&self) -> impl Iterator<Item = (&AccountName, &Fight)> {
        self.0
            .iter()
            .filter(|(_, fight)| fight.since.is_some() || fight.cannot.is_some())
    }

    /// Forgets what has been quiet for a minute, and for as long again as the last lock.
    pub fn forget(&mut self, now: Timestamp) -> BTreeSet<AccountName> {
        let is_over = |fight: &Fight| {
            let last = fight.lately.back().copied().max(fight.until);
            last.is_none_or(|last| now >= last + fight.length.max(SignedDuration::from_mins(1)))
        };
        let over = self.0.iter().filter(|(_, fight)| is_over(fight));
        let over: BTreeSet<AccountName> = over.map(|(name, _)| name.clone()).gather();
        self.0.retain(|name, _| !over.contains(name));
        over
    }
}

impl Fight {
    fn is_rival(&self, now: Timestamp) -> bool {
        self.rival_at.is_some_and(|at| now < at + WITHIN)
    }

    fn is_locked(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn alice() -> AccountName {
        "alice".try_into().unwrap()
    }

    #[test]
    fn who_changes_it_again_and_again_is_locked_out_longer_each_time() {
        let mut fights = Fights::default();
        for second in 0..4 {
            fights.came(&alice(), 1, at(second));
            assert!(!fights.is_suspect(&alice(), at(second)), "{second}");
        }
        fights.came(&alice(), 1, at(4));
        assert!(fights.is_suspect(&alice(), at(4)));
        assert!(!fights.is_suspect(&alice(), at(10)), "too slow for a fight");
        let mut now = 4;
        for length in [10, 40, 160, 640, 2560, 3600, 3600] {
            fights.lock(&alice(), at(now), Instant::now());
            assert!(fights.next_end().is_some() && fights.ended(Instant::now()).is_empty());
            assert!(fights.is_locked(&alice(), at(now + length - 1)));
            assert!(!fights.is_locked(&alice(), at(now + length)));
            now += length + 1;
            assert!(!fights.is_suspect(&alice(), at(now)));
            fights.came(&alice(), 1, at(now));
            assert!(fights.is_suspect(&alice(), at(now)), "one more is enough");
        }
    }

    #[test]
    fn what_has_been_quiet_is_forgotten() {
        let mut fights = Fights::default();
        fights.came(&alice(), 1, at(0));
        assert!(fights.forget(at(59)).is_empty());
        assert_eq!(fights.forget(at(60)).len(), 1);
        fights.came_to_stay(&alice(), at(100));
        assert!(fights.is_suspect(&alice(), at(100)));
        fights.lock(&alice(), at(100), Instant::now());
        assert!(fights.forget(at(169)).is_empty());
        assert_eq!(fights.all().count(), 1);
        assert_eq!(fights.forget(at(170)).len(), 1);
    }

    #[test]
    fn a_rival_and_what_cannot_be_locked_are_left_alone() {
        let mut fights = Fights::default();
        fights.came_to_stay(&alice(), at(0));
        fights.dismiss(&alice(), at(0));
        assert!(!fights.is_suspect(&alice(), at(0)) && fights.is_rival(&alice(), at(9)));
        fights.came_to_stay(&alice(), at(10));
        assert!(fights.is_suspect(&alice(), at(10)), "asked anew");
        fights.lock(&alice(), at(10), Instant::now());
        fights.cannot_lock(&alice(), "no flags".to_owned(), at(10));
        fights.came_to_stay(&alice(), at(11));
        assert!(!fights.is_suspect(&alice(), at(11)));
        assert!(!fights.is_locked(&alice(), at(11)));
        assert!(fights.forget(at(3609)).is_empty() && fights.cannot_be_locked(&alice()));
        assert_eq!(fights.forget(at(3611)).len(), 1, "then it is tried again");
    }
}
