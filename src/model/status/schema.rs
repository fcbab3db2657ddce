//! What is known of a host: what the enforcer writes, and what `status` prints.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::desired::decide::{Decision, Listed};
use crate::model::desired::guard::Held;
use crate::model::desired::signed::{AllTaken, Taken};
use crate::model::file::other_files::{InFile, OtherFile};
use crate::model::key::grant::{Grant, with_break_glass};
use crate::model::key::id::KeyId;
use crate::model::list::rejected::Rejected;
use crate::model::past::memory::Drift;
use crate::model::session::Session;
use crate::model::sshd::access::{Access, Loose, Verdict};
use crate::model::status::problem::{Cause, Problem, Severity};
use crate::model::status::told::{Told, told};

/// The version of the schema.
pub const SCHEMA: u32 = 2;

/// All that is known of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    /// Version of the program that wrote it.
    pub version: String,
    pub host: Host,
    /// `enforce` or `observe`.
    pub mode: String,
    /// What is wrong with no single account.
    pub problems: Vec<Problem>,
    pub list: ListStatus,
    #[serde(rename = "accounts", with = "rows")]
    pub rows: Rows,
    pub rejected: Vec<Rejected>,
    pub drift: Drift,
    /// The sshd that reads the files; `None` until it was asked.
    pub sshd: Option<SshdStatus>,
    /// Files with keys of accounts that are not managed; `None` when they were not looked at.
    #[serde(default)]
    pub unmanaged: Option<Vec<UnmanagedFile>>,
    /// There are more of these than are listed.
    #[serde(default)]
    pub unmanaged_cut: bool,
    pub sessions: Vec<Session>,
    pub enforcer: Enforcer,
}

/// Which host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    /// The EC2 instance id, where it is known.
    pub instance: Option<String>,
}

/// Where the list stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListStatus {
    /// The list that was judged last.
    pub listed: Option<Listed>,
    /// The digest of the one in force.
    #[serde(default)]
    pub in_force: Option<String>,
    pub held: Option<Held>,
    /// See [`InForce::signed`](crate::model::desired::in_force::InForce::signed).
    #[serde(default)]
    pub signed: AllTaken,
    /// Since when no list that was fetched counts, for want of a good signature.
    #[serde(default)]
    pub refused_since: Option<Timestamp>,
    /// Where the fetcher takes it from; templates as written where they could not be filled in.
    #[serde(default)]
    pub source: Option<String>,
    /// When it was last found so.
    #[serde(default)]
    pub confirmed_at: Option<Timestamp>,
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub next_fetch_at: Option<Timestamp>,
}

/// One account that the list or the config speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    pub name: AccountName,
    /// `None` while the account database does not know the name.
    pub uid: Option<u32>,
    /// The managed file.
    pub file: Option<String>,
    pub state: AccountState,
    /// Why, when it is not `in-sync`.
    pub why: Option<Cause>,
    /// When the agent last changed the file.
    pub changed_at: Option<Timestamp>,
    /// Keys that it took out of the file then, the first [`REMOVED`] of them.
    #[serde(default)]
    pub removed_keys: Vec<KeyId>,
    /// `sha256:…` of the bytes that the file should have.
    pub content_digest: Option<String>,
    /// What sshd makes of the file; `None` until it was asked, and where there is no file.
    #[serde(default, with = "shared")]
    pub access: Option<Arc<Access>>,
    /// Other files that sshd reads for the account and that stay.
    #[serde(default)]
    pub other_files: Vec<OtherFile>,
    /// Whether a write into the file is prevented, as far as the enforcer knows; if not, it is undone.
    #[serde(default)]
    pub writes_prevented: Option<bool>,
    /// The keys in the file, where these are not the keys in force: in observe mode. Those in force are kept elsewhere.
    #[serde(default)]
    pub keys: Option<Vec<KeyStatus>>,
    /// The list leaves it without keys by a value of comments alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub buried: bool,
    /// The command that prints this has looked at the file.
    #[serde(skip)]
    pub verified: bool,
    /// The first directory on the way to the file that sshd's `StrictModes` refuses.
    #[serde(skip)]
    pub loose: Option<Box<Loose>>,
}

/// Removed keys that are listed of an account.
pub const REMOVED: usize = 20;

/// The rows by name, counted as they change: a repair costs the same on a host with ten thousand accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rows {
    by_name: BTreeMap<AccountName, Row>,
    wrong: usize,
    in_sync: usize,
    managed: usize,
}

/// The sshd of this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SshdStatus {
    /// Release of OpenSSH, such as `9.2`.
    pub version: Option<String>,
    pub path: Option<String>,
    /// When it said what it reads; nothing it depends on has changed since.
    pub asked_at: Timestamp,
    /// Why it did not say.
    pub error: Option<String>,
    /// Accounts that were not asked about, since a `Match` may treat each apart.
    #[serde(default)]
    pub unasked: usize,
}

