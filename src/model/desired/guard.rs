//! The guard: the removals of a list that takes away too much wait, because an outage looks like that.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::tables::{Confirm, Guard};
use crate::model::desired::in_force::{self, Account, Holding, InForce, Step};
use crate::model::desired::judge::Desired;
use crate::model::key::grant::Grant;
use crate::model::key::id::KeyId;
use crate::model::sorting::Gather;

/// What to do with a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enforce it.
    Apply,
    /// Add its keys, and remove none.
    Hold(Held),
}

/// Why the removals of a list wait, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// Keys it would take away on this host.
    pub removed: usize,
    /// Keys in force on this host, without those that lists have brought lately.
    pub of: usize,
    /// Of `removed`, and of `of`: keys that went a short while ago, so that step by step no more goes than at once.
    #[serde(default)]
    pub gone: usize,
    /// How often in a row the list has come.
    pub seen: u32,
    /// How often it must come to apply; `None` when only a person can let it through.
    pub needed: Option<u32>,
    /// It has no key at all: then comments in the place of keys let it through, too.
    #[serde(default)]
    pub is_empty: bool,
    /// Since when a list is held.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// About when it applies, if it stays as it is.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// The first keys that wait to be removed.
    #[serde(default)]
    pub keys: Vec<HeldKey>,
}

/// A key that is on a list no more and stays while that is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldKey {
    pub account: AccountName,
    #[serde(flatten)]
    pub key: KeyId,
}

/// What the verdict depends on beside the list itself.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// The `[guard]` table.
    pub guard: &'a Guard,
    /// Time between two polls.
    pub every: Duration,
    /// How often in a row this same list has come, and since when one is held.
    pub holding: &'a Holding,
    /// True after `sync --accept-removals` for this same list.
    pub accepted: bool,
    /// True for the accounts that exist on this host and are managed.
    pub exists: &'a dyn Fn(&AccountName) -> bool,
    /// True for the accounts that are left without keys on purpose.
    pub buried: &'a dyn Fn(&AccountName) -> bool,
    /// An expired key is gone already; taking it off the list removes nothing.
    pub now: Timestamp,
}

/// Keys that go, of those that are there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub removed: usize,
    pub of: usize,
}

/// What a list takes away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toll {
    /// Of all keys in force.
    pub all: Count,
    /// Of those without the ones that lists have [brought](Account::brought) lately.
    pub settled: Count,
    /// Of all keys, those of accounts that the list does not leave without keys on purpose.
    unexplained: usize,
}

/// How many of the keys that wait are named.
const NAMED: usize = 5;

/// Without a person's word no more goes in a day than may go at once.
const A_DAY: SignedDuration = SignedDuration::from_hours(24);

impl Count {
    fn add(&mut self, removed: usize, of: usize) {
        self.removed += removed;
        self.of += of;
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of keys; nobody has 2^52 of them"
    )]
    fn exceeds(self, share: f64) -> bool {
        self.removed as f64 > share * self.of as f64
    }
}

impl Guard {
    /// True for a list that has come so often that its removals need no person.
    pub fn lets_through(&self, seen: u32) -> bool {
        self.confirm == Confirm::Polls && seen >= self.confirmations
    }

    /// How long what a list took away at once counts with what the next ones do: as long as a list that takes more waits.
    pub fn remembers(&self, every: Duration) -> SignedDuration {
        match self.confirm {
            Confirm::Person => A_DAY,
            Confirm::Polls => {
                let all = every.saturating_mul(self.confirmations);
                SignedDuration::try_from(all).unwrap_or(SignedDuration::MAX)
            }
        }
    }
}

/// Counts what `desired` would take away. A key counts once for each account of this host that has it; what cannot be read in
/// the files of an account that has just joined counts too, as it goes with the rest.
pub fn toll(in_force: &InForce, desired: &Desired, circumstances: Circumstances<'_>) -> Toll {
    let mut toll = Toll::default();
    for (name, account) in present(in_force, circumstances) {
        let next = next(in_force, desired, name);
        let brought: HashSet<&str> = account.brought.iter().map(String::as_str).collect();
        let mut all = Count::default();
        let good = account.grants.iter();
        for grant in good.filter(|grant| grant.is_good_at(circumstances.now)) {
            let removed = usize::from(!next.contains(grant.fingerprint.as_str()));
            all.add(removed, 1);
            if !brought.contains(grant.fingerprint.as_str()) {
                toll.settled.add(removed, 1);
            }
        }
        all.add(account.obscure, account.obscure);
        toll.settled.add(account.obscure, account.obscure);
        toll.all.add(all.removed, all.of);
        if !(circumstances.buried)(name) {
            toll.unexplained += all.removed;
        }
    }
    toll
}

