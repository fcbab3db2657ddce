//! What is mounted where this process sees it.

use std::fs;

use crate::model::mounts::Mounts;

/// All that is mounted; nothing where the kernel does not tell.
pub fn table() -> Mounts {
    // A mount point may have any name.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    Mounts::read(&String::from_utf8_lossy(&table))
}
