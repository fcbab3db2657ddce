//! One directory that is held, and how it is come by.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::host::keyfile::identity::is_root;
use crate::host::keyfile::immutable::is_immutable;
use crate::host::keyfile::refusal::Refusal;
use crate::model::account::Account;
use crate::model::file::wanted::Kind;
use crate::model::location::Location;
use crate::model::sshd::access::Loose;

/// A directory that is held, and what `fstat` said of it last.
pub(super) struct Held {
    pub(super) descriptor: OwnedFd,
    pub(super) stat: FileStat,
    pub(super) path: PathBuf,
    /// Only root controls it and how it is reached.
    pub(super) trusted: bool,
    /// It, or a directory above it, is one that sshd's `StrictModes` does not take.
    pub(super) loose: Option<Box<Loose>>,
    /// It can be listed and synced, not only walked through.
    is_readable: bool,
}

/// Symbolic links that are followed on a path that only root controls; the kernel's own limit (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// Holds a place and gives no access to it.
const PLACE: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

impl Held {
    pub(super) fn new(descriptor: OwnedFd, stat: FileStat, path: PathBuf, trusted: bool) -> Self {
        Self {
            descriptor,
            stat,
            path,
            trusted,
            loose: None,
            is_readable: false,
        }
    }

    /// The directory, to be listed or synced.
    pub(super) fn readable(&mut self) -> Result<&OwnedFd, Refusal> {
        if !self.is_readable {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            self.descriptor = openat(&self.descriptor, ".", flags, Mode::empty())
                .map_err(Refusal::io("open", &self.path))?;
            self.is_readable = true;
        }
        Ok(&self.descriptor)
    }

    pub(super) fn look_again(&mut self) -> Result<(), Refusal> {
        self.stat = fstat(&self.descriptor).map_err(Refusal::io("look at", &self.path))?;
        Ok(())
    }

    /// A directory in a home that sshd's `StrictModes` would take (`misc.c: safe_path`), and that its owner can use.
    /// Outside homes the directories are root's business.
    pub(super) fn is_tidy(&self, location: &Location) -> bool {
        let mode = permissions(&self.stat);
        !location.in_home || (mode & 0o022 == 0 && mode & 0o700 == 0o700)
    }
}

/// The directory to start from.
///
/// A home of the account is opened as the account, so a link that another account put on the way leads nowhere
/// the account could not go, and what is found must belong to the account. Where root will work, the way must
/// be root's from `/` on.
pub(super) fn start(account: &Account, location: &Location) -> Result<Held, Refusal> {
    if !location.in_home {
        let all = &location.directories;
        let directories = all[..all.len().saturating_sub(1)]
            .iter()
            .map(OsString::from);
        return walk_trusted(directories.collect(), account.uid);
    }
    let path = &account.home;
    let home = |source| Refusal::Home {
        path: path.clone(),
        source,
    };
    let descriptor = open(path, PLACE, Mode::empty()).map_err(home)?;
    let stat = fstat(&descriptor).map_err(home)?;
    if stat.st_uid == 0 && is_root() {
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        });
        // From the home on: what is above it does not count for sshd.
        let home = walk_trusted(names.collect(), 0)?;
        return Ok(Held {
            loose: loose(path, &home.stat, account.uid),
            ..home
        });
    }
    if stat.st_uid != account.uid && stat.st_uid != 0 {
        return Err(Refusal::ForeignOwner {
            path: path.clone(),
            uid: stat.st_uid,
        });
    }
    let trusted = stat.st_uid != account.uid;
    Ok(Held {
        loose: loose(path, &stat, account.uid),
        ..Held::new(descriptor, stat, path.clone(), trusted)
    })
}

/// Whose directories are trusted outside homes: root's, or those of `own`, when this process is not root.
fn trusted_owner(own: u32) -> u32 {
    if is_root() { 0 } else { own }
}

/// From `/` to a directory, all of it in the hands of root (or of `own`, when this process is not root).
fn walk_trusted(names: Vec<OsString>, own: u32) -> Result<Held, Refusal> {
    let own = trusted_owner(own);
    let root = || -> nix::Result<Held> {
        let descriptor = open("/", PLACE, Mode::empty())?;
        let stat = fstat(&descriptor)?;
        Ok(Held {
            loose: loose(Path::new("/"), &stat, own),
            ..Held::new(descriptor, stat, "/".into(), true)
        })
    };
    let mut here = root().map_err(Refusal::io("open", Path::new("/")))?;
    let mut rest: Vec<OsString> = names.into_iter().rev().collect();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let path = here.path.join(&name);
        let opened = openat(
            &here.descriptor,
            name.as_os_str(),
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(Refusal::io("open", &path))?;
        let stat = fstat(&opened).map_err(Refusal::io("look at", &path))?;
        match kind(&stat) {
            Kind::Directory => {
                check_trusted(&path, &stat, own)?;
                let loose = here.loose.or_else(|| loose(&path, &stat, own));
                here = Held {
                    loose,
                    ..Held::new(opened, stat, path, true)
                };
            }
            // Root put it there, so where it leads is root's decision.
            Kind::Symlink if links < MAX_LINKS && (stat.st_uid == 0 || stat.st_uid == own) => {
                links += 1;
                let leads = readlinkat(&opened, "").map_err(Refusal::io("read the link", &path))?;
                let leads = Path::new(&leads);
                if leads.is_absolute() {
                    here = root().map_err(Refusal::io("open", Path::new("/")))?;
                }
                for part in leads.components().rev() {
                    match part {
                        Component::Normal(name) => rest.push(name.to_owned()),
                        Component::ParentDir => rest.push("..".into()),
                        _ => {}
                    }
                }
            }
            kind => return Err(Refusal::Obstacle { path, kind }),
        }
    }
    Ok(here)
}

