//! `export`: today's keys as a list. Exit 0 all of them, 1 some that a list would not take, 2 usage, or a file unread.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::agent::inquiry::ask_within;
use crate::cli::print;
use crate::cli::surroundings::{self, Outcome, USAGE};
use crate::host::directory::{self, Values};
use crate::host::sshd::Circumstances;
use crate::host::{accounts, keyfile, process};
use crate::model::account::{Account, AccountName};
use crate::model::config::tables::{Accounts, Config};
use crate::model::desired::judge::Rules;
use crate::model::desired::lint::{Draft, Lint};
use crate::model::escape::escaped;
use crate::model::file::export::export;
use crate::model::file::other_files::InFile;
use crate::model::key::lenient::unclear;
use crate::model::people::Lookup;
use crate::model::sorting::Gather;
use crate::model::sshd::answer::Answer;
use crate::model::sshd::effective::{self, DEFAULT};
use crate::model::words::count;

/// What its exit status means, for `--help` and the man page.
pub(super) const END: &str = "\
Examples:
  sudo agent export approved
      All people of this host, and the accounts that the config manages
  sudo agent export --all-files approved root deploy
      These two, and every file that sshd reads for them

Exit status:
  0  every key that was looked for is exported
  1  so it is, and some lines a list would not take: each is named
  2  wrong usage, or a file that could not be read: it is named";

#[derive(Args)]
pub(super) struct Arguments {
    /// Where the list is made: a directory that is new or empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Whose keys; without names those of all people, and of the accounts that the config manages
    #[arg(value_name = "ACCOUNT", value_parser = |name: &str| AccountName::try_from(name))]
    accounts: Vec<AccountName>,
    /// Also what sshd reads besides the file that is managed, such as `authorized_keys2`
    #[arg(long)]
    all_files: bool,
}

/// How long the name service, sshd and the file system of a home may take.
const PATIENCE: Duration = Duration::from_secs(10);
const SSHD_PATIENCE: Duration = Duration::from_secs(30);

/// Whose keys are exported, and who else is on this host.
struct People {
    chosen: BTreeMap<AccountName, Account>,
    others: Vec<Account>,
}

pub(super) async fn run(arguments: &Arguments, path: &Path, named: bool) -> Outcome {
    directory::is_new(&arguments.directory)?;
    // What an account may read is told without root's groups.
    keyfile::drop_supplementary_groups().context("cannot leave the groups of root")?;
    let config = surroundings::config_if_any(path, named)?;
    let people = people(arguments, config.as_ref()).await?;
    let (settings, policy) = config
        .as_ref()
        .map(|config| (config.accounts.clone(), config.policy.clone()))
        .unwrap_or_default();
    let answer = ask_sshd(&people).await;
    if let Err(why) = &answer {
        let why = escaped(why);
        let _ = writeln!(
            io::stderr(),
            "note: which files sshd reads is not known ({why}), so the usual ones are looked at"
        );
    }
    let answer = answer.as_ref().ok();
    let rules = Rules {
        policy: &policy,
        zone: &surroundings::zone(),
        openssh: None,
    };
    let mut values = Values::new();
    let (mut lint, mut keys, mut left_out) = (Lint::default(), BTreeMap::new(), LeftOut::default());
    for (name, account) in &people.chosen {
        let mut files = Vec::new();
        for (path, is_managed) in files_of(account, &settings, answer) {
            let found = left_out.unless_read(&path, read(account, &path).await);
            if is_managed || arguments.all_files {
                files.extend(found.map(|bytes| Draft {
                    name: path.display().to_string(),
                    parameter: None,
                    bytes,
                }));
            } else {
                left_out.add(name, &path, found.as_deref(), "--all-files exports it");
            }
        }
        let exported = export(name, files, rules, surroundings::now());
        lint.add(exported.lint);
        if exported.values.is_empty() {
            if !arguments.accounts.is_empty() {
                left_out.say(&format!("{name}: no keys"));
            }
        } else {
            keys.insert(name, exported.keys);
            values.insert(name.clone(), exported.values);
        }
    }
    for account in &people.others {
        for (path, _) in files_of(account, &settings, answer) {
            let found = read(account, &path).await.ok().flatten();
            left_out.add(
                &account.name,
                &path,
                found.as_deref(),
                "name it to export it",
            );
        }
    }
    let mut said = print::remarks(&lint);
    said.push_str(&left_out.text);
    said.extend(unmanaged(&people, &values, config.as_ref()));
    let _ = write!(io::stderr(), "{said}");
    if values.is_empty() {
        bail!("nothing is exported: no keys were found");
    }
    directory::write(&arguments.directory, &values)?;
    conclude(&arguments.directory, &keys, lint.problems.len())?;
    Ok(match (left_out.is_unread, lint.problems.is_empty()) {
        (true, _) => USAGE,
        (false, is_clean) => u8::from(!is_clean),
    })
}

