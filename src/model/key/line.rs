//! One line of an authorized_keys file, on bytes, as sshd reads it and in the one way this program writes it.
//!
//! Sources: sshd(8); OpenSSH's `auth2-pubkeyfile.c: auth_check_authkey_line` (first `type key comment`, then
//! options are skipped and it is tried again), `sshkey.c: sshkey_read`, `sshkey_advance_past_options`.

use std::fmt;

use jiff::tz::TimeZone;

use crate::model::key::inside;
use crate::model::key::options::{OptionError, Options};
use crate::model::key::public_key::{KeyError, PublicKey};
use crate::model::key::release::{TooOld, Version};

/// A line that grants a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLine {
    /// What stands before the key.
    pub options: Options,
    /// The key.
    pub key: PublicKey,
    /// What stands after it, printable ASCII only.
    pub comment: String,
}

/// What one line of a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing but blanks.
    Blank,
    /// `#` as the first byte that is no blank.
    Comment,
    /// A key.
    Key(KeyLine),
}

/// Why a line is not taken. Never holds key material.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum LineError {
    /// sshd would not see the rest of the line.
    #[error("a NUL byte: sshd ignores what follows it")]
    Nul,
    /// U+FEFF as some editors write it: sshd reads it as part of the first word.
    #[error(
        "a byte order mark or another invisible character before the key; save the text without it"
    )]
    Invisible,
    /// sshd would take the first alone.
    #[error(
        "more than one key on the line, of which sshd takes one at most: give each a line of its own"
    )]
    SecondKey,
    /// `#` in front of what was joined to one line.
    #[error("a comment that a key follows on the same line: give the key a line of its own")]
    KeyInComment,
    /// Neither options nor a key type start the line.
    #[error("not an authorized_keys line: no key type or option at its start")]
    NotAKey,
    /// The options are fine and no key follows.
    #[error("options without a key behind them")]
    OptionsOnly,
    /// A quote in the options is never closed.
    #[error("a quote in the options is never closed")]
    OpenQuote,
    /// The options are not what sshd takes.
    #[error("{0}")]
    Options(OptionError),
    /// The key is not usable.
    #[error("{0}")]
    Key(KeyError),
}

const BLANKS: [u8; 2] = [b' ', b'\t'];

impl Line {
    /// Reads one line, without its `\n`.
    pub fn read(line: &[u8]) -> Result<Self, LineError> {
        let line = trim(line);
        match line.first() {
            None => Ok(Self::Blank),
            Some(b'#') if inside::is_joined_to_comment(line) => Err(LineError::KeyInComment),
            Some(b'#') => Ok(Self::Comment),
            Some(_) if line.contains(&0) => Err(LineError::Nul),
            Some(_) => match KeyLine::read(line) {
                Ok(read) => Ok(Self::Key(read)),
                Err(_) if inside::count(line) > 1 => Err(LineError::SecondKey),
                Err(error) => Err(error),
            },
        }
    }
}

impl KeyLine {
    /// Reads a line that is neither blank nor a comment.
    fn read(line: &[u8]) -> Result<Self, LineError> {
        if let Some(word) = key_type(line) {
            match read_key(word, line) {
                // Another word may be the options of the next try.
                Err(LineError::Key(KeyError::UnknownType)) => {}
                read => return read,
            }
        }
        let (field, rest) = split_options(line).ok_or(LineError::OpenQuote)?;
        let field = String::from_utf8_lossy(field);
        if starts_invisibly(&field) {
            return Err(LineError::Invisible);
        }
        let options = Options::read(&field).map_err(|error| match error {
            OptionError::Unknown(_) if !looks_like_options(&field) => LineError::NotAKey,
            error => LineError::Options(error),
        })?;
        let rest = trim(rest);
        match key_type(rest) {
            Some(word) => Ok(Self {
                options,
                ..read_key(word, rest).map_err(|error| match error {
                    LineError::Key(KeyError::UnknownType) => LineError::NotAKey,
                    error => error,
                })?
            }),
            None if rest.is_empty() => Err(LineError::OptionsOnly),
            None => Err(LineError::NotAKey),
        }
    }

