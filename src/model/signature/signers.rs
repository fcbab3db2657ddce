//! Who may sign: a file in OpenSSH's `allowed_signers` format (ssh-keygen(1), ALLOWED SIGNERS).
//!
//! Sources: OpenSSH's `sshsig.c: parse_principals_key_and_options`, `sshsigopt_parse`, `check_allowed_keys_line`. As
//! there, a line that is not understood counts for nothing and stops no other. Names are for people: whoever is in the
//! file may sign.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::model::escape::{escaped, shortened};
use crate::model::key::absolute_time::AbsoluteTime;
use crate::model::key::blob::known_type;
use crate::model::key::line::{key_type, split_options, trim, word};
use crate::model::key::options::dequote;
use crate::model::key::public_key::{KeyError, PublicKey};
use crate::model::patterns::listed;

/// What a signature is made for, so that one for something else is none of a list.
pub const NAMESPACE: &str = "authorized-keys-list";

/// The lines that count, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers(pub(super) Vec<Signer>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signer {
    /// As written, safe to be shown.
    pub(super) principals: String,
    pub(super) key: PublicKey,
    pub(super) limits: Limits,
}

/// What its options say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    namespaces: Option<String>,
    pub(super) valid_after: Option<Timestamp>,
    pub(super) valid_before: Option<Timestamp>,
}

/// A line that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// From 1.
    pub line: usize,
    /// Never holds key material.
    pub reason: String,
}

/// Why a key does not sign.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq, Hash)]
pub enum Untaken {
    #[error("a key of the type `{0}` may not sign")]
    Type(&'static str),
    #[error("an RSA key of {0} bits may not sign: 3072 to 8192 are taken")]
    RsaBits(u32),
}

/// Why a line does not count.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("{0}")]
    Form(&'static str),
    #[error("{0}")]
    Key(KeyError),
    #[error("{0}")]
    Untaken(Untaken),
}

/// What `strdelimw` skips (`misc.c`), but for the `\n` of the line.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

const NO_KEY: LineError = LineError::Form("no key follows the names and options");

impl Signers {
    /// Those who may sign until some time, as they are shown.
    pub fn ends(&self) -> Vec<(String, Timestamp)> {
        let mut all = Vec::new();
        for signer in &self.0 {
            if let Some(until) = signer.limits.valid_before {
                all.push((signer.shown(), until));
            }
        }
        all
    }

    /// `zone` is that of a time without `Z`.
    pub fn read(text: &str, zone: &TimeZone) -> (Self, Vec<Refused>) {
        let (mut signers, mut refused) = (Self::default(), Vec::new());
        for (before, line) in text.split('\n').enumerate() {
            match Signer::read(line, zone) {
                Ok(signer) => signers.0.extend(signer),
                Err(error) => refused.push(Refused {
                    line: before + 1,
                    reason: error.to_string(),
                }),
            }
        }
        (signers, refused)
    }

    /// Different keys that may sign in [`NAMESPACE`], whatever the time.
    pub fn count(&self) -> usize {
        let mut keys: Vec<&PublicKey> = Vec::new();
        for signer in &self.0 {
            if signer.limits.allow_namespace() && !keys.contains(&&signer.key) {
                keys.push(&signer.key);
            }
        }
        keys.len()
    }
}

impl Signer {
    /// Reads one line, without its `\n`; `None` for a blank one and a comment.
    fn read(line: &str, zone: &TimeZone) -> Result<Option<Self>, LineError> {
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        if line.contains('\0') {
            return Err(LineError::Form(
                "a NUL byte: OpenSSH ignores what follows it",
            ));
        }
        let (principals, rest) = split_principals(line)?;
        if principals.is_empty() {
            return Err(LineError::Form("no name in front of the key"));
        }
        if principals.contains('!') {
            return Err(LineError::Form(
                "a name with `!`: names are not matched here, so it would exclude nothing",
            ));
        }
        let (limits, key) = match read_key(rest.as_bytes()) {
            Err(KeyError::UnknownType) => {
                let (options, behind) = split_options(rest.as_bytes())
                    .ok_or(LineError::Form("a quote in the options is never closed"))?;
                let key = read_key(trim(behind));
                (Limits::read(&rest[..options.len()], zone), key)
            }
            key => (Ok(Limits::default()), key),
        };
        let key = key.map_err(|error| match error {
            KeyError::UnknownType => NO_KEY,
            error => LineError::Key(error),
        })?;
        let limits = limits.map_err(LineError::Form)?;
        taken(&key).map_err(LineError::Untaken)?;
        Ok(Some(Self {
            principals: shortened(&escaped(&principals), MOST),
            key,
            limits,
        }))
    }

