//! The local sshd, asked what it is and what it would do.

mod configuration;
mod examine;
mod listener;
mod question;

pub use configuration::{Configuration, configuration, has_blank, names_files};
pub use examine::Circumstances;
pub use listener::{Started, started};
pub use question::{SshdError, find, minds_private_groups, settings, version};
