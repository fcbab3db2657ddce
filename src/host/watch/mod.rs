//! Watches: what changed, so that the agent looks again.
//!
//! An inotify watch sits on an inode, and `inotify_add_watch(2)` finds that by path, following links. A path below a home
//! may lead anywhere by then: a `.ssh` linked to another account's would even move that account's watch here. So every
//! watch is put on through the descriptor of what was looked at, `/proc/self/fd/N`.
//!
//! It is used as the kernel offers it: the `notify` crate reads for as long as there are events, and hears nothing else
//! meanwhile, so that an account that makes them faster than they are read could not be taken off the watch any more.

mod clock;
mod slots;
mod watcher;
mod watches;

pub use clock::ClockSet;
pub use slots::{ANY, Unwatched};
pub use watcher::Change;
pub use watches::Watches;
