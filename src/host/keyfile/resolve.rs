//! From a home, or from `/`, to the directory of the file, one held descriptor at a time.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::Uid;

use crate::host::keyfile::flags;
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::{Inode, Mark, Marked, Observed, READ_LIMIT, Refusal, Target, Witness};
use crate::model::file::difference::Difference;
use crate::model::file::wanted::{Found, FoundFile, Kind};
use crate::model::sshd::access::Loose;

/// A directory that is held, and what `fstat` said of it then.
pub(super) struct Held {
    pub(super) descriptor: OwnedFd,
    pub(super) stat: FileStat,
    pub(super) path: PathBuf,
    /// Nobody but root controls it and how it is reached.
    pub(super) trusted: bool,
    /// It, or a directory above it, is one that sshd's `StrictModes` does not take.
    pub(super) loose: Option<Box<Loose>>,
}

/// What the next name in a directory is.
pub(super) enum Step {
    Directory(Held),
    Missing,
    Obstacle(Kind),
}

/// Symbolic links that are followed on a path that only root controls; the kernel's own limit (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// Looks at the file as its account sees it. `expected` is the size of the file that would be ours.
pub fn observe(
    target: &Target,
    expected: usize,
    witness: &mut dyn Witness,
) -> Result<Observed, Refusal> {
    let _identity = Identity::of(target.account.uid, target.account.gid)?;
    let mut directories = Vec::new();
    let mut here = start(target)?;
    let mut loose = here.loose.take();
    witness.changed(mark(Marked::Directory, &here.stat));
    for name in steps(target) {
        witness.directory(here.descriptor.as_fd(), inode(&here.stat), name);
        here = match enter(&here, name, target)? {
            Step::Directory(held) => held,
            Step::Missing => {
                mark_again(&here, witness);
                return Ok(Observed {
                    found: Found::Nothing,
                    directories,
                    loose: loose.map(|loose| *loose),
                });
            }
            Step::Obstacle(kind) => {
                mark_again(&here, witness);
                return Err(Refusal::Obstacle {
                    path: here.path.join(name),
                    kind,
                });
            }
        };
        loose = loose.or_else(|| self::loose(&here.path, &here.stat, target.account.uid));
        let tidy = is_tidy(&here, target);
        let marked = if tidy {
            Marked::Directory
        } else {
            Marked::UntidyDirectory
        };
        witness.changed(mark(marked, &here.stat));
        if !tidy {
            directories.push(Difference::DirectoryMode(permissions(&here.stat)));
            if permissions(&here.stat) & 0o700 != 0o700 {
                // Not even its owner can look into it.
                return Ok(Observed {
                    found: Found::Nothing,
                    directories,
                    loose: loose.map(|loose| *loose),
                });
            }
        }
    }
    witness.directory(
        here.descriptor.as_fd(),
        inode(&here.stat),
        &target.location.file,
    );
    let found = look(&here, target, expected, witness)?;
    Ok(Observed {
        found,
        directories,
        loose: loose.map(|loose| *loose),
    })
}

/// The directories that are entered one by one below the start: all those below a home; of a path from `/` the
/// last one, which may have to be made.
pub(super) fn steps(target: &Target) -> &[String] {
    let all = &target.location.directories;
    if target.location.in_home {
        all
    } else {
        &all[all.len().saturating_sub(1)..]
    }
}

/// The directory to start from.
///
/// A home of the account is opened as the account, so a link that somebody else put on the way leads nowhere
/// the account could not go, and what is found must belong to the account. Where root will work, the way must
/// be root's from `/` on.
pub(super) fn start(target: &Target) -> Result<Held, Refusal> {
    if !target.location.in_home {
        let all = &target.location.directories;
        let directories = all[..all.len().saturating_sub(1)]
            .iter()
            .map(OsString::from);
        return walk_trusted(directories.collect(), target.account.uid);
    }
    let path = &target.account.home;
    let home = |source| Refusal::Home {
        path: path.clone(),
        source,
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let descriptor = open(path, flags, Mode::empty()).map_err(home)?;
    let stat = fstat(&descriptor).map_err(home)?;
    if stat.st_uid == 0 && Uid::effective().is_root() {
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        });
        // From the home on: what is above it does not count for sshd.
        let home = walk_trusted(names.collect(), 0)?;
        return Ok(Held {
            loose: loose(path, &home.stat, target.account.uid),
            ..home
        });
    }
    if stat.st_uid == target.account.uid || stat.st_uid == 0 {
        let trusted = stat.st_uid != target.account.uid;
        let loose = loose(path, &stat, target.account.uid);
        return Ok(Held {
            descriptor,
            stat,
            path: path.clone(),
            trusted,
            loose,
        });
    }
    Err(Refusal::ForeignOwner {
        path: path.clone(),
        uid: stat.st_uid,
    })
}

