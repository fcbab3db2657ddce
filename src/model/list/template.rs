//! Templates of paths and names in Parameter Store, and the facts of the instance that fill them in.
//!
//! `{iam-role}`, `{account-id}`, `{region}`, `{instance-id}` and `{tag:NAME}` stand for facts. What is read here is
//! normalised once (a leading `/`, none at the end, no `//`), so nothing later has to care.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A fact of the instance that a template asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// `{iam-role}`: the name of the role whose credentials the instance has.
    IamRole,
    /// `{account-id}`: the AWS account of the instance, twelve digits.
    AccountId,
    /// `{region}`, such as `eu-central-1`.
    Region,
    /// `{instance-id}`, such as `i-0123456789abcdef0`.
    InstanceId,
    /// `{tag:NAME}`: the value of the instance's tag `NAME`.
    Tag(String),
}

/// What was looked up.
pub type Facts = BTreeMap<Need, String>;

/// A path below which every parameter is read: `/authorized-keys/{iam-role}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate(Vec<Part>);

/// The name of one parameter, with an optional `:label` or `:version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Fact(Need),
}

/// Why a text is no template of a path or name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadTemplate {
    /// Nothing there.
    #[error("an empty name")]
    Empty,
    /// `{` without `}`, or the other way round.
    #[error("`{{` and `}}` come in pairs, as in `{{iam-role}}`")]
    Unpaired,
    /// `{…}` with something else in it.
    #[error("only {{iam-role}}, {{account-id}}, {{region}}, {{instance-id}} and {{tag:NAME}} stand for something, not `{{{}}}`", .0.escape_debug())]
    UnknownFact(String),
    /// A tag that IMDS could never show.
    #[error("not a tag name that instance metadata can show (letters, digits and + - = . , _ : @): `{}`", .0.escape_debug())]
    BadTag(String),
    /// A byte that no parameter name has.
    #[error("a parameter name has only letters, digits and . - _ /, not `{}`", .0.escape_debug())]
    BadCharacter(char),
    /// More than one `:`, or one in a path.
    #[error("only a name in `parameters` ends in one `:label`")]
    BadSelector,
}

/// Why a template could not be filled in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfilled {
    /// The fact was not looked up.
    #[error("nothing is known of {need}, which `{template}` asks for")]
    Unknown {
        /// The fact.
        need: Need,
        /// Where it stands.
        template: String,
    },
    /// A fact that cannot be one part of a name. A tag must not choose another hierarchy.
    #[error("the value of {need} cannot be one part of a parameter name (letters, digits and . - _, and not dots alone): `{}`", .value.escape_debug())]
    BadValue {
        /// The fact.
        need: Need,
        /// Its value.
        value: String,
    },
    /// Longer or deeper than Parameter Store allows.
    #[error("longer than {MAX_NAME} characters or deeper than {MAX_LEVELS} levels: `{0}`")]
    TooLong(String),
}

impl Unfilled {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unknown { .. } => None,
            Self::BadValue { .. } => {
                Some("write a path without it into the config, or rename what it stands for")
            }
            Self::TooLong(_) => {
                Some("use a shorter path, or a shorter name for what it stands for")
            }
        }
    }
}

/// "The maximum length constraint for the parameter name" (API reference, `PutParameter`), ARN included.
const MAX_NAME: usize = 1011;
/// "Parameter names can have a maximum of fifteen levels" (`PutParameter`).
const MAX_LEVELS: usize = 15;

impl PathTemplate {
    /// Reads a path as a person writes it.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let parts = parse(text)?;
        // An ARN cannot be listed by path, so the only `:` in a path is inside `{tag:…}`.
        if has_colon(&parts) > 0 {
            return Err(BadTemplate::BadSelector);
        }
        Ok(Self(normalise(parts)))
    }

    /// The facts that filling it in takes.
    pub fn needs(&self) -> impl Iterator<Item = &Need> {
        needs(&self.0)
    }

    /// Whether it could be this `path` on some instance.
    pub fn fits(&self, path: &str) -> bool {
        fits(&self.0, path)
    }

    /// The path on this instance: begins with `/` and does not end in one, unless it is `/`.
    pub fn expand(&self, facts: &Facts) -> Result<String, Unfilled> {
        expand(&self.0, facts)
    }
}

