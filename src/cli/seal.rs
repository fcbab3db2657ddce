//! `seal`: before an image is made, removes what is one instance's own. Exit 0 sealed, 1 services run, 2 usage or config.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Context;

use crate::agent::{paths, unmanaged};
use crate::cli::print;
use crate::cli::surroundings::Outcome;
use crate::host::accounts;
use crate::host::process::{self, LockError};
use crate::host::sshd::Circumstances;
use crate::model::config::tables::Config;
use crate::model::escape::escaped;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent seal
      As the last step of an image build, with both services stopped

Exit status:
  0  sealed
  1  a service runs; nothing is removed
  2  wrong usage or configuration";

/// Removes the list, what is in force, evidence and backups. The config, the break-glass keys and the authorized_keys
/// files stay; those with keys are named, since their holders get into every instance of the image.
pub(super) fn run(config: &Config) -> Outcome {
    let mut locks = Vec::new();
    for (who, path) in [
        ("enforcer", paths::enforce_lock(&config.paths)),
        ("fetcher", paths::fetch_lock(&config.paths)),
    ] {
        // One that root made would keep out the fetcher, which is not root.
        if path.symlink_metadata().is_err() {
            continue;
        }
        // Held until all is gone: neither a service nor a `sync` may begin meanwhile.
        match process::lock(&path) {
            Ok(lock) => locks.push(lock),
            Err(LockError::Held { .. }) => {
                tracing::error!(
                    hint = "systemctl stop authorized-keys-agent authorized-keys-fetch",
                    "the {who} is running and would write it all again; nothing is removed"
                );
                return Ok(1);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut text = String::new();
    for path in paths::of_this_instance(&config.paths) {
        if remove(&path).with_context(|| format!("cannot remove `{}`", path.display()))? {
            let _ = writeln!(text, "removed {}", path.display());
        }
    }
    if text.is_empty() {
        text.push_str("nothing to remove\n");
    }
    describe_kept(&mut text);
    print::data(&text)?;
    Ok(0)
}

/// The keys of all local accounts, wherever sshd reads them.
fn describe_kept(text: &mut String) {
    let local = accounts::local();
    let answer = Circumstances::look().ask(&[], &local, accounts::groups);
    if let Some(error) = &answer.error {
        let _ = writeln!(
            text,
            "which files sshd reads is not known ({}), so see for yourself which keys go into the image",
            escaped(error)
        );
        return;
    }
    let kept = unmanaged::look(&answer, local, |_| false);
    for file in kept.files {
        let _ = writeln!(text, "kept    {}, into the image with", escaped(&file.file));
        print::keys_in_file(text, "        ", &file.found);
    }
    if kept.cut {
        text.push_str("and more, which are not listed\n");
    }
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
