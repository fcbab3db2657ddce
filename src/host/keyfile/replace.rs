//! The safe write: a reader sees the whole old file or the whole new one, through any crash.
//!
//! Attacks this answers, each with a test: a `.ssh` or a file swapped for a link between two steps (held
//! descriptors, nothing followed); a hard link or link planted at the temporary's name (random, `O_EXCL`); the
//! temporary opened or replaced by the account before the rename (the caller looks again after it); a full disk, an
//! I/O error or a kill at any step (the name changes only by `renameat`, and what is left over is swept up by the next
//! pass).

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, openat2, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};

use crate::host::keyfile::directories::{clear, make_way};
use crate::host::keyfile::flags::{self, unlock, unlock_file};
use crate::host::keyfile::held::{Held, READING, beneath, kind, permissions};
use crate::host::keyfile::identity::{Identity, is_root};
use crate::host::keyfile::label::Label;
use crate::host::keyfile::lease::{Lease, NoLease};
use crate::host::keyfile::names;
use crate::host::keyfile::refusal::{Refusal, errno};
use crate::host::keyfile::terms::Terms;
use crate::host::keyfile::visit::Visit;
use crate::host::keyfile::witness::inode;
use crate::model::config::tables::Owner;
use crate::model::file::difference::Lock;
use crate::model::file::wanted::Target;
use crate::model::file::wanted::{Kind, Lines};

/// By whose rights a new file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Those of whom the directory belongs to.
    Owner,
    /// Root's: the account's do not suffice, since its quota is used up, or since it opens each new file at once.
    Root,
}

/// To write a file that nobody else has.
const NEW: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// New files that are tried while each is opened by somebody else before it has its name.
const NAMES: u32 = 4;

impl Visit<'_> {
    /// Makes the file what is `wanted`, and its directories tidy; returns what was unlocked for that. Goes on from what the
    /// last look holds. On an error the old file is still there, whole, except that with an error from the last `fsync`
    /// the new one may be. With `keeps` the old file stays beside it under a name that sshd does not read: nobody has a copy.
    pub fn replace(
        &mut self,
        wanted: &Lines,
        terms: Terms<'_>,
        by: By,
        keeps: bool,
    ) -> Result<Vec<Lock>, Refusal> {
        let target = self.target;
        let leases = self.leases();
        let _label = Label::for_new_files(target.location.in_home);
        self.act()?;
        let mut unlocked = Vec::new();
        make_way(&mut self.way, terms, &mut unlocked)?;
        let Some(here) = self.way.end() else {
            return Err(Refusal::Contended(target.location.path.clone()));
        };
        let _identity = writer(here, target, by)?;
        let path = here.path.clone();
        let directory = here.readable()?;
        // Before anything is made in it: what cannot be renamed there cannot be removed again either.
        if flags::is_locked(directory) {
            unlock(directory, &path, terms)?;
            unlocked.push(Lock::Directory);
        }
        let spare = self.spare.take();
        let spare = spare.and_then(|spare| write_spare(directory, spare, target, wanted, leases));
        let (mut name, lease) = match spare {
            Some(made) => made,
            None => write_new(directory, target, wanted, terms, leases)?,
        };
        if !(keeps && swap(directory, &mut name, target, terms)?) {
            let put = put_in_place(directory, &name, target, terms, &mut unlocked);
            if put.is_err() {
                // The error to report is the first one; what cannot be removed now is swept up later.
                let _ = unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
            }
            put?;
        }
        let synced = fsync(directory);
        // Synced or not, sshd reads it from now on.
        self.has_name(lease);
        synced.map_err(Refusal::io("sync the directory of", &target.location.path))?;
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
        let _identity = writer(here, target, By::Owner)?;
        sweep(here.readable()?, target)
    }
}

/// Who else than the account writes in this directory: root, for a file of root's in the account's own directory too; the
/// account could open its own temporary for writing before it was given away.
pub(super) fn writer(here: &Held, target: &Target, by: By) -> Result<Option<Identity>, Refusal> {
    match (here.stat.st_uid, target.owner) {
        (uid, Owner::Account) if uid == target.account.uid && by == By::Owner => Ok(None),
        (_, Owner::Root) if !is_root() => Err(Refusal::NeedsRoot(0)),
        // The directory belongs to root, to this very user, or root works in it by descriptor alone.
        _ => Ok(Some(Identity::own()?)),
    }
}

