//! The document of `packaging/aws/fleet.yaml` that installs.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::deployed::{Deployed, assert_parses};
use crate::support::documents::{agent_in_path, content, program, script};
use crate::support::moto::Moto;
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
            // Only ever between single quotes.
            let text = content["mainSteps"][0]["inputs"]["runCommand"][0]
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
            ];
            let good = match name.as_str() {
                "from" => ["", "s3://bucket/dir", "https://example.com/a/b-1.0/"],
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

/// S3 and the checksums are real, and so is the agent that judges the config; apt, dpkg and systemctl write down what they
/// were asked to do, since this machine is not to be changed.
#[test]
fn the_install_document_installs_only_what_the_checksum_vouches_for() {
    let moto = Moto::start();
    let mut deployed = Deployed::in_moto(&moto);
    deployed.create("fleet", "fleet.yaml", &[]);
    let content = content(&mut deployed, "authorized-keys-agent-install");
    let template = deployed.read("template", "aws/fleet.yaml");
    assert_eq!(
        content,
        template["Resources"]["Install"]["Properties"]["Content"]
    );
    let world = World::new();
    let bin = agent_in_path(&world);
    let asked = world.path("asked");
    let note = |what: &str| {
        format!(
            "#!/bin/sh\n{what}\necho \"${{0##*/}} $*\" >>{}\n",
            asked.display()
        )
    };
    program(&bin, "dpkg", "#!/bin/sh\necho amd64\n");
    program(
        &bin,
        "apt-get",
        &note("for last; do :; done; [ ! -f \"$last\" ] || echo \"file $(cat \"$last\")\""),
    );
    program(&bin, "systemctl", &note(""));
    let aws = Command::new("sh")
        .args(["-c", "command -v aws"])
        .output()
        .unwrap();
    let aws = shown(&aws.stdout);
    std::os::unix::fs::symlink(aws.trim(), bin.join("aws")).unwrap();

    // The directory of a release: this host's package, others, and their sums.
    let release = world.path("release");
    fs::create_dir(&release).unwrap();
    let (package, other) = (
        "authorized-keys-agent_0.1.0-1_amd64.deb",
        "authorized-keys-agent-0.1.0-1.x86_64.rpm",
    );
    fs::write(release.join(package), "the package").unwrap();
    fs::write(
        release.join("authorized-keys-agent_0.1.0-1_arm64.deb"),
        "not for this host",
    )
    .unwrap();
    fs::write(release.join(other), "not for this host").unwrap();
    let publish = || {
        let script =
            "sha256sum *.deb *.rpm >SHA256SUMS; sha256sum SHA256SUMS | cut -d' ' -f1 >../sum
                      aws s3 cp --quiet --recursive . s3://bucket/agent/";
        let done = moto
            .client("sh")
            .args(["-euc", script])
            .current_dir(&release)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", shown(&done.stderr));
        fs::read_to_string(world.path("sum"))
            .unwrap()
            .trim()
            .to_owned()
    };
    moto.cli("text", &["s3", "mb", "s3://bucket"]);
    let sums = publish();

    // The config goes to a directory of this test.
    let etc = world.path("installed");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("config.toml"), "old").unwrap();
    let run = |parameters: &[(&str, &str)]| {
        let _ = fs::remove_file(&asked);
        let text = script(&content, parameters);
        assert_parses(&text);
        let text = text.replace(
            "etc=/etc/authorized-keys-agent",
            &format!("etc={}", etc.display()),
        );
        let mut command = moto.client("unshare");
        let like = world.command("sh");
        command.args(like.get_args()).args(["-c", &text]);
        command.env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
        );
        let done = command.output().unwrap();
        let asked = fs::read_to_string(&asked).unwrap_or_default();
        (
            done.status.code().unwrap(),
            asked,
            shown(&done.stdout) + &shown(&done.stderr),
        )
    };
    let from = ("from", "s3://bucket/agent");
    let config = fs::read_to_string(world.config()).unwrap();
    let encoded = |text: &str| {
        use base64ct::{Base64, Encoding};
        Base64::encode_string(text.as_bytes())
    };

    let (code, asked, said) = run(&[
        from,
        ("sumsSha256", &sums),
        ("configBase64", &encoded(&config)),
    ]);
    assert!(
        code <= 1 && said.contains("file the package"),
        "{code} {asked} {said}"
    );
    assert!(asked.contains(&format!("./{package}\n")), "{asked}");
    assert!(
        asked.contains("systemctl restart authorized-keys-agent authorized-keys-fetch"),
        "{asked}"
    );
    assert_eq!(fs::read_to_string(etc.join("config.toml")).unwrap(), config);
    assert!(said.contains("sshd"), "it ends with the preflight: {said}");

    // The same again restarts nothing; without `from` it is the repository's.
    let (_, asked, _) = run(&[("configBase64", &encoded(&config))]);
    assert!(
        asked.contains("apt-get update") && asked.contains(" authorized-keys-agent\n"),
        "{asked}"
    );
    assert!(
        asked.contains("systemctl start") && !asked.contains("restart"),
        "{asked}"
    );

    // Refused, and nothing was installed or changed.
    let refused = |parameters: &[(&str, &str)], why: &str| {
        let (code, asked, said) = run(parameters);
        assert_eq!(
            (code, asked.contains("install")),
            (2, false),
            "{asked}{said}"
        );
        assert!(said.contains(why), "{said}");
    };
    refused(&[from], "from needs sumsSha256");
    refused(
        &[from, ("sumsSha256", &"0".repeat(64))],
        "SHA256SUMS is not the one that was meant",
    );
    refused(&[("configBase64", "Y")], "configBase64 is not base64");
    moto.cli(
        "text",
        &[
            "s3",
            "cp",
            release.join(other).to_str().unwrap(),
            &format!("s3://bucket/agent/{package}"),
        ],
    );
    refused(
        &[from, ("sumsSha256", &sums)],
        "is not the one that was meant",
    );
    fs::remove_file(release.join(package)).unwrap();
    refused(
        &[from, ("sumsSha256", &publish())],
        "not exactly one deb for amd64",
    );

    let (code, asked, said) = run(&[("configBase64", &encoded("nonsense = 1\n"))]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("unknown field `nonsense`") && said.contains("the old one stays"),
        "{said}"
    );
    assert!(!asked.contains("systemctl"), "{asked}");
    assert_eq!(fs::read_to_string(etc.join("config.toml")).unwrap(), config);
}
