//! Watches: what changed, so that the agent looks again.
//!
//! An inotify watch sits on an inode, and the `notify` crate puts it there by path, following links. A path below a
//! home may lead anywhere by then: a `.ssh` linked to another account's would even move that account's watch here.
//! So every watch is put on through the descriptor of what was looked at, `/proc/self/fd/N`. The descriptor is
//! closed again, so as not to keep a file system busy; the name stays the watch's alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::hash::Hash;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::close;
use notify::event::EventKind;
use notify::{Config, Event, EventKindMask, INotifyWatcher, RecursiveMode, Watcher};

use crate::host::Threads;
use crate::model::inode::Inode;

/// Why a watch could not be put on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No thread to watch on.
    #[error("no thread to watch on")]
    Thread(#[source] io::Error),
    /// inotify is not to be had.
    #[error("cannot start watching")]
    Start(#[source] notify::Error),
    /// This watch was refused.
    #[error("cannot watch")]
    Add(#[source] notify::Error),
    /// The watcher's thread has not answered another thread for too long.
    #[error("cannot watch: the watcher hangs")]
    Busy,
    /// No descriptor to put it on with.
    #[error("cannot watch: no descriptor left")]
    Descriptor(#[source] nix::Error),
}

/// What is watched, and for which subjects: `S` is what has to be looked at again.
pub struct Watches<S> {
    watcher: Mutex<INotifyWatcher>,
    shared: Arc<Mutex<Shared<S>>>,
    refused: AtomicU32,
}

/// What the watcher's thread and the worker threads share.
struct Shared<S> {
    slots: HashMap<Inode, Slot<S>>,
    names: HashMap<Name, Inode>,
    /// Every name before it was given out; freed ones are not looked for, a full pass starts anew.
    next: Name,
    /// What each subject is told of, the one that was put on least lately first.
    lately: HashMap<S, VecDeque<Inode>>,
}

/// What a watch is called: how many detours its path takes, and the number of its descriptor. There are fewer
/// descriptors than watches may be needed; `/proc/self/fd/../fd/N` is another name for the same place.
type Name = (usize, RawFd);

struct Slot<S> {
    name: Name,
    /// Told of any change to the inode itself.
    itself: HashSet<S>,
    /// Told of a change to the entry of that name.
    entries: HashMap<String, HashSet<S>>,
}

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<S> {
    /// Look at this again.
    At(S),
    /// Events were lost: look at everything.
    Everything,
}

/// As a name in [`Watches::put`]: any entry of the directory.
pub const ANY: &str = "*";

/// Watches of one subject. An account that puts a new file in the place of its old one and keeps both open would otherwise
/// use up the watches of the whole host, and no file would be watched any more.
const MOST: usize = 100;

/// How long the watch of another thread is waited for: it takes microseconds.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What the kernel is asked for (`inotify(7)`). Not for opening and reading: an account that reads its file in a loop
/// would cost root a wake-up each time. Closing what was open for writing does count, since a store through a mapping
/// says nothing else.
const CHANGES: EventKindMask = EventKindMask::CORE.union(EventKindMask::ACCESS_CLOSE);

/// Numbers below are for descriptors that stay open.
const FIRST_NUMBER: RawFd = 256;

impl<S: Clone + Eq + Hash + Send + 'static> Watches<S> {
    /// Starts the watcher's thread; `on_change` is called there and must not block.
    pub fn start(on_change: impl Fn(Change<S>) + Send + 'static) -> Result<Self, WatchError> {
        let shared = Arc::new(Mutex::new(Shared {
            slots: HashMap::new(),
            names: HashMap::new(),
            next: (0, FIRST_NUMBER),
            lately: HashMap::new(),
        }));
        let seen = Arc::clone(&shared);
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) if event.need_rescan() => on_change(Change::Everything),
            Ok(event) => {
                for subject in affected(&mut locked(&seen), &event) {
                    on_change(Change::At(subject));
                }
            }
            Err(_) => on_change(Change::Everything),
        };
        let config = Config::default().with_event_kinds(CHANGES);
        Threads::probe().map_err(WatchError::Thread)?;
        let watcher = INotifyWatcher::new(handler, config).map_err(WatchError::Start)?;
        if let Err(error) = watcher.watched_paths() {
            // It says nothing of a thread that it did not get, and dropped without one it ends the program.
            std::mem::forget(watcher);
            return Err(WatchError::Start(error));
        }
        Ok(Self {
            watcher: Mutex::new(watcher),
            shared,
            refused: AtomicU32::new(0),
        })
    }

    /// Watches what `descriptor` holds for `subject`: the inode itself, and the entry `name` in it if given.
    /// Putting the same watch on twice costs nothing.
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
        // Held throughout, so that one thread at a time adds a watch and notes it. The watcher's thread can
        // hang in a hostile file system; a thread that waits for it then must not hang too.
        let mut watcher = self.idle_watcher().ok_or(WatchError::Busy)?;
        let (watch, dropped) = {
            let mut shared = locked(&self.shared);
            let dropped = shared.remember(subject, inode);
            let watch = if let Some(slot) = shared.slots.get_mut(&inode) {
                slot.tell(subject, name);
                None
            } else {
                let watch = duplicate(descriptor, shared.next).map_err(WatchError::Descriptor)?;
                shared.next = (watch.0, watch.1 + 1);
                let mut slot = Slot {
                    name: watch,
                    itself: HashSet::new(),
                    entries: HashMap::new(),
                };
                slot.tell(subject, name);
                // Before the watch is on: its first event must find the slot.
                shared.names.insert(watch, inode);
                shared.slots.insert(inode, slot);
                Some(watch)
            };
            (watch, dropped)
        };
        if let Some(dropped) = dropped {
            // Whatever it was on may be gone by itself.
            let _ = watcher.unwatch(&magic_path(dropped));
        }
        let Some(watch) = watch else { return Ok(()) };
        let added = watcher.watch(&magic_path(watch), RecursiveMode::NonRecursive);
        // The watch is on the inode; the descriptor has done its work, and must not keep a file system busy.
        let _ = close(watch.1);
        added.map_err(|error| {
            locked(&self.shared).forget(inode);
            WatchError::Add(error)
        })
    }

    fn idle_watcher(&self) -> Option<MutexGuard<'_, INotifyWatcher>> {
        for _ in 0..BUSY_TRIES {
            match self.watcher.try_lock() {
                Ok(watcher) => return Some(watcher),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(BUSY_PAUSE),
            }
        }
        None
    }
}

