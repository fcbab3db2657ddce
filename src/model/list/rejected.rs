//! What of a list was not taken.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rejected {
    /// The parameter or file.
    pub parameter: String,
    /// The parameter's version.
    pub parameter_version: Option<u64>,
    /// Line in the value, from 1; 0 for the value as a whole.
    pub line: usize,
    /// What is wrong, for a person.
    pub reason: String,
}

/// The reason of a value that holds a private key.
pub const PRIVATE_KEY: &str = "a PRIVATE key: nothing of this value is used; delete it and replace that key everywhere, it is \
     known to all who can read the list";

impl Rejected {
    pub fn is_private_key(&self) -> bool {
        self.reason == PRIVATE_KEY
    }

    /// `/k/alice version 3 line 2`; the value as a whole has no line.
    pub fn place(&self) -> String {
        let mut place = self.parameter.clone();
        if let Some(version) = self.parameter_version {
            let _ = write!(place, " version {version}");
        }
        if self.line > 0 {
            let _ = write!(place, " line {}", self.line);
        }
        place
    }
}
