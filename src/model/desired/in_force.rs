//! What is in force on this host, kept across restarts: the last-known-good decision.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::account::{self, AccountName};
use crate::model::config::tables::Accounts;
use crate::model::desired::judge::Desired;
use crate::model::desired::signed::AllTaken;
use crate::model::key::grant;
use crate::model::key::grant::{Grant, GrantsOf};
use crate::model::key::release::Version;
use crate::model::people::People;
use crate::model::sorting::{self, Gather};
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
    /// The signatures that were taken last, each with its serial number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signed: AllTaken,
    /// Since when no list that was fetched counts, for want of a good signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_since: Option<Timestamp>,
    /// What the guard holds, and how often it has come.
    pub holding: Option<Holding>,
    /// What lists took away at once of late, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
pub struct Account {
    /// False once the config no longer names it: its file is left alone, and it is remembered.
    pub managed: bool,
    /// Its keys: those of the list and, while that is held, those that wait to go.
    pub grants: Vec<Grant>,
    /// Fingerprints of the keys that a list has brought which is held, or was new a short while ago. They make no share of what
    /// goes smaller: whoever writes the list could bring as many as it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brought: Vec<String>,
    /// When the last of them came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought_at: Option<Timestamp>,
    /// Its files, as they were before the agent wrote any, were looked at, and the keys in them are in force: no list has
    /// taken them away yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub joining: bool,
    /// sshd had not said which files it reads when these were looked at. Until it reads those that it reads by default, or a
    /// person has accepted a list, other files stay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unasked: bool,
    /// How much stands in those files that only sshd may understand: while the list that would take it away is held, they
    /// stay as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub obscure: usize,
    /// Fingerprints of the keys that it had as an account of another instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherited: Vec<String>,
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
    /// Since when a list is held, this one or another.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

/// A list that applied at once and took keys away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    pub at: Timestamp,
    /// How many.
    pub removed: usize,
}

/// More steps than this are told apart no longer.
const STEPS: usize = 32;

