//! Whether a list is signed: of every part, on the exact bytes that were stored, before a value of it is read.
//!
//! Root trusts nothing here that the fetcher says: which account a parameter serves follows from its name and the config,
//! and no parameter counts that no signature covers.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::config::source::account_below;
use crate::model::config::tables::Source;
use crate::model::escape::escaped;
use crate::model::key::policy::Signing;
use crate::model::list::approved::{ApprovedList, Entry, Signed};
use crate::model::list::bounds::ADVANCED;
use crate::model::list::contents::Contents;
use crate::model::list::statement::{Malformed, Scope, Statement, below_root};
use crate::model::list::template::without_selector;
use crate::model::signature::signers::Signers;
use crate::model::signature::sshsig;
use crate::model::sorting;
use crate::model::words::count;

/// What was taken last of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Taken {
    pub serial: u64,
    /// Of the contents.
    pub sha256: String,
    pub issued: Timestamp,
    /// When the statement or one of its signers no longer counts.
    pub expires: Timestamp,
    pub signers: Vec<Signer>,
    /// It is of the list in force, and not of a source that the config named once.
    pub current: bool,
}

/// Whose signature counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signer {
    pub fingerprint: String,
    /// As the file of allowed signers names them.
    pub principals: String,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.principals, self.fingerprint)
    }
}

/// By scope, as it is displayed.
pub type AllTaken = BTreeMap<String, Taken>;

/// Why a part of a list does not count, and so the whole list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unsigned {
    pub scope: String,
    pub fault: Fault,
}

/// Which check failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It has no signature.
    Missing,
    Malformed(Malformed),
    Scope {
        said: String,
    },
    Audience {
        said: Option<String>,
        own: Option<String>,
    },
    FromFuture {
        issued: Timestamp,
    },
    Expired {
        at: Timestamp,
    },
    /// A list that was taken had a later one.
    SerialBack {
        serial: u64,
        known: u64,
    },
    /// A list that was taken had this one and other contents.
    SerialReused {
        serial: u64,
    },
    /// There are other parameters than were signed, or other values.
    Contents {
        said: usize,
        found: usize,
        /// Those that were changed after the signature was put.
        later: Vec<String>,
    },
    /// What the list has for an account is in no part that the config asks for.
    Uncovered {
        parameter: String,
    },
    TooFew {
        good: usize,
        needed: u32,
    },
    /// The same where it has more, and why those do not count.
    Refused {
        good: usize,
        needed: u32,
        faults: Vec<String>,
    },
}

/// So many parameters are named that were changed after the signature.
const LATER: usize = 3;

impl Fault {
    /// One sentence about the list.
    pub fn reason(&self) -> String {
        match self {
            Self::Missing => "it has no signature".to_owned(),
            Self::Malformed(malformed) => {
                format!("its signature is damaged: {}", malformed.reason())
            }
            Self::Scope { said } => format!("its signature is for `{}`", escaped(said)),
            Self::Audience { said, own } => {
                let said = said.as_deref().map_or("no audience".to_owned(), |said| {
                    format!("the audience `{}`", escaped(said))
                });
                let own = own
                    .as_ref()
                    .map_or("no audience".to_owned(), |own| format!("`{own}`"));
                format!("it is signed for {said}, and this host is of {own}")
            }
            Self::FromFuture { issued } => {
                format!("it was issued at {issued}, which is still to come")
            }
            Self::Expired { at } => format!("its signature expired at {at}"),
            Self::SerialBack { serial, known } => {
                format!("its serial number is {serial}, and a list with {known} was in force")
            }
            Self::SerialReused { serial } => {
                format!("another list was in force with its serial number, {serial}")
            }
            Self::Contents { said, found, later } => {
                let what = if said == found {
                    "a name or a value is not the one that was signed".to_owned()
                } else {
                    format!("{} signed, and {found} found", count(*said, "parameter"))
                };
                let later: Vec<String> = later
                    .iter()
                    .map(|name| format!("`{}`", escaped(name)))
                    .collect();
                if later.is_empty() {
                    what
                } else {
                    let later = later.join(", ");
                    format!("{what}; changed after it was signed: {later}")
                }
            }
            Self::Uncovered { parameter } => {
                format!("`{}` is in no part that is signed", escaped(parameter))
            }
            Self::TooFew { good, needed } => sshsig::too_few(*good, needed, &[]),
            Self::Refused {
                good,
                needed,
                faults,
            } => sshsig::too_few(*good, needed, faults),
        }
    }

