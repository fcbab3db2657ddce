//! File systems of other kinds than that of the machine's temporary directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A new file system; unmounted when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// A file system of this kind at `place`, which keeps its owner and its mode; `image` is where a disk has its blocks.
    pub fn mount(kind: &str, place: &Path, image: &Path) -> Self {
        let was = fs::metadata(place).unwrap();
        let run =
            |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        let mut mount = Command::new("mount");
        if kind == "tmpfs" {
            mount.args(["-t", kind, "none"]);
        } else {
            fs::File::create(image).unwrap().set_len(300 << 20).unwrap();
            run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(image));
            mount.args(["-o", "loop"]).arg(image);
        }
        run(mount.arg(place));
        chown(place, Some(was.uid()), Some(was.gid())).unwrap();
        fs::set_permissions(place, was.permissions()).unwrap();
        Self(place.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
