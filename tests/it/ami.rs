//! What makes images: the Packer template and the Image Builder component, parsed, and their shell checked.

use serde_json::{Value, json};

use crate::support::deployed::Deployed;
use crate::support::deployed::assert_parses;

/// What every image must have been through, in this order.
const STEPS: [&str; 12] = [
    "systemctl mask --runtime $units",
    "until apt-get update",
    "apt-get install -q -y -o DPkg::Lock::Timeout=300",
    "dnf install",
    "/etc/authorized-keys-agent/config.toml",
    "systemctl unmask --runtime $units",
    "systemctl enable $units",
    "authorized-keys-agent --version",
    "systemctl is-enabled $unit;",
    "authorized-keys-agent status",
    "systemctl stop authorized-keys-agent.service authorized-keys-fetch.service",
    "agent seal",
];

fn assert_makes_an_image(script: &str) {
    let mut rest = script;
    for step in STEPS {
        let at = rest
            .find(step)
            .unwrap_or_else(|| panic!("no `{step}` (any more) in {script}"));
        rest = &rest[at + step.len()..];
    }
    // After it nothing may start the services before the image is made.
    assert_eq!(rest.trim(), "", "after the last step");
    assert!(
        !script.contains("enable --now") && !script.contains("systemctl start"),
        "{script}"
    );
}

#[test]
fn packer_installs_verifies_and_seals() {
    let packer = Deployed::reader().read("packer", "ami/authorized-keys-agent.pkr.hcl");
    let names: Vec<_> = packer["source"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|source| {
            source["\"amazon-ebs\""]
                .as_object()
                .or(source["amazon-ebs"].as_object())
                .unwrap()
                .iter()
        })
        .map(|(name, source)| {
            assert_eq!(
                source["ssh_clear_authorized_keys"], true,
                "the builder's key stays in {name}"
            );
            format!("source.amazon-ebs.{name}")
        })
        .collect();
    let build = &packer["build"][0];
    assert_eq!(build["sources"], json!(names));
    assert_eq!(names.len(), 3);

    let provisioners = build["provisioner"].as_array().unwrap();
    let last = &provisioners.last().unwrap()["shell"];
    assert_eq!(
        last["inline"],
        json!(["${local.install}", "${local.verify}", "${local.seal}"])
    );
    assert_eq!(last["inline_shebang"], "/bin/sh -eu");
    let locals = &packer["locals"][0];
    let script: String = ["install", "verify", "seal"]
        .iter()
        .map(|part| locals[part].as_str().unwrap().to_owned() + "\n")
        .collect();
    assert_parses(&script);
    assert_makes_an_image(&script);
    // Each file that the script reads is uploaded, to the systems that take it.
    let uploads: Vec<_> = provisioners
        .iter()
        .filter_map(|one| one["file"]["destination"].as_str())
        .collect();
    assert_eq!(uploads.len(), 3);
    assert!(
        uploads.iter().all(|path| script.contains(path)),
        "{uploads:?}"
    );
}

#[test]
fn image_builder_installs_verifies_seals_and_tests() {
    let component = Deployed::reader().read("component", "ami/image-builder.yaml");
    assert_eq!(component["schemaVersion"], 1.0);
    let text = component.to_string();
    for parameter in component["parameters"].as_array().unwrap() {
        let (name, details) = parameter.as_object().unwrap().iter().next().unwrap();
        assert_eq!(details["type"], "string");
        assert!(
            text.contains(&format!("{{{{ {name} }}}}")),
            "{name} is not used"
        );
    }
    let shell = |phase: &Value| -> String {
        let mut all = String::new();
        for step in phase["steps"].as_array().unwrap() {
            assert!(
                step["name"].is_string() && !step["inputs"].is_null(),
                "{step}"
            );
            match step["action"].as_str().unwrap() {
                "ExecuteBash" => {
                    let [script] = step["inputs"]["commands"].as_array().unwrap().as_slice() else {
                        panic!("{step}")
                    };
                    let script = script.as_str().unwrap();
                    assert!(
                        script.starts_with("set -eu\n"),
                        "a step that fails must fail the build: {script}"
                    );
                    assert_parses(script);
                    all += script;
                }
                "S3Download" => {
                    for file in step["inputs"].as_array().unwrap() {
                        assert!(
                            file["source"].is_string() && file["destination"].is_string(),
                            "{step}"
                        );
                    }
                }
                action => assert_eq!(action, "CreateFolder"),
            }
        }
        all
    };
    let phases = component["phases"].as_array().unwrap();
    let names: Vec<_> = phases
        .iter()
        .map(|phase| phase["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["build", "validate", "test"]);
    // The validate phase is the last on the instance that the image is made of.
    let script = shell(&phases[0]) + &shell(&phases[1]);
    let (before, _) = script.split_once("systemctl mask").unwrap();
    assert!(before.contains("sha256sum --check"), "{before}");
    assert_makes_an_image(&script);
    let test = shell(&phases[2]);
    assert!(test.contains("systemctl is-active $unit"), "{test}");
}
