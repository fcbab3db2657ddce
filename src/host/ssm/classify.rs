//! From an error of the SDK to a [`Failure`]: by code, status and cause, never by the text of a reply.

use std::error::Error;
use std::io;

use aws_config::imds::client::error::{ImdsError, TokenError};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ssm::config::http::HttpResponse;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use http_body_util::LengthLimitError;

use super::failure::{Failure, MESSAGE, Network};
use super::transport::NoRole;
use super::usable::Unsendable;
use crate::model::escape::escaped;

/// What was being done, for errors that do not say.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The IAM action.
    pub action: &'static str,
    /// What it was asked of: `parameter/authorized-keys/web`.
    pub resource: String,
    /// The region asked.
    pub region: &'a str,
    /// Scheme, host and port of the last request.
    pub endpoint: String,
    /// The most that is read of one reply, in bytes.
    pub reply_bytes: usize,
}

/// Why an operation failed.
pub fn failure<E>(error: &SdkError<E, HttpResponse>, asked: &Asked<'_>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let meta = service.err().meta();
            refused(
                service.raw().status().as_u16(),
                meta.code(),
                meta.message(),
                asked,
            )
        }
        SdkError::TimeoutError(_) => asked.network(Network::Timeout),
        // The body was read whole, and it is not the service's JSON.
        SdkError::ResponseError(reply) if reply.raw().body().bytes().is_some() => {
            refused(reply.raw().status().as_u16(), None, None, asked)
        }
        other => transport(other, asked),
    }
}

/// Why there are no credentials.
pub fn credentials(error: &(dyn Error + 'static)) -> Failure {
    if find::<Unsendable>(error).is_some() {
        let reason =
            "they hold a line break, a blank or another character that credentials do not have";
        return Failure::CredentialsFailed(reason);
    }
    if find::<NoRole>(error).is_some() {
        let reason = "what answers as the instance metadata service names no role";
        return Failure::CredentialsFailed(reason);
    }
    if let Some(status) = metadata_status(error) {
        return match status {
            500.. => Failure::CredentialsFailed("the instance metadata service fails"),
            _ => Failure::CredentialsMissing,
        };
    }
    match find::<CredentialsError>(error) {
        // A metadata service that does not answer is how a host without an instance role looks too.
        Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::ProviderTimedOut(_)) => {
            Failure::CredentialsMissing
        }
        Some(CredentialsError::ProviderError(_)) if find::<ImdsError>(error).is_some() => {
            Failure::CredentialsMissing
        }
        Some(CredentialsError::InvalidConfiguration(_)) => {
            Failure::CredentialsFailed("environment or profile holds unusable ones")
        }
        _ => Failure::CredentialsFailed("their source fails"),
    }
}

/// The status with which the metadata service refused a session token or a role.
fn metadata_status(error: &(dyn Error + 'static)) -> Option<u16> {
    let of_token =
        find::<SdkError<TokenError, HttpResponse>>(error).and_then(SdkError::raw_response);
    let of_role = match find::<ImdsError>(error) {
        Some(ImdsError::ErrorResponse(reply)) => Some(reply.response()),
        _ => None,
    };
    of_token.or(of_role).map(|reply| reply.status().as_u16())
}

fn refused(status: u16, code: Option<&str>, message: Option<&str>, asked: &Asked<'_>) -> Failure {
    let Some(code) = code.map(plain_code) else {
        return match status {
            200..=299 => Failure::Malformed("not the JSON that was asked for"),
            429 => Failure::Throttled,
            500.. => Failure::Server { status },
            _ => Failure::NotAws { status },
        };
    };
    match code.as_str() {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown" => Failure::Throttled,
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" => {
            denied(message.unwrap_or_default(), asked)
        }
        "ExpiredTokenException" | "ExpiredToken" => Failure::CredentialsExpired,
        "ParameterNotFound" | "ParameterVersionNotFound" => {
            Failure::NotFound(vec![asked.resource.clone()])
        }
        _ if status >= 500 => Failure::Server { status },
        _ => Failure::Other { code },
    }
}

/// `User: … is not authorized to perform: ACTION on resource: ARN because …`
fn denied(message: &str, asked: &Asked<'_>) -> Failure {
    let after = |mark: &str| {
        let (_, rest) = message.split_once(mark)?;
        rest.split_whitespace()
            .next()
            .map(|word| short(word.trim_end_matches(['.', ','])))
    };
    let action = after("is not authorized to perform: ");
    let resource = after("on resource: ");
    // SSM passes on what KMS says, which names no action.
    let of_kms = message.contains("KMS") || message.contains("ciphertext");
    Failure::AccessDenied {
        action: action
            .unwrap_or_else(|| if of_kms { "kms:Decrypt" } else { asked.action }.to_owned()),
        resource: resource.unwrap_or_else(|| {
            let of = if of_kms {
                ("kms", "key/*")
            } else {
                ("ssm", asked.resource.as_str())
            };
            let partition = partition(asked.region);
            format!("arn:{partition}:{}:{}:*:{}", of.0, asked.region, of.1)
        }),
        message: short(message),
    }
}

/// The partition that ARNs of a region name (General Reference, "Amazon Resource Names").
fn partition(region: &str) -> &'static str {
    const BY_REGION: [(&str, &str); 5] = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("eusc-", "aws-eusc"),
    ];
    for (prefix, partition) in BY_REGION {
        if region.starts_with(prefix) {
            return partition;
        }
    }
    "aws"
}

