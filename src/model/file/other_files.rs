//! The files that sshd reads keys of a managed account from besides the managed one: which of them this program may take
//! away, and which hold nothing.

use std::path::{Path, PathBuf};

use crate::model::account::Account;
use crate::model::location::Location;
use crate::model::sshd::effective;

/// `AuthorizedKeysFile` where nobody said otherwise (`servconf.c: fill_default_server_options`): Debian and Ubuntu leave
/// it so.
pub const DEFAULT: &str = ".ssh/authorized_keys .ssh/authorized_keys2";

/// The other files of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Those in its home, which the account itself can make at any moment.
    pub in_home: Vec<Location>,
    /// Those that are never taken away: they are elsewhere, where it was root who meant them, or sshd does not read the
    /// managed file, and whoever gets in does so by these.
    pub elsewhere: Vec<PathBuf>,
}

impl Others {
    /// What the `entries` of sshd's `AuthorizedKeysFile` are for `account`, whose managed file is `managed`.
    pub fn of(entries: &str, account: &Account, managed: &Path) -> Self {
        let mut files = effective::files(entries, account);
        let read = files.iter().position(|path| path == managed);
        if let Some(at) = read {
            files.remove(at);
        }
        let mut all = Self::default();
        for path in files {
            match Location::in_home(&path, account).filter(|_| read.is_some()) {
                Some(location) => all.in_home.push(location),
                None => all.elsewhere.push(path),
            }
        }
        all
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

    #[test]
    fn only_what_is_in_the_home_and_beside_the_managed_file_is_drift() {
        let account = Account {
            name: "bob".try_into().unwrap(),
            uid: 1000,
            gid: 1000,
            home: "/home/bob".into(),
        };
        let check = |entries: &str, in_home: &[&str], elsewhere: &[&str]| {
            let all = Others::of(
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
