//! What publishing a directory changes: which parameters, and on which account who gains and who loses.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::key::grant::Grant;
use crate::model::key::id::KeyId;
use crate::model::key::line::Line;
use crate::model::list::bounds::STANDARD;
use crate::model::list::contents::Contents;
use crate::model::list::index::{self, BEING_PUBLISHED};
use crate::model::list::order::{Parameter, Step, Value, by_account, keys};
use crate::model::sorting::{self, Gather};
use crate::model::words::first;

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    StringList,
    SecureString,
}

/// A parameter below the path, as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub account: AccountName,
    pub version: u64,
    pub kind: Kind,
    pub value: Value,
}

/// By name.
pub type AllPublished = BTreeMap<String, Published>;

/// What the directory has for each parameter, by name.
pub type Wanted = BTreeMap<String, (AccountName, Value)>;

/// What becomes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Changed,
    /// It becomes a tombstone, as its account would else vanish from the list.
    Emptied,
    Deleted,
}

/// Whose keys become others on one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub gained: Vec<KeyId>,
    pub lost: Vec<KeyId>,
    /// These stay and have other options.
    pub changed: Vec<KeyId>,
    /// How many there are in the end.
    pub keys: usize,
}

/// What publishing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// All that are in the layout, for [`order`](super::order::order).
    pub parameters: Vec<Parameter>,
    pub changes: BTreeMap<String, Change>,
    pub unchanged: usize,
    /// Published and not in the directory; only pruning touches them.
    pub left: Vec<String>,
    /// What is put into a `SecureString`.
    pub secured: Vec<String>,
    /// The accounts on which something changes.
    pub accounts: BTreeMap<AccountName, Difference>,
    pub obstacles: Vec<Obstacle>,
}

/// Why nothing can be put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error(
        "{key} of `{account}` stands with other options in {}, and hosts would refuse both",
        quoted(.parameters)
    )]
    Conflict {
        account: AccountName,
        key: KeyId,
        parameters: BTreeSet<String>,
    },
    #[error(
        "`{0}` is a StringList, which cannot hold lines with a comma and never becomes a String"
    )]
    StringList(String),
    #[error(
        "--prune would take away every account that is published ({}), and the directory has only others ({})",
        first_of(.published),
        first_of(.wanted)
    )]
    OtherList {
        published: BTreeSet<AccountName>,
        wanted: BTreeSet<AccountName>,
    },
    #[error("`{name}` will have {bytes} bytes, more than the {STANDARD} of a standard parameter")]
    NeedsAdvanced { name: String, bytes: usize },
}

impl Obstacle {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => {
                "what is published and not in the directory counts too: put it there, or delete it with --prune"
            }
            Self::StringList(_) => {
                "give its file another name, so that it becomes a parameter of its own, and publish with --prune"
            }
            Self::OtherList { .. } => {
                "look at the directory and the path; if it is meant, publish first without --prune"
            }
            Self::NeedsAdvanced { .. } => {
                "split the file into several, or allow advanced parameters with --tier advanced: AWS bills those, and they never \
                 become standard ones again"
            }
        }
    }
}

/// What a tombstone says. Always the same, so that it is put once.
const TOMBSTONE: &str = "# no keys: the list has none for this account any more";

/// How a directory is published.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// What is published and not wanted is deleted.
    pub prune: bool,
    /// A value may become larger than a standard parameter.
    pub advanced: bool,
    /// White space at the end of what is published counts: it was signed without.
    pub exact: bool,
}

