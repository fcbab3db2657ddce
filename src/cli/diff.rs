//! `diff`: what enforcing would change. Exit 0 nothing, 1 changes, 2 error.

use anyhow::Context;

use crate::agent::clients::Clients;
use crate::agent::events::chain;
use crate::agent::pass::{Enforcer, List, Report, Terms};
use crate::agent::{Trigger, files};
use crate::cli::Outcome;
use crate::host::store::{self, StoreError};
use crate::model::config::tables::{Config, Mode};
use crate::model::list::approved::ApprovedList;
use crate::model::status::schema::AccountState;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  nothing would change
  1  something would
  2  error";

/// Fetches afresh, so that it shows what `sync` would do; with the source out of reach, what is stored.
pub(super) async fn run(mut config: Config) -> Outcome {
    let list = match Clients::new(&config.source, super::may_ask_metadata())
        .list(&config.source, super::now())
        .await
    {
        Ok(list) => list,
        Err(error) => {
            let error = chain(&error);
            let stored: Option<ApprovedList> = store::read_json(&files::approved(&config.paths))
                .map_err(hinted)
                .with_context(|| format!("no list: {error}"))?;
            let list = stored.with_context(|| format!("no list: {error}"))?;
            tracing::warn!(error, fetched_at = %list.fetched_at, "not fetched, the stored list is compared");
            list
        }
    };
    config.mode = Mode::Observe;
    let (mut enforcer, mut report) = compare(&config, &list, None).await?;
    if let Some(held) = enforcer.status().list.held.clone() {
        tracing::warn!("{held}; this is what it would change then");
        (enforcer, report) = compare(&config, &list, Some(list.digest())).await?;
    }
    let changes = !report.differences.is_empty();
    super::print(&super::describe_report(report, &enforcer.grants()))?;
    let status = enforcer.status();
    for rejected in &status.rejected {
        // The value as a whole has no line.
        let line = if rejected.line == 0 {
            String::new()
        } else {
            format!("{}: ", rejected.line)
        };
        tracing::warn!("{}: {line}{}", rejected.parameter, rejected.reason);
    }
    let refused = status
        .accounts
        .values()
        .filter(|account| account.state == AccountState::Refused);
    let mut blind = false;
    for account in refused {
        blind = true;
        tracing::error!(
            "{}: {}",
            account.name,
            account.reason.as_deref().unwrap_or_default()
        );
    }
    Ok(if blind {
        super::USAGE
    } else {
        u8::from(changes)
    })
}

/// What enforcing `list` would change; with its removals, if its digest is `accepted`.
async fn compare(
    config: &Config,
    list: &ApprovedList,
    accepted: Option<String>,
) -> anyhow::Result<(Enforcer, Report)> {
    let mut enforcer =
        Enforcer::new(config.clone(), super::zone(), super::now()).map_err(hinted)?;
    let terms = Terms {
        trigger: Trigger::Startup,
        only: None,
        list: List::Given(list),
        accepted,
        watches: None,
        consults: true,
        publish: false,
        alive: &|| (),
        now: super::now(),
    };
    let report = enforcer.pass(terms, |_| {}).await;
    Ok((enforcer, report))
}

fn hinted(error: StoreError) -> anyhow::Error {
    let denied = error.is_denied();
    let error = anyhow::Error::from(error);
    if denied {
        error.context("only root can compare; run this as root")
    } else {
        error
    }
}
