//! From what is known of the world to the keys that are in force. Whatever fails here leaves those that were.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::account::AccountName;
use crate::model::config::tables::{Config, OnStale};
use crate::model::desired::guard::{self, Circumstances, Held, Verdict};
use crate::model::desired::in_force::{Holding, InForce};
use crate::model::desired::judge::{self, Desired, Rules};
use crate::model::instance::Identity;
use crate::model::key::grant::Grant;
use crate::model::key::release::{UNTOLD, Version};
use crate::model::list::approved::{ApprovedList, SCHEMA};
use crate::model::list::fetch_report::FetchReport;
use crate::model::list::rejected::Rejected;
use crate::model::people::{Lookup, People};

/// What one look at the world gave.
#[derive(Debug)]
pub struct Facts {
    pub now: Timestamp,
    pub identity: Identity,
    pub list: ListFact,
    pub break_glass: BreakGlassFact,
    pub people: Arc<People>,
    /// The account database has not answered; `people` is what it said before.
    pub people_are_silent: bool,
    /// They are the answer to an earlier question, which did not name all that matter now.
    pub people_are_incomplete: bool,
    /// The release that sshd said since the last decision.
    pub openssh: Option<Version>,
    /// How the last fetch went, where that can be read.
    pub fetched: Option<FetchReport>,
    /// When the stored list was last written or found unchanged.
    pub stored_at: Option<Timestamp>,
    /// Digest of the list whose removals a person has accepted.
    pub accepted: Option<String>,
}

/// The stored list.
#[derive(Debug)]
pub enum ListFact {
    /// The one that the last decision was made on.
    AsBefore,
    Read(Box<ApprovedList>),
    Missing(PathBuf),
    Unreadable(String),
}

/// The break-glass file.
#[derive(Debug)]
pub enum BreakGlassFact {
    /// Its text; empty where there is none.
    Read(String),
    /// Others than root can write to it.
    Open,
    Unreadable(String),
}

/// What decides besides the facts.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub config: &'a Config,
    /// The system's time zone, in which sshd reads a time without `Z`.
    pub zone: &'a TimeZone,
}

/// Which keys are in force, and what keeps the decision from being whole.
#[derive(Debug, Default)]
pub struct Decision {
    pub in_force: InForce,
    /// The list that was judged last.
    pub list: Option<Listed>,
    /// What that list says; kept only while it is held.
    pub desired: Option<Desired>,
    pub held: Option<Held>,
    /// The list is so old that `on-stale` takes all keys but the break-glass ones.
    pub revoked: bool,
    pub troubles: Vec<Trouble>,
    /// Lines and values of the list that were not taken.
    pub rejected: Vec<Rejected>,
    /// The same of the break-glass file.
    pub break_glass_rejected: Vec<Rejected>,
    /// Accounts that the list names and that are not in force.
    pub strangers: Vec<AccountName>,
    /// What is in force may have changed.
    pub changed: bool,
    /// When the decision must be made again, whatever happens.
    pub look_again: Option<Timestamp>,
    /// The list took keys away, so sessions that they opened may still live.
    pub keys_left: bool,
    /// The keys of each account whose keys have just changed, as they were.
    pub former: Vec<(AccountName, HashSet<String>)>,
    /// The state was another instance's (its id, and this one's) and was put aside.
    pub cloned: Option<(String, String)>,
}

/// A list that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listed {
    pub source: String,
    pub digest: String,
    pub parameters: usize,
    pub fetched_at: Timestamp,
}

/// What keeps a decision from being whole. The keys in force stay.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// No list has come yet; the stored one, if any, was fetched for this other instance.
    NoList {
        foreign: Option<String>,
    },
    /// The stored list was fetched for another instance.
    ListForeign {
        instance: String,
    },
    ListUnreadable {
        error: String,
    },
    ListGone {
        path: String,
    },
    ListSchema {
        schema: u32,
    },
    /// Parameter Store answers so for a path that does not exist.
    ListEmpty,
    BreakGlassOpen {
        path: String,
    },
    BreakGlassUnreadable {
        error: String,
    },
    /// It has lines, and no sshd would take one of them.
    BreakGlassRefused {
        path: String,
    },
    /// The account database does not answer.
    PeopleSilent,
    /// No good list since then, and `on-stale = "revoke"`.
    Revoked {
        since: Timestamp,
    },
}

/// How long the break-glass file must be gone to be gone: an editor replaces a file in two steps.
const BREAK_GLASS_SETTLES: SignedDuration = SignedDuration::from_secs(5);

