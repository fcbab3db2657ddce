//! What is in force on this host, kept across restarts: the last-known-good decision.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::{self, AccountName};
use crate::model::config::tables::Accounts;
use crate::model::desired::judge::Desired;
use crate::model::key::grant::{Grant, GrantsOf};
use crate::model::key::release::Version;
use crate::model::people::People;
use crate::model::sshd::effective::DEFAULT;

/// The version of `enforced.json`.
pub const SCHEMA: u32 = 1;

/// What `enforced.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InForce {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The EC2 instance whose state this is, where that is known.
    #[serde(default)]
    pub instance: Option<String>,
    /// Digest of the list these keys come from; `None` before the first list.
    pub list: Option<String>,
    /// Keys of the break-glass file when it could last be read.
    pub break_glass: Vec<Grant>,
    /// Since when that file is missing or empty. An editor replaces a file in two steps.
    pub break_glass_gone: Option<Timestamp>,
    /// What the guard holds, and how often it has come.
    pub holding: Option<Holding>,
    /// Every account that is or was managed. One that leaves the list stays here, without keys.
    pub accounts: BTreeMap<AccountName, Account>,
    /// `AuthorizedKeysFile` of sshd when it last said it: at boot it says nothing before it runs.
    #[serde(default)]
    pub sshd_reads: Option<String>,
    /// The release of sshd when it last said it: lines are written for it.
    #[serde(default)]
    pub openssh: Option<Version>,
}

/// One account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Account {
    /// False once the config no longer names it: its file is left alone, and it is remembered.
    pub managed: bool,
    /// Its keys.
    pub grants: Vec<Grant>,
    /// What its file was when it was last in sync; `None` while it never was.
    pub synced: Option<Synced>,
    /// Its values that were only comments when the list was applied.
    pub comment_only: Vec<String>,
    /// `AuthorizedKeysFile` for this account, where it has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sshd_reads: Option<String>,
    /// No other file was left that sshd would read for it: the account made one that is there now.
    #[serde(default)]
    pub alone: bool,
    /// The directory of its file is the agent's, and locked, or may be: noted before that is done.
    #[serde(default)]
    pub locked: bool,
    /// What a name service said of it, if it and no local file knows it so: that counts while the service says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
}

/// An account as a name service knew it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// A file in sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Synced {
    /// Which file.
    pub file: PathBuf,
    /// Digest of its content.
    pub digest: String,
}

/// A list that waits for confirmation. It is known by what it would leave in force, so that neither a change
/// elsewhere in the list nor a new policy passes for a confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holding {
    /// The keys it would leave on this host.
    pub outcome: String,
    /// How often this outcome has come in a row.
    pub seen: u32,
    /// When it was counted last.
    #[serde(default)]
    pub counted_at: Timestamp,
}

impl Holding {
    /// This outcome is there `now`, of a list that was last fetched at `fetched`; polls come `every` so often.
    ///
    /// The fetcher says only when it fetched. It is counted here, and a fetch counts when it began a good part of `every`
    /// after the last that did: a source that answers wrongly for a moment does so however often it is asked, and a fetcher
    /// that was taken over cannot hurry.
    #[must_use]
    pub fn again(
        before: Option<&Self>,
        outcome: String,
        fetched: Option<Timestamp>,
        every: Duration,
        now: Timestamp,
    ) -> Self {
        let Some(before) = before.filter(|before| before.outcome == outcome) else {
            return Self {
                outcome,
                seen: 1,
                counted_at: now,
            };
        };
        // A clock that was set back is no reason to wait for as long.
        let since = before.counted_at.min(now);
        // Polls are up to a tenth early.
        let later = |began: &Timestamp| {
            let waited = Duration::try_from(began.duration_since(since));
            *began <= now && waited.is_ok_and(|waited| waited >= every / 2)
        };
        let counts = fetched.as_ref().is_some_and(later);
        Self {
            outcome,
            seen: before.seen.saturating_add(u32::from(counts)),
            counted_at: if counts { now } else { since },
        }
    }
}

impl InForce {
    /// Tells one state from another, so that what is on disk need not be kept twice.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The managed accounts.
    pub fn managed(&self) -> impl Iterator<Item = (&AccountName, &Account)> {
        self.accounts.iter().filter(|(_, account)| account.managed)
    }