    /// Every publishing looks like this for a moment.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::Missing | Self::Contents { .. } | Self::Uncovered { .. }
        )
    }
}

/// What a list is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    pub signing: &'a Signing,
    pub signers: &'a Signers,
    pub known: &'a AllTaken,
    pub now: Timestamp,
}

/// What is to be taken of each scope, or all that is wrong.
pub fn verify(
    list: &ApprovedList,
    source: &Source,
    trust: Trust<'_>,
) -> Result<AllTaken, Vec<Unsigned>> {
    let (mut taken, mut faults) = (AllTaken::new(), Vec::new());
    let signed: Vec<&Signed> = list
        .signed
        .iter()
        .filter(|signed| asks_for(source, &signed.scope))
        .collect();
    let asked = source.paths.len() + source.signed.iter().count() + source.directory.iter().count();
    if let Some(more) = signed.get(asked) {
        // Of a template that could be several paths, the list of one counts; and a thousand of them are not verified.
        let parameter = more.scope.signed_at();
        let (scope, fault) = (list.source.clone(), Fault::Uncovered { parameter });
        return Err(vec![Unsigned { scope, fault }]);
    }
    for scope in without_signature(source, &signed) {
        let fault = Fault::Missing;
        faults.push(Unsigned { scope, fault });
    }
    for signed in &signed {
        let scope = signed.scope.to_string();
        match verify_scope(signed, list, source, trust) {
            Ok(one) => drop(taken.insert(scope, one)),
            Err(fault) => faults.push(Unsigned { scope, fault }),
        }
    }
    if faults.is_empty() {
        let covers = |entry: &Entry| {
            let mut scopes = signed.iter().map(|signed| &signed.scope);
            scopes.any(|scope| covered(scope, entry, source).is_some())
        };
        if let Some(entry) = list.entries.iter().find(|entry| !covers(entry)) {
            let parameter = entry.parameter.clone();
            faults.push(Unsigned {
                scope: list.source.clone(),
                fault: Fault::Uncovered { parameter },
            });
        }
    }
    if faults.is_empty() {
        Ok(taken)
    } else {
        Err(faults)
    }
}

fn asks_for(source: &Source, scope: &Scope) -> bool {
    match scope {
        Scope::Path(path) => source.paths.iter().any(|template| template.fits(path)),
        Scope::Parameters(name) => source.signed.iter().any(|template| template.fits(name)),
        Scope::Directory(path) => {
            let mut directory = source.directory.iter();
            directory.any(|directory| directory.as_os_str() == path.as_str())
        }
    }
}

/// The parts that the config asks for and that have no signature, as it writes them.
fn without_signature(source: &Source, signed: &[&Signed]) -> Vec<String> {
    let has = |is: &dyn Fn(&Scope) -> bool| signed.iter().any(|one| is(&one.scope));
    let mut missing = Vec::new();
    for template in &source.paths {
        if !has(&|scope| matches!(scope, Scope::Path(path) if template.fits(path))) {
            missing.push(template.to_string());
        }
    }
    if let Some(template) = &source.signed
        && !has(&|scope| matches!(scope, Scope::Parameters(_)))
    {
        missing.push(Scope::Parameters(template.to_string()).to_string());
    }
    if let Some(directory) = &source.directory
        && !has(&|scope| matches!(scope, Scope::Directory(_)))
    {
        missing.push(Scope::Directory(directory.display().to_string()).to_string());
    }
    missing
}

