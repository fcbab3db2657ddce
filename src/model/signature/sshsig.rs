//! A signature as `ssh-keygen -Y sign` makes it, and whether it counts (OpenSSH's `PROTOCOL.sshsig`).
//!
//! The verdict is that of `ssh-keygen -Y verify -n authorized-keys-list` for a key that its line names (`sshsig.c:
//! sshsig_dearmor`, `sshsig_wrap_verify`, `check_allowed_keys_line`). Stricter on purpose: certificates, RSA below 3072
//! bits, and what a browser signs are not taken.

use std::fmt::Display;

use base64ct::{Base64, Encoding};
use jiff::Timestamp;
use ring::digest::{self, SHA256, SHA512};

use crate::model::escape::{escaped, shortened};
use crate::model::key::blob::{c_string, decoded, field, push, type_of};
use crate::model::key::public_key::PublicKey;
use crate::model::signature::algorithms;
pub use crate::model::signature::signers::NAMESPACE;
use crate::model::signature::signers::{Signer, Signers, Untaken, taken};
use crate::model::words::count;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "\n-----END SSH SIGNATURE-----";

/// Stands in front of the blob, and of what is signed.
const MAGIC: &[u8] = b"SSHSIG";

/// A key that signed, and may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBy {
    /// `SHA256:…`.
    pub fingerprint: String,
    /// The names of its line, safe to be shown.
    pub principals: String,
    /// When its signatures stop to count.
    pub valid_before: Option<Timestamp>,
}

/// Why a signature does not count. A key is shown with the names of its line first.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq, Hash)]
pub enum Fault {
    #[error(
        "the signature is damaged: its first or last line or its base64 is not as ssh-keygen writes it"
    )]
    Armour,
    #[error("the signature is damaged: its fields are not those that ssh-keygen writes")]
    Fields,
    #[error("the signature is for the namespace `{0}`, not `authorized-keys-list`")]
    Namespace(String),
    #[error("the signature is of the digest `{0}`, not `sha256` or `sha512`")]
    Digest(String),
    #[error("{0}")]
    Untaken(Untaken),
    #[error("the signature is by the key {0}, which is not one that may sign")]
    Unknown(String),
    #[error("{0} may not sign for the namespace `authorized-keys-list`")]
    OtherNamespaces(String),
    #[error("{signer} may not sign before {from}")]
    NotYet { signer: String, from: Timestamp },
    #[error("{signer} could sign until {until}")]
    NoLonger { signer: String, until: Timestamp },
    #[error("the signature of {signer} is made by `{scheme}`, which is not taken")]
    Scheme { signer: String, scheme: String },
    #[error("the signature of {0} does not fit what is signed")]
    Wrong(String),
}

/// The fields of a blob.
struct Fields<'a> {
    key: &'a [u8],
    namespace: &'a [u8],
    digest: &'a [u8],
    /// How the signature was made, and the rest of it.
    scheme: &'a [u8],
    signature: &'a [u8],
}

/// Who signed `message`, if that key may.
pub fn verify(
    message: &[u8],
    armoured: &str,
    signers: &Signers,
    now: Timestamp,
) -> Result<SignedBy, Fault> {
    let blob = unarmoured(armoured).ok_or(Fault::Armour)?;
    let fields = Fields::read(&blob).ok_or(Fault::Fields)?;
    if fields.namespace != NAMESPACE.as_bytes() {
        return Err(Fault::Namespace(shown(fields.namespace)));
    }
    let algorithm = match fields.digest {
        b"sha256" => &SHA256,
        b"sha512" => &SHA512,
        other => return Err(Fault::Digest(shown(other))),
    };
    let signer = signers.may_sign(&fields.key()?, now)?;
    let wrong = || Fault::Wrong(signer.shown());
    let key_type = signer.key.algorithm();
    if !algorithms::fits(key_type, fields.scheme) {
        return Err(Fault::Scheme {
            signer: signer.shown(),
            scheme: shown(fields.scheme),
        });
    }
    let mut signed = MAGIC.to_vec();
    push(&mut signed, &[], fields.namespace);
    // Reserved; what the blob has there does not count.
    push(&mut signed, &[], &[]);
    push(&mut signed, &[], fields.digest);
    push(
        &mut signed,
        &[],
        digest::digest(algorithm, message).as_ref(),
    );
    let key = decoded(signer.key.base64().as_bytes()).ok_or_else(wrong)?;
    if !algorithms::verifies(key_type, &key, fields.scheme, fields.signature, &signed) {
        return Err(wrong());
    }
    Ok(SignedBy {
        fingerprint: signer.key.fingerprint().to_owned(),
        principals: signer.principals.clone(),
        valid_before: signer.limits.valid_before,
    })
}

