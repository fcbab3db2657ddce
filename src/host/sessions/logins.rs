//! Which key a login used: what sshd itself logged in the journal.
//!
//! Any account can write to the journal, and to `/var/log/auth.log`, under any name and pid. So only what journald itself
//! knows of the process that wrote counts (`systemd.journal-fields(7)`, trusted fields): it is root's, its program is sshd,
//! and it is the leader of the session. journalctl looks that up by its index, whatever else accounts write by the megabyte.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::host::Bounds;
use crate::host::Program;
use crate::host::ProgramError;
use crate::model::session::accepted;

/// One login.
#[derive(Clone, Debug)]
pub struct Login {
    /// The process that logged it: it becomes the session's leader (`sshd.c`: with PAM the monitor opens the session).
    pub pid: u32,
    /// The account that was logged in to.
    pub account: String,
    /// The address that it came from.
    pub from: String,
    /// The key, `SHA256:…`; `None` where it was none of a list.
    pub fingerprint: Option<String>,
    pub at: Timestamp,
}

const PLACES: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(10),
    bytes: 8 << 20,
};

/// Processes named in one question.
const AT_ONCE: usize = 500;

/// Since 9.8 it is `sshd-session` that logs it. An account can call its own program so, but not with root's uid.
const SSHD: [&str; 3] = ["_UID=0", "_COMM=sshd", "_COMM=sshd-session"];

/// The logins that these processes made, oldest first, from `since` on or else in this boot. Blocks.
pub fn logins(pids: &[u32], since: Option<Timestamp>) -> Result<Vec<Login>, ProgramError> {
    let mut all = Vec::new();
    let Some(journalctl) = Program::find(&PLACES) else {
        return Ok(all);
    };
    // Not by boot where there is a time: below `ProtectProc=` a container shows the boot of its host.
    let from = since.map_or_else(
        || "-b".to_owned(),
        |since| format!("--since=@{}", since.as_second()),
    );
    let asked = [
        from.as_str(),
        "--no-pager",
        "--quiet",
        "--output=json",
        "--output-fields=MESSAGE,_PID",
    ];
    for pids in pids.chunks(AT_ONCE) {
        let pids: Vec<String> = pids.iter().map(|pid| format!("_PID={pid}")).collect();
        let arguments = asked.into_iter().chain(SSHD);
        let arguments = arguments.chain(pids.iter().map(String::as_str));
        let said = journalctl.ask(arguments, BOUNDS)?;
        all.extend(said.lines().filter_map(entry));
    }
    Ok(all)
}

/// One entry of the journal (`systemd.dev`, "Journal JSON Format").
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: Message,
    #[serde(rename = "_PID")]
    pid: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
}

/// One that is not all printable is an array of bytes; sshd's line of a login always is. Repeated, it is an array too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Other(serde::de::IgnoredAny),
}

fn entry(line: &str) -> Option<Login> {
    let entry: Entry = serde_json::from_str(line).ok()?;
    let Message::Text(message) = &entry.message else {
        return None;
    };
    let accepted = accepted(message)?;
    Some(Login {
        pid: entry.pid.parse().ok()?,
        account: accepted.account.to_owned(),
        from: accepted.from.to_owned(),
        fingerprint: accepted.fingerprint.map(str::to_owned),
        at: Timestamp::from_microsecond(entry.at.parse().ok()?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_journal_is_read() {
        let line = r#"{"_PID":"4711","__CURSOR":"s=1","MESSAGE":"Accepted publickey for alice from ::1 port 1 ssh2: ED25519 SHA256:abc","__REALTIME_TIMESTAMP":"1800000000000000"}"#;
        let login = entry(line).unwrap();
        assert_eq!(
            (
                login.pid,
                login.account.as_str(),
                login.fingerprint.as_deref()
            ),
            (4711, "alice", Some("SHA256:abc"))
        );
        assert_eq!(login.at, Timestamp::from_second(1_800_000_000).unwrap());
        for line in [
            r#"{"_PID":"4711","MESSAGE":[1,2],"__REALTIME_TIMESTAMP":"1"}"#,
            r#"{"_PID":"4711","MESSAGE":null,"__REALTIME_TIMESTAMP":"1"}"#,
            "-- No entries --",
            "",
        ] {
            assert!(entry(line).is_none(), "{line}");
        }
    }
}
