//! A host in a directory: accounts of its own (in a mount namespace of their own), homes, a list, a config; and the
//! agent, run as its real binary.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use authorized_keys_agent::model::account::Account;
use authorized_keys_agent::model::config::tables::Owner;
use authorized_keys_agent::model::file::wanted::Target;
use authorized_keys_agent::model::location::Location;
use serde_json::Value;
use tempfile::TempDir;

/// Credentials of the tests, to be found nowhere but in the environment.
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
pub const SESSION: &str = "FwoGZXIvYXdzEExampleOfASessionToken//////////";

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// uids that nothing else has.
pub const ALICE: u32 = 61_001;
pub const BOB: u32 = 61_002;
pub const MALLORY: u32 = 61_003;
/// Below `UID_MIN`.
pub const DAEMON: u32 = 601;

/// What every host has beside its people, `HOME` standing for the home of root. `sshd` is the account that sshd gives
/// its unprivileged half to, without which it does not start. Nothing is taken from the machine that runs the tests: an
/// account more or less there would change what the agent lists, counts and asks sshd about.
const SYSTEM_ACCOUNTS: &str = "\
root:x:0:0:root:HOME:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sshd:x:74:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";
const SYSTEM_GROUPS: &str =
    "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nshadow:x:42:\nnogroup:x:65534:\n";

pub struct World {
    directory: TempDir,
    /// Lines of `[accounts]`.
    pub accounts: String,
    /// Everything before the tables.
    pub top: String,
    /// Where the list comes from: a line of `[source]`.
    pub origin: String,
    /// Time between two polls.
    pub every: String,
    /// Further lines of `[source]`.
    pub source: String,
    /// Further tables.
    pub tables: String,
    /// What the environment of the agent has beside that of the test.
    pub environment: Vec<(&'static str, String)>,
    /// What the firmware says of the board, where it says anything: on EC2 the instance id.
    pub asset_tag: Option<String>,
}

impl World {
    /// root, alice, bob, mallory and a system account `svc`, each with a home; an empty list; the three people managed.
    pub fn new() -> Self {
        assert!(
            fs::metadata("/proc/self")
                .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
                .unwrap()
                == 0,
            "this test needs root: it works on files of several accounts"
        );
        let directory = tempfile::Builder::new().prefix("aka-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = Self {
            origin: format!("directory = \"{}/approved\"", directory.path().display()),
            directory,
            accounts: "manage = [\"alice\", \"bob\", \"mallory\"]".to_owned(),
            top: String::new(),
            every: "200ms".to_owned(),
            source: String::new(),
            tables: String::new(),
            environment: Vec::new(),
            asset_tag: None,
        };
        fs::create_dir_all(world.home("root")).unwrap();
        let mut passwd = SYSTEM_ACCOUNTS.replace("HOME", &world.home("root").display().to_string());
        let mut group = SYSTEM_GROUPS.to_owned();
        for (name, uid) in [
            ("alice", ALICE),
            ("bob", BOB),
            ("mallory", MALLORY),
            ("svc", DAEMON),
        ] {
            let home = world.home(name);
            writeln!(passwd, "{name}:x:{uid}:{uid}::{}:/bin/sh", home.display()).unwrap();
            writeln!(group, "{name}:x:{uid}:").unwrap();
            fs::create_dir_all(&home).unwrap();
            chown(&home, Some(uid), Some(uid)).unwrap();
        }
        fs::write(world.path("passwd"), passwd).unwrap();
        fs::write(world.path("group"), group).unwrap();
        fs::create_dir(world.path("approved")).unwrap();
        fs::create_dir(world.path("etc")).unwrap();
        world
    }

