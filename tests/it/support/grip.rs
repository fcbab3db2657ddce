//! A hold on a file or a directory by a call that never returns.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Held until dropped.
pub struct Grip {
    child: Child,
    place: PathBuf,
}

impl Grip {
    /// The account `uid` holds `what` as `how` says (`grip.py`), by a mount at `place`.
    pub fn on(uid: u32, place: &Path, how: &str, what: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/grip.py");
        std::fs::create_dir_all(place).unwrap();
        let child = Command::new("python3")
            .arg(script)
            .args([&uid.to_string()])
            .arg(place)
            .arg(how)
            .arg(what)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut grip = Self {
            child,
            place: place.to_owned(),
        };
        let mut said = String::new();
        let out = grip.child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        grip
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        // Answers what is asked there with an error, so that the call returns; the mount itself stays while it is in use.
        let unmount = |how| Command::new("umount").arg(how).arg(&self.place).output();
        let _ = unmount("-f");
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = unmount("-l");
    }
}