impl NameTemplate {
    /// Reads a name as a person writes it: `/ssh/prod:live`, `name` or the ARN of a shared parameter.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let parts = parse(text)?;
        // `arn:aws:ssm:REGION:ACCOUNT:parameter/NAME` has five of its own.
        let own = if text.starts_with("arn:") { 5 } else { 0 };
        let ends_in_selector = text.ends_with(':') || text.starts_with(':');
        if ends_in_selector || has_colon(&parts) > own + 1 {
            return Err(BadTemplate::BadSelector);
        }
        // Only a hierarchy begins with `/`: `/name` and `name` are two different parameters.
        let hierarchy = text.trim_start_matches('/').contains('/') || text.starts_with('/');
        Ok(Self(if hierarchy && own == 0 {
            normalise(parts)
        } else {
            parts
        }))
    }

    /// The facts that filling it in takes.
    pub fn needs(&self) -> impl Iterator<Item = &Need> {
        needs(&self.0)
    }

    /// Whether it could be this `name` on some instance, its selector aside.
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.clone();
        if let Some(Part::Text(last)) = parts.last_mut() {
            *last = without_selector(last).to_owned();
        }
        fits(&parts, name)
    }

    /// The name on this instance, with its selector.
    pub fn expand(&self, facts: &Facts) -> Result<String, Unfilled> {
        expand(&self.0, facts)
    }
}

/// Why no parameter can have a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadName {
    #[error("no parameter name has `{}`: only letters, digits and . - _ /", .0.escape_debug())]
    Character(char),
    #[error("no parameter name has more than {MAX_LEVELS} levels")]
    TooDeep,
    #[error("no parameter name has more than {MAX_NAME} characters")]
    TooLong,
}

/// That a parameter can have this name, or the part of it that is known.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let is_bad = |c: &char| !is_name_character(*c) && *c != '/';
    if let Some(bad) = name.chars().find(is_bad) {
        return Err(BadName::Character(bad));
    }
    if name.len() > MAX_NAME {
        return Err(BadName::TooLong);
    }
    let levels = name.split('/').filter(|level| !level.is_empty());
    if levels.count() > MAX_LEVELS {
        return Err(BadName::TooDeep);
    }
    Ok(())
}

/// A name without its `:label` or `:version`, as replies give it.
pub fn without_selector(name: &str) -> &str {
    let start = name.rfind('/').unwrap_or(0);
    match name[start..].find(':') {
        Some(colon) => &name[..start + colon],
        None => name,
    }
}

fn parse(text: &str) -> Result<Vec<Part>, BadTemplate> {
    if text.is_empty() {
        return Err(BadTemplate::Empty);
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        parts.push(plain(&rest[..open])?);
        let (fact, after) = rest[open + 1..]
            .split_once('}')
            .ok_or(BadTemplate::Unpaired)?;
        parts.push(Part::Fact(read_need(fact)?));
        rest = after;
    }
    parts.push(plain(rest)?);
    parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
    Ok(parts)
}

fn read_need(fact: &str) -> Result<Need, BadTemplate> {
    // "Instance tag keys can only include letters, numbers, and + - = . , _ : @" (EC2 guide, tags in IMDS).
    let shown = |tag: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-=.,_:@".contains(&b);
        !matches!(tag, "" | "." | ".." | "_index") && tag.bytes().all(allowed)
    };
    match (fact, fact.strip_prefix("tag:")) {
        ("iam-role", _) => Ok(Need::IamRole),
        ("account-id", _) => Ok(Need::AccountId),
        ("region", _) => Ok(Need::Region),
        ("instance-id", _) => Ok(Need::InstanceId),
        (_, Some(tag)) if shown(tag) => Ok(Need::Tag(tag.to_owned())),
        (_, Some(tag)) => Err(BadTemplate::BadTag(tag.to_owned())),
        _ => Err(BadTemplate::UnknownFact(fact.to_owned())),
    }
}

