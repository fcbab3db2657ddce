//! The last part of a pass: the status, written only when it says something new.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::agent::events::{self, chain};
use crate::agent::pass::Enforcer;
use crate::agent::{Trigger, files, sessions};
use crate::host::accounts::Lookup;
use crate::host::store;
use crate::model::account::AccountName;
use crate::model::file::difference::Difference;
use crate::model::key::grant::with_break_glass;
use crate::model::status::schema::{AccountState, AccountStatus, DriftEvent, ListStatus, Status};

/// Why an account that is managed and listed is not taken on.
const NOTHING_USABLE: &str = "the list has no usable key for it yet, so its file stays as it is; \
    a comment-only value would leave it without keys";

/// `sha256:…` of a file's content.
pub(super) fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

impl Enforcer {
    /// True when `reason` is news for this account, so that it is logged once and not in each pass.
    pub(super) fn said(&self, name: &AccountName, state: AccountState, reason: &str) -> bool {
        let before = self.status.accounts.get(name);
        self.publishing
            && before.is_none_or(|before| {
                before.state != state || before.reason.as_deref() != Some(reason)
            })
    }

    /// Counts a change that was undone.
    pub(super) fn drifted(
        &mut self,
        account: &AccountName,
        differences: &[Difference],
        at: Timestamp,
    ) {
        self.status.drift.repaired += 1;
        let changes = events::changes(differences);
        self.status.drift.last = Some(DriftEvent {
            at,
            account: account.clone(),
            changes,
        });
    }

    /// Notes the state of one account.
    pub(super) fn note(
        &mut self,
        name: &AccountName,
        state: AccountState,
        reason: Option<String>,
        content_digest: Option<String>,
        changed: Option<Timestamp>,
    ) {
        let account = self.decided.account(name);
        let file = account.and_then(|account| self.config.accounts.file.locate(account));
        let uid = account.map(|account| account.uid);
        let fresh = AccountStatus {
            name: name.clone(),
            uid,
            file: file.map(|location| location.path.display().to_string()),
            state,
            reason,
            changed_at: changed,
            removed_keys: Vec::new(),
            verified: false,
            content_digest,
            keys: Vec::new(),
            access: None,
            other_files: Vec::new(),
        };
        let before = self.status.accounts.remove(name);
        let other_files = before
            .as_ref()
            .map(|before| before.other_files.clone())
            .unwrap_or_default();
        let access = self.judge_one(name, state, &other_files);
        let fresh = AccountStatus {
            access,
            other_files,
            ..fresh
        };
        let last = before.map(|before| (before.changed_at, before.removed_keys));
        let (changed_at, removed_keys) = last
            .filter(|_| changed.is_none())
            .unwrap_or((changed, Vec::new()));
        self.status.accounts.insert(
            name.clone(),
            AccountStatus {
                changed_at,
                removed_keys,
                ..fresh
            },
        );
    }

    /// Brings the status up to date.
    pub(super) fn update_status(&mut self, trigger: Trigger, now: Timestamp) {
        self.describe_accounts();
        self.config.mode.as_str().clone_into(&mut self.status.mode);
        self.status.rejected = self.rejected();
        self.status.list = match &self.decided.list {
            Some(list) => ListStatus {
                source: Some(list.source.clone()),
                digest: Some(list.digest.clone()),
                parameters: list.parameters,
                fetched_at: Some(list.fetched_at),
                held: self.decided.held.as_ref().map(ToString::to_string),
                ..ListStatus::default()
            },
            None => ListStatus::default(),
        };
        if trigger == Trigger::Reload {
            self.status.enforcer.asked_at = Some(now);
        }
        self.status.problems = self.all_problems();
        self.status.weigh_access();
        self.status.settle_health();
    }

    /// Accounts that no job was for, keys, and accounts that nobody speaks of any more.
    fn describe_accounts(&mut self) {
        let mut passive = Vec::new();
        if let Some(list) = &self.decided.list {
            for name in list.desired.grants.keys() {
                match self.decided.directory.accounts.get(name) {
                    Some(Lookup::Unknown) => {
                        passive.push((name.clone(), AccountState::NoAccount, None))
                    }
                    Some(Lookup::Found(account))
                        if !self
                            .enforced
                            .accounts
                            .get(name)
                            .is_some_and(|account| account.managed) =>
                    {
                        let uid_min = self.decided.directory.uid_min;
                        let reason = if account.uid < uid_min {
                            format!(
                                "a system account (uid below {uid_min}); name it in full in `manage` to manage it"
                            )
                        } else {
                            "not in `manage`".to_owned()
                        };
                        let managed = self.manages(name);
                        let state = if managed {
                            AccountState::Held
                        } else {
                            AccountState::Unmanaged
                        };
                        let reason = if managed {
                            NOTHING_USABLE.to_owned()
                        } else {
                            reason
                        };
                        passive.push((name.clone(), state, Some(reason)));
                    }
                    _ => {}
                }
            }
        }
        for name in self.enforced.accounts.keys() {
            if matches!(
                self.decided.directory.accounts.get(name),
                Some(Lookup::Unknown)
            ) {
                passive.push((name.clone(), AccountState::NoAccount, None));
            }
        }
        for (name, state, reason) in passive {
            self.note(&name, state, reason, None, None);
        }
        let (enforced, decided) = (&self.enforced, &self.decided);
        let listed = |name: &AccountName| {
            decided
                .list
                .as_ref()
                .is_some_and(|list| list.desired.grants.contains_key(name))
        };
        self.status.accounts.retain(|name, account| {
            let named = account.state == AccountState::Held
                && self.config.accounts.named().any(|n| n == name);
            enforced.accounts.contains_key(name) || listed(name) || named
        });
        if decided.held.is_none() {
            return;
        }
        for account in self.status.accounts.values_mut() {
            let Some(in_force) = enforced.accounts.get(&account.name) else {
                continue;
            };
            let next = decided
                .list
                .as_ref()
                .and_then(|list| list.desired.grants.get(&account.name));
            let differs = next.map(Vec::as_slice).unwrap_or_default() != in_force.grants.as_slice();
            if differs && account.state == AccountState::InSync {
                account.state = AccountState::Held;
                account.reason = Some("the list that would change it is held".to_owned());
            }
        }
    }

