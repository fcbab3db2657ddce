//! One key granted to one account.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::key::blob::fingerprint;
use crate::model::sorting;

/// One key granted to one account, with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// The canonical line, without `\n`.
    pub line: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Key type.
    #[serde(rename = "type")]
    pub algorithm: String,
    /// Printable ASCII.
    pub comment: String,
    /// The parameter or file it stands in.
    pub parameter: String,
    /// The parameter's version.
    pub parameter_version: Option<u64>,
    /// When that parameter was last changed, where the source knows.
    #[serde(default)]
    pub parameter_modified_at: Option<Timestamp>,
    /// Line in the value, from 1.
    pub parameter_line: usize,
    /// When the key leaves the file.
    pub expires_at: Option<Timestamp>,
}

/// The keys of each account that the list speaks of.
pub type Grants = BTreeMap<AccountName, Vec<Grant>>;

/// The same, borrowed.
pub type GrantsOf<'a> = BTreeMap<&'a AccountName, &'a [Grant]>;

/// The lines of one account: its grants that are good at `now`, and the break-glass keys, which win over a
/// line with the same key. An expired line says nothing.
pub fn with_break_glass<'a>(
    grants: &'a [Grant],
    break_glass: &'a [Grant],
    now: Timestamp,
) -> Vec<&'a Grant> {
    let good = |grants: &'a [Grant]| grants.iter().filter(move |grant| grant.is_good_at(now));
    let same = |grant: &&Grant| good(break_glass).any(|kept| kept.fingerprint == grant.fingerprint);
    let mut all: Vec<&Grant> = good(break_glass)
        .chain(good(grants).filter(|g| !same(g)))
        .collect();
    sort_by_line(&mut all);
    all
}

/// As they stand in a file.
pub fn sort_by_line(grants: &mut [impl Borrow<Grant>]) {
    sorting::sort_by(grants, |a, b| a.borrow().line.cmp(&b.borrow().line));
}

impl Grant {
    /// One of no parameter, as tests need it.
    #[cfg(test)]
    pub fn of_line(line: impl Into<String>, fingerprint: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            fingerprint: fingerprint.into(),
            algorithm: String::new(),
            comment: String::new(),
            parameter: String::new(),
            parameter_version: None,
            parameter_modified_at: None,
            parameter_line: 1,
            expires_at: None,
        }
    }

    /// False from the second of its expiry-time on.
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }

    /// The line without its comment: what sshd acts on.
    pub fn authorises(&self) -> &str {
        self.line
            .strip_suffix(&self.comment)
            .unwrap_or(&self.line)
            .trim_end()
    }

    /// The key itself, base64: the word that has the fingerprint, whatever else an account wrote into the line.
    pub fn body(&self) -> Option<&str> {
        let mut words = self.line.split([' ', '\t']);
        words.find(|word| {
            // As every blob begins.
            let blob = word.starts_with("AAAA").then(|| Base64::decode_vec(word));
            matches!(blob, Some(Ok(blob)) if fingerprint(&blob) == self.fingerprint)
        })
    }

    /// Where it stands: parameter and line.
    pub fn place(&self) -> (&str, usize) {
        (&self.parameter, self.parameter_line)
    }
}
