//! One line for a fleet: small enough to be collected from thousands of hosts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::model::escape::shortened;
use crate::model::status::problem::Severity;
use crate::model::status::schema::{Health, Row, SCHEMA, Status};

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
    /// When the agent last changed a file.
    changed_at: Option<Timestamp>,
    /// Codes, the worst first.
    problems: Vec<&'static str>,
    /// Codes that are left out above.
    more_problems: usize,
}

impl Status {
    /// Codes of what makes the host degraded, the worst first.
    pub fn errors(&self) -> Vec<&'static str> {
        match self.health() {
            Health::Healthy => Vec::new(),
            _ => self.codes(Severity::Error),
        }
    }

    /// Codes of what is no less severe than this, the worst first.
    fn codes(&self, least: Severity) -> Vec<&'static str> {
        let mut codes: Vec<&str> = Vec::new();
        for told in self.told() {
            let code = told.cause.code();
            if told.cause.severity() <= least && codes.last() != Some(&code) {
                codes.push(code);
            }
        }
        codes
    }

    /// As `--format summary` prints it at `now`.
    pub fn fleet_line(&self, now: Timestamp) -> String {
        /// `HOST_NAME_MAX` of Linux; EC2's ids are 19 bytes.
        const NAME: usize = 64;
        let mut accounts: BTreeMap<&str, usize> = BTreeMap::new();
        for row in self.rows.values() {
            *accounts.entry(row.state.as_str()).or_default() += 1;
        }
        let keys = |row: &Row| row.keys.as_ref().map_or(0, Vec::len);
        let changed_at = self.rows.values().filter_map(|row| row.changed_at).max();
        let mut line = Line {
            schema: SCHEMA,
            host: shortened(&self.host.name, NAME),
            instance: self.host.instance.as_deref(),
            version: &self.version,
            mode: &self.mode,
            health: self.health(),
            accounts,
            keys: self.rows.values().map(keys).sum(),
            list_age_seconds: self.list.age(now),
            held: self.list.held.is_some(),
            changed_at: changed_at.and_then(|at| Timestamp::from_second(at.as_second()).ok()),
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