/// Whom the command is about.
async fn people(arguments: &Arguments, config: Option<&Config>) -> anyhow::Result<People> {
    let (uid_min, user) = (accounts::uid_min(), process::user());
    let accounts = config.map(|config| &config.accounts);
    let mut local: BTreeMap<AccountName, Account> = accounts::local()
        .into_iter()
        .map(|account| (account.name.clone(), account))
        .gather();
    let mut chosen = BTreeMap::new();
    let is_whole = arguments.accounts.is_empty();
    if is_whole {
        let is_chosen = |account: &Account| {
            let uid = Some(account.uid);
            let manages = |accounts: &Accounts| accounts.manages(&account.name, uid, uid_min);
            if process::is_root() {
                account.uid >= uid_min || accounts.is_some_and(manages)
            } else {
                account.uid == user
            }
        };
        chosen = local
            .extract_if(.., |_, account| is_chosen(account))
            .gather();
    }
    let is_for_all = is_whole && process::is_root();
    // A directory service may know them.
    let managed = accounts.filter(|_| is_for_all).into_iter();
    let managed = managed.flat_map(Accounts::named);
    for name in arguments.accounts.iter().chain(managed) {
        if chosen.contains_key(name) {
            continue;
        }
        let account = match local.remove(name) {
            Some(account) => account,
            None => match ask_who(name).await? {
                Some(account) => account,
                None if is_whole => continue,
                None => bail!("no account `{name}` on this host"),
            },
        };
        chosen.insert(name.clone(), account);
    }
    if !is_for_all {
        local.clear();
    }
    let others = local.into_values().collect();
    Ok(People { chosen, others })
}

async fn ask_who(name: &AccountName) -> anyhow::Result<Option<Account>> {
    let asked = name.clone();
    let answer = ask_within(PATIENCE, move || accounts::ask([&asked], PATIENCE)).await;
    match answer.and_then(|mut answer| answer.remove(name)) {
        Some(Lookup::Found(account)) => Ok(Some(account)),
        Some(Lookup::Unknown) => Ok(None),
        Some(Lookup::Failed(error)) => bail!("{error}"),
        None => bail!("the name service does not answer for `{name}`"),
    }
}

/// What sshd reads, or why that is not known.
async fn ask_sshd(people: &People) -> Result<Answer, String> {
    if !process::is_root() {
        return Err("only root can ask it".to_owned());
    }
    let chosen: Vec<Account> = people.chosen.values().cloned().collect();
    let others = people.others.clone();
    let ask = move || Circumstances::look().ask(&chosen, &others, accounts::groups);
    let answer = ask_within(SSHD_PATIENCE, ask).await;
    let answer = answer.ok_or("it does not answer")?;
    match answer.error {
        Some(error) => Err(error),
        None => Ok(answer),
    }
}

