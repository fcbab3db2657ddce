//! The enforcer's word, for everybody: `status.json`, `keys.json` beside it, and what has changed since.
//!
//! A status grows with the number of accounts, and a repair must not. So a pass over a few accounts writes only their
//! rows, into `status-changes.json`; when these are many, the whole is written anew, and then not again at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::agent::paths;
use crate::host::chain;
use crate::host::store::{self, StoreError};
use crate::model::account::AccountName;
use crate::model::config::tables::Paths;
use crate::model::desired::decide::Decision;
use crate::model::list::fetch_report::FetchReport;
use crate::model::list::rejected::Rejected;
use crate::model::past::memory::Drift;
use crate::model::session::Session;
use crate::model::status::problem::Problem;
use crate::model::status::schema::{
    Enforcer, Host, KeyStatus, ListStatus, Row, SshdStatus, Status, keys,
};

/// Bytes of changes that are written for one repair.
const MOST_CHANGES: usize = 12 << 10;

/// Rows that are written as changes.
const MOST_ROWS: usize = 32;

/// Least time between two writings of everything that repairs cause.
const PAUSE: Duration = Duration::from_secs(10);

/// What was written, so that it is not written again.
#[derive(Default)]
pub struct Publisher {
    /// When everything was written last: by the status itself, and by the clock that only goes on.
    base: Option<(Timestamp, Instant)>,
    /// Accounts whose row is another one since.
    since: BTreeSet<AccountName>,
    head: Option<Head>,
    keys_written: bool,
    /// Everything must be written, as soon as that may be.
    overdue: bool,
    /// When that could not be done.
    failed: Option<Instant>,
    relayed: Option<FetchReport>,
}

/// How much of the status a pass may have changed.
pub struct News<'a> {
    /// Accounts whose row is another one.
    pub rows: &'a BTreeSet<AccountName>,
    /// Accounts came or went.
    pub is_whole: bool,
    /// Keys came or went.
    pub keys: bool,
    /// Somebody waits for it.
    pub asked: bool,
}

/// All of a status that a pass may change and that is no row.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    host: Host,
    mode: String,
    problems: Vec<Problem>,
    list: ListStatus,
    rejected: Vec<Rejected>,
    drift: Drift,
    sshd: Option<SshdStatus>,
    sessions: Vec<Session>,
    enforcer: Enforcer,
}

impl Head {
    fn of(status: &Status) -> Self {
        Self {
            host: status.host.clone(),
            mode: status.mode.clone(),
            problems: status.problems.clone(),
            list: status.list.clone(),
            rejected: status.rejected.clone(),
            drift: status.drift.clone(),
            sshd: status.sshd.clone(),
            sessions: status.sessions.clone(),
            enforcer: status.enforcer.clone(),
        }
    }

    fn put_on(self, status: Status) -> Status {
        let Self {
            host,
            mode,
            problems,
            list,
            rejected,
            drift,
            sshd,
            sessions,
            enforcer,
        } = self;
        Status {
            host,
            mode,
            problems,
            list,
            rejected,
            drift,
            sshd,
            sessions,
            enforcer,
            ..status
        }
    }
}

/// What `status-changes.json` holds.
#[derive(Serialize, Deserialize)]
struct Changes {
    /// The writing of the status that they are changes of.
    since: Timestamp,
    /// No `flatten`: each type in it would have its code to be read a second time, 70 kB in all.
    head: Head,
    rows: Vec<Row>,
}

/// What `keys.json` holds, made while it is written.
struct Keys<'a> {
    decision: &'a Decision,
    now: Timestamp,
}

impl Serialize for Keys<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let names = self.decision.in_force.managed().map(|(name, _)| name);
        to.collect_map(names.map(|name| (name, keys(self.decision, name, self.now))))
    }
}

