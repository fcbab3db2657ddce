//! The thread that hears the kernel: of events, of mounts, and of the clock.

use std::collections::HashSet;
use std::fs::File;
use std::hash::Hash;
use std::io::PipeReader;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, Inotify};

use crate::host::watch::clock::ClockSet;
use crate::host::watch::slots::{Shared, locked};

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<S> {
    /// Look at this again.
    At(S),
    /// Something was mounted or unmounted.
    Mounts,
    /// The clock was set.
    Clock,
    /// Events were lost: look at everything.
    Everything,
}

/// How often the subjects of a watch that rests are looked at instead.
const LOOK: Duration = Duration::from_millis(50);

/// Mounts come and go by the hundreds where containers start; they are told of no more often than this.
const MOUNTS_PAUSE: Duration = Duration::from_millis(100);

/// The thread that hears the kernel.
pub(super) struct Watcher<S, F> {
    pub(super) inotify: Option<Arc<Inotify>>,
    pub(super) mounts: Option<File>,
    pub(super) clock: Option<ClockSet>,
    pub(super) end: PipeReader,
    pub(super) shared: Arc<Mutex<Shared<S>>>,
    pub(super) on_change: F,
}

/// What there is to hear.
struct Heard {
    events: bool,
    mounts: bool,
    clock: bool,
}

impl<S: Clone + Eq + Hash, F: Fn(Change<S>)> Watcher<S, F> {
    pub(super) fn run(self) {
        let (mut look, mut hear_mounts) = (Instant::now(), Instant::now());
        loop {
            let mut now = Instant::now();
            let rests = locked(&self.shared).rests();
            let hears_mounts = hear_mounts <= now;
            let waits = [
                rests.then_some(look),
                (!hears_mounts).then_some(hear_mounts),
            ];
            let waits = waits.into_iter().flatten().min();
            let Some(heard) = self.wait(waits, hears_mounts) else {
                return;
            };
            now = Instant::now();
            if heard.mounts {
                hear_mounts = now + MOUNTS_PAUSE;
                (self.on_change)(Change::Mounts);
            }
            if let Some(clock) = self.clock.as_ref().filter(|_| heard.clock) {
                clock.take();
                (self.on_change)(Change::Clock);
            }
            if let Some(inotify) = self.inotify.as_ref().filter(|_| heard.events)
                && !self.hear(inotify, now)
            {
                // The watches are put on anew, on another thread.
                return (self.on_change)(Change::Everything);
            }
            if look <= now {
                look = now + LOOK;
                let told = locked(&self.shared).look(now);
                for subject in told {
                    (self.on_change)(Change::At(subject));
                }
            }
        }
    }

    /// Waits until then; `None` at the end.
    fn wait(&self, until: Option<Instant>, hears_mounts: bool) -> Option<Heard> {
        let mounts = self.mounts.as_ref().filter(|_| hears_mounts);
        let sources = [
            Some((self.end.as_fd(), PollFlags::POLLIN)),
            self.inotify
                .as_ref()
                .map(|it| (it.as_fd(), PollFlags::POLLIN)),
            // `proc_pid_mounts(5)`; POLLIN is always there.
            mounts.map(|it| (it.as_fd(), PollFlags::POLLPRI)),
            self.clock
                .as_ref()
                .map(|it| (it.as_fd(), PollFlags::POLLIN)),
        ];
        let mut all: Vec<PollFd<'_>> = sources
            .iter()
            .flatten()
            .map(|(source, flags)| PollFd::new(*source, *flags))
            .collect();
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
        let mut polled = all.iter();
        let [end, events, mounts, clock] = sources.map(|source| {
            let polled = source.and_then(|_| polled.next());
            polled.is_some_and(|one| one.any().unwrap_or_default())
        });
        (!end).then_some(Heard {
            events,
            mounts,
            clock,
        })
    }

    /// Hears what has happened, and tells; `false` when nothing is to be heard any more.
    fn hear(&self, inotify: &Inotify, now: Instant) -> bool {
        let events = match inotify.read_events() {
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
                    let _ = inotify.rm_watch(tired);
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
