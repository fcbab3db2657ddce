//! The first half of a pass: what the list, the config and the host say, and so which keys are in force.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::events::{self, chain};
use crate::agent::files;
use crate::agent::pass::{Enforcer, List};
use crate::host::accounts::{self, Directory, Lookup};
use crate::host::store;
use crate::model::account::{Account, AccountName};
use crate::model::desired::{self, Desired, Rejected};
use crate::model::enforced::Enforced;
use crate::model::guard::{self, Circumstances, Held, Verdict};
use crate::model::list::{ApprovedList, FetchReport, SCHEMA};

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
    /// What `enforced.json` holds.
    pub(super) saved: Option<Enforced>,
    /// Rejects that were logged already.
    logged: Vec<Rejected>,
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

/// Tells one stored list from another without reading it.
type Stamp = (u64, u64, u64, i64, i64);

/// How long NSS may take before the pass goes on with what it knew.
const NSS_PATIENCE: Duration = Duration::from_secs(10);

impl Decided {
    /// At start: nothing is decided, and this is saved.
    pub(super) fn after(saved: Option<Enforced>) -> Self {
        Self { saved, ..Self::default() }
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
        self.read_break_glass();
        if let Err(problem) = self.read_list(list) {
            self.problems.push(problem);
        }
        let nothing = Desired::default();
        let desired = self.decided.list.as_ref().map_or(&nothing, |list| &list.desired);
        let names: Vec<AccountName> =
            self.enforced.names(desired, &self.config.accounts).into_iter().cloned().collect();
        self.look_up(names).await;
        self.weigh(accepted, now);
        // Before the files: a crash between the two must not forget who is managed.
        self.save();
        if self.publishing {
            self.log_rejected();
        }
    }

    fn read_list(&mut self, list: &List<'_>) -> Result<(), String> {
        let path = files::approved(&self.config.paths);
        let (list, stamp) = match list {
            List::Given(list) => ((*list).clone(), None),
            List::Stored => {
                let stamp = std::fs::metadata(&path)
                    .ok()
                    .map(|meta| (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()));
                let known = self.decided.list.as_ref().is_some_and(|list| list.stamp == stamp);
                if known && stamp.is_some() {
                    return Ok(());
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
                        return Err(format!("`{}` is gone; the last list stays in force", path.display()));
                    }
                    None => return Err("no list yet, so nothing is changed".to_owned()),
                }
            }
        };
        let desired = desired::judge(&list, &self.config.policy, &self.zone, &self.enforced.grants());
        self.decided.list = Some(Judged {
            stamp,
            digest: list.digest(),
            parameters: list.entries.len(),
            source: list.source,
            fetched_at: list.fetched_at,
            desired,
        });
        Ok(())
    }

    /// A break-glass file that is gone was removed on purpose; one that cannot be read changes nothing.
    fn read_break_glass(&mut self) {
        let path = &self.config.accounts.break_glass;
        let text = match store::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
            Err(error) => {
                self.problems.push(format!("{}; the break-glass keys stay as they were", chain(&error)));
                return;
            }
        };
        if text.trim().is_empty() {
            self.enforced.break_glass.clear();
            self.decided.break_glass_rejected.clear();
            return;
        }
        let name = path.display().to_string();
        let (grants, rejected) = desired::judge_break_glass(&name, &text, &self.config.policy, &self.zone);
        self.enforced.break_glass = grants;
        self.decided.break_glass_rejected = rejected;
    }

    pub(super) async fn look_up(&mut self, names: Vec<AccountName>) {
        let (answer, asked) = tokio::sync::oneshot::channel();
        let wanted = names.clone();
        std::thread::spawn(move || answer.send(accounts::look_up(&wanted)).ok());
        if let Ok(Ok(directory)) = tokio::time::timeout(NSS_PATIENCE, asked).await {
            self.decided.directory = directory;
            return;
        }
        self.problems.push("the account database (NSS) does not answer".to_owned());
        let known: BTreeMap<_, _> = std::mem::take(&mut self.decided.directory.accounts);
        let unanswered = || Lookup::Failed("the account database does not answer".to_owned());
        self.decided.directory.accounts = names
            .into_iter()
            .map(|name| {
                let before = known.get(&name).cloned();
                (name, before.unwrap_or_else(unanswered))
            })
            .collect();
    }

    /// The guard, and with its leave the list into force.
    fn weigh(&mut self, accepted: Option<&str>, now: Timestamp) {
        let Some(list) = &self.decided.list else { return };
        let directory = &self.decided.directory;
        let exists =
            |name: &AccountName| !matches!(directory.accounts.get(name), Some(Lookup::Unknown) | None);
        let report: Option<FetchReport> =
            store::read_json(&files::fetch_report(&self.config.paths)).ok().flatten();
        let seen = report
            .filter(|report| report.digest.as_ref() == Some(&list.digest))
            .map_or(1, |report| report.confirmations);
        let verdict = guard::judge(
            &self.enforced.grants(),
            &list.desired,
            Circumstances {
                guard: &self.config.guard,
                seen,
                accepted: accepted == Some(list.digest.as_str()),
                exists: &exists,
                now,
            },
        );
        match verdict {
            Verdict::Hold(held) => {
                if self.publishing && self.decided.held.as_ref() != Some(&held) {
                    events::held(&held.to_string());
                }
                self.decided.held = Some(held);
            }
            Verdict::Apply => {
                self.decided.held = None;
                let accounts = &self.config.accounts;
                let uid_min = directory.uid_min;
                let manages = |name: &AccountName| {
                    let uid = match directory.accounts.get(name) {
                        Some(Lookup::Found(account)) => Some(account.uid),
                        _ => None,
                    };
                    accounts.manages(name, uid, uid_min)
                };
                self.enforced.apply(&list.digest, &list.desired, manages);
            }
        }
    }

    /// Everything that was not taken.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        let of_list = self.decided.list.iter().flat_map(|list| &list.desired.rejected);
        of_list.chain(&self.decided.break_glass_rejected).cloned().collect()
    }

    fn log_rejected(&mut self) {
        let rejected = self.rejected();
        for new in rejected.iter().filter(|rejected| !self.decided.logged.contains(rejected)) {
            events::rejected(&new.parameter, new.line, &new.reason);
        }
        self.decided.logged = rejected;
    }
}
