//! The SELinux label of what is created: `ssh_home_t` below a home, or sshd may not read it.
//!
//! A file made inside a correctly labelled `.ssh` inherits the type; a new `.ssh` would inherit the home's. So the
//! label of what this thread creates next is set before it has a name (`proc_pid_attr(5)`, `fscreate`), and taken
//! back after. Where SELinux is not mounted this does nothing.

use std::fs;
use std::path::Path;

/// Creates files with the given label until dropped.
pub(super) struct Label {
    set: bool,
}

const FSCREATE: &str = "/proc/thread-self/attr/fscreate";
const SELINUX_MOUNTED: &str = "/sys/fs/selinux/enforce";

/// The type is what the policy looks at; `system_u`, `object_r` and `s0` are what `restorecon` gives a file that a
/// service made.
const SSH_HOME: &str = "system_u:object_r:ssh_home_t:s0";

impl Label {
    /// The label for files of sshd in a home; elsewhere the directory's own is right.
    pub(super) fn for_new_files(in_home: bool) -> Self {
        let wanted = in_home && Path::new(SELINUX_MOUNTED).exists();
        // A policy without the type, or without the right to set it: inheriting is the best that is left, and
        // the file is still whole.
        Self {
            set: wanted && fs::write(FSCREATE, SSH_HOME).is_ok(),
        }
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        if self.set {
            // An empty write restores the default; it fails only where setting failed.
            let _ = fs::write(FSCREATE, "");
        }
    }
}
