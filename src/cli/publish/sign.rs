//! `sign`: signs a directory of keys and puts nothing. Exit 0 it is signed, 2 errors.

use std::fmt::Write as _;
use std::path::{self, Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::desk::{Desk, Found};
use super::report::Report;
use super::signing::{Draft, Options, Signing};
use super::{confirmed, is_terminal, literal, open_store, texts, told};
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::ssm::{Patience, Publisher};
use crate::host::{Threads, directory, store};
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::{lint_each, lint_list};
use crate::model::escape::escaped;
use crate::model::key::id::KeyId;
use crate::model::list::contents::Contents;
use crate::model::list::publication::{Wanted, Way, plan};
use crate::model::list::statement::{self, Scope};
use crate::model::list::template::{Facts, NameTemplate, PathTemplate, without_selector};
use crate::model::words::count;

/// What its exit status means, for `--help` and the man page.
pub(crate) const END: &str = "\
Examples:
  agent sign keys --to /authorized-keys/web --sign ~/.ssh/list
      For a path, whose serial number is read from Parameter Store. What is
      signed is published by `agent publish keys --to /authorized-keys/web`,
      by a second person with `--add-signature`
  agent sign approved --as /etc/authorized-keys-agent/approved --sign list.pub
      For hosts that have the directory themselves; copy it with its .signed
  agent sign parameters --named /shared/.signed --sign ~/.ssh/list
      For named parameters: `parameters/shared/ops` is `/shared/ops`. Put each
      as `\"$(cat parameters/shared/ops)\"`, and `.signed` last, likewise

Exit status:
  0  it is signed
  2  a line would be refused, wrong usage, or it is not signed";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The directory: a file for each ACCOUNT, or ACCOUNT/LABEL; with --named, for each parameter
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// For hosts that read it below this path of Parameter Store, as in `[source] paths`
    #[arg(long, value_name = "PATH", value_parser = PathTemplate::parse, conflicts_with_all = ["named", "source"])]
    to: Option<PathTemplate>,
    /// For hosts that read parameters by name: the one that holds the signature, as in `[source] signed`
    #[arg(long, value_name = "NAME", value_parser = NameTemplate::parse, conflicts_with = "source")]
    named: Option<NameTemplate>,
    /// Where hosts have this directory, as in `[source] directory` [default: DIR]
    #[arg(long = "as", value_name = "PATH")]
    source: Option<PathBuf>,
    /// Do not ask before a signature is added
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    signing: Options,
}

impl Arguments {
    fn scope(&self) -> anyhow::Result<Scope> {
        if let Some(to) = &self.to {
            return Ok(Scope::Path(literal(to)?));
        }
        if let Some(name) = &self.named {
            let name = name.expand(&Facts::new())?;
            return Ok(Scope::Parameters(without_selector(&name).to_owned()));
        }
        let directory = path::absolute(self.source.as_ref().unwrap_or(&self.directory))?;
        // Without a `/` at the end, or two inside.
        let directory: PathBuf = directory.components().collect();
        let text = directory
            .to_str()
            .context("the name of the directory is not UTF-8")?;
        Ok(Scope::Directory(text.to_owned()))
    }
}

/// `config` is where the policy is, `named` by the caller or where it usually is.
pub(crate) async fn run(arguments: &Arguments, config: &Path, named: bool) -> Outcome {
    let scope = arguments.scope()?;
    let config = surroundings::config_if_any(config, named)?;
    let policy = config.map(|config| config.policy).unwrap_or_default();
    let (zone, now) = (surroundings::zone(), surroundings::now());
    let rules = Rules {
        policy: &policy,
        zone: &zone,
        openssh: None,
    };
    let signing = Signing::new(&arguments.signing, policy.signing.as_ref(), now)?;
    if signing.key.is_none() {
        bail!("name the key that signs: --sign KEY");
    }
    let asks = signing.adds && !arguments.yes;
    if asks && !is_terminal() {
        bail!("without a terminal it cannot ask: add --yes");
    }
    let path = match &scope {
        Scope::Path(path) => path.clone(),
        _ => String::new(),
    };
    let desk = Desk { rules, path };
    let mut report = Report {
        path: desk.path.clone(),
        ..Report::default()
    };
    let draft = directory::draft(&arguments.directory)?;
    report.lint = match &scope {
        Scope::Path(path) => lint_list(&draft, Some(path), rules, now),
        Scope::Directory(_) => lint_list(&draft, None, rules, now),
        // Two files may be of two accounts.
        Scope::Parameters(_) => lint_each(&draft, rules, now),
    };
    let is_exact = matches!(scope, Scope::Directory(_));
    let (wanted, unreadable) = desk.wanted(&draft, is_exact);
    report.refuse_bytes(&unreadable);
    if !report.lint.problems.is_empty() {
        let problems = count(report.lint.problems.len(), "problem");
        return report.refuse(format!("{problems}: nothing is signed"));
    }
    report.tell_remarks();
    sign(
        arguments,
        &scope,
        &desk,
        &signing,
        (&wanted, asks),
        &mut report,
    )
    .await
}

