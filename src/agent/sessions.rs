//! Live SSH sessions that were opened with a key that is not approved: named, and ended where that is asked for.
//!
//! logind and the journal are asked on a thread of its own: after a pass in which a key left a file or the list, for some
//! time from then, at start, and at each full check while such a session is known, or it is not known what there is; never
//! while there is no session.
//!
//! Whether a session is ended depends on the list alone and not on the file: an account can keep its file from being
//! written.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::agent::events::Teller;
use crate::agent::inquiry::Inquiry;
use crate::host::sessions::{self, Login};
use crate::host::{ProgramError, chain};
use crate::model::desired::decide::Decision;
use crate::model::key::grant::with_break_glass;
use crate::model::session::{Live, Session, news};
use crate::model::words::several;

/// The sessions that are known, and what is being asked about them.
#[derive(Default)]
pub struct Sessions {
    /// Live, and opened with a key that is not approved.
    pub known: Vec<Session>,
    /// Why it is not known of every live session which key opened it.
    pub unknown: Option<String>,
    asking: Inquiry<Answer>,
    /// When the host was last asked.
    asked: Option<Instant>,
    /// Ask as soon as that may be: something has happened since.
    soon: bool,
    /// When to ask once more.
    later: VecDeque<Instant>,
    /// Some were just ended, and are not ended again if logind still shows them.
    just_ended: bool,
}

/// What the host answered.
pub enum Answer {
    /// Every SSH session whose key is known, and those whose key is not.
    Looked(Result<Found, ProgramError>),
    /// Whether each of these was ended.
    Ended(Vec<(Session, Result<bool, ProgramError>)>),
}

#[derive(Default)]
pub struct Found {
    keyed: Vec<Session>,
    unknown: Vec<Live>,
}

/// Least time between two rounds of questions. Each runs several programs, and an account that plants keys in a loop would
/// have root run them without end.
const PAUSE: Duration = Duration::from_secs(1);

/// sshd may have taken a key a moment before it left, and logind hears of the session once its user is logged in: at the
/// latest after `LoginGraceTime`, which is two minutes. Those that were told to end have time until then, too.
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
    /// Asks without waiting: now, or as soon as the host may be asked again.
    pub fn ask(&mut self, now: Instant) {
        self.soon = true;
        self.ask_what_is_due(now);
    }

    /// A key has left: asks again, later and later.
    pub fn ask_again_later(&mut self, now: Instant) {
        self.later = LATER.map(|wait| now + wait).into();
    }

    /// When to ask again; while something is asked, its answer comes first.
    pub fn next_question(&self) -> Option<Instant> {
        let later = self.later.front().copied();
        if self.asking.is_open() || !self.soon && later.is_none() {
            return None;
        }
        let may = self.asked.map(|asked| asked + PAUSE);
        if self.soon { may } else { may.max(later) }
    }

    /// Asks, if it is time; nothing is asked while there is no session.
    pub fn ask_what_is_due(&mut self, now: Instant) {
        let is_early = self.next_question().is_some_and(|at| at > now);
        if self.asking.is_open() || is_early {
            return;
        }
        self.soon = false;
        while self.later.front().is_some_and(|at| *at <= now) {
            self.later.pop_front();
        }
        if sessions::are_open() || !self.known.is_empty() || self.unknown.is_some() {
            self.asked = Some(now);
            self.asking.ask(None, || Answer::Looked(look()));
        }
    }

    /// The next answer; never, while nothing is asked. Cancel-safe: an answer that comes meanwhile is kept.
    pub async fn answer(&mut self) -> Option<Answer> {
        self.asking.next().await
    }

    pub fn is_asking(&self) -> bool {
        self.asking.is_open()
    }

    /// Takes an answer in, says what is new, and has those ended that nothing approves, if that `may` be.
    pub fn take(
        &mut self,
        answer: Option<Answer>,
        decision: &Decision,
        may_end: bool,
        teller: &Teller,
        (now, instant): (Timestamp, Instant),
    ) {
        match answer {
            Some(Answer::Looked(Ok(found))) => {
                self.unknown = found.unknown(decision);
                let unapproved = unapproved(decision, found.keyed, now);
                for session in news(&self.known, &unapproved) {
                    teller.revoked_session(session, instant);
                }
                self.found(unapproved, |session| {
                    // Without a time, the login may be an older one of the same pid.
                    let sure = session.since.is_some();
                    may_end && sure && decision.denies(&session.account, &session.fingerprint)
                });
            }
            Some(Answer::Looked(Err(error))) => self.not_answered(chain(&error), instant),
            Some(Answer::Ended(ended)) => {
                for (session, ended) in ended {
                    match ended {
                        Ok(true) => teller.session_ended(&session, instant),
                        // It had ended by itself.
                        Ok(false) => {}
                        Err(error) => {
                            let error = chain(&error);
                            tracing::warn!(session = session.id, error, "session not ended");
                        }
                    }
                }
                // logind takes a moment; one that is still there later is ended again.
                self.asking.ask(None, || Answer::Looked(look()));
                self.just_ended = true;
                self.ask_again_later(instant);
            }
            None => self.not_answered("there is no thread to ask on".to_owned(), instant),
        }
    }

    fn not_answered(&mut self, error: String, now: Instant) {
        if self.unknown.as_ref() != Some(&error) {
            tracing::warn!(error, "live sessions are not known");
            self.ask_again_later(now);
        }
        self.unknown = Some(error);
    }

    fn found(&mut self, found: Vec<Session>, ends: impl Fn(&Session) -> bool) {
        let just_ended = std::mem::take(&mut self.just_ended);
        let to_end = found.iter().filter(|session| !just_ended && ends(session));
        let to_end: Vec<Session> = to_end.cloned().collect();
        self.known = found;
        if !to_end.is_empty() {
            self.asking.ask(None, || Answer::Ended(end(to_end)));
        }
    }
}

