//! From the decision to the work: one order a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Accounts, Config, Mode, Owner};
use crate::model::desired::decide::{Decision, manages};
use crate::model::desired::in_force::{Account as InForceAccount, InForce};
use crate::model::file::other_files::OtherFiles;
use crate::model::file::wanted::{Lines, Target, Wanted, content};
use crate::model::key::grant::with_break_glass;
use crate::model::people::{Lookup, People};
use crate::model::sorting::Gather;
use crate::model::sshd::effective::DEFAULT;

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
    pub lock: Locking,
}

/// Whether the account can change anything in the directory of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// As ever.
    #[default]
    Open,
    /// It is locked, or will be.
    Locked,
    /// It was, and is opened again.
    Opens,
}

/// All files of one account: the managed one first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
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
    /// All of them stay as they are, and that is said elsewhere: what they hold only sshd may understand, and the list that
    /// would take it away is held.
    pub stays: bool,
    /// The keys that they hold are told.
    pub adopts: bool,
}

/// How to look at the files of an account that was never in force.
#[derive(Clone, Copy, Debug)]
pub struct FirstLook<'a> {
    pub account: &'a Account,
    /// `AuthorizedKeysFile` for it, where that is known.
    pub reads: Option<&'a str>,
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
    is_locked: impl Fn(&AccountName) -> bool,
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
                let known = basis.decision.in_force.accounts.get(name);
                let may_be_locked = known.is_some_and(|known| known.locked);
                orders.managed.lock = match (may_be_locked, is_locked(name)) {
                    (false, _) => Locking::Open,
                    (true, true) => Locking::Locked,
                    (true, false) => Locking::Opens,
                };
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
    let stays = known.is_some_and(InForceAccount::stays_as_it_is);
    let mode = if listed && basis.writes && !stays {
        config.mode
    } else {
        Mode::Observe
    };
    let synced = known.and_then(|known| known.synced.as_ref());
    let reads = reads(basis, &account.name);
    let others = OtherFiles::of(reads.unwrap_or_default(), account, &target.location.path);
    // What they hold is in force until a list has taken it away, or none has come for too long.
    let is_joining = !decision.revoked && known.is_some_and(|known| known.joining || known.unasked);
    let removes = listed
        && !is_joining
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
        lock: Locking::Open,
    };
    Ok(Orders {
        account: account.clone(),
        listed,
        others: others.in_home.into_iter().map(other).collect(),
        removes_others: removes,
        stays,
        adopts: false,
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
            lock: Locking::Open,
            target,
        },
    })
}

