//! How Parameter Store is reached: endpoint, region, credentials, time limits.
//!
//! Everything that is not given comes from the SDK's own chain: environment, profile, instance metadata.

use std::fmt;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::{self, region::ImdsRegionProvider};
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::StalledStreamProtectionConfig;
use aws_types::service_config::ServiceConfigKey;

use super::caller::RegionSource;
use super::failure::Failure;
use super::proxy;
use super::transport::{self, SharedContact};
use super::usable::{Sendable, has_host};
use crate::model::list::bounds;

/// What is given; what is not comes from the SDK's chain.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where Parameter Store is. Else `AWS_ENDPOINT_URL_SSM`, `AWS_ENDPOINT_URL`, the profile, or AWS.
    pub endpoint: Option<String>,
    /// Else `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile, or the instance's own.
    pub region: Option<String>,
    /// Else environment, profile, container or instance role.
    pub credentials: Option<Keys>,
    /// Where the metadata service is. Else `AWS_EC2_METADATA_SERVICE_ENDPOINT`, the profile, or 169.254.169.254.
    pub imds_endpoint: Option<String>,
    /// Limits of time and size.
    pub limits: Limits,
}

/// Credentials given outright.
#[derive(Clone)]
pub struct Keys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token.
    pub session: Option<String>,
}

/// The most that one fetch may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// From a request to the head of its answer.
    pub read: Duration,
    /// One call of the service, credentials and the whole answer included.
    pub operation: Duration,
    /// All pages or names of one fetch.
    pub fetch: Duration,
    /// Bytes of one reply. Ten advanced parameters are 80 KB, each byte at most six when escaped.
    pub reply_bytes: usize,
    /// Bytes of all names and values of one fetch.
    pub total_bytes: usize,
    /// Parameters of one fetch.
    pub parameters: usize,
    /// Pages of one path. Pages may be short or empty, so more than `parameters` / 10.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(10),
            operation: Duration::from_secs(20),
            fetch: Duration::from_mins(2),
            reply_bytes: 1 << 20,
            total_bytes: bounds::BYTES,
            parameters: bounds::VALUES,
            pages: 3_000,
        }
    }
}

impl Limits {
    /// The default limits, with `call` for one call: a quarter of it to connect, half of it for the head of the
    /// answer.
    pub fn per_call(call: Duration) -> Self {
        Self {
            connect: call / 4,
            read: call / 2,
            operation: call,
            ..Self::default()
        }
    }
}

/// What a store is made of.
pub struct Connection {
    pub client: Client,
    pub credentials: SharedCredentialsProvider,
    pub region: String,
    pub region_source: RegionSource,
    pub contact: SharedContact,
}

