//! Which doors sshd opens besides the managed file, by its effective configuration.
//!
//! sshd tries every `AuthorizedKeysFile`, then `TrustedUserCAKeys`, then `AuthorizedKeysCommand`, and any success
//! lets in (`auth2-pubkey.c: user_key_allowed`); other methods are tried besides. So the managed file cannot deny what
//! another door allows.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::model::account::Account;
use crate::model::location::expand;
use crate::model::sshd::effective::Settings;

/// A way in that the managed file does not close.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Door {
    /// What kind.
    pub kind: Kind,
    /// The file, the program or the setting, as sshd's configuration has it.
    pub detail: String,
    /// What people call it, where it is well known.
    pub name: Option<String>,
    /// `[accounts] accepted-doors` names it.
    pub accepted: bool,
    /// A file that is taken away whenever it holds anything (`[accounts] other-files`), so it lets nobody in.
    #[serde(default)]
    pub guarded: bool,
}

/// The kinds of doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Another entry of `AuthorizedKeysFile`.
    AuthorizedKeysFile,
    /// `AuthorizedKeysCommand`.
    Command,
    /// `TrustedUserCAKeys`: certificates of these authorities.
    Authority,
    /// `PasswordAuthentication`.
    Password,
    /// `KbdInteractiveAuthentication`: whatever PAM asks, usually the password.
    KeyboardInteractive,
    /// `HostbasedAuthentication`.
    HostBased,
    /// `GSSAPIAuthentication`: Kerberos, where the host has a keytab.
    Gssapi,
}

/// A door that is meant to be open, as `[accounts] accepted-doors` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Any of this kind.
    Kind(Kind),
    /// The `AuthorizedKeysCommand` of EC2 Instance Connect.
    InstanceConnect,
}

impl<'de> Deserialize<'de> for Accepted {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let kind = KINDS
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .map(Self::Kind);
        kind.or_else(|| (text == "instance-connect").then_some(Self::InstanceConnect))
            .ok_or_else(|| {
                let names = KINDS.map(Kind::as_str).join(", ");
                de::Error::custom(format!("not a door: {names} or instance-connect"))
            })
    }
}

const KINDS: [Kind; 7] = [
    Kind::AuthorizedKeysFile,
    Kind::Command,
    Kind::Authority,
    Kind::Password,
    Kind::KeyboardInteractive,
    Kind::HostBased,
    Kind::Gssapi,
];

const INSTANCE_CONNECT: &str = "EC2 Instance Connect";

/// Programs of `AuthorizedKeysCommand` that people know by another name.
const COMMANDS: [(&str, &str); 4] = [
    ("eic_run_authorized_keys", INSTANCE_CONNECT),
    ("sss_ssh_authorizedkeys", "SSSD"),
    ("google_authorized_keys", "Google OS Login"),
    ("userdbctl", "systemd-userdb"),
];

/// The doors for `account`, whose managed file is `managed`; the files `guarded` are taken away when they come.
pub fn doors(
    settings: &Settings,
    account: &Account,
    managed: &Path,
    guarded: &[PathBuf],
    accepted: &[Accepted],
) -> Vec<Door> {
    let mut doors: Vec<Door> = Vec::new();
    let mut add = |kind, detail: &str| {
        let file = (kind == Kind::AuthorizedKeysFile)
            .then(|| expand(detail, account))
            .flatten();
        let guarded = file.is_some_and(|file| guarded.contains(&file));
        let name = (kind == Kind::Command)
            .then(|| command_name(detail))
            .flatten();
        let accepted = accepted.iter().any(|accepted| match accepted {
            Accepted::Kind(accepted) => *accepted == kind,
            Accepted::InstanceConnect => name == Some(INSTANCE_CONNECT),
        });
        let door = Door {
            kind,
            detail: detail.to_owned(),
            name: name.map(str::to_owned),
            accepted,
            guarded,
        };
        if !doors.contains(&door) {
            doors.push(door);
        }
    };
    let lists = || {
        settings
            .methods
            .split_whitespace()
            .map(|list| list.split(',').map(bare))
    };
    let any = settings.methods == "any";
    if settings.public_key
        && (any || lists().any(|mut list| list.any(|method| method == "publickey")))
    {
        for entry in settings
            .entries()
            .filter(|entry| expand(entry, account).as_deref() != Some(managed))
        {
            add(Kind::AuthorizedKeysFile, entry);
        }
        settings
            .command
            .iter()
            .for_each(|command| add(Kind::Command, command));
        settings
            .authority
            .iter()
            .for_each(|file| add(Kind::Authority, file));
    }
    // A method that only counts together with a key is no way around the keys.
    let alone = |method: &str| {
        any || lists().any(|list| {
            let list: Vec<_> = list.collect();
            list.contains(&method) && !list.contains(&"publickey")
        })
    };
    // `prohibit-password` keeps root from both (`auth.c: auth_root_allowed`, `auth2-passwd.c`).
    let passwords = account.uid != 0 || settings.root_login == "yes";
    for (open, kind, method, detail) in [
        (
            settings.password && passwords,
            Kind::Password,
            "password",
            "PasswordAuthentication",
        ),
        (
            settings.keyboard && passwords,
            Kind::KeyboardInteractive,
            "keyboard-interactive",
            "KbdInteractiveAuthentication",
        ),
        (
            settings.host_based,
            Kind::HostBased,
            "hostbased",
            "HostbasedAuthentication",
        ),
        (
            settings.gssapi,
            Kind::Gssapi,
            "gssapi-with-mic",
            "GSSAPIAuthentication",
        ),
    ] {
        if open && alone(method) {
            add(kind, detail);
        }
    }
    doors
}

