//! Watches: what changed, so that somebody looks again.
//!
//! An inotify watch sits on an inode, and the `notify` crate puts it there by path, following links. A path below a
//! home may lead anywhere by then: a `.ssh` linked to another account's would even move that account's watch here.
//! So every watch is put on through the descriptor of what was looked at, `/proc/self/fd/N`, with a number N that
//! no other watch has.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::close;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Config, Event, INotifyWatcher, RecursiveMode, Watcher};

/// Device and inode number.
pub type Inode = (u64, u64);

/// Why a watch could not be put on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// inotify is not to be had.
    #[error("cannot start watching")]
    Start(#[source] notify::Error),
    /// This watch was refused.
    #[error("cannot watch")]
    Add(#[source] notify::Error),
    /// The watcher's thread has not answered somebody else for too long.
    #[error("cannot watch: the watcher hangs")]
    Busy,
    /// No descriptor to put it on with.
    #[error("cannot watch: no descriptor left")]
    Descriptor(#[source] nix::Error),
}

/// What is watched, for whom. `S` is what is to be looked at again.
pub struct Watches<S> {
    watcher: Mutex<INotifyWatcher>,
    shared: Arc<Mutex<Shared<S>>>,
    refused: AtomicU32,
}

/// What the watcher's thread and the worker threads share.
struct Shared<S> {
    slots: HashMap<Inode, Slot<S>>,
    numbers: HashMap<RawFd, Inode>,
    /// Every number below it was given out before; freed ones are not looked for, a full pass starts anew.
    next: RawFd,
}

struct Slot<S> {
    number: RawFd,
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

/// How long somebody else's watch is waited for: it takes microseconds.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Numbers below are for descriptors that stay open.
const FIRST_NUMBER: RawFd = 256;

impl<S: Clone + Eq + Hash + Send + 'static> Watches<S> {
    /// Starts the watcher's thread; `on_change` is called there and must not block.
    pub fn start(on_change: impl Fn(Change<S>) + Send + 'static) -> Result<Self, WatchError> {
        let shared = Arc::new(Mutex::new(Shared {
            slots: HashMap::new(),
            numbers: HashMap::new(),
            next: FIRST_NUMBER,
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
        let watcher = INotifyWatcher::new(handler, Config::default()).map_err(WatchError::Start)?;
        Ok(Self { watcher: Mutex::new(watcher), shared, refused: AtomicU32::new(0) })
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
        // hang in a hostile file system; whoever waits for it then must not hang too.
        let mut watcher = self.idle_watcher().ok_or(WatchError::Busy)?;
        let number = {
            let mut shared = locked(&self.shared);
            if let Some(slot) = shared.slots.get_mut(&inode) {
                slot.tell(subject, name);
                return Ok(());
            }
            let least = shared.next;
            let number = duplicate(descriptor, least, &shared.numbers).map_err(WatchError::Descriptor)?;
            shared.next = number + 1;
            let mut slot = Slot { number, itself: HashSet::new(), entries: HashMap::new() };
            slot.tell(subject, name);
            // Before the watch is on: its first event must find the slot.
            shared.numbers.insert(number, inode);
            shared.slots.insert(inode, slot);
            number
        };
        let added = watcher.watch(&magic_path(number), RecursiveMode::NonRecursive);
        // The watch is on the inode; the descriptor has done its work, and must not keep a file system busy.
        let _ = close(number);
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
            self.entries.entry(name.to_owned()).or_default().insert(subject.clone());
        }
    }
}

impl<S> Shared<S> {
    fn forget(&mut self, inode: Inode) -> Option<RawFd> {
        let slot = self.slots.remove(&inode)?;
        self.numbers.remove(&slot.number);
        Some(slot.number)
    }
}

/// Who is to look again after `event`. Reading is no change; notify reports it all the same.
fn affected<S: Clone + Eq + Hash>(shared: &mut Shared<S>, event: &Event) -> HashSet<S> {
    let mut subjects = HashSet::new();
    if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
        return subjects;
    }
    for path in &event.paths {
        let mut parts = path.strip_prefix("/proc/self/fd").into_iter().flat_map(Path::components);
        let number = parts.next().and_then(|part| part.as_os_str().to_str()).and_then(|n| n.parse().ok());
        let Some(inode) = number.and_then(|number: RawFd| shared.numbers.get(&number)).copied() else {
            continue;
        };
        let Some(slot) = shared.slots.get(&inode) else { continue };
        match parts.next().map(|part| part.as_os_str().to_str()) {
            Some(Some(name)) => subjects.extend(slot.entries.get(name).into_iter().flatten().cloned()),
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

/// A second descriptor of the same thing whose number no watch has: `least` or above it.
fn duplicate(descriptor: BorrowedFd<'_>, least: RawFd, taken: &HashMap<RawFd, Inode>) -> nix::Result<RawFd> {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(least)).or_else(|_| {
        // Past the limit of open files: one that was given back before.
        let free = (FIRST_NUMBER..least).find(|number| !taken.contains_key(number)).ok_or(Errno::EMFILE)?;
        fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(free))
    })?;
    if taken.contains_key(&number) {
        close(number)?;
        return Err(Errno::EMFILE);
    }
    Ok(number)
}

fn magic_path(number: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// A thread that panicked while it held the lock left the maps whole: each change to them is one insert.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
