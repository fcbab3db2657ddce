//! The real client against moto, which the real `aws` CLI administers: the protocol as others speak it.

use authorized_keys_agent::host::ssm::{
    CredentialSource, Failure, ParameterStore, RegionSource, Settings,
};
use jiff::Timestamp;

use crate::support::http_server::refusing;
use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::moto::{Moto, child};
use crate::support::run;
use crate::support::ssm_server::SsmServer;

const REGION: &str = "eu-central-1";

#[test]
fn any_number_of_parameters() {
    let moto = Moto::start();
    let mut there = 0;
    for count in [0, 1, 9, 10, 11, 250] {
        let names = (there..count).map(|at| format!("/k/web/ec2-user/{at:03}"));
        moto.put_many(names.map(|name| (name.clone(), format!("value of {name}"))));
        there = count;
        let found = moto.by_path("/k/web");
        let expected: Vec<_> = (0..count)
            .map(|at| format!("/k/web/ec2-user/{at:03}"))
            .collect();
        assert_eq!(
            found
                .iter()
                .map(|parameter| parameter.name.clone())
                .collect::<Vec<_>>(),
            expected
        );
        assert!(
            found
                .iter()
                .all(|p| p.version == 1 && p.value == format!("value of {}", p.name))
        );
    }
    assert_eq!(moto.by_path("/k/we"), [], "a path is no prefix");
    assert_eq!(moto.by_path("/other"), []);
}

#[test]
fn every_type_label_and_version() {
    let moto = Moto::start();
    moto.put("String", "/k/bob/a", "ssh-ed25519 AAAA a\n# two lines");
    moto.put("StringList", "/k/bob/b", "one,two");
    moto.put("SecureString", "/k/bob/c", "secured");
    let values: Vec<_> = moto.by_path("/k").into_iter().map(|p| p.value).collect();
    assert_eq!(
        values,
        ["ssh-ed25519 AAAA a\n# two lines", "one,two", "secured"]
    );

    moto.aws(&[
        "label-parameter-version",
        "--name",
        "/k/bob/a",
        "--labels",
        "live",
    ]);
    moto.put("String", "/k/bob/a", "the next version");
    let found = moto
        .by_names(&["/k/bob/a", "/k/bob/a:live", "/k/bob/a:1", "/k/bob/c"])
        .unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|p| (p.name.as_str(), p.version, p.value.as_str()))
        .collect();
    let first = "ssh-ed25519 AAAA a\n# two lines";
    let expected = [
        ("/k/bob/a", 2, "the next version"),
        ("/k/bob/a:1", 1, first),
        ("/k/bob/a:live", 1, first),
        ("/k/bob/c", 1, "secured"),
    ];
    assert_eq!(found, expected);
    assert!(moto.by_path("/k")[0].last_modified.unwrap() > Timestamp::UNIX_EPOCH);

    moto.aws(&["delete-parameter", "--name", "/k/bob/a"]);
    assert_eq!(moto.by_path("/k").len(), 2);
    let gone = moto
        .by_names(&["/k/bob/b", "/k/bob/a", "/k/bob/a:live"])
        .unwrap_err();
    assert_eq!(
        gone,
        Failure::NotFound(vec!["/k/bob/a".into(), "/k/bob/a:live".into()])
    );
}

/// The child of [`the_default_chain`]; on its own, without `ASK`, there is nothing to ask.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a child process is told by its environment"
)]
fn asks_as_its_environment_says() {
    let Ok(path) = std::env::var("ASK") else {
        return;
    };
    let settings = Settings::default();
    let answer = run(async {
        let store = ParameterStore::new(&settings).await?;
        let found = store.by_path(&path, &mut store.tries()).await?;
        let caller = store.caller().await?;
        Ok::<_, Failure>(format!(
            "{} from {} by {} ({}), region {} from {}",
            found.len(),
            path,
            caller.access_key,
            caller.source,
            store.region(),
            store.region_source()
        ))
    });
    println!(
        "ANSWER {}",
        answer.unwrap_or_else(|failure| failure.to_string())
    );
}

#[test]
fn the_default_chain() {
    let server = SsmServer::start([("/k/bob", "x")]);
    let imds = ImdsServer::start(Instance {
        role: Some("web"),
        ..Instance::default()
    });
    let (ssm, metadata) = (server.endpoint(), imds.endpoint());
    let there = [
        ("AWS_ENDPOINT_URL_SSM", ssm.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str()),
    ];
    let check = |more: &[(&'static str, &str)], expected: &str| {
        let environment: Vec<_> = there.iter().chain(more).copied().collect();
        assert_eq!(child(&environment), expected, "{more:?}");
    };
    check(
        &[],
        "1 from /k by ASIA…MPLE (instance role), region eu-central-1 from instance metadata",
    );
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    check(
        &[keys[0], keys[1], ("AWS_REGION", "us-east-1")],
        "1 from /k by AKIA…MPLE (environment), region us-east-1 from environment",
    );
    let profile = tempfile::NamedTempFile::new().unwrap();
    let text = "[default]\naws_access_key_id = AKIDPROFILEPROFILE01\naws_secret_access_key = x\nregion = eu-west-1\n";
    std::fs::write(profile.path(), text).unwrap();
    let file = profile.path().to_str().unwrap();
    check(
        &[
            ("AWS_CONFIG_FILE", file),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ],
        "1 from /k by AKID…LE01 (profile), region eu-west-1 from profile",
    );
    // A proxy of the environment is for AWS, never for the metadata service.
    let before = imds.paths().len();
    let proxy = refusing();
    let failure = child(&[there[1], ("HTTPS_PROXY", &proxy)]);
    assert!(
        failure.contains("https://ssm.eu-central-1.amazonaws.com`: connection refused"),
        "{failure}"
    );
    assert!(imds.paths().len() > before);
    let nothing = child(&[there[0], ("AWS_EC2_METADATA_DISABLED", "true")]);
    assert_eq!(
        nothing,
        "no AWS region: not in the environment, not in a profile, not in instance metadata"
    );
    let no_role = [
        there[0],
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_REGION", REGION),
    ];
    assert_eq!(child(&no_role), Failure::CredentialsMissing.to_string());
    // Without a region, with one, and with a file that has another profile.
    let named = ("AWS_PROFILE", "nobody");
    for more in [
        &no_role[..2],
        &no_role,
        &[no_role[0], no_role[1], ("AWS_CONFIG_FILE", file)],
    ] {
        assert_eq!(
            child(&[more, &[named]].concat()),
            "AWS_PROFILE names `nobody`, and there is no such profile"
        );
    }
    // It is no matter while there are others.
    check(
        &[named],
        "1 from /k by ASIA…MPLE (instance role), region eu-central-1 from instance metadata",
    );
    // What the library says in types is what the text says.
    assert_eq!(CredentialSource::InstanceRole.to_string(), "instance role");
    assert_eq!(
        RegionSource::InstanceMetadata.to_string(),
        "instance metadata"
    );
}
