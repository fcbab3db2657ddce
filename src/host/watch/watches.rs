//! How watches are put on.

use std::fs::{self, File};
use std::hash::Hash;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::host::Identity;
use crate::host::Threads;
use crate::host::watch::clock::ClockSet;
use crate::host::watch::slots::{Shared, Unwatched, locked};
use crate::host::watch::watcher::{Change, Watcher};
use crate::model::inode::Inode;

/// What is watched, and for which subjects: `S` is what has to be looked at again.
pub struct Watches<S> {
    /// Why there are none, where inotify is not to be had.
    inotify: Result<Arc<Inotify>, String>,
    shared: Arc<Mutex<Shared<S>>>,
    /// The watcher's thread ends when this is closed.
    _alive: PipeWriter,
}

/// How many watches root may have: on the host, and in the container that this may be (`inotify(7)`, `user_namespaces(7)`).
const LIMITS: [&str; 2] = [
    "/proc/sys/fs/inotify/max_user_watches",
    "/proc/sys/user/max_inotify_watches",
];
const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";

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
    /// watched for a while; those who `may_rest` are told again and again instead. Without inotify there is still word of
    /// mounts and of the clock.
    pub fn start(
        on_change: impl Fn(Change<S>) + Send + 'static,
        may_rest: fn(&S) -> bool,
    ) -> io::Result<Self> {
        // First: it wants descriptors too, and that there are none is another trouble than too few instances.
        let (end, alive) = io::pipe()?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map(Arc::new).map_err(|error| match error {
            Errno::EMFILE => {
                let limit = number(INSTANCES).unwrap_or_default();
                format!("`fs.inotify.max_user_instances` ({limit}) is used up")
            }
            error => error.desc().to_ascii_lowercase(),
        });
        let watches = Self {
            inotify,
            shared: Arc::new(Mutex::new(Shared::new(may_rest))),
            _alive: alive,
        };
        watches.share();
        let watcher = Watcher {
            inotify: watches.inotify.as_ref().ok().cloned(),
            // Without it a mount is seen by the full check.
            mounts: File::open("/proc/self/mountinfo").ok(),
            clock: ClockSet::new().ok(),
            end,
            shared: Arc::clone(&watches.shared),
            on_change,
        };
        Threads::spawn_as("inotify", move || watcher.run())?;
        Ok(watches)
    }

    /// Watches what `descriptor` holds for `subject`: the inode itself, and the entry `name` in it if given.
    /// Putting the same watch on twice costs nothing. A hostile file system can hold the call, and no other one with it.
    pub fn put(
        &self,
        descriptor: BorrowedFd<'_>,
        inode: Inode,
        name: Option<&str>,
        subject: &S,
    ) -> Result<(), Errno> {
        let Ok(inotify) = &self.inotify else {
            return Err(Errno::EMFILE);
        };
        let put = self.try_put(inotify, descriptor, inode, name, subject);
        if let Err(why) = put {
            locked(&self.shared).refuse(subject, inode, name.is_some(), why);
        }
        put
    }

    /// A look for `subject` begins, and puts on all of its watches.
    pub fn begin_look(&self, subject: &S) {
        locked(&self.shared).begin_look(subject);
    }

    /// Only these are still told of changes.
    pub fn keep(&self, keep: impl Fn(&S) -> bool) {
        let dropped = locked(&self.shared).keep(keep);
        if let Ok(inotify) = &self.inotify {
            for watch in dropped {
                let _ = inotify.rm_watch(watch);
            }
        }
    }

    /// Looks again how many watches there may be.
    pub fn share(&self) {
        let limit = LIMITS.into_iter().filter_map(number).min();
        locked(&self.shared).share(limit.unwrap_or(usize::MAX));
    }

    /// There are too many to have all of them twice.
    pub fn are_many(&self) -> bool {
        locked(&self.shared).are_many()
    }

    /// Why nothing at all is watched.
    pub fn lack(&self) -> Option<&str> {
        self.inotify.as_ref().err().map(String::as_str)
    }

    /// Who is not told of changes, if somebody is not.
    pub fn unwatched(&self) -> Option<Unwatched<S>> {
        locked(&self.shared).unwatched()
    }

    fn try_put(
        &self,
        inotify: &Inotify,
        descriptor: BorrowedFd<'_>,
        inode: Inode,
        name: Option<&str>,
        subject: &S,
    ) -> Result<(), Errno> {
        {
            let mut shared = locked(&self.shared);
            if let Some(dropped) = shared.remember(subject, inode) {
                // Whatever it was on may be gone by itself.
                let _ = inotify.rm_watch(dropped);
            }
            if shared.tells(inode, name, subject, Instant::now()) {
                return Ok(());
            }
            if shared.is_full() {
                let spared = name.and_then(|_| shared.give_up_a_file());
                let _ = inotify.rm_watch(spared.ok_or(Errno::ENOSPC)?);
            }
        }
        let place = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let add = || inotify.add_watch(&place, CHANGES);
        // The kernel lets nobody watch what he may not read (`inotify_add_watch(2)`), and an account can close a directory to
        // itself and still write in it.
        let own = Identity::own();
        let mut watch = add();
        if watch == Err(Errno::ENOSPC) && name.is_some() {
            // Other programs have more than their share.
            let spared = locked(&self.shared).give_up_a_file();
            if let Some(spared) = spared {
                let _ = inotify.rm_watch(spared);
                watch = add();
            }
        }
        drop(own);
        if watch == Err(Errno::EACCES) {
            // Root is nobody to a file server that squashes it; the account is not.
            watch = add();
        }
        let watch = watch?;
        // An event that has come by now finds no slot, and is none: what it is about is looked at only after this.
        let now = Instant::now();
        let mut shared = locked(&self.shared);
        shared.begin(watch, inode, name.is_some(), now);
        shared.tells(inode, name, subject, now);
        Ok(())
    }
}