    /// The keys in force.
    pub fn grants(&self) -> GrantsOf<'_> {
        self.managed()
            .map(|(name, account)| (name, account.grants.as_slice()))
            .collect()
    }

    /// An account as a name service knew it last.
    pub fn person(&self, name: &AccountName) -> Option<account::Account> {
        let Person { uid, gid, home } = self.accounts.get(name)?.person.as_ref()?;
        Some(account::Account {
            name: name.clone(),
            uid: *uid,
            gid: *gid,
            home: home.into(),
        })
    }

    /// Notes who are known by a name service alone; returns whether that is news.
    pub fn note_people(&mut self, people: &People) -> bool {
        let mut changed = false;
        for (name, account) in &mut self.accounts {
            let Some(found) = people.account(name) else {
                continue;
            };
            let is_distant = people.distant.contains(name);
            let person = found
                .home
                .to_str()
                .filter(|_| is_distant)
                .map(|home| Person {
                    uid: found.uid,
                    gid: found.gid,
                    home: home.to_owned(),
                });
            changed |= account.person != person;
            account.person = person;
        }
        changed
    }

    /// What sshd last said it reads for an account.
    pub fn sshd_reads(&self, name: &AccountName) -> Option<&str> {
        let own = self
            .accounts
            .get(name)
            .and_then(|account| account.sshd_reads.as_ref());
        own.or(self.sshd_reads.as_ref()).map(String::as_str)
    }

    /// Takes what sshd says that it reads: `host` for all, unless there is a `Match`, and `of` for an account. Returns whether anything changed; for those
    /// whose files changed, what is there now was not looked for before.
    pub fn learn<'a>(
        &mut self,
        host: Option<&str>,
        of: impl Fn(&AccountName) -> Option<&'a str>,
    ) -> bool {
        let mut changed = false;
        let before = std::mem::replace(&mut self.sshd_reads, host.map(str::to_owned));
        for (name, account) in &mut self.accounts {
            let own = of(name).filter(|own| Some(*own) != host);
            let (said, says) = (
                account.sshd_reads.as_deref().or(before.as_deref()),
                own.or(host),
            );
            if said != says {
                // Before it said anything its default counted.
                account.alone &= said.is_none() && says == Some(DEFAULT);
                changed = true;
            }
            if account.sshd_reads.as_deref() != own {
                account.sshd_reads = own.map(str::to_owned);
            }
        }
        changed || before.as_deref() != host
    }

    /// True for the state of another instance: the disk was cloned, from a running host or through an image.
    pub fn is_foreign_to(&self, instance: Option<&str>) -> bool {
        self.instance
            .as_deref()
            .zip(instance)
            .is_some_and(|(one, other)| one != other)
    }

    /// What a clone keeps of it: the sshd that is on its disk, and whose files the keys of the other instance are in, so
    /// that its own first list takes them away there too. Until then nothing of it is managed.
    #[must_use]
    pub fn inherited(self) -> Self {
        let accounts = self
            .accounts
            .into_keys()
            .map(|name| (name, Account::default()))
            .collect();
        Self {
            schema: SCHEMA,
            accounts,
            openssh: self.openssh,
            ..Self::default()
        }
    }

    /// Before the first list of its own a clone manages what it inherited only to put the break-glass keys there; returns
    /// whether anything changed.
    pub fn await_first_list(&mut self) -> bool {
        if self.list.is_some() {
            return false;
        }
        let managed = !self.break_glass.is_empty();
        let mut changed = false;
        for account in self.accounts.values_mut() {
            changed |= account.managed != managed;
            account.managed = managed;
        }
        changed
    }

    /// Puts a list into force. `manages` says which accounts are managed. A managed account that the list no
    /// longer names has no keys. An account that is new and for which the list has no usable key is taken on
    /// only by a tombstone, or if a person has `accepted` it: an error must not empty a file that was never ours.
    /// What is put into force leaves `desired`: thousands of keys are not held twice.
    pub fn apply(
        &mut self,
        digest: &str,
        desired: &mut Desired,
        manages: impl Fn(&AccountName) -> bool,
        accepted: bool,
    ) {
        self.schema = SCHEMA;
        self.list = Some(digest.to_owned());
        self.holding = None;
        for (name, account) in &mut self.accounts {
            account.managed = manages(name);
            // What came while the agent did not look was there first.
            account.alone &= account.managed;
            if account.managed {
                account.grants = take(desired.grants.get_mut(name));
                account.comment_only = take(desired.comment_only.get_mut(name));
            }
        }
        for (name, grants) in &mut desired.grants {
            let known = self.accounts.contains_key(name);
            let may_empty = accepted || desired.tombstones.contains(name);
            if !known && manages(name) && (!grants.is_empty() || may_empty) {
                let account = Account {
                    managed: true,
                    grants: std::mem::take(grants),
                    comment_only: take(desired.comment_only.get_mut(name)),
                    ..Account::default()
                };
                self.accounts.insert(name.clone(), account);
            }
        }
    }

    /// Names whose existence matters: those of the list, those in force, and those that the config names.
    pub fn names<'a>(
        &'a self,
        desired: &'a Desired,
        accounts: &'a Accounts,
    ) -> Vec<&'a AccountName> {
        let mut all: Vec<_> = self
            .accounts
            .keys()
            .chain(desired.grants.keys())
            .chain(accounts.named())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

fn take<T>(from: Option<&mut Vec<T>>) -> Vec<T> {
    from.map(std::mem::take).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_fetch_of_the_same_outcome_counts() {
        const EVERY: Duration = Duration::from_mins(1);
        let at = |second: i64| Timestamp::from_second(1000 + second).unwrap();
        let again = |before: &Holding, outcome: &str, fetched: Option<i64>, now: i64| {
            let outcome = outcome.to_owned();
            Holding::again(Some(before), outcome, fetched.map(at), EVERY, at(now))
        };
        let first = Holding::again(None, "o".to_owned(), Some(at(0)), EVERY, at(1));
        assert_eq!(
            first.seen, 1,
            "the fetch that brought it is none of the next"
        );
        for (fetched, now, seen, what) in [
            (None, 100, 1, "nothing is known of it"),
            (Some(0), 100, 1, "looked at twice, come once"),
            (Some(30), 100, 1, "asked for early, looked at late"),
            (Some(31), 31, 2, "half of the time"),
            (Some(55), 60, 2, "a poll that is a little early"),
            (Some(5000), 60, 1, "a fetch that is still to come"),
            (Some(-500), -400, 1, "the clock was set back"),
        ] {
            let next = again(&first, "o", fetched, now);
            assert_eq!(next.seen, seen, "{what}");
            // What was counted is counted once, whatever else comes.
            let twice = again(&next, "o", fetched, now + 1);
            assert_eq!(twice.seen, seen, "{what}, again");
        }
        let back = again(&first, "o", Some(-500), -400);
        assert_eq!(again(&back, "o", Some(-360), -350).seen, 2);
        assert_eq!(again(&first, "other", Some(60), 60).seen, 1);
    }
}
