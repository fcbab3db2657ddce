//! Parameter Store as moto has it, which the real `aws` CLI administers; and a client in a process of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use authorized_keys_agent::host::ssm::{
    Failure, Keys, Limits, Parameter, ParameterStore, Settings,
};
use serde_json::json;

use crate::support::run;

const REGION: &str = "eu-central-1";
const PATIENCE: Duration = Duration::from_mins(1);

/// moto on a free port of loopback; ends when dropped.
pub struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    pub fn start() -> Self {
        // It takes a port itself and says which once it listens: one that was free before may be another's by then.
        let said = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(said.reopen().unwrap())
            .spawn()
            .expect("moto_server of the PyPI package moto[server,ssm]");
        let mut moto = Self {
            child,
            address: ([127, 0, 0, 1], 0).into(),
        };
        let start = Instant::now();
        loop {
            let ended = moto.child.try_wait().unwrap();
            let said = std::fs::read_to_string(said.path()).unwrap();
            let running = said
                .split_once("Running on http://127.0.0.1:")
                .and_then(|(_, rest)| rest.split_once('\n'));
            if let Some((port, _)) = running {
                moto.address.set_port(port.trim().parse().unwrap());
                return moto;
            }
            assert!(ended.is_none(), "moto ended with {ended:?}: {said}");
            assert!(start.elapsed() < PATIENCE, "moto does not start: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `aws ssm …`, with nothing of the machine's own configuration.
    pub fn aws(&self, arguments: &[&str]) -> String {
        self.cli("text", &[&["ssm"], arguments].concat())
    }

    /// `aws …`, its output in this format.
    pub fn cli(&self, output: &str, arguments: &[&str]) -> String {
        let done = self
            .client("aws")
            .args(["--output", output])
            .args(arguments)
            .output()
            .expect("the aws CLI");
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap()
    }

    /// A program that finds this moto, and nothing else, where it looks for AWS.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    pub fn put(&self, kind: &str, name: &str, value: &str) {
        self.aws(&[
            "put-parameter",
            "--overwrite",
            "--type",
            kind,
            "--name",
            name,
            "--value",
            value,
        ]);
    }

    /// Many new parameters, name and value, without a process for each.
    pub fn put_many(&self, parameters: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in parameters {
            let body = json!({"Name": name, "Value": value, "Type": "String"}).to_string();
            let call = format!(
                "x-amz-target: AmazonSSM.PutParameter\r\n\
                 authorization: AWS4-HMAC-SHA256 Credential=x/20260101/{REGION}/ssm/aws4_request, \
                 SignedHeaders=host, Signature=x\r\ncontent-type: application/x-amz-json-1.1\r\n"
            );
            self.post("/", &call, &body);
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.post("/moto-api/reset", "", "");
    }

    fn post(&self, path: &str, headers: &str, body: &str) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: ssm\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }

    pub fn settings(&self) -> Settings {
        Settings {
            endpoint: Some(self.endpoint()),
            region: Some(REGION.to_owned()),
            credentials: Some(Keys {
                id: "AKIAIOSFODNN7EXAMPLE".into(),
                secret: "x".into(),
                session: None,
            }),
            // moto is slow on a busy machine, and how slow is not what is tested here.
            limits: Limits {
                read: PATIENCE,
                operation: PATIENCE,
                ..Limits::default()
            },
            ..Settings::default()
        }
    }

    pub fn by_path(&self, path: &str) -> Vec<Parameter> {
        run(async {
            let store = ParameterStore::new(&self.settings()).await.unwrap();
            store.by_path(path, &mut store.tries()).await.unwrap()
        })
    }

    pub fn by_names(&self, names: &[&str]) -> Result<Vec<Parameter>, Failure> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        run(async {
            let store = ParameterStore::new(&self.settings()).await?;
            store.by_names(&names, &[], &mut store.tries()).await
        })
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the test `aws::asks_as_its_environment_says` in a process with this environment alone.
pub fn child(environment: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "aws::asks_as_its_environment_says",
            "--nocapture",
        ])
        .env_clear()
        .env("HOME", home.path())
        .env("ASK", "/k")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{out}");
    let answer = out
        .lines()
        .find_map(|line| line.split_once("ANSWER "))
        .map(|(_, answer)| answer);
    answer
        .unwrap_or_else(|| panic!("no answer in {out}"))
        .to_owned()
}
