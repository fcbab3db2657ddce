//! `diff`: what enforcing would change. Exit 0 nothing, 1 changes, 2 cannot tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;

use crate::agent::fetched::{self, ListError};
use crate::agent::gather::{self, List};
use crate::agent::pass::{Looked, Reconciler};
use crate::agent::publish;
use crate::agent::source::Clients;
use crate::agent::workers::PATIENCE;
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::cli::wrap::{Colour, wrap};
use crate::host::chain;
use crate::host::store::StoreError;
use crate::model::account::AccountName;
use crate::model::config::tables::{Config, Source};
use crate::model::desired::decide::{Decision, Trouble, signers};
use crate::model::desired::signed::{self, AllTaken, Trust, Unsigned};
use crate::model::escape::escaped;
use crate::model::file::difference::Difference;
use crate::model::key::policy::Signing;
use crate::model::list::approved::ApprovedList;
use crate::model::list::template::PathTemplate;
use crate::model::sorting::Gather;
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{AccountState, Row};
use crate::model::status::told::told;
use crate::model::words::{count, several};

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent diff
      Before a list is enforced here, or before a held one is let through
  sudo agent diff --list approved/
      Before a list is published: what it would change on this host
  sudo agent diff --path '/authorized-keys/{iam-role}'
      Before the config names another path

Exit status:
  0  nothing would change
  1  something would
  2  that cannot be told: the list could not be read, or a file not be looked at";

/// What would change, account by account.
type Changes = BTreeMap<AccountName, Vec<Difference>>;

#[derive(Args)]
pub(super) struct Arguments {
    /// Compare with a list that is not published: a directory in the list's layout
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    list: Option<PathBuf>,
    /// Compare with the parameters below another path; templates count as in the config
    #[arg(long, value_name = "PATH", value_parser = PathTemplate::parse)]
    path: Option<PathTemplate>,
}

impl Arguments {
    /// The other list that is asked for.
    fn source(&self, configured: &Source) -> Option<Source> {
        let other = Source {
            paths: self.path.clone().into_iter().collect(),
            parameters: BTreeMap::new(),
            directory: self.list.clone(),
            ..configured.clone()
        };
        (self.list.is_some() || self.path.is_some()).then_some(other)
    }
}

/// Fetches afresh, so that it shows what `sync` would do. With the source out of reach it shows what the stored list would
/// change, which is no answer; of a list that was named there is no other.
pub(super) async fn run(arguments: &Arguments, mut config: Config) -> Outcome {
    let named = arguments.source(&config.source);
    // A list that was named is compared as if it were signed; whether it is, is told apart.
    let signing = config.policy.signing.take_if(|_| named.is_some());
    let source = named.as_ref().unwrap_or(&config.source);
    let mut clients = Clients::new(source, surroundings::may_ask_metadata());
    let fetched = clients.list(source, None, surroundings::now()).await;
    let (list, mut blind) = match (fetched, &named) {
        (Ok(list), Some(_)) if list.entries.is_empty() => {
            bail!("no list: there is no value in `{}`", list.source)
        }
        (Ok(list), _) => (list, false),
        (Err(error), Some(_)) => {
            // That of the directory source is about the config.
            let hint = arguments.path.as_ref().and_then(|_| error.hint());
            let error = format!("no list: {}", chain(&error));
            return Err(surroundings::hinted(error, hint));
        }
        (Err(error), None) => (stored(&config, &chain(&error))?, true),
    };
    let asked = surroundings::now();
    let (mut reconciler, mut looked) = compare(&config, &list, None).await?;
    if let Some(mut held) = reconciler.decision.held.clone() {
        if named.is_some() || held.since >= Some(asked) {
            held = held.foreseen();
        }
        let when = if named.is_some() {
            "would be held once published: "
        } else {
            ""
        };
        tracing::warn!("{when}{held}");
        let at_once = std::mem::take(&mut looked.differences);
        (reconciler, looked) = compare(&config, &list, Some(list.digest())).await?;
        print::data(&in_two(&at_once, &looked.differences, &reconciler.decision))?;
    } else {
        print::data(&print::changes(&looked.differences, &reconciler.decision))?;
    }
    if let Some(signing) = &signing {
        let known = &reconciler.in_force().signed;
        tell_signature(&list, source, &config.source, signing, known, asked);
    }
    let decision = &reconciler.decision;
    let is_refused = signing.is_none() && decision.in_force.refused_since.is_some();
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
    let (untouched, compared) = (
        untouched(reconciler.rows().values()),
        summary(&list, &looked.differences, is_refused),
    );
    let _ = writeln!(io::stderr(), "{untouched}{compared}");
    Ok(if blind {
        surroundings::USAGE
    } else {
        u8::from(!looked.differences.is_empty())
    })
}

