//! What people and programs put on a list in place of a line with a key, and what to do then. Each is said once, however many
//! lines it has, and nothing of it is repeated.

use crate::model::key::blob::{TYPES, known_type};
use crate::model::key::inside::{is_base64, type_in};
use crate::model::key::line::{Line, LineError, trim};
use crate::model::key::public_key::KeyError;

/// What a value is of which no line can be taken, where that is clear.
pub fn of_value(text: &str) -> Option<&'static str> {
    if is_utf16(text) {
        return Some("UTF-16 text, as PowerShell and some editors write it: save it as UTF-8");
    }
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let last = text.trim_end();
    let is_json = first.starts_with('{') && last.ends_with('}')
        || first.starts_with('[') && last.ends_with(']');
    if is_json {
        return Some(
            "JSON: put the lines of the keys alone here, without quotes, brackets and names",
        );
    }
    if first.starts_with('<') {
        return Some(
            "HTML or XML, as in the reply to a failed request: put the lines of the keys here",
        );
    }
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    let is_yaml = first == "---"
        || first.starts_with("- ")
        || first
            .trim_end_matches(['|', '>', '-', '+', ' '])
            .strip_suffix(':')
            .is_some_and(is_name);
    is_yaml.then_some("YAML: put the lines of the keys alone here, without names and dashes")
}

/// True for UTF-16 that was read byte by byte: every other one is NUL.
pub fn is_utf16(text: &str) -> bool {
    let zeros = text.bytes().filter(|byte| *byte == 0).count();
    zeros > 0 && zeros >= text.chars().count() / 3
}

/// Why `line` cannot be taken, and how many of the lines `after` it are part of the same mistake.
pub fn explain(error: &LineError, line: &[u8], after: &[&[u8]]) -> (String, usize) {
    let text = String::from_utf8_lossy(trim(line));
    if let Some((reason, end)) = armour(&text) {
        return (reason.to_owned(), block(after, end));
    }
    match error {
        LineError::Key(KeyError::Base64(_) | KeyError::Damaged(_) | KeyError::NoBlob(_)) => {
            match wrapped(after) {
                0 => (error.to_string(), 0),
                more => (
                    "a key that is wrapped: put all of it on one line".to_owned(),
                    more,
                ),
            }
        }
        LineError::SecondKey | LineError::KeyInComment | LineError::Key(_) => {
            (error.to_string(), 0)
        }
        _ => match (of_text(&text), missing_type(&text)) {
            (Some(reason), _) => (reason.to_owned(), 0),
            (None, Some(reason)) => (reason, wrapped(after)),
            (None, None) => (error.to_string(), 0),
        },
    }
}

/// What begins with this line, and what its last one has in it.
fn armour(line: &str) -> Option<(&'static str, &'static str)> {
    if line.starts_with("---- BEGIN SSH2 PUBLIC KEY") {
        let reason = "a public key as PuTTY and RFC 4716 write it: `ssh-keygen -i -f FILE` makes a line of it";
        return Some((reason, "---- END"));
    }
    let of = line.strip_prefix("-----BEGIN ")?;
    let reason = match of {
        _ if of.starts_with("PUBLIC KEY") => {
            "a public key in PEM (PKCS #8): `ssh-keygen -i -m PKCS8 -f FILE` makes a line of it"
        }
        _ if of.starts_with("RSA PUBLIC KEY") => {
            "a public key in PEM (PKCS #1): `ssh-keygen -i -m PEM -f FILE` makes a line of it"
        }
        _ if of.contains("CERTIFICATE") => {
            "an X.509 certificate, not a key: put the line of the key's `.pub` file here"
        }
        _ => "something in PEM, not a key: put the line of the key's `.pub` file here",
    };
    Some((reason, "-----END"))
}

/// How many lines a block has that ends with a line with `end`, at the latest before a line that is good.
fn block(after: &[&[u8]], end: &str) -> usize {
    for (at, line) in after.iter().enumerate() {
        if trim(line).starts_with(end.as_bytes()) {
            return at + 1;
        }
        if matches!(Line::read(line), Ok(Line::Key(_))) {
            return at;
        }
    }
    after.len()
}

