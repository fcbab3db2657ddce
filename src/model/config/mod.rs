//! The configuration file.

pub mod source;
pub mod tables;
mod written;
