//! The SELinux label of what is created: `ssh_home_t` below a home, or sshd may not read it.
//!
//! A file made inside a correctly labelled `.ssh` inherits the type; a new `.ssh` would inherit the home's. So the
//! label of what this thread creates next is set before it has a name (`proc_pid_attr(5)`, `fscreate`), and taken
//! back after. Where SELinux is not mounted this does nothing.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::host::keyfile::identity::Identity;

/// Creates files with the given label until dropped.
pub(super) struct Label {
    set: bool,
}

const FSCREATE: &str = "/proc/thread-self/attr/fscreate";

/// systemd mounts it before it starts any service.
static IS_MOUNTED: LazyLock<bool> = LazyLock::new(|| Path::new("/sys/fs/selinux/enforce").exists());

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
