//! The list, from all its sources, all or nothing; and whose list it is.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::inquiry::ask_within;
use crate::host::imds::{self, Metadata};
use crate::host::instance;
use crate::host::ssm::{self, Failure, Parameter, ParameterStore};
use crate::host::{Threads, chain, directory, process, store};
use crate::model::account::AccountName;
use crate::model::config::source::{Wanted, account_below, merge};
use crate::model::config::tables::Source;
use crate::model::instance::Identity;
use crate::model::key::secret;
use crate::model::list::approved::{ApprovedList, Entry, Signed};
use crate::model::list::bounds::{Excess, Tally};
use crate::model::list::contents::Contents;
use crate::model::list::index::{self, BEING_PUBLISHED, Known, SaidBy, age};
use crate::model::list::rejected::Rejected;
use crate::model::list::statement::{self, Scope, Statement, below_root};
use crate::model::list::template::{Facts, Need, Unfilled, without_selector};
use crate::model::signature::sshsig;
use crate::model::sorting;

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
    /// The paths that the last list holds just as their indexes say.
    known: Vec<Known>,
    /// When an index could not be read though it is there.
    refused_at: Option<Timestamp>,
    /// The paths whose indexes say something else, as it was logged.
    wrong: Vec<String>,
    /// Whether the last list was asked for without believing an index.
    is_in_full: bool,
    /// See [`Reading::is_unsettled`], of the last list.
    is_unsettled: bool,
}

