//! The approved list as it was fetched: raw values with where each came from. Judging is `desired`'s.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::key::secret;
use crate::model::list::bounds::{Excess, Tally, check_accounts};
use crate::model::list::rejected::Rejected;
use crate::model::list::statement::Scope;
use crate::model::sha256::Sha256;
use crate::model::sorting;

/// What `approved.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedList {
    /// Version of this format.
    pub schema: u32,
    /// Where it came from, such as `directory:/etc/authorized-keys-agent/approved`.
    pub source: String,
    /// When this content was first fetched.
    pub fetched_at: Timestamp,
    /// All values, sorted by account and parameter.
    pub entries: Vec<Entry>,
    /// What was found and serves no account.
    #[serde(default)]
    pub unusable: Vec<Rejected>,
    /// The EC2 instance it was fetched for, where that is known: a clone of the disk has another.
    #[serde(default)]
    pub instance: Option<String>,
    /// The signatures, as they were stored, where the config asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed: Vec<Signed>,
}

/// The signature of a part of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signed {
    /// What it is for.
    pub scope: Scope,
    /// The [statement](crate::model::list::statement::Statement) and signatures of it, exactly as stored.
    pub text: String,
    /// The version of the parameter; a file has none.
    #[serde(default)]
    pub version: Option<u64>,
    /// When it was last changed, where the source knows.
    #[serde(default)]
    pub last_modified: Option<Timestamp>,
    /// What it covers besides the entries, since it serves no account: names and values, sorted.
    #[serde(default)]
    pub others: Vec<(String, String)>,
}

/// One value of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Whom it is for.
    pub account: AccountName,
    /// The parameter's name, or the file's path.
    pub parameter: String,
    /// The parameter's version; a file has none.
    #[serde(default)]
    pub version: Option<u64>,
    /// When the value was last changed, where the source knows.
    #[serde(default)]
    pub last_modified: Option<Timestamp>,
    /// authorized_keys lines, exactly as stored; a StringList is no list here, since a comma separates options.
    pub value: String,
}

/// The version of `approved.json` that this program writes and reads.
pub const SCHEMA: u32 = 1;

impl ApprovedList {
    /// A list of `entries`, in their one order. A private key among the values is [withheld](secret::withheld):
    /// what makes a list puts it on disk.
    pub fn new(
        source: String,
        fetched_at: Timestamp,
        mut entries: Vec<Entry>,
        unusable: Vec<Rejected>,
    ) -> Self {
        for entry in &mut entries {
            entry.value = secret::withheld(std::mem::take(&mut entry.value));
        }
        sorting::sort(&mut entries);
        Self {
            schema: SCHEMA,
            source,
            fetched_at,
            entries,
            unusable,
            instance: None,
            signed: Vec::new(),
        }
    }

    /// `sha256:…` over all that the list says. Two fetches of the same content have the same digest,
    /// whenever they happened.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for entry in &self.entries {
            let version = entry
                .version
                .map(|version| version.to_string())
                .unwrap_or_default();
            for field in [
                entry.account.as_str(),
                &entry.parameter,
                &version,
                &entry.value,
            ] {
                hash.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(field);
            }
        }
        // The same values with another signature may be no list.
        for signed in &self.signed {
            hash.update(&signed.text);
        }
        format!("sha256:{:x}", hash.finalize())
    }

    /// Whether it is as small as every real list; what the fetcher leaves was written without root.
    pub fn check_bounds(&self) -> Result<(), Excess> {
        let mut tally = Tally::default();
        tally.add(&self.source, "")?;
        for rejected in &self.unusable {
            tally.add(&rejected.parameter, "")?;
            tally.add(&rejected.reason, "")?;
        }
        let mut tally = Tally::default();
        for entry in &self.entries {
            tally.add(&entry.parameter, &entry.value)?;
        }
        let entries = self.entries.iter();
        for signed in &self.signed {
            tally.add("", &signed.text)?;
            for (name, value) in &signed.others {
                tally.add(name, value)?;
            }
        }
        check_accounts(entries.map(|entry| (&entry.account, entry.value.as_str())))
    }

    /// True when `other` says the same, whenever it was fetched.
    pub fn same_content(&self, other: &Self) -> bool {
        self.schema == other.schema
            && self.source == other.source
            && self.entries == other.entries
            && self.unusable == other.unusable
            && self.instance == other.instance
            && self.signed == other.signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(account: &str, value: &str) -> Entry {
        Entry {
            account: account.try_into().unwrap(),
            parameter: format!("/k/{account}"),
            version: Some(1),
            last_modified: None,
            value: value.to_owned(),
        }
    }

    #[test]
    fn the_digest_is_of_the_content_alone() {
        let list = |at, entries| {
            ApprovedList::new(
                "s".into(),
                Timestamp::from_second(at).unwrap(),
                entries,
                Vec::new(),
            )
        };
        let one = list(1, vec![entry("a", "x"), entry("b", "y")]);
        assert_eq!(
            one.digest(),
            list(2, vec![entry("b", "y"), entry("a", "x")]).digest()
        );
        assert_ne!(
            one.digest(),
            list(1, vec![entry("a", "x"), entry("b", "z")]).digest()
        );
        assert!(one.same_content(&list(9, vec![entry("b", "y"), entry("a", "x")])));
    }
}
