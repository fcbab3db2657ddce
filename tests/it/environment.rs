//! Nothing in the environment, and nothing that the metadata service answers, ends a process: it says what is wrong and goes
//! on, with the list it has.

use std::process::{Output, Stdio};

use crate::support::http_server::{Answer, HttpServer};
use crate::support::imds_server::{ImdsServer, Instance};
use crate::support::ssm_server::SsmServer;
use crate::support::world::{Ends, World, comes_true, key, shown, wait};

/// A host whose list comes from a Parameter Store that works.
fn host() -> (World, SsmServer) {
    let mut world = World::new();
    let server = SsmServer::start([("/k/alice", key("alice").as_str())]);
    world.use_store(&server.endpoint(), "paths = [\"/k\"]");
    (world, server)
}

fn fetch(world: &World, variables: &[(&str, &str)]) -> Output {
    let mut command = world.agent(&["fetch", "--once"]);
    // Of several values for a name, the last counts.
    command.envs(variables.iter().copied()).output().unwrap()
}

/// Ended by itself, in a way that is documented.
fn assert_lived(output: &Output, what: &str) {
    let said = shown(&output.stderr);
    let code = output.status.code();
    assert!(
        matches!(code, Some(0..=2)),
        "{what}: {}: {said}",
        output.status
    );
    assert!(
        !said.contains("a bug at") && !said.contains("panicked"),
        "{what}: {said}"
    );
}

const VARIABLES: &[&str] = &[
    "AWS_ENDPOINT_URL_SSM",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_STS",
    "AWS_REGION",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_DEFAULTS_MODE",
    "AWS_SDK_UA_APP_ID",
    "AWS_EXECUTION_ENV",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "TZ",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "RUST_MIN_STACK",
];

const VALUES: &[&str] = &[
    "",
    " ",
    "\n",
    "x\r",
    "http://",
    "http://[",
    "127.0.0.1:1",
    "*",
    "é",
];

#[test]
fn no_variable_ends_the_fetcher() {
    let (world, _server) = host();
    for variable in VARIABLES {
        for value in VALUES {
            let what = format!("{variable}={value:?}");
            assert_lived(&fetch(&world, &[(variable, value)]), &what);
        }
    }
}

