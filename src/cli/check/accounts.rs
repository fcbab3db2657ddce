//! Who is managed here, and whether their files can be.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::inquiry::ask_within;
use crate::agent::pass::{Looked, Reconciler};
use crate::agent::paths;
use crate::host::Sandbox;
use crate::host::process;
use crate::host::store::{self, Access};
use crate::model::account::AccountName;
use crate::model::desired::decide::Trouble;
use crate::model::file::difference::Difference;
use crate::model::people::Lookup;
use crate::model::status::preflight::{Finding, Here};
use crate::model::status::problem::{Cause, Problem};
use crate::model::status::schema::{AccountState, Row};
use crate::model::status::told;

/// How long the file system of one account may take to say whether it is written to.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an account of the list is on this host.
pub(super) fn here(reconciler: &Reconciler, name: &AccountName) -> Here {
    match reconciler.world.people.account(name) {
        None => Here::Unknown,
        Some(account) if reconciler.claims(name, account.uid) => Here::Managed,
        Some(_) => Here::Unmanaged,
    }
}

/// Each managed account: who is not here, whose file cannot be managed, and whose can.
pub(super) async fn look(reconciler: &Reconciler, looked: &Looked, findings: &mut Vec<Finding>) {
    let troubles = &reconciler.decision.troubles;
    let is_silent = |trouble: &&Trouble| matches!(trouble, Trouble::PeopleSilent { .. });
    let silent = troubles.iter().filter(is_silent).cloned();
    for told in told::told(silent.map(Problem::from)) {
        let hint = told.hint().unwrap_or_default();
        findings.push(Finding::fail("account", told.text(), hint));
    }
    let lock = paths::enforce_lock(&reconciler.config.paths);
    let pid = process::holder(&lock).and_then(|holder| holder.pid);
    let sandbox = ask_within(PATIENCE, move || Sandbox::look(pid)).await;
    let sandbox = Arc::new(sandbox.unwrap_or(Sandbox::None));
    for row in reconciler.rows().values() {
        let name = &row.name;
        if matches!(
            reconciler.world.people.lookup(name),
            Some(Lookup::Failed(_))
        ) {
            // That is said already.
            continue;
        }
        match (row.state, &row.why) {
            (AccountState::NoAccount, _) => {
                if reconciler
                    .config
                    .accounts
                    .named()
                    .any(|named| named == name)
                {
                    let message = format!("{name}: no such account on this host");
                    let hint = "make the account, or take its name out of `[accounts] manage`";
                    findings.push(Finding::warn("account", message, hint));
                }
            }
            (AccountState::Unmanaged, _) => {}
            (AccountState::Refused, Some(why)) => findings.push(refused(row, why)),
            _ => {
                let differences = looked.differences.get(name);
                let differences = differences.map(Vec::as_slice).unwrap_or_default();
                findings.push(outlook(reconciler, row, differences, &sandbox).await);
            }
        }
    }
}

fn refused(row: &Row, why: &Cause) -> Finding {
    let (name, reason) = (&row.name, why.reason());
    let hint = why.hint().unwrap_or_default();
    if !row.verified && !process::is_root() {
        let message = format!("{name}: its file was not looked at: {reason}");
        return Finding::warn("account", message, hint);
    }
    Finding::fail("account", format!("{name}: {reason}"), hint)
}

/// Nothing is wrong with what is there; its file system may still take no writes.
async fn outlook(
    reconciler: &Reconciler,
    row: &Row,
    differences: &[Difference],
    sandbox: &Arc<Sandbox>,
) -> Finding {
    let name = &row.name;
    let path = row.file.as_deref().unwrap_or_default();
    let account = reconciler.world.people.account(name);
    let location = account.and_then(|account| reconciler.config.accounts.file.locate(account));
    if let (Some(account), Some(location)) = (account, location) {
        let directory = if location.in_home {
            account.home.clone()
        } else {
            location.path.parent().unwrap_or(&location.path).to_owned()
        };
        let (own, of_service) = (directory.clone(), Arc::clone(sandbox));
        let asked = ask_within(PATIENCE, move || {
            let may = |directory: &Path| match store::access(directory) {
                Access::Refused { path, source } => Some((path, source)),
                Access::Writable | Access::Makeable => None,
            };
            (
                may(&own),
                may(&of_service.sees(&own)),
                of_service.allows(&own),
            )
        });
        if let Some((refused, by_service, is_allowed)) = asked.await {
            if let Some((path, source)) = refused {
                let message = format!("{name}: cannot write in `{}`: {source}", path.display());
                let hint = "is the file system mounted read-only, or the home not the account's?";
                return Finding::fail("account", message, hint);
            }
            if process::is_root() && (by_service.is_some() || !is_allowed) {
                let place = directory.display();
                let message = format!("{name}: the service cannot write in `{place}`");
                let hint = format!(
                    "make that directory; `systemctl edit authorized-keys-agent`: `ReadWritePaths={place}` under `[Service]`; then `systemctl restart authorized-keys-agent`"
                );
                return Finding::fail("account", message, hint);
            }
        }
    }
    let outlook = differences.iter().find_map(|difference| match difference {
        Difference::Missing => Some(format!("`{path}` can be made")),
        Difference::Kind(kind) => Some(format!("`{path}` is {kind}, and can be replaced")),
        _ => None,
    });
    let outlook = outlook.unwrap_or_else(|| format!("`{path}` can be replaced"));
    Finding::ok("account", format!("{name}: {outlook}"))
}
