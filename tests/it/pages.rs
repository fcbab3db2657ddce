//! What people read, pages and help: every link leads somewhere, every config is one, and every command is run or read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use authorized_keys_agent::cli::Cli;
use authorized_keys_agent::model::config::tables::Config;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::support::http_server::{Answer, HttpServer};
use crate::support::moto::Moto;
use crate::support::world::{ALICE, World, key, shown, wait};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, by its path below the root.
fn pages() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for directory in ["", "docs", "packaging/aws", "packaging/ami"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = Path::new(directory).join(entry.unwrap().file_name());
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(root().join(&path)).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() >= 12, "{found:?}");
    found
}

/// A page in two: its blocks, each with its language, and all other lines. A block in a list is indented.
fn split(page: &str) -> (Vec<(&str, String)>, String) {
    let (mut blocks, mut prose): (Vec<(&str, String)>, _) = (Vec::new(), String::new());
    let mut inside = None;
    for line in page.lines() {
        let words = line.trim_start();
        match (words.strip_prefix("```"), inside) {
            (Some(language), None) => {
                blocks.push((language, String::new()));
                inside = Some(line.len() - words.len());
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(indent)) => {
                let (_, block) = blocks.last_mut().unwrap();
                *block += line.get(indent..).unwrap_or_default();
                block.push('\n');
            }
            (None, None) => {
                prose += line;
                prose.push('\n');
            }
        }
    }
    assert_eq!(inside, None, "a block does not end: {page}");
    (blocks, prose)
}

/// The blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let (blocks, _) = split(page);
    let blocks = blocks.into_iter().filter(|(of, _)| *of == language);
    blocks.map(|(_, block)| block).collect()
}

fn prose(page: &str) -> String {
    split(page).1
}

/// What is between backquotes.
fn spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .replace(' ', "-")
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
                .collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut inside = 0;
    for (path, text) in &pages {
        let prose = prose(text);
        let links = ["](", "src=\"", "srcset=\""].into_iter().flat_map(|start| {
            let after = prose.split(start).skip(1);
            after.map(|rest| rest.split([')', '"']).next().unwrap())
        });
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let target = fs::canonicalize(root().join(&target))
                .unwrap_or_else(|_| panic!("{}: {link} leads nowhere", path.display()));
            inside += 1;
            if !anchor.is_empty() {
                let page = fs::read_to_string(target).unwrap();
                assert!(
                    anchors(&page).contains(anchor),
                    "{}: no heading for {link}",
                    path.display()
                );
            }
        }
    }
    assert!(inside > 20, "{inside} links");
}

#[test]
fn every_page_below_docs_is_named_by_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (path, _) in pages() {
        let link = format!("]({})", path.display());
        assert!(
            !path.starts_with("docs") || readme.contains(&link),
            "{link}"
        );
    }
}