/// Judges a list by its `toll`. A tombstone says that its account is left without keys on purpose,
/// so with tombstones for all that go even a list without any key applies; but whoever writes the list can write them, so they
/// wait as every removal does.
pub fn judge(
    in_force: &InForce,
    desired: &Desired,
    circumstances: Circumstances<'_>,
    toll: Toll,
) -> Verdict {
    let Circumstances {
        guard,
        every,
        holding,
        accepted,
        exists,
        now,
        ..
    } = circumstances;
    if toll.all.removed == 0 || accepted {
        return Verdict::Apply;
    }
    let has_keys = |on_host: bool| {
        desired
            .grants
            .iter()
            .filter(|(account, _)| !on_host || exists(account))
            .any(|(_, grants)| grants.iter().any(|grant| grant.is_good_at(now)))
    };
    let is_empty = !has_keys(false) && toll.unexplained > 0;
    let needed = match guard.confirm {
        Confirm::Polls if !is_empty => Some(guard.confirmations),
        Confirm::Polls | Confirm::Person => None,
    };
    if needed.is_some() && guard.lets_through(holding.seen) {
        return Verdict::Apply;
    }
    let is_recent = |step: &&Step| in_force::is_recent(step.at, now, guard.remembers(every));
    let recent = in_force.steps.iter().filter(is_recent);
    let gone: usize = recent.map(|step| step.removed).sum();
    let steady = Count {
        removed: toll.settled.removed + gone,
        of: toll.settled.of + gone,
    };
    let is_much = |count: Count| count.exceeds(guard.max_removed);
    let (Count { removed, of }, gone) = match (is_much(steady), is_much(toll.all)) {
        (false, false) if has_keys(true) => return Verdict::Apply,
        (false, true) => (toll.all, 0),
        _ => (steady, gone),
    };
    let polls = needed.map(|needed| needed.saturating_sub(holding.seen));
    let left = polls.and_then(|polls| SignedDuration::try_from(every.saturating_mul(polls)).ok());
    Verdict::Hold(Held {
        removed,
        of,
        gone,
        seen: holding.seen,
        needed,
        is_empty,
        since: holding.since,
        until: left.and_then(|left| holding.counted_at.checked_add(left).ok()),
        keys: waiting(in_force, desired, circumstances),
    })
}

fn present<'a>(
    in_force: &'a InForce,
    circumstances: Circumstances<'a>,
) -> impl Iterator<Item = (&'a AccountName, &'a Account)> {
    let managed = in_force.managed();
    managed.filter(move |(name, _)| (circumstances.exists)(name))
}

/// The keys that it has then: those of the break-glass file stay, whatever the list says.
fn next<'a>(in_force: &'a InForce, desired: &'a Desired, name: &AccountName) -> BTreeSet<&'a str> {
    let grants = desired.keys_of(name).iter().chain(&in_force.break_glass);
    grants.map(|grant| grant.fingerprint.as_str()).gather()
}

/// The first keys that wait.
fn waiting(
    in_force: &InForce,
    desired: &Desired,
    circumstances: Circumstances<'_>,
) -> Vec<HeldKey> {
    let mut named = Vec::new();
    for (name, account) in present(in_force, circumstances) {
        let next = next(in_force, desired, name);
        let goes = |grant: &&Grant| {
            grant.is_good_at(circumstances.now) && !next.contains(grant.fingerprint.as_str())
        };
        for grant in account.grants.iter().filter(goes) {
            named.push(HeldKey {
                account: name.clone(),
                key: KeyId::from(grant),
            });
            if named.len() == NAMED {
                return named;
            }
        }
    }
    named
}

