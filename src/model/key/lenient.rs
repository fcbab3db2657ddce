//! The keys of a file as it was found, in whatever spelling sshd takes.
//!
//! What is approved is read strictly ([`Line::read`]), and written in one way. An account writes as it likes, and a
//! line that is not seen here is a key that no status names: options count by their quotes alone, a NUL ends the line, a
//! blob may be spelled in more ways than one. What may be a key all the same is counted.
//!
//! [`Line::read`]: crate::model::key::line::Line::read
//!
//! Sources: OpenSSH's `auth2-pubkeyfile.c: auth_check_authkey_line`, `sshkey.c: sshkey_read`.

use crate::model::escape::{escaped, shortened};
use crate::model::key::blob::{canonical, decoded, fingerprint};
use crate::model::key::inside;
use crate::model::key::line::{key_type, sanitized, split_options, trim, word};
use crate::model::key::options::Options;

/// A key in a file, which may let its holder in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    /// `SHA256:…`, as sshd logs it.
    pub fingerprint: String,
    /// Key type.
    pub algorithm: String,
    /// Options in their one spelling; as they stand there where they have none.
    options: String,
    /// All that stands after the key, printable ASCII.
    comment: String,
}

/// What one line of a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundLine {
    /// Blank, or a comment.
    Nothing,
    /// A key.
    Key(FoundKey),
    /// Neither: it may be a key to an sshd that knows more.
    Unclear,
}

/// What stands in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundKeys {
    /// Its keys, line by line.
    pub keys: Vec<FoundKey>,
    /// Lines that may be keys.
    pub unclear: usize,
}

impl FoundKey {
    /// True for a line with the same key and options.
    pub fn authorises_as(&self, other: &Self) -> bool {
        (&self.fingerprint, &self.options) == (&other.fingerprint, &other.options)
    }

    /// No more of the comment than a person reads; the account that wrote the file chose how long it is.
    pub fn comment(&self) -> String {
        /// Bytes.
        const MOST: usize = 200;
        shortened(&self.comment, MOST)
    }

    /// Its options, safe to be shown, and no more of them than a person reads. None of them is a key.
    pub fn options(&self) -> String {
        /// Bytes.
        const MOST: usize = 1000;
        shortened(&escaped(&inside::without_keys(&self.options)), MOST)
    }

    pub fn has_options_of(&self, other: &Self) -> bool {
        self.options == other.options
    }
}

impl FoundKeys {
    /// Reads the bytes of a file.
    pub fn read(content: &[u8]) -> Self {
        let mut found = Self::default();
        for line in content.split(|b| *b == b'\n') {
            match FoundLine::read(line) {
                FoundLine::Nothing => {}
                FoundLine::Key(key) => found.keys.push(key),
                FoundLine::Unclear => found.unclear += 1,
            }
        }
        found
    }
}

impl FoundLine {
    /// Reads one line, without its `\n`.
    pub fn read(line: &[u8]) -> Self {
        // sshd reads lines into C strings.
        let line = trim(line.split(|b| *b == 0).next().unwrap_or_default());
        if matches!(line.first(), None | Some(b'#')) {
            return Self::Nothing;
        }
        let key = read_key(line, &[]).or_else(|| {
            let (options, rest) = split_options(line)?;
            read_key(trim(rest), options)
        });
        key.map_or(Self::Unclear, Self::Key)
    }
}

/// Lines that may be keys, in words.
pub fn unclear(lines: usize) -> String {
    match lines {
        1 => "1 line that is not understood".to_owned(),
        lines => format!("{lines} lines that are not understood"),
    }
}

fn read_key(line: &[u8], options: &[u8]) -> Option<FoundKey> {
    let said = key_type(line)?;
    let rest = trim(&line[said.len()..]);
    let (text, comment) = rest.split_at(word(rest));
    let (algorithm, blob) = canonical(said, decoded(text)?)?;
    let options = String::from_utf8_lossy(options).into_owned();
    Some(FoundKey {
        fingerprint: fingerprint(&blob),
        algorithm,
        options: Options::read(&options).map_or(options, |options| options.to_string()),
        comment: inside::without_keys(&sanitized(trim(comment))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const FINGERPRINT: &str = "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ";

    fn check(line: &str, expected: Option<&str>) {
        let comment = match FoundLine::read(line.as_bytes()) {
            FoundLine::Key(key) => {
                assert_eq!(
                    (key.fingerprint.as_str(), key.algorithm.as_str()),
                    (FINGERPRINT, "ssh-ed25519")
                );
                Some(key.comment())
            }
            FoundLine::Nothing => Some("nothing".to_owned()),
            FoundLine::Unclear => None,
        };
        assert_eq!(comment.as_deref(), expected, "{}", line.escape_debug());
    }

    #[test]
    fn a_key_is_seen_whatever_stands_around_it() {
        check(KEY, Some(""));
        check(&format!("\t{KEY} me \r"), Some("me"));
        check(&format!("{KEY} me\0\n"), Some("me"));
        check(
            &format!(",no-pty,no-pty,of-tomorrow=\"a b\" {KEY} me"),
            Some("me"),
        );
        check(&format!("tunnel=\"ANY\"\t{KEY} \u{1b}"), Some("?"));
        check(
            &format!("{KEY} {}", "a".repeat(1000)),
            Some(&format!("{}...", "a".repeat(197))),
        );
        check("  # ssh-ed25519 AAAA", Some("nothing"));
        check("\0ssh-ed25519", Some("nothing"));
        check("hello", None);
        check(&format!("command=\"{KEY}"), None);
        check(&format!("restrict foo {KEY}"), None);
        check(&KEY.replace("ssh-ed25519", "ssh-rsa"), None);
    }

    #[test]
    fn what_may_be_a_key_is_counted() {
        let found = FoundKeys::read(format!("# a\n\n{KEY}\nb\n\0c\nd e\n").as_bytes());
        assert_eq!((found.keys.len(), found.unclear), (1, 2));
        assert_eq!(
            (unclear(1).as_str(), unclear(2).as_str()),
            (
                "1 line that is not understood",
                "2 lines that are not understood"
            )
        );
    }
}
