//! The law of a pass: from any world one pass converges, and a second one has nothing to do.
//!
//! Worlds are made at random: whom the list names, what each account has made of its home, whether its file was the
//! agent's before. A pass runs in this process, on real files, with real rights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use authorized_keys_agent::agent::errand::LookAgain;
use authorized_keys_agent::agent::pass::{Look, Looked, NoAuditor, Reconciler};
use authorized_keys_agent::agent::wakeups::{Trigger, Wake};
use authorized_keys_agent::host::keyfile::survey;
use authorized_keys_agent::model::account::{Account, AccountName};
use authorized_keys_agent::model::config::tables::{Config, Mode, Owner};
use authorized_keys_agent::model::desired::decide::{
    BreakGlassFact, Facts, ListFact, SignersFact, Terms,
};
use authorized_keys_agent::model::file::orders::Whom;
use authorized_keys_agent::model::file::other_files::holds_nothing;
use authorized_keys_agent::model::file::wanted::content;
use authorized_keys_agent::model::instance::Identity;
use authorized_keys_agent::model::key::grant::with_break_glass;
use authorized_keys_agent::model::key::lenient::FoundKeys;
use authorized_keys_agent::model::list::approved::{ApprovedList, Entry};
use authorized_keys_agent::model::people::{Lookup, People};
use authorized_keys_agent::model::sshd::effective::DEFAULT;
use authorized_keys_agent::model::status::problem::Cause;
use authorized_keys_agent::model::status::schema::AccountState;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::support::run;
use crate::support::world::{ALICE, BOB, MALLORY, World, numbered};

const PEOPLE: [(&str, u32); 3] = [("alice", ALICE), ("bob", BOB), ("mallory", MALLORY)];

/// Worlds that are tried.
const WORLDS: u32 = 200;

/// What the list says of an account.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Nothing,
    Keys(usize),
    Tombstone,
    /// No line of its value can be read.
    Garbage,
}

/// What stands at a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Thing {
    /// What was there before, if anything was.
    AsItWas,
    Missing,
    Empty,
    Garbage,
    Rogue,
    /// Far more bytes than a file of keys has.
    Huge,
    /// To a file of the account that holds a key.
    Link,
    DanglingLink,
    /// With something in it.
    Directory,
    Fifo,
}

/// What was done to what stands there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Twist {
    None,
    Mode(u32),
    OfRoot,
    HardLink,
    AccessList,
    Immutable,
    AppendOnly,
}

/// What one account's home is like.
#[derive(Clone, Debug)]
struct Start {
    says: Says,
    home: Option<u32>,
    ssh: Thing,
    ssh_twist: Twist,
    file: Thing,
    file_twist: Twist,
    second: Thing,
    second_twist: Twist,
}

/// A whole world.
#[derive(Clone, Debug)]
struct Worlds {
    /// Its files were brought in line before, by a list that gave each account another key.
    was_ours: bool,
    enforces: bool,
    owner_is_root: bool,
    accounts: Vec<Start>,
}

fn a_start() -> impl Strategy<Value = Start> {
    let says = prop_oneof![
        4 => (1..4_usize).prop_map(Says::Keys),
        1 => Just(Says::Tombstone),
        1 => Just(Says::Garbage),
        1 => Just(Says::Nothing),
    ];
    let home = prop_oneof![
        6 => Just(Some(0o755)),
        2 => select(vec![Some(0o700), Some(0o777), Some(0o500), Some(0o100), Some(0o000), Some(0o2770)]),
        1 => Just(None),
    ];
    let ssh = prop_oneof![
        6 => Just(Thing::AsItWas),
        2 => Just(Thing::Missing),
        1 => select(vec![Thing::Link, Thing::DanglingLink, Thing::Garbage, Thing::Fifo]),
    ];
    let thing = || {
        prop_oneof![
            2 => Just(Thing::AsItWas),
            5 => select(vec![
                Thing::Missing, Thing::Empty, Thing::Garbage, Thing::Rogue, Thing::Huge, Thing::Link,
                Thing::DanglingLink, Thing::Directory, Thing::Fifo,
            ]),
        ]
    };
    let twist = || {
        prop_oneof![
            4 => Just(Twist::None),
            3 => select(vec![
                Twist::Mode(0o644), Twist::Mode(0o666), Twist::Mode(0o000), Twist::Mode(0o4600), Twist::OfRoot,
                Twist::HardLink, Twist::AccessList, Twist::Immutable, Twist::AppendOnly,
            ]),
        ]
    };
    let ssh_twist = prop_oneof![
        5 => Just(Twist::None),
        3 => select(vec![
            Twist::Mode(0o777), Twist::Mode(0o750), Twist::Mode(0o300), Twist::Mode(0o000), Twist::OfRoot,
            Twist::AccessList, Twist::Immutable, Twist::AppendOnly,
        ]),
    ];
    (
        says,
        home,
        (ssh, ssh_twist),
        (thing(), twist()),
        (thing(), twist()),
    )
        .prop_map(
            |(says, home, (ssh, ssh_twist), (file, file_twist), (second, second_twist))| Start {
                says,
                home,
                ssh,
                ssh_twist,
                file,
                file_twist,
                second,
                second_twist,
            },
        )
}