/// A file that sshd reads for an account that is not managed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnmanagedFile {
    pub name: String,
    pub uid: u32,
    pub file: String,
    #[serde(flatten)]
    pub found: InFile,
    /// The config manages the account, and no list has spoken of it: the first one that does takes the file over.
    #[serde(default)]
    pub awaits_list: bool,
}

/// State of one account, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountState {
    /// Same bytes, owner, group, mode and link count.
    InSync,
    /// Seen in observe mode, or not yet repaired.
    Drifted,
    /// The guard holds a list that would change it, or the list gives it no usable key.
    Held,
    /// Nothing could be done.
    Refused,
    /// The list names it, this host does not know it.
    NoAccount,
    /// `manage` names it, the list never did.
    NotListed,
    /// The list names it, `manage` does not.
    Unmanaged,
}

/// One key in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyStatus {
    #[serde(flatten)]
    pub key: KeyId,
    /// The parameter or file it stands in.
    pub parameter: String,
    pub parameter_version: Option<u64>,
    #[serde(default)]
    pub parameter_modified_at: Option<Timestamp>,
    /// When it leaves the file.
    pub expires_at: Option<Timestamp>,
}

/// The enforcer that wrote this.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Enforcer {
    pub pid: u32,
    pub started_at: Timestamp,
    /// When something last changed in this status.
    pub written_at: Timestamp,
    /// When the last pass began that was asked for; a `sync` waits for one that began after it asked.
    pub asked_at: Option<Timestamp>,
}

/// Health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    Healthy,
    /// A person should look at `problems`.
    Degraded,
    /// No enforcer runs.
    Stopped,
}

/// The keys of one account that are in force.
pub fn keys(decision: &Decision, name: &AccountName, now: Timestamp) -> Vec<KeyStatus> {
    let managed = decision
        .in_force
        .accounts
        .get(name)
        .is_some_and(|account| account.managed);
    if !managed {
        return Vec::new();
    }
    let break_glass = &decision.in_force.break_glass;
    let all = with_break_glass(decision.grants_of(name), break_glass, now);
    all.into_iter().map(KeyStatus::from).collect()
}

impl Status {
    /// Everything a person should look at, the same cause once, the worst first.
    pub fn told(&self) -> Vec<Told> {
        self.told_of(&[])
    }

    /// Of these accounts, or of all when there are none, and what concerns no single account.
    pub fn told_of(&self, accounts: &[AccountName]) -> Vec<Told> {
        let of_rows = self.rows.values().flat_map(Row::problems);
        let all = self.problems.iter().cloned().chain(of_rows);
        told(all.filter(|problem| {
            let account = problem.account.as_ref();
            accounts.is_empty() || account.is_none_or(|account| accounts.contains(account))
        }))
    }

    pub fn health(&self) -> Health {
        let is_error = |one: &Problem| one.cause.severity() == Severity::Error;
        if self
            .problems
            .iter()
            .any(|one| one.cause == Cause::NoEnforcer)
        {
            Health::Stopped
        } else if self.rows.wrong > 0 || self.problems.iter().any(is_error) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let list = &self.list;
        let list = if list.listed.is_some() || list.in_force.is_some() {
            ""
        } else {
            ", no list yet"
        };
        format!(
            "{} ({}): {} of {} accounts in sync, {} changes undone{list}",
            self.health().as_str(),
            self.mode,
            self.rows.in_sync,
            self.rows.managed,
            self.drift.repaired
        )
    }
}

impl ListStatus {
    /// The signatures of the list in force, by scope.
    pub fn signatures(&self) -> impl Iterator<Item = (&String, &Taken)> {
        self.signed.iter().filter(|(_, taken)| taken.current)
    }

    /// When the first of them ends.
    pub fn signed_until(&self) -> Option<Timestamp> {
        self.signatures().map(|(_, taken)| taken.expires).min()
    }

    /// Whole days until then; below 0 since it was.
    pub fn signature_days(&self, now: Timestamp) -> Option<i64> {
        const DAY: i64 = 24 * 60 * 60;
        let left = self.signed_until()?.duration_since(now);
        Some(left.as_secs().div_euclid(DAY))
    }

    /// Seconds since the list was last found as it is.
    pub fn age(&self, now: Timestamp) -> Option<i64> {
        let at = self.confirmed_at?;
        Some(now.duration_since(at).as_secs().max(0))
    }
}

impl Rows {
    pub fn insert(&mut self, row: Row) {
        self.remove(&row.name);
        self.wrong += usize::from(row.is_wrong());
        self.in_sync += usize::from(row.state == AccountState::InSync);
        self.managed += usize::from(row.state.is_managed());
        self.by_name.insert(row.name.clone(), row);
    }

    pub fn remove(&mut self, name: &AccountName) -> Option<Row> {
        let row = self.by_name.remove(name)?;
        self.wrong -= usize::from(row.is_wrong());
        self.in_sync -= usize::from(row.state == AccountState::InSync);
        self.managed -= usize::from(row.state.is_managed());
        Some(row)
    }

