//! The real client against moto, which the real `aws` CLI administers: the protocol as others speak it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use authorized_keys_agent::host::ssm::{
    CredentialSource, Failure, Keys, Limits, Parameter, ParameterStore, RegionSource, Settings,
};
use jiff::Timestamp;
use serde_json::json;

use crate::fault::run;
use crate::fault_server::FaultServer;
use crate::imds_server::{ImdsServer, Instance};

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
        let mut moto = Self { child, address: ([127, 0, 0, 1], 0).into() };
        let start = Instant::now();
        loop {
            let ended = moto.child.try_wait().unwrap();
            let said = std::fs::read_to_string(said.path()).unwrap();
            let running =
                said.split_once("Running on http://127.0.0.1:").and_then(|(_, rest)| rest.split_once('\n'));
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

    /// `aws ssm …`, with nothing of the machine's own configuration.
    pub fn aws(&self, arguments: &[&str]) -> String {
        self.cli("text", &[&["ssm"], arguments].concat())
    }

    /// `aws …`, its output in this format.
    pub fn cli(&self, output: &str, arguments: &[&str]) -> String {
        let done =
            self.client("aws").args(["--output", output]).args(arguments).output().expect("the aws CLI");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
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
        self.aws(&["put-parameter", "--overwrite", "--type", kind, "--name", name, "--value", value]);
    }

    /// Many new parameters, name and value, without a process for each.
    pub fn put_many(&self, parameters: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in parameters {
            let body = json!({"Name": name, "Value": value, "Type": "String"}).to_string();
            let head = format!(
                "POST / HTTP/1.1\r\nhost: ssm\r\nconnection: close\r\nx-amz-target: AmazonSSM.PutParameter\r\n\
                 authorization: AWS4-HMAC-SHA256 Credential=x/20260101/{REGION}/ssm/aws4_request, \
                 SignedHeaders=host, Signature=x\r\ncontent-type: application/x-amz-json-1.1\r\n\
                 content-length: {}\r\n\r\n",
                body.len()
            );
            let mut stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all((head + &body).as_bytes()).unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: Some(self.endpoint()),
            region: Some(REGION.to_owned()),
            credentials: Some(Keys { id: "AKIAIOSFODNN7EXAMPLE".into(), secret: "x".into(), session: None }),
            // moto is slow on a busy machine, and how slow is not what is tested here.
            limits: Limits { read: PATIENCE, operation: PATIENCE, ..Limits::default() },
            ..Settings::default()
        }
    }

    fn by_path(&self, path: &str) -> Vec<Parameter> {
        run(async { ParameterStore::new(&self.settings()).await.unwrap().by_path(path).await.unwrap() })
    }

    fn by_names(&self, names: &[&str]) -> Result<Vec<Parameter>, Failure> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        run(async { ParameterStore::new(&self.settings()).await?.by_names(&names).await })
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn any_number_of_parameters() {
    let moto = Moto::start();
    let mut there = 0;
    for count in [0, 1, 9, 10, 11, 250] {
        let names = (there..count).map(|at| format!("/k/web/ec2-user/{at:03}"));
        moto.put_many(names.map(|name| (name.clone(), format!("value of {name}"))));
        there = count;
        let found = moto.by_path("/k/web");
        let expected: Vec<_> = (0..count).map(|at| format!("/k/web/ec2-user/{at:03}")).collect();
        assert_eq!(found.iter().map(|parameter| parameter.name.clone()).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|p| p.version == 1 && p.value == format!("value of {}", p.name)));
    }
    assert_eq!(moto.by_path("/k/we"), [], "a path is no prefix");
    assert_eq!(moto.by_path("/other"), []);
}