/// How many lines begin with nothing but base64: the rest of a key that was wrapped.
fn wrapped(after: &[&[u8]]) -> usize {
    let goes_on = |line: &&[u8]| {
        let text = String::from_utf8_lossy(trim(line));
        let word = text.split([' ', '\t', '\\']).next().unwrap_or_default();
        !word.is_empty() && word.chars().all(is_base64) && Line::read(line).is_err()
    };
    after.iter().take_while(|line| goes_on(line)).count()
}

fn of_text(text: &str) -> Option<&'static str> {
    let word = text.split([' ', '\t']).next().unwrap_or_default();
    let second = text.split([' ', '\t']).nth(1).unwrap_or_default();
    let is_fingerprint = |word: &str| {
        let pairs = || {
            word.split(':')
                .all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        word.starts_with("SHA256:") || word.starts_with("MD5:") || word.len() == 47 && pairs()
    };
    let has_type = |text: &str| TYPES.iter().any(|known| text.starts_with(known));
    let is_quote = |c: char| matches!(c, '"' | '\'' | '`' | '\u{201c}' | '\u{2018}');
    if text.starts_with(is_quote) {
        return Some("the line is in quotes: take them off");
    }
    if is_fingerprint(word) || word.bytes().all(|b| b.is_ascii_digit()) && is_fingerprint(second) {
        return Some(
            "a fingerprint, of which no key can be made: put the line of the key's `.pub` file here",
        );
    }
    if word.contains("://") {
        return Some("a URL, from which nothing is fetched: put the lines of the keys here");
    }
    if text
        .chars()
        .take_while(|c| !matches!(c, ' ' | '\t'))
        .any(|c| c == '\u{a0}')
    {
        return Some("a no-break space where a blank must be: type it anew");
    }
    if let Some(item) = text.strip_prefix("- ") {
        let item = item.trim_start_matches(is_quote);
        return has_type(item).then_some("an item of a YAML list: take the dash off");
    }
    if let Some(known) = TYPES.iter().find(|known| word.starts_with(**known)) {
        return word[known.len()..]
            .starts_with("AAAA")
            .then_some("no blank between the key type and the key");
    }
    if known_type(&word.to_ascii_lowercase()).is_some() {
        return Some("a key type in capitals: OpenSSH wants small letters");
    }
    // `ssh-`, `ecdsa-` and `sk-` in base64.
    let is_encoded = ["c3NoL", "ZWNkc2Et", "c2stc3No", "c2stZWNkc2E"]
        .iter()
        .any(|start| word.starts_with(start));
    is_encoded.then_some("a line in base64: put it here as it is")
}

