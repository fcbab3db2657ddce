//! authorized-keys-agent: makes each instance's `authorized_keys` say exactly what the approved list says.
//!
//! Four floors, each using only those below it: `cli` (people), `agent` (time), `host` (the world outside),
//! `model` (meaning). `tests/it/floors.rs` holds them apart.

pub mod host;
pub mod model;
