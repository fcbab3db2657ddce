//! SHA-256, as `ring` has it: for TLS that is in the program anyway.

use std::fmt;

use ring::digest::{self, Context, Digest, SHA256};

/// The digest of what comes piece by piece.
pub struct Sha256(Context);

/// A digest. As text it is hexadecimal.
pub struct Sum(Digest);

impl Sha256 {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    pub fn finalize(self) -> Sum {
        Sum(self.0.finish())
    }

    /// The digest of all of `bytes`.
    pub fn digest(bytes: &[u8]) -> Sum {
        Sum(digest::digest(&SHA256, bytes))
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Sum {
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl fmt::LowerHex for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.as_slice().iter();
        bytes.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
