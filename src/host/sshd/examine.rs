//! The whole question to sshd: what it is, how it was started, and what it would do for each account.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::host::Stamp;
use crate::host::chain;
use crate::host::sshd::configuration::{Configuration, configuration, has_blank, names_files};
use crate::host::sshd::listener::{Started, started};
use crate::host::sshd::question::{minds_private_groups, settings, version};
use crate::model::account::{Account, AccountName};
use crate::model::sorting::{self, Gather};
use crate::model::sshd::answer::{ASKED, Answer};
use crate::model::sshd::effective::Settings;

/// What the answer will depend on.
pub struct Circumstances {
    started: Started,
    configuration: Configuration,
}

impl Circumstances {
    /// Looks at how sshd was started and at the files of its configuration. Blocks.
    pub fn look() -> Self {
        let started = started(Path::new("/"));
        let configuration = configuration(started.invocation.config.as_deref());
        Self {
            started,
            configuration,
        }
    }

    /// The same number as long as sshd would say the same about `accounts`.
    pub fn fingerprint(&self, accounts: &[Account]) -> u64 {
        let mut hasher = DefaultHasher::new();
        let Started { program, files, .. } = &self.started;
        let paths = program.iter().chain(files).chain(&self.configuration.files);
        for path in paths.chain(&self.configuration.directories) {
            (path, Stamp::of(path)).hash(&mut hasher);
        }
        (&self.started.invocation, &self.started.others).hash(&mut hasher);
        for account in accounts {
            (account.name.as_str(), account.uid, &account.home).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Asks sshd about `accounts`, then about `others`, which may be left out. Blocks for seconds at worst.
    pub fn ask(
        self,
        accounts: &[Account],
        others: &[Account],
        groups: impl Fn(&Account) -> Option<Vec<String>>,
    ) -> Answer {
        let Self {
            started,
            configuration,
        } = self;
        let said = |what: fn(&str) -> bool| started.invocation.options.iter().any(|one| what(one));
        let mut answer = Answer {
            for_all: !configuration.has_match,
            has_blanks: configuration.has_blanks || said(has_blank),
            by_connection: configuration.by_connection,
            files_by_connection: configuration.files_by_connection,
            names_files: configuration.names_files || said(names_files),
            others: started.others,
            files: configuration.files,
            directories: configuration.directories,
            ..Answer::default()
        };
        for path in started.files {
            if path.is_dir() {
                answer.directories.push(path);
            } else {
                answer.files.push(path);
            }
        }
        let Some(path) = started.program else {
            answer.error = Some("no sshd on this host".to_owned());
            return answer;
        };
        match version(&path) {
            Ok(version) => answer.version = version,
            Err(error) => answer.error = Some(chain(&error)),
        }
        let asked = asked(&mut answer, accounts, others);
        let port = started.invocation.port.or(configuration.port);
        for account in asked {
            if answer.error.is_some() {
                break;
            }
            match settings(&path, &started.invocation, port, &account.name) {
                Ok(text) => take(&mut answer, &account.name, Settings::read(&text)),
                Err(error) => answer.error = Some(chain(&error)),
            }
        }
        answer.private_groups = minds_private_groups(&path);
        answer.path = Some(path);
        if answer.settings.iter().any(goes_by_groups) {
            for account in accounts.iter().take(ASKED) {
                if let Some(groups) = groups(account) {
                    answer.groups.insert(account.name.clone(), groups);
                }
            }
        }
        answer
    }
}

/// Whom to ask about, and how many are left out.
fn asked<'a>(
    answer: &mut Answer,
    accounts: &'a [Account],
    others: &'a [Account],
) -> Vec<&'a Account> {
    let managed: BTreeSet<&AccountName> = accounts.iter().map(|account| &account.name).gather();
    let mut others: Vec<&Account> = others
        .iter()
        .filter(|one| !managed.contains(&one.name))
        .collect();
    // Root is always asked about.
    sorting::sort_by(&mut others, |a, b| (a.uid != 0).cmp(&(b.uid != 0)));
    let all = accounts.len() + others.len();
    let mut asked: Vec<&Account> = accounts.iter().take(ASKED).collect();
    asked.extend(others.into_iter().take(ASKED));
    if answer.for_all {
        asked.truncate(1);
    } else {
        answer.unasked = all - asked.len();
    }
    asked
}

fn take(answer: &mut Answer, name: &AccountName, settings: Settings) {
    let known = answer.settings.iter().position(|known| *known == settings);
    let number = known.unwrap_or(answer.settings.len());
    if known.is_none() {
        answer.settings.push(settings);
    }
    answer.of.insert(name.clone(), number);
}

fn goes_by_groups(settings: &Settings) -> bool {
    !(settings.allow_groups.is_empty() && settings.deny_groups.is_empty())
}
