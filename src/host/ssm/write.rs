//! Writing: one parameter a call, and the same call again while Parameter Store has no time for it.
//!
//! "`PutParameter`: 3 transactions a second" (quotas of Systems Manager); the client itself never tries twice.

use std::time::{Duration, Instant};

use aws_sdk_ssm::types::{ParameterTier, ParameterType};

use super::failure::{Failure, Network};
use super::parameters::Parameter;
use super::{ParameterStore, classify, profile, quiet};
use crate::model::list::publication::Kind;

/// One write.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    Put {
        name: &'a str,
        value: &'a str,
        kind: Kind,
        /// One that is not new is overwritten; a new one that is there meanwhile is an error.
        is_new: bool,
        /// Becomes an advanced parameter, or stays one.
        is_advanced: bool,
        /// What encrypts a SecureString, if not the key `aws/ssm`.
        kms_key: Option<&'a str>,
    },
    Delete {
        name: &'a str,
    },
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that it made.
    pub version: u64,
    /// Calls before it of which no answer came: each may have made a version, too.
    pub unanswered: u64,
}

/// How long one call is tried, and how long is waited between two tries: twice as long each time.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub whole: Duration,
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            whole: Duration::from_mins(5),
            first: Duration::from_millis(500),
            longest: Duration::from_secs(10),
        }
    }
}

/// Reads and writes with patience.
pub struct Publisher<'a> {
    store: &'a ParameterStore,
    patience: Patience,
    /// Between two writes, once there were too many.
    gap: Duration,
    waits: Waits<'a>,
}

/// Is told before each wait.
type Waits<'a> = Box<dyn FnMut(&Failure, Duration) + 'a>;

/// The tries of one call.
struct Tries {
    start: Instant,
    wait: Duration,
}

impl<'a> Publisher<'a> {
    pub fn new(
        store: &'a ParameterStore,
        patience: Patience,
        waits: impl FnMut(&Failure, Duration) + 'a,
    ) -> Self {
        Self {
            store,
            patience,
            gap: Duration::ZERO,
            waits: Box::new(waits),
        }
    }

    /// All below `path`. What does not answer at all is not asked twice: nothing has been begun.
    pub async fn read(&mut self, path: &str) -> Result<Vec<Parameter>, Failure> {
        let mut tries = self.tries();
        loop {
            match self.store.by_path(path, &mut self.store.tries()).await {
                Err(failure @ (Failure::Throttled | Failure::Server { .. })) => {
                    self.wait(failure, &mut tries).await?;
                }
                done => return done,
            }
        }
    }

