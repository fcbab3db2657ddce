//! A name service that knows accounts, hangs and fails as it is told: a module that glibc loads into every program.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::world::World;

pub struct NameService(PathBuf);

impl NameService {
    /// Is asked by `world` in this order, such as `files test`.
    pub fn of(world: &mut World, order: &str) -> Self {
        let place = world.path("name-service");
        fs::create_dir(&place).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/name_service.c");
        let built = Command::new("gcc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&place.join("libnss_test.so.2"), &source])
            .status()
            .expect("gcc");
        assert!(built.success());
        fs::write(place.join("passwd"), "").unwrap();
        for name in ["LD_LIBRARY_PATH", "NAME_SERVICE"] {
            world.environment.push((name, place.display().to_string()));
        }
        let text = format!("passwd: {order}\ngroup: files\n");
        fs::write(world.path("etc/nsswitch.conf"), text).unwrap();
        Self(place)
    }

    /// It knows this account besides, who has a home.
    pub fn add(&self, world: &World, name: &str, uid: u32) {
        let home = world.home(name);
        fs::create_dir_all(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        self.add_line(&format!(
            "{name}:x:{uid}:{uid}::{}:/bin/sh\n",
            home.display()
        ));
    }

    pub fn add_line(&self, line: &str) {
        let path = self.0.join("passwd");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(self.0.join("new"), before + line).unwrap();
        fs::rename(self.0.join("new"), path).unwrap();
    }

    /// It denies everybody.
    pub fn forget(&self) {
        fs::write(self.0.join("passwd"), "").unwrap();
    }

    /// From now on it `hangs` or `fails`, or no longer.
    pub fn does(&self, what: &str, now: bool) {
        let path = self.0.join(what);
        if now {
            fs::write(path, "").unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}