    /// Takes the list from Parameter Store at `endpoint`; `origin` is a line of `[source]`. Nothing of this
    /// machine's own AWS configuration counts.
    pub fn use_store(&mut self, endpoint: &str, origin: &str) {
        origin.clone_into(&mut self.origin);
        let nothing = || "/dev/null".to_owned();
        self.environment = vec![
            ("AWS_ENDPOINT_URL_SSM", endpoint.to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_SESSION_TOKEN", SESSION.to_owned()),
            ("AWS_CONFIG_FILE", nothing()),
            ("AWS_SHARED_CREDENTIALS_FILE", nothing()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn home(&self, account: &str) -> PathBuf {
        self.path("home").join(account)
    }

    pub fn ssh(&self, account: &str) -> PathBuf {
        self.home(account).join(".ssh")
    }

    pub fn file(&self, account: &str) -> PathBuf {
        self.ssh(account).join("authorized_keys")
    }

    /// A file in alice's `.ssh`, to be worked on directly.
    pub fn target(&self, file: &str, owner: Owner) -> Target {
        let home = self.home("alice");
        Target {
            location: Location {
                in_home: true,
                directories: vec![".ssh".to_owned()],
                file: file.to_owned(),
                path: home.join(".ssh").join(file),
            },
            account: Account {
                name: "alice".try_into().unwrap(),
                uid: ALICE,
                gid: ALICE,
                home,
            },
            owner,
        }
    }

    pub fn read(&self, account: &str) -> String {
        fs::read_to_string(self.file(account)).unwrap_or_default()
    }

    /// Puts `value` on the list for `account`, at once and whole.
    pub fn approve(&self, account: &str, label: &str, value: &str) {
        let directory = self.path("approved").join(account);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(".new"), value).unwrap();
        fs::rename(directory.join(".new"), directory.join(label)).unwrap();
    }

    pub fn revoke(&self, account: &str, label: &str) {
        fs::remove_file(self.path("approved").join(account).join(label)).unwrap();
    }

    /// Makes the `.ssh` of an account as the account would.
    pub fn make_ssh(&self, account: &str, uid: u32) {
        fs::create_dir(self.ssh(account)).unwrap();
        chown(self.ssh(account), Some(uid), Some(uid)).unwrap();
        fs::set_permissions(self.ssh(account), fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// Puts a file of the account in place, with mode 0600. A new one: a write into the agent's own waits for the agent.
    pub fn put(&self, account: &str, uid: u32, content: &str) {
        plant(&self.file(account), uid, content);
    }

    pub fn config(&self) -> PathBuf {
        let path = self.path("config.toml");
        let root = self.directory.path().display();
        // Other tests run processes of the same accounts at the same time, so that each change made here may be theirs.
        let lock = if self.accounts.contains("lock = ") {
            ""
        } else {
            "lock = \"never\"\n"
        };
        let text = format!(
            "{}\n[source]\n{}\nevery = \"{}\"\n{}\n\
             [accounts]\n{lock}{}\nbreak-glass = \"{root}/break-glass\"\n\
             [paths]\nstate-dir = \"{root}/state\"\nruntime-dir = \"{root}/run\"\n\
             fetch-state-dir = \"{root}/fetch-state\"\nfetch-runtime-dir = \"{root}/fetch-run\"\n{}\n",
            self.top, self.origin, self.every, self.source, self.accounts, self.tables
        );
        // A running agent may read it this moment.
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::write(&path, text).unwrap();
        }
        path
    }

    /// A command that runs in this host's mount namespace, where files of `etc` are those of `/etc`, those of `bin` stand
    /// for programs of the host, and `sessions` is where logind keeps its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(
                "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/group\" /etc/group && \
                 { [ -z \"$2\" ] || { mount -t tmpfs none /sys/class && mkdir -p /sys/class/dmi/id && \
                 echo \"$2\" > /sys/class/dmi/id/board_asset_tag; }; } && \
                 for own in $(ls \"$1/etc\"); do mount --bind \"$1/etc/$own\" \"/etc/$own\" || exit; done; \
                 [ ! -d \"$1/bin\" ] || mount --bind \"$1/bin\" /usr/local/sbin || exit; \
                 for own in $(ls \"$1/bin\" 2>/dev/null); do for place in /usr/bin /usr/sbin; do \
                 [ ! -e \"$place/$own\" ] || mount --bind \"$1/bin/$own\" \"$place/$own\" || exit; done; done; \
                 [ ! -d \"$1/sessions\" ] || { mount -t tmpfs none /run && mkdir -p /run/systemd/sessions && \
                 mount --bind \"$1/sessions\" /run/systemd/sessions; } || exit; \
                 shift 2 && exec \"$@\"",
            )
            .arg("sh")
            .arg(self.directory.path())
            .arg(self.asset_tag.as_deref().unwrap_or_default())
            .arg(program)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What enforces has no more of root's rights than its unit leaves it.
    pub fn agent(&self, arguments: &[&str]) -> Command {
        let agent = env!("CARGO_BIN_EXE_authorized-keys-agent");
        let mut command = if matches!(arguments, ["enforce" | "run", ..]) {
            let mut bounded = self.command("setpriv");
            bounded
                .arg(format!("--bounding-set={}", of_unit()))
                .arg(agent);
            bounded
        } else {
            self.command(agent)
        };
        command.arg("--config").arg(self.config()).args(arguments);
        command
    }

    /// The agent on a host whose sshd has not started since it booted: with a `/run` of the world's own.
    pub fn before_sshd(&self, arguments: &[&str]) -> Command {
        let own_run = self.path("own-run");
        fs::create_dir_all(&own_run).unwrap();
        let mut command = self.command("sh");
        command
            .args([
                "-c",
                "mount --bind \"$1\" /run && shift && exec \"$@\"",
                "sh",
            ])
            .arg(&own_run)
            .arg(env!("CARGO_BIN_EXE_authorized-keys-agent"))
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .stderr(fs::File::create(self.path("log")).unwrap());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.agent(arguments).output().unwrap()
    }

    /// `fetch --once`, then `enforce --once`; the enforcer's exit code.
    pub fn pass(&self) -> i32 {
        self.run(&["fetch", "--once"]);
        self.run(&["enforce", "--once"]).status.code().unwrap()
    }

    /// A person takes what there is on the host for read, and the list with all that it takes away; the exit code.
    pub fn accept(&self) -> i32 {
        let sync = self.run(&["sync", "--accept-removals"]);
        sync.status.code().unwrap()
    }

    /// A list that is held stays so, however long the test takes.
    pub fn hold_for_long(&mut self) {
        self.tables.push_str("\n[guard]\nconfirmations = 1000\n");
    }

    /// `run`, once its first pass is done.
    pub fn start(&self) -> Running {
        self.start_with(&["run"])
    }

    pub fn start_with(&self, arguments: &[&str]) -> Running {
        let log = self.path("log");
        let stderr = fs::File::create(&log).unwrap();
        let child = self
            .agent(arguments)
            .stderr(stderr)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Running {
            child: Some(child),
            log,
        };
        wait("the first pass", || {
            running.assert_alive();
            self.path("run/status.json").exists() && self.status()["list"]["digest"].is_string()
        });
        running
    }

    /// All for which the status is degraded, in one text; no warnings.
    pub fn problems(&self) -> String {
        let status = self.status();
        let problems = status["problems"].as_array().unwrap().iter();
        let wrong = problems.filter(|problem| problem["severity"] == "error");
        let line = |problem: &Value| match problem["hint"].as_str() {
            Some(hint) => format!("{}; hint: {hint}", problem["text"].as_str().unwrap()),
            None => problem["text"].as_str().unwrap().to_owned(),
        };
        Value::Array(wrong.map(|problem| line(problem).into()).collect()).to_string()
    }

    /// Keys in the file of an account.
    pub fn keys(&self, account: &str) -> usize {
        self.read(account)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    }

    pub fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{error}: {}{}",
                shown(&output.stdout),
                shown(&output.stderr)
            );
        })
    }

