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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// No descriptor to put it on with.
    #[error("cannot watch: no descriptor left")]
    Descriptor(#[source] nix::Error),
}

/// What is watched, for whom. `S` is what is to be looked at again.
pub struct Watches<S> {
    watcher: Mutex<INotifyWatcher>,
    shared: Arc<Mutex<Shared<S>>>,
}

/// What the watcher's thread and the worker threads share.
struct Shared<S> {
    slots: HashMap<Inode, Slot<S>>,
    numbers: HashMap<RawFd, Inode>,
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

/// Numbers below are for descriptors that stay open.
const FIRST_NUMBER: RawFd = 256;

impl<S: Clone + Eq + Hash + Send + 'static> Watches<S> {
    /// Starts the watcher's thread; `on_change` is called there and must not block.
    pub fn start(on_change: impl Fn(Change<S>) + Send + 'static) -> Result<Self, WatchError> {
        let shared = Arc::new(Mutex::new(Shared { slots: HashMap::new(), numbers: HashMap::new() }));
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
        Ok(Self { watcher: Mutex::new(watcher), shared })
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
        // Held throughout, so that one thread at a time adds a watch and notes it.
        let mut watcher = locked(&self.watcher);
        let number = {
            let mut shared = locked(&self.shared);
            if let Some(slot) = shared.slots.get_mut(&inode) {
                slot.tell(subject, name);
                return Ok(());
            }
            let number = duplicate(descriptor, &shared.numbers).map_err(WatchError::Descriptor)?;
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

    /// Takes the watch off an inode, so that the next [`put`](Self::put) puts it on anew.
    pub fn remove(&self, inode: Inode) {
        let mut watcher = locked(&self.watcher);
        let number = locked(&self.shared).forget(inode);
        if let Some(number) = number {
            // It may be gone with its inode already.
            let _ = watcher.unwatch(&magic_path(number));
        }
    }

    /// Every inode that is watched.
    pub fn inodes(&self) -> Vec<Inode> {
        locked(&self.shared).slots.keys().copied().collect()
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

/// A second descriptor of the same thing whose number no watch has.
fn duplicate(descriptor: BorrowedFd<'_>, taken: &HashMap<RawFd, Inode>) -> nix::Result<RawFd> {
    let mut least = FIRST_NUMBER;
    loop {
        while taken.contains_key(&least) {
            least += 1;
        }
        let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(least))?;
        if !taken.contains_key(&number) {
            return Ok(number);
        }
        close(number)?;
        least = number + 1;
    }
}

fn magic_path(number: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// A thread that panicked while it held the lock left the maps whole: each change to them is one insert.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
