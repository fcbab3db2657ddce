//! What is the agent's own: its directories, the break-glass file, the daemons.

use crate::agent::gather::is_open_to_others;
use crate::agent::paths;
use crate::host::chain;
use crate::host::process;
use crate::host::store::{self, Access};
use crate::model::config::tables::{Config, Paths};
use crate::model::desired::judge::{self, Rules};
use crate::model::status::preflight::{Finding, count};

/// The agent's own directories.
pub(super) fn directories(paths: &Paths, findings: &mut Vec<Finding>) {
    for (key, path) in [
        ("state-dir", &paths.state_dir),
        ("runtime-dir", &paths.runtime_dir),
        ("fetch-state-dir", &paths.fetch_state_dir),
        ("fetch-runtime-dir", &paths.fetch_runtime_dir),
    ] {
        let shown = path.display();
        findings.push(match store::access(path) {
            Access::Writable => Finding::ok("directory", format!("{key} `{shown}` is writable")),
            Access::Makeable => Finding::ok("directory", format!("{key} `{shown}` can be made")),
            Access::Refused { path, source } => {
                let message = format!(
                    "{key} `{shown}` is not writable: `{}`: {source}",
                    path.display()
                );
                if process::is_root() {
                    let hint =
                        "is the file system mounted read-only, or something else in its place?";
                    Finding::fail("directory", message, hint)
                } else {
                    Finding::warn(
                        "directory",
                        message,
                        "run this as root, or set `[paths]` to directories of your own",
                    )
                }
            }
        });
    }
}

/// The file whose keys every account keeps: nobody but root may write to it.
pub(super) fn break_glass(config: &Config, rules: Rules<'_>, findings: &mut Vec<Finding>) {
    let path = &config.accounts.break_glass;
    let shown = path.display();
    let (owner, bytes) = match store::owner(path).and_then(|owner| Ok((owner, store::read(path)?)))
    {
        Ok((Some(owner), Some(bytes))) => (owner, bytes),
        Ok(_) => {
            findings.push(Finding::ok(
                "break-glass",
                format!("none: there is no `{shown}`"),
            ));
            return;
        }
        Err(error) if !process::is_root() => {
            findings.push(Finding::warn(
                "break-glass",
                format!("not looked at: {}", chain(&error)),
                "run this as root",
            ));
            return;
        }
        Err(error) => {
            findings.push(Finding::fail(
                "break-glass",
                chain(&error),
                "make it a plain file that root can read",
            ));
            return;
        }
    };
    let (uid, mode) = owner;
    if is_open_to_others(owner) {
        let message =
            format!("`{shown}` can be changed by others than root (owner {uid}, mode {mode:04o})");
        findings.push(Finding::fail(
            "break-glass",
            message,
            format!("chown root:root {shown}; chmod 0600 {shown}"),
        ));
    }
    let text = String::from_utf8_lossy(&bytes);
    let name = shown.to_string();
    let (grants, rejected) = judge::judge_break_glass(&name, &text, rules);
    findings.extend(rejected.iter().map(|rejected| {
        let message = format!("`{name}` line {}: {}", rejected.line, rejected.reason);
        Finding::warn(
            "break-glass",
            message,
            "correct the line; `authorized-keys-agent lint` judges the file",
        )
    }));
    findings.push(match grants.as_deref() {
        None => {
            let hint = "correct it, so that it lets somebody in when everything else fails";
            Finding::fail(
                "break-glass",
                format!("no line of `{name}` can be read"),
                hint,
            )
        }
        Some(grants) => Finding::ok(
            "break-glass",
            format!("`{name}`: {}", count(grants.len(), "key")),
        ),
    });
}

/// Whether the two halves run.
pub(super) fn daemons(paths: &Paths, findings: &mut Vec<Finding>) {
    for (what, lock, unit) in [
        (
            "fetcher",
            paths::fetch_lock(paths),
            "authorized-keys-fetch.service",
        ),
        (
            "enforcer",
            paths::enforce_lock(paths),
            "authorized-keys-agent.service",
        ),
    ] {
        findings.push(match process::holder(&lock) {
            Some(holder) => {
                let pid = holder.pid.map_or_else(
                    || "in another pid namespace".to_owned(),
                    |pid| format!("pid {pid}"),
                );
                Finding::ok(what, format!("running ({pid})"))
            }
            None => Finding::warn(
                what,
                "not running",
                format!("systemctl enable --now {unit}"),
            ),
        });
    }
}
