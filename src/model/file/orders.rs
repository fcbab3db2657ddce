//! From the decision to the work: one order a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Accounts, Config, Mode, Owner};
use crate::model::desired::decide::{Decision, manages};
use crate::model::desired::in_force::InForce;
use crate::model::file::other_files::{DEFAULT, OtherFiles};
use crate::model::file::wanted::{Lines, Target, Wanted, content};
use crate::model::key::grant::with_break_glass;
use crate::model::people::{Lookup, People};

/// Whose files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    Everybody,
    These(BTreeSet<AccountName>),
}

/// The work on one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub target: Target,
    pub wanted: Wanted,
    /// Write, or only look.
    pub mode: Mode,
    /// It was as it should be before, so what differs now was changed by an account or a program, not by the list.
    pub ours: bool,
    /// The last replacement did not end well.
    pub unsettled: bool,
    /// Look for what a killed replacement left.
    pub sweep: bool,
}

/// All files of one account: the managed one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    pub account: Account,
    /// The list has spoken of the account. One that only `manage` names keeps its keys.
    pub listed: bool,
    pub managed: Order,
    /// Other files in the home that sshd reads.
    pub others: Vec<Order>,
    /// Files that sshd reads elsewhere: looked at when a person asks, and never touched.
    pub elsewhere: Vec<PathBuf>,
    /// Every other file that sshd reads is known.
    pub others_are_known: bool,
    /// Other files in the home are drift. Otherwise they stay and are reported.
    pub removes_others: bool,
}

/// Why there is no work on an account whose file should be managed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unworkable {
    /// The account database failed for this name.
    LookupFailed(String),
    /// Relative, `/`, or with `..`.
    BadHome(String),
    SharedHome(String, String, String),
    SharedFile(String),
}

/// What the orders are made from.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    pub config: &'a Config,
    pub decision: &'a Decision,
    pub people: &'a People,
    /// sshd is installed and did not say what it reads, so its default counts.
    pub sshd_is_mute: bool,
    /// Files that several accounts would have, by [`shared_files`].
    pub shared: &'a BTreeSet<PathBuf>,
    /// Files may be written, if the config says so too.
    pub writes: bool,
    pub now: Timestamp,
}

impl Unworkable {
    pub fn in_words(&self) -> String {
        match self {
            Self::LookupFailed(error) => error.clone(),
            Self::BadHome(home) => format!("its home `{home}` is not one to work in"),
            Self::SharedHome(home, one, other) => {
                format!("its home `{home}` is shared by `{one}` and `{other}`")
            }
            Self::SharedFile(path) => format!("`{path}` is the file of several accounts"),
        }
    }
}

impl Unworkable {
    /// What a person can do about it.
    pub fn hint(&self, name: &AccountName) -> String {
        match self {
            Self::LookupFailed(_) => {
                format!("`getent passwd {name}` asks the same; look at nsswitch.conf(5)")
            }
            Self::BadHome(_) | Self::SharedHome(..) => {
                "give the account a home of its own (usermod -d), or set `[accounts] file` outside of homes".to_owned()
            }
            Self::SharedFile(_) => {
                "give each account a uid and a home of its own, or name the file by %u".to_owned()
            }
        }
    }
}

