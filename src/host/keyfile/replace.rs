//! The safe write: a reader sees the whole old file or the whole new one, through any crash.
//!
//! Attacks this answers, each with a test: a `.ssh` or a file swapped for a link between two steps (held
//! descriptors, nothing followed); a hard link or link planted at the temporary's name (random, `O_EXCL`); the
//! temporary opened or replaced by the account before the rename (everything is resolved and compared again
//! after it); a full disk, an I/O error or a kill at any step (the name changes only by `renameat`, and what is left
//! over is swept up by the next pass).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, openat2, renameat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};

use crate::host::keyfile::flags;
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::label::Label;
use crate::host::keyfile::resolve::{
    Held, Step, beneath, enter, is_tidy, kind, magic_path, permissions, start, steps,
};
use crate::host::keyfile::{Refusal, Target};
use crate::model::config::tables::Owner;
use crate::model::file::difference::Lock;
use crate::model::file::wanted::{Kind, Lines};

/// What the caller lets a replacement do.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Asked before each step that changes something; `false` once nobody waits for this any more.
    pub wanted_still: &'a dyn Fn() -> bool,
    /// Something that is no directory may be moved out of a directory's place: this program had a directory
    /// there before, so somebody put it there since. For the same reason flags that lock the file or its directories
    /// may be cleared.
    pub clear_obstacles: bool,
}

