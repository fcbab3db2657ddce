//! `lint`: would these lines be taken, by the policy and by sshd. Exit 0 clean, 1 problems, 2 usage or config.

use crate::cli::print;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::surroundings::{self, Outcome};
use crate::host::directory;
use crate::model::desired::decide::ENDS_SOON;
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::{Draft, Lint, ListDraft, lint, lint_list};
use crate::model::desired::signed::{self, AllTaken, Fault, Trust};
use crate::model::key::policy::Signing;
use crate::model::key::release::Version;
use crate::model::list::statement::{self, Statement};
use crate::model::signature::signers::Signers;
use crate::model::signature::sshsig;
use crate::model::words::count;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  agent lint approved/
      A whole list, as a directory in its layout, before it is published
  agent lint approved/ --signers allowed_signers
      The same where it was signed: by whom, and whether it fits
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
    /// Who may sign, as ssh-keygen(1) has it under ALLOWED SIGNERS [default: `signed-by` of the config]
    #[arg(long, value_name = "FILE")]
    signers: Option<PathBuf>,
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
    let mut signed: Vec<(PathBuf, Vec<(String, String)>)> = Vec::new();
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
            let list = directory::draft(path)?;
            if directory::signature(path)?.is_some() {
                signed.push((path.join(statement::NAME), list.texts()));
            }
            lists.push(list);
        } else if path.file_name().is_some_and(|name| name == statement::NAME) {
            let list = directory::draft(path.parent().unwrap_or(path))?;
            signed.push((path.clone(), list.texts()));
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
    let by = (arguments.signers.as_deref(), judged.signing.as_ref());
    for (file, draft) in &signed {
        signature(&mut lint, file, draft, by, now)?;
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

/// Whether the signature of a directory fits what is there, and whose it is.
fn signature(
    lint: &mut Lint,
    path: &Path,
    draft: &[(String, String)],
    (named, configured): (Option<&Path>, Option<&Signing>),
    now: Timestamp,
) -> anyhow::Result<()> {
    let file = &path.display().to_string();
    let bytes = read(path).with_context(|| format!("cannot read `{file}`"))?;
    let text = &String::from_utf8_lossy(&bytes);
    let said = Statement::read(sshsig::blocks(text).0).ok();
    let is_configured = named.is_none() && configured.is_some();
    let by = named.or(configured.map(|signing| signing.signed_by.as_path()));
    let signing = match configured.filter(|_| is_configured) {
        Some(signing) => signing.clone(),
        // Without a config it is for any hosts.
        None => Signing {
            signed_by: by.unwrap_or(Path::new("")).to_owned(),
            signatures: u32::from(named.is_some()),
            audience: said.and_then(|said| said.audience),
        },
    };
    let signers = match by {
        None => Signers::default(),
        Some(by) => {
            let bytes = read(by).with_context(|| format!("cannot read `{}`", by.display()))?;
            let text = String::from_utf8_lossy(&bytes);
            let (signers, refused) = Signers::read(&text, &surroundings::zone());
            for line in refused {
                let at = format!("line {} does not count: {}", line.line, line.reason);
                lint.add_problem(&by.display().to_string(), at);
            }
            signers
        }
    };
    let trust = Trust {
        signing: &signing,
        signers: &signers,
        known: &AllTaken::new(),
        now,
    };
    let files: Vec<(&str, &str)> = draft
        .iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    match signed::verify_draft(&files, text, None, trust) {
        (_, Err(fault @ Fault::Contents { .. })) => {
            let reason = format!(
                "does not fit what is there, so sign it again: {}",
                fault.reason()
            );
            lint.add_problem(file, reason);
        }
        (_, Err(fault)) => lint.add_problem(file, fault.reason()),
        (scope, Ok(taken)) => {
            let signature = if by.is_some() {
                print::signature(&taken, now)
            } else {
                format!(
                    "{}; `--signers` names who may sign",
                    print::serial(&taken, now)
                )
            };
            let ends = if taken.expires.duration_since(now) < ENDS_SOON {
                "; sign it again before that"
            } else {
                ""
            };
            lint.add_note(file, format!("signed for `{scope}` {signature}{ends}"));
        }
    }
    Ok(())
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
