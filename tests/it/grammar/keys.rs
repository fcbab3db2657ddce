//! Public keys made up from bytes, good and bad. sshd reads all there is to a key from its blob.

use base64ct::{Base64, Encoding};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use sha2::{Digest, Sha256};

pub const P256: &str = "ecdsa-sha2-nistp256";
pub const P384: &str = "ecdsa-sha2-nistp384";
pub const P521: &str = "ecdsa-sha2-nistp521";
pub const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
pub const SK_ECDSA: &str = "sk-ecdsa-sha2-nistp256@openssh.com";

/// A line `type base64` of a blob that says to be `inner` and goes on with `fields` (RFC 4251, 5: `string`).
pub fn key(outer: &str, inner: &str, fields: &[&[u8]]) -> String {
    let mut blob = Vec::new();
    for field in std::iter::once(inner.as_bytes()).chain(fields.iter().copied()) {
        blob.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(field);
    }
    format!("{outer} {}", Base64::encode_string(&blob))
}

/// Another ed25519 key for each `number`: any 32 bytes will do.
pub fn ed25519(number: usize) -> String {
    key(
        "ssh-ed25519",
        "ssh-ed25519",
        &[&Sha256::digest(number.to_be_bytes())],
    )
}

/// An RSA key with a modulus of `bits` bits and the exponent 65537.
pub fn rsa(outer: &str, bits: usize) -> String {
    key(outer, "ssh-rsa", &[&[1, 0, 1], &modulus(bits)])
}

/// An odd number of `bits` bits as an `mpint` (RFC 4251, 5).
pub fn modulus(bits: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; bits / 8 + 1];
    bytes[0] = u8::try_from((1_u16 << (bits % 8)) >> 1).unwrap();
    if bits.is_multiple_of(8) {
        bytes[1] |= 0x80;
    }
    *bytes.last_mut().unwrap() |= 1;
    bytes
}

/// A point of each curve, SEC1, with and without compression.
pub fn point(algorithm: &str, compress: bool) -> Vec<u8> {
    match algorithm {
        P256 => p256::SecretKey::from_slice(&[7; 32])
            .unwrap()
            .public_key()
            .to_encoded_point(compress)
            .as_bytes()
            .to_vec(),
        P384 => p384::SecretKey::from_slice(&[7; 48])
            .unwrap()
            .public_key()
            .to_encoded_point(compress)
            .as_bytes()
            .to_vec(),
        _ => {
            let mut scalar = [7; 66];
            scalar[0] = 0;
            p521::SecretKey::from_slice(&scalar)
                .unwrap()
                .public_key()
                .to_encoded_point(compress)
                .as_bytes()
                .to_vec()
        }
    }
}

/// A point of P-256 whose x is a small number; OpenSSH takes it for an attack.
pub fn small_point() -> Vec<u8> {
    let compressed = |x: u8| [&[2][..], &[0; 31], &[x]].concat();
    let key = (1..=u8::MAX)
        .find_map(|x| p256::PublicKey::from_sec1_bytes(&compressed(x)).ok())
        .unwrap();
    key.to_encoded_point(false).as_bytes().to_vec()
}

/// An ECDSA key with `point`.
pub fn ecdsa(algorithm: &str, point: &[u8]) -> String {
    key(
        algorithm,
        algorithm,
        &[
            algorithm.trim_start_matches("ecdsa-sha2-").as_bytes(),
            point,
        ],
    )
}
