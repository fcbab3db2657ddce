//! `status`: looks at the files as it answers. Exit 0 healthy, 1 degraded, 2 usage or config, 3 no enforcer.

mod describe;
#[cfg(test)]
mod golden;
mod look;
mod rows;
mod view;

use std::ffi::OsStr;
use std::io;
use std::path::{self, Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use nix::errno::Errno;

use self::view::View;
use crate::agent::{paths, publish};
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::{process, store};
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Paths};
use crate::model::escape::escaped;
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{Health, Status};
use crate::model::words::several;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent status
      What is wrong, the worst first, and what to do; then a line an account
  sudo agent status alice
      All of one account: its keys, where each comes from, what sshd makes of them
  agent status --json
      For scripts, which go by the codes of the problems
  sudo agent status --format summary --output /run/agent.json
      One line for a fleet, in a file that is always whole
  sudo agent status --format prometheus
      Metrics; authorized-keys-report.timer writes them for node_exporter

Exit status:
  0  healthy
  1  degraded
  2  wrong usage or configuration
  3  no enforcer is running";

#[derive(Args)]
pub(super) struct Arguments {
    /// Only these accounts, each with its keys
    #[arg(value_name = "ACCOUNT")]
    accounts: Vec<String>,
    /// Every account with its keys, and where each key comes from
    #[arg(long)]
    keys: bool,
    /// Print JSON, schema 2: the same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// `text`, `json`, or for fleets `summary`, one line of JSON under 500 bytes; `prometheus`, for the textfile collector of
    /// `node_exporter`; `inventory`, for Systems Manager [default: text]
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    format: Format,
    /// Write it to this file, which is replaced as a whole, and print nothing; an inventory is two files in this directory,
    /// in whose name `{instance-id}` stands for that of this host
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do nothing where the directory to write to is missing
    #[arg(long, requires = "output")]
    skip_missing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Summary,
    Prometheus,
    Inventory,
}

impl Arguments {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    /// Whether nothing is written, since `directory` is missing.
    fn skips(&self, directory: &Path) -> bool {
        self.skip_missing && !directory.is_dir()
    }
}

const STOPPED: u8 = 3;

pub(super) async fn run(arguments: &Arguments, config: Config, path: &Path) -> Outcome {
    let now = surroundings::now();
    let (mut status, unseen) = look::status(config, now).await;
    let open = surroundings::open_config(path);
    status.problems.extend(open.map(Problem::new));
    put(arguments, &status, unseen.as_deref(), now)?;
    Ok(match status.health() {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Stopped => STOPPED,
    })
}

/// With a config that cannot be used: what the enforcer said last, which goes by the config that it read before.
pub(super) fn last_word(
    arguments: &Arguments,
    path: &Path,
    error: &anyhow::Error,
) -> anyhow::Result<()> {
    let config = std::fs::read_to_string(path).unwrap_or_default();
    let paths = Paths::of_broken(&config);
    let Some(mut status) = publish::read_with_keys(&paths).ok().flatten() else {
        return Ok(());
    };
    let is_known = |problem: &Problem| matches!(problem.cause, Cause::ConfigUnusable { .. });
    if !status.problems.iter().any(is_known) {
        let error = format!("{error:#}");
        status
            .problems
            .push(Problem::new(Cause::ConfigUnusable { error }));
    }
    if process::holder(&paths::enforce_lock(&paths)).is_none() {
        status.problems.push(Problem::new(Cause::NoEnforcer));
    }
    let unseen = Some("the config cannot be used");
    put(arguments, &status, unseen, surroundings::now())
}

