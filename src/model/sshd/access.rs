//! What sshd makes of a managed file: it reads it and takes its keys, it refuses them, or others get in besides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::account::Account;
use crate::model::key::grant::Grant;
use crate::model::key::id::KeyId;
use crate::model::key::line::{KeyLine, Line};
use crate::model::key::release::{UTC_EXPIRY, Version};
use crate::model::location::expand;
use crate::model::patterns::{listed, matches};
use crate::model::sshd::doors::{self, Accepted, Door};
use crate::model::sshd::effective::Settings;
use crate::model::words::first;

/// The judgement of one account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Access {
    /// In one word.
    pub verdict: Verdict,
    /// Why, when it is `refused` or `unknown`; else which of its keys sshd does not take, if any.
    pub reason: Option<String>,
    /// What of sshd refuses the file, when it is `refused`.
    #[serde(default)]
    pub refused_by: Option<RefusedBy>,
    /// Everything that lets in besides the managed file, accepted or not.
    pub doors: Vec<Door>,
}

/// What sshd makes of a file, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// sshd reads this file and takes its keys, and nothing else lets in but what is accepted.
    Effective,
    /// sshd reads the file, and another door is open that the config does not accept.
    AlsoOpen,
    /// sshd does not read the file, or takes none of its keys.
    Refused,
    /// sshd has not said, or not for every connection.
    Unknown,
}

/// What of sshd refuses a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusedBy {
    /// Others can write to the file, or to a directory on the way to it.
    StrictModes,
    /// `AuthorizedKeysFile` names another file.
    OtherFile,
    /// It takes none of the keys.
    Keys,
    /// Any other setting.
    Setting,
}

/// Why what sshd says of one account is not all there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// A `Match` goes by the connection, and what sshd says is for one from this very host.
    ByConnection,
    /// The paths in `AuthorizedKeysFile` cannot be told from one another.
    Blanks,
}

/// A directory, or the file, that `StrictModes` refuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loose {
    /// Which.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Only the account is in that group.
    pub private_group: bool,
}

/// What is known of one account.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who.
    pub account: &'a Account,
    /// The managed file.
    pub managed: &'a Path,
    /// What is in it.
    pub keys: &'a [&'a Grant],
    /// The release of sshd, where it is known.
    pub openssh: Option<Version>,
    /// What makes sshd's answer less than the whole.
    pub doubt: Option<Doubt>,
    /// Other files that are taken away when they come.
    pub guarded: &'a [PathBuf],
    /// Groups the account is in; `None` where they were not asked for.
    pub groups: Option<&'a [String]>,
    /// The first thing on the way to the file that `StrictModes` refuses.
    pub loose: Option<&'a Loose>,
    /// This sshd lets a group write that has no other member: Debian's and Ubuntu's do (`user-group-modes.patch`).
    pub private_groups: bool,
}

impl Loose {
    /// `misc.c: safe_path`: the file, and each directory above it up to the home, belongs to the account or to root
    /// and only its owner can write to it.
    pub fn is_loose(&self, account: u32) -> bool {
        !(self.uid == 0 || self.uid == account) || self.mode & 0o022 != 0
    }

    /// Only that its group may write to it is wrong with it.
    pub fn is_group_writable(&self, account: u32) -> bool {
        (self.uid == 0 || self.uid == account) && self.mode & 0o022 == 0o020
    }
}

impl Doubt {
    /// What is not judged for it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ByConnection => {
                "sshd's configuration has a `Match` by address, host or port, and what it opens to other connections \
                 than one from this host is not judged"
            }
            Self::Blanks => {
                "`AuthorizedKeysFile` has a path with a blank, which sshd prints as if it were two, so which files it \
                 reads is not judged"
            }
        }
    }
}

impl Access {
    /// sshd has not said.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Unknown,
            reason: Some(reason.into()),
            refused_by: None,
            doors: Vec::new(),
        }
    }

    /// For one line: `effective`, `refused: why`.
    pub fn describe(&self) -> String {
        let verdict = self.verdict.as_str();
        self.reason.as_ref().map_or_else(
            || verdict.to_owned(),
            |reason| format!("{verdict}: {reason}"),
        )
    }
}

