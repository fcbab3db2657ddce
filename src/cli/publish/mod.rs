//! `publish`: a directory becomes parameters. Exit 0 done or nothing to do, 1 it would change something (`--dry-run`), 2 errors.

mod carry_out;
mod desk;
mod report;

use std::io::{self, BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};

use self::carry_out::Carrier;
use self::desk::{Desk, hinted};
use self::report::Report;
use crate::cli::surroundings::{self, Outcome};
use crate::host::ssm::{self, ParameterStore, Patience, Publisher};
use crate::host::{Threads, directory};
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::lint_list;
use crate::model::list::order::{Stuck, order};
use crate::model::list::publication::{Kind, Obstacle, plan};
use crate::model::list::template::{Facts, PathTemplate};
use crate::model::sorting::Gather;
use crate::model::words::count;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  agent publish keys --to /authorized-keys/web --dry-run
      What would change, and who gains and loses; changes nothing
  agent publish keys --to /authorized-keys/web
      The same, then asks, then puts it
  agent publish keys --to /authorized-keys/web --prune --yes
      In a pipeline; what is not in the directory is deleted
  agent publish keys --to /authorized-keys/web --index
      With an index, which makes a poll one call

Exit status:
  0  it is published, or was already
  1  with --dry-run: something would change
  2  a line would be refused, wrong usage, or not all is published";

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(super) struct Arguments {
    /// A directory in the list's layout: a file for each ACCOUNT, or ACCOUNT/LABEL
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The path in Parameter Store below which it is put, as in `[source] paths`
    #[arg(long, value_name = "PATH", value_parser = PathTemplate::parse)]
    to: PathTemplate,
    /// Delete what is published below the path and not in the directory
    #[arg(long)]
    prune: bool,
    /// Put an index, PATH/.index, so that a host asks for nothing else while nothing has changed. One that is there is kept
    /// up to date without this
    #[arg(long)]
    index: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// `advanced`: files of more than 4 KB become advanced parameters, which AWS bills, and which stay advanced
    #[arg(
        long,
        value_name = "TIER",
        ignore_case = true,
        hide_possible_values = true
    )]
    tier: Option<Tier>,
    /// The KMS key of each `SecureString`, where it is not `aws/ssm`
    #[arg(long, value_name = "KEY")]
    kms_key: Option<String>,
    /// Print JSON, schema 1
    #[arg(long)]
    json: bool,
}

/// The most that one call may take. Of a write that times out it is not known whether it was done, so none does so early.
const CALL: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, ValueEnum)]
enum Tier {
    Advanced,
}

/// `config` is where the policy is, `named` by the caller or where it usually is.
pub(super) async fn run(arguments: &Arguments, config: &Path, named: bool) -> Outcome {
    let asks = !arguments.yes && !arguments.dry_run;
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if asks && (arguments.json || !is_terminal) {
        let why = if arguments.json {
            "with --json"
        } else {
            "without a terminal"
        };
        bail!("{why} it cannot ask: add --yes, or --dry-run to see what would change");
    }
    let config = surroundings::config_if_any(config, named)?;
    let policy = config.map(|config| config.policy).unwrap_or_default();
    let zone = surroundings::zone();
    let rules = Rules {
        policy: &policy,
        zone: &zone,
        openssh: None,
    };
    let desk = Desk {
        rules,
        path: literal(&arguments.to)?,
    };
    let mut report = Report {
        json: arguments.json,
        dry_run: arguments.dry_run,
        names_key: arguments.kms_key.is_some(),
        path: desk.path.clone(),
        ..Report::default()
    };
    let ended = publish(arguments, &desk, asks, &mut report).await;
    report.error = ended.as_ref().err().map(|error| format!("{error:#}"));
    report.print_end()?;
    ended
}

