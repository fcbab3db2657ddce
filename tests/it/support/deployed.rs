//! What is deployed in AWS, read and tried out by `deployed.py`.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::moto::Moto;
use crate::support::world::{Ends, shown};

/// A file below `packaging/`.
pub fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(path)
}

/// The Python that has cfn-lint and moto; ends with the test.
pub struct Deployed {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Ends,
}

impl Deployed {
    /// Without AWS: reads files.
    pub fn reader() -> Self {
        Self::start(Command::new("python3"))
    }

    pub fn in_moto(moto: &Moto) -> Self {
        Self::start(moto.client("python3"))
    }

    fn start(mut python: Command) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/deployed.py");
        let piped = python
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = piped
            .spawn()
            .expect("python3 with cfn-lint, moto and python-hcl2");
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            requests,
            answers: BufReader::new(answers),
            _process: Ends(child),
        }
    }

    pub fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer)
            .unwrap_or_else(|_| panic!("no answer to {request}; its error is above"))
    }

    pub fn read(&mut self, kind: &str, path: &str) -> Value {
        self.ask(&json!({"do": kind, "path": packaging(path)}))
    }

    pub fn aws(&mut self, service: &str, operation: &str, arguments: &Value) -> Value {
        self.ask(&json!({"do": "aws", "service": service, "operation": operation, "arguments": arguments}))
    }

    /// Creates a stack of a template of `packaging/aws`; its outputs, and what its resources are called.
    pub fn create(
        &mut self,
        stack: &str,
        template: &str,
        parameters: &[(&str, &str)],
    ) -> (Value, Value) {
        let body = std::fs::read_to_string(packaging("aws").join(template)).unwrap();
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(key, value)| json!({"ParameterKey": key, "ParameterValue": value}))
            .collect();
        let wanted = json!({"StackName": stack, "TemplateBody": body, "Parameters": parameters,
                            "Capabilities": ["CAPABILITY_IAM"]});
        self.aws("cloudformation", "create_stack", &wanted);
        let of = json!({"StackName": stack});
        let made = self.aws("cloudformation", "describe_stacks", &of);
        assert_eq!(
            made["Stacks"][0]["StackStatus"], "CREATE_COMPLETE",
            "{made}"
        );
        let outputs = named(&made["Stacks"][0]["Outputs"], "OutputKey", "OutputValue");
        let resources = self.aws("cloudformation", "describe_stack_resources", &of);
        (
            outputs,
            named(
                &resources["StackResources"],
                "LogicalResourceId",
                "PhysicalResourceId",
            ),
        )
    }

    /// Which of the events this pattern of a rule matches.
    pub fn matches(&mut self, pattern: &str, events: &[Value]) -> Value {
        let pattern: Value = serde_json::from_str(pattern).unwrap();
        self.ask(&json!({"do": "matches", "pattern": pattern, "events": events}))
    }
}

/// Rows of what moto does not support have no name.
fn named(rows: &Value, key: &str, value: &str) -> Value {
    let rows = rows.as_array().unwrap().iter();
    rows.filter_map(|row| Some((row[key].as_str()?.to_owned(), row[value].clone())))
        .collect()
}

/// `sh -n` and `bash -n`, as the system shells of Debian and Amazon Linux would.
pub fn assert_parses(script: &str) {
    for shell in ["sh", "bash"] {
        let mut child = Command::new(shell)
            .arg("-n")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let done = child.wait_with_output().unwrap();
        let said = shown(&done.stderr);
        assert!(
            done.status.success() && said.is_empty(),
            "{shell}: {said}\n{script}"
        );
    }
}
