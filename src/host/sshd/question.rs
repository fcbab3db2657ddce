//! One question to sshd: its version, or `sshd -T`, the effective configuration for one account, as it was started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::Bounds;
use crate::host::Program;
use crate::host::ProgramError;
use crate::host::Said;
use crate::host::sshd::listener::{self, PLACES};
use crate::model::account::AccountName;
use crate::model::key::release::Version;
use crate::model::sshd::invocation::Invocation;

/// Why sshd did not say its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SshdError {
    /// It gave no answer.
    #[error(transparent)]
    Silent(ProgramError),
    /// It refused, and said this last.
    #[error("`{} -T` failed: {said}", .path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// The last line of its complaint.
        said: String,
    },
}

/// The client beside it, which says its version in every release.
const CLIENTS: [&str; 2] = ["/usr/bin/ssh", "/usr/local/bin/ssh"];

/// Reading a configuration takes milliseconds; a `Match` on a host name may ask the resolver.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(5),
    bytes: 1 << 20,
};

/// Where sshd listens unless told otherwise.
const PORT: u16 = 22;

/// The sshd of this host: what its unit starts, or what stands where it usually does.
pub fn find() -> Option<PathBuf> {
    listener::installed(Path::new("/"))
}

/// True for an sshd that lets a group write to a home when it has no other member. Debian patches its own to
/// (`user-group-modes.patch` of its openssh package), and who takes packages from there has it too.
pub fn minds_private_groups(sshd: &Path) -> bool {
    sshd == Path::new(PLACES[0]) && Path::new("/etc/debian_version").exists()
}

/// What `sshd` is; `None` when neither it nor the client beside it says. Blocks for at most some seconds.
pub fn version(sshd: &Path) -> Result<Option<Version>, ProgramError> {
    let ask = |program: &Path| {
        let said = Program::at(program).hear(["-V"], BOUNDS)?;
        // 8.4 takes `-V` for a mistake: the version is in its complaint.
        Ok(Version::find(&said.complaint).or_else(|| Version::find(&said.text)))
    };
    let own = ask(sshd)?;
    Ok(own.or_else(|| {
        CLIENTS
            .into_iter()
            .map(Path::new)
            .find_map(|client| ask(client).ok().flatten())
    }))
}

/// The configuration for `account` as `keyword value` lines, keywords in lower case. Needs root. Blocks for at most
/// some seconds.
///
/// `Match` needs all of a connection to be named, so it is one from this very host to the `port` it listens at.
pub fn settings(
    sshd: &Path,
    invocation: &Invocation,
    port: Option<u16>,
    account: &AccountName,
) -> Result<String, SshdError> {
    let words = invocation.words();
    let port = port.unwrap_or(PORT);
    let user = format!("user={account},host=localhost,addr=127.0.0.1");
    let local = format!("{user},laddr=127.0.0.1,lport={port}");
    let ask = |connection: &str| {
        let arguments = ["-T"]
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .chain(["-C", connection]);
        Program::at(sshd)
            .hear(arguments, BOUNDS)
            .map_err(SshdError::Silent)
    };
    // `servconf.c: parse_server_match_testspec`: an older one gives up at the first word that it does not know.
    let is_understood =
        |said: &Said| said.is_well || !said.complaint.contains("Invalid test mode specification");
    let mut said = ask(&format!("{local},rdomain="))?;
    for connection in [&local, &user] {
        if is_understood(&said) {
            break;
        }
        said = ask(connection)?;
    }
    if said.is_well {
        return Ok(said.text);
    }
    let last = said.complaint.lines().rfind(|line| !line.trim().is_empty());
    let said = last.unwrap_or("nothing was said").trim().to_owned();
    Err(SshdError::Failed {
        path: sshd.to_owned(),
        said,
    })
}
