//! Which doors sshd opens besides the managed file, by its effective configuration (`sshd -T`).
//!
//! sshd tries every `AuthorizedKeysFile`, then `TrustedUserCAKeys`, then `AuthorizedKeysCommand`, and any success
//! lets in (`auth2-pubkey.c: user_key_allowed`); so the managed file cannot deny what another door allows.

use std::path::Path;

use crate::model::account::Account;
use crate::model::config::expand;
use crate::model::preflight::Finding;

/// What sshd does for one account that the managed file does not say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// It does not read the managed file.
    Unread(String),
    /// It reads this entry of `AuthorizedKeysFile` too.
    AlsoRead(String),
    /// It asks this program.
    Command(String),
    /// It trusts certificates signed by the keys in this file.
    Authority(String),
    /// A path has blanks, and `sshd -T` does not quote.
    Unclear(String),
}

/// The doors for `account`, whose managed file is `managed`, by what `sshd -T` said.
pub fn doors(settings: &str, managed: &Path, account: &Account) -> Vec<Door> {
    let value = |keyword: &str| {
        let mut lines = settings.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(word, _)| word.eq_ignore_ascii_case(keyword)).map_or("none", |(_, value)| value.trim())
    };
    let mut doors = Vec::new();
    let files = value("authorizedkeysfile");
    if managed.to_string_lossy().contains(char::is_whitespace) {
        doors.push(Door::Unclear(files.to_owned()));
    } else {
        let is_managed = |entry: &&str| expand(entry, account).is_some_and(|path| path == managed);
        let entries = || files.split_whitespace();
        if !entries().any(|entry| is_managed(&entry)) {
            doors.push(Door::Unread(files.to_owned()));
        }
        let others = entries().filter(|entry| *entry != "none" && !is_managed(entry));
        doors.extend(others.map(|entry| Door::AlsoRead(entry.to_owned())));
    }
    if value("authorizedkeyscommand") != "none" {
        doors.push(Door::Command(value("authorizedkeyscommand").to_owned()));
    }
    if value("trustedusercakeys") != "none" {
        doors.push(Door::Authority(value("trustedusercakeys").to_owned()));
    }
    doors
}

impl Door {
    /// What to say of it; `whom` names the accounts it stands open for.
    pub fn finding(&self, whom: &str) -> Finding {
        let keys = "keys that are not on the approved list let people in there";
        match self {
            Self::Unread(files) => Finding::fail(
                "sshd",
                format!(
                    "sshd does not read the managed file of {whom} but `{files}`, so what is enforced has no effect"
                ),
                "let `AuthorizedKeysFile` in sshd_config and `[accounts] file` name the same file",
            ),
            Self::AlsoRead(entry) => Finding::warn(
                "sshd",
                format!("sshd also reads `{entry}` of {whom}"),
                format!("{keys}: name only the managed file in `AuthorizedKeysFile` of sshd_config"),
            ),
            Self::Command(command) => Finding::warn(
                "sshd",
                format!("sshd also asks `{command}` for keys of {whom} (AuthorizedKeysCommand)"),
                format!("{keys}: remove it unless it is meant to, as with EC2 Instance Connect"),
            ),
            Self::Authority(file) => Finding::warn(
                "sshd",
                format!(
                    "sshd also takes certificates of the authorities in `{file}` for {whom} (TrustedUserCAKeys)"
                ),
                format!("{keys}: remove it unless it is meant to"),
            ),
            Self::Unclear(files) => Finding::warn(
                "sshd",
                format!("sshd reads `{files}` for {whom}, and a path with blanks cannot be told from two"),
                "look at `AuthorizedKeysFile` in sshd_config: it should name the managed file alone",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &str, managed: &str, expected: &[Door]) {
        let account =
            Account { name: "bob".try_into().unwrap(), uid: 1000, gid: 1000, home: "/home/bob".into() };
        assert_eq!(doors(settings, Path::new(managed), &account), expected, "{settings}");
    }

    #[test]
    fn every_door_but_the_managed_file_is_named() {
        const FILE: &str = "/home/bob/.ssh/authorized_keys";
        let owned = str::to_owned;
        check("port 22\nauthorizedkeysfile .ssh/authorized_keys\nauthorizedkeyscommand none\n", FILE, &[]);
        check("AuthorizedKeysFile %h/.ssh/authorized_keys", FILE, &[]);
        check("authorizedkeysfile /home/%u/.ssh//authorized_keys", FILE, &[]);
        check("authorizedkeysfile /etc/keys/%U", "/etc/keys/1000", &[]);
        let second = Door::AlsoRead(owned(".ssh/authorized_keys2"));
        check("authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2", FILE, &[second]);
        let other = owned("/etc/ssh/keys/%u");
        check(
            &format!("authorizedkeysfile {other}"),
            FILE,
            &[Door::Unread(other.clone()), Door::AlsoRead(other)],
        );
        check("authorizedkeysfile none", FILE, &[Door::Unread(owned("none"))]);
        check("port 22", FILE, &[Door::Unread(owned("none"))]);
        check("authorizedkeysfile .ssh/a b", "/home/bob/.ssh/a b", &[Door::Unclear(owned(".ssh/a b"))]);
        check(
            "authorizedkeysfile .ssh/authorized_keys\nauthorizedkeyscommand /x %u\ntrustedusercakeys /ca",
            FILE,
            &[Door::Command(owned("/x %u")), Door::Authority(owned("/ca"))],
        );
    }
}
