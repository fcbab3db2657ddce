//! `enforce`: the half with root.

use std::path::Path;

use clap::Args;

use crate::agent::enforce;
use crate::agent::pass::{Enforcer, List};
use crate::cli::Outcome;
use crate::host::service::Service;
use crate::model::config::tables::Config;
use crate::model::status::schema::Health;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT; with --once, all is in sync
  1  with --once: not all is in sync
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// Enforce one time and end: 0 when all is in sync, 1 when it is not
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(arguments: &Arguments, config: Config, path: &Path) -> Outcome {
    let _lock = enforce::claim(&config.paths)?;
    let mut enforcer = Enforcer::new(config, super::zone(), super::now())?;
    if !arguments.once {
        enforce::run(
            enforcer,
            Service::of_this_process(),
            || super::reread_config(path),
            super::now,
        )
        .await?;
        return Ok(0);
    }
    enforce::once(&mut enforcer, List::Stored, None, super::now()).await;
    for problem in &enforcer.status().problems {
        tracing::warn!("{problem}");
    }
    Ok(u8::from(enforcer.status().health != Health::Healthy))
}
