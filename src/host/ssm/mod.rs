//! Parameter Store: everything below a path, or parameters by name. All of it, or an error. And to publish: one write a call.
//!
//! Nothing of the SDK reaches a log: its calls run without a tracing subscriber, because at trace level it
//! writes access key ids and headers, and with `LOG_SENSITIVE_BODIES` set whole replies. The task that hyper
//! spawns for a connection is outside of that, so `journal` lets nothing below `warn` of other crates through.

mod caller;
mod classify;
mod connect;
mod failure;
mod parameters;
mod profile;
mod proxy;
mod transport;
mod tries;
mod usable;
mod write;

use std::collections::BTreeSet;

use aws_credential_types::provider::ProvideCredentials;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

pub use self::caller::{Caller, CredentialSource, RegionSource};
use self::classify::Asked;
use self::connect::Connection;
pub use self::connect::{Keys, Limits, Settings};
pub use self::failure::{Failure, Network};
pub use self::parameters::Parameter;
use self::parameters::{Parameters, answers, in_calls};
pub use self::tries::Tries;
pub use self::write::{Patience, Publisher, Write, Written};
use crate::host::DETAIL;
use crate::host::sdk::quiet;
use crate::model::list::template::without_selector;

/// A client that keeps its connection.
#[derive(Debug)]
pub struct ParameterStore {
    connection: Connection,
    limits: Limits,
}

impl ParameterStore {
    /// A client with these settings. Only the metadata service is asked, for the region, when nothing else
    /// names one.
    pub async fn new(settings: &Settings) -> Result<Self, Failure> {
        let connection = Box::pin(quiet(async {
            profile::explained(connect::connect(settings).await).await
        }));
        let connection = connection.await?;
        Ok(Self {
            connection,
            limits: settings.limits,
        })
    }

    /// The tries of a fetch that begins now.
    pub fn tries(&self) -> Tries {
        Tries::new(self.limits)
    }

    /// Every parameter below `path`, at any depth, sorted by name. A path that does not exist is empty.
    pub async fn by_path(&self, path: &str, tries: &mut Tries) -> Result<Vec<Parameter>, Failure> {
        let resource = format!("parameter/{}", path.trim_matches('/'));
        self.within(
            "ssm:GetParametersByPath",
            &resource,
            tries.end,
            Box::pin(self.pages(path, &resource, tries)),
        )
        .await
    }

    /// These parameters, sorted by name, each once; `name:label` and `name:version` read that version. One
    /// that does not exist is an error: an answer without it would read as a deletion. Those of `if_there` need not exist.
    pub async fn by_names(
        &self,
        names: &[String],
        if_there: &[String],
        tries: &mut Tries,
    ) -> Result<Vec<Parameter>, Failure> {
        let first = names.first().or(if_there.first());
        let first = first.map_or("", String::as_str);
        let resource = format!("parameter/{}", without_selector(first).trim_matches('/'));
        self.within(
            "ssm:GetParameters",
            &resource,
            tries.end,
            Box::pin(self.batches(names, if_there, &resource, tries)),
        )
        .await
    }

    /// The credentials that it asks with.
    pub async fn caller(&self) -> Result<Caller, Failure> {
        let given = quiet(self.connection.credentials.provide_credentials());
        let given = tokio::time::timeout(self.limits.operation, given)
            .await
            .map_err(|_| self.timed_out())?;
        let given = given.map_err(|error| classify::credentials(&error));
        let given = quiet(profile::explained(given)).await?;
        Ok(Caller {
            source: CredentialSource::of(&given),
            access_key: caller::masked(given.access_key_id()),
            expires: given.expiry().and_then(|at| Timestamp::try_from(at).ok()),
        })
    }

    /// The region that is asked.
    pub fn region(&self) -> &str {
        &self.connection.region
    }

    /// Which source named the region.
    pub fn region_source(&self) -> RegionSource {
        self.connection.region_source
    }

    /// How far the service's clock is ahead of `now`; `None` before its first answer, and an error is one too.
    pub fn clock_skew(&self, now: Timestamp) -> Option<SignedDuration> {
        transport::clock_skew(&self.connection.contact, now)
    }

