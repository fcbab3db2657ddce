//! What the SDK ends the program over, refused before it comes to that: credentials that fit into no header, and an endpoint
//! without a host.

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

/// Credentials of another source, if they can be sent.
#[derive(Debug)]
pub struct Sendable(pub SharedCredentialsProvider);

/// These cannot.
#[derive(Debug, thiserror::Error)]
#[error("a line break, a blank or another character that credentials do not have")]
pub struct Unsendable;

impl ProvideCredentials for Sendable {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let found = self.0.provide_credentials().await?;
            let fits = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
            let names = fits(found.access_key_id()) && fits(found.secret_access_key());
            if names && found.session_token().is_none_or(fits) {
                Ok(found)
            } else {
                Err(CredentialsError::invalid_configuration(Unsendable))
            }
        })
    }
}

/// `http://HOST…` or `https://HOST…`.
pub fn has_host(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_http = ["http", "https"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    is_http && !host.is_empty() && !host.starts_with(':')
}

#[cfg(test)]
mod tests {
    use super::has_host;

    #[test]
    fn a_host_is_what_stands_after_the_scheme() {
        for uri in ["http://a", "HTTPS://a:1/b", "http://me:x@[::1]:5000/?c"] {
            assert!(has_host(uri), "{uri}");
        }
        for uri in [
            "",
            "/",
            "a",
            "a:1",
            "://",
            "http://",
            "http:///a",
            "https://:1",
            "http://me@",
            "ftp://a",
        ] {
            assert!(!has_host(uri), "{uri}");
        }
    }
}
