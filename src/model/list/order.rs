//! In which order parameters are put and deleted, so that who reads between two writes never sees less than was meant.
//!
//! Whatever was written so far: an account that has keys before and after has some, and a key that an account has before and
//! after is there. So is each when a publishing ends in the middle and the rest is ordered anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::account::AccountName;
use crate::model::escape::escaped;
use crate::model::key::grant::Grant;
use crate::model::list::bounds::{ADVANCED, STANDARD};
use crate::model::sorting::Gather;

/// What a parameter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub text: String,
    /// Those of its lines that a host takes.
    pub lines: Vec<Grant>,
}

/// A parameter as it is published and as it will be; `None` where it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub account: AccountName,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    /// What is put; `None` deletes.
    pub value: Option<String>,
    /// Whether this is what the parameter holds in the end; else it is put once more.
    pub is_last: bool,
}

/// The keys of an account move between parameters, and no parameter has room for both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the keys of `{account}` move between parameters such that none can be written first, and none has room for what it holds \
     and will hold: {}",
    .parameters.iter().map(|name| escaped(name)).collect::<Vec<_>>().join(", ")
)]
pub struct Stuck {
    pub account: AccountName,
    pub parameters: Vec<String>,
}

impl Stuck {
    pub const HINT: &str =
        "publish in two steps: put the keys that move into a parameter of their own first";
}

/// The writes that make `parameters`, which are all below a path, what they will be; deletions are the last.
pub fn order(parameters: &[Parameter]) -> Result<Vec<Step>, Stuck> {
    let mut accounts: Vec<_> = by_account(parameters)
        .into_iter()
        .map(|(name, own)| Account::new(name, own))
        .collect();
    let mut steps = Vec::new();
    for account in &mut accounts {
        account.put(&mut steps)?;
    }
    for account in &mut accounts {
        account.delete(&mut steps)?;
    }
    Ok(steps)
}

/// The parameters of each account.
pub fn by_account(parameters: &[Parameter]) -> BTreeMap<&AccountName, Vec<&Parameter>> {
    let mut accounts: BTreeMap<&AccountName, Vec<&Parameter>> = BTreeMap::new();
    for parameter in parameters {
        let own = accounts.entry(&parameter.account).or_default();
        own.push(parameter);
    }
    accounts
}

/// The keys of an account as a host takes them: one that two lines give different options is refused.
pub fn keys<'a>(lines: impl Iterator<Item = &'a Grant>) -> BTreeMap<&'a str, &'a Grant> {
    let mut keys: BTreeMap<&str, Option<&Grant>> = BTreeMap::new();
    for line in lines {
        let known = keys.entry(&line.fingerprint).or_insert(Some(line));
        *known = known.filter(|known| known.authorises() == line.authorises());
    }
    let taken = |(key, line): (&'a str, Option<&'a Grant>)| Some((key, line?));
    keys.into_iter().filter_map(taken).gather()
}

/// One account on the way from before to after.
struct Account<'a> {
    name: &'a AccountName,
    parameters: Vec<Pending<'a>>,
    /// The keys that it has before and after.
    kept: BTreeSet<&'a str>,
    /// Those that it has after.
    after: BTreeMap<&'a str, &'a Grant>,
    /// It has keys before and after.
    needs_keys: bool,
    /// Which parameters have a key, before or after.
    places: BTreeMap<&'a str, BTreeSet<usize>>,
}

struct Pending<'a> {
    parameter: &'a Parameter,
    /// The lines in it now.
    now: Vec<&'a Grant>,
    is_done: bool,
}

impl<'a> Account<'a> {
    fn new(name: &'a AccountName, own: Vec<&'a Parameter>) -> Self {
        let before = keys(own.iter().flat_map(|one| lines(one.before.as_ref())));
        let after = keys(own.iter().flat_map(|one| lines(one.after.as_ref())));
        let needs_keys = !before.is_empty() && !after.is_empty();
        let kept = before.into_keys().filter(|key| after.contains_key(key));
        let kept = kept.gather();
        let mut places: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (at, one) in own.iter().enumerate() {
            for line in lines(one.before.as_ref()).chain(lines(one.after.as_ref())) {
                places.entry(&line.fingerprint).or_default().insert(at);
            }
        }
        let pending = own.into_iter().map(|parameter| Pending {
            parameter,
            now: lines(parameter.before.as_ref()).collect(),
            is_done: text(parameter.before.as_ref()) == text(parameter.after.as_ref()),
        });
        Self {
            name,
            parameters: pending.collect(),
            kept,
            after,
            needs_keys,
            places,
        }
    }

