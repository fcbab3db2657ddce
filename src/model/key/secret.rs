//! Private keys that were put where only public ones belong.
//!
//! All who can read the list know such a key by then; this program does not spread it any further. It leaves the
//! value before anything is stored, and a marker in its place says so when the list is judged.

/// Marks of a private key, wherever in a line they stand: pasted into a comment or quoted, it is as lost.
const MARKS: [&[&str]; 3] = [
    // PEM and OpenSSH's own armour (PROTOCOL.key): `-----BEGIN … PRIVATE KEY-----`.
    &["-----BEGIN ", "PRIVATE KEY"],
    // The body of OpenSSH's format without its armour: `openssh-key-v1\0` in base64.
    &["b3BlbnNzaC1rZXktdjEA"],
    // PuTTY's own format.
    &["PuTTY-User-Key-File-"],
];

/// What stands in a value instead of the line that a private key begins in.
const MARKER: &str = "-----BEGIN PRIVATE KEY----- (not kept)";

/// The line, from 1, in which a private key begins.
pub fn private_key(value: &str) -> Option<usize> {
    let begins = |line: &str| {
        MARKS
            .iter()
            .any(|mark| mark.iter().all(|part| line.contains(part)))
    };
    value.lines().position(begins).map(|index| index + 1)
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
}
