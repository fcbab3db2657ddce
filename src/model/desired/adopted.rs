//! What stood in an account's files before the agent ever wrote one: keys in force, as any other, until a list takes them away.
//!
//! A line is kept as it stands, whatever the policy says of it: who put it there may need it to get in. What only sshd may
//! understand cannot be written anew, and is counted.

use std::collections::HashMap;
use std::path::Path;

use jiff::tz::TimeZone;

use crate::model::key::grant;
use crate::model::key::grant::Grant;
use crate::model::key::lenient::{FoundKey, FoundLine};
use crate::model::key::line::{Line, trim};

/// What stood there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    pub grants: Vec<Grant>,
    /// Lines that may let someone in and cannot be written anew, or that only sshd can judge, and files that were not read
    /// whole.
    pub obscure: usize,
    /// sshd has not said which files it reads, so those were looked at that it reads by default.
    pub unasked: bool,
    /// `AuthorizedKeysFile` for the account, where it has another than the host.
    pub sshd_reads: Option<String>,
}

/// Keys of one account that are adopted: it chooses how many stand in its file. The others are only counted.
const MOST: usize = 1000;

impl Adopted {
    /// Counts what stands in a file that others could have written: sshd refuses it, unless told otherwise, and what it
    /// refuses is not put where it takes it.
    pub fn count(&mut self, file: &Path, content: &[u8], is_whole: bool, zone: &TimeZone) {
        let mut there = Self::default();
        there.read(file, content, is_whole, zone);
        self.obscure += there.grants.len() + there.obscure;
    }

    /// Takes of the `room` in bytes that the keys of all accounts have together; where there is none left, they are counted.
    pub fn fit(&mut self, room: &mut usize) {
        let sizes = self.grants.iter();
        let size: usize = sizes
            .map(|grant| grant.line.len() + grant.parameter.len())
            .sum();
        if size <= *room {
            *room -= size;
        } else {
            self.obscure += self.grants.len();
            self.grants.clear();
        }
    }

    /// Takes in what sshd reads of `file`, before what it reads after it.
    pub fn read(&mut self, file: &Path, content: &[u8], is_whole: bool, zone: &TimeZone) {
        let mut known: HashMap<String, FoundKey> = HashMap::new();
        for grant in &self.grants {
            if let FoundLine::Key(key) = FoundLine::read(grant.line.as_bytes()) {
                known.insert(grant.fingerprint.clone(), key);
            }
        }
        self.obscure += usize::from(!is_whole);
        for (at, line) in content.split(|b| *b == b'\n').enumerate() {
            let key = match FoundLine::read(line) {
                FoundLine::Nothing => continue,
                FoundLine::Key(key) => key,
                FoundLine::Unclear => {
                    self.obscure += usize::from(may_hold_a_key(line));
                    continue;
                }
            };
            match known.get(&key.fingerprint) {
                Some(first) if first.authorises_as(&key) => {}
                // sshd goes on to the second line where the options of the first refuse, and a file of ours has one.
                Some(_) => self.obscure += 1,
                None if self.grants.len() >= MOST => self.obscure += 1,
                None => match grant(file, at + 1, line, &key, zone) {
                    Some(grant) => {
                        self.grants.push(grant);
                        known.insert(key.fingerprint.clone(), key);
                    }
                    None => self.obscure += 1,
                },
            }
        }
        grant::sort_by_line(&mut self.grants);
    }
}

/// The blob of any key begins with a length of less than 2^8, and so with these letters (RFC 4253, section 6.6).
fn may_hold_a_key(line: &[u8]) -> bool {
    // What sshd skips within a blob (`base64.c: b64_pton`).
    let is_letter = |b: &&u8| !matches!(b, b'\r' | 0x0b | 0x0c);
    let letters: Vec<u8> = line.iter().filter(is_letter).copied().collect();
    letters.windows(4).any(|four| four == b"AAAA")
}

