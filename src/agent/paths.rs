//! The files that the two halves share or keep, by the `[paths]` table.

use std::path::PathBuf;

use crate::model::config::tables::Paths;

/// The last good list.
pub fn approved(paths: &Paths) -> PathBuf {
    paths.fetch_state_dir.join("approved.json")
}

/// The outcome of the last fetch.
pub fn fetch_report(paths: &Paths) -> PathBuf {
    paths.fetch_runtime_dir.join("fetch.json")
}

/// The enforcer's copy of it, for users to whom the fetcher's directory is closed.
pub fn fetch_report_copy(paths: &Paths) -> PathBuf {
    paths.runtime_dir.join("fetch-report.json")
}

/// Held by the one fetcher.
pub fn fetch_lock(paths: &Paths) -> PathBuf {
    paths.fetch_runtime_dir.join("fetch.lock")
}

/// What is in force.
pub fn in_force(paths: &Paths) -> PathBuf {
    paths.state_dir.join("enforced.json")
}

/// What was in force, where that could not be read.
pub fn damaged(paths: &Paths) -> PathBuf {
    paths.state_dir.join("enforced.json.damaged")
}

/// First-run copies of files that were not ours.
pub fn backups(paths: &Paths) -> PathBuf {
    paths.state_dir.join("backups")
}

/// Changes to managed files that were undone, and what stood there.
pub fn incidents(paths: &Paths) -> PathBuf {
    paths.state_dir.join("incidents")
}

/// The digest of a list whose removals a person has accepted.
pub fn accepted(paths: &Paths) -> PathBuf {
    paths.state_dir.join("accepted.json")
}

/// The enforcer's word.
pub fn status(paths: &Paths) -> PathBuf {
    paths.runtime_dir.join("status.json")
}

/// The keys of each account, as they are in force; the other half of the enforcer's word.
pub fn keys(paths: &Paths) -> PathBuf {
    paths.runtime_dir.join("keys.json")
}

/// What has changed of it since it was written.
pub fn status_changes(paths: &Paths) -> PathBuf {
    paths.runtime_dir.join("status-changes.json")
}

/// Held by the one enforcer.
pub fn enforce_lock(paths: &Paths) -> PathBuf {
    paths.runtime_dir.join("enforce.lock")
}

/// What must not be baked into an image: it is one instance's own. Locks, config and break-glass keys are not.
pub fn of_this_instance(paths: &Paths) -> Vec<PathBuf> {
    let mut all = vec![
        approved(paths),
        fetch_report(paths),
        fetch_report_copy(paths),
        in_force(paths),
        damaged(paths),
        accepted(paths),
        status(paths),
        keys(paths),
        status_changes(paths),
    ];
    // A crash can leave what was being written.
    let begun: Vec<PathBuf> = all.iter().map(|file| file.with_extension("new")).collect();
    all.extend(begun);
    all.extend([backups(paths), incidents(paths)]);
    all
}
