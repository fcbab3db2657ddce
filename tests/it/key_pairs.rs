//! The life of EC2 key pairs: the function of `key-pairs.yaml`, run against moto's EC2 and Parameter Store.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::deployed::Deployed;
use crate::support::http_server::refusing;
use crate::support::moto::Moto;
use crate::support::world::{World, key, key_of, shown};

const TAG: &str = "authorized-keys-account";

fn environment() -> Value {
    json!({"PREFIX": "/authorized-keys", "TAG": TAG, "ACCOUNTS": "web/ec2-user,db/postgres", "MIN_RSA_BITS": "3072"})
}

struct Account {
    deployed: Deployed,
    moto: Moto,
    directory: TempDir,
}

impl Account {
    fn new() -> Self {
        let moto = Moto::start();
        let mut deployed = Deployed::in_moto(&moto);
        let mut template = deployed.read("template", "aws/key-pairs.yaml");
        let code = template["Resources"]["Function"]["Properties"]["Code"]["ZipFile"].take();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("index.py"), code.as_str().unwrap()).unwrap();
        Self {
            deployed,
            moto,
            directory,
        }
    }

    fn code(&self) -> PathBuf {
        self.directory.path().join("index.py")
    }

    /// Runs the function for these events; what it printed, and the error it ended with.
    fn handle(&mut self, events: &[Value], more: &Value) -> (String, Option<String>) {
        let mut environment = environment();
        environment
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let asked = json!({"do": "handle", "path": self.code(), "environment": environment, "events": events});
        let done = self.deployed.ask(&asked);
        (
            done["said"].as_str().unwrap().to_owned(),
            done["error"].as_str().map(str::to_owned),
        )
    }

    /// Runs it for one event, which must go well.
    fn hear(&mut self, event: &Value) -> String {
        let (said, error) = self.handle(std::slice::from_ref(event), &json!({}));
        assert_eq!(error, None, "{said}");
        said
    }

    fn ec2(&mut self, operation: &str, arguments: &Value) -> Value {
        self.deployed.aws("ec2", operation, arguments)
    }

    /// A key pair that EC2 makes; its id.
    fn create(&mut self, name: &str, kind: &str, tag: &str) -> String {
        let tags = json!([{"Key": TAG, "Value": tag}, {"Key": "Name", "Value": "x"}]);
        let wanted = json!({"KeyName": name, "KeyType": kind,
                            "TagSpecifications": [{"ResourceType": "key-pair", "Tags": tags}]});
        self.ec2("create_key_pair", &wanted)["KeyPairId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn import(&mut self, name: &str, line: &str, tag: &str) -> String {
        let tags = json!([{"Key": TAG, "Value": tag}]);
        let wanted = json!({"KeyName": name, "PublicKeyMaterial": line,
                            "TagSpecifications": [{"ResourceType": "key-pair", "Tags": tags}]});
        self.ec2("import_key_pair", &wanted)["KeyPairId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// By name alone: moto does not delete by id.
    fn delete(&mut self, name: &str) {
        self.ec2("delete_key_pair", &json!({"KeyName": name}));
    }

    /// Names and values below the prefix.
    fn list(&mut self) -> Vec<(String, String)> {
        let asked = json!({"Path": "/authorized-keys", "Recursive": true});
        let found = self.deployed.aws("ssm", "get_parameters_by_path", &asked);
        let rows = found["Parameters"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut rows: Vec<_> = rows
            .map(|row| (text(&row["Name"]), text(&row["Value"])))
            .collect();
        rows.sort();
        rows
    }

    fn names(&mut self) -> Vec<String> {
        self.list().into_iter().map(|(name, _)| name).collect()
    }
}

/// Where the key pair with this id is on the list.
fn place(account: &str, id: &str) -> String {
    format!(
        "/authorized-keys/{account}/key-pair-{}",
        id.strip_prefix("key-").unwrap()
    )
}

/// What a rule hands over for an API call (AWS `CloudTrail` User Guide, "log file examples").
fn call(name: &str, request: &Value, response: &Value) -> Value {
    json!({
        "source": "aws.ec2", "detail-type": "AWS API Call via CloudTrail", "region": "eu-central-1",
        "detail": {
            "eventVersion": "1.08", "eventSource": "ec2.amazonaws.com", "eventName": name, "readOnly": false,
            "requestParameters": request, "responseElements": response, "eventCategory": "Management",
        },
    })
}

fn created(name: &str, id: &str) -> Value {
    call(
        "CreateKeyPair",
        &json!({"keyName": name}),
        &json!({"keyName": name, "keyPairId": id}),
    )
}

fn deleted(request: &Value, id: &str) -> Value {
    call(
        "DeleteKeyPair",
        request,
        &json!({"_return": true, "keyPairId": id}),
    )
}

#[test]
fn a_key_pair_comes_and_goes_and_its_key_with_it() {
    let mut account = Account::new();
    let alice = account.create("alice laptop", "ed25519", "web/ec2-user");
    let said = account.hear(&created("alice laptop", &alice));
    let name = place("web/ec2-user", &alice);
    assert_eq!(said, format!("put {name}\n"));
    let line = key("bob@laptop");
    let bob = account.import("bob", &line, "db/postgres web/ec2-user");
    let imported = call(
        "ImportKeyPair",
        &json!({"keyName": "bob"}),
        &json!({"keyName": "bob", "keyPairId": bob}),
    );
    account.hear(&imported);
    // Twice, and both again: nothing is different.
    let before = account.list();
    let (said, error) = account.handle(
        &[imported.clone(), created("alice laptop", &alice), imported],
        &json!({}),
    );
    assert_eq!((said.as_str(), error), ("", None));
    assert_eq!(account.list(), before);
    let names = [
        place("db/postgres", &bob),
        name.clone(),
        place("web/ec2-user", &bob),
    ];
    let mut sorted = names.to_vec();
    sorted.sort();
    assert_eq!(account.names(), sorted);

    // The agent takes the lines, and fetches and enforces them.
    let (_, value) = before.iter().find(|(at, _)| *at == name).unwrap();
    assert!(
        value.starts_with("ssh-ed25519 ") && value.ends_with(" alice laptop"),
        "{value}"
    );
    let mut world = World::new();
    world.use_store(
        &account.moto.endpoint(),
        "parameters = {}\npaths = [\"/authorized-keys/web\"]",
    );
    world.accounts = "manage = [\"ec2-user\", \"alice\"]".to_owned();
    for (_, value) in &before {
        fs::write(world.path("lines"), value).unwrap();
        let lint = world.run(&["lint", world.path("lines").to_str().unwrap()]);
        assert_eq!(
            lint.status.code(),
            Some(0),
            "{value}: {}{}",
            shown(&lint.stdout),
            shown(&lint.stderr)
        );
    }
    let fetched = world.run(&["fetch", "--once"]);
    assert_eq!(fetched.status.code(), Some(0), "{}", shown(&fetched.stderr));
    let stored = fs::read_to_string(world.path("fetch-state/approved.json")).unwrap();
    assert!(
        stored.contains(&name) && stored.contains(line.split(' ').nth(1).unwrap()),
        "{stored}"
    );

    // Deleted by id, and by name; the event comes late, and twice.
    account.delete("bob");
    let said = account.hear(&deleted(&json!({"keyPairId": bob}), &bob));
    assert_eq!(said.matches("removed").count(), 2, "{said}");
    assert_eq!(account.names(), [name]);
    account.delete("alice laptop");
    let event = deleted(&json!({"keyName": "alice laptop"}), &alice);
    let (_, error) = account.handle(
        &[event.clone(), event, created("alice laptop", &alice)],
        &json!({}),
    );
    assert_eq!(error, None);
    assert!(account.list().is_empty());
}

#[test]
fn a_name_used_again_is_another_key() {
    let mut account = Account::new();
    let first = account.import("deploy", &key("first"), "web/ec2-user");
    account.hear(&created("deploy", &first));
    account.delete("deploy");
    let second = account.import("deploy", &key("second"), "web/ec2-user");
    // The events in the wrong order, and one of them never.
    account.hear(&created("deploy", &second));
    assert_eq!(account.names(), [place("web/ec2-user", &second)]);
    account.hear(&deleted(&json!({"keyName": "deploy"}), &first));
    assert_eq!(
        account.names(),
        [place("web/ec2-user", &second)],
        "the new key stays"
    );
}

#[test]
fn only_what_is_tagged_and_allowed() {
    let mut account = Account::new();
    account.ec2(
        "create_key_pair",
        &json!({"KeyName": "untagged", "KeyType": "ed25519"}),
    );
    let hostile = [
        "web/root",
        "/etc",
        "../web/ec2-user",
        "web/ec2-user/..",
        "web//ec2-user",
        "WEB/ec2-user",
        "*",
        ",",
    ];
    for (at, tag) in hostile.iter().enumerate() {
        account.create(&format!("bad-{at}"), "ed25519", tag);
    }
    let said = account.hear(&json!({}));
    assert_eq!(
        said.matches("refused: key-").count(),
        hostile.len(),
        "{said}"
    );
    assert!(
        said.contains("is tagged for '../web/ec2-user', which is not in Accounts"),
        "{said}"
    );
    assert!(account.list().is_empty());

    // 2048 bits are what EC2 makes, and less than the agent takes unless both are told to.
    let rsa = account.create("rsa", "rsa", "web/ec2-user");
    let said = account.hear(&created("rsa", &rsa));
    let why = format!("refused: {rsa} has an RSA key of 2048 bits, and MinRsaBits is 3072\n");
    assert!(said.contains(&why), "{said}");
    assert!(account.list().is_empty());
    let (_, error) = account.handle(&[json!({})], &json!({"MIN_RSA_BITS": "2048"}));
    assert_eq!(error, None);
    let value = account.list().remove(0).1;
    assert!(
        value.starts_with("ssh-rsa ") && value.ends_with(" rsa"),
        "{value}"
    );
    let world = World::new();
    fs::write(world.path("lines"), &value).unwrap();
    let lint = world.run(&["lint", world.path("lines").to_str().unwrap()]);
    assert_eq!(lint.status.code(), Some(1), "{}", shown(&lint.stdout));
    assert!(
        shown(&lint.stdout).contains("2048"),
        "{}",
        shown(&lint.stdout)
    );
    let large = account.import("large", &key_of("rsa", "large"), "web/ec2-user");
    account.hear(&created("large", &large));
    let large = place("web/ec2-user", &large);
    let value = account
        .list()
        .into_iter()
        .find(|(name, _)| *name == large)
        .unwrap()
        .1;
    fs::write(world.path("lines"), &value).unwrap();
    assert_eq!(
        world
            .run(&["lint", world.path("lines").to_str().unwrap()])
            .status
            .code(),
        Some(0),
        "{value}"
    );

    // What was put before stays when it is refused later: nothing says that its key pair is gone.
    assert_eq!(account.names(), {
        let mut both = vec![place("web/ec2-user", &rsa), large.clone()];
        both.sort();
        both
    });
    // A tag that changes takes the key away from there, at the next comparison.
    account.ec2(
        "create_tags",
        &json!({"Resources": [&rsa], "Tags": [{"Key": TAG, "Value": "db/postgres"}]}),
    );
    let (_, error) = account.handle(&[json!({})], &json!({"MIN_RSA_BITS": "2048"}));
    assert_eq!(error, None);
    let mut expected = vec![place("db/postgres", &rsa), large];
    expected.sort();
    assert_eq!(account.names(), expected);
}

#[test]
fn a_name_that_no_value_may_hold_is_a_label_all_the_same() {
    let mut account = Account::new();
    let name = "{{ssm:/other}} käthe";
    let id = account.import(name, &key("x"), "web/ec2-user");
    account.hear(&created(name, &id));
    let (_, value) = account.list().remove(0);
    assert!(value.ends_with(" ?ssm:/other}} k?the"), "{value}");
}

/// In every order of the calls of two runs, and with what happens to the key pairs anywhere between them.
#[test]
fn two_runs_at_once_end_where_one_would() {
    let mut account = Account::new();
    let tags = |tag: &str| json!([{"Key": TAG, "Value": tag}]);
    let import = |name: &str| {
        let specifications = json!([{"ResourceType": "key-pair", "Tags": tags("web/ec2-user")}]);
        json!(["import_key_pair", {"KeyName": name, "PublicKeyMaterial": key(name), "TagSpecifications": specifications}])
    };
    let delete = |name: &str| json!(["delete_key_pair", {"KeyName": name}]);
    let code = account.code();
    let mut check = |before: &[Value], beside: &[Value], expected: &[&str]| {
        let done = account.deployed.ask(&json!({
            "do": "race", "path": code, "environment": environment(), "before": before, "beside": beside
        }));
        assert_eq!(done["ends"], json!([expected]), "{beside:?}: {done}");
        // Each end is reached in several ways, or nothing ran beside anything.
        assert!(done["orders"].as_u64() > Some(3), "{done}");
    };
    check(&[import("alice")], &[delete("alice")], &[]);
    check(&[], &[import("alice"), delete("alice")], &[]);
}

#[test]
fn what_it_did_not_make_is_not_its_to_change() {
    let mut account = Account::new();
    let gone = "/authorized-keys/web/ec2-user/key-pair-0123456789abcdef0";
    let by_hand = [
        "--name",
        gone,
        "--value",
        "ssh-ed25519 AAAA by hand",
        "--description",
        "by hand",
    ];
    account
        .moto
        .aws(&[&["put-parameter", "--type", "String"], &by_hand[..]].concat());
    account.moto.put(
        "String",
        "/authorized-keys/web/ec2-user/alice",
        "ssh-ed25519 AAAA alice",
    );
    // One that is there already, of somebody else, where a key pair's would be.
    let alice = account.create("alice", "ed25519", "web/ec2-user");
    let taken = place("web/ec2-user", &alice);
    account.moto.put("String", &taken, "# nobody");
    let before = account.list();
    account.hear(&created("alice", &alice));
    account.hear(&deleted(&json!({"keyName": "x"}), "key-0123456789abcdef0"));
    assert_eq!(account.list(), before);
    account.delete("alice");
    account.hear(&deleted(&json!({"keyName": "alice"}), &alice));
    assert_eq!(account.list(), before);

    // Its tag, and not its description; then its description, and not its tag.
    let tag = [
        "--tags",
        "Key=authorized-keys-managed-by,Value=key-pairs",
        "--resource-type",
        "Parameter",
    ];
    account
        .moto
        .aws(&[&["add-tags-to-resource", "--resource-id", gone], &tag[..]].concat());
    account.hear(&json!({}));
    assert_eq!(account.list(), before);
    account.moto.aws(&[
        "put-parameter",
        "--overwrite",
        "--type",
        "String",
        "--name",
        &taken,
        "--value",
        "# nobody",
        "--description",
        "EC2 key pair alice",
    ]);
    account.hear(&json!({}));
    assert_eq!(account.list(), before);
}

#[test]
fn what_fails_is_tried_again_and_removes_nothing() {
    let mut account = Account::new();
    let alice = account.create("alice", "ed25519", "web/ec2-user");
    account.hear(&created("alice", &alice));
    let before = account.list();
    // A deletion that EC2 does not show yet: the error makes Lambda call again.
    let early = deleted(&json!({"keyPairId": alice}), &alice);
    let (_, error) = account.handle(std::slice::from_ref(&early), &json!({}));
    assert_eq!(
        error.unwrap(),
        format!("RuntimeError: {alice}: deleted, and EC2 still lists it")
    );
    assert_eq!(account.list(), before);
    // A call that failed changed nothing, if it came this far at all.
    let mut failed = deleted(&json!({"keyName": "alice"}), &alice);
    failed["detail"]["errorCode"] = "Client.UnauthorizedOperation".into();
    failed["detail"]["responseElements"] = Value::Null;
    account.hear(&failed);
    assert_eq!(account.list(), before);
    // EC2 out of reach: an error, and the list as it was.
    let unreachable = json!({"AWS_ENDPOINT_URL_EC2": refusing()});
    let (_, error) = account.handle(&[early], &unreachable);
    assert!(
        error
            .as_ref()
            .unwrap()
            .starts_with("EndpointConnectionError"),
        "{error:?}"
    );
    assert_eq!(account.list(), before);
}

#[test]
fn the_stack_hears_of_key_pairs_and_may_do_no_more_than_it_must() {
    let mut account = Account::new();
    let deployed = &mut account.deployed;
    let (outputs, resources) = deployed.create(
        "key-pairs",
        "key-pairs.yaml",
        &[("Accounts", "web/ec2-user,db/ec2-user")],
    );
    let function = json!({"FunctionName": outputs["FunctionName"]});
    let function = deployed.aws("lambda", "get_function_configuration", &function);
    assert_eq!(function["Handler"], "index.handler");
    let mut variables = environment();
    variables["ACCOUNTS"] = "web/ec2-user,db/ec2-user".into();
    // moto leaves a number one.
    variables["MIN_RSA_BITS"] = 3072.into();
    assert_eq!(function["Environment"]["Variables"], variables);
    for name in ["Rule", "Clock"] {
        let targets = deployed.aws(
            "events",
            "list_targets_by_rule",
            &json!({"Rule": resources[name]}),
        );
        assert_eq!(targets["Targets"][0]["Arn"], function["FunctionArn"]);
    }
    let clock = deployed.aws(
        "events",
        "describe_rule",
        &json!({"Name": resources["Clock"]}),
    );
    assert_eq!(clock["ScheduleExpression"], "rate(15 minutes)");
    let may = deployed.aws(
        "lambda",
        "get_policy",
        &json!({"FunctionName": outputs["FunctionName"]}),
    );
    let may = may["Policy"].as_str().unwrap();
    let rule = deployed.aws(
        "events",
        "describe_rule",
        &json!({"Name": resources["Rule"]}),
    );
    for who in [&rule, &clock] {
        assert!(may.contains(who["Arn"].as_str().unwrap()), "{may}");
    }

    let mut failed = created("alice", "key-1");
    failed["detail"]["errorCode"] = "Client.InvalidKeyPair.Duplicate".into();
    let other = call("RunInstances", &json!({"keyName": "alice"}), &Value::Null);
    let imported = call(
        "ImportKeyPair",
        &json!({"keyName": "alice"}),
        &json!({"keyPairId": "key-1"}),
    );
    let events = [
        created("alice", "key-1"),
        imported,
        deleted(&json!({"keyName": "alice"}), "key-1"),
        failed,
        other,
    ];
    let matched = deployed.matches(rule["EventPattern"].as_str().unwrap(), &events);
    assert_eq!(matched, json!([true, true, true, false, false]));

    let policy = json!({"RoleName": resources["Role"], "PolicyName": "key-pairs"});
    let policy = deployed.aws("iam", "get_role_policy", &policy);
    let statements = policy["PolicyDocument"]["Statement"].as_array().unwrap();
    let own = "arn:aws:ssm:eu-central-1:123456789012:parameter/authorized-keys/*/key-pair-*";
    let mut seen = Vec::new();
    for statement in statements {
        let actions = match &statement["Action"] {
            Value::String(one) => vec![one.as_str()],
            several => several
                .as_array()
                .unwrap()
                .iter()
                .map(|action| action.as_str().unwrap())
                .collect(),
        };
        for action in actions {
            seen.push(action);
            let (on, only) = (
                statement["Resource"].as_str().unwrap(),
                &statement["Condition"]["StringEquals"],
            );
            match action {
                "ec2:DescribeKeyPairs" | "ssm:DescribeParameters" => assert_eq!(on, "*"),
                "ssm:PutParameter" if statement["Effect"] == "Deny" => {
                    assert_eq!((on, only), ("*", &json!({"ssm:Overwrite": "true"})));
                }
                "ssm:PutParameter" | "ssm:ListTagsForResource" => assert_eq!(on, own),
                "ssm:DeleteParameter" => {
                    let tag = json!({"ssm:resourceTag/authorized-keys-managed-by": "key-pairs"});
                    assert_eq!((on, only), (own, &tag));
                }
                "ssm:AddTagsToResource" => {
                    let tag = json!({"aws:RequestTag/authorized-keys-managed-by": "key-pairs"});
                    assert_eq!((on, only), (own, &tag));
                    let keys = json!({"aws:TagKeys": ["authorized-keys-managed-by"]});
                    assert_eq!(statement["Condition"]["ForAllValues:StringEquals"], keys);
                }
                "logs:CreateLogStream" | "logs:PutLogEvents" => {
                    assert!(on.contains(":log-group:"), "{on}");
                }
                other => panic!("not needed: {other}"),
            }
        }
    }
    assert_eq!(seen.len(), 9, "{seen:?}");
}
