//! The options in front of a key, read as sshd reads them.
//!
//! Sources: sshd(8) `AUTHORIZED_KEYS FILE FORMAT` and OpenSSH's `auth-options.c: sshauthopt_parse`,
//! `opt_flag`, `opt_match`, `opt_dequote`, `handle_permit`. One unknown, unquoted or bad option makes sshd
//! drop the whole line, so everything is checked here before it is rendered.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::model::escape::is_invisible;
use crate::model::key::absolute_time::AbsoluteTime;
use crate::model::key::release::{TooOld, UTC_EXPIRY, Version};

/// One option: its keyword in lower case and, where it takes one, its value without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOption {
    name: &'static str,
    value: Option<String>,
}

/// The options of one line, in the order written: `restrict,pty` and `pty,restrict` differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<KeyOption>);

/// Why sshd, or this program, would not take the options of a line.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// A keyword that no OpenSSH knows; which one of the line's, from 1. The word itself may be anything.
    #[error("an unknown option, number {0} of the line")]
    Unknown(usize),
    /// Nothing between two commas, or a comma at the end.
    #[error("an empty option: a comma too many")]
    Empty,
    /// `command=ls`: OpenSSH wants double quotes.
    #[error("the value of `{0}` must be in double quotes")]
    Unquoted(&'static str),
    /// The closing quote is missing.
    #[error("the value of `{0}` has no closing quote")]
    Unclosed(&'static str),
    /// A flag with a value, or a valued option without one.
    #[error("`{0}` takes no value")]
    NoValue(&'static str),
    /// The option needs a value.
    #[error("`{0}` needs a value in double quotes")]
    NeedsValue(&'static str),
    /// Something follows the option that is no comma.
    #[error("`{0}` is not followed by a comma or a blank")]
    Junk(&'static str),
    /// An option that may stand once stands twice.
    #[error("`{0}` stands there twice")]
    Twice(&'static str),
    /// The value is not what the option takes.
    #[error("the value of `{name}` is not usable: {why}")]
    BadValue {
        /// The option.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What an option takes.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    Once(fn(&str) -> Result<(), &'static str>),
    Many(fn(&str) -> Result<(), &'static str>),
}

/// Every keyword of `sshauthopt_parse`. `no-restrict` and `no-cert-authority` do not exist.
const KNOWN: [(&str, Takes); 24] = [
    ("restrict", Takes::Nothing),
    ("cert-authority", Takes::Nothing),
    ("agent-forwarding", Takes::Nothing),
    ("no-agent-forwarding", Takes::Nothing),
    ("port-forwarding", Takes::Nothing),
    ("no-port-forwarding", Takes::Nothing),
    ("pty", Takes::Nothing),
    ("no-pty", Takes::Nothing),
    ("user-rc", Takes::Nothing),
    ("no-user-rc", Takes::Nothing),
    ("x11-forwarding", Takes::Nothing),
    ("no-x11-forwarding", Takes::Nothing),
    ("touch-required", Takes::Nothing),
    ("no-touch-required", Takes::Nothing),
    ("verify-required", Takes::Nothing),
    ("no-verify-required", Takes::Nothing),
    ("command", Takes::Once(any_text)),
    ("from", Takes::Once(from_list)),
    ("expiry-time", Takes::Once(expiry)),
    ("principals", Takes::Once(any_text)),
    ("tunnel", Takes::Once(tunnel)),
    ("environment", Takes::Many(environment)),
    ("permitopen", Takes::Many(permit_open)),
    ("permitlisten", Takes::Many(permit_listen)),
];

/// `SSH_AUTHOPT_ENV_MAX` and `SSH_AUTHOPT_PERMIT_MAX` of `auth-options.c` are 1024 and 4096; one bound serves.
const MAX_REPEATS: usize = 1024;

/// The keyword `name` in its one spelling, if OpenSSH has it.
pub fn known(name: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .map(|(known, _)| *known)
        .find(|known| *known == name)
}

impl Options {
    /// Reads the option field of a line: everything before the first blank outside quotes.
    pub fn read(field: &str) -> Result<Self, OptionError> {
        let mut options = Vec::new();
        let mut rest = field;
        loop {
            let (option, after) = read_one(rest, options.len() + 1)?;
            check_repeats(&options, &option)?;
            options.push(option);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => return Ok(Self(options)),
            }
        }
    }

    /// The keywords, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|option| option.name)
    }

    /// True when the line has no options.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same options for an sshd of `version` in `zone`. What it does not know cannot be left out: that would
    /// loosen the line.
    pub fn for_openssh(&self, version: Version, zone: &TimeZone) -> Result<Self, TooOld> {
        let mut options = self.clone();
        for option in &mut options.0 {
            option.known_to(version)?;
            if option.name == "expiry-time" && version < UTC_EXPIRY {
                let written = option.value.as_deref().and_then(AbsoluteTime::read);
                let local = written.and_then(|time| time.in_standard_time(zone));
                option.value = local.or(option.value.take());
            }
        }
        Ok(options)
    }

    /// That an sshd of `version` takes them as they are, or why it drops the line.
    pub fn taken_by(&self, version: Version) -> Result<(), TooOld> {
        for option in &self.0 {
            option.known_to(version)?;
            let utc = option.name == "expiry-time"
                && option
                    .value
                    .as_deref()
                    .and_then(AbsoluteTime::read)
                    .is_some_and(|time| time.utc);
            if utc && version < UTC_EXPIRY {
                let what = "`expiry-time` in UTC".to_owned();
                return Err(TooOld {
                    what,
                    needs: UTC_EXPIRY,
                    has: version,
                });
            }
        }
        Ok(())
    }

    /// True where `from` has an entry that only a name can match: sshd looks up no names (`UseDNS no`, its default since 6.8).
    pub fn asks_for_names(&self) -> bool {
        let from = self.0.iter().find(|option| option.name == "from");
        let value = from.and_then(|from| from.value.as_deref());
        let is_name =
            |entry: &str| entry.contains(|c: char| c.is_ascii_alphabetic()) && !entry.contains(':');
        value.is_some_and(|value| value.split(',').any(is_name))
    }

    /// True for a line that can only run its own command.
    pub fn forces_command(&self) -> bool {
        self.names().any(|name| name == "command")
    }

    /// When the key stops being good, with `zone` for a time written without `Z`.
    pub fn expires_at(&self, zone: &TimeZone) -> Option<Timestamp> {
        let written = self.0.iter().find(|option| option.name == "expiry-time")?;
        Some(AbsoluteTime::read(written.value.as_deref()?)?.by_the_wall(zone))
    }
}

impl KeyOption {
    fn known_to(&self, version: Version) -> Result<(), TooOld> {
        match Version::of_option(self.name).filter(|needs| version < *needs) {
            Some(needs) => Err(TooOld {
                what: format!("the option `{}`", self.name),
                needs,
                has: version,
            }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, KeyOption { name, value }) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match value {
                None => f.write_str(name)?,
                Some(value) => write!(f, "{name}=\"{}\"", value.replace('"', "\\\""))?,
            }
        }
        Ok(())
    }
}

/// The option of this `number` from the front of `text`, and what follows it, which is empty or starts with a comma.
fn read_one(text: &str, number: usize) -> Result<(KeyOption, &str), OptionError> {
    let end = text.find([',', '=', '"']).unwrap_or(text.len());
    let (written, rest) = text.split_at(end);
    if written.is_empty() {
        return Err(OptionError::Empty);
    }
    let lower = written.to_ascii_lowercase();
    let Some((name, takes)) = KNOWN.into_iter().find(|(known, _)| *known == lower) else {
        return Err(OptionError::Unknown(number));
    };
    let check = match takes {
        Takes::Nothing if rest.starts_with('=') => return Err(OptionError::NoValue(name)),
        Takes::Nothing if !rest.is_empty() && !rest.starts_with(',') => {
            return Err(OptionError::Junk(name));
        }
        Takes::Nothing => return Ok((KeyOption { name, value: None }, rest)),
        Takes::Once(check) | Takes::Many(check) => check,
    };
    let quoted = rest
        .strip_prefix('=')
        .ok_or(OptionError::NeedsValue(name))?;
    let quoted = quoted
        .strip_prefix('"')
        .ok_or(OptionError::Unquoted(name))?;
    let (value, rest) = dequote(quoted).ok_or(OptionError::Unclosed(name))?;
    if !rest.is_empty() && !rest.starts_with(',') {
        return Err(OptionError::Junk(name));
    }
    let bad = |why| OptionError::BadValue { name, why };
    printable(&value)
        .and_then(|()| check(&value))
        .map_err(bad)?;
    let value = if name == "expiry-time" {
        canonical_expiry(&value)
    } else {
        value
    };
    Ok((
        KeyOption {
            name,
            value: Some(value),
        },
        rest,
    ))
}

/// `opt_dequote`, behind the first quote: up to the next that no backslash precedes; `\"` is the only escape. Returns what follows, too.
pub fn dequote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                value.push('"');
            }
            '"' => return Some((value, &text[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

fn check_repeats(before: &[KeyOption], option: &KeyOption) -> Result<(), OptionError> {
    let same = before
        .iter()
        .filter(|earlier| earlier.name == option.name)
        .count();
    let limit = match KNOWN.iter().find(|(known, _)| *known == option.name) {
        Some((_, Takes::Many(_))) => MAX_REPEATS,
        _ => 1,
    };
    if same < limit {
        Ok(())
    } else {
        Err(OptionError::Twice(option.name))
    }
}

/// A value may reach other programs that split lines in their own way (cloud-init uses Python's
/// `splitlines`), so no control, separator or replacement character passes. A tab splits no line anywhere, and a command may
/// need it as it is.
fn printable(value: &str) -> Result<(), &'static str> {
    let hidden = |c: char| {
        c.is_control() && c != '\t' || is_invisible(c) || c == char::REPLACEMENT_CHARACTER
    };
    if value.chars().any(hidden) {
        return Err("it holds a control or invisible character, or is not UTF-8");
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all values")]
fn any_text(_: &str) -> Result<(), &'static str> {
    Ok(())
}

/// A pattern list for `match.c` and `addrmatch.c`. One empty entry, or one CIDR entry with host bits set, and
/// sshd lets nobody in by any entry of the list.
fn from_list(value: &str) -> Result<(), &'static str> {
    if !value.is_empty() && value.split(',').all(|entry| entry.starts_with('!')) {
        return Err("only exclusions: without another entry, such as `*`, sshd never matches it");
    }
    for entry in value.split(',') {
        let entry = entry.strip_prefix('!').unwrap_or(entry);
        let host = |c: char| c.is_ascii_alphanumeric() || ".:*?_-%".contains(c);
        match entry.split_once('/') {
            _ if entry.is_empty() => return Err("an entry of the list is empty"),
            Some((address, bits)) => check_cidr(address, bits)?,
            None if !entry.chars().all(host) => return Err("not a host name, address or pattern"),
            None => {}
        }
    }
    Ok(())
}

fn check_cidr(address: &str, bits: &str) -> Result<(), &'static str> {
    const WRONG: &str = "not an address block in CIDR form";
    let length: u32 = match bits.parse() {
        Ok(length) if bits.bytes().all(|b| b.is_ascii_digit()) => length,
        _ => return Err(WRONG),
    };
    let (value, width) = match address.parse().map_err(|_| WRONG)? {
        std::net::IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        std::net::IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    if length > width {
        return Err(WRONG);
    }
    let host_bits = width - length;
    let mask = 1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |bit| bit - 1);
    if value & mask != 0 {
        return Err("the address has bits set outside its mask, so sshd never matches it");
    }
    Ok(())
}

fn expiry(value: &str) -> Result<(), &'static str> {
    AbsoluteTime::read(value).map_or(Err("not a time as YYYYMMDD[HHMM[SS]][Z]"), |_| Ok(()))
}

fn canonical_expiry(value: &str) -> String {
    let upper = value.to_ascii_uppercase();
    upper
        .strip_suffix("UTC")
        .map_or_else(|| upper.clone(), |digits| format!("{digits}Z"))
}

/// `misc.c: a2tun` for a single device.
fn tunnel(value: &str) -> Result<(), &'static str> {
    /// `SSH_TUNID_MAX`: `SSH_TUNID_ANY` and two more values are reserved above it.
    const MAX: u32 = 0x7fff_ffff - 2;
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match value.parse::<u32>() {
        _ if value == "any" => Ok(()),
        Ok(device) if digits && device <= MAX => Ok(()),
        _ => Err("not a tunnel device number"),
    }
}

fn environment(value: &str) -> Result<(), &'static str> {
    let name = value.split_once('=').map_or("", |(name, _)| name);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err("not NAME=value");
    }
    Ok(())
}

fn permit_open(value: &str) -> Result<(), &'static str> {
    const WRONG: &str = "not host:port";
    let (host, port) = value.rsplit_once(':').ok_or(WRONG)?;
    check_host(host)?;
    check_port(port)
}