    fn put(&mut self, steps: &mut Vec<Step>) -> Result<(), Stuck> {
        let is_put = |one: &Pending<'_>| !one.is_done && one.parameter.after.is_some();
        while self.parameters.iter().any(is_put) {
            if !self.finish_one(steps, is_put) && !self.bridge(steps) {
                return Err(self.stuck());
            }
        }
        Ok(())
    }

    fn delete(&mut self, steps: &mut Vec<Step>) -> Result<(), Stuck> {
        let is_left = |one: &Pending<'_>| !one.is_done;
        while self.parameters.iter().any(is_left) {
            if !self.finish_one(steps, is_left) {
                return Err(self.stuck());
            }
        }
        Ok(())
    }

    /// Makes one of the parameters what it will be, if that takes nothing away too soon.
    fn finish_one(&mut self, steps: &mut Vec<Step>, may_be: impl Fn(&Pending<'_>) -> bool) -> bool {
        for at in 0..self.parameters.len() {
            if !may_be(&self.parameters[at]) {
                continue;
            }
            let parameter = self.parameters[at].parameter;
            let after: Vec<&Grant> = lines(parameter.after.as_ref()).collect();
            if self.is_safe(at, &after) {
                self.parameters[at].now = after;
                self.parameters[at].is_done = true;
                steps.push(Step {
                    name: parameter.name.clone(),
                    value: text(parameter.after.as_ref()).map(str::to_owned),
                    is_last: true,
                });
                return true;
            }
        }
        false
    }

    /// Where no parameter can become what it will be: puts one between, so that another can.
    ///
    /// A key whose options change is in one parameter only, then it changes there; and a parameter gets what it will hold
    /// beside what it must still hold. After all of these nothing is in the way any more.
    fn bridge(&mut self, steps: &mut Vec<Step>) -> bool {
        self.bridge_by(steps, Self::without_doubles)
            || self.bridge_by(steps, Self::with_new_options)
            || self.bridge_by(steps, Self::with_both)
    }

    fn bridge_by(
        &mut self,
        steps: &mut Vec<Step>,
        between: impl Fn(&Self, usize) -> Option<(String, Vec<&'a Grant>)>,
    ) -> bool {
        for at in 0..self.parameters.len() {
            if self.parameters[at].is_done {
                continue;
            }
            let Some((text, now)) = between(self, at) else {
                continue;
            };
            let one = &mut self.parameters[at];
            if text.len() > one.room() {
                continue;
            }
            one.now = now;
            steps.push(Step {
                name: one.parameter.name.clone(),
                value: Some(text),
                is_last: false,
            });
            return true;
        }
        false
    }

    /// Without the lines of keys whose options will change and that another parameter has too.
    fn without_doubles(&self, at: usize) -> Option<(String, Vec<&'a Grant>)> {
        let now = &self.parameters[at].now;
        let is_double = |line: &Grant| {
            let key = line.fingerprint.as_str();
            let is_kept = self.kept.contains(key) && self.changes(line);
            is_kept && self.elsewhere(at, key).next().is_some()
        };
        let rest = now.iter().filter(|line| !is_double(line));
        let rest: Vec<&Grant> = rest.copied().collect();
        (rest.len() < now.len()).then(|| (written(&rest), rest))
    }

    /// With the options that its keys will have.
    fn with_new_options(&self, at: usize) -> Option<(String, Vec<&'a Grant>)> {
        let now = &self.parameters[at].now;
        let as_after = |line: &&'a Grant| {
            let after = self.after.get(line.fingerprint.as_str()).copied();
            after.filter(|_| self.changes(line)).unwrap_or(line)
        };
        let new: Vec<&Grant> = now.iter().map(as_after).collect();
        (new != *now && self.is_safe(at, &new)).then(|| (written(&new), new))
    }

    /// With all that it will hold, and those keys of today that would otherwise be missed.
    fn with_both(&self, at: usize) -> Option<(String, Vec<&'a Grant>)> {
        let one = &self.parameters[at];
        let after = one.parameter.after.as_ref()?;
        let has = |line: &Grant| {
            one.now
                .iter()
                .any(|now| now.authorises() == line.authorises())
        };
        if after.lines.iter().all(has) {
            return None;
        }
        let mut both: Vec<&Grant> = after.lines.iter().collect();
        let missed = one.now.iter().copied().filter(|line| {
            let key = line.fingerprint.as_str();
            self.kept.contains(key) && !self.has(at, &both, key)
        });
        let missed: Vec<&Grant> = missed.collect();
        let text = format!("{}\n{}", after.text, written(&missed));
        both.extend(missed);
        self.is_safe(at, &both).then_some((text, both))
    }

    /// Whether the options of its key are others in the end.
    fn changes(&self, line: &Grant) -> bool {
        let after = self.after.get(line.fingerprint.as_str());
        after.is_some_and(|after| after.authorises() != line.authorises())
    }

    /// Whether nothing is missed while the parameter `at` holds these lines and the others what they hold now.
    fn is_safe(&self, at: usize, lines: &[&'a Grant]) -> bool {
        let touched = self.parameters[at].now.iter().chain(lines);
        let mut kept = touched.filter(|line| self.kept.contains(line.fingerprint.as_str()));
        let has_kept = kept.all(|line| self.has(at, lines, &line.fingerprint));
        has_kept && (!self.needs_keys || !self.kept.is_empty() || self.has_any(at, lines))
    }

    /// Whether a host takes this key then.
    fn has(&self, at: usize, lines: &[&'a Grant], key: &str) -> bool {
        let here = lines.iter().copied();
        let here = here.filter(|line| line.fingerprint == key);
        keys(self.elsewhere(at, key).chain(here)).contains_key(key)
    }

    /// Whether it takes any.
    fn has_any(&self, at: usize, lines: &[&'a Grant]) -> bool {
        let others = self.parameters.iter().enumerate();
        let others = others.filter(|(other, _)| *other != at);
        let others = others.flat_map(|(_, one)| one.now.iter().copied());
        !keys(others.chain(lines.iter().copied())).is_empty()
    }

    /// The lines with this key in all parameters but this one.
    fn elsewhere(&self, at: usize, key: &str) -> impl Iterator<Item = &'a Grant> {
        let places = self.places.get(key).into_iter().flatten();
        let others = places.filter(move |other| **other != at);
        let lines = others.flat_map(|other| self.parameters[*other].now.iter().copied());
        lines.filter(move |line| line.fingerprint == key)
    }

    fn stuck(&self) -> Stuck {
        let left = self.parameters.iter().filter(|one| !one.is_done);
        Stuck {
            account: self.name.clone(),
            parameters: left.map(|one| one.parameter.name.clone()).collect(),
        }
    }
}

impl Pending<'_> {
    /// In bytes. A parameter does not become an advanced one for what it holds for a moment.
    fn room(&self) -> usize {
        let Parameter { before, after, .. } = self.parameter;
        let of = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.text.len());
        if of(before).max(of(after)) > STANDARD {
            ADVANCED
        } else {
            STANDARD
        }
    }
}

fn lines(value: Option<&Value>) -> impl Iterator<Item = &Grant> {
    value.into_iter().flat_map(|value| &value.lines)
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.map(|value| value.text.as_str())
}

/// As a value, which is never empty.
fn written(lines: &[&Grant]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.line.as_str()).collect();
    if lines.is_empty() {
        return "# being published".to_owned();
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    /// Parameters of one account: names, and in each the keys with the number of their options.
    type State = BTreeMap<String, Vec<(u8, u8)>>;

    fn value(keys: &[(u8, u8)]) -> Value {
        let line = |&(key, options): &(u8, u8)| {
            let body = format!("ssh-ed25519 BODY{key}");
            let line = match options {
                0 => format!("{body} name"),
                more => format!("from=\"10.0.0.{more}\" {body} name"),
            };
            Grant {
                algorithm: "ssh-ed25519".to_owned(),
                comment: "name".to_owned(),
                ..Grant::of_line(line, format!("SHA256:{key}"))
            }
        };
        let lines: Vec<Grant> = keys.iter().map(line).collect();
        Value {
            text: written(&lines.iter().collect::<Vec<_>>()),
            lines,
        }
    }

    fn read(text: &str) -> Value {
        let key = |line: &str| -> Option<(u8, u8)> {
            let (options, rest) = line.split_once("ssh-ed25519 BODY")?;
            let options = options.trim_start_matches("from=\"10.0.0.");
            let options = options.trim_end_matches("\" ").parse().unwrap_or(0);
            Some((rest.split(' ').next()?.parse().ok()?, options))
        };
        value(&text.lines().filter_map(key).collect::<Vec<_>>())
    }

    fn parameters(before: &State, after: &State) -> Vec<Parameter> {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let of = |state: &State, name: &String| state.get(name).map(|keys| value(keys));
        let parameter = |name: &String| Parameter {
            name: name.clone(),
            account: name.split('/').next().unwrap().try_into().unwrap(),
            before: of(before, name),
            after: of(after, name),
        };
        names.into_iter().map(parameter).collect()
    }

    /// What hosts take of it, account by account.
    fn taken(texts: &BTreeMap<String, String>) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut lines: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
        for (name, text) in texts {
            let account = name.split('/').next().unwrap().to_owned();
            lines.entry(account).or_default().extend(read(text).lines);
        }
        let owned = |lines: Vec<Grant>| {
            let keys = keys(lines.iter());
            let keys = keys.into_iter();
            keys.map(|(key, line)| (key.to_owned(), line.authorises().to_owned()))
                .collect()
        };
        lines
            .into_iter()
            .map(|(account, lines)| (account, owned(lines)))
            .collect()
    }

