//! Where the list is: what the config asks for on this instance, and which parameter serves whom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::account::AccountName;
use crate::model::config::tables::Source;
use crate::model::list::approved::Entry;
use crate::model::list::template::{Facts, NameTemplate, Need, PathTemplate, Unfilled};
use crate::model::sorting::{self, Gather};

/// Why a parameter serves no account.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Misplaced {
    /// The service named a parameter that was not asked for.
    #[error("not below `{path}`: parameter `{}`", .parameter.escape_debug())]
    Outside {
        /// Where it should be.
        path: String,
        /// Its name.
        parameter: String,
    },
    /// The first name after the path is empty or no login name.
    #[error("the first name after `{path}` is not an account name: parameter `{}`", .parameter.escape_debug())]
    BadAccount {
        /// Where it is.
        path: String,
        /// Its name.
        parameter: String,
    },
}

/// All that the config asks for on this instance, every template filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Paths, sorted, each once.
    pub paths: Vec<String>,
    /// Names with their selectors, and the accounts each serves.
    pub names: BTreeMap<String, BTreeSet<AccountName>>,
    /// The local directory.
    pub directory: Option<PathBuf>,
    /// The parameter with the signature of the named ones.
    pub signed: Option<String>,
}

impl Source {
    /// The facts that filling in this source takes; with none, IMDS is never asked.
    pub fn needs(&self) -> BTreeSet<Need> {
        let paths = self.paths.iter().flat_map(PathTemplate::needs);
        let names = self
            .parameters
            .values()
            .flatten()
            .chain(&self.signed)
            .flat_map(NameTemplate::needs);
        paths.chain(names).cloned().gather()
    }

    /// True when some of it is in Parameter Store.
    pub fn uses_parameter_store(&self) -> bool {
        !self.paths.is_empty() || !self.parameters.is_empty()
    }

    /// This source with `facts` filled in.
    pub fn resolve(&self, facts: &Facts) -> Result<Wanted, Unfilled> {
        let mut wanted = Wanted {
            directory: self.directory.clone(),
            ..Wanted::default()
        };
        for path in &self.paths {
            wanted.paths.push(path.expand(facts)?);
        }
        sorting::sort(&mut wanted.paths);
        wanted.paths.dedup();
        for (account, names) in &self.parameters {
            for name in names {
                wanted
                    .names
                    .entry(name.expand(facts)?)
                    .or_default()
                    .insert(account.clone());
            }
        }
        let signed = self.signed.as_ref().map(|name| name.expand(facts));
        wanted.signed = signed.transpose()?;
        Ok(wanted)
    }
}

/// One thing that a source asks for, on its own.
#[derive(Debug)]
pub struct Share {
    /// As [`Wanted::describe`] names it; a template that cannot be filled in, as it was written.
    pub name: String,
    /// It alone, or why it cannot be asked for.
    pub wanted: Result<Wanted, Unfilled>,
}

impl Source {
    /// Every path, every name and the directory, each on its own, so that one that fails can be told from the others.
    pub fn shares(&self, facts: &Facts) -> Vec<Share> {
        let mut shares = Vec::new();
        for path in &self.paths {
            let wanted = path.expand(facts).map(|path| Wanted {
                paths: vec![path],
                ..Wanted::default()
            });
            shares.push(Share::new(format!("ssm:{path}"), wanted));
        }
        for (account, names) in &self.parameters {
            for name in names {
                let served = BTreeSet::from([account.clone()]);
                let wanted = name.expand(facts);
                let wanted = wanted.map(|name| Wanted {
                    names: [(name, served)].into(),
                    ..Wanted::default()
                });
                shares.push(Share::new(format!("ssm:{name}"), wanted));
            }
        }
        let directory = self.directory.iter().cloned();
        shares.extend(directory.map(|path| {
            Share::new(
                String::new(),
                Ok(Wanted {
                    directory: Some(path),
                    ..Wanted::default()
                }),
            )
        }));
        shares
    }
}

impl Share {
    fn new(written: String, wanted: Result<Wanted, Unfilled>) -> Self {
        Self {
            name: wanted.as_ref().map_or(written, Wanted::describe),
            wanted,
        }
    }
}

impl Wanted {
    /// One line for people: `ssm:/authorized-keys/web, ssm:/ssh/prod:live, directory:/etc/…`.
    pub fn describe(&self) -> String {
        let ssm = self
            .paths
            .iter()
            .chain(self.names.keys())
            .map(|name| format!("ssm:{name}"));
        let directory = self
            .directory
            .iter()
            .map(|path| format!("directory:{}", path.display()));
        ssm.chain(directory).collect::<Vec<_>>().join(", ")
    }
}