fn a_world() -> impl Strategy<Value = Worlds> {
    let accounts = proptest::collection::vec(a_start(), PEOPLE.len());
    (
        any::<bool>(),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.2),
        accounts,
    )
        .prop_map(|(was_ours, enforces, owner_is_root, accounts)| Worlds {
            was_ours,
            enforces,
            owner_is_root,
            accounts,
        })
}

/// A world, and the agent in this process.
struct Host {
    world: World,
    reconciler: Reconciler,
    now: Timestamp,
    /// Then nothing but the lack of a home keeps the files from being mended.
    was_ours: bool,
}

/// Locked files cannot be removed.
impl Drop for Host {
    fn drop(&mut self) {
        unlock(&self.world.path("home"));
    }
}

impl Host {
    fn new(worlds: &Worlds) -> Self {
        let mut world = World::new();
        if !worlds.enforces {
            "mode = \"observe\"".clone_into(&mut world.top);
        }
        if worlds.owner_is_root {
            world.accounts.push_str("\nowner = \"root\"");
        }
        let config = Config::read(&fs::read_to_string(world.config()).unwrap()).unwrap();
        let mut reconciler = Reconciler::new(config, TimeZone::UTC, None, None).unwrap();
        reconciler.decision.in_force.sshd_reads = Some(DEFAULT.to_owned());
        let people = PEOPLE.map(|(name, uid)| {
            let account = Account {
                name: account(name),
                uid,
                gid: uid,
                home: world.home(name),
            };
            (account.name.clone(), Lookup::Found(account))
        });
        reconciler.world.people = Arc::new(People {
            accounts: people.into_iter().collect(),
            uid_min: 1000,
            ..People::default()
        });
        Self {
            world,
            reconciler,
            now: Timestamp::UNIX_EPOCH,
            was_ours: worlds.was_ours,
        }
    }

    /// Decides by this list, which a person has accepted.
    fn decide(&mut self, says: impl IntoIterator<Item = Says>) {
        self.decide_on(says, true);
    }

    /// The same of a list that nobody has accepted: what is in the files of those who join is looked at first.
    fn decide_on(&mut self, says: impl IntoIterator<Item = Says>, accepted: bool) {
        let value = |(number, says): (usize, Says)| match says {
            Says::Nothing => None,
            Says::Keys(keys) => {
                let lines = (0..keys).map(|key| numbered(10 * number + key, "approved"));
                Some(lines.collect::<Vec<_>>().join("\n"))
            }
            Says::Tombstone => Some("# left".to_owned()),
            Says::Garbage => Some("<html>".to_owned()),
        };
        let values = says.into_iter().enumerate().map(value);
        let entries = PEOPLE.iter().zip(values).filter_map(|((name, _), value)| {
            Some(Entry {
                account: account(name),
                parameter: format!("/k/{name}"),
                version: None,
                last_modified: None,
                value: value?,
            })
        });
        let list = ApprovedList::new("test".to_owned(), self.now, entries.collect(), Vec::new());
        let reconciler = &mut self.reconciler;
        let mut facts = Facts {
            now: self.now,
            identity: Identity::Unknown,
            accepted: accepted.then(|| list.digest()),
            list: ListFact::Read(Box::new(list)),
            signers: SignersFact::Unasked,
            break_glass: BreakGlassFact::Read(String::new()),
            people: Arc::clone(&reconciler.world.people),
            adopted: BTreeMap::new(),
            unlooked: BTreeMap::new(),
            silent_about: Vec::new(),
            look_again: None,
            openssh: None,
            fetched: None,
            stored_at: None,
            said: None,
        };
        if !accepted {
            let newcomers = reconciler.decision.newcomers(&facts, &reconciler.config);
            let patience = Some(std::time::Duration::from_mins(1));
            let looked = run(reconciler.look_first(&newcomers, patience, &|| (), self.now));
            (facts.adopted, facts.unlooked) = looked;
        }
        let terms = Terms {
            config: &reconciler.config,
            zone: &TimeZone::UTC,
        };
        reconciler.decision = std::mem::take(&mut reconciler.decision).decide(&mut facts, terms);
        let former = std::mem::take(&mut reconciler.decision.former);
        reconciler.memory.note_former(former);
    }