    /// Writes one parameter. What is deleted already is deleted.
    pub async fn write(&mut self, write: Write<'_>) -> Result<Written, Failure> {
        tokio::time::sleep(self.gap).await;
        let (mut tries, mut unanswered) = (self.tries(), 0);
        loop {
            match self.store.write(write).await {
                Ok(version) => {
                    return Ok(Written {
                        version,
                        unanswered,
                    });
                }
                Err(failure) if failure.may_pass() => {
                    if failure == Failure::Throttled {
                        // A third of a second for each, and a little.
                        self.gap = Duration::from_millis(350).min(self.patience.first);
                    } else {
                        unanswered += 1;
                    }
                    self.wait(failure, &mut tries).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn tries(&self) -> Tries {
        Tries {
            start: Instant::now(),
            wait: self.patience.first,
        }
    }

    /// Waits before the next try; the failure, when there is none.
    async fn wait(&mut self, failure: Failure, tries: &mut Tries) -> Result<(), Failure> {
        if tries.start.elapsed() + tries.wait > self.patience.whole {
            return Err(failure);
        }
        (self.waits)(&failure, tries.wait);
        tokio::time::sleep(tries.wait).await;
        tries.wait = (tries.wait * 2).min(self.patience.longest);
        Ok(())
    }
}

impl ParameterStore {
    /// Calls once; the new version, 0 of what is deleted.
    async fn write(&self, write: Write<'_>) -> Result<u64, Failure> {
        let (action, name) = match write {
            Write::Put { name, .. } => ("ssm:PutParameter", name),
            Write::Delete { name } => ("ssm:DeleteParameter", name),
        };
        let resource = format!("parameter/{}", name.trim_start_matches('/'));
        let asked = || self.asked(action, &resource);
        let client = &self.connection.client;
        let done = async {
            match write {
                Write::Put {
                    name,
                    value,
                    kind,
                    is_new,
                    is_advanced,
                    kms_key,
                } => {
                    let kms_key = kms_key.filter(|_| kind == Kind::SecureString);
                    let tier = match (is_advanced, is_new) {
                        (true, _) => Some(ParameterTier::Advanced),
                        // The account may have another default.
                        (false, true) => Some(ParameterTier::Standard),
                        (false, false) => None,
                    };
                    let put = client
                        .put_parameter()
                        .name(name)
                        .value(value)
                        .r#type(kind.into())
                        .overwrite(!is_new)
                        .set_tier(tier)
                        .set_key_id(kms_key.map(str::to_owned));
                    let reply = Box::pin(put.send()).await;
                    let reply = reply.map_err(|error| classify::failure(&error, &asked()))?;
                    u64::try_from(reply.version)
                        .map_err(|_| Failure::Malformed("a negative version"))
                }
                Write::Delete { name } => {
                    let reply = Box::pin(client.delete_parameter().name(name).send()).await;
                    match reply.map_err(|error| classify::failure(&error, &asked())) {
                        Ok(_) | Err(Failure::NotFound(_)) => Ok(0),
                        Err(failure) => Err(failure),
                    }
                }
            }
        };
        quiet(async { profile::explained(done.await).await }).await
    }
}

impl Failure {
    /// True of a parameter that is there already.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Other { code } if code == "ParameterAlreadyExists")
    }

    /// Whether the same call may well be answered another time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Throttled | Self::Server { .. } => true,
            Self::Network { what, .. } => !matches!(what, Network::Certificate | Network::Tls),
            Self::Other { code } => code == "TooManyUpdates",
            _ => false,
        }
    }

    /// What a person who publishes can do about it.
    pub fn hint_for_publisher(&self) -> Option<String> {
        let text = match self {
            Self::Throttled | Self::Server { .. } => "wait a while, then run this again",
            Self::AccessDenied {
                action,
                resource,
                message,
            } if !message.contains("explicit deny") => {
                return Some(format!(
                    "allow `{action}` on `{resource}` for who publishes: publisher-policy.json is a policy with all it takes"
                ));
            }
            Self::CredentialsExpired => "renew them, then run this again",
            Self::CredentialsMissing => {
                "set AWS_PROFILE or the AWS_ variables with credentials, or log in: aws sso login, aws configure"
            }
            Self::CredentialsFailed(_) => "look at the AWS_ variables and the profile",
            Self::NoProfile(_) => "aws configure list-profiles shows those there are",
            Self::RegionMissing => "set AWS_REGION to the region of the hosts",
            Self::Other { code } => match code.as_str() {
                "ParameterLimitExceeded" => {
                    "a region holds 10,000 standard parameters: put several keys into one file"
                }
                "ParameterMaxVersionLimitExceeded" => {
                    "its oldest version has a label: move the label to a newer one"
                }
                "ParameterPatternMismatchException" | "ValidationException" => {
                    "Parameter Store takes no such name, or no such value: `{{` must not stand in one"
                }
                "InvalidKeyId" => "name the key that encrypts SecureStrings with --kms-key",
                _ => return self.hint(),
            },
            _ => return self.hint(),
        };
        Some(text.to_owned())
    }
}

impl From<Kind> for ParameterType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::String => Self::String,
            Kind::StringList => Self::StringList,
            Kind::SecureString => Self::SecureString,
        }
    }
}

impl From<Option<ParameterType>> for Kind {
    fn from(kind: Option<ParameterType>) -> Self {
        match kind {
            Some(ParameterType::SecureString) => Self::SecureString,
            Some(ParameterType::StringList) => Self::StringList,
            // Its text is read as that of any other.
            _ => Self::String,
        }
    }
}