impl Publisher {
    /// Writes what is new in the status.
    pub fn publish(
        &mut self,
        paths: &Paths,
        status: &mut Status,
        decision: &Decision,
        news: &News<'_>,
        (now, instant): (Timestamp, Instant),
    ) {
        // What cannot be written now is still to be written later.
        self.since.extend(news.rows.iter().cloned());
        self.overdue |= news.is_whole || self.base.is_none();
        self.keys_written &= !news.keys;
        // Before it says when it is written.
        let head = Head::of(status);
        if self.head.as_ref() == Some(&head)
            && news.rows.is_empty()
            && self.keys_written
            && !self.overdue
        {
            return;
        }
        status.enforcer.written_at = now;
        let written = store::make_directory(&paths.runtime_dir, 0o755).and_then(|()| {
            if !self.keys_written {
                let keys = Keys { decision, now };
                store::write_large_json(&paths::keys(paths), &keys, 0o644)?;
                self.keys_written = true;
            }
            let may_write_all = news.is_whole
                || news.asked
                || self
                    .base
                    .is_none_or(|(_, at)| instant.duration_since(at) >= PAUSE);
            if may_write_all && self.overdue {
                return self.write_all(paths, status, instant);
            }
            self.write_changes(paths, status, instant, may_write_all)
        });
        match written {
            Ok(()) => {
                self.head = Some(head);
                self.failed = None;
            }
            Err(error) => {
                self.overdue = true;
                self.failed = Some(instant);
                tracing::error!(error = chain(&error), "status not written");
            }
        }
    }

    fn write_all(
        &mut self,
        paths: &Paths,
        status: &Status,
        instant: Instant,
    ) -> Result<(), StoreError> {
        store::write_json(&paths::status(paths), status, 0o644)?;
        // What is left of it is known by its time to be of an earlier status.
        let _ = std::fs::remove_file(paths::status_changes(paths));
        self.base = Some((status.enforcer.written_at, instant));
        self.since.clear();
        self.overdue = false;
        Ok(())
    }

    fn write_changes(
        &mut self,
        paths: &Paths,
        status: &Status,
        instant: Instant,
        may_write_all: bool,
    ) -> Result<(), StoreError> {
        let Some((since, _)) = self.base else {
            return Ok(());
        };
        let rows = self.since.iter().filter_map(|name| status.rows.get(name));
        let changes = Changes {
            since,
            head: Head::of(status),
            rows: rows.take(MOST_ROWS).cloned().collect(),
        };
        let bytes = serde_json::to_vec(&changes).unwrap_or_default();
        if self.since.len() > MOST_ROWS || bytes.len() > MOST_CHANGES {
            if may_write_all {
                return self.write_all(paths, status, instant);
            }
            self.overdue = true;
            return Ok(());
        }
        store::write_soon(&paths::status_changes(paths), &bytes, 0o644)
    }

    /// When everything must be written, though nothing else may happen.
    pub fn due(&self) -> Option<Instant> {
        let at = self.failed.or(self.base.map(|(_, at)| at))?;
        self.overdue.then(|| at + PAUSE)
    }

    /// Copies the fetcher's report to where everybody may read it: with `DynamicUser=`, the fetcher's directory is for root.
    pub fn relay_fetch(&mut self, paths: &Paths, report: Option<FetchReport>) {
        if report.is_none() || report == self.relayed {
            return;
        }
        let written = store::make_directory(&paths.runtime_dir, 0o755)
            .and_then(|()| store::write_json(&paths::fetch_report_copy(paths), &report, 0o644));
        match written {
            Ok(()) => self.relayed = report,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "how the last fetch went is not passed on"
                );
            }
        }
    }
}

/// The enforcer's last word, without the keys in force.
pub fn read(paths: &Paths) -> Result<Option<Status>, StoreError> {
    // Before the status: one that is written in between is later than these.
    let changes = store::read_json::<Changes>(&paths::status_changes(paths))?;
    let Some(mut status) = store::read_json::<Status>(&paths::status(paths))? else {
        return Ok(None);
    };
    if let Some(changes) = changes
        && changes.since == status.enforcer.written_at
    {
        status = changes.head.put_on(status);
        for row in changes.rows {
            status.rows.insert(row);
        }
    }
    Ok(Some(status))
}

