//! Live SSH sessions that were opened with a key that is not approved: named, and ended where that is asked for.
//!
//! logind and the journal are asked on a thread of its own: after a pass in which a key left a file or the list, for some
//! time from then, at start, and at each full check while such a session is known; never while nobody is logged in.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::agent::events::{self, chain};
use crate::agent::pass::Enforcer;
use crate::host::ProgramError;
use crate::host::sessions::{self, Login};
use crate::model::config::tables::Mode;
use crate::model::key::grant::with_break_glass;
use crate::model::session::{Live, Session, news};
use crate::model::status::schema::AccountState;

/// What was asked of the host, and has not been answered.
#[derive(Default)]
pub(super) struct Asking {
    answer: Option<oneshot::Receiver<Answer>>,
    /// Ask again when this is answered: keys have left since.
    again: bool,
    /// When to ask once more.
    later: VecDeque<Instant>,
    /// Some were just ended, and are not ended again if logind still shows them.
    ended: bool,
}

/// What the host answered.
pub enum Answer {
    /// Every SSH session whose key is known.
    Looked(Result<Vec<Keyed>, ProgramError>),
    /// These were to be ended; whether they were.
    Ended(Vec<(Session, Result<bool, ProgramError>)>),
}

/// A session and its key.
pub struct Keyed {
    session: Session,
    /// It is sure enough to end it: without a time, or from a log file that keeps no year and no boot, the login may be an
    /// older one of the same pid.
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

/// Every SSH session of this host whose key is known. Blocks.
fn look() -> Result<Vec<Keyed>, ProgramError> {
    if !sessions::are_open() {
        return Ok(Vec::new());
    }
    let live = sessions::ssh_sessions()?;
    let leaders: Vec<u32> = live.iter().map(|live| live.leader).collect();
    // Of one whose beginning is not known, the login may be any of this boot.
    let begins = live.iter().map(|live| live.since?.checked_sub(BEFORE).ok());
    let since = begins
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.into_iter().min());
    let logins = if leaders.is_empty() {
        Vec::new()
    } else {
        sessions::logins(&leaders, since)?
    };
    Ok(live
        .into_iter()
        .filter_map(|live| keyed(live, &logins))
        .collect())
}

