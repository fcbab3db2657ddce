//! One line for a fleet: small enough to be collected from thousands of hosts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::model::escape::shortened;
use crate::model::status::problem::Severity;
use crate::model::status::schema::{Health, SCHEMA, Status};

/// Bytes that the line is shorter than.
const BYTES: usize = 500;

#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    host: String,
    instance: Option<&'a str>,
    version: &'a str,
    mode: &'a str,
    health: Health,
    /// Accounts by state.
    accounts: BTreeMap<&'static str, usize>,
    keys: usize,
    list_age_seconds: Option<i64>,
    held: bool,
    /// Until the signature of the list ends; below 0 since it has.
    signature_days: Option<i64>,
    /// When the agent last changed a file.
    changed_at: Option<Timestamp>,
    /// Codes, the worst first.
    problems: Vec<&'static str>,
    /// Codes that are left out above.
    more_problems: usize,
}

impl Status {
    /// As `--format summary` prints it at `now`.
    pub fn fleet_line(&self, now: Timestamp) -> String {
        /// `HOST_NAME_MAX` of Linux; EC2's ids are 19 bytes.
        const NAME: usize = 64;
        let tally = self.tally();
        let mut accounts: BTreeMap<&str, usize> = BTreeMap::new();
        for (state, count) in tally.states() {
            if count > 0 {
                accounts.insert(state.as_str(), count);
            }
        }
        let mut line = Line {
            schema: SCHEMA,
            host: shortened(&self.host.name, NAME),
            instance: self.host.instance.as_deref(),
            version: &self.version,
            mode: &self.mode,
            health: self.health(),
            accounts,
            keys: tally.keys,
            list_age_seconds: self.list.age(now),
            held: self.list.held.is_some(),
            signature_days: self.list.signature_days(now),
            changed_at: tally
                .changed_at
                .and_then(|at| Timestamp::from_second(at.as_second()).ok()),
            problems: self.codes(Severity::Warning),
            more_problems: 0,
        };
        loop {
            let text = serde_json::to_string(&line).unwrap_or_default();
            if text.len() + 1 < BYTES || line.problems.pop().is_none() {
                return text + "\n";
            }
            line.more_problems += 1;
        }
    }
}
