//! The half of `check` with the network: facts of the instance, region, credentials, and the list itself.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use crate::agent::source::{Clients, FetchError, Reading};
use crate::host::chain;
use crate::host::imds::{self, Metadata};
use crate::host::ssm::{CredentialSource, Failure};
use crate::host::{directory, process};
use crate::model::config::source::{Share, Wanted, merge};
use crate::model::config::tables::Source;
use crate::model::list::approved::{ApprovedList, Entry};
use crate::model::list::rejected::Rejected;
use crate::model::list::template::{Facts, Need, Unfilled};
use crate::model::status::preflight::{Finding, clock};
use crate::model::words::count;

/// What could be read of the list.
pub(super) struct Read {
    /// `None` when nothing could.
    pub(super) list: Option<ApprovedList>,
    /// True when nothing is missing from it.
    pub(super) whole: bool,
}

/// Asks for everything the source names, each on its own.
pub(super) async fn look(
    source: &Source,
    now: fn() -> Timestamp,
    findings: &mut Vec<Finding>,
) -> Read {
    let facts = facts(&source.needs(), findings).await;
    let mut clients = Clients::new(source, false);
    let needs_aws = !source.paths.is_empty() || !source.parameters.is_empty();
    // Nobody to ask, or nothing to ask with: what was said of that is not repeated for each path.
    let mut silent = needs_aws && !who_asks(&mut clients, now, findings).await;
    let (mut read, mut entries, mut unusable) = (0, Vec::new(), Vec::new());
    let mut signed = Vec::new();
    let shares = source.shares(&facts);
    let all = shares.len();
    for Share { name, wanted } in shares {
        let wanted = match wanted {
            Ok(wanted) if silent && wanted.directory.is_none() => {
                findings.push(not_asked(&name));
                continue;
            }
            Ok(wanted) => wanted,
            Err(unfilled) => {
                findings.push(unfillable(&name, &unfilled));
                continue;
            }
        };
        match clients.read(source, &wanted, Vec::new(), None, now()).await {
            Ok(reading) => {
                let (found, misplaced) = (&reading.entries, &reading.unusable);
                findings.push(readable(&name, &wanted, found, misplaced));
                findings.extend(indexed(&name, source, &mut clients, &reading).await);
                findings.extend(
                    wanted
                        .directory
                        .as_deref()
                        .and_then(|path| closed(&name, path)),
                );
                read += 1;
                entries.extend(reading.entries);
                unusable.extend(reading.unusable);
                signed.extend(reading.signed);
            }
            Err(error) => {
                silent |= concerns_all(&error);
                findings.push(unreadable(&name, &error));
            }
        }
    }
    // That of the named parameters is of all of them together.
    if let Some(name) = &source.signed
        && !silent
        && let Ok(wanted) = source.resolve(&facts)
    {
        let wanted = Wanted {
            paths: Vec::new(),
            directory: None,
            ..wanted
        };
        match clients.read(source, &wanted, Vec::new(), None, now()).await {
            Ok(reading) => signed.extend(reading.signed),
            Err(error) => findings.push(unreadable(&format!("ssm:{name}"), &error)),
        }
    }
    if needs_aws
        && let Ok(store) = clients.store().await
        && let Some(skew) = store.clock_skew(now())
    {
        findings.push(clock(skew));
    }
    let list = (read > 0).then(|| ApprovedList {
        signed,
        ..ApprovedList::new(String::new(), now(), merge(entries), unusable)
    });
    Read {
        list,
        whole: read == all,
    }
}

/// What the templates ask of the instance.
async fn facts(needs: &BTreeSet<Need>, findings: &mut Vec<Finding>) -> Facts {
    let mut facts = Facts::new();
    if needs.is_empty() {
        return facts;
    }
    let fail = |failure: imds::Failure| {
        let hint = failure
            .hint()
            .unwrap_or_else(|| "look at the instance metadata options".to_owned());
        Finding::fail("metadata", failure.to_string(), hint)
    };
    let metadata = match Metadata::new(&imds::Settings::default()) {
        Ok(metadata) => metadata,
        Err(failure) => {
            findings.push(fail(failure));
            return facts;
        }
    };
    for need in needs {
        match metadata.look_up(&BTreeSet::from([need.clone()])).await {
            Ok(found) => {
                let value = found.get(need).map_or("", String::as_str);
                findings.push(Finding::ok("metadata", format!("{need} is `{value}`")));
                facts.extend(found);
            }
            Err(failure) => {
                let gone = failure == imds::Failure::Unreachable;
                findings.push(fail(failure));
                if gone {
                    break;
                }
            }
        }
    }
    facts
}

