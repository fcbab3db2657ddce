//! The safe write: a reader sees the whole old file or the whole new one, through any crash.
//!
//! Attacks this answers, each with a test: a `.ssh` or a file swapped for a link between two steps (held
//! descriptors, nothing followed); a hard link or link planted at the temporary's name (random, `O_EXCL`); the
//! temporary opened or replaced by the account before the rename (the caller looks again after it); a full disk, an
//! I/O error or a kill at any step (the name changes only by `renameat`, and what is left over is swept up by the next
//! pass).

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
use crate::host::keyfile::identity::{Identity, is_root};
use crate::host::keyfile::label::Label;
use crate::host::keyfile::refusal::{Refusal, errno};
use crate::host::keyfile::visit::{Target, Terms, Visit};
use crate::host::keyfile::way::{Held, READING, Step, Way, beneath, kind, magic_path, permissions};
use crate::model::account::Account;
use crate::model::config::tables::Owner;
use crate::model::file::difference::Lock;
use crate::model::file::wanted::{Kind, Wanted};
use crate::model::location::Location;

impl Visit<'_> {
    /// Makes the file what is `wanted`, and its directories tidy; returns what was unlocked for that. Goes on from what the
    /// last look holds. On an error the old file is still there, whole, except that with an error from the last `fsync`
    /// the new one may be.
    pub fn replace(&mut self, wanted: &Wanted, terms: Terms<'_>) -> Result<Vec<Lock>, Refusal> {
        let target = self.target;
        let _label = Label::for_new_files(target.location.in_home);
        self.act()?;
        let mut unlocked = Vec::new();
        make_way(&mut self.way, terms, &mut unlocked)?;
        let Some(here) = self.way.end() else {
            return Err(Refusal::Contended(target.location.path.clone()));
        };
        let _identity = writer(here, target)?;
        let path = here.path.clone();
        let directory = here.readable()?;
        // Before anything is made in it: what cannot be renamed there cannot be removed again either.
        if flags::is_locked(directory) {
            unlock(directory, &path, terms)?;
            unlocked.push(Lock::Directory);
        }
        let name = write_temporary(directory, target, wanted, terms)?;
        let put = put_in_place(directory, &name, target, terms, &mut unlocked);
        if put.is_err() {
            // The error to report is the first one; what cannot be removed now is swept up later.
            let _ = unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        put?;
        fsync(directory).map_err(Refusal::io("sync the directory of", &target.location.path))?;
        Ok(unlocked)
    }

    /// Removes what a replacement left that was killed, or that failed and could not remove it. A replacement that ends
    /// leaves nothing, so a regular one need not read the whole directory for this.
    pub fn sweep_up(&mut self) -> Result<(), Refusal> {
        self.act()?;
        if !self.way.walk()? {
            return Ok(());
        }
        let target = self.target;
        let Some(here) = self.way.end() else {
            return Ok(());
        };
        let _identity = writer(here, target)?;
        sweep(here.readable()?, target)
    }
}

/// Who else than the account writes in this directory: root, for a file of root's in the account's own directory too; the
/// account could open its own temporary for writing before it was given away.
fn writer(here: &Held, target: &Target) -> Result<Option<Identity>, Refusal> {
    match (here.stat.st_uid, target.owner) {
        (uid, Owner::Account) if uid == target.account.uid => Ok(None),
        (_, Owner::Root) if !is_root() => Err(Refusal::NeedsRoot(0)),
        // The directory belongs to root, to this very user, or root works in it by descriptor alone.
        _ => Ok(Some(Identity::own()?)),
    }
}

/// Goes on to the file's directory. On the way what is missing is made, what others can write to is tidied, and what is in
/// the way is moved out of it.
fn make_way(way: &mut Way<'_>, terms: Terms<'_>, unlocked: &mut Vec<Lock>) -> Result<(), Refusal> {
    if way.held.is_empty() {
        way.start()?;
    }
    way.is_fresh = false;
    for (depth, name) in way.steps().iter().enumerate() {
        if way.held.len() == depth + 1 {
            make_step(way, depth, name, terms)?;
        }
        let next = &mut way.held[depth + 1];
        if !next.is_tidy(way.location) {
            tidy(next, terms, unlocked)?;
        }
    }
    Ok(())
}

/// The next directory: made if it is missing.
fn make_step(way: &mut Way<'_>, depth: usize, name: &str, terms: Terms<'_>) -> Result<(), Refusal> {
    let mut step = way.step(depth)?;
    let here = &mut way.held[depth];
    let path = here.path.join(name);
    if let Step::Obstacle(kind) = step {
        // Where only root can put something, root meant it.
        if !terms.clear_obstacles || here.trusted {
            return Err(Refusal::Obstacle { path, kind });
        }
        terms.ask()?;
        clear(here, name, kind, &path)?;
        step = Step::Missing;
    }
    if matches!(step, Step::Missing) {
        terms.ask()?;
        make_directory(way, depth, name, &path)?;
        step = way.step(depth)?;
    }
    match step {
        Step::Directory => Ok(()),
        Step::Missing | Step::Obstacle(_) => Err(Refusal::Contended(path)),
    }
}

