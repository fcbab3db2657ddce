//! What sshd reads and whom it lets in.

pub mod access;
pub mod answer;
pub mod doors;
pub mod effective;
pub mod invocation;
