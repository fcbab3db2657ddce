//! What is in force on this host, kept across restarts: the last-known-good decision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::config::Accounts;
use crate::model::desired::{Desired, Grant, Grants};

/// The version of `enforced.json`.
pub const SCHEMA: u32 = 1;

/// What `enforced.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Digest of the list these keys come from; `None` before the first list.
    pub list: Option<String>,
    /// Keys of the break-glass file when it could last be read.
    pub break_glass: Vec<Grant>,
    /// Every account that is managed. One that leaves the list stays here, without keys.
    pub accounts: BTreeMap<AccountName, Account>,
}

/// One managed account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its keys.
    pub grants: Vec<Grant>,
    /// Digest of the content its file last had when it was in sync; `None` while it never was.
    pub synced: Option<String>,
}

impl Enforced {
    /// The keys in force.
    pub fn grants(&self) -> Grants {
        self.accounts.iter().map(|(name, account)| (name.clone(), account.grants.clone())).collect()
    }

    /// Puts a list into force. `manages` says which of its accounts are managed. A managed account that the list
    /// no longer names has no keys; one that is no longer managed is let go, its file as it is.
    pub fn apply(&mut self, digest: &str, desired: &Desired, manages: impl Fn(&AccountName) -> bool) {
        self.schema = SCHEMA;
        self.list = Some(digest.to_owned());
        self.accounts.retain(|name, account| {
            account.grants = desired.grants.get(name).cloned().unwrap_or_default();
            manages(name)
        });
        for (name, grants) in desired.grants.iter().filter(|(name, _)| manages(name)) {
            self.accounts.entry(name.clone()).or_default().grants.clone_from(grants);
        }
    }

    /// Names whose existence matters: those of the list, those in force, and those that the config names.
    pub fn names<'a>(&'a self, desired: &'a Desired, accounts: &'a Accounts) -> Vec<&'a AccountName> {
        let mut all: Vec<_> =
            self.accounts.keys().chain(desired.grants.keys()).chain(accounts.named()).collect();
        all.sort();
        all.dedup();
        all
    }
}
