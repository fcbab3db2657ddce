//! The document of `packaging/aws/fleet.yaml` that installs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::deployed::{Deployed, assert_parses};
use crate::support::documents::{agent_in_path, content, filled_in, program, script, step};
use crate::support::moto::Moto;
use crate::support::tls_front::{Front, certificate};
use crate::support::world::{World, shown};

#[test]
fn nothing_can_be_slipped_into_the_install_document() {
    let mut deployed = Deployed::reader();
    let template = deployed.read("template", "aws/fleet.yaml");
    for document in ["Document", "Install"] {
        let content = &template["Resources"][document]["Properties"]["Content"];
        for (name, parameter) in content["parameters"].as_object().unwrap() {
            let Some(pattern) = parameter["allowedPattern"].as_str() else {
                assert!(parameter["allowedValues"].is_array(), "{name}");
                continue;
            };
            // In a shell only ever between single quotes.
            let text = step(content, "aws:runShellScript")["inputs"]["runCommand"][0]
                .as_str()
                .unwrap();
            let (bare, quoted) = (format!("{{{{ {name} }}}}"), format!("'{{{{ {name} }}}}'"));
            assert_eq!(text.matches(&bare).count(), 1, "{name}");
            assert_eq!(text.matches(&quoted).count(), 1, "{name}");
            let hostile = [
                "'",
                "a'b",
                "';id;'",
                "$(id)",
                "`id`",
                "a b",
                "a\nb",
                "https://a/'$(id)'",
                "\\",
                "\"",
                "http://a",
                "https://a/",
                "s3://a/b",
            ];
            let good = match name.as_str() {
                "from" => [
                    "",
                    "https://a",
                    "https://b.s3.eu-west-1.amazonaws.com/a/b-1.0",
                ],
                "sumsSha256" => ["", &"0".repeat(64), &"a1".repeat(32)],
                _ => ["", "YQ==", "YWI="],
            };
            let values: Vec<&str> = hostile.iter().chain(&good).copied().collect();
            let allowed =
                deployed.ask(&json!({"do": "allowed", "pattern": pattern, "values": values}));
            let expected: Vec<bool> = (0..values.len()).map(|at| at >= hostile.len()).collect();
            assert_eq!(allowed, json!(expected), "{name}: {pattern} of {values:?}");
        }
    }
}

