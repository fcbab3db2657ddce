//! Carries a plan out, write by write, and stops where another publisher is at work.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

use super::desk::{Desk, Stored, hinted};
use crate::cli::surroundings::instant;
use crate::host::ssm::{Failure, Publisher, Write};
use crate::model::escape::escaped;
use crate::model::list::bounds::STANDARD;
use crate::model::list::contents::Contents;
use crate::model::list::order::Step;
use crate::model::list::publication::Kind;
use crate::model::list::statement;

/// How often a person is told how far it is.
const TELL: Duration = Duration::from_secs(5);

/// How long Parameter Store may take to show what was put: it does not promise to do so at once.
const SHOWS: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);

/// Says that it waits, the first time and where it takes longer.
pub(super) fn tell_wait() -> impl FnMut(&Failure, Duration) {
    let mut is_told = false;
    move |failure, wait| {
        if !is_told || wait >= Duration::from_secs(4) {
            is_told = true;
            let _ = writeln!(io::stderr(), "{failure}; it goes on, slower");
        }
    }
}

pub(super) struct Carrier<'a> {
    publisher: Publisher<'a>,
    desk: &'a Desk<'a>,
    kms_key: Option<&'a str>,
    known: BTreeMap<String, Stored>,
    /// What was deleted, and may still be shown for a while.
    deleted: BTreeSet<String>,
    /// What there must be when the signature of it is put.
    signed: Option<Contents>,
    done: usize,
    told: Instant,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        publisher: Publisher<'a>,
        desk: &'a Desk<'a>,
        kms_key: Option<&'a str>,
        known: BTreeMap<String, Stored>,
        signed: Option<Contents>,
    ) -> Self {
        Self {
            publisher,
            desk,
            kms_key,
            known,
            deleted: BTreeSet::new(),
            signed,
            done: 0,
            told: instant(),
        }
    }

    /// How many of the steps are done.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// The index and the signature are the last writes: after the deletions, which they cover.
    pub(super) async fn carry_out(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        let mut may_delete = false;
        let signature = statement::name(&self.desk.path);
        for step in steps {
            if let Some(value) = &step.value {
                if step.name == signature {
                    let signed = self.signed.take();
                    self.check_shown("its signature is not put", signed).await?;
                }
                self.put(&step.name, value).await?;
            } else {
                if !may_delete {
                    self.check_shown("nothing is deleted", None).await?;
                    may_delete = true;
                }
                self.delete(&step.name).await?;
            }
            self.done += 1;
            if self.told.elapsed() > TELL {
                self.told = instant();
                let _ = writeln!(io::stderr(), "{} of {} written", self.done, steps.len());
            }
        }
        Ok(())
    }

    async fn put(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        let before = self.known.get(name).copied();
        let kind = before.map_or(Kind::String, |before| before.kind);
        let is_advanced = value.len() > STANDARD || before.is_some_and(|before| before.is_advanced);
        let put = Write::Put {
            name,
            value,
            kind,
            is_new: before.is_none(),
            is_advanced,
            kms_key: self.kms_key,
        };
        let version = match (self.publisher.write(put).await, before) {
            (Ok(written), before) => {
                let expected = before.map_or(0, |before| before.version) + 1;
                if !(expected..=expected + written.unanswered).contains(&written.version) {
                    let (name, now) = (escaped(name), written.version);
                    bail!(
                        "another publisher is at work: `{name}` was to become version {expected}, and became {now}, so others were \
                         put in between\n  hint: see what they held with `aws ssm get-parameter-history --name {name}`, take what \
                         must stay into the directory, and run this again"
                    );
                }
                written.version
            }
            (Err(failure), None) if failure.is_already_there() => {
                self.made_by_another(name, value).await?
            }
            (Err(failure), _) => return Err(hinted(&failure)),
        };
        let known = Stored {
            version,
            kind,
            is_advanced,
        };
        self.known.insert(name.to_owned(), known);
        Ok(())
    }

    /// A parameter that was not there is there: its version, if it holds what was to be put.
    async fn made_by_another(&mut self, name: &str, value: &str) -> anyhow::Result<u64> {
        let found = self.desk.published(&mut self.publisher).await?;
        let known = found.known(&self.desk.path).remove(name);
        match known {
            Some(known) if found.value(&self.desk.path, name) == Some(value) => Ok(known.version),
            _ => Err(anyhow!(
                "another publisher is at work: `{}` was not there, and is there now\n  hint: run this again: it shows what differs",
                escaped(name)
            )),
        }
    }

    async fn delete(&mut self, name: &str) -> anyhow::Result<()> {
        let deleted = self.publisher.write(Write::Delete { name }).await;
        deleted.map_err(|failure| hinted(&failure))?;
        self.known.remove(name);
        self.deleted.insert(name.to_owned());
        Ok(())
    }

    /// Nothing is deleted or signed before all that was put is to be seen, and nothing that others put.
    async fn check_shown(&mut self, so: &str, signed: Option<Contents>) -> anyhow::Result<()> {
        let start = instant();
        loop {
            let found = self.desk.published(&mut self.publisher).await?;
            let shown = found.known(&self.desk.path);
            let version = |name: &String| shown.get(name).map(|known| known.version);
            let is_strange = |name: &&String| match (self.known.get(*name), version(name)) {
                (Some(known), Some(version)) => version > known.version,
                (None, Some(_)) => !self.deleted.contains(*name),
                (_, None) => false,
            };
            if let Some(name) = shown.keys().find(is_strange) {
                let version = version(name).unwrap_or_default();
                bail!(
                    "another publisher is at work: `{}` has version {version} meanwhile\n  hint: {so}; run this again: it shows what \
                     differs",
                    escaped(name)
                );
            }
            let is_late = |(name, known): &(&String, &Stored)| version(name) != Some(known.version);
            let late = match self.known.iter().find(is_late) {
                Some((name, known)) => format!("version {} of `{}`", known.version, escaped(name)),
                None => match self.deleted.iter().find(|name| shown.contains_key(*name)) {
                    Some(name) => format!("that `{}` is deleted", escaped(name)),
                    None if signed
                        .as_ref()
                        .is_none_or(|signed| *signed == found.contents(&self.desk.path)) =>
                    {
                        return Ok(());
                    }
                    None => bail!(
                        "another publisher is at work: what is below `{}` is not what was signed\n  hint: {so}; run this again: it \
                         shows what differs",
                        escaped(&self.desk.path)
                    ),
                },
            };
            if start.elapsed() > SHOWS {
                bail!(
                    "Parameter Store does not show {late}\n  hint: another publisher may be at work; {so}; run this again"
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
