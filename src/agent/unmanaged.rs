//! Keys of accounts that are not managed: root, service accounts, a user added by hand. They are listed, never touched.
//!
//! Only accounts of `/etc/passwd`: what a directory service has besides may be without end. Looked at by `status` as it
//! answers, so that nothing about them is kept or grows old.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use crate::host::{Threads, keyfile};
use crate::model::account::{Account, AccountName};
use crate::model::file::other_files::InFile;
use crate::model::sshd::answer::Answer;
use crate::model::status::schema::UnmanagedFile;

/// Accounts that are looked at, and files with keys that are listed.
const ACCOUNTS: usize = 2000;
const FILES: usize = 200;

/// How long one account may take, and how many may take that long before the rest is left alone.
const PATIENCE: Duration = Duration::from_secs(2);
const HANGING: usize = 3;

/// What was found.
#[derive(Debug, Default)]
pub struct Unmanaged {
    /// Every file with keys.
    pub files: Vec<UnmanagedFile>,
    /// There would have been more.
    pub cut: bool,
}

/// Looks at the files that sshd reads of all `local` accounts but the `managed` ones. Blocks, for some seconds at worst.
pub fn look(
    answer: &Answer,
    local: Vec<Account>,
    managed: impl Fn(&AccountName) -> bool,
) -> Unmanaged {
    let mut work: Vec<(Account, Vec<PathBuf>)> = Vec::new();
    for account in local.into_iter().filter(|account| !managed(&account.name)) {
        let files = answer
            .settings_or_like(&account.name)
            .map(|settings| settings.other_files(&account, None));
        // Two names of one account have the same files.
        let files =
            files.filter(|files| !files.is_empty() && work.iter().all(|(_, known)| known != files));
        work.extend(files.map(|files| (account, files)));
    }
    let mut all = Unmanaged {
        cut: work.len() > ACCOUNTS,
        ..Unmanaged::default()
    };
    work.truncate(ACCOUNTS);
    let (mut begin, mut hanging) = (0, 0);
    while begin < work.len() && hanging < HANGING {
        let rest = work[begin..].to_vec();
        let (sender, seen) = mpsc::channel();
        let started = Threads::spawn(move || {
            for (account, files) in rest {
                let found: Vec<UnmanagedFile> = files
                    .iter()
                    .filter_map(|path| read(&account, path))
                    .collect();
                if sender.send(found).is_err() {
                    return;
                }
            }
        });
        if started.is_err() {
            break;
        }
        while begin < work.len() {
            if let Ok(found) = seen.recv_timeout(PATIENCE) {
                all.files.extend(found);
                begin += 1;
            } else {
                let (account, files) = &work[begin];
                let path = files.first().cloned().unwrap_or_default();
                let found = InFile::unread("its file system does not answer".to_owned());
                all.files.push(UnmanagedFile {
                    found,
                    ..named(account, &path)
                });
                (begin, hanging) = (begin + 1, hanging + 1);
                break;
            }
        }
    }
    all.cut |= begin < work.len() || all.files.len() > FILES;
    all.files.truncate(FILES);
    all
}

fn named(account: &Account, path: &std::path::Path) -> UnmanagedFile {
    UnmanagedFile {
        name: account.name.as_str().to_owned(),
        uid: account.uid,
        file: path.display().to_string(),
        found: InFile::default(),
        awaits_list: false,
    }
}

fn read(account: &Account, path: &std::path::Path) -> Option<UnmanagedFile> {
    let found = match keyfile::survey(account, path) {
        Ok(content) => Some(InFile::read(&content?)).filter(|found| !found.is_idle())?,
        Err(refusal) => InFile::unread(refusal.explained()),
    };
    Some(UnmanagedFile {
        found,
        ..named(account, path)
    })
}
