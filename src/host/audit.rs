//! What the audit log says of the authorized_keys files, asked of `ausearch`, where the rule of `packaging/audit/` is in
//! place; and whether it is, asked of `auditctl`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::Bounds;
use crate::host::Program;
use crate::host::ProgramError;
use crate::model::past::audit_rules;

/// Where distributions put it.
const PLACES: [&str; 3] = [
    "/usr/sbin/ausearch",
    "/sbin/ausearch",
    "/usr/local/sbin/ausearch",
];

const AUDITCTL: [&str; 3] = [
    "/usr/sbin/auditctl",
    "/sbin/auditctl",
    "/usr/local/sbin/auditctl",
];

/// The files that `augenrules` makes one of, and the one that it makes (augenrules(8)).
const RULES: &str = "/etc/audit/rules.d";
const ALL_RULES: &str = "/etc/audit/audit.rules";

/// The key that the rule writes into each record.
pub const KEY: &str = "authorized_keys";

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

/// The rules that the kernel has, which root may ask for; `None` where there is no answer.
pub fn rules() -> Option<String> {
    Program::find(&AUDITCTL)?.ask(["-l"], BOUNDS).ok()
}

/// The file and the line of the rule by which nothing is recorded.
pub fn silencer() -> Option<(PathBuf, usize)> {
    let parts = fs::read_dir(RULES).into_iter().flatten().flatten();
    let parts = parts.map(|part| part.path());
    for path in parts.chain([PathBuf::from(ALL_RULES)]) {
        // augenrules passes over other names.
        if path.extension().is_none_or(|end| end != "rules") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = audit_rules::silencer(&text) {
            return Some((path, line));
        }
    }
    None
}