/// The new file under a random name, complete and on disk, with its lease where leases are kept.
///
/// The lease comes before the name: then there is no moment in which a writer can have the file.
pub(super) fn write_new(
    directory: &OwnedFd,
    target: &Target,
    wanted: &Lines,
    terms: Terms<'_>,
    leases: bool,
) -> Result<(String, Option<Lease>), Refusal> {
    let path = &target.location.path;
    for _ in 0..NAMES {
        terms.ask()?;
        let name = names::temporary(&target.location.file)?;
        match write_temporary(directory, &name, None, wanted, path, leases) {
            Ok(lease) => return Ok((name, lease)),
            Err(error) => {
                drop_temporary(directory, &name);
                if !matches!(error, Refusal::Crowded(_)) {
                    return Err(error);
                }
            }
        }
    }
    Err(Refusal::Crowded(path.clone()))
}

/// A file that is there already, made what is wanted; `None` where it does not serve, and then it is gone, with all its blocks.
fn write_spare(
    directory: &OwnedFd,
    (name, file): (String, File),
    target: &Target,
    wanted: &Lines,
    leases: bool,
) -> Option<(String, Option<Lease>)> {
    let path = &target.location.path;
    if let Ok(lease) = write_temporary(directory, &name, Some(file), wanted, path, leases) {
        return Some((name, lease));
    }
    // The account may have it open.
    let cut = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let _ = openat(
        directory,
        name.as_str(),
        cut | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    drop_temporary(directory, &name);
    None
}

pub(super) fn drop_temporary(directory: &OwnedFd, name: &str) {
    let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
}

/// Refused as crowded where somebody else has opened the file already; `None` where there is no lease to be had. A `spare`
/// has the name already.
fn write_temporary(
    directory: &OwnedFd,
    name: &str,
    spare: Option<File>,
    wanted: &Lines,
    path: &Path,
    leases: bool,
) -> Result<Option<Lease>, Refusal> {
    let crowded = || Err(Refusal::Crowded(path.to_owned()));
    let is_spare = spare.is_some();
    let mut file = match spare {
        Some(file) => file,
        None => File::from(
            openat(directory, name, NEW, Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(Refusal::io("write beside", path))?,
        ),
    };
    let stat = fstat(&file).map_err(Refusal::io("look at the new", path))?;
    // It was the account's to choose what a spare is.
    let is_good = kind(&stat) == Kind::File && stat.st_nlink == 1 && stat.st_uid == wanted.uid;
    if is_spare && !is_good {
        return crowded();
    }
    // A default list of the directory would let others in, or its owner not. To take off what is not there would be an
    // event of its own.
    let has_list = flags::has_access_list(&file);
    if has_list {
        flags::drop_access_list(&file)
            .map_err(Refusal::io("take the access list off the new", path))?;
    }
    // Given away, the account could open it: so a file of root's gets its lease first.
    let is_late = leases && stat.st_uid != wanted.uid;
    if !is_late {
        give(&file, &stat, has_list, wanted, path)?;
    }
    let mut written = file.write_all(&wanted.content);
    if is_spare {
        // Over its blocks, which takes no new ones; only where it has none at its beginning, what follows has to make room.
        written = written
            .or_else(|_| {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&wanted.content)
            })
            .and_then(|()| file.set_len(wanted.content.len() as u64));
    }
    written.map_err(|error| Refusal::io("write the new", path)(errno(&error)))?;
    if !is_late {
        fsync(&file).map_err(Refusal::io("sync the new", path))?;
    }
    // Closed before it gets the file's name, or a watch would tell of that as a write to the file.
    drop(file);
    if !leases {
        return Ok(None);
    }
    let opened = match openat2(directory, name, beneath(READING)) {
        Ok(opened) => File::from(opened),
        Err(Errno::ENOENT | Errno::ELOOP | Errno::EACCES) => return crowded(),
        Err(source) => return Err(Refusal::io("open the new", path)(source)),
    };
    let now = fstat(&opened).map_err(Refusal::io("look at the new", path))?;
    if inode(&now) != inode(&stat) {
        return crowded();
    }
    let (lease, opened) = match Lease::take(opened, inode(&now)) {
        Ok(lease) => (Some(lease), None),
        Err((NoLease::Busy, _)) => return crowded(),
        Err((NoLease::Unsupported, opened)) => (None, Some(opened)),
    };
    let file = lease.as_ref().map(Lease::file).or(opened.as_ref());
    if let Some(file) = file
        && is_late
    {
        give(file, &stat, has_list, wanted, path)?;
        fsync(file).map_err(Refusal::io("sync the new", path))?;
    }
    Ok(lease)
}

/// The owner and the mode that are wanted.
fn give(
    file: &File,
    stat: &FileStat,
    has_list: bool,
    wanted: &Lines,
    path: &Path,
) -> Result<(), Refusal> {
    if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        match fchown(file, Some(uid), Some(gid)) {
            // It stays root's until there is room in the account's quota; sshd takes it so, too.
            Err(Errno::EDQUOT) => {
                let mode = Mode::from_bits_truncate(0o644);
                return fchmod(file, mode).map_err(Refusal::io("set the mode of the new", path));
            }
            given => given.map_err(Refusal::io("set the owner of the new", path))?,
        }
    }
    if has_list || permissions(stat) != wanted.mode {
        fchmod(file, Mode::from_bits_truncate(wanted.mode))
            .map_err(Refusal::io("set the mode of the new", path))?;
    }
    Ok(())
}

