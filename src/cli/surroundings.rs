//! What a command has from the process it runs in: the clock, the environment, the config; and how it ends.

use std::path::Path;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::model::config::tables::Config;

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

pub(super) fn parse_config(path: &Path, text: &str) -> anyhow::Result<Config> {
    Config::read(text).map_err(|error| anyhow!("in the config `{}`:\n{error}", path.display()))
}

/// For a daemon's SIGHUP: the same, with the error as text.
pub(super) fn reread_config(path: &Path) -> Result<Config, String> {
    read_config(path).map_err(|error| format!("{error:#}"))
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

/// sshd reads a time without `Z` in the system's zone.
pub(super) fn zone() -> TimeZone {
    TimeZone::system()
}
