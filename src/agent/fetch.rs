//! The fetch loop: source → `approved.json`, replaced only when its content changed; `fetch.json` after every attempt.

use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::agent::events::{self, chain};
use crate::agent::files;
use crate::agent::start::{Asked, Signals, StartError};
use crate::host::imds::{self, Metadata};
use crate::host::process::{self, Lock};
use crate::host::service::Service;
use crate::host::ssm::{self, Parameter, ParameterStore};
use crate::host::{directory, store};
use crate::model::account::AccountName;
use crate::model::cadence::Cadence;
use crate::model::config::{Config, OnStale, Paths, Source};
use crate::model::desired::Rejected;
use crate::model::list::{ApprovedList, Entry, FetchReport};
use crate::model::source::{Wanted, merge, place};
use crate::model::template::{Facts, Unfilled};

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The local directory.
    #[error(transparent)]
    Directory(directory::DirectoryError),
    /// Parameter Store.
    #[error(transparent)]
    Ssm(ssm::Failure),
    /// The instance metadata service.
    #[error(transparent)]
    Metadata(imds::Failure),
    /// A template of the config cannot be filled in.
    #[error(transparent)]
    Template(Unfilled),
    /// The source did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It could not be stored.
    #[error("the list was fetched and cannot be stored")]
    Store(#[source] store::StoreError),
}

impl FetchError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ssm(failure) => failure.hint(),
            Self::Metadata(failure) => failure.hint(),
            _ => None,
        }
    }
}

/// However slow a source is, a fetch ends.
const LIMIT: Duration = Duration::from_mins(1);

/// Makes this process the fetcher of this host, for as long as the lock is held.
pub fn claim(paths: &Paths) -> Result<Lock, StartError> {
    // The list may come from SecureStrings, so it is for this process and root; systemd keeps a `DynamicUser`'s
    // state as private (`/var/lib/private`). The report is for all who ask for the status.
    for (directory, mode) in [(&paths.fetch_state_dir, 0o700), (&paths.fetch_runtime_dir, 0o755)] {
        store::make_directory(directory, mode).map_err(|error| StartError::Directory("fetcher", error))?;
    }
    process::lock(&files::fetch_lock(paths)).map_err(|error| StartError::Lock("fetcher", error))
}

/// The clients of all sources, made when they are first needed; their connections are kept.
pub struct Clients {
    settings: ssm::Settings,
    store: Option<ParameterStore>,
    metadata: Option<Metadata>,
}

impl Clients {
    /// For a source; nothing is asked yet.
    pub fn new(source: &Source) -> Self {
        let settings =
            ssm::Settings { limits: ssm::Limits::per_call(source.timeout), ..ssm::Settings::default() };
        Self { settings, store: None, metadata: None }
    }

    /// The list, from all sources, all or nothing.
    pub async fn list(&mut self, source: &Source, now: Timestamp) -> Result<ApprovedList, FetchError> {
        let wanted = self.wanted(source).await?;
        let outcome = self.entries(&wanted).await;
        if matches!(outcome, Err(FetchError::Ssm(_))) {
            // A client keeps credentials until the end it knows of; a new one asks again.
            self.store = None;
        }
        let (entries, unusable) = outcome?;
        Ok(ApprovedList::new(wanted.describe(), now, merge(entries), unusable))
    }

    /// What the config asks for on this instance; IMDS is asked for what it takes and for nothing else.
    pub async fn wanted(&mut self, source: &Source) -> Result<Wanted, FetchError> {
        let needs = source.needs();
        if needs.is_empty() {
            return source.resolve(&Facts::new()).map_err(FetchError::Template);
        }
        if self.metadata.is_none() {
            self.metadata = Some(Metadata::new(&imds::Settings::default()).map_err(FetchError::Metadata)?);
        }
        let Some(metadata) = &self.metadata else { return Err(FetchError::TimedOut(LIMIT)) };
        let facts = metadata.look_up(&needs).await.map_err(FetchError::Metadata)?;
        source.resolve(&facts).map_err(FetchError::Template)
    }

