//! Live SSH sessions and the key each was opened with, as logind and sshd say it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::AccountName;
use crate::model::sorting::Gather;

/// One live session, opened with a key that its account does not have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub account: AccountName,
    /// The name logind has for it.
    pub id: String,
    /// Its first process.
    pub leader: u32,
    /// The key, `SHA256:…`.
    pub fingerprint: String,
    /// The address it came from.
    pub from: Option<String>,
    /// When it began.
    pub since: Option<Timestamp>,
}

/// A session as logind tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its name.
    pub id: String,
    /// Whose.
    pub account: AccountName,
    /// Its first process.
    pub leader: u32,
    /// Where it comes from.
    pub from: Option<String>,
    /// When it began.
    pub since: Option<Timestamp>,
    /// Its leader has left, or it was told to end; processes of it live on.
    pub closing: bool,
}

/// The ids that `loginctl list-sessions --no-legend` prints, one in front of each line. They become arguments, so what
/// is no word of letters and digits is none (`session_id_valid` in systemd).
pub fn ids(listed: &str) -> Vec<&str> {
    let first = listed
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next());
    first
        .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))
        .collect()
}

/// The SSH sessions in what `loginctl show-session` prints: a block of `Name=value` lines for each, with `TZ=UTC`.
pub fn ssh_sessions(shown: &str) -> Vec<Live> {
    shown.split("\n\n").filter_map(ssh_session).collect()
}

fn ssh_session(block: &str) -> Option<Live> {
    let get = |name: &str| {
        let found = block
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.filter(|value| !value.is_empty())
    };
    // The PAM service: `sshd`, whatever the binary is called.
    if get("Service") != Some("sshd") {
        return None;
    }
    Some(Live {
        id: get("Id")?.to_owned(),
        account: AccountName::try_from(get("Name")?).ok()?,
        leader: get("Leader")?.parse().ok().filter(|pid| *pid > 1)?,
        from: get("RemoteHost").map(ToOwned::to_owned),
        since: get("Timestamp").and_then(timestamp),
        closing: get("State") == Some("closing"),
    })
}

/// `Wed 2026-11-25 22:11:33 UTC`.
fn timestamp(text: &str) -> Option<Timestamp> {
    let mut words = text.split(' ').skip(1);
    let (date, time) = (words.next()?, words.next()?);
    words.next().filter(|zone| *zone == "UTC")?;
    format!("{date}T{time}Z").parse().ok()
}

/// What sshd says when it lets an account in (`auth.c: auth_log`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Whom.
    pub account: &'a str,
    /// From where.
    pub from: &'a str,
    /// The key, `SHA256:…`; `None` for a password, a certificate and all else that no list approves.
    pub fingerprint: Option<&'a str>,
}

/// Reads `Accepted publickey for alice from 192.0.2.1 port 4711 ssh2: ED25519 SHA256:…`. A certificate is no key of a
/// list: `… ssh2: ED25519-CERT SHA256:… ID … CA …`.
pub fn accepted(message: &str) -> Option<Accepted<'_>> {
    let words: Vec<&str> = message.trim_end().split(' ').collect();
    let [
        "Accepted",
        method,
        "for",
        account,
        "from",
        from,
        "port",
        _,
        rest @ ..,
    ] = &words[..]
    else {
        return None;
    };
    let fingerprint = match rest {
        ["ssh2:", algorithm, fingerprint]
            if *method == "publickey"
                && fingerprint.starts_with("SHA256:")
                && !algorithm.ends_with("-CERT") =>
        {
            Some(*fingerprint)
        }
        _ => None,
    };
    Some(Accepted {
        account,
        from,
        fingerprint,
    })
}

/// Which sessions are new in `now`, not in `before`.
pub fn news<'a>(before: &[Session], now: &'a [Session]) -> Vec<&'a Session> {
    let known: BTreeSet<(&str, u32)> = before
        .iter()
        .map(|session| (session.id.as_str(), session.leader))
        .gather();
    now.iter()
        .filter(|session| !known.contains(&(session.id.as_str(), session.leader)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_sshd_is_read_and_no_other() {
        let shown = "Id=3\nName=alice\nTimestamp=Wed 2026-11-25 22:11:33 UTC\nRemote=yes\nRemoteHost=192.0.2.1\nService=sshd\nLeader=4711\nState=active\n\n\
                     Id=c1\nName=bob\nTimestamp=Wed 2026-11-25 22:11:33 UTC\nRemoteHost=\nService=login\nLeader=4712\nState=active\n\n\
                     Id=5\nName=alice\nTimestamp=\nRemoteHost=\nService=sshd\nLeader=4713\nState=closing\n\n\
                     Id=6\nName=bob\nTimestamp=Mi 2026-11-25 22:11:33 CET\nService=sshd\nLeader=4714\nState=online\n";
        let live = ssh_sessions(shown);
        assert_eq!(live.len(), 3, "{live:?}");
        assert_eq!(
            (live[0].id.as_str(), live[0].leader, live[0].from.as_deref()),
            ("3", 4711, Some("192.0.2.1"))
        );
        assert_eq!(live[0].since, Some("2026-11-25T22:11:33Z".parse().unwrap()));
        assert_eq!(
            (live[2].account.as_str(), live[2].since, &live[2].from),
            ("bob", None, &None)
        );
        assert_eq!(
            live.iter().map(|live| live.closing).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert_eq!(ssh_sessions(""), []);
    }

    #[test]
    fn ids_are_words() {
        assert_eq!(
            ids("   3 1000 alice -     1234 user pts/0\nc12 0 root seat0\n--all x\n\n"),
            ["3", "c12"]
        );
    }

    #[test]
    fn the_key_of_a_login_is_read_and_no_certificate() {
        let key = "SHA256:XMXDrO0q8seSMcPZAr1n1bBjuNNJ8FS7ygjcKsdAPJo";
        let check = |line: &str, expected: Option<(&str, &str, Option<&str>)>| {
            let found = accepted(line).map(|a| (a.account, a.from, a.fingerprint));
            assert_eq!(found, expected, "{line}");
        };
        check(
            &format!("Accepted publickey for alice from 192.0.2.1 port 4711 ssh2: ED25519 {key}"),
            Some(("alice", "192.0.2.1", Some(key))),
        );
        check(
            &format!("Accepted publickey for alice from 2001:db8::1 port 1 ssh2: ECDSA-SK {key}\n"),
            Some(("alice", "2001:db8::1", Some(key))),
        );
        check(
            &format!(
                "Accepted publickey for alice from ::1 port 1 ssh2: ED25519-CERT {key} ID x (serial 0) CA ED25519 {key}"
            ),
            Some(("alice", "::1", None)),
        );
        check(
            &format!("Accepted publickey for alice from ::1 port 1 ssh2: ED25519-CERT {key}"),
            Some(("alice", "::1", None)),
        );
        check(
            "Accepted password for alice from 192.0.2.1 port 4711 ssh2",
            Some(("alice", "192.0.2.1", None)),
        );
        check(
            &format!("Accepted hostbased for alice from ::1 port 1 ssh2: ED25519 {key}"),
            Some(("alice", "::1", None)),
        );
        check(
            &format!("Failed publickey for alice from ::1 port 1 ssh2: ED25519 {key}"),
            None,
        );
        check(
            &format!(
                "Invalid user Accepted publickey for alice from ::1 port 1 ssh2: ED25519 {key}"
            ),
            None,
        );
    }
}