impl Found {
    /// Which sessions have a key that is not known, in words.
    fn unknown(&self, decision: &Decision) -> Option<String> {
        let managed = self
            .unknown
            .iter()
            .filter(|live| decision.speaks_of(&live.account));
        let all: Vec<String> = managed
            .map(|live| format!("session {} of {}", live.id, live.account))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        (!all.is_empty()).then(|| format!("the journal has no login of {}", several(&all)))
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
    Some(unapproved(decision, look().ok()?.keyed, now))
}

/// Those whose key is not in force. Before the first list nothing is said of any key.
fn unapproved(decision: &Decision, mut sessions: Vec<Session>, now: Timestamp) -> Vec<Session> {
    sessions.retain(|session| {
        let grants = decision.grants_of(&session.account);
        let keys = with_break_glass(grants, &decision.in_force.break_glass, now);
        let mut keys = keys.iter();
        decision.speaks_of(&session.account)
            && !keys.any(|grant| grant.fingerprint == session.fingerprint)
    });
    sessions
}

/// Every SSH session of this host. Blocks.
fn look() -> Result<Found, ProgramError> {
    let mut found = Found::default();
    if !sessions::are_open() {
        return Ok(found);
    }
    let live = sessions::ssh_sessions()?;
    if live.is_empty() {
        return Ok(found);
    }
    let leaders: Vec<u32> = live.iter().map(|live| live.leader).collect();
    let begin = |live: &Live| live.since?.checked_sub(BEFORE).ok();
    // Of one whose beginning is not known, the login may be any of this boot.
    let begins: Option<Vec<Timestamp>> = live.iter().map(begin).collect();
    let since = begins.and_then(|all| all.into_iter().min());
    let logins = sessions::logins(&leaders, since)?;
    for live in live {
        match login(&live, &logins) {
            None => found.unknown.push(live),
            Some(login) => found.keyed.extend(keyed(live, login)),
        }
    }
    Ok(found)
}

/// The login of a session: the last one that its leader logged before it began. A pid may have been another's before.
fn login<'a>(live: &Live, logins: &'a [Login]) -> Option<&'a Login> {
    let in_time = |login: &Login| match live.since {
        Some(since) => (-AFTER..=BEFORE).contains(&since.duration_since(login.at)),
        None => true,
    };
    let own = |login: &&Login| login.pid == live.leader && login.account == live.account.as_str();
    logins.iter().rfind(|login| own(login) && in_time(login))
}

fn keyed(live: Live, login: &Login) -> Option<Session> {
    Some(Session {
        fingerprint: login.fingerprint.clone()?,
        account: live.account,
        id: live.id,
        leader: live.leader,
        from: live.from.or_else(|| Some(login.from.clone())),
        since: live.since,
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
            closing: false,
            since: since.map(|at| Timestamp::from_second(at).unwrap()),
        }
    }

    fn login_of(account: &str, key: &str, at: i64) -> Login {
        Login {
            pid: 10,
            account: account.to_owned(),
            from: "192.0.2.1".to_owned(),
            fingerprint: Some(key.to_owned()),
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    #[test]
    fn a_session_has_the_key_of_the_login_that_began_it() {
        let logins = [
            login_of("alice", "older", 50),
            login_of("alice", "own", 101),
            login_of("bob", "another's", 101),
            login_of("alice", "later", 1000),
        ];
        let key = |leader, since| {
            let login = login(&live(leader, since), &logins)?;
            Some(keyed(live(leader, since), login)?.fingerprint)
        };
        assert_eq!(key(10, Some(100)).as_deref(), Some("own"));
        assert_eq!(key(10, None).as_deref(), Some("later"));
        assert_eq!(key(10, Some(20)), None, "it began before any of them");
        assert_eq!(key(10, Some(500)), None, "and long after those");
        assert_eq!(key(11, Some(100)), None);
    }

    /// An account that plants keys in a loop makes a pass ask each time.
    #[test]
    fn the_host_is_asked_once_a_second_and_the_last_question_is_not_lost() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut sessions = Sessions {
            unknown: Some("so that there is something to ask".to_owned()),
            ..Sessions::default()
        };
        let mut asked = Vec::new();
        for millisecond in 0..3_500 {
            if millisecond <= 2_500 {
                sessions.ask(at(millisecond));
            } else if sessions
                .next_question()
                .is_some_and(|due| due <= at(millisecond))
            {
                sessions.ask_what_is_due(at(millisecond));
            }
            if sessions.is_asking() {
                asked.push(millisecond);
                sessions.asking = Inquiry::default();
            }
        }
        assert_eq!(asked, [0, 1_000, 2_000, 3_000]);
        assert_eq!(sessions.next_question(), None);
        sessions.ask_again_later(at(3_500));
        assert_eq!(sessions.next_question(), Some(at(5_500)));
        sessions.ask(at(3_600));
        assert_eq!(sessions.next_question(), Some(at(4_000)));
    }
}