fn plain(text: &str) -> Result<Part, BadTemplate> {
    if text.contains('}') {
        return Err(BadTemplate::Unpaired);
    }
    match text
        .chars()
        .find(|&c| !is_name_character(c) && c != '/' && c != ':')
    {
        Some(c) => Err(BadTemplate::BadCharacter(c)),
        None => Ok(Part::Text(text.to_owned())),
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

fn has_colon(parts: &[Part]) -> usize {
    let colons = |part: &Part| match part {
        Part::Text(text) => text.matches(':').count(),
        Part::Fact(_) => 0,
    };
    parts.iter().map(colons).sum()
}

/// A leading `/`, none at the end, no `//`. A fact is never empty and has no `/`, so text alone decides.
fn normalise(parts: Vec<Part>) -> Vec<Part> {
    let mut normal = vec![Part::Text("/".to_owned())];
    for part in parts {
        match (normal.last_mut(), part) {
            (Some(Part::Text(last)), Part::Text(text)) => push_once(last, &text),
            (_, Part::Text(text)) => {
                let mut collapsed = String::new();
                push_once(&mut collapsed, &text);
                normal.push(Part::Text(collapsed));
            }
            (_, fact) => normal.push(fact),
        }
    }
    if normal.len() > 1 || normal.first() != Some(&Part::Text("/".to_owned())) {
        if let Some(Part::Text(last)) = normal.last_mut() {
            last.truncate(last.trim_end_matches('/').len());
        }
        normal.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
    }
    normal
}

fn push_once(target: &mut String, text: &str) {
    for c in text.chars() {
        if c != '/' || !target.ends_with('/') {
            target.push(c);
        }
    }
}

fn expand(parts: &[Part], facts: &Facts) -> Result<String, Unfilled> {
    let mut name = String::new();
    for part in parts {
        match part {
            Part::Text(text) => name.push_str(text),
            Part::Fact(need) => {
                let unknown = || Unfilled::Unknown {
                    need: need.clone(),
                    template: show(parts),
                };
                let value = facts.get(need).ok_or_else(unknown)?;
                // `..` and `.` are places, not names, for whoever takes the name for a path.
                let dots = value.bytes().all(|byte| byte == b'.');
                if dots || !value.chars().all(is_name_character) {
                    return Err(Unfilled::BadValue {
                        need: need.clone(),
                        value: value.clone(),
                    });
                }
                name.push_str(value);
            }
        }
    }
    if name.len() > MAX_NAME || name.matches('/').count() > MAX_LEVELS {
        return Err(Unfilled::TooLong(name));
    }
    Ok(name)
}

/// A fact is one or more characters of one name.
fn fits(parts: &[Part], name: &str) -> bool {
    if name.len() > MAX_NAME {
        return false;
    }
    match parts {
        [] => name.is_empty(),
        [Part::Text(text), rest @ ..] => name
            .strip_prefix(text.as_str())
            .is_some_and(|name| fits(rest, name)),
        [Part::Fact(_), rest @ ..] => {
            let end = name.find(|c| !is_name_character(c)).unwrap_or(name.len());
            (1..=end).any(|end| fits(rest, &name[end..]))
        }
    }
}

fn needs(parts: &[Part]) -> impl Iterator<Item = &Need> {
    parts.iter().filter_map(|part| match part {
        Part::Fact(need) => Some(need),
        Part::Text(_) => None,
    })
}

fn show(parts: &[Part]) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Fact(need) => need.to_string(),
    };
    parts.iter().map(text).collect()
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IamRole => f.write_str("{iam-role}"),
            Self::AccountId => f.write_str("{account-id}"),
            Self::Region => f.write_str("{region}"),
            Self::InstanceId => f.write_str("{instance-id}"),
            Self::Tag(tag) => write!(f, "{{tag:{tag}}}"),
        }
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.0))
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.0))
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for NameTemplate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let tag = |name: &str| Need::Tag(name.to_owned());
        Facts::from([
            (Need::IamRole, "web-host".to_owned()),
            (Need::AccountId, "111122223333".to_owned()),
            (Need::Region, "eu-central-1".to_owned()),
            (Need::InstanceId, "i-0abc".to_owned()),
            (tag("Role"), "web".to_owned()),
            (tag("aws:cloudformation"), "stack".to_owned()),
            (tag("Empty"), String::new()),
            (tag("Deep"), "a/b".to_owned()),
            (tag("Dot"), ".".to_owned()),
            (tag("Up"), "..".to_owned()),
        ])
    }

    #[test]
    fn a_path_is_normalised_and_filled_in() {
        let check = |text: &str, expected: &str| {
            let path = PathTemplate::parse(text).unwrap();
            assert_eq!(path.expand(&facts()).unwrap(), expected, "{text}");
            assert_eq!(
                PathTemplate::parse(&path.to_string()).unwrap(),
                path,
                "{text}"
            );
        };
        check("/authorized-keys/web", "/authorized-keys/web");
        check("authorized-keys//web/", "/authorized-keys/web");
        check("/authorized-keys/{tag:Role}/", "/authorized-keys/web");
        check("//{region}//{instance-id}-x//", "/eu-central-1/i-0abc-x");
        check("{tag:aws:cloudformation}", "/stack");
        check("/k/{iam-role}/", "/k/web-host");
        check("/{account-id}/{region}", "/111122223333/eu-central-1");
        check("/{tag:Role}{region}", "/webeu-central-1");
        check("/", "/");
        check("///", "/");
    }

    #[test]
    fn a_name_that_no_parameter_can_have_is_told() {
        let check = |name: &str, expected: Result<(), BadName>| {
            assert_eq!(check_name(name), expected, "{name}");
        };
        check("/keys/ec2-user/alice.laptop_1", Ok(()));
        check("ec2-user", Ok(()));
        check("/keys/jane@corp", Err(BadName::Character('@')));
        check("/keys/alice/my laptop", Err(BadName::Character(' ')));
        check("/keys/alice/käthe", Err(BadName::Character('ä')));
        check(&"/x".repeat(15), Ok(()));
        check(&"/x".repeat(16), Err(BadName::TooDeep));
        check(&format!("x{}", "/x".repeat(15)), Err(BadName::TooDeep));
        check(&"x".repeat(1011), Ok(()));
        check(&"x".repeat(1012), Err(BadName::TooLong));
    }

    #[test]
    fn a_name_keeps_its_selector() {
        let check = |text: &str, expected: &str, bare: &str| {
            let name = NameTemplate::parse(text).unwrap().expand(&facts()).unwrap();
            assert_eq!(
                (name.as_str(), without_selector(&name)),
                (expected, bare),
                "{text}"
            );
        };
        check("/ssh/{tag:Role}", "/ssh/web", "/ssh/web");
        check("ssh//prod:live", "/ssh/prod:live", "/ssh/prod");
        check("keys", "keys", "keys");
        check("keys:3", "keys:3", "keys");
        check("/keys:{tag:Role}", "/keys:web", "/keys");
        let arn = "arn:aws:ssm:eu-central-1:111122223333:parameter/ssh/prod";
        check(arn, arn, arn);
        check(&format!("{arn}:live"), &format!("{arn}:live"), arn);
    }

    #[test]
    fn what_is_no_template() {
        let check = |text: &str, expected: BadTemplate| {
            assert_eq!(PathTemplate::parse(text).unwrap_err(), expected, "{text}");
        };
        check("", BadTemplate::Empty);
        check("/a/{region", BadTemplate::Unpaired);
        check("/a}/b", BadTemplate::Unpaired);
        check("/{Region}", BadTemplate::UnknownFact("Region".into()));
        check("/{}", BadTemplate::UnknownFact(String::new()));
        check(
            "/{iam-role:x}",
            BadTemplate::UnknownFact("iam-role:x".into()),
        );
        check("/{tag:}", BadTemplate::BadTag(String::new()));
        check("/{tag:My Role}", BadTemplate::BadTag("My Role".into()));
        check("/a b", BadTemplate::BadCharacter(' '));
        check("/a*", BadTemplate::BadCharacter('*'));
        check("/a:live", BadTemplate::BadSelector);
        for bad in ["/a:b:c", "/a:", ":live"] {
            assert_eq!(
                NameTemplate::parse(bad).unwrap_err(),
                BadTemplate::BadSelector,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_missing_empty_or_deeper_fact_is_an_error() {
        let check = |text: &str, expected: &str| {
            let error = PathTemplate::parse(text)
                .unwrap()
                .expand(&facts())
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "/k/{tag:Nope}",
            "nothing is known of {tag:Nope}, which `/k/{tag:Nope}` asks for",
        );
        check("/k/{tag:Empty}", "the value of {tag:Empty}");
        check(
            "/k/{tag:Deep}",
            "cannot be one part of a parameter name (letters, digits and . - _, and not dots alone): `a/b`",
        );
        for up in [
            "/k/{tag:Up}",
            "/k/{tag:Up}/web",
            "/k/{tag:Dot}{tag:Dot}",
            "/k/.{tag:Dot}",
        ] {
            check(up, "not dots alone): `.");
        }
        check(&"/x".repeat(16), "deeper than 15 levels");
        check(&"x".repeat(1011), "longer than 1011");
    }
}
