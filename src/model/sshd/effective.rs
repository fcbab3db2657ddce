//! sshd's effective configuration for one account, as `sshd -T` prints it: `keyword value` lines, keywords in lower
//! case, lists either in one line or one line an entry, nothing quoted (`servconf.c: dump_config`).

use std::path::{Path, PathBuf};

use crate::model::account::Account;
use crate::model::location::expand;

/// `AuthorizedKeysFile` where the configuration does not say otherwise (`servconf.c: fill_default_server_options`): Debian and Ubuntu leave
/// it so.
pub const DEFAULT: &str = ".ssh/authorized_keys .ssh/authorized_keys2";

/// What of it decides who gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "sshd has that many switches")]
pub struct Settings {
    /// `AuthorizedKeysFile`, all entries.
    pub files: String,
    /// `AuthorizedKeysCommand`, if any.
    pub command: Option<String>,
    /// `TrustedUserCAKeys`, if any.
    pub authority: Option<String>,
    /// `StrictModes`.
    pub strict_modes: bool,
    /// `RequiredRSASize`, in bits.
    pub rsa_bits: u32,
    /// `PubkeyAcceptedAlgorithms`; empty where this sshd has no such list.
    pub algorithms: String,
    /// `PubkeyAuthentication`.
    pub public_key: bool,
    /// `PermitRootLogin`.
    pub root_login: String,
    /// `AuthenticationMethods`: lists of methods that must all succeed.
    pub methods: String,
    /// `PasswordAuthentication`.
    pub password: bool,
    /// `KbdInteractiveAuthentication`, with a PAM to ask the questions.
    pub keyboard: bool,
    /// `HostbasedAuthentication`.
    pub host_based: bool,
    /// `GSSAPIAuthentication`.
    pub gssapi: bool,
    /// `AllowUsers`.
    pub allow_users: Vec<String>,
    /// `DenyUsers`.
    pub deny_users: Vec<String>,
    /// `AllowGroups`.
    pub allow_groups: Vec<String>,
    /// `DenyGroups`.
    pub deny_groups: Vec<String>,
}

impl Settings {
    /// Reads what `sshd -T` printed. A keyword that is missing has sshd's own default.
    pub fn read(text: &str) -> Self {
        let values = |keywords: &[&str]| -> Vec<&str> {
            let lines = text.lines().filter_map(|line| line.trim().split_once(' '));
            let named = |word: &str| {
                keywords
                    .iter()
                    .any(|keyword| word.eq_ignore_ascii_case(keyword))
            };
            lines
                .filter(|(word, _)| named(word))
                .map(|(_, value)| value.trim())
                .collect()
        };
        let one = |keywords: &[&str], default: &str| {
            values(keywords).first().unwrap_or(&default).to_string()
        };
        let yes = |keyword: &str, default: &str| one(&[keyword], default) == "yes";
        let set = |keyword: &str| Some(one(&[keyword], "none")).filter(|value| value != "none");
        let all = |keyword: &str| {
            values(&[keyword])
                .join(" ")
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        Self {
            files: one(&["authorizedkeysfile"], "none"),
            command: set("authorizedkeyscommand"),
            authority: set("trustedusercakeys"),
            strict_modes: yes("strictmodes", "yes"),
            // Red Hat's name for it before OpenSSH had one.
            rsa_bits: one(&["requiredrsasize", "rsaminsize"], "1024")
                .parse()
                .unwrap_or(1024),
            // The second name is that of releases before 8.5.
            algorithms: one(&["pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes"], ""),
            public_key: yes("pubkeyauthentication", "yes"),
            root_login: one(&["permitrootlogin"], "prohibit-password"),
            methods: one(&["authenticationmethods"], "any"),
            password: yes("passwordauthentication", "yes"),
            // The second name is that of releases before 8.7.
            keyboard: one(
                &[
                    "kbdinteractiveauthentication",
                    "challengeresponseauthentication",
                ],
                "no",
            ) == "yes"
                && yes("usepam", "no"),
            host_based: yes("hostbasedauthentication", "no"),
            gssapi: yes("gssapiauthentication", "no"),
            allow_users: all("allowusers"),
            deny_users: all("denyusers"),
            allow_groups: all("allowgroups"),
            deny_groups: all("denygroups"),
        }
    }

    /// The entries of `AuthorizedKeysFile`. A path with blanks looks like several.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.files
            .split_whitespace()
            .filter(|entry| *entry != "none")
    }

    /// Every file that sshd reads keys of `account` from, but the `managed` one: each once, in its order.
    pub fn other_files(&self, account: &Account, managed: Option<&Path>) -> Vec<PathBuf> {
        let mut files = files(&self.files, account);
        files.retain(|path| Some(path.as_path()) != managed);
        files
    }
}

/// The files that the `entries` of an `AuthorizedKeysFile` are for `account`: each once, in their order.
pub fn files(entries: &str, account: &Account) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries.split_whitespace().filter(|entry| *entry != "none") {
        let path = expand(entry, account).filter(|path| !files.contains(path));
        files.extend(path);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_sshd_prints_is_read() {
        let settings = Settings::read(
            "port 22\nAuthorizedKeysFile .ssh/a /etc/%u\nallowusers alice\nallowusers bob@10.0.0.1\n\
             allowgroups wheel ssh\nchallengeresponseauthentication yes\nusepam yes\nrsaminsize 2048\n\
             pubkeyacceptedkeytypes ssh-*\nauthorizedkeyscommand /x %u\ntrustedusercakeys none\n",
        );
        assert_eq!(
            settings.entries().collect::<Vec<_>>(),
            [".ssh/a", "/etc/%u"]
        );
        assert_eq!(settings.allow_users, ["alice", "bob@10.0.0.1"]);
        assert_eq!(settings.allow_groups, ["wheel", "ssh"]);
        assert!(
            settings.keyboard && settings.password && settings.public_key && settings.strict_modes
        );
        assert_eq!(
            (settings.rsa_bits, settings.algorithms.as_str()),
            (2048, "ssh-*")
        );
        assert_eq!(
            (settings.command.as_deref(), settings.authority),
            (Some("/x %u"), None)
        );
        let nothing = Settings::read("");
        assert_eq!((nothing.entries().count(), nothing.keyboard), (0, false));
    }

    #[test]
    fn other_files_are_those_beside_the_managed_one() {
        let account = Account {
            name: "bob".try_into().unwrap(),
            uid: 1000,
            gid: 1000,
            home: "/home/bob".into(),
        };
        let check = |files: &str, managed: Option<&str>, expected: &[&str]| {
            let settings = Settings::read(&format!("authorizedkeysfile {files}"));
            let found = settings.other_files(&account, managed.map(Path::new));
            assert_eq!(
                found,
                expected.iter().map(PathBuf::from).collect::<Vec<_>>(),
                "{files}"
            );
        };
        let file = Some("/home/bob/.ssh/authorized_keys");
        check(".ssh/authorized_keys", file, &[]);
        check(
            "%h/.ssh/authorized_keys /home/%u/.ssh//authorized_keys",
            file,
            &[],
        );
        check(
            ".ssh/authorized_keys .ssh/authorized_keys2",
            file,
            &["/home/bob/.ssh/authorized_keys2"],
        );
        check("/etc/keys/%U /etc/keys/%U none", file, &["/etc/keys/1000"]);
        check(
            ".ssh/authorized_keys",
            None,
            &["/home/bob/.ssh/authorized_keys"],
        );
        check("none", None, &[]);
    }
}
