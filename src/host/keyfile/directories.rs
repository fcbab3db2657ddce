//! The directories on the way to the file: made, tidied, and freed from what is in their place.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat2, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};

use crate::host::keyfile::flags;
use crate::host::keyfile::held::{Held, beneath, magic_path, permissions};
use crate::host::keyfile::identity::Identity;
use crate::host::keyfile::label;
use crate::host::keyfile::names;
use crate::host::keyfile::refusal::Refusal;
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::way::{Step, Way};
use crate::model::account::Account;
use crate::model::file::difference::Lock;
use crate::model::file::wanted::Kind;

/// Goes on to the file's directory. On the way what is missing is made, what others can write to is tidied, and what is in
/// the way is moved out of it.
pub(super) fn make_way(
    way: &mut Way<'_>,
    terms: Terms<'_>,
    unlocked: &mut Vec<Lock>,
) -> Result<(), Refusal> {
    if way.held.is_empty() {
        way.start()?;
    }
    way.is_fresh = false;
    let needs = if way.steps().is_empty() { 0o700 } else { 0o100 };
    let_owner_in(&mut way.held[0], terms, way.account.uid, needs)?;
    for (depth, name) in way.steps().iter().enumerate() {
        if way.held.len() == depth + 1 {
            make_step(way, depth, name, terms)?;
        }
        let next = &mut way.held[depth + 1];
        if !next.is_tidy(way.location) {
            tidy(next, terms, unlocked)?;
        }
        if label::wrong_type(&next.descriptor, way.location.in_home).is_some() {
            terms.ask()?;
            label::mend(&next.descriptor).map_err(Refusal::io("set the label of", &next.path))?;
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
        let_owner_in(here, terms, way.account.uid, 0o700)?;
        clear(&here.descriptor, name, kind, &path, terms)?;
        step = Step::Missing;
    }
    if matches!(step, Step::Missing) {
        terms.ask()?;
        let_owner_in(&mut way.held[depth], terms, way.account.uid, 0o700)?;
        let (account, in_home) = (way.account, way.location.in_home);
        make_directory(&mut way.held[depth], name, account, in_home)?;
        step = way.step(depth)?;
    }
    match step {
        Step::Directory => Ok(()),
        Step::Missing | Step::Obstacle(_) => Err(Refusal::Contended(path)),
    }
}

/// By a home that its account closes, and opens to sshd for a moment, what the account put into it would stay there.
pub(super) fn let_owner_in(
    held: &mut Held,
    terms: Terms<'_>,
    account: u32,
    needs: u32,
) -> Result<(), Refusal> {
    if !terms.clear_obstacles || held.stat.st_uid != account {
        return Ok(());
    }
    held.look_again()?;
    let mode = permissions(&held.stat);
    if mode & needs == needs {
        return Ok(());
    }
    terms.ask()?;
    set_mode(held, Mode::from_bits_truncate(mode | 0o700))
}

fn set_mode(held: &mut Held, mode: Mode) -> Result<(), Refusal> {
    let place = magic_path(&held.descriptor);
    fchmodat(AT_FDCWD, &place, mode, FchmodatFlags::FollowSymlink)
        .map_err(Refusal::io("restore the mode of", &held.path))?;
    held.look_again()
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
            flags::unlock(opened, &path, terms)?;
            unlocked.push(Lock::Directory);
        }
        // Where not even root may list it, its mode is restored without that.
        Err(refusal) if !closed => return Err(refusal),
        _ => {}
    }
    let mode = Mode::from_bits_truncate((permissions(&held.stat) & !0o022) | 0o700);
    set_mode(held, mode)
}

/// The account's directory `name`, if there is none yet.
pub(super) fn make_directory(
    here: &mut Held,
    name: &str,
    account: &Account,
    in_home: bool,
) -> Result<(), Refusal> {
    let path = &here.path.join(name);
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
                path: path.clone(),
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

/// Takes something out of the way. A symbolic link holds nothing but its target, and an empty directory nothing: these are
/// removed. Anything else is kept under a name of its own.
pub(super) fn clear(
    directory: &OwnedFd,
    name: &str,
    kind: Kind,
    path: &Path,
    terms: Terms<'_>,
) -> Result<(), Refusal> {
    let put_aside = || {
        let aside = names::aside(name)?;
        let to = aside.as_str();
        let noreplace = RenameFlags::RENAME_NOREPLACE;
        let done = renameat2(directory, name, directory, to, noreplace);
        if done.is_ok() {
            (terms.put_aside)(to);
        }
        Ok(done)
    };
    let done = match kind {
        Kind::Symlink => unlinkat(directory, name, UnlinkatFlags::NoRemoveDir),
        Kind::Directory | Kind::DirectoryOf(_) => {
            match unlinkat(directory, name, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOTEMPTY | Errno::EACCES | Errno::EPERM) => put_aside()?,
                done => done,
            }
        }
        _ => put_aside()?,
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