    pub fn get(&self, name: &AccountName) -> Option<&Row> {
        self.by_name.get(name)
    }

    /// The keys in force of an account, unless its row says which are in its file.
    pub fn set_keys(&mut self, name: &AccountName, keys: Vec<KeyStatus>) {
        if let Some(row) = self.by_name.get_mut(name) {
            row.keys.get_or_insert(keys);
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &Row> {
        self.by_name.values()
    }

    pub fn names(&self) -> impl Iterator<Item = &AccountName> {
        self.by_name.keys()
    }

    /// Leaves only the rows that are still spoken of.
    pub fn retain(&mut self, keep: impl Fn(&Row) -> bool) {
        let gone = self.by_name.values().filter(|row| !keep(row));
        let gone: Vec<AccountName> = gone.map(|row| row.name.clone()).collect();
        for name in gone {
            self.remove(&name);
        }
    }
}

impl FromIterator<Row> for Rows {
    fn from_iter<I: IntoIterator<Item = Row>>(all: I) -> Self {
        let mut rows = Self::default();
        for row in all {
            rows.insert(row);
        }
        rows
    }
}

impl Row {
    #[must_use]
    pub fn without_access(&self) -> Self {
        Self {
            access: None,
            ..self.clone()
        }
    }

    /// What is wrong with the account, or worth knowing of it.
    pub fn problems(&self) -> Vec<Problem> {
        self.causes()
            .into_iter()
            .map(|cause| Problem::of(&self.name, cause))
            .collect()
    }

    fn causes(&self) -> Vec<Cause> {
        let mut all = Vec::new();
        if let Some(why) = &self.why
            && !why.is_only_a_reason()
        {
            all.push(why.clone());
        }
        if self.has_no_keys() && !self.buried {
            all.push(Cause::NoKeys);
        }
        let Some(access) = &self.access else {
            all.extend(self.other_causes());
            return all;
        };
        let reason = access.reason.clone().unwrap_or_default();
        match access.verdict {
            Verdict::Refused => {
                let by = access.refused_by;
                all.push(Cause::SshdRefuses { reason, by });
            }
            Verdict::Effective | Verdict::AlsoOpen if !reason.is_empty() => {
                all.push(Cause::KeysRefused { reason });
            }
            Verdict::Effective | Verdict::AlsoOpen | Verdict::Unknown => {}
        }
        let open = access.doors.iter().filter(|door| door.is_open());
        all.extend(open.cloned().map(Cause::OpenDoor));
        all.extend(self.other_causes());
        all
    }

    /// Its file is as it should be, and lets nobody in. In observe mode that is the file that was found.
    pub fn has_no_keys(&self) -> bool {
        let is_settled = matches!(self.state, AccountState::InSync | AccountState::Held);
        is_settled && self.uid.is_some() && self.keys.as_ref().is_some_and(Vec::is_empty)
    }

    fn other_causes(&self) -> impl Iterator<Item = Cause> {
        let others = self
            .other_files
            .iter()
            .filter(|other| !other.found.is_idle());
        others.cloned().map(Cause::OtherFile)
    }

    /// The status is degraded for it.
    fn is_wrong(&self) -> bool {
        let why = self.why.as_ref();
        let refused = self
            .access
            .as_ref()
            .is_some_and(|access| access.verdict == Verdict::Refused);
        refused
            || why.is_some_and(|why| !why.is_only_a_reason() && why.severity() == Severity::Error)
    }
}

impl From<&Grant> for KeyStatus {
    fn from(grant: &Grant) -> Self {
        Self {
            key: grant.into(),
            parameter: grant.parameter.clone(),
            parameter_version: grant.parameter_version,
            parameter_modified_at: grant.parameter_modified_at,
            expires_at: grant.expires_at,
        }
    }
}

impl AccountState {
    /// Each of them, at its place.
    pub const ALL: [Self; 7] = [
        Self::InSync,
        Self::Drifted,
        Self::Held,
        Self::Refused,
        Self::NoAccount,
        Self::NotListed,
        Self::Unmanaged,
    ];

    /// The file is this agent's business.
    pub fn is_managed(self) -> bool {
        matches!(
            self,
            Self::InSync | Self::Drifted | Self::Held | Self::Refused
        )
    }

    /// As the schema spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Drifted => "drifted",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::NoAccount => "no-account",
            Self::NotListed => "not-listed",
            Self::Unmanaged => "unmanaged",
        }
    }
}

impl Health {
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Stopped];

    /// As the schema spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Stopped => "stopped",
        }
    }
}

/// Rows, written as an array.
mod rows {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Row, Rows};

    pub(super) fn serialize<S: Serializer>(rows: &Rows, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(rows.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Rows, D::Error> {
        Ok(Vec::<Row>::deserialize(from)?.into_iter().collect())
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
