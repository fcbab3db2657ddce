//! What of a list was not taken.

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