    /// Fingerprints of the keys by which sshd lets an account in.
    fn lets_in(&self, name: &str, uid: u32) -> BTreeSet<String> {
        let person = Account {
            name: account(name),
            uid,
            gid: uid,
            home: self.world.home(name),
        };
        let file = self.world.file(name);
        let files = [file.with_file_name("authorized_keys2"), file];
        let read = files
            .iter()
            .filter_map(|file| survey(&person, file).ok().flatten());
        read.flat_map(|content| FoundKeys::read(&content).keys)
            .map(|key| key.fingerprint)
            .collect()
    }

    /// One pass over all files.
    fn pass(&mut self, why: Trigger) -> Looked {
        let wake = Wake {
            why,
            whom: Whom::Everybody,
        };
        let look_again: LookAgain = Arc::new(|_| {});
        let look = Look {
            wake: &wake,
            watches: None,
            leases: None,
            look_again: &look_again,
            patience: Some(std::time::Duration::from_mins(1)),
            elsewhere: false,
            auditor: &NoAuditor,
            alive: &|| (),
            now: self.now,
            instant: Instant::now(),
        };
        run(self.reconciler.look(look))
    }

    /// Makes of an account's home what the account, or root, might have made of it.
    fn make(&self, name: &str, uid: u32, start: &Start) {
        let (home, ssh) = (self.world.home(name), self.world.ssh(name));
        let Some(mode) = start.home else {
            fs::remove_dir_all(home).unwrap();
            return;
        };
        if start.ssh == Thing::AsItWas {
            if !ssh.exists() {
                self.world.make_ssh(name, uid);
            }
            put(&self.world.file(name), uid, start.file, start.file_twist);
            let second = ssh.join("authorized_keys2");
            put(&second, uid, start.second, start.second_twist);
        }
        put(&ssh, uid, start.ssh, start.ssh_twist);
        fs::set_permissions(home, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What is wrong with an account's files after a pass; nothing, if it is refused for a reason.
    fn complaint(&self, name: &str, uid: u32, start: &Start) -> Option<String> {
        let rows = self.reconciler.rows();
        let in_force = &self.reconciler.decision.in_force;
        let Some(known) = in_force.accounts.get(&account(name)) else {
            let state = rows.get(&account(name)).map(|row| row.state);
            let is_left = matches!(state, None | Some(AccountState::NotListed));
            return (!is_left).then(|| format!("{name} was never listed, and is {state:?}"));
        };
        let Some(row) = rows.get(&account(name)) else {
            return Some(format!("nothing is said of {name}"));
        };
        if row.state == AccountState::Refused {
            let is_explained =
                matches!(&row.why, Some(Cause::FileRefused { reason, .. }) if !reason.is_empty());
            // By a home that its owner may not enter no key lets in, nor by a locked file in the place of a directory.
            let is_closed = start.home.is_none_or(|mode| mode & 0o100 == 0);
            let is_locked = matches!(start.ssh_twist, Twist::Immutable | Twist::AppendOnly);
            let is_closed = is_closed || start.ssh == Thing::Garbage && is_locked;
            let may_be = is_explained && (is_closed || !self.was_ours);
            return (!may_be).then(|| format!("{name} is refused: {:?}", row.why));
        }
        if row.state != AccountState::InSync {
            return Some(format!("{name} is {:?}", row.state));
        }
        let grants = with_break_glass(&known.grants, &in_force.break_glass, self.now);
        let file = self.world.file(name);
        let Ok(meta) = fs::symlink_metadata(&file) else {
            return Some(format!("{name} has no file"));
        };
        let owner = self.reconciler.config.accounts.owner;
        let expected = match owner {
            Owner::Account => (uid, 0o600),
            Owner::Root => (0, 0o640),
        };
        if !meta.is_file() || fs::read(&file).unwrap() != content(&grants) {
            return Some(format!("{name} does not have its keys: {start:?}"));
        }
        if (meta.uid(), meta.mode() & 0o7777, meta.nlink()) != (expected.0, expected.1, 1) {
            return Some(format!(
                "{name}'s file is of {}, {:o}, {} names",
                meta.uid(),
                meta.mode(),
                meta.nlink()
            ));
        }
        let second = self.world.ssh(name).join("authorized_keys2");
        let is_idle = match fs::symlink_metadata(&second) {
            Err(_) => true,
            Ok(meta) => !meta.is_file() || fs::read(&second).is_ok_and(|held| holds_nothing(&held)),
        };
        (!is_idle).then(|| format!("{name} has a second file"))
    }

    /// The homes in which something is tried again: a new file that could not take the name of the old one leaves the time of
    /// a directory, and nothing else.
    fn refused(&self) -> Vec<PathBuf> {
        if self.reconciler.config.mode == Mode::Observe {
            return Vec::new();
        }
        let rows = self.reconciler.rows().values();
        let refused = rows.filter(|row| row.state == AccountState::Refused);
        refused
            .map(|row| self.world.home(row.name.as_str()))
            .collect()
    }

    /// Every file and directory, and what the kernel would change if anything were done to it; of the directories below
    /// `tried`, which they are.
    fn snapshot(&self, tried: &[PathBuf]) -> Snapshot {
        let mut all = Snapshot::new();
        let mut open = vec![self.world.path("home")];
        if tried.is_empty() {
            // What could not be read at first may be kept there at the second try.
            open.push(self.world.path("state"));
        }
        while let Some(path) = open.pop() {
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                open.extend(entries.map(|entry| entry.unwrap().path()));
            }
            let is_tried = meta.is_dir() && tried.iter().any(|home| path.starts_with(home));
            let (seconds, nanoseconds) = if is_tried {
                (0, 0)
            } else {
                (meta.ctime(), meta.ctime_nsec())
            };
            all.insert(path, (meta.ino(), seconds, nanoseconds));
        }
        all
    }
}

/// Inode and change time by path.
type Snapshot = BTreeMap<PathBuf, (u64, i64, i64)>;

/// The paths at which something came, went or changed.
fn changed(before: &Snapshot, after: &Snapshot) -> Vec<PathBuf> {
    let paths = before.keys().chain(after.keys());
    let differ = paths.filter(|path| before.get(*path) != after.get(*path));
    differ.cloned().collect()
}

fn account(name: &str) -> AccountName {
    name.try_into().unwrap()
}

fn command(program: &str, arguments: &[&str], path: &Path) {
    let done = Command::new(program).args(arguments).arg(path).status();
    assert!(
        done.unwrap().success(),
        "{program} {arguments:?} {}",
        path.display()
    );
}

fn unlock(path: &Path) {
    // Fails on links and FIFOs, which cannot be locked either.
    let _ = Command::new("chattr")
        .args(["-R", "-f", "-i", "-a"])
        .arg(path)
        .status();
}

/// Puts something at a name, as its account, and then does something to it.
fn put(path: &Path, uid: u32, thing: Thing, twist: Twist) {
    let rogue = format!("{}\n", numbered(777, "rogue"));
    if thing != Thing::AsItWas {
        remove(path);
    }
    match thing {
        Thing::AsItWas | Thing::Missing => {}
        Thing::Empty => fs::write(path, "").unwrap(),
        Thing::Garbage => fs::write(path, "<html>\n").unwrap(),
        Thing::Rogue => fs::write(path, &rogue).unwrap(),
        Thing::Huge => {
            fs::write(path, &rogue).unwrap();
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(64 << 20)
                .unwrap();
        }
        Thing::Link => {
            let elsewhere = path.with_extension("elsewhere");
            if path.ends_with(".ssh") {
                fs::create_dir(&elsewhere).unwrap();
                fs::write(elsewhere.join("authorized_keys"), &rogue).unwrap();
            } else {
                fs::write(&elsewhere, &rogue).unwrap();
            }
            symlink(elsewhere, path).unwrap();
        }
        Thing::DanglingLink => symlink("/nonexistent/x", path).unwrap(),
        Thing::Directory => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("x"), &rogue).unwrap();
        }
        Thing::Fifo => command("mkfifo", &[], path),
    }
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if thing != Thing::AsItWas {
        lchown(path, Some(uid), Some(uid)).unwrap();
    }
    if meta.is_symlink() {
        return;
    }
    let can_be_locked = meta.is_file() || meta.is_dir();
    match twist {
        Twist::Mode(mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap(),
        Twist::OfRoot => chown(path, Some(0), Some(0)).unwrap(),
        Twist::HardLink if !meta.is_dir() => {
            fs::hard_link(path, path.with_extension("name")).unwrap();
        }
        Twist::AccessList => command("setfacl", &["-m", "u:61003:rwx"], path),
        Twist::Immutable if can_be_locked => command("chattr", &["+i"], path),
        Twist::AppendOnly if can_be_locked => command("chattr", &["+a"], path),
        // A directory has no second name, and a FIFO no flags.
        Twist::None | Twist::HardLink | Twist::Immutable | Twist::AppendOnly => {}
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            unlock(path);
            fs::remove_dir_all(path).unwrap();
        }
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn check(worlds: &Worlds) -> Result<(), TestCaseError> {
    let mut host = Host::new(worlds);
    if worlds.was_ours {
        host.decide([Says::Keys(5); PEOPLE.len()]);
        host.pass(Trigger::Startup);
    }
    host.decide(worlds.accounts.iter().map(|start| start.says));
    for ((name, uid), start) in PEOPLE.into_iter().zip(&worlds.accounts) {
        host.make(name, uid, start);
    }
    let before = host.snapshot(&[]);
    let first = host.pass(Trigger::Startup);
    if worlds.enforces {
        for ((name, uid), start) in PEOPLE.into_iter().zip(&worlds.accounts) {
            prop_assert_eq!(host.complaint(name, uid, start), None);
        }
    } else {
        let written = changed(&before, &host.snapshot(&[]));
        prop_assert!(written.is_empty(), "in observe mode: {written:?}");
    }
    let refused = host.refused();
    let before = host.snapshot(&refused);
    let second = host.pass(Trigger::Timer);
    let written = changed(&before, &host.snapshot(&refused));
    prop_assert!(written.is_empty(), "in a second pass: {written:?}");
    prop_assert!(
        second.events.is_empty(),
        "{:?} after {:?}",
        second.events,
        first.events
    );
    // What is known of a refused account's directories may be another thing once they are tidy.
    let is_refused = |name: &AccountName| refused.contains(&host.world.home(name.as_str()));
    let settled = second.rows.iter().all(is_refused) && !second.rows_are_others;
    prop_assert!(settled, "{:?}", second.rows);
    prop_assert!(!second.in_force_changed);
    Ok(())
}

fn check_first(worlds: &Worlds) -> Result<(), TestCaseError> {
    let mut host = Host::new(worlds);
    for ((name, uid), start) in PEOPLE.into_iter().zip(&worlds.accounts) {
        host.make(name, uid, start);
    }
    let before = PEOPLE.map(|(name, uid)| host.lets_in(name, uid));
    for why in [Trigger::Startup, Trigger::Timer] {
        host.decide_on(worlds.accounts.iter().map(|start| start.says), false);
        host.pass(why);
        for ((name, uid), before) in PEOPLE.into_iter().zip(&before) {
            let now = host.lets_in(name, uid);
            prop_assert!(now.is_superset(before), "{name}: {before:?}, {now:?}");
            prop_assert!(
                before.is_empty() || host.reconciler.decision.held.is_some() || now == *before
            );
        }
    }
    Ok(())
}

/// Whatever its files are like.
#[test]
fn no_first_list_takes_a_key_away_by_itself() {
    let config = ProptestConfig {
        cases: WORLDS / 2,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let worlds = a_world().prop_map(|worlds| Worlds {
        was_ours: false,
        enforces: true,
        ..worlds
    });
    if let Err(error) = runner.run(&worlds, |worlds| check_first(&worlds)) {
        panic!("{error}");
    }
}

#[test]
fn one_pass_converges_and_a_second_one_does_nothing() {
    let config = ProptestConfig {
        cases: WORLDS,
        failure_persistence: None,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    if let Err(error) = runner.run(&a_world(), |worlds| check(&worlds)) {
        panic!("{error}");
    }
}
