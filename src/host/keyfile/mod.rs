//! One `authorized_keys` file: observe it, and replace it safely.
//!
//! Everything below a home belongs to somebody who may be hostile and may act at any moment, so
//! - every step goes through descriptors, opened with `openat2` and looked at with `fstat` once held;
//! - work in a directory is done as its owner, so that the kernel refuses what the owner could not do;
//! - what a name stood for a moment ago is never assumed: after a replacement everything is resolved again.
//!
//! All of it blocks, and a hostile file system may block it for ever: call it on a thread of its own.

mod beside;
mod flags;
mod identity;
mod label;
mod replace;
mod resolve;
mod survey;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use beside::{Beside, look_beside, take_away};
pub use identity::drop_supplementary_groups;
pub use replace::{Terms, replace, sweep_up};
pub use resolve::observe;
pub use survey::survey;

pub use crate::model::file::wanted::Target;

use crate::model::escape::escaped;
use crate::model::file::difference::Difference;
use crate::model::file::wanted::{Found, Kind};
use crate::model::sshd::access::Loose;

/// What stands there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// At the file's name.
    pub found: Found,
    /// Directories of ours on the way to it that let others write, or keep their owner out.
    pub directories: Vec<Difference>,
    /// A directory further up, none of ours, for which sshd with `StrictModes` refuses the file.
    pub loose: Option<Loose>,
}

/// Told of every descriptor on the way, so that it can be watched: the very thing that was looked at, not a
/// name that may mean another thing by now.
pub trait Witness {
    /// A directory, and the one name in it that matters.
    fn directory(&mut self, directory: BorrowedFd<'_>, inode: Inode, name: &str);
    /// The file itself.
    fn file(&mut self, file: BorrowedFd<'_>, inode: Inode);
    /// When what was looked at was last changed, on the way from the home to what stands at the file's name.
    fn changed(&mut self, _: Mark) {}
}

/// What was looked at, and its change time (`inode(7)`, `st_ctime`): set by the kernel at each change, and by nobody
/// else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What it is.
    pub of: Marked,
    /// Seconds and nanoseconds since 1970, by the clock of its file system.
    pub changed_at: (i64, i64),
    /// Which one it is.
    pub inode: Inode,
}

/// What a [`Mark`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// A directory that is as it is to be.
    Directory,
    /// One that lets others write, or keeps its owner out.
    UntidyDirectory,
    /// What stands at the file's name.
    File,
}

/// Device and inode number.
pub type Inode = (u64, u64);

/// A witness that looks away.
pub struct Nobody;

impl Witness for Nobody {
    fn directory(&mut self, _: BorrowedFd<'_>, _: Inode, _: &str) {}
    fn file(&mut self, _: BorrowedFd<'_>, _: Inode) {}
}

/// Why a file was not observed or not replaced. Whatever it is, the old file is still there, whole.
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
    /// Others can write to a directory that root would work in.
    #[error("`{}` can be changed by others than root (owner {uid}, mode {mode:04o})", shown(.path))]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// Something else than a directory of the account stands in its place. One of root's counts too: the
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
    #[error("`{}` was changed by somebody else while it was replaced", shown(.0))]
    Contended(PathBuf),
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

/// Bytes of a file that is not ours that are still read, to say which keys it held.
const READ_LIMIT: u64 = 1 << 20;

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
            Self::ForeignOwner { .. } => "give the home to its account: chown",
            Self::Untrusted { .. } => {
                "give that directory to root, and let nobody else write to it: chmod go-w"
            }
            Self::Obstacle { .. } => "look at what stands there, and remove it",
            Self::Mounted(_) => "unmount what is mounted there",
            Self::Locked(_) => "take the flags away: chattr -i -a",
            Self::Contended(_) => {
                "find out who writes it: `ausearch -k authorized_keys`, where audit is on"
            }
            Self::Abandoned => "look at the file system of the home; a network mount may be down",
            Self::Io { .. } => "look at the file system: is it mounted, writable and sound",
        }
    }

    /// For `map_err`: what was being done, to what.
    fn io(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
