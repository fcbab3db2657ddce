//! The fetch loop: source → `approved.json`, replaced only when its content changed; `fetch.json` after every attempt.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::events;
use crate::agent::fetched;
use crate::agent::paths;
use crate::agent::signals::{Asked, Signals, StartError};
use crate::agent::source::{Clients, FetchError, LIMIT};
use crate::host::chain;
use crate::host::process::{self, Lock};
use crate::host::service::Service;
use crate::host::ssm::Failure;
use crate::host::store;
use crate::host::watch::ClockSet;
use crate::model::config::tables::{Config, OnStale, Paths, Source};
use crate::model::list::approved::ApprovedList;
use crate::model::list::cadence::{Cadence, Outcome};
use crate::model::list::fetch_report::FetchReport;

/// Least time between two fetches, however often the clock is set.
const CLOCK_PAUSE: Duration = Duration::from_secs(2);

/// Makes this process the fetcher of this host, for as long as the lock is held.
pub fn claim(paths: &Paths) -> Result<Lock, StartError> {
    // The list may come from SecureStrings, so it is for this process and root; systemd keeps a `DynamicUser`'s
    // state as private (`/var/lib/private`). The report is for all who ask for the status.
    for (directory, mode) in [
        (&paths.fetch_state_dir, 0o700),
        (&paths.fetch_runtime_dir, 0o755),
    ] {
        store::make_directory(directory, mode)
            .map_err(|error| StartError::Directory("fetcher", error))?;
    }
    process::lock(&paths::fetch_lock(paths)).map_err(|error| StartError::Lock("fetcher", error))
}

