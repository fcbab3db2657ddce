//! A very large file, boiled down to the lines that may let somebody in: an account hides a key behind megabytes of comments.

use crate::model::key::lenient::FoundLine;

/// Bytes of lines with keys that are kept, and as many of those that are not understood, which may be garbage by the megabyte.
const MOST: usize = 512 << 10;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Boiled {
    keys: Vec<u8>,
    unclear: Vec<u8>,
    /// The line that has not ended yet.
    line: Vec<u8>,
}

impl Boiled {
    /// The next bytes of the file.
    pub fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MOST - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    /// The lines with keys, then those that are not understood.
    pub fn finish(mut self) -> Vec<u8> {
        self.end_line();
        self.keys.append(&mut self.unclear);
        self.keys
    }

    fn end_line(&mut self) {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        // Not a part of a line: it could be another key.
        let has_room = |kept: &[u8]| kept.len() + line.len() < MOST;
        // To read garbage as a key takes its time. The shortest, ed25519, has 80 bytes; and no type has a name of 256, so each
        // blob begins with three that are 0 (RFC 4251, 5).
        let mut zeros = line.iter().filter(|byte| **byte == b'A');
        let may_be_key = line.len() >= 80 && zeros.nth(3).is_some();
        if may_be_key && has_room(&self.keys) || has_room(&self.unclear) {
            let kept = match FoundLine::read(line) {
                FoundLine::Nothing => None,
                FoundLine::Key(_) => Some(&mut self.keys),
                FoundLine::Unclear => Some(&mut self.unclear),
            };
            if let Some(kept) = kept.filter(|kept| has_room(kept)) {
                kept.extend_from_slice(line);
                kept.push(b'\n');
            }
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn boiled(content: &str, chunk: usize) -> String {
        let mut boiled = Boiled::default();
        for bytes in content.as_bytes().chunks(chunk) {
            boiled.add(bytes);
        }
        String::from_utf8(boiled.finish()).unwrap()
    }

    #[test]
    fn keys_come_first_and_comments_not_at_all() {
        let options = format!("no-pty {KEY} a");
        for (content, expected) in [
            (String::new(), String::new()),
            ("# x\n\n \t# y\n".to_owned(), String::new()),
            (format!("# x\n{KEY}"), format!("{KEY}\n")),
            (
                format!("what\n# x\n\t{options}\n{KEY}\n#"),
                format!("\t{options}\n{KEY}\nwhat\n"),
            ),
        ] {
            for chunk in [1, 7, 4096] {
                assert_eq!(boiled(&content, chunk), expected, "{content:?} {chunk}");
            }
        }
    }

    #[test]
    fn no_garbage_hides_a_key_and_no_more_is_kept_than_so_much() {
        let long = "#".repeat(3 * MOST);
        let garbage = "what is this\n".repeat(200_000);
        let line = "x".repeat(3 * MOST);
        for before in [&long, &garbage, &line] {
            let kept = boiled(&format!("{before}\n{KEY}\n"), 64 << 10);
            assert!(kept.starts_with(&format!("{KEY}\n")));
            assert!(kept.len() <= 2 * MOST);
        }
        let many = format!("{KEY}\n").repeat(20_000);
        assert!(boiled(&many, 64 << 10).len() <= MOST);
    }
}