/// What a file of the kernel's says, if it is a number.
fn number(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
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

    /// A directory, and the file `f` in it.
    fn place(root: &std::path::Path, name: &str) -> [(File, Inode); 2] {
        use std::os::unix::fs::MetadataExt;
        let directory = root.join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("f"), "").unwrap();
        [directory.clone(), directory.join("f")].map(|path| {
            let opened = File::open(path).unwrap();
            let meta = opened.metadata().unwrap();
            (opened, (meta.dev(), meta.ino()))
        })
    }

    #[test]
    fn a_share_is_left_to_others_and_files_are_given_up_before_directories() {
        let root = tempfile::tempdir().unwrap();
        let watches = Watches::start(|_| {}, |_| true).unwrap();
        let names = ["a", "b", "c", "d", "e", "f"];
        let places = names.map(|name| place(root.path(), name));
        let put = |which: usize| {
            let [(directory, inode), (file, of_file)] = &places[which];
            let subject = &names[which];
            watches.begin_look(subject);
            let put = watches.put(directory.as_fd(), *inode, Some("f"), subject);
            let _ = watches.put(file.as_fd(), *of_file, None, subject);
            put
        };
        // Of eight, two are others'.
        locked(&watches.shared).share(8);
        for which in 0..5 {
            assert_eq!(put(which), Ok(()), "{which}");
        }
        assert!(watches.are_many());
        assert!(watches.unwatched().is_none(), "every directory is watched");
        assert_eq!((put(5), put(5)), (Ok(()), Ok(())));
        locked(&watches.shared).share(6);
        assert_eq!(put(5), Ok(()), "what is on stays on");
        watches.keep(|subject| *subject != "f");
        assert_eq!(put(5), Err(Errno::ENOSPC));
        let unwatched = watches.unwatched().unwrap();
        assert_eq!(unwatched.subjects.into_iter().collect::<Vec<_>>(), ["f"]);
        // A directory and a file each.
        assert_eq!(unwatched.want.map(|(_, most)| most), Some(4));
        locked(&watches.shared).share(usize::MAX);
        for which in 0..6 {
            assert_eq!(put(which), Ok(()), "{which}");
        }
        assert!(watches.unwatched().is_none());
    }
}