/// Orders that change nothing, for a look at all files that let a newcomer in.
pub fn first_look(basis: Basis<'_>, look: FirstLook<'_>) -> Result<Orders, Unworkable> {
    let mut orders = of_account(basis, look.account, false)?;
    let managed = &orders.managed;
    let others = OtherFiles::of(
        look.reads.unwrap_or_default(),
        look.account,
        &managed.target.location.path,
    );
    let other = |location| Order {
        target: Target {
            location,
            ..managed.target.clone()
        },
        wanted: Wanted::Nothing,
        ..managed.clone()
    };
    orders.others = others.in_home.into_iter().map(other).collect();
    orders.adopts = true;
    Ok(orders)
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
    for name in known.chain(config.accounts.named()).gather::<BTreeSet<_>>() {
        let account = people.account(name);
        if let Some(location) = account.and_then(|account| config.accounts.file.locate(account)) {
            *seen.entry(location.path).or_default() += 1;
        }
    }
    let shared = seen.into_iter().filter(|(_, accounts)| *accounts > 1);
    shared.map(|(path, _)| path).gather()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::tables::{OtherFiles as Treatment, Pattern};
    use crate::model::desired::in_force::Synced;
    use crate::model::file::wanted::HEADER;
    use crate::model::key::grant::Grant;
    use crate::model::location::FilePattern;

    const FILE: &str = "/home/alice/.ssh/authorized_keys";

    /// One host, of which orders are made.
    struct Host {
        config: Config,
        people: People,
        decision: Decision,
        sshd_is_mute: bool,
        writes: bool,
        now: Timestamp,
    }

    impl Host {
        /// alice and bob, both managed by name; alice has the keys 1 and 2, and no list has spoken of bob.
        fn new() -> Self {
            let mut host = Self {
                config: Config::read("[accounts]\nmanage = [\"alice\", \"bob\"]").unwrap(),
                people: People {
                    uid_min: 1000,
                    ..People::default()
                },
                decision: Decision::default(),
                sshd_is_mute: false,
                writes: true,
                now: at(0),
            };
            host.add("alice", 1001, "/home/alice");
            host.add("bob", 1002, "/home/bob");
            host.decision.in_force.list = Some("sha256:x".to_owned());
            host.listed("alice").grants = vec![grant(1, None), grant(2, None)];
            host
        }

        fn add(&mut self, account: &str, uid: u32, home: &str) {
            let account = Account {
                name: name(account),
                uid,
                gid: uid + 1000,
                home: home.into(),
            };
            let found = Lookup::Found(account.clone());
            self.people.accounts.insert(account.name, found);
        }

        /// What is in force for an account, which a list has spoken of by then.
        fn listed(&mut self, account: &str) -> &mut InForceAccount {
            let accounts = &mut self.decision.in_force.accounts;
            let account = accounts.entry(name(account)).or_default();
            account.managed = true;
            account
        }

        fn basis<'a>(&'a self, shared: &'a BTreeSet<PathBuf>) -> Basis<'a> {
            Basis {
                config: &self.config,
                decision: &self.decision,
                people: &self.people,
                sshd_is_mute: self.sshd_is_mute,
                shared,
                writes: self.writes,
                now: self.now,
            }
        }

        fn made(
            &self,
            account: &str,
            listed: bool,
        ) -> (Vec<Orders>, Vec<(AccountName, Unworkable)>) {
            let shared = shared_files(&self.config, &self.decision, &self.people);
            let names = [(&name(account), listed)];
            orders(self.basis(&shared), &names, |_| false, |_| false, false)
        }

        fn orders(&self, account: &str, listed: bool) -> Orders {
            let (mut all, unworkable) = self.made(account, listed);
            assert_eq!((all.len(), unworkable), (1, Vec::new()));
            all.remove(0)
        }

        /// The lines that alice's file should have, without the header.
        fn lines(&self) -> String {
            let content = lines(&self.orders("alice", true)).content;
            let text = String::from_utf8(content).unwrap();
            let lines = text.strip_prefix(HEADER).unwrap();
            lines.trim_end().replace('\n', " ")
        }
    }

    fn name(text: &str) -> AccountName {
        text.try_into().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn grant(number: u32, expires_at: Option<Timestamp>) -> Grant {
        Grant {
            expires_at,
            ..Grant::of_line(format!("key{number}"), format!("SHA256:{number}"))
        }
    }

    fn lines(orders: &Orders) -> Lines {
        match &orders.managed.wanted {
            Wanted::Lines(lines) => lines.clone(),
            Wanted::Nothing => panic!("{orders:?}"),
        }
    }

    #[test]
    fn a_file_holds_the_keys_that_are_good_now_and_the_break_glass_keys() {
        let mut host = Host::new();
        assert_eq!(host.lines(), "key1 key2");
        host.listed("alice").grants[0] = grant(1, Some(at(10)));
        assert_eq!(host.lines(), "key1 key2");
        host.now = at(10);
        assert_eq!(host.lines(), "key2");
        // A break-glass line wins over the list's line for the same key, while it is good.
        let own_line = Grant {
            line: "restrict key2".to_owned(),
            ..grant(2, Some(at(20)))
        };
        host.decision.in_force.break_glass = vec![grant(9, None), own_line];
        assert_eq!(host.lines(), "key9 restrict key2");
        host.now = at(20);
        assert_eq!(host.lines(), "key2 key9");
        host.decision.revoked = true;
        assert_eq!(host.lines(), "key9");
        host.decision.in_force.break_glass.clear();
        assert_eq!(host.lines(), "");
        host.decision.revoked = false;
        host.listed("alice").grants.clear();
        assert_eq!(
            host.lines(),
            "",
            "a tombstone, or an account that left the list"
        );
    }

    #[test]
    fn a_file_belongs_to_its_account_or_to_root() {
        for (owner, expected) in [
            (Owner::Account, (1001, 2001, 0o600)),
            (Owner::Root, (0, 2001, 0o640)),
        ] {
            let mut host = Host::new();
            host.config.accounts.owner = owner;
            let orders = host.orders("alice", true);
            let Lines { uid, gid, mode, .. } = lines(&orders);
            assert_eq!((uid, gid, mode), expected, "{owner:?}");
            assert_eq!(orders.managed.target.owner, owner);
        }
    }

    #[test]
    fn only_the_file_of_a_listed_account_is_written_and_only_where_files_may_be() {
        let check = |mode: Mode, writes: bool, listed: bool, expected: Mode| {
            let mut host = Host::new();
            (host.config.mode, host.writes) = (mode, writes);
            host.decision.in_force.sshd_reads = Some(DEFAULT.to_owned());
            let orders = host.orders("alice", listed);
            let modes = [&orders.managed, &orders.others[0]].map(|order| order.mode);
            assert_eq!(modes, [expected; 2], "{mode:?} {writes} {listed}");
        };
        check(Mode::Enforce, true, true, Mode::Enforce);
        check(Mode::Enforce, true, false, Mode::Observe);
        check(Mode::Enforce, false, true, Mode::Observe);
        check(Mode::Observe, true, true, Mode::Observe);
    }

    #[test]
    fn an_account_that_no_list_named_is_only_looked_at() {
        let mut host = Host::new();
        host.decision.in_force.break_glass = vec![grant(9, None)];
        host.decision.in_force.sshd_reads = Some(DEFAULT.to_owned());
        let orders = host.orders("bob", false);
        assert!(!orders.listed && !orders.removes_others && !orders.managed.ours);
        assert_eq!(lines(&orders).content, HEADER.as_bytes());
    }

    #[test]
    fn an_account_on_which_no_work_can_be_done_says_why() {
        let check = |change: fn(&mut Host), why: Option<Unworkable>| {
            let mut host = Host::new();
            change(&mut host);
            let (orders, unworkable) = host.made("alice", true);
            let reasons: Vec<_> = unworkable.into_iter().map(|(_, why)| why).collect();
            assert_eq!(reasons, why.iter().cloned().collect::<Vec<_>>());
            assert!(orders.is_empty(), "{orders:?}");
            // No list has spoken of it: its file is not ours to speak of.
            assert_eq!(host.made("alice", false), (Vec::new(), Vec::new()));
        };
        let text = str::to_owned;
        check(
            |host| {
                let failed = Lookup::Failed("no answer".to_owned());
                host.people.accounts.insert(name("alice"), failed);
            },
            Some(Unworkable::LookupFailed(text("no answer"))),
        );
        check(
            |host| {
                host.people.accounts.insert(name("alice"), Lookup::Unknown);
            },
            None,
        );
        check(
            |host| {
                host.people.accounts.remove(&name("alice"));
            },
            None,
        );
        check(
            |host| host.add("alice", 1001, "/"),
            Some(Unworkable::BadHome(text("/"))),
        );
        check(
            |host| host.add("alice", 1001, "home\n"),
            Some(Unworkable::BadHome(text("home\\n"))),
        );
        check(
            |host| host.add("alice", 1001, "/home/../root"),
            Some(Unworkable::BadHome(text("/home/../root"))),
        );
        check(
            |host| {
                let two = ("alice".to_owned(), "eve".to_owned());
                host.people.shared_homes.insert("/home/alice".into(), two);
            },
            Some(Unworkable::SharedHome(
                text("/home/alice"),
                text("alice"),
                text("eve"),
            )),
        );
        check(
            |host| host.add("bob", 1001, "/home/alice"),
            Some(Unworkable::SharedFile(text(FILE))),
        );
    }

    #[test]
    fn a_home_is_shared_only_where_the_file_is_in_it() {
        let mut host = Host::new();
        host.config.accounts.file = pattern("/etc/keys/%u");
        let two = ("alice".to_owned(), "bob".to_owned());
        host.people.shared_homes.insert("/home/alice".into(), two);
        host.add("bob", 1002, "/home/alice");
        let orders = host.orders("alice", true);
        let location = &orders.managed.target.location;
        assert_eq!(
            (location.in_home, location.path.to_str()),
            (false, Some("/etc/keys/alice"))
        );
        // Two names of one uid.
        host.config.accounts.file = pattern("/etc/keys/%U");
        host.add("bob", 1001, "/home/bob");
        let (orders, unworkable) = host.made("alice", true);
        assert_eq!((orders.len(), unworkable.len()), (0, 1));
        assert_eq!(
            unworkable[0].1.in_words(),
            "`/etc/keys/1001` is the file of several accounts"
        );
    }

    fn pattern(text: &str) -> FilePattern {
        let accounts = format!("[accounts]\nmanage = [\"x\"]\nfile = \"{text}\"");
        Config::read(&accounts).unwrap().accounts.file
    }

    #[test]
    fn other_files_are_known_once_sshd_has_said_what_it_reads() {
        type Expected<'a> = (&'a [&'a str], &'a [&'a str], bool, bool);
        let check = |reads: Option<&str>, mute: bool, expected: Expected<'_>| {
            let mut host = Host::new();
            host.decision.in_force.sshd_reads = reads.map(str::to_owned);
            host.sshd_is_mute = mute;
            let orders = host.orders("alice", true);
            let path = |path: &PathBuf| path.display().to_string();
            let others = orders.others.iter();
            let in_home: Vec<_> = others
                .map(|order| path(&order.target.location.path))
                .collect();
            let elsewhere: Vec<_> = orders.elsewhere.iter().map(path).collect();
            let got = (orders.others_are_known, orders.removes_others);
            assert_eq!(
                (in_home, elsewhere),
                (owned(expected.0), owned(expected.1)),
                "{reads:?}"
            );
            assert_eq!(got, (expected.2, expected.3), "{reads:?}");
            assert!(
                orders
                    .others
                    .iter()
                    .all(|order| order.wanted == Wanted::Nothing)
            );
        };
        let second: &[&str] = &["/home/alice/.ssh/authorized_keys2"];
        check(None, false, (&[], &[], false, false));
        check(None, true, (second, &[], true, true));
        check(Some(DEFAULT), false, (second, &[], true, true));
        check(Some(".ssh/authorized_keys"), false, (&[], &[], true, true));
        check(
            Some(".ssh/authorized_keys /etc/keys/%u"),
            true,
            (&[], &["/etc/keys/alice"], true, true),
        );
        // sshd does not read the managed file: the account gets in by these.
        check(
            Some(".ssh/authorized_keys2"),
            false,
            (&[], second, true, true),
        );
        // Its paths cannot be told apart.
        check(Some(""), false, (&[], &[], false, true));
    }

    fn owned(all: &[&str]) -> Vec<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn other_files_are_drift_only_where_the_config_and_a_list_say_so() {
        let check = |change: fn(&mut Host), removes: bool| {
            let mut host = Host::new();
            host.decision.in_force.sshd_reads = Some(DEFAULT.to_owned());
            change(&mut host);
            assert_eq!(host.orders("alice", true).removes_others, removes);
        };
        check(|_| {}, true);
        check(
            |host| host.config.accounts.other_files = Treatment::Report,
            false,
        );
        // A clone that only puts the break-glass keys in place.
        check(|host| host.decision.in_force.list = None, false);
    }

    #[test]
    fn sshd_may_read_other_files_for_one_account() {
        let mut host = Host::new();
        host.decision.in_force.sshd_reads = Some(".ssh/authorized_keys".to_owned());
        host.listed("alice").sshd_reads = Some(".ssh/authorized_keys own".to_owned());
        host.listed("bob");
        let orders = host.orders("alice", true);
        assert_eq!(
            orders.others[0].target.location.path,
            PathBuf::from("/home/alice/own")
        );
        assert!(host.orders("bob", true).others.is_empty());
    }

    #[test]
    fn a_file_is_ours_once_it_was_in_sync_there() {
        let check = |synced: Option<&str>, alone: bool, expected: [bool; 2]| {
            let mut host = Host::new();
            host.decision.in_force.sshd_reads = Some(DEFAULT.to_owned());
            host.listed("alice").alone = alone;
            host.listed("alice").synced = synced.map(|file| Synced {
                file: file.into(),
                digest: String::new(),
            });
            let orders = host.orders("alice", true);
            let ours = [&orders.managed, &orders.others[0]].map(|order| order.ours);
            assert_eq!(ours, expected, "{synced:?} {alone}");
        };
        check(None, false, [false, false]);
        check(Some(FILE), false, [true, false]);
        check(Some("/etc/keys/alice"), true, [false, true]);
        check(Some(FILE), true, [true, true]);
    }

    #[test]
    fn what_did_not_end_well_is_done_again() {
        let host = Host::new();
        let shared = BTreeSet::new();
        let names = [(&name("alice"), true), (&name("bob"), true)];
        let unsettled = |one: &AccountName| one.as_str() == "bob";
        let (orders, _) = orders(host.basis(&shared), &names, unsettled, |_| false, true);
        let told: Vec<_> = orders
            .iter()
            .map(|o| (o.managed.unsettled, o.managed.sweep))
            .collect();
        assert_eq!(told, [(false, true), (true, true)]);
    }

    #[test]
    fn whose_files_are_looked_at() {
        let check = |change: fn(&mut Host), whom: &[&str], expected: &str| {
            let mut host = Host::new();
            host.config
                .accounts
                .manage
                .push(Pattern::Glob(glob::Pattern::new("dev-*").unwrap()));
            change(&mut host);
            let shared = BTreeSet::new();
            let whom = if whom.is_empty() {
                Whom::Everybody
            } else {
                Whom::These(whom.iter().map(|one| name(one)).collect())
            };
            let all = names(host.basis(&shared), &whom);
            let told = |(name, listed): &(&AccountName, bool)| {
                format!("{name}{}", if *listed { "" } else { "?" })
            };
            let told: Vec<_> = all.iter().map(told).collect();
            assert_eq!(told.join(" "), expected, "{whom:?}");
        };
        check(|_| {}, &[], "alice bob?");
        check(|_| {}, &["bob"], "bob?");
        check(|_| {}, &["alice", "eve"], "alice");
        // Before a list there is nothing to say of an account that only the config names.
        let no_list = |host: &mut Host| host.decision.in_force.list = None;
        check(no_list, &[], "alice");
        check(no_list, &["bob"], "");
        // Remembered, and left alone.
        let let_go = |host: &mut Host| host.listed("alice").managed = false;
        check(let_go, &[], "bob?");
        check(let_go, &["alice"], "");
        // Managed once, and no longer by this config.
        let others = |host: &mut Host| {
            host.listed("eve");
        };
        check(others, &[], "alice bob?");
        check(others, &["eve"], "");
        // A glob takes what is in force already, even while the account database says nothing.
        let dev = |host: &mut Host| {
            host.listed("dev-one");
        };
        check(dev, &[], "alice dev-one bob?");
        check(dev, &["dev-one"], "dev-one");
        check(|_| {}, &["dev-two"], "");
        // A system account is not what a glob means.
        let system = |host: &mut Host| {
            host.add("dev-one", 200, "/home/dev");
            host.listed("dev-one");
        };
        check(system, &[], "alice bob?");
    }
}
