//! The instance metadata service: facts for templates, or what to change so that they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use authorized_keys_agent::host::imds::{Failure, Metadata, Settings};
use authorized_keys_agent::model::list::template::{Facts, Need};

use crate::support::http_server::{never_accepting, refusing};
use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::run;

fn look_up(endpoint: String, needs: &[Need]) -> Result<Facts, Failure> {
    let attempt = Duration::from_millis(500);
    let settings = Settings {
        endpoint: Some(endpoint),
        attempt,
        lookup: Duration::from_secs(3),
    };
    run(async {
        Metadata::new(&settings)?
            .look_up(&needs.iter().cloned().collect::<BTreeSet<_>>())
            .await
    })
}

fn tag(name: &str) -> Need {
    Need::Tag(name.to_owned())
}

#[test]
fn facts_of_the_instance() {
    let tags = BTreeMap::from([
        ("Role", "web"),
        ("aws:autoscaling:groupName", "blue"),
        ("Empty", ""),
    ]);
    let imds = ImdsServer::start(Instance {
        tags: Some(tags),
        role: Some("web-host"),
        ..Instance::default()
    });
    let needs = [
        Need::IamRole,
        Need::AccountId,
        Need::Region,
        Need::InstanceId,
        tag("Role"),
        tag("aws:autoscaling:groupName"),
    ];
    let facts = look_up(imds.endpoint(), &needs).unwrap();
    let values: Vec<_> = needs.iter().map(|need| facts[need].as_str()).collect();
    assert_eq!(
        values,
        [
            "web-host",
            "111122223333",
            "eu-central-1",
            "i-0123456789abcdef0",
            "web",
            "blue"
        ]
    );
    let tokens = imds
        .paths()
        .iter()
        .filter(|path| path.ends_with("/api/token"))
        .count();
    assert_eq!(
        (tokens, imds.paths().len()),
        (1, 7),
        "one session token serves all"
    );
    assert_eq!(look_up(imds.endpoint(), &[]).unwrap(), Facts::new());
    assert_eq!(imds.paths().len(), 7, "nothing to ask");
}

#[test]
fn what_is_missing_is_named_and_never_empty() {
    let imds = ImdsServer::start(Instance::default());
    let check = |needs: &[Need], expected: &Failure, text: &str, hint: &str| {
        let failure = look_up(imds.endpoint(), needs).unwrap_err();
        assert_eq!(&failure, expected);
        assert!(failure.to_string().contains(text), "{failure}");
        assert!(
            failure.hint().unwrap().contains(hint),
            "{:?}",
            failure.hint()
        );
    };
    check(
        &[Need::IamRole],
        &Failure::RoleMissing,
        "has no IAM role, which {iam-role} needs",
        "associate-iam-instance-profile",
    );
    let disabled = Failure::TagsDisabled("Role".into());
    check(
        &[tag("Role")],
        &disabled,
        "does not show tags",
        "EC2 refuses it while a tag of the instance has `/` or a blank in its key; {iam-role} needs no tags",
    );
    check(
        &[tag("Role")],
        &disabled,
        "does not show tags, which {tag:Role} needs",
        "InstanceMetadataTags to enabled",
    );
    imds.change(|instance| instance.tags = Some(BTreeMap::from([("role", "web"), ("Empty", "")])));
    check(
        &[tag("Role")],
        &Failure::TagMissing("Role".into()),
        "no tag `Role`",
        "case-sensitive",
    );
    check(
        &[tag("Empty")],
        &Failure::TagEmpty("Empty".into()),
        "empty value: `Empty`",
        "create-tags",
    );
    imds.change(|instance| instance.instead = Some("<html>\nsign in</html>"));
    check(
        &[Need::Region],
        &Failure::Malformed(Need::Region),
        "no usable {region}",
        "ENDPOINT",
    );
    for document in [
        "<html>\nsign in</html>",
        "{}",
        r#"{"accountId": null, "x": "111122223333"}"#,
        r#"{"accountId": "1111-2222-3333"}"#,
    ] {
        imds.change(|instance| instance.instead = Some(document));
        check(
            &[Need::AccountId],
            &Failure::Malformed(Need::AccountId),
            "no usable {account-id}",
            "ENDPOINT",
        );
    }
    imds.change(|instance| instance.role = Some("web\ndb"));
    check(
        &[Need::IamRole],
        &Failure::Malformed(Need::IamRole),
        "no usable {iam-role}",
        "ENDPOINT",
    );
    imds.change(|instance| instance.instead = Some(""));
    check(
        &[Need::InstanceId],
        &Failure::Malformed(Need::InstanceId),
        "no usable {instance-id}",
        "ENDPOINT",
    );
    imds.change(|instance| instance.status = Some(403));
    check(
        &[Need::Region],
        &Failure::Refused(403),
        "refuses",
        "--http-endpoint enabled",
    );
    imds.change(|instance| instance.status = Some(503));
    let failing = Failure::Status {
        need: Need::Region,
        status: 503,
    };
    check(
        &[Need::Region],
        &failing,
        "gave status 503 for {region}",
        "by itself",
    );
    imds.change(|instance| instance.status = None);
    imds.change(|instance| instance.delay = Duration::from_secs(20));
    let start = Instant::now();
    check(
        &[Need::Region],
        &Failure::Unreachable,
        "does not answer",
        "hop limit",
    );
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn outside_of_ec2() {
    let start = Instant::now();
    assert_eq!(
        look_up(refusing(), &[Need::Region]).unwrap_err(),
        Failure::Unreachable
    );
    let (listener, endpoint) = never_accepting();
    assert_eq!(
        look_up(endpoint, &[Need::Region]).unwrap_err(),
        Failure::Unreachable
    );
    drop(listener);
    assert!(start.elapsed() < Duration::from_secs(8));
    let bad = look_up("http://[".to_owned(), &[Need::Region]).unwrap_err();
    assert_eq!(bad, Failure::BadEndpoint("http://[".into()));
}