/// What has to be done so that `wanted` is published.
pub fn plan(published: &AllPublished, wanted: &Wanted, way: Way) -> Plan {
    let Way {
        prune,
        advanced,
        exact,
    } = way;
    let mut plan = Plan::default();
    let heirs = tombstones(published, wanted);
    let is_same =
        |one: &str, other: &str| one == other || !exact && one.trim_end() == other.trim_end();
    for (name, before) in published {
        let tombstone = heirs.get(&before.account);
        let (after, change) = match wanted.get(name) {
            Some((_, value)) if !is_same(&value.text, &before.value.text) => {
                (Some(value.clone()), Some(Change::Changed))
            }
            Some(_) => (Some(before.value.clone()), None),
            // It stays until the account has keys again.
            None if tombstone.is_some() && is_tombstone(&before.value.text) => {
                (Some(before.value.clone()), None)
            }
            None if !prune => {
                plan.left.push(name.clone());
                (Some(before.value.clone()), None)
            }
            None if tombstone.copied().flatten() == Some(name) => {
                let (text, lines) = (TOMBSTONE.to_owned(), Vec::new());
                (Some(Value { text, lines }), Some(Change::Emptied))
            }
            None => (None, Some(Change::Deleted)),
        };
        if let (Some(_), Some(after)) = (change, &after) {
            let stays_small = before.value.text.len() <= STANDARD;
            plan.check_size(name, after, stays_small && !advanced);
            if before.kind == Kind::StringList {
                plan.obstacles.push(Obstacle::StringList(name.clone()));
            }
            if before.kind == Kind::SecureString {
                plan.secured.push(name.clone());
            }
        }
        plan.add(
            name,
            &before.account,
            Some(before.value.clone()),
            after,
            change,
        );
    }
    for (name, (account, value)) in wanted {
        if !published.contains_key(name) {
            plan.check_size(name, value, !advanced);
            plan.add(
                name,
                account,
                None,
                Some(value.clone()),
                Some(Change::Created),
            );
        }
    }
    plan.unchanged -= plan.left.len();
    plan.compare(wanted);
    if prune {
        plan.obstacles.extend(other_list(published, wanted));
    }
    plan
}

/// Where no account is both published and wanted, the directory or the path is most likely a wrong one.
fn other_list(published: &AllPublished, wanted: &Wanted) -> Option<Obstacle> {
    let has_keys = published.values().any(|one| !one.value.lines.is_empty());
    let published: BTreeSet<_> = published.values().map(|one| one.account.clone()).collect();
    let wanted: BTreeSet<_> = wanted
        .values()
        .map(|(account, _)| account.clone())
        .collect();
    let is_other = has_keys && published.is_disjoint(&wanted);
    is_other.then_some(Obstacle::OtherList { published, wanted })
}

/// The accounts that are published and not wanted, each with the parameter that becomes its tombstone; `None` where it has one.
fn tombstones<'a>(
    published: &'a AllPublished,
    wanted: &Wanted,
) -> BTreeMap<&'a AccountName, Option<&'a String>> {
    let stays: BTreeSet<&AccountName> = wanted.values().map(|(account, _)| account).gather();
    let mut found: BTreeMap<&AccountName, Option<&String>> = BTreeMap::new();
    for (name, one) in published {
        if !stays.contains(&one.account) && one.kind != Kind::StringList {
            found.entry(&one.account).or_insert(Some(name));
        }
    }
    for one in published.values() {
        if is_tombstone(&one.value.text)
            && let Some(tombstone) = found.get_mut(&one.account)
        {
            *tombstone = None;
        }
    }
    found
}

/// Comments alone.
fn is_tombstone(text: &str) -> bool {
    let is_comment =
        |line: &str| matches!(Line::read(line.as_bytes()), Ok(Line::Blank | Line::Comment));
    !text.trim().is_empty() && text.split('\n').all(is_comment)
}

impl Plan {
    /// What there is below the path in the end, with what is not for a publishing to touch.
    pub fn contents(&self, path: &str, strangers: &BTreeMap<String, String>) -> Contents {
        let mut all: Vec<(&String, &String)> = strangers.iter().collect();
        for one in &self.parameters {
            all.extend(one.after.iter().map(|after| (&one.name, &after.text)));
        }
        sorting::sort(&mut all);
        Contents::of(path, &mut all.into_iter())
    }

