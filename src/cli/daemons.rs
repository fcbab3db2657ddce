//! `run`, `fetch` and `enforce`: the two halves, alone or together.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::agent::daemon;
use crate::agent::enforce::{self, Enforcing};
use crate::agent::fetch::{self, Fetcher};
use crate::agent::pass::Reconciler;
use crate::agent::publish;
use crate::agent::signals::{Asked, Signals, StartError};
use crate::agent::wakeups::Pending;
use crate::cli::surroundings::{self, Outcome};
use crate::host::half::{self, Half};
use crate::host::journal::Patience;
use crate::host::process::{Lock, LockError};
use crate::host::service::Service;
use crate::model::config::tables::Config;
use crate::model::status::problem::{Cause, Severity};
use crate::model::status::schema::{Health, Status};

/// What the exit status of `run` means, for `--help` and the man page.
pub(super) const RUN_END: &str = "\
Examples:
  sudo agent run
      In a container, or to see on a terminal what the agent does

Exit status:
  0  ended by SIGTERM or SIGINT
  2  wrong usage or configuration";

pub(super) const FETCH_END: &str = "\
Examples:
  agent fetch --once --config config.toml
      Tries a source as any user

Exit status:
  0  ended by SIGTERM or SIGINT; with --once, the list is stored
  1  with --once: there is no list
  2  wrong usage or configuration";

pub(super) const ENFORCE_END: &str = "\
Examples:
  sudo agent enforce --once
      One pass over the files, from the list that was fetched last

Exit status:
  0  ended by SIGTERM or SIGINT; with --once, all is in sync
  1  with --once: not all is in sync
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct FetchArguments {
    /// Fetch one time and end: 0 when the list is stored, 1 when there is none
    #[arg(long)]
    once: bool,
    /// The process that this is a half of
    #[arg(long, hide = true)]
    half_of: Option<u32>,
}

#[derive(Args)]
pub(super) struct EnforceArguments {
    /// Enforce one time and end: 0 when all is in sync, 1 when it is not
    #[arg(long)]
    once: bool,
}

impl FetchArguments {
    pub(super) fn patience(&self) -> Patience {
        patience(self.once)
    }
}

impl EnforceArguments {
    pub(super) fn patience(&self) -> Patience {
        patience(self.once)
    }
}

fn patience(once: bool) -> Patience {
    if once {
        Patience::Waits
    } else {
        Patience::NeverWaits
    }
}

/// Both halves, until SIGTERM. The one with the network is a process of its own, `same` being what it has in common with
/// this one: whatever a source, or the library that asks it, does to it, files are enforced.
pub(super) async fn run(config: Config, path: &Path, same: Vec<OsString>) -> Outcome {
    surroundings::warn_of_open_config(path);
    let signals = Signals::listen("enforcer")?;
    let _enforcer = enforce::claim(&config.paths)?;
    // What keeps it from starting is said at once.
    drop(claim_after(&config).await?);
    let (enforcing, pending) = enforcing(config)?;
    let fetch = same.into_iter().chain(["fetch".into()]).collect();
    let fetcher = Half::new("fetcher", fetch)?;
    let reread = |asked| {
        if asked == Asked::Reload {
            fetcher.hang_up();
        }
        surroundings::reread_config(path)
    };
    let service = Service::of_this_process();
    let now = surroundings::now;
    let enforced = tokio::select! {
        enforced = daemon::run(enforcing, pending, service, signals, reread, now) => enforced,
        never = fetcher.keep() => never,
    };
    fetcher.stop().await;
    enforced?;
    Ok(0)
}

/// The fetcher's lock, where that of a `run` before is still ending: it is killed with it, a moment later.
async fn claim_after(config: &Config) -> Result<Lock, StartError> {
    for _ in 0..50 {
        match fetch::claim(&config.paths) {
            Err(StartError::Lock(_, LockError::Held { .. })) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            claimed => return claimed,
        }
    }
    fetch::claim(&config.paths)
}

/// The half with the network.
pub(super) async fn fetch(arguments: &FetchArguments, config: Config, path: &Path) -> Outcome {
    if let Some(of) = arguments.half_of {
        half::end_with(of)?;
    }
    if arguments.once {
        let _lock = fetch::claim(&config.paths)?;
        let mut fetcher = Fetcher::new(config, surroundings::may_ask_metadata());
        let fetched = fetcher.fetch(&surroundings::now).await.is_ok();
        fetcher.publish(None);
        return Ok(u8::from(!fetched));
    }
    let signals = Signals::listen("fetcher")?;
    let _lock = fetch::claim(&config.paths)?;
    let fetcher = Fetcher::new(config, surroundings::may_ask_metadata());
    let reread = || surroundings::reread_config(path);
    let service = Service::of_this_process();
    fetch::run(fetcher, service, signals, reread, surroundings::now).await;
    Ok(0)
}

/// The half with root.
pub(super) async fn enforce(arguments: &EnforceArguments, config: Config, path: &Path) -> Outcome {
    if arguments.once {
        let _lock = enforce::claim(&config.paths)?;
        let (mut enforcing, _) = enforcing(config)?;
        enforcing.once(None, surroundings::now()).await;
        return Ok(u8::from(!enforcing.status().is_some_and(conclude)));
    }
    surroundings::warn_of_open_config(path);
    let signals = Signals::listen("enforcer")?;
    let _lock = enforce::claim(&config.paths)?;
    let (enforcing, pending) = enforcing(config)?;
    let service = Service::of_this_process();
    let reread = |_| surroundings::reread_config(path);
    let now = surroundings::now;
    daemon::run(enforcing, pending, service, signals, reread, now).await?;
    Ok(0)
}

/// An enforcer that goes on from what an earlier one said.
pub(super) fn enforcing(config: Config) -> anyhow::Result<(Enforcing, Arc<Pending>)> {
    let pending = Arc::new(Pending::default());
    let told = Arc::clone(&pending);
    // Whatever is wrong with it, it is no reason not to enforce.
    let said = publish::read(&config.paths).ok().flatten();
    let bell = Arc::new(move || told.answered());
    let reconciler = Reconciler::new(config, surroundings::zone(), said, Some(bell))?;
    Ok((Enforcing::new(reconciler, surroundings::now()), pending))
}

/// Says what keeps the host from being in sync; returns whether nothing does.
pub(super) fn conclude(status: &Status) -> bool {
    for told in status.told() {
        let is_refused =
            matches!(&told.cause, Cause::Decision(trouble) if trouble.is_of_signatures());
        if is_refused || told.cause.severity() == Severity::Error {
            tracing::warn!("{}", told.line());
        }
    }
    // What was fetched and does not count is not in force, also while it may be a list that is being published.
    status.health() == Health::Healthy && status.list.refused_since.is_none()
}