    async fn pages(
        &self,
        path: &str,
        resource: &str,
        tries: &mut Tries,
    ) -> Result<Vec<Parameter>, Failure> {
        /// "Valid Range: Minimum value of 1. Maximum value of 10" (API reference, `GetParametersByPath`).
        const PAGE: i32 = 10;
        let mut found = Parameters::new(self.limits);
        let mut tokens = BTreeSet::new();
        let mut next: Option<String> = None;
        let below = format!("{}/", path.trim_end_matches('/'));
        for _ in 0..self.limits.pages {
            let ask = self
                .connection
                .client
                .get_parameters_by_path()
                .path(path)
                .recursive(true);
            let ask = ask
                .with_decryption(true)
                .max_results(PAGE)
                .set_next_token(next.clone());
            let asked = || self.asked("ssm:GetParametersByPath", resource);
            let answer = ask
                .send()
                .await
                .map_err(|error| classify::failure(&error, &asked()));
            let page = match answer {
                Err(Failure::Throttled) if tries.go_on().await => continue,
                answer => answer?,
            };
            tries.answered();
            for reply in page
                .parameters
                .ok_or(Failure::Malformed("no list of parameters"))?
            {
                let parameter = Parameter::try_from(reply)?;
                if !parameter.name.starts_with(&below) {
                    return Err(Failure::Malformed("a parameter that is not below the path"));
                }
                found.add(parameter)?;
            }
            // A page may be empty and still not be the last.
            match page.next_token.filter(|token| !token.is_empty()) {
                None => return Ok(found.sorted()),
                Some(token) if !tokens.insert(token.clone()) => {
                    return Err(Failure::Malformed("the token of a page came twice"));
                }
                Some(token) => next = Some(token),
            }
        }
        Err(Failure::TooLarge {
            of: "pages",
            limit: self.limits.pages,
        })
    }

    async fn batches(
        &self,
        names: &[String],
        if_there: &[String],
        resource: &str,
        tries: &mut Tries,
    ) -> Result<Vec<Parameter>, Failure> {
        let mut found = Parameters::new(self.limits);
        let mut missing = Vec::new();
        for batch in in_calls(&[names, if_there].concat()) {
            let reply = loop {
                let ask = self
                    .connection
                    .client
                    .get_parameters()
                    .with_decryption(true);
                let ask = ask.set_names(Some(batch.iter().map(|&name| name.to_owned()).collect()));
                let asked = || self.asked("ssm:GetParameters", resource);
                let answer = ask
                    .send()
                    .await
                    .map_err(|error| classify::failure(&error, &asked()));
                match answer {
                    Err(Failure::Throttled) if tries.go_on().await => {}
                    answer => break answer?,
                }
            };
            tries.answered();
            let absent = reply.invalid_parameters.unwrap_or_default();
            let given = reply
                .parameters
                .ok_or(Failure::Malformed("no list of parameters"))?;
            for mut reply in given {
                let matches = |name: &&&str| answers(&reply, name);
                let unasked = Failure::Malformed("a parameter that was not asked for");
                let name = batch.iter().find(matches).ok_or(unasked)?;
                reply.name = Some((*name).to_owned());
                found.add(Parameter::try_from(reply)?)?;
            }
            missing.extend(
                batch
                    .iter()
                    .filter(|name| {
                        absent
                            .iter()
                            .any(|gone| gone == **name || gone == without_selector(name))
                    })
                    .map(|&n| n.to_owned()),
            );
            if !batch
                .iter()
                .all(|name| found.has(name) || missing.iter().any(|m| m == name))
            {
                return Err(Failure::Malformed(
                    "a parameter that was asked for is not in the reply",
                ));
            }
        }
        missing.retain(|name| names.contains(name));
        if missing.is_empty() {
            Ok(found.sorted())
        } else {
            Err(Failure::NotFound(missing))
        }
    }

    async fn within<T>(
        &self,
        action: &'static str,
        resource: &str,
        end: Instant,
        fetch: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tracing::info!(target: DETAIL, action, resource, "asking parameter store");
        let explained = async { profile::explained(fetch.await).await };
        let whole = tokio::time::timeout_at(end, quiet(explained));
        whole.await.unwrap_or_else(|_| Err(self.timed_out()))
    }

    fn timed_out(&self) -> Failure {
        Failure::Network {
            what: Network::Timeout,
            endpoint: self.endpoint(),
        }
    }

    fn asked(&self, action: &'static str, resource: &str) -> Asked<'_> {
        Asked {
            action,
            resource: resource.to_owned(),
            region: &self.connection.region,
            endpoint: self.endpoint(),
            reply_bytes: self.limits.reply_bytes,
        }
    }

    fn endpoint(&self) -> String {
        let usual = || format!("https://ssm.{}.amazonaws.com", self.connection.region);
        transport::endpoint(&self.connection.contact).unwrap_or_else(usual)
    }
}
