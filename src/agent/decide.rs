//! The first half of a pass: what the list, the config and the host say, and so which keys are in force.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::agent::events::{self, chain};
use crate::agent::files;
use crate::agent::pass::{Enforcer, List};
use crate::host::accounts::{self, Directory, Lookup};
use crate::host::instance::Identity;
use crate::host::{process, store};
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::OnStale;
use crate::model::desired::guard::{self, Circumstances, Held, Verdict};
use crate::model::desired::in_force::Holding;
use crate::model::desired::judge::{self, Desired};
use crate::model::key::grant::Grant;
use crate::model::list::approved::{ApprovedList, SCHEMA};
use crate::model::list::fetch_report::FetchReport;
use crate::model::list::rejected::Rejected;

/// What the last full pass decided, and from what.
#[derive(Default)]
pub(super) struct Decided {
    /// The list that was judged.
    pub(super) list: Option<Judged>,
    /// What the break-glass file had that was not taken.
    pub(super) break_glass_rejected: Vec<Rejected>,
    /// Why the list is held.
    pub(super) held: Option<Held>,
    /// Who exists.
    pub(super) directory: Directory,
    /// Fingerprint of what `enforced.json` holds.
    pub(super) saved: Option<u64>,
    /// The list is so old that `on-stale` takes all keys but the break-glass ones.
    pub(super) revoked: bool,
    /// When this decision must be made again, whatever happens.
    pub(super) look_again: Option<Timestamp>,
    /// Rejects that were logged already.
    logged: Vec<Rejected>,
    /// NSS was asked and has not answered.
    asked: Option<oneshot::Receiver<Directory>>,
}

/// A list and what it says.
pub(super) struct Judged {
    stamp: Option<Stamp>,
    pub(super) source: String,
    pub(super) digest: String,
    pub(super) parameters: usize,
    pub(super) fetched_at: Timestamp,
    pub(super) desired: Desired,
}

/// What reading the list came to.
enum Listed {
    /// It is the one that was judged before, under the same config.
    AsBefore,
    /// It was judged.
    Anew,
}

/// Tells one stored list from another without reading it.
type Stamp = (u64, u64, u64, i64, i64);

/// How long the break-glass file must be gone to be gone: an editor replaces a file in two steps.
const BREAK_GLASS_SETTLES: SignedDuration = SignedDuration::from_secs(5);

/// How long NSS may take before the pass goes on with what it knew.
const NSS_PATIENCE: Duration = Duration::from_secs(10);

impl Decided {
    /// At start: nothing is decided, and this is saved.
    pub(super) fn after(saved: Option<u64>) -> Self {
        Self {
            saved,
            ..Self::default()
        }
    }

    /// After a change of the config, everything is judged anew.
    pub(super) fn forget(&mut self) {
        self.list = None;
    }

    /// An account that exists.
    pub(super) fn account(&self, name: &AccountName) -> Option<&Account> {
        match self.directory.accounts.get(name) {
            Some(Lookup::Found(account)) => Some(account),
            _ => None,
        }
    }
}

impl Enforcer {
    /// Decides which keys are in force. Whatever fails here leaves those that were.
    pub(super) async fn decide(&mut self, list: &List<'_>, accepted: Option<&str>, now: Timestamp) {
        self.decided.look_again = None;
        self.know_openssh().await;
        let listed = self.read_list(list);
        self.read_break_glass(now);
        self.unsaved |= self.enforced.await_first_list();
        let same_list = matches!(listed, Ok(Listed::AsBefore));
        self.problems.extend(listed.err());
        let nothing = Desired::default();
        let desired = self
            .decided
            .list
            .as_ref()
            .map_or(&nothing, |list| &list.desired);
        let names: Vec<AccountName> = self
            .enforced
            .names(desired, &self.config.accounts)
            .into_iter()
            .cloned()
            .collect();
        let before = std::mem::take(&mut self.decided.directory);
        self.decided.directory.clone_from(&before);
        self.look_up(names, now).await;
        let settled = same_list && accepted.is_none() && self.decided.held.is_none();
        // What was weighed, and against whom, is the same: so is the verdict.
        if !settled || self.decided.directory != before {
            self.weigh(accepted, now);
            self.unsaved = true;
        }
        self.check_age(now);
        // Before the files: a crash between the two must not forget who is managed.
        self.save();
        if self.publishing {
            self.log_rejected();
        }
    }

