//! What things mean: pure values and decisions. No clock, no I/O.
//!
//! Each folder uses only those below it in this list.

pub mod status;

pub mod past;

pub mod file;

pub mod desired;

pub mod config;

pub mod list;
pub mod sshd;

pub mod signature;

pub mod key;

pub mod account;
pub mod escape;
pub mod inode;
pub mod instance;
pub mod location;
pub mod mounts;
pub mod patterns;
pub mod people;
pub mod session;
pub mod sha256;
pub mod sorting;
pub mod words;
