//! `check`: everything the agent needs, looked at before it is needed. Exit 0 all good, 1 something failed, 2 usage or
//! config. What depends on nothing that failed is looked at all the same; nothing is written.

mod accounts;
mod list;
mod own;
mod sshd;

use crate::cli::print;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::cli::surroundings::{self, Outcome};
use crate::model::config::tables::Config;
use crate::model::desired::judge::Rules;
use crate::model::status::preflight::{Finding, Verdict, count, keys};

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
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
    let read = list::look(&config.source, surroundings::now, &mut findings).await;
    let listed = read
        .list
        .iter()
        .flat_map(|list| &list.entries)
        .map(|entry| &entry.account);
    let names = config.accounts.named().chain(listed).cloned().collect();
    let people = accounts::look_up(&config, names, &mut findings).await;
    let (zone, answer) = (surroundings::zone(), sshd::ask(&people).await);
    let openssh = answer.as_ref().and_then(|answer| answer.version);
    let rules = Rules {
        policy: &config.policy,
        zone: &zone,
        openssh,
    };
    if let Some(list) = &read.list {
        findings.extend(keys(list, read.whole, &config, rules, |name| {
            people.here(name)
        }));
    }
    let loose = accounts::files(&people, &mut findings).await;
    own::directories(&config.paths, &mut findings);
    own::break_glass(&config, rules, &mut findings);
    own::daemons(&config.paths, &mut findings);
    sshd::look(
        answer.as_ref(),
        &people,
        &read.grants(rules),
        &loose,
        &config,
        &mut findings,
    );
    sshd::others(answer.as_ref(), &people, &config, &mut findings).await;
    conclude(&findings, arguments.json)
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