    /// Where it is not known what hosts have in force: each key that there will be is one gained.
    pub fn count_all_as_new(&mut self) {
        self.accounts.clear();
        for (account, own) in by_account(&self.parameters) {
            let after = keys(own.iter().flat_map(|one| lines(one.after.as_ref())));
            let difference = Difference::between(&BTreeMap::new(), &after);
            self.accounts.insert(account.clone(), difference);
        }
    }

    /// Adds the writes of the index, which holds the text `now`: before all others it is made to say nothing, so that no host
    /// believes what they replace, even if they end in the middle; after all of them it says what there is.
    pub fn index(
        &mut self,
        steps: &mut Vec<Step>,
        path: &str,
        contents: &Contents,
        now: Option<&str>,
        is_secured: bool,
    ) {
        let is_right = now.is_some_and(|now| contents.are_said_by(now, path));
        if steps.is_empty() && is_right {
            return;
        }
        let name = index::name(path);
        let step = |text: &str, is_last| Step {
            name: name.clone(),
            value: Some(text.to_owned()),
            is_last,
        };
        if !steps.is_empty() && now.is_some_and(|now| now != BEING_PUBLISHED) {
            steps.insert(0, step(BEING_PUBLISHED, false));
        }
        steps.push(step(&contents.text(path), true));
        if is_secured {
            self.secured.push(name.clone());
        }
        let change = now.map_or(Change::Created, |_| Change::Changed);
        self.changes.insert(name, change);
    }

    /// Adds the signature, the parameter `name`, which is of this kind if it is there.
    pub fn sign(&mut self, name: String, kind: Option<Kind>) {
        let change = kind.map_or(Change::Created, |_| Change::Changed);
        if kind == Some(Kind::SecureString) {
            self.secured.push(name.clone());
        }
        self.changes.insert(name, change);
    }

    fn add(
        &mut self,
        name: &str,
        account: &AccountName,
        before: Option<Value>,
        after: Option<Value>,
        change: Option<Change>,
    ) {
        match change {
            None => self.unchanged += 1,
            Some(change) => {
                self.changes.insert(name.to_owned(), change);
            }
        }
        self.parameters.push(Parameter {
            name: name.to_owned(),
            account: account.clone(),
            before,
            after,
        });
    }

    fn check_size(&mut self, name: &str, after: &Value, must_be_small: bool) {
        let bytes = after.text.len();
        if must_be_small && bytes > STANDARD {
            let name = name.to_owned();
            self.obstacles.push(Obstacle::NeedsAdvanced { name, bytes });
        }
    }

    /// Who gains and who loses, and which keys hosts would refuse.
    fn compare(&mut self, wanted: &Wanted) {
        for (account, own) in by_account(&self.parameters) {
            let before = keys(own.iter().flat_map(|one| lines(one.before.as_ref())));
            let after = keys(own.iter().flat_map(|one| lines(one.after.as_ref())));
            let difference = Difference::between(&before, &after);
            if !difference.is_empty() {
                self.accounts.insert(account.clone(), difference);
            }
            let refused = own.iter().flat_map(|one| {
                let lines = lines(one.after.as_ref()).map(|line| (line, &one.name));
                lines.filter(|(line, _)| !after.contains_key(line.fingerprint.as_str()))
            });
            let mut conflicts: BTreeMap<&str, (&Grant, BTreeSet<String>)> = BTreeMap::new();
            for (line, name) in refused {
                let (_, places) = conflicts
                    .entry(&line.fingerprint)
                    .or_insert((line, BTreeSet::new()));
                places.insert(name.clone());
            }
            // What is published so already is not for this directory to settle.
            let of_directory =
                |places: &BTreeSet<String>| places.iter().any(|name| wanted.contains_key(name));
            let conflicts = conflicts
                .into_values()
                .filter(|(_, places)| of_directory(places));
            let conflicts = conflicts.map(|(line, parameters)| Obstacle::Conflict {
                account: account.clone(),
                key: KeyId::from(line),
                parameters,
            });
            self.obstacles.extend(conflicts);
        }
    }
}