/// The line as it stands; `None` where it is no plain text.
fn grant(
    file: &Path,
    number: usize,
    line: &[u8],
    key: &FoundKey,
    zone: &TimeZone,
) -> Option<Grant> {
    let line = line.split(|b| *b == 0).next().unwrap_or_default();
    let line = std::str::from_utf8(trim(line)).ok()?.trim_end();
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return None;
    }
    let expires_at = match Line::read(line.as_bytes()) {
        Ok(Line::Key(read)) => read.options.expires_at(zone),
        _ => None,
    };
    Some(Grant {
        line: line.to_owned(),
        fingerprint: key.fingerprint.clone(),
        algorithm: key.algorithm.clone(),
        comment: key.comment(),
        parameter: file.display().to_string(),
        parameter_version: None,
        parameter_modified_at: None,
        parameter_line: number,
        expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    /// What is adopted of these files: the lines, and how much only sshd may understand.
    fn check(files: &[&[u8]], lines: &[&str], obscure: usize) {
        let mut adopted = Adopted::default();
        for content in files {
            adopted.read(Path::new("/home/alice/f"), content, true, &TimeZone::UTC);
        }
        let grants = adopted.grants.iter();
        let got: Vec<&str> = grants.map(|grant| grant.line.as_str()).collect();
        let files: Vec<_> = files
            .iter()
            .map(|one| String::from_utf8_lossy(one))
            .collect();
        assert_eq!(
            (got, adopted.obscure),
            (lines.to_vec(), obscure),
            "{files:?}"
        );
    }

    #[test]
    fn every_line_is_kept_as_it_stands() {
        for line in [
            A.to_owned(),
            format!("{A} me@host and more"),
            format!("cert-authority,principals=\"a,b\" {A} ca"),
            format!("command=\"echo \\\"x\\\"\",no-such-option {A} caf\u{e9}"),
            format!("from=\"10.0.0.0/8\"\t{A}"),
            "ssh-dss AAAAB3NzaC1kc3MAAAAAAAAAAAAAAAAAAAAA old".to_owned(),
        ] {
            let file = format!("# by hand\n\n  {line} \r\n{line}");
            let is_read = matches!(FoundLine::read(line.as_bytes()), FoundLine::Key(_));
            let kept = [line.as_str()];
            let (kept, obscure) = if is_read {
                (&kept[..], 0)
            } else {
                (&[][..], 2)
            };
            check(&[file.as_bytes()], kept, obscure);
        }
    }

    #[test]
    fn what_cannot_be_written_anew_is_counted() {
        check(&[b"", b"# x\n\nwhat is this\n<html>\nssh-rsa\n"], &[], 0);
        check(&[b"future-type@example.com AAAA9999 x"], &[], 1);
        check(&[b"future-type@example.com A\rAA\x0bA9999 x"], &[], 1);
        // Another line of the same key with other options, in the same file or in the next.
        let other = format!("from=\"10.0.0.1\" {A}\n{A}");
        check(&[other.as_bytes()], &[&format!("from=\"10.0.0.1\" {A}")], 1);
        check(&[A.as_bytes(), format!("restrict {A}").as_bytes()], &[A], 1);
        check(&[A.as_bytes(), format!("{A} again").as_bytes()], &[A], 0);
        // No plain text.
        check(&[&[A.as_bytes(), b" \xff"].concat()], &[], 1);
        check(&[&[A.as_bytes(), b" \x1b[2J"].concat()], &[], 1);
        // sshd reads lines into C strings.
        check(
            &[&[A.as_bytes(), b" x\0\x1b"].concat()],
            &[&format!("{A} x")],
            0,
        );
        let mut adopted = Adopted::default();
        adopted.read(Path::new("/x"), A.as_bytes(), false, &TimeZone::UTC);
        assert_eq!((adopted.grants.len(), adopted.obscure), (1, 1));
    }

    #[test]
    fn what_others_could_have_written_or_has_no_room_is_counted() {
        let mut adopted = Adopted::default();
        let there = format!("{A}\n# x\nfuture@example.com AAAA9999");
        adopted.count(Path::new("/x"), there.as_bytes(), true, &TimeZone::UTC);
        assert_eq!((adopted.grants.len(), adopted.obscure), (0, 2));
        adopted = Adopted::default();
        adopted.count(Path::new("/x"), b"# nothing\n", true, &TimeZone::UTC);
        assert_eq!(adopted, Adopted::default());
        adopted.read(Path::new("/x"), A.as_bytes(), true, &TimeZone::UTC);
        let mut room = A.len() + "/x".len();
        adopted.fit(&mut room);
        assert_eq!((adopted.grants.len(), adopted.obscure, room), (1, 0, 0));
        adopted.fit(&mut room);
        assert_eq!((adopted.grants.len(), adopted.obscure, room), (0, 1, 0));
    }

    #[test]
    fn an_account_does_not_choose_how_much_is_kept() {
        use base64ct::{Base64, Encoding};
        let line = |number: usize| {
            let body = [&[0; 24], number.to_be_bytes().as_slice()].concat();
            let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &body].concat();
            format!("ssh-ed25519 {}\n", Base64::encode_string(&blob))
        };
        let all: String = (0..MOST + 7).map(line).collect();
        let mut adopted = Adopted::default();
        adopted.read(Path::new("/x"), all.as_bytes(), true, &TimeZone::UTC);
        assert_eq!((adopted.grants.len(), adopted.obscure), (MOST, 7));
    }

    #[test]
    fn where_it_stood_and_when_it_ends_is_known() {
        let mut adopted = Adopted::default();
        let line = format!("# x\nexpiry-time=\"20300101Z\" {A} me");
        adopted.read(
            Path::new("/home/alice/f"),
            line.as_bytes(),
            true,
            &TimeZone::UTC,
        );
        let grant = &adopted.grants[0];
        assert_eq!(grant.place(), ("/home/alice/f", 2));
        assert_eq!(grant.comment, "me");
        assert_eq!(grant.expires_at, "2030-01-01T00:00:00Z".parse().ok());
    }
}