/// True for so long after `at`. A clock that was set back is no reason to remember something for ever.
pub fn is_recent(at: Timestamp, now: Timestamp, remembered: SignedDuration) -> bool {
    now.duration_since(at).abs() < remembered
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
        let held_since = before.map_or(Some(now), |before| before.since);
        let Some(before) = before.filter(|before| before.outcome == outcome) else {
            return Self {
                outcome,
                seen: 1,
                counted_at: now,
                since: held_since,
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
            since: held_since,
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

    /// Takes the signatures of the list that comes into force. Those of other scopes are remembered for their serial numbers.
    pub fn take_signatures(&mut self, taken: AllTaken) {
        for known in self.signed.values_mut() {
            known.current = false;
        }
        self.signed.extend(taken);
        self.refused_since = None;
    }

    /// The managed accounts.
    pub fn managed(&self) -> impl Iterator<Item = (&AccountName, &Account)> {
        self.accounts.iter().filter(|(_, account)| account.managed)
    }

    /// The keys in force.
    pub fn grants(&self) -> GrantsOf<'_> {
        self.managed()
            .map(|(name, account)| (name, account.grants.as_slice()))
            .gather()
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
            account.unasked &= says != Some(DEFAULT);
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
    /// that its own first list takes them away there too. Until then nothing of it is managed. What else is in these files,
    /// such as the launch key, is the clone's own: they are looked at as those of any account that joins.
    #[must_use]
    pub fn inherited(self) -> Self {
        let of_host: Vec<String> = fingerprints(&self.break_glass).collect();
        let clone = |(name, account): (AccountName, Account)| {
            let inherited = fingerprints(&account.grants);
            let account = Account {
                inherited: inherited.chain(of_host.iter().cloned()).collect(),
                ..Account::default()
            };
            (name, account)
        };
        Self {
            schema: SCHEMA,
            accounts: self.accounts.into_iter().map(clone).gather(),
            openssh: self.openssh,
            ..Self::default()
        }
    }

    /// Before the first list of its own a clone manages what it inherited only to put the break-glass keys there, once its files
    /// were looked at; returns whether anything changed.
    pub fn await_first_list(&mut self, unseen: &BTreeSet<AccountName>) -> bool {
        if self.list.is_some() {
            return false;
        }
        let has_keys = !self.break_glass.is_empty();
        let mut changed = false;
        for (name, account) in &mut self.accounts {
            let managed = has_keys && !unseen.contains(name);
            changed |= account.managed != managed;
            account.managed = managed;
        }
        changed
    }

    /// What was brought or went so long ago counts as any other key does, unless a list is held.
    pub fn forget_steps(&mut self, now: Timestamp, remembered: SignedDuration) {
        self.steps
            .retain(|step| is_recent(step.at, now, remembered));
        if self.holding.is_none() {
            for account in self.accounts.values_mut() {
                account
                    .brought_at
                    .take_if(|at| !is_recent(*at, now, remembered));
                if account.brought_at.is_none() {
                    account.brought.clear();
                }
            }
        }
    }

    /// A list has come so often, or a person has accepted it: all that it says is in force for good.
    pub fn settle(&mut self) {
        self.steps.clear();
        for account in self.accounts.values_mut() {
            account.brought.clear();
            account.brought_at = None;
        }
    }

    /// Puts a list into force. `manages` says which accounts are managed. Of an account that `waits` no key goes, and
    /// what the list has for it comes at once. Any other one that the list no longer names has no keys. An account that is
    /// new and for which the list has no usable key is taken on only by a tombstone, or if a person has `accepted` it: an
    /// error must not empty a file that was never ours. The keys that are new `came` then, unless they are the first on this
    /// host. What is put into force leaves `desired` where nothing waits:
    /// thousands of keys are not held twice.
    pub fn take(
        &mut self,
        desired: &mut Desired,
        manages: impl Fn(&AccountName) -> bool,
        waits: impl Fn(&Account) -> bool,
        accepted: bool,
        came: Option<Timestamp>,
    ) {
        self.schema = SCHEMA;
        for (name, account) in &mut self.accounts {
            account.managed = manages(name);
            // What came while the agent did not look was there first.
            account.alone &= account.managed;
            if !account.managed {
                continue;
            }
            account.unasked &= !accepted;
            account.note_brought(desired.keys_of(name), came);
            if waits(account) {
                account.add(desired.keys_of(name));
                continue;
            }
            account.grants = taken(desired.grants.get_mut(name));
            account.comment_only = taken(desired.comment_only.get_mut(name));
            account.joining = false;
            account.obscure = 0;
            let grants = &account.grants;
            let stays = |key: &String| grants.iter().any(|grant| grant.fingerprint == *key);
            account.brought.retain(stays);
        }
        let new: Vec<AccountName> = desired
            .grants
            .keys()
            .filter(|name| !self.accounts.contains_key(*name) && manages(name))
            .filter(|name| desired.takes_on(name, accepted))
            .cloned()
            .collect();
        for name in new {
            let mut account = Account {
                managed: true,
                comment_only: taken(desired.comment_only.get_mut(&name)),
                ..Account::default()
            };
            account.note_brought(desired.keys_of(&name), came);
            account.grants = taken(desired.grants.get_mut(&name));
            self.accounts.insert(name, account);
        }
    }

    /// Notes that a list has taken so many keys away at once.
    pub fn note_step(&mut self, removed: usize, now: Timestamp) {
        if removed == 0 {
            return;
        }
        let is_full = self.steps.len() >= STEPS;
        match self.steps.last_mut() {
            Some(last) if is_full => {
                last.at = now;
                last.removed += removed;
            }
            _ => self.steps.push(Step { at: now, removed }),
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
        sorting::sort(&mut all);
        all.dedup();
        all
    }
}

impl Account {
    /// Adds these keys to those in force; one that is there has what is said of it now.
    fn add(&mut self, grants: &[Grant]) {
        let named: HashSet<&str> = grants
            .iter()
            .map(|grant| grant.fingerprint.as_str())
            .collect();
        self.grants
            .retain(|grant| !named.contains(grant.fingerprint.as_str()));
        self.grants.extend_from_slice(grants);
        grant::sort_by_line(&mut self.grants);
    }

    /// Of the `grants` of a list, those are brought that are not in force yet and `came` then, and those that were.
    fn note_brought(&mut self, grants: &[Grant], came: Option<Timestamp>) {
        let Some(at) = came else { return };
        let before: HashSet<&str> = self
            .grants
            .iter()
            .map(|grant| grant.fingerprint.as_str())
            .collect();
        let new = fingerprints(grants).filter(|key| !before.contains(key.as_str()));
        let known = self.brought.len();
        self.brought.extend(new.collect::<Vec<_>>());
        if self.brought.len() > known {
            self.brought_at = Some(at);
        }
    }

    /// Only sshd may understand what is in its files, so the list that would take that away and is held leaves them.
    pub fn stays_as_it_is(&self) -> bool {
        self.obscure > 0
    }
}

fn fingerprints(grants: &[Grant]) -> impl Iterator<Item = String> {
    grants.iter().map(|grant| grant.fingerprint.clone())
}

fn taken<T>(from: Option<&mut Vec<T>>) -> Vec<T> {
    from.map(std::mem::take).unwrap_or_default()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde wants"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde wants"
)]
fn is_zero(number: &usize) -> bool {
    *number == 0
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