    /// The same grant as an sshd of `version` in `zone` reads it.
    pub fn for_openssh(&self, version: Version, zone: &TimeZone) -> Result<Self, TooOld> {
        self.type_known_to(version)?;
        Ok(Self {
            options: self.options.for_openssh(version, zone)?,
            ..self.clone()
        })
    }

    /// That an sshd of `version` takes the line as it is, or why it drops it.
    pub fn taken_by(&self, version: Version) -> Result<(), TooOld> {
        self.type_known_to(version)?;
        self.options.taken_by(version)
    }

    fn type_known_to(&self, version: Version) -> Result<(), TooOld> {
        let algorithm = self.key.algorithm();
        match Version::of_key_type(algorithm).filter(|needs| version < *needs) {
            Some(needs) => Err(TooOld {
                what: format!("the key type `{algorithm}`"),
                needs,
                has: version,
            }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for KeyLine {
    /// The canonical line, without `\n`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.options.is_empty() {
            write!(f, "{} ", self.options)?;
        }
        write!(f, "{} {}", self.key.algorithm(), self.key.base64())?;
        if !self.comment.is_empty() {
            write!(f, " {}", self.comment)?;
        }
        Ok(())
    }
}

/// Without blanks at both ends and the `\r` of a DOS line end.
pub fn trim(line: &[u8]) -> &[u8] {
    let blank = |b: &u8| BLANKS.contains(b);
    let start = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let end = line
        .iter()
        .rposition(|b| !blank(b) && *b != b'\r')
        .map_or(start, |last| last + 1);
    &line[start..end.max(start)]
}

/// The first word, when it can be a key type: OpenSSH's names are ASCII words with at most one `@domain`.
pub fn key_type(line: &[u8]) -> Option<&str> {
    let word = std::str::from_utf8(&line[..word(line)]).ok()?;
    let named = |c: char| c.is_ascii_alphanumeric() || "-.@_+".contains(c);
    (word.contains('-') && !word.is_empty() && word.chars().all(named)).then_some(word)
}

/// The length of the first word.
pub fn word(line: &[u8]) -> usize {
    line.iter()
        .position(|b| BLANKS.contains(b))
        .unwrap_or(line.len())
}

/// The key after `word`, which starts `line`, and the comment after that.
fn read_key(word: &str, line: &[u8]) -> Result<KeyLine, LineError> {
    let rest = trim(&line[word.len()..]);
    let (base64, comment) = rest.split_at(self::word(rest));
    let key = PublicKey::read(word, base64).map_err(LineError::Key)?;
    if inside::count(comment) > 0 {
        return Err(LineError::SecondKey);
    }
    Ok(KeyLine {
        options: Options::default(),
        key,
        comment: sanitized(trim(comment)),
    })
}

/// A comment is for people; what is not printable ASCII could be read as something else by another program.
pub(super) fn sanitized(comment: &[u8]) -> String {
    let kept = |b: &u8| {
        if matches!(b, 0x20..=0x7e) {
            char::from(*b)
        } else {
            '?'
        }
    };
    comment.iter().map(kept).collect()
}

/// Splits at the first blank outside quotes, as `sshkey_advance_past_options` does; `None` for an open quote.
pub fn split_options(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut quoted = false;
    let mut at = 0;
    while at < line.len() && (quoted || !BLANKS.contains(&line[at])) {
        match line[at] {
            b'\\' if line.get(at + 1) == Some(&b'"') => at += 1,
            b'"' => quoted = !quoted,
            _ => {}
        }
        at += 1;
    }
    (!quoted).then(|| line.split_at(at))
}

fn starts_invisibly(field: &str) -> bool {
    field
        .chars()
        .next()
        .is_some_and(|c| c == '\u{a0}' || c.is_control() || crate::model::escape::is_invisible(c))
}

/// True when a person meant options: a known keyword, or a quoted value somewhere in the field. A mere `=` also
/// ends base64, which no message may repeat: it can be a piece of a private key.
fn looks_like_options(field: &str) -> bool {
    field.contains("=\"")
        || field.split(',').any(|word| {
            let word = word.to_ascii_lowercase();
            crate::model::key::options::known(&word).is_some() || word.starts_with("no-")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn check(input: &[u8], expected: &str) {
        let shown = match Line::read(input) {
            Ok(Line::Blank) => "blank".to_owned(),
            Ok(Line::Comment) => "comment".to_owned(),
            Ok(Line::Key(line)) => line.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(shown, expected, "{}", input.escape_ascii());
    }

    #[test]
    fn reads_lines_as_sshd_does() {
        check(b"", "blank");
        check(b" \t\r", "blank");
        check(b"  # ssh-ed25519 AAAA", "comment");
        check(KEY.as_bytes(), KEY);
        check(
            format!("\t {KEY}\tme@host  \r").as_bytes(),
            &format!("{KEY} me@host"),
        );
        check(format!("{KEY} a # b").as_bytes(), &format!("{KEY} a # b"));
        check(
            format!("restrict {KEY}").as_bytes(),
            &format!("restrict {KEY}"),
        );
        check(format!("no-pty {KEY}").as_bytes(), &format!("no-pty {KEY}"));
        check(
            format!("command=\"a b\",no-pty\t{KEY} x").as_bytes(),
            &format!("command=\"a b\",no-pty {KEY} x"),
        );
        check(
            [KEY.as_bytes(), b" a\x1b\xff\xe2\x80\xa8b"]
                .concat()
                .as_slice(),
            &format!("{KEY} a?????b"),
        );
    }

    #[test]
    fn says_why_it_refuses() {
        check(
            b"hello",
            "error: not an authorized_keys line: no key type or option at its start",
        );
        check(b"restrict", "error: options without a key behind them");
        check(b"a\0b", "error: a NUL byte: sshd ignores what follows it");
        check(
            b"command=\"x ssh-ed25519 AAAA",
            "error: a quote in the options is never closed",
        );
        check(
            b"ssh-ed25519",
            "error: the key type `ssh-ed25519` is not followed by a key",
        );
        check(
            b"ssh-ed25519 AAAA*",
            "error: the key after `ssh-ed25519` is not valid base64; was it cut, wrapped or pasted twice?",
        );
        check(
            KEY.replace("ssh-ed25519", "ssh-rsa").as_bytes(),
            "error: the line says `ssh-rsa` but the key itself is of another type",
        );
        check(
            format!("\u{feff}{KEY}").as_bytes(),
            "error: a byte order mark or another invisible character before the key; save the text without it",
        );
        check(
            b"b3BlbnNzaC1rZXktdjEA==",
            "error: not an authorized_keys line: no key type or option at its start",
        );
        check(
            format!("no-restrict {KEY}").as_bytes(),
            "error: an unknown option, number 1 of the line",
        );
        check(
            format!("foo,no-pty {KEY}").as_bytes(),
            "error: an unknown option, number 1 of the line",
        );
        for between in [",", " ", ";", "\r", "\\n", "\\r\\n", "", " me,", "\t"] {
            for second in [KEY, "restrict ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB"] {
                check(
                    format!("no-pty {KEY}{between}{second} you").as_bytes(),
                    "error: more than one key on the line, of which sshd takes one at most: give each a line of its own",
                );
            }
        }
        check(
            format!("# team a\r{KEY}").as_bytes(),
            "error: a comment that a key follows on the same line: give the key a line of its own",
        );
        check(
            b"my-secret-password AAAA",
            "error: not an authorized_keys line: no key type or option at its start",
        );
    }
}
