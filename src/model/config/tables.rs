//! The configuration: what was written (`Config` is read straight from TOML), then checked.
//!
//! Every value type checks itself while it is read, so an error carries the line and a caret.

use crate::model::config::written::{
    WrittenOnStale, WrittenSource, absolute, at_least_one, duration, read_policy, share,
};
use crate::model::location::FilePattern;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::model::account::AccountName;
use crate::model::key::policy::Policy;
use crate::model::list::template::{NameTemplate, PathTemplate};
use crate::model::sshd::doors::{self, Accepted};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Write, or only report.
    pub mode: Mode,
    /// Where the list comes from.
    pub source: Source,
    /// Whose files, and which.
    pub accounts: Accounts,
    /// Which lines are taken.
    #[serde(deserialize_with = "read_policy")]
    pub policy: Policy,
    /// When a list is held.
    pub guard: Guard,
    /// The check that needs no event.
    pub verify: Verify,
    /// Where state is kept.
    pub paths: Paths,
}

/// What the enforcer may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Make the files say what the list says.
    #[default]
    Enforce,
    /// Report drift and differences, write nothing.
    Observe,
}

/// The `[source]` table. All that is configured is merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Paths in Parameter Store: every parameter below serves the account named first after the path.
    pub paths: Vec<PathTemplate>,
    /// Parameters by name, for each account; `name:label` reads a labelled version.
    pub parameters: BTreeMap<AccountName, Vec<NameTemplate>>,
    /// A directory with the list: `<account>` or `<account>/<label>…`.
    pub directory: Option<PathBuf>,
    /// The parameter that holds the signature of those that are named in `parameters`.
    pub signed: Option<NameTemplate>,
    /// The list must be signed: `[policy] signed-by` says by whom.
    pub is_signed: bool,
    /// Time between two polls.
    pub every: Duration,
    /// The longest that an index is believed before everything is read again.
    pub full_every: Duration,
    /// The longest that one call of Parameter Store may take, its whole answer included.
    pub timeout: Duration,
    /// A list older than this is reported as stale.
    pub stale_after: Duration,
    /// What a stale list means for the files.
    pub on_stale: OnStale,
}

/// What happens to the keys when no good list has come for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStale {
    /// The last good list stays in force.
    #[default]
    Keep,
    /// After this long without a good list every key is removed; never shorter than `stale_after`.
    RevokeAfter(Duration),
}

/// The `[accounts]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Accounts {
    /// Names or globs; nothing else is ever touched.
    pub manage: Vec<Pattern>,
    /// Which file, with sshd's tokens.
    pub file: FilePattern,
    /// Who owns it.
    pub owner: Owner,
    /// authorized_keys lines that every managed account keeps.
    #[serde(deserialize_with = "absolute")]
    pub break_glass: PathBuf,
    /// Other ways in that are meant to be open, so that the status does not warn of them.
    pub accepted_doors: Vec<Accepted>,
    /// End the live SSH sessions that were opened with a key that is not approved.
    pub end_sessions: bool,
    /// What happens to another file in the home that sshd reads.
    pub other_files: OtherFiles,
    /// When nothing can be changed in the directory of the file at all.
    pub lock: WhenLocked,
}

/// When the directory of a managed file in a home is root's and immutable, so that its account can change nothing there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenLocked {
    /// For a growing while, when the account plants a key again and again.
    #[default]
    InAFight,
    Always,
    Never,
}

/// What happens to a file in an account's home that sshd reads besides the managed one, such as `authorized_keys2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtherFiles {
    /// It is drift: taken away whenever it holds anything.
    #[default]
    Remove,
    /// It stays, and is reported with its keys.
    Report,
}

/// The `[guard]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Guard {
    /// Share of all keys enforced on this host that one list may remove, 0 to 1.
    #[serde(deserialize_with = "share")]
    pub max_removed: f64,
    /// How many times in a row a list that removes more must come before it applies.
    #[serde(deserialize_with = "at_least_one")]
    pub confirmations: u32,
    /// Who lets the removals of a list through that is held.
    pub confirm: Confirm,
}

/// Who lets the removals of a list through that is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// Polls that find the same list, `confirmations` times in a row; or a person.
    #[default]
    Polls,
    /// A person alone, by `agent sync --accept-removals`.
    Person,
}

/// The `[verify]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Verify {
    /// Time between two full checks.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
}

