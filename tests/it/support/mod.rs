//! What the tests stand on: the world of a test, the servers it talks to, and sshd as the oracle. No test.

pub mod deployed;
pub mod disk;
pub mod documents;
pub mod fuse;
pub mod grip;
pub mod http_server;
pub mod imds_server;
pub mod logins;
pub mod moto;
pub mod name_service;
pub mod oracle;
pub mod signing;
pub mod source;
pub mod ssh_keygen;
pub mod ssm_front;
pub mod ssm_server;
pub mod tls_front;
pub mod trace;
pub mod world;
pub mod writes;

/// Runs a future to its end, on a runtime of its own.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