impl Difference {
    fn between(before: &BTreeMap<&str, &Grant>, after: &BTreeMap<&str, &Grant>) -> Self {
        let ids = |keys: &mut dyn Iterator<Item = &&Grant>| {
            let mut ids: Vec<KeyId> = keys.map(|line| KeyId::from(*line)).collect();
            sorting::sort_by(&mut ids, |a, b| {
                (&a.comment, &a.fingerprint).cmp(&(&b.comment, &b.fingerprint))
            });
            ids
        };
        let is_in = |keys: &BTreeMap<&str, &Grant>, line: &Grant| {
            keys.contains_key(line.fingerprint.as_str())
        };
        let has_others = |line: &&&Grant| {
            let before = before.get(line.fingerprint.as_str());
            before.is_some_and(|before| before.authorises() != line.authorises())
        };
        Self {
            gained: ids(&mut after.values().filter(|line| !is_in(before, line))),
            lost: ids(&mut before.values().filter(|line| !is_in(after, line))),
            changed: ids(&mut after.values().filter(has_others)),
            keys: after.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.gained.is_empty() && self.lost.is_empty() && self.changed.is_empty()
    }
}

fn lines(value: Option<&Value>) -> impl Iterator<Item = &Grant> {
    value.into_iter().flat_map(|value| &value.lines)
}

/// As many as a line has room for.
fn first_of(accounts: &BTreeSet<AccountName>) -> String {
    const FIRST: usize = 3;
    first(FIRST, accounts.iter())
}

fn quoted(names: &BTreeSet<String>) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("`{}`", escaped(name)))
        .collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::model::list::order::order;

    fn account(name: &str) -> AccountName {
        name.split('/').next().unwrap().try_into().unwrap()
    }

    /// A line is `KEY` or `OPTION KEY`; what begins with `#` is a comment.
    fn value(text: &str) -> Value {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let grant = |line: &str| {
            let key = line.rsplit(' ').next().unwrap();
            Grant::of_line(line, key)
        };
        Value {
            text: text.to_owned(),
            lines: lines.map(grant).collect(),
        }
    }

    fn published(values: &[(&str, Kind, &str)]) -> AllPublished {
        let one = |(name, kind, text): &(&str, Kind, &str)| {
            let one = Published {
                account: account(name),
                version: 1,
                kind: *kind,
                value: value(text),
            };
            ((*name).to_owned(), one)
        };
        values.iter().map(one).collect()
    }

    fn wanted(values: &[(&str, &str)]) -> Wanted {
        let one = |(name, text): &(&str, &str)| ((*name).to_owned(), (account(name), value(text)));
        values.iter().map(one).collect()
    }

    const TEXT: Kind = Kind::String;

    fn way(prune: bool, advanced: bool) -> Way {
        Way {
            prune,
            advanced,
            ..Way::default()
        }
    }

    #[test]
    fn each_parameter_becomes_what_the_directory_says() {
        use Change::{Changed, Created, Deleted, Emptied};
        let check = |before: &[(&str, Kind, &str)],
                     after: &[(&str, &str)],
                     prune: bool,
                     changes: &[(&str, Change)],
                     left: &[&str]| {
            let plan = plan(&published(before), &wanted(after), way(prune, false));
            let found: Vec<_> = plan
                .changes
                .iter()
                .map(|(name, change)| (name.as_str(), *change))
                .collect();
            assert_eq!(found, changes, "{before:?} {after:?}");
            assert_eq!(plan.left, left);
            let is_other = |one: &Obstacle| matches!(one, Obstacle::OtherList { .. });
            assert!(plan.obstacles.iter().all(is_other), "{:?}", plan.obstacles);
            let all = plan.parameters.len();
            assert_eq!(plan.unchanged, all - changes.len() - left.len());
        };
        let (a, b) = (("a/1", TEXT, "x"), ("a/2", TEXT, "y"));
        check(&[], &[("a/1", "x")], false, &[("a/1", Created)], &[]);
        check(&[a], &[("a/1", "x")], true, &[], &[]);
        // A new line at the end is no change: a file has one, and a parameter need not.
        check(&[("a/1", TEXT, "x\n")], &[("a/1", "x")], true, &[], &[]);
        check(&[a], &[("a/1", "# new\nx")], true, &[("a/1", Changed)], &[]);
        check(&[a, b], &[("a/1", "x")], false, &[], &["a/2"]);
        check(&[a, b], &[("a/1", "x")], true, &[("a/2", Deleted)], &[]);
        // An account that leaves.
        check(
            &[a, b],
            &[("b", "z")],
            false,
            &[("b", Created)],
            &["a/1", "a/2"],
        );
        check(
            &[a, b],
            &[("b", "z")],
            true,
            &[("a/1", Emptied), ("a/2", Deleted), ("b", Created)],
            &[],
        );
        // One that has left, and one that is back.
        let gone = ("a/3", TEXT, "# gone");
        check(&[gone], &[("b", "z")], true, &[("b", Created)], &[]);
        check(&[gone], &[("b", "z")], false, &[("b", Created)], &[]);
        check(
            &[a, gone],
            &[("b", "z")],
            true,
            &[("a/1", Deleted), ("b", Created)],
            &[],
        );
        check(
            &[gone],
            &[("a/1", "x")],
            true,
            &[("a/1", Created), ("a/3", Deleted)],
            &[],
        );
        // A StringList becomes no tombstone.
        let list = ("a/0", Kind::StringList, "w");
        check(
            &[list, a],
            &[("b", "z")],
            true,
            &[("a/0", Deleted), ("a/1", Emptied), ("b", Created)],
            &[],
        );
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let check = |before: &[(&str, Kind, &str)],
                     after: &[(&str, &str)],
                     prune: bool,
                     expected: &[&str]| {
            let plan = plan(&published(before), &wanted(after), way(prune, false));
            let found: Vec<String> = plan.obstacles.iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{found}");
            }
        };
        let old = ("a/1", TEXT, "from x");
        check(
            &[old],
            &[("a/2", "x")],
            false,
            &["(no name) x of `a` stands with other options in `a/1` and `a/2`"],
        );
        check(&[old], &[("a/2", "x")], true, &[]);
        check(&[old, ("a/2", TEXT, "x")], &[("a/3", "y")], false, &[]);
        check(
            &[("a/1", Kind::StringList, "x")],
            &[("a/1", "y")],
            true,
            &["`a/1` is a StringList"],
        );
        check(
            &[("a/1", Kind::StringList, "x")],
            &[("a/1", "x")],
            true,
            &[],
        );
        // Nothing in common: a wrong directory, unless nothing is lost.
        let (b, c) = (("b", TEXT, "y"), ("c", TEXT, "# gone"));
        let other = "--prune would take away every account that is published (";
        check(&[old], &[("b", "y")], false, &[]);
        check(
            &[old],
            &[("b", "y")],
            true,
            &[&format!("{other}a), and the directory has only others (b)")],
        );
        check(
            &[old, b, c, ("d", TEXT, "")],
            &[("e", "y")],
            true,
            &[&format!("{other}a, b, c and 1 more)")],
        );
        check(&[old, b], &[("b", "y")], true, &[]);
        check(&[old, c], &[("c", "y")], true, &[]);
        check(&[c], &[("a/1", "x")], true, &[]);
        let large = format!("# {}", "z".repeat(STANDARD));
        check(
            &[],
            &[("a/1", &large)],
            true,
            &["`a/1` will have 4098 bytes"],
        );
        check(
            &[old],
            &[("a/1", &large)],
            true,
            &["`a/1` will have 4098 bytes"],
        );
        let larger = format!("{large}z");
        check(&[("a/1", TEXT, &large)], &[("a/1", &larger)], true, &[]);
        let told = plan(
            &published(&[]),
            &wanted(&[("a/1", &large)]),
            way(true, true),
        );
        assert_eq!(told.obstacles, []);
    }

    #[test]
    fn who_gains_and_who_loses_is_told_by_account() {
        let before = published(&[("a/1", TEXT, "x\ny"), ("a/2", TEXT, "z"), ("b", TEXT, "x")]);
        let after = wanted(&[("a/1", "from y\nw"), ("a/3", "z"), ("b", "x"), ("c", "x")]);
        let plan = plan(&before, &after, way(true, false));
        let ids = |keys: &[KeyId]| {
            keys.iter()
                .map(|key| key.fingerprint.clone())
                .collect::<Vec<_>>()
                .concat()
        };
        let told: Vec<_> = plan
            .accounts
            .iter()
            .map(|(account, it)| {
                (
                    account.as_str(),
                    ids(&it.gained),
                    ids(&it.lost),
                    ids(&it.changed),
                    it.keys,
                )
            })
            .collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            told,
            [
                ("a", text("w"), text("x"), text("y"), 3),
                ("c", text("x"), text(""), text(""), 1)
            ]
        );
    }

    fn lists() -> impl Strategy<Value = BTreeMap<(u8, u8), Vec<u8>>> {
        btree_map((0u8..3, 0u8..3), vec(0u8..4, 0..3), 0..6)
    }

    fn texts(list: &BTreeMap<(u8, u8), Vec<u8>>) -> Vec<(String, String)> {
        let text = |keys: &Vec<u8>| match keys.as_slice() {
            [] => "# none".to_owned(),
            keys => keys
                .iter()
                .map(|key| format!("k{key}"))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        list.iter()
            .map(|((account, label), keys)| (format!("a{account}/{label}"), text(keys)))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Wherever it ends: the next one, and the one after that, which has nothing to do, leave the same.
        #[test]
        fn published_again_from_anywhere_it_is_the_same(before in lists(), after in lists(), at: prop::sample::Index) {
            let texts_before = texts(&before);
            let before: Vec<_> = texts_before.iter().map(|(name, text)| (name.as_str(), TEXT, text.as_str())).collect();
            let texts_after = texts(&after);
            let after: Vec<_> = texts_after.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            let (mut now, wanted) = (published(&before), wanted(&after));
            let first = plan(&now, &wanted, way(true, false));
            let whole: BTreeMap<&String, &Value> = first.parameters.iter().filter_map(|one| Some((&one.name, one.after.as_ref()?))).collect();
            let steps = order(&first.parameters).unwrap();
            for step in &steps[..at.index(steps.len() + 1)] {
                match &step.value {
                    None => drop(now.remove(&step.name)),
                    Some(text) => {
                        let (account, kind) = (account(&step.name), TEXT);
                        now.insert(step.name.clone(), Published { account, version: 1, kind, value: value(text) });
                    }
                }
            }
            for is_last in [false, true] {
                let next = plan(&now, &wanted, way(true, false));
                prop_assert!(!is_last || next.changes.is_empty());
                let rest: BTreeMap<&String, &Value> = next.parameters.iter().filter_map(|one| Some((&one.name, one.after.as_ref()?))).collect();
                let text = |of: &BTreeMap<&String, &Value>| of.iter().map(|(name, value)| format!("{name} {}", value.text.trim_end())).collect::<Vec<_>>();
                prop_assert_eq!(text(&rest), text(&whole));
                let end = next.parameters.into_iter().filter_map(|one| {
                    let (account, kind) = (one.account, TEXT);
                    Some((one.name, Published { account, version: 1, kind, value: one.after? }))
                });
                now = end.collect();
            }
            // Every account that was published or is wanted is still spoken of.
            let accounts: BTreeSet<_> = now.values().map(|one| &one.account).collect();
            for (name, _) in texts_before.iter().chain(&texts_after) {
                prop_assert!(accounts.contains(&account(name)));
            }
        }

        /// One that reads after any of the writes, wherever they end, holds what is published then.
        #[test]
        fn no_host_believes_what_was_replaced(
            lists in vec(lists(), 3),
            index in prop::sample::select(vec!["none", "right", "stale", "interrupted", "garbage"]),
            ends: prop::sample::Index,
            polls in vec(any::<u8>(), 64),
        ) {
            let [old, before, after] = lists.as_slice() else { unreachable!() };
            let mut store: BTreeMap<String, String> = named(old);
            let said = |store: &BTreeMap<String, String>| Contents::of(PATH, &mut store.iter()).text(PATH);
            let index_name = index::name(PATH);
            match index {
                "none" => None,
                "interrupted" => store.insert(index_name.clone(), BEING_PUBLISHED.to_owned()),
                "garbage" => store.insert(index_name.clone(), "<html>".to_owned()),
                _ => store.insert(index_name.clone(), said(&store)),
            };
            let mut hosts: Vec<Host> = vec![Host::default(); 8];
            hosts[..4].iter_mut().for_each(|host| host.poll(&store));
            // By hand, with the index or without.
            let text = store.remove(&index_name);
            store = named(before);
            if let Some(text) = text {
                let text = if index == "right" { said(&store) } else { text };
                store.insert(index_name.clone(), text);
            }
            let mut polls = polls.into_iter().cycle();
            // Ended in the middle, and then run again without the option.
            for (ends, with_option) in [(Some(ends), true), (None, false)] {
                let published: AllPublished = store.iter().filter(|(name, _)| **name != index_name).map(|(name, text)| {
                    let below = name.strip_prefix("/k/").unwrap();
                    (name.clone(), Published { account: account(below), version: 1, kind: TEXT, value: value(text) })
                }).collect();
                let wanted: Wanted = named(after).into_iter().map(|(name, text)| {
                    let of = account(name.strip_prefix("/k/").unwrap());
                    (name, (of, value(&text)))
                }).collect();
                let mut next = plan(&published, &wanted, way(true, false));
                let mut steps = order(&next.parameters).unwrap();
                let now = store.get(&index_name).cloned();
                let keeps_index = with_option || now.is_some();
                if keeps_index {
                    let contents = next.contents(PATH, &BTreeMap::new());
                    next.index(&mut steps, PATH, &contents, now.as_deref(), false);
                }
                let end = ends.map_or(steps.len(), |ends| ends.index(steps.len() + 1));
                let is_done = end == steps.len();
                for step in steps.drain(..end) {
                    match step.value {
                        Some(text) => drop(store.insert(step.name, text)),
                        None => drop(store.remove(&step.name)),
                    }
                    let which = polls.next().unwrap_or_default();
                    for (at, host) in hosts.iter_mut().enumerate() {
                        if which & (1 << at) != 0 {
                            host.poll(&store);
                            prop_assert_eq!(&host.held, &values(&store));
                        }
                    }
                }
                if is_done {
                    let index = store.get(&index_name).cloned();
                    prop_assert!(!keeps_index || index == Some(said(&store)));
                    for host in &mut hosts {
                        host.poll(&store);
                        prop_assert_eq!(&host.held, &values(&store));
                        prop_assert_eq!(host.known.is_some(), index.is_some());
                    }
                }
            }
        }
    }

    const PATH: &str = "/k";

    fn named(list: &BTreeMap<(u8, u8), Vec<u8>>) -> BTreeMap<String, String> {
        let texts = texts(list).into_iter();
        texts
            .map(|(name, text)| (format!("{PATH}/{name}"), text))
            .collect()
    }

    /// All but the index.
    fn values(store: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut values = store.clone();
        values.remove(&index::name(PATH));
        values
    }

    #[derive(Clone, Default)]
    struct Host {
        held: BTreeMap<String, String>,
        known: Option<Contents>,
    }

    impl Host {
        fn poll(&mut self, store: &BTreeMap<String, String>) {
            let text = store.get(&index::name(PATH)).map_or("", String::as_str);
            if self
                .known
                .as_ref()
                .is_some_and(|known| known.are_said_by(text, PATH))
            {
                return;
            }
            self.held = values(store);
            let contents = Contents::of(PATH, &mut store.iter());
            self.known = contents.are_said_by(text, PATH).then_some(contents);
        }
    }
}
