//! How keys, changes and times are printed for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::Context;
use jiff::Timestamp;

use crate::model::account::AccountName;
use crate::model::desired::decide::Decision;
use crate::model::desired::lint::{Lint, Remark};
use crate::model::desired::signed::Taken;
use crate::model::escape::escaped;
use crate::model::file::difference::Difference;
use crate::model::file::other_files::{InFile, OtherFile};
use crate::model::file::wanted::Kind;
use crate::model::key::grant::Grant;
use crate::model::key::id::KeyId;
use crate::model::key::lenient::unclear;
use crate::model::status::problem::duration;
use crate::model::status::schema::KeyStatus;
use crate::model::words::count;

/// Writes data to stdout.
pub(super) fn data(text: &str) -> anyhow::Result<()> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")
}

/// What `lint` found, a line each, as compilers write it.
pub(super) fn remarks(lint: &Lint) -> String {
    let mut text = String::new();
    let mut all = |remarks: &[Remark], what: &str| {
        for Remark { file, line, reason } in remarks {
            // The value as a whole is at its first line, where an editor can go.
            let _ = writeln!(text, "{file}:{}: {what}{reason}", line.unwrap_or(1));
        }
    };
    all(&lint.problems, "");
    all(&lint.notes, "note: ");
    text
}

/// Where a key comes from: `/k/alice/laptop version 3 of 2026-11-24T10:00:00Z`.
pub(super) fn provenance(key: &KeyStatus) -> String {
    let mut text = escaped(&key.parameter);
    if let Some(version) = key.parameter_version {
        let _ = write!(text, " version {version}");
    }
    if let Some(at) = key.parameter_modified_at {
        let _ = write!(text, " of {at:.0}");
    }
    text
}

/// Who signed, and until when that counts: `by alice@example.com SHA256:…, serial 42, expires in 80 d 3 h`.
pub(super) fn signature(taken: &Taken, now: Timestamp) -> String {
    let all = taken.signers.iter();
    let all: Vec<String> = all.map(ToString::to_string).collect();
    format!("by {}, {}", all.join(", "), serial(taken, now))
}

/// The same without the names.
pub(super) fn serial(taken: &Taken, now: Timestamp) -> String {
    let left = taken.expires.duration_since(now).as_secs();
    let ends = if left > 0 {
        format!("expires in {}", duration(left))
    } else {
        format!("expired {} ago", duration(-left))
    };
    format!("serial {}, {ends}", taken.serial)
}

/// What stands in a file that is not the managed one, a line each.
pub(super) fn keys_in_file(text: &mut String, indent: &str, found: &InFile) {
    for key in &found.keys {
        let _ = writeln!(text, "{indent}{key}");
    }
    if found.more > 0 {
        let _ = writeln!(text, "{indent}and {}", count(found.more, "more key"));
    }
    if found.unclear > 0 {
        let _ = writeln!(text, "{indent}{}", unclear(found.unclear));
    }
    if let Some(error) = &found.error {
        let _ = writeln!(text, "{indent}{}", escaped(error));
    }
}

/// What a pass changed, or would change, account by account.
pub(super) fn changes(
    differences: &BTreeMap<AccountName, Vec<Difference>>,
    decision: &Decision,
) -> String {
    let mut text = String::new();
    for (account, differences) in differences {
        let _ = writeln!(text, "{account}");
        for difference in differences {
            change(&mut text, account, difference, decision);
        }
    }
    text
}

/// One change; of a key that comes also from where.
fn change(text: &mut String, account: &AccountName, difference: &Difference, decision: &Decision) {
    let line = match difference {
        Difference::OtherFile(other) => return other_file(text, other),
        Difference::Removed(key) => {
            let from = match grant(account, key, decision) {
                Some(grant) => format!("  ({})", provenance(&grant.into())),
                None => String::new(),
            };
            format!("{}{from}", difference.mended())
        }
        other => other.mended(),
    };
    let _ = writeln!(text, "  {line}");
    if let Difference::Options { found, wanted, .. } = difference {
        let shown = |options: &str| match options {
            "" => "no options".to_owned(),
            options => options.to_owned(),
        };
        let _ = writeln!(text, "      before: {}", shown(found));
        let _ = writeln!(text, "      after:  {}", shown(wanted));
    }
}

fn grant<'a>(account: &AccountName, key: &KeyId, decision: &'a Decision) -> Option<&'a Grant> {
    let in_force = &decision.in_force;
    let own = &in_force.accounts.get(account)?.grants;
    let mut all = own.iter().chain(&in_force.break_glass);
    all.find(|grant| grant.fingerprint == key.fingerprint)
}

/// What goes with another file.
fn other_file(text: &mut String, other: &OtherFile) {
    let path = escaped(&other.file);
    for key in &other.found.keys {
        let _ = writeln!(text, "  - {key}  ({path})");
    }
    if other.found.unclear > 0 {
        let _ = writeln!(text, "  - {}  ({path})", unclear(other.found.unclear));
    }
    let what = match other.kind {
        Kind::File => String::new(),
        kind => format!(", {kind}"),
    };
    let _ = writeln!(text, "  - {path}{what}");
}
