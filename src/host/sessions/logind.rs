//! Live sessions, as `loginctl` tells of them. systemd 247 to 257 print what is read here.

use std::fs;
use std::time::Duration;

use crate::host::Bounds;
use crate::host::Program;
use crate::host::ProgramError;
use crate::model::session::{self, Live};

/// Where distributions put it.
const PLACES: [&str; 2] = ["/usr/bin/loginctl", "/bin/loginctl"];

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(5),
    bytes: 4 << 20,
};

/// Sessions named in one question: a command line has its limits.
const AT_ONCE: usize = 500;

/// False when there surely is no session, and logind need not be asked. It keeps one file for each here; nothing in it is
/// read.
pub fn are_open() -> bool {
    fs::read_dir("/run/systemd/sessions").is_ok_and(|mut entries| entries.next().is_some())
}

/// The live SSH sessions; none where there is no logind. Blocks.
pub fn ssh_sessions() -> Result<Vec<Live>, ProgramError> {
    let Some(loginctl) = Program::find(&PLACES) else {
        return Ok(Vec::new());
    };
    let listed = loginctl.ask(["list-sessions", "--no-legend", "--no-pager"], BOUNDS)?;
    let mut all = Vec::new();
    for ids in session::ids(&listed).chunks(AT_ONCE) {
        all.extend(show(&loginctl, ids)?);
    }
    Ok(all)
}

/// Ends a session, if it still is the one that was looked at; `false` when it is not. Blocks.
///
/// Its processes are told to end, and then it is closing. What lives on in one that is closing is killed: to end it once
/// more does nothing (`logind-session.c: session_stop`).
pub fn end(id: &str, leader: u32) -> Result<bool, ProgramError> {
    let Some(loginctl) = Program::find(&PLACES) else {
        return Ok(false);
    };
    let live = show(&loginctl, &[id])?;
    let same = |live: &&Live| live.id == id && live.leader == leader;
    let Some(live) = live.iter().find(same) else {
        return Ok(false);
    };
    let how: &[&str] = if live.closing {
        &["kill-session", "--signal=SIGKILL"]
    } else {
        &["terminate-session"]
    };
    let how = how.iter().copied().chain([id]);
    loginctl.ask(how, BOUNDS).map(|_| true)
}

fn show(loginctl: &Program, ids: &[&str]) -> Result<Vec<Live>, ProgramError> {
    let properties = [
        "Id",
        "Name",
        "Leader",
        "Service",
        "RemoteHost",
        "State",
        "Timestamp",
    ];
    let asked = properties.iter().flat_map(|name| ["-p", name]);
    let shown = loginctl.ask(
        ["show-session", "--no-pager"]
            .into_iter()
            .chain(asked)
            .chain(ids.iter().copied()),
        BOUNDS,
    );
    match shown {
        // One of them has ended since.
        Err(ProgramError::Failed { .. }) if ids.len() > 1 => Ok(ids
            .iter()
            .filter_map(|id| show(loginctl, &[id]).ok())
            .flatten()
            .collect()),
        Err(ProgramError::Failed { .. }) => Ok(Vec::new()),
        shown => Ok(session::ssh_sessions(&shown?)),
    }
}
