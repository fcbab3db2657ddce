//! How large a list may be, wherever it comes from.
//!
//! Parameter Store holds whatever people put there, and what is stored of it was written without root. A list beyond one of
//! these is no list: the fetcher stores none of it, the enforcer takes none of it. Real ones are far below; at the bounds
//! the enforcer, run by its unit, stays within its `MemoryMax=` even when every key of the list is another one.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Excess {
    Bytes,
    Values,
    Lines,
    LinesOfOne,
    Name,
}

/// Bytes of all values, and of a parameter's name once for each of its lines, since each key is kept with where it stands.
/// No more is read of the stored list either. 10,000 accounts with 20 keys each take 25 MB.
pub const BYTES: usize = 32 << 20;

/// Parameters, or files, each counted once for every account it serves. An AWS account and region holds 10,000 standard
/// parameters.
pub const VALUES: usize = 10_000;

/// Lines of all values.
const LINES: usize = 200_000;

/// Lines of one account, whose file is made and compared as a whole.
const LINES_OF_ONE: usize = 40_000;

/// Bytes of a name, or of what is said of one: `PATH_MAX` of Linux; in Parameter Store names are shorter.
const NAME: usize = 4096;

/// What a parameter holds, in bytes: "Standard: 4 KB", "Advanced: 8 KB" (Systems Manager guide, parameter tiers).
pub const STANDARD: usize = 4 << 10;
pub const ADVANCED: usize = 8 << 10;

/// What has been counted so far.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: usize,
    values: usize,
    lines: usize,
}

impl Tally {
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), Excess> {
        let lines = lines_of(value);
        self.values += 1;
        self.lines += lines;
        self.bytes += value.len() + (lines + 1) * name.len();
        if name.len() > NAME {
            Err(Excess::Name)
        } else if self.values > VALUES {
            Err(Excess::Values)
        } else if self.lines > LINES {
            Err(Excess::Lines)
        } else if self.bytes > BYTES {
            Err(Excess::Bytes)
        } else {
            Ok(())
        }
    }
}

/// Counts the lines of each account, once all have been counted together.
pub fn check_accounts<'a>(
    values: impl Iterator<Item = (&'a AccountName, &'a str)>,
) -> Result<(), Excess> {
    let mut lines: BTreeMap<&AccountName, usize> = BTreeMap::new();
    for (account, value) in values {
        *lines.entry(account).or_default() += lines_of(value);
    }
    if lines.values().any(|lines| *lines > LINES_OF_ONE) {
        return Err(Excess::LinesOfOne);
    }
    Ok(())
}

fn lines_of(value: &str) -> usize {
    value.lines().count()
}

impl Excess {
    pub const HINT: &str = "split the hierarchy: a path should hold the keys of one kind of host";
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => write!(f, "the list has more than {} MiB", BYTES >> 20),
            Self::Values => write!(f, "the list has more than {VALUES} parameters or files"),
            Self::Lines => write!(f, "the list has more than {LINES} lines"),
            Self::LinesOfOne => write!(
                f,
                "the list has more than {LINES_OF_ONE} lines for one account"
            ),
            Self::Name => write!(f, "the list has a name of more than {NAME} bytes"),
        }
    }
}

impl std::error::Error for Excess {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_the_last_that_is_taken() {
        let check = |count: usize, name: usize, value: &str, expected: Excess| {
            let (mut tally, name) = (Tally::default(), "n".repeat(name));
            for _ in 0..count {
                assert_eq!(tally.add(&name, value), Ok(()), "{expected}");
            }
            assert_eq!(tally.add(&name, value), Err(expected));
        };
        check(VALUES, 10, "x", Excess::Values);
        check(25, 10, &"\n".repeat(LINES / 25), Excess::Lines);
        check(32, 0, &"x".repeat(BYTES / 32), Excess::Bytes);
        check(0, NAME + 1, "", Excess::Name);
        // A long name counts with each of its lines.
        check(4, NAME, &"\n".repeat(BYTES / NAME / 4 - 2), Excess::Bytes);
        let (alice, bob) = ("alice".try_into().unwrap(), "bob".try_into().unwrap());
        let half = "\n".repeat(LINES_OF_ONE / 2);
        let check = |accounts: [&AccountName; 3]| {
            check_accounts(accounts.into_iter().map(|account| (account, half.as_str())))
        };
        assert_eq!(check([&alice, &bob, &alice]), Ok(()));
        assert_eq!(check([&alice, &alice, &alice]), Err(Excess::LinesOfOne));
    }
}