fn put(
    arguments: &Arguments,
    status: &Status,
    unseen: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<()> {
    let accounts = named(&arguments.accounts, status)?;
    let text = match arguments.format() {
        Format::Text => {
            let view = View {
                accounts: &accounts,
                keys: arguments.keys || !accounts.is_empty(),
                unseen,
                colour: arguments.output.is_none() && surroundings::has_colour(),
            };
            describe::describe(status, &view, now)
        }
        Format::Json => serde_json::to_string_pretty(&status.document(&accounts, now))? + "\n",
        Format::Summary => status.fleet_line(now),
        Format::Prometheus => status.metrics(now),
        Format::Inventory => return put_inventory(arguments, status, now),
    };
    let Some(file) = &arguments.output else {
        return print::data(&text);
    };
    let file = path::absolute(file).context("the name of the file is empty")?;
    let (Some(directory), Some(name)) = (file.parent(), file.file_name().and_then(OsStr::to_str))
    else {
        bail!("`{}` is not the name of a file", file.display());
    };
    if arguments.skips(directory) {
        return Ok(());
    }
    write(directory, &[(name, &text)])
}

/// Root does this also in the directory of another account, such as `node_exporter`'s, which may change it meanwhile.
fn write(directory: &Path, files: &[(&str, &str)]) -> anyhow::Result<()> {
    let is_open = |place: &Path| store::is_open(std::fs::symlink_metadata(place));
    let shown = directory.display();
    store::enter(directory, &is_open).map_err(|error| match error {
        Errno::ELOOP => anyhow!(
            "a link that another account may have made is on the way to `{shown}`; name the directory without links"
        ),
        error => anyhow!(io::Error::from(error)).context(format!("cannot write to `{shown}`")),
    })?;
    for (name, text) in files {
        // /dev/null would be replaced like any other.
        let there = std::fs::symlink_metadata(name);
        if there.is_ok_and(|there| !there.is_file()) {
            bail!(
                "`{}` is not a regular file, so it is not replaced",
                directory.join(name).display()
            );
        }
        // Another report may be written at the same time, and each name beside it may be another's.
        let temporary = format!("./.{name}.{}", std::process::id());
        let file = format!("./{name}");
        store::write_by(temporary.as_ref(), file.as_ref(), text.as_bytes(), 0o644)
            .with_context(|| format!("in `{shown}`"))?;
    }
    Ok(())
}

/// What each of the two files says goes by the status of one moment. The one of the host is last: it says when both were written.
fn put_inventory(arguments: &Arguments, status: &Status, now: Timestamp) -> anyhow::Result<()> {
    const INSTANCE: &str = "{instance-id}";
    let inventory = status.inventory(now);
    let Some(directory) = &arguments.output else {
        return print::data(&(inventory.agent + &inventory.keys));
    };
    let mut directory = path::absolute(directory).context("the name of the directory is empty")?;
    if let Some(name) = directory.to_str()
        && name.contains(INSTANCE)
    {
        // On Xen it is the fetcher that says it, which shall not name another directory.
        let is_one = |id: &&String| id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        let Some(instance) = status.host.instance.as_ref().filter(is_one) else {
            if arguments.skip_missing {
                return Ok(());
            }
            bail!("no instance id is known of this host, so `{INSTANCE}` stands for nothing");
        };
        directory = name.replace(INSTANCE, instance).into();
    }
    if arguments.skips(&directory) {
        return Ok(());
    }
    let files = [
        ("authorized-keys.json", &*inventory.keys),
        ("authorized-keys-agent.json", &*inventory.agent),
    ];
    write(&directory, &files)
}

/// Those that the status speaks of.
fn named(asked: &[String], status: &Status) -> anyhow::Result<Vec<AccountName>> {
    let mut accounts = Vec::new();
    for name in asked {
        let known = AccountName::try_from(name.as_str()).ok();
        let known = known.filter(|name| describe::speaks_of(status, name));
        let Some(known) = known else {
            let all: Vec<&str> = status.rows.names().map(AccountName::as_str).collect();
            let all = match several(&all) {
                all if all.is_empty() => "it names no account".to_owned(),
                all => format!("it names {all}"),
            };
            bail!(
                "the status does not name the account `{}`; {all}",
                escaped(name)
            );
        };
        accounts.push(known);
    }
    Ok(accounts)
}