/// Judges one account by what sshd said.
///
/// Not judged, though sshd refuses for it: a login shell that is missing or cannot be run and, without PAM, a locked
/// password (`auth.c: allowed_user`); PAM's own account rules; keys that `RevokedKeys` names, and a list of these that
/// cannot be read, which counts for every key (`auth.c: auth_key_is_revoked`).
pub fn judge(settings: &Settings, facts: Facts<'_>, accepted: &[Accepted]) -> Access {
    let refused = |refused_by, reason: String, doors| Access {
        verdict: Verdict::Refused,
        reason: Some(reason),
        refused_by: Some(refused_by),
        doors,
    };
    let Facts {
        account, managed, ..
    } = facts;
    match shut_out(settings, account, facts.groups) {
        Some(Shut::Out(reason)) => return refused(RefusedBy::Setting, reason, Vec::new()),
        Some(Shut::Unknown(reason)) => return Access::unknown(reason),
        None => {}
    }
    let doors = doors::doors(settings, account, managed, facts.guarded, accepted);
    if !settings.public_key {
        return refused(
            RefusedBy::Setting,
            "PubkeyAuthentication no".to_owned(),
            doors,
        );
    }
    let methods = &settings.methods;
    let by_key = methods == "any"
        || methods
            .split_whitespace()
            .any(|list| list.split(',').any(|method| method == "publickey"));
    if !by_key {
        return refused(
            RefusedBy::Setting,
            format!("AuthenticationMethods {methods}"),
            doors,
        );
    }
    if managed.to_string_lossy().contains(char::is_whitespace) {
        return Access::unknown(format!(
            "sshd reads `{}`, and a path with blanks cannot be told from two",
            settings.files
        ));
    }
    if !settings
        .entries()
        .any(|entry| expand(entry, account).is_some_and(|path| path == managed))
    {
        let read = &settings.files;
        return refused(
            RefusedBy::OtherFile,
            format!("sshd reads `{read}` (AuthorizedKeysFile) and not this file"),
            doors,
        );
    }
    let taken = |loose: &Loose| {
        facts.private_groups && loose.private_group && loose.is_group_writable(account.uid)
    };
    if let Some(loose) = facts
        .loose
        .filter(|loose| settings.strict_modes && !taken(loose))
    {
        return refused(
            RefusedBy::StrictModes,
            format!("StrictModes: {}", loose.describe(account.uid)),
            doors,
        );
    }
    let bad = refused_keys(settings, facts);
    let all = !bad.is_empty() && bad.len() == facts.keys.len();
    let bad = (!bad.is_empty()).then(|| in_short(&bad));
    let (verdict, reason) = match (doors.iter().any(Door::is_open), facts.doubt) {
        _ if all => (Verdict::Refused, bad),
        (true, _) => (Verdict::AlsoOpen, bad),
        (false, Some(doubt)) => {
            let reasons: Vec<String> = bad
                .into_iter()
                .chain([doubt.describe().to_owned()])
                .collect();
            (Verdict::Unknown, Some(reasons.join("; ")))
        }
        (false, None) => (Verdict::Effective, bad),
    };
    Access {
        verdict,
        reason,
        refused_by: all.then_some(RefusedBy::Keys),
        doors,
    }
}

enum Shut {
    Out(String),
    Unknown(String),
}

