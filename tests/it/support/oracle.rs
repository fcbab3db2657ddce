//! The real sshd as the oracle of what an authorized_keys file means.
//!
//! Each question is one `sshd -i` on a loopback connection: no daemon, no fixed port, about 0.1 s, and the peer
//! is 127.0.0.1, so that `from=` means something. Works as root (any account whose password is not locked with
//! `!`) and as a plain user (that user only). Needs openssh-server and openssh-client 9.1 or later.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64ct::{Base64, Base64Unpadded, Encoding};
use nix::unistd::{User, getuid};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// An sshd configuration with a host key of its own, in a directory that goes away with it.
pub struct Sshd {
    dir: TempDir,
}

/// How a key gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The line of the file that admits it, from 1.
    pub line: usize,
    /// What sshd read in front of the key, in the words of its log.
    pub options: Vec<String>,
}

/// Seconds after which every process started here is killed.
const LIMIT: &str = "30";

/// `SSH_MAX_IDENTITY_FILES` of OpenSSH's `readconf.h`.
const MAX_IDENTITIES: usize = 100;

impl Sshd {
    /// With `StrictModes no`: only the content of a file counts.
    pub fn new() -> Self {
        Self::with_strict_modes("no")
    }

    /// With `StrictModes yes`: owner and mode of the file and of the directories above it count too.
    pub fn strict() -> Self {
        Self::with_strict_modes("yes")
    }

    fn with_strict_modes(strict: &str) -> Self {
        if getuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let sshd = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let host = sshd.keygen("host", &["-t", "ed25519"]);
        let config = format!(
            "HostKey {}\nStrictModes {strict}\nAuthenticationMethods publickey\nPasswordAuthentication no\n\
             PermitRootLogin yes\nUsePAM no\nUseDNS no\nPermitUserEnvironment yes\nPidFile none\n\
             MaxAuthTries 1000\nLoginGraceTime {LIMIT}\n",
            host.display()
        );
        fs::write(sshd.path("sshd_config"), config).unwrap();
        sshd
    }

    /// Makes a key pair without passphrase with `ssh-keygen ARGS`; gives the path of the private key.
    pub fn keygen(&self, name: &str, args: &[&str]) -> PathBuf {
        let path = self.path(name);
        run(limited("ssh-keygen")
            .args(args)
            .args(["-q", "-N", "", "-C", name, "-f"])
            .arg(&path));
        path
    }

    /// True when the private key `identity` authenticates as the current user. What the line then lets it do
    /// does not count: a forced command may fail, but must end within the limit.
    pub fn login(&self, authorized_keys: &Path, identity: &Path) -> bool {
        self.login_as(&current_user(), authorized_keys, identity)
    }

    /// As [`Sshd::login`] for `user`; needs root for anybody else, who must be able to read the file.
    pub fn login_as(&self, user: &str, authorized_keys: &Path, identity: &Path) -> bool {
        let log = self.connect(user, authorized_keys, &[identity.to_owned()], "VERBOSE");
        log.lines()
            .any(|line| line.starts_with("Accepted publickey for"))
    }

    /// What admits each of `public_keys` (`type base64`), for the current user. Only asks whether sshd would
    /// take a signature by that key, so no private keys are needed.
    pub fn admissions(
        &self,
        authorized_keys: &Path,
        public_keys: &[String],
    ) -> Vec<Option<Admission>> {
        let mut admitted = HashMap::new();
        for chunk in public_keys.chunks(MAX_IDENTITIES) {
            let dir = tempfile::tempdir_in(&self.dir).unwrap();
            let files = chunk
                .iter()
                .enumerate()
                .map(|(i, key)| write_private(&dir.path().join(i.to_string()), key));
            let log = self.connect(
                &current_user(),
                authorized_keys,
                &files.collect::<Vec<_>>(),
                "DEBUG1",
            );
            admitted.extend(read_admissions(&log, authorized_keys));
        }
        public_keys
            .iter()
            .map(|key| admitted.get(&fingerprint(key)).cloned())
            .collect()
    }

    /// The lines, from 1, in which sshd finds no usable key or options, each with its complaint.
    ///
    /// A certificate that nobody trusts is offered: for a certificate sshd reads every line of every key type,
    /// and none stops the search (OpenSSH's `auth2-pubkeyfile.c: auth_check_authkey_line`).
    pub fn refused(&self, authorized_keys: &Path) -> BTreeMap<usize, String> {
        let certificate = self.certificate();
        let log = self.connect(&current_user(), authorized_keys, &[certificate], "DEBUG2");
        let place = format!("{}:", authorized_keys.display());
        let mut refused = BTreeMap::new();
        let mut current = 0;
        for line in log.lines() {
            // This complaint names no line, or only at its end; the line was announced before.
            if line.starts_with("invalid key option string") {
                refused.insert(current, line.to_owned());
            }
            let said = line
                .split_once(&place)
                .and_then(|(_, said)| said.split_once(": "));
            let Some((Ok(number), said)) = said.map(|(number, said)| (number.parse(), said)) else {
                continue;
            };
            current = number;
            if ["advance:", "bad key options:"]
                .iter()
                .any(|bad| said.starts_with(bad))
            {
                refused.insert(number, said.to_owned());
            }
        }
        let end = format!("{}: processed ", authorized_keys.display());
        assert_eq!(
            log.matches(&end).count(),
            1,
            "sshd did not read {place} once:\n{log}"
        );
        refused
    }

