//! Which OpenSSH understands what: a line with one option it does not know is dropped whole.
//!
//! The release notes of OpenSSH say what came when; `auth-options.c: sshauthopt_parse` is where it is read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A release of OpenSSH; the `p1` of the portable ones says nothing about what is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(u16, u16);

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version of OpenSSH such as `8.7`")]
pub struct NoVersion;

/// What an OpenSSH is too old for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs OpenSSH {needs}, and here it is {has}, which would drop the whole line")]
pub struct TooOld {
    /// An option or a key type, for a person.
    pub what: String,
    /// The first release that understands it.
    pub needs: Version,
    /// The release that is installed.
    pub has: Version,
}

/// `expiry-time="…Z"`, a time in UTC.
pub const UTC_EXPIRY: Version = Version(9, 1);

/// What lines are written for where sshd never said its version: this one has every option there is, and a line for it is
/// one that every release takes which has the line's options.
pub const UNTOLD: Version = Version(9, 0);

impl Version {
    /// The release in what `sshd -V` or `ssh -V` says. An sshd before 9.2 takes `-V` for a mistake, and names its
    /// version in the complaint.
    pub fn find(said: &str) -> Option<Self> {
        let (_, rest) = said.split_once("OpenSSH_")?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    }

    /// The first release that understands the option `name`; `None` for those that every living one has.
    pub fn of_option(name: &str) -> Option<Self> {
        Some(match name {
            "restrict" | "agent-forwarding" | "port-forwarding" | "pty" | "user-rc"
            | "x11-forwarding" => Self(7, 2),
            "expiry-time" => Self(7, 7),
            "permitlisten" => Self(7, 8),
            "touch-required" | "no-touch-required" => Self(8, 2),
            "verify-required" | "no-verify-required" => Self(8, 4),
            _ => return None,
        })
    }

    /// The first release that has keys of the type `algorithm`.
    pub fn of_key_type(algorithm: &str) -> Option<Self> {
        match algorithm {
            "sk-ssh-ed25519@openssh.com" | "sk-ecdsa-sha2-nistp256@openssh.com" => Some(Self(8, 2)),
            _ => None,
        }
    }
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let number = |digits: &str| digits.parse().map_err(|_| NoVersion);
        Ok(Self(number(major)?, number(minor)?))
    }
}

impl TryFrom<String> for Version {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_a_version_is_read() {
        let check = |said: &str, expected: Option<&str>| {
            assert_eq!(
                Version::find(said).map(|v| v.to_string()).as_deref(),
                expected,
                "{said}"
            );
        };
        check("OpenSSH_9.2, OpenSSL 3.0.19 27 Jan 2026\n", Some("9.2"));
        check(
            "unknown option -- V\nOpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w\nusage: sshd",
            Some("8.4"),
        );
        check(
            "sshd: illegal option -- V\nOpenSSH_7.4p1, OpenSSL 1.0.2k-fips",
            Some("7.4"),
        );
        check("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5.1", Some("10.0"));
        check("OpenSSH_10", Some("10.0"));
        check("Dropbear v2022.83", None);
        check("OpenSSH_for_Windows_9.5p1", None);
        check("", None);
        assert!(Version(8, 10) > Version(8, 9) && Version(10, 0) > Version(9, 9));
    }

    #[test]
    fn where_no_version_is_known_no_option_is_refused_for_it() {
        let names = [
            "restrict",
            "expiry-time",
            "permitlisten",
            "no-touch-required",
            "verify-required",
        ];
        let needed = names
            .into_iter()
            .map(|name| Version::of_option(name).unwrap());
        let types = ["sk-ssh-ed25519@openssh.com"].map(|name| Version::of_key_type(name).unwrap());
        assert!(needed.chain(types).all(|needs| needs <= UNTOLD) && UNTOLD < UTC_EXPIRY);
    }
}
