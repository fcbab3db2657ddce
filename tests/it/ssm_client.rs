//! Parameter Store misbehaves in every way that is known: there is the whole list or an error that says what to do,
//! never a part of the list.

use std::io::Write;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use authorized_keys_agent::host::ssm::{
    CredentialSource, Failure, Keys, Limits, Network, ParameterStore, RegionSource, Settings,
};
use jiff::Timestamp;

use crate::support::http_server::{never_accepting, refusing};
use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::run;
use crate::support::ssm_server::{Behaviour, SsmServer};

const REGION: &str = "eu-central-1";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ a@b";

/// Short enough for a test that waits for them, long enough for a busy machine.
fn settings(endpoint: String) -> Settings {
    Settings {
        endpoint: Some(endpoint),
        region: Some(REGION.to_owned()),
        credentials: Some(Keys {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: SECRET.into(),
            session: None,
        }),
        imds_endpoint: None,
        limits: Limits {
            connect: Duration::from_millis(800),
            read: Duration::from_millis(800),
            operation: Duration::from_millis(1500),
            ..Limits::default()
        },
    }
}

/// The names below `/k`, or why there are none.
fn names(settings: &Settings) -> Result<Vec<String>, Failure> {
    run(async {
        let store = ParameterStore::new(settings).await?;
        let found = store.by_path("/k", &mut store.tries()).await?;
        Ok(found.into_iter().map(|parameter| parameter.name).collect())
    })
}

fn many(count: usize) -> SsmServer {
    SsmServer::start((0..count).map(|at| (format!("/k/bob/{at:05}"), KEY)))
}

#[test]
fn every_page_or_nothing() {
    for count in [0, 1, 9, 10, 11, 25] {
        let server = many(count);
        assert_eq!(names(&settings(server.endpoint())).unwrap().len(), count);
        assert_eq!(
            server.calls(),
            count.div_ceil(10).max(1),
            "{count} parameters"
        );
    }
}

