//! What `agent status` says: the schema of `status.json` and of `status --json`.
//!
//! Schema 1: fields may be added, none changes its meaning.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::tables::Config;
use crate::model::file::difference::KeyName;
use crate::model::key::grant::Grant;
use crate::model::key::lenient::{FoundKey, FoundKeys, unclear};
use crate::model::list::rejected::Rejected;
use crate::model::session::Session;
use crate::model::sshd::access::{Access, Verdict, open_doors, several};

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
    /// What a person should know of and need not be wrong: doors that are open and that nobody accepted.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The sshd that reads the files; `None` until it was asked.
    #[serde(default)]
    pub sshd: Option<SshdStatus>,
    /// Files of accounts that nobody manages, with keys in them; `None` when nobody looked. Only local accounts are.
    #[serde(default)]
    pub unmanaged: Option<Vec<UnmanagedFile>>,
    /// True when there are more of these than are listed.
    #[serde(default)]
    pub unmanaged_cut: bool,
    /// Live SSH sessions that were opened with a key that is not approved.
    #[serde(default)]
    pub sessions: Vec<Session>,
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
    /// Keys that it took out of the file then, the first [`REMOVED`] of them.
    #[serde(default)]
    pub removed_keys: Vec<KeyName>,
    /// True when the command that prints this has looked at the file itself.
    #[serde(default)]
    pub verified: bool,
    /// `sha256:…` of the bytes the file is to have.
    #[serde(default)]
    pub content_digest: Option<String>,
    /// The keys in force.
    pub keys: Vec<KeyStatus>,
    /// What sshd makes of the file; `None` until it was asked, and where there is no file.
    #[serde(default, with = "shared")]
    pub access: Option<Arc<Access>>,
    /// Other files that sshd reads for it and that stay, with what is in them.
    #[serde(default)]
    pub other_files: Vec<OtherFile>,
}

/// Removed keys that are listed of an account.
pub const REMOVED: usize = 20;

/// A file that sshd reads besides the managed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherFile {
    /// Which.
    pub file: String,
    /// What is in it; its error also says why it is still there, where that is not by intent.
    #[serde(flatten)]
    pub found: InFile,
}

/// Keys in a file that is not the managed one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFile {
    /// The keys.
    pub keys: Vec<PlainKey>,
    /// Keys that are not listed, as there are too many.
    #[serde(default)]
    pub more: usize,
    /// Lines that may be keys: this program does not understand them, and sshd may.
    #[serde(default)]
    pub unclear: usize,
    /// Why it could not be looked at.
    #[serde(default)]
    pub error: Option<String>,
}

/// The sshd of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshdStatus {
    /// Release of OpenSSH, such as `9.2`.
    pub version: Option<String>,
    /// The program.
    pub path: Option<String>,
    /// When it said what it reads; nothing it depends on has changed since.
    pub asked_at: Timestamp,
    /// Why it did not say.
    pub error: Option<String>,
    /// Accounts that were not asked about, since a `Match` may treat each apart.
    #[serde(default)]
    pub unasked: usize,
    /// What of it is not judged, for a person.
    #[serde(default)]
    pub unjudged: Vec<String>,
}

/// A file that sshd reads for an account nobody manages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmanagedFile {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// The file.
    pub file: String,
    /// What is in it.
    #[serde(flatten)]
    pub found: InFile,
    /// The config manages the account, and no list has spoken of it: the first one that does takes the file over.
    #[serde(default)]
    pub awaits_list: bool,
}

/// One key of a file that nobody manages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainKey {
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Key type.
    #[serde(rename = "type")]
    pub algorithm: String,
    /// Printable ASCII, no more of it than a person reads.
    pub comment: String,
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

/// A judgement that accounts share, written out for each.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Access;

    #[expect(clippy::ref_option, reason = "the signature that serde wants")]
    pub(super) fn serialize<S: Serializer>(
        access: &Option<Arc<Access>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        access.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Arc<Access>>, D::Error> {
        Ok(Option::<Access>::deserialize(from)?.map(Arc::new))
    }
}

impl InFile {
    /// What the bytes of an authorized_keys file are; of very many keys only so many are listed.
    pub fn read(content: &[u8]) -> Self {
        const KEYS: usize = 50;
        let found = FoundKeys::read(content);
        let more = found.keys.len().saturating_sub(KEYS);
        let keys = found
            .keys
            .into_iter()
            .take(KEYS)
            .map(PlainKey::from)
            .collect();
        Self {
            keys,
            more,
            unclear: found.unclear,
            error: None,
        }
    }