    fn texts(state: &State) -> BTreeMap<String, String> {
        let text = |(name, keys): (&String, &Vec<(u8, u8)>)| (name.clone(), value(keys).text);
        state.iter().map(text).collect()
    }

    fn state_of(texts: &BTreeMap<String, String>) -> State {
        let back = |line: &Grant| {
            let key = line.fingerprint.trim_start_matches("SHA256:");
            let options = line.line.strip_prefix("from=\"10.0.0.");
            let options = options.map_or(0, |rest| rest[..1].parse().unwrap());
            (key.parse().unwrap(), options)
        };
        texts
            .iter()
            .map(|(name, text)| (name.clone(), read(text).lines.iter().map(back).collect()))
            .collect()
    }

    fn write(texts: &mut BTreeMap<String, String>, step: &Step) {
        match &step.value {
            Some(text) => texts.insert(step.name.clone(), text.clone()),
            None => texts.remove(&step.name),
        };
    }

    /// Every prefix of the steps leaves what must stay; returns what is published after each.
    fn check(before: &State, after: &State) -> Vec<BTreeMap<String, String>> {
        let steps = order(&parameters(before, after)).unwrap();
        let (first, last) = (taken(&texts(before)), taken(&texts(after)));
        let mut now = texts(before);
        let mut all = vec![now.clone()];
        let mut is_deleting = false;
        for step in &steps {
            assert!(
                !is_deleting || step.value.is_none(),
                "deletions are last: {steps:?}"
            );
            is_deleting = step.value.is_none();
            assert!(step.value.as_ref().is_none_or(|text| !text.is_empty()));
            write(&mut now, step);
            let keys = taken(&now);
            for (account, first) in &first {
                let empty = BTreeMap::new();
                let last = last.get(account).unwrap_or(&empty);
                let keys = keys.get(account).unwrap_or(&empty);
                let missed: Vec<_> = first
                    .keys()
                    .filter(|key| last.contains_key(*key) && !keys.contains_key(*key))
                    .collect();
                assert!(missed.is_empty(), "{missed:?} after {step:?} of {steps:?}");
                let is_emptied = !first.is_empty() && !last.is_empty() && keys.is_empty();
                assert!(!is_emptied, "{account} after {step:?} of {steps:?}");
            }
            all.push(now.clone());
        }
        assert_eq!(now, texts(after));
        all
    }

