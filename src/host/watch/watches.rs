//! How watches are put on.

use std::fs::File;
use std::hash::Hash;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::host::Identity;
use crate::host::Threads;
use crate::host::watch::slots::{Shared, locked};
use crate::host::watch::watcher::{Change, Watcher};
use crate::model::inode::Inode;

/// Why a watch could not be put on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// inotify is not to be had.
    #[error("cannot start watching")]
    Start(#[source] io::Error),
    /// This watch was refused.
    #[error("cannot watch")]
    Add(#[source] Errno),
}

/// What is watched, and for which subjects: `S` is what has to be looked at again.
pub struct Watches<S> {
    inotify: Arc<Inotify>,
    shared: Arc<Mutex<Shared<S>>>,
    refused: AtomicU32,
    /// The watcher's thread ends when this is closed.
    _alive: PipeWriter,
}

/// What the kernel is asked for (`inotify(7)`). Not for opening and reading: an account that reads its file in a loop
/// would cost root a wake-up each time. Closing what was open for writing does count, since a store through a mapping
/// says nothing else.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

impl<S: Clone + Eq + Hash + Send + 'static> Watches<S> {
    /// Starts the watcher's thread; `on_change` is called there and must not block. What gives events without end is not
    /// watched for a while; those who `may_rest` are told again and again instead.
    pub fn start(
        on_change: impl Fn(Change<S>) + Send + 'static,
        may_rest: fn(&S) -> bool,
    ) -> Result<Self, WatchError> {
        let start = || -> io::Result<Self> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let (end, alive) = io::pipe()?;
            let watches = Self {
                inotify: Arc::new(inotify),
                shared: Arc::new(Mutex::new(Shared::new(may_rest))),
                refused: AtomicU32::new(0),
                _alive: alive,
            };
            let watcher = Watcher {
                inotify: Arc::clone(&watches.inotify),
                // Without it a mount is seen by the full check.
                mounts: File::open("/proc/self/mountinfo").ok(),
                end,
                shared: Arc::clone(&watches.shared),
                on_change,
            };
            Threads::spawn(move || watcher.run())?;
            Ok(watches)
        };
        start().map_err(WatchError::Start)
    }

    /// Watches what `descriptor` holds for `subject`: the inode itself, and the entry `name` in it if given.
    /// Putting the same watch on twice costs nothing. A hostile file system can hold the call, and no other one with it.
    pub fn put(
        &self,
        descriptor: BorrowedFd<'_>,
        inode: Inode,
        name: Option<&str>,
        subject: &S,
    ) -> Result<(), WatchError> {
        let put = self.try_put(descriptor, inode, name, subject);
        if put.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        put
    }

    /// Counts refusals anew: a full pass tries every place again.
    pub fn recount(&self) {
        self.refused.store(0, Ordering::Relaxed);
    }

    /// How many watches could not be put on.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    fn try_put(
        &self,
        descriptor: BorrowedFd<'_>,
        inode: Inode,
        name: Option<&str>,
        subject: &S,
    ) -> Result<(), WatchError> {
        {
            let mut shared = locked(&self.shared);
            if let Some(dropped) = shared.remember(subject, inode) {
                // Whatever it was on may be gone by itself.
                let _ = self.inotify.rm_watch(dropped);
            }
            if shared.tells(inode, name, subject, Instant::now()) {
                return Ok(());
            }
        }
        let place = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        // The kernel lets nobody watch what he may not read (`inotify_add_watch(2)`), and an account can close a directory to
        // itself and still write in it.
        let own = Identity::own();
        let watch = self
            .inotify
            .add_watch(&place, CHANGES)
            .map_err(WatchError::Add)?;
        drop(own);
        // An event that has come by now finds no slot, and is none: what it is about is looked at only after this.
        let now = Instant::now();
        let mut shared = locked(&self.shared);
        shared.begin(watch, inode, now);
        shared.tells(inode, name, subject, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::host::watch::slots::ANY;

    #[test]
    fn events_that_the_kernel_dropped_ask_for_everything() {
        let directory = tempfile::tempdir().unwrap();
        let held = Arc::new(Mutex::new(()));
        let holding = held.lock().unwrap();
        let (sender, changes) = std::sync::mpsc::channel();
        let own = Arc::clone(&held);
        let watches = Watches::start(
            move |change| {
                drop(locked(&own));
                let _ = sender.send(change);
            },
            |_| true,
        );
        let opened = std::fs::File::open(directory.path()).unwrap();
        let stat = nix::sys::stat::fstat(&opened).unwrap();
        let watches = watches.unwrap();
        watches
            .put(
                opened.as_fd(),
                (stat.st_dev, stat.st_ino),
                Some(ANY),
                &"all",
            )
            .unwrap();
        let names = ["a", "b"].map(|name| directory.path().join(name));
        for name in &names {
            std::fs::write(name, "").unwrap();
        }
        let mode = opened.metadata().unwrap().permissions();
        // inotify(7), max_queued_events. Two names in turn: the kernel merges equal events that follow one another.
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        // A buffer full of them is taken out before the thread is held.
        for at in 0..limit.trim().parse::<usize>().unwrap() + 1000 {
            std::fs::set_permissions(&names[at % 2], mode.clone()).unwrap();
        }
        drop(holding);
        let limit = Duration::from_secs(20);
        while changes.recv_timeout(limit).unwrap() != Change::Everything {}
    }
}
