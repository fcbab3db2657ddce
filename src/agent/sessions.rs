//! Live SSH sessions that were opened with a key that is not approved: named, and ended where that is asked for.
//!
//! logind and the journal are asked on a thread of its own: after a pass in which a key left a file or the list, for some
//! time from then, at start, and at each full check while such a session is known; never while there is no session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::agent::events;
use crate::agent::inquiry::Inquiry;
use crate::host::sessions::{self, Login};
use crate::host::{ProgramError, chain};
use crate::model::desired::decide::Decision;
use crate::model::key::grant::with_break_glass;
use crate::model::session::{Live, Session, news};

/// The sessions that are known, and what is being asked about them.
#[derive(Default)]
pub struct Sessions {
    /// Live, and opened with a key that is not approved.
    pub known: Vec<Session>,
    asking: Inquiry<Answer>,
    /// Ask again when this is answered: keys have left since.
    again: bool,
    /// When to ask once more.
    later: VecDeque<Instant>,
    /// Some were just ended, and are not ended again if logind still shows them.
    just_ended: bool,
}

/// What the host answered.
pub enum Answer {
    /// Every SSH session whose key is known.
    Looked(Result<Vec<Keyed>, ProgramError>),
    /// Whether each of these was ended.
    Ended(Vec<(Session, Result<bool, ProgramError>)>),
}

/// A session and its key.
pub struct Keyed {
    session: Session,
    /// Sure enough to end it: without a time, or from a log file that keeps no year and no boot, the login may be an older
    /// one of the same pid.
    sure: bool,
}

/// sshd may have taken a key a moment before it left, and logind hears of the session once its user is logged in: at the
/// latest after `LoginGraceTime`, which is two minutes.
const LATER: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(40),
    Duration::from_secs(130),
];

/// How a login and the beginning of its session lie: logind notes whole seconds, PAM modules may take their time.
const BEFORE: SignedDuration = SignedDuration::from_mins(2);
const AFTER: SignedDuration = SignedDuration::from_secs(2);

impl Sessions {
    /// Asks, without waiting; nothing is asked while there is no session.
    pub fn ask(&mut self) {
        if self.asking.is_open() {
            self.again = true;
        } else if sessions::are_open() || !self.known.is_empty() {
            self.asking.ask(None, || Answer::Looked(look()));
        }
    }

    /// A key has left: asks again, later and later.
    pub fn ask_again_later(&mut self, now: Instant) {
        self.later = LATER.map(|wait| now + wait).into();
    }

    /// When to ask again.
    pub fn next_question(&self) -> Option<Instant> {
        self.later.front().copied()
    }

    /// Asks again, as it is time.
    pub fn ask_once_more(&mut self) {
        self.later.pop_front();
        self.ask();
    }

    /// The next answer; never, while nothing is asked. Cancel-safe: an answer that comes meanwhile is kept.
    pub async fn answer(&mut self) -> Option<Answer> {
        self.asking.next().await
    }

    pub fn is_asking(&self) -> bool {
        self.asking.is_open()
    }

    /// Takes an answer in, says what is new, and has those ended that `ends` says.
    pub fn take(
        &mut self,
        answer: Option<Answer>,
        decision: &Decision,
        ends: impl Fn(&Session) -> bool,
        now: Timestamp,
    ) {
        match answer {
            Some(Answer::Looked(Ok(found))) => self.found(unapproved(decision, found, now), ends),
            Some(Answer::Looked(Err(error))) => {
                tracing::warn!(error = chain(&error), "live sessions are not known");
            }
            Some(Answer::Ended(ended)) => {
                for (session, ended) in ended {
                    match ended {
                        Ok(true) => events::session_ended(&session),
                        // It had ended by itself.
                        Ok(false) => {}
                        Err(error) => {
                            let error = chain(&error);
                            tracing::warn!(session = session.id, error, "session not ended");
                        }
                    }
                }
                // logind takes a moment; the next full check looks again.
                self.asking.ask(None, || Answer::Looked(look()));
                self.just_ended = true;
            }
            None => {}
        }
        if std::mem::take(&mut self.again) {
            self.ask();
        }
    }

    fn found(&mut self, found: Vec<Keyed>, ends: impl Fn(&Session) -> bool) {
        let just_ended = std::mem::take(&mut self.just_ended);
        let to_end = found
            .iter()
            .filter(|keyed| !just_ended && keyed.sure && ends(&keyed.session));
        let to_end: Vec<Session> = to_end.map(|keyed| keyed.session.clone()).collect();
        let sessions: Vec<Session> = found.into_iter().map(|keyed| keyed.session).collect();
        for session in news(&self.known, &sessions) {
            events::revoked_session(session);
        }
        self.known = sessions;
        if !to_end.is_empty() {
            self.asking.ask(None, || Answer::Ended(end(to_end)));
        }
    }
}

