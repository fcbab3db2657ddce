//! What a file should be, and what can be in its place.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::account::Account;
use crate::model::config::tables::Owner;
use crate::model::key::grant::Grant;
use crate::model::location::Location;

/// Which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub account: Account,
    pub location: Location,
    pub owner: Owner,
}

/// What a file should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The managed file: these lines and nothing else.
    Lines(Lines),
    /// Another file that sshd reads: nothing by which anybody gets in.
    Nothing,
}

/// Every byte of a managed file, and who may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    pub content: Vec<u8>,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What stands at the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or not even its directory.
    Nothing,
    /// A regular file.
    File(FoundFile),
    /// Something else.
    Other {
        kind: Kind,
        /// What sshd would read by it, as far as that is known.
        content: Option<Content>,
    },
}

/// What was read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Of a very large file the lines that may be keys.
    pub bytes: Vec<u8>,
    /// These are all its bytes.
    pub is_whole: bool,
}

/// A regular file, as `fstat` and a bounded read show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// `None` when it cannot be read.
    pub content: Option<Content>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Names it has.
    pub links: u64,
    /// It has an access control list, which says more than its mode does.
    pub access_list: bool,
    /// The type of its SELinux label, if sshd may not read that.
    pub wrong_label: Option<String>,
}

/// What can stand in a file's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Directory,
    /// A directory of another uid.
    DirectoryOf(u32),
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block or character device.
    Device,
}

impl Kind {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde wants"
    )]
    pub(super) fn is_file(&self) -> bool {
        *self == Self::File
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DirectoryOf(uid) => return write!(f, "a directory of uid {uid}"),
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Device => "a device",
        })
    }
}

/// The bytes of a managed file.
pub fn content(grants: &[&Grant]) -> Vec<u8> {
    let mut bytes = HEADER.as_bytes().to_vec();
    for grant in grants {
        bytes.extend_from_slice(grant.line.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// First lines of a managed file. No time and no version: the same list always gives the same bytes.
pub const HEADER: &str = "\
# Managed by authorized-keys-agent. Any other change to this file is undone at once.
# Change the approved list instead; `agent status` says where each key comes from.
";
