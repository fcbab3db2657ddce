//! What is watched, who is told of it, and which watch rests.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};

use crate::model::inode::Inode;

/// Watches of one subject. An account that puts a new file in the place of its old one and keeps both open would otherwise
/// use up the watches of the whole host, and no file would be watched any more.
const MOST: usize = 100;

/// As a name in [`Watches::put`](super::Watches::put): any entry of the directory.
pub const ANY: &str = "*";

/// Events of one inode in a second, above which its watch rests. Each costs root about as much as the account.
const MOST_EVENTS: u32 = 300;
const SECOND: Duration = Duration::from_secs(1);

/// Of root's watches, one in so many is left to other programs: systemd, udev and the SSM agent watch files too.
const OTHERS: usize = 4;

/// How long a watch rests: twice as long each time, unless it was on for long in between.
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What the watcher's thread and the worker threads share.
pub(super) struct Shared<S> {
    slots: HashMap<Inode, Slot<S>>,
    inodes: HashMap<WatchDescriptor, Inode>,
    /// Those that rest from too many events.
    resting: HashSet<Inode>,
    /// What each subject is told of, the one that was put on least lately first.
    lately: HashMap<S, VecDeque<Inode>>,
    may_rest: fn(&S) -> bool,
    /// How many watches there may be.
    most: usize,
    /// Those on files alone. What happens to a file its directory's watch tells too, but for what is done by another name of it:
    /// where there are too few watches, these are the first to go.
    files: HashSet<Inode>,
    /// What could not be watched, by who would have been told of it; `true` for directories.
    refused: HashMap<S, HashMap<Inode, bool>>,
    /// Why the last one could not.
    why: Option<Errno>,
}

/// Who is not told of changes, and why.
#[derive(Debug)]
pub struct Unwatched<S> {
    pub subjects: HashSet<S>,
    pub error: String,
    /// How many watches would do, and how many the agent takes at most, where there are too few.
    pub want: Option<(usize, usize)>,
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
    pub(super) fn new(may_rest: fn(&S) -> bool) -> Self {
        Self {
            slots: HashMap::new(),
            inodes: HashMap::new(),
            resting: HashSet::new(),
            lately: HashMap::new(),
            may_rest,
            most: usize::MAX,
            files: HashSet::new(),
            refused: HashMap::new(),
            why: None,
        }
    }

    /// Root may have so many in all.
    pub(super) fn share(&mut self, limit: usize) {
        self.most = limit - limit.div_ceil(OTHERS);
    }

    /// Would a second set of the same watches be more than there may be?
    pub(super) fn are_many(&self) -> bool {
        self.inodes.len() > self.most / 2
    }

    /// What was refused for `subject` is tried again, or no longer there.
    pub(super) fn begin_look(&mut self, subject: &S) {
        self.refused.remove(subject);
    }

    pub(super) fn refuse(&mut self, subject: &S, inode: Inode, is_directory: bool, why: Errno) {
        if is_directory {
            self.why = Some(why);
        }
        let refused = self.refused.entry(subject.clone()).or_default();
        refused.insert(inode, is_directory);
    }

    /// `None` where every directory is watched.
    pub(super) fn unwatched(&self) -> Option<Unwatched<S>> {
        let why = self.why?;
        let refused = self.refused.iter();
        let lacking =
            refused.filter(|(_, places)| places.values().any(|is_directory| *is_directory));
        let subjects: HashSet<S> = lacking.map(|(subject, _)| subject.clone()).collect();
        if subjects.is_empty() {
            return None;
        }
        let places: HashSet<&Inode> = self.refused.values().flat_map(HashMap::keys).collect();
        let needed = self.inodes.len() + places.len();
        Some(Unwatched {
            subjects,
            error: why.desc().to_ascii_lowercase(),
            want: (why == Errno::ENOSPC).then_some((needed, self.most)),
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.inodes.len() >= self.most
    }

    /// The watch on a file, to be taken off for one on a directory.
    pub(super) fn give_up_a_file(&mut self) -> Option<WatchDescriptor> {
        loop {
            let inode = *self.files.iter().next()?;
            self.files.remove(&inode);
            if let Some(watch) = self.forget(inode) {
                return Some(watch);
            }
        }
    }

    /// Only these are still told; returns the watches that have no subject any more.
    pub(super) fn keep(&mut self, keep: impl Fn(&S) -> bool) -> Vec<WatchDescriptor> {
        self.refused.retain(|subject, _| keep(subject));
        let gone: Vec<(S, VecDeque<Inode>)> = self
            .lately
            .extract_if(|subject, _| !keep(subject))
            .collect();
        let mut dropped = Vec::new();
        for (subject, inodes) in gone {
            for inode in inodes {
                dropped.extend(self.untell(&subject, inode));
            }
        }
        dropped
    }

    /// `subject` is not told of `inode` any more; returns its watch, if nobody is.
    fn untell(&mut self, subject: &S, inode: Inode) -> Option<WatchDescriptor> {
        let slot = self.slots.get_mut(&inode)?;
        slot.itself.remove(subject);
        for told in slot.entries.values_mut() {
            told.remove(subject);
        }
        let is_nobodys = slot.itself.is_empty();
        is_nobodys.then(|| self.forget(inode)).flatten()
    }

    pub(super) fn rests(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Tells `subject` from now on, if there is a watch, or one that need not be put on yet.
    pub(super) fn tells(
        &mut self,
        inode: Inode,
        name: Option<&str>,
        subject: &S,
        now: Instant,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(&inode) else {
            return false;
        };
        slot.tell(subject, name);
        if name.is_some() {
            self.files.remove(&inode);
        }
        match slot.watch {
            Watch::On(..) => true,
            Watch::Rests(until) => now < until,
        }
    }

    /// The kernel has put this watch on.
    pub(super) fn begin(
        &mut self,
        watch: WatchDescriptor,
        inode: Inode,
        is_directory: bool,
        now: Instant,
    ) {
        self.inodes.insert(watch, inode);
        if !is_directory {
            self.files.insert(inode);
        }
        self.resting.remove(&inode);
        let slot = self.slots.entry(inode).or_insert_with(|| Slot {
            watch: Watch::On(watch, now),
            events: (now, 0),
            rest: SHORTEST_REST,
            itself: HashSet::new(),
            entries: HashMap::new(),
        });
        slot.watch = Watch::On(watch, now);
        slot.events = (now, 0);
    }

    /// Notes that `subject` was told of `inode` last of all; returns the watch that has no subject any more for that.
    pub(super) fn remember(&mut self, subject: &S, inode: Inode) -> Option<WatchDescriptor> {
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
        self.untell(subject, oldest)
    }

    /// Returns its watch, if it has one.
    fn forget(&mut self, inode: Inode) -> Option<WatchDescriptor> {
        self.resting.remove(&inode);
        self.files.remove(&inode);
        match self.slots.remove(&inode)?.watch {
            Watch::On(watch, _) => {
                self.inodes.remove(&watch);
                Some(watch)
            }
            Watch::Rests(_) => None,
        }
    }

    /// Adds to `told` which subjects have to look again after `event`; returns the watch, if it was one event too many.
    pub(super) fn hear(
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
        if !slot.itself.iter().all(self.may_rest) {
            return None;
        }
        let rest = slot.count(now)?;
        slot.watch = Watch::Rests(now + rest);
        self.inodes.remove(&event.wd);
        self.resting.insert(inode);
        Some(event.wd)
    }

    /// The subjects of watches that rest. A look puts the watch on again, once it has rested; where none does, what it was
    /// on is not where it was.
    pub(super) fn look(&mut self, now: Instant) -> HashSet<S> {
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
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
