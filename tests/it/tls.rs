//! TLS as in production: ring, and the roots that the system trusts.

use crate::support::moto::child;
use crate::support::ssm_server::SsmServer;
use crate::support::tls_front::{Front, certificate};

#[test]
fn only_a_trusted_certificate_will_do() {
    let place = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(place.path());
    let server = SsmServer::start([("/k/bob", "x")]);
    let front = Front::start(&certificate, &key, &server.endpoint());
    let there = [
        ("AWS_ENDPOINT_URL_SSM", front.endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let untrusted = child(&there);
    assert!(
        untrusted.ends_with("its certificate is not trusted"),
        "{untrusted}"
    );
    assert_eq!(server.calls(), 0, "nothing is sent before the handshake");
    let trusted = [
        there.as_slice(),
        &[("SSL_CERT_FILE", certificate.to_str().unwrap())],
    ]
    .concat();
    assert!(
        child(&trusted).starts_with("1 from /k by AKIA…MPLE"),
        "{}",
        child(&trusted)
    );
}
