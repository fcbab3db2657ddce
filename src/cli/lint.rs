//! `lint`: would these lines be taken, by the policy and by sshd. Exit 0 clean, 1 problems, 2 usage or config.

use crate::cli::print;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use crate::cli::surroundings::{self, Outcome};
use crate::host::directory;
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::{Draft, ListDraft, lint, lint_list};
use crate::model::key::release::Version;
use crate::model::words::count;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  agent lint approved/
      A whole list, as a directory in its layout, before it is published
  agent lint --openssh 8.7 alice.pub bob.pub
      Single files, for the sshd of Amazon Linux 2023

Exit status:
  0  no problem
  1  a problem
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// A directory in the list's layout (ACCOUNT or ACCOUNT/LABEL), or files with the keys of one account; `-` is stdin
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Judge for the sshd of this release of OpenSSH, such as 8.7, instead of a recent one
    #[arg(long, value_name = "VERSION")]
    openssh: Option<Version>,
    /// Print JSON, schema 1
    #[arg(long)]
    json: bool,
}

/// Far more than keys take, and than a parameter holds.
const LARGEST: u64 = 8 << 20;

/// `path` is the config, `named` by the caller or where it usually is.
pub(super) fn run(arguments: &Arguments, path: &Path, named: bool) -> Outcome {
    let config = surroundings::config_if_any(path, named)?;
    let policy = config.map(|config| config.policy);
    let judged = policy.clone().unwrap_or_default();
    let rules = Rules {
        policy: &judged,
        zone: &surroundings::zone(),
        openssh: arguments.openssh,
    };
    let now = surroundings::now();
    let (mut drafts, mut lists): (Vec<Draft>, Vec<ListDraft>) = (Vec::new(), Vec::new());
    for path in &arguments.paths {
        let name = if path.as_os_str() == "-" {
            "<stdin>".to_owned()
        } else {
            path.display().to_string()
        };
        // The same file twice is no duplicate.
        if drafts.iter().any(|draft| draft.name == name)
            || lists.iter().any(|list| list.directory == name)
        {
        } else if path.is_dir() {
            lists.push(directory::draft(path)?);
        } else {
            drafts.push(Draft {
                bytes: read(path).with_context(|| format!("cannot read `{name}`"))?,
                parameter: None,
                name,
            });
        }
    }
    let mut lint = lint(&drafts, rules, now);
    for list in &lists {
        lint.add(lint_list(list, None, rules, now));
    }
    if arguments.json {
        let config = policy.map(|_| path.display().to_string());
        let mut json = serde_json::to_value(&lint)?;
        json["schema"] = json!(1);
        json["config"] = json!(config);
        print::data(&format!("{json:#}\n"))?;
    } else {
        print::data(&print::remarks(&lint))?;
    }
    let mut summary = vec![
        count(lint.keys, "key"),
        count(lint.problems.len(), "problem"),
    ];
    if !lists.is_empty() {
        let accounts = lists.iter().map(|list| list.accounts.len()).sum();
        summary.insert(0, count(accounts, "account"));
    }
    let _ = writeln!(io::stderr(), "{}", summary.join(", "));
    Ok(u8::from(!lint.problems.is_empty()))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limited = LARGEST + 1;
    if file.as_os_str() == "-" {
        io::stdin().lock().take(limited).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limited).read_to_end(&mut bytes)?;
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        bail!("larger than {LARGEST} bytes");
    }
    Ok(bytes)
}
