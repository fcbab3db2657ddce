//! `diff`: what enforcing would change. Exit 0 nothing, 1 changes, 2 cannot tell.

use anyhow::Context;

use crate::agent::fetched::{self, ListError};
use crate::agent::gather::List;
use crate::agent::pass::{Looked, Reconciler};
use crate::agent::publish;
use crate::agent::source::Clients;
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::chain;
use crate::host::store::StoreError;
use crate::model::config::tables::Config;
use crate::model::list::approved::ApprovedList;
use crate::model::status::problem::{Cause, Problem, told};
use crate::model::status::schema::AccountState;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent diff
      Before a list is enforced here, or before a held one is let through

Exit status:
  0  nothing would change
  1  something would
  2  that cannot be told: no list could be fetched, or a file not be looked at";

/// Fetches afresh, so that it shows what `sync` would do. With the source out of reach it shows what the stored list would
/// change, which is no answer.
pub(super) async fn run(config: Config) -> Outcome {
    let mut clients = Clients::new(&config.source, surroundings::may_ask_metadata());
    let (list, mut blind) = match clients.list(&config.source, surroundings::now()).await {
        Ok(list) => (list, false),
        Err(error) => (stored(&config, &chain(&error))?, true),
    };
    let (mut reconciler, mut looked) = compare(&config, &list, None).await?;
    if let Some(held) = reconciler.decision.held.clone() {
        tracing::warn!("{held}; this is what it would change then");
        (reconciler, looked) = compare(&config, &list, Some(list.digest())).await?;
    }
    print::data(&print::changes(&looked.differences, &reconciler.decision))?;
    let decision = &reconciler.decision;
    for told in told(decision.troubles.iter().cloned().map(Problem::from)) {
        tracing::warn!("{}", told.line());
    }
    for rejected in decision
        .rejected
        .iter()
        .chain(&decision.break_glass_rejected)
    {
        // The value as a whole has no line.
        let line = match rejected.line {
            0 => String::new(),
            line => format!("{line}: "),
        };
        tracing::warn!("{}: {line}{}", rejected.parameter, rejected.reason);
    }
    for row in reconciler.rows().values() {
        if row.state == AccountState::Refused {
            blind = true;
            let reason = row.why.as_ref().map(Cause::reason).unwrap_or_default();
            tracing::error!("{}: {reason}", row.name);
        }
    }
    Ok(if blind {
        surroundings::USAGE
    } else {
        u8::from(!looked.differences.is_empty())
    })
}

fn stored(config: &Config, error: &str) -> anyhow::Result<ApprovedList> {
    let stored = match fetched::list(&config.paths) {
        Err(ListError::Store(error)) => Err(hinted(error)),
        read => read.map_err(anyhow::Error::from),
    };
    let stored = stored.with_context(|| format!("no list: {error}"))?;
    let list = stored.with_context(|| format!("no list: {error}"))?;
    tracing::warn!(error, fetched_at = %list.fetched_at, "not fetched, the stored list is compared");
    Ok(list)
}

/// What enforcing `list` would change; with its removals, if its digest is `accepted`.
async fn compare(
    config: &Config,
    list: &ApprovedList,
    accepted: Option<String>,
) -> anyhow::Result<(Reconciler, Looked)> {
    let now = surroundings::now();
    let said = publish::read(&config.paths).ok().flatten();
    let mut reconciler =
        Reconciler::observer(config.clone(), surroundings::zone(), said).map_err(hinted)?;
    reconciler.decide(List::Given(list), accepted, now).await;
    reconciler.consult_sshd(Vec::new(), now).await;
    let looked = reconciler
        .look_once(false, now, surroundings::instant())
        .await;
    Ok((reconciler, looked))
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