/// The same, with the keys of each account.
pub fn read_with_keys(paths: &Paths) -> Result<Option<Status>, StoreError> {
    let Some(mut status) = read(paths)? else {
        return Ok(None);
    };
    let keys: Option<BTreeMap<AccountName, Vec<KeyStatus>>> =
        store::read_json(&paths::keys(paths))?;
    for (name, keys) in keys.unwrap_or_default() {
        status.rows.set_keys(&name, keys);
    }
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::config::tables::Config;
    use crate::model::status::assess::{self, OfEnforcer};
    use crate::model::status::schema::AccountState;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// A status of accounts `a0`, `a1` and so on, in these states.
    fn status(states: &[&str]) -> Status {
        let of = OfEnforcer {
            host: Host::default(),
            enforcer: Enforcer {
                pid: 1,
                started_at: at(0),
                written_at: at(0),
                asked_at: None,
            },
            problems: Vec::new(),
            sessions: Vec::new(),
        };
        let mut status = assess::nothing_known(&Config::default(), of);
        for (number, state) in states.iter().enumerate() {
            let row = serde_json::json!({"name": format!("a{number}"), "state": state});
            status.rows.insert(serde_json::from_value(row).unwrap());
        }
        status
    }

    struct Desk {
        publisher: Publisher,
        paths: Paths,
        start: Instant,
        _directory: tempfile::TempDir,
    }

    impl Desk {
        /// Everything is written, at the time 0.
        fn new(states: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let mut desk = Self {
                publisher: Publisher::default(),
                paths: Paths {
                    runtime_dir: directory.path().into(),
                    ..Paths::default()
                },
                start: Instant::now(),
                _directory: directory,
            };
            desk.publish(0, states, &[], false);
            desk
        }

        /// `changed` are the numbers of the accounts whose row is another one.
        fn publish(&mut self, seconds: u64, states: &[&str], changed: &[usize], asked: bool) {
            let rows = changed.iter().map(|number| name(*number)).collect();
            let news = News {
                rows: &rows,
                is_whole: false,
                keys: false,
                asked,
            };
            let now = at(i64::try_from(seconds).unwrap());
            let clocks = (now, self.start + Duration::from_secs(seconds));
            let mut status = status(states);
            self.publisher.publish(
                &self.paths,
                &mut status,
                &Decision::default(),
                &news,
                clocks,
            );
        }

        fn said(&self, number: usize) -> AccountState {
            let status = read(&self.paths).unwrap().unwrap();
            status.rows.get(&name(number)).unwrap().state
        }

        /// When everything is to be written, in seconds.
        fn due(&self) -> Option<u64> {
            let due = self.publisher.due()?;
            Some(due.duration_since(self.start).as_secs())
        }
    }

    fn name(number: usize) -> AccountName {
        format!("a{number}").as_str().try_into().unwrap()
    }

    #[test]
    fn what_could_not_be_written_is_written_later_and_not_at_once() {
        for file in [paths::status_changes, paths::status] {
            let mut desk = Desk::new(&["in-sync", "in-sync"]);
            let path = file(&desk.paths);
            let _ = fs::remove_file(&path);
            fs::create_dir(&path).unwrap();
            desk.publisher.overdue = path == paths::status(&desk.paths);
            desk.publish(20, &["refused", "in-sync"], &[0], false);
            assert_eq!(desk.due(), Some(30));
            desk.publish(30, &["refused", "in-sync"], &[], false);
            fs::remove_dir(&path).unwrap();
            assert_eq!(desk.due().unwrap_or(40), 40);
            desk.publish(40, &["refused", "in-sync"], &[], false);
            assert_eq!(desk.said(0), AccountState::Refused);
            assert_eq!(desk.due(), None);
        }
    }

    #[test]
    fn many_rows_wait_for_their_time_unless_somebody_does() {
        let (before, after) = (["in-sync"; 40], ["refused"; 40]);
        let all: Vec<usize> = (0..40).collect();
        let mut desk = Desk::new(&before);
        desk.publish(1, &after, &all, false);
        assert_eq!(
            (desk.due(), desk.said(39)),
            (Some(10), AccountState::InSync)
        );
        desk.publish(2, &after, &[], true);
        assert_eq!((desk.due(), desk.said(39)), (None, AccountState::Refused));
        let mut desk = Desk::new(&before);
        desk.publish(1, &after, &all[..2], false);
        assert_eq!((desk.due(), desk.said(1)), (None, AccountState::Refused));
    }

    #[test]
    fn changes_that_are_damaged_are_not_passed_over() {
        let mut desk = Desk::new(&["in-sync"]);
        desk.publish(1, &["refused"], &[0], false);
        assert_eq!(desk.said(0), AccountState::Refused);
        fs::write(paths::status_changes(&desk.paths), "{").unwrap();
        assert!(read(&desk.paths).is_err());
    }
}
