//! Where the enforcer's service may write, which is less than where root may.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::Bounds;
use crate::host::Program;

/// What keeps the service from writing somewhere.
#[derive(Debug)]
pub enum Sandbox {
    /// Nothing is known of one: it is not systemd's, and does not run.
    None,
    /// It runs, and sees this as its `/`.
    Running(PathBuf),
    /// Once started, it writes in homes and in these.
    Unit(Vec<PathBuf>),
}

const UNIT: &str = "authorized-keys-agent.service";

const PLACES: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(5),
    bytes: 64 << 10,
};

/// What `ProtectSystem=strict` leaves to `ProtectHome=`, which the unit sets to `no` (systemd.exec(5)).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

impl Sandbox {
    /// That of the enforcer, which runs as `pid` if it does. Blocks.
    pub fn look(pid: Option<u32>) -> Self {
        if let Some(pid) = pid {
            return Self::Running(format!("/proc/{pid}/root").into());
        }
        let Some(systemctl) = Program::find(&PLACES) else {
            return Self::None;
        };
        let question = ["show", "-p", "ProtectSystem", "-p", "ReadWritePaths", UNIT];
        systemctl
            .ask(question, BOUNDS)
            .map_or(Self::None, |told| Self::read(&told))
    }

    /// What `systemctl show` prints of the unit.
    fn read(told: &str) -> Self {
        let value = |name: &str| told.lines().find_map(|line| line.strip_prefix(name));
        if value("ProtectSystem=") != Some("strict") {
            return Self::None;
        }
        let paths = value("ReadWritePaths=").unwrap_or_default();
        let paths = paths
            .split_whitespace()
            .map(|path| path.trim_start_matches(['-', '+']));
        Self::Unit(HOMES.into_iter().chain(paths).map(PathBuf::from).collect())
    }

    /// Where the service finds `directory`, to be asked whether it is writable.
    pub fn sees(&self, directory: &Path) -> PathBuf {
        match self {
            Self::Running(root) => root.join(directory.strip_prefix("/").unwrap_or(directory)),
            Self::None | Self::Unit(_) => directory.to_owned(),
        }
    }

    /// Its unit lets it write in `directory`, which must be there when it starts: it cannot make it.
    pub fn allows(&self, directory: &Path) -> bool {
        match self {
            Self::None | Self::Running(_) => true,
            Self::Unit(paths) => paths
                .iter()
                .any(|path| directory.starts_with(path) && path.is_dir()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_unit_writes_in_homes_and_where_it_says() {
        let root = tempfile::tempdir().unwrap();
        let [there, missing] = ["there", "missing"].map(|name| root.path().join(name));
        std::fs::create_dir(&there).unwrap();
        let shown = [&there, &missing].map(|path| path.display().to_string());
        let told = format!(
            "ReadWritePaths=-{} +{}\nProtectSystem=strict\n",
            shown[0], shown[1]
        );
        let unit = Sandbox::read(&told);
        for (directory, expected) in [
            (there.clone(), true),
            (there.join("below"), true),
            ("/root".into(), true),
            (missing, false),
            (root.path().to_owned(), false),
            ("/srv/home/alice".into(), false),
            (format!("{}2", shown[0]).into(), false),
        ] {
            assert_eq!(unit.allows(&directory), expected, "{directory:?}");
        }
        for open in [
            "",
            "ProtectSystem=no\nReadWritePaths=\n",
            "ProtectSystem=full\n",
        ] {
            assert!(Sandbox::read(open).allows(Path::new("/srv")), "{open}");
        }
    }
}