/// What the sources hold.
#[derive(Default)]
pub struct Reading {
    pub entries: Vec<Entry>,
    /// What serves no account.
    pub unusable: Vec<Rejected>,
    /// The paths that hold what their indexes say.
    pub known: Vec<Known>,
    /// The paths whose indexes say something else, but for those that are being published.
    pub wrong: Vec<String>,
    /// An index says that its path is being published.
    pub is_being_published: bool,
    /// The signatures, where the list must have some.
    pub signed: Vec<Signed>,
    /// A signature is missing or of other values, as while a list is being published.
    pub is_unsettled: bool,
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
            known: Vec::new(),
            refused_at: None,
            wrong: Vec::new(),
            is_in_full: true,
            is_unsettled: false,
        }
    }

    /// Whether the last list did not fit its signature.
    pub fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }

    /// The next list is read in full, whatever the indexes say.
    pub fn read_in_full(&mut self) {
        self.known.clear();
        self.refused_at = None;
    }

    /// Whether the last list was asked for in full.
    pub fn is_in_full(&self) -> bool {
        self.is_in_full
    }

    /// The list, from all sources, all or nothing. `held` is the one that the last call returned, if it is stored: of the
    /// paths whose indexes say that nothing has changed, it is that.
    pub async fn list(
        &mut self,
        source: &Source,
        held: Option<&ApprovedList>,
        now: Timestamp,
    ) -> Result<ApprovedList, FetchError> {
        self.is_in_full = self.known.is_empty();
        self.is_unsettled = false;
        Threads::probe().map_err(FetchError::NoThread)?;
        let wanted = self.wanted(source).await?;
        let instance = self.instance(source).await;
        let believed = self.believed(source, &wanted, now);
        let outcome = self.read(source, &wanted, believed, held, now).await;
        if let Err(FetchError::Ssm(failure)) = &outcome
            && !matches!(failure, Failure::Throttled | Failure::NotFound(_))
        {
            // A client keeps credentials until the end it knows of, and its connection; a new one asks again. With these
            // answers, both are good.
            self.store = None;
        }
        let reading = outcome?;
        let list = ApprovedList {
            instance,
            signed: reading.signed,
            ..ApprovedList::new(
                wanted.describe(),
                now,
                merge(reading.entries),
                reading.unusable,
            )
        };
        list.check_bounds().map_err(FetchError::TooLarge)?;
        self.tell_wrong(reading.wrong);
        self.known = reading.known;
        self.is_unsettled = reading.is_unsettled;
        Ok(list)
    }

    /// The paths whose indexes may be believed now.
    fn believed(&self, source: &Source, wanted: &Wanted, now: Timestamp) -> Vec<Known> {
        let refused = self.refused_at.and_then(|then| age(then, now));
        if refused.is_some_and(|age| age < source.full_every) {
            return Vec::new();
        }
        let may_be = |known: &&Known| {
            wanted.paths.contains(&known.path) && known.may_be_believed(now, source.every)
        };
        self.known.iter().filter(may_be).cloned().collect()
    }

    /// Once for each path, until its index is right.
    fn tell_wrong(&mut self, wrong: Vec<String>) {
        for path in &wrong {
            if !self.wrong.contains(path) {
                tracing::info!(
                    path,
                    hint = "publish with `agent publish`, or delete the index",
                    "the index says something else than the path holds, so each poll reads everything"
                );
            }
        }
        self.wrong = wrong;
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

    /// The values of what is wanted, all or nothing, and what there serves no account. Of the paths that are `believed`
    /// the indexes are read first; where they say that nothing has changed, `held` has the values.
    pub async fn read(
        &mut self,
        source: &Source,
        wanted: &Wanted,
        believed: Vec<Known>,
        held: Option<&ApprovedList>,
        now: Timestamp,
    ) -> Result<Reading, FetchError> {
        self.is_in_full = believed.is_empty();
        let mut reading = Reading::default();
        if let Some(path) = wanted.directory.clone() {
            let (place, is_signed) = (path.clone(), source.is_signed);
            let read = ask_within(LIMIT, move || {
                let entries = directory::read(&place)?;
                // Where none is asked for, the file is one of those that are left out.
                let signed = is_signed
                    .then(|| directory::signature(&place))
                    .transpose()?;
                Ok((entries, signed.flatten()))
            });
            let read = read.await.ok_or(FetchError::TimedOut(LIMIT))?;
            let (entries, signed) = read.map_err(FetchError::Directory)?;
            if is_signed {
                reading.add_directory(&path, &entries, signed);
            }
            reading.entries.extend(entries);
        }
        if wanted.paths.is_empty() && wanted.names.is_empty() {
            return Ok(reading);
        }
        let names: Vec<String> = wanted.names.keys().cloned().collect();
        let indexes = believed.iter().map(Known::asks_for);
        let indexes: Vec<String> = indexes.collect();
        let signed: Vec<String> = wanted.signed.iter().cloned().collect();
        let if_there = [signed.as_slice(), &indexes].concat();
        let store = self.store().await?;
        let mut tries = store.tries();
        let mut named = store.by_names(&names, &if_there, &mut tries).await;
        if let Err(failure) = &named
            && !indexes.is_empty()
            && failure.is_about_what_was_asked()
        {
            let store = self.store().await?;
            let without = store.by_names(&names, &signed, &mut tries).await;
            // Else it may be a named parameter that was refused.
            if without.is_ok() {
                if self.refused_at.is_none() {
                    tracing::info!(
                        error = chain(failure),
                        hint = failure.hint(),
                        "the index cannot be read, so each poll reads everything"
                    );
                }
                self.refused_at = Some(now);
            }
            named = without;
        } else if !indexes.is_empty() {
            self.refused_at = None;
        }
        let mut named = named.map_err(FetchError::Ssm)?;
        let store = self.store().await?;
        if names.is_empty() {
            // An index is one call, and many hosts have just heard by it of the same change: this is where they back off.
            tries = store.tries();
        }
        // What two paths have in common counts as it was read last, and what is held was read before.
        for known in believed {
            let name = known.asks_for();
            let index = named.iter().find(|one| one.name == name);
            let is_unchanged = index.is_some_and(|index| known.is_unchanged(&index.value));
            if let (true, Some(held)) = (is_unchanged, held) {
                reading.keep(&known.path, held);
                reading.known.push(known.again(now));
            }
        }
        // Each path is read within the bounds, and there may be many of them.
        let mut tally = Tally::default();
        for path in &wanted.paths {
            if reading.known.iter().any(|known| known.path == *path) {
                continue;
            }
            let parameters = store
                .by_path(path, &mut tries)
                .await
                .map_err(FetchError::Ssm)?;
            let of_path = reading.add_path(path, parameters, source, &mut tally)?;
            let (longest, random) = (source.full_every, process::random());
            let known = of_path.map(|said_by| Known::new(path, said_by, now, longest, random));
            reading.known.extend(known);
        }
        named.retain(|one| !indexes.contains(&one.name));
        if let Some(name) = &wanted.signed {
            reading.add_named(name, &mut named);
        }
        for parameter in named {
            let accounts = wanted.names.get(&parameter.name).into_iter().flatten();
            let entries = accounts.map(|account| entry(account.clone(), parameter.clone()));
            reading.entries.extend(entries);
        }
        Ok(reading)
    }
}