    /// The client of Parameter Store.
    pub async fn store(&mut self) -> Result<&ParameterStore, FetchError> {
        if self.store.is_none() {
            self.store = Some(ParameterStore::new(&self.settings).await.map_err(FetchError::Ssm)?);
        }
        self.store.as_ref().ok_or(FetchError::TimedOut(LIMIT))
    }

    /// The values of what is wanted, all or nothing, and what there serves no account.
    pub async fn entries(&mut self, wanted: &Wanted) -> Result<(Vec<Entry>, Vec<Rejected>), FetchError> {
        let (mut entries, mut unusable) = (Vec::new(), Vec::new());
        if let Some(path) = wanted.directory.clone() {
            let read = tokio::task::spawn_blocking(move || directory::read(&path));
            match tokio::time::timeout(LIMIT, read).await {
                Ok(Ok(read)) => entries.extend(read.map_err(FetchError::Directory)?),
                Ok(Err(_)) | Err(_) => return Err(FetchError::TimedOut(LIMIT)),
            }
        }
        if wanted.paths.is_empty() && wanted.names.is_empty() {
            return Ok((entries, unusable));
        }
        let store = self.store().await?;
        for path in &wanted.paths {
            for parameter in store.by_path(path).await.map_err(FetchError::Ssm)? {
                match place(path, &parameter.name) {
                    Ok(place) => entries.push(entry(&place.account, &parameter)),
                    // One name that is no account's must not keep the rest of the list from arriving.
                    Err(misplaced) => unusable.push(Rejected {
                        parameter: parameter.name.clone(),
                        parameter_version: Some(parameter.version),
                        line: 0,
                        reason: misplaced.to_string(),
                    }),
                }
            }
        }
        let names: Vec<String> = wanted.names.keys().cloned().collect();
        if names.is_empty() {
            return Ok((entries, unusable));
        }
        for parameter in store.by_names(&names).await.map_err(FetchError::Ssm)? {
            let accounts = wanted.names.get(&parameter.name).into_iter().flatten();
            entries.extend(accounts.map(|account| entry(account, &parameter)));
        }
        Ok((entries, unusable))
    }
}

fn entry(account: &AccountName, parameter: &Parameter) -> Entry {
    Entry {
        account: account.clone(),
        parameter: parameter.name.clone(),
        version: Some(parameter.version),
        last_modified: parameter.last_modified,
        value: parameter.value.clone(),
    }
}

/// What `status` calls the source when it could not even be looked up: templates as written.
fn name(source: &Source) -> String {
    let paths = source.paths.iter().map(|path| format!("ssm:{path}"));
    let names = source.parameters.values().flatten().map(|name| format!("ssm:{name}"));
    let directory = source.directory.iter().map(|path| format!("directory:{}", path.display()));
    paths.chain(names).chain(directory).collect::<Vec<_>>().join(", ")
}

/// A fetcher between two fetches.
pub struct Fetcher {
    config: Config,
    report: FetchReport,
    /// What `approved.json` holds.
    stored: Option<ApprovedList>,
    clients: Clients,
}

impl Fetcher {
    /// Reads what earlier runs left; what cannot be read is written anew.
    pub fn new(config: Config) -> Self {
        let report = store::read_json(&files::fetch_report(&config.paths)).ok().flatten().unwrap_or_default();
        let stored = store::read_json(&files::approved(&config.paths)).ok().flatten();
        let clients = Clients::new(&config.source);
        Self { config, report, stored, clients }
    }

    /// Takes a configuration that was read again.
    fn reconfigure(&mut self, config: Config) {
        if config.source.timeout != self.config.source.timeout {
            self.clients = Clients::new(&config.source);
        }
        self.config = config;
    }