/// `auth.c: allowed_user`: who never gets in, whatever the method, in sshd's order. An entry that only counts from
/// some hosts shuts no account out for good.
fn shut_out(settings: &Settings, account: &Account, groups: Option<&[String]>) -> Option<Shut> {
    let out =
        |keyword: &str, list: &[String]| Some(Shut::Out(format!("{keyword} {}", list.join(" "))));
    let name = account.name.as_str();
    let from_anywhere = |entry: &String| match entry.split_once('@') {
        Some((user, host)) => host == "*" && matches(user, name),
        None => matches(entry, name),
    };
    let from_somewhere = |entry: &String| {
        matches(
            entry
                .split_once('@')
                .map_or(entry.as_str(), |(user, _)| user),
            name,
        )
    };
    let Settings {
        allow_users,
        deny_users,
        allow_groups,
        deny_groups,
        ..
    } = settings;
    if deny_users.iter().any(from_anywhere) {
        return out("DenyUsers", deny_users);
    }
    if !allow_users.is_empty() && !allow_users.iter().any(from_somewhere) {
        return out("AllowUsers", allow_users);
    }
    if account.uid == 0 && settings.root_login == "no" {
        return Some(Shut::Out("PermitRootLogin no".to_owned()));
    }
    if allow_groups.is_empty() && deny_groups.is_empty() {
        return None;
    }
    let Some(groups) = groups else {
        return Some(Shut::Unknown(
            "sshd goes by groups (AllowGroups, DenyGroups), and these were not asked for"
                .to_owned(),
        ));
    };
    let member = |list: &[String]| {
        list.iter()
            .any(|entry| groups.iter().any(|group| matches(entry, group)))
    };
    if member(deny_groups) {
        return out("DenyGroups", deny_groups);
    }
    if !allow_groups.is_empty() && !member(allow_groups) {
        return out("AllowGroups", allow_groups);
    }
    None
}

impl Loose {
    fn describe(&self, account: u32) -> String {
        let Self {
            path, uid, mode, ..
        } = self;
        if *uid != 0 && *uid != account {
            return format!("`{}` belongs to uid {uid}", path.display());
        }
        format!(
            "`{}` has mode {mode:04o}, so that others than its owner can write to it",
            path.display()
        )
    }
}

/// The keys that sshd does not take, though it reads the file, each with why.
fn refused_keys(settings: &Settings, facts: Facts<'_>) -> Vec<(String, KeyId)> {
    // Thousands of keys have a handful of types.
    let mut types: Vec<(&str, bool)> = Vec::new();
    let mut bad = Vec::new();
    for key in facts.keys {
        let algorithm = &key.algorithm;
        let known = types
            .iter()
            .find(|(known, _)| known == algorithm)
            .map(|(_, taken)| *taken);
        let taken = known.unwrap_or_else(|| takes_type(settings, algorithm));
        if known.is_none() {
            types.push((algorithm, taken));
        }
        if taken {
            bad.extend(refused_key(settings, facts, key).map(|why| (why, (*key).into())));
        } else {
            let why = format!("{algorithm} is not in PubkeyAcceptedAlgorithms");
            bad.push((why, (*key).into()));
        }
    }
    bad
}

/// `PubkeyAcceptedAlgorithms`; an RSA key is taken for any signature it can make.
fn takes_type(settings: &Settings, algorithm: &str) -> bool {
    let signatures: &[&str] = match algorithm {
        "ssh-rsa" => &["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"],
        other => &[other],
    };
    let list = &settings.algorithms;
    list.is_empty() || signatures.iter().any(|signature| listed(list, signature))
}

/// Why sshd does not take this key, though it takes keys of its type.
fn refused_key(settings: &Settings, facts: Facts<'_>, key: &Grant) -> Option<String> {
    let Grant {
        algorithm, line, ..
    } = key;
    let root_by_command = facts.account.uid == 0 && settings.root_login == "forced-commands-only";
    let bits_matter = algorithm == "ssh-rsa" && settings.rsa_bits > 1024;
    // Everything else is older than times in UTC.
    let old = facts.openssh.filter(|version| *version < UTC_EXPIRY);
    if !root_by_command && !bits_matter && old.is_none() {
        return None;
    }
    let Ok(Line::Key(line)) = Line::read(line.as_bytes()) else {
        return None;
    };
    if let Some(Err(error)) = old.map(|version| line.taken_by(version)) {
        return Some(error.to_string());
    }
    let KeyLine { key, options, .. } = line;
    match key.rsa_bits() {
        Some(bits) if bits_matter && bits < settings.rsa_bits => Some(format!(
            "an RSA key of {bits} bits, RequiredRSASize is {}",
            settings.rsa_bits
        )),
        _ if root_by_command && !options.forces_command() => {
            Some("no `command`, and PermitRootLogin is forced-commands-only".to_owned())
        }
        _ => None,
    }
}