/// The account that `parameter` serves, which was listed below `path` (as [`PathTemplate::expand`] returns it): the first
/// name below the path. What follows it is a label for people.
pub fn account_below(path: &str, parameter: &str) -> Result<AccountName, Misplaced> {
    let below = parameter.strip_prefix(path.trim_end_matches('/'));
    let Some(rest) = below.and_then(|rest| rest.strip_prefix('/')) else {
        return Err(Misplaced::Outside {
            path: path.to_owned(),
            parameter: parameter.to_owned(),
        });
    };
    let account = rest.split('/').next().unwrap_or(rest);
    AccountName::try_from(account).map_err(|_| Misplaced::BadAccount {
        path: path.to_owned(),
        parameter: parameter.to_owned(),
    })
}

/// Entries of all sources as one list: a parameter that two of them named counts once per account,
/// as it was read last.
pub fn merge(entries: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let by_name = entries
        .into_iter()
        .map(|entry| ((entry.account.clone(), entry.parameter.clone()), entry));
    by_name.gather::<BTreeMap<_, _>>().into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_below_the_path_is_the_account() {
        let check = |path: &str, parameter: &str, account: &str| {
            let found = account_below(path, parameter).unwrap();
            assert_eq!(found.as_str(), account, "{parameter}");
        };
        check("/k/web", "/k/web/ec2-user/alice", "ec2-user");
        check("/k/web", "/k/web/ec2-user/alice/laptop", "ec2-user");
        check("/k/web", "/k/web/ec2-user", "ec2-user");
        check("/", "/ec2-user/alice", "ec2-user");
        for (path, parameter, expected) in [
            ("/k/web", "/k/web", "not below `/k/web`: parameter `/k/web`"),
            (
                "/k/web",
                "/k/website/bob",
                "not below `/k/web`: parameter `/k/website/bob`",
            ),
            ("/k/web", "/other/bob", "not below"),
            (
                "/k/web",
                "/k/web/",
                "not an account name: parameter `/k/web/`",
            ),
            ("/k/web", "/k/web//alice", "not an account name"),
            (
                "/k/web",
                "/k/web/../root",
                "not an account name: parameter `/k/web/../root`",
            ),
            ("/k/web", "/k/web/a\u{1b}[2J", "`/k/web/a\\u{1b}[2J`"),
        ] {
            let error = account_below(path, parameter).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn all_sources_become_one_wanted_list() {
        let source = Source {
            paths: ["/k/b", "/k/{tag:Role}/", "/k/b/"]
                .map(|p| PathTemplate::parse(p).unwrap())
                .to_vec(),
            parameters: ["bob", "eve"]
                .map(|name| {
                    (
                        name.try_into().unwrap(),
                        vec![NameTemplate::parse("/s/{region}:live").unwrap()],
                    )
                })
                .into(),
            directory: Some("/etc/keys".into()),
            ..Source::default()
        };
        assert_eq!(
            source.needs(),
            [Need::Region, Need::Tag("Role".into())].into()
        );
        let facts = [
            (Need::Region, "eu-central-1"),
            (Need::Tag("Role".into()), "web"),
        ];
        let wanted = source
            .resolve(&facts.map(|(need, value)| (need, value.to_owned())).into())
            .unwrap();
        assert_eq!(wanted.paths, ["/k/b", "/k/web"]);
        assert_eq!(wanted.names["/s/eu-central-1:live"].len(), 2);
        let expected = "ssm:/k/b, ssm:/k/web, ssm:/s/eu-central-1:live, directory:/etc/keys";
        assert_eq!(wanted.describe(), expected);
        assert!(source.resolve(&Facts::new()).is_err());
        assert!(Source::default().needs().is_empty());
    }

    #[test]
    fn a_parameter_counts_once_for_an_account() {
        let entry = |account: &str, parameter: &str, version| Entry {
            account: account.try_into().unwrap(),
            parameter: parameter.to_owned(),
            version: Some(version),
            last_modified: None,
            value: String::new(),
        };
        let merged = merge([
            entry("a", "/k/a", 1),
            entry("b", "/k/a", 1),
            entry("a", "/k/a", 2),
            entry("a", "/k/c", 1),
        ]);
        let seen: Vec<_> = merged
            .iter()
            .map(|e| (e.account.as_str(), e.parameter.as_str(), e.version))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", "/k/a", Some(2)),
                ("a", "/k/c", Some(1)),
                ("b", "/k/a", Some(1))
            ]
        );
    }
}
