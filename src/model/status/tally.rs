//! What a status comes to: the counts that all reports of it share.

use jiff::Timestamp;

use crate::model::status::problem::Severity;
use crate::model::status::schema::{AccountState, Health, Status};

/// Counts of accounts and keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    accounts: [usize; AccountState::ALL.len()],
    /// Keys in force; in observe mode those in the files.
    pub keys: usize,
    /// When the agent last changed a file.
    pub changed_at: Option<Timestamp>,
}

impl Status {
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for row in self.rows.values() {
            tally.accounts[row.state as usize] += 1;
            tally.keys += row.keys.as_ref().map_or(0, Vec::len);
            tally.changed_at = tally.changed_at.max(row.changed_at);
        }
        tally
    }

    /// Codes of what makes the host degraded, the worst first.
    pub fn errors(&self) -> Vec<&'static str> {
        match self.health() {
            Health::Healthy => Vec::new(),
            _ => self.codes(Severity::Error),
        }
    }

    /// Codes of what is no less severe than this, the worst first.
    pub fn codes(&self, least: Severity) -> Vec<&'static str> {
        let mut codes: Vec<&str> = Vec::new();
        for told in self.told() {
            let code = told.cause.code();
            if told.cause.severity() <= least && codes.last() != Some(&code) {
                codes.push(code);
            }
        }
        codes
    }
}

impl Tally {
    /// Accounts by state, and also the states of none.
    pub fn states(&self) -> impl Iterator<Item = (AccountState, usize)> {
        AccountState::ALL.into_iter().zip(self.accounts)
    }
}
