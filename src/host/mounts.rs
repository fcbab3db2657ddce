//! What is mounted where this process sees it.

use std::fs;

use crate::model::mounts::{OwnMount, own_mounts};

/// The file systems for which processes of accounts answer; none where the kernel does not tell.
pub fn of_accounts() -> Vec<OwnMount> {
    // A mount point may have any name.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    own_mounts(&String::from_utf8_lossy(&table))
}
