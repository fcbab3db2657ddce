//! The templates of `packaging/aws`, created in moto, and the Run Command documents, run.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::deployed::{Deployed, assert_parses, packaging};
use crate::support::documents::{agent_in_path, content, program, run_in, script};
use crate::support::moto::Moto;
use crate::support::world::{World, key, shown};

fn templates() -> Vec<PathBuf> {
    let files = fs::read_dir(packaging("aws")).unwrap();
    let paths = files.map(|entry| entry.unwrap().path());
    let templates: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    assert!(templates.len() >= 4);
    templates
}

#[test]
fn cfn_lint_has_nothing_to_say() {
    let done = Command::new("cfn-lint")
        .args(templates())
        .output()
        .expect("cfn-lint of PyPI");
    let said = shown(&done.stdout) + &shown(&done.stderr);
    assert!(done.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_readme_deploys_them() {
    let moto = Moto::start();
    let readme = fs::read_to_string(packaging("aws/README.md")).unwrap();
    let commands: Vec<_> = readme
        .lines()
        .filter(|line| line.starts_with("aws cloudformation deploy "))
        .collect();
    // Beside them, what the install of one of them is made of.
    let directory = tempfile::tempdir().unwrap();
    for template in templates() {
        let name = template.file_name().unwrap().to_str().unwrap();
        let deploys = format!(" --template-file {name}");
        assert!(commands.iter().any(|one| one.contains(&deploys)), "{name}");
        fs::copy(&template, directory.path().join(name)).unwrap();
    }
    fs::copy(
        packaging("config.toml"),
        directory.path().join("config.toml"),
    )
    .unwrap();
    fs::write(directory.path().join("SHA256SUMS"), "").unwrap();
    let script = commands.join("\n");
    let done = moto
        .client("sh")
        .current_dir(directory.path())
        .args(["-euc", &script])
        .output()
        .unwrap();
    let said = shown(&done.stdout);
    assert!(done.status.success(), "{said}{}", shown(&done.stderr));
    assert_eq!(
        said.matches("Successfully created/updated stack").count(),
        commands.len(),
        "{said}"
    );
    // The rest of what is for a shell, on these stacks.
    let run = |start: &str| {
        let command = readme.lines().find(|line| line.starts_with(start)).unwrap();
        let mut shell = moto.client("sh");
        shell.current_dir(packaging("aws"));
        let done = shell.args(["-euc", command]).output().unwrap();
        assert!(done.status.success(), "{}", shown(&done.stderr));
    };
    let count = |state: &str| {
        let rules = moto.cli("text", &["events", "list-rules"]);
        rules.matches(state).count()
    };
    assert_eq!(count("DISABLED"), 0);
    run("aws events disable-rule ");
    assert_eq!(count("DISABLED"), 1);
    let organization = ["organizations", "create-organization"];
    moto.cli("text", &organization);
    run("aws organizations create-policy ");
}

#[test]
fn the_instance_role_has_the_policy_that_is_shipped() {
    let moto = Moto::start();
    let mut deployed = Deployed::in_moto(&moto);
    let (outputs, _) = deployed.create("role", "instance-role.yaml", &[]);
    let document = |deployed: &mut Deployed, arn: &Value| {
        let version = json!({"PolicyArn": arn, "VersionId": "v1"});
        deployed.aws("iam", "get_policy_version", &version)["PolicyVersion"]["Document"].take()
    };
    // The file is for every partition, the stack for its own.
    let shipped =
        include_str!("../../packaging/aws/iam-policy.json").replace("arn:aws*:", "arn:aws:");
    let shipped: Value = serde_json::from_str(&shipped).unwrap();
    assert_eq!(document(&mut deployed, &outputs["PolicyArn"]), shipped);

    // moto attaches no policy to a role that a stack creates, so that is read in the template.
    let template = deployed.read("template", "aws/instance-role.yaml");
    let managed = "arn:${AWS::Partition}:iam::aws:policy/AmazonSSMManagedInstanceCore";
    let attached = json!([{"Ref": "Policy"}, {"Fn::Sub": managed}]);
    assert_eq!(
        template["Resources"]["Role"]["Properties"]["ManagedPolicyArns"],
        attached
    );
    let profile = json!({"InstanceProfileName": outputs["InstanceProfileName"]});
    let profile = deployed.aws("iam", "get_instance_profile", &profile);
    let held = &profile["InstanceProfile"]["Roles"][0];
    assert_eq!(held["RoleName"], outputs["RoleName"]);
    assert_eq!(
        held["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"],
        "ec2.amazonaws.com"
    );

    // With a name that a path can be made of; and the principal of EC2 in another partition, read in the template.
    let (named, _) = deployed.create("named", "instance-role.yaml", &[("RoleName", "web")]);
    assert_eq!(
        (&named["RoleName"], &named["InstanceProfileName"]),
        (&json!("web"), &json!("web"))
    );
    let trust = &template["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"];
    assert_eq!(
        trust["Statement"][0]["Principal"]["Service"]["Fn::Sub"],
        "ec2.${AWS::URLSuffix}"
    );

    // The policy alone, for one list and one key.
    let kms = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let narrow = [
        ("Prefix", "/keys/web"),
        ("KmsKeyArn", kms),
        ("CreateRole", "false"),
    ];
    let (outputs, _) = deployed.create("narrow", "instance-role.yaml", &narrow);
    assert!(outputs["RoleName"].is_null());
    let narrow = document(&mut deployed, &outputs["PolicyArn"]);
    assert_eq!(narrow["Statement"][2]["Resource"], kms);
    let by_path = json!([
        "arn:aws:ssm:*:*:parameter/keys/web",
        "arn:aws:ssm:*:*:parameter/keys/web/*"
    ]);
    assert_eq!(narrow["Statement"][0]["Resource"], by_path);
    assert!(!narrow.to_string().contains("authorized-keys"), "{narrow}");
}

#[test]
fn a_change_of_the_list_starts_the_document_that_syncs() {
    let moto = Moto::start();
    let mut deployed = Deployed::in_moto(&moto);
    deployed.create("fleet", "fleet.yaml", &[]);
    let given = [("TagKey", "Role"), ("TagValues", "web,db")];
    let (outputs, resources) = deployed.create("push", "push.yaml", &given);

    let rule = json!({"Name": outputs["RuleName"]});
    let rule = deployed.aws("events", "describe_rule", &rule);
    assert_eq!(rule["State"], "ENABLED");
    let event = |name: &str, operation: &str| {
        json!({"source": "aws.ssm", "detail-type": "Parameter Store Change", "region": "eu-central-1",
               "detail": {"name": name, "operation": operation, "type": "String", "description": "x"}})
    };
    let alice = "/authorized-keys/web/ec2-user/alice";
    let mut events: Vec<_> = ["Create", "Update", "Delete", "LabelParameterVersion"]
        .map(|how| event(alice, how))
        .into();
    events.extend([
        event("/authorized-keys-old/alice", "Delete"),
        event("/other/authorized-keys/alice", "Delete"),
    ]);
    let mut other = event(alice, "Delete");
    other["detail-type"] = "Parameter Store Policy Action".into();
    events.push(other);
    let matched = deployed.matches(rule["EventPattern"].as_str().unwrap(), &events);
    assert_eq!(
        matched,
        json!([true, true, true, true, false, false, false])
    );

    let targets = deployed.aws(
        "events",
        "list_targets_by_rule",
        &json!({"Rule": outputs["RuleName"]}),
    );
    let [target] = targets["Targets"].as_array().unwrap().as_slice() else {
        panic!("{targets}")
    };
    let document = "arn:aws:ssm:eu-central-1:123456789012:document/authorized-keys-agent";
    assert_eq!(target["Arn"], document);
    let tags = json!({"RunCommandTargets": [{"Key": "tag:Role", "Values": ["web", "db"]}]});
    assert_eq!(target["RunCommandParameters"], tags);
    let input: Value = serde_json::from_str(target["Input"].as_str().unwrap()).unwrap();
    let content = content(&mut deployed, "authorized-keys-agent");
    let actions = content["parameters"]["action"]["allowedValues"]
        .as_array()
        .unwrap();
    assert!(
        input["action"]
            .as_array()
            .unwrap()
            .iter()
            .all(|action| actions.contains(action)),
        "{input}"
    );

    // The role is for EventBridge, to start this document alone.
    let role = resources["Role"].as_str().unwrap();
    assert!(target["RoleArn"].as_str().unwrap().ends_with(role));
    let trust = deployed.aws("iam", "get_role", &json!({"RoleName": role}));
    let trust = &trust["Role"]["AssumeRolePolicyDocument"]["Statement"][0];
    assert_eq!(
        trust["Principal"],
        json!({"Service": "events.amazonaws.com"})
    );
    let policy = deployed.aws(
        "iam",
        "get_role_policy",
        &json!({"RoleName": role, "PolicyName": "sync"}),
    );
    let statements = policy["PolicyDocument"]["Statement"].as_array().unwrap();
    let [statement] = statements.as_slice() else {
        panic!("{policy}")
    };
    assert_eq!(statement["Action"], "ssm:SendCommand");
    assert_eq!(
        statement["Resource"],
        json!([document, "arn:aws:ec2:eu-central-1:123456789012:instance/*"])
    );

    // What cannot be started is kept. moto creates no queue policy, so that one is read in the template.
    let queue = json!({"QueueUrl": outputs["UndeliveredQueueUrl"], "AttributeNames": ["QueueArn"]});
    let queue =
        deployed.aws("sqs", "get_queue_attributes", &queue)["Attributes"]["QueueArn"].take();
    assert_eq!(target["DeadLetterConfig"]["Arn"], queue);
    let template = deployed.read("template", "aws/push.yaml");
    let policy = &template["Resources"]["UndeliveredPolicy"]["Properties"];
    assert_eq!(policy["Queues"], json!([{"Ref": "Undelivered"}]));
    let statement = &policy["PolicyDocument"]["Statement"][0];
    assert_eq!(statement["Action"], "sqs:SendMessage");
    assert_eq!(statement["Principal"]["Service"], "events.amazonaws.com");
    let only = &statement["Condition"]["ArnEquals"]["aws:SourceArn"];
    assert_eq!(*only, json!({"Fn::GetAtt": ["Rule", "Arn"]}));
    // A rule's name has at most 64 characters, a stack's 128.
    let name = &template["Resources"]["Rule"]["Properties"]["Name"];
    assert!(name.is_null(), "{name}");
}

#[test]
fn the_document_asks_the_agent_and_keeps_its_exit_code() {
    let template = Deployed::reader().read("template", "aws/fleet.yaml");
    let content = &template["Resources"]["Document"]["Properties"]["Content"];
    assert_eq!(content["schemaVersion"], "2.2");
    let parameters = content["parameters"].as_object().unwrap();
    assert_eq!(
        parameters.len(),
        1,
        "each of the one parameter's values is run below"
    );
    let actions = parameters["action"]["allowedValues"].as_array().unwrap();
    for action in actions {
        assert_parses(&script(content, &[("action", action.as_str().unwrap())]));
    }

    let world = World::new();
    let bin = agent_in_path(&world);
    // Whether the enforcer's unit is active is a file of this test.
    let active = world.path("active");
    let unit = "is-active --quiet authorized-keys-agent.service";
    let text = format!(
        "#!/bin/sh\n[ \"$*\" = \"{unit}\" ] && [ -e {} ]\n",
        active.display()
    );
    program(&bin, "systemctl", &text);
    let run = |action: &str| {
        let done = run_in(&world, &bin, &script(content, &[("action", action)]));
        (
            done.status.code().unwrap(),
            shown(&done.stdout),
            shown(&done.stderr),
        )
    };
    let (code, said, _) = run("Status");
    let status: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &status["schema"]), (3, &json!(2)), "no enforcer");
    world.approve("alice", "laptop", &key("alice@laptop"));
    assert_eq!(run("Diff").0, 1, "a key to add");
    // Somebody stopped it, and what they do by hand is not undone.
    let (code, _, error) = run("Sync");
    assert_eq!(
        (code, error.as_str()),
        (
            3,
            "authorized-keys-agent.service is not active: nothing done\n"
        )
    );
    let (code, said, _) = run("Nudge");
    assert_eq!(
        (code, said.as_str()),
        (
            0,
            "authorized-keys-agent.service is not active: nothing done\n"
        )
    );
    assert_eq!(world.keys("alice"), 0);
    assert!(
        !world.path("fetch-state/approved.json").exists(),
        "nothing is left for an image"
    );
    fs::write(&active, "").unwrap();
    let (code, said, error) = run("Sync");
    assert_eq!(code, 0, "{error}");
    assert!(said.contains("alice"), "{said}");
    assert_eq!(world.keys("alice"), 1);
    assert_eq!(run("Diff").0, 0);

    // A home that is no directory: one account is refused, and the command says so; the nudge does not.
    fs::remove_dir(world.home("bob")).unwrap();
    fs::write(world.home("bob"), "").unwrap();
    world.approve("bob", "laptop", &key("bob@laptop"));
    let (code, said, error) = run("Sync");
    assert_eq!(code, 1, "{said}{error}");
    let (code, said, _) = run("Nudge");
    assert_eq!(code, 0);
    assert!(said.contains("exit 1: see"), "{said}");
    world.approve("alice", "desktop", &key("alice@desktop"));
    assert_eq!(run("Nudge").0, 0);
    assert_eq!(world.keys("alice"), 2, "a nudge syncs");
    let (code, said, _) = run("Check");
    assert!(code <= 1 && said.contains("sshd"), "{code} {said}");
    // No value but those that are allowed, even if the service let one pass.
    let (code, _, error) = run("Other");
    assert_eq!((code, error.as_str()), (2, "unknown action\n"));
}
