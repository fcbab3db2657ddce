//! What is logged, each kind with its constant `MESSAGE_ID`.
//!
//! info: something changed on disk. warn: a person should look. error: the agent cannot do its job.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;

use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::file::difference::{in_words, mended_in_words};
use crate::model::list::rejected::Rejected;
use crate::model::past::budget::Budget;
use crate::model::past::event::{Change, Event};
use crate::model::past::incident::Who;
use crate::model::session::Session;

/// `MESSAGE_ID`s: constant for ever, so that `journalctl MESSAGE_ID=…` finds a kind of event.
pub mod id {
    /// A changed list was applied to a file.
    pub const APPLIED: &str = "29eecd86d83640a28791c063a41ad406";
    /// A change that an account or a program made was undone.
    pub const REPAIRED: &str = "1e086f77428f49c0a8c7dafeab42ec30";
    /// So many lines about an account were not said.
    pub const UNSAID: &str = "fa301c58b76e41f69bb79b674ebad140";
    /// Observe mode: a file differs.
    pub const DIFFERS: &str = "2c8212e9de284b8e9aab7e5cb425b1e6";
    /// A file could not be brought in line.
    pub const REFUSED: &str = "ec8accf6e34a477eb6be74ccb26a1671";
    /// A list is held by the guard.
    pub const HELD: &str = "3addd82936654e519096c2f9b69487db";
    /// A list does not count, for want of a good signature.
    pub const LIST_REFUSED: &str = "82d4ee8839384120aefca61b2b37a6a8";
    /// A list counts again.
    pub const LIST_COUNTS: &str = "14450f4dcaa24ce0823686f9ce003560";
    /// A value or line of the list was not taken.
    pub const REJECTED: &str = "b28e873e5fa743e29f5219db74d4e261";
    /// A file that was not ours is about to be replaced; names one key that leaves it.
    pub const FIRST_RUN: &str = "9783bc8f58eb41aab811b1b55147a83f";
    /// sshd reads another file than the managed one, and it stays (`other-files = "report"`, or not in the home).
    pub const OTHER_FILE: &str = "8867a5074d2847b8be936837186077dd";
    /// A fetch failed.
    pub const FETCH_FAILED: &str = "ed08cbaadad1488b91584e464e83e547";
    /// A fetch works again.
    pub const FETCH_RECOVERED: &str = "ba04857a6c474173a3f013d5ae643975";
    /// A fetched list differs from the stored one.
    pub const LIST_CHANGED: &str = "9d3031affad14f7692d91726c342ebac";
    /// The state on this disk was another instance's; it is not used.
    pub const CLONED: &str = "e134fd9713004aee996ef8f471455b09";
    /// The audit log says who made a change that was undone.
    pub const ATTRIBUTED: &str = "c0a097c1bd9f48c393c0b580e629039f";
    /// Another program makes the same change again and again.
    pub const RIVAL: &str = "237a9812ce6a4512a785fba768e3b55e";
    /// An account plants keys again and again, so the directory of its file is locked for a while.
    pub const LOCKED: &str = "6089d3d2841545b99d6a87548b39e188";
    /// It is the account's own again.
    pub const UNLOCKED: &str = "c4bb252e17b94eed8f6ad47c3223f023";
    /// Something was in the way of a file, and is kept under another name.
    pub const PUT_ASIDE: &str = "30d64be8fd1f4ec79c4937f6af0de627";
    /// A live SSH session was opened with a key that is not approved.
    pub const REVOKED_SESSION: &str = "d963b512c8bb4bb882fbd1cc351d0886";
    /// Such a session was ended (`end-sessions = true`).
    pub const SESSION_ENDED: &str = "bcb9995540ac4c68a7485c5fbec82b7a";
    /// The host is degraded, and was a while ago; told again each hour.
    pub const DEGRADED: &str = "61179376273840a19b031061fa463c83";
    /// It no longer is.
    pub const HEALTHY: &str = "3b9d84c6809a4b858c1ca352a26a80f7";
}

/// Tells the journal what concerns an account, within that account's budget. Shared by the threads that tell.
#[derive(Clone, Default)]
pub struct Teller(Arc<Mutex<Budget>>);

