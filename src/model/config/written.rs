//! How the config is written in TOML: every value checks itself while it is read, so an error carries the line and a caret.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::model::account::AccountName;
use crate::model::key::options;
use crate::model::key::policy::{Policy, Signing};
use crate::model::list::statement::is_audience;
use crate::model::list::template::{NameTemplate, PathTemplate};

/// The source as written; what one key says of another is checked when all are read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct WrittenSource {
    pub(super) paths: Vec<PathTemplate>,
    pub(super) parameters: BTreeMap<AccountName, Vec<NameTemplate>>,
    #[serde(deserialize_with = "absolute_or_none")]
    pub(super) directory: Option<PathBuf>,
    pub(super) signed: Option<NameTemplate>,
    #[serde(deserialize_with = "duration_or_none")]
    pub(super) every: Option<Duration>,
    #[serde(deserialize_with = "duration_or_none")]
    pub(super) full_every: Option<Duration>,
    #[serde(deserialize_with = "short_duration_or_none")]
    pub(super) timeout: Option<Duration>,
    #[serde(deserialize_with = "duration_or_none")]
    pub(super) stale_after: Option<Duration>,
    pub(super) on_stale: WrittenOnStale,
    #[serde(deserialize_with = "long_duration_or_none")]
    pub(super) revoke_after: Option<Duration>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WrittenOnStale {
    #[default]
    Keep,
    Revoke,
}

/// The policy as written; missing keys take the defaults.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WrittenPolicy {
    algorithms: Option<Vec<Algorithm>>,
    min_rsa_bits: Option<u32>,
    options: Option<Vec<OptionName>>,
    #[serde(default, deserialize_with = "absolute_or_none")]
    signed_by: Option<PathBuf>,
    #[serde(default, deserialize_with = "at_least_one_or_none")]
    signatures: Option<u32>,
    audience: Option<Audience>,
}

struct Audience(String);

pub(super) struct Algorithm(String);
pub(super) struct OptionName(String);

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        if name == "ssh-dss" || name.contains("-cert-v01@") {
            return Err(de::Error::custom(
                "DSA keys and certificates are never accepted",
            ));
        }
        if matches!(name.as_str(), "rsa-sha2-256" | "rsa-sha2-512") {
            return Err(de::Error::custom(
                "a signature algorithm; the key type is `ssh-rsa`",
            ));
        }
        let known = Policy::default().algorithms;
        if !known.contains(&name) {
            return Err(de::Error::custom(format!(
                "not a key type: {}",
                known.join(", ")
            )));
        }
        Ok(Self(name))
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if is_audience(&text) {
            Ok(Self(text))
        } else {
            Err(de::Error::custom(
                "an audience is a word such as `prod`: letters, digits and . - _",
            ))
        }
    }
}

impl<'de> Deserialize<'de> for OptionName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        match options::known(&name) {
            Some(_) => Ok(Self(name)),
            None => Err(de::Error::custom(
                "not an option of authorized_keys (sshd(8))",
            )),
        }
    }
}

pub(super) fn read_policy<'de, D: Deserializer<'de>>(from: D) -> Result<Policy, D::Error> {
    let written = WrittenPolicy::deserialize(from)?;
    if written.algorithms.as_ref().is_some_and(Vec::is_empty) {
        return Err(de::Error::custom(
            "`algorithms` names no key type, so no key could ever be listed",
        ));
    }
    let default = Policy::default();
    let signing = match (written.signed_by, written.signatures, written.audience) {
        (Some(signed_by), signatures, audience) => Some(Signing {
            signed_by,
            signatures: signatures.unwrap_or(1),
            audience: audience.map(|audience| audience.0),
        }),
        (None, None, None) => None,
        (None, ..) => {
            return Err(de::Error::custom(
                "`signatures` and `audience` are of signed lists: name the file of those who may sign in `signed-by`",
            ));
        }
    };
    Ok(Policy {
        signing,
        algorithms: written.algorithms.map_or(default.algorithms, |names| {
            names.into_iter().map(|name| name.0).collect()
        }),
        min_rsa_bits: written.min_rsa_bits.unwrap_or(default.min_rsa_bits),
        options: written.options.map_or(default.options, |names| {
            names.into_iter().map(|name| name.0).collect()
        }),
    })
}

/// `"60s"`, `"5m"`, `"1h 30m"`: at least [`SHORTEST`], at most a week.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    const LONGEST: Duration = Duration::from_hours(7 * 24);
    duration_within(from, LONGEST, "100ms to 7d")
}

/// Below this the agent would be the load it watches for.
const SHORTEST: Duration = Duration::from_millis(100);

pub(super) fn duration_within<'de, D: Deserializer<'de>>(
    from: D,
    longest: Duration,
    words: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let bad = || de::Error::custom("not a duration such as \"60s\", \"5m\" or \"1h 30m\"");
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    // A day is 24 hours here: what is waited for is time that passes, not a date.
    let parsed = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| bad())?;
    match Duration::try_from(parsed) {
        Ok(duration) if (SHORTEST..=longest).contains(&duration) => Ok(duration),
        _ => Err(de::Error::custom(format!(
            "a duration from {words} is needed"
        ))),
    }
}

pub(super) fn duration_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

/// A [`duration`] for a person or a poll to wait.
pub(super) fn short_duration_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    const LONGEST: Duration = Duration::from_mins(10);
    duration_within(from, LONGEST, "100ms to 10m").map(Some)
}

/// A [`duration`] of up to a year: how long an outage may last is nothing that a week bounds.
pub(super) fn long_duration_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    const LONGEST: Duration = Duration::from_hours(365 * 24);
    duration_within(from, LONGEST, "100ms to 365d").map(Some)
}

pub(super) fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(de::Error::custom("an absolute path is needed"))
    }
}

pub(super) fn absolute_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<PathBuf>, D::Error> {
    absolute(from).map(Some)
}

pub(super) fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(de::Error::custom("a share from 0.0 to 1.0 is needed"))
    }
}

pub(super) fn at_least_one_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<u32>, D::Error> {
    at_least_one(from).map(Some)
}

pub(super) fn at_least_one<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let count = u32::deserialize(from)?;
    if count > 0 {
        Ok(count)
    } else {
        Err(de::Error::custom("at least 1 is needed"))
    }
}
