//! A key as people know it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::escape::escaped;
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

/// The name first: that is what a person looks for.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.comment.as_str() {
            "" => f.write_str("(no name)")?,
            name => f.write_str(&escaped(name))?,
        }
        write!(f, " {}", escaped(&self.fingerprint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_with_its_name_first() {
        let check = |comment: &str, expected: &str| {
            let key = KeyId {
                fingerprint: "SHA256:x".to_owned(),
                algorithm: "ssh-ed25519".to_owned(),
                comment: comment.to_owned(),
            };
            assert_eq!(key.to_string(), expected);
        };
        check("alice@laptop", "alice@laptop SHA256:x");
        check("", "(no name) SHA256:x");
        check("a\u{1b}[2J", "a\\u{1b}[2J SHA256:x");
    }
}