    /// One fetch, stored and reported; the list, or why there is none.
    pub async fn fetch(&mut self, now: &impl Fn() -> Timestamp) -> Result<&ApprovedList, FetchError> {
        let mut source = name(&self.config.source);
        self.report = self.report.begun(now());
        let fetched = self.clients.list(&self.config.source, now()).await;
        let outcome = fetched.and_then(|list| {
            source.clone_from(&list.source);
            self.store(list)
        });
        match outcome {
            Ok(digest) => {
                if self.report.error.is_some() {
                    events::fetch_recovered(&source);
                }
                self.report = self.report.succeeded(&source, digest, now());
                self.keep_alive(now());
            }
            Err(error) => {
                let (text, hint) = (chain(&error), error.hint());
                if self.report.error.as_ref() != Some(&text) {
                    events::fetch_failed(&source, &text, hint.as_deref());
                }
                self.report = self.report.failed(&source, text, hint, now());
                return Err(error);
            }
        }
        self.stored.as_ref().ok_or(FetchError::TimedOut(LIMIT))
    }

    /// Replaces the stored list if this one says something else; gives its digest.
    fn store(&mut self, list: ApprovedList) -> Result<String, FetchError> {
        let (digest, path) = (list.digest(), files::approved(&self.config.paths));
        // Whoever took the file away gets it back with the next fetch.
        if self.stored.as_ref().is_some_and(|stored| stored.same_content(&list)) && path.exists() {
            return Ok(digest);
        }
        store::write_json(&path, &list, 0o644).map_err(FetchError::Store)?;
        events::list_changed(&list.source, &digest, list.entries.len());
        self.stored = Some(list);
        Ok(digest)
    }

    /// For `on-stale = "revoke"`: the time of the stored list's file says across a reboot when it was last found so.
    /// Otherwise nobody asks, and nothing is written.
    fn keep_alive(&self, now: Timestamp) {
        let OnStale::RevokeAfter(limit) = self.config.source.on_stale else { return };
        let path = files::approved(&self.config.paths);
        let now = UNIX_EPOCH + Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        if let Err(error) = store::refresh(&path, now, limit / 10) {
            tracing::warn!(error = chain(&error), "the age of the list is not kept across a reboot");
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
        let path = files::fetch_report(&self.config.paths);
        if let Err(error) = store::write_json(&path, &self.report, 0o644) {
            tracing::error!(error = chain(&error), "report not written");
        }
    }
}

/// Fetches until SIGTERM or SIGINT. `reread` gives the config again at SIGHUP; `now` is the clock.
pub async fn run(
    config: Config,
    service: Service,
    reread: impl Fn() -> Result<Config, String>,
    now: impl Fn() -> Timestamp,
) -> Result<(), StartError> {
    let mut signals = Signals::listen("fetcher")?;
    let mut cadence = Cadence::new(config.source.every);
    let mut fetcher = Fetcher::new(config);
    let mut ready = false;
    'work: loop {
        // Cancelled only to end the process; a list that is half fetched is not stored.
        let succeeded = tokio::select! {
            outcome = fetcher.fetch(&now) => outcome.is_ok(),
            () = signals.stopped() => break,
        };
        cadence = cadence.after(succeeded);
        let wait = cadence.wait(process::random());
        fetcher.publish(now().checked_add(wait).ok());
        let said = fetcher.summary();
        if ready {
            service.says(&said);
        } else {
            ready = true;
            service.ready(&said);
        }
        let due = Instant::now() + wait;
        loop {
            // Signals keep what arrives while nobody waits, and sleeping keeps nothing: cancel-safe.
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop => break 'work,
                    Asked::Reload => {
                        service.reloading();
                        ready = false;
                        match reread() {
                            Ok(config) => {
                                cadence = Cadence::new(config.source.every);
                                fetcher.reconfigure(config);
                            }
                            Err(error) => tracing::error!(error, "config not read again, the old one stays"),
                        }
                        break;
                    }
                },
                () = tokio::time::sleep_until(due) => break,
                () = service.heartbeat() => service.alive(),
            }
        }
    }
    service.stopping();
    Ok(())
}
