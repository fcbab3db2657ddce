//! Who may sign the list, who did, and whether that counts.

use jiff::{SignedDuration, Timestamp};

use crate::agent::gather;
use crate::cli::print;
use crate::cli::surroundings;
use crate::model::config::tables::Source;
use crate::model::desired::decide::{ENDS_SOON, Trouble, signers};
use crate::model::desired::signed::{self, AllTaken, Fault, Trust, Unsigned};
use crate::model::escape::escaped;
use crate::model::key::policy::Signing;
use crate::model::signature::signers::Signers;
use crate::model::status::preflight::Finding;
use crate::model::status::problem::{Cause, Problem, Severity};
use crate::model::status::told::told;
use crate::model::words::count;

use super::list::Read;

/// `known` is what was taken last of each part.
pub(super) fn look(
    source: &Source,
    signing: &Signing,
    read: &Read,
    known: &AllTaken,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let fact = gather::read_signers(&signing.signed_by);
    let (signers, troubles) = signers(&fact, signing, &surroundings::zone());
    for told in told(troubles.into_iter().map(Problem::from)) {
        let (text, hint) = (told.text(), told.hint().unwrap_or_default());
        findings.push(match told.cause.severity() {
            Severity::Error => Finding::fail("signers", text, hint),
            Severity::Warning => Finding::warn("signers", text, hint),
        });
    }
    let issued = known.values().map(|taken| taken.issued).max();
    if let Some(issued) = issued.filter(|issued| *issued > now) {
        let message = format!(
            "the clock of this host is behind: a list was in force that was signed at {issued}"
        );
        let hint = "let chrony or systemd-timesyncd set the clock (on EC2 from 169.254.169.123)";
        findings.push(Finding::warn("clock", message, hint));
    }
    let Some(signers) = signers else { return };
    who(signing, &signers, now, findings);
    let Some(list) = &read.list else { return };
    let trust = Trust {
        signing,
        signers: &signers,
        known,
        now,
    };
    match signed::verify(list, source, trust) {
        Ok(taken) => {
            for (scope, taken) in taken {
                let signature = print::signature(&taken, now);
                let message = format!("{}: signed {signature}", escaped(&scope));
                let ends_soon = taken.expires.duration_since(now) < ENDS_SOON;
                findings.push(if ends_soon {
                    let at = taken.expires;
                    let hint = Cause::Decision(Trouble::SignatureEnds { scope, at }).hint();
                    Finding::warn("signature", message, hint.unwrap_or_default())
                } else {
                    Finding::ok("signature", message)
                });
            }
        }
        Err(faults) => {
            for what in faults {
                // What was not read has none.
                if read.whole || what.fault != Fault::Missing {
                    findings.push(refused(what));
                }
            }
        }
    }
}

fn refused(what: Unsigned) -> Finding {
    let scope = match what.scope.as_str() {
        "" => String::new(),
        scope => format!("{}: ", escaped(scope)),
    };
    let message = format!("{scope}{}", what.fault.reason());
    let cause = Cause::Decision(Trouble::Unsigned {
        what,
        lasts: true,
        is_first: false,
    });
    Finding::fail("signature", message, cause.hint().unwrap_or_default())
}

/// How many may sign, and whose time ends.
fn who(signing: &Signing, signers: &Signers, now: Timestamp, findings: &mut Vec<Finding>) {
    /// Before the end of a key is told.
    const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
    let message = format!(
        "`{}`: {} may sign, and a list must be signed by {}",
        signing.signed_by.display(),
        count(signers.count(), "key"),
        signing.signatures
    );
    findings.push(Finding::ok("signers", message));
    for (signer, until) in signers.ends() {
        if until.duration_since(now) >= MONTH {
            continue;
        }
        let may = if until > now { "may" } else { "could" };
        let message = format!("{signer} {may} sign until {until}");
        let hint =
            "put the next key, or a later `valid-before`, into the file, then sign the list anew";
        findings.push(Finding::warn("signers", message, hint));
    }
}
