//! What things mean: pure values and decisions. No clock, no I/O.

pub mod access;
pub mod account;
pub mod cadence;
pub mod config;
pub mod desired;
pub mod doors;
pub mod enforced;
pub mod escape;
pub mod guard;
pub mod invocation;
pub mod key;
pub mod line;
pub mod lint;
pub mod list;
pub mod openssh;
pub mod options;
pub mod plan;
pub mod policy;
pub mod preflight;
pub mod secret;
pub mod settings;
pub mod source;
pub mod status;
pub mod template;
