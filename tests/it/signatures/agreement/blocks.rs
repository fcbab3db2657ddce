//! Signatures: each valid one in many forms, and damaged at random.

use authorized_keys_agent::model::key::blob::{field, push};
use authorized_keys_agent::model::signature::sshsig::verify;
use base64ct::{Base64, Encoding};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

use super::{Dice, Expect, ask, judge, questions};
use crate::signatures::{KEYS, MESSAGE, NOW, keys, now, signers};
use crate::support::ssh_keygen::SshKeygen;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

/// The order of the group of ed25519, in its own byte order.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The fields of a signature, in order.
#[derive(Clone)]
struct Parts {
    name: &'static str,
    version: u32,
    /// Key, namespace, reserved, digest.
    fields: [Vec<u8>; 4],
    scheme: Vec<u8>,
    value: Vec<u8>,
    /// Of a security key: flags and counter.
    behind: Vec<u8>,
    end: Vec<u8>,
}

impl Parts {
    fn of(name: &'static str, armoured: &str) -> Self {
        let base64: String = armoured
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        let blob = Base64::decode_vec(&base64).unwrap();
        let mut rest = &blob[10..];
        let fields = [0; 4].map(|_| {
            let (value, after) = field(rest).unwrap();
            rest = after;
            value.to_vec()
        });
        let (scheme, rest) = field(field(rest).unwrap().0).unwrap();
        let (value, behind) = field(rest).unwrap();
        Self {
            name,
            version: 1,
            fields,
            scheme: scheme.to_vec(),
            value: value.to_vec(),
            behind: behind.to_vec(),
            end: Vec::new(),
        }
    }

    fn blob(&self) -> Vec<u8> {
        let mut blob = b"SSHSIG".to_vec();
        blob.extend(self.version.to_be_bytes());
        for field in &self.fields {
            push(&mut blob, &[], field);
        }
        push(&mut blob, &[], &self.signature());
        blob.extend(&self.end);
        blob
    }

    fn signature(&self) -> Vec<u8> {
        let mut signature = Vec::new();
        push(&mut signature, &[], &self.scheme);
        push(&mut signature, &[], &self.value);
        signature.extend(&self.behind);
        signature
    }

    /// Both numbers of an ECDSA signature.
    fn numbers(&self) -> (Vec<u8>, Vec<u8>) {
        let (r, rest) = field(&self.value).unwrap();
        (r.to_vec(), field(rest).unwrap().0.to_vec())
    }

    fn set_numbers(&mut self, r: &[u8], s: &[u8]) {
        self.value.clear();
        push(&mut self.value, &[], r);
        push(&mut self.value, &[], s);
    }
}

fn armoured(blob: &[u8]) -> String {
    let base64 = Base64::encode_string(blob);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(70)
        .map(|line| str::from_utf8(line).unwrap())
        .collect();
    format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
}

