//! What is in the directory and what is published, judged by the same rules.

use anyhow::bail;

use crate::cli::surroundings::{self, now};
use crate::host::ssm::{Failure, Parameter, Publisher};
use crate::model::config::source::account_below;
use crate::model::desired::judge::{self, Rules};
use crate::model::desired::lint::ListDraft;
use crate::model::escape::escaped;
use crate::model::list::order::Value;
use crate::model::list::publication::{AllPublished, Published, Wanted};

/// What all of it is judged and read by.
pub(super) struct Desk<'a> {
    pub(super) rules: Rules<'a>,
    pub(super) path: String,
}

impl Desk<'_> {
    /// What the directory has for each parameter, and the files that no parameter can hold.
    pub(super) fn wanted(&self, draft: &ListDraft) -> (Wanted, Vec<String>) {
        let (mut wanted, mut unreadable) = (Wanted::new(), Vec::new());
        for (account, drafts) in &draft.accounts {
            for draft in drafts {
                let Some(below) = &draft.parameter else {
                    continue;
                };
                match std::str::from_utf8(&draft.bytes) {
                    Ok(text) => {
                        let name = format!("{}/{below}", self.path);
                        let value = self.value(&name, text.trim_end());
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

    /// What is published now: of the accounts, and the names in no account's place.
    pub(super) async fn published(
        &self,
        publisher: &mut Publisher<'_>,
    ) -> anyhow::Result<(AllPublished, Vec<String>)> {
        let found = publisher.read(&self.path).await;
        let (mut published, mut strangers) = (AllPublished::new(), Vec::new());
        for Parameter {
            name,
            version,
            kind,
            value,
            ..
        } in found.map_err(|failure| hinted(&failure))?
        {
            let Ok(account) = account_below(&self.path, &name) else {
                strangers.push(name);
                continue;
            };
            let value = self.value(&name, &value);
            let one = Published {
                account,
                version,
                kind,
                value,
            };
            published.insert(name, one);
        }
        Ok((published, strangers))
    }

    /// While a person thinks, another may publish.
    pub(super) async fn check_unchanged(
        &self,
        publisher: &mut Publisher<'_>,
        shown: &AllPublished,
    ) -> anyhow::Result<()> {
        let (now, _) = self.published(publisher).await?;
        let version = |all: &AllPublished, name: &String| all.get(name).map(|one| one.version);
        let mut names = shown.keys().chain(now.keys());
        match names.find(|name| version(shown, name) != version(&now, name)) {
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
