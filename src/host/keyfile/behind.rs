//! What sshd read through a symbolic link that an account put in the way, for the incident.
//!
//! The link may lead to a file system that never answers, and no repair waits for that: so nothing is looked at that is not
//! on the file system of the home, or not to be had at once.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};

use crate::host::Bounded;
use crate::host::keyfile::held::{Held, READ_LIMIT};
use crate::host::keyfile::visit::Visit;
use crate::model::location::Location;

impl Visit<'_> {
    /// The file that the names lead to, links followed as sshd follows them, with the account's rights.
    pub fn behind(&self) -> Option<Bounded> {
        let location = &self.target.location;
        let home = self.way.held.first().filter(|_| location.in_home)?;
        let path = location.path.strip_prefix(&home.path).ok()?;
        let file = match open(home, path) {
            Err(Errno::EXDEV) => open(home, &within(home, location)?).ok()?,
            opened => opened.ok()?,
        };
        let is_regular = file.metadata().ok()?.is_file();
        is_regular.then(|| Bounded::read_keys_at_once(&file, READ_LIMIT).ok())?
    }
}

fn open(home: &Held, path: &Path) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    openat2(&home.descriptor, path, how).map(File::from)
}

/// Where the first link leads that is a path from `/` into the home, whose file system may not be that of `/`.
fn within(home: &Held, location: &Location) -> Option<PathBuf> {
    let names = location.directories.iter().chain([&location.file]);
    let mut names = names.map(Path::new);
    let mut path = PathBuf::new();
    for name in names.by_ref() {
        path.push(name);
        if let Ok(leads) = readlinkat(&home.descriptor, &path) {
            let inside = Path::new(&leads).strip_prefix(&home.path).ok()?;
            return Some(names.fold(inside.to_owned(), |path, name| path.join(name)));
        }
    }
    None
}