impl Whom {
    pub fn includes(&self, name: &AccountName) -> bool {
        match self {
            Self::Everybody => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// The orders for these accounts, each with whether the list has spoken of it; and why some have none.
pub fn orders(
    basis: Basis<'_>,
    names: &[(&AccountName, bool)],
    unsettled: impl Fn(&AccountName) -> bool,
    sweep: bool,
) -> (Vec<Orders>, Vec<(AccountName, Unworkable)>) {
    let (mut all, mut unworkable) = (Vec::new(), Vec::new());
    for &(name, listed) in names {
        let made = match basis.people.lookup(name) {
            Some(Lookup::Found(account)) => of_account(basis, account, listed),
            Some(Lookup::Failed(error)) => Err(Unworkable::LookupFailed(error.clone())),
            Some(Lookup::Unknown) | None => continue,
        };
        match made {
            Ok(mut orders) => {
                orders.managed.unsettled = unsettled(name);
                orders.managed.sweep = sweep;
                all.push(orders);
            }
            Err(why) if listed => unworkable.push((name.clone(), why)),
            Err(_) => {}
        }
    }
    (all, unworkable)
}

/// The managed accounts that are in force and, once there is a list, those that `manage` names and no list ever did; each
/// with whether the list has spoken of it.
pub fn names<'a>(basis: Basis<'a>, whom: &Whom) -> Vec<(&'a AccountName, bool)> {
    let in_force = &basis.decision.in_force;
    let is_managed = |name: &AccountName| manages(basis.config, basis.people, in_force, name);
    match whom {
        Whom::Everybody => {
            let listed = in_force.managed().map(|(name, _)| (name, true));
            let named = basis.config.accounts.named();
            let silent = named.filter(|name| is_silent(in_force, name));
            let all = listed.chain(silent.map(|name| (name, false)));
            all.filter(|(name, _)| is_managed(name)).collect()
        }
        // A repair costs the same on a host with ten thousand accounts.
        Whom::These(names) => names
            .iter()
            .filter_map(|name| {
                if let Some((known, account)) = in_force.accounts.get_key_value(name) {
                    return account.managed.then_some((known, true));
                }
                let known = basis.config.accounts.named().find(|named| *named == name)?;
                is_silent(in_force, known).then_some((known, false))
            })
            .filter(|(name, _)| is_managed(name))
            .collect(),
    }
}

fn is_silent(in_force: &InForce, name: &AccountName) -> bool {
    in_force.list.is_some() && !in_force.accounts.contains_key(name)
}

fn of_account(basis: Basis<'_>, account: &Account, listed: bool) -> Result<Orders, Unworkable> {
    let Basis {
        config, decision, ..
    } = basis;
    let target = target(&config.accounts, basis.people, account)?;
    if basis.shared.contains(&target.location.path) {
        let path = target.location.path.display().to_string();
        return Err(Unworkable::SharedFile(path));
    }
    let known = decision.in_force.accounts.get(&account.name);
    let break_glass = if listed {
        decision.in_force.break_glass.as_slice()
    } else {
        &[]
    };
    let grants = decision.grants_of(&account.name);
    let (uid, bits) = match target.owner {
        Owner::Account => (account.uid, 0o600),
        Owner::Root => (0, 0o640),
    };
    // The keys of an account that no list named are reported, never taken.
    let mode = if listed && basis.writes {
        config.mode
    } else {
        Mode::Observe
    };
    let synced = known.and_then(|known| known.synced.as_ref());
    let reads = reads(basis, &account.name);
    let others = OtherFiles::of(reads.unwrap_or_default(), account, &target.location.path);
    let removes = listed
        && decision.in_force.list.is_some()
        && reads.is_some()
        && config.accounts.removes_other_files();
    let other = |location| Order {
        target: Target {
            location,
            ..target.clone()
        },
        wanted: Wanted::Nothing,
        mode,
        ours: known.is_some_and(|known| known.alone),
        unsettled: false,
        sweep: false,
    };
    Ok(Orders {
        account: account.clone(),
        listed,
        others: others.in_home.into_iter().map(other).collect(),
        removes_others: removes,
        elsewhere: others.elsewhere,
        others_are_known: reads.is_some_and(|reads| !reads.is_empty()),
        managed: Order {
            wanted: Wanted::Lines(Lines {
                content: content(&with_break_glass(grants, break_glass, basis.now)),
                uid,
                gid: account.gid,
                mode: bits,
            }),
            mode,
            ours: synced.is_some_and(|synced| synced.file == target.location.path),
            unsettled: false,
            sweep: false,
            target,
        },
    })
}

/// `AuthorizedKeysFile` for an account, as far as it is known.
fn reads<'a>(basis: Basis<'a>, name: &AccountName) -> Option<&'a str> {
    let said = basis.decision.in_force.sshd_reads(name);
    // Soon it will run, and read what it reads unless told otherwise.
    said.or(if basis.sshd_is_mute {
        Some(DEFAULT)
    } else {
        None
    })
}

/// The file of an account, or why there is none to work on.
pub fn target(
    accounts: &Accounts,
    people: &People,
    account: &Account,
) -> Result<Target, Unworkable> {
    let home = account.home.display().to_string();
    let Some(location) = accounts.file.locate(account) else {
        return Err(Unworkable::BadHome(home.escape_debug().to_string()));
    };
    if location.in_home
        && let Some((one, other)) = people.shared_homes.get(&account.home)
    {
        return Err(Unworkable::SharedHome(home, one.clone(), other.clone()));
    }
    Ok(Target {
        account: account.clone(),
        location,
        owner: accounts.owner,
    })
}

/// Files that more than one managed account would have.
pub fn shared_files(config: &Config, decision: &Decision, people: &People) -> BTreeSet<PathBuf> {
    let mut seen: BTreeMap<PathBuf, u32> = BTreeMap::new();
    let known = decision.in_force.managed().map(|(name, _)| name);
    for name in known
        .chain(config.accounts.named())
        .collect::<BTreeSet<_>>()
    {
        let account = people.account(name);
        if let Some(location) = account.and_then(|account| config.accounts.file.locate(account)) {
            *seen.entry(location.path).or_default() += 1;
        }
    }
    let shared = seen.into_iter().filter(|(_, accounts)| *accounts > 1);
    shared.map(|(path, _)| path).collect()
}