/// What the SSM agent does for `aws:downloadContent` from S3, as its source says (`agent/plugins/downloadcontent`, release
/// 3.3.987): everything below the path, by the instance's role, each file with mode 0700, into a directory of this run.
fn download(moto: &Moto, content: &Value, parameters: &[(&str, &str)], run: &Path) {
    let step = step(content, "aws:downloadContent");
    let [given, wanted] = step["precondition"]["StringEquals"]
        .as_array()
        .unwrap()
        .as_slice()
    else {
        panic!("{step}")
    };
    if filled_in(content, given.as_str().unwrap(), parameters) != wanted.as_str().unwrap() {
        return;
    }
    let inputs = &step["inputs"];
    assert_eq!(
        (&inputs["sourceType"], &inputs["onFailure"]),
        (&json!("S3"), &json!("exit"))
    );
    let info = filled_in(content, inputs["sourceInfo"].as_str().unwrap(), parameters);
    let info: Value = serde_json::from_str(&info).unwrap();
    // It takes a URL of S3, in either style, and no `s3://`.
    let url = info["path"].as_str().unwrap();
    let (host, key) = url
        .strip_prefix("https://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let bucket = host.strip_suffix(".s3.eu-central-1.amazonaws.com").unwrap();
    let destination = run
        .join("downloads")
        .join(inputs["destinationPath"].as_str().unwrap());
    fs::create_dir_all(&destination).unwrap();
    let from = format!("s3://{bucket}/{key}");
    moto.cli(
        "text",
        &[
            "s3",
            "cp",
            "--quiet",
            "--recursive",
            &from,
            destination.to_str().unwrap(),
        ],
    );
    for file in fs::read_dir(&destination).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// A host with the agent's own config in a directory of the test. The checksums, curl and S3 are real, and so is the agent
/// that judges the config; apt, dpkg and systemctl write down what they were asked to do, since this machine is not to be
/// changed.
struct Host<'a> {
    moto: &'a Moto,
    content: Value,
    world: World,
    bin: PathBuf,
    certificate: PathBuf,
    front: Front,
}

struct Ran {
    code: i32,
    asked: String,
    said: String,
}

impl<'a> Host<'a> {
    fn new(moto: &'a Moto, content: Value) -> Self {
        let world = World::new();
        let bin = agent_in_path(&world);
        let asked = world.path("asked");
        let note = |what: &str| {
            format!(
                "#!/bin/sh\n{what}\necho \"${{0##*/}} $*\" >>{}\n",
                asked.display()
            )
        };
        // Which package is there, and which units run, are files of this test.
        let there = world.path("there");
        let dpkg = format!("#!/bin/sh\ncat {} 2>/dev/null\n", there.display());
        program(&bin, "dpkg-query", &dpkg);
        program(&bin, "dpkg", "#!/bin/sh\necho amd64\n");
        let apt = format!(
            "for last; do :; done; [ ! -f \"$last\" ] || {{ echo \"file $(cat \"$last\")\"; printf 'installed %s' \"${{last#./}}\" >{}; }}",
            there.display()
        );
        program(&bin, "apt-get", &note(&apt));
        let units = world.path("units");
        let systemctl = format!(
            "for last; do :; done; case $1 in show) exit ;; is-*) grep -qs \"^${{1#is-}} $last$\" {0}; exit ;; \
             enable) echo enabled $last >>{0} ;; start|restart) echo active $last >>{0} ;; esac",
            units.display()
        );
        program(&bin, "systemctl", &note(&systemctl));
        let etc = world.path("installed");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("config.toml"), "old").unwrap();
        let (certificate, key) = certificate(&world.path(""));
        let front = Front::start(&certificate, &key, &moto.endpoint());
        Self {
            moto,
            content,
            world,
            bin,
            certificate,
            front,
        }
    }

    fn etc(&self) -> PathBuf {
        self.world.path("installed")
    }

    fn run(&self, parameters: &[(&str, &str)]) -> Ran {
        let asked = self.world.path("asked");
        let _ = fs::remove_file(&asked);
        let text = script(&self.content, parameters);
        assert_parses(&text);
        let own = format!("etc={}", self.etc().display());
        let text = text.replace("etc=/etc/authorized-keys-agent", &own);
        let run = self.world.path("run-of-document");
        fs::create_dir_all(&run).unwrap();
        download(self.moto, &self.content, parameters, &run);
        let downloads = run.join("downloads");
        let mut command = self.world.command("sh");
        let done = command
            .args(["-c", &format!("! command -v aws || exit 99\n{text}")])
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display()),
            )
            .env("CURL_CA_BUNDLE", &self.certificate)
            .current_dir(if downloads.is_dir() { &downloads } else { &run })
            .output()
            .unwrap();
        // Ten megabytes a day would add up.
        let left: Vec<_> = fs::read_dir(&downloads).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        Ran {
            code: done.status.code().unwrap(),
            asked: fs::read_to_string(&asked).unwrap_or_default(),
            said: shown(&done.stdout) + &shown(&done.stderr),
        }
    }

    /// Refused, and nothing was installed or changed.
    fn refuses(&self, parameters: &[(&str, &str)], why: &str) {
        let Ran { code, asked, said } = self.run(parameters);
        assert_eq!((code, asked.as_str()), (2, ""), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

/// The directory of a release in a bucket: this host's package, others, and their sums.
struct Release<'a> {
    moto: &'a Moto,
    directory: TempDir,
}

const PACKAGE: &str = "authorized-keys-agent_0.1.0-1_amd64.deb";
const OTHER: &str = "authorized-keys-agent-0.1.0-1.x86_64.rpm";

impl<'a> Release<'a> {
    fn new(moto: &'a Moto) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arm = "authorized-keys-agent_0.1.0-1_arm64.deb";
        for (name, text) in [
            (PACKAGE, "the package"),
            (OTHER, "not for this host"),
            (arm, "not for this host"),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        moto.cli("text", &["s3", "mb", "s3://bucket"]);
        Self { moto, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The checksum of the checksums.
    fn publish(&self) -> String {
        let script = "sha256sum *.deb *.rpm >SHA256SUMS
                      aws s3 cp --quiet --recursive --acl public-read . s3://bucket/agent/
                      sha256sum SHA256SUMS | cut -d' ' -f1";
        let done = self
            .moto
            .client("sh")
            .args(["-euc", script])
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", shown(&done.stderr));
        shown(&done.stdout).trim().to_owned()
    }
}

fn encoded(text: &str) -> String {
    use base64ct::{Base64, Encoding};
    Base64::encode_string(text.as_bytes())
}

fn install_document(moto: &Moto) -> Value {
    let mut deployed = Deployed::in_moto(moto);
    deployed.create("fleet", "fleet.yaml", &[]);
    let content = content(&mut deployed, "authorized-keys-agent-install");
    let template = deployed.read("template", "aws/fleet.yaml");
    assert_eq!(
        content,
        template["Resources"]["Install"]["Properties"]["Content"]
    );
    content
}

#[test]
fn the_install_document_installs_only_what_the_checksum_vouches_for() {
    let moto = Moto::start();
    let content = install_document(&moto);
    let release = Release::new(&moto);
    let sums = release.publish();
    let host = Host::new(&moto, content);
    let config = fs::read_to_string(host.world.config()).unwrap();
    let web = format!("{}/bucket/agent", host.front.endpoint);
    let bucket = "https://bucket.s3.eu-central-1.amazonaws.com/agent";

    for source in [
        vec![("from", web.as_str())],
        vec![("from", bucket), ("sourceType", "S3")],
    ] {
        let _ = fs::remove_file(host.world.path("there"));
        let _ = fs::remove_file(host.world.path("units"));
        fs::write(host.etc().join("config.toml"), "old").unwrap();
        let with = |more: &[(&'static str, &str)]| {
            let all = source.iter().copied().chain(more.iter().copied());
            all.map(|(name, value)| (name, value.to_owned()))
                .collect::<Vec<_>>()
        };
        let refuses = |more: &[(&'static str, &str)], why: &str| {
            let all = with(more);
            let all: Vec<_> = all
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            host.refuses(&all, why);
        };
        refuses(&[], "from needs sumsSha256");
        refuses(
            &[("sumsSha256", &"0".repeat(64))],
            "SHA256SUMS is not the one that was meant",
        );
        // The shell from here on is the same for both.
        if source.len() == 1 {
            // Another file under the name of the package.
            let other = release.file(OTHER);
            let place = format!("s3://bucket/agent/{PACKAGE}");
            moto.cli(
                "text",
                &[
                    "s3",
                    "cp",
                    "--acl",
                    "public-read",
                    other.to_str().unwrap(),
                    &place,
                ],
            );
            refuses(&[("sumsSha256", &sums)], "is not the one that was meant");
            fs::rename(release.file(PACKAGE), host.world.path("kept")).unwrap();
            refuses(
                &[("sumsSha256", &release.publish())],
                "not exactly one deb for amd64",
            );
            fs::rename(host.world.path("kept"), release.file(PACKAGE)).unwrap();
            assert_eq!(release.publish(), sums);
        }

        let all = with(&[("sumsSha256", &sums), ("configBase64", &encoded(&config))]);
        let all: Vec<_> = all
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let Ran { code, asked, said } = host.run(&all);
        assert!(
            code <= 1 && said.contains("file the package"),
            "{code} {asked} {said}"
        );
        assert!(asked.contains(&format!("./{PACKAGE}\n")), "{asked}");
        for unit in ["authorized-keys-agent", "authorized-keys-fetch"] {
            assert!(
                asked.contains(&format!("systemctl enable --quiet {unit}\n")),
                "{asked}"
            );
            assert!(
                asked.contains(&format!("systemctl restart {unit}\n")),
                "{asked}"
            );
        }
        assert_eq!(
            fs::read_to_string(host.etc().join("config.toml")).unwrap(),
            config
        );
        assert!(said.contains("sshd"), "it ends with the preflight: {said}");

        // Every day from then on: the host is right, and nothing is done.
        let Ran {
            code: again,
            asked,
            said,
        } = host.run(&all);
        assert_eq!((again, asked.as_str()), (code, ""), "{said}");
        assert!(
            said.contains(&format!("{PACKAGE} is installed")) && said.contains("sshd"),
            "{said}"
        );
        // Without a config the old one stays.
        let without: Vec<_> = all
            .iter()
            .copied()
            .filter(|(name, _)| *name != "configBase64")
            .collect();
        let Ran { asked, said, .. } = host.run(&without);
        assert_eq!(asked, "", "{said}");
        assert_eq!(
            fs::read_to_string(host.etc().join("config.toml")).unwrap(),
            config
        );
        // A service that was stopped is started, and the other left alone.
        fs::write(host.world.path("units"), "enabled authorized-keys-agent\nenabled authorized-keys-fetch\nactive authorized-keys-agent\n").unwrap();
        let Ran { asked, .. } = host.run(&all);
        assert_eq!(asked, "systemctl start authorized-keys-fetch\n");
        // Another version is installed over the one that is there.
        fs::write(
            host.world.path("there"),
            "installed authorized-keys-agent_0.0.9-1_amd64.deb",
        )
        .unwrap();
        let Ran { asked, said, .. } = host.run(&all);
        assert!(
            asked.contains(&format!("./{PACKAGE}\n")) && !asked.contains("systemctl"),
            "{asked} {said}"
        );
    }

    // Without `from` it is the repository's, which apt itself leaves alone where it is there.
    let Ran { asked, .. } = host.run(&[("configBase64", &encoded(&config))]);
    assert!(
        asked.contains("apt-get update") && asked.contains(" authorized-keys-agent\n"),
        "{asked}"
    );
    assert!(!asked.contains("systemctl"), "{asked}");
    host.refuses(&[("configBase64", "Y")], "configBase64 is not base64");
    let Ran { code, asked, said } = host.run(&[("configBase64", &encoded("nonsense = 1\n"))]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("unknown field `nonsense`") && said.contains("the old one stays"),
        "{said}"
    );
    assert!(!asked.contains("systemctl"), "{asked}");
    assert_eq!(
        fs::read_to_string(host.etc().join("config.toml")).unwrap(),
        config
    );
}