/// For a blob without its type.
fn missing_type(text: &str) -> Option<String> {
    let known = type_in(text.split([' ', '\t']).next()?)?;
    Some(format!(
        "a key without its type: write `{known}` and a blank before it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    /// Of a value the mistakes that are told, and how many lines each has.
    fn check(value: &str, expected: &[(&str, usize)]) {
        let lines: Vec<&[u8]> = value.as_bytes().split(|b| *b == b'\n').collect();
        let (mut told, mut at) = (Vec::new(), 0);
        while at < lines.len() {
            let mut more = 0;
            if let Err(error) = Line::read(lines[at]) {
                let reason;
                (reason, more) = explain(&error, lines[at], &lines[at + 1..]);
                told.push((reason, more + 1));
            }
            at += more + 1;
        }
        assert_eq!(told.len(), expected.len(), "{value}: {told:?}");
        for ((reason, lines), (part, of)) in told.iter().zip(expected) {
            assert!(reason.contains(part) && lines == of, "{value}: {told:?}");
        }
    }

    #[test]
    fn each_mistake_is_told_once_with_what_to_do() {
        let (algorithm, body) = KEY.split_once(' ').unwrap();
        let pem = |kind: &str| {
            format!(
                "-----BEGIN {kind}-----\nMCowBQYDK2VwAyEA\nGb9ECWmEzf6FQbrBZ9w7\n-----END {kind}-----"
            )
        };
        check(&pem("PUBLIC KEY"), &[("-m PKCS8", 4)]);
        check(&pem("RSA PUBLIC KEY"), &[("-m PEM", 4)]);
        check(&format!("{}\n{KEY}", pem("CERTIFICATE")), &[("X.509", 4)]);
        check(
            &format!("-----BEGIN PUBLIC KEY-----\nMCow\n{KEY}\nnonsense"),
            &[("PKCS8", 2), ("not an", 1)],
        );
        let rfc = "---- BEGIN SSH2 PUBLIC KEY ----\nComment: \"rsa-key\"\nSubject: me\nAAAAB3Nza\nC1yc2EA\n---- END SSH2 PUBLIC KEY ----";
        check(&format!("# x\n{rfc}\n{KEY}"), &[("ssh-keygen -i -f", 6)]);
        for quoted in [
            format!("\"{KEY}\""),
            format!("'{KEY} me'"),
            format!("\"{KEY}\","),
        ] {
            check(&quoted, &[("in quotes", 1)]);
        }
        for fingerprint in [
            "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ",
            "256 SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ me@host (ED25519)",
            "2048 MD5:0a:0b me (RSA)",
            "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
        ] {
            check(fingerprint, &[("a fingerprint", 1)]);
        }
        check("https://github.com/alice.keys", &[("a URL", 1)]);
        check(
            &format!("{algorithm}\u{a0}{body}"),
            &[("no-break space", 1)],
        );
        check(&format!("\u{a0}{KEY}"), &[("no-break space", 1)]);
        check(
            &format!("- {KEY}\n- \"{KEY}\""),
            &[("the dash", 1), ("the dash", 1)],
        );
        check(&KEY.replace(' ', ""), &[("no blank", 1)]);
        check(&KEY.replace("ssh-ed", "SSH-ED"), &[("small letters", 1)]);
        check(body, &[("write `ssh-ed25519` and a blank", 1)]);
        check(&format!("{body} me@host"), &[("write `ssh-ed25519`", 1)]);
        check("c3NoLWVkMjU1MTkgQUFBQUMzTnph", &[("in base64", 1)]);
        let (one, two) = body.split_at(30);
        check(
            &format!("{algorithm} {one}\n{two} me\n{KEY}"),
            &[("wrapped", 2)],
        );
        check(&format!("{algorithm} {one}\\\n{two}"), &[("wrapped", 2)]);
        check(&format!("{algorithm}\n{one}\n{two}"), &[("wrapped", 3)]);
        check(
            &format!("{algorithm} {one}\n{KEY}"),
            &[("not valid base64", 1)],
        );
        check("hunter2-password", &[("not an authorized_keys line", 1)]);
    }

    #[test]
    fn a_value_that_is_something_else_is_named() {
        let check = |value: &str, expected: Option<&str>| {
            let said = of_value(value).and_then(|said| said.split([' ', ':']).next());
            assert_eq!(said, expected, "{value}");
        };
        check(&format!("{{\"keys\": [\"{KEY}\"]}}"), Some("JSON"));
        check(&format!("[\n \"{KEY}\",\n \"{KEY}\"\n]\n"), Some("JSON"));
        check(&format!("ssh_authorized_keys:\n  - {KEY}\n"), Some("YAML"));
        check(&format!("# x\n---\nkeys: |\n  {KEY}\n"), Some("YAML"));
        check(&format!("- {KEY}"), Some("YAML"));
        check("<html>\n<body>", Some("HTML"));
        let wide: String = KEY.chars().flat_map(|c| [c, '\0']).collect();
        check(&format!("\u{fffd}\u{fffd}{wide}"), Some("UTF-16"));
        check(&wide, Some("UTF-16"));
        check(KEY, None);
        check("nonsense", None);
        check("", None);
        check("a\0b and much more behind it", None);
    }
}
