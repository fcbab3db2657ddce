//! The list, from all its sources, all or nothing; and whose list it is.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::inquiry::ask_within;
use crate::host::imds::{self, Metadata};
use crate::host::instance;
use crate::host::ssm::{self, Parameter, ParameterStore};
use crate::host::{Threads, directory, store};
use crate::model::account::AccountName;
use crate::model::config::source::{Wanted, account_below, merge};
use crate::model::config::tables::Source;
use crate::model::instance::Identity;
use crate::model::list::approved::{ApprovedList, Entry};
use crate::model::list::bounds::{Excess, Tally};
use crate::model::list::rejected::Rejected;
use crate::model::list::template::{Facts, Need, Unfilled};

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
    #[error("no thread is to be had")]
    NoThread(#[source] io::Error),
    /// More than anybody needs.
    #[error(transparent)]
    TooLarge(Excess),
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
            Self::Directory(failure) => failure.hint(),
            Self::Template(unfilled) => unfilled.hint().map(str::to_owned),
            Self::TooLarge(_) => Some(Excess::HINT.to_owned()),
            _ => None,
        }
    }
}

/// However slow a source is, a fetch ends.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// The clients of all sources, made when they are first needed; their connections are kept.
pub struct Clients {
    settings: ssm::Settings,
    store: Option<ParameterStore>,
    metadata: Option<Metadata>,
    identity: Identity,
    /// Where the firmware says nothing, the metadata service may be asked who this is even if no template does.
    may_ask: bool,
    /// How often it may still be asked before this is taken for no instance.
    asks_left: u8,
}

impl Clients {
    /// For a source; nothing is asked yet. `may_ask`: whether the metadata service may be asked for the
    /// instance's id.
    pub fn new(source: &Source, may_ask: bool) -> Self {
        let settings = ssm::Settings {
            limits: ssm::Limits::per_call(source.timeout),
            ..ssm::Settings::default()
        };
        Self {
            settings,
            store: None,
            metadata: None,
            identity: instance::identity(),
            may_ask,
            asks_left: 3,
        }
    }

    /// The list, from all sources, all or nothing.
    pub async fn list(
        &mut self,
        source: &Source,
        now: Timestamp,
    ) -> Result<ApprovedList, FetchError> {
        Threads::probe().map_err(FetchError::NoThread)?;
        let wanted = self.wanted(source).await?;
        let instance = self.instance(source).await;
        let outcome = self.entries(&wanted).await;
        if matches!(outcome, Err(FetchError::Ssm(_))) {
            // A client keeps credentials until the end it knows of; a new one asks again.
            self.store = None;
        }
        let (entries, unusable) = outcome?;
        let list = ApprovedList {
            instance,
            ..ApprovedList::new(wanted.describe(), now, merge(entries), unusable)
        };
        list.check_bounds().map_err(FetchError::TooLarge)?;
        Ok(list)
    }

    /// The id of the instance that the list is for, where it can be known. Where the service does not
    /// answer, polls must not wait for it for ever.
    async fn instance(&mut self, source: &Source) -> Option<String> {
        let asks = source.uses_parameter_store() && (self.may_ask || !source.needs().is_empty());
        if self.identity == Identity::Unknown && asks && self.asks_left > 0 {
            self.asks_left -= 1;
            let needs = BTreeSet::from([Need::InstanceId]);
            if let Ok(mut facts) = self.metadata().ok()?.look_up(&needs).await {
                self.identity = facts
                    .remove(&Need::InstanceId)
                    .map_or(Identity::Other, Identity::Instance);
            }
        }
        self.identity.id().map(ToOwned::to_owned)
    }

    /// What the config asks for on this instance; IMDS is asked for what it takes and for nothing else.
    pub async fn wanted(&mut self, source: &Source) -> Result<Wanted, FetchError> {
        let needs = source.needs();
        if needs.is_empty() {
            return source.resolve(&Facts::new()).map_err(FetchError::Template);
        }
        let facts = self
            .metadata()?
            .look_up(&needs)
            .await
            .map_err(FetchError::Metadata)?;
        source.resolve(&facts).map_err(FetchError::Template)
    }

    fn metadata(&mut self) -> Result<&Metadata, FetchError> {
        // It may have a name that is looked up, too.
        Threads::probe().map_err(FetchError::NoThread)?;
        if self.metadata.is_none() {
            self.metadata =
                Some(Metadata::new(&imds::Settings::default()).map_err(FetchError::Metadata)?);
        }
        self.metadata.as_ref().ok_or(FetchError::TimedOut(LIMIT))
    }

    /// The client of Parameter Store.
    pub async fn store(&mut self) -> Result<&ParameterStore, FetchError> {
        // Names are looked up on a thread by a library that ends the program where there is none.
        Threads::probe().map_err(FetchError::NoThread)?;
        if self.store.is_none() {
            self.store = Some(
                ParameterStore::new(&self.settings)
                    .await
                    .map_err(FetchError::Ssm)?,
            );
        }
        self.store.as_ref().ok_or(FetchError::TimedOut(LIMIT))
    }

    /// The values of what is wanted, all or nothing, and what there serves no account.
    pub async fn entries(
        &mut self,
        wanted: &Wanted,
    ) -> Result<(Vec<Entry>, Vec<Rejected>), FetchError> {
        let (mut entries, mut unusable) = (Vec::new(), Vec::new());
        if let Some(path) = wanted.directory.clone() {
            let read = ask_within(LIMIT, move || directory::read(&path)).await;
            let read = read.ok_or(FetchError::TimedOut(LIMIT))?;
            entries.extend(read.map_err(FetchError::Directory)?);
        }
        if wanted.paths.is_empty() && wanted.names.is_empty() {
            return Ok((entries, unusable));
        }
        let store = self.store().await?;
        // Each path is read within the bounds, and there may be many of them.
        let mut tally = Tally::default();
        for path in &wanted.paths {
            for parameter in store.by_path(path).await.map_err(FetchError::Ssm)? {
                let added = tally.add(&parameter.name, &parameter.value);
                added.map_err(FetchError::TooLarge)?;
                match account_below(path, &parameter.name) {
                    Ok(account) => entries.push(entry(account, parameter)),
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
            entries.extend(accounts.map(|account| entry(account.clone(), parameter.clone())));
        }
        Ok((entries, unusable))
    }
}

fn entry(account: AccountName, parameter: Parameter) -> Entry {
    Entry {
        account,
        parameter: parameter.name,
        version: Some(parameter.version),
        last_modified: parameter.last_modified,
        value: parameter.value,
    }
}