/// Why keys are not taken, and which: `ssh-rsa is not in PubkeyAcceptedAlgorithms (alice SHA256:…)`.
fn in_short(all: &[(String, KeyId)]) -> String {
    const SHOWN: usize = 3;
    let mut by_reason: BTreeMap<&str, Vec<&KeyId>> = BTreeMap::new();
    for (why, key) in all {
        by_reason.entry(why).or_default().push(key);
    }
    let reasons = by_reason
        .into_iter()
        .map(|(why, keys)| format!("{why} ({})", first(SHOWN, keys.into_iter())));
    format!("not taken: {}", reasons.collect::<Vec<_>>().join("; "))
}

impl Verdict {
    /// As the schema spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Effective => "effective",
            Self::AlsoOpen => "also-open",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/home/bob/.ssh/authorized_keys";
    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIaDx5TTkaWJ8Qra3i8J59dHlibub2Qiv69l7JVqY6ql";
    /// 2048 bits.
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCid0At3lgy2evCVJ+PYxDje7mP9a3XxPmp4cCllmdeZDMOhtelq0iX4SrIddjCs3UXuBKKwzZKdK6qrdjhyaJA7mZk6vERSps+fbA1a7Xw/7g7gxDpBFWK3+6l0F3RdtKROWiDCuRD1esYr3il3PH0y8UaEpjyZt3zCzNqk7wpHsKaB22xrnRfEmMHyiMChr22i7ZqNkMXXfRsGrz68DrpV0VsD8On6kHCsHfFz1IpexZ66otOTaKA7xO/UBAviaSd+J//aJFHZHySOVAvYYE8kgA6pfJ06/DDWWu6zcLKt3GmVHKhHYJAi2NKNLhsoBGvvTKXeznQVVG2YCSxeJo9";

    fn grant(line: &str) -> Grant {
        let algorithm = if line.contains("ssh-rsa ") {
            "ssh-rsa"
        } else {
            "ssh-ed25519"
        };
        Grant {
            algorithm: algorithm.to_owned(),
            ..Grant::of_line(line, "SHA256:x")
        }
    }

