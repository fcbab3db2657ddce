//! Which file or directory it is, whatever it is called.

/// Device, as `stat(2)` numbers it, and inode number. Where a file system numbers the devices of its parts itself, such as
/// btrfs, the audit log and `/proc/locks` have another device.
pub type Inode = (u64, u64);