    /// What the enforcer itself says, not what `status` finds; null before it has said anything.
    pub fn word(&self) -> Value {
        let read = |name: &str| {
            fs::read(self.path(name))
                .ok()
                .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        };
        let mut word = read("run/status.json").unwrap_or(Value::Null);
        let Some(changes) = read("run/status-changes.json") else {
            return word;
        };
        if changes["since"] != word["enforcer"]["written_at"] {
            return word;
        }
        for name in ["problems", "list", "drift", "sessions", "enforcer"] {
            word[name] = changes["head"][name].clone();
        }
        for row in changes["rows"].as_array().unwrap() {
            let rows = word["accounts"].as_array_mut().unwrap();
            rows.retain(|known| known["name"] != row["name"]);
            rows.push(row.clone());
            rows.sort_by_key(|row| row["name"].to_string());
        }
        word
    }

    /// A program of this host's own; whatever is written into its directory can be read by it as `$WORLD/…`.
    pub fn stand_in(&self, name: &str, script: &str) {
        fs::create_dir_all(self.path("bin")).unwrap();
        let path = self.path("bin").join(name);
        let root = self.directory.path().display();
        fs::write(&path, format!("#!/bin/sh\nWORLD='{root}'\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Every incident that is kept, as `incidents --json` tells.
    pub fn incidents(&self) -> Vec<Value> {
        let output = self.run(&["incidents", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["schema"], 1);
        told["incidents"].as_array().unwrap().clone()
    }

    pub fn account(&self, name: &str) -> Value {
        let status = self.status();
        let rows = status["accounts"].as_array().unwrap();
        rows.iter()
            .find(|row| row["name"] == name)
            .cloned()
            .unwrap_or(Value::Null)
    }
}

/// The texts of all warnings in a status, one a line.
pub fn warnings(status: &Value) -> String {
    let problems = status["problems"].as_array().unwrap().iter();
    let warnings = problems.filter(|problem| problem["severity"] == "warning");
    warnings
        .map(|problem| problem["text"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

/// An agent process; ends with the test.
pub struct Running {
    child: Option<Child>,
    log: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn assert_alive(&mut self) {
        if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
            panic!("the agent ended ({status}): {}", self.log());
        }
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> (ExitStatus, String) {
        signal("TERM", self.pid());
        let status = self.child.take().unwrap().wait().unwrap();
        (status, self.log())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!(
                    "the agent's log:\n{}",
                    fs::read_to_string(&self.log).unwrap_or_default()
                );
            }
        }
    }
}

/// A process of a test; ends with it, however it ends.
pub struct Ends(pub Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// SIGSTOP, until it is: one thread takes the signal, and the others go on until it does.
pub fn halt(pid: u32) {
    signal("STOP", pid);
    let is_halted = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_none_or(|rest| rest.is_empty() || rest.starts_with('T'))
    };
    wait("every thread to stop", || {
        fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .flatten()
            .all(is_halted)
    });
}

/// Runs a shell script as another user, with only that user's rights.
pub fn shell_as(uid: u32, script: &str) -> Output {
    let id = uid.to_string();
    Command::new("setpriv")
        .args([
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "sh",
            "-c",
            script,
        ])
        .output()
        .unwrap()
}

/// Waits for a condition, with a limit.
pub fn wait(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        comes_true(LIMIT, condition),
        "waited {} s in vain for: {what}",
        LIMIT.as_secs()
    );
}

pub fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// The capabilities of the enforcer's unit, for `setpriv(1)`.
fn of_unit() -> String {
    let unit = include_str!("../../../systemd/authorized-keys-agent.service");
    let mut lines = unit.lines();
    let all = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let named = all.unwrap().split(' ').map(|name| {
        let name = name.strip_prefix("CAP_").unwrap();
        format!(",+{}", name.to_lowercase())
    });
    format!("-all{}", named.collect::<String>())
}

/// A fresh public key line, without `\n`. The private half stays where it was made, in memory of nobody.
pub fn key(comment: &str) -> String {
    pair(comment).1
}

/// A public key line that nobody has the private half of; each number has its own.
pub fn numbered(number: usize, comment: &str) -> String {
    use base64ct::{Base64, Encoding};
    let blob = [
        b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(),
        &[7; 24],
        &number.to_be_bytes(),
    ]
    .concat();
    format!("ssh-ed25519 {} {comment}", Base64::encode_string(&blob))
}

/// A fresh key of another type.
pub fn key_of(algorithm: &str, comment: &str) -> String {
    pair_of(algorithm, comment).1
}

/// A fresh key pair: the directory with the private key `id`, and the public line.
pub fn pair(comment: &str) -> (TempDir, String) {
    pair_of("ed25519", comment)
}

fn pair_of(algorithm: &str, comment: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", algorithm, "-N", "", "-C", comment, "-f"])
        .arg(directory.path().join("id"))
        .status()
        .expect("ssh-keygen is needed");
    assert!(made.success());
    let public = fs::read_to_string(directory.path().join("id.pub")).unwrap();
    (directory, public.trim_end().to_owned())
}

pub fn fingerprint(line: &str) -> String {
    let mut child = Command::new("ssh-keygen")
        .args(["-lf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), line.as_bytes()).unwrap();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    child.wait().unwrap();
    text.split_whitespace().nth(1).unwrap().to_owned()
}

/// Words with one blank between them: what a command prints for people is broken into lines of 80 columns.
pub fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Puts a new file of mode 0600 in the place of whatever is there.
pub fn plant(path: &Path, uid: u32, content: &str) {
    let new = path.with_file_name(".put");
    fs::write(&new, content).unwrap();
    chown(&new, Some(uid), Some(uid)).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

pub fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// `chattr(1)`: `+i`, `-a` and so on.
pub fn chattr(how: &str, path: &Path) {
    let set = Command::new("chattr").arg(how).arg(path).status().unwrap();
    assert!(set.success(), "chattr {how} {}", path.display());
}

/// Names in a directory that are not expected there.
pub fn litter(directory: &Path, expected: &[&str]) -> Vec<String> {
    let names = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| !expected.contains(&name.as_str()))
        .collect()
}
