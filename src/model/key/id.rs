//! A key as people know it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::key::grant::Grant;
use crate::model::key::lenient::FoundKey;

/// Fingerprint, type and comment of a key, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyId {
    /// `SHA256:…`.
    pub fingerprint: String,
    #[serde(rename = "type", default)]
    pub algorithm: String,
    /// Printable ASCII, no more of it than a person reads.
    pub comment: String,
}

impl From<&FoundKey> for KeyId {
    fn from(key: &FoundKey) -> Self {
        Self {
            fingerprint: key.fingerprint.clone(),
            algorithm: key.algorithm.clone(),
            comment: key.comment(),
        }
    }
}

impl From<&Grant> for KeyId {
    fn from(grant: &Grant) -> Self {
        Self {
            fingerprint: grant.fingerprint.clone(),
            algorithm: grant.algorithm.clone(),
            comment: grant.comment.clone(),
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)
    }
}
