//! What can go wrong with Parameter Store, in words that a person can act on.
//!
//! Nothing here holds a reply: only codes, names and what the service said about permissions.

use std::fmt;

use crate::model::escape::escaped;

/// Why Parameter Store gave no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Too many requests for this account and region.
    #[error("parameter store throttles this account and region")]
    Throttled,
    /// IAM, KMS or an endpoint policy said no.
    #[error("access denied: `{action}` on `{resource}`")]
    AccessDenied {
        /// The action that a policy must allow, such as `ssm:GetParametersByPath`.
        action: String,
        /// The ARN it is needed on.
        resource: String,
        /// What the service said, escaped and cut to 300 characters.
        message: String,
    },
    /// Parameters, versions or labels that do not exist.
    #[error("no such parameter, version or label: {}", Listed(.0))]
    NotFound(Vec<String>),
    /// The session these credentials belong to is over.
    #[error("the AWS credentials have expired")]
    CredentialsExpired,
    /// No source of the chain gave credentials.
    #[error("no AWS credentials: not in the environment, not in a profile, and no instance role")]
    CredentialsMissing,
    /// Neither credentials nor a region are to be had, and the profile that is named does not exist.
    #[error("AWS_PROFILE names `{}`, and there is no such profile", escaped(.0))]
    NoProfile(String),
    /// A source of the chain is there and does not work.
    #[error("no AWS credentials: {0}")]
    CredentialsFailed(&'static str),
    /// Neither environment, profile nor instance metadata names a region.
    #[error("no AWS region: not in the environment, not in a profile, not in instance metadata")]
    RegionMissing,
    /// What names the region names none.
    #[error("no AWS region is called `{}`", escaped(.0))]
    BadRegion(String),
    /// The environment or the profile puts Parameter Store where nothing can be. It may hold a password, so it is not shown.
    #[error("the endpoint of Parameter Store is no URL")]
    BadEndpoint,
    /// The SDK then asks neither.
    #[error("an endpoint of Parameter Store is given, and FIPS or dual stack is chosen besides")]
    TwoEndpoints,
    /// This variable names a proxy, and is no URL. It may hold a password, so it is not shown.
    #[error("the proxy in {0} is no URL")]
    BadProxy(&'static str),
    /// No whole answer came.
    #[error("cannot reach `{endpoint}`: {what}")]
    Network {
        /// What broke.
        what: Network,
        /// Scheme, host and port.
        endpoint: String,
    },
    /// An answer that is not what the service's interface says.
    #[error("parameter store sent a malformed reply: {0}")]
    Malformed(&'static str),
    /// More than is ever read.
    #[error("parameter store sent more than {limit} {of}")]
    TooLarge {
        /// What was counted.
        of: &'static str,
        /// The most that is read.
        limit: usize,
    },
    /// An error that only the service can mend.
    #[error("parameter store failed with HTTP status {status}")]
    Server {
        /// The status.
        status: u16,
    },
    /// A reply of somebody else: Parameter Store names an error.
    #[error("what answers is not Parameter Store: it {}", other_reply(*.status))]
    NotAws {
        /// The status.
        status: u16,
    },
    /// Any other error the service names.
    #[error("parameter store refused: {code}")]
    Other {
        /// Its code.
        code: String,
    },
}

/// What broke between here and the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing listens there.
    Refused,
    /// The name does not resolve.
    Dns,
    /// No answer, or not the whole of it, within a time limit.
    Timeout,
    /// The handshake failed.
    Tls,
    /// The server's certificate is not trusted.
    Certificate,
    /// The connection ended before the answer did.
    Closed,
    /// No route, and everything else that the kernel says.
    Unreachable,
}

/// The longest text of the service that is kept, in characters.
pub const MESSAGE: usize = 300;

impl Failure {
    /// Whether another question may well be answered: this one was not allowed, or the answer was not one.
    pub fn is_about_what_was_asked(&self) -> bool {
        matches!(
            self,
            Self::AccessDenied { .. }
                | Self::Malformed(_)
                | Self::TooLarge { .. }
                | Self::Other { .. }
        )
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Throttled => {
                "all readers of one account and region share 40 requests a second, and ten parameters are a request: put \
                 more keys into one parameter, or raise `every` and let the push bring changes. Higher throughput \
                 helps `parameters`, hardly `paths`, and bills each parameter of each answer"
            }
            Self::AccessDenied {
                action,
                resource,
                message,
            } => {
                return Some(denied(action, resource, message));
            }
            Self::NotFound(_) => {
                "create them, or remove them from `parameters`; until then the last good list stays in force"
            }
            Self::CredentialsExpired => {
                "an instance role renews itself: if these came from the environment or a profile, renew them and \
                 restart the fetcher"
            }
            Self::CredentialsMissing => {
                "attach an instance profile to this instance (EC2 > Actions > Security > Modify IAM role); off EC2 set AWS_PROFILE, or \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            Self::NoProfile(_) => {
                "take AWS_PROFILE away from the fetcher, or let AWS_CONFIG_FILE name a file that has it: the service sees no home"
            }
            Self::CredentialsFailed(_) => {
                "the fetcher tries again by itself; look at the AWS_ variables of the fetcher, its profile and \
                 the instance metadata options"
            }
            Self::RegionMissing => {
                "set AWS_REGION for the fetcher, or enable the instance metadata service (HttpEndpoint=enabled)"
            }
            Self::BadRegion(_) => {
                "AWS_REGION, the profile or the instance metadata must name one such as eu-central-1"
            }
            Self::BadEndpoint => {
                "write AWS_ENDPOINT_URL_SSM, or `endpoint_url` of the profile, as https://HOST, or take it away"
            }
            Self::TwoEndpoints => {
                "take AWS_ENDPOINT_URL_SSM away, or AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT; the profile may \
                 say the same"
            }
            Self::BadProxy(_) => "write it as http://HOST:PORT, or take it away",
            Self::Network { what, .. } => what.hint(),
            Self::Malformed(_) => {
                "is there a proxy or a test endpoint in between that answers for AWS?"
            }
            Self::TooLarge { .. } => {
                "split the hierarchy: a path should hold the keys of one kind of host"
            }
            Self::Server { .. } => {
                "the fetcher tries again by itself; see https://health.aws.amazon.com"
            }
            Self::NotAws { status: 407 } => {
                "write the proxy as http://USER:PASSWORD@HOST:PORT, or let it pass this host without"
            }
            Self::NotAws { .. } => {
                "look at AWS_ENDPOINT_URL_SSM, the proxy settings and what else is in between"
            }
            Self::Other { code } => return other(code).map(str::to_owned),
        };
        Some(text.to_owned())
    }
}