/// From `/` to a directory, all of it in the hands of root (or of `own`, when this is no root).
fn walk_trusted(names: Vec<OsString>, own: u32) -> Result<Held, Refusal> {
    let own = if Uid::effective().is_root() { 0 } else { own };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = || -> nix::Result<Held> {
        let descriptor = open("/", flags, Mode::empty())?;
        let stat = fstat(&descriptor)?;
        let loose = loose(Path::new("/"), &stat, own);
        Ok(Held {
            descriptor,
            stat,
            path: "/".into(),
            trusted: true,
            loose,
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
                    descriptor: opened,
                    stat,
                    path,
                    trusted: true,
                    loose,
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
fn loose(path: &Path, stat: &FileStat, account: u32) -> Option<Box<Loose>> {
    let directory = Loose {
        path: path.to_owned(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: permissions(stat),
        private_group: false,
    };
    directory.is_loose(account).then(|| Box::new(directory))
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

/// One directory deeper, without following anything.
pub(super) fn enter(here: &Held, name: &str, target: &Target) -> Result<Step, Refusal> {
    let path = here.path.join(name);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let descriptor = match openat2(&here.descriptor, name, beneath(flags)) {
        Ok(descriptor) => descriptor,
        Err(Errno::ENOENT) => return Ok(Step::Missing),
        Err(Errno::EXDEV) => return Err(Refusal::Mounted(path)),
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            let stat = fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            return match stat.map(|stat| kind(&stat)) {
                // It has just become a directory: as good as a change a moment later.
                Ok(Kind::Directory) | Err(Errno::ENOENT) => Ok(Step::Missing),
                Ok(kind) => Ok(Step::Obstacle(kind)),
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
    if !target.location.in_home {
        let own = if Uid::effective().is_root() {
            0
        } else {
            target.account.uid
        };
        check_trusted(&path, &stat, own)?;
    }
    let trusted = here.trusted && stat.st_uid == 0;
    if stat.st_uid != target.account.uid && !trusted {
        return Ok(Step::Obstacle(Kind::DirectoryOf(stat.st_uid)));
    }
    Ok(Step::Directory(Held {
        descriptor,
        stat,
        path,
        trusted,
        loose: None,
    }))
}

/// What stands at the file's name, in a directory that is held.
fn look(
    here: &Held,
    target: &Target,
    expected: usize,
    witness: &mut dyn Witness,
) -> Result<Found, Refusal> {
    let name = target.location.file.as_str();
    let path = &target.location.path;
    let look_at = |source| Refusal::Io {
        what: "look at",
        path: path.clone(),
        source,
    };
    let stat = match fstatat(&here.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => {
            mark_again(here, witness);
            return Ok(Found::Nothing);
        }
        Err(source) => return Err(look_at(source)),
    };
    witness.changed(mark(Marked::File, &stat));
    if kind(&stat) != Kind::File {
        return Ok(Found::Other(kind(&stat)));
    }
    // Not blocking, or a FIFO put here since, or a lease on the file, would hold us.
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = match openat2(&here.descriptor, name, beneath(flags)) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => {
            mark_again(here, witness);
            return Ok(Found::Nothing);
        }
        Err(Errno::EXDEV) => return Err(Refusal::Mounted(path.clone())),
        // Not readable for its own account, leased, or swapped: different from ours in any case.
        Err(Errno::EACCES | Errno::EWOULDBLOCK | Errno::ELOOP | Errno::ENXIO) => {
            return Ok(Found::File(found_file(&stat, None)));
        }
        Err(source) => return Err(look_at(source)),
    };
    let stat = fstat(&file).map_err(look_at)?;
    if kind(&stat) != Kind::File {
        return Ok(Found::Other(kind(&stat)));
    }
    if stat.st_nlink == 1 {
        // A file with another name could be one that another account's watch is on.
        witness.file(file.as_fd(), inode(&stat));
    }
    let access_list = flags::has_access_list(&file);
    let limit = READ_LIMIT.max(u64::try_from(expected).unwrap_or(u64::MAX));
    let content =
        read_at_most(&file, limit, u64::try_from(stat.st_size).unwrap_or(0)).map_err(look_at)?;
    witness.changed(mark(Marked::File, &fstat(&file).map_err(look_at)?));
    Ok(Found::File(FoundFile {
        access_list,
        ..found_file(&stat, content)
    }))
}

/// Looks at the change time again: the entry may have gone after the directory was first looked at.
fn mark_again(here: &Held, witness: &mut dyn Witness) {
    if let Ok(stat) = fstat(&here.descriptor) {
        witness.changed(mark(Marked::Directory, &stat));
    }
}

pub(super) fn mark(of: Marked, stat: &FileStat) -> Mark {
    Mark {
        of,
        changed_at: (stat.st_ctime, stat.st_ctime_nsec),
        inode: inode(stat),
    }
}

/// With room for `expected` bytes it takes two calls, and not one for each doubling of the room.
fn read_at_most(file: &File, limit: u64, expected: u64) -> nix::Result<Option<Vec<u8>>> {
    let room = usize::try_from(expected.min(limit).saturating_add(1)).unwrap_or(0);
    let mut content = Vec::with_capacity(room);
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut content);
    match read {
        Ok(_) => Ok(u64::try_from(content.len())
            .is_ok_and(|length| length <= limit)
            .then_some(content)),
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}

fn found_file(stat: &FileStat, content: Option<Vec<u8>>) -> FoundFile {
    #[allow(
        clippy::useless_conversion,
        reason = "st_nlink has another width on aarch64"
    )]
    let links = u64::from(stat.st_nlink);
    FoundFile {
        content,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: permissions(stat),
        links,
        access_list: false,
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

/// A directory in a home that sshd's `StrictModes` would take (`misc.c: safe_path`), and that its owner can use.
/// Outside homes the directories are root's business.
pub(super) fn is_tidy(held: &Held, target: &Target) -> bool {
    let mode = permissions(&held.stat);
    !target.location.in_home || (mode & 0o022 == 0 && mode & 0o700 == 0o700)
}

/// The path that leads to what a descriptor holds, and to nothing else.
pub(super) fn magic_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// Permission bits with set-id and sticky bits.
pub(super) fn permissions(stat: &FileStat) -> u32 {
    stat.st_mode & 0o7777
}

pub(super) fn inode(stat: &FileStat) -> Inode {
    (stat.st_dev, stat.st_ino)
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
