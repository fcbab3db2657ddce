//! `publish`: a directory becomes parameters. Exit 0 done or nothing to do, 1 it would change something (`--dry-run`), 2 errors.

mod carry_out;
mod desk;
mod report;
pub(super) mod sign;
mod signing;

use std::io::{self, BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};

use self::carry_out::Carrier;
use self::desk::{Desk, Found, hinted};
use self::report::Report;
use self::signing::{Draft, Signing};
use crate::cli::surroundings::{self, Outcome};
use crate::host::ssm::{self, ParameterStore, Patience, Publisher};
use crate::host::{Threads, directory};
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::lint_list;
use crate::model::escape::escaped;
use crate::model::list::contents::Contents;
use crate::model::list::order::{Step, Stuck, order};
use crate::model::list::publication::{Kind, Obstacle, Wanted, Way, plan};
use crate::model::list::statement;
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
  agent publish keys --to /authorized-keys/web --prune --sign ~/.ssh/list
      Signed, for hosts with `[policy] signed-by`; the same again before the
      signature expires renews it
  agent publish keys --to /keys/web --add-signature --sign ben --signers who
      What another person signed with `agent sign`, signed by a second one;
      the file `who` says who may

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
    #[command(flatten)]
    signing: signing::Options,
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
    if asks && (arguments.json || !is_terminal()) {
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
    let now = surroundings::now();
    report.lint = lint_list(&draft, Some(&desk.path), desk.rules, now);
    let (wanted, unreadable) = desk.wanted(&draft, false);
    report.refuse_bytes(&unreadable);
    if !report.lint.problems.is_empty() {
        let problems = count(report.lint.problems.len(), "problem");
        return report.refuse(format!("{problems}: nothing is put"));
    }
    report.tell_remarks();
    let signing = Signing::new(&arguments.signing, desk.rules.policy.signing.as_ref(), now)?;
    let own = directory::signature(&arguments.directory)?.map(|(text, _)| text);
    Threads::probe()?;
    let store = open_store(report).await?;
    let mut publisher = Publisher::new(&store, Patience::default(), carry_out::tell_wait());
    let found = desk.published(&mut publisher).await?;
    let own = own.as_deref();
    let prepared = prepare(arguments, desk, &signing, (&wanted, own), &found, report)?;
    let Prepared {
        mut steps,
        contents,
        draft,
    } = prepared;
    report.print_plan()?;
    let writes = steps.len() + usize::from(draft.is_some());
    if writes == 0 || arguments.dry_run {
        return Ok(u8::from(writes > 0));
    }
    if asks && !confirmed(&format!("Put this ({})", count(writes, "write")))? {
        bail!("nothing is put");
    }
    let mut signed = None;
    if let Some(draft) = draft {
        let text = signing.sign(draft)?;
        let is_advanced = found
            .signed
            .as_ref()
            .is_some_and(|(one, _)| one.is_advanced);
        Draft::check_size(&text, is_advanced || arguments.tier.is_some())?;
        steps.push(Step {
            name: statement::name(&desk.path),
            value: Some(text),
            is_last: true,
        });
        signed = Some(contents);
    }
    // A person, and a key that has to be touched, take their time.
    if asks || signing.key.is_some() {
        desk.check_unchanged(&mut publisher, &found).await?;
    }
    let known = found.known(&desk.path);
    let kms_key = arguments.kms_key.as_deref();
    let mut carrier = Carrier::new(publisher, desk, kms_key, known, signed);
    let ended = carrier.carry_out(&steps).await;
    report.done = carrier.done();
    let left = &steps[report.done..];
    report.left = left.iter().map(|step| step.name.clone()).gather();
    ended.map(|()| 0)
}

/// What is to be done.
struct Prepared {
    /// All writes but that of the signature.
    steps: Vec<Step>,
    /// What there is in the end.
    contents: Contents,
    /// What is put as the signature, if that is another one.
    draft: Option<Draft>,
}

