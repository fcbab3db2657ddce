//! Run Command documents: what they hold, and their shell, run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::deployed::Deployed;
use crate::support::world::World;

/// What a document holds, as the service gives it back.
pub fn content(deployed: &mut Deployed, document: &str) -> Value {
    let asked = json!({"Name": document, "DocumentFormat": "JSON"});
    let found = deployed.aws("ssm", "get_document", &asked);
    serde_json::from_str(found["Content"].as_str().unwrap()).unwrap()
}

/// The shell of a document, with its parameters put in as Run Command does: as text.
pub fn script(content: &Value, parameters: &[(&str, &str)]) -> String {
    let lines = step(content, "aws:runShellScript")["inputs"]["runCommand"]
        .as_array()
        .unwrap();
    let text = lines
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n");
    filled_in(content, &text, parameters)
}

/// The one step of this kind.
pub fn step<'a>(content: &'a Value, action: &str) -> &'a Value {
    let all = content["mainSteps"].as_array().unwrap().iter();
    let of_kind: Vec<_> = all.filter(|step| step["action"] == action).collect();
    assert_eq!(of_kind.len(), 1, "{content}");
    of_kind[0]
}

/// A text of a document with its parameters in it.
pub fn filled_in(content: &Value, text: &str, parameters: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
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
pub fn program(directory: &Path, name: &str, script: &str) {
    fs::write(directory.join(name), script).unwrap();
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts the agent itself in the `PATH`, with the config of this host.
pub fn agent_in_path(world: &World) -> PathBuf {
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

pub fn run_in(world: &World, bin: &Path, script: &str) -> Output {
    let mut command = world.command("sh");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command
        .args(["-c", script])
        .env("PATH", format!("{}:{path}", bin.display()))
        .output()
        .unwrap()
}