/// The key of a session: that of the last login its leader logged before it began. A pid may have been another's before.
fn keyed(live: Live, logins: &[Login]) -> Option<Keyed> {
    let in_time = |login: &&Login| {
        let lag = live
            .since
            .zip(login.at)
            .map(|(since, at)| since.duration_since(at));
        lag.is_none_or(|lag| (-AFTER..=BEFORE).contains(&lag))
    };
    let same_place = |login: &&Login| login.at.is_some() || live.from.as_ref() == Some(&login.from);
    let own = |login: &&Login| login.pid == live.leader && login.account == live.account.as_str();
    let login = logins
        .iter()
        .filter(own)
        .filter(in_time)
        .rfind(same_place)?;
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

/// What a person is told of it.
pub fn problem(session: &Session) -> String {
    let Session {
        account,
        id,
        fingerprint,
        from,
        ..
    } = session;
    let from = from
        .as_deref()
        .map(|from| format!(" from {from}"))
        .unwrap_or_default();
    format!(
        "session {id} of {account}{from} was opened with a key that is not approved, {fingerprint}; \
         hint: loginctl terminate-session {id}, or `end-sessions = true`"
    )
}

impl Enforcer {
    /// Those of `sessions` whose key is not in force. Before the first list nothing is said of anybody's key.
    fn unapproved(&self, sessions: Vec<Keyed>, now: Timestamp) -> Vec<Keyed> {
        let mut sessions = sessions;
        sessions.retain(|keyed| {
            let session = &keyed.session;
            let account = self
                .enforced
                .accounts
                .get(&session.account)
                .filter(|account| account.managed);
            let Some(account) = account.filter(|_| self.enforced.list.is_some()) else {
                return false;
            };
            let grants = if self.decided.revoked {
                &[][..]
            } else {
                &account.grants
            };
            let keys = with_break_glass(grants, &self.enforced.break_glass, now);
            !keys
                .iter()
                .any(|grant| grant.fingerprint == session.fingerprint)
        });
        sessions
    }

    /// Asks now, and blocks; for `status`. `None` when the host does not say.
    pub fn sessions_now(&self, now: Timestamp) -> Option<Vec<Session>> {
        let found = look().ok()?;
        Some(
            self.unapproved(found, now)
                .into_iter()
                .map(|keyed| keyed.session)
                .collect(),
        )
    }

    /// Asks, without waiting; nothing is asked while nobody is logged in.
    pub(super) fn ask_for_sessions(&mut self) {
        if self.asking.answer.is_some() {
            self.asking.again = true;
        } else if sessions::are_open() || !self.status.sessions.is_empty() {
            self.ask(|| Answer::Looked(look()));
        }
    }

    /// A key has left: asks again, later and later.
    pub(super) fn ask_again_later(&mut self) {
        let now = Instant::now();
        self.asking.later = LATER.map(|wait| now + wait).into();
    }

    /// When to ask again, if ever.
    pub(super) fn next_question(&self) -> Option<Instant> {
        self.asking.later.front().copied()
    }

    /// Asks again.
    pub(super) fn ask_now(&mut self) {
        self.asking.later.pop_front();
        self.ask_for_sessions();
    }

    fn ask(&mut self, question: impl FnOnce() -> Answer + Send + 'static) {
        let (sender, receiver) = oneshot::channel();
        self.asking.answer = Some(receiver);
        std::thread::spawn(move || {
            // An enforcer that has ended wants no answer.
            let _ = sender.send(question());
        });
    }

    /// The next answer; never, while nothing is asked. Cancel-safe: an answer that comes while nobody waits is kept.
    pub async fn session_answer(&mut self) -> Option<Answer> {
        match &mut self.asking.answer {
            Some(answer) => answer.await.ok(),
            None => std::future::pending().await,
        }
    }

    /// True while an answer is to come.
    pub fn is_asking(&self) -> bool {
        self.asking.answer.is_some()
    }

    /// Takes an answer in, says what is new, and ends what is to be ended.
    pub fn take_sessions(&mut self, answer: Option<Answer>, now: Timestamp) {
        self.asking.answer = None;
        let again = std::mem::take(&mut self.asking.again);
        match answer {
            Some(Answer::Looked(Ok(found))) => self.found_sessions(found, now),
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
                            tracing::warn!(
                                session = session.id,
                                error = chain(&error),
                                "session not ended"
                            );
                        }
                    }
                }
                // logind takes a moment; the next full check looks again.
                self.ask(|| Answer::Looked(look()));
                self.asking.ended = true;
            }
            None => {}
        }
        if again {
            self.ask_for_sessions();
        }
    }

    fn found_sessions(&mut self, found: Vec<Keyed>, now: Timestamp) {
        let just_ended = std::mem::take(&mut self.asking.ended);
        let found = self.unapproved(found, now);
        let ends =
            self.config.accounts.end_sessions && self.config.mode == Mode::Enforce && !just_ended;
        let in_sync = |session: &Session| {
            self.status
                .accounts
                .get(&session.account)
                .is_some_and(|account| account.state == AccountState::InSync)
        };
        let to_end: Vec<Session> = found
            .iter()
            .filter(|keyed| ends && keyed.sure && in_sync(&keyed.session))
            .map(|keyed| keyed.session.clone())
            .collect();
        let sessions: Vec<Session> = found.into_iter().map(|keyed| keyed.session).collect();
        news(&self.status.sessions, &sessions)
            .into_iter()
            .for_each(events::revoked_session);
        self.status.sessions = sessions;
        self.describe(now);
        if !to_end.is_empty() {
            self.ask(move || {
                let end = |session: Session| {
                    let ended = sessions::end(&session.id, session.leader);
                    (session, ended)
                };
                Answer::Ended(to_end.into_iter().map(end).collect())
            });
        }
    }
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