/// Lets only the owner write to the directory, and do so again.
pub(super) fn tidy(
    held: &mut Held,
    terms: Terms<'_>,
    unlocked: &mut Vec<Lock>,
) -> Result<(), Refusal> {
    terms.ask()?;
    let _identity = if held.stat.st_uid == 0 {
        Some(Identity::own()?)
    } else {
        None
    };
    // Its owner may have closed it to itself, and locked it so.
    let closed = permissions(&held.stat) & 0o400 == 0;
    let root = if closed { Some(Identity::own()?) } else { None };
    let path = held.path.clone();
    let opened = held.readable();
    drop(root);
    match opened {
        Ok(opened) if flags::is_locked(opened) => {
            unlock(opened, &path, terms)?;
            unlocked.push(Lock::Directory);
        }
        // Where not even root may list it, its mode is restored without that.
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
    .map_err(Refusal::io("restore the mode of", &path))?;
    held.look_again()
}

fn make_directory(way: &mut Way<'_>, depth: usize, name: &str, path: &Path) -> Result<(), Refusal> {
    let (account, in_home) = (way.account, way.location.in_home);
    let here = &mut way.held[depth];
    // The account's own is for the account alone. One of root's must let sshd through, which reads as the account:
    // outside homes it stays root's, and in a home a crash may leave it so before it is given away.
    let own = here.stat.st_uid == account.uid;
    let mode = if in_home && own { 0o700 } else { 0o755 };
    // Made by root where only root can act, and in a home given away by descriptor.
    let _root = if own { None } else { Some(Identity::own()?) };
    match mkdirat(&here.descriptor, name, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(source) => {
            return Err(Refusal::Io {
                what: "make",
                path: path.to_owned(),
                source,
            });
        }
    }
    fsync(here.readable()?).map_err(Refusal::io("sync the parent of", path))?;
    if own || !in_home {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fresh =
        openat2(&here.descriptor, name, beneath(flags)).map_err(Refusal::io("open", path))?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    fchown(&fresh, Some(uid), Some(gid)).map_err(Refusal::io("give away", path))?;
    // Only its owner may.
    let _account = Identity::of(account.uid, account.gid)?;
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

/// The new file under a random name, complete and on disk.
fn write_temporary(
    directory: &OwnedFd,
    target: &Target,
    wanted: &Wanted,
    terms: Terms<'_>,
) -> Result<String, Refusal> {
    terms.ask()?;
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
    let mut file = File::from(made);
    let filled = fill(&mut file, wanted, path);
    // Closed before it gets the file's name, or a watch would tell of that as a write to the file.
    drop(file);
    match filled {
        Ok(()) => Ok(name),
        Err(error) => {
            let _ = unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
            Err(error)
        }
    }
}

fn fill(file: &mut File, wanted: &Wanted, path: &Path) -> Result<(), Refusal> {
    let stat = fstat(&file).map_err(Refusal::io("look at the new", path))?;
    if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        fchown(&file, Some(uid), Some(gid))
            .map_err(Refusal::io("set the owner of the new", path))?;
    }
    // A default list of the directory would let others in, or its owner not. To take off what is not there would be an
    // event of its own.
    let has_list = flags::has_access_list(&file);
    if has_list {
        flags::drop_access_list(&file)
            .map_err(Refusal::io("take the access list off the new", path))?;
    }
    if has_list || permissions(&stat) != wanted.mode {
        fchmod(&file, Mode::from_bits_truncate(wanted.mode))
            .map_err(Refusal::io("set the mode of the new", path))?;
    }
    file.write_all(&wanted.content)
        .map_err(|error| Refusal::io("write the new", path)(errno(&error)))?;
    fsync(&file).map_err(Refusal::io("sync the new", path))
}

fn put_in_place(
    directory: &OwnedFd,
    temporary: &str,
    target: &Target,
    terms: Terms<'_>,
    unlocked: &mut Vec<Lock>,
) -> Result<(), Refusal> {
    terms.ask()?;
    let (name, path) = (target.location.file.as_str(), &target.location.path);
    let mut put = renameat(directory, temporary, directory, name);
    if put == Err(Errno::EPERM) {
        unlock_file(directory, &target.account, &target.location, terms)?;
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

/// Clears the flags that lock what is held, as root; one that root set before the file was ours is root's decision.
pub(super) fn unlock(held: &OwnedFd, path: &Path, terms: Terms<'_>) -> Result<(), Refusal> {
    let locked = || Refusal::Locked(path.to_owned());
    if !terms.clear_obstacles {
        return Err(locked());
    }
    terms.ask()?;
    let _root = Identity::own()?;
    flags::unlock(held).map_err(|_| locked())
}

/// The file under its name, if a flag locks it. One with another name elsewhere could be any account's and stays locked.
pub(super) fn unlock_file(
    directory: &OwnedFd,
    account: &Account,
    location: &Location,
    terms: Terms<'_>,
) -> Result<(), Refusal> {
    let (name, path) = (location.file.as_str(), &location.path);
    let locked = |_| Refusal::Locked(path.clone());
    let ours = |stat: &FileStat| {
        let owned = stat.st_uid == account.uid || stat.st_uid == 0;
        owned && (kind(stat) == Kind::Directory || kind(stat) == Kind::File && stat.st_nlink == 1)
    };
    let before = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(locked)?;
    if !ours(&before) {
        return Err(locked(Errno::EPERM));
    }
    // As root: a planted file may be one that its account cannot read.
    let root = Identity::own()?;
    let opened = openat2(directory, name, beneath(READING)).map_err(locked)?;
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
