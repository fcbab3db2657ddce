//! What `publish` says, for people and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use crate::cli::print;
use crate::cli::surroundings::Outcome;
use crate::model::desired::lint::{Lint, Remark};
use crate::model::escape::escaped;
use crate::model::list::index;
use crate::model::list::publication::{Change, Plan};
use crate::model::words::count;

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
    /// Writes that are done, and the parameters that are not written yet.
    pub(super) done: usize,
    pub(super) left: BTreeSet<String>,
    pub(super) error: Option<String>,
}

impl Report {
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
    pub(super) fn refuse(&self, error: String) -> Outcome {
        if !self.lint.problems.is_empty() {
            self.tell_remarks();
        }
        if !self.plan.changes.is_empty() {
            self.print_plan()?;
        }
        Err(anyhow::anyhow!(error))
    }

    /// What will change; as JSON nothing yet, which is one document at the end.
    pub(super) fn print_plan(&self) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut text = self.parameters();
        self.accounts(&mut text);
        self.untouched(&mut text);
        print::data(&text)
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
        let index = index::name(&self.path);
        for (name, change) in &plan.changes {
            let (sign, note) = match change {
                Change::Created => ('+', ""),
                Change::Changed => ('~', ""),
                Change::Emptied => ('~', "  (a comment alone: the account has no keys any more)"),
                Change::Deleted => ('-', ""),
            };
            let is_index = *name == index;
            let note = if is_index { "  (the index)" } else { note };
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
            "writes_done": self.done,
            "not_written": self.left,
            "error": self.error,
        })
    }
}
