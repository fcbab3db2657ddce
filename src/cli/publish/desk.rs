//! What is in the directory and what is published, judged by the same rules.

use std::collections::BTreeMap;

use anyhow::bail;

use crate::cli::surroundings::{self, now};
use crate::host::ssm::{Failure, Parameter, Publisher};
use crate::model::config::source::account_below;
use crate::model::desired::judge::{self, Rules};
use crate::model::desired::lint::ListDraft;
use crate::model::escape::escaped;
use crate::model::list::bounds::STANDARD;
use crate::model::list::contents::Contents;
use crate::model::list::order::Value;
use crate::model::list::publication::{AllPublished, Kind, Published, Wanted};
use crate::model::list::{index, statement};
use crate::model::sorting;

/// What all of it is judged and read by.
pub(super) struct Desk<'a> {
    pub(super) rules: Rules<'a>,
    pub(super) path: String,
}

/// How Parameter Store has a parameter.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) version: u64,
    pub(super) kind: Kind,
    pub(super) is_advanced: bool,
}

/// What is published below the path.
#[derive(Default)]
pub(super) struct Found {
    /// The parameters of accounts.
    pub(super) published: AllPublished,
    /// Those in no account's place, with their values.
    pub(super) strangers: BTreeMap<String, String>,
    /// The index, with its value.
    pub(super) index: Option<(Stored, String)>,
    /// The same of what is signed.
    pub(super) signed: Option<(Stored, String)>,
}

impl Found {
    /// All that a publishing may write.
    pub(super) fn known(&self, path: &str) -> BTreeMap<String, Stored> {
        let mut known = BTreeMap::new();
        for (name, one) in &self.published {
            let one = Stored {
                version: one.version,
                kind: one.kind,
                is_advanced: one.value.text.len() > STANDARD,
            };
            known.insert(name.clone(), one);
        }
        if let Some((index, _)) = self.index {
            known.insert(index::name(path), index);
        }
        if let Some((signed, _)) = self.signed {
            known.insert(statement::name(path), signed);
        }
        known
    }

    /// What a signature of all of it is of.
    pub(super) fn contents(&self, path: &str) -> Contents {
        let mut all: Vec<(&String, &String)> = self.strangers.iter().collect();
        all.extend(
            self.published
                .iter()
                .map(|(name, one)| (name, &one.value.text)),
        );
        sorting::sort(&mut all);
        Contents::of(path, &mut all.into_iter())
    }

    /// What is signed, with the signatures.
    pub(super) fn text_of_signed(&self) -> Option<&str> {
        self.signed.as_ref().map(|(_, text)| text.as_str())
    }

    /// What a parameter holds that a publishing may write.
    pub(super) fn value(&self, path: &str, name: &str) -> Option<&str> {
        if name == statement::name(path) {
            return self.text_of_signed();
        }
        match &self.index {
            Some((_, text)) if name == index::name(path) => Some(text),
            _ => Some(&self.published.get(name)?.value.text),
        }
    }
}

impl Desk<'_> {
    /// What the directory has for each parameter, and the files that no parameter can hold. A parameter has no white space at
    /// its end; a file that is `exact` has.
    pub(super) fn wanted(&self, draft: &ListDraft, exact: bool) -> (Wanted, Vec<String>) {
        let (mut wanted, mut unreadable) = (Wanted::new(), Vec::new());
        for (account, drafts) in &draft.accounts {
            for draft in drafts {
                let Some(below) = &draft.parameter else {
                    continue;
                };
                match std::str::from_utf8(&draft.bytes) {
                    Ok(text) => {
                        let name = format!("{}/{below}", self.path);
                        let text = if exact { text } else { text.trim_end() };
                        let value = self.value(&name, text);
                        wanted.insert(name, (account.clone(), value));
                    }
                    Err(_) => unreadable.push(draft.name.clone()),
                }
            }
        }
        (wanted, unreadable)
    }

    /// The lines count that a host takes today.
    fn value(&self, name: &str, text: &str) -> Value {
        let now = now();
        let judged = judge::judge_drafts([(name, text)], self.rules);
        let lines = judged.lines.into_iter();
        Value {
            text: text.to_owned(),
            lines: lines.filter(|line| line.is_good_at(now)).collect(),
        }
    }

    /// What is published now.
    pub(super) async fn published(&self, publisher: &mut Publisher<'_>) -> anyhow::Result<Found> {
        let read = publisher.read(&self.path).await;
        let mut found = Found::default();
        let (index, signed) = (index::name(&self.path), statement::name(&self.path));
        for Parameter {
            name,
            version,
            kind,
            value,
            ..
        } in read.map_err(|failure| hinted(&failure))?
        {
            if name == index || name == signed {
                let is_advanced = value.len() > STANDARD;
                let known = Stored {
                    version,
                    kind,
                    is_advanced,
                };
                let place = if name == index {
                    &mut found.index
                } else {
                    &mut found.signed
                };
                *place = Some((known, value));
                continue;
            }
            let Ok(account) = account_below(&self.path, &name) else {
                found.strangers.insert(name, value);
                continue;
            };
            let value = self.value(&name, &value);
            let one = Published {
                account,
                version,
                kind,
                value,
            };
            found.published.insert(name, one);
        }
        Ok(found)
    }

    /// While a person thinks, another may publish.
    pub(super) async fn check_unchanged(
        &self,
        publisher: &mut Publisher<'_>,
        shown: &Found,
    ) -> anyhow::Result<()> {
        let now = self.published(publisher).await?.known(&self.path);
        let shown = shown.known(&self.path);
        let version = |all: &BTreeMap<String, Stored>, name: &String| {
            let known = all.get(name);
            known.map(|known| known.version)
        };
        let mut names = shown.keys().chain(now.keys());
        match names.find(|name| version(&shown, name) != version(&now, name)) {
            None => Ok(()),
            Some(name) => bail!(
                "nothing is put: `{}` was changed by another publisher since it was shown\n  hint: run this again",
                escaped(name)
            ),
        }
    }
}

/// With what a person who publishes can do.
pub(super) fn hinted(failure: &Failure) -> anyhow::Error {
    surroundings::hinted(failure, failure.hint_for_publisher())
}
