//! Who exists on this host, as the account database says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use crate::model::account::{Account, AccountName};

/// The answer for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(Account),
    Unknown,
    /// The database did not answer, so nothing is known.
    Failed(String),
}

/// What the account database said, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    pub accounts: BTreeMap<AccountName, Lookup>,
    /// Homes that accounts with different uids share, with two of their names.
    pub shared_homes: HashMap<PathBuf, (String, String)>,
    /// Those that only a service knows so. While it says nothing, what it said last counts.
    pub distant: BTreeSet<AccountName>,
    /// Those that were there a moment ago and are denied now: as they were, for a while.
    pub vanished: BTreeSet<AccountName>,
    /// Below this a uid belongs to the system (`login.defs(5)`, `UID_MIN`).
    pub uid_min: u32,
}

impl People {
    /// An account that exists.
    pub fn account(&self, name: &AccountName) -> Option<&Account> {
        match self.accounts.get(name) {
            Some(Lookup::Found(account)) => Some(account),
            _ => None,
        }
    }

    /// Every account that exists.
    pub fn found(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().filter_map(|lookup| match lookup {
            Lookup::Found(account) => Some(account),
            _ => None,
        })
    }

    pub fn lookup(&self, name: &AccountName) -> Option<&Lookup> {
        self.accounts.get(name)
    }
}
