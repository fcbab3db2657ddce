//! `run`, `fetch` and `enforce`: the two halves, alone or in one process.

use std::path::Path;
use std::sync::Arc;

use clap::Args;

use crate::agent::daemon;
use crate::agent::enforce::{self, Enforcing};
use crate::agent::fetch::{self, Fetcher};
use crate::agent::pass::Reconciler;
use crate::agent::publish;
use crate::agent::wakeups::Pending;
use crate::cli::surroundings::{self, Outcome};
use crate::host::service::Service;
use crate::model::config::tables::Config;
use crate::model::status::problem::Severity;
use crate::model::status::schema::Health;

/// What the exit status of `run` means, for `--help` and the man page.
pub(super) const RUN_EXIT: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT
  2  wrong usage or configuration";

pub(super) const FETCH_EXIT: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT; with --once, the list is stored
  1  with --once: there is no list
  2  wrong usage or configuration";

pub(super) const ENFORCE_EXIT: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT; with --once, all is in sync
  1  with --once: not all is in sync
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct FetchArguments {
    /// Fetch one time and end: 0 when the list is stored, 1 when there is none
    #[arg(long)]
    once: bool,
}

#[derive(Args)]
pub(super) struct EnforceArguments {
    /// Enforce one time and end: 0 when all is in sync, 1 when it is not
    #[arg(long)]
    once: bool,
}

/// Both halves in one process, until SIGTERM.
pub(super) async fn run(config: Config, path: &Path) -> Outcome {
    let _fetcher = fetch::claim(&config.paths)?;
    let _enforcer = enforce::claim(&config.paths)?;
    let reread = || surroundings::reread_config(path);
    let fetcher = Fetcher::new(config.clone(), surroundings::may_ask_metadata());
    let (enforcing, pending) = enforcing(config)?;
    let (fetched, enforced) = tokio::join!(
        fetch::run(fetcher, Service::silent(), reread, surroundings::now),
        daemon::run(
            enforcing,
            pending,
            Service::of_this_process(),
            reread,
            surroundings::now
        ),
    );
    fetched?;
    enforced?;
    Ok(0)
}

/// The half with the network.
pub(super) async fn fetch(arguments: &FetchArguments, config: Config, path: &Path) -> Outcome {
    let _lock = fetch::claim(&config.paths)?;
    let mut fetcher = Fetcher::new(config, surroundings::may_ask_metadata());
    if !arguments.once {
        let service = Service::of_this_process();
        fetch::run(
            fetcher,
            service,
            || surroundings::reread_config(path),
            surroundings::now,
        )
        .await?;
        return Ok(0);
    }
    let fetched = fetcher.fetch(&surroundings::now).await.is_ok();
    fetcher.publish(None);
    Ok(u8::from(!fetched))
}

/// The half with root.
pub(super) async fn enforce(arguments: &EnforceArguments, config: Config, path: &Path) -> Outcome {
    let _lock = enforce::claim(&config.paths)?;
    let (mut enforcing, pending) = enforcing(config)?;
    if !arguments.once {
        let service = Service::of_this_process();
        let reread = || surroundings::reread_config(path);
        daemon::run(enforcing, pending, service, reread, surroundings::now).await?;
        return Ok(0);
    }
    enforcing.once(None, surroundings::now()).await;
    Ok(u8::from(!conclude(&enforcing)))
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
pub(super) fn conclude(enforcing: &Enforcing) -> bool {
    let Some(status) = enforcing.status() else {
        return false;
    };
    for told in status.told() {
        if told.cause.severity() == Severity::Error {
            tracing::warn!("{}", told.line());
        }
    }
    status.health() == Health::Healthy
}