/// A late answer of the account database is taken this much later.
const PEOPLE_SETTLE: SignedDuration = SignedDuration::from_secs(1);

impl Trouble {
    fn is_of_a_list_that_was_read(&self) -> bool {
        matches!(
            self,
            Self::NoList { foreign: Some(_) } | Self::ListForeign { .. } | Self::ListSchema { .. }
        )
    }
}

impl Decision {
    /// Before the first decision: what an earlier process left in force.
    pub fn resumed(in_force: InForce, identity: &Identity) -> Self {
        let mut decision = Self {
            in_force,
            ..Self::default()
        };
        if let Some(id) = identity.id() {
            decision.belong_to(id);
        }
        decision
    }

    /// Decides anew, from this decision and what is known of the world now.
    #[must_use]
    pub fn decide(mut self, facts: &mut Facts, terms: Terms<'_>) -> Self {
        // A list that was read and not taken stays so until another one comes.
        let is_the_same = matches!(facts.list, ListFact::AsBefore);
        self.troubles
            .retain(|trouble| is_the_same && trouble.is_of_a_list_that_was_read());
        self.former.clear();
        self.keys_left = false;
        // A key has expired, or what was left to settle has settled.
        self.changed = self.look_again.take().is_some_and(|at| at <= facts.now);
        if facts.openssh.is_some() {
            self.in_force.openssh = facts.openssh;
            self.changed = true;
        }
        self.take_list(facts, terms);
        self.read_break_glass(facts, terms);
        self.changed |= self.in_force.await_first_list();
        if facts.people_are_silent {
            self.troubles.push(Trouble::PeopleSilent);
        }
        if facts.people_are_incomplete {
            self.look_again_at(facts.now + PEOPLE_SETTLE);
        }
        if let Some(desired) = self.desired.take() {
            self.changed = true;
            self.weigh(desired, facts, terms.config);
        }
        self.check_age(facts, terms.config);
        let is_empty = self.list.as_ref().is_some_and(|list| list.parameters == 0);
        if is_empty && self.in_force.accounts.is_empty() {
            self.troubles.push(Trouble::ListEmpty);
        }
        if let Some(at) = self.next_expiry(facts.now) {
            self.look_again_at(at);
        }
        self
    }

