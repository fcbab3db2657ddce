//! The HTTP client below the SDK: ring for TLS, the system's trusted roots, bounded replies.
//!
//! One connector is made and kept, so that a poll finds its connection open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::shared::IntoShared;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::Format;
use http_body_util::{BodyExt, Limited};
use jiff::{SignedDuration, Timestamp};

use crate::host::sdk::plain_client;

/// What was seen on the way: where requests went, and what time it is there.
#[derive(Debug, Default)]
pub struct Contact {
    endpoint: Option<String>,
    date: Option<(Timestamp, Instant)>,
}

/// [`Contact`], shared with the connector that sees it.
pub type SharedContact = Arc<Mutex<Contact>>;

/// A client for AWS itself, and for credentials that are not the instance's.
pub fn client(
    connect: Duration,
    read: Duration,
    reply_bytes: usize,
    proxy: ProxyConfig,
    contact: &SharedContact,
) -> SharedHttpClient {
    let times = HttpConnectorSettings::builder()
        .connect_timeout(connect)
        .read_timeout(read)
        .build();
    let connector = Connector::builder()
        .connector_settings(times)
        .proxy_config(proxy)
        .tls_provider(Provider::rustls(CryptoMode::Ring))
        .build();
    let inner = SharedHttpConnector::new(connector);
    let bounded = SharedHttpConnector::new(BoundedConnector {
        inner,
        reply_bytes,
        contact: Arc::clone(contact),
    });
    http_client_fn(move |_, _| bounded.clone()).into_shared()
}

/// A client for the metadata service.
pub fn metadata_client() -> SharedHttpClient {
    let plain = plain_client();
    let client = move |settings: &HttpConnectorSettings, components: &RuntimeComponents| {
        let inner = plain.http_connector(settings, components);
        SharedHttpConnector::new(MetadataConnector(inner))
    };
    http_client_fn(client).into_shared()
}

/// Something else than a metadata service answers there.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a role")]
pub struct NoRole;

/// Sees to it that what is taken for the name of a role is one: the SDK makes a path of it, and ends the program where that
/// is none.
#[derive(Debug)]
struct MetadataConnector(SharedHttpConnector);

/// More than any document of the metadata service has, in bytes.
const DOCUMENT: usize = 64 << 10;

impl HttpConnector for MetadataConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let names_role = request.uri().ends_with("/security-credentials/");
        let reply = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut reply = reply.await?;
            let body = std::mem::replace(reply.body_mut(), SdkBody::taken());
            let body = Limited::new(body, DOCUMENT).collect().await;
            let body = body.map_err(ConnectorError::io)?.to_bytes();
            if names_role && reply.status().is_success() && !is_role(&body) {
                return Err(ConnectorError::user(NoRole.into()));
            }
            *reply.body_mut() = SdkBody::from(body);
            Ok(reply)
        })
    }
}

/// "Names are not distinguished by case", of `[\w+=,.@-]`, at most 128 characters (IAM API reference, `CreateInstanceProfile`).
fn is_role(name: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(byte);
    (1..=128).contains(&name.len()) && name.iter().all(fits)
}

/// The last endpoint asked, for messages.
pub fn endpoint(contact: &SharedContact) -> Option<String> {
    contact
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .endpoint
        .clone()
}

/// How far the service's clock is ahead of `now`; `None` before its first answer.
pub fn clock_skew(contact: &SharedContact, now: Timestamp) -> Option<SignedDuration> {
    let (date, at) = contact
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .date?;
    let since = SignedDuration::try_from(at.elapsed()).ok()?;
    Some(date.checked_add(since).ok()?.duration_since(now))
}

#[derive(Debug)]
struct BoundedConnector {
    inner: SharedHttpConnector,
    reply_bytes: usize,
    contact: SharedContact,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (contact, limit) = (Arc::clone(&self.contact), self.reply_bytes);
        note(&contact, |contact| {
            contact.endpoint = Some(origin(request.uri()));
        });
        let reply = self.inner.call(request);
        HttpConnectorFuture::new(async move {
            let mut reply = reply.await?;
            let date = reply.headers().get("date");
            let date = date.and_then(|text| DateTime::from_str(text, Format::HttpDate).ok());
            let date = date.and_then(|date| Timestamp::from_second(date.secs()).ok());
            note(&contact, |contact| {
                if let Some(date) = date {
                    contact.date = Some((date, Instant::now()));
                }
            });
            let body = std::mem::replace(reply.body_mut(), SdkBody::taken());
            *reply.body_mut() = SdkBody::from_body_1_x(Limited::new(body, limit));
            Ok(reply)
        })
    }
}

fn note(contact: &SharedContact, change: impl FnOnce(&mut Contact)) {
    change(&mut contact.lock().unwrap_or_else(PoisonError::into_inner));
}

/// `https://user:password@host:port/path?query` → `https://host:port`.
fn origin(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("https", uri));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn an_endpoint_is_shown_without_a_password() {
        assert_eq!(
            origin("https://ssm.eu-west-1.amazonaws.com/"),
            "https://ssm.eu-west-1.amazonaws.com"
        );
        assert_eq!(
            origin("http://me:secret@127.0.0.1:5000/x?y"),
            "http://127.0.0.1:5000"
        );
    }
}
