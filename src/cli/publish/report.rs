//! What `publish` says, for people and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::signing::{Draft, Key};
use crate::cli::print;
use crate::model::desired::lint::{Lint, Remark};
use crate::model::escape::escaped;
use crate::model::key::id::KeyId;
use crate::model::list::contents::Contents;
use crate::model::list::publication::{Change, Plan, Wanted};
use crate::model::list::signing::Known;
use crate::model::list::statement::Statement;
use crate::model::list::{index, statement};
use crate::model::words::{count, several};

#[derive(Default)]
pub(super) struct Report {
    pub(super) json: bool,
    pub(super) dry_run: bool,
    /// `--kms-key` is given.
    pub(super) names_key: bool,
    pub(super) path: String,
    pub(super) region: String,
    pub(super) lint: Lint,
    pub(super) plan: Plan,
    /// Below the path, and in no account's place.
    pub(super) strangers: Vec<String>,
    pub(super) signature: Option<Signed>,
    /// Why each key counts as new, where a person signs and that is so.
    pub(super) all_new: Option<String>,
    /// Writes that are done, and the parameters that are not written yet.
    pub(super) done: usize,
    pub(super) left: BTreeSet<String>,
    pub(super) error: Option<String>,
}

/// What is signed and by whom.
pub(super) struct Signed {
    statement: Statement,
    by: Vec<String>,
    /// Who signs now.
    signs: Option<KeyId>,
}

impl Report {
    /// Why what will be published is not what is signed, if it is not: what the directory has is, the text `at` says.
    pub(super) fn misfit(
        &self,
        draft: &Draft,
        of_directory: &Contents,
        contents: &Contents,
        wanted: &Wanted,
        at: &str,
    ) -> Option<String> {
        let at = escaped(at);
        let plan = &self.plan;
        if !plan.left.is_empty() {
            let names: Vec<&str> = plan.left.iter().map(String::as_str).collect();
            return Some(format!(
                "published and not in the directory: {}; a signature is of all that there is\n  hint: delete them with --prune, or \
                 take them into the directory",
                escaped(&several(&names))
            ));
        }
        let signed = &draft.statement.contents;
        if signed == contents {
            return None;
        }
        if signed != of_directory {
            return Some(format!(
                "`{at}` is of {} with other names or values than the {} in the directory\n  hint: look at what differs, then sign it \
                 anew with `agent sign`",
                count(signed.parameters, "parameter"),
                of_directory.parameters
            ));
        }
        let mut others: Vec<&str> = self.strangers.iter().map(String::as_str).collect();
        for one in &plan.parameters {
            if one.after.is_some() && !wanted.contains_key(&one.name) {
                others.push(&one.name);
            }
        }
        Some(format!(
            "there would be more than `{at}` is of: {}\n  hint: for an account that leaves the list, make this file, with a comment \
             alone; delete what is of no account; then sign it anew with `agent sign`",
            escaped(&several(&others))
        ))
    }

    /// What a person who signs sees: where it is not sure what hosts have in force, each key is new.
    pub(super) fn add_signature(
        &mut self,
        draft: &Draft,
        key: Option<&Key>,
        known: &Known,
        there: &Contents,
    ) {
        self.signature = Some(Signed {
            statement: draft.statement.clone(),
            by: draft.signed_by.clone(),
            signs: key.map(|key| key.id.clone()),
        });
        self.all_new = match known {
            _ if key.is_none() => None,
            None => Some("nothing that is published is signed".to_owned()),
            Some(Err(why)) => Some(why.clone()),
            Some(Ok(one)) if one.statement.contents == *there => None,
            Some(Ok(_)) => Some("what is published is not what was signed".to_owned()),
        };
        if self.all_new.is_some() {
            self.plan.count_all_as_new();
        }
    }

    /// Files that would not arrive as they are.
    pub(super) fn refuse_bytes(&mut self, files: &[String]) {
        for file in files {
            let (file, line) = (escaped(file), None);
            let reason = "not UTF-8, which a parameter cannot hold".to_owned();
            self.lint.notes.retain(|note| note.file != file);
            self.lint.problems.push(Remark { file, line, reason });
        }
    }

    /// What `lint` says, where a person sees it beside the data.
    pub(super) fn tell_remarks(&self) {
        if !self.json {
            let _ = io::stderr().write_all(print::remarks(&self.lint).as_bytes());
        }
    }

    /// Nothing is put.
    pub(super) fn refuse<T>(&self, error: String) -> anyhow::Result<T> {
        if !self.lint.problems.is_empty() {
            self.tell_remarks();
        }
        if !self.plan.changes.is_empty() {
            self.print_plan()?;
        }
        Err(anyhow::anyhow!(error))
    }

    /// What is published is signed, and what will be there would not be.
    pub(super) fn leaves_unsigned(&self, is_dry: bool) -> anyhow::Result<()> {
        let place = escaped(&statement::name(&self.path));
        let wrong = format!(
            "`{place}` signs another list: hosts that ask for a signature would not take this one\n  hint: sign it with --sign KEY, or \
             delete `{place}` if lists are not signed any more"
        );
        if !is_dry {
            return self.refuse(format!("nothing is put: {wrong}"));
        }
        let _ = writeln!(io::stderr(), "note: {wrong}");
        Ok(())
    }

