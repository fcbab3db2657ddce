//! File systems for which a process of the tests answers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mount; ends when dropped, and with it every call that waits for an answer.
pub struct Fuse {
    server: Child,
    place: PathBuf,
}

impl Fuse {
    /// Shows `source` at `place`, as mounted by `uid`; who writes into a file there never gets an answer. With `pid`, where
    /// that process has its mounts.
    pub fn mount(place: &Path, uid: u32, source: &Path, pid: Option<u32>) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/fuse.py");
        let mut command = match pid {
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
                command.arg("python3");
                command
            }
            None => Command::new("python3"),
        };
        let mut server = command
            .args([&script, place])
            .arg(uid.to_string())
            .arg(source)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut said = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert_eq!(said, "ready\n", "no FUSE file system to be had");
        Self {
            server,
            place: place.to_owned(),
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // One that only another process has goes with that.
        let _ = Command::new("umount")
            .args(["--quiet", "--lazy"])
            .arg(&self.place)
            .status();
    }
}
