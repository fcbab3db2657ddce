//! One signature by one key, over bytes (RFC 4253, 6.6; RFC 5656, 3.1.2; RFC 8332; RFC 8709; OpenSSH's `PROTOCOL.u2f`).
//!
//! Keys are those of [`Signers`]: read, of a type named here, their points on the curve.
//!
//! [`Signers`]: crate::model::signature::signers::Signers

use p521::ecdsa::signature::hazmat::PrehashVerifier;
use ring::digest::{SHA256, SHA512, digest};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use crate::model::key::blob::{c_string, field};

/// Bytes behind the signature of a security key: what it saw (presence, PIN) and its counter. Both are signed.
const FLAGS_AND_COUNTER: usize = 5;

/// True when a signature that names itself `scheme` is one that a key of this type makes. SHA-1 (`ssh-rsa`) is not among
/// them, and neither is what a browser signs (`webauthn-…`).
pub fn fits(key_type: &str, scheme: &[u8]) -> bool {
    match key_type {
        "ssh-rsa" => matches!(scheme, b"rsa-sha2-256" | b"rsa-sha2-512"),
        key_type => scheme == key_type.as_bytes(),
    }
}

/// True when the key of `blob` made the signature, whose fields behind its name are `signature`, of `signed`.
///
/// A security key need not have been touched: `ssh-keygen -Y verify` does not ask for it either (`sshsig.c` prints the
/// flags and drops them).
pub fn verifies(
    key_type: &str,
    blob: &[u8],
    scheme: &[u8],
    signature: &[u8],
    signed: &[u8],
) -> bool {
    read_and_verify(key_type, blob, scheme, signature, signed).is_some()
}

fn read_and_verify(
    key_type: &str,
    blob: &[u8],
    scheme: &[u8],
    signature: &[u8],
    signed: &[u8],
) -> Option<()> {
    let (value, behind) = field(signature)?;
    let (first, rest) = field(field(blob)?.1)?;
    let of_security_key = key_type.starts_with("sk-");
    if behind.len()
        != if of_security_key {
            FLAGS_AND_COUNTER
        } else {
            0
        }
    {
        return None;
    }
    match key_type {
        "ssh-ed25519" => check(&ED25519, first, signed, value),
        "sk-ssh-ed25519@openssh.com" => {
            let signed = by_security_key(field(rest)?.0, behind, signed);
            check(&ED25519, first, &signed, value)
        }
        "sk-ecdsa-sha2-nistp256@openssh.com" => {
            let (point, rest) = field(rest)?;
            let signed = by_security_key(field(rest)?.0, behind, signed);
            check(
                &ECDSA_P256_SHA256_FIXED,
                point,
                &signed,
                &two_numbers(value, 32)?,
            )
        }
        "ecdsa-sha2-nistp256" => {
            let numbers = two_numbers(value, 32)?;
            check(&ECDSA_P256_SHA256_FIXED, field(rest)?.0, signed, &numbers)
        }
        "ecdsa-sha2-nistp384" => {
            let numbers = two_numbers(value, 48)?;
            check(&ECDSA_P384_SHA384_FIXED, field(rest)?.0, signed, &numbers)
        }
        "ecdsa-sha2-nistp521" => {
            let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(field(rest)?.0).ok()?;
            let numbers = p521::ecdsa::Signature::from_slice(&two_numbers(value, 66)?).ok()?;
            key.verify_prehash(digest(&SHA512, signed).as_ref(), &numbers)
                .ok()
        }
        "ssh-rsa" => {
            let algorithm = match scheme {
                b"rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                b"rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
                _ => return None,
            };
            let (e, n) = (without_zeros(first), without_zeros(field(rest)?.0));
            let key = RsaPublicKeyComponents { n, e };
            key.verify(algorithm, signed, &padded(value, n.len())?).ok()
        }
        _ => None,
    }
}

fn check(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> Option<()> {
    UnparsedPublicKey::new(algorithm, key)
        .verify(signed, signature)
        .ok()
}

/// What a security key signs in place of the bytes.
fn by_security_key(application: &[u8], flags_and_counter: &[u8], signed: &[u8]) -> Vec<u8> {
    let application = digest(&SHA256, c_string(application));
    let signed = digest(&SHA256, signed);
    [application.as_ref(), flags_and_counter, signed.as_ref()].concat()
}

/// Both `mpint` of an ECDSA signature, each in `size` bytes.
fn two_numbers(value: &[u8], size: usize) -> Option<Vec<u8>> {
    let (r, rest) = field(value)?;
    let (s, rest) = field(rest)?;
    let negative = |number: &[u8]| number.first().is_some_and(|first| *first >= 0x80);
    if !rest.is_empty() || negative(r) || negative(s) {
        return None;
    }
    Some(
        [
            padded(without_zeros(r), size)?,
            padded(without_zeros(s), size)?,
        ]
        .concat(),
    )
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

/// With zeros in front, `size` bytes.
fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut padded = vec![0; size.checked_sub(number.len())?];
    padded.extend(number);
    Some(padded)
}
