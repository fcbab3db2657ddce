//! Watches: what changed, so that the agent looks again.
//!
//! An inotify watch sits on an inode, and `inotify_add_watch(2)` finds that by path, following links. A path below a home
//! may lead anywhere by then: a `.ssh` linked to another account's would even move that account's watch here. So every
//! watch is put on through the descriptor of what was looked at, `/proc/self/fd/N`.
//!
//! It is used as the kernel offers it: the `notify` crate reads for as long as there are events, and hears nothing else
//! meanwhile, so that an account that makes them faster than they are read could not be taken off the watch any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::hash::Hash;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

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

/// What the watcher's thread and the worker threads share.
struct Shared<S> {
    slots: HashMap<Inode, Slot<S>>,
    inodes: HashMap<WatchDescriptor, Inode>,
    /// Those that rest from too many events.
    resting: HashSet<Inode>,
    /// What each subject is told of, the one that was put on least lately first.
    lately: HashMap<S, VecDeque<Inode>>,
}

struct Slot<S> {
    watch: Watch,
    /// Events of the second that began then.
    events: (Instant, u32),
    /// How long the last rest was, or will be at least.
    rest: Duration,
    /// Told of any change to the inode itself.
    itself: HashSet<S>,
    /// Told of a change to the entry of that name.
    entries: HashMap<String, HashSet<S>>,
}

#[derive(Clone, Copy)]
enum Watch {
    /// Since then.
    On(WatchDescriptor, Instant),
    /// Its account makes events without end: the kernel is asked again no sooner than this.
    Rests(Instant),
}

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<S> {
    /// Look at this again.
    At(S),
    /// Something was mounted or unmounted.
    Mounts,
    /// Events were lost: look at everything.
    Everything,
}

/// As a name in [`Watches::put`]: any entry of the directory.
pub const ANY: &str = "*";

/// Watches of one subject. An account that puts a new file in the place of its old one and keeps both open would otherwise
/// use up the watches of the whole host, and no file would be watched any more.
const MOST: usize = 100;

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

/// Events of one inode in a second, above which its watch rests. Each costs root about as much as the account.
const MOST_EVENTS: u32 = 300;
const SECOND: Duration = Duration::from_secs(1);

/// How often the subjects of a watch that rests are looked at instead.
const LOOK: Duration = Duration::from_millis(50);

/// How long a watch rests: twice as long each time, unless it was on for long in between.
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Mounts come and go by the hundreds where containers start; they are told of no more often than this.
const MOUNTS_PAUSE: Duration = Duration::from_millis(100);

impl<S: Clone + Eq + Hash + Send + 'static> Watches<S> {
    /// Starts the watcher's thread; `on_change` is called there and must not block.
    pub fn start(on_change: impl Fn(Change<S>) + Send + 'static) -> Result<Self, WatchError> {
        let start = || -> io::Result<Self> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let (end, alive) = io::pipe()?;
            let watches = Self {
                inotify: Arc::new(inotify),
                shared: Arc::new(Mutex::new(Shared {
                    slots: HashMap::new(),
                    inodes: HashMap::new(),
                    resting: HashSet::new(),
                    lately: HashMap::new(),
                })),
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
            std::thread::Builder::new()
                .name("inotify".to_owned())
                .spawn(move || watcher.run())?;
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
            if let Some(slot) = shared.slots.get_mut(&inode) {
                slot.tell(subject, name);
                let is_due = match slot.watch {
                    Watch::On(..) => false,
                    Watch::Rests(until) => until <= Instant::now(),
                };
                if !is_due {
                    return Ok(());
                }
            }
        }
        let place = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let watch = self
            .inotify
            .add_watch(&place, CHANGES)
            .map_err(WatchError::Add)?;
        // An event that has come by now finds no slot, and is none: what it is about is looked at only after this.
        let now = Instant::now();
        let mut shared = locked(&self.shared);
        shared.inodes.insert(watch, inode);
        shared.resting.remove(&inode);
        let slot = shared.slots.entry(inode).or_insert_with(|| Slot {
            watch: Watch::On(watch, now),
            events: (now, 0),
            rest: SHORTEST_REST,
            itself: HashSet::new(),
            entries: HashMap::new(),
        });
        slot.watch = Watch::On(watch, now);
        slot.events = (now, 0);
        slot.tell(subject, name);
        Ok(())
    }
}

/// The thread that hears the kernel.
struct Watcher<S, F> {
    inotify: Arc<Inotify>,
    mounts: Option<File>,
    end: PipeReader,
    shared: Arc<Mutex<Shared<S>>>,
    on_change: F,
}