impl Held {
    /// Of a list that no poll has found yet.
    #[must_use]
    pub fn foreseen(self) -> Self {
        Self {
            seen: 0,
            since: None,
            until: None,
            ..self
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { removed, of, .. } = self;
        write!(
            f,
            "the list would remove {removed} of {of} keys on this host"
        )?;
        if self.gone > 0 {
            write!(f, ", with the {} that went lately", self.gone)?;
        }
        for (at, HeldKey { account, key }) in self.keys.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{key} of {account}")?;
        }
        let waiting = removed.saturating_sub(self.gone);
        let more = waiting.saturating_sub(self.keys.len());
        if more > 0 && !self.keys.is_empty() {
            write!(f, " and {more} more")?;
        }
        f.write_str("; so it is held")?;
        if let Some(since) = self.since {
            write!(f, " since {since:.0}")?;
        }
        f.write_str(": what it adds comes at once, and these keys stay")?;
        match self.needed {
            Some(needed) => {
                let seen = self.seen.min(needed);
                write!(
                    f,
                    " until {needed} polls in a row have found it ({seen} so far)"
                )?;
            }
            None if self.is_empty => {
                let lack = "it has no key at all, and no comment in their place";
                write!(f, " until a person accepts that they go: {lack}")?;
            }
            None => f.write_str(" until a person accepts that they go")?,
        }
        match self.until {
            Some(until) => write!(f, ", about {until:.0}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::grant::Grants;

    const EVERY: Duration = Duration::from_mins(1);

    fn name(text: &str) -> AccountName {
        text.try_into().unwrap()
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minutes).unwrap()
    }

    fn grant(key: &str) -> Grant {
        Grant::of_line(key, key)
    }

    fn grants(accounts: &[(&str, &[&str])]) -> Grants {
        let of = |(account, keys): &(&str, &[&str])| {
            (name(account), keys.iter().map(|key| grant(key)).collect())
        };
        accounts.iter().map(of).collect()
    }

    fn in_force(accounts: &[(&str, &[&str])]) -> InForce {
        let account = |(name, grants)| {
            let account = Account {
                managed: true,
                grants,
                ..Account::default()
            };
            (name, account)
        };
        InForce {
            accounts: grants(accounts).into_iter().map(account).collect(),
            ..InForce::default()
        }
    }

    /// What the guard says of a list that has come so often; `gone` does not exist here.
    struct Case {
        in_force: InForce,
        guard: Guard,
        seen: u32,
        accepted: bool,
        tombstones: Vec<AccountName>,
        now: Timestamp,
    }

    impl Case {
        fn new(keys: &[(&str, &[&str])]) -> Self {
            Self {
                in_force: in_force(keys),
                guard: Guard::default(),
                seen: 1,
                accepted: false,
                tombstones: Vec::new(),
                now: at(0),
            }
        }

        fn judge(&self, next: &[(&str, &[&str])]) -> Option<Held> {
            let desired = Desired {
                grants: grants(next),
                tombstones: self.tombstones.clone(),
                ..Desired::default()
            };
            let holding = Holding {
                outcome: String::new(),
                seen: self.seen,
                counted_at: at(0),
                since: Some(at(0)),
            };
            let circumstances = Circumstances {
                guard: &self.guard,
                every: EVERY,
                holding: &holding,
                accepted: self.accepted,
                exists: &|name| name.as_str() != "gone",
                buried: &|name| desired.tombstones.contains(name),
                now: self.now,
            };
            let toll = toll(&self.in_force, &desired, circumstances);
            match judge(&self.in_force, &desired, circumstances, toll) {
                Verdict::Apply => None,
                Verdict::Hold(held) => Some(held),
            }
        }

        /// Of how many keys so many wait, with those that went lately.
        fn waits(&self, next: &[(&str, &[&str])]) -> Option<(usize, usize, usize)> {
            let held = self.judge(next)?;
            Some((held.removed, held.of, held.gone))
        }
    }

    #[test]
    fn holds_what_an_outage_looks_like() {
        let check = |next: &[(&str, &[&str])],
                     tombstones: &[&str],
                     seen: u32,
                     accepted: bool,
                     held: Option<(usize, Option<u32>)>| {
            let case = Case {
                seen,
                accepted,
                tombstones: tombstones.iter().map(|one| name(one)).collect(),
                ..Case::new(&[
                    ("a", &["1", "2"]),
                    ("b", &["3", "4"]),
                    ("gone", &["5", "6", "7"]),
                ])
            };
            let got = case.judge(next).map(|held| (held.removed, held.needed));
            assert_eq!(got, held, "{next:?} {tombstones:?} {seen} {accepted}");
        };
        // Within the share, more keys, or keys of accounts that are not here.
        check(&[("a", &["1", "2"]), ("b", &["3"])], &[], 1, false, None);
        check(&[("a", &["1", "2"]), ("b", &[])], &[], 1, false, None);
        check(
            &[("a", &["1", "2", "9"]), ("b", &["3", "4"])],
            &[],
            1,
            false,
            None,
        );
        // More than half: held, until the same list has come often enough or is accepted.
        check(&[("a", &["1"])], &[], 1, false, Some((3, Some(3))));
        check(&[("a", &["1"])], &[], 2, false, Some((3, Some(3))));
        check(&[("a", &["1"])], &[], 3, false, None);
        check(&[("a", &["1"])], &[], 1, true, None);
        // The host would be left without any key, though the list has some.
        check(&[("elsewhere", &["1"])], &[], 1, false, Some((4, Some(3))));
        // No key at all: never by repetition.
        check(&[], &[], 99, false, Some((4, None)));
        check(&[("a", &[]), ("b", &[])], &[], 99, false, Some((4, None)));
        check(&[], &[], 1, true, None);
        // On purpose, and no sooner than any other list that takes as much.
        let both: &[(&str, &[&str])] = &[("a", &[]), ("b", &[])];
        check(both, &["a", "b"], 1, false, Some((4, Some(3))));
        check(both, &["a", "b"], 3, false, None);
        check(both, &["a", "b"], 1, true, None);
        check(both, &["a"], 99, false, Some((4, None)));
        let one: &[(&str, &[&str])] = &[("a", &[]), ("b", &["3"])];
        check(one, &["a"], 1, false, Some((3, Some(3))));
        check(one, &["a"], 3, false, None);
        check(&[("a", &[]), ("b", &["3", "4"])], &["a"], 1, false, None);
    }

    #[test]
    fn one_key_of_one_is_everything() {
        let mut case = Case::new(&[("a", &["1"])]);
        assert!(case.judge(&[("a", &["2"])]).is_some());
        case.guard.max_removed = 1.0;
        assert_eq!(case.judge(&[("a", &["2"])]), None);
    }

    #[test]
    fn with_a_persons_word_alone_no_repetition_is_enough() {
        let mut case = Case::new(&[("a", &["1", "2"]), ("b", &["3", "4"])]);
        case.guard.confirm = Confirm::Person;
        case.seen = 99;
        let held = case.judge(&[("a", &["1"])]).unwrap();
        assert_eq!(
            (held.needed, held.until, held.is_empty),
            (None, None, false)
        );
        assert!(case.judge(&[]).unwrap().is_empty);
        // Within the share it needs none.
        assert_eq!(case.judge(&[("a", &["1", "2"]), ("b", &["3"])]), None);
        case.accepted = true;
        assert_eq!(case.judge(&[("a", &["1"])]), None);
    }

    #[test]
    fn keys_that_a_held_list_brought_make_no_share_smaller_and_go_by_the_same_rule() {
        let mut case = Case::new(&[("a", &["1", "2", "3", "4", "5", "6", "7", "8", "9"])]);
        let brought = ["5", "6", "7", "8", "9"].map(str::to_owned);
        case.in_force.accounts.get_mut(&name("a")).unwrap().brought = brought.to_vec();
        // 3 of 9 are few, and 3 of the 4 that were there before are not.
        let without_old: &[(&str, &[&str])] = &[("a", &["1", "5", "6", "7", "8", "9"])];
        assert_eq!(case.waits(without_old), Some((3, 4, 0)));
        // What the held list brought goes when it is not on the next one, unless that is too much of all.
        let half: &[(&str, &[&str])] = &[("a", &["1", "2", "3", "4", "5"])];
        assert_eq!(case.waits(half), None);
        let all: &[(&str, &[&str])] = &[("a", &["1", "2", "3", "4"])];
        assert_eq!(case.waits(all), Some((5, 9, 0)));
    }

    #[test]
    fn what_went_lately_counts() {
        let step = |minutes: i64, removed: usize| Step {
            at: at(minutes),
            removed,
        };
        let check = |steps: &[Step], confirm: Confirm, next: &[&str], now: i64, held| {
            let mut case = Case::new(&[("a", &["1", "2", "3", "4", "5", "6"])]);
            case.guard.confirm = confirm;
            case.in_force.steps = steps.to_vec();
            case.now = at(now);
            assert_eq!(case.waits(&[("a", next)]), held, "{steps:?} {next:?} {now}");
        };
        let four = &["1", "2", "3", "4"];
        let polls = Confirm::Polls;
        check(&[], polls, four, 0, None);
        check(&[step(0, 4)], polls, four, 2, Some((6, 10, 4)));
        // Two steps, of which each alone is few.
        let steps = [step(0, 2), step(1, 2)];
        check(&steps, polls, four, 2, Some((6, 10, 4)));
        // As long as a list would be held.
        check(&[step(0, 4)], polls, four, 3, None);
        check(&[step(0, 4)], Confirm::Person, four, 3, Some((6, 10, 4)));
        check(&[step(0, 4)], Confirm::Person, four, 60 * 24, None);
        // A clock that was set back by more than that.
        check(&[step(9, 4)], polls, four, 0, None);
        // What removes nothing applies.
        let all = &["1", "2", "3", "4", "5", "6"];
        check(&[step(0, 9)], polls, all, 1, None);
    }

    #[test]
    fn a_key_of_the_break_glass_file_is_not_taken_away() {
        let mut case = Case::new(&[("a", &["1", "2"])]);
        assert_eq!(case.waits(&[("a", &["3"])]), Some((2, 2, 0)));
        case.in_force.break_glass = vec![grant("2")];
        assert_eq!(case.waits(&[("a", &["3"])]), None);
        let mut case = Case::new(&[("a", &["1", "2", "3"])]);
        case.in_force.break_glass = vec![grant("2")];
        assert_eq!(case.waits(&[("a", &["4"])]), Some((2, 3, 0)));
        assert_eq!(case.judge(&[("a", &["4"])]).unwrap().keys.len(), 2);
    }

    #[test]
    fn what_cannot_be_read_of_a_file_counts() {
        let mut case = Case::new(&[("a", &["1"]), ("b", &["2"])]);
        assert_eq!(case.waits(&[("a", &["1"]), ("b", &["2"])]), None);
        case.in_force.accounts.get_mut(&name("b")).unwrap().obscure = 3;
        assert_eq!(case.waits(&[("a", &["1"]), ("b", &["2"])]), Some((3, 5, 0)));
    }

    #[test]
    fn what_waits_is_said_with_since_when_and_until_when() {
        let mut case = Case::new(&[("a", &["1", "2"]), ("b", &["3", "4"])]);
        let held = case.judge(&[("a", &["1"])]).unwrap().to_string();
        assert_eq!(
            held,
            "the list would remove 3 of 4 keys on this host: (no name) 2 of a, (no name) 3 of b, \
             (no name) 4 of b; so it is held since 2027-01-15T08:00:00Z: what it adds comes at once, and these \
             keys stay until 3 polls in a row have found it (1 so far), about 2027-01-15T08:02:00Z"
        );
        let held = case.judge(&[("a", &["1"])]).unwrap().foreseen().to_string();
        assert!(
            held.ends_with(
                "; so it is held: what it adds comes at once, and these keys stay until 3 polls in a row have found it \
                 (0 so far)"
            ),
            "{held}"
        );
        case.guard.confirm = Confirm::Person;
        let held = case.judge(&[("a", &["1"])]).unwrap().to_string();
        assert!(
            held.ends_with(" stay until a person accepts that they go"),
            "{held}"
        );
        let held = case.judge(&[]).unwrap().to_string();
        assert!(held.contains("no key at all, and no comment"), "{held}");
        let mut case = Case::new(&[("a", &["1", "2", "3", "4", "5", "6", "7"])]);
        let held = case.judge(&[("a", &["8"])]).unwrap().to_string();
        assert!(held.contains("5 of a and 2 more;"), "{held}");
        case.in_force.steps = vec![Step {
            at: at(0),
            removed: 2,
        }];
        let held = case.judge(&[("a", &["8"])]).unwrap().to_string();
        assert!(held.contains("9 of 9 keys on this host, with the 2 that went lately:"));
        assert!(held.contains("5 of a and 2 more;"), "{held}");
    }
}
