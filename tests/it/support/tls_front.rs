//! TLS in front of a server of the tests' own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::ssm_server::SsmServer;

/// A TLS server in front of a plain one; ends when dropped.
pub struct Front {
    child: Child,
    pub endpoint: String,
}

impl Front {
    pub fn start(certificate: &Path, key: &Path, behind: &SsmServer) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/tls_front.py");
        let behind = behind.endpoint();
        let mut child = Command::new("python3")
            .args([&script, certificate, key])
            .arg(behind.rsplit(':').next().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        Self {
            child,
            endpoint: format!("https://localhost:{}", port.trim()),
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