impl<S: Clone + Eq + Hash, F: Fn(Change<S>)> Watcher<S, F> {
    fn run(self) {
        let (mut look, mut hear_mounts) = (Instant::now(), Instant::now());
        loop {
            let mut now = Instant::now();
            let rests = !locked(&self.shared).resting.is_empty();
            let hears_mounts = hear_mounts <= now;
            let waits = [
                rests.then_some(look),
                (!hears_mounts).then_some(hear_mounts),
            ];
            let waits = waits.into_iter().flatten().min();
            let Some((events, mounts)) = self.wait(waits, hears_mounts) else {
                return;
            };
            now = Instant::now();
            if mounts {
                hear_mounts = now + MOUNTS_PAUSE;
                (self.on_change)(Change::Mounts);
            }
            if events && !self.hear(now) {
                // The watches are put on anew, on another thread.
                return (self.on_change)(Change::Everything);
            }
            if look <= now {
                look = now + LOOK;
                for subject in locked(&self.shared).look(now) {
                    (self.on_change)(Change::At(subject));
                }
            }
        }
    }

    /// Waits until then for events and for mounts; returns whether there are any, `None` at the end.
    fn wait(&self, until: Option<Instant>, hears_mounts: bool) -> Option<(bool, bool)> {
        let mut all = vec![
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(mounts) = &self.mounts
            && hears_mounts
        {
            // `proc_pid_mounts(5)`; POLLIN is always there.
            all.push(PollFd::new(mounts.as_fd(), PollFlags::POLLPRI));
        }
        let timeout = match until {
            // A moment more, or it would be too early.
            Some(until) => {
                let wait =
                    until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut all, timeout) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(_) => return None,
        }
        let is_ready = |at: usize| all.get(at).is_some_and(|one| one.any().unwrap_or_default());
        (!is_ready(0)).then(|| (is_ready(1), is_ready(2)))
    }

    /// Hears what has happened, and tells; `false` when nothing is to be heard any more.
    fn hear(&self, now: Instant) -> bool {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => return true,
            Err(_) => return false,
        };
        let mut told = HashSet::new();
        let mut lost = false;
        {
            let mut shared = locked(&self.shared);
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    lost = true;
                } else if let Some(tired) = shared.hear(&event, now, &mut told) {
                    let _ = self.inotify.rm_watch(tired);
                }
            }
        }
        for subject in told {
            (self.on_change)(Change::At(subject));
        }
        if lost {
            (self.on_change)(Change::Everything);
        }
        true
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

    /// Counts an event; returns how long the watch must rest for it.
    fn count(&mut self, now: Instant) -> Option<Duration> {
        let (began, events) = &mut self.events;
        if now.duration_since(*began) > SECOND {
            (*began, *events) = (now, 0);
        }
        *events += 1;
        if *events <= MOST_EVENTS {
            return None;
        }
        let rest = self.rest;
        self.rest = (rest * 2).min(LONGEST_REST);
        Some(rest)
    }
}

impl<S: Clone + Eq + Hash> Shared<S> {
    /// Notes that `subject` was told of `inode` last of all; returns the watch that has no subject any more for that.
    fn remember(&mut self, subject: &S, inode: Inode) -> Option<WatchDescriptor> {
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
        let is_nobodys = slot.itself.is_empty();
        is_nobodys.then(|| self.forget(oldest)).flatten()
    }

    /// Returns its watch, if it has one.
    fn forget(&mut self, inode: Inode) -> Option<WatchDescriptor> {
        self.resting.remove(&inode);
        match self.slots.remove(&inode)?.watch {
            Watch::On(watch, _) => {
                self.inodes.remove(&watch);
                Some(watch)
            }
            Watch::Rests(_) => None,
        }
    }

    /// Adds to `told` which subjects have to look again after `event`; returns the watch, if it was one event too many.
    fn hear(
        &mut self,
        event: &InotifyEvent,
        now: Instant,
        told: &mut HashSet<S>,
    ) -> Option<WatchDescriptor> {
        // None for events that were on the way when a watch was taken off.
        let inode = *self.inodes.get(&event.wd)?;
        let slot = self.slots.get_mut(&inode)?;
        match &event.name {
            Some(name) => {
                // A name that is not UTF-8 is none of ours.
                let names = [name.to_str().unwrap_or(ANY), ANY];
                let entries = names.into_iter().filter_map(|name| slot.entries.get(name));
                told.extend(entries.flatten().cloned());
            }
            None => told.extend(slot.itself.iter().cloned()),
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // It is gone, or its file system is. What has its number now is told by the next look.
            self.forget(inode);
            return None;
        }
        if let Watch::On(_, since) = slot.watch
            && now.duration_since(since) > LONGEST_REST
        {
            slot.rest = SHORTEST_REST;
        }
        let rest = slot.count(now)?;
        slot.watch = Watch::Rests(now + rest);
        self.inodes.remove(&event.wd);
        self.resting.insert(inode);
        Some(event.wd)
    }

    /// The subjects of watches that rest. A look puts the watch on again, once it has rested; where none does, what it was
    /// on is not where it was.
    fn look(&mut self, now: Instant) -> HashSet<S> {
        let mut told = HashSet::new();
        for inode in self.resting.clone() {
            let Some(slot) = self.slots.get(&inode) else {
                continue;
            };
            told.extend(slot.itself.iter().cloned());
            if let Watch::Rests(until) = slot.watch
                && until + SECOND < now
            {
                self.forget(inode);
            }
        }
        told
    }
}

/// A thread that panicked while it held the lock left the maps whole: each change to them is one insert.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

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
