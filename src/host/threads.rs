//! Threads, which may not be to be had: the unit's `TasksMax=` or a limit of the host is used up, by whatever it is.
//!
//! The standard library's `spawn` ends the program then. Every thread of this one is started here, and who asks for one
//! must know what to do without.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;

/// Those of this process.
#[derive(Debug)]
pub enum Threads {}

/// Why none was to be had when one was last asked for, as an `errno`; 0 when one was. It is so for the whole process,
/// whoever asks.
static LACK: AtomicI32 = AtomicI32::new(0);

impl Threads {
    /// Does `work` on a thread of its own.
    pub fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        Self::start(Builder::new(), work)
    }

    /// The same, and the thread has a name.
    pub fn spawn_as(
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        Self::start(Builder::new().name(name.to_owned()), work)
    }

    fn start(builder: Builder, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let started = builder.spawn(work);
        let lack = match &started {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(Errno::EAGAIN as i32),
        };
        LACK.store(lack, Ordering::Relaxed);
        started
    }

    /// Whether one is to be had, for who is about to call a library that ends the program otherwise.
    pub fn probe() -> io::Result<()> {
        Self::spawn(|| ()).map(drop)
    }

    /// Why none was to be had when one was last asked for.
    pub fn lack() -> Option<io::Error> {
        match LACK.load(Ordering::Relaxed) {
            0 => None,
            lack => Some(io::Error::from_raw_os_error(lack)),
        }
    }
}