    fn state(pairs: &[(&str, &[(u8, u8)])]) -> State {
        pairs
            .iter()
            .map(|(name, keys)| ((*name).to_owned(), keys.to_vec()))
            .collect()
    }

    #[test]
    fn each_trouble_has_its_way_around() {
        let count =
            |before: &[(&str, &[(u8, u8)])], after: &[(&str, &[(u8, u8)])], writes: usize| {
                let passed = check(&state(before), &state(after));
                assert_eq!(passed.len() - 1, writes, "{passed:?}");
            };
        // One parameter gives way to another.
        count(&[("a/1", &[(1, 0)])], &[("a/2", &[(1, 0)])], 2);
        count(&[("a/1", &[(1, 0)])], &[("a/2", &[(2, 0)])], 2);
        count(
            &[("a/2", &[(1, 0)])],
            &[("a/1", &[(2, 0)]), ("a/2", &[])],
            2,
        );
        // Keys change places.
        let (one, two): (&[_], &[_]) = (&[(1, 0)], &[(2, 0)]);
        count(
            &[("a/1", one), ("a/2", two)],
            &[("a/1", two), ("a/2", one)],
            3,
        );
        // A key gets other options, moves with other options, and both where two parameters have it.
        count(&[("a/1", &[(1, 0)])], &[("a/1", &[(1, 1)])], 1);
        count(&[("a/1", &[(1, 0)])], &[("a/2", &[(1, 1)])], 3);
        count(
            &[("a/1", one), ("a/2", one)],
            &[("a/1", &[(1, 1)]), ("a/2", &[(1, 1)])],
            3,
        );
        // Two accounts do not help each other.
        count(
            &[("a/1", one), ("b/1", one)],
            &[("a/2", one), ("b/1", one)],
            2,
        );
    }