#[test]
fn a_fault_on_any_page_gives_nothing() {
    let check = |behaviour: Behaviour, expected: &str, hint: &str| {
        for good_pages in 0..3 {
            let server = many(25);
            let script = std::iter::repeat_n(Behaviour::Good, good_pages);
            server.script(script.chain([behaviour.clone()]));
            let failure = names(&settings(server.endpoint())).unwrap_err();
            let (text, advice) = (failure.to_string(), failure.hint().unwrap_or_default());
            assert!(
                text.contains(expected),
                "{behaviour:?}: {failure:?}: {text}"
            );
            assert!(advice.contains(hint), "{behaviour:?}: {text}: {advice}");
            assert!(
                !text.contains(KEY) && !text.contains("html") && !text.contains(SECRET),
                "{text}"
            );
            assert_eq!(
                server.calls(),
                good_pages + 1,
                "one attempt a call: {behaviour:?}"
            );
            // The next fetch finds the service well again, over the same client or a new one.
            assert_eq!(names(&settings(server.endpoint())).unwrap().len(), 25);
        }
    };
    check(Behaviour::expired(), "credentials have expired", "renew");
    check(
        Behaviour::denied(),
        "access denied: `ssm:GetParametersByPath` on `arn:aws:ssm:eu-central-1:111122223333:parameter/k`",
        "AmazonSSMManagedInstanceCore does not allow it",
    );
    check(Behaviour::Status(500), "HTTP status 500", "by itself");
    check(Behaviour::Status(302), "it redirects", "in between");
    check(Behaviour::Status(401), "wants a login", "in between");
    check(Behaviour::Html(403), "not Parameter Store", "in between");
    check(
        Behaviour::Status(407),
        "is a proxy that wants",
        "USER:PASSWORD",
    );
    check(
        Behaviour::Error(500, "InternalServerError", "x"),
        "HTTP status 500",
        "by itself",
    );
    check(Behaviour::Status(503), "HTTP status 503", "by itself");
    check(Behaviour::Html(502), "HTTP status 502", "by itself");
    check(
        Behaviour::Html(200),
        "malformed reply: not the JSON",
        "proxy",
    );
    check(Behaviour::TruncatedJson, "malformed reply", "proxy");
    check(Behaviour::Body(String::new()), "malformed reply", "proxy");
    check(
        Behaviour::Body("{}".into()),
        "malformed reply: no list",
        "proxy",
    );
    check(Behaviour::Body("[]".into()), "malformed reply", "proxy");
    check(
        Behaviour::Body(r#"{"Parameters": [{"Name": "/k/bob"}]}"#.into()),
        "without a value",
        "proxy",
    );
    check(
        Behaviour::Body(r#"{"Parameters": [{"Value": "x"}]}"#.into()),
        "without a name",
        "proxy",
    );
    let elsewhere = r#"{"Parameters": [{"Name": "/other/root", "Value": "x", "Version": 1}]}"#;
    check(
        Behaviour::Body(elsewhere.into()),
        "not below the path",
        "proxy",
    );
    check(
        Behaviour::Error(400, "UnrecognizedClientException", "x"),
        "refused: Unrec",
        "access key id",
    );
    check(
        Behaviour::Error(400, "InvalidSignatureException", "x"),
        "refused: InvalidS",
        "clock",
    );
    check(
        Behaviour::Error(400, "SomethingNew", KEY),
        "refused: SomethingNew",
        "",
    );
    check(
        Behaviour::CutInBody,
        "the connection was closed",
        "by itself",
    );
    check(Behaviour::HangUp, "the connection was closed", "by itself");
    check(
        Behaviour::Huge(2 << 20),
        "more than 1048576 bytes in one reply",
        "split",
    );
}

#[test]
fn what_never_ends_is_ended() {
    let check = |behaviour: Behaviour, expected: &str| {
        let server = many(25);
        server.always(behaviour.clone());
        let start = Instant::now();
        let failure = names(&settings(server.endpoint())).unwrap_err().to_string();
        assert!(failure.contains(expected), "{behaviour:?}: {failure}");
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "{behaviour:?}: {:?}",
            start.elapsed()
        );
    };
    check(Behaviour::SameToken, "the token of a page came twice");
    check(Behaviour::Silence, "no answer in time");
    check(Behaviour::StallInBody, "no answer in time");
    check(
        Behaviour::Slow(Duration::from_secs(20)),
        "no answer in time",
    );

    let server = many(25);
    let limited = |limits: fn(&mut Limits)| {
        let mut settings = settings(server.endpoint());
        limits(&mut settings.limits);
        names(&settings).unwrap_err().to_string()
    };
    server.always(Behaviour::EndlessTokens);
    assert!(limited(|limits| limits.pages = 50).contains("more than 50 pages"));
    server.always(Behaviour::Slow(Duration::from_millis(200)));
    let slow = limited(|limits| limits.fetch = Duration::from_millis(500));
    assert!(slow.contains("no answer in time"), "{slow}");
    server.always(Behaviour::Good);
    assert!(limited(|limits| limits.parameters = 24).contains("more than 24 parameters"));
    assert!(limited(|limits| limits.total_bytes = 1000).contains("more than 1000 bytes"));
}

#[test]
fn no_way_to_the_service() {
    let check = |endpoint: String, expected: Network| match names(&settings(endpoint.clone())) {
        Err(failure @ Failure::Network { what, .. }) => {
            assert_eq!(what, expected, "{endpoint}");
            assert!(failure.to_string().contains(&endpoint), "{failure}");
            assert!(failure.hint().is_some());
        }
        other => panic!("{endpoint}: {other:?}"),
    };
    check(refusing(), Network::Refused);
    check("http://parameter-store.invalid".to_owned(), Network::Dns);
    let (listener, endpoint) = never_accepting();
    check(endpoint, Network::Timeout);
    drop(listener);
    let plain = many(1);
    check(plain.endpoint().replace("http:", "https:"), Network::Tls);
}

#[test]
fn an_empty_list_and_an_empty_page_are_two_things() {
    let server = many(25);
    server.script([
        Behaviour::EmptyPage,
        Behaviour::Good,
        Behaviour::EmptyPage,
        Behaviour::EmptyPage,
    ]);
    assert_eq!(names(&settings(server.endpoint())).unwrap().len(), 25);
    assert_eq!(server.calls(), 6);
    // The service means it: whether that empties files is for the guard to decide.
    server.always(Behaviour::EmptyList);
    assert_eq!(
        names(&settings(server.endpoint())).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn values_come_as_they_are() {
    let long = format!("{}\n", "# ".repeat(4095));
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----";
    let odd = "a\tb\r\n\u{0}\u{1b}[2J\u{2028}ü\"\\";
    let server = SsmServer::start([
        ("/k/bob/a", long.as_str()),
        ("/k/bob/b", private),
        ("/k/bob/c", odd),
    ]);
    let found = run(async {
        let store = ParameterStore::new(&settings(server.endpoint()))
            .await
            .unwrap();
        store.by_path("/k/", &mut store.tries()).await.unwrap()
    });
    let values: Vec<_> = found
        .iter()
        .map(|parameter| parameter.value.as_str())
        .collect();
    assert_eq!(values, [long.as_str(), private, odd]);
    assert_eq!(found[0].version, 1);
    assert_eq!(
        found[0].last_modified.unwrap().to_string(),
        "2023-11-14T22:13:20.5Z"
    );
    assert!(
        !format!("{found:?}").contains("PRIVATE"),
        "a value is not for Debug"
    );
}

#[test]
fn a_list_as_large_as_an_account_can_hold() {
    // 10,000 parameters, 100,000 lines, 1,000 pages: as much as the default limits let through.
    let value = std::iter::repeat_n(KEY, 10).collect::<Vec<_>>().join("\n");
    let server =
        SsmServer::start((0..10_000).map(|at| (format!("/k/bob/{at:05}"), value.as_str())));
    let mut settings = settings(server.endpoint());
    settings.limits.read = Duration::from_secs(10);
    settings.limits.operation = Duration::from_secs(10);
    assert_eq!(names(&settings).unwrap().len(), 10_000);
    assert_eq!((server.calls(), server.connections()), (1000, 1));
}

#[test]
fn names_that_are_gone_are_an_error() {
    let server = SsmServer::start((0..12).map(|at| (format!("/s/{at:02}"), KEY)));
    server.put("/s/00:live", "labelled");
    let by_names = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        run(async {
            let store = ParameterStore::new(&settings(server.endpoint())).await?;
            store.by_names(&names, &[], &mut store.tries()).await
        })
    };
    let all: Vec<_> = (0..12).map(|at| format!("/s/{at:02}")).collect();
    let mut all: Vec<_> = all.iter().map(String::as_str).collect();
    assert_eq!(by_names(&all).unwrap().len(), 12);
    assert_eq!(server.calls(), 2);
    assert_eq!(by_names(&[]).unwrap().len(), 0);
    assert_eq!(server.calls(), 2, "nothing to ask");

    // Two selectors of one parameter are two values, each under the name it was asked for.
    let both = by_names(&["/s/00:live", "/s/00", "/s/00"]).unwrap();
    let both: Vec<_> = both
        .iter()
        .map(|p| (p.name.as_str(), p.value.as_str()))
        .collect();
    assert_eq!(both, [("/s/00", KEY), ("/s/00:live", "labelled")]);

    all.extend(["/s/gone", "/s/00:nope"]);
    let failure = by_names(&all).unwrap_err();
    assert_eq!(
        failure,
        Failure::NotFound(vec!["/s/00:nope".into(), "/s/gone".into()])
    );
    assert_eq!(
        failure.to_string(),
        "no such parameter, version or label: `/s/00:nope`, `/s/gone`"
    );
    assert!(failure.hint().unwrap().contains("last good list stays"));

    let check = |body: &str, expected: &str| {
        server.always(Behaviour::Body(body.to_owned()));
        let failure = by_names(&["/s/00", "/s/01"]).unwrap_err().to_string();
        assert!(failure.contains(expected), "{failure}");
    };
    check(r#"{"Parameters": []}"#, "asked for is not in the reply");
    check(r#"{"InvalidParameters": []}"#, "no list of parameters");
    check(
        r#"{"Parameters": [{"Name": "/s/09", "Value": "x", "Version": 1}]}"#,
        "was not asked for",
    );
}

/// The first call is made once, a later one again: of 25 pages a throttled fleet would else read first pages only.
#[test]
fn a_list_that_is_half_read_is_read_to_its_end() {
    for throttled in [Behaviour::throttle(), Behaviour::Status(429)] {
        for good in 1..3 {
            let server = many(25);
            let script = std::iter::repeat_n(Behaviour::Good, good);
            server.script(script.chain([throttled.clone()]));
            assert_eq!(names(&settings(server.endpoint())).unwrap().len(), 25);
            assert_eq!(server.calls(), 3 + 1);
        }
        let server = many(25);
        let check = |calls: RangeInclusive<usize>| {
            let before = server.calls();
            let failure = names(&settings(server.endpoint())).unwrap_err();
            assert_eq!(failure, Failure::Throttled);
            assert!(failure.hint().unwrap().contains("`every`"), "{failure:?}");
            let made = server.calls() - before;
            assert!(calls.contains(&made), "{made} calls");
        };
        server.script([throttled.clone()]);
        check(1..=1);
        server.always(Behaviour::OnLaterPages(Box::new(throttled.clone())));
        check(3..=8);
        // A fetch that ends in a pause was throttled, and not cut off.
        let mut short = settings(server.endpoint());
        short.limits.fetch = Duration::from_millis(1200);
        short.limits.operation = Duration::from_secs(30);
        assert_eq!(names(&short).unwrap_err(), Failure::Throttled);
        server.always(Behaviour::Good);
        // Of two paths the second is asked for again.
        server.script([Behaviour::Good, throttled.clone()]);
        let before = server.calls();
        let two = run(async {
            let store = ParameterStore::new(&settings(server.endpoint())).await?;
            let mut tries = store.tries();
            store.by_path("/d", &mut tries).await?;
            store.by_path("/k", &mut tries).await
        });
        assert_eq!(two.unwrap().len(), 25);
        assert_eq!(server.calls() - before, 1 + 1 + 3);
        server.script([Behaviour::Good, throttled]);
        let all: Vec<_> = (0..25).map(|at| format!("/k/bob/{at:05}")).collect();
        let found = run(async {
            let store = ParameterStore::new(&settings(server.endpoint())).await?;
            store.by_names(&all, &[], &mut store.tries()).await
        });
        assert_eq!(found.unwrap().len(), 25);
    }
}

#[test]
fn one_store_keeps_its_connection_through_polls_and_faults() {
    let server = many(3);
    run(async {
        let store = ParameterStore::new(&settings(server.endpoint()))
            .await
            .unwrap();
        for _ in 0..3 {
            assert_eq!(
                store.by_path("/k", &mut store.tries()).await.unwrap().len(),
                3
            );
        }
        assert_eq!((server.calls(), server.connections()), (3, 1));
        server.script([Behaviour::HangUp, Behaviour::throttle(), Behaviour::Silence]);
        for _ in 0..3 {
            assert!(store.by_path("/k", &mut store.tries()).await.is_err());
        }
        assert_eq!(
            store.by_path("/k", &mut store.tries()).await.unwrap().len(),
            3
        );
    });
    let requests = server.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.headers["authorization"].contains("AWS4-HMAC-SHA256"))
    );
    assert!(
        requests[0].body.contains(r#""WithDecryption":true"#),
        "{}",
        requests[0].body
    );
}

#[test]
fn a_connection_that_ended_while_idle_is_opened_again() {
    let server = many(3);
    server.script([Behaviour::GoodThenHangUp]);
    run(async {
        let store = ParameterStore::new(&settings(server.endpoint()))
            .await
            .unwrap();
        assert_eq!(
            store.by_path("/k", &mut store.tries()).await.unwrap().len(),
            3
        );
        let start = Instant::now();
        while server.ended_connections() == 0 {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "the server does not hang up"
            );
            tokio::task::yield_now().await;
        }
        // The end is in the kernel now: one turn of the runtime brings it to the client.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(
            store.by_path("/k", &mut store.tries()).await.unwrap().len(),
            3
        );
    });
    assert_eq!((server.calls(), server.connections()), (2, 2));
}

#[test]
fn the_next_poll_sees_what_changed() {
    let server = SsmServer::start([("/k/bob/a", "1"), ("/k/bob/b", "1")]);
    let values = || {
        let found = run(async {
            let store = ParameterStore::new(&settings(server.endpoint())).await?;
            store.by_path("/k", &mut store.tries()).await
        });
        found
            .unwrap()
            .into_iter()
            .map(|p| format!("{}={} v{}", p.name, p.value, p.version))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(), ["/k/bob/a=1 v1", "/k/bob/b=1 v1"]);
    server.put("/k/bob/a", "2");
    server.delete("/k/bob/b");
    assert_eq!(values(), ["/k/bob/a=2 v2"]);
    assert!(server.wait_for_calls(2, Duration::from_secs(5)));
}

#[test]
fn who_asks_is_known_without_another_service() {
    let server = many(1);
    // The stand-in's clock stands at this moment.
    let now: Timestamp = "2023-11-14T22:12:20Z".parse().unwrap();
    run(async {
        let store = ParameterStore::new(&settings(server.endpoint()))
            .await
            .unwrap();
        assert_eq!(store.clock_skew(now), None);
        store.by_path("/k", &mut store.tries()).await.unwrap();
        let caller = store.caller().await.unwrap();
        assert_eq!(
            (caller.source, caller.access_key.as_str()),
            (CredentialSource::Given, "AKIA…MPLE")
        );
        assert_eq!(
            (store.region(), store.region_source()),
            (REGION, RegionSource::Given)
        );
        let skew = store.clock_skew(now).unwrap();
        assert!((60..70).contains(&skew.as_secs()), "{skew:?}");
    });
}

#[test]
fn the_instance_role_serves_without_any_configuration() {
    let imds = ImdsServer::start(Instance {
        role: Some("web"),
        ..Instance::default()
    });
    let server = many(1);
    let from_role = Settings {
        credentials: None,
        imds_endpoint: Some(imds.endpoint()),
        ..settings(server.endpoint())
    };
    run(async {
        let store = ParameterStore::new(&from_role).await.unwrap();
        store.by_path("/k", &mut store.tries()).await.unwrap();
        store.by_path("/k", &mut store.tries()).await.unwrap();
        let caller = store.caller().await.unwrap();
        assert_eq!(
            (caller.source, caller.access_key.as_str()),
            (CredentialSource::InstanceRole, "ASIA…MPLE")
        );
        assert_eq!(caller.expires.unwrap().to_string(), "2099-01-01T00:00:00Z");
    });
    assert!(server.requests()[0].headers["x-amz-security-token"] == "token-of-the-role");

    imds.change(|instance| instance.role = None);
    let failure = names(&from_role).unwrap_err();
    assert_eq!(failure, Failure::CredentialsMissing);
    assert!(failure.hint().unwrap().contains("instance profile"));
    imds.change(|instance| instance.status = Some(403));
    assert_eq!(names(&from_role).unwrap_err(), Failure::CredentialsMissing);
    assert_eq!(
        names(&Settings {
            imds_endpoint: Some(refusing()),
            ..from_role
        })
        .unwrap_err(),
        Failure::CredentialsMissing
    );
}

/// Everything that any subscriber could see.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Write for Seen {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_secret_is_traced_at_any_level() {
    let server = SsmServer::start([("/k/bob", "value-that-nobody-may-log")]);
    let seen = Seen::default();
    let writer = seen.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        names(&settings(server.endpoint())).unwrap();
        for behaviour in [
            Behaviour::denied(),
            Behaviour::TruncatedJson,
            Behaviour::CutInBody,
            Behaviour::HangUp,
        ] {
            server.script([behaviour]);
            names(&settings(server.endpoint())).unwrap_err();
        }
    });
    let seen = String::from_utf8(seen.0.lock().unwrap().clone()).unwrap();
    assert!(
        seen.contains("asking parameter store"),
        "the subscriber works: {seen}"
    );
    for secret in [
        "value-that-nobody",
        SECRET,
        "AKIA",
        "AWS4-HMAC",
        "Signature",
        "aws_",
        "x-amz-",
    ] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}
