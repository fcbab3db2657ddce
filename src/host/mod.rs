//! The world outside: one room for each outside thing. Rooms do not know each other.

pub mod accounts;
pub mod directory;
pub mod journal;
pub mod keyfile;
pub mod process;
pub mod store;
pub mod watch;