    /// The name first: that is what a person looks for.
    pub(super) fn shown(&self) -> String {
        [&self.principals, " ", self.key.fingerprint()].concat()
    }
}

impl Limits {
    /// `sshsigopt_parse`.
    fn read(field: &str, zone: &TimeZone) -> Result<Self, &'static str> {
        let mut limits = Self::default();
        let mut rest = field;
        while !rest.is_empty() {
            let (name, behind) = rest.split_at(rest.find([',', '=']).unwrap_or(rest.len()));
            let name = name.to_ascii_lowercase();
            rest = behind;
            match name.as_str() {
                "cert-authority" => {
                    return Err(
                        "`cert-authority`: certificates are not taken, name the key itself",
                    );
                }
                "namespaces" | "valid-after" | "valid-before" => {
                    let quoted = behind.strip_prefix("=\"").and_then(dequote);
                    let (value, behind) = quoted.ok_or("an option without a value in quotes")?;
                    limits.set(&name, value, zone)?;
                    rest = behind;
                }
                // Between two commas, which OpenSSH lets pass.
                "" if behind.starts_with(',') => {}
                _ => return Err("an unknown option"),
            }
            if !rest.is_empty() {
                rest = rest
                    .strip_prefix(',')
                    .ok_or("an option that no comma or blank follows")?;
                if rest.is_empty() {
                    return Err("a comma too many");
                }
            }
        }
        match (limits.valid_after, limits.valid_before) {
            (Some(after), Some(before)) if before <= after => {
                Err("`valid-before` is not after `valid-after`")
            }
            _ => Ok(limits),
        }
    }

    fn set(&mut self, name: &str, value: String, zone: &TimeZone) -> Result<(), &'static str> {
        let time = AbsoluteTime::read(&value).ok_or(NO_TIME);
        let twice = match name {
            "namespaces" => self.namespaces.replace(value).is_some(),
            "valid-after" => self.valid_after.replace(time?.by_openssh(zone)).is_some(),
            _ => self.valid_before.replace(time?.by_the_wall(zone)).is_some(),
        };
        if twice {
            Err("an option twice")
        } else {
            Ok(())
        }
    }

    pub(super) fn allow_namespace(&self) -> bool {
        let listed = |namespaces: &String| listed(namespaces, NAMESPACE);
        self.namespaces.as_ref().is_none_or(listed)
    }
}

const NO_TIME: &str = "a time that is not YYYYMMDD[HHMM[SS]][Z]";

/// Bytes of names that are shown.
const MOST: usize = 200;

/// That lists are signed with such keys.
pub(super) fn taken(key: &PublicKey) -> Result<(), Untaken> {
    /// The most is ring's.
    const RSA_BITS: std::ops::RangeInclusive<u32> = 3072..=8192;
    match key.rsa_bits() {
        Some(bits) if RSA_BITS.contains(&bits) => Ok(()),
        Some(bits) => Err(Untaken::RsaBits(bits)),
        None if TYPES.contains(&key.algorithm()) => Ok(()),
        None => Err(Untaken::Type(
            known_type(key.algorithm()).unwrap_or("unknown"),
        )),
    }
}

/// Besides RSA.
const TYPES: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The names and what follows them. They end at a blank; those with blanks stand in quotes (`misc.c: strdelimw`).
fn split_principals(line: &str) -> Result<(String, &str), LineError> {
    let end = line
        .find(|c| BLANKS.contains(&c) || c == '"')
        .ok_or(NO_KEY)?;
    let (names, rest) = line.split_at(end);
    let (names, rest) = match rest.strip_prefix('"') {
        Some(quoted) => {
            let (inside, rest) = quoted
                .split_once('"')
                .ok_or(LineError::Form("a quote in the names is never closed"))?;
            ([names, inside].concat(), rest)
        }
        None => (names.to_owned(), rest),
    };
    Ok((names, rest.trim_start_matches(BLANKS)))
}

