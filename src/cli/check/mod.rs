//! `check`: everything the agent needs, looked at before it is needed. Exit 0 all good, 1 something failed, 2 usage or
//! config. What depends on nothing that failed is looked at all the same; nothing is written.

mod accounts;
mod audit;
mod list;
mod own;
mod signatures;
mod sshd;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::agent::gather::List;
use crate::agent::pass::{Looked, Reconciler};
use crate::agent::workers::PATIENCE;
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome};
use crate::host::{chain, keyfile, process};
use crate::model::account::AccountName;
use crate::model::config::tables::Config;
use crate::model::desired::decide::Terms;
use crate::model::status::preflight::{Finding, Verdict, keys};
use crate::model::status::problem::Cause;
use crate::model::words::count;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent check
      After the configuration was written, and when a fetch fails

Exit status:
  0  nothing failed
  1  something failed
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// Print JSON, schema 1
    #[arg(long)]
    json: bool,
}

/// `path` is where `config` was read.
pub(super) async fn run(arguments: &Arguments, config: Config, path: &Path) -> Outcome {
    let message = format!(
        "`{}` is read, mode {}",
        path.display(),
        config.mode.as_str()
    );
    let mut findings = vec![Finding::ok("config", message)];
    if let Some(cause) = surroundings::open_config(path) {
        let hint = cause.hint().unwrap_or_default();
        findings.push(Finding::fail("config", cause.reason(), hint));
    }
    let read = list::look(&config.source, surroundings::now, &mut findings).await;
    // As the enforcer does, or a home could look more open than it is; failing leaves only that.
    let _ = keyfile::drop_supplementary_groups();
    let mut config = config;
    // What the list says is looked at all the same where it is not signed as it must be.
    let signing = config.policy.signing.take();
    let (reconciler, looked) = foresee(config, &read, &mut findings).await;
    let (config, decision) = (&reconciler.config, &reconciler.decision);
    if let Some(signing) = &signing {
        let known = &reconciler.in_force().signed;
        let now = surroundings::now();
        signatures::look(&config.source, signing, &read, known, now, &mut findings);
    }
    if let Some(list) = &read.list {
        let zone = surroundings::zone();
        let terms = Terms {
            config,
            zone: &zone,
        };
        let here = |name: &AccountName| accounts::here(&reconciler, name);
        findings.extend(keys(list, read.whole, decision, terms, here));
    }
    accounts::look(&reconciler, &looked, &mut findings).await;
    own::directories(&config.paths, &mut findings);
    own::break_glass(config, decision, &mut findings);
    own::daemons(&config.paths, &mut findings);
    sshd::look(&reconciler, &looked, &mut findings);
    audit::look(&mut findings);
    conclude(&findings, arguments.json)
}

/// Decides as the service will, and looks at the files as it will find them. Without a list, with what there is.
async fn foresee(
    config: Config,
    read: &list::Read,
    findings: &mut Vec<Finding>,
) -> (Reconciler, Looked) {
    let now = surroundings::now();
    let (mut reconciler, unreadable) = Reconciler::preflight(config, surroundings::zone());
    if let Some(error) = unreadable
        && process::is_root()
    {
        let hint = "the enforcer does not start without it: look at what is there";
        findings.push(Finding::fail("directory", chain(&error), hint));
    }
    let list = || match &read.list {
        Some(list) => List::Given(list),
        None => List::Stored,
    };
    reconciler
        .decide(list(), None, Some(PATIENCE), &|| (), now)
        .await;
    if let Some(mut held) = reconciler.decision.held.clone() {
        if held.since >= Some(now) {
            held = held.foreseen();
        }
        // Only a list that was read whole comes to the service.
        if read.list.is_some() && read.whole {
            let (message, hint) = (held.to_string(), Cause::ListHeld(held).hint());
            findings.push(Finding::warn("keys", message, hint.unwrap_or_default()));
        }
        // What it says is looked at all the same.
        let listed = reconciler.decision.list.as_ref();
        let digest = listed.map(|listed| listed.digest.clone());
        reconciler
            .decide(list(), digest, Some(PATIENCE), &|| (), now)
            .await;
    }
    reconciler.foresee(now).await;
    let looked = reconciler
        .look_once(true, now, surroundings::instant())
        .await;
    (reconciler, looked)
}

fn conclude(findings: &[Finding], as_json: bool) -> Outcome {
    let number = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    let failed = number(Verdict::Fail);
    if as_json {
        let worst = findings.iter().map(|finding| finding.verdict).max();
        let report = json!({"schema": 1, "verdict": worst, "checks": findings});
        print::data(&format!("{report:#}\n"))?;
    } else {
        let mut text = String::new();
        for finding in findings {
            let _ = writeln!(text, "{finding}");
        }
        print::data(&text)?;
        let (checks, warnings) = (
            count(findings.len(), "check"),
            count(number(Verdict::Warn), "warning"),
        );
        let _ = writeln!(io::stderr(), "{checks}, {failed} failed, {warnings}");
    }
    Ok(u8::from(failed > 0))
}