/// Every file of keys of an account, and whether it is the one that is, or would be, managed.
fn files_of(
    account: &Account,
    settings: &Accounts,
    answer: Option<&Answer>,
) -> Vec<(PathBuf, bool)> {
    let managed = settings.file.locate(account).map(|location| location.path);
    let said = answer.and_then(|answer| answer.settings_or_like(&account.name));
    let mut files = match said {
        Some(said) => said.other_files(account, managed.as_deref()),
        None => effective::files(DEFAULT, account),
    };
    files.retain(|path| Some(path) != managed.as_ref());
    let others = files.into_iter().map(|path| (path, false));
    managed
        .map(|path| (path, true))
        .into_iter()
        .chain(others)
        .collect()
}

/// A file as its account sees it.
async fn read(account: &Account, path: &Path) -> Result<Option<Vec<u8>>, String> {
    let (account, path) = (account.clone(), path.to_owned());
    let read = ask_within(PATIENCE, move || keyfile::survey(&account, &path)).await;
    match read {
        Some(read) => {
            read.map_err(|refusal| format!("{}; {}", refusal.explained(), refusal.hint()))
        }
        None => Err("its file system does not answer".to_owned()),
    }
}

/// What is not exported, a line each.
#[derive(Default)]
struct LeftOut {
    text: String,
    is_unread: bool,
}

impl LeftOut {
    fn unless_read(
        &mut self,
        path: &Path,
        read: Result<Option<Vec<u8>>, String>,
    ) -> Option<Vec<u8>> {
        read.unwrap_or_else(|error| {
            self.is_unread = true;
            let path = path.display();
            self.say(&format!("{path}: {error}"));
            None
        })
    }

    fn add(&mut self, account: &AccountName, path: &Path, bytes: Option<&[u8]>, what_to_do: &str) {
        let found = InFile::read(bytes.unwrap_or_default());
        let keys = found.keys.len() + found.more;
        let what = match (keys, found.unclear) {
            (0, 0) => return,
            (0, lines) => unclear(lines),
            (keys, _) => count(keys, "key"),
        };
        let path = path.display();
        self.say(&format!("{account}: {what} in {path}; {what_to_do}"));
    }

    fn say(&mut self, what: &str) {
        let _ = writeln!(self.text, "left out: {}", escaped(what));
    }
}

/// Those whose keys are on the list, and whom the config does not manage.
fn unmanaged(people: &People, values: &Values, config: Option<&Config>) -> Vec<String> {
    let Some(config) = config else {
        return Vec::new();
    };
    let uid_min = accounts::uid_min();
    let is_managed = |account: &Account| {
        let uid = Some(account.uid);
        config.accounts.manages(&account.name, uid, uid_min)
    };
    let exported = people
        .chosen
        .values()
        .filter(|one| values.contains_key(&one.name));
    let unmanaged = exported.filter(|account| !is_managed(account));
    unmanaged
        .map(|account| format!("note: {} is not in `[accounts] manage`\n", account.name))
        .collect()
}

fn conclude(
    directory: &Path,
    keys: &BTreeMap<&AccountName, usize>,
    problems: usize,
) -> anyhow::Result<()> {
    let widest = keys
        .keys()
        .map(|name| name.as_str().len())
        .max()
        .unwrap_or(0);
    let lines: Vec<String> = keys
        .iter()
        .map(|(name, keys)| format!("{:widest$}  {}\n", name.as_str(), count(*keys, "key")))
        .collect();
    print::data(&lines.concat())?;
    let (accounts, keys) = (
        count(keys.len(), "account"),
        count(keys.values().sum(), "key"),
    );
    let directory = escaped(&directory.display().to_string());
    let next = match problems {
        0 => String::new(),
        some => format!("correct {} there, then ", count(some, "problem")),
    };
    let _ = writeln!(
        io::stderr(),
        "exported {accounts}, {keys} to {directory}\nnext: {next}agent lint {directory}"
    );
    Ok(())
}
