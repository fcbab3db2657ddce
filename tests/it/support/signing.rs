//! Signed lists as DESIGN describes them, made with `ssh-keygen` and a digest of the tests' own; and the AWS CLI in the
//! hands of an attacker.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::moto::Moto;
use crate::support::world::{Ends, World, key, numbered, pair, shown};

pub const NAMESPACE: &str = "authorized-keys-list";

/// A key that signs.
pub struct Signer {
    directory: TempDir,
    /// Its public line.
    pub public: String,
}

impl Signer {
    pub fn new(name: &str) -> Self {
        let (directory, public) = pair(name);
        Self { directory, public }
    }

    /// Its line in a file of allowed signers.
    pub fn line(&self, options: &str) -> String {
        let (key, name) = self.public.rsplit_once(' ').unwrap();
        format!("{name} {options} {key}\n")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("id")
    }

    /// What `ssh-keygen` makes of `text`.
    pub fn sign(&self, namespace: &str, text: &str) -> String {
        let mut child = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .arg(self.key())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        shown(&output.stdout)
    }
}

/// What is signed.
#[derive(Clone)]
pub struct Statement {
    pub scope: String,
    pub audience: Option<String>,
    pub serial: u64,
    pub issued: Timestamp,
    pub expires: Timestamp,
    /// Names relative to the scope, and values.
    pub parameters: BTreeMap<String, String>,
}

impl Statement {
    /// Issued a moment ago, for a day.
    pub fn new(scope: &str, serial: u64) -> Self {
        let now = now();
        Self {
            scope: scope.to_owned(),
            audience: None,
            serial,
            issued: now - SignedDuration::from_secs(5),
            expires: now + SignedDuration::from_hours(24 * 30),
            parameters: BTreeMap::new(),
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn text(&self) -> String {
        let mut hash = Sha256::new();
        for (name, value) in &self.parameters {
            for field in [name, value] {
                hash.update(u32::try_from(field.len()).unwrap().to_be_bytes());
                hash.update(field.as_bytes());
            }
        }
        let audience = self.audience.as_ref();
        let audience = audience.map(|audience| format!("audience: {audience}\n"));
        format!(
            "authorized-keys-list 1\nscope: {}\n{}serial: {}\nissued: {}\nexpires: {}\nparameters: {}\nsha256: {:x}\n",
            self.scope,
            audience.unwrap_or_default(),
            self.serial,
            self.issued,
            self.expires,
            self.parameters.len(),
            hash.finalize()
        )
    }

    /// The value of `.signed`.
    pub fn signed(&self, signers: &[&Signer]) -> String {
        let text = self.text();
        let blocks = signers.iter().map(|signer| signer.sign(NAMESPACE, &text));
        text.clone() + &blocks.collect::<String>()
    }
}

/// In whole seconds, as it is written.
#[expect(
    clippy::disallowed_methods,
    reason = "what is signed must be valid for a real process"
)]
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

/// One who may read, write and delete everything in Parameter Store.
pub struct AwsCli {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Ends,
}

impl AwsCli {
    pub fn new(moto: &Moto) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/aws_cli.py");
        let mut child = moto
            .client("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 with awscli");
        let (requests, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            requests,
            answers: BufReader::new(answers),
            _process: Ends(child),
        }
    }

    pub fn ssm(&mut self, arguments: &[&str]) -> String {
        let all = [&["--output", "text", "ssm"], arguments].concat();
        writeln!(self.requests, "{}", json!(all)).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let answer: Value =
            serde_json::from_str(&answer).expect("the error of the AWS CLI is above");
        assert_eq!(answer["code"], 0, "{arguments:?}: {}", answer["said"]);
        answer["said"].as_str().unwrap().to_owned()
    }

    pub fn put(&mut self, name: &str, value: &str) {
        self.put_as(&["--type", "String"], name, value);
    }

    pub fn put_as(&mut self, how: &[&str], name: &str, value: &str) {
        let arguments = [&["put-parameter", "--overwrite"], how, &["--name", name]].concat();
        self.ssm(&[&arguments[..], &["--value", value]].concat());
    }

    pub fn delete(&mut self, name: &str) {
        self.ssm(&["delete-parameter", "--name", name]);
    }
}