/// The directory as something that `StrictModes` refuses, if it does.
pub(super) fn loose(path: &Path, stat: &FileStat, account: u32) -> Option<Box<Loose>> {
    let directory = Loose {
        path: path.to_owned(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: permissions(stat),
        private_group: false,
    };
    if directory.is_loose(account) {
        Some(Box::new(directory))
    } else {
        None
    }
}

/// Sticky directories such as `/tmp` keep their entries from others than the entry's owner.
fn check_trusted(path: &Path, stat: &FileStat, own: u32) -> Result<(), Refusal> {
    let mode = permissions(stat);
    let by_group = mode & 0o020 != 0 && stat.st_gid != 0;
    let by_others = mode & 0o002 != 0;
    let sticky = mode & 0o1000 != 0;
    let owner = stat.st_uid == 0 || stat.st_uid == own;
    if !owner || ((by_group || by_others) && !sticky) {
        return Err(Refusal::Untrusted {
            path: path.to_owned(),
            uid: stat.st_uid,
            mode,
        });
    }
    Ok(())
}

/// What the next name in a directory is.
pub(super) enum Entered {
    Directory(Held),
    /// A directory of root's, immutable, in one of the account's.
    Locked(Held),
    Missing,
    Obstacle(Kind),
}

/// One directory deeper, without following anything.
pub(super) fn enter(
    here: &Held,
    name: &str,
    account: &Account,
    location: &Location,
) -> Result<Entered, Refusal> {
    let path = here.path.join(name);
    let (descriptor, is_readable) = match open_directory(here, name) {
        Ok(opened) => opened,
        Err(Errno::ENOENT) => return Ok(Entered::Missing),
        // Outside homes only root mounts something: systemd does, for `ReadWritePaths=`.
        Err(Errno::EXDEV) if !location.in_home => {
            let opened = openat(
                &here.descriptor,
                name,
                PLACE | OFlag::O_NOFOLLOW,
                Mode::empty(),
            )
            .map_err(Refusal::io("open", &path))?;
            (opened, false)
        }
        Err(Errno::EXDEV) => return Err(Refusal::Mounted(path)),
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            let stat = fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            return match stat.map(|stat| kind(&stat)) {
                // It has just become a directory: as good as a change a moment later.
                Ok(Kind::Directory) | Err(Errno::ENOENT) => Ok(Entered::Missing),
                Ok(kind) => Ok(Entered::Obstacle(kind)),
                Err(source) => Err(Refusal::Io {
                    what: "look at",
                    path,
                    source,
                }),
            };
        }
        Err(source) => {
            return Err(Refusal::Io {
                what: "open",
                path,
                source,
            });
        }
    };
    let stat = fstat(&descriptor).map_err(Refusal::io("look at", &path))?;
    if !location.in_home {
        check_trusted(&path, &stat, trusted_owner(account.uid))?;
    }
    let trusted = here.trusted && stat.st_uid == 0;
    if stat.st_uid == 0 && !trusted && is_immutable(&descriptor, "") {
        return Ok(Entered::Locked(Held::new(descriptor, stat, path, false)));
    }
    if stat.st_uid != account.uid && !trusted {
        return Ok(Entered::Obstacle(Kind::DirectoryOf(stat.st_uid)));
    }
    Ok(Entered::Directory(Held {
        is_readable,
        ..Held::new(descriptor, stat, path, trusted)
    }))
}

/// Opened for reading where that is allowed, so that it need not be opened again to be synced.
fn open_directory(here: &Held, name: &str) -> nix::Result<(OwnedFd, bool)> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat2(&here.descriptor, name, beneath(flags | OFlag::O_RDONLY)) {
        Err(Errno::EACCES) => {
            let opened = openat2(&here.descriptor, name, beneath(flags | OFlag::O_PATH))?;
            Ok((opened, false))
        }
        opened => Ok((opened?, true)),
    }
}

/// Never out of the directory, never through a link, never onto another mount.
pub(super) fn beneath(flags: OFlag) -> OpenHow {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    OpenHow::new().flags(flags).resolve(resolve)
}

/// To read a file by. Not blocking, or a FIFO put there since, or a lease on the file, would hold this thread.
pub(super) const READING: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// Bytes of a file that is not ours that are still read, to say which keys it held.
pub(super) const READ_LIMIT: u64 = 1 << 20;

/// The path that leads to what a descriptor holds, and to nothing else.
pub(super) fn magic_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// Permission bits with set-id and sticky bits.
pub(super) fn permissions(stat: &FileStat) -> u32 {
    stat.st_mode & 0o7777
}

pub(super) fn kind(stat: &FileStat) -> Kind {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFIFO => Kind::Fifo,
        SFlag::S_IFSOCK => Kind::Socket,
        _ => Kind::Device,
    }
}
