//! When the clock was set: forward, back, or by waking up from sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::host::Threads;

/// A timer that never rings, and that the kernel cancels when the clock is set (`timerfd_create(2)`,
/// `TFD_TIMER_CANCEL_ON_SET`). NTP that only slows the clock down, or hurries it, cancels nothing.
#[derive(Debug)]
pub struct ClockSet(TimerFd);

/// The year 2242, in seconds; `ktime_t` ends in 2262.
const NEVER: i64 = 1 << 33;

impl ClockSet {
    pub(super) fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        let never = Expiration::OneShot(TimeSpec::seconds(NEVER));
        let told =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(never, told)?;
        Ok(Self(timer))
    }

    /// Calls `told` each time that the clock was set, on a thread of its own, for as long as the process lives.
    pub fn tell(told: impl Fn() + Send + 'static) -> io::Result<()> {
        let clock = Self::new()?;
        let hear = move || {
            loop {
                let mut waits = [PollFd::new(clock.as_fd(), PollFlags::POLLIN)];
                match poll(&mut waits, PollTimeout::NONE) {
                    Ok(_) => {
                        clock.take();
                        told();
                    }
                    Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
                    Err(_) => return,
                }
            }
        };
        Threads::spawn_as("clock", hear).map(drop)
    }

    /// Takes in that the clock was set, if it was; the next time is told anew.
    pub(super) fn take(&self) {
        let _ = self.0.wait();
    }
}

impl AsFd for ClockSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
