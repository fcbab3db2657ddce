//! What a signature says of a part of the list: the text that is signed, before the signatures.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::list::contents::{Contents, HEADER};
use crate::model::list::template::without_selector;

/// What one signature covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All parameters below a path.
    Path(String),
    /// All that are named in the config: the parameter that holds their signature, without a label.
    Parameters(String),
    /// All files in a directory.
    Directory(String),
}

/// The name of what holds the signature, below a path or in a directory.
pub const NAME: &str = ".signed";

/// The same below `path`.
pub fn name(path: &str) -> String {
    format!("{}/{NAME}", path.trim_end_matches('/'))
}

/// The name of a named parameter as its signature covers it.
pub fn below_root(name: &str) -> &str {
    let name = without_selector(name);
    name.strip_prefix('/').unwrap_or(name)
}

/// A word for an environment.
pub fn is_audience(text: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.chars().all(is_good)
}

/// The text that is signed, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As [`Scope`] is displayed.
    pub scope: String,
    /// For whose hosts it is, so that a list of one environment is none in another.
    pub audience: Option<String>,
    /// Goes up with every list of this scope.
    pub serial: u64,
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub contents: Contents,
}

/// Why a text is no statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    /// It begins with something else.
    Header,
    /// A line is missing, or not as it is written here.
    Line,
    /// It expires before it is issued.
    Times,
    /// More than a parameter holds.
    TooLong,
}

impl Scope {
    /// What is displayed as `text`.
    pub fn read(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("directory:") {
            Self::Directory(path.to_owned())
        } else if let Some(name) = text.strip_prefix("parameters:") {
            Self::Parameters(name.to_owned())
        } else {
            Self::Path(text.to_owned())
        }
    }

    /// Where its signature is: a parameter, or a file.
    pub fn signed_at(&self) -> String {
        match self {
            Self::Path(path) | Self::Directory(path) => name(path),
            Self::Parameters(name) => name.clone(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Parameters(name) => write!(f, "parameters:{name}"),
            Self::Directory(path) => write!(f, "directory:{path}"),
        }
    }
}

impl Statement {
    /// Reads what [`text`](Self::text) writes, and nothing else: what was signed has one spelling.
    pub fn read(text: &str) -> Result<Self, Malformed> {
        if text.lines().next() != Some(HEADER) {
            return Err(Malformed::Header);
        }
        let statement = Self::fields(text).ok_or(Malformed::Line)?;
        if statement.text() != text {
            return Err(Malformed::Line);
        }
        if statement.expires <= statement.issued {
            return Err(Malformed::Times);
        }
        Ok(statement)
    }

    fn fields(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1).peekable();
        let mut field = |name: &str| {
            let is = |line: &&str| {
                line.split_once(": ")
                    .is_some_and(|(first, _)| first == name)
            };
            let (_, value) = lines.next_if(is)?.split_once(": ")?;
            Some(value)
        };
        Some(Self {
            scope: field("scope")?.to_owned(),
            audience: field("audience").map(str::to_owned),
            serial: field("serial")?.parse().ok()?,
            issued: field("issued")?.parse().ok()?,
            expires: field("expires")?.parse().ok()?,
            contents: Contents {
                parameters: field("parameters")?.parse().ok()?,
                sha256: field("sha256")?.to_owned(),
            },
        })
    }

    /// The bytes that are signed. The first signature begins on the line after them.
    pub fn text(&self) -> String {
        let audience = self.audience.as_ref();
        let audience = audience.map_or(String::new(), |word| format!("audience: {word}\n"));
        let Contents { parameters, sha256 } = &self.contents;
        format!(
            "{HEADER}\nscope: {}\n{audience}serial: {}\nissued: {}\nexpires: {}\nparameters: {parameters}\nsha256: {sha256}\n",
            self.scope, self.serial, self.issued, self.expires
        )
    }
}

impl Malformed {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Header => "it does not begin with `authorized-keys-list 1`",
            Self::Line => "a line of it is missing, or is not as `agent sign` writes it",
            Self::Times => "it expires before it is issued",
            Self::TooLong => "it has more than 8 KB",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
authorized-keys-list 1
scope: /authorized-keys/web
audience: prod
serial: 42
issued: 2026-11-27T22:00:00Z
expires: 2027-02-25T22:00:00Z
parameters: 3
sha256: 00ff
";

    #[test]
    fn what_is_written_is_read() {
        let statement = Statement::read(TEXT).unwrap();
        assert_eq!(statement.text(), TEXT);
        assert_eq!(
            (statement.serial, statement.audience.as_deref()),
            (42, Some("prod"))
        );
        let of_none = TEXT.replace("audience: prod\n", "");
        assert_eq!(Statement::read(&of_none).unwrap().audience, None);
    }

    #[test]
    fn any_other_spelling_is_refused() {
        let check = |text: &str, expected: Malformed| {
            assert_eq!(Statement::read(text), Err(expected), "{text}");
        };
        for text in ["", "<html>", &TEXT[1..], &TEXT.replace("list 1", "list 2")] {
            check(text, Malformed::Header);
        }
        for (from, to) in [
            ("serial: 42", "serial: 042"),
            ("serial: 42", "serial: +42"),
            ("serial: 42", "serial: -1"),
            ("serial: 42", "serial: 18446744073709551616"),
            ("serial: 42\n", ""),
            ("serial: 42", "serial: 42\nserial: 42"),
            ("serial: 42", "serial:42"),
            ("serial: 42", "serial:  42"),
            ("serial: 42", "Serial: 42"),
            ("serial: 42\n", "serial: 42\r\n"),
            ("scope: /authorized-keys/web\n", ""),
            ("00ff\n", "00ff"),
            ("00ff\n", "00ff\n\n"),
            ("00ff\n", "00ff\nmore: 1\n"),
            ("T22:00:00Z\nexpires", "T22:00:00+00:00\nexpires"),
            ("2026-11-27T22:00:00Z", "2026-11-27 22:00:00Z"),
            ("2026-11-27T22:00:00Z", "2026-11-27T22:00:00.0Z"),
            ("audience: prod\nserial: 42", "serial: 42\naudience: prod"),
        ] {
            check(&TEXT.replace(from, to), Malformed::Line);
        }
        check(&TEXT.replace("2027", "2025"), Malformed::Times);
    }
}