impl<S: Clone + Eq + Hash> Slot<S> {
    fn tell(&mut self, subject: &S, name: Option<&str>) {
        self.itself.insert(subject.clone());
        if let Some(name) = name {
            self.entries
                .entry(name.to_owned())
                .or_default()
                .insert(subject.clone());
        }
    }
}

impl<S: Clone + Eq + Hash> Shared<S> {
    /// Notes that `subject` was told of `inode` last of all; returns the watch that has no subject any more for that.
    fn remember(&mut self, subject: &S, inode: Inode) -> Option<Name> {
        if !self.lately.contains_key(subject) {
            self.lately.insert(subject.clone(), VecDeque::new());
        }
        let lately = self.lately.get_mut(subject)?;
        if lately.back() == Some(&inode) {
            return None;
        }
        lately.retain(|known| *known != inode);
        lately.push_back(inode);
        let oldest = if lately.len() > MOST {
            lately.pop_front()
        } else {
            None
        }?;
        let slot = self.slots.get_mut(&oldest)?;
        slot.itself.remove(subject);
        for told in slot.entries.values_mut() {
            told.remove(subject);
        }
        let name = slot.itself.is_empty().then_some(slot.name)?;
        self.forget(oldest);
        Some(name)
    }
}

impl<S> Shared<S> {
    fn forget(&mut self, inode: Inode) {
        if let Some(slot) = self.slots.remove(&inode) {
            self.names.remove(&slot.name);
        }
    }
}

/// Which subjects have to look again after `event`.
fn affected<S: Clone + Eq + Hash>(shared: &mut Shared<S>, event: &Event) -> HashSet<S> {
    let mut subjects = HashSet::new();
    for path in &event.paths {
        let Some((watch, entry)) = parse(path) else {
            continue;
        };
        let Some(inode) = shared.names.get(&watch).copied() else {
            continue;
        };
        let Some(slot) = shared.slots.get(&inode) else {
            continue;
        };
        match entry.map(OsStr::to_str) {
            Some(Some(name)) => {
                let told = [name, ANY]
                    .into_iter()
                    .filter_map(|name| slot.entries.get(name));
                subjects.extend(told.flatten().cloned());
            }
            // A name that is not UTF-8 is none of ours.
            Some(None) => {}
            None => {
                subjects.extend(slot.itself.iter().cloned());
                if matches!(event.kind, EventKind::Remove(_)) {
                    shared.forget(inode);
                }
            }
        }
    }
    subjects
}

/// A second descriptor of the same thing, with a name that no watch has: `least` or after it.
fn duplicate(descriptor: BorrowedFd<'_>, least: Name) -> nix::Result<Name> {
    let (detours, number) = least;
    match fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(number)) {
        Ok(number) => Ok((detours, number)),
        // EINVAL or EMFILE: past the limit of open files.
        Err(_) => Ok((
            detours + 1,
            fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(FIRST_NUMBER))?,
        )),
    }
}

fn magic_path((detours, number): Name) -> PathBuf {
    PathBuf::from(format!("{PROCESS}{}/fd/{number}", "/fd/..".repeat(detours)))
}

/// The watch that an event's path belongs to, and the entry in it, `None` for the inode itself.
fn parse(path: &Path) -> Option<(Name, Option<&OsStr>)> {
    let mut parts = path.strip_prefix(PROCESS).ok()?.components();
    let mut detours = 0;
    loop {
        parts.next()?;
        match parts.next()? {
            Component::ParentDir => detours += 1,
            Component::Normal(number) => {
                let number = number.to_str()?.parse().ok()?;
                return Some(((detours, number), parts.next().map(Component::as_os_str)));
            }
            _ => return None,
        }
    }
}

const PROCESS: &str = "/proc/self";

/// A thread that panicked while it held the lock left the maps whole: each change to them is one insert.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for name in [(0, 256), (1, 256), (3, 70_000)] {
            let path = magic_path(name);
            assert_eq!(parse(&path), Some((name, None)), "{}", path.display());
            let entry = path.join(".ssh");
            assert_eq!(
                parse(&entry),
                Some((name, Some(OsStr::new(".ssh")))),
                "{}",
                entry.display()
            );
        }
        for other in [
            "/home/bob/.ssh",
            "/proc/self",
            "/proc/self/fd",
            "/proc/self/fd/x",
        ] {
            assert_eq!(parse(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn events_that_the_kernel_dropped_ask_for_everything() {
        let directory = tempfile::tempdir().unwrap();
        let held = Arc::new(Mutex::new(()));
        let holding = held.lock().unwrap();
        let (sender, changes) = std::sync::mpsc::channel();
        let own = Arc::clone(&held);
        let watches = Watches::start(move |change| {
            drop(locked(&own));
            let _ = sender.send(change);
        });
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
