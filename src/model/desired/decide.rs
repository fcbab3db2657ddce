//! From what is known of the world to the keys that are in force. Whatever fails here leaves those that were.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::tables::{Config, OnStale};
use crate::model::desired::adopted::Adopted;
use crate::model::desired::guard::{self, Circumstances, Held, Verdict};
use crate::model::desired::in_force::{Account, Holding, InForce};
use crate::model::desired::judge::{self, Desired, Rules};
use crate::model::desired::signed::{self, Fault, Trust, Unsigned};
use crate::model::instance::Identity;
use crate::model::key::grant::Grant;
use crate::model::key::policy::Signing;
use crate::model::key::release::{UNTOLD, Version};
use crate::model::list::approved::{ApprovedList, SCHEMA};
use crate::model::list::bounds::Excess;
use crate::model::list::fetch_report::FetchReport;
use crate::model::list::rejected::Rejected;
use crate::model::people::{Lookup, People};
use crate::model::sha256::Sha256;
use crate::model::signature::signers::Signers;
use crate::model::sorting::Gather;

/// What one look at the world gave.
#[derive(Debug)]
pub struct Facts {
    pub now: Timestamp,
    pub identity: Identity,
    pub list: ListFact,
    pub signers: SignersFact,
    pub break_glass: BreakGlassFact,
    pub people: Arc<People>,
    /// What stood in the files of [newcomers](Decision::newcomers).
    pub adopted: BTreeMap<AccountName, Adopted>,
    /// Newcomers whose files were not looked at, and why. They stay as they are.
    pub unlooked: BTreeMap<AccountName, String>,
    /// Of these the account database says nothing; what it said of them before is in `people`.
    pub silent_about: Vec<AccountName>,
    /// When the decision must be made again for who has vanished.
    pub look_again: Option<Timestamp>,
    /// The release that sshd said since the last decision.
    pub openssh: Option<Version>,
    /// How the last fetch went, where that can be read.
    pub fetched: Option<FetchReport>,
    /// When the stored list was last written or found unchanged.
    pub stored_at: Option<Timestamp>,
    /// Digest of the list whose removals a person has accepted.
    pub accepted: Option<String>,
    /// What the running enforcer said of a list, for a command that must not contradict it. In observe mode the enforcer
    /// saves nothing, so its word is all there is.
    pub said: Option<Said>,
}

/// What the enforcer made of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub digest: String,
    /// Why it holds that list, if it does.
    pub held: Option<Held>,
}

/// The stored list.
#[derive(Debug)]
pub enum ListFact {
    /// The one that the last decision was made on.
    AsBefore,
    Read(Box<ApprovedList>),
    Missing(PathBuf),
    TooLarge(Excess),
    Unreadable(String),
}

/// The file of those who may sign lists.
#[derive(Debug)]
pub enum SignersFact {
    /// Nothing is to be verified.
    Unasked,
    /// Its text.
    Read(String),
    /// Others than root can write to it, or put another one in its place.
    Open(String),
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
    /// Accounts that it leaves without keys by a value of comments alone.
    pub tombstones: Vec<AccountName>,
    /// Keys that stand in them, see [`Desired::meant`].
    meant: BTreeMap<AccountName, Vec<Option<String>>>,
    /// The same of the break-glass file.
    pub break_glass_rejected: Vec<Rejected>,
    /// Accounts that the list names and that are not in force.
    pub strangers: Vec<AccountName>,
    /// See [`Facts::unlooked`].
    pub unlooked: BTreeMap<AccountName, String>,
    /// What stood in the files of accounts that the list may take on.
    adopted: BTreeMap<AccountName, Adopted>,
    /// What is in force may have changed since it was last published.
    pub changed: bool,
    /// When the decision must be made again, whatever happens.
    pub look_again: Option<Timestamp>,
    /// When a list that did not count must be read again.
    pub read_again: Option<Timestamp>,
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
    /// The stored list is beyond a bound.
    ListTooLarge(Excess),
    ListUnreadable {
        error: String,
    },
    ListGone {
        path: String,
    },
    ListSchema {
        schema: u32,
    },
    /// The list that was fetched does not count.
    Unsigned {
        what: Unsigned,
        /// It has been so for longer than a list is being published.
        lasts: bool,
        /// No list is in force yet.
        is_first: bool,
    },
    /// The signature of the list in force will count no longer.
    SignatureEnds {
        scope: String,
        at: Timestamp,
    },
    SignersOpen {
        path: String,
    },
    SignersUnreadable {
        error: String,
    },
    /// A line of the file does not count, and so many more.
    SignersRefused {
        path: String,
        line: usize,
        reason: String,
        more: usize,
    },
    /// The file names fewer who may sign than must.
    SignersTooFew {
        path: String,
        there: usize,
        needed: u32,
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
    /// The account database says nothing of these.
    PeopleSilent {
        accounts: Vec<AccountName>,
    },
    /// No good list since then, and `on-stale = "revoke"`.
    Revoked {
        since: Timestamp,
    },
}

/// How long the break-glass file must be gone to be gone: an editor replaces a file in two steps.
const BREAK_GLASS_SETTLES: SignedDuration = SignedDuration::from_secs(5);

/// How long values and signature may differ before that is more than a list that is being published.
const PUBLISHING: SignedDuration = SignedDuration::from_mins(2);

/// A list that did not count is verified again this much later: by then it may.
const VERIFY_AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// How long before its end a signature is spoken of.
pub const ENDS_SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// An account database that failed is asked again this much later.
const PEOPLE_RETRY: SignedDuration = SignedDuration::from_secs(30);

impl Trouble {
    fn is_of_a_list_that_was_read(&self) -> bool {
        matches!(
            self,
            Self::NoList { foreign: Some(_) }
                | Self::ListForeign { .. }
                | Self::ListSchema { .. }
                | Self::SignersRefused { .. }
        ) || self.is_of_signatures()
    }

    /// The list that was fetched does not count, for want of a good signature.
    pub fn is_of_signatures(&self) -> bool {
        matches!(
            self,
            Self::Unsigned { .. }
                | Self::SignersOpen { .. }
                | Self::SignersUnreadable { .. }
                | Self::SignersTooFew { .. }
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
        if !is_the_same {
            self.read_again = None;
        }
        self.troubles
            .retain(|trouble| is_the_same && trouble.is_of_a_list_that_was_read());
        self.former.clear();
        self.keys_left = false;
        // A key has expired, or what was left to settle has settled.
        self.changed |= self.look_again.take().is_some_and(|at| at <= facts.now);
        if facts.openssh.is_some() {
            self.in_force.openssh = facts.openssh;
            self.changed = true;
        }
        self.unlooked = std::mem::take(&mut facts.unlooked);
        self.adopted = std::mem::take(&mut facts.adopted);
        self.take_list(facts, terms);
        self.read_break_glass(facts, terms);
        let all = self.in_force.accounts.keys();
        let unseen = all.filter(|name| !self.was_looked_at(name, &facts.people));
        let unseen: BTreeSet<AccountName> = unseen.cloned().collect();
        self.changed |= self.in_force.await_first_list(&unseen);
        self.adopt(|in_force, name| {
            let account = in_force.accounts.get(name);
            account.is_some_and(|account| account.managed)
        });
        if let Some(at) = facts.look_again {
            self.look_again_at(at);
        }
        let accounts = std::mem::take(&mut facts.silent_about);
        if !accounts.is_empty() {
            self.troubles.push(Trouble::PeopleSilent { accounts });
            self.look_again_at(facts.now + PEOPLE_RETRY);
        }
        if let Some(desired) = self.desired.take() {
            self.changed = true;
            self.weigh(desired, facts, terms.config);
        }
        self.check_age(facts, terms.config);
        self.check_signatures(facts.now, terms.config);
        let is_empty = self.list.as_ref().is_some_and(|list| list.parameters == 0);
        if is_empty && self.in_force.accounts.is_empty() {
            self.troubles.push(Trouble::ListEmpty);
        }
        if let Some(at) = self.next_expiry(facts.now) {
            self.look_again_at(at);
        }
        self.changed |= self.in_force.note_people(&facts.people);
        self
    }

    /// By what lines are judged and written here.
    pub fn rules<'a>(&self, terms: Terms<'a>) -> Rules<'a> {
        Rules {
            policy: &terms.config.policy,
            zone: terms.zone,
            openssh: Some(self.in_force.openssh.unwrap_or(UNTOLD)),
        }
    }

    /// Takes every managed account on, as a list that speaks of it will.
    pub fn take_on_everybody(&mut self, config: &Config, people: &People) {
        let all = config.accounts.named().chain(&self.strangers);
        let managed = |name: &&AccountName| manages(config, people, &self.in_force, name);
        let names: Vec<AccountName> = all.filter(managed).cloned().collect();
        self.strangers.retain(|name| !names.contains(name));
        for name in names {
            let account = self.in_force.accounts.entry(name).or_default();
            account.managed = true;
        }
        self.in_force.list.get_or_insert_default();
    }