/// A method without its device: `keyboard-interactive:pam`.
fn bare(method: &str) -> &str {
    method.split_once(':').map_or(method, |(method, _)| method)
}

fn command_name(command: &str) -> Option<&'static str> {
    let program = command.split_whitespace().next()?;
    let program = program.rsplit('/').next()?;
    COMMANDS
        .iter()
        .find(|(file, _)| *file == program)
        .map(|(_, name)| *name)
}

impl Door {
    /// It lets people in whom the list does not name, and the config does not say that this is meant.
    pub fn is_open(&self) -> bool {
        !self.accepted && !self.guarded
    }

    /// In words; `whom` names the accounts it stands open for.
    pub fn describe(&self, whom: &str) -> String {
        let Self { detail, .. } = self;
        let what = match (self.kind, &self.name) {
            (Kind::Command, Some(name)) => format!("{name} (AuthorizedKeysCommand)"),
            (Kind::Command, None) => format!("keys from `{detail}` (AuthorizedKeysCommand)"),
            (Kind::AuthorizedKeysFile, _) => format!("keys in `{detail}` (AuthorizedKeysFile)"),
            (Kind::Authority, _) => {
                format!("certificates of the authorities in `{detail}` (TrustedUserCAKeys)")
            }
            (Kind::Password, _) => format!("passwords ({detail})"),
            (Kind::KeyboardInteractive, _) => {
                format!("what PAM asks for, such as a password ({detail})")
            }
            (Kind::HostBased, _) => format!("hosts that sshd trusts ({detail})"),
            (Kind::Gssapi, _) => format!("Kerberos, where the host has a keytab ({detail})"),
        };
        format!("also open: {what}, for {whom}")
    }

    /// What a person can do about it.
    pub fn hint(&self) -> String {
        let accept = match self.name.as_deref() {
            Some(INSTANCE_CONNECT) => "instance-connect",
            _ => self.kind.as_str(),
        };
        let close = match self.kind {
            Kind::AuthorizedKeysFile => {
                "to close it: name only the managed file in `AuthorizedKeysFile` (sshd_config), or, for one in a home, \
                 `other-files = \"remove\"` in `[accounts]`"
            }
            Kind::Command => {
                "to close it: remove `AuthorizedKeysCommand` from sshd_config or sshd's unit"
            }
            Kind::Authority => "to close it: remove `TrustedUserCAKeys` from sshd_config",
            _ => "to close it: turn it off in sshd_config",
        };
        format!("if you use it: `accepted-doors = [\"{accept}\"]` in `[accounts]`; {close}")
    }
}

