//! The world outside: one room for each thing, which owns the crates that speak to it. Rooms do not know each other.

pub mod accounts;
pub mod audit;
mod bounded;
pub mod directory;
mod file_stamp;
pub mod half;
pub mod imds;
pub mod instance;
pub mod journal;
pub mod keyfile;
pub mod mounts;
mod outbox;
mod plain_file;
pub mod process;
mod program;
mod sandbox;
mod sdk;
pub mod service;
pub mod sessions;
pub mod ssh_keygen;
pub mod sshd;
pub mod ssm;
pub mod store;
mod threads;
pub mod watch;

pub use bounded::Bounded;
pub use file_stamp::Stamp;
pub use journal::DETAIL;
pub use keyfile::Identity;
pub use outbox::Outbox;
pub use plain_file::PlainFile;
pub use program::{Bounds, Program, ProgramError, Said};
pub use sandbox::Sandbox;
pub use threads::Threads;

/// An error with its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