/// Whether the signature of a list would count today. In a directory it is for where the list will be.
fn tell_signature(
    list: &ApprovedList,
    source: &Source,
    configured: &Source,
    signing: &Signing,
    known: &AllTaken,
    now: Timestamp,
) {
    let fact = gather::read_signers(&signing.signed_by);
    let (signers, mut troubles) = signers(&fact, signing, &surroundings::zone());
    let mut add = |scope, fault| {
        troubles.push(Trouble::Unsigned {
            what: Unsigned { scope, fault },
            lasts: true,
            is_first: false,
        });
    };
    let mut good = AllTaken::new();
    if let Some(signers) = &signers {
        let trust = Trust {
            signing,
            signers,
            known,
            now,
        };
        match (&source.directory, list.signed.first()) {
            (Some(directory), Some(signed)) => {
                let entries = list.entries.iter();
                let files: Vec<(&str, &str)> = entries
                    .map(|entry| {
                        (
                            signed::below(&directory.display().to_string(), &entry.parameter),
                            &*entry.value,
                        )
                    })
                    .collect();
                match signed::verify_draft(&files, &signed.text, Some(configured), trust) {
                    (scope, Ok(taken)) => drop(good.insert(scope, taken)),
                    (scope, Err(fault)) if scope.is_empty() => add(list.source.clone(), fault),
                    (scope, Err(fault)) => add(scope, fault),
                }
            }
            _ => match signed::verify(list, source, trust) {
                Ok(taken) => good = taken,
                Err(faults) => faults
                    .into_iter()
                    .for_each(|what| add(what.scope, what.fault)),
            },
        }
    }
    for (scope, taken) in good {
        let signature = print::signature(&taken, now);
        let _ = writeln!(
            io::stderr(),
            "{}: signed {signature}: it would count today",
            escaped(&scope)
        );
    }
    for told in told(troubles.into_iter().map(Problem::from)) {
        tracing::warn!("as it is now: {}", told.line());
    }
}

/// Of a list that is held: what comes at once, and what of all that it would change waits.
fn in_two(at_once: &Changes, all: &Changes, decision: &Decision) -> String {
    let mut waits = all.clone();
    for (account, differences) in &mut waits {
        let comes = at_once.get(account).map_or(&[][..], Vec::as_slice);
        differences.retain(|difference| !comes.contains(difference));
    }
    waits.retain(|_, differences| !differences.is_empty());
    let mut text = String::new();
    for (title, changes) in [("at once", at_once), ("waits", &waits)] {
        if !changes.is_empty() {
            let _ = write!(text, "{title}:\n{}", print::changes(changes, decision));
        }
    }
    text
}

/// The accounts of the list for which nothing changes here, whatever it says of them.
fn untouched<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let (mut absent, mut unmanaged) = (Vec::new(), Vec::new());
    for row in rows {
        match row.state {
            AccountState::NoAccount => absent.push(row.name.as_str()),
            AccountState::Unmanaged => unmanaged.push(row.name.as_str()),
            _ => {}
        }
    }
    let mut text = String::new();
    for (label, names) in [
        ("no account on this host:", absent),
        ("not in `[accounts] manage`:", unmanaged),
    ] {
        if !names.is_empty() {
            wrap(&mut text, (label, Colour::None), 2, &several(&names));
        }
    }
    text
}

/// Which list was compared, and what comes of it.
fn summary(list: &ApprovedList, differences: &Changes, is_refused: bool) -> String {
    let listed: BTreeSet<_> = list.entries.iter().map(|entry| &entry.account).gather();
    let (mut come, mut go, mut change) = (0, 0, 0);
    for difference in differences.values().flatten() {
        match difference {
            Difference::Removed(_) => come += 1,
            Difference::Added(_) => go += 1,
            Difference::OtherFile(other) => go += other.found.keys.len() + other.found.more,
            Difference::Options { .. } => change += 1,
            _ => {}
        }
    }
    let what = if differences.is_empty() {
        "nothing would change".to_owned()
    } else {
        let of = count(differences.len(), "account");
        format!("{of} would change, keys: +{come} -{go} ~{change}")
    };
    let (from, listed) = (escaped(&list.source), count(listed.len(), "account"));
    if is_refused {
        return format!("{from} does not count, so compared with the keys in force: {what}");
    }
    format!("compared with {from} ({listed}): {what}")
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
    reconciler
        .decide(List::Given(list), accepted, Some(PATIENCE), &|| (), now)
        .await;
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