impl Kind {
    /// As the config and the schema spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizedKeysFile => "authorized-keys-file",
            Self::Command => "command",
            Self::Authority => "authority",
            Self::Password => "password",
            Self::KeyboardInteractive => "keyboard-interactive",
            Self::HostBased => "host-based",
            Self::Gssapi => "gssapi",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of `expected` is `kind detail`; `sshd -T` of a host that closes all doors, then `settings`.
    fn check(settings: &str, uid: u32, expected: &[&str]) {
        const CLOSED: &str = "\npasswordauthentication no\nauthorizedkeysfile .ssh/authorized_keys";
        let account = Account {
            name: "bob".try_into().unwrap(),
            uid,
            gid: uid,
            home: "/home/bob".into(),
        };
        let read = Settings::read(&format!("{settings}{CLOSED}"));
        let found = doors(
            &read,
            &account,
            Path::new("/home/bob/.ssh/authorized_keys"),
            &[],
            &[],
        );
        let found: Vec<_> = found
            .iter()
            .map(|door| format!("{} {}", door.kind.as_str(), door.detail))
            .collect();
        assert_eq!(found, expected, "{settings}");
    }

    #[test]
    fn every_door_but_the_managed_file_is_named() {
        check("", 1000, &[]);
        check(
            "authorizedkeysfile /home/%u/.ssh//authorized_keys",
            1000,
            &[],
        );
        check(
            "authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2 /etc/%u",
            1000,
            &[
                "authorized-keys-file .ssh/authorized_keys2",
                "authorized-keys-file /etc/%u",
            ],
        );
        check(
            "authorizedkeyscommand /x %u\ntrustedusercakeys /ca",
            1000,
            &["command /x %u", "authority /ca"],
        );
        check(
            "authorizedkeyscommand /x\npubkeyauthentication no",
            1000,
            &[],
        );
        check(
            "passwordauthentication yes",
            1000,
            &["password PasswordAuthentication"],
        );
        check(
            "passwordauthentication yes\npermitrootlogin without-password",
            0,
            &[],
        );
        check(
            "passwordauthentication yes\npermitrootlogin yes",
            0,
            &["password PasswordAuthentication"],
        );
        check("kbdinteractiveauthentication yes", 1000, &[]);
        check(
            "kbdinteractiveauthentication yes\nusepam yes",
            1000,
            &["keyboard-interactive KbdInteractiveAuthentication"],
        );
        check(
            "hostbasedauthentication yes\ngssapiauthentication yes",
            1000,
            &[
                "host-based HostbasedAuthentication",
                "gssapi GSSAPIAuthentication",
            ],
        );
    }

    #[test]
    fn a_method_beside_a_key_is_no_door() {
        let methods =
            |lists: &str| format!("passwordauthentication yes\nauthenticationmethods {lists}");
        check(&methods("publickey,password"), 1000, &[]);
        check(
            &methods("publickey,password password"),
            1000,
            &["password PasswordAuthentication"],
        );
        check(&methods("publickey"), 1000, &[]);
        check(
            "kbdinteractiveauthentication yes\nusepam yes\nauthenticationmethods keyboard-interactive:pam",
            1000,
            &["keyboard-interactive KbdInteractiveAuthentication"],
        );
        check(
            "trustedusercakeys /ca\nauthenticationmethods password",
            1000,
            &[],
        );
    }

    #[test]
    fn doors_that_are_meant_are_told_apart() {
        let account = Account {
            name: "bob".try_into().unwrap(),
            uid: 1000,
            gid: 1000,
            home: "/home/bob".into(),
        };
        let connect = "/opt/aws/bin/eic_run_authorized_keys %u %f";
        for (command, accepted, expected) in [
            (connect, &[][..], (Some(INSTANCE_CONNECT), false)),
            (
                connect,
                &[Accepted::InstanceConnect],
                (Some(INSTANCE_CONNECT), true),
            ),
            (
                connect,
                &[Accepted::Kind(Kind::Command)],
                (Some(INSTANCE_CONNECT), true),
            ),
            (
                connect,
                &[Accepted::Kind(Kind::Password)],
                (Some(INSTANCE_CONNECT), false),
            ),
            ("/bin/keys", &[Accepted::InstanceConnect], (None, false)),
            (
                "/usr/bin/sss_ssh_authorizedkeys",
                &[],
                (Some("SSSD"), false),
            ),
        ] {
            let settings = Settings::read(&format!(
                "passwordauthentication no\nauthorizedkeyscommand {command}"
            ));
            let found = doors(&settings, &account, Path::new("/x"), &[], accepted);
            let found: Vec<_> = found
                .iter()
                .map(|door| (door.name.as_deref(), door.accepted))
                .collect();
            assert_eq!(found, [expected], "{command}");
        }
    }
}
