//! Where the file of an account is: sshd's tokens filled in, and the way from its home or from `/`.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use crate::model::account::Account;

/// `[accounts] file` with its tokens `%h %u %U %%` (`sshd_config(5)`, TOKENS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePattern(String);

/// Where an account's file is: below a directory the account controls, or below `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// True when the walk starts at the account's home, false when it starts at `/`.
    pub in_home: bool,
    /// The directories below the start, in order.
    pub directories: Vec<String>,
    /// The file's name.
    pub file: String,
    /// The whole path, for people and logs.
    pub path: PathBuf,
}

impl Default for FilePattern {
    fn default() -> Self {
        Self("%h/.ssh/authorized_keys".to_owned())
    }
}

impl FilePattern {
    /// Where this account's file is; `None` when the home is no absolute path below `/`.
    pub fn locate(&self, account: &Account) -> Option<Location> {
        let home = account.home.to_str()?;
        let path = expand(&self.0, account)?;
        let below_home = if is_home(&account.home) {
            path.strip_prefix(home).ok()
        } else {
            None
        };
        let uses_home = self.0.starts_with("%h") || !self.0.starts_with('/');
        if uses_home && below_home.is_none() {
            return None;
        }
        let walked = below_home.or_else(|| path.strip_prefix("/").ok())?;
        let (directories, file) = names(walked)?;
        Some(Location {
            in_home: below_home.is_some(),
            directories,
            file,
            path,
        })
    }
}

impl Location {
    /// Where `path` is, if it is below the home of `account`.
    pub fn in_home(path: &Path, account: &Account) -> Option<Self> {
        if !is_home(&account.home) {
            return None;
        }
        let below = path.strip_prefix(&account.home).ok()?;
        let (directories, file) = names(below)?;
        Some(Self {
            in_home: true,
            directories,
            file,
            path: path.to_owned(),
        })
    }
}

/// The directories of a relative path and its last name; `None` where it leads upwards or is not UTF-8.
fn names(path: &Path) -> Option<(Vec<String>, String)> {
    let plain = |part| match part {
        Component::Normal(name) => name.to_str().map(str::to_owned),
        _ => None,
    };
    let mut names: Vec<String> = path.components().map(plain).collect::<Option<_>>()?;
    let file = names.pop()?;
    Some((names, file))
}

/// The path that sshd makes of one entry of `AuthorizedKeysFile` (`auth.c: expand_authorized_keys`): tokens are filled
/// in, and what is not absolute then is below the home. `None` when the home is not UTF-8.
pub fn expand(entry: &str, account: &Account) -> Option<PathBuf> {
    let home = account.home.to_str()?;
    let mut path = String::new();
    let mut chars = entry.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('h')) => path.push_str(home),
            ('%', Some('u')) => path.push_str(account.name.as_str()),
            ('%', Some('U')) => path.push_str(&account.uid.to_string()),
            ('%', _) => path.push('%'),
            (c, _) => path.push(c),
        }
    }
    Some(if path.starts_with('/') {
        PathBuf::from(path)
    } else {
        account.home.join(path)
    })
}

/// A home that work can be done in: absolute, not `/`, no `..` (FACTS of NSS: it may be empty or `/`).
fn is_home(home: &Path) -> bool {
    let mut parts = home.components();
    parts.next() == Some(Component::RootDir)
        && home.components().count() > 1
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl<'de> Deserialize<'de> for FilePattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, if c == '%' { chars.next() } else { None }) {
                ('%', Some(token @ ('h' | 'u' | 'U' | '%'))) => tokens.push(token),
                ('%', _) => {
                    return Err(de::Error::custom(
                        "only %h, %u, %U and %% stand for something",
                    ));
                }
                _ => {}
            }
        }
        let own = text.starts_with("%h/") || tokens.iter().any(|t| matches!(t, 'u' | 'U'));
        let plain = |part| matches!(part, Component::Normal(_) | Component::RootDir);
        if text.ends_with('/') || text.is_empty() || !Path::new(&text).components().all(plain) {
            return Err(de::Error::custom(
                "not a path of one file, without `.` and `..`",
            ));
        }
        if text.starts_with('/') && !own {
            return Err(de::Error::custom(
                "one file for all accounts: use %u, %U or %h",
            ));
        }
        if text.get(1..).is_some_and(|rest| rest.contains("%h")) {
            return Err(de::Error::custom("%h is only understood at the start"));
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locates_the_file_of_an_account() {
        let account = |home: &str| Account {
            name: "bob".try_into().unwrap(),
            uid: 1001,
            gid: 1001,
            home: home.into(),
        };
        let check = |pattern: &str, home: &str, expected: Option<(bool, &str, &str)>| {
            let found = FilePattern(pattern.to_owned()).locate(&account(home));
            let found = found.map(|l| (l.in_home, l.directories.join("/"), l.path));
            let expected = expected.map(|(h, d, p)| (h, d.to_owned(), PathBuf::from(p)));
            assert_eq!(found, expected, "{pattern} {home}");
        };
        let file = "/home/bob/.ssh/authorized_keys";
        check(
            "%h/.ssh/authorized_keys",
            "/home/bob",
            Some((true, ".ssh", file)),
        );
        check(
            ".ssh/authorized_keys",
            "/home/bob",
            Some((true, ".ssh", file)),
        );
        check(
            "/home/%u/.ssh/authorized_keys",
            "/home/bob",
            Some((true, ".ssh", file)),
        );
        check(
            "/etc/ssh/keys.d/%u",
            "/home/bob",
            Some((false, "etc/ssh/keys.d", "/etc/ssh/keys.d/bob")),
        );
        check(
            "/etc/keys/%U",
            "/",
            Some((false, "etc/keys", "/etc/keys/1001")),
        );
        for home in ["/", "", "relative", "/home/../root"] {
            check("%h/.ssh/authorized_keys", home, None);
        }
    }
}
