//! The instance metadata service (IMDSv2): role, account, region, instance id and tags, for the templates of the config.
//!
//! What is not there is an error that says which setting of EC2 shows it, never an empty text.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use aws_config::imds::client::Client;
use aws_config::imds::client::error::{ImdsError, TokenError};
use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;

use crate::host::sdk::{plain_client, quiet};
use crate::model::list::template::{Facts, Need};

/// How the metadata service is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is. Else `AWS_EC2_METADATA_SERVICE_ENDPOINT`, the profile, or `http://169.254.169.254`.
    pub endpoint: Option<String>,
    /// For connecting, and again for the answer. It is on this very host: a second is long.
    pub attempt: Duration,
    /// For one look-up with its retries.
    pub lookup: Duration,
}

/// A client that keeps its session token.
#[derive(Debug)]
pub struct Metadata {
    client: Client,
    lookup: Duration,
}

/// Why a fact is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The configured endpoint is no URL.
    #[error("the endpoint of the instance metadata service is no URL: `{0}`")]
    BadEndpoint(String),
    /// No answer, or none in time.
    #[error("the instance metadata service does not answer")]
    Unreachable,
    /// It refuses everybody.
    #[error("the instance metadata service refuses to answer (HTTP status {0})")]
    Refused(u16),
    /// No role is attached to the instance.
    #[error("this instance has no IAM role, which {{iam-role}} needs")]
    RoleMissing,
    /// It does not show tags.
    #[error("the instance metadata service does not show tags, which {{tag:{0}}} needs")]
    TagsDisabled(String),
    /// The instance has no such tag.
    #[error("this instance has no tag `{0}`")]
    TagMissing(String),
    /// The tag is there, without a value.
    #[error("the tag of this instance has an empty value: `{0}`")]
    TagEmpty(String),
    /// It failed, or knows no such fact.
    #[error("the instance metadata service gave status {status} for {need}")]
    Status {
        /// The fact.
        need: Need,
        /// The HTTP status.
        status: u16,
    },
    /// Something else answers there.
    #[error("the instance metadata service sent no usable {0}")]
    Malformed(Need),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            attempt: Duration::from_secs(1),
            lookup: Duration::from_secs(5),
        }
    }
}

impl Failure {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let instance = "aws ec2 modify-instance-metadata-options --instance-id …";
        match self {
            Self::BadEndpoint(_) => Some("check AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned()),
            Self::Unreachable => Some(format!(
                "outside of EC2, write region, id or role into the config instead; in a container raise the hop \
                 limit: {instance} --http-put-response-hop-limit 2"
            )),
            Self::Refused(_) => Some(format!("{instance} --http-endpoint enabled")),
            Self::RoleMissing => Some(
                "attach an instance profile: aws ec2 associate-iam-instance-profile --instance-id … \
                 --iam-instance-profile Name=…"
                    .to_owned(),
            ),
            Self::TagsDisabled(_) => Some(format!(
                "set InstanceMetadataTags to enabled: {instance} --instance-metadata-tags enabled; EC2 refuses it \
                 while a tag of the instance has `/` or a blank in its key; {{iam-role}} needs no tags"
            )),
            Self::TagMissing(tag) | Self::TagEmpty(tag) => Some(format!(
                "aws ec2 create-tags --resources … --tags Key={tag},Value=…; names of tags are case-sensitive"
            )),
            Self::Status { status: 500.., .. } => Some("the fetcher tries again by itself".to_owned()),
            Self::Status { .. } | Self::Malformed(_) => Some(
                "is AWS_EC2_METADATA_SERVICE_ENDPOINT set to something that is no metadata service?"
                    .to_owned(),
            ),
        }
    }
}

