//! The blob of a key (RFC 4253, 6.6), and the one spelling among those that sshd takes for it.
//!
//! sshd reads a blob into a key and writes it out again, so it takes fingerprints of the latter. Sources: OpenSSH's
//! `sshkey.c: sshkey_type_from_name`, `sshkey_from_blob_internal`; `sshbuf-getput-basic.c: sshbuf_get_bignum2_bytes_direct`.

use base64ct::{Base64, Base64Unpadded, Encoding};

use crate::model::sha256::Sha256;

/// Key types of OpenSSH. No message repeats another word of a line as one.
pub const TYPES: [&str; 20] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-256",
    "rsa-sha2-512",
    "ssh-dss",
    "ssh-mldsa44-ed25519@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-rsa-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ssh-dss-cert-v01@openssh.com",
];

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

/// `word`, if it is a key type of OpenSSH.
pub fn known_type(word: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|known| *known == word)
}

/// `SHA256:…`, as `ssh-keygen -lf` prints it and sshd logs it.
pub fn fingerprint(blob: &[u8]) -> String {
    let digest = Sha256::digest(blob);
    format!(
        "SHA256:{}",
        Base64Unpadded::encode_string(digest.as_slice())
    )
}

/// What base64 says, as `b64_pton` reads it: white space counts for nothing, padding and its bits are strict.
pub fn decoded(base64: &[u8]) -> Option<Vec<u8>> {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t'..=b'\r');
    let compact: Vec<u8> = base64.iter().copied().filter(|b| !is_space(b)).collect();
    Base64::decode_vec(std::str::from_utf8(&compact).ok()?).ok()
}

/// The name that a blob begins with.
pub fn type_of(blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(field(blob)?.0).ok()
}

/// The type and the blob as sshd writes them out again, which is what it takes the fingerprint of. `None` where the
/// line and its blob are not of one type: no sshd takes that.
pub fn canonical(said: &str, blob: Vec<u8>) -> Option<(String, Vec<u8>)> {
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

fn named(name: &str, in_blob: bool) -> &str {
    let is = |(known, others, short): &&(&'static str, &[&str], Option<&str>)| {
        *known == name
            || others.contains(&name)
            || (in_blob && short.is_some_and(|short| short.eq_ignore_ascii_case(name)))
    };
    NAMES.iter().find(is).map_or(name, |(known, ..)| known)
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
            // No key has a negative number, and an `mpint` (RFC 4251, 5) is as short as it can be.
            if value.first().is_some_and(|first| *first >= 0x80) {
                return None;
            }
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
pub fn field(blob: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

pub fn push(blob: &mut Vec<u8>, before: &[u8], value: &[u8]) {
    let length = u32::try_from(before.len() + value.len()).unwrap_or(u32::MAX);
    blob.extend([&length.to_be_bytes(), before, value].concat());
}

/// Without the NUL at its end that `sshbuf_get_cstring` lets pass.
pub fn c_string(text: &[u8]) -> &[u8] {
    text.strip_suffix(&[0]).unwrap_or(text)
}
