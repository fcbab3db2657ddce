//! `sync`: fetch now, enforce now, wait, print what changed. Exit 0 in sync, 1 not all, 2 usage or config.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::agent::fetch::{self, Fetcher};
use crate::agent::pass::{Enforcer, List};
use crate::agent::{enforce, files};
use crate::cli::Outcome;
use crate::host::{process, store};
use crate::model::config::tables::Config;
use crate::model::escape::escaped;
use crate::model::list::fetch_report::FetchReport;
use crate::model::status::schema::{KeyStatus, PlainKey, Status};

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
    let before = read::<Status>(&files::status(&config.paths));
    let fetched = match process::holder(&files::fetch_lock(&config.paths)) {
        Some(holder) => ask_fetcher(holder.pid, &config, limit).await?,
        None => fetch_here(&config).await?,
    };
    let accepted = arguments
        .accept_removals
        .then(|| fetched.digest.clone())
        .flatten();
    let in_sync = match process::holder(&files::enforce_lock(&config.paths)) {
        Some(holder) => ask_enforcer(holder.pid, &config, before.as_ref(), accepted, limit).await?,
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
    let mut fetcher = Fetcher::new(config.clone(), super::may_ask_metadata());
    // A failure is in the report.
    let _ = fetcher.fetch(&super::now).await;
    fetcher.publish(None);
    Ok(fetcher.report().clone())
}

async fn ask_fetcher(
    pid: Option<u32>,
    config: &Config,
    limit: Duration,
) -> anyhow::Result<FetchReport> {
    let path = files::fetch_report(&config.paths);
    let asked = super::now();
    hang_up(pid, "fetcher")?;
    // One that began before may have read the old list.
    let answered = || {
        read::<FetchReport>(&path)
            .filter(|r| r.began.is_some_and(|at| at >= asked) && r.last_attempt > r.began)
    };
    wait(answered, limit)
        .await
        .with_context(|| format!("the fetcher has not fetched within {} s", limit.as_secs()))
}

async fn enforce_here(config: Config, accepted: Option<String>) -> anyhow::Result<bool> {
    let _lock = enforce::claim(&config.paths)?;
    let mut enforcer = Enforcer::new(config, super::zone(), super::now())?;
    let report = enforce::once(&mut enforcer, List::Stored, accepted, super::now()).await;
    super::print(&super::describe_report(report, &enforcer.grants()))?;
    Ok(conclude(enforcer.status()))
}

async fn ask_enforcer(
    pid: Option<u32>,
    config: &Config,
    before: Option<&Status>,
    accepted: Option<String>,
    limit: Duration,
) -> anyhow::Result<bool> {
    let path = files::status(&config.paths);
    let asked = super::now();
    if let Some(digest) = accepted {
        let accepted = enforce::Accepted { digest, at: asked };
        store::write_json(&files::accepted(&config.paths), &accepted, 0o600)
            .context("cannot tell the enforcer that the removals are accepted")?;
    }
    hang_up(pid, "enforcer")?;
    let answered = || {
        read::<Status>(&path)
            .filter(|status| status.enforcer.asked_at.is_some_and(|at| at >= asked))
    };
    let after = wait(answered, limit).await;
    // Not taken, it must not be there for a later list.
    let _ = std::fs::remove_file(files::accepted(&config.paths));
    let after = after.with_context(|| {
        format!(
            "the enforcer has not made its pass within {} s",
            limit.as_secs()
        )
    })?;
    super::print(&changes(before, &after))?;
    Ok(conclude(&after))
}

/// Says what keeps the host from being in sync; true when nothing does.
fn conclude(status: &Status) -> bool {
    for problem in &status.problems {
        tracing::warn!("{problem}");
    }
    status.problems.is_empty()
}

/// Keys that came and went between two words of the enforcer.
fn changes(before: Option<&Status>, after: &Status) -> String {
    let mut text = String::new();
    for account in after.accounts.values() {
        let old = before.and_then(|status| status.accounts.get(&account.name));
        let old = old
            .map(|account| account.keys.as_slice())
            .unwrap_or_default();
        let missing_from = |keys: &[KeyStatus], key: &KeyStatus| {
            !keys.iter().any(|k| k.fingerprint == key.fingerprint)
        };
        let lines: Vec<String> = old
            .iter()
            .filter(|key| missing_from(&account.keys, key))
            .map(|key| format!("  - {} {}", key.fingerprint, key.comment))
            .chain(
                account
                    .keys
                    .iter()
                    .filter(|key| missing_from(old, key))
                    .map(|key| {
                        format!(
                            "  + {} {}  ({})",
                            key.fingerprint,
                            key.comment,
                            super::provenance(key)
                        )
                    }),
            )
            .collect();
        let known = before.and_then(|status| status.accounts.get(&account.name));
        // What was there before this program came, or was put there since, no status ever named as in force.
        let changed = account.changed_at > known.and_then(|known| known.changed_at);
        let taken = account.removed_keys.iter().filter(|key| {
            changed
                && old
                    .iter()
                    .chain(&account.keys)
                    .all(|known| known.fingerprint != key.fingerprint)
        });
        let taken = taken.map(|key| format!("  - {} {}", key.fingerprint, key.comment));
        let others = known
            .map(|account| account.other_files.as_slice())
            .unwrap_or_default();
        let gone = others
            .iter()
            .filter(|other| account.other_files.iter().all(|o| o.file != other.file));
        let gone = gone.flat_map(|other| {
            other
                .found
                .keys
                .iter()
                .map(|key| (other.file.as_str(), key))
        });
        let line = |(
            file,
            PlainKey {
                fingerprint,
                comment,
                ..
            },
        ): (&str, &PlainKey)| {
            format!("  - {fingerprint} {comment}  ({})", escaped(file))
        };
        let lines: Vec<String> = lines
            .into_iter()
            .chain(taken)
            .chain(gone.map(line))
            .collect();
        if !lines.is_empty() {
            let _ = writeln!(text, "{}\n{}", account.name, lines.join("\n"));
        }
    }
    text
}

fn hang_up(pid: Option<u32>, who: &str) -> anyhow::Result<()> {
    let Some(pid) = pid else {
        bail!("the {who} runs in another pid namespace; run `sync` there")
    };
    process::hang_up(pid)
        .with_context(|| format!("cannot signal the {who} (pid {pid}); run `sync` as root"))
}

/// A file of another process: whatever is wrong with it, it is no answer yet.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    store::read_json(path).ok().flatten()
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
