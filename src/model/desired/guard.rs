//! The guard: a list that takes away too much is held, because an outage looks like that.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::tables::Guard;
use crate::model::desired::judge::Desired;
use crate::model::key::grant::GrantsOf;

/// What to do with a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enforce it.
    Apply,
    /// Keep the keys in force.
    Hold(Held),
}

/// Why a list is held, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// Keys it would take away on this host.
    pub removed: usize,
    /// Keys in force on this host.
    pub of: usize,
    /// How often in a row the list has come.
    pub seen: u32,
    /// How often it must come to apply; `None` when only a person can let it through.
    pub needed: Option<u32>,
}

/// What the verdict depends on beside the list itself.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// The `[guard]` table.
    pub guard: &'a Guard,
    /// How often in a row this same list has come.
    pub seen: u32,
    /// True after `sync --accept-removals` for this same list.
    pub accepted: bool,
    /// True for the accounts that exist on this host and are managed.
    pub exists: &'a dyn Fn(&AccountName) -> bool,
    /// True for the accounts that are left without keys on purpose.
    pub buried: &'a dyn Fn(&AccountName) -> bool,
    /// An expired key is gone already; taking it off the list removes nothing.
    pub now: Timestamp,
}

/// Compares the keys in force with what the list asks for. A key counts once for each account of this host
/// that has it. A tombstone says that its account is left without keys on purpose, so with tombstones for all that go even a
/// list without any key applies; but whoever writes the list can write them, so they wait as every removal does.
pub fn judge(
    in_force: &GrantsOf<'_>,
    desired: &Desired,
    circumstances: Circumstances<'_>,
) -> Verdict {
    let Circumstances {
        guard,
        seen,
        accepted,
        exists,
        buried,
        now,
    } = circumstances;
    let (mut of, mut removed, mut unexplained) = (0, 0, 0);
    for (account, grants) in in_force.iter().filter(|(account, _)| exists(account)) {
        let account: &AccountName = account;
        let next: BTreeSet<&str> = desired
            .grants
            .get(account)
            .into_iter()
            .flatten()
            .map(|grant| grant.fingerprint.as_str())
            .collect();
        let current = grants.iter().filter(|grant| grant.is_good_at(now));
        let (kept, gone): (Vec<_>, Vec<_>) =
            current.partition(|grant| next.contains(grant.fingerprint.as_str()));
        of += kept.len() + gone.len();
        removed += gone.len();
        if !buried(account) {
            unexplained += gone.len();
        }
    }
    if removed == 0 || accepted {
        return Verdict::Apply;
    }
    let has_keys = |on_host: bool| {
        desired
            .grants
            .iter()
            .filter(|(account, _)| !on_host || exists(account))
            .any(|(_, grants)| grants.iter().any(|grant| grant.is_good_at(now)))
    };
    let can_be_meant = has_keys(false) || unexplained == 0;
    let needed = can_be_meant.then_some(guard.confirmations);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of keys; nobody has 2^52 of them"
    )]
    let too_many = removed as f64 > guard.max_removed * of as f64;
    let confirmed = needed.is_some_and(|needed| seen >= needed);
    if confirmed || (!too_many && has_keys(true)) {
        return Verdict::Apply;
    }
    Verdict::Hold(Held {
        removed,
        of,
        seen,
        needed,
    })
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the list would remove {} of {} keys on this host; ",
            self.removed, self.of
        )?;
        match self.needed {
            Some(needed) => write!(
                f,
                "it applies once it has come {needed} times in a row ({} so far), or on `agent sync --accept-removals`",
                self.seen.min(needed)
            ),
            None => write!(
                f,
                "it has no key at all, so it applies only on `agent sync --accept-removals`, or with a comment-only value for each account"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::grant::{Grant, Grants};

    fn view(grants: &Grants) -> GrantsOf<'_> {
        grants
            .iter()
            .map(|(name, grants)| (name, grants.as_slice()))
            .collect()
    }

    fn grants(accounts: &[(&str, &[&str])]) -> Grants {
        let grant = |name: &&str| Grant {
            line: (*name).to_owned(),
            fingerprint: (*name).to_owned(),
            algorithm: String::new(),
            comment: String::new(),
            parameter: String::new(),
            parameter_version: None,
            parameter_modified_at: None,
            parameter_line: 1,
            expires_at: None,
        };
        accounts
            .iter()
            .map(|(account, keys)| {
                (
                    (*account).try_into().unwrap(),
                    keys.iter().map(grant).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn holds_what_an_outage_looks_like() {
        let in_force = grants(&[
            ("a", &["1", "2"]),
            ("b", &["3", "4"]),
            ("gone", &["5", "6", "7"]),
        ]);
        let check = |next: &[(&str, &[&str])],
                     tombstones: &[&str],
                     seen: u32,
                     accepted: bool,
                     held: Option<(usize, Option<u32>)>| {
            let desired = Desired {
                grants: grants(next),
                tombstones: tombstones
                    .iter()
                    .map(|name| (*name).try_into().unwrap())
                    .collect(),
                ..Desired::default()
            };
            let guard = Guard::default();
            let exists = |name: &AccountName| name.as_str() != "gone";
            let verdict = judge(
                &view(&in_force),
                &desired,
                Circumstances {
                    guard: &guard,
                    seen,
                    accepted,
                    exists: &exists,
                    buried: &|name| desired.tombstones.contains(name),
                    now: Timestamp::UNIX_EPOCH,
                },
            );
            let got = match verdict {
                Verdict::Apply => None,
                Verdict::Hold(held) => Some((held.removed, held.needed)),
            };
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
        let in_force = grants(&[("a", &["1"])]);
        let desired = Desired {
            grants: grants(&[("a", &["2"])]),
            ..Desired::default()
        };
        let guard = Guard {
            max_removed: 1.0,
            confirmations: 3,
        };
        let circumstances = Circumstances {
            guard: &guard,
            seen: 1,
            accepted: false,
            exists: &|_| true,
            buried: &|_| false,
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            judge(&view(&in_force), &desired, circumstances),
            Verdict::Apply
        );
    }
}
