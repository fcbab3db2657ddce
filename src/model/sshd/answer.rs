//! What sshd said when it was asked what it is and what it reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::account::AccountName;
use crate::model::key::release::Version;
use crate::model::sshd::access::Doubt;
use crate::model::sshd::effective::Settings;

/// What sshd said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says a thing of its own, and none depends on another"
)]
pub struct Answer {
    /// The program; `None` where there is none.
    pub path: Option<PathBuf>,
    pub version: Option<Version>,
    /// Why it did not say its configuration.
    pub error: Option<String>,
    /// It takes a directory that a group can write to which has no other member.
    pub private_groups: bool,
    /// Accounts that a `Match` may treat apart and that were not asked about.
    pub unasked: usize,
    /// The paths in `AuthorizedKeysFile` cannot be told from one another.
    pub has_blanks: bool,
    /// Who gets in depends on the connection.
    pub by_connection: bool,
    /// Which files are read depends on the connection.
    pub files_by_connection: bool,
    /// Command lines of others that listen too.
    pub others: Vec<String>,
    /// The configuration names the files that are read.
    pub names_files: bool,
    /// Each different configuration once.
    pub settings: Vec<Settings>,
    /// Which of them is whose; without a `Match` the first is everybody's.
    pub of: BTreeMap<AccountName, usize>,
    pub for_all: bool,
    pub groups: BTreeMap<AccountName, Vec<String>>,
    /// Files that the answer depends on.
    pub files: Vec<PathBuf>,
    /// Directories in which a new file would change it.
    pub directories: Vec<PathBuf>,
}

/// Each question takes some milliseconds. More managed accounts than this behind a `Match` are not asked about one by
/// one, nor more than this that are not managed.
pub const ASKED: usize = 50;

impl Answer {
    /// The configuration for an account, or why it is not known.
    pub fn settings(&self, name: &AccountName) -> Result<&Settings, String> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let own = self.of.get(name).copied();
        let number = own.or(if self.for_all { Some(0) } else { None });
        let found = number.and_then(|number| self.settings.get(number));
        found.ok_or_else(|| {
            format!("sshd's configuration has a `Match`, and only {ASKED} accounts are asked about")
        })
    }

    /// The same; for an account that was not asked about, that of one that was.
    pub fn settings_or_like(&self, name: &AccountName) -> Option<&Settings> {
        match self.settings(name) {
            Ok(settings) => Some(settings),
            Err(_) if self.error.is_some() => None,
            Err(_) => self.settings.first(),
        }
    }

    /// `AuthorizedKeysFile` of `name`, or that of everybody where there is no `Match`; `None` where sshd has not said.
    /// Empty where its paths cannot be told apart, or are others for other connections.
    pub fn reads(&self, name: Option<&AccountName>) -> Option<&str> {
        let settings = match name {
            Some(name) => self.settings(name).ok()?,
            None if self.for_all && self.error.is_none() => self.settings.first()?,
            None => return None,
        };
        let certain = !self.has_blanks && !self.files_by_connection;
        Some(if certain { &settings.files } else { "" })
    }

    /// Why what sshd said is less than the whole.
    pub fn doubts(&self) -> impl Iterator<Item = Doubt> {
        let by_connection = self.by_connection.then_some(Doubt::ByConnection);
        let blanks = self.has_blanks.then_some(Doubt::Blanks);
        by_connection.into_iter().chain(blanks)
    }

    /// The groups of an account, where they were asked for.
    pub fn groups(&self, name: &AccountName) -> Option<&[String]> {
        self.groups.get(name).map(Vec::as_slice)
    }

    /// It is here and could not say what it reads. Where its configuration names files, its own default would be the
    /// wrong ones to take away.
    pub fn is_mute(&self) -> bool {
        self.error.is_some() && self.path.is_some() && !self.names_files
    }
}