/// The clock of the agent's processes, which the test sets.
pub struct Clock(PathBuf);

impl Clock {
    pub fn of(world: &mut World) -> Self {
        let (library, file) = (world.path("clock.so"), world.path("clock"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/clock.c");
        let built = Command::new("gcc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status()
            .expect("gcc");
        assert!(built.success());
        let clock = Self(file);
        clock.set(SignedDuration::ZERO);
        for (name, path) in [("LD_PRELOAD", &library), ("CLOCK", &clock.0)] {
            world.environment.push((name, path.display().to_string()));
        }
        clock
    }

    /// So much later than it is, or earlier.
    pub fn set(&self, ahead: SignedDuration) {
        let new = self.0.with_extension("new");
        fs::write(&new, ahead.as_secs().to_string()).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

/// The key that the attacker wants in.
pub fn rogue() -> String {
    numbered(666, "rogue")
}

/// A host whose list is a directory that `ops` signs; it looks when the test says so.
pub struct Local {
    pub world: World,
    pub ops: Signer,
    pub list: Statement,
}

impl Local {
    /// With a first list, in force.
    pub fn new() -> Self {
        let local = Self::before_first_list();
        local.put(&local.list, &local.list.signed(&[&local.ops]));
        assert_eq!(local.world.pass(), 0, "{}", local.world.problems());
        local
    }

    pub fn before_first_list() -> Self {
        let mut world = World::new();
        let ops = Signer::new("ops@example.com");
        fs::write(world.path("allowed_signers"), ops.line("")).unwrap();
        let file = world.path("allowed_signers").display().to_string();
        world.tables = format!("[guard]\nmax-removed = 1.0\n[policy]\nsigned-by = \"{file}\"");
        let scope = format!("directory:{}", world.path("approved").display());
        let list = Statement::new(&scope, 1)
            .with("alice/laptop", &key("alice@laptop"))
            .with("bob/laptop", &key("bob@laptop"));
        Self { world, ops, list }
    }

    /// Puts these values and no others, and then the signature.
    pub fn put(&self, list: &Statement, signed: &str) {
        let directory = self.world.path("approved");
        fs::remove_dir_all(&directory).unwrap();
        for (name, value) in &list.parameters {
            let file = directory.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, value).unwrap();
        }
        fs::write(directory.join(".signed"), signed).unwrap();
    }

    /// The list after this one, with one key for alice alone.
    pub fn next(&self, line: &str) -> Statement {
        let mut next = self.list.clone();
        next.serial += 1;
        next.parameters = [("alice/laptop".to_owned(), line.to_owned())].into();
        next
    }

    /// A list that is signed arrives, and all is well.
    pub fn takes(&self, list: &Statement) {
        self.put(list, &list.signed(&[&self.ops]));
        assert_eq!(self.world.pass(), 0, "{}", self.world.problems());
        for (name, value) in &list.parameters {
            let account = name.split('/').next().unwrap();
            assert!(self.world.read(account).contains(value), "{name}");
        }
        self.says("");
    }

    /// The errors of the status, by their codes. No daemon runs.
    pub fn says(&self, expected: &str) {
        let status = self.world.status();
        let problems = status["problems"].as_array().unwrap().iter();
        let errors = problems.filter(|problem| problem["severity"] == "error");
        let mut errors: Vec<&str> = errors.map(|one| one["code"].as_str().unwrap()).collect();
        errors.retain(|code| !["no-enforcer", "no-fetcher"].contains(code));
        assert_eq!(errors.join(" "), expected, "{}", status["problems"]);
    }

    /// A pass changes no file, and then the status has this error, if it is one already.
    pub fn refuses(&self, expected: &str) {
        let files = || ["alice", "bob", "mallory"].map(|account| self.world.read(account));
        let before = files();
        assert_eq!(self.world.pass(), 1, "what is there is not in force");
        assert_eq!(files(), before, "{expected}");
        self.says(expected);
    }

    pub fn warns(&self, code: &str) -> bool {
        let status = self.world.status();
        let problems = status["problems"].as_array().unwrap().iter();
        let mut warnings = problems.filter(|problem| problem["severity"] == "warning");
        warnings.any(|problem| problem["code"] == code)
    }
}
