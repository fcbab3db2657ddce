//! The real `ssh-keygen -Y`: it signs, and it is the oracle of who may sign and whether a signature counts.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use authorized_keys_agent::model::signature::sshsig::NAMESPACE;
use tempfile::TempDir;

/// A security key in software, of OpenSSH's own tests.
const AUTHENTICATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/sk-dummy.so");

/// Keys, in a directory that goes away with them.
pub struct SshKeygen {
    dir: TempDir,
    questions: AtomicUsize,
}

/// Where and when a question is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As in `allowed_signers`.
    pub at: &'a str,
    /// `TZ`.
    pub zone: &'a str,
}

impl SshKeygen {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            questions: AtomicUsize::new(0),
        }
    }

    /// Makes a key pair with `ssh-keygen ARGS`; returns `type base64`.
    pub fn key(&self, name: &str, args: &[&str]) -> String {
        done(&Self::run(
            self.keygen()
                .args(args)
                .args(["-q", "-N", "", "-C", name, "-f", name]),
            b"",
        ));
        let public = fs::read_to_string(self.dir.path().join(format!("{name}.pub"))).unwrap();
        let (key, _comment) = public.rsplit_once(' ').unwrap();
        key.to_owned()
    }

    pub fn private(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// The signature of `message` by the key `name`, with more `args`, such as a namespace of its own.
    pub fn sign(&self, name: &str, message: &[u8], args: &[&str]) -> String {
        let output = Self::run(
            self.keygen()
                .args(["-Y", "sign", "-n", NAMESPACE, "-f", name])
                .args(args),
            message,
        );
        done(&output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// `-Y verify`.
    pub fn verifies(
        &self,
        asked: Asked<'_>,
        signers: &str,
        principal: &str,
        message: &[u8],
        armoured: &str,
    ) -> bool {
        let args = ["verify", "-n", NAMESPACE, "-I", principal];
        let output = self.ask(asked, &args, signers, message, armoured);
        output.status.success()
    }

    /// `-Y find-principals`: the names of the first line that has the key, whatever its namespaces.
    pub fn principals(&self, asked: Asked<'_>, signers: &str, armoured: &str) -> Option<String> {
        let output = self.ask(asked, &["find-principals"], signers, b"", armoured);
        let names = String::from_utf8_lossy(&output.stdout);
        let names: Vec<&str> = names.lines().collect();
        output.status.success().then(|| names.join(","))
    }

    fn ask(
        &self,
        asked: Asked<'_>,
        args: &[&str],
        signers: &str,
        message: &[u8],
        armoured: &str,
    ) -> Output {
        let number = self.questions.fetch_add(1, Ordering::Relaxed);
        let file = |what: &str, text: &str| {
            let path = self.dir.path().join(format!("{what}-{number}"));
            fs::write(&path, text).unwrap();
            path
        };
        let (signers, armoured) = (file("signers", signers), file("sig", armoured));
        let output = Self::run(
            self.keygen()
                .env("TZ", asked.zone)
                .arg("-Y")
                .args(args)
                .arg(format!("-Overify-time={}", asked.at))
                .arg("-f")
                .arg(&signers)
                .arg("-s")
                .arg(&armoured),
            message,
        );
        fs::remove_file(signers).unwrap();
        fs::remove_file(armoured).unwrap();
        output
    }

    fn keygen(&self) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["30", "ssh-keygen"])
            .current_dir(&self.dir)
            .env("SSH_SK_PROVIDER", AUTHENTICATOR)
            .env_remove("SSH_AUTH_SOCK");
        command
    }

    fn run(command: &mut Command, input: &[u8]) -> Output {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Where the signature is damaged, it reads no message.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
}

fn done(output: &Output) {
    assert!(
        output.status.success(),
        "{}(tests/run installs ssh-keygen, and {AUTHENTICATOR} for sk- keys)",
        String::from_utf8_lossy(&output.stderr)
    );
}
