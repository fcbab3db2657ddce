//! `packaging/aws/associations.yaml`: what State Manager is told to do, and that the documents of `fleet.yaml` take it.

use std::fs;

use serde_json::{Value, json};

use crate::support::deployed::Deployed;
use crate::support::documents::{agent_in_path, run_in, script};
use crate::support::world::{World, key, shown, wait};

/// The template's resource as `CreateAssociation` takes it, with these parameters of the stack; those that are not named
/// are empty.
fn association(template: &Value, name: &str, given: &[(&str, &str)]) -> Value {
    let value = |parameter: &str| {
        let known = given.iter().find(|(of, _)| *of == parameter);
        let default = template["Parameters"][parameter]["Default"].as_str();
        known
            .map(|(_, value)| *value)
            .or(default)
            .unwrap()
            .to_owned()
    };
    resolved(&template["Resources"][name]["Properties"], &value)
}

/// The functions that the template uses.
fn resolved(of: &Value, value: &impl Fn(&str) -> String) -> Value {
    let Some(fields) = of.as_object() else {
        return match of.as_array() {
            Some(all) => all.iter().map(|one| resolved(one, value)).collect(),
            None => of.clone(),
        };
    };
    if let Some(name) = fields.get("Ref").and_then(Value::as_str) {
        return match name {
            "AWS::NoValue" => Value::Null,
            "TagValues" => value(name).split(',').collect(),
            name => value(name).into(),
        };
    }
    if let Some(text) = fields.get("Fn::Sub").and_then(Value::as_str) {
        let mut text = text.replace("${AWS::StackName}", "keys");
        for name in ["DocumentName", "TagKey"] {
            text = text.replace(&format!("${{{name}}}"), &value(name));
        }
        assert!(!text.contains("${"), "{text}");
        return text.into();
    }
    if let Some(choice) = fields.get("Fn::If") {
        let of = match choice[0].as_str().unwrap() {
            "HasFrom" => value("From"),
            "HasConfig" => value("ConfigBase64"),
            other => panic!("{other}"),
        };
        return resolved(&choice[if of.is_empty() { 2 } else { 1 }], value);
    }
    let all = fields
        .iter()
        .map(|(name, one)| (name.clone(), resolved(one, value)));
    all.filter(|(_, one)| !one.is_null()).collect()
}

#[test]
fn state_manager_installs_keeps_and_asks() {
    let mut deployed = Deployed::reader();
    let template = deployed.read("template", "aws/associations.yaml");
    let fleet = deployed.read("template", "aws/fleet.yaml");
    let sums = "0".repeat(64);
    let given = [
        ("TagValues", "web,db"),
        ("From", "https://bucket.s3.eu-central-1.amazonaws.com/agent"),
        ("SourceType", "S3"),
        ("SumsSha256", &sums),
    ];
    // moto has no associations: the parameters of the call are checked against the service's own model.
    let mut taken = |association: &Value, document: &str| {
        let errors = deployed.ask(&json!({"do": "invalid", "service": "ssm", "operation": "CreateAssociation", "arguments": association}));
        assert_eq!(errors, "", "{association}");
        assert_eq!(
            association["Targets"],
            json!([{"Key": "tag:Role", "Values": ["web", "db"]}])
        );
        // Each parameter is one of the document, with a value that it takes.
        let content = &fleet["Resources"][document]["Properties"]["Content"];
        for (name, value) in association["Parameters"].as_object().unwrap() {
            let [value] = value.as_array().unwrap().as_slice() else {
                panic!("{value}")
            };
            let known = &content["parameters"][name];
            if let Some(pattern) = known["allowedPattern"].as_str() {
                let allowed =
                    deployed.ask(&json!({"do": "allowed", "pattern": pattern, "values": [value]}));
                assert_eq!(allowed, json!([true]), "{name}: {value}");
            } else {
                assert!(
                    known["allowedValues"].as_array().unwrap().contains(value),
                    "{name}: {value}"
                );
            }
        }
    };
    let install = association(&template, "Installation", &given);
    taken(&install, "Install");
    assert_eq!(install["Name"], "authorized-keys-agent-install");
    assert_eq!(install["Parameters"]["sumsSha256"], json!([sums]));
    assert!(
        install["Parameters"]["configBase64"].is_null(),
        "the config of each stays"
    );
    assert_eq!(
        (&install["MaxConcurrency"], &install["MaxErrors"]),
        (&json!("5%"), &json!("5%"))
    );
    let from_repositories = association(&template, "Installation", &given[..1]);
    taken(&from_repositories, "Install");
    assert_eq!(
        from_repositories["Parameters"],
        json!({"sourceType": ["Web"]})
    );

    let ask = association(&template, "Question", &given);
    taken(&ask, "Document");
    assert_eq!(
        (&ask["Name"], &ask["MaxErrors"]),
        (&json!("authorized-keys-agent"), &json!("100%"))
    );
    // An association is compliant while its document succeeds; nothing else is set to say so.
    for association in [&install, &ask] {
        assert!(association["SyncCompliance"].is_null(), "{association}");
    }
}

#[test]
fn a_host_that_is_degraded_fails_the_question() {
    let fleet = Deployed::reader().read("template", "aws/fleet.yaml");
    let content = &fleet["Resources"]["Document"]["Properties"]["Content"];
    let world = World::new();
    let bin = agent_in_path(&world);
    world.approve("alice", "laptop", &key("alice@laptop"));
    let ask = || {
        let done = run_in(&world, &bin, &script(content, &[("action", "Summary")]));
        let line = shown(&done.stdout);
        assert!(
            line.len() < 500 && line.matches('\n').count() == 1,
            "{line}"
        );
        let status: Value = serde_json::from_str(&line).unwrap();
        (done.status.code().unwrap(), status["problems"].clone())
    };
    assert_eq!(ask().0, 3, "no enforcer");
    let running = world.start();
    wait("a healthy host", || ask().0 == 0);
    fs::remove_dir(world.home("bob")).unwrap();
    fs::write(world.home("bob"), "").unwrap();
    world.approve("bob", "laptop", &key("bob@laptop"));
    wait("a refused file", || {
        let (code, problems) = ask();
        code == 1 && problems[0] == "file-refused"
    });
    drop(running);
}
