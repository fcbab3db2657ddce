//! What replies hold: parameters, gathered within limits, and which name each answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_sdk_ssm::types::Parameter as Reply;
use aws_smithy_types::DateTime;
use jiff::Timestamp;

use super::connect::Limits;
use super::failure::Failure;
use crate::model::list::publication::Kind;
use crate::model::list::template::without_selector;
use crate::model::sorting::Gather;

/// One parameter as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name; for [`by_names`](super::ParameterStore::by_names) exactly as it was asked for, selector included.
    pub name: String,
    /// Its version.
    pub version: u64,
    pub kind: Kind,
    /// When it was last changed.
    pub last_modified: Option<Timestamp>,
    /// Its value; a SecureString's is decrypted.
    pub value: String,
}

/// What has come so far, within limits.
pub struct Parameters {
    by_name: BTreeMap<String, Parameter>,
    bytes: usize,
    limits: Limits,
}

impl Parameters {
    pub fn new(limits: Limits) -> Self {
        Self {
            by_name: BTreeMap::new(),
            bytes: 0,
            limits,
        }
    }

    /// A list that changes while it is read may name a parameter twice: the later reading counts.
    pub fn add(&mut self, parameter: Parameter) -> Result<(), Failure> {
        let Limits {
            total_bytes,
            parameters,
            ..
        } = self.limits;
        self.bytes += parameter.name.len() + parameter.value.len();
        self.by_name.insert(parameter.name.clone(), parameter);
        if self.bytes > total_bytes {
            return Err(Failure::TooLarge {
                of: "bytes",
                limit: total_bytes,
            });
        }
        if self.by_name.len() > parameters {
            return Err(Failure::TooLarge {
                of: "parameters",
                limit: parameters,
            });
        }
        Ok(())
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn sorted(self) -> Vec<Parameter> {
        self.by_name.into_values().collect()
    }
}

impl TryFrom<Reply> for Parameter {
    type Error = Failure;

    fn try_from(reply: Reply) -> Result<Self, Failure> {
        let stamp =
            |at: DateTime| Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok();
        Ok(Self {
            name: reply
                .name
                .ok_or(Failure::Malformed("a parameter without a name"))?,
            version: u64::try_from(reply.version)
                .map_err(|_| Failure::Malformed("a negative version"))?,
            kind: reply.r#type.into(),
            last_modified: reply.last_modified_date.and_then(stamp),
            value: reply
                .value
                .ok_or(Failure::Malformed("a parameter without a value"))?,
        })
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value may be a secret that was put there by mistake.
        let Self { name, version, .. } = self;
        f.debug_struct("Parameter")
            .field("name", name)
            .field("version", version)
            .finish_non_exhaustive()
    }
}

/// Names in calls of at most ten. The same parameter with two selectors goes into two calls, since a reply
/// names a parameter once.
pub fn in_calls(names: &[String]) -> Vec<Vec<&str>> {
    /// "Array Members: Minimum number of 1 item. Maximum number of 10 items" (`GetParameters`).
    const CALL: usize = 10;
    let mut calls: Vec<Vec<&str>> = Vec::new();
    for name in names.iter().map(String::as_str).gather::<BTreeSet<_>>() {
        let fits = |call: &&mut Vec<&str>| {
            let clash = |other: &&str| without_selector(other) == without_selector(name);
            call.len() < CALL && !call.iter().any(clash)
        };
        match calls.iter_mut().find(fits) {
            Some(call) => call.push(name),
            None => calls.push(vec![name]),
        }
    }
    calls
}

/// True when `reply` is what `name` asked for; a shared parameter is asked for by its ARN.
pub fn answers(reply: &Reply, name: &str) -> bool {
    let bare = without_selector(name);
    let is = |text: Option<&str>| text.is_some_and(|text| without_selector(text) == bare);
    is(reply.name()) || is(reply.arn())
}