/// The cheapest first.
fn verify_scope(
    signed: &Signed,
    list: &ApprovedList,
    source: &Source,
    trust: Trust<'_>,
) -> Result<Taken, Fault> {
    let scope = signed.scope.to_string();
    verify_text(&signed.text, &scope, trust, &|said| {
        let contents = contents(signed, list, source);
        let is_named = matches!(signed.scope, Scope::Parameters(_));
        if contents != *said || (is_named && leaves_out(list, source)) {
            return Err(Fault::Contents {
                said: said.parameters,
                found: contents.parameters,
                later: later(signed, list, source),
            });
        }
        Ok(())
    })
}

/// The same of any text; `fits` compares what it covers.
fn verify_text(
    signed: &str,
    scope: &str,
    trust: Trust<'_>,
    fits: &dyn Fn(&Contents) -> Result<(), Fault>,
) -> Result<Taken, Fault> {
    if signed.len() > ADVANCED {
        return Err(Fault::Malformed(Malformed::TooLong));
    }
    let (text, blocks) = sshsig::blocks(signed);
    let statement = Statement::read(text).map_err(Fault::Malformed)?;
    check_statement(&statement, scope, trust)?;
    fits(&statement.contents)?;
    let (good, faults) = sshsig::verify_all(text, &blocks, trust.signers, trust.time());
    let (mut expires, mut signers) = (statement.expires, Vec::new());
    for by in good {
        expires = by.valid_before.map_or(expires, |at| at.min(expires));
        signers.push(Signer {
            fingerprint: by.fingerprint,
            principals: by.principals,
        });
    }
    let needed = trust.signing.signatures;
    let good = signers.len();
    if u32::try_from(good).is_ok_and(|good| good < needed) {
        return Err(if faults.is_empty() {
            Fault::TooFew { good, needed }
        } else {
            Fault::Refused {
                good,
                needed,
                faults,
            }
        });
    }
    Ok(Taken {
        serial: statement.serial,
        sha256: statement.contents.sha256,
        issued: statement.issued,
        expires,
        signers,
        current: true,
    })
}

/// A directory before it is published, with its signature for where it will be: the place, and the verdict.
/// `files` are names below the directory and what is in them; what is published has no white space at its end.
pub fn verify_draft(
    files: &[(&str, &str)],
    signed: &str,
    source: Option<&Source>,
    trust: Trust<'_>,
) -> (String, Result<Taken, Fault>) {
    let (text, _) = sshsig::blocks(signed);
    let statement = match Statement::read(text) {
        Ok(statement) => statement,
        Err(malformed) => return (String::new(), Err(Fault::Malformed(malformed))),
    };
    let said = statement.scope;
    let scope = Scope::read(&said);
    if source.is_some_and(|source| !asks_for(source, &scope)) {
        let fault = Fault::Scope { said: said.clone() };
        return (said, Err(fault));
    }
    let is_exact = matches!(scope, Scope::Directory(_));
    let mut all: Vec<(&str, &str)> = Vec::new();
    for (name, text) in files {
        all.push((name, if is_exact { text } else { text.trim_end() }));
    }
    sorting::sort(&mut all);
    let contents = Contents::of_names(&mut all.into_iter());
    let verdict = verify_text(signed, &said, trust, &|said| {
        if contents == *said {
            return Ok(());
        }
        Err(Fault::Contents {
            said: said.parameters,
            found: contents.parameters,
            later: Vec::new(),
        })
    });
    (said, verdict)
}

