//! Keys that stand somewhere inside a text: behind another key, joined to it by whatever a program puts between the items of
//! a list.

use base64ct::{Base64, Encoding};

use crate::model::key::blob::{TYPES, known_type, type_of};

/// What every blob begins with: no type has a name of 256 bytes, so the first three bytes of its length are 0.
const START: &str = "AAAA";

/// How many keys stand in `text`.
pub fn count(text: &[u8]) -> usize {
    starts(&String::from_utf8_lossy(text)).count()
}

/// `text` up to the first key in it: no message repeats a key.
pub fn without_keys(text: &str) -> String {
    match starts(text).next() {
        Some(at) => format!("{}(another key)", &text[..at]),
        None => text.to_owned(),
    }
}

/// True for a comment line that goes on with a key: a `#` takes one key away, not those that were joined to a remark.
pub fn is_joined_to_comment(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let ends = ["\r", "\\n", "\\r"].map(|end| line.find(end));
    let end = ends.into_iter().flatten().min();
    starts(&line).any(|at| {
        let before = line[..at].trim_end_matches([' ', '\t']);
        end.is_some_and(|end| end < at) || before.ends_with([',', ';'])
    })
}

/// Only what base64 is made of, of `line`: a key is found in it however it was cut or quoted.
pub fn squeezed(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.replace("\\n", "").replace("\\r", "");
    line.chars().filter(|c| is_base64(*c)).collect()
}

/// Where each key begins: at its type, if that is there.
fn starts(text: &str) -> impl Iterator<Item = usize> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(found) = text[at..].find(START) {
            let body = at + found;
            let run = text[body..].find(|c| !is_base64(c));
            at = run.map_or(text.len(), |length| body + length);
            let before = text[..body].trim_end_matches([' ', '\t']);
            // A type may have anything before it, with no blank between.
            let said = TYPES.iter().find(|known| before.ends_with(**known));
            if let Some(said) = said
                && before.len() < body
            {
                return Some(before.len() - said.len());
            }
            if type_in(&text[body..at]).is_some() {
                return Some(body);
            }
        }
        None
    })
}

/// Where in [`squeezed`] text a blob may begin, of a known type or another.
pub fn bodies(squeezed: &str) -> impl Iterator<Item = usize> + '_ {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    (0..squeezed.len()).filter(move |at| {
        let text = &squeezed[*at..];
        text.starts_with(START) && name_in(text, is_name) == Some(true)
    })
}

/// The type of the blob that this is base64 of, though it be cut, if it is a known one.
pub fn type_in(base64: &str) -> Option<&'static str> {
    name_in(base64, known_type)?
}

/// What is said of the name that the blob begins with.
fn name_in<T>(base64: &str, say: impl Fn(&str) -> T) -> Option<T> {
    /// Holds a name of 64 bytes, the longest there may be (RFC 4251, 6).
    const ENOUGH: usize = 92;
    let mut bytes = [0; ENOUGH];
    let base64 = base64.get(..ENOUGH).unwrap_or(base64);
    let base64 = base64.split('=').next().unwrap_or_default();
    let whole = base64.get(..base64.len() / 4 * 4)?;
    let blob = Base64::decode(whole, &mut bytes).ok()?;
    type_of(blob).map(say)
}

pub fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB";

    #[test]
    fn every_key_in_a_text_is_counted() {
        let body = KEY.split_once(' ').unwrap().1;
        for between in [
            " ",
            ",",
            ", ",
            ";",
            "\r",
            "\\n",
            "\\r\\n",
            "",
            "\t",
            "\u{2028}",
            " me@host,",
            "\",\"",
        ] {
            assert_eq!(
                count(format!("{KEY}{between}{RSA} x").as_bytes()),
                2,
                "{between:?}"
            );
            assert_eq!(
                count(format!("{KEY} a@b{between}no-pty {KEY}").as_bytes()),
                2,
                "{between:?}"
            );
        }
        for (text, keys) in [
            (KEY.to_owned(), 1),
            (format!("me {body}"), 1),
            ("me@host AAAA AAAABBBB".to_owned(), 0),
            (format!("me {}", &body[..24]), 1),
            ("ssh-rsa AAAA".to_owned(), 1),
            ("ssh-rsa".to_owned(), 0),
            ("grüße AAAAé".to_owned(), 0),
        ] {
            assert_eq!(count(text.as_bytes()), keys, "{text}");
        }
        let squeezed = squeezed(format!("A{body} AA{body}\\nAAAA{body}").as_bytes());
        let found: Vec<&str> = bodies(&squeezed)
            .filter_map(|at| squeezed.get(at..at + body.len()))
            .collect();
        assert_eq!(found, [body; 3]);
        assert_eq!(without_keys(&format!("a b,{RSA}")), "a b,(another key)");
        assert_eq!(without_keys(&format!("é {body}")), "é (another key)");
        assert_eq!(without_keys("a b"), "a b");
    }

    #[test]
    fn a_key_that_is_commented_out_is_none_that_was_joined() {
        for (line, joined) in [
            (format!("# {KEY}"), false),
            (format!("#{KEY} me, myself; I"), false),
            (format!("# gone: restrict,no-pty {KEY}"), false),
            (format!("# from=\"10.0.0.0/8,::1\",restrict {KEY}"), false),
            (format!("# team a\r{KEY}"), true),
            (format!("# team a\rrestrict {KEY}"), true),
            (format!("# team a\\n{KEY}"), true),
            (format!("# team a\\r\\nno-pty {KEY}"), true),
            (format!("# team a,{KEY}"), true),
            (format!("# team a; {KEY}"), true),
            (format!("# {KEY} a,{KEY} b"), true),
        ] {
            assert_eq!(is_joined_to_comment(line.as_bytes()), joined, "{line}");
        }
    }
}