async fn sign(
    arguments: &Arguments,
    scope: &Scope,
    desk: &Desk<'_>,
    signing: &Signing<'_>,
    (wanted, asks): (&Wanted, bool),
    report: &mut Report,
) -> Outcome {
    let file = arguments.directory.join(statement::NAME);
    let (at, text) = (file.display().to_string(), scope.to_string());
    let own = directory::signature(&arguments.directory)?.map(|(text, _)| text);
    let contents = Contents::of(&desk.path, &mut texts(wanted));
    // What hosts have in force is what is published; of a directory it is known only where it was signed before.
    let found = match scope {
        Scope::Path(_) => Some(read(desk, report).await),
        _ => None,
    };
    let place = scope.signed_at();
    let published = match &found {
        Some(Ok(found)) => found.text_of_signed(),
        Some(Err(_)) => None,
        None => own.as_deref(),
    };
    let (draft, known) = if signing.adds {
        let Some(own) = &own else {
            bail!("`{at}` is not there\n  hint: the first person signs without --add-signature");
        };
        let published = found.is_some().then_some((published, place.as_str()));
        signing.take(own, &text, &at, published)?
    } else {
        let known = match &found {
            Some(Err(error)) => Some(Err(format!("Parameter Store cannot be asked: {error:#}"))),
            Some(Ok(_)) => signing.known(published, &text, &place),
            None => signing.known(published, &text, &at),
        };
        let draft = signing.renew(&text, contents.clone(), &known)?;
        (draft, known)
    };
    if let Some(Ok(found)) = &found {
        report.strangers = found.strangers.keys().cloned().collect();
        let way = Way {
            prune: true,
            advanced: true,
            exact: true,
        };
        report.plan = plan(&found.published, wanted, way);
        if !report.plan.obstacles.is_empty() {
            return report.refuse(told(&report.plan.obstacles, "nothing is signed"));
        }
        let all = report.plan.contents(&desk.path, &found.strangers);
        if let Some(wrong) = report.misfit(&draft, &contents, &all, wanted, &at) {
            return report.refuse(wrong);
        }
        let there = found.contents(&desk.path);
        report.add_signature(&draft, signing.key.as_ref(), &known, &there);
        report.print_plan()?;
    } else {
        if let Some(wrong) = report.misfit(&draft, &contents, &contents, wanted, &at) {
            return report.refuse(wrong);
        }
        report.add_signature(&draft, signing.key.as_ref(), &known, &contents);
        if found.is_some() {
            print::data(&report.newness())?;
        }
        print::data(&(listed(wanted, &desk.path) + &report.signature()))?;
    }
    if asks && !confirmed("Sign this")? {
        bail!("nothing is signed");
    }
    let signed = signing.sign(draft)?;
    Draft::check_size(&signed, true)?;
    store::write(&file, format!("{signed}\n").as_bytes(), 0o644)?;
    print::data(&format!("signed: {}\n", escaped(&at)))?;
    Ok(0)
}

/// What is published.
async fn read(desk: &Desk<'_>, report: &mut Report) -> anyhow::Result<Found> {
    Threads::probe()?;
    let store = open_store(report).await?;
    let mut publisher = Publisher::new(&store, Patience::default(), |_, _| ());
    desk.published(&mut publisher).await
}

/// Each file with its keys.
fn listed(wanted: &Wanted, path: &str) -> String {
    let mut text = String::new();
    for (name, (_, value)) in wanted {
        let name = name.strip_prefix(path).unwrap_or(name);
        let _ = writeln!(text, "{}", escaped(name));
        for line in &value.lines {
            let _ = writeln!(text, "  + {}", KeyId::from(line));
        }
    }
    text
}