impl Metadata {
    /// A client; nothing is asked yet.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let mut builder = Client::builder()
            .configure(&ProviderConfig::without_region().with_http_client(plain_client()))
            .connect_timeout(settings.attempt)
            .read_timeout(settings.attempt)
            .operation_attempt_timeout(settings.attempt * 2)
            .operation_timeout(settings.lookup)
            .max_attempts(2);
        if let Some(endpoint) = &settings.endpoint {
            let bad = |_| Failure::BadEndpoint(endpoint.clone());
            builder = builder.endpoint(endpoint).map_err(bad)?;
        }
        Ok(Self {
            client: builder.build(),
            lookup: settings.lookup,
        })
    }

    /// All of `needs`, or why one of them is not known.
    pub async fn look_up(&self, needs: &BTreeSet<Need>) -> Result<Facts, Failure> {
        let mut facts = Facts::new();
        for need in needs {
            facts.insert(need.clone(), self.fact(need).await?);
        }
        Ok(facts)
    }

    async fn fact(&self, need: &Need) -> Result<String, Failure> {
        let path = match need {
            Need::IamRole => "/latest/meta-data/iam/security-credentials/".to_owned(),
            Need::AccountId => "/latest/dynamic/instance-identity/document".to_owned(),
            Need::Region => "/latest/meta-data/placement/region".to_owned(),
            Need::InstanceId => "/latest/meta-data/instance-id".to_owned(),
            Need::Tag(tag) => format!("{TAGS}/{tag}"),
        };
        match (self.get(path, need).await, need) {
            (Ok(document), Need::AccountId) => {
                let id = account_id(&document).ok_or_else(|| Failure::Malformed(need.clone()))?;
                Ok(id.to_owned())
            }
            (Ok(value), Need::Tag(tag)) if value.is_empty() => Err(Failure::TagEmpty(tag.clone())),
            (Ok(value), _) if is_usable(&value) => Ok(value),
            (Ok(_), _) => Err(Failure::Malformed(need.clone())),
            (Err(Failure::Status { status: 404, .. }), Need::IamRole) => Err(Failure::RoleMissing),
            (Err(Failure::Status { status: 404, .. }), Need::Tag(tag)) => {
                match self.get(TAGS.to_owned(), need).await {
                    Err(Failure::Status { status: 404, .. }) => {
                        Err(Failure::TagsDisabled(tag.clone()))
                    }
                    Err(other) => Err(other),
                    Ok(_) => Err(Failure::TagMissing(tag.clone())),
                }
            }
            (Err(failure), _) => Err(failure),
        }
    }

    async fn get(&self, path: String, need: &Need) -> Result<String, Failure> {
        let answer = tokio::time::timeout(self.lookup, quiet(self.client.get(path))).await;
        match answer.map_err(|_| Failure::Unreachable)? {
            Ok(value) => Ok(value.into()),
            Err(ImdsError::ErrorResponse(reply)) => {
                Err(status_failure(reply.response().status().as_u16(), need))
            }
            Err(error) => Err(without_answer(&error, need)),
        }
    }
}

/// The directory of tags; 404 unless `InstanceMetadataTags` is enabled (EC2 guide, tags in IMDS).
const TAGS: &str = "/latest/meta-data/tags/instance";

/// The account in an instance identity document: `"accountId" : "123456789012"` (EC2 guide).
fn account_id(document: &str) -> Option<&str> {
    let (_, after) = document.split_once("\"accountId\"")?;
    let id = after.split('"').nth(1)?;
    (id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}

/// Without a session token nothing is answered. When the service refused one, it said so with a status.
fn without_answer(error: &ImdsError, need: &Need) -> Failure {
    match error.source().and_then(|cause| cause.downcast_ref()) {
        Some(SdkError::<TokenError, HttpResponse>::ServiceError(token)) => {
            status_failure(token.raw().status().as_u16(), need)
        }
        _ => Failure::Unreachable,
    }
}

fn status_failure(status: u16, need: &Need) -> Failure {
    match status {
        401 | 403 => Failure::Refused(status),
        200..=299 => Failure::Malformed(need.clone()),
        _ => Failure::Status {
            need: need.clone(),
            status,
        },
    }
}

/// One short line: a page of HTML from something in between is none.
fn is_usable(value: &str) -> bool {
    /// "Maximum value length – 256 Unicode characters" (EC2 guide, tag restrictions), in UTF-8.
    const LONGEST: usize = 1024;
    !value.is_empty()
        && value.len() <= LONGEST
        && !value.contains(char::is_control)
        && !value.contains('<')
}
