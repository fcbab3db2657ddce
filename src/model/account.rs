//! Account names, checked once at the border.
//!
//! A name comes from the list or the config and ends in a path and in NSS queries, so what passes
//! here can be neither: no `/`, no `..`, no leading `-`, no blank or control byte.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A login name that is safe to use as one path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

/// Why a text is no account name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{}` is not an account name (letters, digits, `_`, `.`, `@`, `+`, `$` and inner `-`, at most {MAX_BYTES} bytes)",
    .0.escape_debug()
)]
pub struct BadAccountName(pub String);

/// `LOGIN_NAME_MAX` of Linux without its NUL.
const MAX_BYTES: usize = 255;

impl AccountName {
    /// The name as NSS knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AccountName {
    type Error = BadAccountName;

    fn try_from(name: String) -> Result<Self, BadAccountName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.@+$-".contains(&b);
        let starts_well = name.bytes().next().is_some_and(|b| b != b'-' && b != b'.');
        if starts_well && name.len() <= MAX_BYTES && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(BadAccountName(name))
        }
    }
}

impl TryFrom<&str> for AccountName {
    type Error = BadAccountName;

    fn try_from(name: &str) -> Result<Self, BadAccountName> {
        Self::try_from(name.to_owned())
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}

impl Borrow<str> for AccountName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What NSS says of an account, as far as this program needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: AccountName,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory, exactly as the database has it.
    pub home: std::path::PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_one_safe_path_component() {
        for good in [
            "ec2-user",
            "root",
            "_apt",
            "j.doe",
            "svc$",
            "jane@corp.example",
            "a",
        ] {
            assert!(AccountName::try_from(good).is_ok(), "{good}");
        }
        for bad in [
            "", ".", "..", ".ssh", "-rf", "a/b", "a b", "a\n", "a\0", "ü", "a:b", "*",
        ] {
            assert!(AccountName::try_from(bad).is_err(), "{bad}");
        }
        assert!(AccountName::try_from("a".repeat(256)).is_err());
    }
}