/// Makes the client. Asks the metadata service for the region when nothing else names one.
pub async fn connect(settings: &Settings) -> Result<Connection, Failure> {
    let contact = SharedContact::default();
    let limits = settings.limits;
    let proxy = proxy::proxy(variable)?;
    let http = transport::client(
        limits.connect,
        limits.read,
        limits.reply_bytes,
        proxy,
        &contact,
    );
    if variable(CONTAINER).is_some_and(|uri| !uri.contains("://")) {
        // The SDK ends the program over some of these.
        let reason = "AWS_CONTAINER_CREDENTIALS_FULL_URI is no URL";
        return Err(Failure::CredentialsFailed(reason));
    }
    let imds = metadata(settings)?;
    let (region, region_source) = region(settings, &imds)
        .await
        .ok_or(Failure::RegionMissing)?;
    if !is_region(region.as_ref()) {
        return Err(Failure::BadRegion(
            region.as_ref().chars().take(64).collect(),
        ));
    }
    let credentials = if let Some(keys) = &settings.credentials {
        SharedCredentialsProvider::new(Credentials::from(keys))
    } else {
        let config = ProviderConfig::without_region().with_region(Some(region.clone()));
        let config = config.with_http_client(http.clone());
        let chain = DefaultCredentialsChain::builder()
            .configure(config)
            .region(region.clone());
        SharedCredentialsProvider::new(chain.imds_client(imds).build().await)
    };
    let credentials = SharedCredentialsProvider::new(Sendable(credentials));
    let times = TimeoutConfig::builder()
        .connect_timeout(limits.connect)
        .read_timeout(limits.read)
        .operation_attempt_timeout(limits.operation)
        .operation_timeout(limits.operation);
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region.clone())
        .credentials_provider(credentials.clone())
        .http_client(http)
        .timeout_config(times.build())
        // The fetch loop backs off by itself, so that a throttled fleet does not ask twice; see `tries`.
        .retry_config(RetryConfig::disabled())
        // The limit on the operation covers a body that stalls, without timers of its own.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    let config = config.load().await;
    let endpoint = settings.endpoint.clone().or_else(|| endpoint(&config));
    if endpoint.as_ref().is_some_and(|url| !has_host(url)) {
        return Err(Failure::BadEndpoint);
    }
    let has_other = config.use_fips() == Some(true) || config.use_dual_stack() == Some(true);
    if endpoint.is_some() && has_other {
        return Err(Failure::TwoEndpoints);
    }
    let mut config = aws_sdk_ssm::config::Builder::from(&config);
    config.set_endpoint_url(endpoint);
    Ok(Connection {
        client: Client::from_conf(config.build()),
        credentials,
        region: region.as_ref().to_owned(),
        region_source,
        contact,
    })
}

/// Where a container has its credentials (EKS pod identity, ECS on EC2).
const CONTAINER: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";

/// What environment and profile say of it, for this service or for all; what is empty says nothing.
fn endpoint(config: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("SSM")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let own = config.service_config()?.load_config(key);
    let all = || config.endpoint_url().map(ToOwned::to_owned);
    let said = |url: &String| !url.is_empty();
    own.filter(said).or_else(all).filter(said)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the SDK reads the environment itself; here is what it does not look at closely enough"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A part of a host's name: the SDK writes it into one, and into a header.
fn is_region(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits)
}

/// The metadata service as the source of region and role. Two short attempts: a fetch that fails comes again.
fn metadata(settings: &Settings) -> Result<imds::Client, Failure> {
    let http = transport::metadata_client();
    let mut builder = imds::Client::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .connect_timeout(Duration::from_secs(1))
        .read_timeout(settings.limits.read.min(Duration::from_secs(2)))
        .operation_timeout(settings.limits.operation.min(Duration::from_secs(5)))
        .max_attempts(2);
    if let Some(endpoint) = &settings.imds_endpoint {
        let bad = |_| Failure::CredentialsFailed("the endpoint of the metadata service is no URL");
        builder = builder.endpoint(endpoint).map_err(bad)?;
    }
    Ok(builder.build())
}

async fn region(settings: &Settings, imds: &imds::Client) -> Option<(Region, RegionSource)> {
    if let Some(region) = &settings.region {
        return Some((Region::new(region.clone()), RegionSource::Given));
    }
    let from_environment = EnvironmentVariableRegionProvider::new();
    if let Some(region) = from_environment.region().await {
        return Some((region, RegionSource::Environment));
    }
    let from_profile = ProfileFileRegionProvider::builder().build();
    if let Some(region) = ProvideRegion::region(&from_profile).await {
        return Some((region, RegionSource::Profile));
    }
    let none = ProviderConfig::without_region().with_http_client(transport::metadata_client());
    let from_metadata = ImdsRegionProvider::builder()
        .configure(&none)
        .imds_client(imds.clone())
        .build();
    from_metadata
        .region()
        .await
        .map(|region| (region, RegionSource::InstanceMetadata))
}

impl From<&Keys> for Credentials {
    fn from(keys: &Keys) -> Self {
        Self::new(&keys.id, &keys.secret, keys.session.clone(), None, "given")
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