/// Region and credentials; true when there are both.
async fn who_asks(
    clients: &mut Clients,
    now: fn() -> Timestamp,
    findings: &mut Vec<Finding>,
) -> bool {
    let fail = |check, error: &dyn std::error::Error, hint: Option<String>| {
        let hint = hint.unwrap_or_else(|| "look at the AWS_ variables of the fetcher".to_owned());
        Finding::fail(check, error.to_string(), hint)
    };
    let store = match clients.store().await {
        Ok(store) => store,
        Err(error) => {
            let check = if matches!(error, FetchError::Ssm(Failure::RegionMissing)) {
                "region"
            } else {
                "credentials"
            };
            findings.push(fail(check, &error, error.hint()));
            return false;
        }
    };
    findings.push(Finding::ok(
        "region",
        format!("{} (from {})", store.region(), store.region_source()),
    ));
    let caller = match store.caller().await {
        Ok(caller) => caller,
        Err(failure) => {
            findings.push(fail("credentials", &failure, failure.hint()));
            return false;
        }
    };
    let expires = caller
        .expires
        .map(|at| format!(", until {at:.0}"))
        .unwrap_or_default();
    let message = format!("{} from {}{expires}", caller.access_key, caller.source);
    if caller.expires.is_some_and(|at| at <= now()) {
        let hint = Failure::CredentialsExpired.hint().unwrap_or_default();
        findings.push(Finding::fail("credentials", message, hint));
        return true;
    }
    let own = matches!(
        caller.source,
        CredentialSource::Environment | CredentialSource::Profile
    );
    let whose = if own {
        ": those of this shell; a service has its own"
    } else {
        ""
    };
    findings.push(Finding::ok("credentials", message + whose));
    true
}

/// The next request would fail in the same way.
fn concerns_all(error: &FetchError) -> bool {
    let FetchError::Ssm(failure) = error else {
        return false;
    };
    matches!(
        failure,
        Failure::Network { .. }
            | Failure::NotAws { .. }
            | Failure::Throttled
            | Failure::CredentialsExpired
            | Failure::CredentialsMissing
            | Failure::NoProfile(_)
            | Failure::CredentialsFailed(_)
            | Failure::RegionMissing
    )
}

fn not_asked(name: &str) -> Finding {
    Finding::warn(
        "source",
        format!("{name}: not asked for"),
        "mend what failed above first",
    )
}

fn unfillable(name: &str, unfilled: &Unfilled) -> Finding {
    match unfilled {
        Unfilled::Unknown { .. } => not_asked(name),
        unfilled => Finding::fail(
            "source",
            format!("{name}: {unfilled}"),
            "change the tag, or write the name into the config",
        ),
    }
}

fn readable(name: &str, wanted: &Wanted, found: &[Entry], misplaced: &[Rejected]) -> Finding {
    let values = count(
        found.len() + misplaced.len(),
        if wanted.directory.is_some() {
            "file"
        } else {
            "parameter"
        },
    );
    if found.is_empty() && misplaced.is_empty() {
        // A path that does not exist is empty too.
        let hint = match wanted.directory {
            Some(_) => "put the keys of an account into a file of its name there",
            None => {
                "is it the right path, region and AWS account? `agent publish DIR --to PATH` puts keys below it"
            }
        };
        return Finding::warn(
            "source",
            format!("{name}: readable, and nothing in it"),
            hint,
        );
    }
    Finding::ok("source", format!("{name}: {values}"))
}

/// What the index of a path saves, where there is one; of a list that must be signed, the signature.
async fn indexed(
    name: &str,
    source: &Source,
    clients: &mut Clients,
    reading: &Reading,
) -> Option<Finding> {
    let says = if source.is_signed {
        "signature"
    } else {
        "index"
    };
    let saves_nothing = |why: &str, hint: &str| {
        let message = format!("{name}: {why}, so each poll reads everything");
        Some(Finding::warn(says, message, hint))
    };
    if !reading.wrong.is_empty() {
        return saves_nothing(
            "its index says something else",
            "publish with `agent publish`, which keeps it up to date, or delete it",
        );
    }
    if reading.is_being_published {
        return saves_nothing(
            "its index says that it is being published",
            "if that lasts, run `agent publish` again",
        );
    }
    let known = reading.known.first()?;
    if source.full_every <= source.every {
        let why = format!("its {says} would do, and `full-every` is not longer than `every`");
        return saves_nothing(&why, "raise `full-every` in `[source]`");
    }
    let indexes = [known.asks_for()];
    let store = clients.store().await.ok()?;
    let asked = store.by_names(&[], &indexes, &mut store.tries()).await;
    if let Err(failure) = asked {
        let why = format!("its {says} cannot be read alone ({failure})");
        return saves_nothing(&why, &failure.hint().unwrap_or_default());
    }
    let message = format!("{name}: while its {says} says the same, a poll is one call");
    Some(Finding::ok(says, message))
}

/// Root reads everything; the fetcher's service has a user of its own and sees no home.
fn closed(name: &str, directory: &Path) -> Option<Finding> {
    let closed = directory::closed_to_others(directory).filter(|_| process::is_root())?;
    Some(Finding::warn(
        "source",
        format!(
            "{name}: the fetcher, which is not root, cannot read `{}`",
            closed.display()
        ),
        "chmod -R a+rX on the directory, which must not be in a home",
    ))
}

fn unreadable(name: &str, error: &FetchError) -> Finding {
    let more = || "`agent fetch --once --log debug` says more".to_owned();
    let hint = error.hint().unwrap_or_else(more);
    Finding::fail("source", format!("{name}: {}", chain(error)), hint)
}
