//! `lint`: would these lines be taken, by the policy and by sshd. Exit 0 clean, 1 problems, 2 usage or config.

use crate::cli::print;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use crate::cli::surroundings::{self, Outcome};
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::{Draft, Remark, lint};
use crate::model::escape::escaped;
use crate::model::key::policy::Policy;
use crate::model::key::release::Version;
use crate::model::status::preflight::count;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  no problem
  1  a problem
  2  wrong usage or configuration";

#[derive(Args)]
pub(super) struct Arguments {
    /// Files of authorized_keys lines, as they would be published for one account; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
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
    let policy = policy(path, named)?;
    if policy.is_none() {
        let path = escaped(&path.display().to_string());
        let _ = writeln!(
            io::stderr(),
            "note: no config can be read at `{path}`, so the default policy counts"
        );
    }
    let mut drafts: Vec<Draft> = Vec::new();
    for file in &arguments.files {
        let name = if file.as_os_str() == "-" {
            "<stdin>".to_owned()
        } else {
            file.display().to_string()
        };
        // The same file twice is no duplicate.
        if !drafts.iter().any(|draft| draft.name == name) {
            drafts.push(Draft {
                bytes: read(file).with_context(|| format!("cannot read `{name}`"))?,
                name,
            });
        }
    }
    let judged = policy.clone().unwrap_or_default();
    let rules = Rules {
        policy: &judged,
        zone: &surroundings::zone(),
        openssh: arguments.openssh,
    };
    let lint = lint(&drafts, rules, surroundings::now());
    if arguments.json {
        let config = policy.map(|_| path.display().to_string());
        let mut json = serde_json::to_value(&lint)?;
        json["schema"] = json!(1);
        json["config"] = json!(config);
        print::data(&format!("{json:#}\n"))?;
    } else {
        let mut text = String::new();
        for Remark { file, line, reason } in &lint.problems {
            // The value as a whole is at its first line, where an editor can go.
            let _ = writeln!(text, "{file}:{}: {reason}", line.unwrap_or(1));
        }
        for Remark { file, line, reason } in &lint.notes {
            let _ = writeln!(text, "{file}:{}: note: {reason}", line.unwrap_or(1));
        }
        print::data(&text)?;
    }
    let (keys, problems) = (
        count(lint.keys, "key"),
        count(lint.problems.len(), "problem"),
    );
    let _ = writeln!(io::stderr(), "{keys}, {problems}");
    Ok(u8::from(!lint.problems.is_empty()))
}

/// The config's policy; `None` where there is no config and none was named.
fn policy(path: &Path, named: bool) -> anyhow::Result<Option<Policy>> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let text = match std::fs::read_to_string(path) {
        Err(error)
            if !named && matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) =>
        {
            return Ok(None);
        }
        text => text.with_context(|| format!("cannot read the config `{}`", path.display()))?,
    };
    Ok(Some(surroundings::parse_config(path, &text)?.policy))
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