/// The `[paths]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Paths {
    /// What was enforced, and first-run backups.
    #[serde(deserialize_with = "absolute")]
    pub state_dir: PathBuf,
    /// `status.json`.
    #[serde(deserialize_with = "absolute")]
    pub runtime_dir: PathBuf,
    /// `approved.json`.
    #[serde(deserialize_with = "absolute")]
    pub fetch_state_dir: PathBuf,
    /// `fetch.json`.
    #[serde(deserialize_with = "absolute")]
    pub fetch_runtime_dir: PathBuf,
}

impl Paths {
    /// Those that a config names which cannot be used for another reason, or the usual ones.
    pub fn of_broken(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Only {
            paths: Paths,
        }
        let begin = text
            .find("\n[paths]")
            .map_or(text.len(), |before| before + 1);
        let rest = &text[begin..];
        let end = rest.find("\n[").unwrap_or(rest.len());
        let only = toml::from_str::<Only>(&rest[..end]);
        only.map(|only| only.paths).unwrap_or_default()
    }
}

/// Who owns a managed file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The account, 0600.
    #[default]
    Account,
    /// `root:<primary group>`, 0640: the account can read it and not edit it in place.
    Root,
}

/// An account name or a glob over account names.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// Named in full: this one account, whatever its uid.
    Name(AccountName),
    /// Every ordinary account that matches.
    Glob(glob::Pattern),
}

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key, or a bad value: with its line and a caret.
    #[error("{0}")]
    Written(toml::de::Error),
    /// A config that was cut short must not pass for one that lets all accounts go.
    #[error(
        "`[accounts] manage` names no account; name those whose authorized_keys this agent is to manage"
    )]
    NobodyManaged,
    #[error(
        "with `[policy] signed-by`, `[source] parameters` needs `signed`: the parameter that holds their signature"
    )]
    NoSignature,
    #[error(
        "`[source] signed` is the signature of `parameters`, and counts with `[policy] signed-by`"
    )]
    SignatureOfNothing,
}

impl Config {
    /// Reads and checks the text of a config file.
    pub fn read(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(ConfigError::Written)?;
        if config.accounts.manage.is_empty() {
            return Err(ConfigError::NobodyManaged);
        }
        config.source.is_signed = config.policy.signing.is_some();
        let names_parameters = !config.source.parameters.is_empty();
        match (&config.source.signed, &config.policy.signing) {
            (None, Some(_)) if names_parameters => Err(ConfigError::NoSignature),
            (Some(_), signing) if !names_parameters || signing.is_none() => {
                Err(ConfigError::SignatureOfNothing)
            }
            _ => Ok(config),
        }
    }
}

impl Mode {
    /// As the config spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            parameters: BTreeMap::new(),
            directory: Some("/etc/authorized-keys-agent/approved".into()),
            signed: None,
            is_signed: false,
            every: Duration::from_mins(1),
            full_every: Duration::from_mins(15),
            timeout: Duration::from_secs(20),
            stale_after: Duration::from_hours(1),
            on_stale: OnStale::Keep,
        }
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            manage: Vec::new(),
            file: FilePattern::default(),
            owner: Owner::Account,
            break_glass: "/etc/authorized-keys-agent/break-glass".into(),
            accepted_doors: Vec::new(),
            end_sessions: false,
            other_files: OtherFiles::Remove,
            lock: WhenLocked::InAFight,
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            max_removed: 0.5,
            confirmations: 3,
            confirm: Confirm::Polls,
        }
    }
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(5),
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/authorized-keys-agent".into(),
            runtime_dir: "/run/authorized-keys-agent".into(),
            fetch_state_dir: "/var/lib/authorized-keys-fetch".into(),
            fetch_runtime_dir: "/run/authorized-keys-fetch".into(),
        }
    }
}

impl Accounts {
    /// True when `name` is managed; `uid` is `None` while NSS does not know it. Root and system accounts
    /// (uid below `uid_min`) are managed only when named in full.
    pub fn manages(&self, name: &AccountName, uid: Option<u32>, uid_min: u32) -> bool {
        let ordinary = uid.is_none_or(|uid| uid >= uid_min);
        self.manage.iter().any(|pattern| match pattern {
            Pattern::Name(named) => named == name,
            Pattern::Glob(glob) => ordinary && glob.matches(name.as_str()),
        })
    }

    /// Whether the directory of an account that `fights` is locked, or of one that does not.
    pub fn locks(&self, fights: bool) -> bool {
        match self.lock {
            WhenLocked::Always => true,
            WhenLocked::InAFight => fights,
            WhenLocked::Never => false,
        }
    }

    /// True when other files in a home are taken away: a door that is meant to be open stays so.
    pub fn removes_other_files(&self) -> bool {
        let meant = self
            .accepted_doors
            .contains(&Accepted::Kind(doors::Kind::AuthorizedKeysFile));
        self.other_files == OtherFiles::Remove && !meant
    }

