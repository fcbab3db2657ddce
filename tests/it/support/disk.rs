//! The homes of a world on a small file system of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::world::{World, shell_as, shown, wait};

/// Mounted until dropped; to be dropped before the world.
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// A new file system, made by `mkfs.KIND` with `make`, mounted with `options`; the homes are as they were.
    pub fn under_homes(world: &World, kind: &str, make: &[&str], options: &str) -> Self {
        let (at, before) = (world.path("home"), world.path("home-before"));
        fs::rename(&at, &before).unwrap();
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        if kind == "tmpfs" {
            mount.args(["-t", "tmpfs", "-o", "size=1m,mode=755", "none"]);
        } else {
            let image = world.path("image");
            // xfs makes none that is smaller.
            let size = if kind == "xfs" { 300 << 20 } else { 16 << 20 };
            fs::File::create(&image).unwrap().set_len(size).unwrap();
            must(
                Command::new(format!("/usr/sbin/mkfs.{kind}"))
                    .arg("-q")
                    .args(make)
                    .arg(&image),
            );
            let options = format!("loop,{options}");
            mount.args(["-t", kind, "-o", options.trim_end_matches(',')]);
            mount.arg(image);
        }
        must(mount.arg(&at));
        let disk = Self { at: at.clone() };
        must(
            Command::new("cp")
                .args(["--archive", "--no-target-directory"])
                .args([before, at]),
        );
        disk
    }

    /// A file system of this kind at `place`, which keeps its owner and its mode; `image` is where a disk has its blocks.
    pub fn mount(kind: &str, place: &Path, image: &Path) -> Self {
        let was = fs::metadata(place).unwrap();
        let mut mount = Command::new("mount");
        if kind == "tmpfs" {
            mount.args(["-t", kind, "none"]);
        } else if kind == "overlay" {
            let [lower, upper, work] = ["lower", "upper", "work"].map(|part| image.join(part));
            for part in [&lower, &upper, &work] {
                fs::create_dir_all(part).unwrap();
            }
            let [lower, upper, work] = [lower, upper, work].map(|part| part.display().to_string());
            let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            mount.args(["-t", kind, "-o", &options, "none"]);
        } else {
            fs::File::create(image).unwrap().set_len(300 << 20).unwrap();
            must(
                Command::new(format!("/usr/sbin/mkfs.{kind}"))
                    .arg("-q")
                    .arg(image),
            );
            mount.args(["-o", "loop"]).arg(image);
        }
        must(mount.arg(place));
        chown(place, Some(was.uid()), Some(was.gid())).unwrap();
        fs::set_permissions(place, was.permissions()).unwrap();
        Self {
            at: place.to_owned(),
        }
    }

    /// Fills it with a file at `filler`, as `uid`, until there is no room for another file.
    pub fn fill(&self, uid: u32, filler: &Path) {
        assert!(filler.starts_with(&self.at));
        wait("the disk to be full", || {
            let mut fill = Command::new("python3");
            must(fill.args(["-c", FILL]).arg(filler).arg(uid.to_string()));
            let probe = filler.with_extension("probe");
            let probed = shell_as(uid, &format!("echo x > {}", probe.display()));
            let _ = fs::remove_file(probe);
            !probed.status.success()
        });
    }
}

/// Takes the largest pieces first.
const FILL: &str = "\
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
try:
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
except OSError:
    sys.exit(0)
size = 1 << 27
while size >= 512:
    try:
        os.posix_fallocate(file, os.fstat(file).st_size, size)
    except OSError:
        size //= 2
os.fsync(file)
";

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        shown(&output.stderr)
    );
}

impl Drop for Disk {
    fn drop(&mut self) {
        // An agent of another test may have been started meanwhile, and then has this mount too until it ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