fn transport(error: &(dyn Error + 'static), asked: &Asked<'_>) -> Failure {
    if find::<CredentialsError>(error).is_some() {
        return credentials(error);
    }
    if find::<LengthLimitError>(error).is_some() {
        return Failure::TooLarge {
            of: "bytes in one reply",
            limit: asked.reply_bytes,
        };
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        let untrusted = matches!(tls, rustls::Error::InvalidCertificate(_));
        return asked.network(if untrusted {
            Network::Certificate
        } else {
            Network::Tls
        });
    }
    // These have no type that could be named: hyper-util's, tokio-rustls's and the connector's own.
    let says = |text: &str| chain(error).any(|cause| cause.to_string().contains(text));
    if says("proxy authorization required") {
        return Failure::NotAws { status: 407 };
    }
    for (text, what) in [
        ("dns error", Network::Dns),
        ("tls handshake eof", Network::Tls),
        ("timeout occurred", Network::Timeout),
    ] {
        if says(text) {
            return asked.network(what);
        }
    }
    // One error wraps another, and the innermost is the kernel's.
    let kernel = chain(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last();
    asked.network(match kernel.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => Network::Refused,
        Some(io::ErrorKind::TimedOut) => Network::Timeout,
        Some(
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof,
        )
        | None => Network::Closed,
        Some(_) => Network::Unreachable,
    })
}

impl Asked<'_> {
    fn network(&self, what: Network) -> Failure {
        Failure::Network {
            what,
            endpoint: self.endpoint.clone(),
        }
    }
}

/// A code is a word of the service's interface; anything else is none.
fn plain_code(code: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match code {
        "" => "an error without a code".to_owned(),
        code if code.len() <= 100 && code.chars().all(word) => code.to_owned(),
        _ => "an error with a code that is no word".to_owned(),
    }
}

/// What the service wrote for people, safe to show and never long.
fn short(text: &str) -> String {
    escaped(&text.chars().take(MESSAGE).collect::<String>())
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// An error and its causes. An `io::Error` hides the error it wraps from `source`, so that is opened too.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        wrapped
            .map(|inner| inner as &(dyn Error + 'static))
            .or_else(|| error.source())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked<'static> {
        Asked {
            action: "ssm:GetParametersByPath",
            resource: "parameter/k/web".to_owned(),
            region: "eu-central-1",
            endpoint: "https://ssm.eu-central-1.amazonaws.com".to_owned(),
            reply_bytes: 1,
        }
    }

    #[test]
    fn what_is_denied_is_named() {
        let check = |message: &str, action: &str, resource: &str, hint: &str| {
            let failure = refused(400, Some("AccessDeniedException"), Some(message), &asked());
            assert_eq!(
                failure.to_string(),
                format!("access denied: `{action}` on `{resource}`")
            );
            assert!(
                failure.hint().unwrap().contains(hint),
                "{:?}",
                failure.hint()
            );
        };
        let arn = "arn:aws:ssm:eu-central-1:111122223333:parameter/k/web";
        let says = |why: &str| {
            format!(
                "User: arn:aws:sts::111122223333:assumed-role/web/i-0abc is not authorized to perform: \
                 ssm:GetParametersByPath on resource: {arn} {why}"
            )
        };
        let no_policy =
            says("because no identity-based policy allows the ssm:GetParametersByPath action");
        check(
            &no_policy,
            "ssm:GetParametersByPath",
            arn,
            "AmazonSSMManagedInstanceCore does not",
        );
        let denied = says("with an explicit deny in an identity-based policy");
        check(&denied, "ssm:GetParametersByPath", arn, "explicitly");
        check(
            "",
            "ssm:GetParametersByPath",
            "arn:aws:ssm:eu-central-1:*:parameter/k/web",
            "allow `ssm:GetParametersByPath` on `arn:aws:ssm:eu-central-1:*:parameter/k/web`",
        );
        check(
            "The ciphertext refers to a customer master key that does not exist, does not exist in this \
             region, or you are not allowed to access. (Service: AWSKMS)",
            "kms:Decrypt",
            "arn:aws:kms:eu-central-1:*:key/*",
            "in the policy of the key",
        );
    }

    #[test]
    fn an_arn_names_the_partition_of_its_region() {
        for (region, expected) in [
            ("eu-central-1", "aws"),
            ("us-east-1", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("eusc-de-east-1", "aws-eusc"),
        ] {
            let asked = Asked { region, ..asked() };
            let denied = refused(400, Some("AccessDenied"), None, &asked);
            let arn = format!("`arn:{expected}:ssm:{region}:*:parameter/k/web`");
            assert!(denied.to_string().ends_with(&arn), "{denied}");
            assert!(denied.hint().unwrap().contains(&arn), "{denied:?}");
        }
    }

    #[test]
    fn a_status_that_parameter_store_never_has_is_somebody_else_s() {
        for (status, expected, hint) in [
            (301, "redirects", "AWS_ENDPOINT_URL_SSM"),
            (401, "wants a login", "in between"),
            (403, "HTTP status 403", "in between"),
            (407, "is a proxy that wants a name", "USER:PASSWORD"),
            (503, "parameter store failed", "health.aws"),
        ] {
            let failure = refused(status, None, None, &asked());
            let hinted = failure.hint().unwrap();
            assert!(failure.to_string().contains(expected), "{failure}");
            assert!(hinted.contains(hint), "{hinted}");
        }
    }

    #[test]
    fn a_code_or_message_is_never_a_reply() {
        let long = "x".repeat(10_000);
        let failure = refused(400, Some(&long), Some(&long), &asked());
        assert_eq!(
            failure.to_string(),
            "parameter store refused: an error with a code that is no word"
        );
        let Failure::AccessDenied { message, .. } = refused(
            400,
            Some("AccessDenied"),
            Some(&format!("\u{1b}[2J{long}")),
            &asked(),
        ) else {
            panic!("not denied")
        };
        assert!(message.starts_with("\\u{1b}[2J") && message.len() < 400);
    }
}