/// What the directory has, `wanted` and its own signature, against what is found.
fn prepare(
    arguments: &Arguments,
    desk: &Desk<'_>,
    signing: &Signing<'_>,
    (wanted, own): (&Wanted, Option<&str>),
    found: &Found,
    report: &mut Report,
) -> anyhow::Result<Prepared> {
    let (scope, place) = (desk.path.as_str(), statement::name(&desk.path));
    let published = found.text_of_signed();
    let in_directory = arguments.directory.join(statement::NAME);
    let in_directory = in_directory.display().to_string();
    // What is signed already, and where that is.
    let stored = match (&signing.key, own, published) {
        (Some(_), _, _) if !signing.adds => None,
        (_, Some(own), _) => Some((own, in_directory.as_str())),
        (Some(_), None, Some(text)) => Some((text, place.as_str())),
        (Some(_), None, None) => bail!(
            "there is no signature to add one to, neither `{}` nor `{}`\n  hint: the first person signs with `agent sign`",
            escaped(&in_directory),
            escaped(&place)
        ),
        (None, None, _) => None,
    };
    let way = Way {
        prune: arguments.prune,
        advanced: arguments.tier.is_some(),
        exact: stored.is_some(),
    };
    report.strangers = found.strangers.keys().cloned().collect();
    report.plan = plan(&found.published, wanted, way);
    if !report.plan.obstacles.is_empty() {
        return report.refuse(told(&report.plan.obstacles, "nothing is put"));
    }
    let mut steps = match order(&report.plan.parameters) {
        Ok(steps) => steps,
        Err(stuck) => return report.refuse(format!("{stuck}\n  hint: {}", Stuck::HINT)),
    };
    let contents = report.plan.contents(scope, &found.strangers);
    let index = found.index.as_ref();
    if arguments.index || index.is_some() {
        let is_secured = index.is_some_and(|(known, _)| known.kind == Kind::SecureString);
        let text = index.map(|(_, text)| text.as_str());
        report
            .plan
            .index(&mut steps, scope, &contents, text, is_secured);
    }
    let (draft, known) = match stored {
        Some((text, at)) => match signing.take(text, scope, at, Some((published, &place))) {
            Ok(taken) => taken,
            Err(error) => return report.refuse(format!("{error:#}")),
        },
        None if signing.key.is_some() => {
            let known = signing.known(published, scope, &place);
            let draft = signing.renew(scope, contents.clone(), &known)?;
            (draft, known)
        }
        None => {
            let is_of_it = |text: &str| contents.are_said_by(text, scope);
            if !published.is_none_or(is_of_it) {
                report.leaves_unsigned(arguments.dry_run)?;
            }
            let draft = None;
            return Ok(Prepared {
                steps,
                contents,
                draft,
            });
        }
    };
    let of_directory = Contents::of(scope, &mut texts(wanted));
    let at = stored.map_or(place.as_str(), |(_, at)| at);
    if let Some(wrong) = report.misfit(&draft, &of_directory, &contents, wanted, at) {
        return report.refuse(wrong);
    }
    report.add_signature(&draft, signing.key.as_ref(), &known, &found.contents(scope));
    let is_there = signing.key.is_none() && draft.is_said_by(&known);
    if !is_there {
        let kind = found.signed.as_ref().map(|(known, _)| known.kind);
        report.plan.sign(place, kind);
    }
    Ok(Prepared {
        steps,
        contents,
        draft: (!is_there).then_some(draft),
    })
}

/// Parameter Store, as the environment says where.
async fn open_store(report: &mut Report) -> anyhow::Result<ParameterStore> {
    let settings = ssm::Settings {
        limits: ssm::Limits::per_call(CALL),
        ..ssm::Settings::default()
    };
    let store = ParameterStore::new(&settings).await;
    let store = store.map_err(|failure| hinted(&failure))?;
    store.region().clone_into(&mut report.region);
    Ok(store)
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

/// Whether a person can be asked.
fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Names and texts.
fn texts(wanted: &Wanted) -> impl Iterator<Item = (&String, &String)> {
    wanted.iter().map(|(name, (_, value))| (name, &value.text))
}

/// Asks; only a word that says yes is yes.
fn confirmed(what: &str) -> anyhow::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{what}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Each, and below those of a kind what can be done.
fn told(obstacles: &[Obstacle], end: &str) -> String {
    let mut lines = Vec::new();
    let mut rest = obstacles.iter().peekable();
    while let Some(obstacle) = rest.next() {
        lines.push(obstacle.to_string());
        if rest.peek().map(|next| next.hint()) != Some(obstacle.hint()) {
            lines.push(format!("  hint: {}", obstacle.hint()));
        }
    }
    lines.push(end.to_owned());
    lines.join("\n")
}