/// What the statement says of itself, before its contents are looked at.
fn check_statement(statement: &Statement, scope: &str, trust: Trust<'_>) -> Result<(), Fault> {
    let now = trust.time();
    if statement.scope != scope {
        let said = statement.scope.clone();
        return Err(Fault::Scope { said });
    }
    if statement.audience != trust.signing.audience {
        return Err(Fault::Audience {
            said: statement.audience.clone(),
            own: trust.signing.audience.clone(),
        });
    }
    if statement.issued > now {
        let issued = statement.issued;
        return Err(Fault::FromFuture { issued });
    }
    if statement.expires <= now {
        let at = statement.expires;
        return Err(Fault::Expired { at });
    }
    match trust.known.get(scope) {
        Some(known) if statement.serial < known.serial => Err(Fault::SerialBack {
            serial: statement.serial,
            known: known.serial,
        }),
        Some(known)
            if statement.serial == known.serial && statement.contents.sha256 != known.sha256 =>
        {
            let serial = statement.serial;
            Err(Fault::SerialReused { serial })
        }
        _ => Ok(()),
    }
}

impl Trust<'_> {
    /// Never before what was taken was issued: a clock that was set back makes no list valid again that has expired.
    fn time(&self) -> Timestamp {
        let issued = self.known.values().map(|known| known.issued);
        issued.max().map_or(self.now, |issued| issued.max(self.now))
    }
}

/// The name of an entry as the signature of `scope` covers it, if it does.
fn covered<'a>(scope: &Scope, entry: &'a Entry, source: &Source) -> Option<&'a str> {
    match scope {
        Scope::Path(place) | Scope::Directory(place) => {
            let is_of_path = matches!(scope, Scope::Path(_));
            let is_below = is_of_path == entry.version.is_some()
                // A version that was asked for by name is another parameter's.
                && (!is_of_path || without_selector(&entry.parameter) == entry.parameter)
                && account_below(place, &entry.parameter).as_ref() == Ok(&entry.account);
            is_below.then(|| below(place, &entry.parameter))
        }
        Scope::Parameters(_) => {
            let name = without_selector(&entry.parameter);
            let mut named = source.parameters.get(&entry.account).into_iter().flatten();
            let is_named = entry.version.is_some() && named.any(|template| template.fits(name));
            let name = below_root(name);
            // What begins with a dot is in no digest.
            (is_named && !name.starts_with('.')).then_some(name)
        }
    }
}

pub fn below<'a>(place: &str, name: &'a str) -> &'a str {
    let below = name.strip_prefix(place.trim_end_matches('/'));
    below
        .and_then(|below| below.strip_prefix('/'))
        .unwrap_or(name)
}

/// What is there of what a signature covers.
fn contents(signed: &Signed, list: &ApprovedList, source: &Source) -> Contents {
    let mut all: Vec<(&str, &str)> = Vec::new();
    for entry in &list.entries {
        let name = covered(&signed.scope, entry, source);
        all.extend(name.map(|name| (name, entry.value.as_str())));
    }
    if let Scope::Path(path) = &signed.scope {
        // What serves an account is an entry of it, or that account would go without.
        let others = signed.others.iter();
        let others = others.filter(|(name, _)| account_below(path, name).is_err());
        all.extend(others.map(|(name, value)| (below(path, name), value.as_str())));
    }
    sorting::sort(&mut all);
    // One parameter may serve several accounts.
    all.dedup();
    Contents::of_names(&mut all.into_iter())
}

/// Whether an account goes without a parameter that the config names for it: another one may have it, so the digest is right.
fn leaves_out(list: &ApprovedList, source: &Source) -> bool {
    let entries = list.entries.iter();
    let names = entries.map(|entry| (entry.account.as_str(), without_selector(&entry.parameter)));
    let mut there: Vec<(&str, &str)> = names.collect();
    sorting::sort(&mut there);
    for (account, templates) in &source.parameters {
        for template in templates {
            let name = template.to_string();
            let one = (account.as_str(), without_selector(&name));
            // What a template with a fact in it is, the fetcher alone knows.
            if template.needs().next().is_none() && there.binary_search(&one).is_err() {
                return true;
            }
        }
    }
    false
}