    /// By what lines are judged and written here.
    fn rules<'a>(&self, terms: Terms<'a>) -> Rules<'a> {
        Rules {
            policy: &terms.config.policy,
            zone: terms.zone,
            openssh: Some(self.in_force.openssh.unwrap_or(UNTOLD)),
        }
    }

    fn look_again_at(&mut self, at: Timestamp) {
        if self.look_again.is_none_or(|earlier| at < earlier) {
            self.look_again = Some(at);
        }
    }

    /// Judges the list, if there is another one.
    fn take_list(&mut self, facts: &mut Facts, terms: Terms<'_>) {
        let list = match std::mem::replace(&mut facts.list, ListFact::AsBefore) {
            ListFact::AsBefore => return,
            ListFact::Read(list) if list.schema == SCHEMA => list,
            ListFact::Read(list) => {
                let schema = list.schema;
                return self.troubles.push(Trouble::ListSchema { schema });
            }
            ListFact::Missing(path) => {
                return self.troubles.push(if self.in_force.list.is_some() {
                    let path = path.display().to_string();
                    Trouble::ListGone { path }
                } else {
                    Trouble::NoList { foreign: None }
                });
            }
            ListFact::Unreadable(error) => {
                return self.troubles.push(Trouble::ListUnreadable { error });
            }
        };
        if let Some(id) = &list.instance {
            if facts.identity.id().is_some_and(|own| own != id) {
                let instance = id.clone();
                return self.troubles.push(match self.in_force.list {
                    Some(_) => Trouble::ListForeign { instance },
                    None => Trouble::NoList {
                        foreign: Some(instance),
                    },
                });
            }
            // A machine that says itself that it is none of EC2's is no clone of one: the fetcher's word is not enough.
            if facts.identity != Identity::Other {
                self.belong_to(id);
            }
        }
        let desired = judge::judge(&list, self.rules(terms), &self.in_force.grants());
        self.rejected.clone_from(&desired.rejected);
        self.desired = Some(desired);
        self.list = Some(Listed {
            digest: list.digest(),
            parameters: list.entries.len(),
            source: list.source,
            fetched_at: list.fetched_at,
        });
    }

    /// What is in force is that of the instance `id`. State of another one is put aside.
    fn belong_to(&mut self, id: &str) {
        if self.in_force.is_foreign_to(Some(id)) {
            let other = self.in_force.instance.clone().unwrap_or_default();
            self.cloned = Some((other, id.to_owned()));
            self.in_force = std::mem::take(&mut self.in_force).inherited();
        }
        if self.in_force.instance.as_deref() != Some(id) {
            self.in_force.instance = Some(id.to_owned());
            self.changed = true;
        }
    }

    /// A break-glass file that is gone for good was removed on purpose; one that cannot be read changes nothing.
    fn read_break_glass(&mut self, facts: &Facts, terms: Terms<'_>) {
        let path = terms.config.accounts.break_glass.display().to_string();
        let text = match &facts.break_glass {
            BreakGlassFact::Read(text) => text,
            BreakGlassFact::Open => return self.troubles.push(Trouble::BreakGlassOpen { path }),
            BreakGlassFact::Unreadable(error) => {
                let error = error.clone();
                return self.troubles.push(Trouble::BreakGlassUnreadable { error });
            }
        };
        let (grants, rejected) = judge::judge_break_glass(&path, text, self.rules(terms));
        self.break_glass_rejected = rejected;
        let Some(grants) = grants else {
            self.in_force.break_glass_gone = None;
            return self.troubles.push(Trouble::BreakGlassRefused { path });
        };
        let gone = text.trim().is_empty() && !self.in_force.break_glass.is_empty();
        if gone {
            self.changed = true;
            let since = *self.in_force.break_glass_gone.get_or_insert(facts.now);
            if facts.now.duration_since(since) < BREAK_GLASS_SETTLES {
                return self.look_again_at(since + BREAK_GLASS_SETTLES);
            }
        }
        if grants != self.in_force.break_glass {
            self.note_former(|_, _| true);
            self.in_force.break_glass = grants;
            self.changed = true;
        }
        self.in_force.break_glass_gone = None;
    }

    /// The guard, and with its leave the list into force.
    fn weigh(&mut self, desired: Desired, facts: &Facts, config: &Config) {
        let Some(list) = &self.list else { return };
        let digest = list.digest.clone();
        let confirmations = match &facts.fetched {
            Some(report) if report.digest.as_ref() == Some(&digest) => report.confirmations,
            _ => 1,
        };
        let holding = Holding::again(
            self.in_force.holding.as_ref(),
            self.outcome(&desired, facts, config),
            &digest,
            confirmations,
        );
        let accepted = facts.accepted.as_ref() == Some(&digest);
        let verdict = guard::judge(
            &self.in_force.grants(),
            &desired,
            Circumstances {
                guard: &config.guard,
                seen: holding.seen,
                accepted,
                exists: &|name| self.is_here(name, facts, config),
                buried: &|name| self.is_buried(name, &desired),
                now: facts.now,
            },
        );
        match verdict {
            Verdict::Hold(held) => {
                self.held = Some(held);
                self.in_force.holding = Some(holding);
                self.strangers = self.strangers_of(&desired);
                self.desired = Some(desired);
            }
            Verdict::Apply => {
                self.held = None;
                self.apply(&digest, &desired, accepted, facts, config);
                self.strangers = self.strangers_of(&desired);
            }
        }
    }

    fn apply(
        &mut self,
        digest: &str,
        desired: &Desired,
        accepted: bool,
        facts: &Facts,
        config: &Config,
    ) {
        let names = self.in_force.accounts.keys().chain(desired.grants.keys());
        let managed: BTreeSet<AccountName> = names
            .filter(|name| manages(config, &facts.people, &self.in_force, name))
            .cloned()
            .collect();
        self.keys_left = self.in_force.managed().any(|(name, account)| {
            let next = desired.keys_of(name);
            let stays = |grant: &Grant| next.iter().any(|n| n.fingerprint == grant.fingerprint);
            account.grants.as_slice() != next && !account.grants.iter().all(stays)
        });
        self.note_former(|name, grants| grants != desired.keys_of(name));
        let may_empty = |name: &AccountName| accepted || desired.tombstones.contains(name);
        self.in_force
            .apply(digest, desired, |name| managed.contains(name), may_empty);
    }

    /// A comment that stood beside keys before says nothing about their absence now.
    fn is_buried(&self, name: &AccountName, desired: &Desired) -> bool {
        let account = self.in_force.accounts.get(name);
        let before = account.map_or(&[][..], |account| account.comment_only.as_slice());
        let comments = desired
            .comment_only
            .get(name)
            .map_or(&[][..], Vec::as_slice);
        desired.tombstones.contains(name) && comments.iter().any(|one| !before.contains(one))
    }

    /// True for a managed account of this host. One whose file was in sync exists, even while NSS denies it.
    fn is_here(&self, name: &AccountName, facts: &Facts, config: &Config) -> bool {
        let denied = matches!(facts.people.lookup(name), Some(Lookup::Unknown) | None);
        let account = self.in_force.accounts.get(name);
        let synced = account.is_some_and(|account| account.synced.is_some());
        manages(config, &facts.people, &self.in_force, name) && (!denied || synced)
    }

    fn strangers_of(&self, desired: &Desired) -> Vec<AccountName> {
        let in_force = |name: &&AccountName| {
            let account = self.in_force.accounts.get(*name);
            account.is_some_and(|account| account.managed)
        };
        let names = desired.grants.keys().filter(|name| !in_force(name));
        names.cloned().collect()
    }

    /// Remembers the keys of each account whose keys are about to change.
    fn note_former(&mut self, changes: impl Fn(&AccountName, &[Grant]) -> bool) {
        for (name, account) in self.in_force.managed() {
            if !changes(name, &account.grants) {
                continue;
            }
            let all = account.grants.iter().chain(&self.in_force.break_glass);
            let keys = all.map(|grant| grant.fingerprint.clone()).collect();
            self.former.push((name.clone(), keys));
        }
    }

    /// Digest of the keys that a list would leave in force on this host.
    fn outcome(&self, desired: &Desired, facts: &Facts, config: &Config) -> String {
        let mut hash = Sha256::new();
        for (name, grants) in &desired.grants {
            if !self.is_here(name, facts, config) {
                continue;
            }
            hash.update(name.as_str());
            for grant in grants {
                hash.update([0]);
                hash.update(&grant.fingerprint);
            }
            hash.update([1]);
        }
        format!("sha256:{:x}", hash.finalize())
    }

    /// `on-stale = "revoke"`: for those who must fail closed.
    fn check_age(&mut self, facts: &Facts, config: &Config) {
        let was_revoked = std::mem::take(&mut self.revoked);
        self.judge_age(facts, config);
        self.changed |= self.revoked != was_revoked;
    }

    fn judge_age(&mut self, facts: &Facts, config: &Config) {
        let OnStale::RevokeAfter(limit) = config.source.on_stale else {
            return;
        };
        let Some(in_force) = &self.in_force.list else {
            return;
        };
        let digest = self.list.as_ref().map_or(in_force, |list| &list.digest);
        // The fetcher says when the list was last found so; across a reboot, the time of its file does.
        let reported = match &facts.fetched {
            Some(report) if report.digest.as_ref() == Some(digest) => report.last_success,
            _ => None,
        };
        let Some(since) = facts.stored_at.max(reported) else {
            return;
        };
        match since.checked_add(limit) {
            Ok(end) if end > facts.now => self.look_again_at(end),
            _ => {
                self.revoked = true;
                self.troubles.push(Trouble::Revoked { since });
            }
        }
    }

    fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let accounts = self.in_force.accounts.values();
        let grants = accounts.flat_map(|account| &account.grants);
        let all = grants.chain(&self.in_force.break_glass);
        all.filter_map(|grant| grant.expires_at)
            .filter(|at| *at > now)
            .min()
    }

    /// The grants of an account that its file is to hold: none while `on-stale` revokes them.
    pub fn grants_of(&self, name: &AccountName) -> &[Grant] {
        match self.in_force.accounts.get(name) {
            Some(account) if !self.revoked => &account.grants,
            _ => &[],
        }
    }

    /// The list, while it is held, would give this account other keys than it has.
    pub fn is_held_back(&self, name: &AccountName) -> bool {
        let (Some(desired), Some(account)) = (&self.desired, self.in_force.accounts.get(name))
        else {
            return false;
        };
        desired.keys_of(name) != account.grants.as_slice()
    }
}

/// True when this account's file is this agent's business. While NSS does not say who it is, a glob only keeps what is
/// managed already: it could be a system account.
pub fn manages(config: &Config, people: &People, in_force: &InForce, name: &AccountName) -> bool {
    let accounts = &config.accounts;
    if let Some(account) = people.account(name) {
        return accounts.manages(name, Some(account.uid), people.uid_min);
    }
    let known = in_force
        .accounts
        .get(name)
        .is_some_and(|account| account.managed);
    accounts.manages(name, None, people.uid_min)
        && (known || accounts.named().any(|named| named == name))
}
