//! Which key a file holds that `ssh-keygen` signs with.

use base64ct::{Base64, Encoding};

use crate::model::key::blob::{decoded, field, type_of};
use crate::model::key::public_key::PublicKey;

/// The public key in `text`, and the name that follows it: of a line, or of a private key in OpenSSH's own format, where it
/// is readable without the passphrase (OpenSSH's `PROTOCOL.key`).
pub fn public_key(text: &str) -> Option<(PublicKey, String)> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let blob = decoded(rest.split('-').next()?.as_bytes())?;
        let (_cipher, rest) = field(blob.strip_prefix(b"openssh-key-v1\0")?)?;
        let (_kdf, rest) = field(rest)?;
        let (_options, rest) = field(rest)?;
        let (key, _) = field(rest.split_at_checked(4)?.1)?;
        let base64 = Base64::encode_string(key);
        let key = PublicKey::read(type_of(key)?, base64.as_bytes()).ok()?;
        return Some((key, String::new()));
    }
    let (key_type, rest) = text.lines().next()?.split_once(' ')?;
    let (base64, name) = rest.split_once(' ').unwrap_or((rest, ""));
    let key = PublicKey::read(key_type, base64.as_bytes()).ok()?;
    Some((key, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::blob::push;

    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINrc0mHHEsm+L4xPEvQyeY5rv5VZyk7Sl+mXIKXry/aO me@x";

    /// A file such as ssh-keygen writes, of this key, but for the private half.
    fn private() -> String {
        let key = decoded(LINE.split(' ').nth(1).unwrap().as_bytes()).unwrap();
        let mut blob = b"openssh-key-v1\0".to_vec();
        for field in [b"aes256-ctr".as_slice(), b"bcrypt", b"salt"] {
            push(&mut blob, &[], field);
        }
        blob.extend([0, 0, 0, 1]);
        push(&mut blob, &[], &key);
        push(&mut blob, &[], b"what a passphrase hides");
        let base64 = Base64::encode_string(&blob);
        let (first, rest) = base64.split_at(70);
        format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{first}\n{rest}\n-----END OPENSSH PRIVATE KEY-----\n"
        )
    }

    #[test]
    fn the_public_key_is_read_without_a_passphrase() {
        let (key, name) = public_key(LINE).unwrap();
        assert_eq!((key.algorithm(), name.as_str()), ("ssh-ed25519", "me@x"));
        let private = private();
        assert_eq!(public_key(&private).unwrap().0, key);
        for text in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
            &private[..100],
            &private.replace("b3BlbnNza", "b3BlbnNzb"),
        ] {
            assert_eq!(public_key(text), None, "{text}");
        }
    }
}
