//! `sync`: fetch now, enforce now, wait, print what changed. Exit 0 in sync, 1 not all, 2 usage or config.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::agent::fetch::{self, Fetcher};
use crate::agent::fetched;
use crate::agent::gather::Accepted;
use crate::agent::{enforce, paths, publish};
use crate::cli::daemons;
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::process::{self, Holder};
use crate::host::store;
use crate::model::config::tables::{Config, Mode};
use crate::model::escape::escaped;
use crate::model::key::id::KeyId;
use crate::model::list::fetch_report::FetchReport;
use crate::model::status::problem::Severity;
use crate::model::status::schema::{Health, KeyStatus, Row, Status};

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  in sync
  1  not all is in sync, or the list could not be fetched
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// Let this one list remove as many keys as it does, even all of them
    #[arg(long)]
    accept_removals: bool,
    /// Seconds to wait for running services
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// How often a running service's answer is looked for.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(arguments: &Arguments, config: Config) -> Outcome {
    let limit = Duration::from_secs(arguments.timeout);
    // Before anything is asked for: a new list is enforced as soon as it is stored.
    let before = said(&config);
    let fetched = match process::holder(&paths::fetch_lock(&config.paths)) {
        Some(holder) => ask_fetcher(holder, &config, limit).await?,
        None => fetch_here(&config).await?,
    };
    let accepted = arguments
        .accept_removals
        .then(|| fetched.digest.clone())
        .flatten();
    let in_sync = match process::holder(&paths::enforce_lock(&config.paths)) {
        Some(holder) => ask_enforcer(holder, &config, before.as_ref(), accepted, limit).await?,
        None => enforce_here(config, accepted).await?,
    };
    if let Some(error) = fetched.error {
        tracing::error!(
            error,
            hint = fetched.hint,
            "not fetched, the last list, if any, stays in force"
        );
        return Ok(1);
    }
    Ok(u8::from(!in_sync))
}

async fn fetch_here(config: &Config) -> anyhow::Result<FetchReport> {
    let _lock = fetch::claim(&config.paths)?;
    let mut fetcher = Fetcher::new(config.clone(), surroundings::may_ask_metadata());
    // A failure is in the report.
    let _ = fetcher.fetch(&surroundings::now).await;
    fetcher.publish(None);
    Ok(fetcher.report().clone())
}

async fn ask_fetcher(
    fetcher: Holder,
    config: &Config,
    limit: Duration,
) -> anyhow::Result<FetchReport> {
    let asked = surroundings::now();
    hang_up(fetcher, "fetcher")?;
    // One that began before may have read the old list.
    let answered = || {
        // Whatever is wrong with it, it is no answer yet.
        let report = fetched::report(&config.paths).ok().flatten();
        report.filter(|r| r.began.is_some_and(|at| at >= asked) && r.last_attempt > r.began)
    };
    wait(answered, limit)
        .await
        .with_context(|| format!("the fetcher has not fetched within {} s", limit.as_secs()))
}

async fn enforce_here(config: Config, accepted: Option<String>) -> anyhow::Result<bool> {
    let _lock = enforce::claim(&config.paths)?;
    let (mut enforcing, _) = daemons::enforcing(config)?;
    let passed = enforcing.once(accepted, surroundings::now()).await;
    let reconciler = &enforcing.reconciler;
    if reconciler.config.mode == Mode::Enforce {
        print::data(&print::changes(
            &passed.looked.differences,
            &reconciler.decision,
        ))?;
    }
    Ok(daemons::conclude(&enforcing))
}

async fn ask_enforcer(
    enforcer: Holder,
    config: &Config,
    before: Option<&Status>,
    accepted: Option<String>,
    limit: Duration,
) -> anyhow::Result<bool> {
    let asked = surroundings::now();
    if let Some(digest) = accepted {
        let accepted = Accepted { digest, at: asked };
        store::write_json(&paths::accepted(&config.paths), &accepted, 0o600)
            .context("cannot tell the enforcer that the removals are accepted")?;
    }
    hang_up(enforcer, "enforcer")?;
    let answered = || said(config).filter(|status| status.enforcer.asked_at >= Some(asked));
    let after = wait(answered, limit).await;
    // Not taken, it must not be there for a later list.
    let _ = std::fs::remove_file(paths::accepted(&config.paths));
    let after = after.with_context(|| {
        format!(
            "the enforcer has not made its pass within {} s",
            limit.as_secs()
        )
    })?;
    print::data(&changes(before, &after))?;
    Ok(conclude(&after))
}

/// The enforcer's word. Whatever is wrong with it, it is no answer yet.
fn said(config: &Config) -> Option<Status> {
    publish::read_with_keys(&config.paths).ok().flatten()
}

/// Says what keeps the host from being in sync; returns whether nothing does.
fn conclude(status: &Status) -> bool {
    for told in status.told() {
        if told.cause.severity() == Severity::Error {
            tracing::warn!("{}", told.line());
        }
    }
    status.health() == Health::Healthy
}

/// Keys that came and went between two words of the enforcer.
fn changes(before: Option<&Status>, after: &Status) -> String {
    let mut text = String::new();
    for row in after.rows.values() {
        let before = before.and_then(|status| status.rows.get(&row.name));
        let lines = changes_of(before, row);
        if !lines.is_empty() {
            let _ = writeln!(text, "{}\n{}", row.name, lines.join("\n"));
        }
    }
    text
}

fn changes_of(before: Option<&Row>, after: &Row) -> Vec<String> {
    let of = |row: &Row| row.keys.clone().unwrap_or_default();
    let (old, new) = (before.map(of).unwrap_or_default(), of(after));
    let lacks = |keys: &[KeyStatus], key: &KeyId| {
        keys.iter()
            .all(|known| known.key.fingerprint != key.fingerprint)
    };
    let mut lines = Vec::new();
    for KeyStatus { key, .. } in &old {
        if lacks(&new, key) {
            lines.push(format!("  - {key} {}", key.comment));
        }
    }
    for status in &new {
        if lacks(&old, &status.key) {
            let (key, from) = (&status.key, print::provenance(status));
            lines.push(format!("  + {key} {}  ({from})", key.comment));
        }
    }
    // What was in the file before the agent came, or was put there since, no status ever named as in force.
    if after.changed_at > before.and_then(|before| before.changed_at) {
        for key in &after.removed_keys {
            if lacks(&old, key) && lacks(&new, key) {
                lines.push(format!("  - {key} {}", key.comment));
            }
        }
    }
    let gone = before
        .map(|before| before.other_files.as_slice())
        .unwrap_or_default();
    for other in gone {
        if after
            .other_files
            .iter()
            .any(|known| known.file == other.file)
        {
            continue;
        }
        for key in &other.found.keys {
            let file = escaped(&other.file);
            lines.push(format!("  - {key} {}  ({file})", key.comment));
        }
    }
    lines
}

fn hang_up(holder: Holder, who: &str) -> anyhow::Result<()> {
    let Some(pid) = holder.pid else {
        bail!("the {who} runs in another pid namespace; run `sync` there")
    };
    holder
        .hang_up(pid)
        .with_context(|| format!("cannot signal the {who} (pid {pid}); run `sync` as root"))
}

async fn wait<T>(answer: impl Fn() -> Option<T>, limit: Duration) -> Option<T> {
    let looking = async {
        loop {
            match answer() {
                Some(answer) => return answer,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    };
    tokio::time::timeout(limit, looking).await.ok()
}