/// `sshkey_read`: a key type and a key.
fn read_key(text: &[u8]) -> Result<PublicKey, KeyError> {
    let said = key_type(text).ok_or(KeyError::UnknownType)?;
    let rest = trim(&text[said.len()..]);
    PublicKey::read(said, &rest[..word(rest)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn check(text: &str, expected: &str) {
        let text = text.replace("KEY", KEY);
        let (signers, refused) = Signers::read(&text, &TimeZone::UTC);
        let mut told: Vec<String> = signers
            .0
            .iter()
            .map(|signer| signer.principals.clone())
            .collect();
        told.extend(
            refused
                .into_iter()
                .map(|refused| format!("{}: {}", refused.line, refused.reason)),
        );
        assert_eq!(told.join("; "), expected, "{text:?}");
    }

    #[test]
    fn reads_lines_as_ssh_keygen_does() {
        check("", "");
        check("\n\r\n \t# alice KEY\n", "");
        check("alice KEY", "alice");
        check("\talice,bob \t KEY me\r\nb*@c KEY", "alice,bob; b*@c");
        check("\"a lice\" KEY\na\"b c\"KEY", "a lice; ab c");
        check("alice namespaces=\"a,b\" KEY", "alice");
        check(
            "alice ,,NameSpaces=\"a \\\" b\",,valid-after=\"20260101\",valid-before=\"202701010000utc\"\tKEY",
            "alice",
        );
        check("a\u{1b} KEY", "a\\u{1b}");
    }

    #[test]
    fn says_why_a_line_does_not_count() {
        let no_key = "1: no key follows the names and options";
        check("alice", no_key);
        check("KEY", no_key);
        check("alice hunter2 AAAA", no_key);
        check("alice namespaces=\"a\"", no_key);
        check("alice namespaces=\"a\" ", no_key);
        check(
            "x\n\nalice KEY",
            "alice; 1: no key follows the names and options",
        );
        check("\"alice KEY", "1: a quote in the names is never closed");
        check(
            "alice namespaces=\"a KEY",
            "1: a quote in the options is never closed",
        );
        check("\"\" KEY", "1: no name in front of the key");
        check(
            "*,!alice KEY",
            "1: a name with `!`: names are not matched here, so it would exclude nothing",
        );
        check(
            "ali\0ce KEY",
            "1: a NUL byte: OpenSSH ignores what follows it",
        );
        check(
            "alice cert-authority KEY",
            "1: `cert-authority`: certificates are not taken, name the key itself",
        );
        check("alice hunter2 KEY", "1: an unknown option");
        check(
            "alice namespaces KEY",
            "1: an option without a value in quotes",
        );
        check(
            "alice namespaces=a KEY",
            "1: an option without a value in quotes",
        );
        check(
            "alice namespaces=\"a\"b KEY",
            "1: an option that no comma or blank follows",
        );
        check("alice namespaces=\"a\", KEY", "1: a comma too many");
        check(
            "alice namespaces=\"a\",namespaces=\"b\" KEY",
            "1: an option twice",
        );
        check(
            "alice valid-before=\"2027\" KEY",
            "1: a time that is not YYYYMMDD[HHMM[SS]][Z]",
        );
        check(
            "alice valid-after=\"20270101\",valid-before=\"20270101\" KEY",
            "1: `valid-before` is not after `valid-after`",
        );
        check(
            "alice ssh-rsa AAAAB3NzaC1lZDI1",
            "1: the line says `ssh-rsa` but the key itself is of another type",
        );
        check(
            "alice ssh-ed25519 AAAA*",
            "1: the key after `ssh-ed25519` is not valid base64; was it cut, wrapped or pasted twice?",
        );
        check(
            "alice ssh-dss AAAAB3NzaC1kc3M=",
            "1: a key of the type `ssh-dss` may not sign",
        );
    }

    #[test]
    fn keys_of_the_namespace_count_once() {
        let count = |text: &str| {
            Signers::read(&text.replace("KEY", KEY), &TimeZone::UTC)
                .0
                .count()
        };
        let other = include_str!("testdata/allowed_signers")
            .lines()
            .next()
            .unwrap();
        assert_eq!(
            count("alice KEY\nbob namespaces=\"file\" KEY\nbob valid-before=\"20200101\" KEY"),
            1
        );
        assert_eq!(count(&format!("alice namespaces=\"file\" KEY\n{other}")), 1);
        assert_eq!(count(&format!("alice KEY\n{other}")), 2);
        assert_eq!(count(""), 0);
    }
}