/// Makes the file what is `wanted`, and its directories tidy; gives what was unlocked for that. On an error the old file is still
/// there, whole, except that with an error from the last `fsync` the new one may be.
pub fn replace(target: &Target, wanted: &Lines, terms: Terms<'_>) -> Result<Vec<Lock>, Refusal> {
    let mut unlocked = Vec::new();
    let _label = Label::for_new_files(target.location.in_home);
    let account = Identity::of(target.account.uid, target.account.gid)?;
    let mut here = start(target)?;
    for name in steps(target) {
        here = descend(&here, name, target, terms, &mut unlocked)?;
    }
    drop(account);
    let _identity = identity_in(&here, target)?;
    let directory = reopen(&here)?;
    // Before anything is made in it: what cannot be renamed there cannot be removed again either.
    if flags::is_locked(&directory) {
        unlock(&directory, &here.path, terms)?;
        unlocked.push(Lock::Directory);
    }
    sweep(&directory, target)?;
    let name = write_temporary(&directory, target, wanted, terms)?;
    let put = put_in_place(&directory, &name, target, terms, &mut unlocked);
    if put.is_err() {
        // The error to report is the first one; what cannot be removed now is swept up later.
        let _ = unlinkat(&directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    put?;
    fsync(&directory).map_err(Refusal::io("sync the directory of", &target.location.path))?;
    Ok(unlocked)
}

/// Clears the flags that lock what is held, as root; one that root set before the file was ours is root's decision.
pub(super) fn unlock(held: &OwnedFd, path: &Path, terms: Terms<'_>) -> Result<(), Refusal> {
    let locked = || Refusal::Locked(path.to_owned());
    if !terms.clear_obstacles {
        return Err(locked());
    }
    still_wanted(terms)?;
    let _root = Identity::own()?;
    flags::unlock(held).map_err(|_| locked())
}

/// Removes what a killed replacement left, as far as it can.
pub fn sweep_up(target: &Target) -> Result<(), Refusal> {
    let account = Identity::of(target.account.uid, target.account.gid)?;
    let mut here = start(target)?;
    for name in steps(target) {
        match enter(&here, name, target)? {
            Step::Directory(held) => here = held,
            Step::Missing | Step::Obstacle(_) => return Ok(()),
        }
    }
    drop(account);
    let _identity = identity_in(&here, target)?;
    sweep(&reopen(&here)?, target)
}

/// Who works in this directory: its owner. Root for a root-owned file in the account's own directory too; the
/// account could open its own temporary for writing before it was given away.
fn identity_in(here: &Held, target: &Target) -> Result<Identity, Refusal> {
    let account = &target.account;
    match (here.stat.st_uid, target.owner) {
        (uid, Owner::Account) if uid == account.uid => Identity::of(account.uid, account.gid),
        (_, Owner::Root) if !Uid::effective().is_root() => Err(Refusal::NeedsRoot(0)),
        // The directory belongs to root, to this very user, or root works in it by descriptor alone.
        _ => Identity::own(),
    }
}

/// The next directory: made if missing, tidied if others can write to it.
fn descend(
    here: &Held,
    name: &str,
    target: &Target,
    terms: Terms<'_>,
    unlocked: &mut Vec<Lock>,
) -> Result<Held, Refusal> {
    let path = here.path.join(name);
    let mut step = enter(here, name, target)?;
    if let Step::Obstacle(kind) = step {
        // Where only root can put something, root meant it.
        if !terms.clear_obstacles || here.trusted {
            return Err(Refusal::Obstacle { path, kind });
        }
        still_wanted(terms)?;
        clear(here, name, kind, &path)?;
        step = Step::Missing;
    }
    if matches!(step, Step::Missing) {
        still_wanted(terms)?;
        make_directory(here, name, target, &path)?;
        step = enter(here, name, target)?;
    }
    let Step::Directory(held) = step else {
        return Err(Refusal::Contended(path));
    };
    if !is_tidy(&held, target) {
        tidy(&held, terms, unlocked)?;
    }
    Ok(held)
}

/// Gives the directory to its owner, and to nobody else.
pub(super) fn tidy(held: &Held, terms: Terms<'_>, unlocked: &mut Vec<Lock>) -> Result<(), Refusal> {
    still_wanted(terms)?;
    let _identity = if held.stat.st_uid == 0 {
        Some(Identity::own()?)
    } else {
        None
    };
    // Its owner may have closed it to itself, and locked it so.
    let closed = permissions(&held.stat) & 0o400 == 0;
    let root = if closed { Some(Identity::own()?) } else { None };
    let opened = reopen(held);
    drop(root);
    match opened {
        Ok(opened) if flags::is_locked(&opened) => {
            unlock(&opened, &held.path, terms)?;
            unlocked.push(Lock::Directory);
        }
        // Where nobody may list it, its mode is restored without that.
        Err(refusal) if !closed => return Err(refusal),
        _ => {}
    }
    let mode = Mode::from_bits_truncate((permissions(&held.stat) & !0o022) | 0o700);
    fchmodat(
        AT_FDCWD,
        &magic_path(&held.descriptor),
        mode,
        FchmodatFlags::FollowSymlink,
    )
    .map_err(Refusal::io("restore the mode of", &held.path))
}

fn make_directory(here: &Held, name: &str, target: &Target, path: &Path) -> Result<(), Refusal> {
    // The account's own is for the account alone. One of root's must let sshd through, which reads as the account:
    // outside homes it stays root's, and in a home a crash may leave it so before it is given away.
    let own = here.stat.st_uid == target.account.uid;
    let mode = if target.location.in_home && own {
        0o700
    } else {
        0o755
    };
    let make = || match mkdirat(&here.descriptor, name, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => {
            fsync(reopen(here)?).map_err(Refusal::io("sync the parent of", path))
        }
        Err(source) => Err(Refusal::Io {
            what: "make",
            path: path.to_owned(),
            source,
        }),
    };
    if own {
        return make();
    }
    // Made by root, where nobody else can act, and in a home given away by descriptor.
    let _root = Identity::own()?;
    make()?;
    if !target.location.in_home {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fresh =
        openat2(&here.descriptor, name, beneath(flags)).map_err(Refusal::io("open", path))?;
    let (uid, gid) = (
        Uid::from_raw(target.account.uid),
        Gid::from_raw(target.account.gid),
    );
    fchown(&fresh, Some(uid), Some(gid)).map_err(Refusal::io("give away", path))?;
    // Only its owner may.
    let _account = Identity::of(target.account.uid, target.account.gid)?;
    fchmod(&fresh, Mode::S_IRWXU).map_err(Refusal::io("set the mode of", path))
}

/// Takes something out of the way. A symbolic link holds nothing but its target and is removed; anything else
/// is kept under a name of its own.
pub(super) fn clear(here: &Held, name: &str, kind: Kind, path: &Path) -> Result<(), Refusal> {
    let done = if kind == Kind::Symlink {
        unlinkat(&here.descriptor, name, UnlinkatFlags::NoRemoveDir)
    } else {
        let aside = format!("{name}.aside-{}", random_hex()?);
        renameat2(
            &here.descriptor,
            name,
            &here.descriptor,
            aside.as_str(),
            RenameFlags::RENAME_NOREPLACE,
        )
    };
    match done {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(source) => Err(Refusal::Io {
            what: "clear",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A readable descriptor of a directory held by `O_PATH`.
pub(super) fn reopen(here: &Held) -> Result<OwnedFd, Refusal> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(&here.descriptor, ".", flags, Mode::empty()).map_err(Refusal::io("open", &here.path))
}

/// The new file under a random name, complete and on disk.
fn write_temporary(
    directory: &OwnedFd,
    target: &Target,
    wanted: &Lines,
    terms: Terms<'_>,
) -> Result<String, Refusal> {
    still_wanted(terms)?;
    let path = &target.location.path;
    let name = format!("{}{}", temporary_prefix(target), random_hex()?);
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(
        directory,
        name.as_str(),
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )
    .map_err(Refusal::io("write beside", path))?;
    let fill = || -> Result<(), Refusal> {
        let stat = fstat(&made).map_err(Refusal::io("look at the new", path))?;
        if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
            fchown(
                &made,
                Some(Uid::from_raw(wanted.uid)),
                Some(Gid::from_raw(wanted.gid)),
            )
            .map_err(Refusal::io("set the owner of the new", path))?;
        }
        // A default list of the directory would let others in, or its owner not.
        flags::drop_access_list(&made)
            .map_err(Refusal::io("take the access list off the new", path))?;
        fchmod(&made, Mode::from_bits_truncate(wanted.mode))
            .map_err(Refusal::io("set the mode of the new", path))?;
        let mut file = File::from(
            made.try_clone()
                .map_err(|error| write_error(&error, path))?,
        );
        file.write_all(&wanted.content)
            .map_err(|error| write_error(&error, path))?;
        fsync(&made).map_err(Refusal::io("sync the new", path))
    };
    match fill() {
        Ok(()) => Ok(name),
        Err(error) => {
            let _ = unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
            Err(error)
        }
    }
}

fn write_error(error: &std::io::Error, path: &Path) -> Refusal {
    let source = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    Refusal::Io {
        what: "write the new",
        path: path.to_owned(),
        source,
    }
}

fn put_in_place(
    directory: &OwnedFd,
    temporary: &str,
    target: &Target,
    terms: Terms<'_>,
    unlocked: &mut Vec<Lock>,
) -> Result<(), Refusal> {
    still_wanted(terms)?;
    let (name, path) = (target.location.file.as_str(), &target.location.path);
    let mut put = renameat(directory, temporary, directory, name);
    if put == Err(Errno::EPERM) {
        unlock_file(directory, target, terms)?;
        unlocked.push(Lock::File);
        put = renameat(directory, temporary, directory, name);
    }
    match put {
        Ok(()) => return Ok(()),
        Err(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {}
        Err(Errno::EBUSY | Errno::EXDEV) => return Err(Refusal::Mounted(path.clone())),
        Err(Errno::EPERM) => return Err(Refusal::Locked(path.clone())),
        Err(source) => {
            return Err(Refusal::Io {
                what: "replace",
                path: path.clone(),
                source,
            });
        }
    }
    // Only a directory stands a rename; it is kept under another name.
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(Refusal::io("look at", path))?;
    if kind(&stat) != Kind::Directory {
        return Err(Refusal::Contended(path.clone()));
    }
    let aside = format!("{name}.aside-{}", random_hex()?);
    renameat2(
        directory,
        name,
        directory,
        aside.as_str(),
        RenameFlags::RENAME_NOREPLACE,
    )
    .and_then(|()| renameat(directory, temporary, directory, name))
    .map_err(Refusal::io("replace", path))
}

/// The file under its name, if a flag locks it. One with another name elsewhere could be anybody's and stays locked.
pub(super) fn unlock_file(
    directory: &OwnedFd,
    target: &Target,
    terms: Terms<'_>,
) -> Result<(), Refusal> {
    let (name, path) = (target.location.file.as_str(), &target.location.path);
    let locked = |_| Refusal::Locked(path.clone());
    let ours = |stat: &FileStat| {
        let owned = stat.st_uid == target.account.uid || stat.st_uid == 0;
        owned && (kind(stat) == Kind::Directory || kind(stat) == Kind::File && stat.st_nlink == 1)
    };
    let before = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(locked)?;
    if !ours(&before) {
        return Err(locked(Errno::EPERM));
    }
    let opening = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    // As root: a planted file may be one that its account cannot read.
    let root = Identity::own()?;
    let opened = openat2(directory, name, beneath(opening)).map_err(locked)?;
    drop(root);
    if !ours(&fstat(&opened).map_err(locked)?) || !flags::is_locked(&opened) {
        return Err(locked(Errno::EPERM));
    }
    unlock(&opened, path, terms)
}

/// Temporaries of ours start like this. Hidden, beside the file, and not a name that sshd reads.
fn temporary_prefix(target: &Target) -> String {
    format!(".{}.agent-", target.location.file)
}

/// Entries of a directory that are looked at; an account that fills its `.ssh` gains no time by it.
const SWEPT_ENTRIES: usize = 10_000;

/// Removes temporaries that a killed replacement left in this directory.
fn sweep(directory: &OwnedFd, target: &Target) -> Result<(), Refusal> {
    let prefix = temporary_prefix(target);
    let path = target.location.path.parent().unwrap_or(Path::new("/"));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(directory.as_fd(), ".", flags, Mode::empty())
        .map_err(Refusal::io("list", path))?;
    for entry in entries.iter().take(SWEPT_ENTRIES) {
        let entry = entry.map_err(Refusal::io("list", path))?;
        let name = entry.file_name();
        let ours = name
            .to_str()
            .ok()
            .and_then(|name| name.strip_prefix(&prefix))
            .is_some_and(is_random_hex);
        if ours {
            // A directory of that name is not ours and stays.
            let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
        }
    }
    Ok(())
}

pub(super) fn still_wanted(terms: Terms<'_>) -> Result<(), Refusal> {
    if (terms.wanted_still)() {
        Ok(())
    } else {
        Err(Refusal::Abandoned)
    }
}

/// 64 random bits.
pub(super) fn random_hex() -> Result<String, Refusal> {
    let random = getrandom::u64().map_err(|_| Refusal::Io {
        what: "get random bytes for",
        path: "a temporary name".into(),
        source: Errno::EIO,
    })?;
    Ok(format!("{random:016x}"))
}

fn is_random_hex(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