/// What `status` calls the source when it could not even be looked up: templates as written.
fn name(source: &Source) -> String {
    let paths = source.paths.iter().map(|path| format!("ssm:{path}"));
    let names = source
        .parameters
        .values()
        .flatten()
        .map(|name| format!("ssm:{name}"));
    let directory = source
        .directory
        .iter()
        .map(|path| format!("directory:{}", path.display()));
    paths
        .chain(names)
        .chain(directory)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A fetcher between two fetches.
pub struct Fetcher {
    config: Config,
    report: FetchReport,
    /// What `approved.json` holds.
    stored: Option<ApprovedList>,
    clients: Clients,
    may_ask: bool,
    /// The failure that was said last.
    said: Option<String>,
}

impl Fetcher {
    /// Reads what earlier runs left; what cannot be read is written anew.
    ///
    /// `may_ask`: whether the metadata service may be asked which instance this is.
    pub fn new(config: Config, may_ask: bool) -> Self {
        let report = fetched::report(&config.paths).ok().flatten();
        let report = report.unwrap_or_default();
        let stored = fetched::list(&config.paths).ok().flatten();
        let clients = Clients::new(&config.source, may_ask);
        Self {
            config,
            report,
            stored,
            clients,
            may_ask,
            said: None,
        }
    }

    /// Takes a configuration that was read again.
    fn reconfigure(&mut self, config: Config) {
        if config.source.timeout != self.config.source.timeout {
            self.clients = Clients::new(&config.source, self.may_ask);
        }
        self.config = config;
    }

    /// One fetch, stored and reported; the list, or why there is none.
    pub async fn fetch(
        &mut self,
        now: &impl Fn() -> Timestamp,
    ) -> Result<&ApprovedList, FetchError> {
        let mut source = name(&self.config.source);
        self.report = self.report.begun(now());
        let held = self.stored.as_ref();
        let fetched = self.clients.list(&self.config.source, held, now()).await;
        if self.clients.is_in_full() {
            self.report.began_in_full = self.report.began;
        }
        let outcome = fetched.and_then(|list| {
            source.clone_from(&list.source);
            // What is not stored is not held.
            self.store(list)
                .inspect_err(|_| self.clients.read_in_full())
        });
        match outcome {
            Ok(digest) => {
                self.said = None;
                if self.report.error.is_some() {
                    events::fetch_recovered(&source);
                }
                self.report = self.report.succeeded(&source, digest, now());
                self.keep_alive(now());
            }
            Err(error) => {
                let (text, hint) = (chain(&error), error.hint());
                // Once for each outage, by each process: who has just started says what it sees.
                if self.said.as_ref() != Some(&text) {
                    events::fetch_failed(&source, &text, hint.as_deref(), self.stored.is_some());
                    self.said = Some(text.clone());
                }
                self.report = self.report.failed(&source, text, hint, now());
                return Err(error);
            }
        }
        self.stored.as_ref().ok_or(FetchError::TimedOut(LIMIT))
    }

    /// Replaces the stored list if this one says something else, and returns its digest.
    fn store(&mut self, list: ApprovedList) -> Result<String, FetchError> {
        let (digest, path) = (list.digest(), paths::approved(&self.config.paths));
        // A stored list that was removed is back with the next fetch.
        if self
            .stored
            .as_ref()
            .is_some_and(|stored| stored.same_content(&list))
            && path.symlink_metadata().is_ok_and(|meta| meta.is_file())
        {
            return Ok(digest);
        }
        store::write_json(&path, &list, 0o644).map_err(FetchError::Store)?;
        events::list_changed(&list.source, &digest, list.entries.len());
        self.stored = Some(list);
        Ok(digest)
    }

    /// For `on-stale = "revoke"`: the time of the stored list's file says across a reboot when it was last found so.
    /// Otherwise the age does not matter, and nothing is written.
    fn keep_alive(&self, now: Timestamp) {
        let OnStale::RevokeAfter(limit) = self.config.source.on_stale else {
            return;
        };
        let path = paths::approved(&self.config.paths);
        let now =
            UNIX_EPOCH + Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        let Err(error) = store::refresh(&path, now, limit / 10) else {
            return;
        };
        // Written by root's `sync`, it is root's: a new file is this user's.
        let rewritten = self
            .stored
            .as_ref()
            .map(|list| store::write_json(&path, list, 0o644));
        if let Err(error) = rewritten.unwrap_or(Err(error)) {
            tracing::warn!(
                error = chain(&error),
                "the age of the list is not kept across a reboot"
            );
        }
    }

    /// One line for `systemctl status`.
    fn summary(&self) -> String {
        match (&self.report.error, &self.stored) {
            (Some(error), _) => format!("failing: {error}"),
            (None, Some(list)) => format!("{} parameters of {}", list.entries.len(), list.source),
            (None, None) => "no list yet".to_owned(),
        }
    }

    /// How the last fetch went.
    pub fn report(&self) -> &FetchReport {
        &self.report
    }

    /// Says when the next fetch is due, and how the last one went.
    pub fn publish(&mut self, next: Option<Timestamp>) {
        self.report.next_attempt = next;
        let path = paths::fetch_report(&self.config.paths);
        if let Err(error) = store::write_json(&path, &self.report, 0o644) {
            tracing::error!(error = chain(&error), "report not written");
        }
    }
}

/// Fetches until SIGTERM or SIGINT. `reread` reads the config again at SIGHUP; `now` is the clock.
pub async fn run(
    mut fetcher: Fetcher,
    service: Service,
    mut signals: Signals,
    reread: impl Fn() -> Result<Config, String>,
    now: impl Fn() -> Timestamp,
) {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "fetcher started");
    let source = &fetcher.config.source;
    let mut cadence = Cadence::new(source.every, source.stale_after);
    let mut ready = false;
    let mut heartbeat = service.heartbeat();
    // By the new time the last fetch may be long ago, or yet to come, and what is said of the next one is wrong.
    let clock = Arc::new(Notify::new());
    let told = Arc::clone(&clock);
    // Without a thread the next fetch puts it right.
    let _ = ClockSet::tell(move || told.notify_one());
    'work: loop {
        let begun = Instant::now();
        // Cancelled only to end the process; a list that is half fetched is not stored.
        let fetched = tokio::select! {
            fetched = fetcher.fetch(&now) => fetched.map(drop),
            () = signals.stopped() => break,
        };
        let outcome = match fetched {
            Ok(()) if fetcher.clients.is_unsettled() => Outcome::Unsettled,
            Ok(()) => Outcome::Succeeded,
            Err(FetchError::Ssm(Failure::Throttled)) => Outcome::Throttled,
            Err(_) => Outcome::Failed,
        };
        cadence = cadence.after(outcome);
        let wait = cadence.wait(process::random());
        fetcher.publish(now().checked_add(wait).ok());
        let said = fetcher.summary();
        if ready {
            service.says(&said);
        } else {
            ready = true;
            service.ready(&said);
        }
        let mut due = Instant::now() + wait;
        loop {
            // Signals and the clock keep what arrives meanwhile, and sleeping keeps nothing: cancel-safe.
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop => break 'work,
                    Asked::Reload | Asked::Sync => {
                        fetcher.clients.read_in_full();
                        service.reloading();
                        ready = false;
                        match reread() {
                            Ok(config) => {
                                tracing::info!("config read again");
                                fetcher.reconfigure(config);
                            }
                            Err(error) => tracing::error!(error, "config not read again, the old one stays"),
                        }
                        let source = &fetcher.config.source;
                        cadence = cadence.asked(source.every, source.stale_after);
                        break;
                    }
                },
                () = clock.notified() => due = due.min(begun + CLOCK_PAUSE),
                () = tokio::time::sleep_until(due) => break,
                () = heartbeat.next() => service.alive(),
            }
        }
    }
    service.stopping();
    tracing::info!("fetcher ended");
}
