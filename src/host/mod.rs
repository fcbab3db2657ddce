//! The world outside: one room for each thing, which owns the crates that speak to it. Rooms do not know each other.

pub mod accounts;
pub mod audit;
mod bounded;
pub mod directory;
pub mod imds;
pub mod instance;
pub mod journal;
pub mod keyfile;
pub mod process;
mod program;
pub mod service;
pub mod sessions;
pub mod sshd;
pub mod ssm;
pub mod store;
pub mod watch;

pub use bounded::Bounded;
pub use program::{Bounds, Program, ProgramError, Said};
