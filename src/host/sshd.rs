//! The local sshd, asked what it would do: `sshd -T`, the effective configuration for one account.
//!
//! It shows neither what a unit adds with `-o` nor quotes around a path with blanks.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::model::account::AccountName;

/// Why sshd did not say its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SshdError {
    /// It could not be run.
    #[error("cannot run `{}`", .path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It did not end in time.
    #[error("`{} -T` did not end within {} s", .0.display(), LIMIT.as_secs())]
    Late(PathBuf),
    /// It refused, and said this last.
    #[error("`{} -T` failed: {said}", .path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// The last line of its complaint.
        said: String,
    },
}

/// Where distributions put it. Never by `PATH`: root runs it.
const PLACES: [&str; 3] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];

/// Reading a configuration takes milliseconds; a `Match` on a host name may ask the resolver.
const LIMIT: Duration = Duration::from_secs(5);

/// The most that is read of what it says.
const LONGEST: u64 = 1 << 20;

/// The sshd of this host.
pub fn find() -> Option<PathBuf> {
    PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The configuration for `account` as `keyword value` lines, keywords in lower case. Needs root. Blocks for at most
/// some seconds.
///
/// `Match` needs all of a connection to be named, so it is one from this very host.
pub fn settings(sshd: &Path, account: &AccountName) -> Result<String, SshdError> {
    let start = |source| SshdError::Start { path: sshd.to_owned(), source };
    let mut child = Command::new(sshd)
        .args(["-T", "-C", &format!("user={account},host=localhost,addr=127.0.0.1")])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let (said, complained) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let end = Instant::now() + LIMIT;
    // Both ends are closed when it ends, so this is also the wait for that.
    let text = said.recv_timeout(LIMIT);
    let complaint = complained.recv_timeout(end.saturating_duration_since(Instant::now()));
    let (Ok(text), Ok(complaint)) = (text, complaint) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(SshdError::Late(sshd.to_owned()));
    };
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(text);
    }
    let said = complaint.lines().last().unwrap_or("nothing was said").trim().to_owned();
    Err(SshdError::Failed { path: sshd.to_owned(), said })
}

/// Reads a pipe to its end on a thread of its own, so that a full pipe never blocks the child.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is all there is.
            let _ = pipe.take(LONGEST).read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
