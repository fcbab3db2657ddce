//! Who is managed here, and whether their files can be.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::agent::errand;
use crate::agent::inquiry::ask_within;
use crate::host::accounts;
use crate::host::keyfile::{self, NoWitness, Observed, Refusal, Visit};
use crate::host::store::{self, Access};
use crate::model::account::AccountName;
use crate::model::config::tables::Config;
use crate::model::file::orders;
use crate::model::file::wanted::{Found, Target};
use crate::model::people::{Lookup, People};
use crate::model::sshd::access::Loose;
use crate::model::status::preflight::{Finding, Here};

/// Who exists here, and the files of those that are managed.
#[derive(Default)]
pub(super) struct Accounts {
    here: BTreeMap<AccountName, Here>,
    pub(super) targets: Vec<Target>,
}

impl Accounts {
    /// What an account of the list is on this host.
    pub(super) fn here(&self, name: &AccountName) -> Here {
        self.here.get(name).copied().unwrap_or(Here::Unknown)
    }
}

/// How long NSS may take; longer than a look-up over the network with a retry.
const NSS: Duration = Duration::from_secs(10);

/// How long one home may take.
pub(super) const HOME: Duration = Duration::from_secs(2);

/// Looks up `names`, and says which of them cannot be managed.
pub(super) async fn look_up(
    config: &Config,
    names: Vec<AccountName>,
    findings: &mut Vec<Finding>,
) -> Accounts {
    let Some(directory) = ask_within(NSS, move || accounts::look_up(&names)).await else {
        let message = format!(
            "the account database has not answered within {} s",
            NSS.as_secs()
        );
        findings.push(Finding::fail(
            "account",
            message,
            "look at nsswitch.conf(5) and what it names, such as sssd",
        ));
        return Accounts::default();
    };
    let mut all = Accounts::default();
    for (name, lookup) in &directory.accounts {
        let here = judge(config, &directory, name, lookup, &mut all.targets, findings);
        all.here.insert(name.clone(), here);
    }
    all
}

fn judge(
    config: &Config,
    directory: &People,
    name: &AccountName,
    lookup: &Lookup,
    targets: &mut Vec<Target>,
    findings: &mut Vec<Finding>,
) -> Here {
    match lookup {
        Lookup::Unknown => {
            if config.accounts.named().any(|named| named == name) {
                let hint = "make the account, or take its name out of `[accounts] manage`";
                findings.push(Finding::warn(
                    "account",
                    format!("{name}: no such account on this host"),
                    hint,
                ));
            }
            Here::Unknown
        }
        Lookup::Failed(error) => {
            let hint = format!("`getent passwd {name}` asks the same; look at nsswitch.conf(5)");
            findings.push(Finding::fail("account", error, hint));
            Here::Unknown
        }
        Lookup::Found(account)
            if !config
                .accounts
                .manages(name, Some(account.uid), directory.uid_min) =>
        {
            Here::Unmanaged
        }
        Lookup::Found(account) => {
            match orders::target(&config.accounts, directory, account) {
                Ok(target) => targets.push(target),
                Err(why) => {
                    let reason = why.in_words();
                    let hint = "give the account a home of its own (usermod -d), or set `[accounts] file` outside of homes";
                    findings.push(Finding::fail("account", format!("{name}: {reason}"), hint));
                }
            }
            Here::Managed
        }
    }
}

/// Looks at each managed file as the enforcer would, and at whether its file system takes writes at all.
///
/// Gives what sshd's `StrictModes` refuses on the way to each.
pub(super) async fn files(
    accounts: &Accounts,
    findings: &mut Vec<Finding>,
) -> BTreeMap<AccountName, Loose> {
    let mut all = BTreeMap::new();
    // As the enforcer does, or a home could look more open than it is; failing leaves only that.
    let _ = keyfile::drop_supplementary_groups();
    for target in &accounts.targets {
        let name = &target.account.name;
        let own = target.clone();
        let seen = ask_within(HOME, move || {
            let seen = errand::observe(&mut Visit::new(&own), &own.account, 0, &mut NoWitness);
            (
                seen,
                store::access(if own.location.in_home {
                    &own.account.home
                } else {
                    parent(&own.location.path)
                }),
            )
        });
        let seen = seen.await;
        if let Some((
            Ok(Observed {
                loose: Some(loose), ..
            }),
            _,
        )) = &seen
        {
            all.insert(name.clone(), loose.clone());
        }
        findings.push(match seen {
            None => {
                let message = format!(
                    "{name}: its file system has not answered within {} s",
                    HOME.as_secs()
                );
                Finding::fail("account", message, Refusal::Abandoned.hint())
            }
            Some((Err(refusal @ Refusal::NeedsRoot(_)), _)) => {
                let message = format!(
                    "{name}: its file was not looked at: {}",
                    refusal.explained()
                );
                Finding::warn("account", message, refusal.hint())
            }
            Some((Err(refusal), _)) => Finding::fail(
                "account",
                format!("{name}: {}", refusal.explained()),
                refusal.hint(),
            ),
            Some((Ok(_), Access::Refused { path, source })) => {
                let message = format!("{name}: cannot write in `{}`: {source}", path.display());
                Finding::fail(
                    "account",
                    message,
                    "is the file system mounted read-only, or the home not the account's?",
                )
            }
            Some((Ok(seen), _)) => {
                Finding::ok("account", format!("{name}: {}", outlook(target, &seen)))
            }
        });
    }
    all
}

fn outlook(target: &Target, seen: &Observed) -> String {
    let path = target.location.path.display();
    match &seen.found {
        Found::Nothing => format!("`{path}` can be made"),
        Found::File(_) => format!("`{path}` can be replaced"),
        Found::Other(kind) => format!("`{path}` is {kind}, and can be replaced"),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