    /// What will change; as JSON nothing yet, which is one document at the end.
    pub(super) fn print_plan(&self) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut text = self.parameters();
        text += &self.newness();
        self.accounts(&mut text);
        self.untouched(&mut text);
        text += &self.signature();
        print::data(&text)
    }

    /// Why more is shown than differs from what is published.
    pub(super) fn newness(&self) -> String {
        let why = self.all_new.as_ref();
        why.map_or_else(String::new, |why| {
            format!("each key counts as new: {why}\n")
        })
    }

    /// What is signed, and by whom.
    pub(super) fn signature(&self) -> String {
        let mut text = String::new();
        if let Some(Signed {
            statement,
            by,
            signs,
        }) = &self.signature
        {
            let audience = match &statement.audience {
                Some(audience) => format!("for the audience {audience}"),
                None => "for no audience".to_owned(),
            };
            let (serial, expires) = (statement.serial, statement.expires);
            let _ = writeln!(
                text,
                "signed {audience}, with serial number {serial}, until {expires}:"
            );
            for by in by {
                let _ = writeln!(text, "    {by}");
            }
            if by.is_empty() && signs.is_none() {
                text.push_str("    by whom is not known here: --signers says who may sign\n");
            }
            if let Some(key) = signs {
                let _ = writeln!(text, "  + {key}");
            }
        }
        text
    }

    /// What came of it.
    pub(super) fn print_end(&self) -> anyhow::Result<()> {
        if self.json {
            return print::data(&format!("{:#}\n", self.document()));
        }
        if self.error.is_none() && self.done > 0 {
            return print::data("published\n");
        }
        if self.left.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} done, not done:\n", count(self.done, "write"));
        for name in &self.left {
            let _ = writeln!(text, "  {}", escaped(name));
        }
        text.push_str("run the same again: it does what is left\n");
        print::data(&text)
    }

    fn parameters(&self) -> String {
        let plan = &self.plan;
        let mut text = format!("{} in {}: ", escaped(&self.path), self.region);
        let counts = [
            (Change::Created, "created"),
            (Change::Changed, "changed"),
            (Change::Emptied, "left without keys"),
            (Change::Deleted, "deleted"),
        ];
        for (change, word) in counts {
            let number = plan.changes.values().filter(|one| **one == change).count();
            if number > 0 {
                let _ = write!(text, "{number} {word}, ");
            }
        }
        let _ = writeln!(text, "{} unchanged", plan.unchanged);
        let (index, signed) = (index::name(&self.path), statement::name(&self.path));
        for (name, change) in &plan.changes {
            let (sign, note) = match change {
                Change::Created => ('+', ""),
                Change::Changed => ('~', ""),
                Change::Emptied => ('~', "  (a comment alone: the account has no keys any more)"),
                Change::Deleted => ('-', ""),
            };
            let note = match name {
                name if *name == index => "  (the index)",
                name if *name == signed => "  (the signature)",
                _ => note,
            };
            let _ = writeln!(text, "  {sign} {}{note}", escaped(name));
        }
        text
    }

    fn accounts(&self, text: &mut String) {
        for (account, difference) in &self.plan.accounts {
            let keys = match difference.keys {
                0 => "no keys".to_owned(),
                keys => count(keys, "key"),
            };
            let _ = writeln!(text, "{account}: {keys}");
            for key in &difference.gained {
                let _ = writeln!(text, "  + {key}");
            }
            for key in &difference.lost {
                let _ = writeln!(text, "  - {key}");
            }
            for key in &difference.changed {
                let _ = writeln!(text, "  ~ {key}: other options");
            }
        }
    }

    fn untouched(&self, text: &mut String) {
        let left = "published and not in the directory, left as they are (--prune deletes them):";
        let strangers = "below the path and in no account's place, never touched:";
        let secured = "encrypted with the key aws/ssm, as --kms-key names no other:";
        let secured_by_default = if self.names_key {
            &[]
        } else {
            self.plan.secured.as_slice()
        };
        for (what, names) in [
            (secured, secured_by_default),
            (left, self.plan.left.as_slice()),
            (strangers, self.strangers.as_slice()),
        ] {
            if !names.is_empty() {
                let _ = writeln!(text, "{what}");
            }
            for name in names {
                let _ = writeln!(text, "  {}", escaped(name));
            }
        }
    }

    fn document(&self) -> Value {
        let plan = &self.plan;
        let of = |change: Change| -> Vec<&String> {
            let all = plan.changes.iter().filter(|(_, one)| **one == change);
            all.map(|(name, _)| name).collect()
        };
        let accounts = plan.accounts.iter().map(|(account, difference)| {
            json!({
                "account": account,
                "keys": difference.keys,
                "gains": difference.gained,
                "loses": difference.lost,
                "other_options": difference.changed,
            })
        });
        json!({
            "schema": 1,
            "path": self.path,
            "region": self.region,
            "dry_run": self.dry_run,
            "lint": { "problems": self.lint.problems, "notes": self.lint.notes },
            "parameters": {
                "created": of(Change::Created),
                "changed": of(Change::Changed),
                "emptied": of(Change::Emptied),
                "deleted": of(Change::Deleted),
                "unchanged": plan.unchanged,
                "not_in_directory": plan.left,
                "never_touched": self.strangers,
            },
            "accounts": accounts.collect::<Vec<_>>(),
            "counts_as_new": self.all_new,
            "signature": self.signature.as_ref().map(|signed| {
                json!({
                    "serial": signed.statement.serial,
                    "audience": signed.statement.audience,
                    "issued": signed.statement.issued,
                    "expires": signed.statement.expires,
                    "signed_by": signed.by,
                    "signs": signed.signs,
                })
            }),
            "writes_done": self.done,
            "not_written": self.left,
            "error": self.error,
        })
    }
}