    /// What OpenSSH calls the key of a line, options and all; `None` where it finds none.
    pub fn fingerprint(&self, line: &[u8]) -> Option<String> {
        let path = self.path("line.pub");
        fs::write(&path, [line, b"\n"].concat()).unwrap();
        let output = limited("ssh-keygen")
            .arg("-lf")
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.split(' ')
            .nth(1)
            .filter(|_| output.status.success())
            .map(str::to_owned)
    }

    /// A user certificate that nobody trusts; the key in it is beside it as `probe.pub`.
    pub fn certificate(&self) -> PathBuf {
        let certificate = self.path("probe-cert.pub");
        if !certificate.exists() {
            let authority = self.keygen("authority", &["-t", "ed25519"]);
            let probe = self.keygen("probe", &["-t", "ed25519"]);
            let public = probe.with_extension("pub");
            run(limited("ssh-keygen")
                .args(["-q", "-I", "probe", "-s"])
                .arg(authority)
                .arg(public));
            fs::set_permissions(&certificate, fs::Permissions::from_mode(0o600)).unwrap();
        }
        certificate
    }

    /// One connection that offers `identities`; gives sshd's log.
    fn connect(
        &self,
        user: &str,
        authorized_keys: &Path,
        identities: &[PathBuf],
        level: &str,
    ) -> String {
        let dir = tempfile::tempdir_in(&self.dir).unwrap();
        let (log, client_config) = (dir.path().join("log"), dir.path().join("ssh_config"));
        let mut config =
            "BatchMode yes\nIdentitiesOnly yes\nIdentityAgent none\nStrictHostKeyChecking no\n\
             UserKnownHostsFile /dev/null\nPreferredAuthentications publickey\n"
                .to_owned();
        for identity in identities {
            writeln!(config, "IdentityFile {}", identity.display()).unwrap();
        }
        fs::write(&client_config, config).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut ssh = limited("ssh")
            .args(["-T", "-n", "-p", &port, "-l", user, "-F"])
            .arg(&client_config)
            .args(["127.0.0.1", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("client")).unwrap())
            .spawn()
            .unwrap();
        let socket = accept(&listener, &mut ssh);
        let status = limited(sshd_path())
            .args(["-i", "-f"])
            .arg(self.path("sshd_config"))
            .arg("-E")
            .arg(&log)
            .args(["-o", &format!("LogLevel={level}")])
            .args([
                "-o",
                &format!("AuthorizedKeysFile={}", authorized_keys.display()),
            ])
            .env("TZ", "UTC")
            .stdin(OwnedFd::from(socket.try_clone().unwrap()))
            .stdout(OwnedFd::from(socket))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        ssh.wait().unwrap();
        assert_ne!(
            status.code(),
            Some(124),
            "sshd did not end within {LIMIT} s"
        );
        let log = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        assert!(
            log.contains("port"),
            "sshd did not talk to the client:\n{log}"
        );
        log
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The login name of this process.
pub fn current_user() -> String {
    User::from_uid(getuid()).unwrap().unwrap().name
}

fn read_admissions(log: &str, authorized_keys: &Path) -> HashMap<String, Admission> {
    let found = format!(" found at {}:", authorized_keys.display());
    let place = format!("debug1: {}:", authorized_keys.display());
    let mut admissions = HashMap::new();
    let mut options = Vec::new();
    for line in log.lines() {
        if let Some((key, number)) = line
            .strip_prefix("Accepted key ")
            .and_then(|rest| rest.split_once(&found))
        {
            let number: usize = number.parse().unwrap();
            let own = format!("{number}: ");
            let options = options
                .drain(..)
                .filter_map(|said: &str| said.strip_prefix(&own))
                .map(str::to_owned);
            let (_, fingerprint) = key.split_once(' ').unwrap();
            admissions.insert(
                fingerprint.to_owned(),
                Admission {
                    line: number,
                    options: options.collect(),
                },
            );
        }
        options.extend(
            line.strip_prefix(&place)
                .filter(|said| !said.contains(": matching key found: ")),
        );
    }
    admissions
}

/// `SHA256:…` of a line `type base64`, as sshd's log has it.
pub fn fingerprint(public_key: &str) -> String {
    let blob = Base64::decode_vec(public_key.split(' ').nth(1).unwrap()).unwrap();
    format!(
        "SHA256:{}",
        Base64Unpadded::encode_string(Sha256::digest(blob).as_slice())
    )
}

/// ssh wants its identity files private, even those that hold a public key.
fn write_private(path: &Path, text: &str) -> PathBuf {
    fs::write(path, format!("{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

/// The connection of `ssh`, which may also end without one.
fn accept(listener: &TcpListener, ssh: &mut Child) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((socket, _)) => return socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("cannot accept: {error}"),
        }
        assert!(
            ssh.try_wait().unwrap().is_none(),
            "ssh ended without a connection"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sshd_path() -> &'static str {
    let places = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"];
    places
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("these tests need openssh-server")
}

fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=2", LIMIT, program]);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
