//! The local sshd, asked what it is and what it would do: its version, and `sshd -T`, the effective configuration for
//! one account, as it was started.

mod configuration;
mod started;

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use configuration::{Configuration, configuration, has_blank, names_files};
pub use started::{Started, started};

use crate::model::account::AccountName;
use crate::model::invocation::Invocation;
use crate::model::openssh::Version;

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
    #[error("`{}` did not end within {} s", .0.display(), LIMIT.as_secs())]
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

/// The client beside it, which says its version in every release.
const CLIENTS: [&str; 2] = ["/usr/bin/ssh", "/usr/local/bin/ssh"];

/// Reading a configuration takes milliseconds; a `Match` on a host name may ask the resolver.
const LIMIT: Duration = Duration::from_secs(5);

/// The most that is read of what it says.
const LONGEST: u64 = 1 << 20;

/// The sshd of this host.
pub fn find() -> Option<PathBuf> {
    PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// True for an sshd that lets a group write to a home when it is nobody else's. Debian patches its own to
/// (`user-group-modes.patch` of its openssh package), and who takes packages from there has it too.
pub fn minds_private_groups(sshd: &Path) -> bool {
    sshd == Path::new(PLACES[0]) && Path::new("/etc/debian_version").exists()
}

/// Tells one state of a file from another without reading it; `None` when there is none.
pub type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// The stamp of what `path` leads to.
pub fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

/// What `sshd` is; `None` when neither it nor the client beside it says. Blocks for at most some seconds.
pub fn version(sshd: &Path) -> Result<Option<Version>, SshdError> {
    let ask = |program: &Path| {
        let said = run(program, &["-V".to_owned()])?;
        // 8.4 takes `-V` for a mistake: the version is in its complaint.
        Ok(Version::find(&said.complaint).or_else(|| Version::find(&said.text)))
    };
    let own = ask(sshd)?;
    Ok(own.or_else(|| CLIENTS.into_iter().map(Path::new).find_map(|client| ask(client).ok().flatten())))
}

/// The configuration for `account` as `keyword value` lines, keywords in lower case. Needs root. Blocks for at most
/// some seconds.
///
/// `Match` needs all of a connection to be named, so it is one from this very host.
pub fn settings(sshd: &Path, invocation: &Invocation, account: &AccountName) -> Result<String, SshdError> {
    let mut arguments = vec!["-T".to_owned()];
    arguments.extend(invocation.words());
    arguments.extend(["-C".to_owned(), format!("user={account},host=localhost,addr=127.0.0.1")]);
    let said = run(sshd, &arguments)?;
    if said.status.success() {
        return Ok(said.text);
    }
    let last = said.complaint.lines().rfind(|line| !line.trim().is_empty());
    let said = last.unwrap_or("nothing was said").trim().to_owned();
    Err(SshdError::Failed { path: sshd.to_owned(), said })
}

struct Said {
    status: ExitStatus,
    text: String,
    complaint: String,
}

fn run(program: &Path, arguments: &[String]) -> Result<Said, SshdError> {
    let start = |source| SshdError::Start { path: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
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
        return Err(SshdError::Late(program.to_owned()));
    };
    let status = child.wait().map_err(start)?;
    Ok(Said { status, text, complaint })
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