fn permit_listen(value: &str) -> Result<(), &'static str> {
    match value.rsplit_once(':') {
        Some((host, port)) => check_host(host).and_then(|()| check_port(port)),
        None => check_port(value),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    /// `NI_MAXHOST`.
    const MAX: usize = 1024;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fits = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._*?-".contains(c)),
    };
    if host.is_empty() || host.len() >= MAX || !fits {
        return Err("not a host name or [address]");
    }
    Ok(())
}

fn check_port(port: &str) -> Result<(), &'static str> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if port == "*" || digits && port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(());
    }
    Err("not a port from 1 to 65535 or `*`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        let shown = match Options::read(input) {
            Ok(options) => options.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(shown, expected, "{input}");
    }

    #[test]
    fn reads_and_renders_what_sshd_takes() {
        check("restrict", "restrict");
        check("ReStRiCt,PTY", "restrict,pty");
        check(
            r#"command="echo \"a b\", done""#,
            r#"command="echo \"a b\", done""#,
        );
        check(r#"command="a\\b""#, r#"command="a\\b""#);
        check("command=\"a\tb\"", "command=\"a\tb\"");
        check(
            r#"from="10.0.0.0/8,!10.1.2.3,*.example.com,::1/128""#,
            r#"from="10.0.0.0/8,!10.1.2.3,*.example.com,::1/128""#,
        );
        check(r#"expiry-time="20300101utc""#, r#"expiry-time="20300101Z""#);
        check(
            r#"expiry-time="202612312359""#,
            r#"expiry-time="202612312359""#,
        );
        check(
            r#"permitopen="[::1]:22",permitopen="db:*""#,
            r#"permitopen="[::1]:22",permitopen="db:*""#,
        );
        check(r#"permitlisten="8080""#, r#"permitlisten="8080""#);
    }

    #[test]
    fn says_why_it_refuses() {
        check("restrict,", "error: an empty option: a comma too many");
        check(
            "no-restrict",
            "error: an unknown option, number 1 of the line",
        );
        check(
            "no-pty,hunter2",
            "error: an unknown option, number 2 of the line",
        );
        check("restrict=\"x\"", "error: `restrict` takes no value");
        check("command", "error: `command` needs a value in double quotes");
        check(
            "command=ls",
            "error: the value of `command` must be in double quotes",
        );
        check(
            "command=\"ls",
            "error: the value of `command` has no closing quote",
        );
        check(
            "command=\"a\",command=\"b\"",
            "error: `command` stands there twice",
        );
        check(
            "command=\"a\"pty",
            "error: `command` is not followed by a comma or a blank",
        );
        check(
            "from=\"10.0.0.1/8\"",
            "error: the value of `from` is not usable: the address has bits set outside its mask, so sshd never matches it",
        );
        check(
            "expiry-time=\"20261332\"",
            "error: the value of `expiry-time` is not usable: not a time as YYYYMMDD[HHMM[SS]][Z]",
        );
        check(
            "from=\"!10.0.0.1,!10.0.0.2\"",
            "error: the value of `from` is not usable: only exclusions: without another entry, such as `*`, sshd never matches it",
        );
        check(
            "permitopen=\"db\"",
            "error: the value of `permitopen` is not usable: not host:port",
        );
        check(
            "command=\"a\u{2028}b\"",
            "error: the value of `command` is not usable: it holds a control or invisible character, or is not UTF-8",
        );
    }

    #[test]
    fn an_older_sshd_gets_what_it_understands() {
        let check = |version: &str, zone: &TimeZone, input: &str, expected: &str| {
            let options = Options::read(input)
                .unwrap()
                .for_openssh(version.parse().unwrap(), zone);
            let shown = options.map_or_else(
                |error| format!("error: {error}"),
                |options| options.to_string(),
            );
            assert_eq!(shown, expected, "{version} {input}");
        };
        let utc = TimeZone::UTC;
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let plus_two = TimeZone::fixed(jiff::tz::offset(2));
        check(
            "9.1",
            &berlin,
            r#"expiry-time="20300101Z""#,
            r#"expiry-time="20300101Z""#,
        );
        check(
            "9.0",
            &utc,
            r#"expiry-time="20300101Z""#,
            r#"expiry-time="20300101000000""#,
        );
        check(
            "8.7",
            &plus_two,
            r#"expiry-time="202912312330Z""#,
            r#"expiry-time="20300101013000""#,
        );
        check(
            "8.7",
            &berlin,
            r#"expiry-time="20300101Z""#,
            r#"expiry-time="20300101010000""#,
        );
        // In summer the digits are those of winter: sshd adds the hour again.
        check(
            "8.7",
            &berlin,
            r#"expiry-time="20300701Z""#,
            r#"expiry-time="20300701010000""#,
        );
        check(
            "8.7",
            &berlin,
            r#"restrict,expiry-time="20300101""#,
            r#"restrict,expiry-time="20300101""#,
        );
        let too_old = |what: &str, needs: &str, has: &str| {
            format!(
                "error: the option `{what}` needs OpenSSH {needs}, and here it is {has}, which would drop the whole line"
            )
        };
        check(
            "7.6",
            &utc,
            r#"expiry-time="20300101""#,
            &too_old("expiry-time", "7.7", "7.6"),
        );
        check("7.1", &utc, "pty,restrict", &too_old("pty", "7.2", "7.1"));
        check(
            "7.7",
            &utc,
            r#"permitlisten="80""#,
            &too_old("permitlisten", "7.8", "7.7"),
        );
        check(
            "8.1",
            &utc,
            "no-touch-required",
            &too_old("no-touch-required", "8.2", "8.1"),
        );
        check(
            "8.3",
            &utc,
            "verify-required",
            &too_old("verify-required", "8.4", "8.3"),
        );
        check(
            "8.4",
            &utc,
            "restrict,verify-required",
            "restrict,verify-required",
        );
        check(
            "6.6",
            &utc,
            r#"no-pty,from="10.0.0.0/8""#,
            r#"no-pty,from="10.0.0.0/8""#,
        );
    }

    #[test]
    fn expiry_is_utc_or_local() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let at = |text: &str| {
            Options::read(text)
                .unwrap()
                .expires_at(&zone)
                .unwrap()
                .to_string()
        };
        assert_eq!(at(r#"expiry-time="20300101Z""#), "2030-01-01T00:00:00Z");
        assert_eq!(at(r#"expiry-time="20300101""#), "2029-12-31T22:00:00Z");
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let summer = Options::read(r#"expiry-time="202607010000""#)
            .unwrap()
            .expires_at(&berlin);
        assert_eq!(summer.unwrap().to_string(), "2026-06-30T22:00:00Z");
    }
}
