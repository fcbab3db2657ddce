//! What `status --json` prints: schema 2, described by `packaging/status.schema.json`.

use jiff::Timestamp;
use serde::Serialize;

use crate::model::account::AccountName;
use crate::model::desired::guard::Held;
use crate::model::desired::signed::{Signer, Taken};
use crate::model::file::other_files::OtherFile;
use crate::model::key::id::KeyId;
use crate::model::list::rejected::Rejected;
use crate::model::past::memory::Drift;
use crate::model::session::Session;
use crate::model::sshd::access::Access;
use crate::model::status::problem::{Cause, Severity};
use crate::model::status::schema::{
    AccountState, Enforcer, Health, Host, KeyStatus, Row, SCHEMA, SshdStatus, Status, UnmanagedFile,
};
use crate::model::status::told::Told;

/// The whole of it.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    schema: u32,
    version: &'a str,
    host: &'a Host,
    mode: &'a str,
    health: Health,
    problems: Vec<ProblemRow>,
    list: ListRow<'a>,
    accounts: Vec<AccountRow<'a>>,
    rejected: &'a [Rejected],
    drift: &'a Drift,
    sshd: Option<&'a SshdStatus>,
    unmanaged: Option<&'a [UnmanagedFile]>,
    unmanaged_cut: bool,
    sessions: &'a [Session],
    enforcer: &'a Enforcer,
}

#[derive(Debug, Serialize)]
struct ProblemRow {
    code: &'static str,
    severity: Severity,
    /// Where it concerns just one.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<AccountName>,
    /// Where it concerns several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<AccountName>,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListRow<'a> {
    source: Option<String>,
    digest: Option<String>,
    parameters: usize,
    fetched_at: Option<Timestamp>,
    age_seconds: Option<i64>,
    error: Option<String>,
    next_fetch_at: Option<Timestamp>,
    held: Option<HeldRow<'a>>,
    signatures: Vec<SignatureRow<'a>>,
    refused_since: Option<Timestamp>,
}

/// Of a part of the list in force.
#[derive(Debug, Serialize)]
struct SignatureRow<'a> {
    scope: &'a str,
    serial: u64,
    issued_at: Timestamp,
    expires_at: Timestamp,
    signers: &'a [Signer],
}

/// What of a list waits.
#[derive(Debug, Serialize)]
struct HeldRow<'a> {
    text: String,
    #[serde(flatten)]
    held: &'a Held,
}

#[derive(Debug, Serialize)]
struct AccountRow<'a> {
    name: &'a AccountName,
    uid: Option<u32>,
    file: Option<&'a str>,
    state: AccountState,
    reason: Option<String>,
    changed_at: Option<Timestamp>,
    removed_keys: &'a [KeyId],
    /// The command has looked at the file as it answered.
    verified: bool,
    content_digest: Option<&'a str>,
    keys: &'a [KeyStatus],
    access: Option<&'a Access>,
    other_files: &'a [OtherFile],
    writes_prevented: Option<bool>,
}

impl Status {
    /// As it is printed at `now`, with these accounts, or with all when there are none.
    pub fn document(&self, accounts: &[AccountName], now: Timestamp) -> Document<'_> {
        let rows = self.rows.values();
        let rows = rows.filter(|row| accounts.is_empty() || accounts.contains(&row.name));
        let listed = self.list.listed.as_ref();
        let list = ListRow {
            source: self.list.source.clone(),
            digest: listed
                .map(|listed| &listed.digest)
                .or(self.list.in_force.as_ref())
                .cloned(),
            parameters: listed.map_or(0, |listed| listed.parameters),
            fetched_at: self.list.confirmed_at,
            age_seconds: self.list.age(now),
            error: self.list.error.clone(),
            next_fetch_at: self.list.next_fetch_at,
            held: self.list.held.as_ref().map(|held| HeldRow {
                text: held.to_string(),
                held,
            }),
            signatures: self.list.signatures().map(SignatureRow::from).collect(),
            refused_since: self.list.refused_since,
        };
        Document {
            schema: SCHEMA,
            version: &self.version,
            host: &self.host,
            mode: &self.mode,
            health: self.health(),
            problems: self
                .told_of(accounts)
                .iter()
                .map(ProblemRow::from)
                .collect(),
            list,
            accounts: rows.map(AccountRow::from).collect(),
            rejected: &self.rejected,
            drift: &self.drift,
            sshd: self.sshd.as_ref(),
            unmanaged: self.unmanaged.as_deref(),
            unmanaged_cut: self.unmanaged_cut,
            sessions: &self.sessions,
            enforcer: &self.enforcer,
        }
    }
}

impl From<&Told> for ProblemRow {
    fn from(told: &Told) -> Self {
        let (account, accounts) = match &told.accounts[..] {
            [one] => (Some(one.clone()), Vec::new()),
            several => (None, several.to_vec()),
        };
        Self {
            code: told.cause.code(),
            severity: told.cause.severity(),
            account,
            accounts,
            text: told.text(),
            hint: told.hint(),
        }
    }
}

impl<'a> From<(&'a String, &'a Taken)> for SignatureRow<'a> {
    fn from((scope, taken): (&'a String, &'a Taken)) -> Self {
        Self {
            scope,
            serial: taken.serial,
            issued_at: taken.issued,
            expires_at: taken.expires,
            signers: &taken.signers,
        }
    }
}

impl<'a> From<&'a Row> for AccountRow<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            name: &row.name,
            uid: row.uid,
            file: row.file.as_deref(),
            state: row.state,
            reason: row.why.as_ref().map(Cause::reason),
            changed_at: row.changed_at,
            removed_keys: &row.removed_keys,
            verified: row.verified,
            content_digest: row.content_digest.as_deref(),
            keys: row.keys.as_deref().unwrap_or_default(),
            access: row.access.as_deref(),
            other_files: &row.other_files,
            writes_prevented: row.writes_prevented,
        }
    }
}
