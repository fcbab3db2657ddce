//! One enforcer and one fetcher at a time, and a word to the one that runs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, major, minor, umask};
use nix::unistd::Uid;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::PlainFile;
use crate::model::past::audit::DELETED;

/// Held while this process lives; the kernel lets go of it whatever happens.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another one is running{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held {
        /// Which, where the kernel tells.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("cannot lock `{}`", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// flock(2) asks for no more than an open file, readable is enough: so only the owner may open it.
const LOCK_MODE: u32 = 0o600;

/// Takes the lock `path`, or says who has it.
///
/// One that a process has which was killed and is not gone is taken from it: one of its threads hangs in a file system, maybe
/// for ever, and its open files with it; the rest of it is dead and does nothing any more.
pub fn lock(path: &Path) -> Result<Lock, LockError> {
    let failed = |source| LockError::Io {
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().map(fs::metadata).transpose();
    if directory.map_err(failed)?.map(|meta| meta.uid()) != Some(user()) {
        // In the fetcher's directory root leaves nothing and takes nothing away.
        return take(path);
    }
    // One at a time: of two that see the dead holder, the second would take the first one's file away.
    let _turn = take(&path.with_extension("turn.lock"))?;
    match take(path) {
        Err(LockError::Held { pid: None }) => {
            if is_left_by_the_dead(path) {
                fs::remove_file(path).map_err(failed)?;
            }
            // The dead one may have let go of it meanwhile.
            take(path)
        }
        taken => taken,
    }
}

/// The lock of this one file.
fn take(path: &Path) -> Result<Lock, LockError> {
    let failed = |source| LockError::Io {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(LOCK_MODE);
    let (file, meta) = PlainFile::open_to_change(path, &mut options).map_err(failed)?;
    if meta.mode() & 0o7777 != LOCK_MODE {
        // A file from elsewhere may be open to all, and each account that can open it can hold the lock.
        file.set_permissions(fs::Permissions::from_mode(LOCK_MODE))
            .map_err(failed)?;
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) if is_at(&lock, path).map_err(failed)? => Ok(Lock(lock)),
        // Another process has put a file of its own there since.
        Ok(_) => Err(LockError::Held { pid: None }),
        Err((_, Errno::EWOULDBLOCK)) => Err(LockError::Held {
            pid: holder(path).and_then(|holder| holder.pid),
        }),
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// True while the path names the file that is held.
fn is_at(held: &File, path: &Path) -> io::Result<bool> {
    let held = held.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A process that has a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its pid, unless it lives in a pid namespace that this process cannot see.
    pub pid: Option<u32>,
    /// Whose file the lock is.
    owner: u32,
}

/// Who has the lock `path`, as the kernel says (`proc_locks(5)`). Nothing in the file itself is believed.
///
/// A process that is dead, though not gone, has nothing.
pub fn holder(path: &Path) -> Option<Holder> {
    holders(path).into_iter().find(|holder| !holder.is_dead())
}

/// True when the kernel names a holder of the lock, and it is dead.
fn is_left_by_the_dead(path: &Path) -> bool {
    // The kernel tells in several pieces, and one that changes meanwhile may lack this lock.
    for _ in 0..5 {
        let holders = holders(path);
        if !holders.is_empty() {
            return holders.into_iter().all(Holder::is_dead);
        }
    }
    false
}

/// Who may have it: where several may, one of them has.
fn holders(path: &Path) -> Vec<Holder> {
    // Not followed: a link leads to a lock of another's, and so does a second name.
    let meta = fs::symlink_metadata(path);
    let Some(meta) = meta.ok().filter(|meta| meta.is_file() && meta.nlink() == 1) else {
        return Vec::new();
    };
    let Ok(locks) = fs::read_to_string("/proc/locks") else {
        return Vec::new();
    };
    let device = format!(
        "{:02x}:{:02x}:{}",
        major(meta.dev()),
        minor(meta.dev()),
        meta.ino()
    );
    let inode = format!(":{}", meta.ino());
    let holders = |place: &dyn Fn(&str) -> bool| -> Vec<Holder> {
        let holder = |line: &str| {
            // 1: FLOCK  ADVISORY  WRITE 1234 00:18:4711 0 EOF
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [_, "FLOCK", _, _, pid, file, ..] if place(file) => Some(Holder {
                    pid: pid.parse().ok().filter(|pid| *pid > 0),
                    owner: meta.uid(),
                }),
                _ => None,
            }
        };
        locks.lines().filter_map(holder).collect()
    };
    let exact = holders(&|file| file == device);
    if !exact.is_empty() {
        return exact;
    }
    // btrfs and overlayfs show another device here than in stat(2). Any account can lock a file of its own that has
    // this number on another file system, so there the holder must be the file's owner.
    let mut others = holders(&|file| file.ends_with(&inode));
    others.retain(|holder| holder.pid.is_some_and(|pid| holder.owns(pid)));
    others
}

impl Holder {
    /// True for a process that was killed: the state of its main thread (`proc_pid_stat(5)`) is that of a zombie then, even
    /// while another thread of it hangs and keeps its files open.
    fn is_dead(self) -> bool {
        let stat = self
            .pid
            .and_then(|pid| fs::read(format!("/proc/{pid}/stat")).ok());
        // The name of the program, in parentheses, may hold anything.
        let state = stat.and_then(|stat| {
            let end = stat.iter().rposition(|byte| *byte == b')')?;
            stat.get(end + 2).copied()
        });
        matches!(state, Some(b'Z' | b'X'))
    }

    /// Whether it is a service, which can be asked; a signal would end any other process. `pid` is the one that the lock
    /// names.
    pub fn is_service(&self, pid: u32) -> bool {
        request(pid).is_some()
    }

    /// Asks a service to do it now.
    ///
    /// The fetcher's lock is in a directory that the fetcher writes to, and root asks: so root signals only a process of the
    /// user whose file the lock is. A fetcher that was taken over could signal those itself. The descriptor is of one process
    /// and stays so; a pid that is used again between the look and the signal would be another's.
    pub fn ask(&self, pid: u32) -> io::Result<()> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or(io::ErrorKind::InvalidInput)?;
        let process = pidfd_open(raw, PidfdFlags::empty())?;
        if !self.owns(pid) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let signal = request(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_send_signal(process, signal)?)
    }

    fn owns(&self, pid: u32) -> bool {
        let process = fs::metadata(format!("/proc/{pid}"));
        process.is_ok_and(|process| may_have_made(process.uid(), self.owner))
    }
}

/// Whether a process of this user may have made a file of that owner. From systemd 257 on the directories of a `DynamicUser=`
/// are mounted so that what such a user makes there is nobody's for all others.
fn may_have_made(user: u32, owner: u32) -> bool {
    /// What systemd takes for such users by itself (`systemd.exec(5)`, `DynamicUser=`).
    const DYNAMIC: std::ops::RangeInclusive<u32> = 61184..=65519;
    const NOBODY: u32 = 65534;
    user == owner || owner == NOBODY && DYNAMIC.contains(&user)
}

/// The signal by which a service is asked, by those that it has handlers for (`proc_pid_status(5)`). One of an earlier
/// version knows only SIGHUP.
fn request(pid: u32) -> Option<Signal> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = u64::from_str_radix(mask?.trim(), 16).ok()?;
    let is_caught = |signal: &Signal| mask & (1 << (signal.as_raw() - 1)) != 0;
    [Signal::USR1, Signal::HUP].into_iter().find(is_caught)
}

