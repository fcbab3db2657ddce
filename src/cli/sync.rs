//! `sync`: fetch now, enforce now, wait, print what changed. Exit 0 in sync, 1 not all, 2 usage or config.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::agent::fetch::{self, Fetcher};
use crate::agent::fetched;
use crate::agent::gather::Accepted;
use crate::agent::signals::StartError;
use crate::agent::{enforce, paths, publish};
use crate::cli::daemons;
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::process::{self, Lock, LockError};
use crate::host::store;
use crate::model::config::tables::{Config, Mode};
use crate::model::escape::escaped;
use crate::model::key::id::KeyId;
use crate::model::list::fetch_report::FetchReport;
use crate::model::status::schema::{KeyStatus, Row, Status};

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent sync
      The list as it is now is in force when this ends
  sudo agent sync --accept-removals
      Lets a held list through; `agent diff` shows before what that removes

Exit status:
  0  in sync
  1  not all is in sync, or the list could not be fetched
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// Let this one list remove as many keys as it does, even all of them
    #[arg(long)]
    accept_removals: bool,
    /// Seconds to wait for running services [default: 30]
    #[arg(long, value_name = "SECONDS", default_value_t = 30, hide_default_value = true, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// How often a running service's answer is looked for.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(arguments: &Arguments, config: Config) -> Outcome {
    let limit = Duration::from_secs(arguments.timeout);
    // Before anything is asked for: a new list is enforced as soon as it is stored.
    let before = said(&config);
    let fetched = fetch(&config, limit).await?;
    let accepted = arguments
        .accept_removals
        .then(|| fetched.digest.clone())
        .flatten();
    let (changed, in_sync) = enforce(config, before.as_ref(), accepted, limit).await?;
    let in_sync = in_sync && fetched.error.is_none();
    if changed.is_empty() && in_sync {
        print::data("in sync\n")?;
    } else {
        print::data(&changed)?;
    }
    if let Some(error) = fetched.error {
        tracing::error!(
            error,
            hint = fetched.hint,
            "not fetched, the last list, if any, stays in force"
        );
    }
    Ok(u8::from(!in_sync))
}

/// Has the list fetched; how that went.
async fn fetch(config: &Config, limit: Duration) -> anyhow::Result<FetchReport> {
    let asked = surroundings::now();
    let claim = || fetch::claim(&config.paths);
    let lock = paths::fetch_lock(&config.paths);
    if let Some(_lock) = turn("fetcher", &lock, claim, || Ok(()), limit).await? {
        let mut fetcher = Fetcher::new(config.clone(), surroundings::may_ask_metadata());
        // A failure is in the report.
        let _ = fetcher.fetch(&surroundings::now).await;
        fetcher.publish(None);
        return Ok(fetcher.report().clone());
    }
    let answered = || {
        // Whatever is wrong with it, it is no answer yet.
        let report = fetched::report(&config.paths).ok().flatten();
        report.filter(|report| report.answers(asked))
    };
    wait(answered, limit)
        .await
        .with_context(|| format!("the fetcher has not fetched within {} s", limit.as_secs()))
}

/// Has the list enforced; what that changed, and whether everything is in sync then.
async fn enforce(
    config: Config,
    before: Option<&Status>,
    accepted: Option<String>,
    limit: Duration,
) -> anyhow::Result<(String, bool)> {
    let asked = surroundings::now();
    let claim = || enforce::claim(&config.paths);
    let lock = paths::enforce_lock(&config.paths);
    let accept = || match accepted.clone() {
        None => Ok(()),
        Some(digest) => {
            let accepted = Accepted { digest, at: asked };
            store::write_json(&paths::accepted(&config.paths), &accepted, 0o600)
                .context("cannot tell the enforcer that the removals are accepted")
        }
    };
    if let Some(_lock) = turn("enforcer", &lock, claim, accept, limit).await? {
        return enforce_here(config, accepted).await;
    }
    let answered = || said(&config).filter(|status| status.enforcer.asked_at >= Some(asked));
    let after = wait(answered, limit).await;
    // Not taken, it must not be there for a later list.
    let _ = std::fs::remove_file(paths::accepted(&config.paths));
    let after = after.with_context(|| {
        format!(
            "the enforcer has not made its pass within {} s",
            limit.as_secs()
        )
    })?;
    Ok((changes(before, &after), daemons::conclude(&after)))
}

async fn enforce_here(config: Config, accepted: Option<String>) -> anyhow::Result<(String, bool)> {
    let (mut enforcing, _) = daemons::enforcing(config)?;
    let passed = enforcing.once(accepted, surroundings::now()).await;
    let reconciler = &enforcing.reconciler;
    let changed = if reconciler.config.mode == Mode::Enforce {
        print::changes(&passed.looked.differences, &reconciler.decision)
    } else {
        String::new()
    };
    let in_sync = enforcing.status().is_some_and(daemons::conclude);
    Ok((changed, in_sync))
}

/// Asks the service that has the lock at `path`, after it was told what it is to know; where there is none, returns the
/// lock. Another command that has it, such as a second `sync`, is waited for.
async fn turn(
    who: &str,
    path: &Path,
    claim: impl Fn() -> Result<Lock, StartError>,
    tell: impl Fn() -> anyhow::Result<()>,
    limit: Duration,
) -> anyhow::Result<Option<Lock>> {
    let look = || -> anyhow::Result<Option<Option<Lock>>> {
        let Some(holder) = process::holder(path) else {
            return match claim() {
                Err(StartError::Lock(_, LockError::Held { .. })) => Ok(None),
                claimed => Ok(Some(Some(claimed?))),
            };
        };
        let Some(pid) = holder.pid else {
            bail!("the {who} runs in another pid namespace; run `sync` there")
        };
        if !holder.is_service(pid) {
            return Ok(None);
        }
        tell()?;
        holder
            .ask(pid)
            .with_context(|| format!("cannot signal the {who} (pid {pid}); run `sync` as root"))?;
        Ok(Some(None))
    };
    let looked = wait(|| look().transpose(), limit).await;
    looked.with_context(|| {
        let seconds = limit.as_secs();
        format!("another command has had the lock of the {who} for {seconds} s")
    })?
}

/// The enforcer's word. Whatever is wrong with it, it is no answer yet.
fn said(config: &Config) -> Option<Status> {
    publish::read_with_keys(&config.paths).ok().flatten()
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
            lines.push(format!("  - {key}"));
        }
    }
    for status in &new {
        if lacks(&old, &status.key) {
            let (key, from) = (&status.key, print::provenance(status));
            lines.push(format!("  + {key}  ({from})"));
        }
    }
    // What was in the file before the agent came, or was put there since, no status ever named as in force.
    if after.changed_at > before.and_then(|before| before.changed_at) {
        for key in &after.removed_keys {
            if lacks(&old, key) && lacks(&new, key) {
                lines.push(format!("  - {key}"));
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
            lines.push(format!("  - {key}  ({file})"));
        }
    }
    lines
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