async fn publish(
    arguments: &Arguments,
    desk: &Desk<'_>,
    asks: bool,
    report: &mut Report,
) -> Outcome {
    let draft = directory::draft(&arguments.directory)?;
    report.lint = lint_list(&draft, Some(&desk.path), desk.rules, surroundings::now());
    let (wanted, unreadable) = desk.wanted(&draft);
    report.refuse_bytes(&unreadable);
    if !report.lint.problems.is_empty() {
        let problems = count(report.lint.problems.len(), "problem");
        return report.refuse(format!("{problems}: nothing is put"));
    }
    report.tell_remarks();
    Threads::probe()?;
    let settings = ssm::Settings {
        limits: ssm::Limits::per_call(CALL),
        ..ssm::Settings::default()
    };
    let store = ParameterStore::new(&settings).await;
    let store = store.map_err(|failure| hinted(&failure))?;
    store.region().clone_into(&mut report.region);
    let mut publisher = Publisher::new(&store, Patience::default(), carry_out::tell_wait());
    let found = desk.published(&mut publisher).await?;
    report.strangers = found.strangers.keys().cloned().collect();
    let advanced = arguments.tier.is_some();
    report.plan = plan(&found.published, &wanted, arguments.prune, advanced);
    if !report.plan.obstacles.is_empty() {
        let all = told(&report.plan.obstacles);
        return report.refuse(all);
    }
    let mut steps = match order(&report.plan.parameters) {
        Ok(steps) => steps,
        Err(stuck) => return report.refuse(format!("{stuck}\n  hint: {}", Stuck::HINT)),
    };
    let index = found.index.as_ref();
    if arguments.index || index.is_some() {
        let contents = report.plan.contents(&desk.path, &found.strangers);
        let is_secured = index.is_some_and(|(known, _)| known.kind == Kind::SecureString);
        let text = index.map(|(_, text)| text.as_str());
        report
            .plan
            .index(&mut steps, &desk.path, &contents, text, is_secured);
    }
    report.print_plan()?;
    if steps.is_empty() || arguments.dry_run {
        return Ok(u8::from(!steps.is_empty()));
    }
    if asks {
        if !confirmed(steps.len())? {
            bail!("nothing is put");
        }
        desk.check_unchanged(&mut publisher, &found).await?;
    }
    let known = found.known(&desk.path);
    let mut carrier = Carrier::new(publisher, desk, arguments.kms_key.as_deref(), known);
    let ended = carrier.carry_out(&steps).await;
    report.done = carrier.done();
    let left = &steps[report.done..];
    report.left = left.iter().map(|step| step.name.clone()).gather();
    ended.map(|()| 0)
}

/// A path is written as it is: who publishes is no instance.
fn literal(to: &PathTemplate) -> anyhow::Result<String> {
    if to.needs().next().is_some() {
        bail!(
            "`{to}` has no place of its own: write the path of one kind of host, such as /authorized-keys/web"
        );
    }
    let path = to.expand(&Facts::new())?;
    if path == "/" {
        bail!(
            "`/` is all of Parameter Store: name a path of the list's own, such as /authorized-keys/web"
        );
    }
    // "can't be prefixed with "aws" or "ssm" (case-insensitive)" (API reference, `PutParameter`).
    let start = path.get(1..4).unwrap_or_default().to_ascii_lowercase();
    if start == "aws" || start == "ssm" {
        bail!(
            "`{path}` begins with `{start}`, which AWS keeps for itself: name another path, such as /authorized-keys/web"
        );
    }
    Ok(path)
}

/// Asks; only a word that says yes is yes.
fn confirmed(writes: usize) -> anyhow::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "Put this ({})? [y/N] ", count(writes, "write"))?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Each, and below those of a kind what can be done.
fn told(obstacles: &[Obstacle]) -> String {
    let mut lines = Vec::new();
    let mut rest = obstacles.iter().peekable();
    while let Some(obstacle) = rest.next() {
        lines.push(obstacle.to_string());
        if rest.peek().map(|next| next.hint()) != Some(obstacle.hint()) {
            lines.push(format!("  hint: {}", obstacle.hint()));
        }
    }
    lines.push("nothing is put".to_owned());
    lines.join("\n")
}