fn end(ended: Vec<Session>) -> Vec<(Session, Result<bool, ProgramError>)> {
    let end = |session: Session| {
        let ended = sessions::end(&session.id, session.leader);
        (session, ended)
    };
    ended.into_iter().map(end).collect()
}

/// The live sessions of this moment whose key is not approved; `None` when the host does not say. Blocks.
pub fn now_live(decision: &Decision, now: Timestamp) -> Option<Vec<Session>> {
    let found = unapproved(decision, look().ok()?, now).into_iter();
    Some(found.map(|keyed| keyed.session).collect())
}

/// Those whose key is not in force. Before the first list nothing is said of anybody's key.
fn unapproved(decision: &Decision, mut sessions: Vec<Keyed>, now: Timestamp) -> Vec<Keyed> {
    let in_force = &decision.in_force;
    sessions.retain(|keyed| {
        let session = &keyed.session;
        match in_force.accounts.get(&session.account) {
            Some(account) if account.managed && in_force.list.is_some() => {
                let grants = decision.grants_of(&session.account);
                let keys = with_break_glass(grants, &in_force.break_glass, now);
                !keys
                    .iter()
                    .any(|grant| grant.fingerprint == session.fingerprint)
            }
            _ => false,
        }
    });
    sessions
}

/// Every SSH session of this host whose key is known. Blocks.
fn look() -> Result<Vec<Keyed>, ProgramError> {
    if !sessions::are_open() {
        return Ok(Vec::new());
    }
    let live = sessions::ssh_sessions()?;
    if live.is_empty() {
        return Ok(Vec::new());
    }
    let leaders: Vec<u32> = live.iter().map(|live| live.leader).collect();
    let begin = |live: &Live| live.since?.checked_sub(BEFORE).ok();
    // Of one whose beginning is not known, the login may be any of this boot.
    let begins: Option<Vec<Timestamp>> = live.iter().map(begin).collect();
    let since = begins.and_then(|all| all.into_iter().min());
    let logins = sessions::logins(&leaders, since)?;
    Ok(live
        .into_iter()
        .filter_map(|live| keyed(live, &logins))
        .collect())
}

/// The key of a session: that of the last login its leader logged before it began. A pid may have been another's before.
fn keyed(live: Live, logins: &[Login]) -> Option<Keyed> {
    let in_time = |login: &Login| match (live.since, login.at) {
        (Some(since), Some(at)) => (-AFTER..=BEFORE).contains(&since.duration_since(at)),
        _ => true,
    };
    let same_place = |login: &Login| login.at.is_some() || live.from.as_ref() == Some(&login.from);
    let own = |login: &Login| login.pid == live.leader && login.account == live.account.as_str();
    let login = logins
        .iter()
        .rfind(|login| own(login) && in_time(login) && same_place(login))?;
    let session = Session {
        account: live.account,
        id: live.id,
        leader: live.leader,
        fingerprint: login.fingerprint.clone(),
        from: live.from.or_else(|| Some(login.from.clone())),
        since: live.since,
    };
    Some(Keyed {
        session,
        sure: login.at.is_some() && live.since.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(leader: u32, since: Option<i64>) -> Live {
        Live {
            id: "3".to_owned(),
            account: "alice".try_into().unwrap(),
            leader,
            from: Some("192.0.2.1".to_owned()),
            since: since.map(|at| Timestamp::from_second(at).unwrap()),
        }
    }

    fn login(account: &str, from: &str, fingerprint: &str, at: Option<i64>) -> Login {
        Login {
            pid: 10,
            account: account.to_owned(),
            from: from.to_owned(),
            fingerprint: fingerprint.to_owned(),
            at: at.map(|at| Timestamp::from_second(at).unwrap()),
        }
    }

    #[test]
    fn a_session_has_the_key_of_the_login_that_began_it() {
        let logins = [
            login("alice", "192.0.2.9", "older", Some(50)),
            login("alice", "web.example", "own", Some(101)),
            login("bob", "192.0.2.1", "another's", Some(101)),
            login("alice", "192.0.2.1", "later", Some(1000)),
        ];
        let key = |leader, since| {
            keyed(live(leader, since), &logins).map(|keyed| keyed.session.fingerprint)
        };
        assert_eq!(key(10, Some(100)).as_deref(), Some("own"));
        assert_eq!(key(10, None).as_deref(), Some("later"));
        assert_eq!(key(10, Some(20)), None, "it began before any of them");
        assert_eq!(key(10, Some(500)), None, "and long after those");
        assert_eq!(key(11, Some(100)), None);
    }

    #[test]
    fn a_log_file_is_believed_for_naming_alone() {
        let found = |from: &str| keyed(live(10, Some(100)), &[login("alice", from, "k", None)]);
        assert!(found("192.0.2.1").is_some_and(|keyed| !keyed.sure));
        assert!(
            found("192.0.2.2").is_none(),
            "another login of the same pid"
        );
    }
}