    fn read_list(&mut self, list: &List<'_>) -> Result<Listed, String> {
        let path = files::approved(&self.config.paths);
        let (list, stamp) = match list {
            List::Given(list) => ((*list).clone(), None),
            List::Stored => {
                let stamp = std::fs::metadata(&path).ok().map(|meta| {
                    (
                        meta.dev(),
                        meta.ino(),
                        meta.len(),
                        meta.mtime(),
                        meta.mtime_nsec(),
                    )
                });
                let known = self
                    .decided
                    .list
                    .as_ref()
                    .is_some_and(|list| list.stamp == stamp);
                if known && stamp.is_some() {
                    return Ok(Listed::AsBefore);
                }
                let stored = store::read_json::<ApprovedList>(&path)
                    .map_err(|error| format!("{}; the last list stays in force", chain(&error)))?;
                match stored {
                    Some(list) if list.schema == SCHEMA => (list, stamp),
                    Some(list) => {
                        let schema = list.schema;
                        return Err(format!(
                            "`{}` has schema {schema}, this agent reads {SCHEMA}",
                            path.display()
                        ));
                    }
                    None if self.enforced.list.is_some() => {
                        return Err(format!(
                            "`{}` is gone; the last list stays in force",
                            path.display()
                        ));
                    }
                    None => return Err("no list yet, so nothing is changed".to_owned()),
                }
            }
        };
        if let Some(id) = &list.instance {
            if self.identity.id().is_some_and(|own| own != id) {
                return Err(match self.enforced.list {
                    Some(_) => {
                        format!(
                            "the stored list was fetched for `{id}`; the last list stays in force"
                        )
                    }
                    None => {
                        format!(
                            "no list yet (the stored one was fetched for `{id}`), so nothing is changed"
                        )
                    }
                });
            }
            // A machine that says itself that it is none of EC2's is no clone of one: the fetcher's word is not enough.
            if self.identity != Identity::Other {
                self.belong_to(id);
            }
        }
        let desired = judge::judge(&list, self.rules(), &self.enforced.grants());
        self.decided.list = Some(Judged {
            stamp,
            digest: list.digest(),
            parameters: list.entries.len(),
            source: list.source,
            fetched_at: list.fetched_at,
            desired,
        });
        Ok(Listed::Anew)
    }

    /// What is in force is that of the instance `id`. State of another one is put aside.
    pub(super) fn belong_to(&mut self, id: &str) {
        if self.enforced.is_foreign_to(Some(id)) {
            events::cloned(self.enforced.instance.as_deref().unwrap_or_default(), id);
            self.enforced = std::mem::take(&mut self.enforced).inherited();
        }
        if self.enforced.instance.as_deref() != Some(id) {
            self.enforced.instance = Some(id.to_owned());
            self.unsaved = true;
        }
    }