#[test]
fn without_keys_of_its_own_no_variable_ends_the_fetcher_either() {
    let (mut world, server) = host();
    let imds = ImdsServer::start(Instance {
        role: Some("web"),
        ..Instance::default()
    });
    world.environment = vec![
        ("AWS_ENDPOINT_URL_SSM", server.endpoint()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()),
        ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
    ];
    assert_eq!(fetch(&world, &[]).status.code(), Some(0));
    for variable in VARIABLES {
        if variable.starts_with("AWS_") && !variable.starts_with("AWS_EC2") {
            for value in VALUES {
                let what = format!("{variable}={value:?}");
                assert_lived(&fetch(&world, &[(variable, value)]), &what);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let (world, _server) = host();
    let check = |variables: &[(&str, &str)], expected: &str, hint: &str| {
        let output = fetch(&world, variables);
        let said = shown(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{variables:?}: {said}");
        assert!(
            said.contains(expected) && said.contains(hint),
            "{variables:?}: {said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
        let check = world
            .agent(&["check"])
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(
            shown(&check.stdout).contains(expected),
            "{variables:?}: {}",
            shown(&check.stdout)
        );
        assert_lived(&check, expected);
    };
    check(
        &[("AWS_ENDPOINT_URL_SSM", "127.0.0.1:1")],
        "endpoint of Parameter Store is no URL",
        "as https://HOST",
    );
    check(
        &[("AWS_ENDPOINT_URL_SSM", "http://me:hunter2@")],
        "endpoint of Parameter Store is no URL",
        "as https://HOST",
    );
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        for value in ["hunter2\n", "hunter2\r", "hun\nter2", "hunter2 "] {
            check(
                &[(variable, value)],
                "they hold a line break",
                "AWS_ variables",
            );
        }
    }
    // Of this one the SDK cuts off what is blank at its ends.
    let broken = ("AWS_SESSION_TOKEN", "hun\nter2");
    check(&[broken], "they hold a line break", "AWS_ variables");
    check(
        &[("AWS_REGION", "eu-central-1\n")],
        "no AWS region is called `eu-central-1\\n`",
        "eu-central-1",
    );
    check(
        &[("HTTPS_PROXY", "http://me:hunter2@[")],
        "the proxy in HTTPS_PROXY is no URL",
        "http://HOST:PORT",
    );
    let container = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "127.0.0.1:80");
    check(
        &[container],
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is no URL",
        "AWS_ variables",
    );
}

#[test]
fn no_answer_of_the_metadata_service_ends_the_fetcher() {
    let (mut world, server) = host();
    let imds = ImdsServer::start(Instance::default());
    world.environment = vec![
        ("AWS_ENDPOINT_URL_SSM", server.endpoint()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint()),
        ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
    ];
    let check = |expected: &str| {
        let output = fetch(&world, &[]);
        assert_lived(&output, expected);
        let said = shown(&output.stderr);
        assert!(
            output.status.code() == Some(1) && said.contains(expected),
            "{expected}: {said}"
        );
        let check = world.run(&["check"]);
        assert_lived(&check, expected);
    };
    for role in [
        "<html>\nsign in</html>",
        "web\nother",
        "",
        " ",
        "we b",
        "é",
        "/../x",
        "a?b",
    ] {
        imds.change(|instance| instance.role = Some(role));
        check("names no role");
    }
    imds.change(|instance| instance.role = Some("web"));
    for credentials in [
        r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIA\nX", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}"#,
        r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAX", "SecretAccessKey": "s\r", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}"#,
        r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAX", "SecretAccessKey": "s", "Token": "t\n", "Expiration": "2099-01-01T00:00:00Z"}"#,
    ] {
        imds.change(|instance| instance.credentials = credentials);
        check("they hold a line break");
    }
    for credentials in [
        "",
        "<html>",
        "{}",
        r#"{"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": "-9999-01-01T00:00:00Z"}"#,
        r#"{"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": "99999-01-01T00:00:00Z"}"#,
        r#"{"Code": "Success", "AccessKeyId": "", "SecretAccessKey": "", "Token": "", "Expiration": "0001-01-01T00:00:00Z"}"#,
    ] {
        imds.change(|instance| instance.credentials = credentials);
        assert_lived(&fetch(&world, &[]), credentials);
    }
    for region in ["", "\n", "<html>", "eu central 1", "a/b", "é"] {
        imds.change(|instance| instance.region = region);
        assert_lived(&fetch(&world, &[]), region);
    }
}

/// As the seccomp filter of an old container runtime, which refuses what it does not know.
#[test]
fn without_clone3_every_command_says_so_and_lives() {
    let (world, server) = host();
    let named = server.endpoint().replace("127.0.0.1", "localhost");
    let refusing = |arguments: &[&str]| {
        let agent = world.agent(arguments);
        let mut command = std::process::Command::new("strace");
        command
            .args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=clone3"])
            .args(["-e", "inject=clone3:error=EPERM"])
            .arg(agent.get_program())
            .args(agent.get_args())
            .envs(
                agent
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            // A name that has to be looked up.
            .env("AWS_ENDPOINT_URL_SSM", &named);
        command
    };
    for arguments in [
        &["check"][..],
        &["sync"],
        &["diff"],
        &["status"],
        &["fetch", "--once"],
        &["enforce", "--once"],
    ] {
        let output = refusing(arguments).output().unwrap();
        let said = shown(&output.stderr) + &shown(&output.stdout);
        assert!(
            matches!(output.status.code(), Some(1..=3)),
            "{arguments:?}: {}: {said}",
            output.status
        );
        if arguments != ["status"] {
            assert!(said.contains("no thread"), "{arguments:?}: {said}");
        }
    }
    let mut agent = Ends(
        refusing(&["run"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(world.path("log")).unwrap())
            .spawn()
            .unwrap(),
    );
    wait("the problem", || {
        world.word().to_string().contains("no-threads")
    });
    let ended = agent.0.try_wait().unwrap();
    let log = std::fs::read_to_string(world.path("log")).unwrap();
    assert!(ended.is_none(), "{log}");
}

#[test]
fn the_credentials_of_a_container_go_through_no_proxy() {
    let (mut world, server) = host();
    let body = r#"{"AccessKeyId": "ASIACONTAINER0001", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}"#;
    let container = HttpServer::start(move |_| Answer::Reply {
        status: 200,
        headers: vec![],
        body: body.into(),
    });
    world
        .environment
        .retain(|(name, _)| !name.contains("KEY") && !name.contains("TOKEN"));
    let uri = format!("{}/v1/credentials", container.endpoint());
    world
        .environment
        .push(("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri));
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        let proxy = HttpServer::start(|_| Answer::HangUp);
        let output = fetch(&world, &[(variable, &proxy.endpoint())]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{variable}: {}",
            shown(&output.stderr)
        );
        assert_eq!(proxy.connections(), 0, "{variable}");
    }
    let last = server.requests().pop().unwrap();
    assert!(last.headers["authorization"].contains("ASIACONTAINER0001"));
    // What is asked over TLS of another host goes through it.
    let proxy = HttpServer::start(|_| Answer::HangUp);
    let elsewhere = ("AWS_ENDPOINT_URL_SSM", "https://parameter-store.invalid");
    let output = fetch(&world, &[elsewhere, ("HTTPS_PROXY", &proxy.endpoint())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(comes_true(std::time::Duration::from_secs(5), || proxy
        .connections()
        > 0));
    // And nothing on this host.
    for near in [
        "https://localhost:1",
        "https://127.0.0.2:1",
        "https://169.254.0.1:1",
        "https://[::1]:1",
    ] {
        let proxy = HttpServer::start(|_| Answer::HangUp);
        let near = ("AWS_ENDPOINT_URL_SSM", near);
        fetch(&world, &[near, ("HTTPS_PROXY", &proxy.endpoint())]);
        assert_eq!(proxy.connections(), 0, "{near:?}");
    }
}
