//! Who exists on this host, as local files and NSS say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, User, getgrouplist};

use crate::model::account::{Account, AccountName};
use crate::model::people::Lookup;
use crate::model::sorting::{self, Gather};

const DEFAULT_UID_MIN: u32 = 1000;

/// Files by which others exist than before.
pub const FILES: [&str; 3] = ["/etc/passwd", "/etc/nsswitch.conf", "/etc/login.defs"];

/// `/etc/passwd`, read once: with 10,000 accounts glibc's own look-up reads it 10,000 times.
pub struct Passwd {
    text: Vec<u8>,
    /// No service is asked for a name that it has.
    comes_first: bool,
}

impl Passwd {
    pub fn read() -> Self {
        Self {
            text: fs::read("/etc/passwd").unwrap_or_default(),
            comes_first: files_come_first(),
        }
    }

    pub fn comes_first(&self) -> bool {
        self.comes_first
    }

    /// Those of `names` that it has.
    pub fn find(&self, names: &[AccountName]) -> BTreeMap<AccountName, Account> {
        let local: HashMap<&[u8], Local<'_>> = self
            .named()
            .into_iter()
            .map(|account| (account.name, account))
            .collect();
        let find = |name: &AccountName| Some(local.get(name.as_str().as_bytes())?.account(name));
        let found = names
            .iter()
            .filter_map(|name| Some((name.clone(), find(name)?)));
        found.gather()
    }

    /// Homes that accounts with different uids share: those that are local, unless a service knows their names otherwise,
    /// and those of `people`.
    pub fn shared_homes(
        &self,
        people: &BTreeMap<AccountName, Lookup>,
    ) -> HashMap<PathBuf, (String, String)> {
        let mut first: HashMap<&Path, (&[u8], u32)> = HashMap::new();
        let mut shared = HashMap::new();
        let found = |name: &[u8]| match people.get(std::str::from_utf8(name).ok()?) {
            Some(Lookup::Found(account)) => Some(account),
            _ => None,
        };
        let local = self.named().into_iter();
        let local = local.filter(|local| found(local.name).is_none());
        let local = local.map(|local| (local.home(), local.name, local.uid));
        let people = people.values().filter_map(|lookup| match lookup {
            Lookup::Found(account) => Some(account),
            _ => None,
        });
        let people = people.map(|one| (one.home.as_path(), one.name.as_str().as_bytes(), one.uid));
        for (home, name, uid) in people.chain(local) {
            let (other, of) = *first.entry(home).or_insert((name, uid));
            if of != uid && !shared.contains_key(home) {
                let shown = |name| String::from_utf8_lossy(name).into_owned();
                let mut names = [shown(other), shown(name)];
                sorting::sort(&mut names);
                shared.insert(home.to_owned(), names.into());
            }
        }
        shared
    }

    /// Some name has this uid.
    pub fn has_uid(&self, uid: u32) -> bool {
        self.lines().any(|account| account.uid == uid)
    }

    /// One line a name, as the C library finds it: the first counts.
    fn named(&self) -> Vec<Local<'_>> {
        let mut seen = HashSet::new();
        let mut all: Vec<_> = self.lines().collect();
        all.retain(|account| seen.insert(account.name));
        all
    }

    fn lines(&self) -> impl Iterator<Item = Local<'_>> {
        self.text
            .split(|byte| *byte == b'\n')
            .filter_map(Local::read)
    }
}

/// Asks NSS for `names`, and for no more once it has taken so `long`. Blocks for as long as NSS does.
pub fn ask<'a>(
    names: impl IntoIterator<Item = &'a AccountName>,
    long: Duration,
) -> BTreeMap<AccountName, Lookup> {
    let begun = Instant::now();
    let mut answers = BTreeMap::new();
    for name in names {
        answers.insert(name.clone(), ask_nss(name));
        if begun.elapsed() >= long {
            break;
        }
    }
    answers
}

