//! File systems for which a process of the tests answers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mount; ends when dropped, and with it every call that waits for an answer.
pub struct Fuse {
    server: Child,
    place: PathBuf,
    inside: Option<u32>,
}

impl Fuse {
    /// Shows `source` at `place`, as mounted by `uid`; who writes into a file there never gets an answer. Where the process
    /// `inside` has its mounts, if given.
    pub fn mount(place: &Path, uid: u32, source: &Path, inside: Option<u32>) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/fuse.py");
        let mut server = command("python3", inside)
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
            inside,
        }
    }

    /// The process that answers.
    pub fn server(&self) -> u32 {
        self.server.id()
    }
}

fn command(program: &str, inside: Option<u32>) -> Command {
    let Some(pid) = inside else {
        return Command::new(program);
    };
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--mount=/proc/{pid}/ns/mnt"))
        .arg(program);
    command
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = command("umount", self.inside)
            .args(["--quiet", "--lazy"])
            .arg(&self.place)
            .stderr(Stdio::null())
            .status();
    }
}
