//! Everything is tested from outside: real files, real processes, the real sshd. One binary, so that it links once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
mod floors;
mod iam;
