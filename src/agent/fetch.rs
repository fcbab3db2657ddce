//! The fetch loop: source → `approved.json`, replaced only when its content changed; `fetch.json` after every attempt.

use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::events::{self, chain};
use crate::agent::files;
use crate::host::process::{self, Lock, LockError};
use crate::host::{directory, store};
use crate::model::cadence::Cadence;
use crate::model::config::{Config, Paths, Source};
use crate::model::list::{ApprovedList, FetchReport};

/// Why the fetcher did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One at a time.
    #[error("the fetcher cannot start")]
    Lock(#[source] LockError),
    /// One of its directories.
    #[error("the fetcher cannot start")]
    Directory(#[source] store::StoreError),
    /// Signals cannot be listened to.
    #[error("the fetcher cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The local directory.
    #[error(transparent)]
    Directory(#[from] directory::DirectoryError),
    /// The source did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It could not be stored.
    #[error("the list was fetched and cannot be stored")]
    Store(#[source] store::StoreError),
}

/// However slow a source is, a fetch ends.
const LIMIT: Duration = Duration::from_mins(1);

/// Makes this process the fetcher of this host, for as long as the lock is held.
pub fn claim(paths: &Paths) -> Result<Lock, StartError> {
    for directory in [&paths.fetch_state_dir, &paths.fetch_runtime_dir] {
        store::make_directory(directory, 0o755).map_err(StartError::Directory)?;
    }
    process::lock(&files::fetch_lock(paths)).map_err(StartError::Lock)
}

/// The list, from all sources, all or nothing.
pub async fn list(source: &Source, now: Timestamp) -> Result<ApprovedList, FetchError> {
    let mut entries = Vec::new();
    if let Some(path) = source.directory.clone() {
        let read = tokio::task::spawn_blocking(move || directory::read(&path));
        match tokio::time::timeout(LIMIT, read).await {
            Ok(Ok(read)) => entries.extend(read?),
            Ok(Err(_)) | Err(_) => return Err(FetchError::TimedOut(LIMIT)),
        }
    }
    Ok(ApprovedList::new(name(source), now, entries))
}

/// What `status` calls the source.
pub fn name(source: &Source) -> String {
    match &source.directory {
        Some(path) => format!("directory:{}", path.display()),
        None => "none".to_owned(),
    }
}

/// A fetcher between two fetches.
pub struct Fetcher {
    config: Config,
    report: FetchReport,
    /// What `approved.json` holds.
    stored: Option<ApprovedList>,
}

impl Fetcher {
    /// Reads what earlier runs left; what cannot be read is written anew.
    pub fn new(config: Config) -> Self {
        let report = store::read_json(&files::fetch_report(&config.paths)).ok().flatten().unwrap_or_default();
        let stored = store::read_json(&files::approved(&config.paths)).ok().flatten();
        Self { config, report, stored }
    }

    /// One fetch, stored and reported; the list, or why there is none.
    pub async fn fetch(&mut self, now: &impl Fn() -> Timestamp) -> Result<&ApprovedList, FetchError> {
        let source = name(&self.config.source);
        self.report = self.report.begun(now());
        let outcome = match list(&self.config.source, now()).await {
            Ok(list) => self.store(list),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(digest) => {
                if self.report.error.is_some() {
                    events::fetch_recovered(&source);
                }
                self.report = self.report.succeeded(&source, digest, now());
            }
            Err(error) => {
                let text = chain(&error);
                if self.report.error.as_ref() != Some(&text) {
                    events::fetch_failed(&source, &text, None);
                }
                self.report = self.report.failed(&source, text, None, now());
                return Err(error);
            }
        }
        self.stored.as_ref().ok_or(FetchError::TimedOut(LIMIT))
    }

    /// Replaces the stored list if this one says something else; gives its digest.
    fn store(&mut self, list: ApprovedList) -> Result<String, FetchError> {
        let digest = list.digest();
        if self.stored.as_ref().is_some_and(|stored| stored.same_content(&list)) {
            return Ok(digest);
        }
        store::write_json(&files::approved(&self.config.paths), &list, 0o644).map_err(FetchError::Store)?;
        events::list_changed(&list.source, &digest, list.entries.len());
        self.stored = Some(list);
        Ok(digest)
    }

    /// How the last fetch went.
    pub fn report(&self) -> &FetchReport {
        &self.report
    }

    /// Says when the next fetch is due, and how the last one went.
    pub fn publish(&mut self, next: Option<Timestamp>) {
        self.report.next_attempt = next;
        let path = files::fetch_report(&self.config.paths);
        if let Err(error) = store::write_json(&path, &self.report, 0o644) {
            tracing::error!(error = chain(&error), "report not written");
        }
    }
}

/// Fetches until SIGTERM or SIGINT. `reread` gives the config again at SIGHUP; `now` is the clock.
pub async fn run(
    config: Config,
    reread: impl Fn() -> Result<Config, String>,
    now: impl Fn() -> Timestamp,
) -> Result<(), StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Signals);
    let (mut hang_up, mut terminate, mut interrupt) =
        (listen(SignalKind::hangup())?, listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut cadence = Cadence::new(config.source.every);
    let mut fetcher = Fetcher::new(config);
    loop {
        // Cancelled only to end the process; a list that is half fetched is not stored.
        let succeeded = tokio::select! {
            outcome = fetcher.fetch(&now) => outcome.is_ok(),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        cadence = cadence.after(succeeded);
        let wait = cadence.wait(process::random());
        fetcher.publish(now().checked_add(wait).ok());
        // Signals keep what arrives while nobody waits, and sleeping keeps nothing: cancel-safe.
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => match reread() {
                Ok(config) => {
                    cadence = Cadence::new(config.source.every);
                    fetcher.config = config;
                }
                Err(error) => tracing::error!(error, "config not read again, the old one stays"),
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}
