//! The templates of `packaging/aws`, created in moto, and the Run Command documents, run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::deployed::{Deployed, assert_parses, packaging};
use crate::support::moto::Moto;
use crate::support::world::{World, key, shown};

#[test]
fn cfn_lint_has_nothing_to_say() {
    let templates = fs::read_dir(packaging("aws"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let templates: Vec<_> = templates
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    assert_eq!(templates.len(), 4);
    let done = Command::new("cfn-lint")
        .args(&templates)
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
    assert_eq!(commands.len(), 4);
    let script = commands.join("\n");
    let done = moto
        .client("sh")
        .current_dir(packaging("aws"))
        .args(["-euc", &script])
        .output()
        .unwrap();
    let said = shown(&done.stdout);
    assert!(done.status.success(), "{said}{}", shown(&done.stderr));
    assert_eq!(
        said.matches("Successfully created/updated stack").count(),
        4,
        "{said}"
    );
    // Nothing but what its commands and other templates call them.
    assert!(readme.contains("disable-rule --name authorized-keys-push-sync"));
    assert!(
        moto.cli("text", &["events", "list-rules"])
            .contains("authorized-keys-push-sync")
    );
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
    let shipped: Value =
        serde_json::from_str(include_str!("../../packaging/aws/iam-policy.json")).unwrap();
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

    let rule = deployed.aws("events", "describe_rule", &json!({"Name": "push-sync"}));
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
        &json!({"Rule": "push-sync"}),
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
    let only = &statement["Condition"]["ArnEquals"]["aws:SourceArn"]["Fn::Sub"];
    assert!(
        only.as_str()
            .unwrap()
            .ends_with(":rule/${AWS::StackName}-sync"),
        "{only}"
    );
}

/// What a document holds, as the service gives it back.
fn content(deployed: &mut Deployed, document: &str) -> Value {
    let asked = json!({"Name": document, "DocumentFormat": "JSON"});
    let found = deployed.aws("ssm", "get_document", &asked);
    serde_json::from_str(found["Content"].as_str().unwrap()).unwrap()
}

/// The shell of a document, with its parameters put in as Run Command does: as text.
fn script(content: &Value, parameters: &[(&str, &str)]) -> String {
    let [step] = content["mainSteps"].as_array().unwrap().as_slice() else {
        panic!("{content}")
    };
    assert_eq!(step["action"], "aws:runShellScript");
    let lines = step["inputs"]["runCommand"].as_array().unwrap();
    let mut text = lines
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n");
    for (name, parameter) in content["parameters"].as_object().unwrap() {
        let given = parameters
            .iter()
            .find(|(of, _)| of == name)
            .map(|&(_, value)| value);
        let value = given.unwrap_or_else(|| parameter["default"].as_str().unwrap());
        text = text.replace(&format!("{{{{ {name} }}}}"), value);
    }
    assert!(!text.contains("{{"), "{text}");
    text
}

/// A program that stands before others in the `PATH`.
fn program(directory: &Path, name: &str, script: &str) {
    fs::write(directory.join(name), script).unwrap();
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts the agent itself in the `PATH`, with the config of this host.
fn agent_in_path(world: &World) -> PathBuf {
    let bin = world.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let agent = env!("CARGO_BIN_EXE_authorized-keys-agent");
    // What the caller names comes last, and is what counts.
    let config = world.config();
    let text = format!(
        "#!/bin/sh\ncase $1 in --config) exec {agent} \"$@\" ;; *) exec {agent} --config {} \"$@\" ;; esac\n",
        config.display()
    );
    program(&bin, "authorized-keys-agent", &text);
    bin
}

fn run_in(world: &World, bin: &Path, script: &str) -> Output {
    let mut command = world.command("sh");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command
        .args(["-c", script])
        .env("PATH", format!("{}:{path}", bin.display()))
        .output()
        .unwrap()
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

#[test]
fn nothing_can_be_slipped_into_the_install_document() {
    let mut deployed = Deployed::reader();
    let template = deployed.read("template", "aws/fleet.yaml");
    for document in ["Document", "Install"] {
        let content = &template["Resources"][document]["Properties"]["Content"];
        for (name, parameter) in content["parameters"].as_object().unwrap() {
            let Some(pattern) = parameter["allowedPattern"].as_str() else {
                assert!(parameter["allowedValues"].is_array(), "{name}");
                continue;
            };
            // Only ever between single quotes.
            let text = content["mainSteps"][0]["inputs"]["runCommand"][0]
                .as_str()
                .unwrap();
            let (bare, quoted) = (format!("{{{{ {name} }}}}"), format!("'{{{{ {name} }}}}'"));
            assert_eq!(text.matches(&bare).count(), 1, "{name}");
            assert_eq!(text.matches(&quoted).count(), 1, "{name}");
            let hostile = [
                "'",
                "a'b",
                "';id;'",
                "$(id)",
                "`id`",
                "a b",
                "a\nb",
                "https://a/'$(id)'",
                "\\",
                "\"",
            ];
            let good = match name.as_str() {
                "from" => ["", "s3://bucket/dir", "https://example.com/a/b-1.0/"],
                "sumsSha256" => ["", &"0".repeat(64), &"a1".repeat(32)],
                _ => ["", "YQ==", "YWI="],
            };
            let values: Vec<&str> = hostile.iter().chain(&good).copied().collect();
            let allowed =
                deployed.ask(&json!({"do": "allowed", "pattern": pattern, "values": values}));
            let expected: Vec<bool> = (0..values.len()).map(|at| at >= hostile.len()).collect();
            assert_eq!(allowed, json!(expected), "{name}: {pattern} of {values:?}");
        }
    }
}

/// S3 and the checksums are real, and so is the agent that judges the config; apt, dpkg and systemctl write down what they
/// were asked to do, since this machine is not to be changed.
#[test]
fn the_install_document_installs_only_what_the_checksum_vouches_for() {
    let moto = Moto::start();
    let mut deployed = Deployed::in_moto(&moto);
    deployed.create("fleet", "fleet.yaml", &[]);
    let content = content(&mut deployed, "authorized-keys-agent-install");
    let template = deployed.read("template", "aws/fleet.yaml");
    assert_eq!(
        content,
        template["Resources"]["Install"]["Properties"]["Content"]
    );
    let world = World::new();
    let bin = agent_in_path(&world);
    let asked = world.path("asked");
    let note = |what: &str| {
        format!(
            "#!/bin/sh\n{what}\necho \"${{0##*/}} $*\" >>{}\n",
            asked.display()
        )
    };
    program(&bin, "dpkg", "#!/bin/sh\necho amd64\n");
    program(
        &bin,
        "apt-get",
        &note("for last; do :; done; [ ! -f \"$last\" ] || echo \"file $(cat \"$last\")\""),
    );
    program(&bin, "systemctl", &note(""));
    let aws = Command::new("sh")
        .args(["-c", "command -v aws"])
        .output()
        .unwrap();
    let aws = shown(&aws.stdout);
    std::os::unix::fs::symlink(aws.trim(), bin.join("aws")).unwrap();

    // The directory of a release: this host's package, others, and their sums.
    let release = world.path("release");
    fs::create_dir(&release).unwrap();
    let (package, other) = (
        "authorized-keys-agent_0.1.0-1_amd64.deb",
        "authorized-keys-agent-0.1.0-1.x86_64.rpm",
    );
    fs::write(release.join(package), "the package").unwrap();
    fs::write(
        release.join("authorized-keys-agent_0.1.0-1_arm64.deb"),
        "not for this host",
    )
    .unwrap();
    fs::write(release.join(other), "not for this host").unwrap();
    let publish = || {
        let script =
            "sha256sum *.deb *.rpm >SHA256SUMS; sha256sum SHA256SUMS | cut -d' ' -f1 >../sum
                      aws s3 cp --quiet --recursive . s3://bucket/agent/";
        let done = moto
            .client("sh")
            .args(["-euc", script])
            .current_dir(&release)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", shown(&done.stderr));
        fs::read_to_string(world.path("sum"))
            .unwrap()
            .trim()
            .to_owned()
    };
    moto.cli("text", &["s3", "mb", "s3://bucket"]);
    let sums = publish();

    // The config goes to a directory of this test.
    let etc = world.path("installed");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("config.toml"), "old").unwrap();
    let run = |parameters: &[(&str, &str)]| {
        let _ = fs::remove_file(&asked);
        let text = script(&content, parameters);
        assert_parses(&text);
        let text = text.replace(
            "etc=/etc/authorized-keys-agent",
            &format!("etc={}", etc.display()),
        );
        let mut command = moto.client("unshare");
        let like = world.command("sh");
        command.args(like.get_args()).args(["-c", &text]);
        command.env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
        );
        let done = command.output().unwrap();
        let asked = fs::read_to_string(&asked).unwrap_or_default();
        (
            done.status.code().unwrap(),
            asked,
            shown(&done.stdout) + &shown(&done.stderr),
        )
    };
    let from = ("from", "s3://bucket/agent");
    let config = fs::read_to_string(world.config()).unwrap();
    let encoded = |text: &str| {
        use base64ct::{Base64, Encoding};
        Base64::encode_string(text.as_bytes())
    };

    let (code, asked, said) = run(&[
        from,
        ("sumsSha256", &sums),
        ("configBase64", &encoded(&config)),
    ]);
    assert!(
        code <= 1 && said.contains("file the package"),
        "{code} {asked} {said}"
    );
    assert!(asked.contains(&format!("./{package}\n")), "{asked}");
    assert!(
        asked.contains("systemctl restart authorized-keys-agent authorized-keys-fetch"),
        "{asked}"
    );
    assert_eq!(fs::read_to_string(etc.join("config.toml")).unwrap(), config);
    assert!(said.contains("sshd"), "it ends with the preflight: {said}");

    // The same again restarts nothing; without `from` it is the repository's.
    let (_, asked, _) = run(&[("configBase64", &encoded(&config))]);
    assert!(
        asked.contains("apt-get update") && asked.contains(" authorized-keys-agent\n"),
        "{asked}"
    );
    assert!(
        asked.contains("systemctl start") && !asked.contains("restart"),
        "{asked}"
    );

    // Refused, and nothing was installed or changed.
    let refused = |parameters: &[(&str, &str)], why: &str| {
        let (code, asked, said) = run(parameters);
        assert_eq!(
            (code, asked.contains("install")),
            (2, false),
            "{asked}{said}"
        );
        assert!(said.contains(why), "{said}");
    };
    refused(&[from], "from needs sumsSha256");
    refused(
        &[from, ("sumsSha256", &"0".repeat(64))],
        "SHA256SUMS is not the one that was meant",
    );
    refused(&[("configBase64", "Y")], "configBase64 is not base64");
    moto.cli(
        "text",
        &[
            "s3",
            "cp",
            release.join(other).to_str().unwrap(),
            &format!("s3://bucket/agent/{package}"),
        ],
    );
    refused(
        &[from, ("sumsSha256", &sums)],
        "is not the one that was meant",
    );
    fs::remove_file(release.join(package)).unwrap();
    refused(
        &[from, ("sumsSha256", &publish())],
        "not exactly one deb for amd64",
    );

    let (code, asked, said) = run(&[("configBase64", &encoded("nonsense = 1\n"))]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("unknown field `nonsense`") && said.contains("the old one stays"),
        "{said}"
    );
    assert!(!asked.contains("systemctl"), "{asked}");
    assert_eq!(fs::read_to_string(etc.join("config.toml")).unwrap(), config);
}