impl Network {
    fn hint(self) -> &'static str {
        match self {
            Self::Refused => {
                "nothing listens there: check AWS_ENDPOINT_URL_SSM and the proxy settings"
            }
            Self::Dns => {
                "check the resolver and the region's name; in a VPC without internet, add an interface endpoint \
                 for ssm with private DNS"
            }
            Self::Timeout | Self::Unreachable => {
                "check route, security group (443 out) and, without internet, the interface endpoint for ssm"
            }
            Self::Tls => {
                "that is not HTTPS as AWS speaks it: check AWS_ENDPOINT_URL_SSM and the proxy settings"
            }
            Self::Certificate => {
                "check the clock and the system's trusted roots (package ca-certificates); a proxy that opens TLS \
                 needs its own root there"
            }
            Self::Closed => {
                "the fetcher tries again by itself; a proxy or firewall may cut idle connections"
            }
        }
    }
}

fn denied(action: &str, resource: &str, message: &str) -> String {
    if message.contains("explicit deny") {
        return format!(
            "a policy denies `{action}` on `{resource}` explicitly: no allow overrides it"
        );
    }
    let allow = format!(
        "allow `{action}` on `{resource}` in a policy of the role or user whose credentials these are"
    );
    match action {
        "ssm:GetParametersByPath" => {
            format!("{allow}; the managed policy AmazonSSMManagedInstanceCore does not allow it")
        }
        "kms:Decrypt" => format!("{allow}, and in the policy of the key"),
        _ => allow,
    }
}

fn other_reply(status: u16) -> String {
    match status {
        300..=399 => format!("redirects (HTTP status {status})"),
        401 => "wants a login (HTTP status 401)".to_owned(),
        407 => "is a proxy that wants a name and a password (HTTP status 407)".to_owned(),
        _ => format!("says HTTP status {status}"),
    }
}

fn other(code: &str) -> Option<&'static str> {
    match code {
        "UnrecognizedClientException" | "InvalidClientTokenId" => {
            Some("the access key id is not known here: check the credentials and the region")
        }
        "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "RequestExpired"
        | "RequestTimeTooSkewed" => {
            Some("check the clock of this host, then the secret access key")
        }
        "InvalidKeyId" => Some("the KMS key of a SecureString is disabled or gone"),
        "ValidationException" => {
            Some("check `paths` and `parameters`: the service takes none of these names")
        }
        _ => None,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Dns => "the name does not resolve",
            Self::Timeout => "no answer in time",
            Self::Tls => "the TLS handshake failed",
            Self::Certificate => "its certificate is not trusted",
            Self::Closed => "the connection was closed",
            Self::Unreachable => "no connection",
        })
    }
}

/// Names in back quotes, the first few of many.
struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        for (at, name) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}`{name}`")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
