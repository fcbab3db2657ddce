//! From a difference to an incident: what is news, what came again, and who makes the same change again and again.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::pass::Enforcer;
use crate::agent::seen::Seen;
use crate::agent::{events, files, recorder};
use crate::host::audit;
use crate::model::account::AccountName;
use crate::model::file::difference::Difference;
use crate::model::file::wanted::Wanted;
use crate::model::past::audit::Sought;
use crate::model::past::incident::{Incident, More, SCHEMA, Since, Undone};
use crate::model::past::rivals::News;

/// What is said of an incident in the log.
pub(super) struct Recorded {
    pub(super) id: String,
    pub(super) stood_milliseconds: Option<u64>,
    /// How many before it were not said; `None` when it is not said itself.
    pub(super) said: Option<u64>,
}

/// One difference, with all that is known of it.
pub(super) struct Found<'a> {
    pub(super) account: &'a AccountName,
    pub(super) file: &'a Path,
    pub(super) differences: &'a [Difference],
    pub(super) wanted: &'a Wanted,
    pub(super) seen: Seen,
    pub(super) undone: Undone,
}

impl Enforcer {
    /// Takes down an incident.
    pub(super) fn incident(&mut self, found: Found<'_>, now: Timestamp) -> Recorded {
        let Found {
            account,
            file,
            differences,
            wanted,
            seen,
            undone,
        } = found;
        let milliseconds =
            |stood: jiff::SignedDuration| u64::try_from(stood.as_millis()).unwrap_or_default();
        let mut stood = seen.stood(now).map(milliseconds);
        let mut since = seen.since.map(|(_, since)| since);
        // Changed again while it could not be undone, it has a younger time than when it was first seen.
        let first = self
            .standing
            .remove(account)
            .map(|first| milliseconds(now.duration_since(first)));
        if first > stood {
            (stood, since) = (first, Some(Since::Seen));
        }
        let id = Incident::name(account, now);
        let what = events::changes(differences).join(", ");
        let content = seen
            .evidence
            .as_ref()
            .map(|evidence| evidence.sha256.as_str());
        let news = self.recent.take(account, &what, content, &id, now);
        let at = seen.undone_at.unwrap_or(now);
        let directory = files::incidents(&self.config.paths);
        let more = |repeated, uncounted| More {
            repeated,
            uncounted,
            at,
            stood_milliseconds: stood,
        };
        let id = match news {
            News::Again(id) => {
                self.recorder.again(&directory, &id, more(1, 0));
                id
            }
            News::Flood(id) => {
                self.recorder.again(&directory, &id, more(0, 1));
                id
            }
            News::Fresh => {
                let sought = Sought {
                    file: file.to_owned(),
                    inode: seen.inode,
                    directory: seen.directory,
                    changed_at: seen.since.map(|(at, _)| at),
                    undone_at: at,
                    own_pid: std::process::id(),
                };
                let (changes, more_changes) = Incident::changes(differences, wanted);
                let mut incident = Incident {
                    schema: SCHEMA,
                    id: id.clone(),
                    at,
                    last_at: at,
                    account: account.clone(),
                    file: file.display().to_string(),
                    changes,
                    more_changes,
                    stood_milliseconds: stood,
                    stood_since: since,
                    undone,
                    evidence: seen.evidence,
                    who: None,
                    repeated: 0,
                    uncounted: 0,
                };
                if !self.recent.may_keep(account, recorder::size(&incident)) {
                    incident.shorten();
                }
                let content = seen
                    .content
                    .filter(|content| self.recent.may_keep(account, recorder::length(content)));
                self.recorder.add(&directory, incident, content, sought);
                id
            }
        };
        Recorded {
            id,
            stood_milliseconds: stood,
            said: self.recent.may_say(account, now),
        }
    }

    /// Says once that an account has a rival; with its name, if that is still to come.
    pub(super) fn name_rival(&mut self, account: &AccountName) {
        /// The audit log is asked for the first of these; by then it has answered.
        const NAMED_BY: u64 = 20;
        let Some(rival) = self.recent.rival(account).filter(|rival| !rival.said) else {
            return;
        };
        let program = self.recorder.program(account);
        if program.is_some() || rival.times >= NAMED_BY || !audit::is_here() {
            events::rival(account, rival.times, program.as_deref());
            self.recent.said(account);
        }
    }

    /// What `status` says of rivals.
    pub(super) fn rival_problems(&self) -> impl Iterator<Item = String> {
        self.recent.rivals().map(|(account, rival)| {
            let program = self.recorder.program(account);
            let who = program.map_or_else(
                || "another program manages this file".to_owned(),
                |program| format!("`{program}` manages this file too"),
            );
            let (times, since) = (rival.times, rival.since);
            format!(
                "{account}: the same change comes again and again ({times} times since {since:.0}): {who}"
            )
        })
    }

    /// How long the next repair of an account waits for a rival's sake, if there is one.
    pub(super) fn back_off(&mut self, account: &AccountName, now: Timestamp) -> Option<Duration> {
        self.forget_changes(now);
        self.recent
            .rival(account)
            .map(|rival| rival.wait)
            .filter(|wait| !wait.is_zero())
    }

    /// Forgets what has been quiet for a minute.
    pub(super) fn forget_rivals(&mut self, now: Timestamp) {
        self.forget_changes(now);
        let recent = &self.recent;
        self.recorder.forget(|account| recent.knows(account));
    }

    fn forget_changes(&mut self, now: Timestamp) {
        for (account, changes) in self.recent.forget(now) {
            events::unsaid(&account, changes);
        }
    }
}