#[test]
fn every_type_label_and_version() {
    let moto = Moto::start();
    moto.put("String", "/k/bob/a", "ssh-ed25519 AAAA a\n# two lines");
    moto.put("StringList", "/k/bob/b", "one,two");
    moto.put("SecureString", "/k/bob/c", "secured");
    let values: Vec<_> = moto.by_path("/k").into_iter().map(|p| p.value).collect();
    assert_eq!(values, ["ssh-ed25519 AAAA a\n# two lines", "one,two", "secured"]);

    moto.aws(&["label-parameter-version", "--name", "/k/bob/a", "--labels", "live"]);
    moto.put("String", "/k/bob/a", "the next version");
    let found = moto.by_names(&["/k/bob/a", "/k/bob/a:live", "/k/bob/a:1", "/k/bob/c"]).unwrap();
    let found: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.version, p.value.as_str())).collect();
    let first = "ssh-ed25519 AAAA a\n# two lines";
    let expected = [
        ("/k/bob/a", 2, "the next version"),
        ("/k/bob/a:1", 1, first),
        ("/k/bob/a:live", 1, first),
        ("/k/bob/c", 1, "secured"),
    ];
    assert_eq!(found, expected);
    assert!(moto.by_path("/k")[0].last_modified.unwrap() > Timestamp::UNIX_EPOCH);

    moto.aws(&["delete-parameter", "--name", "/k/bob/a"]);
    assert_eq!(moto.by_path("/k").len(), 2);
    let gone = moto.by_names(&["/k/bob/b", "/k/bob/a", "/k/bob/a:live"]).unwrap_err();
    assert_eq!(gone, Failure::NotFound(vec!["/k/bob/a".into(), "/k/bob/a:live".into()]));
}

/// Runs [`asks_as_its_environment_says`] in a process with this environment alone.
pub fn child(environment: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "aws::asks_as_its_environment_says", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env("ASK", "/k")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{out}");
    let answer = out.lines().find_map(|line| line.split_once("ANSWER ")).map(|(_, answer)| answer);
    answer.unwrap_or_else(|| panic!("no answer in {out}")).to_owned()
}

/// The child of [`the_default_chain`]; on its own, without `ASK`, there is nothing to ask.
#[test]
#[expect(clippy::disallowed_methods, reason = "a child process is told by its environment")]
fn asks_as_its_environment_says() {
    let Ok(path) = std::env::var("ASK") else { return };
    let settings = Settings::default();
    let answer = run(async {
        let store = ParameterStore::new(&settings).await?;
        let found = store.by_path(&path).await?;
        let caller = store.caller().await?;
        Ok::<_, Failure>(format!(
            "{} from {} by {} ({}), region {} from {}",
            found.len(),
            path,
            caller.access_key,
            caller.source,
            store.region(),
            store.region_source()
        ))
    });
    println!("ANSWER {}", answer.unwrap_or_else(|failure| failure.to_string()));
}

#[test]
fn the_default_chain() {
    let server = FaultServer::start([("/k/bob", "x")]);
    let imds = ImdsServer::start(Instance { role: Some("web"), ..Instance::default() });
    let (ssm, metadata) = (server.endpoint(), imds.endpoint());
    let there =
        [("AWS_ENDPOINT_URL_SSM", ssm.as_str()), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str())];
    let check = |more: &[(&'static str, &str)], expected: &str| {
        let environment: Vec<_> = there.iter().chain(more).copied().collect();
        assert_eq!(child(&environment), expected, "{more:?}");
    };
    check(&[], "1 from /k by ASIA…MPLE (instance role), region eu-central-1 from instance metadata");
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "x")];
    check(
        &[keys[0], keys[1], ("AWS_REGION", "us-east-1")],
        "1 from /k by AKIA…MPLE (environment), region us-east-1 from environment",
    );
    let profile = tempfile::NamedTempFile::new().unwrap();
    let text = "[default]\naws_access_key_id = AKIDPROFILEPROFILE01\naws_secret_access_key = x\nregion = eu-west-1\n";
    std::fs::write(profile.path(), text).unwrap();
    let file = profile.path().to_str().unwrap();
    check(
        &[("AWS_CONFIG_FILE", file), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")],
        "1 from /k by AKID…LE01 (profile), region eu-west-1 from profile",
    );
    // A proxy of the environment is for AWS, never for the metadata service.
    let before = imds.paths().len();
    let proxy = crate::http_server::refusing();
    let failure = child(&[there[1], ("HTTPS_PROXY", &proxy)]);
    assert!(failure.contains("https://ssm.eu-central-1.amazonaws.com`: connection refused"), "{failure}");
    assert!(imds.paths().len() > before);
    let nothing = child(&[there[0], ("AWS_EC2_METADATA_DISABLED", "true")]);
    assert_eq!(nothing, "no AWS region: not in the environment, not in a profile, not in instance metadata");
    let no_role = [there[0], ("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_REGION", REGION)];
    assert_eq!(child(&no_role), Failure::CredentialsMissing.to_string());
    // What the library says in types is what the text says.
    assert_eq!(CredentialSource::InstanceRole.to_string(), "instance role");
    assert_eq!(RegionSource::InstanceMetadata.to_string(), "instance metadata");
}