    /// The status with the keys of each account. Between two passes they are not kept: the digests of the list
    /// and of each file's content say whether they changed.
    fn with_keys(&self, now: Timestamp) -> Status {
        let mut status = self.status.clone();
        for account in status.accounts.values_mut() {
            let Some(in_force) = self.enforced.accounts.get(&account.name) else {
                continue;
            };
            let grants = if self.decided.revoked {
                &[][..]
            } else {
                &in_force.grants
            };
            let keys = with_break_glass(grants, &self.enforced.break_glass, now);
            account.keys = keys.into_iter().map(Into::into).collect();
        }
        status
    }

    /// What changed between two passes: says it, and writes it down.
    pub(super) fn describe(&mut self, now: Timestamp) {
        self.status.problems = self.all_problems();
        self.status.weigh_access();
        self.status.settle_health();
        if self.publishing {
            self.publish(now);
        }
    }

    fn all_problems(&self) -> Vec<String> {
        let mut all = self.problems.clone();
        all.extend(
            self.config_problem
                .iter()
                .map(|error| format!("the config was changed and cannot be used: {error}")),
        );
        all.extend(
            self.state_problem
                .iter()
                .map(|error| format!("{error}; the state was started anew")),
        );
        if self.unwatched > 0 {
            all.push(format!(
                "{} places cannot be watched (see the log); changes there are only seen by the full check",
                self.unwatched
            ));
        }
        if self.enforced.accounts.is_empty()
            && self
                .decided
                .list
                .as_ref()
                .is_some_and(|l| l.parameters == 0)
        {
            // Parameter Store answers so for a path that does not exist.
            all.push("the list is empty: is the path, or the directory, the right one?".to_owned());
        }
        all.extend(self.decided.held.as_ref().map(ToString::to_string));
        for account in self.status.accounts.values() {
            let (name, state) = (&account.name, account.state.as_str());
            let reason = account.reason.as_deref().unwrap_or_default();
            match account.state {
                AccountState::Refused | AccountState::Drifted => {
                    all.push(format!("{name} is {state}: {reason}"));
                }
                AccountState::Held if !self.enforced.accounts.contains_key(name) => {
                    all.push(format!("{name} is {state}: {reason}"));
                }
                _ => {}
            }
        }
        all.extend(self.rival_problems());
        all.extend(self.status.sessions.iter().map(sessions::problem));
        let rejected = self.status.rejected.len();
        if rejected > 0 {
            let lines = if rejected == 1 {
                "1 line".to_owned()
            } else {
                format!("{rejected} lines")
            };
            all.push(format!("{lines} of the list not taken, see `rejected`"));
        }
        all
    }

    /// Copies the fetcher's report to where everybody may read it: with `DynamicUser=`, the fetcher's directory is for root.
    pub(super) fn relay_fetch(&mut self) {
        let report = self.fetch_report();
        if report.is_none() || report == self.relayed {
            return;
        }
        let paths = &self.config.paths;
        let written = store::make_directory(&paths.runtime_dir, 0o755)
            .and_then(|()| store::write_json(&files::fetch_report_copy(paths), &report, 0o644));
        match written {
            Ok(()) => self.relayed = report,
            Err(error) => tracing::warn!(
                error = chain(&error),
                "how the last fetch went is not passed on"
            ),
        }
    }

    /// Writes the status, if it says something new.
    pub(super) fn publish(&mut self, now: Timestamp) {
        if self
            .written
            .as_ref()
            .is_some_and(|written| *written == self.status)
        {
            return;
        }
        self.status.enforcer.written_at = now;
        let paths = &self.config.paths;
        let written = store::make_directory(&paths.runtime_dir, 0o755)
            .and_then(|()| store::write_json(&files::status(paths), &self.with_keys(now), 0o644));
        match written {
            Ok(()) => self.written = Some(self.status.clone()),
            Err(error) => tracing::error!(error = chain(&error), "status not written"),
        }
    }
}
