//! Everything is tested from outside: real files, real processes, the real sshd. One binary, so that it links once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
mod aws;
mod fault;
mod fault_server;
mod floors;
mod http_server;
mod iam;
mod imds;
mod imds_server;
mod tls;
