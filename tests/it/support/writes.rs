//! An account that writes into its file in place, in every way there is, and a reader that must not see any of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::world::{Ends, shown};

/// Every way (`writes.c`), but for that by a hard link.
pub const KINDS: [&str; 14] = [
    "append",
    "rewrite",
    "truncate",
    "pwritev",
    "mapping",
    "reopen",
    "punch",
    "zero",
    "copy-file-range",
    "sendfile",
    "splice",
    "io-uring",
    "open",
    "nonblocking",
];

/// The program that writes, built.
pub struct Writer(PathBuf);

impl Writer {
    /// Is built in `place`.
    pub fn built(place: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/writes.c");
        let program = place.join("writes");
        let built = Command::new("gcc")
            .args(["-O1", "-o"])
            .args([&program, &source])
            .status()
            .expect("gcc");
        assert!(built.success());
        Self(program)
    }

    /// Begins to write into `file` as `uid`, in this way, `most` times or for so many seconds.
    pub fn start(&self, uid: u32, file: &Path, kind: &str, most: u32, seconds: u64) -> Writing {
        let uid = uid.to_string();
        let started = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--reuid", &uid, "--regid", &uid])
            .arg("--clear-groups")
            .args([&self.0, file])
            .args([&most.to_string(), &seconds.to_string(), kind])
            .stdout(Stdio::piped())
            .spawn();
        Writing(Ends(started.unwrap()))
    }
}

/// A writer at work; ends when dropped.
pub struct Writing(Ends);

impl Writing {
    /// How often it has written in the end, or why this way is not to be had here.
    pub fn end(mut self) -> Result<u32, String> {
        let mut said = String::new();
        let mut out = self.0.0.stdout.take().unwrap();
        out.read_to_string(&mut said).unwrap();
        let said = said.trim_end().to_owned();
        match self.0.0.wait().unwrap().code() {
            Some(0) => Ok(said.parse().unwrap()),
            Some(77) => Err(said),
            _ => panic!("{said}"),
        }
    }
}

/// A thread that reads files by their names, again and again without pause.
pub struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<Option<String>>,
}

/// A read that this machine holds up for longer than that is not counted: sshd's is far shorter.
const ONE_READ: Duration = Duration::from_millis(100);

impl Reader {
    /// Reads each file, which must have that content.
    pub fn start(files: Vec<(PathBuf, String)>) -> Self {
        let (stop, reads) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let (is_over, count) = (Arc::clone(&stop), Arc::clone(&reads));
        let read = move || {
            while !is_over.load(Ordering::Relaxed) {
                for (file, right) in &files {
                    let begin = Instant::now();
                    let read = fs::read(file);
                    if begin.elapsed() > ONE_READ {
                        continue;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    match read {
                        Ok(bytes) if bytes == right.as_bytes() => {}
                        Ok(bytes) => return Some(shown(&bytes)),
                        Err(error) => return Some(error.to_string()),
                    }
                }
            }
            None
        };
        Self {
            stop,
            reads,
            thread: std::thread::Builder::new().spawn(read).unwrap(),
        }
    }

    /// How often it has read so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What it saw that was not the right content, if anything.
    pub fn end(self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