/// Those of whom one of `blocks` is a good signature of `message`, each once, and why the other blocks do not count.
pub fn verify_all(
    message: &str,
    blocks: &[&str],
    signers: &Signers,
    now: Timestamp,
) -> (Vec<SignedBy>, Vec<String>) {
    let (mut good, mut faults): (Vec<SignedBy>, Vec<String>) = (Vec::new(), Vec::new());
    for block in blocks {
        match verify(message.as_bytes(), block, signers, now) {
            Ok(by) if good.iter().any(|one| one.fingerprint == by.fingerprint) => {
                faults.push(format!("{} {} signed twice", by.principals, by.fingerprint));
            }
            Ok(by) => good.push(by),
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    (good, faults)
}

/// Why so many good signatures do not do, of a list that has them.
pub fn too_few(good: usize, needed: &dyn Display, faults: &[String]) -> String {
    let noun = if faults.is_empty() {
        "signature"
    } else {
        "good signature"
    };
    let gap = if faults.is_empty() { "" } else { ": " };
    let (has, faults) = (count(good, noun), faults.join("; "));
    format!("it has {has}, and needs {needed}{gap}{faults}")
}

/// What is signed, all in front of the first block, and the blocks. What else follows them is one more, and damaged.
pub fn blocks(text: &str) -> (&str, Vec<&str>) {
    let starts_line = |at: &usize| *at == 0 || text.as_bytes()[at - 1] == b'\n';
    let begin = text
        .match_indices(BEGIN)
        .map(|(at, _)| at)
        .find(starts_line);
    let (message, mut rest) = text.split_at(begin.unwrap_or(text.len()));
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(END).map_or(rest.len(), |at| at + END.len());
        let (block, behind) = rest.split_at(end);
        blocks.push(block);
        rest = behind.trim_start();
    }
    (message, blocks)
}

impl<'a> Fields<'a> {
    fn read(blob: &'a [u8]) -> Option<Self> {
        let (version, rest) = blob.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        let (key, rest) = field(rest)?;
        let (namespace, rest) = field(rest)?;
        let (_reserved, rest) = field(rest)?;
        let (digest, rest) = field(rest)?;
        let (signature, rest) = field(rest)?;
        let (scheme, signature) = field(signature)?;
        if u32::from_be_bytes(*version) > 1 || !rest.is_empty() {
            return None;
        }
        Some(Self {
            key,
            namespace: c_string(namespace),
            digest: c_string(digest),
            scheme: c_string(scheme),
            signature,
        })
    }

    /// The key that says it signed.
    fn key(&self) -> Result<PublicKey, Fault> {
        let key_type = type_of(self.key).ok_or(Fault::Fields)?;
        let base64 = Base64::encode_string(self.key);
        let key = PublicKey::read(key_type, base64.as_bytes()).map_err(|_| Fault::Fields)?;
        taken(&key).map_err(Fault::Untaken)?;
        Ok(key)
    }
}

impl Signers {
    /// Why the signatures of this key would not count, if they would not.
    pub fn refuses(&self, key: &PublicKey, now: Timestamp) -> Option<Fault> {
        self.may_sign(key, now).err()
    }

    /// The first line that lets the key sign; else why the last of its lines does not.
    fn may_sign(&self, key: &PublicKey, now: Timestamp) -> Result<&Signer, Fault> {
        let mut fault = Fault::Unknown(key.fingerprint().to_owned());
        for signer in self.0.iter().filter(|signer| signer.key == *key) {
            match signer.fault(now) {
                None => return Ok(signer),
                Some(of_line) => fault = of_line,
            }
        }
        Err(fault)
    }
}

impl Signer {
    /// Why it does not sign now. Both ends count as within (`check_allowed_keys_line`), in whole seconds.
    fn fault(&self, now: Timestamp) -> Option<Fault> {
        let now = now.as_second();
        let limits = &self.limits;
        if !limits.allow_namespace() {
            return Some(Fault::OtherNamespaces(self.shown()));
        }
        if let Some(from) = limits.valid_after.filter(|from| now < from.as_second()) {
            let signer = self.shown();
            return Some(Fault::NotYet { signer, from });
        }
        let until = limits
            .valid_before
            .filter(|until| now > until.as_second())?;
        let signer = self.shown();
        Some(Fault::NoLonger { signer, until })
    }
}

/// `sshsig_dearmor`: what follows the last line does not count.
fn unarmoured(armoured: &str) -> Option<Vec<u8>> {
    let body = armoured.strip_prefix(BEGIN)?;
    let body = body.strip_prefix('\r').unwrap_or(body).strip_prefix('\n')?;
    let (base64, _) = body.split_once(END)?;
    decoded(base64.as_bytes())
}

/// A name from a blob, which may be anything.
fn shown(name: &[u8]) -> String {
    /// Bytes.
    const MOST: usize = 60;
    shortened(&escaped(&String::from_utf8_lossy(name)), MOST)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    /// `keys`, signed by a key of each type with `ssh-keygen -Y sign -n authorized-keys-list`; the last has 2048 bits.
    const SIGNED: &str = include_str!("testdata/signed");
    const SIGNERS: &str = include_str!("testdata/allowed_signers");

    fn now() -> Timestamp {
        "2026-11-30T22:00:00Z".parse().unwrap()
    }

    fn signers(text: &str) -> Signers {
        Signers::read(text, &TimeZone::UTC).0
    }

    fn told(message: &[u8], armoured: &str, signers: &Signers) -> String {
        match verify(message, armoured, signers, now()) {
            Ok(by) => by.principals,
            Err(fault) => format!("error: {fault}"),
        }
    }

    #[test]
    fn each_type_of_key_signs() {
        let (message, blocks) = blocks(SIGNED);
        assert_eq!((message, blocks.len()), ("keys\n", 8));
        let signers = signers(SIGNERS);
        assert_eq!(signers.count(), 7);
        for (block, line) in blocks.into_iter().zip(SIGNERS.lines()).take(7) {
            let name = line.split(' ').next().unwrap();
            assert_eq!(told(message.as_bytes(), block, &signers), name);
            let told = told(b"kexs\n", block, &signers);
            let start = format!("error: the signature of {name} SHA256:");
            assert!(
                told.starts_with(&start) && told.ends_with(" does not fit what is signed"),
                "{told}"
            );
        }
    }

    #[test]
    fn says_what_differs() {
        let (message, blocks) = blocks(SIGNED);
        let line = SIGNERS.lines().next().unwrap();
        let (name, key) = line.split_once(' ').unwrap();
        let check = |block: &str, signers_text: &str, expected: &str| {
            let fingerprint = "SHA256:KqKquDe9w645TVAe9FkMAah8xjSqHipr5zPIvU7j89w";
            let told = told(message.as_bytes(), block, &signers(signers_text));
            assert_eq!(
                told,
                expected.replace("FINGERPRINT", fingerprint),
                "{signers_text}"
            );
        };
        let first = blocks[0];
        check(first, line, name);
        for (options, expected) in [
            ("namespaces=\"file,auth*\"", name),
            (
                "namespaces=\"file\"",
                "error: ed25519@example.com FINGERPRINT may not sign for the namespace `authorized-keys-list`",
            ),
            (
                "valid-after=\"20261130220000Z\",valid-before=\"20270101\"",
                name,
            ),
            ("valid-before=\"20261130220000Z\"", name),
            (
                "valid-after=\"20261130220001Z\"",
                "error: ed25519@example.com FINGERPRINT may not sign before 2026-11-30T22:00:01Z",
            ),
            (
                "valid-before=\"20261130215959Z\"",
                "error: ed25519@example.com FINGERPRINT could sign until 2026-11-30T21:59:59Z",
            ),
        ] {
            check(first, &format!("{name} {options} {key}"), expected);
            // Another line of the same key may let it sign.
            check(
                first,
                &format!("{name} {options} {key}\nbob {key}"),
                if expected == name { name } else { "bob" },
            );
        }
        let others = SIGNERS.split_once('\n').unwrap().1;
        check(
            first,
            others,
            "error: the signature is by the key FINGERPRINT, which is not one that may sign",
        );
        check(
            blocks[7],
            SIGNERS,
            "error: an RSA key of 2048 bits may not sign: 3072 to 8192 are taken",
        );
        let damaged = "error: the signature is damaged: its first or last line or its base64 is not as ssh-keygen writes it";
        check("", line, damaged);
        check(&first[..first.len() - 1], line, damaged);
        check(&first[1..], line, damaged);
        check(&first.replacen('A', "*", 1), line, damaged);
        check(&first.replace('\n', "\r\n"), line, name);
        check(&format!("{first} or so"), line, name);
        let of_blob = |blob: &[u8]| format!("{BEGIN}\n{}{END}", Base64::encode_string(blob));
        let blob = unarmoured(first).unwrap();
        check(&of_blob(&blob), line, name);
        let damaged =
            "error: the signature is damaged: its fields are not those that ssh-keygen writes";
        check(&of_blob(&[&blob[..], &[0]].concat()), line, damaged);
        check(&of_blob(&blob[..blob.len() - 1]), line, damaged);
        let with = |from: &[u8], to: &[u8]| {
            let at = blob
                .windows(from.len())
                .rposition(|part| part == from)
                .unwrap();
            of_blob(&[&blob[..at], to, &blob[at + from.len()..]].concat())
        };
        check(
            &with(b"SSHSIG\0\0\0\x01", b"SSHSIG\0\0\0\x02"),
            line,
            damaged,
        );
        check(
            &with(b"\x14authorized-keys-list", b"\x04file"),
            line,
            "error: the signature is for the namespace `file`, not `authorized-keys-list`",
        );
        check(
            &with(b"sha512", b"sha384"),
            line,
            "error: the signature is of the digest `sha384`, not `sha256` or `sha512`",
        );
        check(
            &with(b"sha512", b"sha256"),
            line,
            "error: the signature of ed25519@example.com FINGERPRINT does not fit what is signed",
        );
        check(
            &with(b"ssh-ed25519", b"ssh-\x1b[5m519"),
            line,
            "error: the signature of ed25519@example.com FINGERPRINT is made by `ssh-\\u{1b}[5m519`, which is not taken",
        );
    }

    #[test]
    fn what_is_signed_ends_at_the_first_block() {
        let check = |text: &str, message: &str, expected: &[&str]| {
            assert_eq!(blocks(text), (message, expected.to_vec()), "{text:?}");
        };
        let block = format!("{BEGIN}\nAAAA{END}");
        check("", "", &[]);
        check("a\n", "a\n", &[]);
        check(&block, "", &[&block]);
        check(&format!("a\n{block}"), "a\n", &[&block]);
        check(
            &format!("a\n\r\n{block}\r\n{block}\n\n"),
            "a\n\r\n",
            &[&block, &block],
        );
        check(&format!("a{block}"), &format!("a{block}"), &[]);
        check(&format!("a\n {block}"), &format!("a\n {block}"), &[]);
        check(&format!("a\n{block}\nb\n"), "a\n", &[&block, "b\n"]);
        check(
            &format!("a\n{block}b\n{block}"),
            "a\n",
            &[&block, &format!("b\n{block}")],
        );
        check(
            &format!("a\n{BEGIN}\nAAAA\n"),
            "a\n",
            &[&format!("{BEGIN}\nAAAA\n")],
        );
    }
}
