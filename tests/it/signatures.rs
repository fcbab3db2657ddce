//! Signatures by the real `ssh-keygen`, and its verdicts on them.

use authorized_keys_agent::model::signature::signers::Signers;
use authorized_keys_agent::model::signature::sshsig::{Fault, SignedBy, blocks, verify};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::support::ssh_keygen::{Asked, SshKeygen};

mod agreement;

const MESSAGE: &[u8] = b"authorized-keys-list 1\nscope: /authorized-keys/web\n";

const NOW: Asked<'_> = Asked {
    at: "20261130220000Z",
    zone: "UTC",
};

/// Names and what `ssh-keygen` makes keys of.
const KEYS: [(&str, &[&str]); 10] = [
    ("ed25519", &["-t", "ed25519"]),
    ("ed25519-2", &["-t", "ed25519"]),
    ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
    ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
    ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
    ("rsa2048", &["-t", "rsa", "-b", "2048"]),
    ("rsa3072", &["-t", "rsa", "-b", "3072", "-m", "PKCS8"]),
    ("rsa4096", &["-t", "rsa", "-b", "4096"]),
    ("sk-ed25519", &["-t", "ed25519-sk"]),
    ("sk-ecdsa", &["-t", "ecdsa-sk"]),
];

fn now() -> Timestamp {
    "2026-11-30T22:00:00Z".parse().unwrap()
}

fn signers(text: &str) -> Signers {
    Signers::read(text, &TimeZone::UTC).0
}

/// Keys of all types, and the file of signers in which each has a name that is made from that of `KEYS`.
fn keys(named: fn(&'static str) -> &'static str) -> (SshKeygen, String) {
    let keygen = SshKeygen::new();
    let lines = KEYS.map(|(name, args)| format!("{} {}\n", named(name), keygen.key(name, args)));
    (keygen, lines.concat())
}

#[test]
fn each_type_of_key_signs_with_both_digests() {
    let (keygen, file) = keys(|name| name);
    let signers = signers(&file);
    assert_eq!(signers.count(), KEYS.len() - 1);
    for (name, _) in KEYS {
        for digest in ["sha256", "sha512"] {
            let option = format!("hashalg={digest}");
            let signature = keygen.sign(name, MESSAGE, &["-O", &option]);
            assert!(keygen.verifies(NOW, &file, name, MESSAGE, &signature));
            let verdict = verify(MESSAGE, &signature, &signers, now());
            if name == "rsa2048" {
                let fault = verdict.unwrap_err().to_string();
                assert_eq!(
                    fault,
                    "an RSA key of 2048 bits may not sign: 3072 to 8192 are taken"
                );
                continue;
            }
            assert_eq!(verdict.unwrap().principals, name, "{digest}");
            let other = verify(&MESSAGE[1..], &signature, &signers, now());
            assert!(
                matches!(other, Err(Fault::Wrong(_))),
                "{name} {digest}: {other:?}"
            );
        }
        let elsewhere = keygen.sign(name, MESSAGE, &["-n", "file"]);
        let fault = Fault::Namespace("file".to_owned());
        assert_eq!(
            verify(MESSAGE, &elsewhere, &signers, now()),
            Err(fault),
            "{name}"
        );
    }
}

#[test]
fn a_key_that_signs_twice_is_one_signer() {
    let keygen = SshKeygen::new();
    // ECDSA signs differently each time.
    let key = keygen.key("alice", &["-t", "ecdsa"]);
    let text = [1, 2].map(|_| keygen.sign("alice", MESSAGE, &[])).concat();
    let (_, blocks) = blocks(&text);
    assert_ne!(blocks[0], blocks[1]);
    let signers = signers(&format!("alice {key}\nalice@home {key}\n"));
    assert_eq!(signers.count(), 1);
    let signed = blocks
        .iter()
        .map(|block| verify(MESSAGE, block, &signers, now()).unwrap());
    let signed: Vec<SignedBy> = signed.collect();
    assert_eq!(signed[0], signed[1]);
}

#[test]
fn a_hundred_sign() {
    let keygen = SshKeygen::new();
    let mut file = String::new();
    let mut text = String::from_utf8(MESSAGE.to_vec()).unwrap();
    for number in 0..100 {
        let name = format!("admin{number}");
        let key = keygen.key(&name, &["-t", "ed25519"]);
        file += &[&name, " ", &key, "\n"].concat();
        text += &keygen.sign(&name, MESSAGE, &[]);
    }
    let signers = signers(&file);
    let (message, blocks) = blocks(&text);
    assert_eq!(
        (message.as_bytes(), blocks.len(), signers.count()),
        (MESSAGE, 100, 100)
    );
    for (number, block) in blocks.iter().enumerate() {
        let by = verify(MESSAGE, block, &signers, now()).unwrap();
        assert_eq!(by.principals, format!("admin{number}"));
    }
}