/// The first parameters that were changed after the signature was put.
fn later(signed: &Signed, list: &ApprovedList, source: &Source) -> Vec<String> {
    let is_later = |entry: &&Entry| {
        let is_of_it = covered(&signed.scope, entry, source).is_some();
        is_of_it && signed.last_modified.is_some() && entry.last_modified > signed.last_modified
    };
    let entries = list.entries.iter().filter(is_later);
    let mut names: Vec<String> = entries.map(|entry| entry.parameter.clone()).collect();
    names.dedup();
    names.truncate(LATER);
    names
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::signature::signing;

    const MINUTE: i64 = 60;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn entry(account: &str, parameter: &str, value: &str) -> Entry {
        Entry {
            account: account.try_into().unwrap(),
            parameter: parameter.to_owned(),
            version: (!parameter.starts_with("/etc/")).then_some(1),
            last_modified: Some(at(0)),
            value: value.to_owned(),
        }
    }

    /// A host, what was fetched for it, and what is signed of that.
    struct Case {
        source: Source,
        signing: Signing,
        signers: Signers,
        known: AllTaken,
        list: ApprovedList,
        scope: Scope,
        statement: Statement,
        seeds: Vec<u8>,
    }

    impl Case {
        fn new(source: &str, scope: Scope, entries: Vec<Entry>, names: &[&str]) -> Self {
            let source: Source = toml::from_str(source).unwrap();
            let mut list = ApprovedList::new("ssm:/k/web".into(), at(0), entries, Vec::new());
            list.signed.clear();
            let values = list.entries.iter().map(|entry| entry.value.as_str());
            let mut all: Vec<(&str, &str)> = names.iter().copied().zip(values).collect();
            sorting::sort(&mut all);
            let statement = Statement {
                scope: scope.to_string(),
                audience: None,
                serial: 42,
                issued: at(0),
                expires: at(90 * MINUTE),
                contents: Contents::of_names(&mut all.into_iter()),
            };
            let (signers, refused) = Signers::read(
                &[signing::line("ann", 1), signing::line("ben", 2)].concat(),
                &TimeZone::UTC,
            );
            assert_eq!(refused, []);
            Self {
                source,
                signing: Signing {
                    signed_by: "/signers".into(),
                    signatures: 1,
                    audience: None,
                },
                signers,
                known: AllTaken::new(),
                list,
                scope,
                statement,
                seeds: vec![1],
            }
        }

        fn path() -> Self {
            let entries = vec![
                entry("alice", "/k/web/alice/laptop", "a"),
                entry("bob", "/k/web/bob", "b"),
            ];
            let scope = Scope::Path("/k/web".into());
            Self::new(
                "paths = [\"/k/{tag:Role}\"]",
                scope,
                entries,
                &["alice/laptop", "bob"],
            )
        }

        fn signed(&self) -> Signed {
            Signed {
                scope: self.scope.clone(),
                text: signing::signed(&self.statement.text(), &self.seeds),
                version: Some(1),
                last_modified: Some(at(0)),
                others: Vec::new(),
            }
        }

        /// The list, with what is signed and what else the fetcher says.
        fn verify_with(
            &self,
            signed: Vec<Signed>,
            now: Timestamp,
        ) -> Result<AllTaken, Vec<Unsigned>> {
            let list = ApprovedList {
                signed,
                ..self.list.clone()
            };
            let trust = Trust {
                signing: &self.signing,
                signers: &self.signers,
                known: &self.known,
                now,
            };
            verify(&list, &self.source, trust)
        }

        fn verify(&self) -> Result<AllTaken, Vec<Unsigned>> {
            self.verify_with(vec![self.signed()], at(MINUTE))
        }

        fn fault(&self) -> String {
            reasons(self.verify())
        }
    }

    fn reasons(verified: Result<AllTaken, Vec<Unsigned>>) -> String {
        let faults = verified.err().unwrap_or_default();
        let told: Vec<String> = faults
            .iter()
            .map(|unsigned| format!("{}: {}", unsigned.scope, unsigned.fault.reason()))
            .collect();
        told.join("\n")
    }

    #[test]
    fn a_list_that_is_signed_is_taken() {
        let case = Case::path();
        let taken = case.verify().unwrap();
        let one = &taken["/k/web"];
        assert_eq!((one.serial, one.expires), (42, at(90 * MINUTE)));
        assert_eq!(one.signers[0].principals, "ann");
        // The same again, and a later one.
        let again = Case {
            known: taken.clone(),
            ..Case::path()
        };
        assert_eq!(again.fault(), "");
        let mut later = again;
        later.statement.serial = 43;
        later.statement.contents.sha256.clear();
        later.list.entries[1].value = "other".into();
        assert!(
            later
                .fault()
                .starts_with("/k/web: a name or a value is not")
        );
    }

    #[test]
    fn each_check_says_what_differs() {
        let check = |change: &dyn Fn(&mut Case), expected: &str| {
            let mut case = Case::path();
            change(&mut case);
            assert_eq!(case.fault(), format!("/k/web: {expected}"));
        };
        check(
            &|case| case.statement.scope = "/k/db".into(),
            "its signature is for `/k/db`",
        );
        check(
            &|case| case.statement.audience = Some("prod".into()),
            "it is signed for the audience `prod`, and this host is of no audience",
        );
        check(
            &|case| case.signing.audience = Some("prod".into()),
            "it is signed for no audience, and this host is of `prod`",
        );
        check(
            &|case| case.statement.issued = at(2 * MINUTE),
            "it was issued at 2027-01-15T08:02:00Z, which is still to come",
        );
        check(
            &|case| case.statement.expires = at(MINUTE),
            "its signature expired at 2027-01-15T08:01:00Z",
        );
        check(
            &|case| case.seeds.clear(),
            "it has 0 signatures, and needs 1",
        );
        check(
            &|case| case.signing.signatures = 2,
            "it has 1 signature, and needs 2",
        );
        let known = |serial: u64, sha256: &str| {
            let mut known = Case::path().verify().unwrap();
            let one = known.get_mut("/k/web").unwrap();
            one.serial = serial;
            one.sha256 = sha256.to_owned();
            known
        };
        check(
            &|case| case.known = known(43, ""),
            "its serial number is 42, and a list with 43 was in force",
        );
        check(
            &|case| case.known = known(42, ""),
            "another list was in force with its serial number, 42",
        );
        let mut twice = Case::path();
        twice.signing.signatures = 2;
        twice.seeds = vec![1, 1];
        assert!(
            twice
                .fault()
                .contains("it has 1 good signature, and needs 2: ")
        );
        assert!(twice.fault().ends_with(" signed twice"));
        twice.seeds = vec![1, 2];
        assert_eq!(twice.fault(), "");
        twice.seeds = vec![3, 1];
        assert!(
            twice.fault().contains("is not one that may sign"),
            "{}",
            twice.fault()
        );
    }

    #[test]
    fn another_value_name_or_number_of_parameters_is_no_signed_list() {
        let check = |change: &dyn Fn(&mut ApprovedList), expected: &str| {
            let mut case = Case::path();
            change(&mut case.list);
            let fault = case.fault();
            assert!(fault.starts_with(&format!("/k/web: {expected}")), "{fault}");
        };
        let other = "a name or a value is not the one that was signed";
        check(&|list| list.entries[0].value += " ", other);
        check(
            &|list| list.entries[1].parameter = "/k/web/bob/x".into(),
            other,
        );
        check(
            &|list| {
                list.entries[1].parameter = "/k/web/bob/x".into();
                list.entries[1].last_modified = Some(at(5));
            },
            "a name or a value is not the one that was signed; changed after it was signed: `/k/web/bob/x`",
        );
        check(
            &|list| drop(list.entries.remove(0)),
            "2 parameters signed, and 1 found",
        );
        check(
            &|list| list.entries.push(entry("bob", "/k/web/bob/more", "c")),
            "2 parameters signed, and 3 found",
        );
        // Values that are swapped.
        check(&|list| list.entries[1].value = "a".into(), other);
        // The account is not that of the name: what the fetcher says of it does not count.
        check(
            &|list| list.entries[1].account = "root".try_into().unwrap(),
            "2 parameters signed, and 1 found",
        );
        check(
            &|list| list.entries[1].version = None,
            "2 parameters signed, and 1 found",
        );
    }

    #[test]
    fn every_part_that_the_config_asks_for_is_signed_and_nothing_else_counts() {
        let mut case = Case::path();
        let now = at(MINUTE);
        assert_eq!(
            reasons(case.verify_with(Vec::new(), now)),
            "/k/{tag:Role}: it has no signature"
        );
        // A part that was not asked for, though it is signed well.
        let other = Case {
            source: toml::from_str("paths = [\"/k/db\"]").unwrap(),
            ..Case::path()
        };
        assert_eq!(other.fault(), "/k/db: it has no signature");
        // An entry beside what is signed.
        case.list
            .entries
            .push(entry("root", "/elsewhere/root", "c"));
        assert_eq!(
            case.fault(),
            "ssm:/k/web: `/elsewhere/root` is in no part that is signed"
        );
        case.list.entries[2].parameter = "/k/web/alice/laptop:3".into();
        assert!(!case.fault().is_empty());
        // What serves no account is signed too.
        let case = Case::path();
        let mut signed = case.signed();
        signed.others = vec![("/k/web/-/x".into(), "c".into())];
        assert_eq!(
            reasons(case.verify_with(vec![signed], now)),
            "/k/web: 2 parameters signed, and 3 found"
        );
    }

    #[test]
    fn named_parameters_and_a_directory_are_signed_too() {
        let entries = vec![
            entry("alice", "/keys/team:live", "t"),
            entry("bob", "/keys/team:live", "t"),
            entry("bob", "bob-keys", "b"),
        ];
        let source = "signed = \"/keys/.signed:live\"\n[parameters]\nalice = [\"/keys/{region}:live\"]\nbob = [\"/keys/{region}:live\", \"bob-keys\"]";
        let scope = Scope::Parameters("/keys/.signed".into());
        let mut case = Case::new(source, scope, entries, &[]);
        let mut all = [("bob-keys", "b"), ("keys/team", "t")].into_iter();
        case.statement.contents = Contents::of_names(&mut all);
        assert_eq!(case.fault(), "");
        // The config says whom a parameter serves.
        case.list.entries.push(entry("root", "bob-keys", "b"));
        assert!(
            case.fault()
                .ends_with("`bob-keys` is in no part that is signed")
        );

        let place = "/etc/approved";
        let entries = vec![
            entry("alice", "/etc/approved/alice", "a\n"),
            entry("bob", "/etc/approved/bob/x", "b\n"),
        ];
        let scope = Scope::Directory(place.into());
        let source = "directory = \"/etc/approved\"";
        let mut case = Case::new(source, scope, entries, &["alice", "bob/x"]);
        assert_eq!(case.fault(), "");
        case.statement.scope = place.into();
        assert_eq!(
            case.fault(),
            "directory:/etc/approved: its signature is for `/etc/approved`"
        );
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_valid_again() {
        let mut case = Case::path();
        case.known = Case::path().verify().unwrap();
        case.known.get_mut("/k/web").unwrap().issued = at(91 * MINUTE);
        let signed = vec![case.signed()];
        let reason = reasons(case.verify_with(signed, at(-MINUTE)));
        assert!(reason.contains("expired"), "{reason}");
        // What is in force is not of the future.
        case.known.get_mut("/k/web").unwrap().issued = at(0);
        let signed = vec![case.signed()];
        assert_eq!(reasons(case.verify_with(signed, at(-MINUTE))), "");
    }

    #[test]
    fn what_ends_first_ends_it() {
        let mut case = Case::path();
        let line = signing::line("ann", 1).replace("ssh-", "valid-before=\"20270115081320Z\" ssh-");
        case.signers = Signers::read(&line, &TimeZone::UTC).0;
        assert_eq!(case.verify().unwrap()["/k/web"].expires, at(800));
    }
}
