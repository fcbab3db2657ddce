//! Time: the loops, and one pass of each.

pub mod clients;
pub mod decide;
pub mod enforce;
pub mod events;
pub mod fetch;
mod incidents;
mod others;
pub mod pass;
mod recorder;
mod report;
mod seen;
pub mod sessions;
pub mod sshd;
pub mod start;
pub mod unmanaged;
pub mod work;

/// Why a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The enforcer has just started.
    Startup,
    /// The stored list changed.
    ListChanged,
    /// A managed file, or a directory on the way to it, changed.
    Drift,
    /// It is time: a full check, or a key expires.
    Timer,
    /// sshd was asked what it makes of the files, and has answered.
    SshdAnswered,
    /// Somebody asked: SIGHUP, `sync`.
    Reload,
}

/// The files the two halves share, by the `[paths]` table.
pub mod files {
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

    /// The enforcer's copy of it, for users whom the fetcher's directory is closed to.
    pub fn fetch_report_copy(paths: &Paths) -> PathBuf {
        paths.runtime_dir.join("fetch-report.json")
    }

    /// Held by the one fetcher.
    pub fn fetch_lock(paths: &Paths) -> PathBuf {
        paths.fetch_runtime_dir.join("fetch.lock")
    }

    /// What is in force.
    pub fn enforced(paths: &Paths) -> PathBuf {
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

    /// Changes by somebody else, and what stood there.
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

    /// What must not be baked into an image: it is one instance's own. Locks, config and break-glass keys are not.
    pub fn of_this_instance(paths: &Paths) -> Vec<PathBuf> {
        let files = [
            approved(paths),
            fetch_report(paths),
            fetch_report_copy(paths),
            enforced(paths),
            damaged(paths),
            accepted(paths),
            status(paths),
        ];
        // A crash can leave what was being written.
        let begun = files.clone().map(|file| file.with_extension("new"));
        files
            .into_iter()
            .chain(begun)
            .chain([backups(paths), incidents(paths)])
            .collect()
    }

    /// Held by the one enforcer.
    pub fn enforce_lock(paths: &Paths) -> PathBuf {
        paths.runtime_dir.join("enforce.lock")
    }
}
