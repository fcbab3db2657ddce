//! What makes images: the Packer template and the Image Builder component, parsed, and their shell checked.

use serde_json::{Value, json};

use crate::support::deployed::Deployed;
use crate::support::deployed::assert_parses;

/// What every image must have been through, in this order.
const STEPS: [&str; 17] = [
    "systemctl mask --runtime $units",
    "kernels=$(ls /boot)",
    "$package\" | sha256sum --check -",
    "until apt-get update",
    "apt-get install -q -y -o DPkg::Lock::Timeout=300 ./$package",
    "dnf install -q -y --setopt=localpkg_gpgcheck=0 ./$package",
    "!= \"$kernels\"",
    "/etc/authorized-keys-agent/config.toml",
    "systemctl unmask --runtime $units",
    "systemctl enable $units",
    "authorized-keys-agent --version",
    "systemctl is-enabled $unit;",
    "authorized-keys-agent status",
    "systemctl stop ",
    ": >\"$file\"",
    // Asks sshd, which does not answer without host keys.
    "agent seal",
    "rm -f /etc/ssh/ssh_host_",
];

/// The part that is the same in each: from the last stop to the end.
fn assert_makes_an_image(script: &str) -> &str {
    let mut rest = script;
    for step in STEPS {
        let at = rest
            .find(step)
            .unwrap_or_else(|| panic!("no `{step}` (any more) in {script}"));
        rest = &rest[at + step.len()..];
    }
    // What asks for the id of the machine is over by then.
    assert!(rest.trim_end().ends_with("\n: >/etc/machine-id"), "{rest}");
    // Nothing may start the services before the image is made.
    assert!(
        !script.contains("enable --now") && !script.contains("systemctl start"),
        "{script}"
    );
    let (_, after) = script.split_once("systemctl stop").unwrap();
    let (_, own) = after.split_once("systemctl stop ").unwrap();
    own.split_once('\n').unwrap().1.trim_end()
}

#[test]
fn both_ways_leave_the_same_in_the_image() {
    assert_eq!(
        assert_makes_an_image(&packer_script(&packer())),
        assert_makes_an_image(&component_script(&component()))
    );
}

fn packer() -> Value {
    Deployed::reader().read("hcl", "ami/authorized-keys-agent.pkr.hcl")
}

/// Each heredoc without its indent, as `<<-` takes it away.
fn packer_script(packer: &Value) -> String {
    let locals = &packer["locals"][0];
    let parts = ["install", "verify", "seal"].map(|part| locals[part].as_str().unwrap());
    let lines = parts.iter().flat_map(|part| part.lines());
    lines
        .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

fn component() -> Value {
    Deployed::reader().read("component", "ami/image-builder.yaml")
}

/// The phases on the instance that the image is made of.
fn component_script(component: &Value) -> String {
    shell(&component["phases"][0]) + &shell(&component["phases"][1])
}

#[test]
fn packer_installs_verifies_and_seals() {
    let packer = packer();
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
    // Nothing is installed but what these name.
    let sums = [
        "DEB_SHA256=${var.deb_sha256}",
        "RPM_SHA256=${var.rpm_sha256}",
    ];
    assert_eq!(last["environment_vars"], json!(sums));
    let script = packer_script(&packer);
    assert_parses(&script);
    assert_makes_an_image(&script);
    // Each file that the script reads is uploaded, to the systems that take it.
    let uploads: Vec<_> = provisioners
        .iter()
        .filter_map(|one| one["file"]["destination"].as_str())
        .collect();
    assert_eq!(uploads.len(), 3);
    assert!(
        script.contains("\ncd /tmp\n")
            && uploads
                .iter()
                .all(|path| script.contains(path.strip_prefix("/tmp/").unwrap())),
        "{uploads:?}"
    );
    // Which image it starts from is not left to chance: of one publisher, of one kernel, the newest.
    let sources = packer["source"].to_string();
    for (text, times) in [
        ("\"most_recent\":true", 3),
        ("\"owners\":[", 3),
        ("al2023-ami-2023.*-kernel-${var.kernel}-${local.amazon}", 1),
    ] {
        assert_eq!(sources.matches(text).count(), times, "{text}: {sources}");
    }
}

#[test]
fn image_builder_installs_verifies_seals_and_tests() {
    let component = component();
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
    let phases = component["phases"].as_array().unwrap();
    let names: Vec<_> = phases
        .iter()
        .map(|phase| phase["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["build", "validate", "test"]);
    assert_makes_an_image(&component_script(&component));
    let test = shell(&phases[2]);
    assert!(test.contains("systemctl is-active $unit"), "{test}");
}

/// The shell of all steps of a phase.
fn shell(phase: &Value) -> String {
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
}
