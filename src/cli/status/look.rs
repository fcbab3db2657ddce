//! The status of this moment, as far as this user may look.

use jiff::Timestamp;

use crate::agent::fetched;
use crate::agent::gather::List;
use crate::agent::pass::Reconciler;
use crate::agent::workers::PATIENCE;
use crate::agent::{paths, publish, sessions, unmanaged};
use crate::cli::surroundings;
use crate::host::store::{self, StoreError};
use crate::host::{accounts, chain, process};
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Mode};
use crate::model::status::assess::{self, OfEnforcer, OfFetcher};
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{Enforcer, Host, SshdStatus, Status, keys};

/// The status of this moment as far as this user may look; and why that was not all.
pub(super) async fn status(config: Config, now: Timestamp) -> (Status, Option<String>) {
    let holder = process::holder(&paths::enforce_lock(&config.paths));
    let runs = holder.is_some();
    let mut problems = Vec::new();
    let said = match publish::read_with_keys(&config.paths) {
        Ok(said) => said,
        Err(error) => {
            let error = chain(&error);
            problems.push(Problem::new(Cause::WordUnreadable { error }));
            None
        }
    };
    // Another process than the one that spoke last has the lock: it has not spoken yet.
    let is_of_another = |said: &Status| {
        let pid = holder.as_ref().and_then(|holder| holder.pid);
        pid.is_some_and(|pid| pid != said.enforcer.pid)
    };
    if runs && said.as_ref().is_none_or(is_of_another) && problems.is_empty() {
        problems.push(Problem::new(Cause::FirstPass));
    }
    let is_refused = |said: &Status| said.list.refused_since.is_some();
    let (mut status, mut unseen) = match (said, config.mode) {
        // It saves nothing, so what the list before left in force is known to it alone.
        (Some(said), Mode::Observe) if is_refused(&said) => {
            let why = "in observe mode only the enforcer knows the last list that counted";
            (said, Some(why.to_owned()))
        }
        (said, _) => match look(&config, said.clone(), now).await {
            Ok(status) => (status, None),
            Err(error) => (
                said.unwrap_or_else(|| unknown(&config, now)),
                Some(chain(&error)),
            ),
        },
    };
    status.problems.extend(problems);
    let (of_fetcher, not_told) = fetcher(&config);
    assess::add_fetcher(&mut status, of_fetcher, &config, now);
    if !runs {
        status.problems.push(Problem::new(Cause::NoEnforcer));
    }
    let row = status
        .rows
        .values()
        .find(|row| !row.verified && row.state.is_managed());
    if let Some(row) = row
        && unseen.is_none()
    {
        unseen = Some(format!("the file of {} was not looked at", row.name));
    }
    (status, unseen.or(not_told))
}

/// Nothing is known.
fn unknown(config: &Config, now: Timestamp) -> Status {
    let of = OfEnforcer {
        host: host(None),
        enforcer: no_enforcer(now),
        problems: Vec::new(),
        sessions: Vec::new(),
    };
    assess::nothing_known(config, of)
}

fn host(instance: Option<String>) -> Host {
    Host {
        name: process::host_name(),
        instance,
    }
}

fn no_enforcer(now: Timestamp) -> Enforcer {
    Enforcer {
        pid: 0,
        started_at: now,
        written_at: now,
        asked_at: None,
    }
}

/// Makes the decisions of the enforcer with the same code, and looks at the files; writes nothing. What only the enforcer
/// knows is taken from what it `said`.
async fn look(config: &Config, said: Option<Status>, now: Timestamp) -> Result<Status, StoreError> {
    let mut reconciler = Reconciler::observer(config.clone(), surroundings::zone(), said.clone())?;
    reconciler
        .decide(List::Stored, None, Some(PATIENCE), &|| (), now)
        .await;
    let local = accounts::local();
    let asked = reconciler.consult_sshd(local.clone(), now).await;
    reconciler
        .look_once(true, now, surroundings::instant())
        .await;
    let live = if process::is_root() {
        sessions::now_live(&reconciler.decision, now)
    } else {
        None
    };
    let mut problems = Vec::new();
    let mut of = OfEnforcer {
        host: host(reconciler.in_force().instance.clone()),
        enforcer: no_enforcer(now),
        problems: Vec::new(),
        sessions: Vec::new(),
    };
    let mut sshd = None;
    if let Some(said) = said {
        problems.extend(said.problems);
        of.enforcer = said.enforcer;
        of.sessions = said.sessions;
        sshd = said.sshd;
    }
    of.sessions = live.unwrap_or(of.sessions);
    problems.retain(|one: &Problem| {
        let of_sshd = !asked && one.cause.is_of_sshd();
        of_sshd || one.cause.is_the_enforcers_own()
    });
    if process::is_root() && !asked && !reconciler.people().is_empty() {
        let error = "it has not answered in time".to_owned();
        sshd = sshd.map(|known| SshdStatus {
            error: Some(error.clone()),
            ..known
        });
        problems.push(Problem::new(Cause::SshdSilent { error }));
    }
    of.problems = problems;
    let mut status = reconciler.status(of, now);
    if !asked {
        // What the enforcer was told stays.
        status.sshd = sshd;
    }
    let names: Vec<AccountName> = status.rows.names().cloned().collect();
    for name in names {
        let keys = keys(&reconciler.decision, &name, now);
        status.rows.set_keys(&name, keys);
    }
    if let Some((answer, _)) = reconciler.world.sshd.said()
        && asked
    {
        let managed = |name: &AccountName| {
            let row = status.rows.get(name);
            row.is_some_and(|row| row.state.is_managed() && reconciler.is_in_force(name))
        };
        let found = unmanaged::look(answer, local, managed);
        let mut files = found.files;
        for file in &mut files {
            let name = AccountName::try_from(file.name.as_str());
            file.awaits_list = name.is_ok_and(|name| reconciler.claims(&name, file.uid));
        }
        status.unmanaged = Some(files);
        status.unmanaged_cut = found.cut;
    }
    Ok(status)
}

/// What the fetcher says; and why that is not known. Its own directory may be for root alone (`DynamicUser=`): then what the
/// enforcer has passed on.
fn fetcher(config: &Config) -> (OfFetcher, Option<String>) {
    let nothing = OfFetcher {
        report: None,
        runs: None,
        unreadable: None,
    };
    match fetched::report(&config.paths) {
        Ok(report) => {
            let runs = process::holder(&paths::fetch_lock(&config.paths)).is_some();
            let of = OfFetcher {
                report,
                runs: Some(runs),
                ..nothing
            };
            (of, None)
        }
        Err(error) if error.is_denied() => {
            match store::read_json(&paths::fetch_report_copy(&config.paths)) {
                Ok(Some(report)) => {
                    let report = Some(report);
                    (OfFetcher { report, ..nothing }, None)
                }
                _ => (nothing, Some(chain(&error))),
            }
        }
        Err(error) => {
            let of = OfFetcher {
                runs: Some(process::holder(&paths::fetch_lock(&config.paths)).is_some()),
                unreadable: Some(chain(&error)),
                ..nothing
            };
            (of, None)
        }
    }
}
