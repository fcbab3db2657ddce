//! What a person asked to see, and the words that both counts and rows use.

use jiff::Timestamp;

use crate::model::account::AccountName;
use crate::model::sshd::access::{Access, Verdict};
use crate::model::status::problem::duration;
use crate::model::status::schema::{AccountState, Row};

/// How much of it, and how.
pub(super) struct View<'a> {
    /// The accounts that were named; all when there are none.
    pub(super) accounts: &'a [AccountName],
    pub(super) keys: bool,
    /// Why not all files were looked at.
    pub(super) unseen: Option<&'a str>,
    pub(super) colour: bool,
}

impl View<'_> {
    pub(super) fn has(&self, name: &AccountName) -> bool {
        self.accounts.is_empty() || self.accounts.contains(name)
    }
}

/// The state in one word, as the JSON has it but for an account without keys.
pub(super) fn state(row: &Row) -> &'static str {
    if row.state == AccountState::InSync && row.has_no_keys() {
        "no keys"
    } else {
        row.state.as_str()
    }
}

pub(super) fn verdict(access: &Access) -> &'static str {
    match access.verdict {
        Verdict::AlsoOpen => "also open",
        verdict => verdict.as_str(),
    }
}

pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration_since(at, now))
}

pub(super) fn duration_since(at: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(at).as_secs().max(0))
}