    /// The accounts that are named in full.
    pub fn named(&self) -> impl Iterator<Item = &AccountName> {
        self.manage.iter().filter_map(|pattern| match pattern {
            Pattern::Name(name) => Some(name),
            Pattern::Glob(_) => None,
        })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.contains(['*', '?', '[']) {
            return glob::Pattern::new(&text)
                .map(Self::Glob)
                .map_err(de::Error::custom);
        }
        AccountName::try_from(text)
            .map(Self::Name)
            .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let written = WrittenSource::deserialize(from)?;
        let default = Self::default();
        let stale_after = written.stale_after.unwrap_or(default.stale_after);
        let on_stale = match (written.on_stale, written.revoke_after) {
            (WrittenOnStale::Keep, None) => OnStale::Keep,
            (WrittenOnStale::Keep, Some(_)) => {
                return Err(de::Error::custom(
                    "`revoke-after` needs `on-stale = \"revoke\"`",
                ));
            }
            (WrittenOnStale::Revoke, None) => {
                return Err(de::Error::custom(
                    "`on-stale = \"revoke\"` needs `revoke-after`",
                ));
            }
            (WrittenOnStale::Revoke, Some(after)) if after < stale_after => {
                return Err(de::Error::custom(
                    "`revoke-after` is shorter than `stale-after`",
                ));
            }
            (WrittenOnStale::Revoke, Some(after)) => OnStale::RevokeAfter(after),
        };
        if let Some((account, _)) = written
            .parameters
            .iter()
            .find(|(_, names)| names.is_empty())
        {
            return Err(de::Error::custom(format!(
                "no parameter is named for `{account}`"
            )));
        }
        let local_only = written.paths.is_empty() && written.parameters.is_empty();
        Ok(Self {
            directory: written
                .directory
                .or(if local_only { default.directory } else { None }),
            paths: written.paths,
            parameters: written.parameters,
            signed: written.signed,
            is_signed: false,
            every: written.every.unwrap_or(default.every),
            full_every: written.full_every.unwrap_or(default.full_every),
            timeout: written.timeout.unwrap_or(default.timeout),
            stale_after,
            on_stale,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole config of `text`.
    fn read(text: &str) -> Config {
        Config::read(&format!("{text}\n[accounts]\nmanage = [\"bob\"]")).unwrap()
    }

    #[test]
    fn a_config_that_was_cut_short_lets_nobody_go() {
        for text in ["", "mode = \"enforce\"", "[accounts]\nmanage = []"] {
            let error = Config::read(text).unwrap_err().to_string();
            assert!(error.contains("names no account"), "{error}");
        }
    }

    fn check_error(text: &str, expected: &str) {
        let error = Config::read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.contains("line ") && error.contains('^'), "{error}");
    }

    #[test]
    fn an_error_names_the_line_and_what_to_do() {
        check_error("mode = \"enforced\"", "unknown variant `enforced`");
        check_error("[source]\nevry = \"60s\"", "unknown field `evry`");
        check_error("[source]\nevery = \"60\"", "not a duration");
        check_error("[source]\nevery = \"1ms\"", "100ms to 7d");
        check_error("[source]\ntimeout = \"2h\"", "100ms to 10m");
        check_error("[source]\npaths = [\"/k/{tag:}\"]", "not a tag name");
        check_error("[source]\npaths = [\"/k/{Tag:x}\"]", "only {iam-role}");
        check_error(
            "[source]\nparameters = { bob = [\"/k/a b\"] }",
            "a parameter name has only",
        );
        check_error(
            "[source]\nparameters = { bob = [\"/k:a:b\"] }",
            "one `:label`",
        );
        check_error(
            "[source]\nparameters = { bob = [] }",
            "no parameter is named for `bob`",
        );
        check_error(
            "[source]\nparameters = { \"a/b\" = [\"/k\"] }",
            "not an account name",
        );
        check_error(
            "[source]\non-stale = \"delete\"",
            "unknown variant `delete`",
        );
        check_error("[source]\non-stale = \"revoke\"", "needs `revoke-after`");
        check_error("[source]\nrevoke-after = \"2h\"", "needs `on-stale");
        check_error(
            "[source]\non-stale = \"revoke\"\nrevoke-after = \"59m\"",
            "shorter than `stale-after`",
        );
        check_error("[accounts]\nmanage = [\"a/b\"]", "not an account name");
        check_error(
            "[accounts]\nfile = \"/etc/keys\"",
            "one file for all accounts",
        );
        check_error("[accounts]\nfile = \"%h/../x\"", "without `.` and `..`");
        check_error("[accounts]\nfile = \"%x/y\"", "only %h, %u, %U and %%");
        check_error("[policy]\noptions = [\"restrictive\"]", "not an option");
        check_error("[policy]\nalgorithms = [\"ssh-dss\"]", "never accepted");
        check_error(
            "[policy]\nalgorithms = [\"ecdsa-sha2-nistp265\"]",
            "not a key type: ssh-ed25519, ",
        );
        check_error("[policy]\nalgorithms = []", "names no key type");
        check_error("[policy]\nsignatures = 2", "in `signed-by`");
        check_error("[policy]\naudience = \"prod\"", "in `signed-by`");
        check_error("[policy]\nsigned-by = \"signers\"", "absolute path");
        let policy = "[policy]\nsigned-by = \"/etc/signers\"";
        check_error(&format!("{policy}\nsignatures = 0"), "at least 1");
        check_error(
            &format!("{policy}\naudience = \"a b\""),
            "a word such as `prod`",
        );
        check_error("[source]\nsigned = \"/k:a:b\"", "one `:label`");
        check_error("[guard]\nmax-removed = 2.0", "0.0 to 1.0");
        check_error("[guard]\nconfirmations = 0", "at least 1");
        check_error("[guard]\nconfirm = \"nobody\"", "`polls` or `person`");
        check_error("[paths]\nstate-dir = \"x\"", "absolute path");
    }

    #[test]
    fn a_signature_is_of_named_parameters_and_named_parameters_have_one() {
        const POLICY: &str = "[policy]\nsigned-by = \"/etc/signers\"";
        const NAMED: &str = "parameters = { bob = [\"/k\"] }";
        const SIGNED: &str = "signed = \"/k/signed\"";
        let check = |source: &[&str], policy: &str, expected: &str| {
            let source = source.join("\n");
            let text = format!("[source]\n{source}\n{policy}\n[accounts]\nmanage = [\"bob\"]");
            let error =
                Config::read(&text).map_or_else(|error| error.to_string(), |_| String::new());
            assert!(
                error.contains(expected) && error.is_empty() == expected.is_empty(),
                "{text}: {error}"
            );
        };
        check(&[NAMED, SIGNED], POLICY, "");
        check(&["paths = [\"/k\"]"], POLICY, "");
        check(&[], POLICY, "");
        check(&[NAMED], "", "");
        check(&[NAMED], POLICY, "`[source] parameters` needs `signed`");
        check(&[NAMED, SIGNED], "", "counts with `[policy] signed-by`");
        check(&[SIGNED], POLICY, "is the signature of `parameters`");
    }

    #[test]
    fn the_default_directory_is_for_those_who_configure_nothing() {
        let read = |text: &str| self::read(text).source;
        let default = Some(PathBuf::from("/etc/authorized-keys-agent/approved"));
        assert_eq!(read("").directory, default);
        assert_eq!(read("[source]\nevery = \"30s\"").directory, default);
        assert_eq!(read("[source]\npaths = [\"/k\"]").directory, None);
        assert_eq!(
            read("[source]\nparameters = { bob = [\"/k:live\"] }").directory,
            None
        );
        let both = read("[source]\npaths = [\"/k\"]\ndirectory = \"/etc/keys\"");
        assert_eq!(
            (both.paths.len(), both.directory),
            (1, Some("/etc/keys".into()))
        );
    }

    #[test]
    fn a_stale_list_stays_in_force_unless_asked_otherwise() {
        let read = |text: &str| {
            let source = self::read(text).source;
            (source.stale_after.as_secs(), source.on_stale)
        };
        assert_eq!(read(""), (3600, OnStale::Keep));
        assert_eq!(
            read("[source]\nstale-after = \"5m\"\non-stale = \"keep\""),
            (300, OnStale::Keep)
        );
        assert_eq!(read("[source]\nstale-after = \"7d\"").0, 7 * 24 * 3600);
        let revoke = OnStale::RevokeAfter(Duration::from_hours(240));
        assert_eq!(
            read("[source]\non-stale = \"revoke\"\nrevoke-after = \"240h\""),
            (3600, revoke)
        );
    }

    #[test]
    fn globs_never_reach_system_accounts() {
        let config = Config::read("[accounts]\nmanage = [\"ec2-user\", \"*\"]").unwrap();
        let manages = |name: &str, uid| {
            config
                .accounts
                .manages(&AccountName::try_from(name).unwrap(), uid, 1000)
        };
        assert!(manages("ec2-user", Some(12)));
        assert!(manages("bob", Some(1000)));
        assert!(!manages("root", Some(0)));
        assert!(!manages("www-data", Some(33)));
    }
}