    #[derive(Clone, Copy)]
    struct Row<'a> {
        settings: &'a str,
        uid: u32,
        keys: &'a [&'a str],
        guarded: &'a [&'a str],
        doubt: Option<Doubt>,
        openssh: Option<&'a str>,
        groups: Option<&'a [&'a str]>,
        loose: Option<(&'a str, u32, u32)>,
        /// The group has no other member, and sshd minds that.
        group: Option<(bool, bool)>,
    }

    const PLAIN: Row<'_> = Row {
        settings: "",
        uid: 1000,
        keys: &[ED25519],
        guarded: &[],
        doubt: None,
        openssh: None,
        groups: None,
        loose: None,
        group: None,
    };

    /// As [`Access::describe`] says it, then the number of doors.
    fn check(row: &Row<'_>, expected: &str, doors: usize) {
        let text = format!(
            "{}\nauthorizedkeysfile .ssh/authorized_keys\npasswordauthentication no\n",
            row.settings
        );
        let account = Account {
            name: "bob".try_into().unwrap(),
            uid: row.uid,
            gid: 1000,
            home: "/home/bob".into(),
        };
        let grants: Vec<Grant> = row.keys.iter().map(|line| grant(line)).collect();
        let groups: Option<Vec<String>> = row
            .groups
            .map(|all| all.iter().map(|g| (*g).to_owned()).collect());
        let (private_group, private_groups) = row.group.unwrap_or_default();
        let loose = row.loose.map(|(path, uid, mode)| Loose {
            path: path.into(),
            uid,
            gid: 1000,
            mode,
            private_group,
        });
        let facts = Facts {
            account: &account,
            managed: Path::new(FILE),
            keys: &grants.iter().collect::<Vec<_>>(),
            doubt: row.doubt,
            openssh: row.openssh.map(|version| version.parse().unwrap()),
            guarded: &row.guarded.iter().map(PathBuf::from).collect::<Vec<_>>(),
            groups: groups.as_deref(),
            loose: loose.as_ref().filter(|loose| loose.is_loose(row.uid)),
            private_groups,
        };
        let access = judge(&Settings::read(&text), facts, &[]);
        assert_eq!(
            (access.describe().as_str(), access.doors.len()),
            (expected, doors),
            "{text}"
        );
    }

    #[test]
    fn what_sshd_reads_and_takes_is_effective() {
        check(&PLAIN, "effective", 0);
        check(&Row { keys: &[], ..PLAIN }, "effective", 0);
        let open = |settings| Row { settings, ..PLAIN };
        check(&open("trustedusercakeys /ca"), "also-open", 1);
        let two = open("authorizedkeysfile .ssh/authorized_keys2 %h/.ssh/authorized_keys");
        check(&two, "also-open", 1);
        check(
            &Row {
                guarded: &["/home/bob/.ssh/authorized_keys2"],
                ..two
            },
            "effective",
            1,
        );
        check(
            &Row {
                guarded: &["/home/bob/.ssh/authorized_keys3"],
                ..two
            },
            "also-open",
            1,
        );
    }

    #[test]
    fn what_depends_on_the_connection_is_never_effective() {
        for doubt in [Doubt::ByConnection, Doubt::Blanks] {
            let row = Row {
                doubt: Some(doubt),
                ..PLAIN
            };
            let expected = format!("unknown: {}", doubt.describe());
            check(&row, &expected, 0);
            check(
                &Row {
                    settings: "trustedusercakeys /ca",
                    ..row
                },
                "also-open",
                1,
            );
            check(
                &Row {
                    settings: "pubkeyauthentication no",
                    ..row
                },
                "refused: PubkeyAuthentication no",
                0,
            );
        }
    }

    #[test]
    fn what_sshd_refuses_is_refused() {
        let row =
            |settings, expected: &str, doors| check(&Row { settings, ..PLAIN }, expected, doors);
        row(
            "pubkeyauthentication no",
            "refused: PubkeyAuthentication no",
            0,
        );
        row(
            "pubkeyauthentication no\npasswordauthentication yes",
            "refused: PubkeyAuthentication no",
            1,
        );
        row(
            "authenticationmethods password",
            "refused: AuthenticationMethods password",
            0,
        );
        row(
            "authorizedkeysfile /etc/%u",
            "refused: sshd reads `/etc/%u` (AuthorizedKeysFile) and not this file",
            1,
        );
        row("denyusers b*", "refused: DenyUsers b*", 0);
        row("denyusers bob@10.0.0.1", "effective", 0);
        row("denyusers bob@*", "refused: DenyUsers bob@*", 0);
        row(
            "allowusers alice\nallowusers carol",
            "refused: AllowUsers alice carol",
            0,
        );
        row("allowusers bob@10.0.0.1", "effective", 0);
        row("permitrootlogin no", "effective", 0);
        check(
            &Row {
                uid: 0,
                settings: "permitrootlogin no",
                ..PLAIN
            },
            "refused: PermitRootLogin no",
            0,
        );
        let forced = "permitrootlogin forced-commands-only";
        check(
            &Row {
                uid: 0,
                settings: forced,
                ..PLAIN
            },
            "refused: not taken: no `command`, and PermitRootLogin is forced-commands-only ((no name) SHA256:x)",
            0,
        );
        let command = format!("command=\"x\" {ED25519}");
        check(
            &Row {
                uid: 0,
                settings: forced,
                keys: &[&command],
                ..PLAIN
            },
            "effective",
            0,
        );
    }

    #[test]
    fn groups_count_where_sshd_goes_by_them() {
        let row = |settings, groups, expected: &str| {
            check(
                &Row {
                    settings,
                    groups,
                    ..PLAIN
                },
                expected,
                0,
            );
        };
        row(
            "allowgroups ssh wheel",
            Some(&["bob", "wheel"][..]),
            "effective",
        );
        row(
            "allowgroups ssh",
            Some(&["bob"]),
            "refused: AllowGroups ssh",
        );
        row("denygroups b?b", Some(&["bob"]), "refused: DenyGroups b?b");
        row(
            "allowgroups ssh",
            None,
            "unknown: sshd goes by groups (AllowGroups, DenyGroups), and these were not asked for",
        );
    }

    #[test]
    fn strict_modes_refuse_what_others_can_write_to() {
        let row = |settings, loose, expected: &str| {
            check(
                &Row {
                    settings,
                    loose: Some(loose),
                    ..PLAIN
                },
                expected,
                0,
            );
        };
        let home = "/home/bob";
        row("", (home, 1000, 0o755), "effective");
        row("", (home, 0, 0o755), "effective");
        row(
            "",
            (home, 1000, 0o775),
            "refused: StrictModes: `/home/bob` has mode 0775, so that others than its owner can write to it",
        );
        row(
            "",
            (home, 1000, 0o1777),
            "refused: StrictModes: `/home/bob` has mode 1777, so that others than its owner can write to it",
        );
        row(
            "",
            (home, 7, 0o755),
            "refused: StrictModes: `/home/bob` belongs to uid 7",
        );
        row("strictmodes no", (home, 1000, 0o777), "effective");
        let row = |group, mode, expected: bool| {
            let row = Row {
                group: Some(group),
                loose: Some((home, 1000, mode)),
                ..PLAIN
            };
            let why = format!(
                "refused: StrictModes: `/home/bob` has mode {mode:04o}, so that others than its owner can write to it"
            );
            check(&row, if expected { "effective" } else { &why }, 0);
        };
        row((true, true), 0o775, true);
        row((true, false), 0o775, false);
        row((false, true), 0o775, false);
        row((true, true), 0o777, false);
    }

    #[test]
    fn keys_that_sshd_does_not_take_are_named() {
        let row = |settings, keys, expected: &str| {
            check(
                &Row {
                    settings,
                    keys,
                    ..PLAIN
                },
                expected,
                0,
            );
        };
        row("requiredrsasize 2048", &[RSA][..], "effective");
        let small =
            "not taken: an RSA key of 2048 bits, RequiredRSASize is 3072 ((no name) SHA256:x)";
        row("requiredrsasize 3072", &[RSA], &format!("refused: {small}"));
        row(
            "requiredrsasize 3072",
            &[RSA, ED25519],
            &format!("effective: {small}"),
        );
        let (utc, touch) = (
            format!("expiry-time=\"20990101Z\" {ED25519}"),
            format!("verify-required {ED25519}"),
        );
        let local = format!("expiry-time=\"20990101\" {ED25519}");
        let old = |openssh: &str, keys: &[&str], expected: &str| {
            check(
                &Row {
                    openssh: Some(openssh),
                    keys,
                    ..PLAIN
                },
                expected,
                0,
            );
        };
        let why = "which would drop the whole line";
        let reason = format!(
            "not taken: `expiry-time` in UTC needs OpenSSH 9.1, and here it is 8.7, {why} ((no name) SHA256:x)"
        );
        old("8.7", &[&utc], &format!("refused: {reason}"));
        old(
            "8.7",
            &[&utc, ED25519, &touch, &local],
            &format!("effective: {reason}"),
        );
        old("9.1", &[&utc], "effective");
        let reason =
            "not taken: the option `verify-required` needs OpenSSH 8.4, and here it is 8.3";
        old(
            "8.3",
            &[&touch],
            &format!("refused: {reason}, {why} ((no name) SHA256:x)"),
        );
        row("pubkeyacceptedalgorithms rsa-sha2-512", &[RSA], "effective");
        row(
            "pubkeyacceptedalgorithms rsa-sha2-*",
            &[ED25519],
            "refused: not taken: ssh-ed25519 is not in PubkeyAcceptedAlgorithms ((no name) SHA256:x)",
        );
    }
}
