//! The files that sshd reads keys of a managed account from besides the managed one: which of them this program may take
//! away, and which hold nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::account::Account;
use crate::model::escape::escaped;
use crate::model::file::wanted::Kind;
use crate::model::key::id::KeyId;
use crate::model::key::lenient::{FoundKeys, unclear};
use crate::model::location::Location;
use crate::model::sshd::effective;

/// The other files of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherFiles {
    /// Those in its home, which the account itself can make at any moment.
    pub in_home: Vec<Location>,
    /// Those that are never taken away: they are elsewhere, where it was root who meant them, or sshd does not read the
    /// managed file, and these are what lets people in.
    pub elsewhere: Vec<PathBuf>,
}

impl OtherFiles {
    /// What the `entries` of sshd's `AuthorizedKeysFile` are for `account`, whose managed file is `managed`.
    pub fn of(entries: &str, account: &Account, managed: &Path) -> Self {
        let mut files = effective::files(entries, account);
        let read = files.iter().position(|path| path == managed);
        if let Some(at) = read {
            files.remove(at);
        }
        let mut all = Self::default();
        for path in files {
            match Location::in_home(&path, account) {
                Some(location) if read.is_some() => all.in_home.push(location),
                _ => all.elsewhere.push(path),
            }
        }
        all
    }
}

/// A file that sshd reads besides the managed one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OtherFile {
    pub file: String,
    /// What has its name; a link, or something that is no directory of the account on the way to it, leads to the keys.
    #[serde(default, skip_serializing_if = "Kind::is_file")]
    pub kind: Kind,
    /// What is in it; its error also says why it is still there, where that is not by intent.
    #[serde(flatten)]
    pub found: InFile,
}

/// The keys in a file that is not the managed one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InFile {
    pub keys: Vec<KeyId>,
    /// Keys that are not listed, as there are too many.
    #[serde(default)]
    pub more: usize,
    /// Lines that may be keys: this program does not understand them, and sshd may.
    #[serde(default)]
    pub unclear: usize,
    /// Why it could not be looked at.
    #[serde(default)]
    pub error: Option<String>,
}

impl InFile {
    /// What the bytes of an `authorized_keys` file are; of very many keys only so many are listed.
    pub fn read(content: &[u8]) -> Self {
        const KEYS: usize = 50;
        let found = FoundKeys::read(content);
        let mut keys: Vec<KeyId> = Vec::new();
        let mut more = 0;
        for key in &found.keys {
            if keys
                .iter()
                .any(|known| known.fingerprint == key.fingerprint)
            {
                continue;
            }
            if keys.len() < KEYS {
                keys.push(key.into());
            } else {
                more += 1;
            }
        }
        Self {
            keys,
            more,
            unclear: found.unclear,
            error: None,
        }
    }

    /// Nothing but why it could not be looked at, or is still there.
    pub fn unread(error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    /// True when it lets nobody in.
    pub fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.unclear == 0
    }

    /// The keys in words, no more of them than a person reads; empty when there are none.
    pub fn in_words(&self) -> String {
        const SHOWN: usize = 5;
        let shown = self.keys.iter().take(SHOWN).map(KeyId::to_string);
        let shown: Vec<String> = shown.collect();
        let more = self.keys.len().saturating_sub(SHOWN) + self.more;
        let mut words = Vec::new();
        if !shown.is_empty() {
            words.push(shown.join(", "));
        }
        if more > 0 {
            words.push(format!("{more} more"));
        }
        if self.unclear > 0 {
            words.push(unclear(self.unclear));
        }
        words.join(" and ")
    }
}

impl OtherFile {
    pub fn new(file: &Path, found: InFile) -> Self {
        Self {
            file: file.display().to_string(),
            kind: Kind::File,
            found,
        }
    }
}

impl fmt::Display for OtherFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", escaped(&self.file))?;
        if self.kind != Kind::File {
            write!(f, " by {}", self.kind)?;
        }
        match self.found.in_words() {
            words if words.is_empty() => Ok(()),
            words => write!(f, " with {words}"),
        }
    }
}

/// True for a file of blank lines and comments. What else stands in it, this sshd or another may take for a key.
pub fn holds_nothing(content: &[u8]) -> bool {
    content.split(|byte| *byte == b'\n').all(|line| {
        // `auth2-pubkeyfile.c: auth_check_authkeys_file`.
        let start = line.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
        start.is_none_or(|start| line[start] == b'#' || &line[start..] == b"\r")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sshd::effective::DEFAULT;

    #[test]
    fn only_what_is_in_the_home_and_beside_the_managed_file_is_drift() {
        let account = Account {
            name: "bob".try_into().unwrap(),
            uid: 1000,
            gid: 1000,
            home: "/home/bob".into(),
        };
        let check = |entries: &str, in_home: &[&str], elsewhere: &[&str]| {
            let all = OtherFiles::of(
                entries,
                &account,
                Path::new("/home/bob/.ssh/authorized_keys"),
            );
            let found: Vec<_> = all
                .in_home
                .iter()
                .map(|l| l.path.to_str().unwrap())
                .collect();
            assert_eq!(found, in_home, "{entries}");
            assert_eq!(
                all.elsewhere,
                elsewhere.iter().map(PathBuf::from).collect::<Vec<_>>(),
                "{entries}"
            );
        };
        check(DEFAULT, &["/home/bob/.ssh/authorized_keys2"], &[]);
        check(
            "%h/.ssh//authorized_keys /home/%u/.ssh/./authorized_keys none",
            &[],
            &[],
        );
        check(
            ".ssh/authorized_keys /etc/keys/%u /etc/all ../alice/.ssh/authorized_keys x/%u",
            &["/home/bob/x/bob"],
            &[
                "/etc/keys/bob",
                "/etc/all",
                "/home/bob/../alice/.ssh/authorized_keys",
            ],
        );
        check(
            "/etc/keys/%u .ssh/other",
            &[],
            &["/etc/keys/bob", "/home/bob/.ssh/other"],
        );
        check("", &[], &[]);
    }

    #[test]
    fn comments_are_nothing_and_what_is_no_key_here_may_be_one_elsewhere() {
        for (content, expected) in [
            ("", true),
            ("\n\n # x\n\t#\r\n", true),
            ("ssh-ed25519 AAAA", false),
            ("x", false),
            ("\u{c}# ssh-ed25519 AAAA", false),
            ("\r", true),
            ("#\nfuture-key@example.org AAAA\n", false),
        ] {
            assert_eq!(holds_nothing(content.as_bytes()), expected, "{content:?}");
        }
    }
}
