//! Which key a login used: what sshd logged, in the journal, or else in the log file that rsyslog writes.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::host::Bounded;
use crate::host::Bounds;
use crate::host::Program;
use crate::host::ProgramError;
use crate::model::session::{Accepted, accepted, logged};

/// One login.
#[derive(Clone, Debug)]
pub struct Login {
    /// The process that logged it: it becomes the session's leader (`sshd.c`: with PAM the monitor opens the session).
    pub pid: u32,
    /// The account that was logged in to.
    pub account: String,
    /// The address that it came from.
    pub from: String,
    /// The key, `SHA256:…`.
    pub fingerprint: String,
    /// When; only the journal says it.
    pub at: Option<Timestamp>,
}

const PLACES: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];

/// Debian's, and Red Hat's.
const FILES: [&str; 2] = ["/var/log/auth.log", "/var/log/secure"];

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(10),
    bytes: 8 << 20,
};

/// The end of a log file that is read.
const TAIL: u64 = 4 << 20;

/// Processes named in one question.
const AT_ONCE: usize = 500;

/// The logins that these processes made, oldest first, from `since` on or else in this boot. Blocks.
///
/// Any account can write to the journal under sshd's name, so only entries of root's count: `_UID` and `_PID` are set by
/// journald (`systemd.journal-fields(7)`, trusted fields).
pub fn logins(pids: &[u32], since: Option<Timestamp>) -> Result<Vec<Login>, ProgramError> {
    let mut all = Vec::new();
    if let Some(journalctl) = Program::find(&PLACES) {
        for pids in pids.chunks(AT_ONCE) {
            let pids: Vec<String> = pids.iter().map(|pid| format!("_PID={pid}")).collect();
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
            let whose = ["--identifier=sshd", "--identifier=sshd-session", "_UID=0"];
            let arguments = asked
                .into_iter()
                .chain(whose)
                .chain(pids.iter().map(String::as_str));
            let said = journalctl.ask(arguments, BOUNDS)?;
            all.extend(said.lines().filter_map(entry));
        }
    }
    let missing = |pid: &u32| !all.iter().any(|login: &Login| login.pid == *pid);
    let rest: Vec<u32> = pids.iter().copied().filter(missing).collect();
    if !rest.is_empty() {
        all.extend(
            FILES
                .iter()
                .filter_map(|path| tail(path))
                .flat_map(|text| of_file(&text, &rest)),
        );
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
    let at = Timestamp::from_microsecond(entry.at.parse().ok()?).ok()?;
    Some(login(
        entry.pid.parse().ok()?,
        &accepted(message)?,
        Some(at),
    ))
}

fn of_file(text: &str, pids: &[u32]) -> Vec<Login> {
    let read = |line| {
        let (pid, message) = logged(line)?;
        pids.contains(&pid)
            .then(|| accepted(message))?
            .map(|accepted| login(pid, &accepted, None))
    };
    text.lines().filter_map(read).collect()
}

fn login(pid: u32, accepted: &Accepted<'_>, at: Option<Timestamp>) -> Login {
    Login {
        pid,
        account: accepted.account.to_owned(),
        from: accepted.from.to_owned(),
        fingerprint: accepted.fingerprint.to_owned(),
        at,
    }
}

fn tail(path: &str) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)?
        .len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let read = Bounded::read(file, TAIL, length.min(TAIL)).ok()?;
    Some(String::from_utf8_lossy(&read.bytes).into_owned())
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
                login.fingerprint.as_str()
            ),
            (4711, "alice", "SHA256:abc")
        );
        assert_eq!(
            login.at,
            Some(Timestamp::from_second(1_800_000_000).unwrap())
        );
        for line in [
            r#"{"_PID":"4711","MESSAGE":[1,2],"__REALTIME_TIMESTAMP":"1"}"#,
            r#"{"_PID":"4711","MESSAGE":null,"__REALTIME_TIMESTAMP":"1"}"#,
            "-- No entries --",
            "",
        ] {
            assert!(entry(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_log_file_is_read_for_the_processes_that_are_asked_for() {
        let text = "Nov 25 22:11:33 web1 sshd[1]: Accepted publickey for alice from ::1 port 1 ssh2: RSA SHA256:a\n\
                    Nov 25 22:11:33 web1 sshd[2]: Accepted publickey for bob from ::1 port 1 ssh2: RSA SHA256:b\n\
                    Nov 25 22:11:33 web1 cron[1]: Accepted publickey for eve from ::1 port 1 ssh2: RSA SHA256:c\n";
        let found: Vec<_> = of_file(text, &[1])
            .into_iter()
            .map(|login| login.fingerprint)
            .collect();
        assert_eq!(found, ["SHA256:a"]);
    }
}
