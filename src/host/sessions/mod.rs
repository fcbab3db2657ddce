//! Live SSH sessions, and the key that each was opened with: logind knows the one, what sshd logged the other.

mod logind;
mod logins;

pub use logind::{are_open, end, ssh_sessions};
pub use logins::{Login, logins};