impl Teller {
    /// Tells one event. Incidents are kept by `incidents`; their numbers are told with the change.
    pub fn tell(&self, event: &Event, now: Instant) {
        let Some(account) = about(event) else { return };
        if let Some(not_said) = self.may_say(account, now) {
            tell(event, account, not_said);
        }
    }

    pub(super) fn attributed(
        &self,
        account: &AccountName,
        incident: &str,
        who: &Who,
        now: Instant,
    ) {
        let Some(NotSaid(not_said)) = self.may_say(account, now) else {
            return;
        };
        let (exe, comm, uid, auid, pid) = (&who.exe, &who.comm, who.uid, who.auid, who.pid);
        tracing::warn!(
            message_id = id::ATTRIBUTED, %account, incident, exe, comm, uid, auid, by_pid = pid, not_said,
            "the audit log says who changed the file"
        );
    }

    pub(super) fn revoked_session(&self, session: &Session, now: Instant) {
        let Session {
            account,
            id,
            leader,
            fingerprint,
            from,
            ..
        } = session;
        let Some(NotSaid(not_said)) = self.may_say(account, now) else {
            return;
        };
        tracing::warn!(
            message_id = id::REVOKED_SESSION, %account, session = id, leader, fingerprint, from, not_said,
            hint = "loginctl kill-session --signal=SIGKILL and the session; or `end-sessions = true` in `[accounts]`",
            "a live session was opened with a key that is not approved"
        );
    }

    pub(super) fn session_ended(&self, session: &Session, now: Instant) {
        let Session {
            account,
            id,
            leader,
            fingerprint,
            from,
            ..
        } = session;
        let Some(NotSaid(not_said)) = self.may_say(account, now) else {
            return;
        };
        tracing::warn!(
            message_id = id::SESSION_ENDED, %account, session = id, leader, fingerprint, from, not_said,
            "the agent ended a session that was opened with a key that is not approved"
        );
    }

    /// Says of the accounts that will have calmed down by `now` how much was left out.
    pub fn tell_the_rest(&self, now: Instant) {
        for (account, not_said) in self.budget().calmed(now) {
            tracing::warn!(
                message_id = id::UNSAID, %account, not_said,
                hint = "agent incidents",
                "there were more events about this account than the log shows"
            );
        }
    }

    /// When there will be something left out to tell of.
    pub fn next_rest(&self) -> Option<Instant> {
        self.budget().calm_at()
    }