/// Exchanges the names of the new file and of the old one, whose other name is then no temporary's, or a sweep would remove
/// it; false when there is no old file. With an error the new file is gone.
fn swap(
    directory: &OwnedFd,
    temporary: &mut String,
    target: &Target,
    terms: Terms<'_>,
) -> Result<bool, Refusal> {
    terms.ask()?;
    let file = target.location.file.as_str();
    let aside = names::aside(file)?;
    let mut swapped = renameat(directory, temporary.as_str(), directory, aside.as_str());
    if swapped.is_ok() {
        *temporary = aside;
        // Not every file system can exchange names, and most first files are new.
        swapped = fstatat(directory, file, AtFlags::AT_SYMLINK_NOFOLLOW).and_then(|_| {
            renameat2(
                directory,
                temporary.as_str(),
                directory,
                file,
                RenameFlags::RENAME_EXCHANGE,
            )
        });
    }
    match swapped {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(source) => {
            let _ = unlinkat(directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            let path = target.location.path.clone();
            Err(match source {
                Errno::EPERM => Refusal::Locked(path),
                Errno::EBUSY | Errno::EXDEV => Refusal::Mounted(path),
                source => Refusal::Io {
                    what: "keep a copy of",
                    path,
                    source,
                },
            })
        }
    }
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
    // Only a directory stands a rename.
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(Refusal::io("look at", path))?;
    if kind(&stat) != Kind::Directory {
        return Err(Refusal::Contended(path.clone()));
    }
    clear(directory, name, Kind::Directory, path, terms)?;
    renameat(directory, temporary, directory, name).map_err(Refusal::io("replace", path))
}

/// Entries of a directory that are looked at; an account that fills its `.ssh` gains no time by it.
const SWEPT_ENTRIES: usize = 10_000;

/// Removes temporaries that a killed replacement left in this directory.
fn sweep(directory: &OwnedFd, target: &Target) -> Result<(), Refusal> {
    let file = target.location.file.as_str();
    let path = target.location.path.parent().unwrap_or(Path::new("/"));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(directory.as_fd(), ".", flags, Mode::empty())
        .map_err(Refusal::io("list", path))?;
    for entry in entries.iter().take(SWEPT_ENTRIES) {
        let entry = entry.map_err(Refusal::io("list", path))?;
        let name = entry.file_name();
        let ours = name
            .to_str()
            .is_ok_and(|name| names::is_temporary(name, file));
        if ours {
            // A directory of that name is not ours and stays.
            let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
        }
    }
    Ok(())
}
