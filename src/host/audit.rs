//! What the audit log says of the authorized_keys files, asked of `ausearch`, where the rule of `packaging/audit/` is in
//! place.

use std::time::Duration;

use crate::host::Bounds;
use crate::host::Program;
use crate::host::ProgramError;

/// Where distributions put it.
const PLACES: [&str; 3] = [
    "/usr/sbin/ausearch",
    "/sbin/ausearch",
    "/usr/local/sbin/ausearch",
];

/// The key that the rule writes into each record.
const KEY: &str = "authorized_keys";

/// It reads log files of many megabytes; a search that takes longer is given up.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(2),
    bytes: 8 << 20,
};

/// True where the audit log can be asked.
pub fn is_here() -> bool {
    Program::find(&PLACES).is_some()
}

/// From when on records are wanted. `ausearch` takes dates as the locale writes them, and these words everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Ten minutes ago.
    Recent,
    /// The beginning of this day.
    Today,
}

/// The raw records. Blocks for at most some seconds.
pub fn records(from: From) -> Result<String, ProgramError> {
    let Some(ausearch) = Program::find(&PLACES) else {
        return Ok(String::new());
    };
    let start = match from {
        From::Recent => "recent",
        From::Today => "today",
    };
    // Without --input-logs it would read from a pipe that it may have been given (ausearch(8)).
    match ausearch.ask(
        [
            "--input-logs",
            "-k",
            KEY,
            "--start",
            start,
            "--format",
            "raw",
        ],
        BOUNDS,
    ) {
        // Nothing found is exit status 1 too; in this format it is not even said.
        Err(ProgramError::Failed { said, .. })
            if said.as_ref().is_none_or(|said| said == "<no matches>") =>
        {
            Ok(String::new())
        }
        records => records,
    }
}