    /// Nothing but why it could not be looked at, or is still there.
    pub fn unread(error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    /// True when nobody gets in by it.
    pub fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.unclear == 0
    }
}

impl From<FoundKey> for PlainKey {
    fn from(key: FoundKey) -> Self {
        let comment = key.comment();
        Self {
            fingerprint: key.fingerprint,
            algorithm: key.algorithm,
            comment,
        }
    }
}

impl OtherFile {
    /// This was `found` in `file`.
    pub fn new(file: &Path, found: InFile) -> Self {
        Self {
            file: file.display().to_string(),
            found,
        }
    }

    /// In one line.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 5;
        let InFile {
            keys,
            more,
            unclear: lines,
            ..
        } = &self.found;
        let shown: Vec<&str> = keys
            .iter()
            .take(SHOWN)
            .map(|key| key.fingerprint.as_str())
            .collect();
        let shown = Some(shown.join(", ")).filter(|shown| !shown.is_empty());
        let more = match keys.len().saturating_sub(SHOWN) + more {
            0 => None,
            more => Some(format!("{more} more")),
        };
        let unclear = (*lines > 0).then(|| unclear(*lines));
        let with: Vec<String> = [shown, more, unclear].into_iter().flatten().collect();
        format!(
            "sshd also reads `{}` with {}",
            self.file,
            with.join(" and ")
        )
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
        Ok(rows
            .into_iter()
            .map(|account| (account.name.clone(), account))
            .collect())
    }
}

impl Status {
    /// Says of an account what is wrong with it now, in the place of what was said before.
    pub fn take_problem(&mut self, name: &AccountName, state: AccountState, reason: Option<&str>) {
        let before = format!("{name} is ");
        self.problems
            .retain(|problem| !problem.starts_with(&before));
        if let Some(reason) = reason {
            self.problems
                .push(format!("{name} is {}: {reason}", state.as_str()));
        }
    }

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
            warnings: Vec::new(),
            sshd: None,
            unmanaged: None,
            unmanaged_cut: false,
            sessions: Vec::new(),
            enforcer: Enforcer {
                pid: 0,
                started_at: now,
                written_at: now,
                asked_at: None,
            },
        }
    }

    /// Takes what sshd makes of the files into `problems` and `warnings`: a file without effect is the first, a door
    /// that stands open is the second.
    pub fn weigh_access(&mut self) {
        const REFUSED: &str = " is refused by sshd: ";
        self.problems.retain(|problem| !problem.contains(REFUSED));
        let rows = || {
            self.accounts
                .values()
                .filter_map(|row| Some((row.name.as_str(), row.access.as_deref()?)))
        };
        let refused = rows().filter(|(_, access)| access.verdict == Verdict::Refused);
        let refused = refused.map(|(name, access)| {
            format!(
                "{name}{REFUSED}{}",
                access.reason.as_deref().unwrap_or_default()
            )
        });
        let refused: Vec<String> = refused.collect();
        let mut warnings: Vec<String> = open_doors(rows())
            .into_iter()
            .map(|(door, names)| format!("bypassed: {}", door.describe(&several(&names))))
            .collect();
        let partly = rows().filter(|(_, access)| {
            access.verdict != Verdict::Refused && access.verdict != Verdict::Unknown
        });
        warnings.extend(
            partly
                .filter_map(|(name, access)| Some(format!("{name}: {}", access.reason.as_ref()?))),
        );
        for row in self.accounts.values() {
            let others = row
                .other_files
                .iter()
                .filter(|other| !other.found.is_idle());
            warnings.extend(others.map(|other| format!("{}: {}", row.name, other.describe())));
        }
        let unheard = self.sshd.iter().filter_map(|sshd| sshd.error.as_ref());
        warnings.extend(
            unheard.map(|error| format!("what sshd makes of the files is not known: {error}")),
        );
        warnings.extend(
            self.sshd
                .iter()
                .flat_map(|sshd| sshd.unjudged.iter().cloned()),
        );
        self.warnings = warnings;
        self.problems.extend(refused);
    }

    /// Sets `health` by `problems`.
    pub fn settle_health(&mut self) {
        self.health = if self.problems.is_empty() {
            Health::Healthy
        } else {
            Health::Degraded
        };
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