/// True when this process may work on other accounts' files.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// True while any process of this user lives. Looking through all of them takes milliseconds where there are thousands.
pub fn is_running_as(uid: u32) -> bool {
    let Ok(all) = fs::read_dir("/proc") else {
        return false;
    };
    let uid = uid.to_string();
    let is_its_own = |entry: fs::DirEntry| {
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            return false;
        }
        // The owner of the directory says less: of a process that cannot be dumped it is root.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uids.is_some_and(|uids| uids.split_whitespace().any(|one| one == uid))
    };
    all.flatten().any(is_its_own)
}

/// The path of this program; empty where that is not known.
pub fn executable() -> String {
    let path = fs::read_link("/proc/self/exe").unwrap_or_default();
    let path = path.to_string_lossy();
    path.trim_end_matches(DELETED).to_owned()
}

/// The uid that this process acts as.
pub fn user() -> u32 {
    Uid::effective().as_raw()
}

/// The name of this host, as the kernel has it.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// 64 random bits; a clock would do for what they are used for, spreading polls over a fleet.
pub fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// Modes are what this program says, not what a service's umask leaves of them: sshd must get through a directory that
/// root makes, and a crash may come before a mode that was cut short is set right.
pub fn widen_umask() {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
}

/// Allows as many open files as the hard limit does.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Failing leaves the soft limit, which is enough for hundreds of accounts.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_may_have_made_the_lock_is_signalled() {
        for (user, owner, may) in [
            (0, 0, true),
            (998, 998, true),
            (61_500, 61_500, true),
            // Of a dynamic user, seen from outside of its mount.
            (61_500, 65_534, true),
            (0, 65_534, false),
            (1000, 65_534, false),
            (0, 61_500, false),
            (61_500, 0, false),
        ] {
            assert_eq!(may_have_made(user, owner), may, "{user}, {owner}");
        }
    }
}