/// Each valid signature in each form that is named here.
fn forms(parts: &Parts, rsa_by_sha256: &Parts) -> Vec<(String, Expect)> {
    use Expect::{Both, Neither, Newer, Stricter};
    let mut all = Vec::new();
    let whole = armoured(&parts.blob());
    let body = whole.strip_prefix(BEGIN).unwrap();
    let mut text = |text: String, expect| all.push((text, expect));
    for (armoured, expect) in [
        (whole.clone(), Both),
        (whole.trim_end().to_owned(), Both),
        (format!("{whole}or so\n"), Both),
        (format!("{} or so\n", whole.trim_end()), Both),
        (format!("{whole}{whole}"), Both),
        (
            body.replace('\n', " \n\t\x0b\x0c")
                .replacen(" \n\t\x0b\x0c", &format!("{BEGIN}\n"), 1)
                .replace("\t\x0b\x0c-", "-"),
            Both,
        ),
        (whole.replace(END, &format!("\r\n\r\n{END}")), Both),
        (whole.replace('\n', "\r\n"), Newer),
        (whole.replacen('\n', "\r", 1), Neither),
        (whole.replacen('\n', " \n", 1), Neither),
        (whole.replacen('\n', "", 1), Neither),
        (format!("\n{whole}"), Neither),
        (format!("{BEGIN}\n{whole}"), Neither),
        (format!(" {whole}"), Neither),
        (whole.to_lowercase(), Neither),
        (whole.replace("END SSH", "END OF SSH"), Neither),
        (
            whole.replace(&format!("\n{END}"), &format!("\n {END}")),
            Neither,
        ),
        (format!("{BEGIN}\n{END}\n"), Neither),
        (format!("{BEGIN}\n\n{END}\n"), Neither),
        (String::new(), Neither),
        (
            whole.replace(&format!("\n{END}"), &format!("=\n{END}")),
            Neither,
        ),
        (
            whole.replace(&format!("\n{END}"), &format!("\0\n{END}")),
            Stricter("no text has a NUL"),
        ),
        (whole.replacen("\nU1", "\nU\u{e9}1", 1), Neither),
    ] {
        text(armoured, expect);
    }
    let mut blob = |change: &dyn Fn(&mut Parts), expect| {
        let mut changed = parts.clone();
        change(&mut changed);
        all.push((armoured(&changed.blob()), expect));
    };
    blob(&|parts| parts.version = 0, Both);
    blob(&|parts| parts.version = 2, Neither);
    blob(&|parts| parts.version = 0x0100_0000, Neither);
    blob(&|parts| parts.end.push(0), Neither);
    blob(&|parts| parts.behind.push(0), Neither);
    blob(&|parts| parts.fields[2].extend(b"of tomorrow"), Both);
    for (namespace, expect) in [
        ("authorized-keys-list\0", Both),
        ("authorized-keys-list\0\0", Neither),
        ("authorized-keys-list\0x", Neither),
        ("authorized-keys-lis", Neither),
        ("Authorized-keys-list", Neither),
        ("*", Neither),
        ("", Neither),
    ] {
        blob(&|parts| parts.fields[1] = namespace.into(), expect);
    }
    for (digest, expect) in [
        ("sha512\0", Both),
        ("SHA512", Neither),
        ("sha256", Neither),
        ("sha384", Neither),
        ("sha1", Neither),
        ("sha512,sha256", Neither),
        ("*", Neither),
        ("", Neither),
    ] {
        blob(&|parts| parts.fields[3] = digest.into(), expect);
    }
    for scheme in [
        "ssh-rsa",
        "ssh-ed25519",
        "rsa-sha2-256",
        "ssh-ed25519-cert-v01@openssh.com",
        "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
        "",
    ] {
        if scheme.as_bytes() != parts.scheme {
            blob(&|parts| parts.scheme = scheme.into(), Neither);
        }
    }
    blob(&|parts| parts.scheme.push(0), Both);
    blob(&|parts| parts.value.push(0), Neither);
    blob(&|parts| parts.value.insert(0, 0), Neither);
    blob(
        &|parts| parts.value.truncate(parts.value.len() - 1),
        Neither,
    );
    blob(&|parts| parts.value.clear(), Neither);
    blob(&|parts| parts.fields[0].push(0), Neither);
    if parts.name.contains("ecdsa") {
        let (r, s) = parts.numbers();
        let with = |before: &[u8], number: &[u8]| [before, number].concat();
        for (r, s, expect) in [
            (s.clone(), r.clone(), Neither),
            (with(&[0, 0, 0], &r), with(&[0], &s), Both),
            (with(&[0x80], &r), s.clone(), Neither),
            (with(&[1; 70], &r), s.clone(), Neither),
            (r.clone(), Vec::new(), Neither),
            (vec![0], s.clone(), Neither),
        ] {
            blob(&|parts| parts.set_numbers(&r, &s), expect);
        }
    }
    if parts.name.starts_with("sk-") {
        blob(&|parts| parts.behind[0] ^= 1, Neither);
        blob(&|parts| parts.behind[4] ^= 1, Neither);
        blob(&|parts| parts.behind.truncate(4), Neither);
        blob(&|parts| parts.behind.clear(), Neither);
    } else {
        blob(&|parts| parts.behind.extend([1, 0, 0, 0, 1]), Neither);
    }
    if parts.name.contains("ed25519") {
        let other_spelling = |parts: &mut Parts| {
            let mut carry = 0;
            for (byte, of_order) in parts.value[32..].iter_mut().zip(ORDER) {
                let sum = u16::from(*byte) + u16::from(of_order) + carry;
                (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
            }
        };
        blob(
            &other_spelling,
            Stricter("RFC 8032, 5.1.7: the number is below the order"),
        );
        blob(&|parts| parts.value[63] |= 0x80, Neither);
        blob(&|parts| parts.value[..32].fill(0), Neither);
    }
    if parts.name == "rsa3072" {
        blob(&|parts| parts.scheme = b"rsa-sha2-512\0".to_vec(), Both);
        all.push((armoured(&rsa_by_sha256.blob()), Both));
    }
    if parts.name == "ed25519" {
        let mut key = Vec::new();
        push(&mut key, &[], b"ED25519");
        key.extend(&parts.fields[0][15..]);
        let mut short = parts.clone();
        short.fields[0] = key;
        let short = armoured(&short.blob());
        all.push((short, Stricter("a key has the name that its line has")));
    }
    all
}

/// The signature that ssh-keygen of today makes with SHA-512 alone.
fn with_rsa_by_sha256(keygen: &SshKeygen, parts: &Parts) -> Parts {
    let pem = keygen.private("rsa3072");
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let pair = RsaKeyPair::from_pkcs8(&Base64::decode_vec(&base64).unwrap()).unwrap();
    let mut signed = b"SSHSIG".to_vec();
    push(&mut signed, &[], &parts.fields[1]);
    push(&mut signed, &[], &[]);
    push(&mut signed, &[], b"sha256");
    push(
        &mut signed,
        &[],
        ring::digest::digest(&ring::digest::SHA256, MESSAGE).as_ref(),
    );
    let mut value = vec![0; pair.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    pair.sign(&RSA_PKCS1_SHA256, &random, &signed, &mut value)
        .unwrap();
    let mut parts = parts.clone();
    parts.fields[3] = b"sha256".to_vec();
    parts.scheme = b"rsa-sha2-256".to_vec();
    parts.value = value;
    parts
}

/// A valid signature, changed somewhere.
fn damaged(dice: &mut Dice, valid: &[Parts]) -> String {
    let mut parts = valid[dice.roll(valid.len())].clone();
    let other = &valid[dice.roll(valid.len())];
    match dice.roll(8) {
        0 | 1 => {
            let mut blob = parts.blob();
            let at = dice.roll(blob.len());
            blob[at] ^= 1 << dice.roll(8);
            return armoured(&blob);
        }
        2 => {
            let blob = parts.blob();
            return armoured(&blob[..dice.roll(blob.len())]);
        }
        3 => {
            let mut blob = parts.blob();
            let at = dice.roll(blob.len());
            if dice.roll(2) == 0 {
                blob.remove(at);
            } else {
                blob.insert(at, dice.one(&[0, 1, 0x80, 0xff]));
            }
            return armoured(&blob);
        }
        4 => parts.fields.swap(dice.roll(4), dice.roll(4)),
        5 => match dice.roll(5) {
            0 => parts.fields[0].clone_from(&other.fields[0]),
            1 => parts.fields[3].clone_from(&other.fields[3]),
            2 => parts.scheme.clone_from(&other.scheme),
            3 => parts.value.clone_from(&other.value),
            _ => parts.behind.clone_from(&other.behind),
        },
        6 => {
            let at = dice.roll(parts.value.len());
            parts.value[at] = u8::try_from(dice.roll(256)).unwrap();
        }
        _ => {
            let mut text = armoured(&parts.blob()).into_bytes();
            let at = dice.roll(text.len());
            let new = dice.one(b" \n\r=A-/!");
            match dice.roll(3) {
                0 => text[at] = new,
                1 => text.insert(at, new),
                _ => drop(text.remove(at)),
            }
            return String::from_utf8(text).unwrap();
        }
    }
    armoured(&parts.blob())
}

#[test]
fn signatures_count_where_ssh_keygen_says_so() {
    // So that one name is good for all of them.
    let (keygen, file) = keys(|_| "admin");
    let mut valid = Vec::new();
    let mut small = None;
    for (name, _) in KEYS {
        let parts = Parts::of(name, &keygen.sign(name, MESSAGE, &[]));
        if name == "rsa2048" {
            small = Some(armoured(&parts.blob()));
        } else {
            valid.push(parts);
        }
    }
    let rsa = valid.iter().find(|parts| parts.name == "rsa3072").unwrap();
    let by_sha256 = with_rsa_by_sha256(&keygen, rsa);
    let mut rows = vec![(
        small.unwrap(),
        Expect::Stricter("RSA has 3072 bits at least"),
    )];
    for parts in &valid {
        rows.extend(forms(parts, &by_sha256));
    }
    valid.push(by_sha256);
    let mut dice = Dice(16);
    for _ in 0..questions(400) {
        rows.push((damaged(&mut dice, &valid), Expect::Same));
    }
    let (texts, expected): (Vec<String>, Vec<Expect>) = rows.into_iter().unzip();
    let ours = signers(&file);
    let answers = ask(&texts, |text| {
        let our = verify(MESSAGE, text, &ours, now()).is_ok();
        (our, keygen.verifies(NOW, &file, "admin", MESSAGE, text))
    });
    let taken = judge(&texts, &expected, &answers);
    assert!(taken > 100, "{taken} of {} were taken", texts.len());
}
