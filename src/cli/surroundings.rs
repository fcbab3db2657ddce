//! What a command has from the process it runs in: the clock, the environment, the config; and how it ends.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::path::Path;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::host::store;
use crate::model::config::tables::Config;
use crate::model::escape::escaped;
use crate::model::status::problem::Cause;

/// How a command ended; each command says what its code means.
pub(super) type Outcome = anyhow::Result<u8>;

/// Wrong usage, or a config that cannot be used.
pub(super) const USAGE: u8 = 2;

/// Reads and checks the config; an error names the file, the line and what is wrong there.
pub(super) fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the config `{}`", path.display()))?;
    parse_config(path, &text)
}

/// The config; `None` where there is none and none was named, which is said.
pub(super) fn config_if_any(path: &Path, named: bool) -> anyhow::Result<Option<Config>> {
    use ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match std::fs::read_to_string(path) {
        Err(error)
            if !named && matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) =>
        {
            let path = escaped(&path.display().to_string());
            let _ = writeln!(
                io::stderr(),
                "note: no config can be read at `{path}`, so the default policy counts"
            );
            Ok(None)
        }
        _ => read_config(path).map(Some),
    }
}

pub(super) fn parse_config(path: &Path, text: &str) -> anyhow::Result<Config> {
    Config::read(text).map_err(|error| anyhow!("in the config `{}`:\n{error}", path.display()))
}

/// An error, and on a line of its own what a person can do about it.
pub(super) fn hinted(error: impl Display, hint: Option<String>) -> anyhow::Error {
    match hint {
        Some(hint) => anyhow!("{error}\n  hint: {hint}"),
        None => anyhow!("{error}"),
    }
}

/// For a daemon's SIGHUP: the same, with the error as text.
pub(super) fn reread_config(path: &Path) -> Result<Config, String> {
    warn_of_open_config(path);
    read_config(path).map_err(|error| format!("{error:#}"))
}

/// For a daemon: says who else decides what it does.
pub(super) fn warn_of_open_config(path: &Path) {
    if let Some(cause) = open_config(path) {
        tracing::warn!(hint = cause.hint(), "{}", cause.reason());
    }
}

/// The config, or a directory on the way to it, where others than root, and the user of this process, may change it.
pub(super) fn open_config(path: &Path) -> Option<Cause> {
    let open = store::open_to_others(path)?;
    let path = open.display().to_string();
    Some(Cause::ConfigOpen { path })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the clock is read here and handed down"
)]
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

pub(super) fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// AWS's own variable for "do not ask the instance metadata service"; see the AWS SDK reference, "IMDS client".
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read here and handed down"
)]
pub(super) fn may_ask_metadata() -> bool {
    !std::env::var("AWS_EC2_METADATA_DISABLED")
        .is_ok_and(|disabled| disabled.eq_ignore_ascii_case("true"))
}

/// <https://no-color.org>
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read here and handed down"
)]
pub(super) fn has_colour() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_unwanted
}

/// Whether a person said when OpenSSH asks by a program, `SSH_ASKPASS`, and when in the terminal (ssh(1)).
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read here and handed down"
)]
pub(super) fn has_askpass_wish() -> bool {
    std::env::var_os("SSH_ASKPASS_REQUIRE").is_some()
}

/// sshd reads a time without `Z` in the system's zone.
pub(super) fn zone() -> TimeZone {
    TimeZone::system()
}
