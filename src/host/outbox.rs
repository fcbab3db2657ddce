//! What is said to others who may not listen: whoever reads the log, and the service manager. To say it never waits: it
//! goes into a queue, and a thread of its own waits for as long as nobody takes it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::host::Threads;

/// A queue and its thread, which is started with the first message.
pub struct Outbox {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Waits until the message is taken; false when nobody is there.
    deliver: fn(&[u8]) -> bool,
    /// Says how many messages were lost, once one was taken again.
    tell: fn(u64),
}

struct Queue {
    waiting: VecDeque<Vec<u8>>,
    /// In all messages that nobody has taken yet.
    bytes: usize,
    lost: u64,
    has_thread: bool,
}

/// The most that waits, in bytes: the first lists of a thousand accounts, or what a siege writes in a minute.
const ROOM: usize = 512 << 10;

impl Outbox {
    pub const fn new(deliver: fn(&[u8]) -> bool, tell: fn(u64)) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            bytes: 0,
            lost: 0,
            has_thread: false,
        };
        Self {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            deliver,
            tell,
        }
    }

    /// Never waits. Without room the message is lost, and counted.
    pub fn put(&'static self, message: Vec<u8>) {
        let mut queue = self.queue();
        if queue.bytes + message.len() > ROOM {
            queue.lost += 1;
            return;
        }
        queue.bytes += message.len();
        queue.waiting.push_back(message);
        if !queue.has_thread {
            // Where none is to be had, it is asked for again with the next message.
            queue.has_thread = Threads::spawn_as("outbox", || self.work()).is_ok();
        }
        self.changed.notify_all();
    }

    /// Waits until everything is taken, no longer than `limit`: at the end of the process.
    pub fn flush(&self, limit: Duration) {
        let queue = self.queue();
        let is_waiting = |queue: &mut Queue| queue.bytes > 0;
        drop(self.changed.wait_timeout_while(queue, limit, is_waiting));
    }

    /// How many messages were lost, and nobody was told.
    pub fn lost(&self) -> u64 {
        self.queue().lost
    }

    fn work(&self) {
        let mut queue = self.queue();
        loop {
            let Some(message) = queue.waiting.pop_front() else {
                let waited = self.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            let is_taken = (self.deliver)(&message);
            queue = self.queue();
            queue.bytes -= message.len();
            queue.lost += u64::from(!is_taken);
            if is_taken && queue.waiting.is_empty() && queue.lost > 0 {
                let lost = std::mem::take(&mut queue.lost);
                drop(queue);
                (self.tell)(lost);
                queue = self.queue();
            }
            self.changed.notify_all();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;

    static GATE: Mutex<()> = Mutex::new(());
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    static TOLD: AtomicU64 = AtomicU64::new(0);
    static OUTBOX: Outbox = Outbox::new(
        |_| {
            drop(GATE.lock());
            TAKEN.fetch_add(1, Ordering::SeqCst);
            true
        },
        |lost| {
            TOLD.fetch_add(lost, Ordering::SeqCst);
        },
    );

    #[test]
    fn who_says_something_never_waits_and_what_is_lost_is_told() {
        let closed = GATE.lock().unwrap();
        let messages = 3 * ROOM as u64 / 1000;
        for _ in 0..messages {
            OUTBOX.put(vec![0; 1000]);
        }
        let lost = OUTBOX.lost();
        assert!(lost > messages / 2 && lost < messages, "{lost}");
        let begun = Instant::now();
        OUTBOX.flush(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!(TAKEN.load(Ordering::SeqCst), 0);
        drop(closed);
        OUTBOX.flush(Duration::from_secs(20));
        assert_eq!(TAKEN.load(Ordering::SeqCst), messages - lost);
        let end = Instant::now() + Duration::from_secs(20);
        while TOLD.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
        assert_eq!((TOLD.load(Ordering::SeqCst), OUTBOX.lost()), (lost, 0));
    }
}
