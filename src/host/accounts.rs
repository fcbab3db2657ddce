//! Who exists on this host, as NSS says.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, User, getgrouplist};

use crate::model::account::{Account, AccountName};
use crate::model::people::{Lookup, People};

const DEFAULT_UID_MIN: u32 = 1000;

/// Looks up `names`. Blocks for as long as NSS does.
///
/// Where `nsswitch.conf` asks the files first, `/etc/passwd` is read once instead of once a name: with 10,000
/// accounts glibc's own look-up reads it 10,000 times.
pub fn look_up<'a>(names: impl IntoIterator<Item = &'a AccountName>) -> People {
    let text = if files_come_first() {
        fs::read_to_string("/etc/passwd").unwrap_or_default()
    } else {
        String::new()
    };
    let local: HashMap<&str, Local<'_>> = text
        .lines()
        .filter_map(Local::read)
        .map(|account| (account.name, account))
        .collect();
    let answer = |name: &AccountName| match local.get(name.as_str()) {
        Some(found) => Lookup::Found(Account {
            name: name.clone(),
            uid: found.uid,
            gid: found.gid,
            home: found.home.into(),
        }),
        None => ask_nss(name),
    };
    People {
        accounts: names
            .into_iter()
            .map(|name| (name.clone(), answer(name)))
            .collect(),
        shared_homes: shared_homes(&text),
        uid_min: uid_min(),
    }
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

/// True when only `account` is in the group `gid`, as far as the group itself and `/etc/passwd` say. Blocks for as
/// long as NSS does.
pub fn is_private_group(account: &Account, gid: u32) -> bool {
    let Ok(Some(group)) = Group::from_gid(Gid::from_raw(gid)) else {
        return false;
    };
    let theirs: Vec<u32> = local()
        .iter()
        .filter(|one| one.gid == gid)
        .map(|one| one.uid)
        .collect();
    let own = |name: &String| name == account.name.as_str();
    let has_members = account.gid == gid || !group.mem.is_empty();
    has_members && theirs.iter().all(|uid| *uid == account.uid) && group.mem.iter().all(own)
}

/// The accounts of `/etc/passwd`. What a directory service has besides may be without end.
pub fn local() -> Vec<Account> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = |Local {
                       name,
                       uid,
                       gid,
                       home,
                   }: Local<'_>| {
        Some(Account {
            name: name.try_into().ok()?,
            uid,
            gid,
            home: home.into(),
        })
    };
    text.lines()
        .filter_map(Local::read)
        .filter_map(account)
        .collect()
}

struct Local<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Local<'a> {
    /// One line of passwd(5).
    fn read(line: &'a str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [name, _, uid, gid, _, home, _]
                if !name.is_empty() && !name.starts_with(['#', '+', '-']) =>
            {
                Some(Self {
                    name,
                    uid: uid.parse().ok()?,
                    gid: gid.parse().ok()?,
                    home,
                })
            }
            _ => None,
        }
    }
}

fn shared_homes(passwd: &str) -> HashMap<PathBuf, (String, String)> {
    let mut first: HashMap<&str, Local<'_>> = HashMap::new();
    let mut shared = HashMap::new();
    for account in passwd.lines().filter_map(Local::read) {
        match first.get(account.home) {
            Some(other) if other.uid != account.uid => {
                let names = (other.name.to_owned(), account.name.to_owned());
                shared.entry(PathBuf::from(account.home)).or_insert(names);
            }
            Some(_) => {}
            None => {
                first.insert(account.home, account);
            }
        }
    }
    shared
}

/// nsswitch.conf(5); without the file glibc asks `files` first too.
fn files_come_first() -> bool {
    let Ok(text) = fs::read_to_string("/etc/nsswitch.conf") else {
        return true;
    };
    let services = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("passwd:"));
    services
        .is_none_or(|services| matches!(services.split_whitespace().next(), Some("files") | None))
}

fn uid_min() -> u32 {
    let text = fs::read_to_string("/etc/login.defs").unwrap_or_default();
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("UID_MIN"))
            .then(|| words.next()?.parse().ok())
            .flatten()
    };
    text.lines().find_map(value).unwrap_or(DEFAULT_UID_MIN)
}