    /// Whether there is room for a line about an account.
    fn may_say(&self, account: &AccountName, now: Instant) -> Option<NotSaid> {
        let unsaid = self.budget().may_say(account, now)?;
        Some(NotSaid((unsaid > 0).then_some(unsaid)))
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines before this one were not said, if any.
#[derive(Clone, Copy)]
struct NotSaid(Option<u64>);

/// The account that a line would be about; `None` for what is kept and not told.
fn about(event: &Event) -> Option<&AccountName> {
    match event {
        Event::Repaired(change) | Event::Differs(change) => Some(&change.account),
        Event::Applied { account, .. }
        | Event::FirstRun { account, .. }
        | Event::Refused { account, .. }
        | Event::OtherFile { account, .. }
        | Event::Rival { account, .. }
        | Event::Lock { account, .. }
        | Event::PutAside { account, .. } => Some(account),
        Event::Incident { .. } | Event::Again { .. } => None,
    }
}

fn tell(event: &Event, account: &AccountName, NotSaid(not_said): NotSaid) {
    match event {
        Event::Applied {
            file, differences, ..
        } => {
            let changes = mended_in_words(differences).join(", ");
            tracing::info!(
                message_id = id::APPLIED, %account, file = %file.display(), changes, not_said,
                "list applied"
            );
        }
        Event::FirstRun {
            file, key, backup, ..
        } => tracing::warn!(
            message_id = id::FIRST_RUN, %account, file = %file.display(), %key, backup = %backup.display(), not_said,
            "key removed that is not on the list"
        ),
        Event::Repaired(change) => {
            let Change { file, incident, .. } = change;
            let found = in_words(&change.differences).join(", ");
            let stood_ms = change.stood_milliseconds;
            tracing::warn!(
                message_id = id::REPAIRED, %account, file = %file.display(), found, incident, stood_ms, not_said,
                "drift undone"
            );
        }
        Event::Differs(change) => {
            let Change { file, incident, .. } = change;
            let found = in_words(&change.differences).join(", ");
            tracing::warn!(
                message_id = id::DIFFERS, %account, file = %file.display(), found, incident, not_said,
                "file differs, not written (mode = \"observe\")"
            );
        }
        Event::Refused { reason, .. } => tracing::warn!(
            message_id = id::REFUSED, %account, reason, not_said,
            "the agent cannot bring the file in line"
        ),
        Event::OtherFile { other, .. } => {
            let keys = other.found.keys.iter().take(20);
            let keys: Vec<String> = keys.map(ToString::to_string).collect();
            let (file, keys) = (escaped(&other.file), keys.join(", "));
            tracing::warn!(
                message_id = id::OTHER_FILE, %account, file, keys, not_said,
                "sshd also reads this file, and the agent leaves it"
            );
        }
        Event::Rival { times, program, .. } => tracing::warn!(
            message_id = id::RIVAL, %account, times, program, not_said,
            hint = "configure that program to leave the file alone, or take the account out of `manage` in `[accounts]`",
            "another program makes the same change again and again, so the agent waits up to a second before it undoes it"
        ),
        Event::Lock {
            seconds: Some(seconds),
            ..
        } => tracing::warn!(
            message_id = id::LOCKED, %account, seconds, not_said,
            hint = "agent incidents",
            "the account plants keys again and again, so for a while the agent lets nothing change in the directory of its file"
        ),
        Event::Lock { seconds: None, .. } => tracing::info!(
            message_id = id::UNLOCKED, %account, not_said,
            "the directory of its file belongs to the account again"
        ),
        Event::PutAside { aside, .. } => tracing::warn!(
            message_id = id::PUT_ASIDE, %account, aside, not_said,
            "the agent has renamed what was in the way of the file; look at it, then remove it"
        ),
        Event::Incident { .. } | Event::Again { .. } => {}
    }
}

pub(super) fn cloned(from: &str, here: &str) {
    tracing::warn!(
        message_id = id::CLONED,
        from,
        here,
        hint = "run `agent seal` before you make an image",
        "the state on this disk is of another instance, so the agent starts with an empty one"
    );
}

/// `problems` are codes, the worst first.
pub(super) fn degraded(problems: &str, since: Timestamp) {
    tracing::warn!(
        message_id = id::DEGRADED,
        problems,
        %since,
        hint = "agent status",
        "this host is degraded"
    );
}

pub(super) fn healthy() {
    tracing::info!(message_id = id::HEALTHY, "this host is no longer degraded");
}

pub(super) fn held(reason: &str) {
    tracing::warn!(message_id = id::HELD, reason, "list held");
}

/// `code` is that of the problem, `scope` the part of the list, where it is one.
pub(super) fn list_refused(code: &str, scope: Option<&str>, reason: &str, hint: Option<&str>) {
    tracing::warn!(
        message_id = id::LIST_REFUSED,
        code,
        scope,
        reason,
        hint,
        "the list does not count, and what is in force stays"
    );
}

pub(super) fn list_counts() {
    tracing::info!(message_id = id::LIST_COUNTS, "the list counts again");
}

pub(super) fn rejected(rejected: &Rejected) {
    let (parameter, line) = (escaped(&rejected.parameter), rejected.line);
    let (message_id, reason) = (id::REJECTED, &rejected.reason);
    if rejected.is_private_key() {
        tracing::error!(
            message_id,
            parameter,
            line,
            reason,
            "not taken from the list"
        );
    } else {
        tracing::warn!(
            message_id,
            parameter,
            line,
            reason,
            "not taken from the list"
        );
    }
}

pub(super) fn fetch_failed(source: &str, error: &str, hint: Option<&str>, has_list: bool) {
    let message_id = id::FETCH_FAILED;
    if has_list {
        tracing::warn!(
            message_id,
            source,
            error,
            hint,
            "fetch failed, the last list stays in force"
        );
    } else {
        tracing::warn!(
            message_id,
            source,
            error,
            hint,
            "fetch failed, and there is no list yet"
        );
    }
}

pub(super) fn fetch_recovered(source: &str) {
    tracing::info!(
        message_id = id::FETCH_RECOVERED,
        source,
        "fetch works again"
    );
}

pub(super) fn list_changed(source: &str, digest: &str, parameters: usize) {
    tracing::info!(
        message_id = id::LIST_CHANGED,
        source,
        digest,
        parameters,
        "list changed"
    );
}
