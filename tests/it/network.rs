//! Where the agent asks, in a network that has nothing: FIPS and dual-stack endpoints, and a metadata service that is there
//! by IPv6 alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::deployed::{Deployed, packaging};
use crate::support::world::{SECRET, World, shown};

/// What `check` says in a network of its own, in which `set_up` is run before. Nothing of this machine's own AWS
/// configuration counts.
fn check(world: &World, set_up: &str, environment: &[(&str, &str)]) -> String {
    let agent = world.agent(&["check"]);
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c"])
        .arg(format!("{set_up}\n\"$@\""))
        .arg("sh")
        .arg(agent.get_program())
        .args(agent.get_args())
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("WORLD", world.path(""))
        .envs(environment.iter().copied());
    let output = command.output().unwrap();
    shown(&output.stdout) + &shown(&output.stderr)
}

fn world() -> World {
    let mut world = World::new();
    "paths = [\"/authorized-keys/web\"]".clone_into(&mut world.origin);
    world
}

#[test]
fn the_endpoint_is_the_one_that_was_chosen() {
    const FIPS: (&str, &str) = ("AWS_USE_FIPS_ENDPOINT", "true");
    const DUAL_STACK: (&str, &str) = ("AWS_USE_DUALSTACK_ENDPOINT", "true");
    let world = world();
    let profile = world.path("aws");
    fs::write(&profile, "[default]\nuse_fips_endpoint = true\n").unwrap();
    let by_profile = ("AWS_CONFIG_FILE", profile.to_str().unwrap());
    let check = |region, chosen: &[(&str, &str)], expected: &str| {
        let mut environment = vec![
            ("AWS_REGION", region),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        environment.extend(chosen);
        let said = check(&world, "", &environment);
        assert!(said.contains(expected), "{chosen:?}: {expected}\n{said}");
    };
    let reach = |host: &str| format!("cannot reach `https://{host}`: the name does not resolve");
    for (region, chosen, host) in [
        ("us-east-1", &[][..], "ssm.us-east-1.amazonaws.com"),
        ("us-east-1", &[FIPS], "ssm-fips.us-east-1.amazonaws.com"),
        (
            "us-east-1",
            &[by_profile],
            "ssm-fips.us-east-1.amazonaws.com",
        ),
        ("us-east-1", &[DUAL_STACK], "ssm.us-east-1.api.aws"),
        (
            "us-east-1",
            &[FIPS, DUAL_STACK],
            "ssm-fips.us-east-1.api.aws",
        ),
        // There the ordinary endpoint is the FIPS one.
        ("us-gov-west-1", &[FIPS], "ssm.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", &[], "ssm.cn-north-1.amazonaws.com.cn"),
    ] {
        check(region, chosen, &reach(host));
    }
    let own = ("AWS_ENDPOINT_URL_SSM", "https://ssm.example.com");
    // The SDK asks neither, and would say so by a connection that closes.
    let two = "an endpoint of Parameter Store is given, and FIPS or dual stack is chosen besides\n      hint: take";
    for chosen in [FIPS, by_profile, DUAL_STACK] {
        check("us-east-1", &[own, chosen], two);
    }
}

#[test]
fn a_metadata_service_that_is_there_by_ipv6_alone_is_asked() {
    let mut world = world();
    "paths = [\"/authorized-keys/{tag:Role}\"]".clone_into(&mut world.origin);
    let instance = r#"{"instance_id": "i-0123456789abcdef0", "tags": {"Role": "web"}}"#;
    fs::write(world.path("imds.json"), instance).unwrap();
    let imds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/box/imds");
    let set_up = format!(
        "ip link set lo up && ip addr add fd00:ec2::254/128 dev lo || exit
         /usr/bin/python3 {} \"$WORLD/imds.json\" fd00:ec2::254 2>/dev/null & trap \"kill $!\" EXIT
         tries=200
         until python3 -c 'import socket; socket.create_connection((\"fd00:ec2::254\", 80))' 2>/dev/null; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || exit; sleep 0.05
         done",
        imds.display()
    );
    let said = check(
        &world,
        &set_up,
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")],
    );
    for line in [
        "ok    metadata     {tag:Role} is `web`",
        "ok    region       us-east-1 (from instance metadata)",
        "ok    credentials  … from instance role",
        "cannot reach `https://ssm.us-east-1.amazonaws.com`",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    // And not otherwise.
    let said = check(&world, &set_up, &[]);
    assert!(
        said.contains("the instance metadata service does not answer"),
        "{said}"
    );
}

#[test]
fn the_endpoint_policy_lets_the_list_be_read_and_the_ssm_agent_work() {
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(packaging("aws").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (policy, of_role) = (read("vpc-endpoint-policy.json"), read("iam-policy.json"));
    let [list, agent] = policy["Statement"].as_array().unwrap().as_slice() else {
        panic!("{policy}")
    };
    for statement in [list, agent] {
        assert_eq!(statement["Effect"], "Allow");
        // An endpoint policy says whom it is for; who may do what, the policies of their roles say.
        assert_eq!(statement["Principal"], "*");
    }
    // What the role may read, of Parameter Store: KMS is asked by Parameter Store.
    let of_role = of_role["Statement"].as_array().unwrap().iter();
    let reads = of_role.filter(|one| one["Action"].as_str().unwrap().starts_with("ssm:"));
    let (actions, resources): (Vec<&Value>, Vec<&Value>) =
        reads.map(|one| (&one["Action"], &one["Resource"])).unzip();
    assert_eq!(list["Action"], json!(actions));
    assert_eq!(&list["Resource"], resources[0]);
    let managed = Deployed::reader().ask(&json!(
        {"do": "managed_policy", "name": "AmazonSSMManagedInstanceCore"}
    ));
    let mut of_agent: Vec<&str> = managed["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|statement| statement["Action"].as_array().unwrap())
        .map(|action| action.as_str().unwrap())
        // Its own endpoints are others, and it reads no parameter by itself.
        .filter(|action| action.starts_with("ssm:") && !action.contains("GetParameter"))
        .collect();
    of_agent.sort_unstable();
    assert_eq!(agent["Action"], json!(of_agent));
}
