//! What is the agent's own: its directories, the break-glass file, the daemons.

use crate::agent::paths;
use crate::host::process;
use crate::host::store::{self, Access};
use crate::model::config::tables::{Config, Paths};
use crate::model::desired::decide::{Decision, Trouble};
use crate::model::status::preflight::Finding;
use crate::model::status::problem::Cause;
use crate::model::words::count;

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
pub(super) fn break_glass(config: &Config, decision: &Decision, findings: &mut Vec<Finding>) {
    let path = &config.accounts.break_glass;
    let shown = path.display();
    for rejected in &decision.break_glass_rejected {
        let message = format!("`{shown}` line {}: {}", rejected.line, rejected.reason);
        let hint = "correct the line; `agent lint` judges the file";
        findings.push(Finding::warn("break-glass", message, hint));
    }
    let owner = store::owner(path).ok().flatten();
    let trouble = decision.troubles.iter().find_map(|trouble| match trouble {
        Trouble::BreakGlassOpen { .. } => {
            let (uid, mode) = owner?;
            let message = format!(
                "`{shown}` can be changed by others than root (owner {uid}, mode {mode:04o})"
            );
            let hint = Cause::Decision(trouble.clone()).hint()?;
            Some(Finding::fail("break-glass", message, hint))
        }
        Trouble::BreakGlassUnreadable { error } if process::is_root() => {
            let hint = "make it a plain file that root can read";
            Some(Finding::fail("break-glass", error, hint))
        }
        Trouble::BreakGlassUnreadable { error } => {
            let message = format!("not looked at: {error}");
            Some(Finding::warn("break-glass", message, "run this as root"))
        }
        Trouble::BreakGlassRefused { .. } => {
            let message = format!("no line of `{shown}` can be read");
            let hint = "correct it: its keys are for when everything else fails";
            Some(Finding::fail("break-glass", message, hint))
        }
        _ => None,
    });
    let keys = count(decision.in_force.break_glass.len(), "key");
    findings.push(match (trouble, owner) {
        (Some(trouble), _) => trouble,
        (None, Some(_)) => Finding::ok("break-glass", format!("`{shown}`: {keys}")),
        (None, None) => Finding::ok("break-glass", format!("none: there is no `{shown}`")),
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
