//! The SELinux label of what is created: `ssh_home_t` below a home, or sshd may not read it.
//!
//! A file made inside a correctly labelled `.ssh` inherits the type; a new `.ssh` would inherit the home's. So the
//! label of what this thread creates next is set before it has a name (`proc_pid_attr(5)`, `fscreate`), and taken
//! back after. What has another type is found by its label, and a directory gets the right one by descriptor. Where SELinux
//! is not mounted this does nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::LazyLock;

use nix::errno::Errno;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::host::keyfile::identity::Identity;

/// Creates files with the given label until dropped.
pub(super) struct Label {
    set: bool,
}

const FSCREATE: &str = "/proc/thread-self/attr/fscreate";

/// systemd mounts it before it starts any service.
static IS_MOUNTED: LazyLock<bool> = LazyLock::new(|| Path::new("/sys/fs/selinux/enforce").exists());

/// The policy has the label: what it does not have is invalid there (`security_check_context(3)`).
static IS_KNOWN: LazyLock<bool> = LazyLock::new(|| {
    let checked = fs::write("/sys/fs/selinux/context", SSH_HOME);
    !checked.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
});

/// Where a file keeps its label.
const ATTRIBUTE: &str = "security.selinux";

/// The type is what the policy looks at; `system_u`, `object_r` and `s0` are what `restorecon` gives a file that a
/// service made.
const SSH_HOME: &str = "system_u:object_r:ssh_home_t:s0";

impl Label {
    /// The label for files of sshd in a home; elsewhere the directory's own is right.
    pub(super) fn for_new_files(in_home: bool) -> Self {
        // A policy without the type, or without the right to set it: inheriting is the best that is left, and
        // the file is still whole.
        Self {
            set: in_home && *IS_MOUNTED && set(SSH_HOME),
        }
    }
}

/// The type of what is held in a home, if it is another than sshd may read. Only where each file has a label of its own: one
/// that the mount gives to all of them (`context=`, NFS) is as root wants it.
pub(super) fn wrong_type(held: impl AsFd, in_home: bool) -> Option<String> {
    if !in_home || !*IS_MOUNTED {
        return None;
    }
    let mut label = [0_u8; 256];
    let length = getxattr(place(&held), ATTRIBUTE, &mut label).ok()?;
    let label = String::from_utf8_lossy(label.get(..length)?);
    let label = label.trim_end_matches('\0');
    let of = |label: &str| label.split(':').nth(2).map(str::to_owned);
    let found = of(label)?;
    let is_wrong = Some(&found) != of(SSH_HOME).as_ref() && *IS_KNOWN;
    (is_wrong && has_own_labels(&held)).then_some(found)
}

/// Gives what is held the label.
pub(super) fn mend(held: impl AsFd) -> nix::Result<()> {
    let label = [SSH_HOME.as_bytes(), b"\0"].concat();
    let set = setxattr(place(&held), ATTRIBUTE, &label, XattrFlags::empty());
    set.map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// Not by the descriptor itself: one that only holds a place is refused.
fn place(held: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", held.as_fd().as_raw_fd())
}

/// The file system says so among its options (`security/selinux/hooks.c: selinux_sb_show_options`).
fn has_own_labels(held: &impl AsFd) -> bool {
    let number = held.as_fd().as_raw_fd();
    let of_descriptor =
        fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let mut mounts = of_descriptor
        .lines()
        .filter_map(|line| line.strip_prefix("mnt_id:"));
    let Some(mount) = mounts.next().map(str::trim) else {
        return false;
    };
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let mut lines = table.lines().map(|line| line.split(' '));
    lines
        .find_map(|mut words| (words.next() == Some(mount)).then(|| words.next_back()))
        .flatten()
        .is_some_and(|options| options.split(',').any(|option| option == "seclabel"))
}

/// It is the process that the policy lets set it, not the account.
fn set(label: &str) -> bool {
    let own = Identity::own();
    own.is_ok() && fs::write(FSCREATE, label).is_ok()
}

impl Drop for Label {
    fn drop(&mut self) {
        if self.set {
            // An empty write restores the default; it fails only where setting failed.
            set("");
        }
    }
}
