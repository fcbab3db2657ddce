//! Signatures by SSH keys: who may sign, and what they signed.

mod algorithms;
pub mod key_file;
pub mod signers;
pub mod sshsig;

/// Keys that sign, for tests of what signatures are asked for.
#[cfg(test)]
pub mod signing {
    use base64ct::{Base64, Encoding};
    use ring::digest::{SHA512, digest};
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use crate::model::key::blob::push;
    use crate::model::signature::signers::NAMESPACE;

    fn blob(fields: &[&[u8]]) -> Vec<u8> {
        let mut blob = Vec::new();
        for field in fields {
            push(&mut blob, &[], field);
        }
        blob
    }

    fn pair(seed: u8) -> (Ed25519KeyPair, Vec<u8>) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = blob(&[b"ssh-ed25519", pair.public_key().as_ref()]);
        (pair, public)
    }

    /// The line of a key in a file of allowed signers.
    pub fn line(name: &str, seed: u8) -> String {
        let public = Base64::encode_string(&pair(seed).1);
        format!("{name} ssh-ed25519 {public}\n")
    }

    /// `text` and the signatures of these keys.
    pub fn signed(text: &str, seeds: &[u8]) -> String {
        let hash = digest(&SHA512, text.as_bytes());
        let of_text = blob(&[NAMESPACE.as_bytes(), b"", b"sha512", hash.as_ref()]);
        let mut all = text.to_owned();
        for seed in seeds {
            let (pair, public) = pair(*seed);
            let signature = pair.sign(&[b"SSHSIG", &of_text[..]].concat());
            let signature = blob(&[b"ssh-ed25519", signature.as_ref()]);
            let fields = blob(&[&public, NAMESPACE.as_bytes(), b"", b"sha512", &signature]);
            let base64 = Base64::encode_string(&[b"SSHSIG\0\0\0\x01", &fields[..]].concat());
            let end = "-----END SSH SIGNATURE-----\n";
            all = [&all, "-----BEGIN SSH SIGNATURE-----\n", &base64, "\n", end].concat();
        }
        all
    }
}