fn ask_nss(name: &AccountName) -> Lookup {
    match User::from_name(name.as_str()) {
        Ok(Some(user)) => Lookup::Found(Account {
            name: name.clone(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
        }),
        Ok(None) => Lookup::Unknown,
        Err(error) => Lookup::Failed(format!("cannot look up `{name}`: {}", error.desc())),
    }
}

/// Names of the groups an account is in; `None` when the database does not say. Blocks for as long as NSS does.
pub fn groups(account: &Account) -> Option<Vec<String>> {
    let name = CString::new(account.name.as_str()).ok()?;
    let ids = getgrouplist(&name, Gid::from_raw(account.gid)).ok()?;
    ids.into_iter()
        .map(|id| {
            Group::from_gid(id)
                .ok()
                .map(|group| group.map_or_else(|| id.to_string(), |g| g.name))
        })
        .collect()
}

/// True when only `account` is in the group `gid`, as far as the group itself and `/etc/passwd` say. Asks no service of a
/// group that is local, and blocks for as long as NSS does of another one.
pub fn is_private_group(account: &Account, gid: u32) -> bool {
    let Some(members) = members(gid) else {
        return false;
    };
    let passwd = Passwd::read();
    let theirs: Vec<u32> = passwd
        .lines()
        .filter(|one| one.gid == gid)
        .map(|one| one.uid)
        .collect();
    let own = |name: &Vec<u8>| name == account.name.as_str().as_bytes();
    let has_members = account.gid == gid || !members.is_empty();
    has_members && theirs.iter().all(|uid| *uid == account.uid) && members.iter().all(own)
}

/// The names in the list of a group (`group(5)`); `None` where there is no such group.
fn members(gid: u32) -> Option<Vec<Vec<u8>>> {
    let text = fs::read("/etc/group").unwrap_or_default();
    let local = text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(4, |byte| *byte == b':').skip(2);
        (number(fields.next()?)? == gid).then(|| fields.next().unwrap_or_default())
    });
    if let Some(list) = local {
        let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let names = names.filter(|name| !name.is_empty());
        return Some(names.map(<[u8]>::to_vec).collect());
    }
    let group = Group::from_gid(Gid::from_raw(gid)).ok()??;
    Some(group.mem.into_iter().map(String::into_bytes).collect())
}

/// The accounts of `/etc/passwd`. What a directory service has besides may be without end.
pub fn local() -> Vec<Account> {
    let passwd = Passwd::read();
    let account = |local: Local<'_>| {
        let name = std::str::from_utf8(local.name).ok()?.try_into().ok()?;
        Some(local.account(&name))
    };
    passwd.named().into_iter().filter_map(account).collect()
}

/// One line of passwd(5), whose names and homes may be any bytes.
struct Local<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl<'a> Local<'a> {
    /// As glibc reads it (`nss/nss_files/files-pwd.c`): blanks before it do not count, and its end may be missing.
    fn read(line: &'a [u8]) -> Option<Self> {
        let line = line.trim_ascii_start();
        let fields: Vec<&[u8]> = line.splitn(7, |byte| *byte == b':').collect();
        let (name, uid, gid, home) = match fields[..] {
            [name, _, uid, gid] | [name, _, uid, gid, _] => (name, uid, gid, &b""[..]),
            [name, _, uid, gid, _, home] | [name, _, uid, gid, _, home, _] => {
                (name, uid, gid, home)
            }
            _ => return None,
        };
        let is_other = matches!(name.first(), None | Some(b'#' | b'+' | b'-'));
        (!is_other).then_some(())?;
        Some(Self {
            name,
            uid: number(uid)?,
            gid: number(gid)?,
            home,
        })
    }

    fn home(&self) -> &'a Path {
        Path::new(OsStr::from_bytes(self.home))
    }

    fn account(&self, name: &AccountName) -> Account {
        Account {
            name: name.clone(),
            uid: self.uid,
            gid: self.gid,
            home: self.home().to_owned(),
        }
    }
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.trim_start().parse().ok()
}

/// nsswitch.conf(5); without the file glibc asks `files` first too.
fn files_come_first() -> bool {
    let text = text("/etc/nsswitch.conf");
    let services = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("passwd:"));
    services
        .is_none_or(|services| matches!(services.split_whitespace().next(), Some("files") | None))
}

/// Below this a uid belongs to the system (`login.defs(5)`).
pub fn uid_min() -> u32 {
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("UID_MIN"))
            .then(|| words.next()?.parse().ok())
            .flatten()
    };
    text("/etc/login.defs")
        .lines()
        .find_map(value)
        .unwrap_or(DEFAULT_UID_MIN)
}

/// A comment there may be in any encoding.
fn text(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
