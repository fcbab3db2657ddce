//! `fetch`: the half with the network.

use std::path::Path;

use clap::Args;

use crate::agent::fetch::{self, Fetcher};
use crate::cli::Outcome;
use crate::host::service::Service;
use crate::model::config::tables::Config;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT; with --once, the list is stored
  1  with --once: there is no list
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// Fetch one time and end: 0 when the list is stored, 1 when there is none
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(arguments: &Arguments, config: Config, path: &Path) -> Outcome {
    let _lock = fetch::claim(&config.paths)?;
    let mut fetcher = Fetcher::new(config, super::may_ask_metadata());
    if !arguments.once {
        fetch::run(
            fetcher,
            Service::of_this_process(),
            || super::reread_config(path),
            super::now,
        )
        .await?;
        return Ok(0);
    }
    let fetched = fetcher.fetch(&super::now).await.is_ok();
    fetcher.publish(None);
    Ok(u8::from(!fetched))
}