    /// As it will be when the files are in line: no other one that sshd reads is left in a home.
    pub fn once_enforced(&mut self) {
        for account in self.in_force.accounts.values_mut() {
            account.alone = account.managed;
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
            ListFact::TooLarge(excess) => {
                return self.troubles.push(Trouble::ListTooLarge(excess));
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
            // The fetcher alone says it where the firmware does not, and its word is not enough to put aside what is in
            // force: the guard weighs its list as any other.
            if facts.identity == Identity::Unknown && self.in_force.instance.as_ref() != Some(id) {
                self.in_force.instance = Some(id.clone());
                self.changed = true;
            }
        }
        if !self.is_signed(&list, facts, terms) {
            // All who can read the source know such a key by now.
            self.rejected.retain(|one| !one.is_private_key());
            self.rejected.extend(judge::leaked(&list));
            return;
        }
        let in_force = &self.in_force;
        let mut previous = in_force.grants();
        let adopted = self.adopted.iter();
        previous.extend(adopted.map(|(name, adopted)| (name, adopted.grants.as_slice())));
        let mut desired = judge::judge(&list, self.rules(terms), &previous, |name| {
            in_force.accounts.contains_key(name)
                || manages(terms.config, &facts.people, in_force, name)
        });
        self.meant = std::mem::take(&mut desired.meant);
        self.rejected.clone_from(&desired.rejected);
        self.tombstones.clone_from(&desired.tombstones);
        self.desired = Some(desired);
        self.list = Some(Listed {
            digest: list.digest(),
            parameters: list.entries.len(),
            source: list.source,
            fetched_at: list.fetched_at,
        });
    }

    /// Whether the list counts: no value of it is read before.
    fn is_signed(&mut self, list: &ApprovedList, facts: &Facts, terms: Terms<'_>) -> bool {
        let Some(signing) = &terms.config.policy.signing else {
            self.changed |= self.in_force.refused_since.take().is_some();
            return true;
        };
        let (signers, troubles) = signers(&facts.signers, signing, terms.zone);
        self.troubles.extend(troubles);
        let faults = match signers {
            None => Vec::new(),
            Some(signers) => {
                let trust = Trust {
                    signing,
                    signers: &signers,
                    known: &self.in_force.signed,
                    now: facts.now,
                };
                match signed::verify(list, &terms.config.source, trust) {
                    Ok(taken) => {
                        self.in_force.take_signatures(taken);
                        self.changed = true;
                        return true;
                    }
                    Err(faults) => faults,
                }
            }
        };
        self.refuse(faults, facts.now);
        false
    }

    /// A list that fails is not a list.
    fn refuse(&mut self, faults: Vec<Unsigned>, now: Timestamp) {
        // A clock that was set back is no reason to wait for as long.
        let since = self.in_force.refused_since.map_or(now, |at| at.min(now));
        self.changed |= self.in_force.refused_since != Some(since);
        self.in_force.refused_since = Some(since);
        let is_first = self.in_force.list.is_none();
        let mut again = now + VERIFY_AGAIN;
        for what in faults {
            let lasts = !what.fault.passes() || now.duration_since(since) >= PUBLISHING;
            if !lasts {
                again = again.min(since + PUBLISHING);
            }
            if let Fault::FromFuture { issued } = what.fault {
                again = again.min(issued);
            }
            self.troubles.push(Trouble::Unsigned {
                what,
                lasts,
                is_first,
            });
        }
        self.read_again = Some(again);
        self.look_again_at(again);
    }

    /// What is in force stays so when its signature ends, and nothing new comes.
    fn check_signatures(&mut self, now: Timestamp, config: &Config) {
        if config.policy.signing.is_none() {
            return;
        }
        let current = self
            .in_force
            .signed
            .iter()
            .filter(|(_, taken)| taken.current);
        let ends: Vec<(String, Timestamp)> = current
            .map(|(scope, taken)| (scope.clone(), taken.expires))
            .collect();
        for (scope, at) in ends {
            if at <= now {
                let fault = Fault::Expired { at };
                let what = Unsigned { scope, fault };
                let trouble = Trouble::Unsigned {
                    what,
                    lasts: true,
                    is_first: false,
                };
                if !self.troubles.contains(&trouble) {
                    self.troubles.push(trouble);
                }
                continue;
            }
            let soon = at.saturating_sub(ENDS_SOON).unwrap_or(now);
            if soon <= now {
                self.troubles.push(Trouble::SignatureEnds { scope, at });
                self.look_again_at(at);
            } else {
                self.look_again_at(soon);
            }
        }
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
        let (grants, rejected) =
            judge::judge_break_glass(&path, text, self.rules(terms), &self.in_force.break_glass);
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

    /// Accounts that this list, or the break-glass file on a clone, would take on: what is in their files is looked at before
    /// the agent writes any, so that no list takes keys away unweighed which it never knew. Those of an account that is in
    /// force are not looked at for that: what is planted there counts for nothing.
    pub fn newcomers(&self, facts: &Facts, config: &Config) -> Vec<AccountName> {
        let mut names = BTreeSet::new();
        let has_break_glass = !self.in_force.break_glass.is_empty()
            || match &facts.break_glass {
                BreakGlassFact::Read(text) => !text.trim().is_empty(),
                BreakGlassFact::Open | BreakGlassFact::Unreadable(_) => false,
            };
        if let ListFact::Read(list) = &facts.list {
            names.extend(list.entries.iter().map(|entry| &entry.account));
            names.extend(self.in_force.accounts.keys());
        } else if self.in_force.list.is_none() && has_break_glass {
            names.extend(self.in_force.accounts.keys());
        }
        let is_new = |name: &&AccountName| {
            let account = self.in_force.accounts.get(*name);
            !account.is_some_and(|account| account.managed)
                && facts.people.account(name).is_some()
                && manages(config, &facts.people, &self.in_force, name)
        };
        names.into_iter().filter(is_new).cloned().collect()
    }

    /// An account that does not exist yet, or of which the account database says nothing, may have keys when it does.
    fn was_looked_at(&self, name: &AccountName, people: &People) -> bool {
        let account = self.in_force.accounts.get(name);
        let is_managed = account.is_some_and(|account| account.managed);
        is_managed || people.account(name).is_some() && !self.unlooked.contains_key(name)
    }

    /// Puts the keys into force that stood in the files of these accounts.
    fn adopt(&mut self, takes_on: impl Fn(&InForce, &AccountName) -> bool) {
        for (name, adopted) in std::mem::take(&mut self.adopted) {
            if !takes_on(&self.in_force, &name) {
                self.adopted.insert(name, adopted);
                continue;
            }
            let account = self.in_force.accounts.entry(name).or_default();
            let mut grants = adopted.grants;
            // Those of the instance that this one is a clone of.
            let inherited = std::mem::take(&mut account.inherited);
            grants.retain(|grant| !inherited.contains(&grant.fingerprint));
            account.joining = !grants.is_empty() || adopted.obscure > 0;
            account.obscure = adopted.obscure;
            account.unasked = adopted.unasked;
            account.grants = grants;
            account.brought.clear();
            account.managed = true;
            account.sshd_reads = account.sshd_reads.take().or(adopted.sshd_reads);
            self.changed = true;
        }
    }

    /// The guard, and the list into force: as a whole, or only what it adds.
    fn weigh(&mut self, mut desired: Desired, facts: &Facts, config: &Config) {
        let Some(list) = &self.list else { return };
        let digest = list.digest.clone();
        let accepted = facts.accepted.as_ref() == Some(&digest);
        self.adopt(|in_force, name| {
            in_force.accounts.contains_key(name) || desired.takes_on(name, accepted)
        });
        self.adopted.clear();
        let fetched = facts.fetched.as_ref();
        let mut holding = Holding::again(
            self.in_force.holding.as_ref(),
            self.outcome(&desired, facts, config),
            fetched.and_then(|report| report.found(&digest)),
            config.source.every,
            facts.now,
        );
        let said = match &facts.said {
            Some(said) if said.digest == digest => Some(&said.held),
            _ => None,
        };
        if let Some(Some(held)) = said {
            holding.seen = held.seen;
            holding.since = held.since;
        }
        let is_let_through = said == Some(&None);
        let remembered = config.guard.remembers(config.source.every);
        self.in_force.forget_steps(facts.now, remembered);
        let is_here = |name: &AccountName| self.is_here(name, facts, config);
        let is_known = |name: &AccountName| {
            let account = self.in_force.accounts.get(name);
            is_here(name) && !account.is_some_and(|account| account.joining)
        };
        let of_all = Circumstances {
            guard: &config.guard,
            every: config.source.every,
            holding: &holding,
            accepted: accepted || is_let_through,
            exists: &is_here,
            buried: &|name| self.is_buried(name, &desired),
            now: facts.now,
        };
        let of_known = Circumstances {
            exists: &is_known,
            ..of_all
        };
        let toll = guard::toll(&self.in_force, &desired, of_all);
        let counted = toll.settled;
        let verdict = match said {
            Some(Some(held)) if !accepted => Verdict::Hold(held.clone()),
            _ => guard::judge(&self.in_force, &desired, of_all, toll),
        };
        match verdict {
            Verdict::Hold(held) => {
                // Whoever joins with many keys, perhaps for that purpose, keeps no other account's key in force.
                let toll = guard::toll(&self.in_force, &desired, of_known);
                let verdict = guard::judge(&self.in_force, &desired, of_known, toll);
                let all_wait = verdict != Verdict::Apply;
                let mut taken = desired.clone();
                let waits = |account: &Account| all_wait || account.joining;
                self.put(&mut taken, waits, accepted, counted.of > 0, facts, config);
                if !all_wait {
                    self.in_force.note_step(toll.settled.removed, facts.now);
                }
                self.in_force.list.get_or_insert(digest);
                self.in_force.holding = Some(holding);
                self.held = Some(held);
                self.strangers = self.strangers_of(&desired);
                self.desired = Some(desired);
            }
            Verdict::Apply => {
                let is_settled = accepted || config.guard.lets_through(holding.seen);
                let has_keys = counted.of > 0;
                self.put(&mut desired, |_| false, accepted, has_keys, facts, config);
                if is_settled && counted.removed > 0 {
                    self.in_force.settle();
                } else {
                    self.in_force.note_step(counted.removed, facts.now);
                }
                self.in_force.list = Some(digest);
                self.in_force.holding = None;
                self.held = None;
                self.strangers = self.strangers_of(&desired);
            }
        }
    }

    /// Puts into force what the list says, and of an account that `waits` only what it adds.
    fn put(
        &mut self,
        desired: &mut Desired,
        waits: impl Fn(&Account) -> bool,
        accepted: bool,
        has_keys: bool,
        facts: &Facts,
        config: &Config,
    ) {
        let names = self.in_force.accounts.keys().chain(desired.grants.keys());
        let managed: BTreeSet<AccountName> = names
            .filter(|name| self.was_looked_at(name, &facts.people))
            .filter(|name| manages(config, &facts.people, &self.in_force, name))
            .cloned()
            .gather();
        self.keys_left = self.in_force.managed().any(|(name, account)| {
            let next = desired.keys_of(name);
            let stays = |grant: &Grant| next.iter().any(|n| n.fingerprint == grant.fingerprint);
            !waits(account)
                && account.grants.as_slice() != next
                && !account.grants.iter().all(stays)
        });
        self.note_former(|name, account| {
            let next = desired.keys_of(name);
            if waits(account) {
                return !next.iter().all(|grant| account.grants.contains(grant));
            }
            account.grants != next
        });
        let is_managed = |name: &AccountName| managed.contains(name);
        let came = has_keys.then_some(facts.now);
        self.in_force
            .take(desired, is_managed, waits, accepted, came);
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
    fn note_former(&mut self, changes: impl Fn(&AccountName, &Account) -> bool) {
        for (name, account) in self.in_force.managed() {
            if !changes(name, account) {
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
        if self.revoked {
            // What only sshd can judge goes with the rest.
            for account in self.in_force.accounts.values_mut() {
                account.obscure = 0;
            }
        }
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
        let Some(found) = facts.stored_at.max(reported) else {
            return;
        };
        // What is stored is no good list.
        let since = self
            .in_force
            .refused_since
            .map_or(found, |refused| refused.min(found));
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

    /// A list says which keys this account has.
    pub fn speaks_of(&self, name: &AccountName) -> bool {
        let account = self.in_force.accounts.get(name);
        self.in_force.list.is_some() && account.is_some_and(|account| account.managed)
    }

    /// True when a key that is not in force is not meant to be either: no error in what was read, no list that is held or
    /// too old, none that was not read yet, and no file that was not read keeps it from being so.
    pub fn denies(&self, name: &AccountName, fingerprint: &str) -> bool {
        let is = |grant: &Grant| grant.fingerprint == fingerprint;
        let is_held = |desired: &Desired| desired.keys_of(name).iter().any(is);
        let account = self.in_force.accounts.get(name);
        let is_stale = self.revoked && account.is_some_and(|account| account.grants.iter().any(is));
        let is_obscure = account.is_some_and(Account::stays_as_it_is);
        let mut meant = self.meant.get(name).into_iter().flatten();
        let is_meant = meant.any(|key| key.as_deref().is_none_or(|key| key == fingerprint));
        let was_read = self.list.is_some()
            && self.break_glass_rejected.is_empty()
            && !self.unlooked.contains_key(name)
            && !is_obscure;
        was_read && !is_meant && !is_stale && !self.desired.as_ref().is_some_and(is_held)
    }

    /// Keys of this account wait to be taken away, since the list that does so is held; or what is in its files does.
    pub fn is_held_back(&self, name: &AccountName) -> bool {
        let (Some(desired), Some(account)) = (&self.desired, self.in_force.accounts.get(name))
        else {
            return false;
        };
        let break_glass = &self.in_force.break_glass;
        let stays = |grant: &Grant| {
            let mut next = desired.keys_of(name).iter().chain(break_glass);
            next.any(|next| next.fingerprint == grant.fingerprint)
        };
        account.managed && (account.stays_as_it_is() || !account.grants.iter().all(stays))
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

/// Those who may sign, if they are enough, and what is wrong with their file.
pub fn signers(
    fact: &SignersFact,
    signing: &Signing,
    zone: &TimeZone,
) -> (Option<Signers>, Vec<Trouble>) {
    let path = signing.signed_by.display().to_string();
    let text = match fact {
        SignersFact::Read(text) => text,
        SignersFact::Open(path) => {
            let path = path.clone();
            return (None, vec![Trouble::SignersOpen { path }]);
        }
        SignersFact::Unreadable(error) => {
            let error = error.clone();
            return (None, vec![Trouble::SignersUnreadable { error }]);
        }
        SignersFact::Unasked => {
            let error = format!("`{path}` was not read");
            return (None, vec![Trouble::SignersUnreadable { error }]);
        }
    };
    let (signers, refused) = Signers::read(text, zone);
    let mut troubles = Vec::new();
    if let Some(first) = refused.first() {
        troubles.push(Trouble::SignersRefused {
            path: path.clone(),
            line: first.line,
            reason: first.reason.clone(),
            more: refused.len() - 1,
        });
    }
    let there = signers.count();
    if u32::try_from(there).is_ok_and(|there| there < signing.signatures) {
        let needed = signing.signatures;
        troubles.push(Trouble::SignersTooFew {
            path,
            there,
            needed,
        });
        return (None, troubles);
    }
    (Some(signers), troubles)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64ct::{Base64, Encoding};

    use super::*;
    use crate::model::account::Account;
    use crate::model::config::tables::Pattern;
    use crate::model::desired::in_force::Synced;
    use crate::model::key::line::Line;
    use crate::model::list::approved::Entry;
    use crate::model::list::approved::Signed;
    use crate::model::list::contents::Contents;
    use crate::model::list::statement::{Scope, Statement};
    use crate::model::signature::signing;

    /// Two accounts with two keys each: what most stories begin with.
    const FIRST: &str = "alice=1,2 bob=3,4";

    /// One host, on which is decided again and again.
    struct Host {
        config: Config,
        facts: Facts,
        decision: Decision,
    }

    impl Host {
        /// alice, bob, carol and the system account `svc`, of which the three people are managed.
        fn new() -> Self {
            let config = Config::read("[accounts]\nmanage = [\"*\"]").unwrap();
            let accounts = [
                ("alice", 1001),
                ("bob", 1002),
                ("carol", 1003),
                ("svc", 200),
            ];
            let found = |(account, uid): (&str, u32)| {
                let account = Account {
                    name: name(account),
                    uid,
                    gid: uid,
                    home: format!("/home/{account}").into(),
                };
                (account.name.clone(), Lookup::Found(account))
            };
            let mut people = People {
                accounts: accounts.into_iter().map(found).collect(),
                uid_min: 1000,
                ..People::default()
            };
            people.accounts.insert(name("ghost"), Lookup::Unknown);
            let facts = Facts {
                now: at(0),
                identity: Identity::Instance("i-here".to_owned()),
                list: ListFact::AsBefore,
                signers: SignersFact::Unasked,
                break_glass: BreakGlassFact::Read(String::new()),
                people: Arc::new(people),
                adopted: BTreeMap::new(),
                unlooked: BTreeMap::new(),
                silent_about: Vec::new(),
                look_again: None,
                openssh: None,
                fetched: None,
                stored_at: Some(at(0)),
                accepted: None,
                said: None,
            };
            let decision = Decision::default();
            Self {
                config,
                facts,
                decision,
            }
        }

        /// With this list in force.
        fn with(list: &str) -> Self {
            let mut host = Self::new();
            host.read(list);
            assert_eq!(shown(host.decide()), list);
            host
        }

        /// Another list is stored.
        fn read(&mut self, list: &str) {
            self.facts.list = ListFact::Read(Box::new(list_of(list)));
        }

        fn decide(&mut self) -> &Decision {
            let terms = Terms {
                config: &self.config,
                zone: &TimeZone::UTC,
            };
            let mut before = std::mem::take(&mut self.decision);
            before.changed = false;
            self.decision = before.decide(&mut self.facts, terms);
            &self.decision
        }

        fn people(&mut self) -> &mut People {
            Arc::make_mut(&mut self.facts.people)
        }

        /// The fetcher has found the list so, just then.
        fn confirmed(&mut self, list: &str, fetched: Timestamp) {
            self.facts.fetched = Some(FetchReport {
                digest: Some(list_of(list).digest()),
                began: Some(fetched),
                last_success: Some(fetched),
                ..FetchReport::default()
            });
        }

        fn manage(&mut self, names: &[&str]) {
            let named = names.iter().map(|one| Pattern::Name(name(one)));
            self.config.accounts.manage = named.collect();
        }
    }

    fn name(text: &str) -> AccountName {
        text.try_into().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// A key by its number, which is also its comment.
    fn key(number: &str) -> String {
        let body = [number.parse().unwrap(); 32];
        let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &body].concat();
        format!("ssh-ed25519 {} {number}", Base64::encode_string(&blob))
    }

    /// `alice=1,2 bob=#`: one value an account, of keys by number; `#` is a comment, `?` a line that cannot be read, and
    /// `3!` a key that expires in 2030.
    fn list_of(list: &str) -> ApprovedList {
        let line = |word: &str| match (word, word.strip_suffix('!')) {
            ("#", _) => "# left the company".to_owned(),
            ("?", _) => "<html>".to_owned(),
            (_, Some(number)) => format!("expiry-time=\"20300101Z\" {}", key(number)),
            (number, None) => key(number),
        };
        let entry = |word: &str| {
            let (account, lines) = word.split_once('=').unwrap();
            let lines: Vec<String> = lines.split(',').map(line).collect();
            Entry {
                account: name(account),
                parameter: format!("/k/{account}"),
                version: None,
                last_modified: None,
                value: lines.join("\n"),
            }
        };
        let entries = list.split_whitespace().map(entry).collect();
        ApprovedList::new("test".to_owned(), at(0), entries, Vec::new())
    }

    /// What is in force, as [`list_of`] spells it; in brackets what is remembered of an account and left alone.
    fn shown(decision: &Decision) -> String {
        let mut all = Vec::new();
        for (name, account) in &decision.in_force.accounts {
            let key = |grant: &Grant| {
                let end = if grant.expires_at.is_some() { "!" } else { "" };
                format!("{}{end}", grant.comment)
            };
            let mut keys: Vec<String> = account.grants.iter().map(key).collect();
            keys.sort_by_key(|key| key.trim_end_matches('!').parse::<u32>().unwrap_or(0));
            let word = format!("{name}={}", keys.join(","));
            all.push(if account.managed {
                word
            } else {
                format!("({word})")
            });
        }
        all.join(" ")
    }

    fn break_glass(decision: &Decision) -> Vec<&str> {
        let grants = decision.in_force.break_glass.iter();
        grants.map(|grant| grant.comment.as_str()).collect()
    }

    /// Whose keys have just changed.
    fn former(decision: &Decision) -> Vec<&str> {
        let former = decision.former.iter();
        former.map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn lists_come_into_force_one_after_another() {
        let check = |lists: &[&str], in_force: &str, held: Option<(usize, Option<u32>)>| {
            let mut host = Host::new();
            for list in lists {
                host.read(list);
                host.decide();
            }
            let decision = &host.decision;
            assert_eq!(shown(decision), in_force, "{lists:?}");
            let what = decision
                .held
                .as_ref()
                .map(|held| (held.removed, held.needed));
            assert_eq!(what, held, "{lists:?}");
        };
        check(&[], "", None);
        check(&[FIRST], FIRST, None);
        check(&[FIRST, FIRST], FIRST, None);
        check(&[FIRST, "alice=1,2,5 bob=3,4"], "alice=1,2,5 bob=3,4", None);
        // An account that leaves the list is emptied, and not forgotten.
        check(&[FIRST, "alice=1,2"], "alice=1,2 bob=", None);
        // One step after another takes no more than one alone.
        check(
            &[FIRST, "alice=1,2", "alice=1"],
            "alice=1,2 bob=",
            Some((3, Some(3))),
        );
        check(
            &[FIRST, "alice=1", "alice=1,2 bob=5,4"],
            "alice=1,2 bob=4,5",
            None,
        );
        check(
            &[FIRST, "alice=1,2", "alice=1,2 bob=5"],
            "alice=1,2 bob=5",
            None,
        );
        // A comment empties on purpose, even the whole host, once that has come often enough.
        check(&[FIRST, "alice=1,2 bob=#"], "alice=1,2 bob=", None);
        check(&[FIRST, "alice=1 bob=#"], FIRST, Some((3, Some(3))));
        check(&[FIRST, "alice=# bob=#"], FIRST, Some((4, Some(3))));
        check(&[FIRST, "alice=#"], FIRST, Some((4, None)));
        check(&["carol=# alice=1"], "alice=1 carol=", None);
        // A value that cannot be read says nothing.
        check(&[FIRST, "alice=? bob=3,4"], FIRST, None);
        check(&[FIRST, "alice=? bob=?"], FIRST, None);
        check(&["alice=1 carol=?"], "alice=1", None);
        // Too much goes at once: held, and what comes next is judged by what is in force.
        check(&[FIRST, "alice=1"], FIRST, Some((3, Some(3))));
        check(&[FIRST, ""], FIRST, Some((4, None)));
        check(&[FIRST, "alice=1", "bob=3"], FIRST, Some((3, Some(3))));
        check(&[FIRST, "alice=1", FIRST], FIRST, None);
        check(&[FIRST, "", "alice=1,2 bob=5"], "alice=1,2 bob=5", None);
        // What it adds comes at once, to accounts that are new too, and nothing goes.
        check(
            &[FIRST, "alice=1,5 carol=6"],
            "alice=1,2,5 bob=3,4 carol=6",
            Some((3, Some(3))),
        );
        check(
            &[FIRST, "alice=5", "bob=6"],
            "alice=1,2,5 bob=3,4,6",
            Some((4, Some(3))),
        );
        check(&[FIRST, "alice=5", FIRST], FIRST, None);
        check(&[FIRST, "alice=5", "alice=1,2,5"], "alice=1,2,5 bob=", None);
        // A key that is on both has the options of the list.
        check(
            &[FIRST, "alice=1!"],
            "alice=1!,2 bob=3,4",
            Some((3, Some(3))),
        );
        // However many keys it brings, the next one takes no more of those that were there before.
        let many = "alice=1,2,5,6,7,8,9,10,11,12";
        check(
            &[
                FIRST,
                "alice=5,6,7,8,9,10,11,12",
                many,
                "alice=5,6,7,8,9,10,11,12",
            ],
            "alice=1,2,5,6,7,8,9,10,11,12 bob=",
            Some((4, Some(3))),
        );
        check(
            &[FIRST, "alice=1,2,5,6,7,8,9 bob=3,4", "alice=1,5,6,7,8,9"],
            "alice=1,2,5,6,7,8,9 bob=3,4",
            Some((3, Some(3))),
        );
        check(
            &[FIRST, "alice=5,6,7,8,9,10", "alice=5,6,7,8,9,10,11 bob=3"],
            "alice=1,2,5,6,7,8,9,10,11 bob=3,4",
            Some((3, Some(3))),
        );
        // An account that is not managed, or not here, gets nothing.
        check(&["alice=1 svc=9"], "alice=1", None);
        check(&["alice=1 ghost=9"], "alice=1", None);
    }

    #[test]
    fn whom_a_list_names_in_vain_is_known() {
        let check = |lists: &[&str], expected: &[&str]| {
            let mut host = Host::new();
            for list in lists {
                host.read(list);
                host.decide();
            }
            assert_eq!(
                host.decision.strangers,
                expected.iter().map(|n| name(n)).collect::<Vec<_>>()
            );
        };
        check(&["alice=1"], &[]);
        check(
            &["alice=1 ghost=9 svc=8 carol=?"],
            &["carol", "ghost", "svc"],
        );
        check(&["alice=1 ghost=9", "alice=1"], &[]);
        check(&[FIRST, "alice=1 carol=?"], &["carol"]);
        // What a list adds is in force while it is held.
        check(&[FIRST, "alice=1 carol=5"], &[]);
    }

    impl Host {
        /// The files of these accounts were looked at, and such keys are in them; `?` is a line that only sshd may understand.
        fn stands(&mut self, files: &str) {
            for (account, grants) in list_of(&files.replace(",?", "").replace('?', ""))
                .entries
                .iter()
                .map(|entry| (entry.account.clone(), entry.value.clone()))
            {
                let mut adopted = Adopted::default();
                let file = std::path::Path::new("/home/x/.ssh/authorized_keys");
                adopted.read(file, grants.as_bytes(), true, &TimeZone::UTC);
                let word = files
                    .split_whitespace()
                    .find(|word| word.starts_with(account.as_str()));
                adopted.obscure = word.unwrap_or_default().matches('?').count();
                self.facts.adopted.insert(account, adopted);
            }
        }
    }

    fn newcomers(host: &Host) -> Vec<String> {
        let names = host.decision.newcomers(&host.facts, &host.config);
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_was_never_in_force_is_looked_at_first_and_nobody_else() {
        let mut host = Host::new();
        host.read("alice=1 bob=? svc=5 ghost=6");
        assert_eq!(newcomers(&host), ["alice", "bob"]);
        host.decide();
        // bob was not taken on, so whatever is in his file then is looked at when a list has a key for him.
        host.read("alice=1 bob=3");
        assert_eq!(newcomers(&host), ["bob"]);
        host.decide();
        host.read("alice=1 bob=3");
        assert!(newcomers(&host).is_empty());
        // No list, and no other one than before.
        host.facts.list = ListFact::AsBefore;
        assert!(newcomers(&host).is_empty());
        // It was left alone for a while.
        host.manage(&["alice"]);
        host.read("alice=1 bob=3");
        host.decide();
        host.manage(&["alice", "bob"]);
        host.read("alice=1 bob=3");
        assert_eq!(newcomers(&host), ["bob"]);
    }

    #[test]
    fn who_does_not_exist_yet_joins_when_it_does() {
        for lookup in [Lookup::Unknown, Lookup::Failed("no answer".to_owned())] {
            let mut host = Host::new();
            host.manage(&["alice", "bob"]);
            let bob = host.people().accounts.insert(name("bob"), lookup);
            host.read("alice=1 bob=2");
            assert_eq!(newcomers(&host), ["alice"]);
            assert_eq!(shown(host.decide()), "alice=1");
            assert_eq!(host.decision.strangers, [name("bob")]);
            host.people().accounts.insert(name("bob"), bob.unwrap());
            host.read("alice=1 bob=2");
            assert_eq!(newcomers(&host), ["bob"]);
            host.stands("bob=3,4");
            assert_eq!(shown(host.decide()), "alice=1 bob=2,3,4");
            // The database denies it again: what is in force stays.
            let lookup = Lookup::Failed("no answer".to_owned());
            host.people().accounts.insert(name("bob"), lookup);
            host.read("alice=1 bob=2");
            assert_eq!(shown(host.decide()), "alice=1 bob=2,3,4");
        }
    }

    #[test]
    fn a_list_that_is_too_old_leaves_no_file_as_it_is() {
        let mut host = Host::new();
        host.config.source.on_stale = OnStale::RevokeAfter(Duration::from_hours(2));
        host.stands("alice=1,?");
        host.read("alice=6 bob=7");
        let stays =
            |decision: &Decision| decision.in_force.accounts[&name("alice")].stays_as_it_is();
        assert!(stays(host.decide()));
        host.facts.now = at(7200);
        let decision = host.decide();
        assert!(decision.revoked && !stays(decision));
    }

    #[test]
    fn what_an_account_wrote_behind_its_key_is_no_key_of_the_list() {
        let mut host = Host::new();
        let mut adopted = Adopted::default();
        let planted = format!("{} \u{e9} AAAA", key("1"));
        let file = std::path::Path::new("/home/x/.ssh/authorized_keys");
        adopted.read(file, planted.as_bytes(), true, &TimeZone::UTC);
        host.facts.adopted.insert(name("alice"), adopted);
        let joined = format!("{},{}\n{}", key("2"), key("3"), key("4"));
        let mut list = list_of("alice=5");
        list.entries[0].value = joined;
        host.facts.accepted = Some(list.digest());
        host.facts.list = ListFact::Read(Box::new(list));
        assert_eq!(shown(host.decide()), "alice=4");
    }

    #[test]
    fn a_first_list_is_weighed_against_the_keys_that_it_found() {
        let check = |files: &str, list: &str, in_force: &str, held: Option<(usize, usize)>| {
            let mut host = Host::new();
            host.stands(files);
            host.read(list);
            let decision = host.decide();
            assert_eq!(shown(decision), in_force, "{files}, {list}");
            let held_now = decision.held.as_ref().map(|held| (held.removed, held.of));
            assert_eq!(held_now, held, "{files}, {list}");
        };
        check(
            "alice=1,2,3,4,5",
            "alice=6",
            "alice=1,2,3,4,5,6",
            Some((5, 5)),
        );
        check("alice=1,2", "alice=1,6", "alice=1,6", None);
        check("alice=1,2 bob=3,4", "alice=1,2", "alice=1,2", None);
        check(
            "alice=1,2 bob=3,4",
            "alice=9 bob=#",
            "alice=1,2,9 bob=3,4",
            Some((4, 4)),
        );
        // A list that says nothing of an account takes it on no more than before.
        check("alice=1,2", "alice=? bob=1", "bob=1", None);
    }

    #[test]
    fn what_a_first_list_found_goes_when_it_is_confirmed_or_accepted() {
        let first = || {
            let mut host = Host::new();
            host.stands("alice=1,2,3");
            host.read("alice=6 bob=7");
            assert_eq!(shown(host.decide()), "alice=1,2,3,6 bob=7");
            assert!(!host.decision.keys_left);
            host
        };
        let mut host = first();
        for minutes in 1..3 {
            assert!(host.decision.held.is_some());
            host.facts.now = at(60 * minutes);
            host.confirmed("alice=6 bob=7", at(60 * minutes));
            host.decide();
        }
        assert_eq!(shown(&host.decision), "alice=6 bob=7");
        assert!(host.decision.held.is_none() && host.decision.keys_left);
        let mut host = first();
        host.facts.accepted = Some(list_of("alice=6 bob=7").digest());
        assert_eq!(shown(host.decide()), "alice=6 bob=7");
        // The next list gives less up: it applies by itself.
        let mut host = first();
        host.read("alice=1,2,6 bob=7");
        assert_eq!(shown(host.decide()), "alice=1,2,6 bob=7");
        assert!(host.decision.held.is_none());
        // What is planted meanwhile is none of it.
        let mut host = first();
        host.stands("alice=9 bob=9");
        host.facts.adopted.clear();
        host.read("alice=6 bob=7");
        assert!(newcomers(&host).is_empty());
        assert_eq!(shown(host.decide()), "alice=1,2,3,6 bob=7");
    }

    #[test]
    fn who_joins_with_many_keys_keeps_nobody_elses_in_force() {
        let mut host = Host::with("alice=1,2 bob=3,4");
        host.facts.now = at(3600);
        host.stands("carol=11,12,13,14,15,16");
        host.read("alice=1,2 bob=3 carol=5");
        let decision = host.decide();
        assert_eq!(shown(decision), "alice=1,2 bob=3 carol=5,11,12,13,14,15,16");
        assert_eq!(decision.held.as_ref().map(|held| held.removed), Some(7));
        assert!(decision.is_held_back(&name("carol")) && !decision.is_held_back(&name("bob")));
        // And keeps none in force for ever, nor lets it go sooner.
        host.read("alice=1 carol=5");
        let decision = host.decide();
        assert_eq!(shown(decision), "alice=1,2 bob=3 carol=5,11,12,13,14,15,16");
    }

    #[test]
    fn files_that_only_sshd_may_understand_stay_as_they_are_while_the_list_is_held() {
        let mut host = Host::new();
        host.stands("alice=1,?");
        host.read("alice=6 bob=7");
        let decision = host.decide();
        assert_eq!(
            decision.held.as_ref().map(|held| (held.removed, held.of)),
            Some((2, 2))
        );
        let alice = &decision.in_force.accounts[&name("alice")];
        assert!(alice.stays_as_it_is() && decision.is_held_back(&name("alice")));
        assert!(
            !decision.denies(&name("alice"), "SHA256:any"),
            "it may stand in that line"
        );
        host.facts.accepted = Some(list_of("alice=6 bob=7").digest());
        let decision = host.decide();
        assert!(!decision.in_force.accounts[&name("alice")].stays_as_it_is());
        assert!(decision.denies(&name("alice"), "SHA256:any"));
    }

    #[test]
    fn who_was_not_looked_at_waits_alone() {
        let mut host = Host::new();
        let unlooked = || BTreeMap::from([(name("alice"), "it hangs".to_owned())]);
        host.facts.unlooked = unlooked();
        host.read("alice=6 bob=7");
        assert_eq!(shown(host.decide()), "bob=7");
        assert_eq!(host.decision.strangers, [name("alice")]);
        assert_eq!(host.decision.unlooked, unlooked());
        assert!(!host.decision.denies(&name("alice"), "SHA256:any"));
        // Not even a person's word is one about keys that nobody saw.
        host.facts.unlooked = unlooked();
        host.facts.accepted = Some(list_of("alice=6 bob=7").digest());
        host.read("alice=6 bob=7");
        assert_eq!(shown(host.decide()), "bob=7");
        host.stands("alice=1,2");
        host.facts.accepted = None;
        host.read("alice=6 bob=7");
        assert_eq!(newcomers(&host), ["alice"]);
        assert_eq!(shown(host.decide()), "alice=1,2,6 bob=7");
    }

    #[test]
    fn a_clone_adopts_what_its_template_did_not_have() {
        let mut host = Host::with(FIRST);
        host.decision.in_force.instance = Some("i-template".to_owned());
        let identity = Identity::Instance("i-here".to_owned());
        host.decision = Decision::resumed(host.decision.in_force.clone(), &identity);
        host.read("alice=5");
        assert_eq!(newcomers(&host), ["alice", "bob"]);
        // The launch key is 8.
        host.stands("alice=1,2,8");
        assert_eq!(shown(host.decide()), "alice=5,8 bob=");
        assert_eq!(
            host.decision.held.as_ref().map(|held| held.removed),
            Some(1)
        );
        // For the break-glass keys it is managed before there is a list, and nothing else goes for them.
        let mut host = Host::with(FIRST);
        host.decision.in_force.instance = Some("i-template".to_owned());
        host.decision = Decision::resumed(host.decision.in_force.clone(), &identity);
        host.facts.break_glass = BreakGlassFact::Read(key("9"));
        assert_eq!(newcomers(&host), ["alice", "bob"]);
        host.stands("alice=1,8");
        host.facts.unlooked = BTreeMap::from([(name("bob"), "it hangs".to_owned())]);
        assert_eq!(shown(host.decide()), "alice=8 (bob=)");
    }

    /// In observe mode nothing is saved, and a command has nothing to weigh a list against.
    #[test]
    fn what_the_enforcer_holds_is_held_by_a_command_too() {
        let mut enforcer = Host::with(FIRST);
        enforcer.read("alice=1");
        let held = enforcer.decide().held.clone();
        assert!(held.is_some());
        let mut command = Host::new();
        let digest = list_of("alice=1").digest();
        command.facts.said = Some(Said {
            digest: digest.clone(),
            held: held.clone(),
        });
        command.read("alice=1");
        assert_eq!(command.decide().held, held);
        // What it would change then, somebody may ask.
        command.facts.accepted = Some(digest);
        command.read("alice=1");
        assert_eq!(command.decide().held, None);
        // Of another list it has said nothing.
        let mut command = Host::new();
        command.facts.said = Some(Said {
            digest: "sha256:0".to_owned(),
            held,
        });
        command.read("alice=1");
        assert_eq!(command.decide().held, None);
    }

    #[test]
    fn an_account_that_is_no_longer_managed_is_left_alone() {
        let mut host = Host::with(FIRST);
        host.manage(&["alice"]);
        host.read(FIRST);
        assert_eq!(shown(host.decide()), "alice=1,2 (bob=3,4)");
        host.read("alice=1,2 bob=5");
        assert_eq!(shown(host.decide()), "alice=1,2 (bob=3,4)");
        assert_eq!(host.decision.strangers, [name("bob")]);
        host.manage(&["alice", "bob"]);
        host.read("alice=1,2");
        assert_eq!(shown(host.decide()), "alice=1,2 bob=");
    }

    #[test]
    fn the_same_list_again_is_no_news() {
        let mut host = Host::with(FIRST);
        assert!(host.decision.changed && host.decision.list.is_some());
        let listed = host.decision.list.clone();
        let decision = host.decide();
        assert_eq!(shown(decision), FIRST);
        assert_eq!(decision.list, listed);
        assert!(!decision.changed && !decision.keys_left, "{decision:?}");
        assert_eq!(decision.look_again, None);
        host.read(FIRST);
        let decision = host.decide();
        assert!(!decision.keys_left && former(decision).is_empty());
        // sshd is another one now: lines are written for it.
        host.facts.openssh = Some("9.9".parse().unwrap());
        assert!(host.decide().changed);
    }

    #[test]
    fn keys_that_leave_are_told_from_keys_that_come() {
        let check = |list: &str, left: bool, changed: &[&str]| {
            let mut host = Host::with(FIRST);
            host.read(list);
            let decision = host.decide();
            assert_eq!(decision.keys_left, left, "{list}");
            assert_eq!(former(decision), changed, "{list}");
        };
        check(FIRST, false, &[]);
        check("alice=1,2,5 bob=3,4", false, &["alice"]);
        check("alice=1 bob=3,4", true, &["alice"]);
        check("alice=1,2", true, &["bob"]);
        check("alice=5,1 bob=3,4,6", true, &["alice", "bob"]);
        // Held: nothing has changed.
        check("alice=1", false, &[]);
    }

    #[test]
    fn a_list_that_fails_changes_nothing_and_is_spoken_of_as_long_as_it_does() {
        let check = |fact: fn() -> ListFact, before_a_list: Trouble, after: Trouble| {
            for (mut host, keys, trouble) in [
                (Host::new(), "", before_a_list),
                (Host::with(FIRST), FIRST, after),
            ] {
                host.facts.list = fact();
                assert_eq!(shown(host.decide()), keys, "{trouble:?}");
                assert_eq!(host.decision.troubles, std::slice::from_ref(&trouble));
                // A list that was read is not read again.
                host.facts.list = match fact() {
                    ListFact::Read(_) => ListFact::AsBefore,
                    fact => fact,
                };
                assert_eq!(shown(host.decide()), keys, "{trouble:?}");
                assert_eq!(host.decision.troubles, [trouble], "a pass later");
                host.read(FIRST);
                assert_eq!(shown(host.decide()), FIRST);
                assert_eq!(host.decision.troubles, []);
            }
        };
        let error = || "no way".to_owned();
        let no_list = |foreign| Trouble::NoList { foreign };
        check(
            || ListFact::Missing("/x/approved.json".into()),
            no_list(None),
            Trouble::ListGone {
                path: "/x/approved.json".to_owned(),
            },
        );
        check(
            || ListFact::Unreadable("no way".to_owned()),
            Trouble::ListUnreadable { error: error() },
            Trouble::ListUnreadable { error: error() },
        );
        let schema = SCHEMA + 1;
        check(
            || {
                let mut list = list_of("alice=7");
                list.schema = SCHEMA + 1;
                ListFact::Read(Box::new(list))
            },
            Trouble::ListSchema { schema },
            Trouble::ListSchema { schema },
        );
        let instance = || "i-other".to_owned();
        check(
            || {
                let mut list = list_of("alice=7");
                list.instance = Some("i-other".to_owned());
                ListFact::Read(Box::new(list))
            },
            no_list(Some(instance())),
            Trouble::ListForeign {
                instance: instance(),
            },
        );
    }

    #[test]
    fn an_empty_list_on_a_host_without_keys_is_spoken_of() {
        let mut host = Host::new();
        host.read("");
        assert_eq!(host.decide().troubles, [Trouble::ListEmpty]);
        assert_eq!(host.decide().troubles, [Trouble::ListEmpty]);
    }

    #[test]
    fn a_held_list_waits_for_its_confirmations() {
        let mut host = Host::with(FIRST);
        // `now` in minutes, which is how often polls come.
        let seen = |host: &mut Host, list: &str, fetched: i64, now: i64| {
            host.facts.now = at(60 * now);
            host.confirmed(list, at(60 * fetched));
            host.decide().held.as_ref().map(|held| held.seen)
        };
        host.read("alice=1");
        assert_eq!(seen(&mut host, "alice=1", 0, 0), Some(1));
        assert_eq!(
            seen(&mut host, "alice=1", 0, 1),
            Some(1),
            "come once, looked at twice"
        );
        assert_eq!(seen(&mut host, "alice=1", 2, 2), Some(2));
        assert_eq!(shown(&host.decision), FIRST);
        assert!(
            host.decision.is_held_back(&name("alice")) && host.decision.is_held_back(&name("bob"))
        );
        // Another list that leaves the same keys here confirms them, in its time; one that leaves others does not.
        host.read("bob=3");
        assert_eq!(seen(&mut host, "bob=3", 3, 3), Some(1));
        host.read("bob=3 svc=9");
        assert_eq!(seen(&mut host, "bob=3 svc=9", 3, 3), Some(1));
        assert_eq!(seen(&mut host, "bob=3 svc=9", 4, 4), Some(2));
        // What cannot be read is no list, so none has come between.
        host.facts.list = ListFact::Unreadable(String::new());
        assert_eq!(seen(&mut host, "bob=3 svc=9", 4, 5), Some(2));
        assert_eq!(seen(&mut host, "bob=3 svc=9", 6, 6), None);
        assert_eq!(shown(&host.decision), "alice= bob=3");
        assert!(host.decision.keys_left && !host.decision.is_held_back(&name("alice")));
    }

    #[test]
    fn a_person_lets_one_list_through_and_no_other() {
        let check = |list: &str, accepted: &str, in_force: &str| {
            let mut host = Host::with(FIRST);
            host.read(list);
            host.facts.accepted = Some(list_of(accepted).digest());
            assert_eq!(shown(host.decide()), in_force, "{list} {accepted}");
            assert_eq!(host.decision.held.is_some(), in_force == FIRST);
        };
        check("alice=1", "alice=1", "alice=1 bob=");
        check("alice=1", "alice=2", FIRST);
        check("", "", "alice= bob=");
        // With a person's word, an account is even taken on without keys.
        check(
            "alice=1,2 bob=3,4 carol=?",
            "alice=1,2 bob=3,4 carol=?",
            "alice=1,2 bob=3,4 carol=",
        );
    }

    #[test]
    fn an_account_that_the_database_denies_counts_once_its_file_was_in_sync() {
        let check = |lookup: Lookup, synced: bool, held: bool| {
            let mut host = Host::with(FIRST);
            host.people().accounts.insert(name("bob"), lookup.clone());
            host.people().accounts.insert(name("alice"), lookup.clone());
            if synced {
                for account in host.decision.in_force.accounts.values_mut() {
                    account.synced = Some(Synced {
                        file: "/x".into(),
                        digest: String::new(),
                    });
                }
            }
            host.read("carol=5");
            assert_eq!(host.decide().held.is_some(), held, "{lookup:?} {synced}");
        };
        let failed = || Lookup::Failed("no answer".to_owned());
        check(failed(), false, true);
        check(failed(), true, true);
        check(Lookup::Unknown, true, true);
        check(Lookup::Unknown, false, false);
    }

    #[test]
    fn a_database_that_is_silent_is_asked_again() {
        let mut host = Host::with(FIRST);
        let accounts = vec![name("alice")];
        host.facts.silent_about.clone_from(&accounts);
        let decision = host.decide();
        assert_eq!(decision.troubles, [Trouble::PeopleSilent { accounts }]);
        assert_eq!(decision.look_again, Some(at(30)));
        assert_eq!(shown(decision), FIRST);
        assert_eq!(host.decide().look_again, None);
    }

    #[test]
    fn who_only_a_service_knows_is_remembered() {
        let mut host = Host::with(FIRST);
        let alice = host.facts.people.account(&name("alice")).cloned();
        assert_eq!(host.decision.in_force.person(&name("alice")), None);
        host.people().distant.insert(name("alice"));
        assert!(host.decide().changed, "this is to be saved");
        assert_eq!(host.decision.in_force.person(&name("alice")), alice);
        assert_eq!(host.decision.in_force.person(&name("bob")), None);
        assert!(!host.decide().changed);
        // Without an answer it stays.
        host.people()
            .accounts
            .insert(name("alice"), Lookup::Unknown);
        host.decide();
        assert_eq!(host.decision.in_force.person(&name("alice")), alice);
        host.people().distant.clear();
        host.people()
            .accounts
            .insert(name("alice"), Lookup::Found(alice.unwrap()));
        assert!(host.decide().changed);
        assert_eq!(host.decision.in_force.person(&name("alice")), None);
    }

    #[test]
    fn break_glass_keys_go_only_when_their_file_says_so() {
        let mut host = Host::with(FIRST);
        let path = || "/etc/authorized-keys-agent/break-glass".to_owned();
        let mut step =
            |seconds: i64, fact: BreakGlassFact, troubles: &[Trouble], again: Option<i64>| {
                host.facts.now = at(seconds);
                host.facts.break_glass = fact;
                let decision = host.decide();
                assert_eq!(decision.troubles, troubles, "{seconds}");
                assert_eq!(decision.look_again, again.map(at), "{seconds}");
                assert_eq!(shown(decision), FIRST);
                let keys = break_glass(decision).join(",");
                (keys, former(decision).len())
            };
        let read = |text: &str| BreakGlassFact::Read(text.to_owned());
        let kept = || ("9".to_owned(), 0);
        assert_eq!(step(0, read(&key("9")), &[], None), ("9".to_owned(), 2));
        assert_eq!(step(1, read(&key("9")), &[], None), kept());
        let open = Trouble::BreakGlassOpen { path: path() };
        assert_eq!(step(2, BreakGlassFact::Open, &[open], None), kept());
        let error = || "no way".to_owned();
        let unreadable = Trouble::BreakGlassUnreadable { error: error() };
        assert_eq!(
            step(3, BreakGlassFact::Unreadable(error()), &[unreadable], None),
            kept()
        );
        let refused = Trouble::BreakGlassRefused { path: path() };
        assert_eq!(step(4, read("<html>"), &[refused], None), kept());
        // An editor takes the file away and puts another in its place.
        assert_eq!(step(10, read(""), &[], Some(15)), kept());
        assert_eq!(step(14, read(" \n"), &[], Some(15)), kept());
        assert_eq!(step(15, read(&key("9")), &[], None), kept());
        // Gone for good.
        assert_eq!(step(20, read(""), &[], Some(25)), kept());
        assert_eq!(step(25, read(""), &[], None), (String::new(), 2));
        assert_eq!(step(26, read(""), &[], None), (String::new(), 0));
        // A comment is a word.
        assert_eq!(step(30, read(&key("8")), &[], None), ("8".to_owned(), 2));
        assert_eq!(step(31, read("# none"), &[], None), (String::new(), 2));
    }

    #[test]
    fn a_list_that_is_too_old_takes_every_key_away_until_it_is_confirmed() {
        let mut host = Host::with(FIRST);
        host.facts.break_glass = BreakGlassFact::Read(key("9"));
        host.config.source.on_stale = OnStale::RevokeAfter(Duration::from_hours(2));
        let mut check =
            |seconds: i64, confirmed: Option<(&str, i64)>, revoked: bool, changed: bool| {
                host.facts.now = at(seconds);
                if let Some((list, success)) = confirmed {
                    host.confirmed(list, at(success));
                }
                let decision = host.decide();
                assert_eq!(decision.revoked, revoked, "{seconds}");
                assert_eq!(decision.grants_of(&name("alice")).is_empty(), revoked);
                assert_eq!(decision.changed, changed, "{seconds}");
                assert_eq!(shown(decision), FIRST, "what is in force is remembered");
                assert_eq!(break_glass(decision), ["9"]);
                decision.look_again.unwrap_or(at(-1))
            };
        assert_eq!(check(0, None, false, true), at(7200));
        assert_eq!(check(7199, None, false, false), at(7200));
        assert_eq!(check(7200, None, true, true), at(-1));
        assert_eq!(check(7201, None, true, false), at(-1));
        // Another list that was fetched says nothing of this one.
        assert_eq!(check(7202, Some(("alice=1", 7202)), true, false), at(-1));
        assert_eq!(check(7300, Some((FIRST, 7300)), false, true), at(14500));
        let since = at(7300);
        host.facts.now = at(14500);
        assert_eq!(host.decide().troubles, [Trouble::Revoked { since }]);
    }

    /// Sessions of a key are ended when this says so; `5` was never on the list.
    #[test]
    fn a_key_is_denied_unless_an_error_may_have_taken_it_away() {
        fn check(host: &mut Host, key_number: &str, expected: bool) {
            let line = key(key_number);
            let Ok(Line::Key(line)) = Line::read(line.as_bytes()) else {
                panic!("{line} is a key")
            };
            let denied = host.decide().denies(&name("alice"), line.key.fingerprint());
            assert_eq!(denied, expected, "{key_number}");
        }
        let mut host = Host::with("alice=1,2,3,4");
        check(&mut host, "5", true);
        host.read("alice=1,2,3");
        check(&mut host, "4", true);
        // A line that names no key may be any.
        host.read("alice=1,2,?");
        check(&mut host, "3", false);
        host.read("alice=1,2 bob=?");
        check(&mut host, "3", true);
        let value = format!("{}\n{}\nno-such {}", key("1"), key("2"), key("3"));
        let mut list = list_of("alice=1");
        list.entries[0].value = value;
        host.facts.list = ListFact::Read(Box::new(list));
        check(&mut host, "3", false);
        check(&mut host, "4", true);
        // The same key with and without an option: neither is taken.
        host.read("alice=1,2,2!");
        check(&mut host, "2", false);
        // Held.
        let mut host = Host::with("alice=1,2");
        host.read("alice=5 bob=?");
        assert!(host.decide().held.is_some());
        check(&mut host, "5", false);
        check(&mut host, "6", true);
        // Too old.
        host = Host::with("alice=1,2");
        host.config.source.on_stale = OnStale::RevokeAfter(Duration::from_hours(2));
        host.facts.now = at(7200);
        assert!(host.decide().revoked);
        check(&mut host, "1", false);
        check(&mut host, "5", true);
        // Of an earlier process it is known what is in force, and not why.
        host.decision.list = None;
        check(&mut host, "5", false);
    }

    #[test]
    fn a_key_leaves_when_it_expires() {
        let mut host = Host::with("alice=1");
        host.read("alice=1,2!");
        let end: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(host.decide().look_again, Some(end));
        assert!(!host.decide().changed);
        host.facts.now = end;
        let decision = host.decide();
        assert_eq!(decision.look_again, None);
        assert!(decision.changed, "the keys in force are others");
        assert!(!host.decide().changed);
        // Taking it off the list takes nothing away.
        host.read("alice=1");
        assert!(host.decide().held.is_none());
    }

    #[test]
    fn a_clone_puts_aside_what_it_inherited() {
        let inherited = || {
            let mut host = Host::with(FIRST);
            host.decision.in_force.instance = Some("i-template".to_owned());
            host.decision.in_force.clone()
        };
        let resumed = |identity: Identity| {
            let mut host = Host::new();
            host.decision = Decision::resumed(inherited(), &identity);
            host.facts.identity = identity;
            host
        };
        let here = || Identity::Instance("i-here".to_owned());
        let mut host = resumed(here());
        let told = Some(("i-template".to_owned(), "i-here".to_owned()));
        assert_eq!(host.decision.cloned, told);
        assert_eq!(shown(host.decide()), "(alice=) (bob=)");
        // For the break-glass keys its files are managed before there is a list.
        host.facts.break_glass = BreakGlassFact::Read(key("9"));
        assert_eq!(shown(host.decide()), "alice= bob=");
        // Its own first list also empties the file of an account that only the template had.
        host.read("alice=5");
        assert_eq!(shown(host.decide()), "alice=5 bob=");

        // Where the firmware does not say it, the fetcher's word puts nothing aside.
        for identity in [Identity::Unknown, Identity::Other] {
            for (list, in_force) in [
                ("", FIRST),
                ("alice=5", "alice=1,2,5 bob=3,4"),
                ("alice=1,2 bob=5", "alice=1,2 bob=5"),
            ] {
                let mut host = resumed(identity.clone());
                let mut list = list_of(list);
                list.instance = Some("i-here".to_owned());
                host.facts.list = ListFact::Read(Box::new(list));
                let decision = host.decide();
                assert_eq!(shown(decision), in_force, "{identity:?}");
                assert_eq!(decision.held.is_some(), in_force != "alice=1,2 bob=5");
                assert_eq!(decision.cloned, None);
            }
        }
        let mut host = Host::new();
        host.decision =
            Decision::resumed(inherited(), &Identity::Instance("i-template".to_owned()));
        assert_eq!(shown(&host.decision), FIRST);
        assert_eq!(host.decision.cloned, None);
    }

    #[test]
    fn what_is_looked_at_again_first_counts() {
        let mut host = Host::new();
        host.read("alice=1,2!");
        host.facts.break_glass = BreakGlassFact::Read(key("9"));
        let end: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(host.decide().look_again, Some(end));
        host.config.source.on_stale = OnStale::RevokeAfter(Duration::from_hours(2));
        assert_eq!(host.decide().look_again, Some(at(7200)));
        host.facts.break_glass = BreakGlassFact::Read(String::new());
        assert_eq!(host.decide().look_again, Some(at(5)));
        host.facts.break_glass = BreakGlassFact::Read(key("9"));
        host.facts.silent_about = vec![name("alice")];
        assert_eq!(host.decide().look_again, Some(at(30)));
    }

    /// A host that takes what key 1 or 2 has signed.
    fn signing_host() -> Host {
        let mut host = Host::new();
        host.config.source.directory = Some("/k".into());
        host.config.policy.signing = Some(Signing {
            signed_by: "/signers".into(),
            signatures: 1,
            audience: None,
        });
        host.facts.signers = signers(&[1, 2]);
        host
    }

    fn signers(seeds: &[u8]) -> SignersFact {
        let lines = seeds.iter().map(|seed| signing::line("ann", *seed));
        SignersFact::Read(lines.collect())
    }

    /// `list`, signed as this number by key 1 for ten days.
    fn signed_list(list: &str, serial: u64) -> ApprovedList {
        let list = list_of(list);
        let values = list.entries.iter();
        let mut values = values.map(|one| (one.account.as_str(), one.value.as_str()));
        let scope = Scope::Directory("/k".into());
        let statement = Statement {
            scope: scope.to_string(),
            audience: None,
            serial,
            issued: at(0),
            expires: at(10 * DAY),
            contents: Contents::of_names(&mut values),
        };
        let signed = Signed {
            scope,
            text: signing::signed(&statement.text(), &[1]),
            version: None,
            last_modified: None,
            others: Vec::new(),
        };
        ApprovedList {
            signed: vec![signed],
            ..list
        }
    }

    const DAY: i64 = 86_400;

    impl Host {
        fn read_signed(&mut self, list: ApprovedList) -> &Decision {
            self.facts.list = ListFact::Read(Box::new(list));
            self.decide()
        }

        /// Checks that failed, `~` in front of those that may pass.
        fn refused(&self) -> String {
            let told = self.decision.troubles.iter().map(|trouble| match trouble {
                Trouble::Unsigned { what, lasts, .. } => {
                    let soft = if *lasts { "" } else { "~" };
                    format!("{soft}{}", what.fault.reason())
                }
                other => format!("{other:?}"),
            });
            told.collect::<Vec<_>>().join("; ")
        }
    }

    #[test]
    fn a_list_that_is_not_signed_changes_nothing() {
        let mut host = signing_host();
        host.read_signed(list_of(FIRST));
        assert_eq!(shown(&host.decision), "");
        assert_eq!(host.refused(), "~it has no signature");
        host.read_signed(signed_list(FIRST, 7));
        assert_eq!(
            (shown(&host.decision), host.refused()),
            (FIRST.to_owned(), String::new())
        );
        assert_eq!(host.decision.in_force.signed["directory:/k"].serial, 7);
        let in_force = host.decision.in_force.clone();
        // Not even what a list takes away.
        let mut other = list_of("alice=1,2 bob=3 carol=9");
        other.signed = signed_list(FIRST, 8).signed;
        host.read_signed(other);
        assert_eq!(host.refused(), "~2 parameters signed, and 3 found");
        assert_eq!(host.decision.in_force.accounts, in_force.accounts);
        assert_eq!(host.decision.in_force.signed, in_force.signed);
        host.read_signed(signed_list("alice=9 bob=3,4", 6));
        assert_eq!(
            host.refused(),
            "its serial number is 6, and a list with 7 was in force"
        );
        // After a restart too.
        host.decision = Decision::resumed(host.decision.in_force.clone(), &host.facts.identity);
        host.read_signed(signed_list("alice=9 bob=3,4", 6));
        assert_eq!(shown(&host.decision), FIRST);
        assert!(!host.refused().is_empty());
        host.read_signed(signed_list("alice=1,2 bob=3", 9));
        assert_eq!(
            (shown(&host.decision), host.refused()),
            ("alice=1,2 bob=3".to_owned(), String::new())
        );
        // A clone has not taken any.
        assert!(host.decision.in_force.clone().inherited().signed.is_empty());
    }

    #[test]
    fn a_list_that_is_being_published_is_an_error_only_when_that_lasts() {
        let mut host = signing_host();
        host.read_signed(signed_list(FIRST, 1));
        let mut other = list_of("alice=1,2 bob=3");
        other.signed = signed_list(FIRST, 1).signed;
        let mut check = |seconds: i64, expected: &str, again: i64| {
            host.facts.now = at(seconds);
            host.read_signed(other.clone());
            assert_eq!(host.refused(), expected, "{seconds}");
            assert_eq!(host.decision.read_again, Some(at(again)), "{seconds}");
        };
        let what = "a name or a value is not the one that was signed";
        let soft = format!("~{what}");
        check(100, &soft, 160);
        check(170, &soft, 220);
        check(219, &soft, 220);
        check(220, what, 280);
        // The clock is set back.
        check(50, &soft, 110);
        host.facts.now = at(60);
        host.read_signed(signed_list("alice=1,2 bob=3", 2));
        assert_eq!(host.refused(), "");
        assert_eq!(host.decision.in_force.refused_since, None);
        assert_eq!(host.decision.read_again, None);
    }

    #[test]
    fn what_is_in_force_stays_when_its_signature_ends() {
        let mut host = signing_host();
        host.read_signed(signed_list(FIRST, 1));
        assert_eq!(host.decision.look_again, Some(at(3 * DAY)));
        host.facts.now = at(3 * DAY);
        assert_eq!(host.decide().look_again, Some(at(10 * DAY)));
        let scope = "directory:/k".to_owned();
        let ends = Trouble::SignatureEnds {
            scope,
            at: at(10 * DAY),
        };
        assert_eq!(host.decision.troubles, [ends]);
        host.facts.now = at(10 * DAY);
        host.decide();
        let expired = "its signature expired at 2027-01-25T08:00:00Z";
        assert_eq!(host.refused(), expired);
        // The same when it is read again.
        host.read_signed(signed_list(FIRST, 1));
        assert_eq!(host.refused(), expired);
        assert_eq!(shown(&host.decision), FIRST);
        // Another source, once named, is not spoken of any more.
        host.facts.now = at(0);
        host.config.policy.signing = None;
        host.read_signed(list_of(FIRST));
        assert_eq!(host.refused(), "");
    }

    #[test]
    fn nobody_is_let_in_while_it_is_not_known_who_may_sign() {
        let mut host = signing_host();
        host.read_signed(signed_list(FIRST, 1));
        for (fact, expected) in [
            (
                SignersFact::Open("/etc".into()),
                "SignersOpen { path: \"/etc\" }",
            ),
            (
                SignersFact::Unreadable("gone".into()),
                "SignersUnreadable { error: \"gone\" }",
            ),
            (
                SignersFact::Unasked,
                "SignersUnreadable { error: \"`/signers` was not read\" }",
            ),
            (
                signers(&[]),
                "SignersTooFew { path: \"/signers\", there: 0, needed: 1 }",
            ),
        ] {
            host.facts.signers = fact;
            host.read_signed(signed_list("alice=9 bob=3,4", 2));
            assert_eq!(host.refused(), expected);
            assert_eq!(shown(&host.decision), FIRST, "{expected}");
            assert!(host.decision.read_again.is_some());
        }
        // Who signed may no longer.
        host.facts.signers = signers(&[2]);
        host.read_signed(signed_list("alice=1,2 bob=3", 2));
        assert!(host.refused().contains("is not one that may sign"));
        assert_eq!(shown(&host.decision), FIRST);
    }

    #[test]
    fn a_list_that_is_refused_is_no_good_list() {
        let mut host = signing_host();
        host.config.source.on_stale = OnStale::RevokeAfter(Duration::from_secs(100));
        host.read_signed(signed_list(FIRST, 1));
        // Whoever writes to the source writes to the time of what is stored as well.
        for (seconds, is_revoked) in [(50, false), (149, false), (151, true)] {
            host.facts.now = at(seconds);
            host.facts.stored_at = Some(at(seconds));
            host.read_signed(list_of(FIRST));
            assert_eq!(host.decision.revoked, is_revoked, "{seconds}");
        }
        host.read_signed(signed_list(FIRST, 1));
        assert!(!host.decision.revoked);
    }
}
