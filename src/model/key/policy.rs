//! Which of the lines that sshd would take this host takes.

use std::path::PathBuf;

use crate::model::key::blob::known_type;
use crate::model::key::line::KeyLine;

/// The `[policy]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Key types by OpenSSH's names.
    pub algorithms: Vec<String>,
    /// Smallest RSA modulus, in bits.
    pub min_rsa_bits: u32,
    /// Option keywords a line may carry, each exactly as named.
    pub options: Vec<String>,
    /// Who must have signed a list; without it, whoever writes to the source is trusted.
    pub signing: Option<Signing>,
}

/// Who must have signed a list, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// A file of allowed signers, as ssh-keygen(1) has them.
    pub signed_by: PathBuf,
    /// How many of them.
    pub signatures: u32,
    /// The audience that their list is for.
    pub audience: Option<String>,
}

/// Why a good line is refused all the same.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// A certificate in authorized_keys parses and never lets anybody in.
    #[error(
        "a certificate, not a key: put the plain public key (the file without `-cert`) on the list"
    )]
    Certificate,
    /// `ssh-dss`, which OpenSSH dropped.
    #[error("a DSA key: OpenSSH no longer accepts them; make an ed25519 key")]
    Dsa,
    /// The type is not on the list.
    #[error("the key type `{0}` is not in `[policy] algorithms`")]
    Algorithm(&'static str),
    /// The same of one that this program does not know, whose name is a word of the line.
    #[error("its key type is not in `[policy] algorithms`")]
    OtherAlgorithm,
    /// The modulus is too short.
    #[error("an RSA key of {bits} bits, `[policy] min-rsa-bits` asks for {least}")]
    RsaBits {
        /// Bits of this key.
        bits: u32,
        /// Bits the policy asks for.
        least: u32,
    },
    /// The option is not on the list.
    #[error("the option `{0}` is not in `[policy] options`")]
    Option(&'static str),
    /// sshd reads it only behind `cert-authority`.
    #[error("the option `principals` is only for `cert-authority` lines")]
    Principals,
}

impl Policy {
    /// `Ok` when the line may be enforced.
    pub fn judge(&self, line: &KeyLine) -> Result<(), PolicyError> {
        let algorithm = line.key.algorithm();
        if line.key.is_certificate() {
            return Err(PolicyError::Certificate);
        }
        if algorithm == "ssh-dss" {
            return Err(PolicyError::Dsa);
        }
        if !self.algorithms.iter().any(|allowed| allowed == algorithm) {
            let known = known_type(algorithm);
            return Err(known.map_or(PolicyError::OtherAlgorithm, PolicyError::Algorithm));
        }
        if let Some(bits) = line.key.rsa_bits().filter(|bits| *bits < self.min_rsa_bits) {
            return Err(PolicyError::RsaBits {
                bits,
                least: self.min_rsa_bits,
            });
        }
        let allowed = |name: &&str| self.options.iter().any(|allowed| allowed == name);
        if let Some(refused) = line.options.names().find(|name| !allowed(name)) {
            return Err(PolicyError::Option(refused));
        }
        let authority = line.options.names().any(|name| name == "cert-authority");
        if !authority && line.options.names().any(|name| name == "principals") {
            return Err(PolicyError::Principals);
        }
        Ok(())
    }
}

impl Default for Policy {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            algorithms: owned(&[
                "ssh-ed25519",
                "sk-ssh-ed25519@openssh.com",
                "ecdsa-sha2-nistp256",
                "ecdsa-sha2-nistp384",
                "ecdsa-sha2-nistp521",
                "sk-ecdsa-sha2-nistp256@openssh.com",
                "ssh-rsa",
            ]),
            min_rsa_bits: 3072,
            options: owned(&[
                "restrict",
                "from",
                "expiry-time",
                "command",
                "permitopen",
                "permitlisten",
                "agent-forwarding",
                "no-agent-forwarding",
                "port-forwarding",
                "no-port-forwarding",
                "pty",
                "no-pty",
                "user-rc",
                "no-user-rc",
                "x11-forwarding",
                "no-x11-forwarding",
                "verify-required",
            ]),
            signing: None,
        }
    }
}
