//! Signatures by SSH keys: who may sign, and what they signed.

mod algorithms;
pub mod signers;
pub mod sshsig;
