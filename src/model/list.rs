//! The approved list as it was fetched: raw values with where each came from. Judging is `desired`'s.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::account::AccountName;
use crate::model::desired::Rejected;
use crate::model::secret;

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
        entries.sort();
        Self { schema: SCHEMA, source, fetched_at, entries, unusable, instance: None }
    }

    /// `sha256:…` over all that the list says. Two fetches of the same content have the same digest,
    /// whenever they happened.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for entry in &self.entries {
            let version = entry.version.map(|version| version.to_string()).unwrap_or_default();
            for field in [entry.account.as_str(), &entry.parameter, &version, &entry.value] {
                hash.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(field);
            }
        }
        format!("sha256:{:x}", hash.finalize())
    }

    /// True when `other` says the same, whenever it was fetched.
    pub fn same_content(&self, other: &Self) -> bool {
        self.schema == other.schema
            && self.source == other.source
            && self.entries == other.entries
            && self.unusable == other.unusable
            && self.instance == other.instance
    }
}

/// What `fetch.json` holds: the outcome of the last attempt, and what came before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchReport {
    /// Version of this format.
    pub schema: u32,
    /// Where the list comes from.
    pub source: String,
    /// Attempts so far.
    pub attempts: u64,
    /// When the last attempt began; a `sync` waits for one that began after it asked.
    pub began: Option<Timestamp>,
    /// When it ended.
    pub last_attempt: Option<Timestamp>,
    /// When the last good attempt ended.
    pub last_success: Option<Timestamp>,
    /// Why the last attempt failed, `None` when it did not.
    pub error: Option<String>,
    /// What a person can do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Digest of the last good list.
    pub digest: Option<String>,
    /// How many good attempts in a row gave that list, those that came early not counted.
    pub confirmations: u32,
    /// When the last of them was counted.
    #[serde(default)]
    pub counted_at: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_attempt: Option<Timestamp>,
}

impl FetchReport {
    /// This report once an attempt begins.
    #[must_use]
    pub fn begun(&self, at: Timestamp) -> Self {
        Self { began: Some(at), ..self.clone() }
    }

    /// This report after an attempt that gave a list with `digest`. An attempt that somebody asked for comes before `every`
    /// is over and confirms nothing: a source that answers wrongly for a moment does so however often it is asked.
    #[must_use]
    pub fn succeeded(&self, source: &str, digest: String, every: Duration, at: Timestamp) -> Self {
        let same = self.digest.as_ref() == Some(&digest);
        // Polls are up to a tenth early; a clock that was set back is no reason to wait.
        let since = self.counted_at.and_then(|counted| Duration::try_from(at.duration_since(counted)).ok());
        let early = since.is_some_and(|since| since < every / 2);
        let (confirmations, counted_at) = match (same, early) {
            (true, true) => (self.confirmations, self.counted_at),
            (true, false) => (self.confirmations.saturating_add(1), Some(at)),
            (false, _) => (1, Some(at)),
        };
        Self {
            confirmations,
            counted_at,
            digest: Some(digest),
            last_success: Some(at),
            ..self.attempted(source, at)
        }
    }

    /// This report after an attempt that gave nothing. The count of confirmations stays: a failure is no list.
    #[must_use]
    pub fn failed(&self, source: &str, error: String, hint: Option<String>, at: Timestamp) -> Self {
        Self { error: Some(error), hint, ..self.attempted(source, at) }
    }

    fn attempted(&self, source: &str, at: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            source: source.to_owned(),
            attempts: self.attempts + 1,
            last_attempt: Some(at),
            error: None,
            hint: None,
            next_attempt: None,
            ..self.clone()
        }
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
            ApprovedList::new("s".into(), Timestamp::from_second(at).unwrap(), entries, Vec::new())
        };
        let one = list(1, vec![entry("a", "x"), entry("b", "y")]);
        assert_eq!(one.digest(), list(2, vec![entry("b", "y"), entry("a", "x")]).digest());
        assert_ne!(one.digest(), list(1, vec![entry("a", "x"), entry("b", "z")]).digest());
        assert!(one.same_content(&list(9, vec![entry("b", "y"), entry("a", "x")])));
    }

    #[test]
    fn confirmations_count_equal_lists_in_a_row() {
        let at = |minute: i64| Timestamp::from_second(60 * minute).unwrap();
        let ok = |report: &FetchReport, digest: &str, minute| {
            report.succeeded("s", digest.into(), Duration::from_mins(1), at(minute))
        };
        let report = ok(&ok(&FetchReport::default(), "d1", 0), "d1", 1);
        let report = report.failed("s", "down".into(), None, at(2));
        assert_eq!((report.confirmations, report.error.is_some()), (2, true));
        let report = ok(&report, "d1", 3);
        assert_eq!((report.confirmations, report.error.clone(), report.attempts), (3, None, 4));
        assert_eq!(ok(&ok(&report, "d2", 4), "d1", 5).confirmations, 1);
        assert_eq!(ok(&ok(&report, "d1", 3), "d1", 3).confirmations, 3, "asked again at once");
        assert_eq!(ok(&report, "d1", 1).confirmations, 4, "the clock was set back");
    }
}
