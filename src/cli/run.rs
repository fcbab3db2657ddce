//! `run`: both halves in one process, for containers, development and a first try.

use std::path::Path;

use crate::agent::enforce;
use crate::agent::fetch::{self, Fetcher};
use crate::agent::pass::Enforcer;
use crate::cli::Outcome;
use crate::host::service::Service;
use crate::model::config::tables::Config;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT
  2  wrong usage or configuration";

/// Until SIGTERM.
pub(super) async fn run(config: Config, path: &Path) -> Outcome {
    let _fetcher = fetch::claim(&config.paths)?;
    let _enforcer = enforce::claim(&config.paths)?;
    let reread = || super::reread_config(path);
    let fetcher = Fetcher::new(config.clone(), super::may_ask_metadata());
    let enforcer = Enforcer::new(config, super::zone(), super::now())?;
    let (fetched, enforced) = tokio::join!(
        fetch::run(fetcher, Service::silent(), reread, super::now),
        enforce::run(enforcer, Service::of_this_process(), reread, super::now),
    );
    fetched?;
    enforced?;
    Ok(0)
}
