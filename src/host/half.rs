//! The other half of `run`, as a process of its own: what hangs or ends there is no business of this one. It is started
//! again when it ends, and ends with this one.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};
use tokio::sync::Mutex;

use crate::host::chain;

/// A process of this very program that goes on until it is told to stop.
pub struct Half {
    name: &'static str,
    arguments: Vec<OsString>,
    running: RefCell<Option<Child>>,
    /// Each means that a child may have ended.
    ends: Mutex<Arrivals>,
}

/// Between the end of one and the start of the next, as in its unit.
const PAUSE: Duration = Duration::from_secs(5);

/// How long its end is waited for.
const LAST_WORK: Duration = Duration::from_secs(2);

impl Half {
    /// What it is told besides its `arguments` is whose half it is. Nothing is started yet.
    pub fn new(name: &'static str, arguments: Vec<OsString>) -> io::Result<Self> {
        Ok(Self {
            name,
            arguments,
            running: RefCell::default(),
            ends: Mutex::new(signal(SignalKind::child())?),
        })
    }

    /// Starts it, and again when it ends; never returns.
    pub async fn keep<Never>(&self) -> Never {
        let mut said = String::new();
        loop {
            let why = match self.start() {
                Ok(()) => self.end().await,
                Err(error) => chain(&error),
            };
            // Where no process is to be had it is the same each time.
            if why != said {
                let (name, pause) = (self.name, PAUSE.as_secs());
                tracing::error!(
                    why,
                    "the {name} has ended, and is started again every {pause} s"
                );
            }
            said = why;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// SIGHUP: do it now, and read the config again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Tells it to end, and waits for that, but not for long.
    pub async fn stop(self) {
        self.signal(Signal::TERM);
        if self.running.borrow().is_some()
            && tokio::time::timeout(LAST_WORK, self.end()).await.is_err()
        {
            self.signal(Signal::KILL);
        }
    }

    fn start(&self) -> io::Result<()> {
        // The kernel ends it with the thread that starts it: the first, and so the process.
        let child = Command::new("/proc/self/exe")
            .arg0("authorized-keys-agent")
            .args(&self.arguments)
            .arg(format!("--half-of={}", std::process::id()))
            .stdin(Stdio::null())
            // The service manager hears of this one.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .spawn()?;
        *self.running.borrow_mut() = Some(child);
        Ok(())
    }

    /// Waits for its end; returns how it came.
    async fn end(&self) -> String {
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            self.ends.lock().await.recv().await;
        }
    }

    fn ended(&self) -> Option<String> {
        let mut running = self.running.borrow_mut();
        let ended = match running.as_mut()?.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        *running = None;
        Some(ended)
    }

    fn signal(&self, signal: Signal) {
        // Until it is waited for, its pid is no other process's.
        if let Some(child) = &*self.running.borrow() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }
}

/// For the half itself: it ends with the process `of` which it is a half, however that ends (`PR_SET_PDEATHSIG`, prctl(2)).
pub fn end_with(of: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent == Some(of) {
        return Ok(());
    }
    Err(io::Error::other(
        "the process that it is a half of has ended",
    ))
}
