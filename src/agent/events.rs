//! What is logged: one function a kind of event, each with its constant `MESSAGE_ID`.
//!
//! info: something changed on disk. warn: a person should look. error: the agent cannot do its job.

use std::path::Path;

use crate::model::account::AccountName;
use crate::model::plan::Difference;

/// `MESSAGE_ID`s: constant for ever, so that `journalctl MESSAGE_ID=…` finds a kind of event.
pub mod id {
    /// A changed list was applied to a file.
    pub const APPLIED: &str = "29eecd86d83640a28791c063a41ad406";
    /// A change by somebody else was undone.
    pub const REPAIRED: &str = "1e086f77428f49c0a8c7dafeab42ec30";
    /// Observe mode: a file differs.
    pub const DIFFERS: &str = "2c8212e9de284b8e9aab7e5cb425b1e6";
    /// A file could not be brought in line.
    pub const REFUSED: &str = "ec8accf6e34a477eb6be74ccb26a1671";
    /// A list is held by the guard.
    pub const HELD: &str = "3addd82936654e519096c2f9b69487db";
    /// A value or line of the list was not taken.
    pub const REJECTED: &str = "b28e873e5fa743e29f5219db74d4e261";
    /// A file that was not ours is about to be replaced; names one key that leaves it.
    pub const FIRST_RUN: &str = "9783bc8f58eb41aab811b1b55147a83f";
    /// A fetch failed.
    pub const FETCH_FAILED: &str = "ed08cbaadad1488b91584e464e83e547";
    /// A fetch works again.
    pub const FETCH_RECOVERED: &str = "ba04857a6c474173a3f013d5ae643975";
    /// A fetched list differs from the stored one.
    pub const LIST_CHANGED: &str = "9d3031affad14f7692d91726c342ebac";
    /// The state on this disk was another instance's; it is not used.
    pub const CLONED: &str = "e134fd9713004aee996ef8f471455b09";
}

/// An error with its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `differences`, for people; no more of them than a person reads, since the account chooses how many there are.
pub fn changes(differences: &[Difference]) -> Vec<String> {
    const MOST: usize = 20;
    let mut all: Vec<String> = differences.iter().take(MOST).map(ToString::to_string).collect();
    if differences.len() > MOST {
        all.push(format!("and {} more", differences.len() - MOST));
    }
    all
}

pub(super) fn applied(account: &AccountName, file: &Path, differences: &[Difference]) {
    let changes = wanted_changes(differences.get(..20).unwrap_or(differences)).join(", ");
    tracing::info!(message_id = id::APPLIED, %account, file = %file.display(), changes, "list applied");
}

pub(super) fn repaired(account: &AccountName, file: &Path, differences: &[Difference]) {
    let undone = changes(differences).join(", ");
    tracing::warn!(message_id = id::REPAIRED, %account, file = %file.display(), undone, "drift undone");
}

pub(super) fn differs(account: &AccountName, file: &Path, differences: &[Difference]) {
    let seen = changes(differences).join(", ");
    tracing::warn!(message_id = id::DIFFERS, %account, file = %file.display(), seen, "file differs, not written (mode = \"observe\")");
}

pub(super) fn refused(account: &AccountName, reason: &str) {
    tracing::warn!(message_id = id::REFUSED, %account, reason, "file not brought in line");
}

pub(super) fn cloned(from: &str, here: &str) {
    tracing::warn!(
        message_id = id::CLONED,
        from,
        here,
        hint = "run `agent seal` before making an image",
        "the state on this disk is another instance's and is not used; the first list of this one counts"
    );
}

pub(super) fn held(reason: &str) {
    tracing::warn!(message_id = id::HELD, reason, "list held");
}

pub(super) fn rejected(parameter: &str, line: usize, reason: &str) {
    let parameter = crate::model::escape::escaped(parameter);
    tracing::warn!(message_id = id::REJECTED, parameter, line, reason, "not taken from the list");
}

pub(super) fn first_run(account: &AccountName, file: &Path, fingerprint: &str, backup: &Path) {
    tracing::warn!(
        message_id = id::FIRST_RUN, %account, file = %file.display(), fingerprint, backup = %backup.display(),
        "key removed that is not on the list"
    );
}

pub(super) fn fetch_failed(source: &str, error: &str, hint: Option<&str>) {
    let hint = hint.unwrap_or_default();
    tracing::warn!(
        message_id = id::FETCH_FAILED,
        source,
        error,
        hint,
        "fetch failed, the last list stays in force"
    );
}

pub(super) fn fetch_recovered(source: &str) {
    tracing::info!(message_id = id::FETCH_RECOVERED, source, "fetch works again");
}

pub(super) fn list_changed(source: &str, digest: &str, parameters: usize) {
    tracing::info!(message_id = id::LIST_CHANGED, source, digest, parameters, "list changed");
}

/// A key that the file had and the list has not was removed by us, and the other way round.
fn wanted_changes(differences: &[Difference]) -> Vec<String> {
    differences
        .iter()
        .map(|difference| match difference {
            Difference::Added(key) => format!("removed {key}"),
            Difference::Removed(key) => format!("added {key}"),
            Difference::Missing => "created".to_owned(),
            other => format!("was {other}"),
        })
        .collect()
}