    /// A break-glass file that is gone for good was removed on purpose; one that cannot be read changes nothing.
    fn read_break_glass(&mut self, now: Timestamp) {
        let path = &self.config.accounts.break_glass;
        let keep = |problem: String| format!("{problem}; the break-glass keys stay as they were");
        match store::owner(path) {
            Ok(Some(owner)) if is_open_to_others(owner) => {
                let hint = format!("chown root:root {0}; chmod 0600 {0}", path.display());
                let problem = format!(
                    "`{}` can be changed by others than root: {hint}",
                    path.display()
                );
                return self.problems.push(keep(problem));
            }
            // What cannot be looked at cannot be read.
            _ => {}
        }
        let text = match store::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
            Err(error) => {
                return self.problems.push(keep(chain(&error)));
            }
        };
        let name = path.display().to_string();
        let (grants, rejected) = judge::judge_break_glass(&name, &text, self.rules());
        self.decided.break_glass_rejected = rejected;
        let gone = text.trim().is_empty() && !self.enforced.break_glass.is_empty();
        self.unsaved |= gone
            || grants
                .as_ref()
                .is_some_and(|grants| *grants != self.enforced.break_glass);
        let since = self.enforced.break_glass_gone.filter(|_| gone);
        self.enforced.break_glass_gone = gone.then(|| since.unwrap_or(now));
        match (grants, self.enforced.break_glass_gone) {
            (None, _) => {
                self.problems
                    .push(keep(format!("no line of `{name}` can be read")));
            }
            (Some(_), Some(since)) if now.duration_since(since) < BREAK_GLASS_SETTLES => {
                self.look_again_at(since + BREAK_GLASS_SETTLES);
            }
            (Some(grants), _) => {
                if grants != self.enforced.break_glass {
                    self.note_former(|_, _| true);
                }
                self.enforced.break_glass = grants;
                self.enforced.break_glass_gone = None;
            }
        }
    }

    fn look_again_at(&mut self, at: Timestamp) {
        let earlier = self.decided.look_again.is_none_or(|earlier| at < earlier);
        if earlier {
            self.decided.look_again = Some(at);
        }
    }

    /// Asks NSS, one question at a time: an answer that comes late counts too.
    pub(super) async fn look_up(&mut self, names: Vec<AccountName>, now: Timestamp) {
        let mut asked = self.decided.asked.take().unwrap_or_else(|| {
            let (answer, asked) = oneshot::channel();
            let wanted = names.clone();
            std::thread::spawn(move || answer.send(accounts::look_up(&wanted)).ok());
            asked
        });
        match tokio::time::timeout(NSS_PATIENCE, &mut asked).await {
            Ok(Ok(directory)) => {
                if names
                    .iter()
                    .any(|name| !directory.accounts.contains_key(name))
                {
                    // The answer to an earlier question.
                    self.look_again_at(now + SignedDuration::from_secs(1));
                }
                self.decided.directory = directory;
                return;
            }
            Ok(Err(_)) => {}
            Err(_) => self.decided.asked = Some(asked),
        }
        self.problems
            .push("the account database (NSS) does not answer".to_owned());
        let known = &mut self.decided.directory.accounts;
        let unanswered = || Lookup::Failed("the account database does not answer".to_owned());
        for name in names {
            known.entry(name).or_insert_with(unanswered);
        }
    }

    /// True when this account's file is this agent's business. While NSS does not say who it is, a glob only keeps
    /// what is managed already: it could be a system account.
    pub(super) fn manages(&self, name: &AccountName) -> bool {
        let (accounts, directory) = (&self.config.accounts, &self.decided.directory);
        if let Some(Lookup::Found(account)) = directory.accounts.get(name) {
            return accounts.manages(name, Some(account.uid), directory.uid_min);
        }
        let known = self
            .enforced
            .accounts
            .get(name)
            .is_some_and(|account| account.managed);
        accounts.manages(name, None, directory.uid_min)
            && (known || accounts.named().any(|named| named == name))
    }

    /// True for a managed account of this host. One whose file was in sync exists, even while NSS denies it.
    fn is_here(&self, name: &AccountName) -> bool {
        let denied = matches!(
            self.decided.directory.accounts.get(name),
            Some(Lookup::Unknown) | None
        );
        let synced = self
            .enforced
            .accounts
            .get(name)
            .is_some_and(|account| account.synced.is_some());
        self.manages(name) && (!denied || synced)
    }

    /// The guard, and with its leave the list into force.
    fn weigh(&mut self, accepted: Option<&str>, now: Timestamp) {
        let Some(list) = self.decided.list.take() else {
            return;
        };
        let report = self.fetch_report();
        let confirmations = report
            .filter(|report| report.digest.as_ref() == Some(&list.digest))
            .map_or(1, |report| report.confirmations);
        let holding = Holding::again(
            self.enforced.holding.as_ref(),
            self.outcome(&list.desired),
            &list.digest,
            confirmations,
        );
        let is_accepted = accepted == Some(list.digest.as_str());
        // A comment that stood beside keys before says nothing about their absence now.
        let buried = |name: &AccountName| {
            let before = self
                .enforced
                .accounts
                .get(name)
                .map(|account| account.comment_only.as_slice());
            let comments = list
                .desired
                .comment_only
                .get(name)
                .map(Vec::as_slice)
                .unwrap_or_default();
            list.desired.tombstones.contains(name)
                && comments
                    .iter()
                    .any(|comment| !before.unwrap_or_default().contains(comment))
        };
        let verdict = guard::judge(
            &self.enforced.grants(),
            &list.desired,
            Circumstances {
                guard: &self.config.guard,
                seen: holding.seen,
                accepted: is_accepted,
                exists: &|name| self.is_here(name),
                buried: &buried,
                now,
            },
        );
        match verdict {
            Verdict::Hold(held) => {
                if self.publishing && self.decided.held.as_ref() != Some(&held) {
                    events::held(&held.to_string());
                }
                self.decided.held = Some(held);
                self.enforced.holding = Some(holding);
            }
            Verdict::Apply => {
                self.decided.held = None;
                let managed: BTreeSet<AccountName> = self
                    .enforced
                    .accounts
                    .keys()
                    .chain(list.desired.grants.keys())
                    .filter(|name| self.manages(name))
                    .cloned()
                    .collect();
                let next = |name: &AccountName| {
                    list.desired
                        .grants
                        .get(name)
                        .map(Vec::as_slice)
                        .unwrap_or_default()
                };
                self.keys_left |= self.enforced.managed().any(|(name, account)| {
                    let stays = |grant: &Grant| {
                        next(name)
                            .iter()
                            .any(|n| n.fingerprint == grant.fingerprint)
                    };
                    account.grants.as_slice() != next(name) && !account.grants.iter().all(stays)
                });
                self.note_former(|name, grants| grants != next(name));
                let may_empty =
                    |name: &AccountName| is_accepted || list.desired.tombstones.contains(name);
                self.enforced.apply(
                    &list.digest,
                    &list.desired,
                    |name| managed.contains(name),
                    may_empty,
                );
            }
        }
        self.decided.list = Some(list);
    }

    /// Remembers the keys of each account whose keys are about to change, until its file says what it is to say.
    fn note_former(&mut self, changes: impl Fn(&AccountName, &[Grant]) -> bool) {
        for (name, account) in self
            .enforced
            .managed()
            .filter(|(name, account)| changes(name, &account.grants))
        {
            let all = account.grants.iter().chain(&self.enforced.break_glass);
            let all = all.map(|grant| grant.fingerprint.clone()).collect();
            self.former.entry(name.clone()).or_insert(all);
        }
    }

    /// Digest of the keys that a list would leave in force on this host.
    fn outcome(&self, desired: &Desired) -> String {
        let mut hash = Sha256::new();
        for (name, grants) in desired.grants.iter().filter(|(name, _)| self.is_here(name)) {
            hash.update(name.as_str());
            for grant in grants {
                hash.update([0]);
                hash.update(&grant.fingerprint);
            }
            hash.update([1]);
        }
        format!("sha256:{:x}", hash.finalize())
    }

    pub(super) fn fetch_report(&self) -> Option<FetchReport> {
        // Damaged or missing, it confirms nothing.
        store::read_json(&files::fetch_report(&self.config.paths))
            .ok()
            .flatten()
    }

    /// `on-stale = "revoke"`: for those who must fail closed.
    pub(super) fn check_age(&mut self, now: Timestamp) {
        self.decided.revoked = false;
        let OnStale::RevokeAfter(limit) = self.config.source.on_stale else {
            return;
        };
        if self.enforced.list.is_none() {
            return;
        }
        let digest = self
            .decided
            .list
            .as_ref()
            .map(|list| &list.digest)
            .or(self.enforced.list.as_ref());
        // The fetcher says when the list was last found so; across a reboot, the time of its file does.
        let stored = std::fs::metadata(files::approved(&self.config.paths))
            .and_then(|meta| meta.modified())
            .ok();
        let stored = stored.and_then(|time| Timestamp::try_from(time).ok());
        let reported = self
            .fetch_report()
            .filter(|report| report.digest.as_ref() == digest)
            .and_then(|report| report.last_success);
        let Some(confirmed) = stored.max(reported) else {
            return;
        };
        match confirmed.checked_add(limit) {
            Ok(end) if end > now => self.look_again_at(end),
            _ => {
                self.decided.revoked = true;
                let problem = format!(
                    "no good list since {confirmed}, so all keys but the break-glass ones are removed (`on-stale = \"revoke\"`)"
                );
                self.problems.push(problem);
            }
        }
    }

    /// Everything that was not taken.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        let of_list = self
            .decided
            .list
            .iter()
            .flat_map(|list| &list.desired.rejected);
        of_list
            .chain(&self.decided.break_glass_rejected)
            .cloned()
            .collect()
    }

    fn log_rejected(&mut self) {
        let rejected = self.rejected();
        for new in rejected
            .iter()
            .filter(|rejected| !self.decided.logged.contains(rejected))
        {
            events::rejected(&new.parameter, new.line, &new.reason);
        }
        self.decided.logged = rejected;
    }
}

/// Somebody else than root, or whoever this process is, owns a file, as [`store::owner`] gives it, or may write to it.
pub fn is_open_to_others((uid, mode): (u32, u32)) -> bool {
    !(uid == 0 || uid == process::user()) || mode & 0o022 != 0
}
