//! Private keys that were put where only public ones belong.
//!
//! All who can read the list know such a key by then; this program does not spread it any further. It leaves the
//! value before anything is stored, and a marker in its place says so when the list is judged.

use base64ct::{Base64, Encoding};

/// Marks of a private key, wherever in a line they stand: pasted into a comment or quoted, it is as lost.
const MARKS: [&[&str]; 4] = [
    // PEM and OpenSSH's own armour (PROTOCOL.key): `-----BEGIN … PRIVATE KEY-----`.
    &["-----BEGIN ", "PRIVATE KEY"],
    // The armour of ssh.com's programs.
    &["---- BEGIN SSH2 ", "PRIVATE KEY"],
    // The body of OpenSSH's format without its armour: `openssh-key-v1` in base64.
    &["b3BlbnNzaC1rZXktdjE"],
    // PuTTY's own format.
    &["PuTTY-User-Key-File-"],
];

/// What stands in a value instead of the line that a private key begins in.
const MARKER: &str = "-----BEGIN PRIVATE KEY----- (not kept)";

/// The line, from 1, in which a private key begins.
pub fn private_key(value: &str) -> Option<usize> {
    let begins = |line: &str| {
        let marked = MARKS
            .iter()
            .any(|mark| mark.iter().all(|part| line.contains(part)));
        marked || (0..line.len()).any(|at| is_body(&line.as_bytes()[at..]))
    };
    value.lines().position(begins).map(|index| index + 1)
}

/// True at the beginning of a private key in base64: of its DER, or of its PEM file as a whole.
fn is_body(text: &[u8]) -> bool {
    /// A whole armour line fits, `ENCRYPTED` included.
    const ENOUGH: usize = 64;
    // What a SEQUENCE and `-----` begin with. Of all other places there is no need to decode any.
    if !matches!(text, [b'M', ..] | [b'L', b'S', b'0', b't', ..]) {
        return false;
    }
    let is_base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let length = text.iter().take(ENOUGH).take_while(is_base64).count();
    let mut bytes = [0; ENOUGH];
    let Ok(bytes) = Base64::decode(&text[..length / 4 * 4], &mut bytes) else {
        return false;
    };
    let armour = || String::from_utf8_lossy(bytes).contains("PRIVATE KEY");
    is_der(bytes) || bytes.starts_with(b"-----BEGIN ") && armour()
}

/// The beginning of a private key as PKCS #1, SEC 1, PKCS #8 or PKCS #12 have it (RFC 8017 A.1.2, RFC 5915 3, RFC 5958 2
/// and 3, RFC 7292 4): a version and what follows it, or an algorithm of PKCS #5 that it is encrypted with. Public keys and
/// certificates begin otherwise.
fn is_der(bytes: &[u8]) -> bool {
    /// `1.2.840.113549.1.5`, of nine bytes.
    const PKCS5: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5];
    match in_sequence(bytes) {
        Some([2, 1, 0, 2 | 0x30, ..] | [2, 1, 1, 4 | 0x30, ..] | [2, 1, 3, 0x30, ..]) => true,
        Some(inside) => in_sequence(inside).is_some_and(|oid| oid.starts_with(PKCS5)),
        None => false,
    }
}

/// What is in the SEQUENCE that begins here.
fn in_sequence(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [0x30, 0x82, _, _, inside @ ..]
        | [0x30, 0x81, _, inside @ ..]
        | [0x30, ..=0x7f, inside @ ..] => Some(inside),
        _ => None,
    }
}

/// `value`, or what is kept of one that holds a private key: the line it begins in, marked, and nothing else.
pub fn withheld(value: String) -> String {
    match private_key(&value) {
        None => value,
        Some(line) => "\n".repeat(line - 1) + MARKER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_private_key_is_kept() {
        let public = "# team\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ a@b";
        assert_eq!(
            (private_key(public), withheld(public.to_owned())),
            (None, public.to_owned())
        );
        let armour = |kind: &str| {
            format!("-----BEGIN {kind}PRIVATE KEY-----\nsecret\n-----END {kind}PRIVATE KEY-----")
        };
        for (value, line) in [
            (armour("OPENSSH "), 1),
            (armour("RSA ").replace('\n', " "), 1),
            (armour("ENCRYPTED ").replace('\n', "\\n"), 1),
            (armour("").replace('\n', "\r\n"), 1),
            (format!("{public}\n# {}", armour("EC ")), 3),
            (
                "secret\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUsecret".to_owned(),
                2,
            ),
            ("PuTTY-User-Key-File-3: ssh-ed25519\nsecret".to_owned(), 1),
            (
                "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nsecret".to_owned(),
                1,
            ),
        ] {
            assert_eq!(private_key(&value), Some(line), "{value}");
            let kept = withheld(value);
            assert!(!kept.contains("secret") && !kept.contains("a@b"), "{kept}");
            assert_eq!(
                private_key(&kept),
                Some(line),
                "the marker is found again where the key was"
            );
            assert_eq!(withheld(kept.clone()), kept);
        }
    }

    /// First lines that openssl and ssh-keygen write, of keys that were thrown away.
    #[test]
    fn the_body_alone_is_known_by_what_it_begins_with() {
        for (what, body) in [
            ("PKCS #1, 1024", "MIICXQIBAAKBgQCi14jNw0vy"),
            ("PKCS #1, 2048", "MIIEpAIBAAKCAQEAtfyQ5wCs"),
            ("PKCS #1, 4096", "MIIJKQIBAAKCAgEAl7kW7Lua"),
            ("SEC 1, 256", "MHcCAQEEIFM7Yt83dXXL62d/"),
            ("SEC 1, 384", "MIGkAgEBBDBvaun+kXaKF8st"),
            ("SEC 1, 521", "MIHcAgEBBEIBNBi/vy9HowDB"),
            (
                "PKCS #8, RSA",
                "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEA",
            ),
            (
                "PKCS #8, ECDSA",
                "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIB",
            ),
            (
                "PKCS #8, Ed25519",
                "MC4CAQAwBQYDK2VwBCIEINAgHFuyijgomb6LCpW5n9FO",
            ),
            (
                "encrypted",
                "MIIFLTBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG9w0BBQwwHAQI",
            ),
            (
                "PEM in base64",
                "LS0tLS1CRUdJTiBPUEVOU1NIIFBSSVZBVEUgS0VZLS0tLS0K",
            ),
            (
                "the same, encrypted",
                "LS0tLS1CRUdJTiBFTkNSWVBURUQgUFJJVkFURSBLRVktLS0tLQo=",
            ),
        ] {
            for (value, line) in [
                (format!("{body}\nsecret"), 1),
                (format!("# mine\n# \"{body}secret\""), 2),
                (format!("# mine\\n{body}\\nsecret"), 1),
            ] {
                assert_eq!(private_key(&value), Some(line), "{what}: {value}");
                assert!(!withheld(value).contains(&body[..20]), "{what}");
            }
        }
        for (what, text) in [
            (
                "a public key",
                "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA5+Updzc",
            ),
            (
                "a certificate",
                "MIIDazCCAlOgAwIBAgIUJlq+zz4CO2rVEyzxxxxxxxxxxxxx",
            ),
            (
                "PEM of a public key in base64",
                "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0K",
            ),
            ("a name", "ssh-ed25519 AAAA MIIEowner of the MII"),
        ] {
            assert_eq!(private_key(text), None, "{what}");
        }
    }
}
