//! The keys of a file as it was found, in whatever spelling sshd takes.
//!
//! What is approved is read strictly ([`Line::read`]), and written in one way. An account writes as it likes, and a
//! line that is not seen here is a key that no status names: options count by their quotes alone, a NUL ends the line, a
//! blob may be spelled in more ways than one. What may be a key all the same is counted.
//!
//! [`Line::read`]: crate::model::key::line::Line::read
//!
//! Sources: OpenSSH's `auth2-pubkeyfile.c: auth_check_authkey_line`, `sshkey.c: sshkey_read`,
//! `sshkey_type_from_name`, `sshkey_from_blob_internal`.

use base64ct::{Base64, Base64Unpadded, Encoding};
use sha2::{Digest, Sha256};

use crate::model::escape::shortened;
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
    /// No more of the comment than a person reads; the account that wrote the file chose how long it is.
    pub fn comment(&self) -> String {
        /// Bytes.
        const MOST: usize = 200;
        shortened(&self.comment, MOST)
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
    let text: Vec<u8> = text
        .iter()
        .copied()
        .filter(|b| !matches!(b, b'\r' | 0x0b | 0x0c))
        .collect();
    let blob = Base64::decode_vec(std::str::from_utf8(&text).ok()?).ok()?;
    let (algorithm, blob) = canonical(said, blob)?;
    let options = String::from_utf8_lossy(options).into_owned();
    Some(FoundKey {
        fingerprint: format!(
            "SHA256:{}",
            Base64Unpadded::encode_string(Sha256::digest(&blob).as_slice())
        ),
        algorithm,
        options: Options::read(&options).map_or(options, |options| options.to_string()),
        comment: sanitized(trim(comment)),
    })
}

/// Key types that have more names than one, which differ neither in the line nor in the blob. Short names count in
/// any case, and in the blob alone (`sshkey_type_from_name`; a line's own type is read by `peek_type_nid`).
const NAMES: [(&str, &[&str], Option<&str>); 5] = [
    ("ssh-rsa", &["rsa-sha2-256", "rsa-sha2-512"], Some("RSA")),
    ("ssh-ed25519", &[], Some("ED25519")),
    ("ssh-dss", &[], Some("DSA")),
    ("sk-ssh-ed25519@openssh.com", &[], Some("ED25519-SK")),
    (
        "sk-ecdsa-sha2-nistp256@openssh.com",
        &["webauthn-sk-ecdsa-sha2-nistp256@openssh.com"],
        None,
    ),
];

fn named(name: &str, in_blob: bool) -> &str {
    let is = |(known, others, short): &&(&'static str, &[&str], Option<&str>)| {
        *known == name
            || others.contains(&name)
            || (in_blob && short.is_some_and(|short| short.eq_ignore_ascii_case(name)))
    };
    NAMES.iter().find(is).map_or(name, |(known, ..)| known)
}

/// The type and the blob as sshd writes them out again, which is what it takes the fingerprint of. `None` where the
/// line and its blob are not of one type: no sshd takes that.
fn canonical(said: &str, blob: Vec<u8>) -> Option<(String, Vec<u8>)> {
    let (inner, rest) = field(&blob)?;
    let inner = std::str::from_utf8(c_string(inner)).ok()?;
    let algorithm = named(inner, true);
    if algorithm != named(said, false) {
        return None;
    }
    let algorithm = algorithm.to_owned();
    let rewritten = rewritten(&algorithm, rest);
    Some((algorithm, rewritten.unwrap_or(blob)))
}

/// The blob of these fields; `None` for a type whose fields have one spelling, or what is no such key.
fn rewritten(algorithm: &str, fields: &[u8]) -> Option<Vec<u8>> {
    if !NAMES.iter().any(|(known, ..)| *known == algorithm) {
        return None;
    }
    let numbers = matches!(algorithm, "ssh-rsa" | "ssh-dss");
    let text_last = algorithm.starts_with("sk-");
    let mut blob = Vec::new();
    push(&mut blob, &[], algorithm.as_bytes());
    let mut rest = fields;
    while !rest.is_empty() {
        let (value, after) = field(rest)?;
        if numbers {
            // An `mpint` (RFC 4251, 5) is as short as it can be.
            let zeros = value.iter().take_while(|b| **b == 0).count();
            let number = &value[zeros..];
            let sign: &[u8] = if number.first().is_some_and(|first| *first >= 0x80) {
                &[0]
            } else {
                &[]
            };
            push(&mut blob, sign, number);
        } else if text_last && after.is_empty() {
            push(&mut blob, &[], c_string(value));
        } else {
            push(&mut blob, &[], value);
        }
        rest = after;
    }
    Some(blob)
}

/// The first string of a blob (RFC 4251, 5), and what follows it.
fn field(blob: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn push(blob: &mut Vec<u8>, before: &[u8], value: &[u8]) {
    let length = u32::try_from(before.len() + value.len()).unwrap_or(u32::MAX);
    blob.extend([&length.to_be_bytes(), before, value].concat());
}

/// Without the NUL at its end that `sshbuf_get_cstring` lets pass.
fn c_string(text: &[u8]) -> &[u8] {
    text.strip_suffix(&[0]).unwrap_or(text)
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