impl Reading {
    /// Takes what is below `path`. Returns what is to be asked for in place of it next time, where that is so.
    fn add_path(
        &mut self,
        path: &str,
        parameters: Vec<Parameter>,
        source: &Source,
        tally: &mut Tally,
    ) -> Result<Option<SaidBy>, FetchError> {
        let mut all = parameters.iter().map(|one| (&one.name, &one.value));
        let contents = Contents::of(path, &mut all);
        let (mut index, mut signature, mut others) = (None, None, Vec::new());
        for parameter in parameters {
            if parameter.name == index::name(path) {
                index = Some(parameter.value);
                continue;
            }
            if parameter.name == statement::name(path) {
                signature = Some(parameter);
                continue;
            }
            let added = tally.add(&parameter.name, &parameter.value);
            added.map_err(FetchError::TooLarge)?;
            match account_below(path, &parameter.name) {
                Ok(account) => self.entries.push(entry(account, parameter)),
                // One name that is no account's must not keep the rest of the list from arriving.
                Err(misplaced) => {
                    self.unusable.push(Rejected {
                        parameter: parameter.name.clone(),
                        parameter_version: Some(parameter.version),
                        line: 0,
                        reason: misplaced.to_string(),
                    });
                    others.push((parameter.name, secret::withheld(parameter.value)));
                }
            }
        }
        if source.is_signed {
            let signed = signature.map(|one| Signed {
                others,
                ..signed(Scope::Path(path.to_owned()), one)
            });
            let text = signed.as_ref().map(|signed| signed.text.clone());
            let fits = self.add_signature(signed, &contents);
            return Ok(text.filter(|_| fits).map(SaidBy::Signature));
        }
        Ok(match index {
            Some(text) if contents.are_said_by(&text, path) => Some(SaidBy::Index(contents)),
            Some(text) if text == BEING_PUBLISHED => {
                self.is_being_published = true;
                None
            }
            Some(_) => {
                self.wrong.push(path.to_owned());
                None
            }
            None => None,
        })
    }

    /// Takes the signature of a part of the list, if it has one. Returns whether it is for these contents.
    fn add_signature(&mut self, signed: Option<Signed>, contents: &Contents) -> bool {
        let fits = signed.as_ref().is_some_and(|signed| {
            let (text, _) = sshsig::blocks(&signed.text);
            Statement::read(text).is_ok_and(|statement| statement.contents == *contents)
        });
        self.is_unsettled |= !fits;
        self.signed.extend(signed);
        fits
    }

    /// Takes the signature of a directory.
    fn add_directory(
        &mut self,
        path: &Path,
        entries: &[Entry],
        signed: Option<(String, Option<Timestamp>)>,
    ) {
        let directory = path.display().to_string();
        let mut all: Vec<(&String, &String)> = entries
            .iter()
            .map(|entry| (&entry.parameter, &entry.value))
            .collect();
        sorting::sort(&mut all);
        let contents = Contents::of(&directory, &mut all.into_iter());
        let signed = signed.map(|(text, last_modified)| Signed {
            scope: Scope::Directory(directory),
            text,
            version: None,
            last_modified,
            others: Vec::new(),
        });
        self.add_signature(signed, &contents);
    }

    /// Takes the signature `name` of the parameters that are `named`, which it is one of.
    fn add_named(&mut self, name: &str, named: &mut Vec<Parameter>) {
        let at = named.iter().position(|one| one.name == name);
        let signature = at.map(|at| named.swap_remove(at));
        let mut all: Vec<(&str, &str)> = named
            .iter()
            .map(|one| (below_root(&one.name), one.value.as_str()))
            .collect();
        sorting::sort(&mut all);
        all.dedup();
        let contents = Contents::of_names(&mut all.into_iter());
        let scope = Scope::Parameters(without_selector(name).to_owned());
        self.add_signature(signature.map(|one| signed(scope, one)), &contents);
    }

    /// Takes what is below `path` from the list that was held.
    fn keep(&mut self, path: &str, held: &ApprovedList) {
        let of_path = |entry: &&Entry| {
            let account = account_below(path, &entry.parameter);
            entry.version.is_some() && account.as_ref() == Ok(&entry.account)
        };
        let entries = held.entries.iter().filter(of_path).cloned();
        self.entries.extend(entries);
        let of_path = |rejected: &&Rejected| {
            account_below(path, &rejected.parameter)
                .is_err_and(|misplaced| misplaced.to_string() == rejected.reason)
        };
        let unusable = held.unusable.iter().filter(of_path).cloned();
        self.unusable.extend(unusable);
        let of_path = |signed: &&Signed| matches!(&signed.scope, Scope::Path(own) if own == path);
        self.signed
            .extend(held.signed.iter().filter(of_path).cloned());
    }
}

fn signed(scope: Scope, parameter: Parameter) -> Signed {
    Signed {
        scope,
        text: parameter.value,
        version: Some(parameter.version),
        last_modified: parameter.last_modified,
        others: Vec::new(),
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
