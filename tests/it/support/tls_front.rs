//! TLS in front of a server of the tests' own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A certificate of its own for `localhost`, and the key to it.
pub fn certificate(place: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (place.join("cert.pem"), place.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    (certificate, key)
}

/// A TLS server in front of a plain one; ends when dropped.
pub struct Front {
    child: Child,
    pub endpoint: String,
}

impl Front {
    pub fn start(certificate: &Path, key: &Path, behind: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/tls_front.py");
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
