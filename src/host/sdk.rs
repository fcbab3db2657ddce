//! What each room needs that speaks through the SDK of AWS.

use std::future::Future;

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

/// For the metadata service: plain HTTP, and never through a proxy, as the answer is for this host alone. It could speak TLS,
/// and would trust nobody: a client that cannot is another type, and has all of HTTP in the program a second time.
pub fn plain_client() -> SharedHttpClient {
    let nobody = TlsContext::builder().with_trust_store(TrustStore::empty());
    Builder::new()
        .tls_provider(Provider::rustls(CryptoMode::Ring))
        .tls_context(nobody.build().unwrap_or_default())
        .build_https()
}

/// Runs `work` without a subscriber, so that nothing in it can log.
pub async fn quiet<T>(work: impl Future<Output = T>) -> T {
    work.with_subscriber(Dispatch::none()).await
}
