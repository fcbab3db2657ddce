//! `seal`: before an image is made, removes what is one instance's own. Exit 0 sealed, 1 services run, 2 usage or config.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Context;

use crate::agent::files;
use crate::cli::Outcome;
use crate::host::{process, store};
use crate::model::config::Config;
use crate::model::enforced::Enforced;

/// What its exit status means, for `--help` and the man page.
pub(super) const EXIT: &str = "\
Exit status:
  0  sealed
  1  a service runs; nothing is removed
  2  wrong usage or configuration";

/// Removes the list, what is in force, evidence and backups. The config, the break-glass keys and the authorized_keys
/// files stay.
pub(super) fn run(config: &Config) -> Outcome {
    let locks =
        [("enforcer", files::enforce_lock(&config.paths)), ("fetcher", files::fetch_lock(&config.paths))];
    for (who, lock) in locks {
        if process::holder(&lock).is_some() {
            tracing::error!(
                hint = "systemctl stop authorized-keys-agent authorized-keys-fetch",
                "the {who} is running and would write it all again; nothing is removed"
            );
            return Ok(1);
        }
    }
    // Damaged or not, it goes.
    let enforced: Option<Enforced> = store::read_json(&files::enforced(&config.paths)).ok().flatten();
    let mut text = String::new();
    for path in files::of_this_instance(&config.paths) {
        if remove(&path).with_context(|| format!("cannot remove `{}`", path.display()))? {
            let _ = writeln!(text, "removed {}", path.display());
        }
    }
    for (name, account) in enforced.iter().flat_map(Enforced::managed) {
        if let Some(synced) = account.synced.as_ref().filter(|_| !account.grants.is_empty()) {
            let (keys, file) = (account.grants.len(), synced.file.display());
            let _ = writeln!(text, "kept    {file}: {keys} keys of {name} go into the image");
        }
    }
    if text.is_empty() {
        text.push_str("nothing to remove\n");
    }
    super::print(&text)?;
    Ok(0)
}

/// Removes a file, or a directory with all that is in it; false when there is none.
fn remove(path: &Path) -> io::Result<bool> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}
