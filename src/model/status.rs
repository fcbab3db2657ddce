//! What `agent status` says: the schema of `status.json` and of `status --json`.
//!
//! Schema 1: fields may be added, none changes its meaning.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::Config;
use crate::model::desired::{Grant, Rejected};

/// The version of this schema.
pub const SCHEMA: u32 = 1;

/// The whole status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// `enforce` or `observe`.
    pub mode: String,
    /// In one word.
    pub health: Health,
    /// Everything that keeps `health` from being healthy, for a person.
    pub problems: Vec<String>,
    /// The list in force.
    pub list: ListStatus,
    /// Each account the list or the config speaks of; rows in JSON.
    #[serde(with = "rows")]
    pub accounts: BTreeMap<AccountName, AccountStatus>,
    /// What was not taken.
    pub rejected: Vec<Rejected>,
    /// Changes that were undone.
    pub drift: Drift,
    /// The enforcer that wrote this.
    pub enforcer: Enforcer,
}

/// Health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing to do.
    Healthy,
    /// A person should look at `problems`.
    Degraded,
    /// No enforcer runs.
    Stopped,
}

/// Where the list stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListStatus {
    /// Where it comes from.
    pub source: Option<String>,
    /// Digest of the stored list.
    pub digest: Option<String>,
    /// Values in it.
    pub parameters: usize,
    /// When it was last fetched and found so.
    pub fetched_at: Option<Timestamp>,
    /// Seconds since then.
    pub age_seconds: Option<i64>,
    /// Why the last fetch failed.
    pub error: Option<String>,
    /// When the next fetch is due.
    pub next_fetch_at: Option<Timestamp>,
    /// Why the list is held, `None` when it is in force.
    #[serde(default)]
    pub held: Option<String>,
}

/// One account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountStatus {
    /// Login name.
    pub name: AccountName,
    /// User id; `None` while NSS does not know the name.
    pub uid: Option<u32>,
    /// The managed file.
    pub file: Option<String>,
    /// In one word.
    pub state: AccountState,
    /// Why, when it is not `in-sync`.
    pub reason: Option<String>,
    /// When this program last changed the file.
    pub changed_at: Option<Timestamp>,
    /// True when the command that prints this has looked at the file itself.
    #[serde(default)]
    pub verified: bool,
    /// `sha256:…` of the bytes the file is to have.
    #[serde(default)]
    pub content_digest: Option<String>,
    /// The keys in force.
    pub keys: Vec<KeyStatus>,
}

/// State of one account, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountState {
    /// Same bytes, owner, group, mode and link count.
    InSync,
    /// Seen in observe mode, or not yet repaired.
    Drifted,
    /// The guard holds a list that would change it.
    Held,
    /// Unsafe to write.
    Refused,
    /// The list names it, this host does not know it.
    NoAccount,
    /// The list names it, `manage` does not.
    Unmanaged,
}

/// One key in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Key type.
    #[serde(rename = "type")]
    pub algorithm: String,
    /// Printable ASCII.
    pub comment: String,
    /// Where it stands.
    pub parameter: String,
    /// Version of that parameter.
    pub parameter_version: Option<u64>,
    /// When that parameter was last changed.
    #[serde(default)]
    pub parameter_modified_at: Option<Timestamp>,
    /// When it leaves the file.
    pub expires_at: Option<Timestamp>,
}

/// Changes that were undone, since the host booted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// How many.
    pub repaired: u64,
    /// The last one.
    pub last: Option<DriftEvent>,
}

/// One undone change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftEvent {
    /// When it was undone.
    pub at: Timestamp,
    /// Whose file.
    pub account: AccountName,
    /// What had been changed.
    pub changes: Vec<String>,
}

/// Who wrote the status, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcer {
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// When something last changed in this status.
    pub written_at: Timestamp,
    /// When the last pass began that somebody asked for; a `sync` waits for one that began after it asked.
    pub asked_at: Option<Timestamp>,
}

impl From<&Grant> for KeyStatus {
    fn from(grant: &Grant) -> Self {
        Self {
            fingerprint: grant.fingerprint.clone(),
            algorithm: grant.algorithm.clone(),
            comment: grant.comment.clone(),
            parameter: grant.parameter.clone(),
            parameter_version: grant.parameter_version,
            parameter_modified_at: grant.parameter_modified_at,
            expires_at: grant.expires_at,
        }
    }
}

/// A map by name, written as the array of its values.
mod rows {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{AccountName, AccountStatus};

    pub(super) fn serialize<S: Serializer>(
        accounts: &BTreeMap<AccountName, AccountStatus>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(accounts.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<AccountName, AccountStatus>, D::Error> {
        let rows = Vec::<AccountStatus>::deserialize(from)?;
        Ok(rows.into_iter().map(|account| (account.name.clone(), account)).collect())
    }
}

impl Status {
    /// Nothing is known yet.
    pub fn unknown(config: &Config, now: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: config.mode.as_str().to_owned(),
            health: Health::Degraded,
            problems: Vec::new(),
            list: ListStatus::default(),
            accounts: BTreeMap::new(),
            rejected: Vec::new(),
            drift: Drift::default(),
            enforcer: Enforcer { pid: 0, started_at: now, written_at: now, asked_at: None },
        }
    }

    /// Sets `health` by `problems`.
    pub fn settle_health(&mut self) {
        self.health = if self.problems.is_empty() { Health::Healthy } else { Health::Degraded };
    }
}

impl AccountState {
    /// As the schema spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Drifted => "drifted",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::NoAccount => "no-account",
            Self::Unmanaged => "unmanaged",
        }
    }
}

impl Health {
    /// As the schema spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Stopped => "stopped",
        }
    }
}
