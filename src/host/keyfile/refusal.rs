//! Why a file was not looked at, not replaced or not removed.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::model::escape::escaped;
use crate::model::file::wanted::Kind;

/// Why a file was not looked at, not replaced or not removed. Whatever it is, the old file is still there, whole.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another account's file needs root.
    #[error("only root may work on the file of uid {0}")]
    NeedsRoot(u32),
    /// `setfsuid` and `setfsgid` had no effect.
    #[error("cannot act as uid {uid} gid {gid}: CAP_SETUID and CAP_SETGID are needed")]
    CannotActAs {
        /// Lines user id.
        uid: u32,
        /// Lines group id.
        gid: u32,
    },
    /// The home cannot be worked in.
    #[error("cannot open the home `{}`", shown(.path))]
    Home {
        /// The home.
        path: PathBuf,
        /// The cause.
        source: Errno,
    },
    /// Neither the account nor root owns it.
    #[error("`{}` belongs to uid {uid}, neither to the account nor to root", shown(.path))]
    ForeignOwner {
        /// The home.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Other accounts can write to a directory that root would work in.
    #[error("`{}` can be changed by others than root (owner {uid}, mode {mode:04o})", shown(.path))]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// Something else than a directory of the account is in its place. One of root's counts too: the
    /// account may have moved it there.
    #[error("`{}` is {kind}, not a directory of the account", shown(.path))]
    Obstacle {
        /// Where.
        path: PathBuf,
        /// What.
        kind: Kind,
    },
    /// A mount in the way, such as a bind mount over the file.
    #[error("`{}` is a mount point", shown(.0))]
    Mounted(PathBuf),
    /// A flag keeps the file as it is.
    #[error("cannot replace `{}`: an immutable or append-only flag is set (see lsattr(1))", shown(.0))]
    Locked(PathBuf),
    /// The file was changed again and again while it was replaced.
    #[error("`{}` was changed again and again while it was replaced", shown(.0))]
    Contended(PathBuf),
    /// Each new file was opened by somebody else before it had its name.
    #[error("cannot replace `{}`: the account opens each new file at once", shown(.0))]
    Crowded(PathBuf),
    /// Only a directory of its own in a home of the account's can be locked.
    #[error("cannot lock `{}`: it is not in a directory of its own, in a home of its account", shown(.0))]
    NoLock(PathBuf),
    /// It has the content it should have, and another owner.
    #[error("`{}` stays root's: the quota of the account is used up", shown(.0))]
    NoQuota(PathBuf),
    /// The pass that asked for this gave up waiting.
    #[error("given up: the file system did not answer in time")]
    Abandoned,
    /// Any other failure.
    #[error("cannot {what} `{}`", shown(.path))]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: Errno,
    },
}

/// What is done by the flag that keeps the account from changing anything.
pub(super) const LOCK: &str = "lock";

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

impl Refusal {
    /// The whole sentence, causes included.
    pub fn explained(&self) -> String {
        match std::error::Error::source(self).and_then(|source| source.downcast_ref::<Errno>()) {
            Some(errno) => format!("{self}: {}", errno.desc().to_ascii_lowercase()),
            None => self.to_string(),
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NeedsRoot(_) => "run this as root",
            Self::CannotActAs { .. } => {
                "give the service CAP_SETUID and CAP_SETGID, as the shipped unit does"
            }
            Self::Home { .. } => {
                "make the home (mkhomedir_helper(8)), or take the account out of `[accounts] manage`"
            }
            Self::ForeignOwner { .. } => "chown the home to its account",
            Self::Untrusted { .. } => "chown that directory to root, and chmod go-w",
            Self::Obstacle { .. } => "look at what is there, and remove it",
            Self::Mounted(_) => "unmount what is mounted there",
            Self::Locked(_) => "take the flags away: chattr -i -a",
            Self::Contended(_) | Self::Crowded(_) => {
                "find out who writes it: `ausearch -k authorized_keys`, where audit is on"
            }
            Self::NoLock(_) => "set `[accounts] file` to a file in a directory of its own",
            Self::NoQuota(_) => "make room in the quota of the account",
            Self::Io {
                source: Errno::ENOSYS,
                ..
            } => {
                "`openat2`, which the agent needs, is missing or forbidden: the kernel is older than 5.6, or the seccomp filter of a \
                 container or `RestrictSUIDSGID=` in the unit refuses it"
            }
            Self::Abandoned => "look at the file system of the home; a network mount may be down",
            Self::Io {
                source: Errno::EROFS,
                ..
            } => {
                "the service may write only in homes and where its unit says: with `systemctl edit authorized-keys-agent` put `ReadWritePaths=` and the directory, which must exist, below `[Service]`; then restart it"
            }
            Self::Io {
                source: Errno::EMFILE | Errno::ENFILE,
                ..
            } => {
                "the agent holds a file open for each account: raise `LimitNOFILE=` of the unit, or the limit of the container, or `fs.file-max`"
            }
            Self::Io { .. } => "look at the file system: is it mounted, writable and sound?",
        }
    }

    /// Neither the disk nor the quota, or not the directory, has room for a new file.
    pub fn is_want_of_room(&self) -> bool {
        matches!(
            self,
            Self::Io {
                source: Errno::ENOSPC | Errno::EDQUOT,
                ..
            }
        )
    }

    /// No directory of that place, or no file of that file system, can be locked.
    pub fn is_no_lock(&self) -> bool {
        let no_flags = |source: &Errno| {
            matches!(
                source,
                Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EPERM | Errno::ENOSYS
            )
        };
        match self {
            Self::NoLock(_) => true,
            Self::Io { what, source, .. } => *what == LOCK && no_flags(source),
            _ => false,
        }
    }

    /// For `map_err`: what was being done, to what.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// What the kernel said; of what it did not say, an I/O error.
pub(super) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_call_that_is_kept_from_it_is_named() {
        let hint = |errno| Refusal::io("open", Path::new("/home/alice"))(errno).hint();
        assert!(hint(Errno::ENOSYS).starts_with("`openat2`"));
        for none_left in [Errno::EMFILE, Errno::ENFILE] {
            assert!(hint(none_left).contains("`LimitNOFILE=`"), "{none_left}");
        }
        assert!(hint(Errno::EIO).starts_with("look at the file system"));
    }
}
