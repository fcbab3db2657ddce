//! `diff`: what enforcing would change. Exit 0 nothing, 1 changes, 2 error.

use anyhow::Context;

use crate::agent::clients::Clients;
use crate::agent::pass::{Enforcer, List, Terms};
use crate::agent::{Trigger, files};
use crate::cli::Outcome;
use crate::host::store;
use crate::model::config::{Config, Mode};
use crate::model::list::ApprovedList;
use crate::model::status::AccountState;

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
            let stored: Option<ApprovedList> = store::read_json(&files::approved(&config.paths))?;
            let list = stored.with_context(|| format!("no list: {}", crate::agent::events::chain(&error)))?;
            tracing::warn!(error = crate::agent::events::chain(&error), fetched_at = %list.fetched_at, "not fetched, the stored list is compared");
            list
        }
    };
    config.mode = Mode::Observe;
    let mut enforcer = Enforcer::new(config, super::zone(), super::now())?;
    let terms = Terms {
        trigger: Trigger::Startup,
        only: None,
        list: List::Given(&list),
        accepted: None,
        watches: None,
        consults: true,
        publish: false,
        alive: &|| (),
        now: super::now(),
    };
    let report = enforcer.pass(terms, |_| {}).await;
    let changes = !report.differences.is_empty();
    super::print(&super::describe_report(report, &enforcer.grants()))?;
    let status = enforcer.status();
    for rejected in &status.rejected {
        tracing::warn!("{}:{}: {}", rejected.parameter, rejected.line, rejected.reason);
    }
    if let Some(held) = &status.list.held {
        tracing::warn!("{held}");
    }
    let refused = status.accounts.values().filter(|account| account.state == AccountState::Refused);
    let mut blind = false;
    for account in refused {
        blind = true;
        tracing::error!("{}: {}", account.name, account.reason.as_deref().unwrap_or_default());
    }
    Ok(if blind { super::USAGE } else { u8::from(changes) })
}