#[test]
fn every_config_is_one() {
    let mut seen = 0;
    for (path, text) in pages() {
        for block in blocks(&text, "toml") {
            // Some show one table of it.
            let managed = if block.contains("manage =") {
                ""
            } else if block.contains("[accounts]") {
                "manage = [\"ec2-user\"]\n"
            } else {
                "\n[accounts]\nmanage = [\"ec2-user\"]\n"
            };
            Config::read(&format!("{block}{managed}"))
                .unwrap_or_else(|error| panic!("{}: {error}\n{block}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

/// Each is a command of this program that its own parser takes; as one writes a usage, `[…]` may be left out, and a word
/// in capitals stands for a value.
fn read(command: &str, whence: &str) {
    let command = command.split(" | ").next().unwrap();
    let command = command.split("  #").next().unwrap();
    let (mut always, mut optional) = (String::new(), Vec::new());
    for (at, part) in command.split(['[', ']']).enumerate() {
        match at % 2 {
            0 => always.push_str(part),
            _ => optional.extend(part.split("\\|").map(str::to_owned)),
        }
    }
    for optional in std::iter::once("").chain(optional.iter().map(String::as_str)) {
        let line = format!("{always} {optional}");
        let words = line.split_whitespace().map(|word| match word {
            "WHEN" => "1h",
            word => word.trim_end_matches('…').trim_matches('\''),
        });
        if let Err(error) = Cli::try_parse_from(words) {
            // Or a sentence names it.
            let named = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::MissingRequiredArgument
            );
            assert!(named, "{whence}: `{line}`: {error}");
        }
    }
}

#[test]
fn every_command_of_the_agent_is_one_and_no_other_program_is_unknown() {
    let mut read_ones = 0;
    for (path, text) in pages() {
        let whence = path.display().to_string();
        let blocks = blocks(&text, "sh");
        let lines = blocks.iter().flat_map(|block| block.lines());
        let prose = prose(&text);
        let spans = spans(&prose).filter(|span| span.contains(' '));
        let agents = |line: &&str| line.starts_with("agent ") || line.starts_with("sudo agent ");
        for command in lines.clone().chain(spans).filter(agents) {
            read(command.trim_start_matches("sudo "), &whence);
            read_ones += 1;
        }
        // tests/release runs every block of that page.
        if whence == "docs/packages.md" {
            continue;
        }
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            known(line, &whence);
        }
    }
    assert!(read_ones > 20, "{read_ones} commands");
}

/// What this command prints, and nothing else.
fn help(command: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_authorized-keys-agent"))
        .args(command)
        .output()
        .unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    shown(&done.stdout)
}

#[test]
fn every_help_has_an_example_and_fits_a_terminal() {
    let cli = Cli::command();
    let names = cli.get_subcommands().map(clap::Command::get_name);
    for name in std::iter::once(None).chain(names.map(Some)) {
        let whence = name.unwrap_or("agent");
        for option in ["-h", "--help"] {
            let words: Vec<&str> = name.into_iter().chain([option]).collect();
            let said = help(&words);
            for line in said.lines() {
                let width = line.chars().count();
                assert!(width <= 80 && line == line.trim_end(), "{whence}: {line}");
            }
            // Its last sections are not wrapped anew: they are written as they are printed.
            let end = said.split_once("Exit status:\n").unwrap_or_default().1;
            assert!(
                name.is_none() && option == "-h" || end.contains("\n  2  "),
                "{whence}: {said}"
            );
            let wrapped = end
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with(' ') && !line.ends_with(':'));
            assert_eq!(wrapped, None, "{whence}");
        }
        let words: Vec<&str> = name.into_iter().chain(["--help"]).collect();
        let said = help(&words);
        let (_, examples) = said.split_once("Examples:\n").expect(whence);
        let examples = examples.split("\n\n").next().unwrap().lines();
        let commands: Vec<&str> = examples
            .filter_map(|line| {
                let words = line.strip_prefix("  ")?;
                (!words.starts_with(' ')).then_some(words)
            })
            .collect();
        assert!(!commands.is_empty(), "{said}");
        for command in commands {
            let command = command.trim_start_matches("sudo ");
            read(command, whence);
            let own = name.is_none_or(|name| command.starts_with(&format!("agent {name}")));
            assert!(own, "{whence}: {command}");
        }
    }
    for word in ["held", "refused", "also open", "not listed"] {
        assert!(
            help(&["--help"]).contains(&format!("\n  {word}\n")),
            "{word}"
        );
    }
}

/// A line of a shell begins with a program that a test runs or reads, or with a file of this repository.
fn known(line: &str, whence: &str) {
    for command in line.split(" && ") {
        let command = command.trim_start_matches("sudo ");
        let program = command.split(' ').next().unwrap();
        let known = match program {
            // Read above; run below, by cloudformation.rs, key_pairs.rs and ami.rs.
            "agent" | "aws" | "packer" | "sha256sum" | "cargo" => true,
            // tests/boxes and tests/packages install with them.
            "apt" | "dnf" => command.contains(" ./target/packages/authorized-keys-agent"),
            "systemctl" => {
                let mut words = command.split(' ').skip(1);
                let verb = words.next().unwrap();
                let units = words.filter(|word| !word.starts_with('-'));
                let exists = |unit: &str| {
                    let kind = if unit.contains('.') { "" } else { ".service" };
                    root().join(format!("systemd/{unit}{kind}")).exists()
                };
                [
                    "start", "stop", "restart", "reload", "edit", "enable", "disable",
                ]
                .contains(&verb)
                    && units.into_iter().all(exists)
            }
            "journalctl" => command
                .split_once("MESSAGE_ID=")
                .is_some_and(|(_, id)| id == authorized_keys_agent::agent::events::id::REPAIRED),
            // Run below.
            "cp" => command.contains(BACKUPS),
            "echo" => command.contains(BREAK_GLASS),
            "ssh-keygen" | "printf" | "install" => whence == "docs/signing.md",
            file => root().join(file).is_file(),
        };
        assert!(known, "{whence}: `{command}` is not tested");
    }
}

/// In one directory with the files that they name, one after the other.
#[test]
fn the_commands_for_aws_work() {
    let moto = Moto::start();
    let directory = tempfile::tempdir().unwrap();
    for file in ["alice.pub", "keys"] {
        fs::write(directory.path().join(file), key("alice") + "\n").unwrap();
    }
    // What is there by the time a page speaks of version 8.
    for version in 1..=7 {
        moto.put("String", "/ssh/prod/ec2-user", &format!("# {version}"));
    }
    // What a page reads from elsewhere.
    symlink(root().join("packaging"), directory.path().join("packaging")).unwrap();
    fs::create_dir(directory.path().join(".ssh")).unwrap();
    fs::write(
        directory.path().join(".ssh/id_ed25519.pub"),
        key("me") + "\n",
    )
    .unwrap();
    fs::create_dir_all(directory.path().join("target/dist/dists")).unwrap();
    fs::write(directory.path().join("target/dist/package"), "").unwrap();
    let mut bucket = moto.client("aws");
    let made = bucket
        .args(["s3", "mb", "s3://packages.example.com"])
        .output();
    assert!(made.unwrap().status.success());
    // What moto does not know: that the AWS CLI takes it is all that is seen.
    let other = HttpServer::start(|_| Answer::Reply {
        status: 200,
        headers: Vec::new(),
        body: b"{}".to_vec(),
    });
    let is_other = |line: &str| {
        let mut words = line.split(' ').skip(2);
        let command = words.next().unwrap_or_default();
        command.contains("inventory")
            || command == "create-association"
            || command == "create-resource-data-sync"
    };
    let mut run = 0;
    for (path, text) in pages() {
        if !(path.starts_with("docs") || path.as_os_str() == "README.md") {
            continue;
        }
        for line in blocks(&text, "sh").iter().flat_map(|block| block.lines()) {
            if !line.starts_with("aws ") {
                continue;
            }
            let mut shell = moto.client("sh");
            if is_other(line) {
                shell.env("AWS_ENDPOINT_URL", other.endpoint());
            }
            let done = shell
                .args(["-euc", line])
                .current_dir(&directory)
                .env("HOME", directory.path())
                .output()
                .unwrap();
            let said = shown(&done.stderr);
            assert!(done.status.success(), "{}: {line}: {said}", path.display());
            run += 1;
        }
    }
    assert!(run >= 8, "{run} commands");
}

/// The five steps, one after the other, with a key that is on no token; then an old list is signed anew.
#[test]
fn a_list_is_signed_as_signing_says() {
    const SIGNERS: &str = "/etc/authorized-keys-agent/allowed_signers";
    let page = fs::read_to_string(root().join("docs/signing.md")).unwrap();
    let moto = Moto::start();
    let mut world = World::new();
    world.use_store(&moto.endpoint(), "paths = [\"/authorized-keys/web\"]");
    let own = world.path("allowed_signers").display().to_string();
    let [directory, programs] = ["here", "programs"].map(|name| world.path(name));
    for made in [
        &directory.join("keys/alice"),
        &directory.join(".ssh"),
        &programs,
    ] {
        fs::create_dir_all(made).unwrap();
    }
    let agent = env!("CARGO_BIN_EXE_authorized-keys-agent");
    symlink(agent, programs.join("agent")).unwrap();
    let run = |line: &str| {
        let line = line
            .replace("-t ed25519-sk", "-q -N '' -t ed25519")
            .replace("sudo ", "")
            .replace(SIGNERS, &own)
            .replace("agent publish", "agent publish --yes");
        let done = moto
            .client("sh")
            .args([
                "-euc",
                &format!("PATH={}:$PATH; {line}", programs.display()),
            ])
            .current_dir(&directory)
            .env("HOME", &directory)
            .env("AWS_REGION", "eu-central-1")
            .output()
            .unwrap();
        assert!(done.status.success(), "{line}: {}", shown(&done.stderr));
    };
    let put =
        |name: &str| fs::write(directory.join("keys/alice/laptop"), key(name) + "\n").unwrap();
    let all = blocks(&page, "sh");
    put("old");
    for block in &all[..4] {
        run(block.trim_end());
    }
    let policy = blocks(&page, "toml").remove(0).replace(SIGNERS, &own);
    world.tables = policy + "[guard]\nmax-removed = 1.0\n";
    assert_eq!(world.pass(), 0, "{}", world.problems());
    assert!(world.read("alice").contains(" old\n"));
    let renewed = all
        .iter()
        .rfind(|block| block.starts_with("agent publish") && block.lines().count() == 1);
    for name in ["new", "older"] {
        put(name);
        run(renewed.unwrap().trim_end());
        assert_eq!(world.pass(), 0, "{}", world.problems());
        assert!(world.read("alice").contains(&format!(" {name}\n")));
    }
}

const BREAK_GLASS: &str = "/etc/authorized-keys-agent/break-glass";

#[test]
fn a_key_is_let_in_as_operations_says_where_a_list_locks_out() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let blocks = blocks(&page, "sh");
    let mut lines = blocks.iter().flat_map(|block| block.lines());
    let command = lines.find(|line| line.contains(BREAK_GLASS)).unwrap();
    let world = World::new();
    world.approve("alice", "laptop", &key("of-another-person"));
    let let_in = command.replace("sudo ", "").replace(
        BREAK_GLASS,
        &world.path("break-glass").display().to_string(),
    );
    let run = || {
        let done = Command::new("sh").args(["-euc", &let_in]).output().unwrap();
        assert!(done.status.success(), "{let_in}: {}", shown(&done.stderr));
    };
    let agent = world.start();
    run();
    wait("your key", || world.read("alice").contains(" you\n"));
    agent.stop();
    // From another instance, where no agent runs; then it boots, without a network.
    fs::write(world.path("break-glass"), "# none\n").unwrap();
    world.pass();
    assert!(!world.read("alice").contains(" you\n"));
    run();
    assert_eq!(world.run(&["enforce", "--once"]).status.code(), Some(0));
    assert!(world.read("alice").contains(" you\n"));
}

const BACKUPS: &str = "/var/lib/authorized-keys-agent/backups/";

#[test]
fn the_file_that_was_there_before_goes_back_as_operations_says() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let blocks = blocks(&page, "sh");
    let mut lines = blocks.iter().flat_map(|block| block.lines());
    let back = lines.find(|line| line.contains(BACKUPS)).unwrap();
    let world = World::new();
    world.make_ssh("alice", ALICE);
    let before = key("made-by-hand") + "\n";
    world.put("alice", ALICE, &before);
    world.approve(
        "alice",
        "laptop",
        &(key("made-by-hand") + "\n" + &key("laptop")),
    );
    world.pass();
    assert!(world.read("alice").contains("laptop"));
    let back = back
        .trim_start_matches("sudo ")
        .replace(
            BACKUPS,
            &format!("{}/", world.path("state/backups").display()),
        )
        .replace("/home/ec2-user", &world.home("alice").display().to_string())
        .replace("ec2-user", "alice");
    let done = Command::new("sh").args(["-euc", &back]).output().unwrap();
    assert!(done.status.success(), "{back}: {}", shown(&done.stderr));
    assert_eq!(world.read("alice"), before);
    let file = fs::metadata(world.file("alice")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777), (ALICE, 0o600));
}

#[test]
fn the_readme_is_short_and_names_the_two_commands_that_do_everything() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 150, "{lines} lines");
    let all = fs::read_to_string(root().join(".ci/run")).unwrap();
    let blocks = blocks(&readme, "sh");
    for command in ["tests/try", "tests/run"] {
        let mut lines = blocks.iter().flat_map(|block| block.lines());
        assert!(lines.any(|line| line == command), "{command}");
        assert!(all.lines().any(|line| line == command), "{command}");
    }
}
