//! One public key: its type, its blob, its fingerprint.
//!
//! The `ssh-key` crate reads the blob. What sshd checks beyond it (`sshkey.c: sshkey_from_blob`,
//! `sshkey_ec_validate_public`, `check_rsa_length`) is checked here, so that a line we render is a line
//! sshd takes.

use base64ct::{Base64, Encoding};
use ssh_key::public::{EcdsaPublicKey, KeyData, RsaPublicKey};

use crate::model::key::blob::{canonical, decoded, fingerprint, known_type};

/// A public key that OpenSSH can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: String,
    base64: String,
    fingerprint: String,
    rsa_bits: Option<u32>,
}

/// Why a type and a blob are no usable key. Never holds the blob.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// The word before the blob is no key type of OpenSSH, and none that the blob has.
    #[error("not a key type")]
    UnknownType,
    /// No text after the key type.
    #[error("the key type `{0}` is not followed by a key")]
    NoBlob(&'static str),
    /// The blob is not base64 as `b64_pton` reads it.
    #[error("the key after `{0}` is not valid base64; was it cut, wrapped or pasted twice?")]
    Base64(&'static str),
    /// The type in the text and the type in the blob differ.
    #[error("the line says `{said}` but the key itself is of another type")]
    TypeMismatch {
        /// The type as written in the line.
        said: &'static str,
    },
    /// The blob has the right type and the wrong content.
    #[error("the `{0}` key is damaged: its content does not fit its type")]
    Damaged(&'static str),
    /// `SSH_RSA_MINIMUM_MODULUS_SIZE` (1024) and `SSHBUF_MAX_BIGNUM` (16384) of OpenSSH.
    #[error("an RSA key of {0} bits: sshd takes 1024 to 16384")]
    RsaSize(u32),
}

const RSA_BITS: std::ops::RangeInclusive<u32> = 1024..=16_384;

/// With the exponent 1 anybody can sign. OpenSSL verifies nothing with one above
/// `OPENSSL_RSA_MAX_PUBEXP_BITS` when the modulus has more than 3072 bits (`rsa_ossl.c`); no key needs one.
const EXPONENT_BITS: std::ops::RangeInclusive<u32> = 2..=64;

impl PublicKey {
    /// Reads `algorithm` and the base64 text that follows it.
    pub fn read(algorithm: &str, base64: &[u8]) -> Result<Self, KeyError> {
        // The words of a line are not for messages, so only the types that are known have a name there.
        let known = known_type(algorithm);
        let error = |of: fn(&'static str) -> KeyError| known.map_or(KeyError::UnknownType, of);
        if base64.is_empty() {
            return Err(error(KeyError::NoBlob));
        }
        let blob = decoded(base64).ok_or_else(|| error(KeyError::Base64))?;
        let (algorithm, blob) = canonical(algorithm, blob)
            .ok_or_else(|| error(|said| KeyError::TypeMismatch { said }))?;
        let rsa_bits = check_content(&algorithm, &blob)?;
        Ok(Self {
            algorithm,
            base64: Base64::encode_string(&blob),
            fingerprint: fingerprint(&blob),
            rsa_bits,
        })
    }

    /// The key type as OpenSSH names it, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The blob in canonical base64.
    pub fn base64(&self) -> &str {
        &self.base64
    }

    /// `SHA256:…`, as `ssh-keygen -lf` prints it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Size of the modulus in bits; only RSA keys have one.
    pub fn rsa_bits(&self) -> Option<u32> {
        self.rsa_bits
    }

    /// A `…-cert-v01@openssh.com` line: it parses in sshd and never lets anybody in.
    pub fn is_certificate(&self) -> bool {
        self.algorithm.ends_with("-cert-v01@openssh.com")
    }
}

/// Checks a blob whose type is known, and returns the size of an RSA modulus. Types that OpenSSH may learn later,
/// and those that the policy refuses by name, stay opaque.
fn check_content(algorithm: &str, blob: &[u8]) -> Result<Option<u32>, KeyError> {
    let known = known_type(algorithm).filter(|known| {
        *known != "ssh-dss" && !known.contains("-cert-") && !known.starts_with("ssh-mldsa")
    });
    let Some(known) = known else {
        return Ok(None);
    };
    let damaged = || KeyError::Damaged(known);
    let key = ssh_key::PublicKey::from_bytes(blob).map_err(|_| damaged())?;
    let sound = match key.key_data() {
        KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) => {
            usable(point.as_bytes(), 256, p256::PublicKey::from_sec1_bytes)
        }
        KeyData::Ecdsa(EcdsaPublicKey::NistP384(point)) => {
            usable(point.as_bytes(), 384, p384::PublicKey::from_sec1_bytes)
        }
        KeyData::Ecdsa(EcdsaPublicKey::NistP521(point)) => {
            usable(point.as_bytes(), 521, p521::PublicKey::from_sec1_bytes)
        }
        KeyData::SkEcdsaSha2NistP256(key) => {
            usable(
                key.ec_point().as_bytes(),
                256,
                p256::PublicKey::from_sec1_bytes,
            ) && is_application(key.application())
        }
        KeyData::SkEd25519(key) => is_application(key.application()),
        KeyData::Rsa(rsa) => return check_rsa(rsa).map(Some),
        _ => true,
    };
    if sound { Ok(None) } else { Err(damaged()) }
}

/// The size of the modulus in bits.
fn check_rsa(rsa: &RsaPublicKey) -> Result<u32, KeyError> {
    let damaged = || KeyError::Damaged("ssh-rsa");
    let modulus = rsa.n.as_positive_bytes().ok_or_else(damaged)?;
    let exponent = rsa.e.as_positive_bytes().ok_or_else(damaged)?;
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !odd(modulus) || !odd(exponent) || !EXPONENT_BITS.contains(&bit_length(exponent)) {
        return Err(damaged());
    }
    let bits = bit_length(modulus);
    if RSA_BITS.contains(&bits) {
        Ok(bits)
    } else {
        Err(KeyError::RsaSize(bits))
    }
}

/// OpenSSH refuses compressed points (`sshbuf-getput-crypto.c: get_ec` wants `POINT_CONVERSION_UNCOMPRESSED`)
/// and coordinates of at most half the `bits` of the order (`sshkey.c: sshkey_ec_validate_public`).
fn usable<K>(
    point: &[u8],
    bits: u32,
    read: impl Fn(&[u8]) -> Result<K, p256::elliptic_curve::Error>,
) -> bool {
    let Some((4, coordinates)) = point.split_first() else {
        return false;
    };
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    bit_length(x).min(bit_length(y)) > bits / 2 && read(point).is_ok()
}

/// What a security key signs for, such as `ssh:`. sshd refuses a NUL inside it and drops one at its end, which
/// would be a second spelling of the same key.
fn is_application(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn bit_length(modulus: &[u8]) -> u32 {
    let zeros = modulus.iter().take_while(|b| **b == 0).count();
    let significant = &modulus[zeros..];
    let bits = significant.len() * 8;
    let unused = significant.first().map_or(0, |b| b.leading_zeros());
    u32::try_from(bits)
        .unwrap_or(u32::MAX)
        .saturating_sub(unused)
}