    #[test]
    fn without_room_it_says_whose_keys_they_are() {
        let long = |key: &str, fill: char| Value {
            text: format!("ssh-ed25519 {key} {}", fill.to_string().repeat(3000)),
            lines: vec![Grant {
                line: format!("ssh-ed25519 {key} {}", fill.to_string().repeat(3000)),
                fingerprint: key.to_owned(),
                ..value(&[(1, 0)]).lines[0].clone()
            }],
        };
        let parameter = |name: &str, before: Value, after: Value| Parameter {
            name: name.to_owned(),
            account: "a".try_into().unwrap(),
            before: Some(before),
            after: Some(after),
        };
        let (x, y) = (long("x", 'x'), long("y", 'y'));
        let circle = [
            parameter("/k/a/1", x.clone(), y.clone()),
            parameter("/k/a/2", y.clone(), x.clone()),
        ];
        let stuck = order(&circle).unwrap_err();
        assert_eq!(stuck.parameters, ["/k/a/1", "/k/a/2"]);
        // What is an advanced parameter anyhow has room for both.
        let mut larger = y.clone();
        larger.text += &"z".repeat(1200);
        let circle = [
            parameter("/k/a/1", x.clone(), larger),
            parameter("/k/a/2", y, x),
        ];
        assert_eq!(order(&circle).unwrap().len(), 3);
    }

    /// A list that hosts take whole: a key has the same options wherever it stands.
    fn lists(accounts: std::ops::Range<u8>) -> impl Strategy<Value = State> {
        let value = vec((0u8..5, 0u8..3), 0..4);
        btree_map((accounts, 0u8..4), value, 0..7).prop_map(|state| {
            let named = |((account, label), keys): ((u8, u8), Vec<(u8, u8)>)| {
                (format!("a{account}/{label}"), keys)
            };
            state.into_iter().map(named).collect()
        })
    }

    fn agreeing(mut state: State) -> State {
        let mut options = BTreeMap::new();
        for (name, keys) in &mut state {
            let account = name.split('/').next().unwrap().to_owned();
            keys.sort_unstable();
            keys.dedup_by_key(|(key, _)| *key);
            for (key, of) in keys {
                *of = *options.entry((account.clone(), *key)).or_insert(*of);
            }
        }
        state
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_prefix_of_the_writes_takes_anything_away(before in lists(0..3), after in lists(0..3)) {
            check(&agreeing(before), &agreeing(after));
        }

        /// Keys that hosts refuse, as their lines have different options, are no keys before.
        #[test]
        fn nor_from_a_list_that_is_not_taken_whole(before in lists(0..1), after in lists(0..1)) {
            check(&before, &agreeing(after));
        }

        /// What is left of it is published by the same rules, so nothing that was there at first is missed then either.
        #[test]
        fn what_ended_in_the_middle_is_finished_by_the_next(before in lists(0..2), after in lists(0..2), at: prop::sample::Index) {
            let after = agreeing(after);
            let passed = check(&agreeing(before), &after);
            let left = state_of(&passed[at.index(passed.len())]);
            let rest = check(&left, &after);
            prop_assert!(rest.len() <= passed.len() + 1);
        }
    }
}
